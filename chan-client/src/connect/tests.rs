//! Against servers with one small service, over TCP and TLS on loopback.

use std::future::pending;
use std::sync::{Arc, Mutex};

use lib_chan::auth::{
    Account, AccountVerifier, Argon2Params, ClientId, Directory, NameKey, PasswordVerifier, ServiceName,
};
use lib_chan::login::login_server;
use lib_chan::middleman::Opening;
use lib_chan::secret::Secret;
use lib_chan::tls::{CheckedKey, ReloadableKey, server_config};
use lib_chan::{Call, Message, Process};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server on loopback that lets clients in and serves them with [`start`]. Ends with the test's runtime.
struct Server {
    port: u16,
    pin: Pin,
}

const PASSWORD: &str = "correct horse";

fn key() -> PrivateKey {
    PrivateKey::from_seed(Secret::new([7; 32])).unwrap()
}

fn directory(password: &str, salt: u8) -> Directory {
    let service = ServiceName::new("s").unwrap();
    // The least that a client agrees to.
    let params = Argon2Params::new(19 * 1024, 2, 1).unwrap();
    let salt = NameKey::new(Secret::new([salt; 32])).salt(&service, &ClientId::default());
    let verifier = PasswordVerifier::derive(&Password::new(password).unwrap(), &salt, params).unwrap();
    let account = |client, verifier| {
        let client = ClientId::new(client).unwrap();
        Account { service: service.clone(), client, verifier, enabled: true, index: 0 }
    };
    let accounts = [
        account("", AccountVerifier::Password(verifier)),
        account("joe", AccountVerifier::Key(key().public_key())),
    ];
    Directory::new(NameKey::new(Secret::new([1; 32])), Secret::new([2; 32]), accounts).unwrap().0
}

fn identity() -> CheckedKey {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    CheckedKey::new(vec![certificate.into()], key, std::time::SystemTime::now()).unwrap()
}

/// Serves each connection with what `directories` gives for it.
async fn serve(
    config: ServerConfig,
    pin: Pin,
    directories: impl Fn(usize) -> Directory + Send + 'static,
) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, directory) = (acceptor.clone(), directories(number));
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                let exporter = exporter(stream.get_ref().1).ok()?;
                let parameters = SessionParameters::from_limits(&Limits::default()).unwrap();
                let login = login_server(&mut stream, exporter, &directory, parameters, |_| true);
                let authenticated = login.await.ok()?;
                Some(lib_chan::middleman::serve(stream, &authenticated, &Limits::default(), start).await)
            });
        }
    });
    Server { port, pin }
}

/// What a client of the tests asks the service for.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Double(u32);

impl Call for Double {
    type Reply = u32;
}

/// The service: doubles numbers, or does at its start what the client asks for.
fn start(opening: Opening) {
    match opening.args::<Option<String>>().unwrap().as_deref() {
        None => drop(lib_chan::spawn(move |_: Process| double(opening.accept()))),
        Some("refuse") => opening.refuse("not today"),
        Some("end") => opening.control().end(ExitReason::Shutdown),
        Some("hang") => drop(tokio::spawn(async {
            pending::<()>().await;
            drop(opening)
        })),
        Some(other) => panic!("{other}"),
    }
}

async fn double(mut chan: Channel<Double, ()>) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        if let Message::Call(double, reply) = message {
            reply.to(&double).send(2 * double.0);
        }
    }
    Ok(())
}

async fn server() -> Server {
    let identity = identity();
    let pin = identity.pin().unwrap();
    let config = server_config(Arc::new(ReloadableKey::new(identity))).unwrap();
    serve(Arc::unwrap_or_clone(config), pin, |_| directory(PASSWORD, 1)).await
}

/// A server that does with a connection what `serve` says, TLS not among it.
async fn plain_server<F: Future<Output = ()> + Send>(
    serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            serve(listener.accept().await.unwrap().0).await;
        }
    });
    Server { port, pin: Pin([0; 32]) }
}

impl Server {
    fn url(&self) -> String {
        format!("chan://localhost:{}/s?pin={}", self.port, self.pin)
    }

    fn authority(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

fn password(text: &str) -> Password {
    Password::new(text).unwrap()
}

fn unreachable_because(result: Result<Ping, ConnectError>, expected: &str) {
    match result {
        Err(ConnectError::Unreachable { what, .. }) => assert!(what.contains(expected), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_password_opens_and_its_key_is_derived_once() {
    let server = server().await;
    let password = password(PASSWORD);
    for _ in 0..3 {
        let ping = connect(server.url()).password(&password).ping().await.unwrap();
        assert_eq!(ping.pin, server.pin);
    }
    assert_eq!(password.derivations(), 1);
}

#[tokio::test]
async fn an_open_channel_carries_calls_in_each_codec_and_closes_in_good_order() {
    let server = server().await;
    let password = password(PASSWORD);
    for codec in [Codec::Bincode, Codec::Json] {
        let opened = connect(server.url()).password(&password).codec(codec).args(&None::<String>).open();
        let chan: Channel<(), Double> = opened.await.unwrap();
        assert_eq!(chan.remote().call(Double(21)).await, Ok(42));
        assert_eq!(chan.close().await, Ok(()));
    }
}

#[tokio::test]
async fn a_session_that_does_not_open_says_why() {
    let server = server().await;
    let password = password(PASSWORD);
    let open = async |what: &str| {
        let args = Some(what.to_owned());
        let connect = connect(server.url()).password(&password).args(&args).timeout(Duration::from_secs(5));
        connect.open::<(), Double>().await.map(drop)
    };
    let refused = open("refuse").await;
    assert!(
        matches!(&refused, Err(ConnectError::RefusedByName(text)) if **text == *"not today"),
        "{refused:?}"
    );
    let ended = open("end").await;
    assert!(matches!(ended, Err(ConnectError::Ended(ExitReason::Shutdown))), "{ended:?}");
}

#[tokio::test]
async fn a_service_that_never_starts_is_given_up_in_the_callers_own_time() {
    let server = server().await;
    let password = password(PASSWORD);
    connect(server.url()).password(&password).ping().await.unwrap();
    let args = Some("hang".to_owned());
    let connect = connect(server.url()).password(&password).args(&args).timeout(Duration::from_millis(500));
    let late = connect.open::<(), Double>().await.map(drop);
    assert!(matches!(late, Err(ConnectError::Deadline)), "{late:?}");
}

#[tokio::test]
async fn a_key_opens() {
    let server = server().await;
    let url = server.url().replace("localhost", "joe@localhost");
    connect(url).key(&key()).ping().await.unwrap();
}

#[tokio::test]
async fn each_step_is_told_in_its_order() {
    let server = server().await;
    let steps = Mutex::new(Vec::new());
    let on_step = |step| steps.lock().unwrap().push(step);
    connect(server.url()).password(&password(PASSWORD)).on_step(on_step).ping().await.unwrap();
    let steps = steps.into_inner().unwrap();
    let [Step::Found(found), Step::Connected(peer), encrypted, Step::LoggedIn { mechanism, .. }] = &steps[..]
    else {
        panic!("{steps:?}");
    };
    assert!(found.contains(peer));
    assert_eq!(*encrypted, Step::Encrypted { group: "X25519MLKEM768".into(), pin: server.pin });
    assert_eq!(*mechanism, Mechanism::Password);
}

#[tokio::test]
async fn a_salt_that_changed_costs_one_more_derivation_and_no_error() {
    let identity = identity();
    let pin = identity.pin().unwrap();
    let config = server_config(Arc::new(ReloadableKey::new(identity))).unwrap();
    let changes = |number| directory(PASSWORD, if number == 0 { 1 } else { 2 });
    let server = serve(Arc::unwrap_or_clone(config), pin, changes).await;
    let password = password(PASSWORD);
    connect(server.url()).password(&password).ping().await.unwrap();
    connect(server.url()).password(&password).ping().await.unwrap();
    assert_eq!(password.derivations(), 2);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_service_or_client_are_the_same_refusal() {
    let server = server().await;
    let unknown = server.url().replace("/s?", "/t?");
    let client = server.url().replace("localhost", "ann@localhost");
    for (url, text) in [(server.url(), "wrong horse"), (unknown, PASSWORD), (client, PASSWORD)] {
        let refused = connect(&url).password(&password(text)).ping().await;
        assert!(matches!(refused, Err(ConnectError::Refused)), "{url}: {refused:?}");
    }
}

#[tokio::test]
async fn a_server_with_another_key_gets_no_login() {
    let server = server().await;
    let url = format!("chan://localhost:{}/s?pin={}", server.port, Pin([9; 32]));
    let password = password(PASSWORD);
    let error = connect(url).password(&password).ping().await;
    assert!(matches!(error, Err(ConnectError::Identity(IdentityError::NotPinned { .. }))), "{error:?}");
    assert_eq!(password.derivations(), 0);
}

#[tokio::test]
async fn a_new_key_is_noted_only_by_consent_and_only_after_the_login() {
    let server = server().await;
    let directory = tempfile::tempdir().unwrap();
    let known = KnownHosts::at(directory.path().join("known_hosts"));
    let ping = async |text: &str, accept_new| {
        let url = format!("chan://localhost:{}/s?tofu", server.port);
        let password = password(text);
        connect(url).password(&password).known_hosts(known.clone()).accept_new(accept_new).ping().await
    };
    let unknown = ping(PASSWORD, false).await;
    assert!(matches!(unknown, Err(ConnectError::Identity(IdentityError::Unknown { .. }))), "{unknown:?}");
    assert!(matches!(ping("wrong horse", true).await, Err(ConnectError::Refused)));
    assert_eq!(known.keys(&server.authority()).unwrap(), []);
    ping(PASSWORD, true).await.unwrap();
    assert_eq!(known.keys(&server.authority()).unwrap(), [server.pin]);
    ping(PASSWORD, false).await.unwrap();
}

#[tokio::test]
async fn a_changed_key_is_refused_in_spite_of_consent() {
    let server = server().await;
    let directory = tempfile::tempdir().unwrap();
    let known = KnownHosts::at(directory.path().join("known_hosts"));
    known.add(&server.authority(), &Pin([9; 32])).unwrap();
    let url = format!("chan://localhost:{}/s?tofu", server.port);
    let error = connect(url).password(&password(PASSWORD)).known_hosts(known).accept_new(true).ping().await;
    assert!(matches!(error, Err(ConnectError::Identity(IdentityError::Changed { .. }))), "{error:?}");
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_told_from_one_that_speaks_no_tls() {
    let server = plain_server(async |_| {}).await;
    unreachable_because(connect(server.url()).key(&key()).ping().await, "closed the connection at once");
    let server = plain_server(async |mut stream| {
        stream.write_all(b"SSH-2.0-OpenSSH_9.8\r\n").await.unwrap();
        drop(stream.read(&mut [0; 1024]).await);
    })
    .await;
    unreachable_because(connect(server.url()).key(&key()).ping().await, "does not speak TLS");
}

#[tokio::test]
async fn a_server_of_another_protocol_gets_no_login() {
    let identity = identity();
    let pin = identity.pin().unwrap();
    let config = server_config(Arc::new(ReloadableKey::new(identity))).unwrap();
    for (protocols, expected) in [(vec![], "lib-chan/1"), (vec![b"h2".to_vec()], "TLS failed")] {
        let mut config = (*config).clone();
        config.alpn_protocols = protocols;
        let server = serve(config, pin, |_| directory(PASSWORD, 1)).await;
        unreachable_because(connect(server.url()).key(&key()).ping().await, expected);
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = plain_server(async |mut stream| drop(stream.read_to_end(&mut Vec::new()).await)).await;
    let limits = || {
        let mut limits = Limits::default();
        limits.tls_timeout = Duration::from_millis(20);
        limits
    };
    let silent = connect(server.url()).key(&key()).limits(limits()).ping().await;
    unreachable_because(silent, "TLS was not set up in time");
    let deadline = connect(server.url()).key(&key()).timeout(Duration::from_millis(20)).ping().await;
    assert!(matches!(deadline, Err(ConnectError::Deadline)), "{deadline:?}");
}

#[tokio::test]
async fn what_cannot_be_used_is_told_before_anything_is_sent() {
    let error = connect("https://h:1/s?tofu").key(&key()).ping().await;
    assert!(matches!(error, Err(ConnectError::Usage(UsageError::Url(_)))), "{error:?}");
    let error = connect("chan://h:1/s?tofu").ping().await;
    assert!(matches!(error, Err(ConnectError::Usage(UsageError::NoCredential))), "{error:?}");
    let error = connect("chan://h:1/s?ca=/nowhere").key(&key()).ping().await;
    assert!(matches!(error, Err(ConnectError::Usage(UsageError::Trust(_)))), "{error:?}");
}
