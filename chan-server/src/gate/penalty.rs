//! The memory of the gate: penalties, and good logins.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use super::deadline;

/// Failures of a trusted source weigh this much less than those of a stranger.
const TRUSTED_DISCOUNT: u32 = 25;

/// A table whose entries are forgotten at times of their own. A full table forgets the entry that would go first.
#[derive(Debug)]
pub(super) struct Expiring<K> {
    ends: HashMap<K, Instant>,
    /// The same keys in the order of their times, so that the first to go is found at once.
    by_end: BTreeSet<(Instant, K)>,
}

impl<K> Default for Expiring<K> {
    fn default() -> Self {
        Self { ends: HashMap::new(), by_end: BTreeSet::new() }
    }
}

impl<K: Copy + Eq + Hash + Ord> Expiring<K> {
    /// The greatest number of entries. Cost: about 12 MiB a table.
    pub(super) const MAX: usize = 65_536;

    /// Returns the time at which the entry will be forgotten, if there is one.
    pub(super) fn end(&mut self, now: Instant, key: K) -> Option<Instant> {
        self.forget(now);
        self.ends.get(&key).copied()
    }

    /// Sets the time at which the entry will be forgotten.
    pub(super) fn set(&mut self, now: Instant, key: K, end: Instant) {
        self.forget(now);
        self.remove(key);
        if self.ends.len() >= Self::MAX
            && let Some((_, first)) = self.by_end.pop_first()
        {
            self.ends.remove(&first);
        }
        self.ends.insert(key, end);
        self.by_end.insert((end, key));
    }

    pub(super) fn remove(&mut self, key: K) {
        if let Some(end) = self.ends.remove(&key) {
            self.by_end.remove(&(end, key));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    fn forget(&mut self, now: Instant) {
        while let Some(&(end, key)) = self.by_end.first()
            && end <= now
        {
            self.by_end.pop_first();
            self.ends.remove(&key);
        }
    }
}

/// Penalties, which add up for each key. A sum is enforced from `min` on: for a stranger until all of it has passed,
/// for a trusted key until it is below `min` again.
#[derive(Debug)]
pub(super) struct Penalties<K> {
    min: Duration,
    max: Duration,
    sums: Expiring<K>,
    /// The keys that reached `min`.
    enforced: Expiring<K>,
}

impl<K: Copy + Eq + Hash + Ord> Penalties<K> {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, sums: Expiring::default(), enforced: Expiring::default() }
    }

    pub(super) fn set(&mut self, min: Duration, max: Duration) {
        (self.min, self.max) = (min, max);
    }

    pub(super) fn enforced(&mut self, now: Instant, key: K, trusted: bool) -> bool {
        if trusted {
            return self.sums.end(now, key).is_some_and(|end| end - now >= self.min);
        }
        self.enforced.end(now, key).is_some()
    }

    pub(super) fn add(&mut self, now: Instant, key: K, penalty: Duration, trusted: bool) {
        let more = if trusted { penalty / TRUSTED_DISCOUNT } else { penalty };
        if more.is_zero() {
            return;
        }
        let sum = self.sums.end(now, key).map_or(Duration::ZERO, |end| end - now);
        let end = deadline(now, sum.saturating_add(more).min(self.max));
        self.sums.set(now, key, end);
        if end - now >= self.min || self.enforced.end(now, key).is_some() {
            self.enforced.set(now, key, end);
        }
    }

    /// Forgives as much as is needed that nothing is enforced.
    pub(super) fn forgive(&mut self, now: Instant, key: K) {
        self.enforced.remove(key);
        if self.sums.end(now, key).is_some_and(|end| end - now >= self.min) {
            self.sums.remove(key);
        }
    }

    /// Returns the number of keys with a penalty.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn penalties() -> Penalties<u32> {
        Penalties::new(seconds(15), seconds(600))
    }

    #[test]
    fn no_sum_of_penalties_is_over_the_greatest() {
        let mut penalties = penalties();
        let now = Instant::now();
        (0..100).for_each(|_| penalties.add(now, 1, seconds(90), false));
        assert!(penalties.enforced(now + seconds(599), 1, false));
        assert!(!penalties.enforced(now + seconds(600), 1, false));
    }

    #[test]
    fn full_table_drops_penalty_that_ends_first() {
        let mut penalties = penalties();
        let now = Instant::now();
        penalties.add(now, 0, seconds(20), false);
        (1..=Expiring::<u32>::MAX as u32).for_each(|n| penalties.add(now, n, seconds(90), false));
        assert_eq!(penalties.len(), Expiring::<u32>::MAX);
        assert_eq!(penalties.enforced.len(), Expiring::<u32>::MAX);
        assert!(!penalties.enforced(now, 0, false));
        assert!(penalties.enforced(now, 1, false));
        assert!(!penalties.enforced(now + seconds(90), 1, false));
    }

    #[test]
    fn failures_of_trusted_sources_weigh_less() {
        let mut penalties = penalties();
        let start = Instant::now();
        let mut failed = 0;
        for ms in 0..60_000 {
            let now = start + Duration::from_millis(ms);
            if !penalties.enforced(now, 1, true) {
                penalties.add(now, 1, seconds(5), true);
                failed += 1;
            }
        }
        assert!((370..=380).contains(&failed), "{failed} in a minute");
    }

    #[test]
    fn forgiven_penalties_are_not_enforced() {
        let mut penalties = penalties();
        let now = Instant::now();
        (0..10).for_each(|_| penalties.add(now, 1, seconds(5), false));
        penalties.forgive(now, 1);
        assert!(!penalties.enforced(now, 1, false));
        assert!(!penalties.enforced(now, 1, true));
    }
}
