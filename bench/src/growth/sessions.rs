//! More sessions, of the server that one would run: `chan-server`, with its log and its gate.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::calls::thousands;
use super::series::Bound::AtMost;
use super::series::Unit::{Bytes, Part, Ratio, Seconds};
use super::series::{Line, Point, Series, check, figure};
use super::{Options, start_client};
use crate::net::{self, Listening, Load, Order, Pace, Peer, Work};
use crate::program::Program;
use crate::sample::{Sample, cpu_seconds_of, memory};

/// Programs that share the sessions among them.
const CLIENTS: usize = 2;
/// How long all sessions call, each once a second.
const CALL_SECONDS: u32 = 2;

pub(super) async fn measure(options: &Options) -> Result<Series> {
    let counts = [1, options.sessions.div_ceil(100), options.sessions];
    ensure_descriptors(options.sessions)?;
    let folder = Folder::new()?;
    let (server, listening) = start(options, &folder.0).await?;
    let pid = server.id()?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let load = Load { len: 64, callers: 1, pace: Pace::Stopped };
        clients.push(start_client(Peer::ChanBytes, Work::Sessions, &listening, load, Duration::ZERO)?);
    }
    let empty = memory(pid)?;
    let (mut open, mut points) = (0, Vec::new());
    for count in counts {
        let start = Instant::now();
        give(&mut clients, |client| Order::Open(share(count, client) - share(open, client))).await?;
        let opening = start.elapsed().as_secs_f64() / (count - open).max(1) as f64;
        open = count;
        let idle = Window::start(pid);
        tokio::time::sleep(Duration::from_millis(options.idle_millis)).await;
        let idle = idle.part();
        let held = memory(pid)?;
        let mut rounds = Vec::new();
        for _ in 0..options.rounds {
            let called = call(&mut clients, pid, count, CALL_SECONDS, 1_000_000).await?;
            // As many calls a second as the most sessions make, by these.
            let every_micros = (count * 1_000_000 / options.sessions) as u32;
            let at_full_rate = match every_micros {
                1_000_000 => called.cpu_each,
                ..2_000 => f64::NAN,
                _ => {
                    let calls = CALL_SECONDS * 1_000_000 / every_micros;
                    call(&mut clients, pid, count, calls, every_micros).await?.cpu_each
                }
            };
            rounds.push(vec![
                held,
                (held - empty) / count as f64,
                opening,
                idle,
                called.part,
                called.cpu_each,
                at_full_rate,
                called.median,
                called.p99,
            ]);
        }
        points.push(Point::of(thousands(count), &rounds));
    }
    for client in clients {
        client.only_line().await?;
    }
    Ok(series(Line { who: "lib_chan", points }, options))
}

fn series(ours: Line, options: &Options) -> Series {
    let figures = vec![
        figure("server, memory", Bytes),
        figure("memory a session", Bytes),
        figure("to open one, four a client at a time", Seconds),
        figure("server idle, of a processor", Part),
        figure("server, a call a second each, of a processor", Part),
        figure("server, processor a call", Seconds),
        figure("the same at the rate of the most sessions", Seconds),
        figure("median", Seconds),
        figure("99th percentile", Seconds),
    ];
    let (many, some) = (thousands(options.sessions), thousands(options.sessions.div_ceil(100)));
    let step = |figure| ours.last_step(figure);
    let checks = vec![
        check(format!("memory a session: {many} to {some}"), Ratio, step(1), AtMost(1.1)),
        check(format!("opening one: {many} to {some}"), Ratio, step(2), AtMost(1.5)),
        check(format!("processor a call, as many a second: {many} to {some}"), Ratio, step(6), AtMost(1.5)),
        check(format!("{many} idle, of a processor"), Part, ours.at(2, 3), AtMost(0.1)),
    ];
    Series {
        name: "sessions",
        title: "More sessions",
        about: format!(
            "`chan-server` serves `echo` and logs each event. `max_sessions_per_client` is raised, because all sessions \
             belong to one client. {CLIENTS} programs hold the sessions, each of which has answered one call of 64 \
             bytes. The sessions send only heartbeats for {} s. Then each makes one call per second for {CALL_SECONDS} \
             s, {} times. The first four columns come from one run. A call costs more if sessions are few, because the \
             processes sleep between calls. Few sessions therefore also make as many calls per second as the most \
             sessions do. The memory of the first session includes what a server allocates once.",
            options.idle_millis as f64 / 1000.0,
            options.rounds
        ),
        axis: "sessions",
        grows: true,
        figures,
        lines: vec![ours],
        checks,
    }
}

/// How many of so many sessions one client has.
const fn share(count: usize, client: usize) -> usize {
    count / CLIENTS + (client < count % CLIENTS) as usize
}

/// Gives each client an order, and waits until all have done it.
async fn give(clients: &mut [Program], order: impl Fn(usize) -> Order) -> Result<Vec<Sample>> {
    for (number, client) in clients.iter_mut().enumerate() {
        client.tell(&serde_json::to_string(&order(number))?).await?;
    }
    let mut samples = Vec::new();
    for client in clients {
        samples.push(client.sample().await?);
    }
    Ok(samples)
}

/// What calls of all sessions took.
struct Called {
    /// Processor time of the server for one of them, in seconds, and the part of a processor that all took.
    cpu_each: f64,
    part: f64,
    /// Of the slower client, in seconds.
    median: f64,
    p99: f64,
}

/// Lets each of so many sessions make so many calls.
async fn call(
    clients: &mut [Program],
    server: u32,
    sessions: usize,
    calls: u32,
    every_micros: u32,
) -> Result<Called> {
    let window = Window::start(server);
    let samples = give(clients, |_| Order::Call { calls, every_micros }).await?;
    let (part, cpu) = (window.part(), window.cpu_seconds());
    let made: u64 = samples.iter().map(|sample| sample.count).sum();
    ensure!(made == sessions as u64 * u64::from(calls), "{made} calls of {sessions} sessions");
    let slower =
        |of: fn(&Sample) -> Option<u64>| samples.iter().filter_map(of).max().unwrap_or_default() as f64 / 1e9;
    Ok(Called {
        cpu_each: cpu / made as f64,
        part,
        median: slower(|sample| sample.median_ns),
        p99: slower(|sample| sample.p99_ns),
    })
}

/// Processor time of a program from a moment on.
struct Window {
    pid: u32,
    start: Instant,
    cpu: f64,
}

impl Window {
    fn start(pid: u32) -> Self {
        Self { pid, start: Instant::now(), cpu: cpu_seconds_of(pid) }
    }

    fn cpu_seconds(&self) -> f64 {
        // A thread that has ended takes its time with it.
        (cpu_seconds_of(self.pid) - self.cpu).max(0.0)
    }

    /// Of one processor.
    fn part(&self) -> f64 {
        self.cpu_seconds() / self.start.elapsed().as_secs_f64()
    }
}

/// Starts a chan-server; what its clients need to know.
async fn start(options: &Options, folder: &Path) -> Result<(Program, String)> {
    let beside = std::env::current_exe()?.with_file_name("chan-server");
    let program = options.server.as_ref().unwrap_or(&beside);
    let config = folder.join("chan-server.toml");
    let limits = format!("[limits]\nmax_sessions_per_client = {}\n", options.sessions.max(256));
    let account = net::configured_account()?;
    std::fs::write(&config, format!("listen = [\"127.0.0.1:0\"]\n\n{account}\n{limits}"))?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(&config).arg("--state").arg(folder.join("state"));
    command.stderr(std::fs::File::create(folder.join("log"))?);
    let mut server = Program::start(&mut command)
        .with_context(|| format!("{}: build it, or say --server", program.display()))?;
    let listening = loop {
        let line = server.line().await?;
        if let Some((_, url)) = line.split_once("chan://") {
            break listening(url, server.id()?)?;
        }
    };
    Ok((server, serde_json::to_string(&listening)?))
}

/// Where a server is that prints this URL.
fn listening(url: &str, program: u32) -> Result<Listening> {
    let parts = || {
        let (_, rest) = url.split_once('@')?;
        let (address, rest) = rest.split_once('/')?;
        let (_, pin) = rest.split_once("pin=")?;
        Some((address.parse::<SocketAddr>().ok()?, pin.trim().to_owned()))
    };
    let (address, pin) = parts().with_context(|| format!("not the URL of a service: {url}"))?;
    Ok(Listening { address, pin, program })
}

/// Each session is a descriptor of the server.
fn ensure_descriptors(sessions: usize) -> Result<()> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let most = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    ensure!(
        most.is_none_or(|most| most > sessions + 100),
        "{sessions} sessions need as many descriptors, and {} are allowed: raise `ulimit -n`, or say --sessions",
        most.unwrap_or_default()
    );
    Ok(())
}

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("chan-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_session_is_of_one_client() {
        for count in [0, 1, 2, 7, 100] {
            assert_eq!((0..CLIENTS).map(|client| share(count, client)).sum::<usize>(), count);
        }
    }

    #[test]
    fn reads_where_a_server_is_from_its_url() {
        let listening = listening("bench@127.0.0.1:4321/bench?pin=sha256:abc", 7).unwrap();
        assert_eq!(listening.address.port(), 4321);
        assert_eq!(listening.pin, "sha256:abc");
    }
}
