//! Long casts and calls in parts.

use std::time::Duration;

use super::{
    lone::{Lone, TERMS},
    pair::Pair,
};
use crate::{
    CallFailure, Executed, ExitReason, Limits, Rights,
    handshake::Side,
    session::{InboundKind, OWNER, SentHandles, Unsendable},
    wire::{self, Frame},
};

const MINUTE: Duration = Duration::from_secs(60);
/// The longest payload for a peer with the frames of [`Lone`], and the bytes of a part.
const MAX: usize = (1 << 20) - wire::MAX_OVERHEAD;
const PART: usize = MAX / 16;
/// A process of the far end.
const FAR: u64 = 7;

/// The frames that each fetch brings: kind, process or call, and bytes of payload.
fn each(lone: &mut Lone) -> Vec<Vec<(u8, u64, usize)>> {
    let mut fetches = Vec::new();
    loop {
        let frames = lone.frames();
        if frames.is_empty() {
            return fetches;
        }
        let seen = frames.iter().map(|frame| {
            let (id, len) = match frame {
                Frame::PartTo { to, payload, .. }
                | Frame::Cast { to, payload }
                | Frame::Call { to, payload, .. } => (*to, payload.len()),
                Frame::Reply { call, payload } => (*call, payload.len()),
                _ => (0, 0),
            };
            (frame.kind(), id, len)
        });
        fetches.push(seen.collect());
    }
}

const CAST: u8 = 0x03;
const CALL: u8 = 0x04;
const REPLY: u8 = 0x06;
const PART_TO: u8 = 0x16;

fn cast(lone: &mut Lone, to: u64, len: usize) -> Option<u64> {
    let now = lone.now;
    lone.session.cast_to(|| now, to, &mut vec![to as u8; len], SentHandles::NONE).unwrap()
}

fn call(lone: &mut Lone, to: u64, len: usize, within: Duration) -> u64 {
    let (now, mut payload) = (lone.now, vec![to as u8; len]);
    lone.session.call_to(now, now + within, to, &mut payload, SentHandles::NONE).unwrap()
}

#[test]
fn long_messages_come_whole_and_in_order() {
    for seed in 0..8 {
        let limits = Limits { max_frame_len: 1024 << (2 * (seed % 6)), ..Limits::default() };
        let mut pair = Pair::open_with(seed, &limits, &limits);
        let longest = pair.client.session.max_payload_len();
        let lens = [longest, 1, longest / 2, longest - 1, 300, longest, 0];
        let mut calls = Vec::new();
        for (n, len) in lens.into_iter().enumerate() {
            let (now, mut payload) = (pair.now, vec![n as u8; len]);
            if n % 2 == 0 {
                pair.client.session.cast(now, &mut payload).unwrap();
            } else {
                calls.push((n, pair.client.session.call(now, now + MINUTE, &mut payload).unwrap()));
            }
        }
        let mut came = Vec::new();
        while came.len() < lens.len() {
            pair.settle();
            for message in pair.server.take() {
                if let InboundKind::Call { call } = message.kind {
                    pair.server.session.reply(call, &mut message.payload.to_vec());
                }
                came.push(message.payload);
            }
        }
        assert!(came.iter().enumerate().all(|(n, payload)| **payload == vec![n as u8; lens[n]]));
        pair.settle();
        for (n, call) in calls {
            assert_eq!(pair.client.outcome(call).unwrap().unwrap(), vec![n as u8; lens[n]]);
        }
        assert_eq!((pair.client.session.unsent(), pair.server.session.held()), (0, 0));
    }
}

#[test]
fn answers_and_other_messages_pass_a_long_one() {
    let mut lone = Lone::open(Side::Server);
    lone.feed(&Frame::Call { to: 0, call: 1, left: 60_000, payload: b"" });
    let ticket = cast(&mut lone, OWNER, PART * 3 + 1).unwrap();
    lone.frames();
    lone.session.reply(1, &mut b"answer".to_vec());
    assert_eq!(cast(&mut lone, FAR, 2), None);
    let behind = cast(&mut lone, OWNER, 3).unwrap();
    assert_eq!(lone.session.poll_cast(ticket, |_| 1), None);
    assert_eq!(
        each(&mut lone),
        [vec![(REPLY, 1, 6), (CAST, FAR, 2), (PART_TO, 0, PART)], vec![(CAST, 0, 1), (CAST, 0, 3)]]
    );
    for ticket in [ticket, behind] {
        assert_eq!(lone.session.poll_cast(ticket, |_| 1), Some(Ok(())));
    }
}

#[test]
fn long_messages_take_turns() {
    let mut lone = Lone::open(Side::Client);
    for to in 1..=5 {
        cast(&mut lone, to, PART * 2);
    }
    let order: Vec<_> = each(&mut lone).concat().iter().map(|(kind, to, _)| (*kind, *to)).collect();
    // There is room for three first parts, and at most four messages are unfinished.
    let begun = [(PART_TO, 1), (PART_TO, 2), (PART_TO, 3), (CAST, 1), (PART_TO, 4), (PART_TO, 5)];
    let ends = (2..=5).map(|to| (CAST, to));
    assert_eq!(order, begun.into_iter().chain(ends).collect::<Vec<_>>());
}

#[test]
fn call_gets_its_id_with_its_last_part() {
    let mut lone = Lone::open(Side::Client);
    let long = call(&mut lone, FAR, PART * 3, MINUTE);
    lone.frames();
    let short = call(&mut lone, OWNER, 1, MINUTE);
    let frames = [lone.frames(), lone.frames()].concat();
    let calls = frames.iter().filter_map(|frame| match frame {
        Frame::Call { to, call, .. } => Some((*to, *call)),
        _ => None,
    });
    let calls: Vec<_> = calls.collect();
    assert_eq!((calls[0].0, calls[1].0), (OWNER, FAR));
    assert!(calls[0].1 < calls[1].1, "ids grow: {calls:?}");
    for (to, on_wire) in calls {
        lone.feed(&Frame::Reply { call: on_wire, payload: &[to as u8] });
    }
    assert_eq!(lone.session.poll_call(long, |_| 1).unwrap().unwrap(), [FAR as u8][..]);
    assert_eq!(lone.session.poll_call(short, |_| 1).unwrap().unwrap(), [OWNER as u8][..]);
}

#[test]
fn unfinished_calls_have_slots() {
    let mut lone = Lone::open(Side::Client);
    for to in 1..=TERMS.max_calls {
        call(&mut lone, to, PART * 2, MINUTE);
    }
    call(&mut lone, 9, 1, MINUTE);
    let calls = each(&mut lone).concat().iter().filter(|(kind, ..)| *kind == CALL).count();
    assert_eq!(calls as u64, TERMS.max_calls);
}

#[test]
fn message_that_must_not_wait_goes_whole() {
    let mut lone = Lone::open(Side::Client);
    lone.session.try_cast(&mut vec![1; PART * 3]).unwrap();
    assert_eq!(each(&mut lone), [vec![(CAST, 0, PART * 3)]]);
    cast(&mut lone, OWNER, PART * 2);
    assert_eq!(lone.session.try_cast(&mut vec![1; 1]), Err(Unsendable::WouldWait));
}

#[test]
fn withdrawn_message_is_taken_back() {
    let mut lone = Lone::open(Side::Client);
    let ticket = cast(&mut lone, OWNER, PART * 3).unwrap();
    let next = cast(&mut lone, OWNER, 1).unwrap();
    lone.frames();
    lone.session.withdraw_cast(lone.now, ticket);
    assert_eq!(each(&mut lone), [vec![(PART_TO, 0, 0), (CAST, 0, 1)]]);
    assert_eq!(lone.session.poll_cast(next, |_| 1), Some(Ok(())));
    let ticket = cast(&mut lone, FAR, PART * 3).unwrap();
    lone.session.withdraw_cast_to(lone.now, FAR, ticket);
    assert_eq!(each(&mut lone), [vec![(PART_TO, FAR, PART), (PART_TO, FAR, 0)]]);
}

#[test]
fn credit_of_withdrawn_message_returns() {
    let mut pair = Pair::open(1);
    for _ in 0..20 {
        let ticket = pair.client.session.cast(pair.now, &mut vec![1; 900_000]).unwrap().unwrap();
        pair.client.room = 200_000;
        pair.settle();
        pair.client.session.withdraw_cast(pair.now, ticket);
        pair.client.room = usize::MAX;
        pair.settle();
        assert_eq!(pair.server.session.held(), 0);
    }
    pair.client.session.cast(pair.now, &mut b"last".to_vec()).unwrap();
    pair.settle();
    let came: Vec<_> = pair.server.take().into_iter().map(|message| message.payload).collect();
    assert_eq!(came, ["last"]);
}

#[test]
fn late_call_is_taken_back_and_not_executed() {
    let mut lone = Lone::open(Side::Client);
    let late = call(&mut lone, OWNER, PART * 3, Duration::from_secs(1));
    lone.frames();
    lone.wait(Duration::from_secs(2));
    assert_eq!(each(&mut lone), [vec![(PART_TO, 0, 0)]]);
    let Some(Err(error)) = lone.session.poll_call(late, |_| 1) else { panic!() };
    assert_eq!((error.executed, error.reason), (Executed::No, CallFailure::Deadline));
    assert_eq!(lone.session.entries(), 0);
}

#[test]
fn unfinished_call_of_ended_session_is_not_executed() {
    let mut lone = Lone::open(Side::Client);
    let unfinished = call(&mut lone, OWNER, PART * 3, MINUTE);
    lone.frames();
    lone.session.lose(ExitReason::NoConnection, None);
    let Some(Err(error)) = lone.session.poll_call(unfinished, |_| 1) else { panic!() };
    assert_eq!(error.executed, Executed::No);
    assert_eq!((lone.session.entries(), lone.session.unsent()), (0, 0));
}

#[test]
fn end_needs_no_unfinished_message() {
    let mut lone = Lone::open(Side::Client);
    let ticket = cast(&mut lone, OWNER, PART * 3).unwrap();
    lone.frames();
    lone.session.end(ExitReason::Normal, 0, None);
    assert_eq!(each(&mut lone), [vec![(0x09, 0, 0)]]);
    assert!(matches!(lone.session.poll_cast(ticket, |_| 1), Some(Err(Unsendable::Ended(_)))));
}

#[test]
fn parts_cost_in_full_and_hold_what_came() {
    let mut lone = Lone::open(Side::Server);
    lone.feed(&Frame::PartTo { to: 0, total: 1 << 19, payload: &[1; 1000] });
    assert!((1000..10_000).contains(&lone.session.held()), "{}", lone.session.held());
    lone.feed(&Frame::PartTo { to: 0, total: 0, payload: &[1; 1000] });
    let rest = vec![1; (1 << 19) - 2000];
    lone.feed(&Frame::Cast { to: 0, payload: &rest });
    assert_eq!(lone.ended(), None);
    lone.feed(&Frame::PartTo { to: 0, total: 10, payload: b"hi" });
    assert_eq!(lone.ended(), Some(&ExitReason::Overload), "the window is used up");
}

#[test]
fn parts_for_unreachable_processes_are_discarded() {
    let mut lone = Lone::open(Side::Server);
    lone.feed(&Frame::PartTo { to: 9, total: 100, payload: &[1; 50] });
    lone.feed(&Frame::PartTo { to: 9, total: 0, payload: &[1; 20] });
    assert_eq!(lone.session.held(), lone.session.unsent());
    lone.feed(&Frame::Call { to: 9, call: 1, left: 1000, payload: &[1; 30] });
    let frames = lone.frames();
    assert!(matches!(frames[..], [Frame::Refuse { call: 1, .. }]), "{frames:?}");
}

#[test]
fn process_that_ends_meanwhile_gets_nothing() {
    let mut lone = Lone::open(Side::Server);
    let rights = Rights { send: true, ..Rights::NONE };
    let to = lone.session.hand_out(5, rights);
    lone.feed(&Frame::PartTo { to, total: 100, payload: &[1; 50] });
    assert!(lone.session.held() >= 50);
    lone.session.handed_out_ended(&5);
    lone.frames();
    lone.feed(&Frame::Call { to, call: 1, left: 1000, payload: &[1; 50] });
    let frames = lone.frames();
    assert!(matches!(frames[..], [Frame::Refuse { call: 1, .. }]), "{frames:?}");
    assert_eq!(lone.session.held(), 0);
}

#[test]
fn wrong_parts_end_session() {
    let part = |to, total, payload| Frame::PartTo { to, total, payload };
    let back = part(0, 0, b"");
    let cast = Frame::Cast { to: 0, payload: b"hi" };
    let too_long = part(0, MAX as u64 + 1, b"hi");
    let wrong: [&[Frame<'_>]; 8] = [
        &[part(0, 0, b"hi")],
        std::slice::from_ref(&back),
        &[too_long],
        &[part(0, 10, b"")],
        &[part(0, 10, b"hi"), part(0, 10, b"hi")],
        &[part(0, 3, b"hi"), cast.clone()],
        &[part(0, 2, b"hi")],
        &[1, 2, 3, 4, 5].map(|to| part(to, 10, b"hi")),
    ];
    for frames in wrong {
        let mut lone = Lone::open(Side::Server);
        for frame in frames {
            assert_eq!(lone.ended(), None, "{frames:?}");
            lone.feed(frame);
        }
        assert_eq!(lone.ended(), Some(&ExitReason::Protocol), "{frames:?}");
    }
    let mut lone = Lone::new(Side::Server, &Limits::default());
    lone.feed(&super::lone::start());
    lone.feed(&part(0, 10, b"hi"));
    assert_eq!(lone.ended(), Some(&ExitReason::Protocol), "before the service has started");
}

#[test]
fn parts_survive_lost_connection() {
    for seed in 0..20 {
        let mut pair = Pair::resumable(seed);
        let payload: Vec<u8> = (0..PART * 9 / 2).map(|n| n as u8).collect();
        let deadline = pair.now + MINUTE;
        let call = pair.client.session.call(pair.now, deadline, &mut payload.clone()).unwrap();
        pair.client.room = pair.seeded.below(payload.len());
        pair.settle();
        pair.reconnect();
        pair.echo();
        assert_eq!(pair.client.outcome(call).unwrap().unwrap(), payload);
    }
}
