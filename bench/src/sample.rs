//! What one measurement finds, and the clock and counters it takes.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What one measurement found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Messages, calls, connections, processes: what was counted.
    pub count: u64,
    /// How long it took.
    pub seconds: f64,
    /// Processor time of the program that measured.
    #[serde(default)]
    pub cpu_seconds: f64,
    /// The time of one call, where single calls were timed: the median, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_ns: Option<u64>,
    /// The time that 99 of 100 calls stay under, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ns: Option<u64>,
    /// The longest of them, in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_ns: Option<u64>,
    /// Of several callers, how many calls the one with the fewest made, and the one with the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_of_one: Option<(u64, u64)>,
    /// What the server took meanwhile, where its client looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerSample>,
    /// Memory of one thing, in bytes, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_each: Option<f64>,
}

/// What a server took for what its clients did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ServerSample {
    /// Its processor time.
    pub cpu_seconds: f64,
    /// The most memory that was resident since it began, in bytes.
    pub peak_bytes: f64,
}

/// A measurement under way.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    cpu_start: f64,
    length: Duration,
    /// A server that is looked at as well, and its processor time at the start.
    server: Option<(u32, f64)>,
}

impl Clock {
    /// Starts one that is to take about so long.
    pub fn start(length: Duration) -> Self {
        Self { start: Instant::now(), cpu_start: cpu_seconds(), length, server: None }
    }

    /// Starts one that looks at a server, too.
    pub fn start_with(length: Duration, server: u32) -> Self {
        Self { server: Some((server, cpu_seconds_of(server))), ..Self::start(length) }
    }

    /// Whether the time is over.
    pub fn is_over(&self) -> bool {
        self.start.elapsed() >= self.length
    }

    /// The result: so much was done up to now.
    pub fn sample(&self, count: u64) -> Sample {
        Sample {
            count,
            seconds: self.start.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds() - self.cpu_start,
            server: self.server.map(|(pid, start)| ServerSample {
                cpu_seconds: cpu_seconds_of(pid) - start,
                peak_bytes: peak_memory(pid),
            }),
            ..Sample::default()
        }
    }
}

/// Adds the median, the 99th percentile and the longest of single times to a result.
pub fn with_times(mut sample: Sample, mut times_ns: Vec<u64>) -> Sample {
    times_ns.sort_unstable();
    let at = |part: usize| times_ns.get(times_ns.len() * part / 100).copied();
    sample.median_ns = at(50);
    sample.p99_ns = at(99);
    sample.longest_ns = times_ns.last().copied();
    sample
}

/// The processor time of all threads of this program that still run.
pub fn cpu_seconds() -> f64 {
    cpu_seconds_of(std::process::id())
}

/// The same of another program.
pub fn cpu_seconds_of(pid: u32) -> f64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let nanoseconds = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<f64>().ok()
    };
    threads.flatten().filter_map(nanoseconds).sum::<f64>() / 1e9
}

/// The memory that a program holds, in bytes: resident and its own.
pub fn memory(pid: u32) -> anyhow::Result<f64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = |field: &str| {
        let line = rollup.lines().find(|line| line.starts_with(field))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    };
    let private = kib("Private_Dirty:").zip(kib("Private_Clean:"));
    let (dirty, clean) = private.ok_or_else(|| anyhow::anyhow!("smaps_rollup tells no private memory"))?;
    Ok((dirty + clean) * 1024.0)
}

/// The most memory of a program that was resident at any time, in bytes; 0 if the system does not say.
pub fn peak_memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    peak.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() * 1024.0
}

/// The middle and the ends of some numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
}

impl Spread {
    /// Of these; zeros if there are none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
        let (len, last) = (sorted.len(), sorted.len().saturating_sub(1));
        Self { median: (at(last / 2) + at(len / 2)) / 2.0, least: at(0), greatest: at(last) }
    }

    /// Of the ratios within each round; 0 where there are none.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        let ratios = ours.iter().zip(theirs).filter(|(_, theirs)| **theirs > 0.0);
        Self::of(&ratios.map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
    }
}
