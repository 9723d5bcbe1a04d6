//! What strangers and members try, over real TCP. Attackers come from 127.0.0.2, honest clients from 127.0.0.1.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use chan_server::modules::{Modules, echo};
use chan_tests::{Embedded, PATIENCE, Proxy, available, port_of, run};
use lib_chan::{
    Call, CallFailure, CastError, Channel, Executed, Limits, Message, Opaque, Process,
    payload::Codec,
    tls::{PinVerifier, client_config},
    wire::{Frame, Terms},
};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_rustls::TlsConnector;

fn echo_with(limits: &str) -> Embedded {
    let any = &[Codec::Bincode, Codec::Json, Codec::Raw];
    let modules =
        Modules::new().function_for(any, "test", "echo", |me, chan, (): (), (): ()| echo::start(me, chan));
    Embedded::start(modules, &["echo"], limits)
}

/// A connection from the source of the attackers.
async fn attack(server: &Embedded) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port_of(&server.url("echo"))));
    socket.connect(address).await.unwrap()
}

/// Reads until the server closes: what it sent.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    bytes
}

async fn honest_client_is_served(server: &Embedded) {
    let chan: Channel<Opaque> = server.open("echo").await;
    let hello = Opaque(Bytes::from_static(b"hello"));
    assert_eq!(chan.remote().call(hello.clone()).await, Ok(hello));
    chan.close().await.unwrap();
}

/// Waits for so many failed logins in the log, which is written a moment after the connection was cut.
fn fails(server: &Embedded, times: usize) {
    server.log.wait_for("failed logins", |lines| {
        lines.iter().filter(|line| line.contains("login_failed")).count() == times
    });
}

#[tokio::test]
async fn cuts_dripping_login_at_deadline() {
    // Ten places of sixteen are half of them, so the server is under load.
    let server = echo_with("tls_timeout = '500 ms'\nlogin_timeout = '700 ms'\nmax_logins_before_drop = 16");
    let mut dripping = JoinSet::new();
    for _ in 0..10 {
        let mut stream = attack(&server).await;
        dripping.spawn(async move {
            let mut drip = interval(Duration::from_millis(50));
            // The header of a TLS record of 512 bytes, and then one byte after the other.
            let hello = [22, 3, 1, 2, 0].into_iter().chain(std::iter::repeat(1));
            for byte in hello.take(512) {
                drip.tick().await;
                if stream.write_all(&[byte]).await.is_err() {
                    return true;
                }
            }
            false
        });
    }
    honest_client_is_served(&server).await;
    while let Some(cut) = dripping.join_next().await {
        assert!(cut.unwrap(), "nobody cut it");
    }
    fails(&server, 10);
    // By now that source has its penalty; others have none.
    assert!(rest(&mut attack(&server).await).await.is_empty());
    server.log.wait("the penalty", |line| line.contains("turned") && line.contains("127.0.0.2"));
    honest_client_is_served(&server).await;
}

#[tokio::test]
async fn source_holds_sixteen_places_when_scarce() {
    let server = echo_with("max_logins_before_drop = 32");
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(attack(&server).await);
    }
    assert!(rest(&mut attack(&server).await).await.is_empty());
    server.log.wait("the cause", |line| {
        line.contains("too many logins at once from this source (max_logins_per_source)")
    });
    honest_client_is_served(&server).await;
}

#[tokio::test]
async fn source_borrows_at_most_half_of_places() {
    let server = echo_with("");
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(attack(&server).await);
    }
    assert!(rest(&mut attack(&server).await).await.is_empty());
    honest_client_is_served(&server).await;
}

#[tokio::test]
async fn garbage_gets_no_answer_that_tells_anything() {
    let server = echo_with("");
    let noise: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    // Fewer than would be penalised.
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &noise, b"\x16\x03\x01\x00\x02\x01\x00", b"\x00"] {
        let mut stream = attack(&server).await;
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = rest(&mut stream).await;
        // At most a TLS alert.
        assert!(answer.is_empty() || (answer[0] == 21 && answer.len() <= 16), "{answer:?}");
    }
    server.log.wait_for("four failures", |lines| {
        lines.iter().filter(|line| line.contains("login_failed") && line.contains("TLS")).count() == 4
    });
    honest_client_is_served(&server).await;
}

/// TLS with the server, and these protocols offered.
async fn tls(
    server: &Embedded,
    protocols: &[&[u8]],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let url: chan_client::url::ChanUrl = server.url("echo").parse().unwrap();
    let chan_client::trust::Trust::Pin(pins) = url.trust().clone() else { panic!("it pins") };
    let mut config = Arc::unwrap_or_clone(client_config(Arc::new(PinVerifier::new(pins))).unwrap());
    config.alpn_protocols = protocols.iter().map(|&protocol| protocol.into()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, attack(server).await).await
}

#[tokio::test]
async fn tls_without_our_protocol_gets_no_login() {
    let server = echo_with("");
    // rustls lets a client without any protocol through, so that is for the server to look at.
    let mut stream = tls(&server, &[]).await.unwrap();
    assert!(rest(&mut stream).await.is_empty());
    let other = match tls(&server, &[b"h2"]).await {
        Ok(mut stream) => stream.write_all(b"PRI * HTTP/2.0\r\n\r\n").await.err(),
        Err(error) => Some(error),
    };
    assert!(other.is_some(), "the handshake fails");
    server.log.wait_for("two failures", |lines| {
        lines.iter().filter(|line| line.contains("login_failed") && line.contains("TLS")).count() == 2
    });
    honest_client_is_served(&server).await;
}

#[tokio::test]
async fn closes_garbage_login_silently() {
    let server = echo_with("");
    // Three failures would be penalised.
    for garbage in [[0xff; 200].as_slice(), b"\x00\x04chan"] {
        let mut stream = tls(&server, &[b"lib-chan/1"]).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(rest(&mut stream).await.is_empty());
    }
    honest_client_is_served(&server).await;
}

#[test]
fn tls_1_2_is_refused() {
    if !available("openssl") {
        return;
    }
    let server = echo_with("");
    let address = format!("127.0.0.1:{}", port_of(&server.url("echo")));
    let handshake = |version: &str| {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["s_client", "-connect", &address, "-alpn", "lib-chan/1", version]);
        run(openssl.stdin(std::process::Stdio::null())).1
    };
    assert!(handshake("-tls1_3").contains("New, TLSv1.3"), "the way there is right");
    let refused = handshake("-tls1_2");
    assert!(refused.contains("Cipher is (NONE)"), "{refused}");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Blob(Vec<u8>);

impl Call for Blob {
    type Reply = Self;
}

#[tokio::test]
async fn refuses_ten_megabytes_and_session_continues() {
    let server = echo_with("");
    let chan: Channel<Blob> = server.open("echo").await;
    let remote = chan.remote();
    let error = remote.call(Blob(vec![0; 10 << 20])).await.unwrap_err();
    assert_eq!(error.executed, Executed::No);
    assert!(matches!(error.reason, CallFailure::TooLong { max } if max <= 1 << 20), "{error}");
    let cast = remote.cast(Blob(vec![0; 10 << 20])).await.unwrap_err();
    assert!(matches!(cast, CastError::TooLong { max } if max <= 1 << 20), "{cast}");
    // What fits just so goes both ways.
    let large = Blob(vec![7; (1 << 20) - 100]);
    assert_eq!(remote.call(large.clone()).await, Ok(large));
    chan.close().await.unwrap();
}

#[tokio::test]
async fn ends_session_with_too_long_frame() {
    let server = echo_with("");
    for garbage in [&u32::to_be_bytes(10 << 20)[..], &[0, 0, 0, 1, 0x3f], &[0, 0, 0, 0], &[0xff; 64]] {
        let (mut stream, _proof) = server.login("echo").await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let last_words = rest(&mut stream).await;
        // `Ended protocol`, and nothing of any service.
        assert!(last_words.len() < 64, "{last_words:?}");
    }
    server.log.wait_for("four ends", |lines| {
        lines.iter().filter(|line| line.contains("\"reason\":\"protocol\"")).count() == 4
    });
    assert!(!server.log.all().iter().any(|line| line.contains("session_started")));
    honest_client_is_served(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_64_tasks_get_own_answers() {
    let server = echo_with("");
    let chan: Channel<Blob> = server.open("echo").await;
    let mut tasks = JoinSet::new();
    for task in 0..64_u8 {
        for call in 0..4_u8 {
            let remote = chan.remote();
            tasks.spawn(async move {
                let blob = Blob([task, call].repeat(1 + usize::from(task) * 40));
                assert_eq!(remote.call(blob.clone()).await, Ok(blob));
                (task, call)
            });
        }
    }
    let done: HashSet<_> = tasks.join_all().await.into_iter().collect();
    assert_eq!(done.len(), 256);
    chan.close().await.unwrap();
}

/// A server whose service never reads.
fn stuck() -> Embedded {
    let modules = Modules::new().function_for(
        &[Codec::Bincode, Codec::Raw],
        "test",
        "stuck",
        |mut me: Process, chan: Channel<Opaque>, (): (), (): ()| async move {
            me.recv().await;
            drop(chan);
            Ok(())
        },
    );
    Embedded::start(modules, &["stuck"], "")
}

#[tokio::test]
async fn a_client_waits_where_its_credit_ends() {
    let server = stuck();
    let chan: Channel<Opaque> = server.open("stuck").await;
    let piece = Opaque(Bytes::from(vec![0; 10_000]));
    let mut sent = 0;
    while timeout(Duration::from_millis(500), chan.remote().cast(piece.clone())).await.is_ok() {
        sent += 10_000;
        assert!(sent < 300_000, "more than the window went");
    }
    assert!(sent > 200_000, "{sent}");
}

#[tokio::test]
async fn ends_session_beyond_its_credit() {
    let server = stuck();
    let (mut stream, _proof) = server.login("stuck").await.unwrap();
    let mut frames = Vec::new();
    let terms = Terms { max_calls: 1024, max_links: 1024, max_handles: 0 };
    let (max_frame_len, window_len) = (1 << 20, 256 * 1024);
    Frame::Start {
        codec: Codec::Raw as u8,
        terms,
        max_frame_len,
        window_len,
        resume: 0,
        interface: None,
        args: b"",
    }
    .put(&mut frames);
    stream.write_all(&frames).await.unwrap();
    // `Started`.
    assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
    frames.clear();
    for _ in 0..30 {
        Frame::Cast { to: 0, payload: &[0; 10_000] }.put(&mut frames);
    }
    stream.write_all(&frames).await.unwrap();
    rest(&mut stream).await;
    server
        .log
        .wait("the end", |line| line.contains("session_ended") && line.contains("\"reason\":\"overload\""));
}

#[tokio::test]
async fn unread_answers_stop_further_calls() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let large = Opaque(Bytes::from(vec![0; 100_000]));
    let modules = Modules::new().function("test", "large", move |_me: Process, chan, (): (), (): ()| {
        let (tell, large) = (tell.clone(), large.clone());
        async move {
            let mut chan: Channel<Opaque> = chan;
            let mut answered = 0;
            while let Some(Message::Call(ask, reply)) = chan.recv().await {
                reply.to(&ask).send(large.clone());
                answered += 1;
                let _ = tell.send(answered);
            }
            Ok(())
        }
    });
    let server = Embedded::start(modules, &["large"], "");
    let proxy = Proxy::before(&server.url("large"));
    let url = proxy.url(&server.url("large"));
    let chan: Channel<Opaque> = server.open_at(&url, Limits::default(), false).await;
    proxy.hold();
    let mut asking = JoinSet::new();
    for _ in 0..1000 {
        let remote = chan.remote();
        asking.spawn(async move { remote.call(Opaque::default()).await.map(|_| ()) });
    }
    let mut answered = 0;
    // Until no more comes.
    while let Ok(Some(count)) = timeout(Duration::from_secs(2), told.recv()).await {
        answered = count;
    }
    // Of 100 MB, what the pause allows and what the system and the proxy keep on the way.
    assert!(answered > 0 && answered < 300, "{answered} answers of 100 kB");
    proxy.release();
    while let Some(answer) = asking.join_next().await {
        assert_eq!(answer.unwrap(), Ok(()));
    }
    assert_eq!(timeout(PATIENCE, chan.close()).await.unwrap(), Ok(()));
}
