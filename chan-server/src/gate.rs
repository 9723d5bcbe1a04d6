//! Who may try to log in, and how many sessions there may be.
//!
//! [`Gate`] decides, with the time and the dice handed in; it knows no socket and no clock. `LoginPermit` and
//! `SessionPermit` hold a place and give it back when they are dropped.
//!
//! The throttle is always on the *source* of a connection, never on a service or a client: nobody can lock others out
//! of a service by failing there.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lib_chan::Limits;
use tokio::time::Instant;

/// Where a connection comes from, as far as it is told apart: an IPv4 address, or an IPv6 network of 64 bits, which
/// is what one customer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(IpAddr);

impl Source {
    /// The source that an address belongs to. An IPv4 address inside of IPv6 counts as the IPv4 address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
            v4 => v4,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => write!(f, "{v4}"),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

/// Why a connection was dropped before TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Turned {
    /// All places are taken, or this one fell to the random early drop.
    Full,
    /// The source has all the places it may have.
    SourceFull,
    /// The source failed too often lately.
    Penalty,
}

impl Turned {
    /// A word for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "too many logins at once",
            Self::SourceFull => "too many logins at once from this source",
            Self::Penalty => "too many failures from this source",
        }
    }
}

/// How a login ended, for the penalty its source gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoginEnd {
    /// The client proved itself, or the server gave up for a reason of its own.
    Good,
    /// It ended before there was a proof: as long as it had held its place, at least 1 s and at most 10 s. So whoever
    /// holds places and gives each back in time comes off no better than at the deadline.
    NothingSent,
    /// A wrong proof, or something that is no login: 5 s.
    FailedProof,
    /// A deadline passed: 10 s.
    DeadlinePassed,
    /// The server's own code panicked over it: 90 s.
    Crash,
}

impl LoginEnd {
    fn penalty(self, held: Duration) -> Duration {
        const SECOND: Duration = Duration::from_secs(1);
        match self {
            Self::Good => Duration::ZERO,
            Self::NothingSent => held.clamp(SECOND, 10 * SECOND),
            Self::FailedProof => 5 * SECOND,
            Self::DeadlinePassed => 10 * SECOND,
            Self::Crash => 90 * SECOND,
        }
    }
}

/// The places for those who have not proved anything yet.
#[derive(Debug)]
pub struct Gate {
    max_before_drop: usize,
    drop_percent: u8,
    max: usize,
    max_per_source: usize,
    waiting: Counter<Source>,
    penalties: Penalties,
}

impl Gate {
    /// A gate with the numbers of these limits, and nobody in it.
    pub fn new(limits: &Limits) -> Self {
        Self {
            max_before_drop: limits.max_logins_before_drop,
            drop_percent: limits.login_drop_percent,
            max: limits.max_logins,
            max_per_source: limits.max_logins_per_source,
            waiting: Counter::default(),
            penalties: Penalties::default(),
        }
    }

    /// Takes a place for a connection from `source`. `dice` is a fresh random number.
    ///
    /// # Errors
    /// With the reason to drop the connection at once, without a byte.
    pub fn enter(&mut self, now: Instant, source: Source, dice: u16) -> Result<(), Turned> {
        if self.penalties.enforced(now, source) {
            return Err(Turned::Penalty);
        }
        if self.waiting.of(&source) >= self.max_per_source {
            return Err(Turned::SourceFull);
        }
        if self.drops(dice) {
            return Err(Turned::Full);
        }
        self.waiting.add(source);
        Ok(())
    }

    /// Gives the place back that was taken at `entered`.
    pub fn leave(&mut self, now: Instant, source: Source, entered: Instant, end: LoginEnd) {
        self.waiting.remove(&source);
        self.penalties.add(now, source, end.penalty(now - entered));
    }

    /// Those who have a place.
    pub fn waiting(&self) -> usize {
        self.waiting.total
    }

    /// Random early drop: from nothing below the first number, over the stated part at it, to all at the last. A
    /// flood then loses most of its connections while an honest one still has a chance.
    fn drops(&self, dice: u16) -> bool {
        let waiting = self.waiting.total;
        if waiting >= self.max {
            return true;
        }
        if waiting < self.max_before_drop {
            return false;
        }
        let first = f64::from(self.drop_percent) / 100.0;
        let span = (self.max - self.max_before_drop).max(1) as f64;
        let part = first + (1.0 - first) * (waiting - self.max_before_drop) as f64 / span;
        f64::from(dice) < part * (f64::from(u16::MAX) + 1.0)
    }
}

/// How long sources are turned away for what they did. A source's penalties add up, and begin to count when there is
/// enough of them; then they last until the whole sum has passed.
#[derive(Debug, Default)]
struct Penalties {
    sources: HashMap<Source, Penalty>,
    /// The same sources by the end of their penalty, so that the first to end is found at once.
    ends: BTreeSet<(Instant, Source)>,
}

#[derive(Clone, Copy, Debug)]
struct Penalty {
    end: Instant,
    enforced: bool,
}

impl Penalties {
    /// Penalties below this sum are only remembered.
    const MIN: Duration = Duration::from_secs(15);
    /// No sum is greater.
    const MAX: Duration = Duration::from_secs(600);
    /// Sources remembered, at most: above this the one whose penalty ends first is forgiven. Cost: about 12 MiB.
    const MAX_SOURCES: usize = 65_536;

    fn enforced(&mut self, now: Instant, source: Source) -> bool {
        self.forgive_ended(now);
        self.sources.get(&source).is_some_and(|penalty| penalty.enforced)
    }

    fn add(&mut self, now: Instant, source: Source, more: Duration) {
        if more.is_zero() {
            return;
        }
        self.forgive_ended(now);
        let old = self.sources.get(&source).copied();
        if let Some(old) = old {
            self.ends.remove(&(old.end, source));
        } else if self.sources.len() >= Self::MAX_SOURCES {
            self.forgive_first();
        }
        let end = (old.map_or(now, |old| old.end) + more).min(now + Self::MAX);
        let enforced = old.is_some_and(|old| old.enforced) || end - now >= Self::MIN;
        self.sources.insert(source, Penalty { end, enforced });
        self.ends.insert((end, source));
    }

    fn forgive_ended(&mut self, now: Instant) {
        while self.ends.first().is_some_and(|&(end, _)| end <= now) {
            self.forgive_first();
        }
    }

    fn forgive_first(&mut self) {
        if let Some((_, source)) = self.ends.pop_first() {
            self.sources.remove(&source);
        }
    }
}

/// Why an authenticated client gets no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Crowded {
    /// The server has all the sessions it may have.
    Server,
    /// The service has.
    Service,
    /// This client, or this source under a shared password, has.
    Holder,
}

impl Crowded {
    /// A word for the log, and for the client, which has proved itself by then.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "the server has too many sessions",
            Self::Service => "the service has too many sessions",
            Self::Holder => "this client has too many sessions",
        }
    }
}

/// Whose sessions are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A named client of a service.
    Client(Arc<str>, Arc<str>),
    /// A source, where many share a password.
    Source(Source),
}

/// How many sessions there are.
#[derive(Debug)]
pub struct Sessions {
    max: usize,
    max_per_service: usize,
    max_per_holder: usize,
    services: Counter<Arc<str>>,
    holders: Counter<Holder>,
}

impl Sessions {
    /// A count from nothing, with the numbers of these limits.
    pub fn new(limits: &Limits) -> Self {
        Self {
            max: limits.max_sessions,
            max_per_service: limits.max_sessions_per_service,
            max_per_holder: limits.max_sessions_per_client,
            services: Counter::default(),
            holders: Counter::default(),
        }
    }

    /// Takes a place for a session.
    ///
    /// # Errors
    /// When one of the three numbers is reached, with the first of them.
    pub fn enter(&mut self, service: &Arc<str>, holder: &Holder) -> Result<(), Crowded> {
        if self.services.total >= self.max {
            return Err(Crowded::Server);
        }
        if self.services.of(service) >= self.max_per_service {
            return Err(Crowded::Service);
        }
        if self.holders.of(holder) >= self.max_per_holder {
            return Err(Crowded::Holder);
        }
        self.services.add(Arc::clone(service));
        self.holders.add(holder.clone());
        Ok(())
    }

    /// Gives the place back.
    pub fn leave(&mut self, service: &Arc<str>, holder: &Holder) {
        self.services.remove(service);
        self.holders.remove(holder);
    }

    /// Sessions in all.
    pub fn total(&self) -> usize {
        self.services.total
    }
}

/// Counts things by a key, and keeps nothing for a key that has none.
#[derive(Debug)]
struct Counter<K> {
    counts: HashMap<K, usize>,
    total: usize,
}

impl<K> Default for Counter<K> {
    fn default() -> Self {
        Self { counts: HashMap::new(), total: 0 }
    }
}

impl<K: Eq + Hash> Counter<K> {
    fn of(&self, key: &K) -> usize {
        self.counts.get(key).copied().unwrap_or(0)
    }

    fn add(&mut self, key: K) {
        *self.counts.entry(key).or_default() += 1;
        self.total += 1;
    }

    fn remove(&mut self, key: &K) {
        let Some(count) = self.counts.get_mut(key) else { return };
        *count -= 1;
        self.total -= 1;
        if *count == 0 {
            self.counts.remove(key);
        }
    }
}

/// A place among those who have not proved anything. Dropped without [`settle`](Self::settle) it means that the code
/// over it panicked.
#[derive(Debug)]
pub(crate) struct LoginPermit {
    gate: Arc<Mutex<Gate>>,
    source: Source,
    entered: Instant,
    end: LoginEnd,
}

impl LoginPermit {
    pub(crate) fn take(gate: &Arc<Mutex<Gate>>, source: Source) -> Result<Self, Turned> {
        let mut dice = [0; 2];
        // Without randomness the dice is 0, and the early drop takes everybody: no worse than an overload.
        let _ = aws_lc_rs::rand::fill(&mut dice);
        let entered = Instant::now();
        locked(gate).enter(entered, source, u16::from_be_bytes(dice))?;
        Ok(Self { gate: Arc::clone(gate), source, entered, end: LoginEnd::Crash })
    }

    /// Gives the place back, and its source what it deserves.
    pub(crate) fn settle(mut self, end: LoginEnd) {
        self.end = end;
    }
}

impl Drop for LoginPermit {
    fn drop(&mut self) {
        locked(&self.gate).leave(Instant::now(), self.source, self.entered, self.end);
    }
}

/// A session's place.
#[derive(Debug)]
pub(crate) struct SessionPermit {
    sessions: Arc<Mutex<Sessions>>,
    service: Arc<str>,
    holder: Holder,
}

impl SessionPermit {
    pub(crate) fn take(
        sessions: &Arc<Mutex<Sessions>>,
        service: &Arc<str>,
        holder: Holder,
    ) -> Result<Self, Crowded> {
        locked(sessions).enter(service, &holder)?;
        Ok(Self { sessions: Arc::clone(sessions), service: Arc::clone(service), holder })
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        locked(&self.sessions).leave(&self.service, &self.holder);
    }
}

/// The counts are whole between any two statements that could panic, so a poisoned lock is as good as another.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: u16 = u16::MAX;
    const ALWAYS: u16 = 0;

    fn source(n: u32) -> Source {
        Source::of(IpAddr::V4(n.into()))
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_source_is_one_ipv4_address_or_64_bits_of_ipv6() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_eq!(of("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
    }

    #[test]
    fn nobody_is_dropped_before_the_first_number_and_everybody_at_the_last() {
        let mut gate = Gate::new(&Limits::default());
        let now = Instant::now();
        for n in 0..128 {
            gate.enter(now, source(n), ALWAYS).unwrap();
        }
        assert_eq!(gate.enter(now, source(128), ALWAYS), Err(Turned::Full));
        for n in 128..1024 {
            gate.enter(now, source(n), NEVER).unwrap();
        }
        assert_eq!(gate.enter(now, source(1024), NEVER), Err(Turned::Full));
        gate.leave(now, source(7), now, LoginEnd::Good);
        assert_eq!(gate.enter(now, source(1024), NEVER), Ok(()));
    }

    #[test]
    fn the_part_dropped_grows_evenly_from_the_stated_percent() {
        let gate_with = |waiting| {
            let mut gate = Gate::new(&Limits::default());
            (0..waiting).for_each(|n| gate.waiting.add(source(n)));
            gate
        };
        let dropped = |waiting| {
            let gate = gate_with(waiting);
            (0..=u16::MAX).filter(|&dice| gate.drops(dice)).count() as f64 / 65536.0
        };
        assert_eq!(dropped(127), 0.0);
        assert!((dropped(128) - 0.30).abs() < 0.001);
        assert!((dropped(576) - 0.65).abs() < 0.001);
        assert!(dropped(1023) > 0.99);
        assert_eq!(dropped(1024), 1.0);
    }

    #[test]
    fn a_source_cannot_take_the_places_of_others() {
        let mut gate = Gate::new(&Limits::default());
        let now = Instant::now();
        for _ in 0..16 {
            gate.enter(now, source(1), NEVER).unwrap();
        }
        assert_eq!(gate.enter(now, source(1), NEVER), Err(Turned::SourceFull));
        assert_eq!(gate.enter(now, source(2), NEVER), Ok(()));
        gate.leave(now, source(1), now, LoginEnd::Good);
        assert_eq!(gate.enter(now, source(1), NEVER), Ok(()));
    }

    #[test]
    fn penalties_are_enforced_from_fifteen_seconds_until_the_sum_has_passed() {
        let mut gate = Gate::new(&Limits::default());
        let start = Instant::now();
        let fail = |gate: &mut Gate, now| {
            let entered = gate.enter(now, source(1), NEVER);
            if entered.is_ok() {
                gate.leave(now, source(1), now, LoginEnd::FailedProof);
            }
            entered
        };
        assert_eq!(fail(&mut gate, start), Ok(()));
        assert_eq!(fail(&mut gate, start), Ok(()));
        assert_eq!(fail(&mut gate, start + seconds(0)), Ok(()));
        assert_eq!(fail(&mut gate, start + seconds(1)), Err(Turned::Penalty));
        assert_eq!(fail(&mut gate, start + seconds(14)), Err(Turned::Penalty));
        assert_eq!(gate.enter(start, source(2), NEVER), Ok(()));
        assert_eq!(gate.enter(start + seconds(15), source(1), NEVER), Ok(()));
    }

    #[test]
    fn whoever_holds_places_and_gives_them_back_in_time_comes_off_no_better_than_at_the_deadline() {
        let mut gate = Gate::new(&Limits::default());
        let start = Instant::now();
        for (held, enforced) in [(seconds(14), false), (seconds(14), true)] {
            gate.enter(start, source(1), NEVER).unwrap();
            gate.leave(start + held, source(1), start, LoginEnd::NothingSent);
            assert_eq!(gate.penalties.enforced(start + held, source(1)), enforced);
        }
        // One that looks in and goes is not held up.
        for n in 0..10 {
            gate.enter(start, source(2), NEVER).unwrap();
            gate.leave(start, source(2), start, LoginEnd::NothingSent);
            assert!(!gate.penalties.sources[&source(2)].enforced, "{n}");
        }
    }

    #[test]
    fn failures_far_apart_are_never_enforced() {
        let mut gate = Gate::new(&Limits::default());
        let start = Instant::now();
        for n in 0..100 {
            let now = start + seconds(6 * n);
            assert_eq!(gate.enter(now, source(1), NEVER), Ok(()), "{n}");
            gate.leave(now, source(1), now, LoginEnd::FailedProof);
        }
    }

    #[test]
    fn a_good_login_costs_nothing_and_a_crash_counts_at_once() {
        let mut gate = Gate::new(&Limits::default());
        let now = Instant::now();
        for _ in 0..1000 {
            gate.enter(now, source(1), NEVER).unwrap();
            gate.leave(now, source(1), now, LoginEnd::Good);
        }
        assert!(gate.penalties.sources.is_empty());
        gate.enter(now, source(1), NEVER).unwrap();
        gate.leave(now, source(1), now, LoginEnd::Crash);
        assert_eq!(gate.enter(now + seconds(89), source(1), NEVER), Err(Turned::Penalty));
        assert_eq!(gate.enter(now + seconds(90), source(1), NEVER), Ok(()));
    }

    #[test]
    fn no_sum_of_penalties_is_over_ten_minutes() {
        let mut penalties = Penalties::default();
        let now = Instant::now();
        for _ in 0..100 {
            penalties.add(now, source(1), seconds(90));
        }
        assert!(penalties.enforced(now + seconds(599), source(1)));
        assert!(!penalties.enforced(now + seconds(600), source(1)));
    }

    #[test]
    fn a_full_table_forgives_the_penalty_that_ends_first() {
        let mut penalties = Penalties::default();
        let now = Instant::now();
        penalties.add(now, source(0), seconds(20));
        for n in 1..=Penalties::MAX_SOURCES as u32 {
            penalties.add(now, source(n), seconds(90));
        }
        assert_eq!(penalties.sources.len(), Penalties::MAX_SOURCES);
        assert_eq!(penalties.ends.len(), Penalties::MAX_SOURCES);
        assert!(!penalties.enforced(now, source(0)));
        assert!(penalties.enforced(now, source(1)));
        assert!(!penalties.enforced(now + seconds(90), source(1)));
        assert_eq!((penalties.sources.len(), penalties.ends.len()), (0, 0));
    }

    #[test]
    fn a_permit_that_nobody_settled_counts_as_a_crash() {
        let gate = Arc::new(Mutex::new(Gate::new(&Limits::default())));
        LoginPermit::take(&gate, source(1)).unwrap().settle(LoginEnd::Good);
        assert_eq!(locked(&gate).waiting(), 0);
        drop(LoginPermit::take(&gate, source(1)).unwrap());
        assert_eq!(locked(&gate).waiting(), 0);
        assert_eq!(LoginPermit::take(&gate, source(1)).unwrap_err(), Turned::Penalty);
    }

    #[test]
    fn sessions_are_bounded_in_all_for_each_service_and_for_each_client() {
        let mut limits = Limits::default();
        (limits.max_sessions, limits.max_sessions_per_service, limits.max_sessions_per_client) = (3, 2, 1);
        let sessions = Arc::new(Mutex::new(Sessions::new(&limits)));
        let take = |service: &str, holder: u32| {
            SessionPermit::take(&sessions, &service.into(), Holder::Source(source(holder)))
        };
        let first = take("a", 1).unwrap();
        assert_eq!(take("a", 1).unwrap_err(), Crowded::Holder);
        let second = take("a", 2).unwrap();
        assert_eq!(take("a", 3).unwrap_err(), Crowded::Service);
        let third = take("b", 3).unwrap();
        assert_eq!(take("c", 4).unwrap_err(), Crowded::Server);
        drop((first, second, third));
        assert_eq!(locked(&sessions).total(), 0);
        assert!(locked(&sessions).holders.counts.is_empty());
        take("a", 1).unwrap();
    }
}
