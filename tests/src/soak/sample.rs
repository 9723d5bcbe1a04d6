//! What the programs take of the machine.

use std::{fs, io};

/// One look at one program.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Memory in use, in KiB.
    pub(crate) rss_kib: u64,
    /// Open descriptors.
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
}

impl Sample {
    /// Looks at a program.
    pub(crate) fn of(program: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{program}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
        };
        Ok(Self {
            rss_kib: field("VmRSS").unwrap_or(0),
            threads: field("Threads").unwrap_or(0),
            descriptors: fs::read_dir(format!("/proc/{program}/fd"))?.count() as u64,
        })
    }
}

/// All samples of a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Second {
    pub(crate) at: f64,
    pub(crate) server: Sample,
    pub(crate) clients: Sample,
    /// Sessions that the server has.
    pub(crate) sessions: u64,
    /// Connections in the network.
    pub(crate) connections: u64,
    /// Faults so far.
    pub(crate) faults: u64,
}

/// How something grew over a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trend {
    pub(crate) mean: f64,
    /// What the straight line that fits best gains from the first to the last second.
    pub(crate) growth: f64,
}

impl Trend {
    /// The line through these points by least squares. Nothing for fewer than two.
    pub(crate) fn of(points: &[(f64, f64)]) -> Option<Self> {
        let count = points.len() as f64;
        let (first, last) = (points.first()?, points.last()?);
        let mean = |values: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(values).sum::<f64>() / count;
        let (at, mean) = (mean(&|point| point.0), mean(&|point| point.1));
        let spread: f64 = points.iter().map(|point| (point.0 - at).powi(2)).sum();
        let along: f64 = points.iter().map(|point| (point.0 - at) * (point.1 - mean)).sum();
        (spread > 0.0).then(|| Self { mean, growth: along / spread * (last.0 - first.0) })
    }

    /// The growth as a part of the mean.
    pub(crate) fn part(&self) -> f64 {
        self.growth / self.mean.max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_trend_through_noise() {
        let noisy = |slope: f64| {
            let point = |n: u32| (f64::from(n), 100.0 + slope * f64::from(n) + f64::from(n % 7));
            Trend::of(&(0..700).map(point).collect::<Vec<_>>()).expect("a line")
        };
        assert!(noisy(0.0).part().abs() < 0.01, "{:?}", noisy(0.0));
        assert!((noisy(0.1).growth - 70.0).abs() < 1.0, "{:?}", noisy(0.1));
        assert!(Trend::of(&[(1.0, 1.0)]).is_none());
    }
}
