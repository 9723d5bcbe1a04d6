//! The login over a stream: what each end learns, what it waits for, what it refuses.
//!
//! Longer than other files, because all tests share the directories, keys and parameters of one server.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::io::{BufStream, DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::auth::{
    AccountVerifier, Argon2Params, ClientId, NameKey, ParamsError, PasswordVerifier, Salt, ServiceName,
    runs_with,
};
use crate::channel::{Channel, OpenError, OpenRequest, Opening, open_with};
use crate::handshake::Side;
use crate::payload::Codec;
use crate::secret::Secret;
use crate::tls::{self, CheckedKey, Pin, PinVerifier, ReloadableKey};
use crate::{Message, Opaque};

/// The least work that is allowed.
fn params() -> Argon2Params {
    Argon2Params::new(19_456, 2, 1).unwrap()
}

fn request() -> OpenRequest<'static> {
    OpenRequest::new(Codec::Raw, b"arguments")
}

fn target(host: &str) -> Target {
    Target { host: host.into(), service: ServiceName::new("alpha").unwrap(), client: ClientId::default() }
}

fn key() -> PrivateKey {
    PrivateKey::from_seed(Secret::new([3; 32])).unwrap()
}

fn salt(name_key: u8) -> Salt {
    let Target { service, client, .. } = target("");
    NameKey::new(Secret::new([name_key; 32])).salt(&service, &client)
}

/// A directory with one account. No two tests use the same name key, so that each counts its own derivations.
fn directory(name_key: u8, verifier: AccountVerifier) -> Directory {
    let Target { service, client, .. } = target("");
    let account = Account { service, client, verifier, enabled: true, index: 0 };
    let name_key = NameKey::new(Secret::new([name_key; 32]));
    Directory::new(name_key, Secret::new([99; 32]), [account]).unwrap().0
}

fn directory_of_key(name_key: u8) -> Directory {
    directory(name_key, AccountVerifier::Key(key().public_key()))
}

/// With a verifier that was derived as at load, by the owner's own value of the password.
fn directory_of_password(name_key: u8, text: &str) -> Directory {
    let password = Password::new(text).unwrap();
    let verifier = PasswordVerifier::derive(&password, &salt(name_key), params()).unwrap();
    directory(name_key, AccountVerifier::Password(verifier))
}

fn ekm(byte: u8) -> Exporter {
    Exporter::new(Secret::new([byte; 32]))
}

fn parameters() -> SessionParameters {
    SessionParameters::new(1 << 20, 256 << 10, 15_000).unwrap()
}

async fn serve(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    directory: &Directory,
) -> Result<Authenticated, ServerLoginError> {
    login_server(stream, ekm(1), directory, parameters(), |_| true, |_| Duration::ZERO).await
}

async fn log_in(
    credential: Credential<'_>,
    directory: &Directory,
) -> (Result<Authenticated, LoginError>, Result<Authenticated, ServerLoginError>) {
    let (mut near, mut far) = duplex(4096);
    let login = ClientLogin::prepare(target("host"), credential).await;
    // Each end closes the pipe when it is done.
    let client = async move { login.run(&mut near, ekm(1)).await };
    let server = async move { serve(&mut far, directory).await };
    tokio::join!(client, server)
}

#[tokio::test]
async fn logs_in_over_one_byte_pipe() {
    let password = Password::new("correct horse").unwrap();
    let private_key = key();
    let by_password = directory_of_password(0x10, "correct horse");
    let by_key = directory_of_key(0x11);
    for (credential, directory) in
        [(Credential::Password(&password), &by_password), (Credential::Key(&private_key), &by_key)]
    {
        let (mut near, mut far) = duplex(1);
        let login = ClientLogin::prepare(target("host"), credential).await;
        let client = async {
            let end = login.run(&mut near, ekm(1)).await.unwrap();
            near.write_all(b"from the client").await.unwrap();
            let mut first = [0; 15];
            near.read_exact(&mut first).await.unwrap();
            (end, first)
        };
        let server = async {
            let end = serve(&mut far, directory).await.unwrap();
            let (mut reads, mut writes) = tokio::io::split(&mut far);
            let mut first = [0; 15];
            let (read, written) =
                tokio::join!(reads.read_exact(&mut first), writes.write_all(b"from the server"));
            read.unwrap();
            written.unwrap();
            (end, first)
        };
        let ((client_end, to_client), (server_end, to_server)) = tokio::join!(client, server);
        assert_eq!((&to_client, &to_server), (b"from the server", b"from the client"));
        assert_eq!((client_end.side(), server_end.side()), (Side::Client, Side::Server));
        assert_eq!(client_end.service(), server_end.service());
    }
}

#[tokio::test]
async fn refuses_wrong_password_and_logs_why() {
    let directory = directory_of_password(0x12, "right");
    let (client, server) = log_in(Credential::Password(&Password::new("wrong").unwrap()), &directory).await;
    assert!(matches!(client, Err(LoginError::Handshake(ClientHandshakeError::Refused))), "{client:?}");
    assert_eq!(server.unwrap_err().refusal_cause(), Some(RefusalCause::WrongProof));
}

#[tokio::test]
async fn hundred_reconnects_derive_once() {
    let directory = directory_of_password(0x13, "correct horse");
    assert_eq!(runs_with(&salt(0x13)), 1, "the owner's, at load");
    let password = Password::new("correct horse").unwrap();
    for _ in 0..100 {
        let (client, server) = log_in(Credential::Password(&password), &directory).await;
        client.unwrap();
        server.unwrap();
    }
    assert_eq!(password.derivations(), 1);
    assert_eq!(runs_with(&salt(0x13)), 2, "the owner's and the client's first");
}

#[tokio::test]
async fn a_hundred_connects_at_once_run_argon2_once() {
    let directory = Arc::new(directory_of_password(0x14, "correct horse"));
    let password = Password::new("correct horse").unwrap();
    let mut logins = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (directory, password) = (Arc::clone(&directory), password.clone());
        logins.spawn(async move { log_in(Credential::Password(&password), &directory).await.0.map(drop) });
    }
    assert!(logins.join_all().await.into_iter().all(|login| login.is_ok()));
    assert_eq!(password.derivations(), 1);
}

#[tokio::test]
async fn equal_passwords_derive_separately() {
    let directory = directory_of_password(0x15, "correct horse");
    for _ in 0..2 {
        let password = Password::new("correct horse").unwrap();
        log_in(Credential::Password(&password), &directory).await.0.unwrap();
        assert_eq!(password.derivations(), 1);
    }
}

#[tokio::test]
async fn changed_salt_ends_attempt_then_derives() {
    let password = Password::new("correct horse").unwrap();
    let (before, after) =
        (directory_of_password(0x16, "correct horse"), directory_of_password(0x17, "correct horse"));
    log_in(Credential::Password(&password), &before).await.0.unwrap();
    let (client, _) = log_in(Credential::Password(&password), &after).await;
    assert!(matches!(client, Err(LoginError::KeyOutdated)), "{client:?}");
    assert_eq!(password.derivations(), 1, "without the turn nothing is derived");
    log_in(Credential::Password(&password), &after).await.0.unwrap();
    assert_eq!(password.derivations(), 2);
}

#[tokio::test]
async fn derivation_waits_for_turn_before_connecting() {
    let (password, other) = (Password::new("one").unwrap(), Password::new("two").unwrap());
    let first = ClientLogin::prepare(target("a"), Credential::Password(&password)).await;
    let mut second = pin!(ClientLogin::prepare(target("b"), Credential::Password(&other)));
    assert!(poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx).is_pending())).await);
    // A key has nothing to wait for.
    let private_key = key();
    let _ = ClientLogin::prepare(target("c"), Credential::Key(&private_key)).await;
    drop(first);
    drop(second.await);
}

#[tokio::test]
async fn login_with_known_key_does_not_wait() {
    let directory = directory_of_password(0x18, "correct horse");
    let password = Password::new("correct horse").unwrap();
    log_in(Credential::Password(&password), &directory).await.0.unwrap();
    let other = Password::new("other").unwrap();
    let _turn = ClientLogin::prepare(target("elsewhere"), Credential::Password(&other)).await;
    let mut again = pin!(ClientLogin::prepare(target("host"), Credential::Password(&password)));
    assert!(poll_fn(|cx| Poll::Ready(again.as_mut().poll(cx).is_ready())).await);
    log_in(Credential::Password(&password), &directory).await.0.unwrap();
}

#[tokio::test]
async fn huge_challenge_allocates_nothing() {
    let (mut near, mut far) = duplex(4096);
    let password = Password::new("correct horse").unwrap();
    let login = ClientLogin::prepare(target("host"), Credential::Password(&password)).await;
    let hostile = async move {
        let mut buffer = [0; 256];
        read_message(&mut far, 168, &mut buffer).await.ok().unwrap();
        let body =
            [&[1, 1][..], &[9; 32], &[0x13], &u32::MAX.to_be_bytes(), &3_u32.to_be_bytes(), &[1], &[5; 16]]
                .concat();
        write(&mut far, &[&60_u16.to_be_bytes(), body.as_slice()].concat()).await.unwrap();
    };
    let (login, ()) = tokio::join!(login.run(&mut near, ekm(1)), hostile);
    let unreasonable = Misbehaviour::Challenge(ParamsError::Memory(u32::MAX));
    assert!(
        matches!(&login, Err(LoginError::Handshake(ClientHandshakeError::ServerMisbehaved(what))) if *what == unreasonable),
        "{login:?}"
    );
    assert_eq!((password.derivations(), runs_with(&Salt([5; 16]))), (0, 0));
}

/// Sends bytes to a server and closes: how its login ended, and what it answered.
async fn serve_bytes(directory: &Directory, bytes: &[u8]) -> (ServerLoginError, Vec<u8>) {
    let (mut near, mut far) = duplex(8 << 20);
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    let error = serve(&mut far, directory).await.unwrap_err();
    drop(far);
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    (error, answer)
}

#[tokio::test]
async fn tells_silent_client_from_stopped_one() {
    let directory = directory_of_key(0x19);
    assert!(matches!(serve_bytes(&directory, b"").await, (ServerLoginError::SentNothing, _)));
    for part in [&b"\0"[..], b"\0\x2a", b"\0\x2achan"] {
        let (error, answer) = serve_bytes(&directory, part).await;
        assert!(matches!(error, ServerLoginError::Io(_)), "{error:?}");
        assert!(answer.is_empty());
    }
}

#[tokio::test]
async fn too_long_message_ends_login_at_length() {
    let directory = directory_of_key(0x1a);
    // Not one byte of the body is there: the length alone decides.
    for len in [169, 0x1603, u16::MAX] {
        let (error, answer) = serve_bytes(&directory, &len.to_be_bytes()).await;
        assert!(
            matches!(error, ServerLoginError::ClientMisbehaved(Misbehaviour::TooLong { max: 168, .. })),
            "{error:?}"
        );
        assert!(answer.is_empty());
    }
    let mut hello = hello();
    hello.extend_from_slice(&[0, 65]);
    let (error, answer) = serve_bytes(&directory, &hello).await;
    assert!(
        matches!(error, ServerLoginError::ClientMisbehaved(Misbehaviour::TooLong { len: 65, max: 64 })),
        "{error:?}"
    );
    assert!(answer.is_empty());
}

/// The hello of a login with a key, without the proof behind it.
fn hello() -> Vec<u8> {
    let Target { service, client, .. } = target("");
    let mut sent = start_with_key(&ekm(1), service, client, &key(), [11; 32]).unwrap().send;
    sent.truncate(sent.len() - 2 - ExpectProof::MAX_LEN);
    sent
}

#[tokio::test]
async fn answers_no_frame_before_login() {
    let directory = directory_of_key(0x1b);
    for kind in (0x01..=0x16_u8).chain(0x40..=0x46) {
        for payload_len in [0_u32, 1, 63, 200, 1 << 20] {
            let frame =
                [&(payload_len + 1).to_be_bytes()[..], &[kind], &vec![kind; payload_len as usize]].concat();
            let (error, answer) = serve_bytes(&directory, &frame).await;
            assert!(matches!(error, ServerLoginError::ClientMisbehaved(_)), "{kind:#x}: {error:?}");
            assert!(answer.is_empty());

            let (error, answer) = serve_bytes(&directory, &[hello(), frame].concat()).await;
            assert!(matches!(error, ServerLoginError::ClientMisbehaved(_)), "{kind:#x}: {error:?}");
            assert!(answer.is_empty());
        }
    }
}

#[tokio::test]
async fn abandoned_login_keeps_key_and_frees_turn() {
    let directory = directory_of_password(0x1c, "correct horse");
    let password = Password::new("correct horse").unwrap();
    let (mut near, mut far) = duplex(4096);
    let login = ClientLogin::prepare(target("host"), Credential::Password(&password)).await;
    {
        let mut run = pin!(login.run(&mut near, ekm(1)));
        let mut challenge = pin!(challenge_only(&mut far, &directory));
        // Until the derivation has begun; it goes on after both futures are dropped.
        poll_fn(|cx| {
            assert!(run.as_mut().poll(cx).is_pending() && challenge.as_mut().poll(cx).is_pending());
            if password.derivations() == 1 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
    // Has to wait for the turn, and then finds the key.
    let again = ClientLogin::prepare(target("host"), Credential::Password(&password)).await;
    assert!(matches!(again.proof, Proof::Password(_, None)), "what is derived needs no turn any more");
    log_in(Credential::Password(&password), &directory).await.0.unwrap();
    assert_eq!(password.derivations(), 1);
}

/// Polls a login until it waits for an answer, and returns what it has sent and not yet got an answer to.
async fn first_flight(
    run: impl Future<Output = Result<Authenticated, LoginError>>,
    far: &mut DuplexStream,
) -> Vec<u8> {
    let mut run = pin!(run);
    let waits = poll_fn(|cx| Poll::Ready(run.as_mut().poll(cx).is_pending())).await;
    assert!(waits, "the login ended without an answer");
    let mut flight = Vec::with_capacity(4096);
    far.read_buf(&mut flight).await.unwrap();
    flight
}

#[tokio::test]
async fn hello_proof_and_start_share_one_flight() {
    let private_key = key();
    let (mut near, mut far) = duplex(4096);
    let login = ClientLogin::prepare(target("host"), Credential::Key(&private_key)).await;
    let login = login.start_early(&Limits::default(), &request());
    let flight = first_flight(login.run(&mut near, ekm(1)), &mut far).await;
    let start = early_start(&Limits::default(), &request()).unwrap();
    assert_eq!(flight.len(), hello().len() + 2 + ExpectProof::MAX_LEN + start.len());
    assert!(flight.ends_with(&start));
}

#[test]
fn early_start_holds_what_every_server_takes() {
    let max = *Limits::FRAME_LEN_RANGE.start() - crate::wire::MAX_OVERHEAD;
    let payload = vec![7; max + 1];
    let early = |args, first| {
        let request = OpenRequest { first, ..OpenRequest::new(Codec::Raw, args) };
        early_start(&Limits::default(), &request).is_some()
    };
    assert!(early(&payload[1..], Some(&payload[1..])));
    assert!(!early(&payload, None));
    assert!(!early(b"", Some(&payload)));
}

#[tokio::test]
async fn long_first_cast_waits_for_accept() {
    let private_key = key();
    let (mut near, mut far) = duplex(4096);
    let login = ClientLogin::prepare(target("host"), Credential::Key(&private_key)).await;
    let login = login.start_early(&Limits::default(), &OpenRequest { first: Some(&[7; 1024]), ..request() });
    let flight = first_flight(login.run(&mut near, ekm(1)), &mut far).await;
    assert_eq!(flight.len(), hello().len() + 2 + ExpectProof::MAX_LEN);
}

#[tokio::test]
async fn password_shows_no_start_before_accept() {
    let directory = directory_of_password(0x20, "correct horse");
    let password = Password::new("correct horse").unwrap();
    let (mut near, mut far) = duplex(4096);
    let login = ClientLogin::prepare(target("host"), Credential::Password(&password)).await;
    let login = login.start_early(&Limits::default(), &request());
    let client = async {
        let end = login.run(&mut near, ekm(1)).await.unwrap();
        drop(near);
        end
    };
    let (client_end, server_end) = tokio::join!(client, serve(&mut far, &directory));
    server_end.unwrap();
    assert!(client_end.early().is_none());
    let mut followed = Vec::new();
    far.read_to_end(&mut followed).await.unwrap();
    assert_eq!(followed, b"");
}

#[tokio::test]
async fn early_start_and_cast_open_the_session_once() {
    let private_key = key();
    for (second, opens) in [(Some(&b"first"[..]), true), (Some(b"other"), false), (None, false)] {
        let (near, far) = duplex(4096);
        let (mut near, mut far) = (BufStream::new(near), BufStream::new(far));
        let login = ClientLogin::prepare(target("host"), Credential::Key(&private_key)).await;
        let limits = Limits::default();
        let login = login.start_early(&limits, &OpenRequest { first: Some(b"first"), ..request() });
        let client = async {
            let end = login.run(&mut near, ekm(1)).await.unwrap();
            open_with(near, &end, &limits, &OpenRequest { first: second, ..request() }, false).await
        };
        let server = async {
            let end = serve(&mut far, &directory_of_key(0x21)).await.unwrap();
            let (tell, told) = oneshot::channel();
            let start = |opening: Opening| {
                let args = opening.args::<Opaque>().unwrap();
                let mut channel = opening.accept::<Opaque, Opaque>();
                tokio::spawn(async move {
                    let first = channel.recv().await;
                    drop(channel);
                    tell.send((args, first))
                });
            };
            crate::channel::serve(far, &end, &limits, start).await;
            told.await
        };
        let (opened, told): (Result<Channel<Opaque>, _>, _) = tokio::join!(client, server);
        match opened {
            Ok(_) => {
                let (args, first) = told.unwrap();
                assert!(opens && args.0 == b"arguments"[..], "{args:?}");
                assert!(matches!(first, Some(Message::Cast(Opaque(first))) if first == b"first"[..]));
            }
            Err(error) => assert!(!opens && error == OpenError::OtherStart, "{error}"),
        }
    }
}

/// A server that says nothing after its challenge.
async fn challenge_only(stream: &mut DuplexStream, directory: &Directory) {
    let mut buffer = [0; ExpectHello::MAX_LEN];
    let hello = read_message(stream, ExpectHello::MAX_LEN, &mut buffer).await.ok().unwrap();
    let server = ExpectHello::new(directory, ekm(1), parameters(), [22; 32]);
    let Step { next: _, send } = server.handle(hello).unwrap();
    write(stream, &send).await.unwrap();
    std::future::pending().await
}

/// A server's identity with its pin.
fn identity() -> (Arc<ReloadableKey>, Pin) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = pair.signing_key.serialize_der();
    let key =
        CheckedKey::new(vec![pair.cert.der().clone()], rustls::pki_types::PrivateKeyDer::Pkcs8(key.into()))
            .unwrap();
    let pin = key.pin().unwrap();
    (Arc::new(ReloadableKey::new(key)), pin)
}

async fn accept(
    stream: DuplexStream,
    identity: Arc<ReloadableKey>,
) -> (tokio_rustls::server::TlsStream<DuplexStream>, Exporter) {
    let stream = TlsAcceptor::from(tls::server_config(identity).unwrap()).accept(stream).await.unwrap();
    let exporter = tls::exporter(stream.get_ref().1).unwrap();
    (stream, exporter)
}

async fn connect(
    stream: DuplexStream,
    pin: Pin,
) -> (tokio_rustls::client::TlsStream<DuplexStream>, Exporter) {
    let config = tls::client_config(Arc::new(PinVerifier::new([pin]))).unwrap();
    let name = "localhost".try_into().unwrap();
    let stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
    let exporter = tls::exporter(stream.get_ref().1).unwrap();
    (stream, exporter)
}

#[tokio::test]
async fn logs_in_over_tls() {
    let directory = directory_of_password(0x1d, "correct horse");
    let password = Password::new("correct horse").unwrap();
    let (identity, pin) = identity();
    let (near, far) = duplex(64);
    let client = async {
        let login = ClientLogin::prepare(target("host"), Credential::Password(&password)).await;
        let (mut stream, exporter) = connect(near, pin).await;
        login.run(&mut stream, exporter).await
    };
    let server = async {
        let (mut stream, exporter) = accept(far, identity).await;
        login_server(&mut stream, exporter, &directory, parameters(), |_| true, |_| Duration::ZERO).await
    };
    let (client_end, server_end) = tokio::join!(client, server);
    client_end.unwrap();
    server_end.unwrap();
}

#[tokio::test]
async fn refuses_relayed_login() {
    // The client trusts the one in the middle, who passes on every byte of the login to the true server and back.
    let private_key = key();
    let (by_password, by_key) = (directory_of_password(0x1e, "correct horse"), directory_of_key(0x1f));
    let password = Password::new("correct horse").unwrap();
    for (credential, directory) in
        [(Credential::Password(&password), &by_password), (Credential::Key(&private_key), &by_key)]
    {
        let ((identity, pin), (middle_identity, middle_pin)) = (identity(), identity());
        let (near, middle_near) = duplex(4096);
        let (middle_far, far) = duplex(4096);
        let client = async {
            let login = ClientLogin::prepare(target("host"), credential).await;
            let (mut stream, exporter) = connect(near, middle_pin).await;
            login.run(&mut stream, exporter).await
        };
        let middle = async {
            let ((mut client, _), (mut server, _)) =
                tokio::join!(accept(middle_near, middle_identity), connect(middle_far, pin));
            // Ends with an error when either side is gone without a word.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        };
        let server = async {
            let (mut stream, exporter) = accept(far, identity).await;
            let served =
                login_server(&mut stream, exporter, directory, parameters(), |_| true, |_| Duration::ZERO)
                    .await;
            stream.shutdown().await.unwrap();
            served
        };
        let (client, (), server) = tokio::join!(client, middle, server);
        assert!(matches!(client, Err(LoginError::Handshake(ClientHandshakeError::Refused))), "{client:?}");
        assert_eq!(server.unwrap_err().refusal_cause(), Some(RefusalCause::WrongProof));
    }
}
