//! Snapshots of processes.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

use super::Pid;

/// A snapshot of a local process, from [`Pid::info`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProcessInfo {
    /// The names that the process has in tables of [`Names`](super::Names).
    pub names: Vec<Box<str>>,
    /// The time since it was spawned, to an eighth of a second.
    pub age: Duration,
    /// Messages that it has not taken. Signals do not count. Messages of a session count as taken once the process looks
    /// for more.
    pub mailbox_len: u64,
    /// Messages that it has taken since it was spawned. Messages of its timers do not count.
    pub messages_taken: u64,
    /// `true` if exit signals become messages.
    pub trap_exit: bool,
    /// The processes that it is linked to.
    pub links: Vec<Pid>,
    /// The processes that it monitors, one entry for each monitor.
    pub monitors: Vec<Pid>,
    /// The processes that monitor it, one entry for each monitor.
    pub monitored_by: Vec<Pid>,
}

/// A time in four bytes, because every process stores one: eighths of a second since a fixed time. It wraps after 17
/// years.
#[derive(Clone, Copy)]
pub(super) struct Moment(u32);

impl Moment {
    const PER_SECOND: u32 = 8;

    pub(super) fn now() -> Self {
        // A paused clock may be behind it.
        static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
        let (first, now) = (*FIRST, Instant::now());
        let eighths = |time: Duration| {
            let part = time.subsec_nanos() / (1_000_000_000 / Self::PER_SECOND);
            (time.as_secs() as u32).wrapping_mul(Self::PER_SECOND) + part
        };
        Self(match now.checked_duration_since(first) {
            Some(since) => eighths(since),
            None => eighths(first.saturating_duration_since(now)).wrapping_neg(),
        })
    }

    pub(super) fn elapsed(self) -> Duration {
        Duration::from_secs(1) * Self::now().0.wrapping_sub(self.0) / Self::PER_SECOND
    }
}
