//! A server on loopback, and clients made of lib_chan alone.
//!
//! Longer than other files, because attackers and good clients meet the same server.

#[path = "serving/attackers.rs"]
mod attackers;
#[path = "serving/resume.rs"]
mod resume;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chan_server::Server;
use chan_server::audit::{Audit, Format};
use chan_server::config::{Config, Service};
use chan_server::identity::StateDir;
use chan_server::modules::Modules;
use chan_server::modules::name_server::{Names, NamesMessage};
use lib_chan::channel::{OpenError, open};
use lib_chan::login::{ClientLogin, Credential, LoginError};
use lib_chan::payload::Codec;
use lib_chan::protocol::Transmit;
use lib_chan::secret::{Password, PrivateKey, Secret, Target};
use lib_chan::tls::{Pin, PinVerifier, client_config, exporter};
use lib_chan::{Channel, Event, ExitReason, Limits, Message, Opaque, Process, protocol, spawn};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Long enough for anything here; only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    server: Option<Server>,
    address: SocketAddr,
    pin: Pin,
    log: Log,
    _state: tempfile::TempDir,
}

/// The audit log of a server.
#[derive(Clone, Default)]
struct Log(Arc<(Mutex<String>, tokio::sync::Notify)>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.0.lock().unwrap().push_str(std::str::from_utf8(bytes).unwrap());
        self.0.1.notify_waiters();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Returns the lines of an event so far.
    fn all(&self, event: &str) -> Vec<serde_json::Value> {
        let text = self.0.0.lock().unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter(|line| line["event"] == event).collect()
    }

    fn find(&self, event: &str) -> Option<serde_json::Value> {
        self.all(event).into_iter().next()
    }

    /// Waits for the first line of an event.
    async fn first(&self, event: &str) -> serde_json::Value {
        self.nth(event, 0).await
    }

    /// Waits for the line of an event that has so many of that event before it.
    async fn nth(&self, event: &str, n: usize) -> serde_json::Value {
        let waiting = async {
            loop {
                let written = self.0.1.notified();
                if let Some(line) = self.all(event).into_iter().nth(n) {
                    return line;
                }
                written.await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {event} in the log"))
    }
}

/// The private key of a client, by its number.
fn key(number: u8) -> PrivateKey {
    PrivateKey::from_seed(Secret::new([number; 32])).unwrap()
}

/// A server with these services, `limits` being the lines of its `[limits]`.
async fn serve_with(modules: &Modules, services: &str, limits: &str) -> Running {
    let text = format!("listen = ['127.0.0.1:0']\n{services}\n[limits]\n{limits}\n");
    serve_config(Config::parse(&text, Path::new("test"), modules).unwrap()).await
}

async fn serve_config(config: Config) -> Running {
    let state = tempfile::tempdir().unwrap();
    let log = Log::default();
    let audit = Audit::to(log.clone(), Format::Json);
    let server = Server::bind(config, &StateDir::at(state.path().join("state")), audit).await.unwrap();
    let pin = server.urls()[0].url.rsplit_once("pin=").unwrap().1.parse().unwrap();
    Running { address: server.local_addrs()[0], server: Some(server), pin, log, _state: state }
}

async fn serve(services: &str, limits: &str) -> Running {
    serve_with(&Modules::standard(), services, limits).await
}

/// A service that the client `joe` may start with the key of this number.
fn service(name: &str, mfa: &str, number: u8) -> String {
    let key = key(number).public_key();
    format!("[[service]]\nname = '{name}'\nmfa = {mfa}\n[[service.client]]\nname = 'joe'\nkey = '{key}'\n")
}

fn echo() -> String {
    service("echo", "['echo', 'start']", 1)
}

impl Running {
    fn target(&self, service: &str, client: &str) -> Target {
        Target {
            host: self.address.to_string().into(),
            service: service.parse().unwrap(),
            client: client.parse().unwrap(),
        }
    }

    async fn tls(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        let config = client_config(Arc::new(PinVerifier::new([self.pin]))).unwrap();
        TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), tcp).await
    }

    async fn login(
        &self,
        service: &str,
        client: &str,
        credential: Credential<'_>,
    ) -> Result<(TlsStream<TcpStream>, lib_chan::handshake::Authenticated), LoginError> {
        let login = ClientLogin::prepare(self.target(service, client), credential).await;
        let mut stream = self.tls().await?;
        let exporter = exporter(stream.get_ref().1).unwrap();
        let authenticated = login.run(&mut stream, exporter).await?;
        Ok((stream, authenticated))
    }

    async fn open<In, Out: Transmit>(
        &self,
        service: &str,
        codec: Codec,
        args: &[u8],
    ) -> Result<Channel<In, Out>, OpenError> {
        let (stream, client) = self.login(service, "joe", Credential::Key(&key(1))).await.unwrap();
        open(stream, &client, &Limits::default(), codec, args, false).await
    }

    async fn shutdown(&mut self) {
        tokio::time::timeout(PATIENCE, self.server.take().unwrap().shutdown()).await.unwrap();
    }
}

fn refused(result: Result<impl Sized, LoginError>) -> String {
    match result {
        Ok(_) => panic!("let in"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn the_name_server_remembers_for_all_its_clients() {
    let service = service("name_server", "['name_server', 'start_me_up']", 1);
    let running = serve(&service, "").await;
    let one: Channel<(), NamesMessage> = running.open("name_server", Codec::Json, b"null").await.unwrap();
    one.remote().store("joe", "writing a book").await.unwrap();
    one.remote().flush().await.unwrap();
    let other: Channel<(), NamesMessage> = running.open("name_server", Codec::Bincode, b"").await.unwrap();
    // What one client stored may still be on its way through its own process.
    assert_eq!(one.remote().lookup("joe").await.unwrap().as_deref(), Some("writing a book"));
    assert_eq!(other.remote().lookup("joe").await.unwrap().as_deref(), Some("writing a book"));
    assert_eq!(other.remote().lookup("mike").await.unwrap(), None);
}

#[tokio::test]
async fn full_name_server_ends_only_that_session() {
    let service = service("name_server", "['name_server', 'start_me_up', '1 KiB']", 1);
    let running = serve(&service, "").await;
    let open = || running.open("name_server", Codec::Bincode, b"");
    let (one, other): (Channel<(), NamesMessage>, Channel<(), NamesMessage>) =
        (open().await.unwrap(), open().await.unwrap());
    one.remote().store("joe", "x".repeat(600)).await.unwrap();
    one.remote().store("mike", "x".repeat(600)).await.unwrap();
    let ended = one.remote().ended().await;
    assert_eq!(ended, ExitReason::failed("no room for this name: all together may have 1024 bytes"));
    assert_eq!(other.remote().lookup("mike").await.unwrap(), None);
    assert_eq!(other.remote().lookup("joe").await.unwrap().map(|value| value.len()), Some(600));
    // Where there is room again, a name finds it.
    other.remote().store("joe", "x".repeat(0)).await.unwrap();
    other.remote().store("mike", "x".repeat(600)).await.unwrap();
    assert_eq!(other.remote().lookup("mike").await.unwrap().map(|value| value.len()), Some(600));
}

#[tokio::test]
async fn a_shared_password_opens_the_service() {
    let text = "[[service]]\nname = 'echo'\npassword = 'correct horse battery'\nmfa = ['echo', 'start']";
    let running = serve(text, "").await;
    let password = Password::new("correct horse battery").unwrap();
    running.login("echo", "", Credential::Password(&password)).await.unwrap();
    let wrong = Password::new("incorrect horse battery").unwrap();
    refused(running.login("echo", "", Credential::Password(&wrong)).await);
    assert_eq!(running.log.first("login_failed").await["why"], "wrong proof");
}

#[tokio::test]
async fn echo_returns_messages_in_every_codec() {
    let running = serve(&echo(), "").await;
    for (codec, args, message) in [
        (Codec::Raw, &b""[..], &b"any bytes \x00\xff"[..]),
        (Codec::Json, b"null", br#"{"a": [1, 2.50, null]}"#),
        (Codec::Bincode, b"", &[1, 2, 3]),
    ] {
        let mut chan: Channel<Opaque> = running.open("echo", codec, args).await.unwrap();
        let message = Opaque(Bytes::from_static(message));
        chan.remote().cast(message.clone()).await.unwrap();
        match chan.recv().await {
            Some(Message::Cast(back)) => assert_eq!(back, message),
            other => panic!("{other:?}"),
        }
        assert_eq!(chan.remote().call(message.clone()).await.unwrap(), message);
    }
}

#[tokio::test]
async fn refusals_look_alike_except_in_log() {
    let key_line = key(1).public_key();
    let revoked = format!("[[service.client]]\nname = 'mike'\nkey = '{key_line}'\ndisabled = true\n");
    let cases = [
        ("nowhere", "joe", 1, "unknown service"),
        ("echo", "nobody", 1, "unknown client"),
        ("echo", "joe", 2, "wrong proof"),
        ("echo", "mike", 1, "disabled"),
    ];
    let mut texts = Vec::new();
    for (service, client, number, why) in cases {
        // A server for each: three failures would be enough for a penalty.
        let running = serve(&format!("{}{revoked}", echo()), "").await;
        let key = key(number);
        texts.push(refused(running.login(service, client, Credential::Key(&key)).await));
        let line = running.log.first("login_failed").await;
        assert_eq!(
            (&line["why"], &line["service"], &line["client"]),
            (&why.into(), &service.into(), &client.into())
        );
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
}

#[tokio::test]
async fn turns_away_failing_source_under_load() {
    // Half of these is nobody at all, so there is load from the first login on.
    let running = serve(&echo(), "max_logins_before_drop = 1\nlogin_drop_percent = 0").await;
    for _ in 0..3 {
        refused(running.login("echo", "joe", Credential::Key(&key(2))).await);
    }
    // The third penalty is given when the server has closed that connection, which its log says afterwards.
    running.log.first("login_failed").await;
    let mut waiting = 0;
    while running.tls().await.is_ok() {
        waiting += 1;
        assert!(waiting < 10, "never turned away");
    }
    let why = "too many failures from this source, under load ([gate] penalties)";
    assert_eq!(running.log.first("turned").await["why"], why);
}

#[tokio::test]
async fn turns_away_only_source_with_many_logins() {
    let running = serve(&echo(), "max_logins_per_source = 1\nmax_logins_before_drop = 2").await;
    let waiting = running.tls().await.unwrap();
    let mut second = TcpStream::connect(running.address).await.unwrap();
    let ended = second.read(&mut [0; 1]).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let why = "too many logins at once from this source (max_logins_per_source)";
    assert_eq!(running.log.first("turned").await["why"], why);
    drop(waiting);
}

#[tokio::test]
async fn silence_is_cut_off_at_the_deadline() {
    let running = serve(&echo(), "tls_timeout = '100 ms'\nlogin_timeout = '200 ms'").await;
    let mut silent = TcpStream::connect(running.address).await.unwrap();
    assert!(matches!(silent.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    assert_eq!(running.log.first("login_failed").await["why"], "TLS: deadline passed");
    let running = serve(&echo(), "tls_timeout = '200 ms'\nlogin_timeout = '200 ms'").await;
    let mut silent = running.tls().await.unwrap();
    assert!(matches!(silent.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    assert_eq!(running.log.first("login_failed").await["why"], "login: deadline passed");
}

#[tokio::test]
async fn cuts_off_client_that_starts_nothing() {
    let running = serve(&echo(), "tls_timeout = '1 s'\nlogin_timeout = '1 s'").await;
    let (mut stream, _client) = running.login("echo", "joe", Credential::Key(&key(1))).await.unwrap();
    assert!(matches!(stream.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    running.log.first("session_ended").await;
}

#[tokio::test]
async fn logins_that_start_nothing_are_bounded_apart() {
    let running = serve(&echo(), "max_logins = 8\nmax_logins_before_drop = 8").await;
    // They have proved themselves, and ask for nothing.
    let mut waiting = Vec::new();
    while running.log.find("session_refused").is_none() {
        waiting.push(running.login("echo", "joe", Credential::Key(&key(1))).await.unwrap());
        assert!(waiting.len() < 100, "never refused");
    }
    let why = "this client has logged in too often and started nothing (a quarter of max_logins)";
    assert_eq!(running.log.first("session_refused").await["why"], why);
    assert!(running.log.find("turned").is_none());
}

#[tokio::test]
async fn refuses_one_session_too_many_by_name() {
    let running = serve(&echo(), "max_sessions_per_client = 1").await;
    let first: Channel<Opaque> = running.open("echo", Codec::Raw, b"").await.unwrap();
    let second = running.open::<Opaque, Opaque>("echo", Codec::Raw, b"").await;
    match second {
        Err(OpenError::Refused(text)) => {
            assert_eq!(&*text, "this client has too many sessions (max_sessions_per_client)")
        }
        other => panic!("{other:?}"),
    }
    first.close().await.unwrap();
    running.log.first("session_ended").await;
    // The end of the refused one may have been that line; the first one's place is free soon after.
    let again = async {
        while running.open::<Opaque, Opaque>("echo", Codec::Raw, b"").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn refuses_wrong_codec_and_arguments_by_name() {
    let running = serve(&service("ns", "['name_server', 'start_me_up']", 1), "").await;
    let text = |opened: Result<Channel<Opaque>, OpenError>| match opened {
        Err(OpenError::Codec(text)) => text,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        &*text(running.open("ns", Codec::Raw, b"").await),
        "the service speaks bincode or json, not raw"
    );
    let wrong = text(running.open("ns", Codec::Json, b"[1]").await);
    assert!(wrong.starts_with("the arguments: "), "{wrong}");
    running.log.first("session_refused").await;
}

#[tokio::test]
async fn arguments_reach_the_log_cut_and_escaped() {
    #[derive(Clone, serde::Deserialize)]
    enum Only {
        This,
    }
    let modules = Modules::new().function(
        "test",
        "only",
        |_me: Process, _chan: Channel<()>, Only::This: Only, (): ()| async { Ok(()) },
    );
    let running = serve_with(&modules, &service("only", "['test', 'only']", 1), "").await;
    let args = format!("\"\u{9b}31m\u{202e}{}\"", "x".repeat(900_000));
    let refused = running.open::<Opaque, Opaque>("only", Codec::Json, args.as_bytes()).await;
    assert!(matches!(refused, Err(OpenError::Codec(_))), "{refused:?}");
    let line = running.log.first("session_refused").await;
    let why = line["why"].as_str().unwrap();
    assert!(why.contains("\\u{9b}31m\\u{202e}xxx"), "{why}");
    assert!(why.len() < 1000, "{} bytes", why.len());
}

#[tokio::test]
async fn reason_of_service_reaches_client_and_log() {
    let modules = Modules::new()
        .service("test", "fail", |_chan: Channel<()>| async { Err(ExitReason::failed("no\nmood")) });
    let running = serve_with(&modules, &service("fail", "['test', 'fail']", 1), "").await;
    let chan: Channel<()> = running.open("fail", Codec::Json, b"null").await.unwrap();
    assert_eq!(chan.remote().ended().await, ExitReason::failed("no\nmood"));
    let line = running.log.first("session_ended").await;
    assert_eq!(line["reason"], "failed: no\\nmood");
    assert!(line["bytes_in"].as_u64().unwrap() > 100 && line["bytes_out"].as_u64().unwrap() > 100, "{line}");
}

#[tokio::test]
async fn program_configures_itself_without_a_file() {
    let echo = |prefix: &'static str| {
        let serve = move |mut chan: Channel<String>| async move {
            while let Some(Message::Cast(text)) = chan.recv().await {
                chan.remote().cast(format!("{prefix} {text}")).await?;
            }
            Ok(())
        };
        Service::new("echo", serve).unwrap()
    };
    assert!(Service::new("no spaces", |_: Channel<()>| async { Ok(()) }).is_err());
    assert!(echo("").client("", key(1).public_key()).is_err());
    let password = Password::new("correct horse battery").unwrap();
    let service = echo("second").client("joe", key(2).public_key()).unwrap();
    let service = service.client("joe", key(1).public_key()).unwrap().password(password.clone());
    let config = Config::new(["127.0.0.1:0".parse().unwrap()]).service(echo("first")).service(service);
    let running = serve_config(config).await;
    assert_eq!(running.server.as_ref().unwrap().urls().len(), 2);
    refused(running.login("echo", "joe", Credential::Key(&key(2))).await);
    running.login("echo", "", Credential::Password(&password)).await.unwrap();
    let mut chan: Channel<String> = running.open("echo", Codec::Json, b"null").await.unwrap();
    chan.remote().cast("hello").await.unwrap();
    assert!(matches!(chan.recv().await, Some(Message::Cast(text)) if text == "second hello"));
}

#[protocol]
trait Hits {
    fn hit();
    async fn count() -> u64;
}

#[tokio::test]
async fn shared_process_serves_all_clients() {
    let hits = spawn(async |mut me: Process<HitsMessage>| {
        let mut hits = 0;
        while let Event::Message(message) = me.recv().await {
            match message {
                HitsMessage::Hit {} => hits += 1,
                HitsMessage::Count { reply } => reply.send(hits),
            }
        }
        Ok(())
    });
    let service = Service::shared("hits", hits.clone()).unwrap();
    let service = service.client("joe", key(1).public_key()).unwrap();
    let running = serve_config(Config::new(["127.0.0.1:0".parse().unwrap()]).service(service)).await;
    let open =
        async || -> Channel<(), HitsMessage> { running.open("hits", Codec::Json, b"null").await.unwrap() };
    let (one, other) = (open().await, open().await);
    one.remote().hit().await.unwrap();
    assert_eq!(one.remote().count().await, Ok(1));
    assert_eq!(other.remote().count().await, Ok(1));
    hits.pid().exit(ExitReason::Kill);
    hits.pid().ended().await;
    other.remote().hit().await.unwrap();
    assert_eq!(other.remote().ended().await, ExitReason::NoProc);
}

#[tokio::test]
async fn arguments_of_both_sides_reach_the_function() {
    let modules = Modules::new().function(
        "test",
        "join",
        |_me: Process, chan: Channel<(), String>, (theirs,): (String,), (ours, count): (String, u8)| async move {
            chan.remote().cast(format!("{theirs} {ours} {count} {}", chan.client())).await?;
            chan.remote().flush().await
        },
    );
    let running = serve_with(&modules, &service("join", "['test', 'join', 'ours', 7]", 1), "").await;
    let mut chan: Channel<String, ()> = running.open("join", Codec::Json, br#"["theirs"]"#).await.unwrap();
    match chan.recv().await {
        Some(Message::Cast(text)) => assert_eq!(text, "theirs ours 7 joe"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn mailbox_of_service_has_configured_size() {
    let modules = Modules::new().function(
        "test",
        "count",
        |me: Process<u32>, chan: Channel<(), u32>, (): (), (): ()| async move {
            let address = me.address();
            let room = (0..).take_while(|&number| address.try_send(number).is_ok()).count();
            chan.remote().cast(room as u32).await?;
            chan.remote().flush().await
        },
    );
    let count = service("count", "['test', 'count']", 1);
    for (limits, room) in [("mailbox_capacity = 3", 3), ("", Limits::default().mailbox_capacity)] {
        let running = serve_with(&modules, &count, limits).await;
        let mut chan: Channel<u32, ()> = running.open("count", Codec::Json, b"null").await.unwrap();
        match chan.recv().await {
            Some(Message::Cast(counted)) => assert_eq!(counted as usize, room),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn shutdown_ends_sessions_and_logins() {
    let mut running = serve(&echo(), "").await;
    let chan: Channel<Opaque> = running.open("echo", Codec::Raw, b"").await.unwrap();
    let _in_login = running.tls().await.unwrap();
    let remote = chan.remote();
    let ended = tokio::spawn(async move { remote.ended().await });
    running.shutdown().await;
    assert_eq!(ended.await.unwrap(), ExitReason::Shutdown);
    assert_eq!(running.log.first("session_ended").await["reason"], "shutdown");
    running.log.first("stopped").await;
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn a_dropped_server_leaves_nothing_behind() {
    let mut running = serve(&echo(), "").await;
    let chan: Channel<Opaque> = running.open("echo", Codec::Raw, b"").await.unwrap();
    drop(running.server.take());
    let ended = tokio::time::timeout(PATIENCE, chan.remote().ended()).await.unwrap();
    assert_eq!(ended, ExitReason::NoConnection);
}

/// A far end that says hello, then gives back what it was told, once it has heard all of it.
async fn talkative(listener: TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    stream.write_all(&heard).await.unwrap();
}

#[tokio::test]
async fn a_relay_closes_each_direction_on_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mfa = format!("['tcp', 'connect', '{}']", listener.local_addr().unwrap());
    tokio::spawn(talkative(listener));
    let running = serve(&service("relay", &mfa, 1), "").await;
    let mut chan: Channel<Opaque> = running.open("relay", Codec::Raw, b"").await.unwrap();
    let piece = |bytes: &'static [u8]| Opaque(Bytes::from_static(bytes));
    chan.remote().cast(piece(b"over")).await.unwrap();
    chan.remote().cast(piece(b" and out")).await.unwrap();
    chan.remote().cast(piece(b"")).await.unwrap();
    let mut heard = Vec::new();
    while let Some(Message::Cast(Opaque(piece))) = chan.recv().await {
        if piece.is_empty() {
            break;
        }
        heard.extend_from_slice(&piece);
    }
    assert_eq!(heard, b"helloover and out");
    assert_eq!(chan.remote().ended().await, ExitReason::Normal);
}

#[tokio::test]
async fn refused_relay_ends_with_its_reason() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let running = serve(&service("relay", &format!("['tcp', 'connect', '{unused}']"), 1), "").await;
    let chan: Channel<Opaque> = running.open("relay", Codec::Raw, b"").await.unwrap();
    assert_eq!(chan.remote().ended().await, ExitReason::failed("target: connection refused"));
}

#[tokio::test]
async fn relays_unix_socket_until_session_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let running =
        serve(&service("relay", &format!("['unix', 'connect', '{}']", path.display()), 1), "").await;
    let chan: Channel<Opaque> = running.open("relay", Codec::Raw, b"").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    chan.remote().cast(Opaque(Bytes::from_static(b"ping"))).await.unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
    drop(chan);
    assert_eq!(stream.read(&mut heard).await.unwrap(), 0);
}
