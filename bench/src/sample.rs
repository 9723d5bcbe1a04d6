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
    /// Memory of one thing, in bytes, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_each: Option<f64>,
}

/// A measurement under way.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    cpu_start: f64,
    length: Duration,
}

impl Clock {
    /// Starts one that is to take about so long.
    pub fn start(length: Duration) -> Self {
        Self { start: Instant::now(), cpu_start: cpu_seconds(), length }
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
            ..Sample::default()
        }
    }
}

/// Adds the median and the 99th percentile of single times to a result.
pub fn with_times(mut sample: Sample, mut times_ns: Vec<u64>) -> Sample {
    times_ns.sort_unstable();
    let at = |part: usize| times_ns.get(times_ns.len() * part / 100).copied();
    sample.median_ns = at(50);
    sample.p99_ns = at(99);
    sample
}

/// The processor time of all threads of this program that still run.
pub fn cpu_seconds() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
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
