use std::{collections::VecDeque, time::Duration};

use super::{
    lone::Lone,
    pair::{End, Pair},
};
use crate::{
    ExitReason, Limits, Rights,
    handshake::Side,
    session::{Delivery, InboundKind, Unsendable},
    wire::{Frame, RefuseCode},
};

/// Small windows, so that they are full soon.
fn tight() -> Limits {
    Limits { window_len: Limits::MIN_WINDOW_LEN, max_frame_len: 128 * 1024, ..Limits::default() }
}

fn cast(end: &mut End, now: std::time::Instant, number: u32, len: usize) -> Option<u64> {
    let mut payload = vec![number as u8; len.max(4)];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    end.session.cast(now, &mut payload).unwrap()
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

#[test]
fn bulk_both_ways_completes_in_order() {
    for seed in 0..12 {
        let mut pair = Pair::open_with(seed, &tight(), &tight());
        let now = pair.now;
        let len = |n: u32| [10, 3000, 40_000, 100_000][(u64::from(n) + seed) as usize % 4];
        let mut calls = Vec::new();
        for n in 0..40 {
            cast(&mut pair.client, now, n, len(n));
            cast(&mut pair.server, now, n, len(n + 1));
            let mut payload = (1000 + n).to_be_bytes().to_vec();
            calls.push(pair.client.session.call(now, now + Duration::from_secs(60), &mut payload).unwrap());
        }
        pair.settle();
        assert!(pair.client.session.entries() > 0, "the window is full, and some wait");
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        for _ in 0..300 {
            // One end reads a while, then the other: neither needs the other's help.
            if pair.seeded.below(2) == 0 {
                at_client.extend(pair.client.take().iter().map(|message| number(&message.payload)));
            }
            for message in if pair.seeded.below(2) == 0 { pair.server.take() } else { Vec::new() } {
                match message.kind {
                    InboundKind::Call { call } => {
                        pair.server.session.reply(call, &mut message.payload.to_vec());
                    }
                    InboundKind::Cast => at_server.push(number(&message.payload)),
                }
            }
            pair.settle();
        }
        assert_eq!(at_server, (0..40).collect::<Vec<_>>());
        assert_eq!(at_client, (0..40).collect::<Vec<_>>());
        for (n, call) in (1000u32..).zip(calls) {
            assert_eq!(number(&pair.client.outcome(call).unwrap().unwrap()), n);
        }
    }
}

#[test]
fn messages_waiting_for_credit_keep_order() {
    let mut pair = Pair::open_with(5, &tight(), &tight());
    let now = pair.now;
    let at_once = (0..).take_while(|&n| cast(&mut pair.client, now, n, 1000).is_none()).count() as u32;
    assert_eq!(u64::from(at_once), (64 * 1024_u64).div_ceil(1064));
    let call = pair.client.session.call(now, now + Duration::from_secs(9), &mut vec![0; 4]).unwrap();
    let last = cast(&mut pair.client, now, at_once + 1, 4).unwrap();
    assert_eq!(pair.client.session.try_cast(&mut vec![1]), Err(Unsendable::WouldWait));
    assert_eq!(pair.client.session.poll_cast(last, |_| 7), None);
    pair.settle();
    assert!(pair.client.woken().is_empty());
    let taken: Vec<_> = pair.server.take().iter().map(|message| number(&message.payload)).collect();
    assert_eq!(taken, (0..at_once).collect::<Vec<_>>());
    pair.settle();
    assert_eq!(pair.client.woken(), [7]);
    assert_eq!(pair.client.session.poll_cast(last, |_| 7), Some(Ok(())));
    let kinds: Vec<_> = pair.server.take().into_iter().map(|message| message.kind).collect();
    assert_eq!(kinds, [InboundKind::Cast, InboundKind::Call { call }, InboundKind::Cast]);
}

#[test]
fn withdrawn_cast_unblocks_later_ones() {
    let mut pair = Pair::open_with(5, &tight(), &tight());
    let now = pair.now;
    pair.client.session.try_cast(&mut vec![0; 70_000]).unwrap();
    let tickets: Vec<_> = (1..5).map(|n| cast(&mut pair.client, now, n, 4).unwrap()).collect();
    pair.client.session.withdraw_cast(now, tickets[0]);
    pair.client.session.withdraw_cast(now, tickets[2]);
    pair.settle();
    pair.server.take();
    pair.settle();
    // Sent before it was given up: the ticket is forgotten all the same.
    pair.client.session.withdraw_cast(now, tickets[1]);
    let taken: Vec<_> = pair.server.take().iter().map(|message| number(&message.payload)).collect();
    assert_eq!(taken, [2, 4]);
    assert_eq!(pair.client.session.poll_cast(tickets[3], |_| 0), Some(Ok(())));
    assert_eq!(pair.client.session.entries(), 0);
}

#[test]
fn longest_frame_passes_smallest_window() {
    let mut pair = Pair::open_with(6, &tight(), &tight());
    let now = pair.now;
    let max = pair.client.session.max_payload_len();
    assert_eq!(
        pair.client.session.cast(now, &mut vec![0; max + 1]),
        Err(Unsendable::TooLong { max }),
        "too long"
    );
    for _ in 0..3 {
        assert_eq!(pair.client.session.try_cast(&mut vec![7; max]), Ok(()));
        pair.settle();
        assert_eq!(pair.server.take()[0].payload, vec![7; max]);
        pair.settle();
    }
}

#[test]
fn a_peer_that_sends_without_credit_ends_overload() {
    let mut lone = Lone::open(Side::Server);
    let payload = vec![0; 200_000];
    for _ in 0..2 {
        lone.feed(&Frame::Cast { to: 0, payload: &payload });
        assert_eq!(lone.ended(), None);
    }
    lone.feed(&Frame::Cast { to: 0, payload: b"" });
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
    assert!(matches!(lone.frames()[..], [Frame::Ended { reason: ExitReason::Overload, .. }]));
}

#[test]
fn an_older_grant_takes_nothing_back() {
    let mut lone = Lone::open(Side::Server);
    lone.feed(&Frame::Credit { id: 0, total: 1 << 30 });
    lone.feed(&Frame::Credit { id: 0, total: 1 });
    for _ in 0..10 {
        assert_eq!(lone.session.try_cast(&mut vec![0; 100_000]), Ok(()));
        lone.frames();
    }
}

#[test]
fn messages_wait_while_output_is_full() {
    let mut lone = Lone::open(Side::Server);
    let now = lone.now;
    lone.feed(&Frame::Credit { id: 0, total: 1 << 40 });
    let sent = (0..).take_while(|_| lone.session.cast(now, &mut vec![0; 50_000]) == Ok(None)).count();
    assert_eq!(sent, 6);
    let bytes = lone.fetch();
    lone.session.handle_accepted(now, 1000);
    assert_eq!(lone.session.poll_cast(1, |_| 1), None, "still more than that is unsent");
    lone.session.handle_accepted(now, bytes.len() - 1000);
    assert_eq!(lone.session.take_woken(), [1]);
    assert_eq!(lone.session.poll_cast(1, |_| 1), Some(Ok(())));
}

#[test]
fn discards_messages_without_receiver() {
    let mut pair = Pair::open_with(7, &tight(), &tight());
    let now = pair.now;
    let deadline = now + Duration::from_secs(60);
    let first = cast(&mut pair.client, now, 1, 10_000);
    let before = pair.client.session.call(now, deadline, &mut vec![0; 10]).unwrap();
    pair.settle();
    pair.server.session.give_up_receiving();
    let tickets: Vec<_> = (0..100).filter_map(|n| cast(&mut pair.client, now, n, 10_000)).collect();
    let after = pair.client.session.call(now, deadline, &mut vec![0; 10]).unwrap();
    pair.settle();
    for call in [before, after] {
        let error = pair.client.outcome(call).unwrap().unwrap_err();
        assert_eq!(error.executed, crate::Executed::No);
    }
    assert_eq!(pair.server.session.discarded(), 103, "100 casts, one before, two calls");
    for ticket in tickets.into_iter().chain(first) {
        assert_eq!(pair.client.session.poll_cast(ticket, |_| 0), Some(Ok(())));
    }
    assert_eq!(pair.client.session.entries(), 0);
}

#[test]
fn handed_messages_keep_order_with_signals() {
    let mut pair = Pair::open(8);
    let now = pair.now;
    pair.server.session.set_owner(Some(5), true);
    pair.server.session.take_deliveries();
    for n in 0..4 {
        cast(&mut pair.client, now, n, 4);
    }
    pair.settle();
    let mut read = VecDeque::new();
    pair.server.session.take_inbox(&mut read);
    cast(&mut pair.client, now, 4, 4);
    pair.settle();
    pair.server.session.hand_over(read.drain(2..));
    cast(&mut pair.client, now, 5, 4);
    pair.client.session.link(9, 0);
    cast(&mut pair.client, now, 6, 4);
    pair.client.session.end(ExitReason::Shutdown, 0, Some(now));
    pair.settle();
    let seen: Vec<_> = pair
        .server
        .deliveries()
        .into_iter()
        .map(|delivery| match delivery {
            Delivery::Inbound(message) => number(&message.payload).to_string(),
            Delivery::Link { .. } => "link".into(),
            Delivery::Exit { from, link: true, .. } => format!("exit from {from}"),
            Delivery::Over(reason) => format!("over {reason}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(seen, ["2", "3", "4", "5", "link", "6", "exit from 0", "exit from 1", "over shutdown"]);
}

#[test]
fn handed_process_has_own_window() {
    let mut lone = Lone::open_with(Side::Server, &tight());
    let id = lone.session.hand_out(7, Rights::default());
    let payload = vec![1; 40_000];
    for _ in 0..2 {
        lone.feed(&Frame::Cast { to: id, payload: &payload });
        lone.feed(&Frame::Cast { to: 0, payload: &payload });
    }
    let delivered = lone.session.take_deliveries();
    assert!(matches!(&delivered[..], [Delivery::Message { to: 7, .. }, Delivery::Message { to: 7, .. }]));
    let Delivery::Message { message, .. } = &delivered[0] else { panic!() };
    lone.session.give_back_to(id, message.cost());
    let credit = Frame::Credit { id, total: 64 * 1024 + 40_064 };
    assert_eq!(
        lone.frames(),
        [credit, Frame::Ack { number: 5 }],
        "160 000 bytes are worth an ack along with it"
    );
    lone.feed(&Frame::Cast { to: id, payload: &payload });
    assert_eq!(lone.ended(), None);
    lone.feed(&Frame::Cast { to: id, payload: b"" });
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

#[test]
fn messages_without_right_are_refused() {
    let mut lone = Lone::open(Side::Server);
    let silent = lone.session.hand_out(7, Rights { send: false, ..Rights::default() });
    for (call, to) in [(1, silent), (2, 999)] {
        lone.feed(&Frame::Cast { to, payload: b"" });
        lone.feed(&Frame::Call { to, call, left: 1000, payload: b"" });
        let [Frame::Refuse { call: refused, code: RefuseCode::Refused, text }] = lone.frames()[..] else {
            panic!()
        };
        assert_eq!((refused, text), (call, "no such process"));
        assert_eq!(lone.session.discarded(), 2 * call, "the cast and the call");
    }
    assert_eq!(lone.session.take_deliveries(), []);
    assert_eq!(lone.session.entries(), 0);
}

#[test]
fn small_message_frees_its_read_buffer() {
    let mut lone = Lone::open(Side::Server);
    let mut bytes = Vec::new();
    Frame::Cast { to: 0, payload: b"small" }.put(&mut bytes);
    for _ in 0..500 {
        Frame::Ack { number: 0 }.put(&mut bytes);
    }
    lone.session.handle_bytes(lone.now, &bytes);
    let mut inbox = VecDeque::new();
    lone.session.take_inbox(&mut inbox);
    let own = bytes::BytesMut::from(inbox.remove(0).unwrap().payload);
    assert!(own.capacity() < 100, "{}", own.capacity());
}

#[test]
fn casts_stop_and_resume_with_credit() {
    let mut lone = Lone::open(Side::Server);
    let mut sent = 0;
    while lone.session.try_cast_to(5, &mut vec![0; 10_000]).is_ok() {
        sent += 1;
        lone.frames();
    }
    let cost = 10_000 + 64;
    assert_eq!(sent, (1_u64 << 18).div_ceil(cost));
    lone.feed(&Frame::Credit { id: 5, total: sent * cost + 1 });
    lone.session.try_cast_to(5, &mut vec![0; 10]).unwrap();
    assert_eq!(lone.frames(), [Frame::Cast { to: 5, payload: &[0; 10] }]);
}
