//! Reloads a real server again and again while clients call, and says what that cost them.
//!
//! Each reload changes something: the order and the comments of the configuration, a service that nobody uses, a limit, an
//! address to listen on, the key of the server, the right of one client. Now and then the file is broken. The callers must
//! not notice any of it, and the client whose right is withdrawn must be gone.
//!
//! One address moves in every second round. Sessions that came through it go on after it is closed, and new ones come
//! through the next. With `tls`, the server has the certificate of an authority, which is replaced along with its key
//! instead of the pinned key. Now and then only one of the two files is new, which the server must refuse.

use std::{
    fmt::{self, Write},
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chan_client::connect;
use chan_server::identity::{Identity, StateDir};
use lib_chan::{
    Channel, ExitReason, Opaque,
    secret::{PrivateKey, Secret},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    runtime::Runtime,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{Folder, PATIENCE, Server};

/// How long a campaign is.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Reloads in a row.
    pub reloads: usize,
    /// Sessions that call all the while.
    pub sessions: usize,
    /// Whether the server has a certificate in files, instead of a key that clients pin.
    pub tls: bool,
}

/// What a campaign found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Reloads that the server made.
    pub reloads: usize,
    /// Broken configurations that it refused.
    pub broken: usize,
    /// Calls that were answered.
    pub calls: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Times that a client was revoked.
    pub revoked: usize,
    /// Sessions that ended with `revoked`.
    pub ended: usize,
    /// New keys of the server.
    pub keys: usize,
    /// New addresses, each in place of the one before.
    pub moves: usize,
    /// Addresses that were closed and still took a connection.
    pub not_closed: usize,
    /// Clients that logged in anew.
    pub newcomers: usize,
    /// From the signal to the line in the log.
    pub median: Duration,
    /// The same for the slowest.
    pub slowest: Duration,
    /// From the signal of a revocation to the end at the client; the slowest.
    pub gone_after: Duration,
    /// Memory of the server in KiB, after a tenth of the reloads and at the end.
    pub rss_kib: [u64; 2],
    /// Its descriptors at these times.
    pub descriptors: [usize; 2],
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} reloads and {} broken configurations", self.reloads, self.broken)?;
        writeln!(f, "{} calls answered, {} failed", self.calls, self.failed)?;
        writeln!(
            f,
            "{} revocations ended {} sessions, the slowest after {:?}",
            self.revoked, self.ended, self.gone_after
        )?;
        writeln!(f, "{} new keys, {} newcomers let in", self.keys, self.newcomers)?;
        writeln!(f, "{} moves of an address, after which {} still listened", self.moves, self.not_closed)?;
        writeln!(f, "a reload takes {:?} (median), {:?} at most", self.median, self.slowest)?;
        write!(
            f,
            "memory {} KiB, then {} KiB; descriptors {}, then {}",
            self.rss_kib[0], self.rss_kib[1], self.descriptors[0], self.descriptors[1]
        )
    }
}

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_seed(Secret::new([number; 32])).expect("a seed makes a key")
}

const CALLER: u8 = 1;
const REVOKED: u8 = 2;

/// The configuration of one round.
fn configuration(round: usize, tls: bool) -> String {
    let client = |name: &str, number: u8| {
        format!("[[service.client]]\nname = '{name}'\nkey = '{}' # {round}\n", key(number).public_key())
    };
    let mut clients = vec![client("joe", CALLER), client("mike", 3)];
    if !is_revoked(round) {
        clients.push(client("rob", REVOKED));
    }
    let turns = round % clients.len();
    clients.rotate_left(turns);
    let echo =
        format!("[[service]]\n# {round}\nname = 'echo'\nmfa = ['echo', 'start']\n{}", clients.concat());
    let mut services = vec![echo];
    if round % 2 == 1 {
        let other =
            format!("[[service]]\nname = 'other{round}'\nmfa = ['echo', 'start']\n{}", client("joe", CALLER));
        services.insert(round / 2 % 2, other);
    }
    // Another address comes and goes; the ports are the system's choice.
    let more = if round % 3 == 1 { ", '127.0.0.2:0'" } else { "" };
    let (limit, moving) = (1000 + round % 7, moving(round));
    let tls = if tls { "[tls]\ncertificate = 'server.pem'\nkey = 'server.key'\n" } else { "" };
    let services = services.concat();
    format!("listen = ['127.0.0.1:0', '{moving}:0'{more}]\n{services}{tls}[limits]\nmax_links = {limit}\n")
}

/// The address that moves in every second round.
fn moving(round: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, (round / 2 % 200) as u8)
}

/// The right of one client is withdrawn in each tenth round, and comes back in the next.
const fn is_revoked(round: usize) -> bool {
    round % 10 == 5
}

struct Campaign {
    server: Server,
    runtime: Runtime,
    state: StateDir,
    authority: Option<CertifiedIssuer<'static, KeyPair>>,
    /// Where the address that moves is now.
    at: SocketAddr,
    /// What clients know of the server: renewed when a key is announced, and not when it is taken.
    known: Identity,
    port: u16,
    reloaded: usize,
    report: Report,
    times: Vec<Duration>,
}

/// Runs a campaign.
///
/// # Panics
/// If the server does not do as it should.
pub fn campaign(options: Options) -> Report {
    let folder = Folder::new();
    let authority = options.tls.then(authority);
    if let Some(authority) = &authority {
        folder.write("ca.pem", &authority.pem());
        for (name, text) in certificate(authority) {
            folder.write(name, &text);
        }
    }
    let mut config = configuration(0, options.tls);
    config = config.split_once('\n').expect("the first line says where to listen").1.into();
    let server = Server::start_in(folder, &config);
    let runtime = Runtime::new().expect("a runtime");
    let state = StateDir::at(server.folder.path().join("state"));
    let url = server.url("echo for joe").to_owned();
    let port = url.rsplit_once(':').and_then(|_| url.split(':').nth(2)?.split('/').next()?.parse().ok());
    let port = port.expect("a URL has a port");
    let report = Report::default();
    let known = Identity::in_state(&state).expect("the server has one");
    let at = (Ipv4Addr::LOCALHOST, port).into();
    let times = Vec::new();
    let mut this =
        Campaign { server, runtime, state, authority, at, known, port, reloaded: 0, report, times };
    this.run(options);
    this.report
}

impl Campaign {
    fn run(&mut self, options: Options) {
        let stop = Arc::new(AtomicBool::new(false));
        let (calls, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut callers = JoinSet::new();
        let mut wanderer = None::<Arc<AtomicBool>>;
        for _ in 0..options.sessions {
            let chan = self.open("joe", CALLER);
            let (stop, calls, failed) = (Arc::clone(&stop), Arc::clone(&calls), Arc::clone(&failed));
            callers.spawn_on(call(chan, stop, calls, failed), self.runtime.handle());
        }
        for round in 1..=options.reloads {
            self.round(round);
            if self.follow(round) && round % 20 == 2 {
                // A caller through an address that will be closed.
                let stop_early = Arc::new(AtomicBool::new(false));
                if let Some(before) = wanderer.replace(Arc::clone(&stop_early)) {
                    before.store(true, Ordering::Relaxed);
                }
                let (calls, failed) = (Arc::clone(&calls), Arc::clone(&failed));
                callers.spawn_on(
                    call(self.open("joe", CALLER), stop_early, calls, failed),
                    self.runtime.handle(),
                );
            }
            if round == (options.reloads / 10).max(1) {
                self.look(0);
            }
        }
        self.look(1);
        stop.store(true, Ordering::Relaxed);
        wanderer.into_iter().for_each(|stop| stop.store(true, Ordering::Relaxed));
        self.runtime.block_on(async {
            let all = async { while callers.join_next().await.is_some() {} };
            timeout(PATIENCE, all).await.expect("the callers end");
        });
        self.report.calls = calls.load(Ordering::Relaxed);
        self.report.failed = failed.load(Ordering::Relaxed);
        self.times.sort_unstable();
        self.report.median = self.times[self.times.len() / 2];
        self.report.slowest = *self.times.last().expect("there was a reload");
    }

    fn round(&mut self, round: usize) {
        if round % 10 == 3 {
            self.break_it(round);
        }
        if let Some(authority) = self.authority.as_ref().filter(|_| round.is_multiple_of(5)) {
            let [certificate, key] = certificate(authority);
            self.replace(certificate.0, &certificate.1);
            if round.is_multiple_of(10) {
                // The key of before does not fit.
                self.reload("reload_failed");
                self.report.broken += 1;
            }
            self.replace(key.0, &key.1);
            self.report.keys += 1;
        } else if round % 25 == 10 {
            self.state.announce_key().expect("a key is announced");
            self.known = Identity::in_state(&self.state).expect("the server has one");
        }
        if self.authority.is_none() && round % 25 == 20 {
            self.state.rotate_key().expect("the announced key is taken");
            self.report.keys += 1;
        }
        let revoked = is_revoked(round).then(|| self.open("rob", REVOKED));
        self.configure(&configuration(round, self.authority.is_some()));
        let began = Instant::now();
        self.reload("reloaded");
        self.times.push(began.elapsed());
        self.report.reloads += 1;
        if let Some(chan) = revoked {
            self.report.revoked += 1;
            let ended = self.runtime.block_on(async { timeout(PATIENCE, chan.remote().ended()).await });
            self.report.ended += usize::from(ended == Ok(ExitReason::Revoked));
            self.report.gone_after = self.report.gone_after.max(began.elapsed());
        }
        if round % 10 == 7 {
            drop(self.open("rob", REVOKED));
            self.report.newcomers += 1;
        }
    }

    /// The server must go on with what it has.
    fn break_it(&mut self, round: usize) {
        let whole = configuration(round, self.authority.is_some());
        let broken = match round % 3 {
            0 => whole.replace("'echo', 'start'", "'eco', 'start'"),
            1 => whole.replace("max_links", "max_link"),
            _ => whole[..whole.len() / 2].to_owned() + "\n[[",
        };
        self.configure(&broken);
        self.reload("reload_failed");
        self.report.broken += 1;
    }

    fn configure(&self, text: &str) {
        self.replace("chan-server.toml", text);
    }

    fn replace(&self, name: &str, text: &str) {
        self.server.folder.write("new", text);
        let path = |name: &str| self.server.folder.path().join(name);
        fs::rename(path("new"), path(name)).expect("the file is replaced");
    }

    /// Follows the address that moves. Returns whether it has moved.
    fn follow(&mut self, round: usize) -> bool {
        if moving(round) == moving(round - 1) {
            return false;
        }
        let ip = format!("\"address\":\"{}:", moving(round));
        let line = self.server.log.all().into_iter().rfind(|line| line.contains(&ip));
        let line = line.expect("the server said that it listens there");
        let line: serde_json::Value = serde_json::from_str(&line).expect("the log is JSON");
        let now = line["address"].as_str().and_then(|address| address.parse().ok()).expect("an address");
        let before = std::mem::replace(&mut self.at, now);
        self.report.moves += 1;
        // The socket is closed by a task of its own, which is told when the reload is done.
        let closed = (0..1000).any(|_| {
            let refused = TcpStream::connect(before).is_err();
            std::thread::yield_now();
            refused
        });
        self.report.not_closed += usize::from(before.ip() != Ipv4Addr::LOCALHOST && !closed);
        true
    }

    fn reload(&mut self, event: &str) {
        self.server.signal("HUP");
        self.reloaded += 1;
        let is_one = |line: &&String| line.contains("\"event\":\"reload");
        self.server.log.wait_for(event, |lines| lines.iter().filter(is_one).count() >= self.reloaded);
        let last = self.server.log.all().into_iter().rfind(|line| is_one(&line)).expect("it was waited for");
        assert!(last.contains(&format!("\"event\":\"{event}\"")), "{last}");
    }

    /// Opens a session under the pins of the last URL that clients were given.
    fn open(&self, client: &str, number: u8) -> Channel<Opaque, Opaque> {
        let (host, port) = (self.at.ip().to_string(), self.at.port());
        let url = match self.authority {
            // The certificate is of this name.
            Some(_) => {
                let ca = self.server.folder.path().join("ca.pem");
                format!("chan://{client}@localhost:{}/echo?ca={}", self.port, ca.display())
            }
            None => chan_server::identity::url(client, &host, port, "echo", &self.known),
        };
        let key = key(number);
        self.runtime.block_on(async { connect(&url).key(&key).open().await.expect("a session") })
    }

    fn look(&mut self, at: usize) {
        let of = |name: &str| Path::new("/proc").join(self.server.id().to_string()).join(name);
        let status = fs::read_to_string(of("status")).expect("it runs");
        let rss = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        self.report.rss_kib[at] = rss.unwrap_or(0);
        self.report.descriptors[at] = fs::read_dir(of("fd")).expect("it runs").count();
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// The files of a new certificate and its key.
fn certificate(authority: &CertifiedIssuer<'static, KeyPair>) -> [(&'static str, String); 2] {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, authority).expect("a certificate");
    [("server.pem", certificate.pem()), ("server.key", key.serialize_pem())]
}

/// Calls until it is told to stop, or a call fails.
async fn call(
    chan: Channel<Opaque, Opaque>,
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
) {
    let remote = chan.remote();
    let mut text = String::new();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        text.clear();
        let _ = write!(text, "{number}");
        let sent = Bytes::copy_from_slice(text.as_bytes());
        match remote.call(Opaque(sent.clone())).await {
            Ok(answer) if answer.0 == sent => calls.fetch_add(1, Ordering::Relaxed),
            _ => {
                failed.fetch_add(1, Ordering::Relaxed);
                break;
            }
        };
        // Hundreds of calls a second are enough to be in the way of a reload.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _ = chan.close().await;
}
