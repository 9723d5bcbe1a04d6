//! What may happen so often, and at first so many times at once.

use std::time::{Duration, Instant};

/// A rate with a burst, kept as one instant: until when what was spent pays for itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// What one costs.
    each: Duration,
    /// How far ahead of the time spending may be.
    ahead: Duration,
    paid_until: Option<Instant>,
}

impl Budget {
    /// So many a second, and `burst` at once; at least one of either.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let each = Duration::from_secs(1) / per_second.max(1);
        Self { each, ahead: each * burst.max(1), paid_until: None }
    }

    /// Spends one; false, and nothing is spent, when it is not there.
    #[must_use]
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let until = self.paid_until.map_or(now, |until| until.max(now)) + self.each;
        let allowed = until <= now + self.ahead;
        if allowed {
            self.paid_until = Some(until);
        }
        allowed
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the time of a test has to begin somewhere")]
mod tests {
    use super::*;

    #[test]
    fn allows_burst_once_then_rate() {
        let start = Instant::now();
        let mut budget = Budget::new(100, 1000);
        let mut spent = |at: Duration| (0..5000).filter(|_| budget.spend(start + at)).count();
        assert_eq!(spent(Duration::ZERO), 1000);
        assert_eq!(spent(Duration::from_millis(500)), 50);
        assert_eq!(spent(Duration::from_millis(505)), 0);
        assert_eq!(spent(Duration::from_secs(3600)), 1000, "what is saved up is bounded");
    }
}
