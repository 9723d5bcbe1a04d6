//! Reloads of a server on loopback, under the eyes of clients that are logged in.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chan_server::audit::Audit;
use chan_server::config::Config;
use chan_server::identity::StateDir;
use chan_server::live::{SessionState, Whom};
use chan_server::modules::Modules;
use chan_server::reload::Changes;
use chan_server::{Handle, Revoked, Server};
use lib_chan::auth::{Argon2Params, PasswordVerifier, Salt};
use lib_chan::channel::{OpenError, open};
use lib_chan::handshake::Authenticated;
use lib_chan::login::{ClientLogin, Credential, LoginError};
use lib_chan::payload::Codec;
use lib_chan::secret::{Password, PrivateKey, Secret, Target};
use lib_chan::tls::{Pin, PinVerifier, client_config, exporter};
use lib_chan::{CallFailure, Channel, Executed, ExitReason, Limits, Opaque};
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Long enough for anything here; only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(30);
const LISTEN: &str = "listen = ['127.0.0.1:0']\n";

struct Running {
    server: Server,
    handle: Handle,
    modules: Modules,
    pins: Vec<Pin>,
    state: StateDir,
    _folder: tempfile::TempDir,
}

type Echo = Channel<Opaque, Opaque>;

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_seed(Secret::new([number; 32])).unwrap()
}

fn service(name: &str) -> String {
    format!("[[service]]\nname = '{name}'\nmfa = ['echo', 'start']\n")
}

fn client(name: &str, number: u8) -> String {
    format!("[[service.client]]\nname = '{name}'\nkey = '{}'\n", key(number).public_key())
}

impl Running {
    async fn start(services: &str) -> Self {
        Self::start_with(&format!("{LISTEN}{services}")).await
    }

    async fn start_with(text: &str) -> Self {
        let modules = Modules::standard();
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::at(folder.path().join("state"));
        let config = Config::parse(text, Path::new("test"), &modules).unwrap();
        let server = Server::bind(config, &state, Audit::none()).await.unwrap();
        let mut this =
            Self { handle: server.handle(), server, modules, pins: Vec::new(), state, _folder: folder };
        this.pins = this.pins_of_urls();
        this
    }

    fn pins_of_urls(&self) -> Vec<Pin> {
        let url = self.handle.urls().remove(0).url;
        url.rsplit_once("pin=").unwrap().1.split(',').map(|pin| pin.parse().unwrap()).collect()
    }

    fn config(&self, text: &str) -> Config {
        Config::parse(text, Path::new("test"), &self.modules).unwrap()
    }

    async fn reload(&self, services: &str) -> Changes {
        self.handle.reload(self.config(&format!("{LISTEN}{services}"))).await.unwrap()
    }

    async fn login_with(
        &self,
        (service, client): (&str, &str),
        credential: Credential<'_>,
    ) -> Result<(TlsStream<TcpStream>, Authenticated), LoginError> {
        let address = self.server.local_addrs()[0];
        let target = Target {
            host: address.to_string().into(),
            service: service.parse().unwrap(),
            client: client.parse().unwrap(),
        };
        let login = ClientLogin::prepare(target, credential).await;
        let tcp = TcpStream::connect(address).await?;
        let config = client_config(Arc::new(PinVerifier::new(self.pins.iter().copied()))).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(config).connect(name, tcp).await?;
        let exporter = exporter(stream.get_ref().1).unwrap();
        let authenticated = login.run(&mut stream, exporter).await?;
        Ok((stream, authenticated))
    }

    async fn open(&self, service: &str, client: &str, number: u8) -> Echo {
        let (stream, who) = self.login_with((service, client), Credential::Key(&key(number))).await.unwrap();
        start(stream, &who).await.unwrap()
    }
}

async fn start(stream: TlsStream<TcpStream>, who: &Authenticated) -> Result<Echo, OpenError> {
    open(stream, who, &Limits::default(), Codec::Raw, b"", false).await
}

async fn is_alive(chan: &Echo) -> bool {
    let remote = chan.remote();
    let call = remote.call(Opaque(Bytes::from_static(b"ping")));
    tokio::time::timeout(PATIENCE, call).await.unwrap().is_ok()
}

async fn ended(chan: &Echo) -> ExitReason {
    tokio::time::timeout(PATIENCE, chan.remote().ended()).await.unwrap()
}

#[tokio::test]
async fn same_grants_in_another_order_end_nothing() {
    let [a, b] = [
        format!("{}{}{}", service("a"), client("joe", 1), client("mike", 2)),
        service("b") + &client("joe", 1),
    ];
    let running = Running::start(&format!("{a}{b}")).await;
    let chans = [
        running.open("a", "joe", 1).await,
        running.open("a", "mike", 2).await,
        running.open("b", "joe", 1).await,
    ];
    let text =
        format!("# a comment\n{b}\n\n{}{} # another\n{}", service("a"), client("mike", 2), client("joe", 1));
    let changes = running.reload(&text).await;
    assert!(changes.changes.is_empty() && changes.ends.is_empty(), "{changes}");
    for chan in &chans {
        assert!(is_alive(chan).await);
    }
}

#[tokio::test]
async fn each_withdrawn_right_ends_its_sessions_alone() {
    let all = format!(
        "{}{}{}{}",
        service("a"),
        client("joe", 1),
        service("b"),
        client("joe", 1) + &client("mike", 2)
    );
    let joe_at_b = format!("{}{}{}", service("a"), client("joe", 1), service("b"));
    for (text, why) in [
        (format!("{}{}", service("a"), client("joe", 1)), Revoked::ServiceRemoved),
        (format!("{joe_at_b}{}", client("joe", 1)), Revoked::ClientRemoved),
        (format!("{joe_at_b}{}disabled = true\n", client("mike", 2)), Revoked::ClientDisabled),
        (format!("{joe_at_b}{}", client("mike", 3)), Revoked::CredentialChanged),
        (format!("{joe_at_b}{}from = ['10.0.0.0/8']\n", client("mike", 2)), Revoked::SourceNotAllowed),
        (format!("{joe_at_b}from = ['10.0.0.0/8', '::1']\n{}", client("mike", 2)), Revoked::SourceNotAllowed),
    ] {
        let running = Running::start(&all).await;
        let (joe, mike) = (running.open("a", "joe", 1).await, running.open("b", "mike", 2).await);
        let changes = running.reload(&text).await;
        let ends: Vec<_> = changes.ends.iter().map(|end| (&*end.service, &*end.client, end.why)).collect();
        assert_eq!(ends, [("b", "mike", why)], "{changes}");
        assert_eq!(ended(&mike).await, ExitReason::Revoked, "{why:?}");
        assert!(is_alive(&joe).await, "{why:?}");
        let again = running.login_with(("b", "mike"), Credential::Key(&key(2))).await;
        assert!(matches!(again, Err(LoginError::Handshake(_))), "{why:?}: {:?}", again.err());
    }
}

#[tokio::test]
async fn grace_is_waited_for_and_taken_back() {
    let (granted, without) = (service("a") + &client("joe", 1), service("a") + &client("mike", 2));
    let running = Running::start(&granted).await;
    let joe = running.open("a", "joe", 1).await;
    let state = || running.handle.sessions().remove(0).state;
    let reload = |grace: &str, services: &str| {
        running.config(&format!("revoke_grace = '{grace}'\n{LISTEN}{services}"))
    };
    let changes = running.handle.reload(reload("1 h", &without)).await.unwrap();
    assert_eq!((changes.ends.len(), changes.grace_ms, state()), (1, 3_600_000, SessionState::Ending));
    assert!(is_alive(&joe).await);
    running.handle.reload(reload("1 h", &granted)).await.unwrap();
    assert_eq!(state(), SessionState::Open);
    // A shorter grace counts from the later reload.
    running.handle.reload(reload("1 h", &without)).await.unwrap();
    running.handle.reload(reload("50 ms", &without)).await.unwrap();
    assert_eq!(ended(&joe).await, ExitReason::Revoked);
}

#[tokio::test]
async fn reload_that_cannot_listen_changes_nothing() {
    let running = Running::start(&(service("a") + &client("joe", 1))).await;
    let joe = running.open("a", "joe", 1).await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!("listen = ['{}']\n{}{}", taken.local_addr().unwrap(), service("b"), client("joe", 1));
    let before = (running.handle.status(), running.handle.urls());
    for result in [
        running.handle.compare(running.config(&text)).await,
        running.handle.reload(running.config(&text)).await,
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("cannot listen on 127.0.0.1:"), "{error}");
    }
    assert_eq!((running.handle.status(), running.handle.urls()), before);
    assert!(is_alive(&joe).await);
}

#[tokio::test]
async fn listen_addresses_move_under_open_sessions() {
    let services = service("a") + &client("joe", 1);
    let running = Running::start(&services).await;
    let joe = running.open("a", "joe", 1).await;
    let old = running.server.local_addrs()[0];
    // Another program may take the port in between, but not each time.
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut moved: Option<SocketAddr> = None;
    for _ in 0..10 {
        let new = free();
        let config = running.config(&format!("listen = ['{new}']\n{services}"));
        if running.handle.reload(config).await.is_ok() {
            moved = Some(new);
            break;
        }
    }
    assert_eq!(running.server.local_addrs(), [moved.unwrap()]);
    let mike = running.open("a", "joe", 1).await;
    assert!(is_alive(&joe).await && is_alive(&mike).await);
    // The task that had the old socket closes it as soon as it runs.
    let closed = async {
        while TcpStream::connect(old).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
}

#[tokio::test]
async fn key_rotates_under_clients_with_both_pins() {
    let services = service("a") + &client("joe", 1);
    let mut running = Running::start(&services).await;
    let joe = running.open("a", "joe", 1).await;
    running.state.announce_key().unwrap();
    let changes = running.reload(&services).await;
    assert!(changes.to_string().ends_with("changed: the announced key"), "{changes}");
    running.pins = running.pins_of_urls();
    let [old, new] = running.pins[..] else { panic!("{:?}", running.pins) };
    for (pins, shown) in [(running.pins.clone(), old), (vec![new], new)] {
        running.pins = pins;
        let works = running.login_with(("a", "joe"), Credential::Key(&key(1))).await.is_ok();
        assert_eq!(works, shown == old, "the announced key is not shown yet");
    }
    running.state.rotate_key().unwrap();
    running.reload(&services).await;
    assert_eq!(running.pins_of_urls(), [new]);
    for pins in [vec![old, new], vec![new]] {
        running.pins = pins;
        assert!(is_alive(&running.open("a", "joe", 1).await).await);
    }
    assert!(is_alive(&joe).await);
}

/// A password, a verifier made here, and verifiers made elsewhere, which have salts of their own.
#[tokio::test]
async fn password_and_its_verifiers_are_one_credential() {
    let password = Password::new("correct horse battery staple").unwrap();
    let verifier = |text: &str, salt: u8| {
        let password = Password::new(text).unwrap();
        let verifier = PasswordVerifier::derive(&password, &Salt([salt; 16]), Argon2Params::DEFAULT).unwrap();
        format!("{}verifier = '{}'\n", service("a"), *verifier.to_line())
    };
    let plain = format!("{}password = 'correct horse battery staple'\n", service("a"));
    let running = Running::start(&plain).await;
    let (stream, who) = running.login_with(("a", ""), Credential::Password(&password)).await.unwrap();
    let chan = start(stream, &who).await.unwrap();
    for same in [&plain, &verifier("correct horse battery staple", 1), &plain, &plain] {
        let changes = running.reload(same).await;
        assert!(changes.changes.is_empty() && changes.ends.is_empty(), "{changes}");
        assert!(is_alive(&chan).await);
    }
    running.reload(&verifier("wrong horse battery staple", 2)).await;
    assert_eq!(ended(&chan).await, ExitReason::Revoked);
}

#[tokio::test]
async fn login_overtaken_by_reload_gets_no_session() {
    let running = Running::start(&(service("a") + &client("joe", 1))).await;
    let (stream, who) = running.login_with(("a", "joe"), Credential::Key(&key(1))).await.unwrap();
    let changes = running.reload(&(service("a") + &client("mike", 2))).await;
    assert!(changes.ends.len() <= 1, "{changes}");
    assert!(start(stream, &who).await.is_err());
}

#[tokio::test]
async fn kick_ends_the_named_sessions_alone() {
    let services = format!(
        "{}{}{}{}",
        service("a"),
        client("joe", 1) + &client("mike", 2),
        service("b"),
        client("joe", 1)
    );
    let running = Running::start(&services).await;
    let a_joe = running.open("a", "joe", 1).await;
    let a_mike = running.open("a", "mike", 2).await;
    let b_joe = running.open("b", "joe", 1).await;
    let other = running.open("a", "mike", 2).await;
    let sessions = running.handle.sessions();
    let names: Vec<_> = sessions.iter().map(|info| (&*info.service, &*info.client)).collect();
    assert_eq!(names, [("a", "joe"), ("a", "mike"), ("b", "joe"), ("a", "mike")]);
    assert!(sessions.iter().all(|info| info.state == SessionState::Open && info.bytes_in > 0));
    for (whom, chans) in [
        (Whom::Session(sessions[3].connection), vec![&other]),
        (Whom::Client("joe".into()), vec![&a_joe, &b_joe]),
        (Whom::Service("a".into()), vec![&a_mike]),
        (Whom::Service("none".into()), vec![]),
    ] {
        let kicked = running.handle.kick(&whom);
        // A session that has ended already may still be leaving.
        assert!(kicked.len() >= chans.len(), "{whom:?}: {kicked:?}");
        for chan in chans {
            assert_eq!(ended(chan).await, ExitReason::Shutdown);
        }
        if whom == Whom::Session(sessions[3].connection) {
            assert!(is_alive(&a_mike).await && is_alive(&a_joe).await);
        }
    }
}

#[tokio::test]
async fn quotas_bound_one_client_and_not_its_neighbour() {
    let bounded = client("joe", 1) + "max_sessions = 1\nmax_bytes_per_second = '64 KiB'\n";
    let running = Running::start(&format!("{}{bounded}{}", service("a"), client("mike", 2))).await;
    let (joe, mike) = (running.open("a", "joe", 1).await, running.open("a", "mike", 2).await);
    let (stream, who) = running.login_with(("a", "joe"), Credential::Key(&key(1))).await.unwrap();
    assert!(matches!(start(stream, &who).await, Err(OpenError::Refused(_))), "a second session");
    let calls = async |chan: &Echo| {
        let (remote, began) = (chan.remote(), tokio::time::Instant::now());
        for _ in 0..6 {
            remote.call(Opaque(Bytes::from(vec![7; 16 * 1024]))).await.unwrap();
        }
        began.elapsed()
    };
    // 192 KiB in and out: a burst of 64 KiB, and two seconds for the rest.
    let (joe, mike) = tokio::join!(calls(&joe), calls(&mike));
    assert!(joe >= Duration::from_millis(1400), "{joe:?}");
    assert!(mike < joe, "{mike:?}");
}

fn ping() -> Opaque {
    Opaque(Bytes::from_static(b"ping"))
}

#[tokio::test]
async fn reload_changes_quotas_of_running_sessions() {
    let running = Running::start(&format!("{}{}", service("a"), client("joe", 1))).await;
    let chan = running.open("a", "joe", 1).await;
    let remote = chan.remote();
    for _ in 0..100 {
        remote.call(ping()).await.unwrap();
    }
    let rates = "max_calls_per_second = 1\nmax_calls = 5\n";
    let changes = running.reload(&format!("{}{rates}{}", service("a"), client("joe", 1))).await;
    assert_eq!(changes.to_string(), "changed: service a (max_calls_per_second, max_calls)");
    assert!(remote.call(ping()).await.is_ok());
    let refused = remote.call(ping()).await.unwrap_err();
    let CallFailure::Overload { retry_after: Some(wait) } = refused.reason else { panic!("{refused}") };
    assert!(refused.executed == Executed::No && wait <= Duration::from_secs(1), "{refused}");
    let of_client = client("joe", 1) + "max_calls_per_second = 1000000\n";
    let changes = running.reload(&(service("a") + &of_client)).await;
    let expected = "changed: service a (max_calls_per_second, max_calls)\nchanged: client joe of a (max_calls_per_second)";
    assert_eq!(changes.to_string(), expected);
    for _ in 0..100 {
        remote.call(ping()).await.unwrap();
    }
    let info = &running.handle.sessions()[0];
    assert_eq!((info.calls, info.calls_in_flight), (202, 0), "refused calls are calls");
}

#[tokio::test]
async fn flood_of_calls_leaves_neighbour_its_part() {
    let rates = "max_calls_per_second = 300\nmax_calls = 8\n";
    let clients = client("joe", 1) + &client("mike", 2);
    let running = Running::start(&format!("{}{rates}{clients}", service("a"))).await;
    let (answered, refused) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (mut flood, mut chans) = (tokio::task::JoinSet::new(), Vec::new());
    // The right credential, many sessions, many calls at once in each, and no regard for the time to wait.
    for _ in 0..4 {
        let chan = running.open("a", "joe", 1).await;
        for _ in 0..16 {
            let (remote, answered, refused) =
                (chan.remote().clone(), Arc::clone(&answered), Arc::clone(&refused));
            flood.spawn(async move {
                loop {
                    match remote.call(ping()).await {
                        Ok(_) => answered.add_permits(1),
                        Err(error) => {
                            assert!(matches!(error.reason, CallFailure::Overload { .. }), "{error}");
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        chans.push(chan);
    }
    let mike = running.open("a", "mike", 2).await;
    let began = tokio::time::Instant::now();
    for number in 0..100 {
        // An eleventh of the calls is less than a third, also while the flood uses up what may come at once. Answers of the
        // flood that came meanwhile do not count: they would let the neighbour make many calls at once.
        answered.forget_permits(usize::MAX);
        answered.acquire_many(10).await.unwrap().forget();
        let answer = mike.remote().call(ping()).await;
        assert!(answer.is_ok(), "call {number} of the neighbour: {answer:?}");
    }
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(1),
        "1100 calls at 300 a second, of which 600 may come at once: {took:?}"
    );
    assert!(refused.load(Ordering::Relaxed) > 100, "there was a flood");
}

/// A small generator of numbers: the same each time, so that a failure can be seen again.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// A configuration, and service, client and key of each client that may come from loopback.
    fn configuration(&mut self) -> (String, Vec<(String, String, u8)>) {
        let (mut blocks, mut granted) = (Vec::new(), Vec::new());
        for name in ["a", "b", "c"] {
            let from = match self.below(8) {
                0 => "from = ['10.0.0.0/8']\n",
                1 => "from = ['127.0.0.0/8']\n",
                _ => "",
            };
            let mut block = format!("# {}\n{}{from}", self.below(100), service(name));
            let mut clients = Vec::new();
            for who in ["joe", "mike", "rob"] {
                if self.below(4) == 0 {
                    continue;
                }
                let number = 1 + self.below(2) as u8;
                let more = match self.below(8) {
                    0 => "disabled = true\n",
                    1 => "from = ['10.0.0.0/8']\n",
                    2 => "from = ['127.0.0.1', '10.0.0.0/8']\n",
                    _ => "",
                };
                if !from.contains("'10.") && !more.contains("disabled") && !more.contains("['10.") {
                    granted.push((name.to_owned(), who.to_owned(), number));
                }
                let at = self.below(clients.len() as u64 + 1) as usize;
                clients.insert(at, client(who, number) + more);
            }
            if !clients.is_empty() && self.below(6) > 0 {
                block += &clients.concat();
                blocks.insert(self.below(blocks.len() as u64 + 1) as usize, block);
            } else {
                granted.retain(|(service, ..)| service != name);
            }
        }
        if blocks.is_empty() {
            return self.configuration();
        }
        (blocks.concat(), granted)
    }
}

#[tokio::test]
async fn compare_names_sessions_that_reload_ends() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let running = Running::start(&(service("z") + &client("zoe", 9))).await;
    let (mut ends, mut lives) = (0, 0);
    for pair in 0..100 {
        let (before, granted) = random.configuration();
        running.reload(&before).await;
        let mut chans = Vec::new();
        for (service, client, number) in &granted {
            if random.below(2) == 0 {
                chans.push((service, client, running.open(service, client, *number).await));
            }
        }
        let (after, still) = random.configuration();
        let said = running.handle.compare(running.config(&format!("{LISTEN}{after}"))).await.unwrap();
        for (.., chan) in &chans {
            assert!(is_alive(chan).await, "pair {pair}: a comparison ends nothing");
        }
        let done = running.reload(&after).await;
        assert_eq!(said, done, "pair {pair}");
        let named: Vec<_> = said.ends.iter().map(|end| (end.service.clone(), end.client.clone())).collect();
        for (service, client, chan) in chans {
            let number = granted.iter().find(|(s, c, _)| s == service && c == client).unwrap().2;
            let stays = still.contains(&(service.clone(), client.clone(), number));
            assert_eq!(
                !stays,
                named.contains(&(service.clone(), client.clone())),
                "pair {pair}: {client} at {service}"
            );
            if stays {
                assert!(is_alive(&chan).await, "pair {pair}: {client} at {service}");
                lives += 1;
            } else {
                assert_eq!(ended(&chan).await, ExitReason::Revoked, "pair {pair}: {client} at {service}");
                ends += 1;
            }
            chan.close().await.ok();
        }
        let empty = async {
            while !running.handle.sessions().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, empty).await.unwrap();
    }
    assert!(ends > 50 && lives > 30, "{ends} ended, {lives} lived");
}
