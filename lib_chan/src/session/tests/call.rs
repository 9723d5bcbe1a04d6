use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    lone::{Lone, TERMS},
    pair::Pair,
};
use crate::{
    CallError, CallFailure, Executed, ExitReason, Limits,
    handshake::Side,
    payload::Codec,
    session::{CallPlace, CallQuota, InboundKind, OpenRequest, OverQuota, Unsendable},
    wire::{Frame, RefuseCode, Terms},
};

const MINUTE: Duration = Duration::from_secs(60);

fn call(pair: &mut Pair, number: u32) -> u64 {
    let deadline = pair.now + MINUTE;
    pair.client.session.call(pair.now, deadline, &mut number.to_be_bytes().to_vec()).unwrap()
}

fn failed(executed: Executed, reason: CallFailure) -> Option<Result<bytes::Bytes, CallError>> {
    Some(Err(CallError::new(executed, reason)))
}

/// The calls that came to the server.
fn calls(pair: &mut Pair) -> Vec<u64> {
    let call = |kind| match kind {
        InboundKind::Call { call } => Some(call),
        InboundKind::Cast => None,
    };
    pair.server.take().into_iter().filter_map(|message| call(message.kind)).collect()
}

#[test]
fn calls_get_own_answers_out_of_order() {
    for seed in 0..6 {
        let mut pair = Pair::open(seed);
        let asked: Vec<_> = (0..256).map(|n| call(&mut pair, n)).collect();
        pair.settle();
        let mut taken = pair.server.take();
        while !taken.is_empty() {
            let message = taken.swap_remove(pair.seeded.below(taken.len()));
            let InboundKind::Call { call } = message.kind else { panic!() };
            pair.server.session.reply(call, &mut message.payload.to_vec());
            if pair.seeded.below(5) == 0 {
                pair.settle();
            }
        }
        pair.settle();
        for (n, call) in (0u32..).zip(asked) {
            assert_eq!(pair.client.outcome(call).unwrap().unwrap(), n.to_be_bytes()[..]);
        }
        assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
    }
}

#[test]
fn calls_over_far_bound_wait_in_order() {
    let limits = Limits { max_calls: 3, ..Limits::default() };
    let mut pair = Pair::open_with(1, &limits, &limits);
    let asked: Vec<_> = (0..7).map(|n| call(&mut pair, n)).collect();
    pair.settle();
    for round in [0..3, 3..6, 6..7] {
        let came = calls(&mut pair);
        assert_eq!(came, asked[round]);
        for call in came {
            pair.server.session.reply(call, &mut Vec::new());
        }
        pair.settle();
    }
    assert!(asked.into_iter().all(|call| pair.client.outcome(call).is_some_and(|outcome| outcome.is_ok())));
}

#[test]
fn abandoned_call_is_cancelled_at_other_end() {
    let limits = Limits { max_calls: 1, ..Limits::default() };
    let mut pair = Pair::open_with(2, &limits, &limits);
    let first = call(&mut pair, 1);
    pair.settle();
    assert_eq!(calls(&mut pair), [first]);
    assert!(!pair.server.session.poll_cancelled(first, |_| 42));
    pair.client.session.cancel_call(pair.now, first);
    let second = call(&mut pair, 2);
    pair.settle();
    assert_eq!(pair.server.woken(), [42]);
    assert!(pair.server.session.poll_cancelled(first, |_| 42));
    assert!(!pair.server.session.wants_answer(999, pair.now), "a call that nobody made");
    assert!(calls(&mut pair).is_empty(), "the slot is not free");
    pair.server.session.refuse(first, RefuseCode::NoAnswer, "");
    pair.settle();
    assert_eq!(calls(&mut pair), [second]);
    pair.server.session.reply(second, &mut Vec::new());
    pair.settle();
    assert_eq!(pair.client.outcome(second), Some(Ok(Default::default())));
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn abandoned_unsent_call_is_never_sent() {
    let limits = Limits { max_calls: 1, ..Limits::default() };
    let mut pair = Pair::open_with(2, &limits, &limits);
    let first = call(&mut pair, 1);
    let second = call(&mut pair, 2);
    let third = call(&mut pair, 3);
    pair.client.session.cancel_call(pair.now, second);
    pair.settle();
    pair.echo();
    assert_eq!(calls(&mut pair), [third]);
    assert!(pair.client.outcome(first).is_some());
    assert_eq!(pair.client.outcome(second), None);
}

#[test]
fn refuses_call_cancelled_before_taken() {
    let mut pair = Pair::open(2);
    let asked = call(&mut pair, 1);
    pair.settle();
    pair.client.session.cancel_call(pair.now, asked);
    pair.settle();
    assert_eq!(calls(&mut pair), [asked]);
    assert!(!pair.server.session.wants_answer(asked, pair.now));
    pair.settle();
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn deadline_says_whether_call_was_sent() {
    let limits = Limits { max_calls: 1, ..Limits::default() };
    let mut pair = Pair::open_with(3, &limits, &limits);
    let sent = call(&mut pair, 1);
    let waits = call(&mut pair, 2);
    pair.settle();
    assert_eq!(calls(&mut pair), [sent]);
    assert_eq!(pair.client.outcome(sent), None);
    pair.advance(MINUTE - Duration::from_millis(1));
    assert_eq!(pair.client.outcome(waits), None);
    pair.client.woken();
    pair.advance(Duration::from_millis(1));
    let mut woken = pair.client.woken();
    woken.sort_unstable();
    assert_eq!(woken, [sent as u32, waits as u32]);
    assert_eq!(pair.client.outcome(sent), failed(Executed::Unknown, CallFailure::Deadline));
    assert_eq!(pair.client.outcome(waits), failed(Executed::No, CallFailure::Deadline));
    assert!(pair.server.session.poll_cancelled(sent, |_| 0), "the callee knows, without a frame");
    // The late answer frees the slot and reaches nobody.
    pair.server.session.reply(sent, &mut vec![1]);
    pair.settle();
    assert_eq!(pair.client.outcome(sent), None);
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
    let next = call(&mut pair, 3);
    pair.settle();
    assert_eq!(calls(&mut pair), [next]);
}

#[test]
fn dropped_late_call_counts_as_late() {
    let mut lone = Lone::open(Side::Client);
    let deadline = lone.now + MINUTE;
    let [early, late] = [0; 2].map(|_| lone.session.call(lone.now, deadline, &mut vec![1]).unwrap());
    for (call, at, reason) in [
        (early, deadline - Duration::from_nanos(1), CallFailure::NoAnswer),
        (late, deadline, CallFailure::Deadline),
    ] {
        lone.now = at;
        lone.feed(&Frame::Refuse { call, code: RefuseCode::NoAnswer, text: "" });
        assert_eq!(lone.session.poll_call(call, |_| 0), failed(Executed::Unknown, reason));
    }
}

#[test]
fn passed_deadline_makes_no_call() {
    let mut lone = Lone::open(Side::Client);
    let now = lone.now;
    let late = lone.session.call(now, now, &mut vec![1]).unwrap();
    assert!(!lone.session.has_output());
    assert_eq!(lone.session.poll_call(late, |_| 0), failed(Executed::No, CallFailure::Deadline));
    assert_eq!(lone.session.entries(), 0);
}

#[test]
fn a_deadline_counts_while_credit_is_awaited() {
    let mut pair = Pair::open(4);
    let now = pair.now;
    while pair.client.session.cast(now, &mut vec![0; 60_000]) == Ok(None) {}
    let asked = call(&mut pair, 1);
    pair.advance(MINUTE);
    assert_eq!(pair.client.outcome(asked), failed(Executed::No, CallFailure::Deadline));
    pair.server.take();
    pair.settle();
    assert!(calls(&mut pair).is_empty());
}

#[test]
fn timed_out_call_unblocks_later_ones() {
    let limits = Limits { max_calls: 0, ..Limits::default() };
    let mut pair = Pair::open_with(4, &limits, &limits);
    let asked = call(&mut pair, 1);
    let behind = pair.client.session.cast(pair.now, &mut vec![7]).unwrap().unwrap();
    pair.settle();
    assert!(pair.server.take().is_empty());
    pair.advance(MINUTE);
    assert_eq!(pair.client.session.poll_cast(behind, |_| 0), Some(Ok(())));
    assert_eq!(pair.server.take()[0].payload, &[7][..]);
    assert_eq!(pair.client.outcome(asked), failed(Executed::No, CallFailure::Deadline));
}

#[test]
fn late_call_never_reaches_service() {
    let mut pair = Pair::open(4);
    let asked = call(&mut pair, 1);
    pair.settle();
    pair.advance(MINUTE);
    assert_eq!(calls(&mut pair), [asked]);
    assert!(!pair.server.session.wants_answer(asked, pair.now));
    pair.settle();
    assert_eq!(pair.server.session.entries(), 0);
    assert_eq!(pair.client.outcome(asked), failed(Executed::Unknown, CallFailure::Deadline));
}

#[test]
fn every_refusal_says_whether_the_call_was_executed() {
    let mut pair = Pair::open(5);
    let max = pair.client.session.max_payload_len();
    let cases = [
        (RefuseCode::Refused, Executed::No, CallFailure::Refused("text".into())),
        (RefuseCode::Codec, Executed::No, CallFailure::Codec("text".into())),
        (RefuseCode::TooLong, Executed::No, CallFailure::TooLong { max }),
        (RefuseCode::Overload, Executed::No, CallFailure::Overload { retry_after: None }),
        (RefuseCode::NoAnswer, Executed::Unknown, CallFailure::NoAnswer),
        (RefuseCode::AnswerTooLong, Executed::Yes, CallFailure::TooLong { max }),
        (RefuseCode::AnswerCodec, Executed::Yes, CallFailure::Codec("text".into())),
    ];
    for (code, executed, failure) in cases {
        let asked = call(&mut pair, 1);
        pair.server.session.refuse(asked, code, "text");
        pair.settle();
        calls(&mut pair);
        pair.server.session.refuse(asked, code, "text");
        pair.settle();
        assert_eq!(pair.client.outcome(asked), failed(executed, failure), "{code:?}");
    }
    // As the far end's: an answer that it would not take.
    let asked = call(&mut pair, 1);
    pair.settle();
    pair.server.session.reply(asked, &mut vec![0; max + 1]);
    pair.settle();
    assert_eq!(pair.client.outcome(asked), failed(Executed::Yes, CallFailure::TooLong { max }));
    assert_eq!(
        pair.client.session.call(pair.now, pair.now + MINUTE, &mut vec![0; max + 1]),
        Err(Unsendable::TooLong { max })
    );
}

#[test]
fn a_long_text_of_a_refusal_is_cut() {
    let mut pair = Pair::open(5);
    let asked = call(&mut pair, 1);
    pair.settle();
    pair.server.session.refuse(asked, RefuseCode::Refused, &"ä".repeat(200));
    pair.settle();
    let cut = CallFailure::Refused("ä".repeat(128).into());
    assert_eq!(pair.client.outcome(asked), failed(Executed::No, cut));
}

fn feed_call(lone: &mut Lone, call: u64) {
    lone.feed(&Frame::Call { to: 0, call, left: 60_000, payload: b"" });
}

#[test]
fn slot_is_free_once_answer_is_written() {
    let limits = Limits { max_calls: 2, ..Limits::default() };
    let mut lone = Lone::open_with(Side::Server, &limits);
    feed_call(&mut lone, 1);
    feed_call(&mut lone, 2);
    lone.session.reply(1, &mut vec![1; 100]);
    lone.session.reply(2, &mut vec![1; 100]);
    let bytes = lone.fetch();
    let now = lone.now;
    // The first answer is out, the second is not: one slot.
    lone.session.handle_accepted(now, bytes.len() / 2);
    feed_call(&mut lone, 3);
    assert_eq!(lone.ended(), None);
    feed_call(&mut lone, 4);
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

#[test]
fn too_many_calls_end_overload() {
    let limits = Limits { max_calls: 2, ..Limits::default() };
    let mut lone = Lone::open_with(Side::Server, &limits);
    for call in 1..=2 {
        feed_call(&mut lone, call);
        assert_eq!(lone.ended(), None);
        // Cancelled, it still holds its slot.
        lone.feed(&Frame::Cancel { call });
    }
    feed_call(&mut lone, 3);
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
    assert_eq!(lone.session.entries(), 0);
}

/// Allows this many calls in flight.
#[derive(Debug)]
struct Places(Arc<()>, usize);

impl CallQuota for Places {
    fn take(&self, _: Instant) -> Result<Option<CallPlace>, OverQuota> {
        if Arc::strong_count(&self.0) > self.1 {
            return Err(OverQuota { retry_after: Some(Duration::from_micros(6_000_001)) });
        }
        Ok(Some(Box::new(Arc::clone(&self.0))))
    }
}

#[test]
fn call_over_quota_is_refused_with_time() {
    let mut pair = Pair::open(3);
    let places = Arc::new(Places(Arc::new(()), 2));
    pair.server.session.limit_calls(Arc::clone(&places) as _);
    let asked: Vec<_> = (0..3).map(|n| call(&mut pair, n)).collect();
    pair.settle();
    assert_eq!(calls(&mut pair), asked[..2]);
    let retry_after = Some(Duration::from_millis(6001));
    let over = failed(Executed::No, CallFailure::Overload { retry_after });
    assert_eq!(pair.client.outcome(asked[2]), over);
    // An answer gives its place back, and so does a dropped call.
    pair.server.session.reply(asked[0], &mut Vec::new());
    pair.server.session.refuse(asked[1], RefuseCode::NoAnswer, "");
    pair.settle();
    assert_eq!(Arc::strong_count(&places.0), 1);
    // Refused calls use up no credit.
    for _ in 0..5000 {
        let again: Vec<_> = (0..3).map(|n| call(&mut pair, n)).collect();
        pair.settle();
        let came = calls(&mut pair);
        assert_eq!(came, again[..2]);
        came.into_iter().for_each(|call| pair.server.session.reply(call, &mut Vec::new()));
        pair.settle();
        assert!(again.into_iter().all(|call| pair.client.outcome(call).is_some()));
    }
    let left = call(&mut pair, 0);
    pair.settle();
    assert_eq!(calls(&mut pair), [left]);
    pair.server.session.break_off(ExitReason::Shutdown);
    assert_eq!(Arc::strong_count(&places.0), 1, "the end of the session gives places back");
    let counts = pair.server.session.call_counts();
    assert_eq!((counts.answered, counts.failed, counts.overload, counts.ended), (10_001, 1, 5001, 1));
}

#[test]
fn call_over_quota_needs_credit_too() {
    let mut lone = Lone::open(Side::Server);
    lone.session.limit_calls(Arc::new(Places(Arc::new(()), 0)));
    let payload = vec![0; Limits::default().window_len - 100];
    lone.feed(&Frame::Cast { to: 0, payload: &payload });
    lone.feed(&Frame::Cast { to: 0, payload: b"" });
    feed_call(&mut lone, 1);
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

#[test]
fn answer_to_unknown_call_ends_protocol() {
    let cases: [fn(&mut Lone); 6] = [
        |lone| lone.feed(&Frame::Reply { call: 7, payload: b"" }),
        |lone| lone.feed(&Frame::Refuse { call: 7, code: RefuseCode::Refused, text: "" }),
        |lone| lone.feed(&Frame::Cancel { call: 1 }),
        |lone| {
            let now = lone.now;
            let call = lone.session.call(now, now + MINUTE, &mut Vec::new()).unwrap();
            lone.feed(&Frame::Reply { call, payload: b"" });
            lone.feed(&Frame::Reply { call, payload: b"" });
        },
        |lone| {
            feed_call(lone, 5);
            feed_call(lone, 5);
        },
        |lone| {
            feed_call(lone, 5);
            feed_call(lone, 4);
        },
    ];
    for case in cases {
        let mut lone = Lone::open(Side::Client);
        case(&mut lone);
        assert_eq!(lone.ended(), Some(&ExitReason::Protocol));
    }
    // A call that waits for a slot has not been made: nobody can answer it.
    let mut lone = Lone::open(Side::Client);
    let now = lone.now;
    let asked: Vec<_> = (0..=TERMS.max_calls)
        .map(|_| lone.session.call(now, now + MINUTE, &mut Vec::new()).unwrap())
        .collect();
    lone.feed(&Frame::Reply { call: *asked.last().unwrap(), payload: b"" });
    assert_eq!(lone.ended(), Some(&ExitReason::Protocol));
}

#[test]
fn an_answer_of_nobodys_call_is_not_sent() {
    let mut lone = Lone::open(Side::Server);
    feed_call(&mut lone, 1);
    lone.session.reply(1, &mut Vec::new());
    lone.session.reply(1, &mut Vec::new());
    lone.session.refuse(1, RefuseCode::NoAnswer, "");
    lone.session.reply(2, &mut Vec::new());
    assert_eq!(lone.frames(), [Frame::Reply { call: 1, payload: b"" }]);
}

#[test]
fn cancel_crossing_answer_is_harmless() {
    let mut lone = Lone::open(Side::Server);
    feed_call(&mut lone, 1);
    lone.session.reply(1, &mut Vec::new());
    lone.feed(&Frame::Cancel { call: 1 });
    assert_eq!(lone.ended(), None);
}

#[test]
fn too_many_cancels_end_overload() {
    let limits = Limits::default();
    let mut lone = Lone::open(Side::Server);
    feed_call(&mut lone, 1);
    for _ in 0..limits.max_cancels_burst {
        lone.feed(&Frame::Cancel { call: 1 });
    }
    assert_eq!(lone.ended(), None);
    lone.feed(&Frame::Cancel { call: 1 });
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));

    let mut pair = Pair::open(6);
    for _ in 0..4 {
        for asked in (0..1024).map(|n| call(&mut pair, n)).collect::<Vec<_>>() {
            pair.settle();
            pair.client.session.cancel_call(pair.now, asked);
        }
        pair.echo();
        pair.advance(Duration::from_secs(1));
    }
    assert_eq!(pair.server.session.over(), None);
}

#[test]
fn a_call_waits_no_longer_than_a_month() {
    let mut lone = Lone::open(Side::Client);
    let now: Instant = lone.now;
    let year = Duration::from_secs(365 * 24 * 3600);
    lone.session.call(now, now + year, &mut Vec::new()).unwrap();
    let [Frame::Call { left, .. }] = lone.frames()[..] else { panic!() };
    assert_eq!(left, 30 * 24 * 3600 * 1000);
    feed_call(&mut lone, 1);
    lone.feed(&Frame::Call { to: 0, call: 2, left: u64::MAX, payload: b"" });
    assert_eq!(lone.ended(), None);
}

#[test]
fn unanswered_calls_fill_no_memory() {
    let mut lone = Lone::new(Side::Client, &Limits::default());
    lone.session.start(&OpenRequest::new(Codec::Raw, b"")).unwrap();
    lone.feed(&Frame::Started {
        terms: Terms { max_calls: u64::MAX, max_links: 0, max_handles: 0 },
        resume: None,
    });
    lone.feed(&Frame::Credit { id: 0, total: u64::MAX });
    let deadline = lone.now + Duration::from_secs(1);
    for _ in 0..70_000 {
        let call = lone.session.call(lone.now, deadline, &mut vec![]).unwrap();
        lone.session.cancel_call(lone.now, call);
        let len = lone.fetch().len();
        lone.session.handle_accepted(lone.now, len);
    }
    assert_eq!(lone.session.entries(), 65_536);
}

#[test]
fn callee_does_not_time_out_first() {
    let mut lone = Lone::open(Side::Client);
    lone.session.call(lone.now, lone.now + Duration::from_micros(1500), &mut Vec::new()).unwrap();
    let [Frame::Call { left, .. }] = lone.frames()[..] else { panic!() };
    assert_eq!(left, 2);
}

#[test]
fn mark_is_answered_after_all_before_it() {
    for seed in 0..6 {
        let mut pair = Pair::open(seed);
        let before = call(&mut pair, 1);
        let mark = pair.client.session.mark(pair.now).unwrap();
        pair.settle();
        assert_eq!(pair.client.outcome(mark), None, "it has come, and is not taken");
        let taken = pair.server.take();
        let kinds = taken.into_iter().map(|message| message.kind).collect::<Vec<_>>();
        assert_eq!(kinds, [InboundKind::Call { call: before }, InboundKind::Call { call: mark }]);
        assert!(pair.server.session.wants_answer(before, pair.now));
        pair.settle();
        assert_eq!(pair.client.outcome(mark), None);
        assert!(!pair.server.session.wants_answer(mark, pair.now), "nobody may execute it");
        pair.settle();
        assert!(matches!(
            pair.client.outcome(mark),
            Some(Err(CallError { executed: Executed::No, reason: CallFailure::Refused(_) }))
        ));
        pair.server.session.reply(before, &mut Vec::new());
        pair.settle();
        assert!(pair.client.outcome(before).is_some());
        assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
    }
}

#[test]
fn mark_waits_for_credit_and_slot() {
    let limits = Limits { max_calls: 1, ..Limits::default() };
    let mut pair = Pair::open_with(1, &limits, &limits);
    let first = call(&mut pair, 1);
    let mark = pair.client.session.mark(pair.now).unwrap();
    pair.settle();
    assert_eq!(calls(&mut pair), [first], "the slot is not free");
    pair.server.session.reply(first, &mut Vec::new());
    pair.settle();
    assert_eq!(calls(&mut pair), [mark]);
    let waiting = pair.client.session.mark(pair.now).unwrap();
    pair.server.session.end(ExitReason::Shutdown, 1, None);
    pair.settle();
    let ended = CallFailure::Exit(ExitReason::Shutdown);
    assert_eq!(pair.client.outcome(mark), failed(Executed::No, ended.clone()));
    assert_eq!(pair.client.outcome(waiting), failed(Executed::No, ended));
    assert!(matches!(pair.client.session.mark(pair.now), Err(Unsendable::Ended(ExitReason::Shutdown))));
}

#[test]
fn late_timer_still_cancels_late_calls() {
    let mut pair = Pair::open(0);
    let deadline = pair.now + Duration::from_secs(10);
    let asked = pair.client.session.call(pair.now, deadline, &mut vec![1]).unwrap();
    pair.settle();
    let taken = calls(&mut pair);
    assert!(!pair.server.session.poll_cancelled(taken[0], |_| 7));
    // Later than the deadline, and before either end is missed.
    let late = deadline + Duration::from_secs(3);
    pair.client.session.handle_timeout(late);
    pair.server.session.handle_timeout(late);
    assert_eq!(pair.client.outcome(asked), failed(Executed::Unknown, CallFailure::Deadline));
    assert!(pair.server.session.poll_cancelled(taken[0], |_| 7));
}
