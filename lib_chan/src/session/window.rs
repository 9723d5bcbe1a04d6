//! A credit window that follows the path, so that a sender never waits for credit.
//!
//! A fixed window carries one window per round trip, on any line. So the receiver measures: it sends a `Ping`, and
//! the `Pong` tells it the round trip time and how many bytes its process took meanwhile. Rate × round trip time is
//! the window that the session needs ([RFC 6349] calls it the bandwidth-delay product). Only bytes that the process
//! took count, so the window of a slow reader never grows.
//!
//! [RFC 6349]: https://www.rfc-editor.org/rfc/rfc6349#section-3.1

use std::time::{Duration, Instant};

/// The window is this many times the bytes of one round trip: one share is in flight, one waits in the sender's
/// kernel or returns as credit, and one covers the data that TCP holds back while it repeats a lost packet.
const SHARES: f64 = 3.0;
/// A longer round trip does not widen the window. Otherwise a peer could get any window by delaying its pongs.
const MAX_RTT: Duration = Duration::from_millis(500);
/// The least round trip time is taken over the last one to two of these periods.
const RTT_KEPT: Duration = Duration::from_secs(60);
/// A window is narrowed to the widest window needed in the last one to two of these periods.
const NEED_KEPT: Duration = Duration::from_secs(10);
/// The least and the greatest time between two probes. It doubles after each probe that changes nothing.
const PROBE_EVERY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// This bit is set in the tokens of probes, and clear in those of other pings.
const PROBE: u64 = 1 << 63;

/// The extreme of a number over the recent past, kept in two halves.
#[derive(Clone, Copy, Debug)]
struct Recent<T> {
    since: Instant,
    current: Option<T>,
    before: Option<T>,
}

impl<T: Copy> Recent<T> {
    const fn new(now: Instant) -> Self {
        Self { since: now, current: None, before: None }
    }

    fn note(&mut self, now: Instant, kept: Duration, value: T, better: impl Fn(T, T) -> T) -> T {
        if now.saturating_duration_since(self.since) >= kept {
            *self = Self { since: now, current: None, before: self.current };
        }
        let current = self.current.map_or(value, |current| better(current, value));
        self.current = Some(current);
        self.before.map_or(current, |before| better(before, current))
    }
}

/// Decides how long the window of one session is.
#[derive(Debug)]
pub(super) struct Tuner {
    /// The initial window, which is also the least.
    base: u64,
    max: u64,
    /// The probe in flight: its token, when it left, and the bytes that the process had taken by then.
    probe: Option<(u64, Instant, u64)>,
    last_token: u64,
    /// The time of the next probe, and the time between it and the one after.
    next_at: Instant,
    every: Duration,
    /// The bytes that had been taken when the last probe ended, and those taken by all other processes when it left.
    taken: u64,
    others: u64,
    rtt: Recent<Duration>,
    need: Recent<u64>,
}

impl Tuner {
    pub(super) fn new(base: u64, max: u64, now: Instant) -> Self {
        Self {
            base,
            max: max.max(base),
            probe: None,
            last_token: 0,
            next_at: now,
            every: PROBE_EVERY.0,
            taken: 0,
            others: 0,
            rtt: Recent::new(now),
            need: Recent::new(now),
        }
    }

    /// Returns how much wider this window is than at the start.
    pub(super) const fn extra(&self, window: u64) -> u64 {
        window - self.base
    }

    /// Returns the least round trip time of the last one to two minutes, at most 500 ms; of the last probe, if there is only
    /// one.
    pub(super) fn rtt(&self) -> Option<Duration> {
        let (current, before) = (self.rtt.current, self.rtt.before);
        current.zip(before).map(|(current, before)| current.min(before)).or(current).or(before)
    }

    /// Returns the bytes by which windows may still grow, if all together have grown by `extra`.
    pub(super) const fn room(&self, extra: u64) -> u64 {
        self.max.saturating_sub(self.base).saturating_sub(extra)
    }

    /// Returns the token of a probe, if one is worth sending now. The process has taken `taken` bytes in all, and the other
    /// processes of the session have taken `others`.
    pub(super) fn probe(&mut self, now: Instant, taken: u64, others: u64) -> Option<u64> {
        let quiet = (taken - self.taken) + (others - self.others) < self.base / 4;
        if self.base == self.max || self.probe.is_some() || quiet || now < self.next_at {
            return None;
        }
        self.last_token += 1;
        let token = PROBE | self.last_token;
        self.probe = Some((token, now, taken));
        self.others = others;
        Some(token)
    }

    /// Handles a pong. Returns the window that is needed, if it differs from the current `window`.
    pub(super) fn pong(&mut self, now: Instant, token: u64, window: u64, taken: u64) -> Option<u64> {
        let (expected, sent, taken_then) = self.probe?;
        if token != expected {
            return None;
        }
        self.probe = None;
        self.taken = taken;
        let elapsed = now.saturating_duration_since(sent).max(Duration::from_micros(1));
        let rtt = self.rtt.note(now, RTT_KEPT, elapsed.min(MAX_RTT), Duration::min);
        let rate = (taken - taken_then) as f64 / elapsed.as_secs_f64();
        let need = (SHARES * rate * rtt.as_secs_f64()) as u64;
        let recent = self.need.note(now, NEED_KEPT, need, u64::max);
        let wanted = if need > window { need } else { recent.min(window) };
        let wanted = wanted.clamp(self.base, self.max);
        // A small change is worth neither a frame nor another probe soon.
        let changed = wanted > window + window / 8 || wanted < window / 2;
        self.every = if changed { PROBE_EVERY.0 } else { (self.every * 2).min(PROBE_EVERY.1) };
        self.next_at = now + self.every;
        changed.then_some(wanted)
    }

    /// Handles an idle session. Returns the window that is needed, if it differs from the current `window`.
    pub(super) fn idle(&mut self, window: u64) -> Option<u64> {
        self.every = PROBE_EVERY.0;
        (window > self.base).then_some(self.base)
    }

    /// Discards the measurements, because the path is a new one.
    pub(super) const fn restart(&mut self, now: Instant) {
        self.probe = None;
        self.rtt = Recent::new(now);
        self.every = PROBE_EVERY.0;
    }

    /// Notes that the program has no room for a wider window.
    pub(super) const fn refuse(&mut self) {
        self.every = PROBE_EVERY.1;
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the time of a test has to begin somewhere")]
mod tests {
    use super::*;

    const BASE: u64 = 256 * 1024;
    const MAX: u64 = 16 * 1024 * 1024;

    /// Lets a process take at `rate` bytes a second, at most a window per round trip, for a while, over a path with
    /// this round trip time. Returns the final window.
    fn settle(rate: f64, rtt: Duration, delayed: Duration) -> u64 {
        let mut now = Instant::now();
        let mut tuner = Tuner::new(BASE, MAX, now);
        let (mut window, mut taken) = (BASE, 0);
        for _ in 0..200 {
            let seen = rtt + delayed;
            let carried =
                (window as f64).min(rate * rtt.as_secs_f64()) * seen.as_secs_f64() / rtt.as_secs_f64();
            let token = tuner.probe(now, taken, 0);
            now += seen;
            taken += carried as u64;
            if let Some(wanted) = token.and_then(|token| tuner.pong(now, token, window, taken)) {
                window = wanted;
            }
        }
        window
    }

    #[test]
    fn window_grows_with_path() {
        let window = settle(25e6, Duration::from_millis(50), Duration::ZERO);
        let product = 25e6 * 0.05;
        assert!((2.0 * product..4.0 * product).contains(&(window as f64)), "{window}");
    }

    #[test]
    fn window_stays_small_for_slow_reader() {
        assert_eq!(settle(100e3, Duration::from_millis(150), Duration::ZERO), BASE);
    }

    #[test]
    fn window_stays_below_its_bound() {
        assert_eq!(settle(1e9, Duration::from_millis(150), Duration::ZERO), MAX);
    }

    #[test]
    fn delayed_pongs_gain_at_most_half_a_second() {
        let window = settle(1e6, Duration::from_millis(10), Duration::from_secs(20));
        assert!(window as f64 <= SHARES * 1e6 * 0.5, "{window}");
    }

    #[test]
    fn window_narrows_when_idle_or_unneeded() {
        let start = Instant::now();
        let mut tuner = Tuner::new(BASE, MAX, start);
        let (mut now, mut taken, mut window) = (start, BASE, 8 << 20);
        for _ in 0..60 {
            let token = tuner.probe(now, taken, 0).expect("a probe is due each second");
            now += Duration::from_millis(50);
            taken += BASE / 4;
            if let Some(wanted) = tuner.pong(now, token, window, taken) {
                window = wanted;
            }
            now += Duration::from_secs(1);
            taken += BASE / 4;
        }
        assert!(window < 1 << 20, "{window}");
        assert_eq!(tuner.idle(8 << 20), Some(BASE));
    }

    #[test]
    fn foreign_pong_changes_nothing() {
        let now = Instant::now();
        let mut tuner = Tuner::new(BASE, MAX, now);
        assert_eq!(tuner.pong(now, PROBE | 1, BASE, 0), None);
        let token = tuner.probe(now, BASE, 0).expect("enough was taken");
        assert_eq!(tuner.pong(now, token ^ 2, BASE, 5 * BASE), None);
        assert_eq!(tuner.probe(now, 2 * BASE, 0), None, "one is under way");
    }
}
