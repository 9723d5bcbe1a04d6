//! Admission: decides which sources may try to log in, and how many sessions there may be.
//!
//! [`Gate`] decides. The caller passes the time and random numbers in; the gate knows no socket and no clock.
//! `LoginPermit` and `SessionPermit` hold a place and return it when they are dropped.
//!
//! The gate protects places and processor time, and it must not let one client's failures harm others: one address
//! may stand for a thousand honest clients and one that retries a revoked key for ever. So:
//!
//! - While nothing is scarce, no source is turned away for what it did. Wrong passwords cost the *name at that source*,
//!   and half as much the source, for names that are new there: refusals wait, and later passwords are refused unseen
//!   (`wrong.rs`). A wrong key costs nothing there: keys cannot be guessed.
//! - Under load, sources that failed are turned away before TLS, and a source that floods the server with failures is so
//!   while its flood lasts.
//! - A proof that verified counts for its source and its name there: the source is forgiven, its failures weigh a
//!   twenty-fifth, wrong passwords under that name a quarter, and an eighth of all places is kept for such sources.
//! - Nobody can lock others out of a service or a client: there is no penalty on either.

mod load;
mod penalty;
mod permit;
mod rules;
mod sessions;
mod source;
mod wrong;

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use lib_chan::auth::{ClientId, ServiceName};
use lib_chan::{Limits, after};
use tokio::time::Instant;

pub(crate) use permit::{LoginPermit, OpeningPermit, SessionPermit, beat, locked, woke_after};
pub use rules::GateRules;
pub use sessions::{Crowded, Holder, Sessions};
pub use source::Source;

use load::{Floods, Load, Pulse};
use penalty::{Expiring, Penalties};
use wrong::{Standing, WrongPasswords};

/// Failures of a trusted source weigh this much less than those of a stranger.
const TRUSTED_DISCOUNT: u32 = 25;

/// The reason why a connection was dropped before TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Turned {
    /// All places are taken, or the random early drop chose this connection.
    Full,
    /// The source has all the places that it may have.
    SourceFull,
    /// The source failed too often lately, and the server is under load or the source floods it.
    Penalty,
}

impl Turned {
    /// Returns the label for the metrics.
    pub(crate) fn cause(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::SourceFull => "source_full",
            Self::Penalty => "penalty",
        }
    }

    /// Returns the text for the log, with the name of the bound.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "too many logins at once (max_logins_before_drop, max_logins)",
            Self::SourceFull => "too many logins at once from this source (max_logins_per_source)",
            Self::Penalty => "too many failures from this source, under load ([gate] penalties)",
        }
    }
}

/// The end of a login, which decides the penalty of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoginEnd {
    /// The client proved itself, or the server gave up for a reason of its own.
    Good,
    /// The peer closed without having sent a byte, as health checks do. It costs nothing while nothing is scarce, and
    /// under load as much as `Unproved`.
    Silent,
    /// The login ended before its proof. The penalty is the time for which it held its place, within bounds, so that
    /// releasing a place just before the deadline gains nothing.
    Unproved,
    /// The proof was wrong, or the bytes were no login.
    Failed,
    /// A deadline passed.
    DeadlinePassed,
    /// The server's own code panicked over it.
    Crash,
}

/// The places for connections that have not proved anything yet.
#[derive(Debug)]
pub struct Gate {
    rules: GateRules,
    max_before_drop: usize,
    drop_percent: u8,
    max: usize,
    max_per_source: usize,
    waiting: Counter<Source>,
    load: Load,
    floods: Floods,
    pulse: Pulse,
    failures: Penalties<Source>,
    crashes: Penalties<Source>,
    wrong_passwords: WrongPasswords,
    trusted_sources: Expiring<Source>,
    trusted_pairs: Expiring<Pair>,
    /// Hashes names, with a random key, so that nobody can find two names with one number.
    names: RandomState,
}

/// A name at a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Pair {
    source: Source,
    name: u64,
}

impl Gate {
    /// Creates an empty gate with these limits.
    pub fn new(limits: &Limits, rules: GateRules) -> Self {
        let (min, max) = (rules.penalty_min, rules.penalty_max);
        Self {
            max_before_drop: limits.max_logins_before_drop,
            drop_percent: limits.login_drop_percent,
            max: limits.max_logins,
            max_per_source: limits.max_logins_per_source,
            waiting: Counter::default(),
            load: Load::new(rules.failures_per_second),
            floods: Floods::new(rules.failures_per_second),
            pulse: Pulse::default(),
            failures: Penalties::new(min, max),
            crashes: Penalties::new(Duration::ZERO, max),
            wrong_passwords: WrongPasswords::default(),
            trusted_sources: Expiring::default(),
            trusted_pairs: Expiring::default(),
            names: RandomState::new(),
            rules,
        }
    }

    /// Takes new limits. Penalties and trust stay.
    pub(crate) fn set(&mut self, limits: &Limits, rules: GateRules) {
        self.max_before_drop = limits.max_logins_before_drop;
        self.drop_percent = limits.login_drop_percent;
        self.max = limits.max_logins;
        self.max_per_source = limits.max_logins_per_source;
        self.load.set(rules.failures_per_second);
        self.floods.set(rules.failures_per_second);
        self.failures.set(rules.penalty_min, rules.penalty_max);
        self.crashes.set(Duration::ZERO, rules.penalty_max);
        self.rules = rules;
    }

    /// Takes a place for a connection from `source`. `dice` is a fresh random number.
    ///
    /// # Errors
    /// Returns the reason to drop the connection at once.
    pub fn enter(&mut self, now: Instant, source: Source, dice: u16) -> Result<(), Turned> {
        self.beat(now);
        let exempt = self.is_exempt(source);
        let trusted = exempt || self.trusts(now, source);
        if !exempt {
            if self.is_penalised(now, source, trusted) {
                self.floods.failed(now, source);
                return Err(Turned::Penalty);
            }
            if self.waiting.of(&source) >= self.max_of_a_source() {
                return Err(Turned::SourceFull);
            }
        }
        if self.drops(trusted, dice) {
            return Err(Turned::Full);
        }
        self.waiting.add(source);
        if self.is_crowded() {
            self.load.scarce(now);
        }
        Ok(())
    }

    /// Returns the place that was taken at `entered`.
    pub fn leave(&mut self, now: Instant, source: Source, entered: Instant, end: LoginEnd) {
        self.beat(now);
        self.waiting.remove(&source);
        if self.is_exempt(source) {
            return;
        }
        // The server itself was silent, so no other failure in that time is the client's.
        let excused = self.pulse.excuses(entered);
        let penalty = match end {
            LoginEnd::Good => return,
            LoginEnd::Silent | LoginEnd::Unproved | LoginEnd::DeadlinePassed if excused => return,
            LoginEnd::Silent if !self.load.is_on(now) => return,
            LoginEnd::Silent | LoginEnd::Unproved => {
                let most = self.rules.penalty_deadline.max(self.rules.penalty_unproved);
                (now - entered).clamp(self.rules.penalty_unproved, most)
            }
            LoginEnd::Failed => self.rules.penalty_failed,
            LoginEnd::DeadlinePassed => self.rules.penalty_deadline,
            LoginEnd::Crash => {
                return self.crashes.add(now, source, self.rules.penalty_crash);
            }
        };
        self.fail(now, source, penalty);
    }

    /// Notes that a client proved itself. Its source, and its name there, are trusted for a while.
    pub fn proved(&mut self, now: Instant, source: Source, service: &ServiceName, client: &ClientId) {
        let (pair, until) = (self.pair(source, service, client), deadline(now, self.rules.trust));
        self.trusted_sources.set(now, source, until);
        self.trusted_pairs.set(now, pair, until);
        self.failures.forgive(now, source);
    }

    /// Notes a refused password under this name. Returns how long the refusal waits before it is sent. The login
    /// keeps its place meanwhile, so there is no wait if places might become scarce.
    pub fn guessed_wrong(
        &mut self,
        now: Instant,
        source: Source,
        service: &ServiceName,
        client: &ClientId,
    ) -> Duration {
        let (pair, standing) = self.guesser(now, source, service, client);
        let delay = self.wrong_passwords.refused(now, pair, standing, &self.rules);
        let room =
            self.waiting.total < self.crowd() / 2 && self.waiting.of(&source) < self.max_per_source / 2;
        if room { delay } else { Duration::ZERO }
    }

    /// Returns `true` if a password under this name is checked. After too many wrong ones it is refused unseen.
    pub fn may_guess(
        &mut self,
        now: Instant,
        source: Source,
        service: &ServiceName,
        client: &ClientId,
    ) -> bool {
        let (pair, standing) = self.guesser(now, source, service, client);
        !self.wrong_passwords.refuses(now, pair, standing, &self.rules)
    }

    /// Notes that the program runs. Must be called each second; a longer silence means that the program was stopped.
    pub fn beat(&mut self, now: Instant) {
        self.pulse.beat(now);
    }

    /// Returns the time at which the program last continued after a stop, if that was after `since`.
    pub fn woke_after(&mut self, now: Instant, since: Instant) -> Option<Instant> {
        self.beat(now);
        self.pulse.woke_after(since)
    }

    /// Returns `true` while sources are turned away for their failures.
    pub(crate) fn is_under_load(&self, now: Instant) -> bool {
        self.load.is_on(now)
    }

    /// Returns the number of connections that hold a place.
    pub fn waiting(&self) -> usize {
        self.waiting.total
    }

    fn is_exempt(&self, source: Source) -> bool {
        self.rules.exempt.iter().any(|net| net.contains(&source.first_address()))
    }

    fn guesser(
        &mut self,
        now: Instant,
        source: Source,
        service: &ServiceName,
        client: &ClientId,
    ) -> (Pair, Standing) {
        let pair = self.pair(source, service, client);
        let standing = if self.is_exempt(source) {
            Standing::Exempt
        } else if self.trusted_pairs.end(now, pair).is_some() {
            Standing::Known
        } else {
            Standing::Stranger
        };
        (pair, standing)
    }

    fn fail(&mut self, now: Instant, source: Source, penalty: Duration) {
        self.load.failed(now);
        self.floods.failed(now, source);
        match (self.trusts(now, source), self.floods.is_on(now, source)) {
            (false, _) => self.failures.add(now, source, penalty),
            (true, false) => self.failures.add(now, source, penalty / TRUSTED_DISCOUNT),
            // As few as from a stranger, but no longer than the flood lasts.
            (true, true) => self.failures.add_one_ahead(now, source, penalty),
        }
    }

    fn trusts(&mut self, now: Instant, source: Source) -> bool {
        self.trusted_sources.end(now, source).is_some()
    }

    fn is_penalised(&mut self, now: Instant, source: Source, trusted: bool) -> bool {
        self.crashes.enforced(now, source, false)
            || ((self.load.is_on(now) || self.floods.is_on(now, source))
                && self.failures.enforced(now, source, trusted))
    }

    /// A source may borrow places that no other source needs.
    fn max_of_a_source(&self) -> usize {
        if self.is_crowded() { self.max_per_source } else { self.max_per_source.max(self.crowd()) }
    }

    /// Places become scarce once this many are taken.
    fn crowd(&self) -> usize {
        self.max_before_drop / 2
    }

    fn is_crowded(&self) -> bool {
        self.waiting.total >= self.crowd()
    }

    fn pair(&self, source: Source, service: &ServiceName, client: &ClientId) -> Pair {
        Pair { source, name: self.names.hash_one((service.as_str(), client.as_str())) }
    }

    /// Random early drop: nothing below the first number, the stated part at it, everything at the last number. So a
    /// flood loses most of its connections while an honest one still has a chance. An eighth of the places is for
    /// trusted sources, which are dropped only when nothing is left.
    fn drops(&self, trusted: bool, dice: u16) -> bool {
        let waiting = self.waiting.total;
        if waiting >= self.max {
            return true;
        }
        if trusted || waiting < self.max_before_drop {
            return false;
        }
        if waiting >= self.max - self.max / 8 {
            return true;
        }
        let first = f64::from(self.drop_percent) / 100.0;
        let span = (self.max - self.max_before_drop).max(1) as f64;
        let part = first + (1.0 - first) * (waiting - self.max_before_drop) as f64 / span;
        f64::from(dice) < part * (f64::from(u16::MAX) + 1.0)
    }
}

/// Returns the time `time` after `from`. A time that is too long for the clock counts as for ever.
pub(crate) fn deadline(from: Instant, time: Duration) -> Instant {
    after(from.into_std(), time).into()
}

/// Counts by key. A key with a count of zero takes no memory.
#[derive(Debug)]
pub(crate) struct Counter<K> {
    counts: HashMap<K, usize>,
    total: usize,
}

impl<K> Default for Counter<K> {
    fn default() -> Self {
        Self { counts: HashMap::new(), total: 0 }
    }
}

impl<K: Eq + Hash> Counter<K> {
    pub(crate) fn of(&self, key: &K) -> usize {
        self.counts.get(key).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, key: K) {
        *self.counts.entry(key).or_default() += 1;
        self.total += 1;
    }

    /// Returns the sum of all counts.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    pub(crate) fn remove(&mut self, key: &K) {
        let Some(count) = self.counts.get_mut(key) else { return };
        *count -= 1;
        self.total -= 1;
        if *count == 0 {
            self.counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
