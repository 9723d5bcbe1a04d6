//! The memory of the gate: penalties, and good logins.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

use super::deadline;

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

/// The debt of each key, as the time at which its entry is forgotten.
#[derive(Debug)]
pub(super) struct Debts<K>(Expiring<K>);

impl<K> Default for Debts<K> {
    fn default() -> Self {
        Self(Expiring::default())
    }
}

impl<K: Copy + Eq + Hash + Ord> Debts<K> {
    pub(super) fn owed(&mut self, now: Instant, key: K) -> Duration {
        self.0.end(now, key).map_or(Duration::ZERO, |end| end - now)
    }

    /// Adds a penalty, to a sum of `most` at most; a sum that is greater stays.
    pub(super) fn add(&mut self, now: Instant, key: K, penalty: Duration, most: Duration) -> Duration {
        let before = self.owed(now, key);
        let owed = before.saturating_add(penalty).min(most.max(before));
        if !owed.is_zero() {
            self.0.set(now, key, deadline(now, owed));
        }
        owed
    }

    fn forgive(&mut self, key: K) {
        self.0.remove(key);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Penalties, which add up for each key. A sum is enforced from `min` on: for a stranger until all of it has passed,
/// for a trusted key until it is below `min` again.
#[derive(Debug)]
pub(super) struct Penalties<K> {
    min: Duration,
    max: Duration,
    sums: Debts<K>,
    /// The keys that reached `min`.
    enforced: Expiring<K>,
}

impl<K: Copy + Eq + Hash + Ord> Penalties<K> {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, sums: Debts::default(), enforced: Expiring::default() }
    }

    pub(super) fn set(&mut self, min: Duration, max: Duration) {
        (self.min, self.max) = (min, max);
    }

    pub(super) fn enforced(&mut self, now: Instant, key: K, trusted: bool) -> bool {
        if trusted {
            return self.owes_enough(now, key);
        }
        self.enforced.end(now, key).is_some()
    }

    /// Adds a penalty.
    pub(super) fn add(&mut self, now: Instant, key: K, penalty: Duration) {
        self.add_up_to(now, key, penalty, self.max);
    }

    /// Adds a penalty, but only up to the sum from which another one lets somebody trusted in as it passes.
    pub(super) fn add_one_ahead(&mut self, now: Instant, key: K, penalty: Duration) {
        self.add_up_to(now, key, penalty, self.min.saturating_add(penalty).min(self.max));
    }

    fn add_up_to(&mut self, now: Instant, key: K, penalty: Duration, most: Duration) {
        if penalty.is_zero() {
            return;
        }
        let owed = self.sums.add(now, key, penalty, most);
        if owed >= self.min || self.enforced.end(now, key).is_some() {
            self.enforced.set(now, key, deadline(now, owed));
        }
    }

    fn owes_enough(&mut self, now: Instant, key: K) -> bool {
        let owed = self.sums.owed(now, key);
        owed >= self.min && !owed.is_zero()
    }

    /// Forgives as much as is needed that nothing is enforced.
    pub(super) fn forgive(&mut self, now: Instant, key: K) {
        self.enforced.remove(key);
        if self.owes_enough(now, key) {
            self.sums.forgive(key);
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
        (0..100).for_each(|_| penalties.add(now, 1, seconds(90)));
        assert!(penalties.enforced(now + seconds(599), 1, false));
        assert!(!penalties.enforced(now + seconds(600), 1, false));
    }

    #[test]
    fn full_table_drops_penalty_that_ends_first() {
        let mut penalties = penalties();
        let now = Instant::now();
        penalties.add(now, 0, seconds(20));
        (1..=Expiring::<u32>::MAX as u32).for_each(|n| penalties.add(now, n, seconds(90)));
        assert_eq!(penalties.len(), Expiring::<u32>::MAX);
        assert_eq!(penalties.enforced.len(), Expiring::<u32>::MAX);
        assert!(!penalties.enforced(now, 0, false));
        assert!(penalties.enforced(now, 1, false));
        assert!(!penalties.enforced(now + seconds(90), 1, false));
    }

    #[test]
    fn trusted_key_is_free_below_least_sum() {
        let mut penalties = penalties();
        let now = Instant::now();
        penalties.add(now, 1, seconds(15));
        assert!(penalties.enforced(now, 1, true));
        assert!(!penalties.enforced(now + Duration::from_millis(1), 1, true));
        assert!(penalties.enforced(now + seconds(14), 1, false));
    }

    #[test]
    fn forgiven_penalties_are_not_enforced() {
        let mut penalties = penalties();
        let now = Instant::now();
        (0..10).for_each(|_| penalties.add(now, 1, seconds(5)));
        penalties.forgive(now, 1);
        assert!(!penalties.enforced(now, 1, false));
        assert!(!penalties.enforced(now, 1, true));
    }
}
