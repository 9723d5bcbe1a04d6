//! Long answers in parts.

use std::time::Duration;

use super::{
    lone::{Lone, TERMS, frames},
    pair::Pair,
};
use crate::{
    CallFailure, Executed, ExitReason, Limits,
    handshake::Side,
    session::{InboundKind, Outcome},
    wire::{self, Frame, RefuseCode},
};

const MINUTE: Duration = Duration::from_secs(60);
/// The bytes of a part for a peer with the frames of [`Lone`].
const PART: usize = ((1 << 20) - wire::MAX_OVERHEAD) / 16;

/// A server that owes the answers to calls 1 to `count`.
fn owing(count: u64) -> Lone {
    let mut lone = Lone::open_with(Side::Server, &Limits { max_calls: 8, ..Limits::default() });
    for call in 1..=count {
        lone.feed(&Frame::Call { to: 0, call, left: 60_000, payload: b"" });
    }
    lone
}

/// A client that made `count` calls.
fn asking(count: u64) -> Lone {
    let mut lone = Lone::open(Side::Client);
    assert!(count <= TERMS.max_calls);
    for call in 1..=count {
        assert_eq!(lone.session.call(lone.now, lone.now + MINUTE, &mut Vec::new()), Ok(call));
    }
    lone.frames();
    lone
}

fn outcome(lone: &mut Lone, call: u64) -> Option<Outcome> {
    lone.session.poll_call(call, |_| 1)
}

/// The kinds and calls of the frames that each fetch brings.
fn all_frames(lone: &mut Lone) -> Vec<Vec<(u8, u64)>> {
    let mut fetches = Vec::new();
    loop {
        let frames = lone.frames();
        if frames.is_empty() {
            return fetches;
        }
        fetches.push(
            frames
                .iter()
                .map(|frame| match frame {
                    Frame::Part { call, .. } | Frame::Reply { call, .. } | Frame::Refuse { call, .. } => {
                        (frame.kind(), *call)
                    }
                    frame => (frame.kind(), 0),
                })
                .collect(),
        );
    }
}

const PART_KIND: u8 = 0x11;
const REPLY: u8 = 0x06;

#[test]
fn long_answers_come_whole() {
    for seed in 0..6 {
        let limits = Limits { max_frame_len: 1024 << (2 * seed), ..Limits::default() };
        let mut pair = Pair::open_with(seed, &limits, &limits);
        let longest = pair.server.session.max_payload_len();
        let lens = [longest, 1, longest / 2, longest - 1, 300, longest];
        let deadline = pair.now + MINUTE;
        let calls = lens.map(|_| pair.client.session.call(pair.now, deadline, &mut Vec::new()).unwrap());
        pair.settle();
        for (n, message) in pair.server.take().into_iter().enumerate() {
            let InboundKind::Call { call } = message.kind else { panic!() };
            pair.server.session.reply(call, &mut vec![n as u8; lens[n]]);
        }
        pair.settle();
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(pair.client.outcome(call).unwrap().unwrap(), vec![n as u8; lens[n]]);
        }
        assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
        assert_eq!(pair.server.session.unsent(), 0);
    }
}

#[test]
fn short_answer_waits_for_one_part() {
    let mut lone = owing(2);
    lone.session.reply(1, &mut vec![1; PART * 3]);
    assert_eq!(lone.frames().len(), 1, "a part each time");
    lone.session.reply(2, &mut b"short".to_vec());
    assert_eq!(all_frames(&mut lone), [vec![(REPLY, 2), (PART_KIND, 1)], vec![(REPLY, 1)]]);
}

#[test]
fn casts_and_calls_go_between_parts() {
    let mut lone = owing(1);
    lone.session.reply(1, &mut vec![1; PART * 2]);
    lone.frames();
    lone.session.cast(lone.now, &mut b"hi".to_vec()).unwrap();
    lone.session.call(lone.now, lone.now + MINUTE, &mut b"hi".to_vec()).unwrap();
    assert_eq!(all_frames(&mut lone), [vec![(0x03, 0), (0x04, 0), (REPLY, 1)]]);
}

#[test]
fn signals_wait_for_answers() {
    let mut lone = owing(2);
    lone.session.reply(1, &mut vec![1; PART * 3]);
    lone.session.reply(2, &mut vec![2; PART * 3]);
    lone.frames();
    lone.session.end(ExitReason::Normal, 3, None);
    assert_eq!(all_frames(&mut lone), [vec![(REPLY, 2), (REPLY, 1), (0x09, 0)]]);
}

#[test]
fn flush_covers_long_answers() {
    let mut lone = owing(1);
    lone.session.reply(1, &mut vec![1; PART * 3]);
    lone.frames();
    lone.session.flush();
    assert_eq!(all_frames(&mut lone), [vec![(REPLY, 1), (0x42, 0)]]);
}

#[test]
fn unfinished_answers_keep_their_slots() {
    let mut lone = owing(8);
    for call in 1..=8 {
        lone.session.reply(call, &mut vec![0; PART * 2]);
    }
    lone.frames();
    lone.feed(&Frame::Call { to: 0, call: 9, left: 60_000, payload: b"" });
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

#[test]
fn waiting_answers_count_as_unsent() {
    let mut lone = owing(1);
    lone.session.reply(1, &mut vec![1; PART * 3]);
    assert_eq!(lone.session.unsent(), PART * 3);
    lone.frames();
    assert_eq!(lone.session.unsent(), PART * 2);
}

#[test]
fn abandoned_answer_keeps_no_memory() {
    let mut lone = asking(1);
    lone.feed(&Frame::Part { call: 1, total: 1000, payload: &[1; 600] });
    assert!(lone.session.held() >= 600);
    lone.session.cancel_call(lone.now, 1);
    lone.feed(&Frame::Part { call: 1, total: 0, payload: &[1; 300] });
    assert_eq!(lone.session.held(), lone.session.unsent());
    lone.feed(&Frame::Reply { call: 1, payload: &[1; 100] });
    assert_eq!((lone.ended(), lone.session.entries()), (None, 0));
}

#[test]
fn lost_session_forgets_parts() {
    let mut lone = asking(1);
    lone.feed(&Frame::Part { call: 1, total: 1000, payload: &[1; 600] });
    lone.session.lose(ExitReason::NoConnection, None);
    assert_eq!(lone.session.held(), 0);
    let Some(Err(error)) = outcome(&mut lone, 1) else { panic!() };
    assert_eq!(error.executed, Executed::Unknown);
    assert_eq!(error.reason, CallFailure::Exit(ExitReason::NoConnection));
}

#[test]
fn wrong_parts_end_session() {
    let part = |call, total, payload| Frame::Part { call, total, payload };
    let wrong: [&[Frame<'_>]; 6] = [
        &[part(2, 10, b"hi")],
        &[part(1, 0, b"hi")],
        &[part(1, (1 << 20) + 1, b"hi")],
        &[part(1, 10, b"hi"), part(1, 0, b"")],
        &[part(1, 3, b"hi"), Frame::Reply { call: 1, payload: b"hi" }],
        &[part(1, 3, b"hi"), Frame::Refuse { call: 1, code: RefuseCode::NoAnswer, text: "" }],
    ];
    for frames in wrong {
        let mut lone = asking(1);
        for frame in frames {
            assert_eq!(lone.ended(), None);
            lone.feed(frame);
        }
        assert_eq!(lone.ended(), Some(&ExitReason::Protocol), "{frames:?}");
    }
}

#[test]
fn parts_survive_lost_connection() {
    for seed in 0..20 {
        let mut pair = Pair::resumable(seed);
        let deadline = pair.now + MINUTE;
        let call = pair.client.session.call(pair.now, deadline, &mut Vec::new()).unwrap();
        pair.settle();
        let payload: Vec<u8> = (0..PART * 9 / 2).map(|n| n as u8).collect();
        for message in pair.server.take() {
            let InboundKind::Call { call } = message.kind else { panic!() };
            pair.server.session.reply(call, &mut payload.clone());
        }
        pair.server.room = pair.seeded.below(payload.len());
        pair.settle();
        pair.reconnect();
        assert_eq!(pair.client.outcome(call).unwrap().unwrap(), payload);
    }
}

#[test]
fn part_counts_as_ordered_frame() {
    let mut lone = asking(1);
    lone.feed(&Frame::Part { call: 1, total: 1000, payload: &[1; 600] });
    lone.feed(&Frame::Ping { token: 7 });
    assert_eq!(frames(lone.fetch()), [Frame::Ack { number: 2 }, Frame::Pong { token: 7 }]);
}
