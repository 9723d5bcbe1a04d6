//! The time for which the machine was suspended. Neither tokio's clock nor `Instant` counts it.

use std::time::Duration;

/// Less than this is the time between two readings.
const LEAST: Duration = Duration::from_millis(100);

/// Notices that the machine was suspended, by a clock that counts it. Where there is none, it never was.
#[derive(Debug)]
pub(super) struct Suspensions {
    /// The time of the clock that counts suspensions, and for how long the machine had been suspended by then.
    seen: Duration,
    total: Duration,
}

impl Suspensions {
    pub(super) fn new() -> Self {
        let seen = since_start();
        Self { seen, total: suspended(seen) }
    }

    /// Returns for how long the machine was suspended since the last call, if it was.
    pub(super) fn since_last(&mut self) -> Option<Duration> {
        let now = since_start();
        // No suspension fits into so little time. A busy driver reads one clock only.
        if now.saturating_sub(self.seen) < LEAST {
            return None;
        }
        self.seen = now;
        let total = suspended(now);
        let time = total.checked_sub(self.total).filter(|&time| time >= LEAST)?;
        self.total = total;
        Some(time)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod clock {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    /// The time since the machine was started, with its suspensions.
    pub(super) fn since_start() -> Duration {
        read(ClockId::Boottime)
    }

    /// For how long the machine had been suspended at a time of that clock, which is now.
    pub(super) fn suspended(now: Duration) -> Duration {
        now.saturating_sub(read(ClockId::Monotonic))
    }

    fn read(clock: ClockId) -> Duration {
        Duration::try_from(clock_gettime(clock)).unwrap_or_default()
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod clock {
    use std::time::Duration;

    pub(super) const fn since_start() -> Duration {
        Duration::ZERO
    }

    pub(super) const fn suspended(_: Duration) -> Duration {
        Duration::ZERO
    }
}

use self::clock::suspended;

#[cfg(not(test))]
use self::clock::since_start;

#[cfg(test)]
pub(super) use self::tests::{since_start, suspend};

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static FEIGNED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    pub(in crate::middleman) fn since_start() -> Duration {
        clock::since_start() + FEIGNED.get()
    }

    /// Lets the sessions of this thread find that the machine was suspended for so long.
    pub(in crate::middleman) fn suspend(time: Duration) {
        FEIGNED.set(FEIGNED.get() + time);
    }

    #[test]
    fn each_suspension_is_noticed_once() {
        let mut suspensions = Suspensions::new();
        assert_eq!(suspensions.since_last(), None);
        suspend(Duration::from_secs(3));
        let time = suspensions.since_last().unwrap();
        assert!(time.abs_diff(Duration::from_secs(3)) < LEAST, "{time:?}");
        assert_eq!(suspensions.since_last(), None);
    }
}
