use std::time::Duration;

use super::{
    lone::{Lone, TERMS, start},
    pair::beginning,
};
use crate::{
    CallError, CallFailure, Executed, ExitReason,
    auth::{Exporter, ResumeClaim, ResumeKey, SessionId},
    handshake::Side,
    secret::Secret,
    session::{Attach, ConnectionState, OpenRequest},
    wire::{Frame, Granted, Tombstone},
};

const WINDOW: Duration = Duration::from_secs(60);
const H: Duration = Duration::from_secs(15);
const SECOND: Duration = Duration::from_secs(1);

fn granted() -> Granted {
    Granted { window: 60_000, id: SessionId::new([5; 16]), secret: Secret::new([6; 32]) }
}

fn exporter() -> Exporter {
    Exporter::new(Secret::new([8; 32]))
}

fn claim(epoch: u64, received: u64, sent: u64) -> ResumeClaim {
    ResumeClaim { id: SessionId::new([5; 16]), epoch, received, sent }
}

/// The server's end of a session whose client has acknowledged the `Started`: frame 1 of either direction is through.
fn server() -> Lone {
    let mut lone = opened_server();
    lone.feed(&Frame::Ack { number: 1 });
    lone
}

/// The same before that ack.
fn opened_server() -> Lone {
    let Frame::Start { window_len, .. } = start() else { panic!() };
    server_of_client_with_window(window_len)
}

fn server_of_client_with_window(window_len: u64) -> Lone {
    server_of_client_with(TERMS, window_len)
}

fn server_of_client_with(terms: crate::wire::Terms, window_len: u64) -> Lone {
    let mut lone = Lone::new(Side::Server, &crate::Limits::default());
    let Frame::Start { codec, max_frame_len, args, .. } = start() else { panic!() };
    lone.feed(&Frame::Start {
        codec,
        terms,
        max_frame_len,
        window_len,
        resume: 60_000,
        interface: None,
        args,
    });
    lone.session.take_request().unwrap();
    lone.session.grant(granted());
    lone.session.accept(Some(1), false);
    assert_eq!(
        lone.frames(),
        [Frame::Started { terms: terms_of_limits(), resume: Some(Box::new(granted())) }]
    );
    lone
}

fn terms_of_limits() -> crate::wire::Terms {
    let limits = crate::Limits::default();
    super::super::own_terms(&limits)
}

/// The client's end of a session that can be resumed.
fn client() -> Lone {
    let mut lone = Lone::new(Side::Client, &crate::Limits::default());
    let request = OpenRequest { resume: WINDOW, ..OpenRequest::new(crate::payload::Codec::Raw, b"") };
    lone.session.start(&request).unwrap();
    lone.frames();
    lone.feed(&Frame::Started { terms: TERMS, resume: Some(Box::new(granted())) });
    lone.session.set_owner(Some(1), false);
    assert_eq!(lone.frames(), [Frame::Ack { number: 1 }]);
    lone
}

/// The connection is lost now.
fn lose(lone: &mut Lone) {
    lone.session.handle_loss(lone.now);
    assert_eq!(lone.session.attached(), None);
}

fn cast(lone: &mut Lone, byte: u8) {
    lone.session.cast(lone.now, &mut vec![byte]).unwrap();
}

/// The client resumes, and the server has received `received`.
fn resumed(lone: &mut Lone, received: u64, sent: u64) -> Vec<Frame<'static>> {
    lone.session.resume(lone.now, &exporter()).unwrap();
    lone.frames();
    lone.feed(&Frame::Resumed { received, sent });
    said(lone)
}

/// All that goes out: the frames of the connection first, and then those of the session.
fn said(lone: &mut Lone) -> Vec<Frame<'static>> {
    [lone.frames(), lone.frames()].concat()
}

fn is_credit(frame: &Frame<'_>) -> bool {
    matches!(frame, Frame::Credit { id: 0, .. })
}

#[test]
fn server_resumes_only_after_ack_of_secret() {
    let mut lone = opened_server();
    assert!(!lone.session.is_resumable());
    lone.session.handle_loss(lone.now);
    assert_eq!(lone.ended(), Some(&ExitReason::NoConnection));
    assert_eq!(lone.session.tombstone(), None);
    assert!(server().session.is_resumable());
}

#[test]
fn longest_window_of_client_bounds_kept_bytes() {
    let mut lone = server_of_client_with_window(u64::MAX);
    lone.feed(&Frame::Ack { number: 1 });
    lone.feed(&Frame::Credit { id: 0, total: u64::MAX });
    let (mut kept, len) = (0, 64 * 1024);
    while lone.session.try_cast(&mut vec![0; len]).is_ok() {
        kept += len;
        lone.frames();
    }
    assert_eq!(lone.ended(), None);
    let bound = crate::Limits::default().max_window_len + 128 * 1024;
    assert!((bound - len..=bound + len).contains(&kept), "{kept} bytes");
}

#[test]
fn grant_without_request_grants_nothing() {
    let mut lone = Lone::new(Side::Server, &crate::Limits::default());
    lone.feed(&start());
    lone.session.take_request().unwrap();
    lone.session.grant(granted());
    lone.session.accept(Some(1), false);
    assert_eq!(lone.frames(), [Frame::Started { terms: terms_of_limits(), resume: None }]);
    assert_eq!(lone.session.resume_window(), None);
}

#[test]
fn detached_session_ends_with_its_window() {
    for mut lone in [server(), client()] {
        lone.wait(SECOND);
        lose(&mut lone);
        let until = lone.now + WINDOW;
        assert_eq!(lone.session.connection(), ConnectionState::Detached { since: lone.now, until });
        assert_eq!(lone.session.poll_timeout(), Some(until), "no heartbeat, no stall");
        lone.wait(WINDOW - Duration::from_millis(1));
        assert_eq!(lone.ended(), None);
        lone.wait(Duration::from_millis(1));
        assert_eq!(lone.ended(), Some(&ExitReason::NoConnection));
        assert!(lone.session.has_expired());
    }
}

#[test]
fn second_loss_does_not_lengthen_window() {
    let mut lone = client();
    lose(&mut lone);
    let until = lone.session.poll_timeout();
    lone.wait(SECOND);
    lone.session.resume(lone.now, &exporter()).unwrap();
    lone.session.handle_loss(lone.now);
    assert_eq!(lone.session.poll_timeout(), until);
}

#[test]
fn unacknowledged_frames_come_again_before_new() {
    let mut lone = server();
    for byte in 1..=4 {
        cast(&mut lone, byte);
    }
    lone.frames();
    lone.feed(&Frame::Ack { number: 2 });
    lose(&mut lone);
    cast(&mut lone, 5);
    // The client had one more than it acknowledged.
    assert_eq!(lone.session.attach(lone.now, &claim(2, 3, 1)), Attach::Attached(2));
    cast(&mut lone, 6);
    let frames = said(&mut lone);
    assert_eq!(frames[0], Frame::Resumed { received: 1, sent: 6 });
    assert!(is_credit(&frames[1]), "{:?}", frames[1]);
    let casts: Vec<_> = frames[2..].iter().filter(|frame| frame.is_ordered()).cloned().collect();
    assert_eq!(casts, [3, 4, 5, 6].map(|byte| Frame::Cast { to: 0, payload: vec![byte].leak() }));
}

#[test]
fn stale_epoch_changes_nothing() {
    let mut lone = server();
    for epoch in [0, 1, 2 + (1 << 20), 1 << 63, u64::MAX] {
        assert_eq!(lone.session.attach(lone.now, &claim(epoch, 1, 1)), Attach::Stale, "{epoch}");
    }
    assert_eq!(lone.session.attached(), Some(1));
    assert_eq!(lone.session.attach(lone.now, &claim(1 + (1 << 20), 1, 1)), Attach::Attached(1 + (1 << 20)));
    assert_eq!(lone.session.attach(lone.now, &claim(1 + (1 << 20), 1, 1)), Attach::Stale);
}

#[test]
fn impossible_position_ends_protocol() {
    for (received, sent, why) in [
        (4, 1, "more than was sent"),
        (1, 1, "less than was acknowledged"),
        (2, 0, "less sent than has come"),
    ] {
        let mut lone = server();
        cast(&mut lone, 1);
        cast(&mut lone, 2);
        lone.frames();
        lone.feed(&Frame::Ack { number: 2 });
        let tombstone = Tombstone { received: 1, taken: 1, reason: ExitReason::Protocol };
        let over = lone.session.attach(lone.now, &claim(2, received, sent));
        assert_eq!(over, Attach::Over(Some(tombstone)), "{why}");
        assert_eq!(lone.ended(), Some(&ExitReason::Protocol), "{why}");
    }
    for (received, sent) in [(9, 1), (0, 1), (1, 0)] {
        let mut lone = client();
        lone.session.resume(lone.now, &exporter()).unwrap();
        lone.frames();
        lone.feed(&Frame::Resumed { received, sent });
        assert_eq!(lone.ended(), Some(&ExitReason::Protocol), "{received} {sent}");
    }
}

#[test]
fn sent_never_falls_from_one_resume_to_the_next() {
    let mut lone = server();
    assert_eq!(lone.session.attach(lone.now, &claim(2, 1, 7)), Attach::Attached(2));
    assert!(matches!(lone.session.attach(lone.now, &claim(3, 1, 6)), Attach::Over(_)));
}

#[test]
fn claim_of_frames_frees_bounded_cancels() {
    let mut lone = server();
    assert_eq!(lone.session.attach(lone.now, &claim(2, 1, 1 << 62)), Attach::Attached(2));
    lone.feed(&Frame::Call { to: 0, call: 1, left: 1000, payload: b"" });
    let budget = crate::Limits::default().max_cancels_burst;
    for n in 0..10_000 + budget {
        lone.feed(&Frame::Cancel { call: 1 });
        assert_eq!(lone.ended(), None, "{n}");
    }
    lone.feed(&Frame::Cancel { call: 1 });
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

#[test]
fn client_says_only_resume_before_the_answer() {
    let mut lone = client();
    cast(&mut lone, 1);
    lone.frames();
    lose(&mut lone);
    cast(&mut lone, 2);
    assert_eq!(lone.fetch(), b"");
    assert_eq!(lone.session.resume(lone.now, &exporter()), Some(2));
    let claim = claim(2, 1, 3);
    let proof = ResumeKey::new(&granted().secret).prove(&exporter(), &claim);
    assert_eq!(lone.frames(), [Frame::Resume { claim, proof: &proof }]);
    cast(&mut lone, 3);
    lone.wait(SECOND);
    assert_eq!(lone.fetch(), b"");
    lone.feed(&Frame::Resumed { received: 2, sent: 1 });
    let frames = said(&mut lone);
    let casts: Vec<_> = frames.iter().filter(|frame| frame.is_ordered()).cloned().collect();
    assert_eq!(casts, [2, 3].map(|byte| Frame::Cast { to: 0, payload: vec![byte].leak() }));
    assert!(is_credit(&frames[0]), "{frames:?}");
}

#[test]
fn unanswered_resume_is_given_up() {
    let mut lone = client();
    lone.session.resume(lone.now, &exporter()).unwrap();
    lone.frames();
    assert_eq!(lone.session.attached(), Some(2));
    lone.wait(Duration::from_secs(15));
    assert_eq!((lone.session.attached(), lone.ended()), (None, None));
    assert_eq!(lone.session.resume(lone.now, &exporter()), Some(3));
}

#[test]
fn replayed_call_has_the_time_left_now() {
    let mut lone = client();
    let call = lone.session.call(lone.now, lone.now + 40 * SECOND, &mut vec![9]).unwrap();
    lone.frames();
    for (gone, left) in [(10, 30_000), (29, 1_000), (2, 0)] {
        lose(&mut lone);
        lone.wait(Duration::from_secs(gone));
        let frames = resumed(&mut lone, 1, 1);
        assert!(frames.contains(&Frame::Call { to: 0, call, left, payload: &[9] }), "{left}: {frames:?}");
    }
    let unknown = CallError::new(Executed::Unknown, CallFailure::Deadline);
    assert_eq!(lone.session.poll_call(call, |_| 1), Some(Err(unknown)));
}

#[test]
fn abandoned_call_comes_again_without_time() {
    let mut lone = client();
    let call = lone.session.call(lone.now, lone.now + 40 * SECOND, &mut vec![9]).unwrap();
    lone.frames();
    lose(&mut lone);
    lone.session.cancel_call(lone.now, call);
    let frames = resumed(&mut lone, 1, 1);
    let ordered: Vec<_> = frames.iter().filter(|frame| frame.is_ordered()).cloned().collect();
    assert_eq!(ordered, [Frame::Call { to: 0, call, left: 0, payload: &[9] }, Frame::Cancel { call }]);
}

#[test]
fn lost_answer_says_what_it_knows_of_calls() {
    let executed = |tombstone: Option<Tombstone>| {
        let mut lone = client();
        let call = |lone: &mut Lone| lone.session.call(lone.now, lone.now + WINDOW, &mut vec![9]).unwrap();
        let written = [call(&mut lone), call(&mut lone)];
        lone.frames();
        lose(&mut lone);
        let unwritten = call(&mut lone);
        lone.session.resume(lone.now, &exporter()).unwrap();
        lone.frames();
        lone.feed(&Frame::Lost { tombstone });
        let reason = lone.ended().unwrap().clone();
        let outcome = |call| match lone.session.poll_call(call, |_| 1) {
            Some(Err(error)) => error.executed,
            other => panic!("{other:?}"),
        };
        (reason, [written[0], written[1], unwritten].map(outcome))
    };
    let (no, unknown) = (Executed::No, Executed::Unknown);
    assert_eq!(executed(None), (ExitReason::NoConnection, [unknown, unknown, no]));
    let tombstone = Tombstone { received: 3, taken: 2, reason: ExitReason::Revoked };
    assert_eq!(executed(Some(tombstone)), (ExitReason::Revoked, [unknown, no, no]));
}

#[test]
fn resume_frees_slots_of_answers_that_arrived() {
    let mut lone = server();
    lone.feed(&Frame::Call { to: 0, call: 1, left: 60_000, payload: b"" });
    lone.session.take_inbox(&mut std::collections::VecDeque::new());
    lone.session.reply(1, &mut vec![1]);
    lone.fetch();
    assert_eq!(lone.session.entries(), 0);
    lose(&mut lone);
    assert_eq!(lone.session.attach(lone.now, &claim(2, 2, 2)), Attach::Attached(2));
    lone.frames();
    assert!(!lone.session.is_busy());
}

#[test]
fn kept_frames_are_acknowledged_within_a_second() {
    let mut lone = server();
    lone.feed(&Frame::Cast { to: 0, payload: b"a" });
    assert_eq!(lone.frames(), []);
    assert_eq!(lone.session.poll_timeout(), Some(lone.now + SECOND));
    lone.wait(SECOND);
    assert_eq!(lone.frames(), [Frame::Ack { number: 2 }]);
}

#[test]
fn end_of_detached_session_leaves_its_words() {
    // Ended at once: all that came may have been taken.
    let mut lone = server();
    lone.feed(&Frame::Cast { to: 0, payload: b"a" });
    lose(&mut lone);
    lone.session.break_off(ExitReason::Revoked);
    let tombstone = Tombstone { received: 2, taken: 2, reason: ExitReason::Revoked };
    assert_eq!(lone.session.tombstone(), Some(tombstone.clone()));
    assert_eq!(lone.session.attach(lone.now, &claim(2, 1, 2)), Attach::Over(Some(tombstone)));
    // Ended by its owner: it stays, with what the owner took, until the window is over.
    let mut lone = server();
    lone.feed(&Frame::Cast { to: 0, payload: b"a" });
    lose(&mut lone);
    lone.session.end(ExitReason::failed("boom"), 1, Some(lone.now + 10 * SECOND));
    assert_eq!(lone.session.poll_timeout(), Some(lone.now + WINDOW));
    lone.wait(WINDOW);
    let tombstone = Tombstone { received: 2, taken: 1, reason: ExitReason::failed("boom") };
    assert_eq!(lone.session.tombstone(), Some(tombstone));
}

#[test]
fn ended_is_replayed_to_client_that_comes_back() {
    let mut lone = server();
    lose(&mut lone);
    lone.session.end(ExitReason::failed("boom"), 1, Some(lone.now + 10 * SECOND));
    assert_eq!(lone.session.attach(lone.now, &claim(2, 1, 1)), Attach::Attached(2));
    let frames = said(&mut lone);
    assert_eq!(frames.last(), Some(&Frame::Ended { taken: 1, reason: ExitReason::failed("boom") }));
    lone.feed(&Frame::Ended { taken: 2, reason: ExitReason::NoConnection });
    assert!(lone.ended().is_some());
    assert_eq!(lone.session.tombstone(), None, "the client knows");
}

#[test]
fn exits_while_detached_are_bounded() {
    let mut lone = client();
    lose(&mut lone);
    for _ in 0..32 {
        lone.session.exit(&1, 0, None, ExitReason::Shutdown);
        assert_eq!(lone.ended(), None);
    }
    lone.session.exit(&1, 0, None, ExitReason::Shutdown);
    assert_eq!(lone.ended(), Some(&ExitReason::Overload));
}

#[test]
fn suspension_detaches_and_counts_against_window() {
    for mut lone in [server(), client()] {
        lone.session.handle_suspension(lone.now, H);
        assert_eq!(lone.session.attached(), Some(1), "one heartbeat is nothing");
        lone.session.handle_suspension(lone.now, H + SECOND);
        assert_eq!(lone.session.attached(), None);
        assert_eq!(lone.session.poll_timeout(), Some(lone.now + WINDOW - H - SECOND));
        // While detached, any time counts.
        lone.session.handle_suspension(lone.now, SECOND);
        assert_eq!(lone.session.poll_timeout(), Some(lone.now + WINDOW - H - 2 * SECOND));
        lone.session.handle_suspension(lone.now, WINDOW);
        lone.session.handle_timeout(lone.now);
        assert!(lone.session.has_expired());
    }
}

#[test]
fn suspension_counts_against_calls() {
    let mut lone = client();
    let asked = lone.session.call(lone.now, lone.now + 40 * SECOND, &mut vec![9]).unwrap();
    lone.frames();
    lone.session.handle_suspension(lone.now, 30 * SECOND);
    let frames = resumed(&mut lone, 1, 1);
    assert!(frames.contains(&Frame::Call { to: 0, call: asked, left: 10_000, payload: &[9] }), "{frames:?}");
    // One that nobody has written may have begun after the suspension.
    let mut lone = client();
    let asked = lone.session.call(lone.now, lone.now + 40 * SECOND, &mut vec![9]).unwrap();
    lone.session.handle_suspension(lone.now, 30 * SECOND);
    let frames = resumed(&mut lone, 1, 1);
    assert!(frames.contains(&Frame::Call { to: 0, call: asked, left: 40_000, payload: &[9] }), "{frames:?}");
    let mut lone = server();
    lone.feed(&Frame::Call { to: 0, call: 1, left: 40_000, payload: b"" });
    assert!(lone.session.wants_answer(1, lone.now));
    lone.session.handle_suspension(lone.now, 40 * SECOND);
    assert!(!lone.session.wants_answer(1, lone.now));
}

#[test]
fn suspension_without_resume_pings_the_peer() {
    let mut lone = Lone::open(Side::Client);
    lone.session.handle_suspension(lone.now, SECOND);
    assert_eq!(lone.frames(), []);
    lone.session.handle_suspension(lone.now, 100 * H);
    assert_eq!((lone.frames(), lone.ended()), (vec![Frame::Ping { token: 0 }], None));
}

#[test]
fn suspension_longer_than_the_clock_expires() {
    let mut lone = client();
    assert!(lone.now <= beginning());
    lone.session.handle_suspension(lone.now, Duration::from_secs(u64::MAX));
    lone.session.handle_timeout(lone.now);
    assert!(lone.session.has_expired());
}

#[test]
fn unacknowledged_bytes_count_as_held() {
    let mut lone = server();
    let before = lone.session.held();
    lone.session.try_cast(&mut vec![0; 100_000]).unwrap();
    lone.frames();
    assert_eq!(lone.session.unsent(), 0);
    assert!(lone.session.held() >= before + 100_000, "{}", lone.session.held());
    lone.feed(&Frame::Ack { number: 2 });
    assert_eq!(lone.session.held(), before);
}

/// Every frame with numbers that a hostile peer may choose.
fn hostile_frames(a: u64, b: u64) -> Vec<Frame<'static>> {
    let reason = ExitReason::Shutdown;
    vec![
        Frame::Cast { to: a, payload: b"x" },
        Frame::Call { to: 0, call: a, left: b, payload: b"x" },
        Frame::Call { to: a, call: b, left: a, payload: b"x" },
        Frame::Cancel { call: a },
        Frame::Part { call: a, total: b, payload: b"x" },
        Frame::PartTo { to: a, total: b, payload: b"x" },
        Frame::PartTo { to: a, total: 0, payload: b"" },
        Frame::Reply { call: a, payload: b"x" },
        Frame::Exit { from: a, to: b, taken: None, reason: reason.clone() },
        Frame::Exit { from: a, to: b, taken: Some(a), reason: reason.clone() },
        Frame::Ended { taken: a, reason: reason.clone() },
        Frame::Link { from: a, to: b },
        Frame::Unlink { from: a, to: b, unlink: a },
        Frame::UnlinkAck { from: a, to: b, unlink: a },
        Frame::Monitor { monitor: a, to: b },
        Frame::Demonitor { monitor: a },
        Frame::Down { monitor: a, taken: b, reason: reason.clone() },
        Frame::Credit { id: b, total: a },
        Frame::Release { id: a, count: b },
        Frame::Ack { number: a },
        Frame::Ping { token: a },
        Frame::Pong { token: a },
        Frame::Resumed { received: a, sent: b },
        Frame::Lost { tombstone: Some(Tombstone { received: a, taken: b, reason }) },
    ]
}

#[test]
fn numbers_of_any_size_panic_nowhere() {
    const EXTREMES: [u64; 4] = [0, 1, 1 << 63, u64::MAX];
    let pairs = || EXTREMES.into_iter().flat_map(|a| EXTREMES.map(|b| (a, b)));
    for (a, b) in pairs() {
        let terms = crate::wire::Terms { max_calls: a, max_links: b, max_handles: a };
        for first in hostile_frames(a, b) {
            for second in hostile_frames(b, a) {
                for mut lone in [server_of_client_with(terms, a.max(1 << 16)), client()] {
                    lone.feed(&Frame::Ack { number: 1 });
                    lone.feed(&first);
                    let _ = lone.session.cast(lone.now, &mut vec![1]);
                    lone.feed(&second);
                    lone.frames();
                    lone.wait(SECOND);
                    lone.session.handle_loss(lone.now);
                    let _ = lone.session.attach(lone.now, &claim(b, a, b));
                    let _ = lone.session.resume(lone.now, &exporter());
                    lone.feed(&second);
                    lone.wait(WINDOW);
                }
            }
        }
    }
}
