//! Strangers at the door of a real server while its clients call: silent connections and wrong logins.
//!
//! The attack runs in a program of its own, so that it shares with the callers nothing but the machine.

use std::{
    fmt, fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chan_client::{connect, trust::Trust, url::ChanUrl};
use lib_chan::{
    Channel, Opaque,
    handshake::client::ClientHandshakeError,
    login::{Credential, LoginError},
    secret::{PrivateKey, Secret},
    tls::{PinVerifier, client_config},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{PATIENCE, Server, client_key, login, port_of};

/// The strength of an attack, and those who must not notice it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Seconds of the attack. Half as many before and after it are calm.
    pub seconds: u64,
    /// Connections of one source that say nothing.
    pub silent: usize,
    /// Wrong logins in a minute, from many sources.
    pub logins: u64,
    /// Sessions that call once a second.
    pub sessions: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { seconds: 60, silent: 1000, logins: 20_000, sessions: 50 }
    }
}

/// The most memory that a connection may cost that has not logged in.
const MAX_KIB: f64 = 64.0;
/// How much longer calls may take during the attack.
const MAX_RATIO: f64 = 2.0;
/// The source of the silent connections.
const SILENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The number of sources of wrong logins.
const SOURCES: u64 = 10_000;

/// What a campaign found.
#[derive(Debug)]
pub struct Report {
    options: Options,
    calm: Latencies,
    attacked: Latencies,
    failed: u64,
    newcomers: [u64; 2],
    attack: String,
    logins: u64,
    silent_kib: f64,
    tls_kib: f64,
}

#[derive(Debug)]
struct Latencies {
    sorted: Vec<Duration>,
}

impl Latencies {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self { sorted: all }
    }

    fn part(&self, part: f64) -> Duration {
        let at = (self.sorted.len() as f64 * part) as usize;
        self.sorted.get(at.min(self.sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, most, longest) = (self.part(0.5), self.part(0.99), self.part(1.0));
        write!(f, "{} calls: median {median:.0?}, 99 % {most:.0?}, longest {longest:.0?}", self.sorted.len())
    }
}

impl Report {
    fn ratio(&self) -> f64 {
        self.attacked.part(0.5).as_secs_f64() / self.calm.part(0.5).as_secs_f64()
    }

    fn logins_in_a_minute(&self) -> u64 {
        self.logins * 60 / self.options.seconds
    }

    /// Returns what misses its target.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.failed > 0 {
            faults.push(format!("{} calls failed", self.failed));
        }
        if self.newcomers[1] > 0 {
            faults.push(format!("{} honest clients were not let in", self.newcomers[1]));
        }
        if self.ratio() > MAX_RATIO {
            faults.push(format!("calls took {:.2} times as long", self.ratio()));
        }
        if self.logins_in_a_minute() < self.options.logins * 95 / 100 {
            faults.push(format!("the attack made {} logins a minute only", self.logins_in_a_minute()));
        }
        for kib in [self.silent_kib, self.tls_kib] {
            if kib >= MAX_KIB {
                faults.push(format!("a connection without a login costs {kib:.1} KiB"));
            }
        }
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "calm:     {}", self.calm)?;
        writeln!(f, "attacked: {}", self.attacked)?;
        writeln!(f, "the median is {:.2} times as long; {} calls failed", self.ratio(), self.failed)?;
        let [inside, outside] = self.newcomers;
        writeln!(f, "clients that logged in during the attack: {inside}; not let in: {outside}")?;
        writeln!(f, "attack: {}; {} logins a minute", self.attack, self.logins_in_a_minute())?;
        write!(
            f,
            "memory of a connection: {:.1} KiB silent, {:.1} KiB after TLS",
            self.silent_kib, self.tls_kib
        )
    }
}

/// Runs a campaign. `attacker` starts this program with other arguments: those of [`attack`].
///
/// # Panics
/// If the server does not start, or a client is not let in before the attack.
pub fn campaign(options: Options, attacker: impl Fn(&[String]) -> Command) -> Report {
    let runtime = Runtime::new().expect("a runtime");
    let [silent_kib, tls_kib] = runtime.block_on(memory(options.silent));
    let server = Server::start(&echo(""));
    let url = server.url("echo for joe").to_owned();
    let measured = runtime.block_on(async {
        let phase = Arc::new(AtomicUsize::new(CALM));
        let times: [Arc<Mutex<Vec<Duration>>>; 2] = Default::default();
        let failed = Arc::new(AtomicU64::new(0));
        let mut callers = JoinSet::new();
        for number in 0..options.sessions {
            let chan = open(&url).await.expect("a session");
            let (phase, times, failed) = (Arc::clone(&phase), times.clone(), Arc::clone(&failed));
            // Spread over the second.
            let first = Duration::from_secs(1) * number as u32 / options.sessions as u32;
            callers.spawn(async move {
                sleep(first).await;
                call(chan, &phase, &times, &failed).await;
            });
        }
        let calm = Duration::from_secs(options.seconds / 2).max(Duration::from_secs(1));
        sleep(calm).await;
        let arguments = [
            url.clone(),
            options.seconds.to_string(),
            options.silent.to_string(),
            options.logins.to_string(),
        ];
        let mut attacker =
            Attacker(attacker(&arguments).stdout(Stdio::piped()).spawn().expect("the attack starts"));
        phase.store(ATTACKED, Ordering::Relaxed);
        let mut newcomers = [0; 2];
        let end = Instant::now() + Duration::from_secs(options.seconds);
        while Instant::now() < end {
            sleep(Duration::from_secs(1)).await;
            newcomers[usize::from(open(&url).await.is_none())] += 1;
        }
        phase.store(PAUSE, Ordering::Relaxed);
        let attack = tokio::task::spawn_blocking(move || attacker.report()).await.expect("no panic");
        phase.store(CALM, Ordering::Relaxed);
        sleep(calm).await;
        callers.shutdown().await;
        let taken =
            times.map(|times| std::mem::take(&mut *times.lock().unwrap_or_else(PoisonError::into_inner)));
        (taken.map(Latencies::of), failed.load(Ordering::Relaxed), newcomers, attack)
    });
    let ([calm, attacked], failed, newcomers, attack) = measured;
    let logins = attack.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or_default();
    Report { options, calm, attacked, failed, newcomers, attack, logins, silent_kib, tls_kib }
}

const CALM: usize = 0;
const ATTACKED: usize = 1;
const PAUSE: usize = 2;

/// Killed on drop.
struct Attacker(Child);

impl Attacker {
    fn report(&mut self) -> String {
        let mut text = String::new();
        let out = self.0.stdout.as_mut().expect("a pipe");
        out.read_to_string(&mut text).expect("the attack reports");
        text.trim().into()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn echo(limits: &str) -> String {
    format!(
        "[[service]]\nname = 'echo'\nmfa = ['echo', 'start']\n[[service.client]]\nname = 'joe'\nkey = '{}'\n\
         [[service]]\nname = 'door'\nmfa = ['echo', 'start']\npassword_file = 'password'\n{limits}",
        client_key().public_key()
    )
}

async fn open(url: &str) -> Option<Channel<Opaque>> {
    let chan = timeout(PATIENCE, connect(url).key(client_key()).open()).await;
    chan.ok()?.ok()
}

/// Calls once a second.
async fn call(
    chan: Channel<Opaque>,
    phase: &AtomicUsize,
    times: &[Arc<Mutex<Vec<Duration>>>; 2],
    failed: &AtomicU64,
) {
    let mut second = interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        let (before, began) = (phase.load(Ordering::Relaxed), Instant::now());
        let answer = chan.remote().call(Opaque(Bytes::from_static(b"hello"))).await;
        let took = began.elapsed();
        if answer.is_err() {
            failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if before == phase.load(Ordering::Relaxed)
            && let Some(times) = times.get(before)
        {
            times.lock().unwrap_or_else(PoisonError::into_inner).push(took);
        }
    }
}

/// Measures what a connection costs that says nothing, and one that has done TLS and then says nothing, in KiB. The server
/// holds all of them, because its bounds are raised for that.
async fn memory(count: usize) -> [f64; 2] {
    let limits = format!(
        "[limits]\nmax_logins = {0}\nmax_logins_before_drop = {0}\nmax_logins_per_source = {0}\n\
         tls_timeout = '5 min'\nlogin_timeout = '10 min'\n",
        2 * count + 100
    );
    let server = Server::start(&echo(&limits));
    let url = server.url("echo for joe").to_owned();
    // The first connection costs once what all share.
    drop(open(&url).await.expect("a session"));
    let before = resident(server.id());
    let mut silent = Vec::new();
    for _ in 0..count {
        silent.push(connect_from(&url, SILENT).await.expect("a connection"));
    }
    held(&server, count);
    let with_silent = resident(server.id());
    let mut after_tls = Vec::new();
    for _ in 0..count {
        let tcp = connect_from(&url, SILENT).await.expect("a connection");
        after_tls.push(tls(&url, tcp).await.expect("TLS"));
    }
    held(&server, 2 * count);
    let with_tls = resident(server.id());
    let each = |from: u64, to: u64| to.saturating_sub(from) as f64 / count as f64;
    [each(before, with_silent), each(with_silent, with_tls)]
}

/// Waits until the server holds so many connections that have not logged in.
fn held(server: &Server, count: usize) {
    let mut status = Command::new(crate::program("chan-server"));
    status.args(["status", "--json", "--state"]).arg(server.folder.path().join("state"));
    loop {
        let (_, out, err) = crate::run(&mut status);
        let status: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
        let logins = status["logins"].as_u64().unwrap_or_default();
        assert!(logins <= count as u64, "{status}");
        if logins == count as u64 {
            return;
        }
    }
}

/// The memory that a process uses now, in KiB.
fn resident(id: u32) -> u64 {
    let status = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line about memory");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

async fn connect_from(url: &str, from: Ipv4Addr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port_of(url)))).await
}

async fn tls(url: &str, tcp: TcpStream) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let url: ChanUrl = url.parse().expect("a URL");
    let Trust::Pin(pins) = url.trust().clone() else { panic!("it pins") };
    let config = client_config(Arc::new(PinVerifier::new(pins))).expect("a configuration");
    TlsConnector::from(config).connect(url.authorities()[0].host().clone(), tcp).await
}

/// Attacks the server at this URL, as [`campaign`] has asked: URL, seconds, silent connections, logins a minute. Prints one
/// line, which begins with the number of wrong logins that were tried.
///
/// # Panics
/// If the arguments are others.
pub fn attack(arguments: &[String]) {
    let [url, numbers @ ..] = arguments else { panic!("{arguments:?}") };
    let numbers: Vec<u64> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
    let [seconds, silent, logins] = numbers[..] else { panic!("{arguments:?}") };
    let runtime = Runtime::new().expect("a runtime");
    let text = runtime.block_on(async {
        let reconnected = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..silent {
            let (url, reconnected) = (url.clone(), Arc::clone(&reconnected));
            tasks.spawn(async move { stay_silent(&url, &reconnected).await });
        }
        let outcomes: Arc<[AtomicU64; 3]> = Arc::default();
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut pace = interval(Duration::from_secs(60) / u32::try_from(logins.max(1)).unwrap_or(u32::MAX));
        let mut tried = 0;
        while Instant::now() < end {
            pace.tick().await;
            let (url, outcomes) = (url.clone(), Arc::clone(&outcomes));
            tasks.spawn(async move {
                let outcome = timeout(PATIENCE, wrong_login(&url, tried)).await.unwrap_or(DROPPED);
                outcomes[outcome].fetch_add(1, Ordering::Relaxed);
            });
            tried += 1;
        }
        let [refused, dropped, no_socket] = std::array::from_fn(|at| outcomes[at].load(Ordering::Relaxed));
        tasks.abort_all();
        format!(
            "{tried} wrong logins from {SOURCES} sources ({refused} refused, {dropped} dropped, {no_socket} not \
             connected), {silent} silent connections (closed and opened again {} times)",
            reconnected.load(Ordering::Relaxed)
        )
    });
    let _ = writeln!(std::io::stdout(), "{text}");
    // Not one connection at a time.
    runtime.shutdown_background();
}

const REFUSED: usize = 0;
const DROPPED: usize = 1;
const NOT_CONNECTED: usize = 2;

async fn stay_silent(url: &str, reconnected: &AtomicU64) {
    loop {
        if let Ok(mut stream) = connect_from(url, SILENT).await {
            // A reset is an end as well.
            let _ = stream.read(&mut [0]).await;
        }
        reconnected.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_secs(2)).await;
    }
}

/// Tries a wrong key or a wrong password, in turn.
async fn wrong_login(url: &str, number: u64) -> usize {
    let source = u32::try_from(number % SOURCES).unwrap_or_default();
    let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + source);
    if number.is_multiple_of(2) {
        let wrong = PrivateKey::from_seed(Secret::new([9; 32])).expect("a seed makes a key");
        return match login(url, Credential::Key(&wrong), from).await {
            Err(LoginError::Handshake(ClientHandshakeError::Refused)) => REFUSED,
            _ => DROPPED,
        };
    }
    let Ok(tcp) = connect_from(url, from).await else { return NOT_CONNECTED };
    let guess = async {
        let mut stream = tls(url, tcp).await?;
        // A hello for the password that all share; a nonce need not be random to be wrong.
        let mut hello = b"\0\0chan\x01\x01\x04door\0".to_vec();
        hello.extend_from_slice(&[number as u8; 32]);
        hello[1] = hello.len() as u8 - 2;
        stream.write_all(&hello).await?;
        let mut challenge = [0; 2];
        stream.read_exact(&mut challenge).await?;
        stream.read_exact(&mut vec![0; usize::from(u16::from_be_bytes(challenge))]).await?;
        // A signature that is well formed, so that the server has to verify it: the base point, and 1.
        let mut proof = vec![0, 64, 0x58];
        proof.extend_from_slice(&[0x66; 31]);
        proof.push(1);
        proof.extend_from_slice(&[0; 31]);
        stream.write_all(&proof).await?;
        let mut verdict = [0; 3];
        stream.read_exact(&mut verdict).await?;
        Ok::<_, std::io::Error>(verdict)
    };
    match guess.await {
        Ok([0, 1, 1]) => REFUSED,
        Ok(other) => panic!("a wrong password got {other:?}"),
        Err(_) => DROPPED,
    }
}
