//! Connecting, against servers on loopback.

use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use chan_client::KnownHosts;
use chan_client::connect::{ConnectError, Ping, Step, UsageError, connect};
use chan_client::trust::IdentityError;
use lib_chan::auth::Mechanism;
use lib_chan::payload::Codec;
use lib_chan::secret::Password;
use lib_chan::tls::Pin;
use lib_chan::{Channel, ExitReason, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::server::{Identity, PASSWORD, Request, Server, key};

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
    let server = Server::start().await;
    let password = password(PASSWORD);
    for _ in 0..3 {
        let ping = connect(server.url()).password(&password).ping().await.unwrap();
        assert_eq!(ping.pin, server.pin);
    }
    assert_eq!(password.derivations(), 1);
}

#[tokio::test]
async fn an_open_channel_carries_calls_in_each_codec_and_closes_in_good_order() {
    let server = Server::start().await;
    let password = password(PASSWORD);
    for codec in [Codec::Bincode, Codec::Json] {
        let opened = connect(server.url()).password(&password).codec(codec).open();
        let chan: Channel<String, Request> = opened.await.unwrap();
        assert_eq!(chan.remote().call(Request::Double(21)).await, Ok("42".to_owned()));
        assert_eq!(chan.close().await, Ok(()));
    }
}

#[tokio::test]
async fn a_session_that_does_not_open_says_why() {
    let server = Server::start().await;
    let password = password(PASSWORD);
    let open = async |what: &str| {
        let args = what.to_owned();
        let connect = connect(server.url()).password(&password).args(&args).timeout(Duration::from_secs(5));
        connect.open::<String, Request>().await.map(drop)
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
    let server = Server::start().await;
    let password = password(PASSWORD);
    connect(server.url()).password(&password).ping().await.unwrap();
    let args = "hang".to_owned();
    let connect = connect(server.url()).password(&password).args(&args).timeout(Duration::from_millis(500));
    let late = connect.open::<String, Request>().await.map(drop);
    assert!(matches!(late, Err(ConnectError::Deadline)), "{late:?}");
}

#[tokio::test]
async fn a_key_opens() {
    let server = Server::start().await;
    let url = server.url().replace("localhost", "joe@localhost");
    connect(url).key(&key()).ping().await.unwrap();
}

#[tokio::test]
async fn each_step_is_told_in_its_order() {
    let server = Server::start().await;
    let steps = Mutex::new(Vec::new());
    let on_step = |step| steps.lock().unwrap().push(step);
    connect(server.url()).password(&password(PASSWORD)).on_step(on_step).ping().await.unwrap();
    let steps = steps.into_inner().unwrap();
    let [
        Step::Found(found),
        Step::Connected(peer),
        encrypted,
        Step::Stretching,
        Step::LoggedIn { mechanism, .. },
    ] = &steps[..]
    else {
        panic!("{steps:?}");
    };
    assert!(found.contains(peer));
    assert_eq!(*encrypted, Step::Encrypted { group: "X25519MLKEM768".into(), pin: server.pin });
    assert_eq!(*mechanism, Mechanism::Password);
}

/// Lets this much time pass at once, for all timers of the runtime.
fn leap(time: Duration) {
    tokio::time::pause();
    // The clock moves with the first poll.
    let _ = pin!(tokio::time::advance(time)).poll(&mut Context::from_waker(Waker::noop()));
    tokio::time::resume();
}

#[tokio::test]
async fn slow_derivation_is_finished_and_used() {
    let server = Server::start().await;
    let (password, outlasted) = (password(PASSWORD), AtomicUsize::new(0));
    let on_step = |step| match step {
        Step::Stretching => leap(Limits::default().login_timeout),
        Step::Outlasted => drop(outlasted.fetch_add(1, Ordering::Relaxed)),
        _ => {}
    };
    connect(server.url()).password(&password).on_step(on_step).ping().await.unwrap();
    assert_eq!((outlasted.into_inner(), password.derivations()), (1, 1));
}

#[tokio::test]
async fn derivation_without_end_is_given_up() {
    let server = Server::start().await;
    let on_step = |step| match step {
        Step::Stretching => leap(Limits::default().login_timeout),
        Step::Outlasted => drop(tokio::spawn(async {
            // Years pass until the key is there.
            loop {
                leap(Limits::default().login_timeout);
                tokio::task::yield_now().await;
            }
        })),
        _ => {}
    };
    let failed = connect(server.url()).password(&password(PASSWORD)).on_step(on_step).ping().await;
    let Err(ConnectError::Local(what)) = failed else { panic!("{failed:?}") };
    assert!(what.contains("takes longer than 30s") && what.contains("log in with a key"), "{what}");
}

#[tokio::test]
async fn a_salt_that_changed_costs_one_more_derivation_and_no_error() {
    let server = Server::with(Identity::new(), |number| if number == 0 { 1 } else { 2 }).await;
    let password = password(PASSWORD);
    connect(server.url()).password(&password).ping().await.unwrap();
    connect(server.url()).password(&password).ping().await.unwrap();
    assert_eq!(password.derivations(), 2);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_service_or_client_are_the_same_refusal() {
    let server = Server::start().await;
    let unknown = server.url().replace("/s?", "/t?");
    let client = server.url().replace("localhost", "ann@localhost");
    for (url, text) in [(server.url(), "wrong horse"), (unknown, PASSWORD), (client, PASSWORD)] {
        let refused = connect(&url).password(&password(text)).ping().await;
        assert!(matches!(refused, Err(ConnectError::Refused)), "{url}: {refused:?}");
    }
}

#[tokio::test]
async fn a_server_with_another_key_gets_no_login() {
    let server = Server::start().await;
    let url = format!("chan://localhost:{}/s?pin={}", server.port, Pin([9; 32]));
    let password = password(PASSWORD);
    let error = connect(url).password(&password).ping().await;
    assert!(matches!(error, Err(ConnectError::Identity(IdentityError::NotPinned { .. }))), "{error:?}");
    assert_eq!(password.derivations(), 0);
}

#[tokio::test]
async fn a_new_key_is_noted_only_by_consent_and_only_after_the_login() {
    let server = Server::start().await;
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
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let known = KnownHosts::at(directory.path().join("known_hosts"));
    known.add(&server.authority(), &Pin([9; 32])).unwrap();
    let url = format!("chan://localhost:{}/s?tofu", server.port);
    let error = connect(url).password(&password(PASSWORD)).known_hosts(known).accept_new(true).ping().await;
    assert!(matches!(error, Err(ConnectError::Identity(IdentityError::Changed { .. }))), "{error:?}");
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_told_from_one_that_speaks_no_tls() {
    let server = Server::plain(async |_| {}).await;
    let mut limits = Limits::default();
    limits.login_timeout = Duration::from_millis(300);
    let ping = connect(server.url()).key(&key()).limits(limits).ping().await;
    unreachable_because(ping, "closed the connection at once");
    let server = Server::plain(async |mut stream| {
        stream.write_all(b"SSH-2.0-OpenSSH_9.8\r\n").await.unwrap();
        drop(stream.read(&mut [0; 1024]).await);
    })
    .await;
    unreachable_because(connect(server.url()).key(&key()).ping().await, "does not speak TLS");
}

#[tokio::test]
async fn a_server_of_another_protocol_gets_no_login() {
    let identity = Identity::new();
    for (protocols, expected) in [(vec![], "lib-chan/1"), (vec![b"h2".to_vec()], "TLS failed")] {
        let mut identity = identity.clone();
        identity.config.alpn_protocols = protocols;
        let server = Server::with(identity, |_| 1).await;
        unreachable_because(connect(server.url()).key(&key()).ping().await, expected);
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = Server::plain(async |mut stream| drop(stream.read_to_end(&mut Vec::new()).await)).await;
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

#[tokio::test]
async fn retries_login_turned_away_before_tls() {
    let server = Server::start().await;
    let (port, connections) = (server.port, std::sync::atomic::AtomicU32::new(0));
    let front = Server::plain(move |mut near| {
        let turned_away = connections.fetch_add(1, Ordering::Relaxed) < 2;
        async move {
            if !turned_away {
                let mut far = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
            }
        }
    });
    let front = front.await.port;
    let url = server.url().replace(&format!("localhost:{port}/"), &format!("joe@localhost:{front}/"));
    connect(url).key(&key()).ping().await.unwrap();
}
