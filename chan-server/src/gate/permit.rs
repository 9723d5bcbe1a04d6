//! Places that return themselves when dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lib_chan::auth::{ClientId, ServiceName};
use tokio::time::{Instant, interval};

use super::load::Pulse;
use super::{Crowded, Gate, Holder, LoginEnd, Sessions, Source, Turned, deadline};

/// A place among connections that have not proved anything. Dropping a permit without [`settle`](Self::settle) means
/// that the code holding it panicked.
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
        // Without randomness the number is 0, and the early drop takes every connection: no worse than an overload.
        let _ = aws_lc_rs::rand::fill(&mut dice);
        let entered = Instant::now();
        locked(gate).enter(entered, source, u16::from_be_bytes(dice))?;
        Ok(Self { gate: Arc::clone(gate), source, entered, end: LoginEnd::Crash })
    }

    /// Gives the place back and takes one for the true source, once a proxy has told it.
    pub(crate) fn pass_to(self, source: Source) -> Result<Self, Turned> {
        let gate = Arc::clone(&self.gate);
        self.settle(LoginEnd::Good);
        Self::take(&gate, source)
    }

    /// Returns the place, and gives its source the penalty for this end.
    pub(crate) fn settle(mut self, end: LoginEnd) {
        self.end = end;
    }

    /// Returns the place after a good login.
    pub(crate) fn settle_proved(self, service: &ServiceName, client: &ClientId) {
        locked(&self.gate).proved(Instant::now(), self.source, service, client);
        self.settle(LoginEnd::Good);
    }

    /// Notes a refused password under this name. Returns how long its refusal waits.
    pub(crate) fn guessed_wrong(&self, service: &ServiceName, client: &ClientId) -> Duration {
        locked(&self.gate).guessed_wrong(Instant::now(), self.source, service, client)
    }

    /// Returns `true` if a password under this name is checked.
    pub(crate) fn may_guess(&self, service: &ServiceName, client: &ClientId) -> bool {
        locked(&self.gate).may_guess(Instant::now(), self.source, service, client)
    }
}

impl Drop for LoginPermit {
    fn drop(&mut self) {
        locked(&self.gate).leave(Instant::now(), self.source, self.entered, self.end);
    }
}

/// The place of a session.
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

/// The place of a client that has logged in and not started its service yet.
#[derive(Debug)]
pub(crate) struct OpeningPermit {
    sessions: Arc<Mutex<Sessions>>,
    holder: Holder,
}

impl OpeningPermit {
    pub(crate) fn take(sessions: &Arc<Mutex<Sessions>>, holder: Holder) -> Result<Self, Crowded> {
        locked(sessions).enter_opening(&holder)?;
        Ok(Self { sessions: Arc::clone(sessions), holder })
    }
}

impl Drop for OpeningPermit {
    fn drop(&mut self) {
        locked(&self.sessions).leave_opening(&self.holder);
    }
}

/// Tells the gate that the program runs, again and again.
pub(crate) async fn beat(gate: &Mutex<Gate>) {
    let mut beats = interval(Pulse::INTERVAL);
    loop {
        beats.tick().await;
        locked(gate).beat(Instant::now());
    }
}

/// Returns the deadline of an operation that began at `began` and may take `time`. The time counts from the
/// beginning, or from the last time at which the program continued after a stop, so a stop takes no time from
/// anybody.
pub(crate) fn woke_after(gate: &Mutex<Gate>, began: Instant, time: Duration) -> Instant {
    deadline(locked(gate).woke_after(Instant::now(), began).unwrap_or(began), time)
}

/// The counts are consistent between any two statements that could panic, so a poisoned lock is usable.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lib_chan::Limits;

    use super::*;
    use crate::gate::GateRules;

    fn source(n: u32) -> Source {
        Source::of(IpAddr::V4(n.into()))
    }

    #[test]
    fn unsettled_permit_counts_as_crash() {
        let gate = Arc::new(Mutex::new(Gate::new(&Limits::default(), GateRules::default())));
        LoginPermit::take(&gate, source(1)).unwrap().settle(LoginEnd::Good);
        assert_eq!(locked(&gate).waiting(), 0);
        drop(LoginPermit::take(&gate, source(1)).unwrap());
        assert_eq!(locked(&gate).waiting(), 0);
        assert_eq!(LoginPermit::take(&gate, source(1)).unwrap_err(), Turned::Penalty);
    }

    #[test]
    fn proxy_is_not_blamed_for_its_clients() {
        let gate = Arc::new(Mutex::new(Gate::new(&Limits::default(), GateRules::default())));
        let passed = LoginPermit::take(&gate, source(1)).unwrap().pass_to(source(2)).unwrap();
        assert_eq!(locked(&gate).waiting(), 1);
        drop(passed);
        LoginPermit::take(&gate, source(1)).unwrap().settle(LoginEnd::Good);
        assert_eq!(LoginPermit::take(&gate, source(2)).unwrap_err(), Turned::Penalty);
    }

    #[test]
    fn proof_makes_source_trusted() {
        let gate = Arc::new(Mutex::new(Gate::new(&Limits::default(), GateRules::default())));
        let permit = LoginPermit::take(&gate, source(1)).unwrap();
        permit.settle_proved(&"s".parse().unwrap(), &ClientId::default());
        assert!(locked(&gate).trusts(Instant::now(), source(1)));
        LoginPermit::take(&gate, source(1)).unwrap().settle(LoginEnd::Good);
    }

    #[test]
    fn opening_permit_holds_its_place() {
        let mut limits = Limits::default();
        limits.max_logins = 1;
        let sessions = Arc::new(Mutex::new(Sessions::new(&limits, [])));
        let take = |n| OpeningPermit::take(&sessions, Holder::Password("s".into(), source(n)));
        let first = take(1).unwrap();
        assert_eq!(take(2).unwrap_err(), Crowded::Openings);
        drop(first);
        take(2).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_program_that_beats_was_never_stopped() {
        let gate = Mutex::new(Gate::new(&Limits::default(), GateRules::default()));
        let began = Instant::now();
        locked(&gate).beat(began);
        let _ = tokio::time::timeout(Duration::from_secs(30), beat(&gate)).await;
        assert_eq!(locked(&gate).woke_after(Instant::now(), began), None);
    }

    #[test]
    fn bounds_sessions_per_server_service_and_client() {
        let mut limits = Limits::default();
        (limits.max_sessions, limits.max_sessions_per_service, limits.max_sessions_per_client) = (3, 2, 1);
        let sessions = Arc::new(Mutex::new(Sessions::new(&limits, [])));
        let take = |service: &str, holder: u32| {
            SessionPermit::take(&sessions, &service.into(), Holder::Password(service.into(), source(holder)))
        };
        let first = take("a", 1).unwrap();
        assert_eq!(take("a", 1).unwrap_err(), Crowded::Holder);
        let second = take("a", 2).unwrap();
        assert_eq!(take("a", 3).unwrap_err(), Crowded::Service);
        let third = take("b", 3).unwrap();
        assert_eq!(take("c", 4).unwrap_err(), Crowded::Server);
        drop((first, second, third));
        assert_eq!(locked(&sessions).total(), 0);
        take("a", 1).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_takes_no_time_from_a_deadline() {
        let gate = Mutex::new(Gate::new(&Limits::default(), GateRules::default()));
        let (began, time) = (Instant::now(), Duration::from_secs(5));
        assert_eq!(woke_after(&gate, began, time), began + time);
        tokio::time::advance(Duration::from_secs(30)).await;
        let woke = Instant::now();
        assert_eq!(woke_after(&gate, began, time), woke + time);
        // Even if the time is very long.
        assert!(woke_after(&gate, began, Duration::MAX) > woke + time);
    }
}
