use std::time::Duration;

use super::{
    lone::{Lone, TERMS, start},
    pair::Pair,
};
use crate::{
    ExitReason, Limits,
    auth::{Exporter, ResumeClaim, SessionId},
    handshake::Side,
    payload::Codec,
    secret::Secret,
    session::{NotOpened, OpenRequest, Request, StartRefused, early_start},
    wire::{Frame, Granted, RefuseCode, Terms},
};

fn every_kind() -> Vec<Frame<'static>> {
    let reason = ExitReason::Shutdown;
    vec![
        start(),
        Frame::Started { terms: TERMS, resume: None },
        Frame::Cast { to: 0, payload: b"" },
        Frame::Call { to: 0, call: 1, left: 1000, payload: b"" },
        Frame::Cancel { call: 1 },
        Frame::Reply { call: 1, payload: b"" },
        Frame::Refuse { call: 0, code: RefuseCode::Refused, text: "" },
        Frame::Refuse { call: 1, code: RefuseCode::Refused, text: "" },
        Frame::Exit { from: 1, to: 0, taken: None, reason: reason.clone() },
        Frame::Ended { taken: 0, reason: reason.clone() },
        Frame::Link { from: 1, to: 0 },
        Frame::Unlink { from: 1, to: 0, unlink: 1 },
        Frame::UnlinkAck { from: 1, to: 0, unlink: 1 },
        Frame::Monitor { monitor: 1, to: 0 },
        Frame::Demonitor { monitor: 1 },
        Frame::Down { monitor: 1, taken: 0, reason },
        Frame::GoAway,
        Frame::Credit { id: 0, total: 1 },
        Frame::Ack { number: 0 },
        Frame::Ping { token: 1 },
        Frame::Pong { token: 1 },
        Frame::Resume {
            claim: ResumeClaim { id: SessionId::new([0; 16]), epoch: 2, received: 1, sent: 1 },
            proof: &[0; 32],
        },
        Frame::Resumed { received: 1, sent: 1 },
        Frame::Lost { tombstone: None },
    ]
}

/// What may come in each state, beside what always may: `Ended` and the heartbeat.
#[test]
fn frame_out_of_phase_ends_protocol() {
    type State = (&'static str, fn() -> Lone, fn(&Frame<'_>) -> bool);
    let states: [State; 5] = [
        (
            "server, before Start",
            || Lone::new(Side::Server, &Limits::default()),
            |frame| matches!(frame, Frame::Start { .. }),
        ),
        (
            "server, before its answer",
            || {
                let mut lone = Lone::new(Side::Server, &Limits::default());
                lone.feed(&start());
                lone
            },
            |frame| matches!(frame, Frame::Cast { to: 0, .. }),
        ),
        ("client, before Start", || Lone::new(Side::Client, &Limits::default()), |_| false),
        (
            "client, before the answer",
            || {
                let mut lone = Lone::new(Side::Client, &Limits::default());
                lone.session.start(&OpenRequest::new(Codec::Raw, b"")).unwrap();
                lone
            },
            |frame| matches!(frame, Frame::Started { .. } | Frame::Refuse { call: 0, .. }),
        ),
        (
            "open",
            || Lone::open(Side::Server),
            |frame| {
                !matches!(
                    frame,
                    Frame::Start { .. }
                    | Frame::Started { .. }
                    // There is nothing to resume.
                    | Frame::Resume { .. }
                    | Frame::Resumed { .. }
                    | Frame::Lost { .. }
                    // No call has been made or come in.
                    | Frame::Refuse { .. }
                    | Frame::Reply { .. }
                    | Frame::Cancel { .. }
                    | Frame::Demonitor { .. }
                )
            },
        ),
    ];
    for (state, make, allowed) in states {
        for frame in every_kind() {
            let mut lone = make();
            lone.frames();
            let request = lone.session.take_request();
            lone.feed(&frame);
            let always = matches!(
                frame,
                Frame::Ended { .. } | Frame::Ack { .. } | Frame::Ping { .. } | Frame::Pong { .. }
            );
            if always || allowed(&frame) {
                assert_ne!(lone.ended(), Some(&ExitReason::Protocol), "{state}: {frame:?}");
                continue;
            }
            assert_eq!(lone.ended(), Some(&ExitReason::Protocol), "{state}: {frame:?}");
            assert!(!lone.session.has_inbox());
            assert_eq!(lone.session.take_deliveries(), []);
            assert_eq!(lone.session.take_request(), None);
            let ended = lone.frames();
            assert!(
                matches!(ended[..], [Frame::Ended { reason: ExitReason::Protocol, .. }]),
                "{state}: {frame:?}: {ended:?} {request:?}"
            );
            assert_eq!(lone.session.entries(), 0);
        }
    }
}

#[test]
fn resume_that_nobody_asked_for_ends_protocol() {
    let mut lone = Lone::new(Side::Client, &Limits::default());
    lone.session.start(&OpenRequest::new(Codec::Raw, b"")).unwrap();
    let granted = Granted { window: 1, id: SessionId::new([0; 16]), secret: Secret::new([0; 32]) };
    lone.feed(&Frame::Started { terms: TERMS, resume: Some(Box::new(granted)) });
    assert_eq!(lone.ended(), Some(&ExitReason::Protocol));
}

#[test]
fn session_opens_with_terms_of_client() {
    let mut pair = Pair::new(1, &Limits::default(), &Limits::default());
    assert_eq!(pair.client.session.poll_open(), None);
    let request = pair.start(b"args");
    assert_eq!(
        request,
        Request { codec: Codec::Raw, args: b"args"[..].into(), resume: Duration::ZERO, interface: None }
    );
    assert_eq!(pair.server.session.take_request(), None);
    pair.server.session.accept(Some(1), true);
    pair.settle();
    assert_eq!(pair.client.session.poll_open(), Some(Ok(())));
    assert!(pair.client.session.is_open() && pair.server.session.is_open());
}

#[test]
fn casts_behind_start_wait_for_the_service() {
    for accepted in [true, false] {
        let mut pair = Pair::new(1, &Limits::default(), &Limits::default());
        pair.client.session.start(&OpenRequest::new(Codec::Raw, b"")).unwrap();
        assert_eq!(pair.client.session.cast(pair.now, &mut b"early".to_vec()), Ok(None));
        pair.settle();
        assert!(pair.server.session.has_inbox() && !pair.server.session.is_open());
        if accepted {
            pair.server.session.accept(Some(1), false);
        } else {
            pair.server.session.refuse_start(RefuseCode::Refused, "no");
        }
        pair.settle();
        assert_eq!(pair.client.session.is_open(), accepted);
        assert_eq!(pair.client.session.over().is_some(), !accepted);
    }
}

const WINDOW: Duration = Duration::from_secs(60);

/// A client that asks for resume, with a cast behind its `Start`.
fn asking_client() -> Lone {
    let mut lone = Lone::new(Side::Client, &Limits::default());
    let request = OpenRequest { resume: WINDOW, ..OpenRequest::new(Codec::Raw, b"args") };
    lone.session.start(&request).unwrap();
    assert_eq!(lone.session.cast(lone.now, &mut b"early".to_vec()), Ok(None));
    lone
}

#[test]
fn cast_goes_with_login_that_asks_for_resume() {
    let limits = Limits::default();
    let request = OpenRequest { resume: WINDOW, ..OpenRequest::new(Codec::Raw, b"args") };
    let early = early_start(&limits, &OpenRequest { first: Some(b"early"), ..request }).unwrap();
    let mut lone = asking_client();
    assert!(lone.session.was_sent(lone.now, &early));
    assert_eq!(lone.frames(), []);
    let other = early_start(&limits, &request).unwrap();
    let mut lone = asking_client();
    assert!(!lone.session.was_sent(lone.now, &other));
}

#[test]
fn cast_behind_start_is_kept_until_acknowledged() {
    let cast = Frame::Cast { to: 0, payload: b"early" };
    for received in [1, 2] {
        let mut lone = asking_client();
        assert_eq!(lone.frames()[1], cast);
        let granted = Granted { window: 1000, id: SessionId::new([0; 16]), secret: Secret::new([0; 32]) };
        lone.feed(&Frame::Started { terms: TERMS, resume: Some(Box::new(granted)) });
        lone.frames();
        lone.session.handle_loss(lone.now);
        lone.session.resume(lone.now, &Exporter::new(Secret::new([1; 32]))).unwrap();
        lone.frames();
        lone.feed(&Frame::Resumed { received, sent: 1 });
        // The frames of the connection go first.
        let sent = [lone.frames(), lone.frames()].concat();
        assert_eq!(sent.contains(&cast), received == 1, "{sent:?}");
        assert_eq!(lone.ended(), None);
    }
}

#[test]
fn nothing_is_kept_once_resume_is_not_granted() {
    let mut lone = asking_client();
    lone.feed(&Frame::Started { terms: TERMS, resume: None });
    lone.frames();
    assert_eq!((lone.session.outgoing.held(), lone.session.is_resumable()), (0, false));
    lone.session.handle_loss(lone.now);
    assert_eq!(lone.ended(), Some(&ExitReason::NoConnection));
}

#[test]
fn refusal_names_kind_and_leaves_nothing() {
    let mut pair = Pair::new(1, &Limits::default(), &Limits::default());
    pair.start(b"");
    pair.server.session.refuse_start(RefuseCode::Codec, "json only");
    pair.settle();
    let refused = StartRefused { code: RefuseCode::Codec, text: "json only".into() };
    assert_eq!(pair.client.session.poll_open(), Some(Err(NotOpened::Refused(refused))));
    for end in [&pair.client, &pair.server] {
        assert_eq!(end.session.over(), Some(&ExitReason::Normal));
        assert_eq!((end.session.entries(), end.session.poll_timeout()), (0, None));
    }
    pair.server.session.accept(Some(1), true);
    assert!(!pair.server.session.has_output(), "it is too late to accept");
}

#[test]
fn refuses_unknown_codec_by_name() {
    let mut lone = Lone::new(Side::Server, &Limits::default());
    lone.feed(&Frame::Start {
        codec: 99,
        terms: TERMS,
        max_frame_len: 1 << 20,
        window_len: 1 << 18,
        resume: 0,
        interface: None,
        args: b"",
    });
    assert_eq!(lone.session.take_request(), None);
    let sent = lone.frames();
    assert!(matches!(sent[0], Frame::Refuse { call: 0, code: RefuseCode::Codec, .. }), "{sent:?}");
    assert_eq!(lone.ended(), Some(&ExitReason::Normal));
}

#[test]
fn start_with_limits_out_of_bounds_ends_protocol() {
    for (max_frame_len, window_len) in [(1023, 1 << 18), ((16 << 20) + 1, 1 << 18), (1024, (64 << 10) - 1)] {
        let mut lone = Lone::new(Side::Server, &Limits::default());
        lone.feed(&Frame::Start {
            codec: 1,
            terms: TERMS,
            max_frame_len,
            window_len,
            resume: 0,
            interface: None,
            args: b"",
        });
        assert_eq!(lone.ended(), Some(&ExitReason::Protocol));
    }
    let mut lone = Lone::new(Side::Server, &Limits::default());
    let terms = Terms { max_calls: u64::MAX, max_links: u64::MAX, max_handles: 0 };
    lone.feed(&Frame::Start {
        codec: 1,
        terms,
        max_frame_len: 1024,
        window_len: u64::MAX,
        resume: 0,
        interface: None,
        args: b"",
    });
    assert_eq!(lone.ended(), None);
}

#[test]
fn gives_up_client_without_start() {
    let limits = Limits::default();
    let mut lone = Lone::new(Side::Server, &limits);
    // It lives, and that is all.
    lone.wait(limits.login_timeout / 2);
    lone.feed(&Frame::Pong { token: 0 });
    assert_eq!(lone.ended(), None);
    lone.wait(limits.login_timeout / 2);
    assert_eq!(lone.ended(), Some(&ExitReason::NoConnection));
}

#[test]
fn an_opening_that_ends_early_says_why() {
    let end: [fn(&mut Pair); 3] = [
        |pair| pair.server.session.end(ExitReason::GoingAway, 0, None),
        Pair::lose,
        |pair| pair.client.session.end(ExitReason::Normal, 0, None),
    ];
    for (end, reason) in
        end.into_iter().zip([ExitReason::GoingAway, ExitReason::NoConnection, ExitReason::Normal])
    {
        let mut pair = Pair::new(3, &Limits::default(), &Limits::default());
        pair.start(b"");
        end(&mut pair);
        pair.settle();
        assert_eq!(pair.client.session.poll_open(), Some(Err(NotOpened::Ended(reason))));
        assert!(pair.server.session.over().is_some());
    }
}

#[test]
fn calls_before_the_opening_wait_for_it() {
    let mut pair = Pair::new(4, &Limits::default(), &Limits::default());
    let now = pair.now;
    pair.start(b"");
    let deadline = now + Limits::default().call_timeout;
    pair.client.session.call(now, deadline, &mut b"one".to_vec()).unwrap();
    let call = pair.server.session.call(now, deadline, &mut b"two".to_vec()).unwrap();
    pair.settle();
    assert!(!pair.server.session.has_inbox());
    pair.server.session.accept(None, false);
    pair.settle();
    assert_eq!(pair.server.take()[0].payload, &b"one"[..]);
    assert_eq!(pair.client.take()[0].payload, &b"two"[..]);
    pair.client.session.reply(call, &mut Vec::new());
    pair.settle();
    assert_eq!(pair.server.outcome(call), Some(Ok(Default::default())));
}

#[test]
fn arguments_may_fill_a_frame_and_no_more() {
    let mut lone = Lone::new(Side::Client, &Limits::default());
    let max = lone.session.max_payload_len();
    let too_long = lone.session.start(&OpenRequest::new(Codec::Raw, &vec![0; max + 1]));
    assert_eq!(too_long, Err(crate::session::Unsendable::TooLong { max }));
    assert_eq!(lone.frames(), []);
    lone.session.start(&OpenRequest::new(Codec::Raw, &vec![0; max])).unwrap();
    assert_eq!(lone.frames().len(), 1);
}
