//! Detects that the server is under load, and that it was stopped for a while.

use std::time::Duration;

use tokio::time::Instant;

use super::Source;
use super::penalty::Debts;

/// The time for which the server counts as under load after the last sign of it.
const MEMORY: Duration = Duration::from_secs(60);
/// Failed logins may come in a burst of this many seconds.
const BURST_SECONDS: f64 = 10.0;

/// The signs of load: failed logins, which are as fast as they are admitted, and taken places.
#[derive(Debug)]
pub(super) struct Load {
    per_second: f64,
    level: f64,
    measured: Option<Instant>,
    until: Option<Instant>,
}

impl Load {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second), level: 0.0, measured: None, until: None }
    }

    pub(super) fn set(&mut self, per_second: u32) {
        self.per_second = f64::from(per_second);
    }

    pub(super) fn failed(&mut self, now: Instant) {
        let since = self.measured.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.measured = Some(now);
        self.level = (self.level - since.as_secs_f64() * self.per_second).max(0.0) + 1.0;
        let most = self.per_second * BURST_SECONDS;
        if self.level > most {
            self.level = most;
            self.scarce(now);
        }
    }

    /// Notes that a resource is scarce now.
    pub(super) fn scarce(&mut self, now: Instant) {
        self.until = Some(now + MEMORY);
    }

    pub(super) fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// Sources whose logins fail faster than those of a whole server should. Unlike [`Load`], a flood is over soon after its
/// last connection: what counts is what comes, whether it is let in or not.
#[derive(Debug)]
pub(super) struct Floods {
    each: Duration,
    sources: Debts<Source>,
}

impl Floods {
    /// So much may come at once: what is ordinary in this time.
    const BURST: Duration = Duration::from_secs(1);
    /// The time for which a flood counts after its last connection.
    const MEMORY: Duration = Duration::from_secs(1);

    pub(super) fn new(per_second: u32) -> Self {
        let mut this = Self { each: Duration::ZERO, sources: Debts::default() };
        this.set(per_second);
        this
    }

    pub(super) fn set(&mut self, per_second: u32) {
        self.each = Duration::from_secs(1) / per_second.max(1);
    }

    /// Notes that a login of this source failed, or was turned away for those that had failed.
    pub(super) fn failed(&mut self, now: Instant, source: Source) {
        self.sources.add(now, source, self.each, Self::BURST + Self::MEMORY);
    }

    pub(super) fn is_on(&mut self, now: Instant, source: Source) -> bool {
        self.sources.owed(now, source) > Self::BURST
    }
}

/// Detects that the whole program did not run for a while (a stopped process, a frozen container, a paused virtual
/// machine). Logins that fail because of it are not the fault of their sources.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    seen: Option<Instant>,
    woke: Option<Instant>,
}

impl Pulse {
    /// The longest time between two calls of [`beat`](Self::beat) while the program runs.
    pub(super) const INTERVAL: Duration = Duration::from_secs(1);
    /// A longer time without a beat is a stop.
    const STOPPED: Duration = Duration::from_secs(3);
    /// Connections that arrived during a stop are accepted, and found dead, within this time after it.
    const BACKLOG: Duration = Duration::from_secs(5);

    /// Notes that the program runs.
    pub(super) fn beat(&mut self, now: Instant) {
        if self.seen.is_some_and(|seen| now.saturating_duration_since(seen) > Self::STOPPED) {
            self.woke = Some(now);
        }
        self.seen = Some(now);
    }

    /// Returns the time at which the program last continued after a stop, if that was after `since`.
    pub(super) fn woke_after(&self, since: Instant) -> Option<Instant> {
        self.woke.filter(|&woke| woke > since)
    }

    /// Returns `true` if a connection that was accepted at `entered` may have failed because of a stop.
    pub(super) fn excuses(&self, entered: Instant) -> bool {
        self.woke.is_some_and(|woke| entered < woke + Self::BACKLOG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_begins_above_rate_and_lasts_minute() {
        let mut load = Load::new(20);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        (0..1200).for_each(|n| load.failed(at(n * 50)));
        assert!(!load.is_on(at(60_000)), "20 a second are ordinary");
        (0..1000).for_each(|n| load.failed(at(60_000 + n * 3)));
        assert!(load.is_on(at(63_000)), "333 a second are not");
        assert!(load.is_on(at(122_000)));
        assert!(!load.is_on(at(123_000)));
    }

    #[test]
    fn load_takes_burst_of_ten_seconds() {
        let (mut load, start) = (Load::new(20), Instant::now());
        (0..200).for_each(|_| load.failed(start));
        assert!(!load.is_on(start));
        load.failed(start);
        assert!(load.is_on(start), "one more than in ten seconds");
        (0..800).for_each(|_| load.failed(start));
        load.failed(start + Duration::from_secs(10));
        assert!(!load.is_on(start + Duration::from_secs(60)), "no burst is remembered longer than its time");
    }

    #[test]
    fn lowest_rate_allows_one_failure_in_its_second() {
        let (mut floods, source) = (Floods::new(1), Source::of([10, 0, 0, 1].into()));
        let now = Instant::now();
        floods.failed(now, source);
        assert!(!floods.is_on(now, source));
        floods.failed(now, source);
        assert!(floods.is_on(now, source));
    }

    #[test]
    fn flood_begins_above_rate_and_ends_with_it() {
        let (mut floods, source) = (Floods::new(20), Source::of([10, 0, 0, 1].into()));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for n in 0..1200 {
            floods.failed(at(n * 50), source);
            assert!(!floods.is_on(at(n * 50), source), "20 a second are ordinary");
        }
        (0..1000).for_each(|n| floods.failed(at(60_000 + n * 3), source));
        assert!(floods.is_on(at(63_000), source));
        assert!(!floods.is_on(at(63_000), Source::of([10, 0, 0, 2].into())));
        assert!(!floods.is_on(at(64_000), source), "over a second after the last one");
    }

    #[test]
    fn tells_stop_from_busy_second() {
        let mut pulse = Pulse::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        [0, 1, 3, 6].into_iter().for_each(|second| pulse.beat(at(second)));
        assert!(!pulse.excuses(start));
        pulse.beat(at(20));
        assert_eq!(pulse.woke_after(at(6)), Some(at(20)));
        assert_eq!(pulse.woke_after(at(20)), None);
        assert!(pulse.excuses(at(5)) && pulse.excuses(at(24)) && !pulse.excuses(at(25)));
        pulse.beat(at(23) + Duration::from_millis(1));
        assert_eq!(pulse.woke_after(at(20)), Some(at(23) + Duration::from_millis(1)));
    }
}
