use std::time::Duration;

use super::{
    lone::{Lone, TERMS, start},
    pair::{End, Pair},
};
use crate::{
    CallError, CallFailure, Executed, ExitReason, Limits,
    auth::{Exporter, SessionId},
    handshake::Side,
    payload::Codec,
    secret::Secret,
    session::{Delivery, InboundKind, OpenRequest, Outcome, Unsendable},
    wire::{Frame, Granted, Tombstone},
};

const MINUTE: Duration = Duration::from_secs(60);

fn call(pair: &mut Pair, payload: &[u8]) -> u64 {
    pair.client.session.call(pair.now, pair.now + MINUTE, &mut payload.to_vec()).unwrap()
}

fn gone(executed: Executed, reason: ExitReason) -> Option<Outcome> {
    Some(Err(CallError::new(executed, CallFailure::Exit(reason))))
}

/// An owner ends, with the number of what it took last.
fn end(end: &mut End, now: std::time::Instant, reason: ExitReason) {
    let taken = end.taken;
    end.session.end(reason, taken, Some(now + Limits::default().close_timeout));
}

#[test]
fn loss_tells_unsent_from_perhaps_executed() {
    let mut pair = Pair::open(1);
    let out = call(&mut pair, b"out");
    pair.settle();
    pair.client.room = 10;
    let half = call(&mut pair, b"only a part of it goes");
    let never = call(&mut pair, b"nothing");
    pair.settle();
    pair.lose();
    assert_eq!(pair.client.outcome(out), gone(Executed::Unknown, ExitReason::NoConnection));
    assert_eq!(pair.client.outcome(half), gone(Executed::No, ExitReason::NoConnection));
    assert_eq!(pair.client.outcome(never), gone(Executed::No, ExitReason::NoConnection));
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
    assert_eq!(pair.client.session.poll_timeout(), None);
}

#[test]
fn waiting_messages_fail_not_executed() {
    let mut pair = Pair::open(2);
    let now = pair.now;
    let waits = loop {
        if let Some(ticket) = pair.client.session.cast(now, &mut vec![0; 60_000]).unwrap() {
            break ticket;
        }
    };
    let asked = call(&mut pair, b"");
    assert_eq!(pair.client.session.poll_cast(waits, |_| 800), None);
    assert_eq!(pair.client.outcome(asked), None);
    pair.lose();
    let mut woken = pair.client.woken();
    woken.sort_unstable();
    assert_eq!(woken, [asked as u32, 800]);
    let ended = Unsendable::Ended(ExitReason::NoConnection);
    assert_eq!(pair.client.session.poll_cast(waits, |_| 800), Some(Err(ended.clone())));
    assert_eq!(pair.client.outcome(asked), gone(Executed::No, ExitReason::NoConnection));
    assert_eq!(pair.client.session.cast(now, &mut vec![]), Err(ended.clone()));
    assert_eq!(pair.client.session.call(now, now + MINUTE, &mut vec![]), Err(ended));
    assert_eq!(pair.client.session.entries(), 0);
}

#[test]
fn end_of_owner_reports_taken_messages() {
    let mut pair = Pair::open(3);
    let answered = call(&mut pair, b"1");
    let taken = call(&mut pair, b"2");
    pair.settle();
    for message in pair.server.take() {
        if message.kind == (InboundKind::Call { call: answered }) {
            pair.server.session.reply(answered, &mut b"yes".to_vec());
        }
    }
    let untaken = call(&mut pair, b"3");
    pair.settle();
    let (now, reason) = (pair.now, ExitReason::failed("boom"));
    end(&mut pair.server, now, reason.clone());
    pair.settle();
    assert_eq!(
        pair.client.outcome(answered),
        Some(Ok(b"yes"[..].into())),
        "what came in wins over an end after it"
    );
    assert_eq!(pair.client.outcome(taken), gone(Executed::Unknown, reason.clone()));
    assert_eq!(pair.client.outcome(untaken), gone(Executed::No, reason.clone()));
    assert_eq!(pair.client.session.over(), Some(&reason));
    assert_eq!(pair.server.session.over(), Some(&ExitReason::Normal), "the far owner only answered");
    assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
}

#[test]
fn taken_beyond_sent_ends_protocol() {
    let mut lone = Lone::open(Side::Client);
    lone.feed(&Frame::Ended { taken: 100, reason: ExitReason::Normal });
    assert_eq!(lone.ended(), Some(&ExitReason::Protocol));
}

#[test]
fn both_ends_end_at_the_same_time() {
    for seed in 0..8 {
        let mut pair = Pair::open(seed);
        let now = pair.now;
        let asked = call(&mut pair, b"");
        pair.settle();
        end(&mut pair.client, now, ExitReason::Shutdown);
        end(&mut pair.server, now, ExitReason::failed("too"));
        pair.settle();
        assert_eq!(pair.client.session.over(), Some(&ExitReason::failed("too")));
        assert_eq!(pair.server.session.over(), Some(&ExitReason::Shutdown));
        assert_eq!(pair.client.outcome(asked), gone(Executed::No, ExitReason::failed("too")));
        assert_eq!((pair.client.session.entries(), pair.server.session.entries()), (0, 0));
        assert!(!pair.client.session.has_output() && !pair.server.session.has_output());
    }
}

#[test]
fn delivers_messages_before_close() {
    for seed in 0..8 {
        let mut pair = Pair::open(seed);
        let now = pair.now;
        for n in 0..20u8 {
            assert_eq!(pair.client.session.cast(now, &mut vec![n; 5000]), Ok(None));
        }
        end(&mut pair.client, now, ExitReason::Normal);
        assert_eq!(pair.client.session.cast(now, &mut vec![]), Err(Unsendable::Ended(ExitReason::Normal)));
        assert_eq!(pair.client.session.over(), None);
        pair.settle();
        assert_eq!(pair.client.session.over(), Some(&ExitReason::Normal));
        assert_eq!(pair.server.session.over(), Some(&ExitReason::Normal));
        let taken: Vec<_> = pair.server.take().iter().map(|message| message.payload[0]).collect();
        assert_eq!(taken, (0..20).collect::<Vec<_>>());
    }
}

#[test]
fn nothing_follows_the_last_word() {
    let mut lone = Lone::open(Side::Server);
    lone.feed(&Frame::Call { to: 0, call: 1, left: 60_000, payload: b"" });
    lone.feed(&Frame::Link { from: 1, to: 0 });
    let now = lone.now;
    let asked = lone.session.call(now, now + MINUTE, &mut vec![]).unwrap();
    lone.session.link(7, 0);
    lone.frames();
    lone.session.end(ExitReason::Normal, 0, Some(now + MINUTE));
    assert!(matches!(lone.frames()[..], [Frame::Ended { .. }]));
    lone.session.reply(1, &mut vec![]);
    lone.session.cancel_call(now, asked);
    lone.session.link(8, 0);
    lone.session.unlink(&7, 0, 1);
    lone.session.unlink_ack(&1, 1, 1);
    lone.session.monitor(8, 1, 5);
    lone.session.demonitor(1);
    lone.session.exit(&8, 0, None, ExitReason::Kill);
    lone.session.go_away();
    lone.session.flush();
    lone.session.give_back(1 << 30);
    lone.feed(&Frame::Ping { token: 1 });
    lone.feed(&Frame::Cast { to: 0, payload: b"" });
    lone.feed(&Frame::Monitor { monitor: 1, to: 99 });
    lone.wait(Duration::from_secs(16));
    assert_eq!(lone.frames(), []);
    lone.feed(&Frame::Ended { taken: 0, reason: ExitReason::Normal });
    assert_eq!((lone.frames(), lone.session.entries()), (vec![], 0));
}

#[test]
fn unanswered_close_is_lost_connection() {
    let mut pair = Pair::open(4);
    pair.cut = true;
    let now = pair.now;
    end(&mut pair.client, now, ExitReason::Normal);
    pair.advance(Limits::default().close_timeout - Duration::from_millis(1));
    assert_eq!(pair.client.session.over(), None);
    pair.advance(Duration::from_millis(1));
    assert_eq!(pair.client.session.over(), Some(&ExitReason::NoConnection));
}

#[test]
fn talking_peer_does_not_postpone_end() {
    let mut lone = Lone::open(Side::Client);
    let now = lone.now;
    lone.session.end(ExitReason::Normal, 0, Some(now + Duration::from_secs(10)));
    for _ in 0..10 {
        assert_eq!(lone.ended(), None);
        lone.feed(&Frame::Ping { token: 1 });
        lone.wait(Duration::from_secs(1));
    }
    assert_eq!(lone.ended(), Some(&ExitReason::NoConnection));
}

#[test]
fn an_end_from_outside_reaches_both_owners() {
    let mut pair = Pair::open(5);
    pair.client.session.set_owner(Some(1), true);
    pair.server.session.set_owner(Some(2), true);
    let asked = call(&mut pair, b"");
    pair.settle();
    pair.server.session.break_off(ExitReason::Revoked);
    pair.settle();
    for end in [&pair.client, &pair.server] {
        assert_eq!(end.session.over(), Some(&ExitReason::Revoked));
    }
    assert_eq!(pair.client.outcome(asked), gone(Executed::Unknown, ExitReason::Revoked));
}

#[test]
fn link_after_end_gets_reason() {
    let mut pair = Pair::open(7);
    pair.server.session.break_off(ExitReason::Revoked);
    pair.settle();
    let client = &mut pair.client.session;
    client.take_deliveries();
    client.set_owner(Some(1), false);
    assert_eq!(client.take_deliveries(), []);
    client.set_owner(Some(1), true);
    let exit = Delivery::Exit { from: 0, to: 1, reason: ExitReason::Revoked, link: true, provoked: false };
    assert_eq!(client.take_deliveries(), [Delivery::Link { from: 0, to: 1 }, exit]);
    assert_eq!(client.entries(), 0);
}

#[test]
fn a_drain_is_announced_and_ends_nothing() {
    let mut pair = Pair::open(6);
    assert!(!pair.client.session.peer_drains());
    pair.server.session.go_away();
    pair.settle();
    assert!(pair.client.session.peer_drains());
    let asked = call(&mut pair, b"still");
    pair.settle();
    pair.echo();
    assert_eq!(pair.client.outcome(asked), Some(Ok(b"still"[..].into())));

    let mut early = Pair::new(6, &Limits::default(), &Limits::default());
    early.start(b"");
    early.server.session.go_away();
    early.settle();
    assert_eq!(early.client.session.over(), None);
}

#[test]
fn endings_leave_tables_empty() {
    let endings: [fn(&mut Pair); 6] = [
        Pair::lose,
        |pair| end(&mut pair.client, pair.now, ExitReason::Normal),
        |pair| end(&mut pair.server, pair.now, ExitReason::Shutdown),
        |pair| pair.client.session.break_off(ExitReason::Protocol),
        |pair| pair.server.session.handle_bytes(pair.now, &[0; 4]),
        |pair| {
            pair.cut = true;
            pair.advance(Duration::from_secs(50));
        },
    ];
    for (seed, ending) in (0..).zip(endings) {
        let limits = Limits { max_calls: 3, ..Limits::default() };
        let mut pair = Pair::open_with(seed, &limits, &limits);
        let now = pair.now;
        pair.server.session.set_owner(Some(2), true);
        pair.client.session.set_owner(Some(1), true);
        let asked: Vec<_> = (0..9).map(|_| call(&mut pair, b"x")).collect();
        pair.client.session.cancel_call(now, asked[0]);
        let cast = pair.client.session.cast(now, &mut vec![]).unwrap().unwrap();
        let number = pair.client.session.flush();
        assert_eq!(pair.client.session.poll_flushed(number, || 77), None);
        for process in 10..15 {
            pair.client.session.link(process, 0);
            pair.client.session.monitor(process, process.into(), 0);
            pair.server.session.monitor(process, process.into(), 0);
        }
        pair.client.session.unlink(&10, 0, 1);
        pair.settle();
        ending(&mut pair);
        pair.settle();
        for call in &asked[1..] {
            assert!(matches!(pair.client.outcome(*call), Some(Err(_))), "ending {seed}");
            assert_eq!(pair.client.outcome(*call), None, "one ending");
        }
        assert!(matches!(pair.client.session.poll_cast(cast, |_| 0), Some(Err(_))));
        assert!(pair.client.session.poll_flushed(number, || 77).is_some());
        for end in [&mut pair.client, &mut pair.server] {
            assert!(end.session.over().is_some());
            assert_eq!(end.session.entries(), 0, "ending {seed}");
            assert_eq!(end.session.poll_timeout(), None);
        }
    }
}

#[test]
fn call_sent_before_ended_is_not_unsent() {
    let mut pair = Pair::open(1);
    let call = call(&mut pair, b"on its way");
    pair.client.session.break_off(ExitReason::Revoked);
    assert_eq!(pair.client.outcome(call), gone(Executed::Unknown, ExitReason::Revoked));
    pair.settle();
    assert_eq!(pair.server.take().len(), 1);
}

#[test]
fn writes_nothing_after_silence() {
    let mut pair = Pair::open(1);
    pair.client.room = 10;
    let fetched = call(&mut pair, b"only a part of it goes before the silence");
    pair.settle();
    let waits = call(&mut pair, b"not even fetched");
    pair.cut = true;
    pair.advance(MINUTE);
    for call in [fetched, waits] {
        assert_eq!(pair.client.outcome(call), gone(Executed::No, ExitReason::NoConnection));
    }
    assert!(pair.client.session.is_lost());
    // The way is free again, too late.
    (pair.cut, pair.client.room) = (false, usize::MAX);
    pair.settle();
    assert!(pair.server.take().is_empty());
    assert_eq!(pair.client.session.over(), Some(&ExitReason::NoConnection));
}

const GRANTED: u64 = 60_000;

fn granted() -> Granted {
    Granted { window: GRANTED, id: SessionId::new([5; 16]), secret: Secret::new([6; 32]) }
}

/// A client that has ended a session that it can resume, and has lost the connection. `Ended` is frame 3.
fn closing_client() -> Lone {
    let mut lone = Lone::new(Side::Client, &Limits::default());
    let resume = Duration::from_millis(GRANTED);
    lone.session.start(&OpenRequest { resume, ..OpenRequest::new(Codec::Raw, b"") }).unwrap();
    lone.feed(&Frame::Started { terms: TERMS, resume: Some(Box::new(granted())) });
    assert_eq!(lone.session.cast(lone.now, &mut b"last".to_vec()), Ok(None));
    lone.session.end(ExitReason::Normal, 1, None);
    lone.frames();
    lone.session.handle_loss(lone.now);
    lone.session.resume(lone.now, &Exporter::new(Secret::new([1; 32]))).unwrap();
    lone.frames();
    lone
}

#[test]
fn record_of_lost_answer_confirms_close() {
    for (received, reason, told) in [
        (3, ExitReason::NoConnection, ExitReason::Normal),
        // The window was over before the `Ended` came.
        (2, ExitReason::NoConnection, ExitReason::NoConnection),
        (3, ExitReason::Shutdown, ExitReason::Shutdown),
    ] {
        let mut lone = closing_client();
        lone.feed(&Frame::Lost { tombstone: Some(Tombstone { received, taken: received, reason }) });
        assert_eq!(lone.ended(), Some(&told), "{received}");
    }
}

#[test]
fn server_keeps_record_unless_client_has_answered() {
    let server = || {
        let mut lone = Lone::new(Side::Server, &Limits::default());
        let Frame::Start { codec, terms, max_frame_len, window_len, args, .. } = start() else { panic!() };
        lone.feed(&Frame::Start {
            codec,
            terms,
            max_frame_len,
            window_len,
            resume: GRANTED,
            interface: None,
            args,
        });
        lone.session.take_request().unwrap();
        lone.session.grant(granted());
        lone.session.accept(Some(1), false);
        lone.frames();
        lone.feed(&Frame::Ack { number: 1 });
        lone
    };
    let ended = |taken, reason| Frame::Ended { taken, reason };
    let mut client_first = server();
    client_first.feed(&ended(1, ExitReason::failed("x")));
    let answer = Tombstone { received: 2, taken: 2, reason: ExitReason::NoConnection };
    assert_eq!(client_first.session.tombstone(), Some(answer));

    let mut server_first = server();
    server_first.session.end(ExitReason::Normal, 1, None);
    server_first.frames();
    server_first.feed(&ended(2, ExitReason::NoConnection));
    assert_eq!(server_first.session.tombstone(), None);

    let mut crossing = server();
    crossing.session.end(ExitReason::Normal, 1, None);
    crossing.frames();
    crossing.feed(&ended(1, ExitReason::failed("x")));
    let said = Tombstone { received: 2, taken: 1, reason: ExitReason::Normal };
    assert_eq!(crossing.session.tombstone(), Some(said));
}
