//! Sessions of strangers whose windows have grown over a long path, and whose readers then stop: the memory of a real server.
//!
//! Each session has an address of its own, so that no bound on one client applies. It casts to the service `echo`, which
//! casts everything back. While the client takes the casts, the window that the server grants to it grows. Then the client
//! takes nothing more, and sends as much as it may.

use std::{
    fmt, fs,
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use lib_chan::{Channel, Limits, Opaque, login::Credential, payload::Codec, secret::Password};
use tokio::{
    runtime::Runtime,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{PASSWORD, PATIENCE, Server, delayed::Delayed, login};

/// The way in which the readers are slow, with the bound on the server's memory that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// The programs stop to take messages. Held bytes have no bound in all, so the sum of the windows is the bound.
    Stop,
    /// As `Stop`, but most windows have become narrow again before the readers stop, and others have grown meanwhile.
    Narrowed,
    /// The clients stop to read their connections, and the limits are the defaults, so `max_held_in_all` is the bound.
    Deaf,
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Stop, Self::Narrowed, Self::Deaf];

    const fn name(self) -> &'static str {
        match self {
            Self::Stop => "readers that stop",
            Self::Narrowed => "readers that stop after the windows were narrowed",
            Self::Deaf => "clients that do not read, default limits",
        }
    }
}

/// The size of a campaign.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Sessions, each from an address of its own.
    pub sessions: usize,
    /// Sessions whose windows grow at the same time.
    pub batch: usize,
    /// The round trip time.
    pub rtt: Duration,
    /// Bytes by which all windows of the server may grow: `max_windows_in_all`.
    pub windows_in_all: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sessions: 1000,
            batch: 100,
            rtt: Duration::from_millis(400),
            windows_in_all: Limits::default().max_windows_in_all,
        }
    }
}

/// Bytes of a message.
const LEN: usize = 16 * 1024;
/// A session that holds nothing costs less than this beyond what it cost when it was opened: a read buffer, a record of TLS,
/// and buffers for output.
const BUFFERS: usize = 128 * 1024;
/// The memory that the allocator takes for a message: 20 KiB for 16 KiB and a header, as its classes of sizes are.
const ALLOCATED: [usize; 2] = [5, 4];
/// Messages that a session takes while its window grows: those of eight round trips.
const TAKEN: u64 = 8 * (window_len() / LEN) as u64;

/// The result of one case.
#[derive(Debug)]
pub struct Report {
    case: Case,
    options: Options,
    /// Resident memory of the server with idle sessions, and the most later, in bytes.
    idle: usize,
    most: usize,
    /// The bytes that each session has sent beyond those that its program has taken.
    ahead: Vec<u64>,
    /// Sessions that the server ended with `overload`.
    ended: usize,
}

impl Report {
    /// Returns the bytes that the server may hold for its clients.
    const fn may_hold(&self) -> usize {
        match self.case {
            Case::Stop | Case::Narrowed => self.first_windows() + self.options.windows_in_all,
            Case::Deaf => MAX_HELD_IN_ALL,
        }
    }

    /// Returns the bytes that one end of all sessions may hold before windows grow. The last message may exceed its window.
    const fn first_windows(&self) -> usize {
        self.options.sessions * (window_len() + LEN)
    }

    /// Returns the bytes by which the server's memory may grow.
    pub const fn bound(&self) -> usize {
        self.may_hold() * ALLOCATED[0] / ALLOCATED[1] + self.options.sessions * BUFFERS
    }

    /// Returns the bytes by which the server's memory grew.
    pub const fn grown(&self) -> usize {
        self.most.saturating_sub(self.idle)
    }

    /// Returns the sum of the bytes that sessions have sent and that their programs have not taken.
    pub fn ahead(&self) -> u64 {
        self.ahead.iter().sum()
    }

    /// Returns what is not as it must be.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.grown() > self.bound() {
            faults.push(format!("memory grew by {} MiB", mib(self.grown())));
        }
        // The clients hold a window each, which did not grow.
        let held = (self.ahead() as usize).saturating_sub(self.first_windows());
        if self.case != Case::Deaf && held > self.may_hold() {
            faults.push(format!("the windows let {} MiB through, not {}", mib(held), mib(self.may_hold())));
        }
        let before = (self.options.sessions * 2 * window_len()) as u64;
        if self.case != Case::Deaf && self.ahead() <= before {
            faults.push(format!("no window grew: {} MiB were sent ahead", mib(self.ahead() as usize)));
        }
        if self.case != Case::Deaf && self.ended > 0 {
            faults.push(format!("{} sessions ended", self.ended));
        }
        faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ahead = self.ahead.clone();
        ahead.sort_unstable();
        let part = |part: usize| ahead.get((ahead.len() - 1) * part / 2).copied().unwrap_or_default() / 1024;
        writeln!(f, "{}, {} sessions:", self.case.name(), self.options.sessions)?;
        writeln!(
            f,
            "  sent and not taken by the client: {} MiB in all; least, median and most of a session {}, {} and {} KiB",
            mib(self.ahead() as usize),
            part(0),
            part(1),
            part(2)
        )?;
        writeln!(f, "  ended with overload: {}", self.ended)?;
        write!(
            f,
            "  held by the server, as its windows let it: at most {} MiB\n  memory of the server: {} MiB idle, {} MiB at most; \
             grown by {} MiB, bound {} MiB",
            mib(self.may_hold()),
            mib(self.idle),
            mib(self.most),
            mib(self.grown()),
            mib(self.bound())
        )
    }
}

const MAX_HELD_IN_ALL: usize = 512 * 1024 * 1024;

const fn window_len() -> usize {
    256 * 1024
}

const fn mib(bytes: usize) -> usize {
    bytes / (1024 * 1024)
}

/// What the sessions of a batch do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Wait,
    /// Casts, and takes what comes back.
    Run,
    /// Casts as much as may be sent, and takes nothing.
    Stop,
}

/// The counts of one session.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    taken: AtomicU64,
}

/// Runs one case.
///
/// # Panics
/// If the server does not start, or a session does not open.
pub fn run(case: Case, options: Options) -> Report {
    let limits = match case {
        Case::Stop => "max_held_in_all = '64 GiB'\nheartbeat_interval = '5 min'",
        Case::Narrowed => "max_held_in_all = '64 GiB'\nheartbeat_interval = '1 s'",
        Case::Deaf => "heartbeat_interval = '5 min'",
    };
    let server = Server::start(&format!(
        "[limits]\nmax_windows_in_all = '{} KiB'\n{limits}\n\
         [[service]]\nname = 's'\npassword_file = 'password'\nmfa = ['echo', 'start']",
        options.windows_in_all / 1024
    ));
    let runtime = Runtime::new().expect("a runtime");
    let report = runtime.block_on(measure(case, options, &server));
    // Not one session at a time.
    runtime.shutdown_background();
    report
}

async fn measure(case: Case, options: Options, server: &Server) -> Report {
    let Options { sessions, batch, rtt, .. } = options;
    let password = Password::new(PASSWORD).expect("a password");
    let (reads, _) = watch::channel(true);
    let mut tasks = JoinSet::new();
    let mut batches = Vec::new();
    let mut counts = Vec::new();
    for number in 0..sessions {
        if number.is_multiple_of(batch) {
            batches.push(watch::channel(Phase::Wait).0);
        }
        let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 2, 0, 1)) + number as u32);
        let channel = open(server.url("s"), &password, from, rtt, reads.subscribe()).await;
        let own = Arc::new(Counts::default());
        counts.push(Arc::clone(&own));
        if let Some(phase) = batches.last() {
            tasks.spawn(session(channel, phase.subscribe(), own));
        }
    }
    let idle = resident(server.id());
    let mut most = idle;
    for (phase, counts) in batches.iter().zip(counts.chunks(batch)) {
        phase.send_replace(Phase::Run);
        while counts.iter().any(|one| one.taken.load(Ordering::Relaxed) < TAKEN) {
            sleep(Duration::from_millis(10)).await;
        }
        phase.send_replace(Phase::Wait);
        most = most.max(resident(server.id()));
        if case == Case::Narrowed {
            // The heartbeat of an idle session makes its windows narrow.
            sleep(Duration::from_secs(2)).await;
        }
    }
    sleep(rtt * 3).await;
    reads.send_replace(case != Case::Deaf);
    for phase in &batches {
        phase.send_replace(Phase::Stop);
    }
    // Until nothing more can be sent.
    let sent = || counts.iter().map(|one| one.sent.load(Ordering::Relaxed)).sum::<u64>();
    let mut before = u64::MAX;
    while before != sent() {
        before = sent();
        for _ in 0..20 {
            sleep(Duration::from_millis(100).max(rtt / 5)).await;
            most = most.max(resident(server.id()));
        }
    }
    let ahead = counts.iter().map(|one| {
        one.sent.load(Ordering::Relaxed).saturating_sub(one.taken.load(Ordering::Relaxed)) * LEN as u64
    });
    let log = server.log.all();
    let ended = log.iter().filter(|line| line.contains("session_ended")).count();
    Report { case, options, idle, most, ahead: ahead.collect(), ended }
}

async fn open(
    url: &str,
    password: &Password,
    from: Ipv4Addr,
    rtt: Duration,
    reads: watch::Receiver<bool>,
) -> Channel<Opaque, Opaque> {
    let (stream, authenticated) = timeout(PATIENCE, login(url, Credential::Password(password), from))
        .await
        .expect("in time")
        .expect("a login");
    // The windows of this end stay as they are.
    let mut limits = Limits::default();
    limits.max_window_len = window_len();
    limits.max_held_in_all = usize::MAX;
    let stream = Delayed::new(stream, rtt, reads);
    lib_chan::channel::open(stream, &authenticated, &limits, Codec::Raw, b"", false).await.expect("a session")
}

async fn session(mut channel: Channel<Opaque, Opaque>, phase: watch::Receiver<Phase>, counts: Arc<Counts>) {
    let remote = channel.remote();
    let (mut sends, mut takes) = (phase.clone(), phase);
    let sender = async {
        let message = Bytes::from_static(&[7; LEN]);
        while leaves(&mut sends, Phase::Wait).await && remote.cast(Opaque(message.clone())).await.is_ok() {
            counts.sent.fetch_add(1, Ordering::Relaxed);
        }
    };
    let taker = async {
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut takes) => std::future::pending().await,
                message = channel.recv() => {
                    if message.is_none() {
                        return;
                    }
                    counts.taken.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    tokio::join!(sender, taker);
}

/// Waits until the phase is another than `phase`. Returns `false` if there will be none.
async fn leaves(phases: &mut watch::Receiver<Phase>, phase: Phase) -> bool {
    phases.wait_for(|now| *now != phase).await.is_ok()
}

async fn stopped(phases: &mut watch::Receiver<Phase>) {
    drop(phases.wait_for(|phase| *phase == Phase::Stop).await);
}

/// The memory that a process uses now, in bytes.
fn resident(id: u32) -> usize {
    let status = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line about memory");
    let kib: usize = line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number");
    kib * 1024
}
