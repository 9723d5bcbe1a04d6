//! Reloads a real server again and again while clients call, and says what that cost them.
//!
//! Each reload changes something: the order and the comments of the configuration, a service that nobody uses, a limit, an
//! address to listen on, the key of the server, the right of one client. Now and then the file is broken. The callers must
//! not notice any of it, and the client whose right is withdrawn must be gone.

use std::{
    fmt::{self, Write},
    fs,
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
fn configuration(round: usize) -> String {
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
    let limit = 1000 + round % 7;
    format!("listen = ['127.0.0.1:0'{more}]\n{}[limits]\nmax_links = {limit}\n", services.concat())
}

/// The right of one client is withdrawn in each tenth round, and comes back in the next.
const fn is_revoked(round: usize) -> bool {
    round % 10 == 5
}

struct Campaign {
    server: Server,
    runtime: Runtime,
    state: StateDir,
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
    let mut config = configuration(0);
    config = config.split_once('\n').expect("the first line says where to listen").1.into();
    let server = Server::start_in(folder, &config);
    let runtime = Runtime::new().expect("a runtime");
    let state = StateDir::at(server.folder.path().join("state"));
    let url = server.url("echo for joe").to_owned();
    let port = url.rsplit_once(':').and_then(|_| url.split(':').nth(2)?.split('/').next()?.parse().ok());
    let port = port.expect("a URL has a port");
    let report = Report::default();
    let known = Identity::in_state(&state).expect("the server has one");
    let mut this = Campaign { server, runtime, state, known, port, reloaded: 0, report, times: Vec::new() };
    this.run(options);
    this.report
}

impl Campaign {
    fn run(&mut self, options: Options) {
        let stop = Arc::new(AtomicBool::new(false));
        let (calls, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut callers = JoinSet::new();
        for _ in 0..options.sessions {
            let chan = self.open("joe", CALLER);
            let (stop, calls, failed) = (Arc::clone(&stop), Arc::clone(&calls), Arc::clone(&failed));
            callers.spawn_on(call(chan, stop, calls, failed), self.runtime.handle());
        }
        for round in 1..=options.reloads {
            self.round(round);
            if round == (options.reloads / 10).max(1) {
                self.look(0);
            }
        }
        self.look(1);
        stop.store(true, Ordering::Relaxed);
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
        if round % 25 == 10 {
            self.state.announce_key().expect("a key is announced");
            self.known = Identity::in_state(&self.state).expect("the server has one");
        }
        if round % 25 == 20 {
            self.state.rotate_key().expect("the announced key is taken");
            self.report.keys += 1;
        }
        let revoked = is_revoked(round).then(|| self.open("rob", REVOKED));
        self.configure(&configuration(round));
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
        let whole = configuration(round);
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
        self.server.folder.write("new", text);
        let path = |name: &str| self.server.folder.path().join(name);
        fs::rename(path("new"), path("chan-server.toml")).expect("the configuration is replaced");
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
        let url = chan_server::identity::url(client, "127.0.0.1", self.port, "echo", &self.known);
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
