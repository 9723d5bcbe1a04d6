use bytes::Bytes;
use tokio::{
    io::{BufStream, DuplexStream, duplex},
    net::TcpListener,
    sync::oneshot,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    Event, Limits, Message, Process, SpawnOptions,
    auth::{Account, AccountVerifier, Directory, Exporter, NameKey},
    channel::{open, serve},
    enter,
    handshake::{Authenticated, SessionParameters},
    login::{ClientLogin, Credential, login_server},
    payload::Codec,
    protocol::Protocol,
    secret::{PrivateKey, Secret, Target},
    spawn, spawn_with,
};

type Side = (BufStream<DuplexStream>, Authenticated);

const LAST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
const INPUT_TIMEOUT: Duration = Duration::from_secs(1);

async fn logged_in() -> (Side, Side) {
    let (near, far) = duplex(64 * 1024);
    let (mut near, mut far) = (BufStream::new(near), BufStream::new(far));
    let key = PrivateKey::from_seed(Secret::new([1; 32])).unwrap();
    let (service, client) = ("relay".parse().unwrap(), "joe".parse().unwrap());
    let target = Target { host: "here".into(), service, client };
    let account = Account {
        service: target.service.clone(),
        client: target.client.clone(),
        verifier: AccountVerifier::Key(key.public_key()),
        enabled: true,
        index: 0,
    };
    let name_key = NameKey::new(Secret::new([2; 32]));
    let (directory, _) = Directory::new(name_key, Secret::new([3; 32]), [account]).unwrap();
    let parameters = SessionParameters::from_limits(&Limits::default()).unwrap();
    let exporter = || Exporter::new(Secret::new([4; 32]));
    let login = ClientLogin::prepare(target, Credential::Key(&key)).await;
    let (client, server) = tokio::join!(
        login.run(&mut near, exporter()),
        login_server(&mut far, exporter(), &directory, parameters, |_| true, |_| Duration::ZERO),
    );
    ((near, client.unwrap()), (far, server.unwrap()))
}

/// A client's channel to a service that relays to this stream, and how that ends.
async fn relayed(
    relay: Relay,
    stream: DuplexStream,
) -> (Channel<Opaque>, oneshot::Receiver<Result<(), RelayError>>) {
    let ((near, client), (far, server)) = logged_in().await;
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        serve(far, &server, &Limits::default(), |opening| {
            spawn(async move |_me: Process| {
                let (reader, writer) = tokio::io::split(stream);
                let ended = relay.run(opening.accept(), reader, writer).await;
                let _ = tell.send(ended);
                Ok(())
            });
        })
        .await
    });
    (open(near, &client, &Limits::default(), Codec::Raw, b"", false).await.unwrap(), told)
}

fn piece(bytes: &'static [u8]) -> Opaque {
    Opaque(Bytes::from_static(bytes))
}

#[tokio::test(start_paused = true)]
async fn gives_up_stuck_stream_after_session() {
    let (stream, _open) = duplex(16);
    let (chan, told) = relayed(Relay::new("stream").last_bytes_timeout(LAST_BYTES_TIMEOUT), stream).await;
    chan.remote().cast(piece(&[7; 100])).await.unwrap();
    chan.close().await.unwrap();
    let ended = timeout(LAST_BYTES_TIMEOUT * 3, told).await.expect("the relay has ended").unwrap();
    assert!(
        matches!(&ended, Err(RelayError::Stream(error)) if error.kind() == io::ErrorKind::TimedOut),
        "{ended:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn slow_stream_gets_everything_after_session() {
    let (stream, mut slow) = duplex(1);
    let (chan, told) = relayed(Relay::new("stream").last_bytes_timeout(LAST_BYTES_TIMEOUT), stream).await;
    chan.remote().cast(piece(&[7; 9])).await.unwrap();
    chan.remote().cast(Opaque::default()).await.unwrap();
    chan.close().await.unwrap();
    let mut taken = 0;
    while slow.read(&mut [0; 1]).await.unwrap() > 0 {
        taken += 1;
        sleep(LAST_BYTES_TIMEOUT / 2).await;
    }
    assert_eq!(taken, 9);
    assert!(told.await.unwrap().is_ok());
}

#[tokio::test]
async fn session_end_without_eof_shuts_nothing_down() {
    let (stream, mut local) = duplex(1024);
    let (chan, told) = relayed(Relay::new("stream"), stream).await;
    chan.remote().cast(piece(b"half")).await.unwrap();
    chan.close().await.unwrap();
    let ended = told.await.unwrap();
    assert!(matches!(ended, Err(RelayError::Session(ExitReason::Normal))), "{ended:?}");
    let mut half = [0; 4];
    local.read_exact(&mut half).await.unwrap();
    assert_eq!(&half, b"half");
}

#[tokio::test]
async fn closed_stream_ends_session_in_order() {
    let (stream, local) = duplex(1024);
    let (mut chan, told) = relayed(Relay::new("stream"), stream).await;
    drop(local);
    // The EOF of a stream that was closed is still an EOF, though it takes nothing more.
    assert!(matches!(chan.recv().await, Some(Message::Cast(Opaque(eof))) if eof.is_empty()));
    let remote = chan.remote();
    remote.cast(piece(b"nobody reads this")).await.unwrap();
    assert_eq!(remote.ended().await, ExitReason::Normal);
    assert!(told.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn silent_input_ends_after_far_eof() {
    let (stream, _silent) = duplex(16);
    let (chan, told) = relayed(Relay::new("stream").input_timeout(INPUT_TIMEOUT), stream).await;
    let began = Instant::now();
    chan.remote().cast(Opaque::default()).await.unwrap();
    assert!(told.await.unwrap().is_ok());
    assert_eq!(chan.remote().ended().await, ExitReason::Normal);
    assert!(began.elapsed() >= INPUT_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn reads_input_to_eof_after_far_eof() {
    let (stream, mut input) = duplex(16);
    let (mut chan, told) = relayed(Relay::new("stream").input_timeout(INPUT_TIMEOUT), stream).await;
    chan.remote().cast(Opaque::default()).await.unwrap();
    // The far end's EOF has been passed on.
    assert_eq!(input.read(&mut [0; 1]).await.unwrap(), 0);
    input.write_all(b"more").await.unwrap();
    assert!(matches!(chan.recv().await, Some(Message::Cast(Opaque(more))) if &more[..] == b"more"));
    sleep(INPUT_TIMEOUT * 10).await;
    input.write_all(b"last").await.unwrap();
    drop(input);
    assert!(matches!(chan.recv().await, Some(Message::Cast(Opaque(last))) if &last[..] == b"last"));
    assert!(matches!(chan.recv().await, Some(Message::Cast(Opaque(eof))) if eof.is_empty()));
    assert!(told.await.unwrap().is_ok());
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn dropped_connection_is_reset() {
    let (mut near, mut far) = tcp_pair().await;
    let (_, mut writer) = tcp_halves(&mut near).unwrap();
    writer.write_all(b"half").await.unwrap();
    far.read_exact(&mut [0; 4]).await.unwrap();
    drop(near);
    let error = far.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn connection_that_was_shut_down_is_closed() {
    let (mut near, mut far) = tcp_pair().await;
    let (_, mut writer) = tcp_halves(&mut near).unwrap();
    let all = vec![7; 100_000];
    writer.write_all(&all).await.unwrap();
    writer.shutdown().await.unwrap();
    drop(near);
    let mut whole = Vec::new();
    far.read_to_end(&mut whole).await.unwrap();
    assert_eq!(whole, all);
}

#[tokio::test]
async fn connection_probes_silent_peer() {
    let (mut near, _far) = tcp_pair().await;
    tcp_halves(&mut near).unwrap();
    assert!(SockRef::from(&near).keepalive().unwrap());
    assert!(near.nodelay().unwrap());
}

/// The bytes in `PROTOCOL.md`, section 16.
#[tokio::test]
async fn streams_have_the_documented_form() {
    let encoded = |message: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        message(&mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let open = enter(async |mut me: Process<StreamsMessage>| {
        let (streams, client) = (me.address(), Address::dead());
        spawn(async move |_: Process| {
            streams.open(Bytes::from_static(b"hello"), client).await?;
            Ok(())
        });
        let Event::Message(open) = me.recv().await else { panic!("no message") };
        Ok(encoded(&|out| drop(open.encode(Codec::Bincode, 1000, out).unwrap())))
    });
    assert_eq!(open.await.unwrap(), "000568656c6c6f00");
    let provide = enter(async |mut me: Process<ProvidersMessage>| {
        let providers = me.address();
        spawn(async move |_: Process| {
            providers.provide(Address::dead(), 256).await?;
            Ok(())
        });
        let Event::Message(provide) = me.recv().await else { panic!("no message") };
        Ok(encoded(&|out| drop(provide.encode(Codec::Bincode, 1000, out).unwrap())))
    });
    assert_eq!(provide.await.unwrap(), "0000fb0001");
    for (bytes, hex) in [(&b"hello"[..], "000568656c6c6f"), (b"", "0000")] {
        let piece = PiecesMessage::Piece { bytes: Bytes::from_static(bytes) };
        assert_eq!(encoded(&|out| drop(piece.encode(Codec::Bincode, 1000, out).unwrap())), hex);
    }
}

/// Joins a consumer that sends two pieces and EOF and then ends, with a provider that takes a piece whenever this time has
/// passed, for so many times.
async fn joined(every: Duration, times: usize) -> Result<(), JunctionError> {
    let options = SpawnOptions { mailbox_capacity: 1, ..SpawnOptions::default() };
    let provider = spawn_with(options, async move |mut me: Process<PiecesMessage>| {
        for _ in 0..times {
            sleep(every).await;
            me.recv().await;
        }
        pending().await
    });
    let joined = enter(async |mut near: Process<PiecesMessage>| {
        let to = near.address();
        let consumer = spawn(async move |_: Process<PiecesMessage>| {
            for bytes in ["one", "two", ""] {
                to.piece(Bytes::from_static(bytes.as_bytes())).await?;
            }
            Ok(())
        });
        near.monitor(consumer.pid());
        let far = enter(async |mut other: Process<PiecesMessage>| {
            other.monitor(provider.pid());
            let consumer = StreamEnd::new(&mut near, consumer, Bytes::new());
            let provider = StreamEnd::new(&mut other, provider, Bytes::new());
            Ok(Junction::new(LAST_BYTES_TIMEOUT).join_streams(consumer, provider).await)
        });
        far.await
    });
    joined.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn junction_gives_up_stuck_provider() {
    assert_eq!(joined(Duration::ZERO, 0).await, Err(JunctionError::Stuck));
}

#[tokio::test(start_paused = true)]
async fn slow_provider_gets_everything_of_gone_consumer() {
    assert_eq!(joined(LAST_BYTES_TIMEOUT / 2, 9).await, Ok(()));
}

#[test]
fn reason_of_one_end_does_not_blame_the_other() {
    let reason = |reason| JunctionError::Ended(JunctionEnd::Provider, reason).reason();
    for passed_on in [ExitReason::NoConnection, ExitReason::failed("target: timed out")] {
        assert_eq!(reason(passed_on.clone()), passed_on);
    }
    assert_eq!(reason(ExitReason::Revoked), ExitReason::failed("the provider ended: revoked"));
    assert_eq!(reason(ExitReason::Normal), ExitReason::failed("the provider ended before its EOF"));
}
