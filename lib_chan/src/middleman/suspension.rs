//! How long the machine was suspended. Neither tokio's clock nor `Instant` counts that time.

use std::time::Duration;

/// Less than this is the time between two readings.
const LEAST: Duration = Duration::from_millis(100);

/// Notices that the machine was suspended, by a clock that counts it. Where there is none, it never was.
#[derive(Debug)]
pub(super) struct Suspensions {
    seen: Duration,
}

impl Suspensions {
    pub(super) fn new() -> Self {
        Self { seen: suspended() }
    }

    /// Returns for how long the machine was suspended since the last call, if it was.
    pub(super) fn since_last(&mut self) -> Option<Duration> {
        let total = suspended();
        let time = total.checked_sub(self.seen).filter(|&time| time >= LEAST)?;
        self.seen = total;
        Some(time)
    }
}

/// For how long the machine has been suspended since it was started.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn measured() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    read(ClockId::Boottime).saturating_sub(read(ClockId::Monotonic))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn measured() -> Duration {
    Duration::ZERO
}

#[cfg(not(test))]
use self::measured as suspended;

#[cfg(test)]
pub(super) use self::tests::{suspend, suspended};

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static FEIGNED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    pub(in crate::middleman) fn suspended() -> Duration {
        measured() + FEIGNED.get()
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
