//! Budgets for operations that a peer may cause: a rate, and a burst.

use std::time::{Duration, Instant};

/// A rate with a burst, stored as the one time up to which it is spent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// The time that one operation costs.
    each: Duration,
    /// The time by which spending may be ahead.
    ahead: Duration,
    paid_until: Option<Instant>,
}

impl Budget {
    /// Creates a budget of this many operations a second, and `burst` at once; at least one of either.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let each = Duration::from_secs(1) / per_second.max(1);
        Self { each, ahead: each * burst.max(1), paid_until: None }
    }

    /// Spends one operation. Returns `false`, and spends nothing, if the budget is used up.
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
