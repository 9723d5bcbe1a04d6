//! Counts of sessions, and of clients that are about to start one.

use std::collections::HashMap;
use std::sync::Arc;

use lib_chan::Limits;

use super::{Counter, Source};

/// The reason why a client that has proved itself gets no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Crowded {
    /// The server has all the sessions it may have.
    Server,
    /// The service has all the sessions it may have, or its share where others need the rest.
    Service,
    /// This client, or this source under a shared password, has all the sessions it may have.
    Holder,
    /// It has a quarter of all sessions, and the rest is for others.
    HolderShare,
    /// Too many clients have logged in without starting their service.
    Openings,
    /// This client, or this source under a shared password, has logged in too often without starting its service.
    HolderOpenings,
}

impl Crowded {
    /// Returns the text for the log and the client, with the name of the bound.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "the server has too many sessions (max_sessions)",
            Self::Service => "the service has too many sessions (max_sessions_per_service)",
            Self::Holder => "this client has too many sessions (max_sessions_per_client)",
            Self::HolderShare => {
                "the server is almost full, and this client has a quarter of all sessions (max_sessions)"
            }
            Self::Openings => "too many clients have logged in and started nothing (max_logins)",
            Self::HolderOpenings => {
                "this client has logged in too often and started nothing (a quarter of max_logins)"
            }
        }
    }
}

/// The client or source whose sessions are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A named client of a service.
    Client(Arc<str>, Arc<str>),
    /// A source, where many share the password of a service.
    Password(Arc<str>, Source),
}

/// Counts sessions, and logins that have not started their service yet.
#[derive(Debug)]
pub struct Sessions {
    max: usize,
    max_per_service: usize,
    max_per_holder: usize,
    max_openings: usize,
    /// The bounds that a configuration sets for single services.
    max_of: HashMap<Arc<str>, usize>,
    /// The bounds for single clients.
    max_of_client: HashMap<Holder, usize>,
    /// The number of services.
    known: usize,
    services: Counter<Arc<str>>,
    holders: Counter<Holder>,
    openings: Counter<Holder>,
}

impl Sessions {
    /// Creates an empty count for these services, each with the bound that its owner set, if any.
    pub fn new(limits: &Limits, services: impl IntoIterator<Item = (Arc<str>, Option<usize>)>) -> Self {
        let mut this = Self {
            max: 0,
            max_per_service: 0,
            max_per_holder: 0,
            max_openings: 0,
            max_of: HashMap::new(),
            max_of_client: HashMap::new(),
            known: 0,
            services: Counter::default(),
            holders: Counter::default(),
            openings: Counter::default(),
        };
        this.set(limits, services, []);
        this
    }

    /// Takes new limits and services. Taken places stay taken.
    pub(crate) fn set(
        &mut self,
        limits: &Limits,
        services: impl IntoIterator<Item = (Arc<str>, Option<usize>)>,
        clients: impl IntoIterator<Item = (Holder, usize)>,
    ) {
        self.max_of_client = clients.into_iter().collect();
        self.max = limits.max_sessions;
        self.max_per_service = limits.max_sessions_per_service;
        self.max_per_holder = limits.max_sessions_per_client;
        self.max_openings = limits.max_logins;
        (self.known, self.max_of) = (0, HashMap::new());
        for (service, max) in services {
            self.known += 1;
            if let Some(max) = max {
                self.max_of.insert(service, max);
            }
        }
    }

    /// Takes a place for a session.
    ///
    /// # Errors
    /// Returns the first bound that is reached.
    pub fn enter(&mut self, service: &Arc<str>, holder: &Holder) -> Result<(), Crowded> {
        if self.services.total >= self.max {
            return Err(Crowded::Server);
        }
        if self.services.of(service) >= self.max_of_service(service) {
            return Err(Crowded::Service);
        }
        let (held, own) = (self.holders.of(holder), self.max_of_client.get(holder).copied());
        if held >= own.unwrap_or(self.max_per_holder) {
            return Err(Crowded::Holder);
        }
        // Four holders at least are needed to fill the server, unless the owner gives one client a number of its own.
        if own.is_none() && self.is_almost_full() && held >= self.max.div_ceil(4) {
            return Err(Crowded::HolderShare);
        }
        self.services.add(Arc::clone(service));
        self.holders.add(holder.clone());
        Ok(())
    }

    /// Returns the place.
    pub fn leave(&mut self, service: &Arc<str>, holder: &Holder) {
        self.services.remove(service);
        self.holders.remove(holder);
    }

    /// Takes a place for a client that has logged in and not started its service yet.
    ///
    /// # Errors
    /// Returns the first bound that is reached.
    pub fn enter_opening(&mut self, holder: &Holder) -> Result<(), Crowded> {
        if self.openings.total >= self.max_openings {
            return Err(Crowded::Openings);
        }
        // At least four clients are needed to fill these places.
        if self.openings.of(holder) >= self.max_openings.div_ceil(4) {
            return Err(Crowded::HolderOpenings);
        }
        self.openings.add(holder.clone());
        Ok(())
    }

    /// Returns the place.
    pub fn leave_opening(&mut self, holder: &Holder) {
        self.openings.remove(holder);
    }

    /// Returns the number of sessions of all services.
    pub fn total(&self) -> usize {
        self.services.total
    }

    /// The last quarter of all places is for services that have less than an equal share, and for holders that have less
    /// than a quarter.
    fn is_almost_full(&self) -> bool {
        self.total() >= self.max - self.max / 4
    }

    fn max_of_service(&self, service: &Arc<str>) -> usize {
        let max = self.max_of.get(service).copied().unwrap_or(self.max_per_service);
        if self.is_almost_full() { max.min((self.max / self.known.max(1)).max(1)) } else { max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> Holder {
        Holder::Password("s".into(), Source::of(std::net::IpAddr::V4(n.into())))
    }

    fn sessions(max: usize, services: &[&str]) -> Sessions {
        let mut limits = Limits::default();
        limits.max_sessions = max;
        Sessions::new(&limits, services.iter().map(|&name| (name.into(), None)))
    }

    #[test]
    fn one_service_cannot_take_every_session() {
        let mut sessions = sessions(100, &["a", "b", "c"]);
        let mut take = |service: &str| {
            let mut n = 0;
            while sessions.enter(&service.into(), &source(n)).is_ok() {
                n += 1;
            }
            n
        };
        assert_eq!(take("a"), 75);
        assert_eq!(take("b"), 25);
        assert_eq!(take("c"), 0, "a session has no place of its own, but a service under its share gets in");
    }

    #[test]
    fn service_has_place_among_many_services() {
        let mut sessions = sessions(4, &["a", "b", "c", "d", "e", "f", "g", "h"]);
        for (n, service) in ["a", "b", "c"].into_iter().enumerate() {
            assert_eq!(sessions.enter(&service.into(), &source(n as u32)), Ok(()));
        }
        assert_eq!(sessions.enter(&"a".into(), &source(3)), Err(Crowded::Service));
        assert_eq!(sessions.enter(&"d".into(), &source(3)), Ok(()));
    }

    #[test]
    fn a_single_service_may_have_every_session() {
        let mut sessions = sessions(100, &["a"]);
        for n in 0..100 {
            assert_eq!(sessions.enter(&"a".into(), &source(n)), Ok(()), "{n}");
        }
        assert_eq!(sessions.enter(&"a".into(), &source(100)), Err(Crowded::Server));
    }

    #[test]
    fn one_holder_cannot_take_every_session() {
        let mut sessions = sessions(100, &["a"]);
        let mut take = |holder: &Holder| {
            let mut n = 0;
            let full = loop {
                match sessions.enter(&"a".into(), holder) {
                    Ok(()) => n += 1,
                    Err(full) => break full,
                }
            };
            (n, full)
        };
        let joe = Holder::Client("a".into(), "joe".into());
        assert_eq!(take(&joe), (75, Crowded::HolderShare));
        assert_eq!(take(&source(1)), (25, Crowded::Server));
    }

    #[test]
    fn client_with_own_number_may_take_every_session() {
        let (mut sessions, joe) = (sessions(100, &["a"]), Holder::Client("a".into(), "joe".into()));
        let mut limits = Limits::default();
        limits.max_sessions = 100;
        sessions.set(&limits, [("a".into(), None)], [(joe.clone(), 100)]);
        for n in 0..100 {
            assert_eq!(sessions.enter(&"a".into(), &joe), Ok(()), "{n}");
        }
    }

    #[test]
    fn clients_with_few_sessions_fill_server() {
        for max in [100, 98] {
            let mut sessions = sessions(max, &["a"]);
            for n in 0..max as u32 {
                assert_eq!(sessions.enter(&"a".into(), &source(n % 4)), Ok(()), "{n} of {max}");
            }
        }
        let mut sessions = sessions(100, &["a"]);
        (0..75).for_each(|n| sessions.enter(&"a".into(), &source(n % 3)).unwrap());
        assert_eq!(sessions.enter(&"a".into(), &source(0)), Err(Crowded::HolderShare), "it has its quarter");
    }

    #[test]
    fn shared_passwords_behind_one_address_count_apart() {
        let mut limits = Limits::default();
        limits.max_sessions_per_client = 1;
        let mut sessions = Sessions::new(&limits, []);
        let address = Source::of(std::net::IpAddr::V4(1.into()));
        let mut enter =
            |service: &str| sessions.enter(&service.into(), &Holder::Password(service.into(), address));
        assert_eq!(enter("a"), Ok(()));
        assert_eq!(enter("a"), Err(Crowded::Holder));
        assert_eq!(enter("b"), Ok(()));
    }

    #[test]
    fn a_service_keeps_to_its_own_number() {
        let mut sessions = Sessions::new(&Limits::default(), [("a".into(), Some(2)), ("b".into(), None)]);
        for n in 0..2 {
            sessions.enter(&"a".into(), &source(n)).unwrap();
        }
        assert_eq!(sessions.enter(&"a".into(), &source(3)), Err(Crowded::Service));
        assert_eq!(sessions.enter(&"b".into(), &source(3)), Ok(()));
    }

    #[test]
    fn bounds_logins_without_start_per_holder() {
        let mut sessions = sessions(100, &["a"]);
        let joe = Holder::Client("a".into(), "joe".into());
        for n in 0..256 {
            assert_eq!(sessions.enter_opening(&joe), Ok(()), "{n}");
        }
        assert_eq!(sessions.enter_opening(&joe), Err(Crowded::HolderOpenings));
        assert_eq!(sessions.enter_opening(&source(1)), Ok(()));
        assert_eq!(sessions.enter(&"a".into(), &joe), Ok(()), "they hold no session");
        sessions.leave_opening(&joe);
        assert_eq!(sessions.enter_opening(&joe), Ok(()));
    }
}
