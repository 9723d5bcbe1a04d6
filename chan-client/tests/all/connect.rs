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
use lib_chan::{Channel, ConnectionState, ExitReason, Limits, Remote};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::proxy::{Proxy, nobody};
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

fn incompatible_because(result: Result<Ping, ConnectError>, expected: &str) {
    match result {
        Err(ConnectError::Incompatible { what, .. }) => assert!(what.contains(expected), "{what}"),
        other => panic!("{other:?}"),
    }
}

/// Serves on a port of loopback from now on, in front of a server that runs already.
async fn front(listener: TcpListener, server: u16) {
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut far = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
        });
    }
}

/// A port of loopback on which nothing listens.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn derives_key_of_password_once() {
    let server = Server::start().await;
    let password = password(PASSWORD);
    for _ in 0..3 {
        let ping = connect(server.url()).password(&password).ping().await.unwrap();
        assert_eq!(ping.pin, server.pin);
    }
    assert_eq!(password.derivations(), 1);
}

#[tokio::test]
async fn carries_calls_in_each_codec() {
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
async fn failed_start_says_why() {
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
async fn timeout_covers_start_of_service() {
    let server = Server::start().await;
    let password = password(PASSWORD);
    connect(server.url()).password(&password).ping().await.unwrap();
    let args = "hang".to_owned();
    let connect = connect(server.url()).password(&password).args(&args).timeout(Duration::from_millis(500));
    let late = connect.open::<String, Request>().await.map(drop);
    assert!(matches!(late, Err(ConnectError::Deadline)), "{late:?}");
}

#[tokio::test]
async fn logs_in_with_key() {
    let server = Server::start().await;
    let url = server.url().replace("localhost", "joe@localhost");
    connect(url).key(key()).ping().await.unwrap();
}

#[tokio::test]
async fn reports_steps_in_order() {
    let server = Server::start().await;
    let steps = Mutex::new(Vec::new());
    let on_step = |step| steps.lock().unwrap().push(step);
    connect(server.url()).password(password(PASSWORD)).on_step(on_step).ping().await.unwrap();
    let steps = steps.into_inner().unwrap();
    let [
        Step::Found { host, addresses },
        Step::Connected(peer),
        encrypted,
        Step::Stretching,
        Step::LoggedIn { mechanism, .. },
    ] = &steps[..]
    else {
        panic!("{steps:?}");
    };
    assert!(&**host == "localhost" && addresses.contains(peer));
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
async fn finishes_and_uses_slow_derivation() {
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
async fn gives_up_endless_derivation() {
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
    let failed = connect(server.url()).password(password(PASSWORD)).on_step(on_step).ping().await;
    let Err(ConnectError::Local(what)) = failed else { panic!("{failed:?}") };
    assert!(what.contains("takes longer than 30s") && what.contains("log in with a key"), "{what}");
}

#[tokio::test]
async fn changed_salt_costs_one_more_derivation() {
    let server = Server::with(Identity::new(), |number| if number == 0 { 1 } else { 2 }).await;
    let password = password(PASSWORD);
    connect(server.url()).password(&password).ping().await.unwrap();
    connect(server.url()).password(&password).ping().await.unwrap();
    assert_eq!(password.derivations(), 2);
}

#[tokio::test]
async fn refusals_look_alike() {
    let server = Server::start().await;
    let unknown = server.url().replace("/s?", "/t?");
    let client = server.url().replace("localhost", "ann@localhost");
    for (url, text) in [(server.url(), "wrong horse"), (unknown, PASSWORD), (client, PASSWORD)] {
        let refused = connect(&url).password(password(text)).ping().await;
        assert!(matches!(refused, Err(ConnectError::Refused)), "{url}: {refused:?}");
    }
}

#[tokio::test]
async fn wrong_key_gets_no_login() {
    let server = Server::start().await;
    let url = format!("chan://localhost:{}/s?pin={}", server.port, Pin([9; 32]));
    let password = password(PASSWORD);
    let error = connect(url).password(&password).ping().await;
    assert!(matches!(error, Err(ConnectError::Identity(IdentityError::NotPinned { .. }))), "{error:?}");
    assert_eq!(password.derivations(), 0);
}

#[tokio::test]
async fn saves_new_key_by_consent_after_login() {
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
async fn refuses_changed_key_despite_consent() {
    let server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let known = KnownHosts::at(directory.path().join("known_hosts"));
    known.add(&server.authority(), &Pin([9; 32])).unwrap();
    let url = format!("chan://localhost:{}/s?tofu", server.port);
    let error = connect(url).password(password(PASSWORD)).known_hosts(known).accept_new(true).ping().await;
    assert!(matches!(error, Err(ConnectError::Identity(IdentityError::Changed { .. }))), "{error:?}");
}

#[tokio::test]
async fn tells_closed_connection_from_other_protocol() {
    let server = Server::plain(async |_| {}).await;
    let mut limits = Limits::default();
    limits.login_timeout = Duration::from_millis(300);
    let ping = connect(server.url()).key(key()).limits(limits).ping().await;
    unreachable_because(ping, "closed the connection at once");
    let server = Server::plain(async |mut stream| {
        stream.write_all(b"SSH-2.0-OpenSSH_9.8\r\n").await.unwrap();
        drop(stream.read(&mut [0; 1024]).await);
    })
    .await;
    incompatible_because(connect(server.url()).key(key()).ping().await, "does not speak TLS");
}

#[tokio::test]
async fn refuses_server_of_another_alpn() {
    let identity = Identity::new();
    for (protocols, expected) in [(vec![], "lib-chan/1"), (vec![b"h2".to_vec()], "TLS failed")] {
        let mut identity = identity.clone();
        identity.config.alpn_protocols = protocols;
        let server = Server::with(identity, |_| 1).await;
        incompatible_because(connect(server.url()).key(key()).ping().await, expected);
    }
}

#[tokio::test]
async fn gives_up_silent_server() {
    let server = Server::plain(async |mut stream| drop(stream.read_to_end(&mut Vec::new()).await)).await;
    let limits = || {
        let mut limits = Limits::default();
        limits.tls_timeout = Duration::from_millis(20);
        limits
    };
    let silent = connect(server.url()).key(key()).limits(limits()).ping().await;
    unreachable_because(silent, "TLS was not set up in time");
    let deadline = connect(server.url()).key(key()).timeout(Duration::from_millis(20)).ping().await;
    assert!(matches!(deadline, Err(ConnectError::Deadline)), "{deadline:?}");
}

#[tokio::test]
async fn unanswered_login_sends_no_request_twice() {
    let identity = Identity::new();
    let (mut first, mut second) = (Server::mute(identity.clone()).await, Server::mute(identity).await);
    let both = format!("joe@localhost:{},localhost:{}/", first.port, second.port);
    let url = first.url().replace(&format!("localhost:{}/", first.port), &both);
    let mut limits = Limits::default();
    limits.login_timeout = Duration::from_millis(20);
    let wait = Duration::from_secs(60);
    let opened = connect(url).key(key()).limits(limits).wait_for_server(wait).open::<u32, Request>().await;
    match opened.map(drop) {
        Err(ConnectError::Unreachable { what, .. }) => assert!(what.contains("too long"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert!(first.noted.try_recv().is_ok() && first.noted.try_recv().is_err());
    assert!(second.noted.try_recv().is_err());
}

#[tokio::test]
async fn reports_usage_errors_before_connecting() {
    let error = connect("https://h:1/s?tofu").key(key()).ping().await;
    assert!(matches!(error, Err(ConnectError::Usage(UsageError::Url(_)))), "{error:?}");
    let error = connect("chan://h:1/s?tofu").ping().await;
    assert!(matches!(error, Err(ConnectError::Usage(UsageError::NoCredential))), "{error:?}");
    let error = connect("chan://h:1/s?ca=/nowhere").key(key()).ping().await;
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
                let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
            }
        }
    });
    let front = front.await.port;
    let url = server.url().replace(&format!("localhost:{port}/"), &format!("joe@localhost:{front}/"));
    connect(url).key(key()).ping().await.unwrap();
}

#[tokio::test]
async fn waits_for_server_that_starts_later() {
    let server = Server::start().await;
    let port = closed_port().await;
    let url = server.url().replace(&format!("localhost:{}/", server.port), &format!("joe@127.0.0.1:{port}/"));
    unreachable_because(connect(&url).key(key()).ping().await, "refused");

    let started = AtomicUsize::new(0);
    let begin = |step: Step| {
        // The server starts after the first failure.
        if matches!(step, Step::Retrying { .. }) && started.fetch_add(1, Ordering::Relaxed) == 0 {
            let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            tokio::spawn(front(TcpListener::from_std(listener).unwrap(), server.port));
        }
    };
    let wait = Duration::from_secs(60);
    connect(&url).key(key()).wait_for_server(wait).on_step(begin).ping().await.unwrap();
    assert_eq!(started.into_inner(), 1);
}

#[tokio::test(start_paused = true)]
async fn wait_for_server_ends() {
    let url = format!("chan://127.0.0.1:{}/s?pin={}", closed_port().await, Pin([1; 32]));
    let began = tokio::time::Instant::now();
    unreachable_because(
        connect(url).key(key()).wait_for_server(Duration::from_secs(30)).ping().await,
        "refused",
    );
    let waited = began.elapsed();
    assert!((Duration::from_secs(28)..=Duration::from_secs(30)).contains(&waited), "{waited:?}");
}

#[tokio::test]
async fn tries_servers_in_turn() {
    let server = Server::start().await;
    let servers = format!("joe@127.0.0.1:{},localhost:{}/", closed_port().await, server.port);
    let url = server.url().replace(&format!("localhost:{}/", server.port), &servers);
    let ping = connect(&url).key(key()).ping().await.unwrap();
    assert_eq!(*ping.authority, *server.authority());
}

#[tokio::test]
async fn wrong_key_stops_at_first_server() {
    let (wrong, right) = (Server::start().await, Server::start().await);
    let servers = format!("localhost:{},localhost:{}/", wrong.port, right.port);
    let url = right.url().replace(&format!("localhost:{}/", right.port), &servers);
    let error = connect(url).password(password(PASSWORD)).ping().await;
    assert!(matches!(error, Err(ConnectError::Identity(IdentityError::NotPinned { .. }))), "{error:?}");
}

#[tokio::test]
async fn keep_opens_new_session_after_lost_one() {
    let server = Server::start().await;
    let runs = AtomicUsize::new(0);
    let kept = connect(server.url()).password(password(PASSWORD)).keep(|chan: Channel<String, Request>| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        async move {
            let remote = chan.remote();
            if run < 2 {
                remote.call(Request::Cut).await?;
            }
            Ok(remote.call(Request::Double(21)).await?)
        }
    });
    assert_eq!(kept.await.unwrap(), "42");
    assert_eq!(runs.into_inner(), 3);
}

#[tokio::test]
async fn keep_ends_when_login_is_refused() {
    let server = Server::start().await;
    let kept = connect(server.url()).password(password("wrong horse"));
    let kept = kept.keep(|_: Channel<String, Request>| async { Ok::<(), ExitReason>(()) });
    assert!(matches!(kept.await, Err(ConnectError::Refused)));
}

#[tokio::test(start_paused = true)]
async fn keep_waits_for_server_with_growing_pauses() {
    let url = format!("chan://127.0.0.1:{}/s?pin={}", closed_port().await, Pin([1; 32]));
    let pauses = Mutex::new(Vec::new());
    let on_step = |step| {
        if let Step::Retrying { again_in, .. } = step {
            pauses.lock().unwrap().push(again_in);
        }
    };
    let kept = connect(url).key(key()).on_step(on_step);
    let kept = kept.keep(|_: Channel<String, Request>| async { Ok::<(), ExitReason>(()) });
    assert!(tokio::time::timeout(Duration::from_secs(3600), kept).await.is_err());
    let pauses = pauses.into_inner().unwrap();
    assert!(pauses[0] <= Duration::from_millis(100), "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(30)), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause > Duration::from_secs(10)), "{pauses:?}");
}

/// The tasks of a program need futures that may move between threads.
#[test]
fn futures_are_send() {
    fn is_send(_: impl Send) {}
    is_send(connect("").open::<String, Request>());
    is_send(connect("").ping());
    is_send(connect("").keep(|_: Channel<String, Request>| async { Ok::<(), ExitReason>(()) }));
}

const MINUTE: Duration = Duration::from_secs(60);

async fn until_detached(remote: &Remote<Request>) -> ConnectionState {
    let mut state = remote.connection();
    while !matches!(state, ConnectionState::Detached { .. }) {
        state = remote.connection_changed(state).await.unwrap();
    }
    state
}

#[tokio::test]
async fn session_survives_cuts() {
    let mut server = Server::start().await;
    let network = Proxy::before(&server.url());
    let opened = connect(network.url(&server.url())).password(password(PASSWORD)).resume(MINUTE).open();
    let chan: Channel<String, Request> = opened.await.unwrap();
    let remote = chan.remote();
    for n in 0..10 {
        assert_eq!(remote.call(Request::Double(n)).await, Ok((2 * n).to_string()));
        remote.cast(Request::Note(n)).await.unwrap();
        network.cut();
        assert_eq!(remote.call(Request::Double(n)).await, Ok((2 * n).to_string()));
        assert_eq!(server.noted.recv().await, Some(n));
    }
    assert_eq!(chan.close().await, Ok(()));
    server.noted.try_recv().unwrap_err();
}

#[tokio::test]
async fn session_waits_for_network() {
    let server = Server::start().await;
    let network = Proxy::before(&server.url());
    let opened = connect(network.url(&server.url()).replace("localhost", "joe@localhost"))
        .key(key())
        .resume(MINUTE)
        .open();
    let chan: Channel<String, Request> = opened.await.unwrap();
    let remote = chan.remote();
    assert_eq!(remote.call(Request::Double(1)).await, Ok("2".to_owned()));
    network.redirect(&nobody());
    network.cut();
    let detached = until_detached(&remote).await;
    network.redirect(&server.url());
    let attached = remote.connection_changed(detached).await;
    assert!(matches!(attached, Some(ConnectionState::Attached { epoch: 2.., .. })), "{attached:?}");
    assert_eq!(remote.call(Request::Double(2)).await, Ok("4".to_owned()));
}

#[tokio::test]
async fn another_server_ends_detached_session() {
    let (server, other) = (Server::start().await, Server::start().await);
    let network = Proxy::before(&server.url());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let opened = connect(network.url(&server.url())).password(password(PASSWORD)).resume(MINUTE);
    let opened = opened.on_redial(move |error, again_in| tell.send((error.to_string(), again_in)).unwrap());
    let chan: Channel<String, Request> = opened.open().await.unwrap();
    network.redirect(&nobody());
    network.cut();
    let (why, again_in) = told.recv().await.unwrap();
    assert!(why.contains("cannot connect") && again_in.is_some(), "{why} {again_in:?}");
    network.redirect(&other.url());
    let (why, again_in) = loop {
        match told.recv().await.unwrap() {
            (why, Some(_)) => assert!(why.contains("cannot connect"), "{why}"),
            last => break last,
        }
    };
    let reason = chan.remote().ended().await;
    assert_eq!((reason, again_in), (ExitReason::failed(&*why), None));
    assert!(why.contains("which the URL does not pin"), "{why}");
}
