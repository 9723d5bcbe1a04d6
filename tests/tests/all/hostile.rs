//! Clients that have proved themselves and then break the protocol, frame by frame: each is shown out with the reason
//! that `PROTOCOL.md` has for it, and nobody else notices.

use bytes::Bytes;
use chan_server::modules::Modules;
use chan_tests::{Embedded, PATIENCE};
use lib_chan::{
    Channel, ExitReason, Opaque, Process,
    payload::Codec,
    wire::{Frame, LEN_LEN, RefuseCode, Terms},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

const ANY: &[Codec] = &[Codec::Bincode, Codec::Json, Codec::Raw];
const TERMS: Terms = Terms { max_calls: 1024, max_links: 1024, max_handles: 0 };

/// `echo`, and `stuck`, which traps exits and takes nothing of what comes.
fn server() -> Embedded {
    let modules = Modules::new()
        .function_for(ANY, "test", "stuck", |me: Process, chan: Channel<u32>, (): (), (): ()| async move {
            me.trap_exit(true);
            let _unread = chan;
            std::future::pending().await
        })
        .function_for(ANY, "test", "typed", |_: Process, mut chan: Channel<u32>, (): (), (): ()| async move {
            while chan.recv().await.is_some() {}
            Ok(())
        })
        .function_for(
            ANY,
            "test",
            "echo",
            |_: Process, mut chan: Channel<Opaque>, (): (), (): ()| async move {
                while let Some(message) = chan.recv().await {
                    if let lib_chan::Message::Call(asked, reply) = message {
                        reply.to(&asked).send(asked);
                    }
                }
                Ok(())
            },
        );
    Embedded::start(modules, &["stuck", "typed", "echo"], "")
}

fn bytes(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        frame.put(&mut bytes);
    }
    bytes
}

fn start() -> Frame<'static> {
    Frame::Start {
        codec: Codec::Json.code(),
        terms: TERMS,
        max_frame_len: 1 << 20,
        window_len: 1 << 20,
        resume: 0,
        interface: None,
        args: b"null",
    }
}

/// The next frame, without its length; nothing at the end.
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut len = [0; LEN_LEN];
    stream.read_exact(&mut len).await.ok()?;
    let mut body = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

/// The next frame that the server sends, as far as this looks into it: whether it is a `Started`, or why it ended.
async fn next(stream: &mut TlsStream<TcpStream>) -> Option<Result<bool, ExitReason>> {
    let body = frame(stream).await?;
    Some(match Frame::parse(&body).expect("the server's frames are good") {
        Frame::Ended { reason, .. } => Err(reason),
        frame => Ok(matches!(frame, Frame::Started { .. })),
    })
}

/// Sends these bytes to a service, after a session was opened or as the first thing, and gives why the server ended it.
async fn attack(server: &Embedded, service: &str, opened: bool, bytes: &[u8]) -> ExitReason {
    let ended = async {
        let (mut stream, _) = server.login(service).await.expect("a login");
        if opened {
            stream.write_all(&self::bytes(&[start()])).await.unwrap();
            while next(&mut stream).await != Some(Ok(true)) {}
        }
        // A server that has seen enough need not take the rest.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
        loop {
            match next(&mut stream).await {
                Some(Ok(_)) => {}
                Some(Err(reason)) => return reason,
                None => panic!("closed without a word"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("the server ends it")
}

#[tokio::test]
async fn draining_server_refuses_new_starts() {
    let mut server = server();
    let (mut open, _) = server.login("echo").await.unwrap();
    open.write_all(&bytes(&[start()])).await.unwrap();
    while next(&mut open).await != Some(Ok(true)) {}
    let (mut late, _) = server.login("echo").await.unwrap();
    let drained = server.drain();
    let body = frame(&mut open).await.unwrap();
    assert_eq!(Frame::parse(&body).unwrap(), Frame::GoAway);
    late.write_all(&bytes(&[start()])).await.unwrap();
    let body = frame(&mut late).await.unwrap();
    let text = "the server is going away";
    assert_eq!(Frame::parse(&body).unwrap(), Frame::Refuse { call: 0, code: RefuseCode::Refused, text });
    // The one that is open goes on, to its own end.
    let ask = Frame::Call { to: 0, call: 1, left: 10_000, payload: b"1" };
    open.write_all(&bytes(&[ask])).await.unwrap();
    let body = frame(&mut open).await.unwrap();
    assert_eq!(Frame::parse(&body).unwrap(), Frame::Reply { call: 1, payload: b"1" });
    open.write_all(&bytes(&[Frame::Ended { taken: 0, reason: ExitReason::Normal }])).await.unwrap();
    tokio::time::timeout(PATIENCE, drained).await.unwrap().unwrap();
}

/// One of each kind that is none of a client's first words.
fn anything_else() -> Vec<Frame<'static>> {
    let reason = ExitReason::Normal;
    vec![
        Frame::Started { terms: TERMS, resume: None },
        Frame::Cast { to: 0, payload: b"1" },
        Frame::Call { to: 0, call: 1, left: 1000, payload: b"1" },
        Frame::Cancel { call: 1 },
        Frame::Reply { call: 1, payload: b"1" },
        Frame::Refuse { call: 0, code: RefuseCode::Refused, text: "no" },
        Frame::Exit { from: 1, to: 0, taken: None, reason: reason.clone() },
        Frame::Link { from: 1, to: 0 },
        Frame::Unlink { from: 1, to: 0, unlink: 1 },
        Frame::UnlinkAck { from: 1, to: 0, unlink: 1 },
        Frame::Monitor { monitor: 1, to: 0 },
        Frame::Demonitor { monitor: 1 },
        Frame::Down { monitor: 1, taken: 0, reason },
        Frame::GoAway,
        Frame::Credit { id: 0, total: 1 },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn breach_of_protocol_ends_that_session_only() {
    let server = server();
    let honest: Channel<Opaque> = server.open("echo").await;
    for frame in anything_else() {
        let reason = attack(&server, "typed", false, &bytes(std::slice::from_ref(&frame))).await;
        assert_eq!(reason, ExitReason::Protocol, "{frame:?} before the start");
    }
    let refusal = |call| Frame::Refuse { call, code: RefuseCode::Refused, text: "no" };
    let call = |call| Frame::Call { to: 0, call, left: 60_000, payload: b"1" };
    let frames: [&[Frame<'_>]; 13] = [
        &[start()],
        &[Frame::Started { terms: TERMS, resume: None }],
        &[refusal(0)],
        &[refusal(1)],
        &[Frame::Reply { call: 1, payload: b"1" }],
        &[Frame::Cancel { call: 1 }],
        &[call(0)],
        &[call(1), call(1)],
        &[call(2), call(1)],
        &[Frame::Demonitor { monitor: 1 }],
        &[Frame::Monitor { monitor: 1, to: 0 }, Frame::Monitor { monitor: 1, to: 0 }],
        &[Frame::Ack { number: 99 }],
        &[Frame::Ended { taken: 99, reason: ExitReason::Normal }],
    ];
    for frames in frames {
        let reason = attack(&server, "typed", true, &bytes(frames)).await;
        assert_eq!(reason, ExitReason::Protocol, "{frames:?}");
    }
    let cast = bytes(&[Frame::Cast { to: 0, payload: b"no number" }]);
    let reason = attack(&server, "typed", true, &cast).await;
    assert!(reason.text().starts_with("a cast cannot be decoded: "), "{reason}");
    let raw: [&[u8]; 7] = [
        &[0, 0, 0, 0],
        &[0, 0, 0, 1, 0x3f],
        &[0, 0, 0, 1, 0x7f],
        &[0xff, 0xff, 0xff, 0xff],
        // A number that is not in its shortest form, one that is too large, and one that is missing.
        &[0, 0, 0, 3, 0x42, 0x80, 0x00],
        &[0, 0, 0, 12, 0x42, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[0, 0, 0, 1, 0x42],
    ];
    for raw in raw {
        assert_eq!(attack(&server, "typed", true, raw).await, ExitReason::Protocol, "{raw:?}");
    }
    let asked = Opaque(Bytes::from_static(b"1"));
    assert_eq!(honest.remote().call(asked.clone()).await, Ok(asked));
    honest.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_flood_ends_that_session_alone_with_overload() {
    let server = server();
    let honest: Channel<Opaque> = server.open("echo").await;
    let over_and_over = |frames: &[Frame<'_>], times: usize| bytes(frames).repeat(times);
    let numbered = |make: fn(u64) -> Frame<'static>, times| bytes(&(1..=times).map(make).collect::<Vec<_>>());
    let exit = |taken| Frame::Exit { from: 1, to: 0, taken, reason: ExitReason::failed("x") };
    let cancelled = (1..=1010)
        .flat_map(|call| [Frame::Call { to: 9, call, left: 1000, payload: b"" }, Frame::Cancel { call }]);
    let floods = [
        ("exits", over_and_over(&[exit(None)], 50_000)),
        ("ends of links", over_and_over(&[Frame::Link { from: 1, to: 0 }, exit(Some(0))], 50_000)),
        ("links", numbered(|from| Frame::Link { from, to: 0 }, 1025)),
        ("monitors", numbered(|monitor| Frame::Monitor { monitor, to: 0 }, 1025)),
        ("pings", over_and_over(&[Frame::Ping { token: 0 }], 1_500_000)),
        ("calls", numbered(|call| Frame::Call { to: 0, call, left: 60_000, payload: b"1" }, 1025)),
        ("casts", over_and_over(&[Frame::Cast { to: 0, payload: b"1" }], 5000)),
        ("cancels", bytes(&cancelled.collect::<Vec<_>>())),
    ];
    for (what, flood) in floods {
        assert_eq!(attack(&server, "stuck", true, &flood).await, ExitReason::Overload, "{what}");
    }
    let asked = Opaque(Bytes::from_static(b"1"));
    assert_eq!(honest.remote().call(asked.clone()).await, Ok(asked));
    honest.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tolerates_idle_clients() {
    let server = server();
    let (mut stream, _) = server.login("echo").await.expect("a login");
    stream.write_all(&bytes(&[start()])).await.unwrap();
    while next(&mut stream).await != Some(Ok(true)) {}
    let reason = ExitReason::failed("x");
    let nothing = [
        Frame::Ack { number: 0 },
        Frame::Pong { token: 7 },
        Frame::Credit { id: 0, total: 0 },
        Frame::Credit { id: 77, total: u64::MAX },
        Frame::Credit { id: 0, total: u64::MAX },
        Frame::Cast { to: u64::MAX, payload: b"nobody" },
        Frame::UnlinkAck { from: 5, to: 0, unlink: 9 },
        Frame::Down { monitor: 9, taken: u64::MAX, reason: reason.clone() },
        Frame::Exit { from: 9, to: 0, taken: Some(u64::MAX), reason },
        Frame::GoAway,
    ];
    let many = bytes(&nothing).repeat(20_000);
    let (mut reader, mut writer) = tokio::io::split(stream);
    let answered = tokio::spawn(async move {
        while let Some(body) = frame(&mut reader).await {
            if Frame::parse(&body) == Ok(Frame::Reply { call: u64::MAX, payload: b"1" }) {
                return true;
            }
        }
        false
    });
    tokio::time::timeout(PATIENCE, writer.write_all(&many)).await.unwrap().unwrap();
    let call = Frame::Call { to: 0, call: u64::MAX, left: u64::MAX, payload: b"1" };
    writer.write_all(&bytes(&[call])).await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, answered).await.unwrap().unwrap(), "the session goes on");
}
