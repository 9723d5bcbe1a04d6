//! The sessions that are logged in, and their policy. One lock guards both, so that no login slips past a reload.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use lib_chan::ExitReason;
use lib_chan::auth::{AccountVerifier, ClientId, ServiceName};
use lib_chan::channel::{CallCounts, Control, SessionStats};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::gate::{deadline, locked};
use crate::metrics::Metrics;
use crate::policy::{Policy, Revoked};
use crate::traffic::Traffic;

/// The policy, and those who have proved themselves under it.
#[derive(Debug)]
pub(crate) struct Live {
    policy: Arc<Policy>,
    seats: BTreeMap<u64, Seated>,
}

#[derive(Debug)]
struct Seated {
    seat: Arc<Seat>,
    /// The verifier against which the client proved itself.
    verifier: AccountVerifier,
}

/// A connection whose client has proved itself.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) id: u64,
    pub(crate) service: ServiceName,
    pub(crate) client: ClientId,
    pub(crate) accepted: Instant,
    pub(crate) since: SystemTime,
    pub(crate) traffic: Arc<Traffic>,
    /// Set when the service has been started.
    pub(crate) control: OnceLock<Control>,
    verdict: watch::Sender<Option<Verdict>>,
    place: Mutex<Whereabouts>,
    /// What the metrics have already.
    counted: Mutex<Used>,
}

/// Bytes and calls of a session up to some time.
#[derive(Debug, Default)]
struct Used {
    received: u64,
    sent: u64,
    calls: CallCounts,
}

/// The place of the client of a seat.
#[derive(Debug)]
struct Whereabouts {
    peer: SocketAddr,
    /// The session has no connection, and waits for another.
    detached: bool,
    /// Later connections that were handed to the session, with their epochs: their numbers, and where each comes from.
    handed: Vec<(u64, u64, SocketAddr)>,
}

/// The end of a session: when, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    at: Instant,
    reason: ExitReason,
}

/// A session that a reload ends, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ending {
    /// The number of the session, as the log has it.
    pub connection: u64,
    /// Where its client is.
    pub peer: SocketAddr,
    /// The service.
    pub service: String,
    /// The client; empty for the password that all share.
    pub client: String,
    /// The reason that it may not continue.
    pub why: Revoked,
}

/// A session, as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionInfo {
    /// The number of the session, as the log has it.
    pub connection: u64,
    /// Where its client is.
    pub peer: SocketAddr,
    /// The service.
    pub service: String,
    /// The client; empty for the password that all share.
    pub client: String,
    /// Its progress.
    pub state: SessionState,
    /// When the connection was accepted, as RFC 3339.
    pub since: String,
    /// Milliseconds since then.
    pub age_ms: u64,
    /// Milliseconds since the last byte in either direction, heartbeats included.
    pub idle_ms: u64,
    /// Bytes received, TLS included.
    pub bytes_in: u64,
    /// Bytes sent, TLS included.
    pub bytes_out: u64,
    /// Calls of the client so far, refused ones included.
    pub calls: u64,
    /// Calls of the client that are not answered.
    pub calls_in_flight: u64,
    /// Messages that the service has not taken.
    pub mailbox_messages: u64,
    /// Bytes of messages of the client that no process has taken.
    pub mailbox_bytes: u64,
    /// Bytes that wait to be sent to the client.
    pub unsent_bytes: u64,
}

/// The progress of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SessionState {
    /// The client is logged in and has not asked for its service.
    Opening,
    /// The service runs.
    Open,
    /// The service runs; the client has lost its connection and may come back.
    Detached,
    /// The session ends now, or when `revoke_grace` is over.
    Ending,
}

/// A selection of sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Whom {
    /// The session with this number.
    Session(u64),
    /// All sessions of the clients with this name, at any service.
    Client(String),
    /// All sessions of this service.
    Service(String),
}

impl Live {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { policy: Arc::new(policy), seats: BTreeMap::new() }
    }

    pub(crate) fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Takes in a client that has proved itself against `verifier`, unless that is worth nothing any more.
    pub(crate) fn seat(&mut self, seat: &Arc<Seat>, verifier: &AccountVerifier) -> Result<(), Revoked> {
        let verifier = self.policy.judge(seat.name(), seat.peer().ip(), verifier)?.clone();
        self.seats.insert(seat.id, Seated { seat: Arc::clone(seat), verifier });
        Ok(())
    }

    pub(crate) fn leave(&mut self, id: u64) {
        self.seats.remove(&id);
    }

    /// Returns the sessions that would end under this policy.
    pub(crate) fn endings(&self, policy: &Policy) -> Vec<Ending> {
        let seats = self.seats.values();
        let ending = |seated: &Seated| Some(seated.seat.ending(seated.judge(&self.policy, policy).err()?));
        seats.filter_map(ending).collect()
    }

    /// Goes over to another policy, and returns the sessions that end with it, after its grace. A session that an earlier
    /// reload is about to end goes on if this policy allows it.
    pub(crate) fn replace(&mut self, policy: Policy, now: Instant) -> Vec<Ending> {
        let mut endings = Vec::new();
        for seated in self.seats.values_mut() {
            match seated.judge(&self.policy, &policy) {
                Ok(verifier) => {
                    let verifier = verifier.clone();
                    seated.verifier = verifier;
                    seated.seat.pardon();
                }
                Err(why) => {
                    endings.push(seated.seat.ending(why));
                    // A client that is away has nothing to finish, and could not log in again.
                    let grace = if seated.seat.is_detached() { Duration::ZERO } else { policy.revoke_grace };
                    seated.seat.end(deadline(now, grace), ExitReason::Revoked);
                }
            }
        }
        self.policy = Arc::new(policy);
        endings
    }

    /// Ends sessions with `shutdown`, and returns them.
    pub(crate) fn kick(&self, whom: &Whom, now: Instant) -> Vec<Arc<Seat>> {
        let seats = self.seats.values().map(|seated| &seated.seat);
        let kicked: Vec<_> = seats.filter(|seat| seat.is(whom)).cloned().collect();
        kicked.iter().for_each(|seat| seat.end(now, ExitReason::Shutdown));
        kicked
    }

    /// Returns everybody who is logged in, in the order of the logins.
    pub(crate) fn seats(&self) -> impl Iterator<Item = &Arc<Seat>> {
        self.seats.values().map(|seated| &seated.seat)
    }
}

impl Seated {
    fn judge<'p>(&self, before: &Policy, policy: &'p Policy) -> Result<&'p AccountVerifier, Revoked> {
        let verifier = policy.judge(self.seat.name(), self.seat.peer().ip(), &self.verifier)?;
        if policy.provides_otherwise(before, &self.seat.service) {
            return Err(Revoked::ProvidedChanged);
        }
        Ok(verifier)
    }
}

impl Seat {
    #[expect(clippy::disallowed_methods, reason = "an operator is told when, by the clock on the wall")]
    pub(crate) fn new(
        id: u64,
        peer: SocketAddr,
        (service, client): (&ServiceName, &ClientId),
        accepted: Instant,
        traffic: &Arc<Traffic>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            service: service.clone(),
            client: client.clone(),
            accepted,
            since: SystemTime::now().checked_sub(accepted.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH),
            traffic: Arc::clone(traffic),
            control: OnceLock::new(),
            verdict: watch::Sender::new(None),
            place: Mutex::new(Whereabouts { peer, detached: false, handed: Vec::new() }),
            counted: Mutex::default(),
        })
    }

    /// Returns where the client is, or was last.
    pub(crate) fn peer(&self) -> SocketAddr {
        locked(&self.place).peer
    }

    /// Returns whether the session has no connection, and waits for another.
    pub(crate) fn is_detached(&self) -> bool {
        locked(&self.place).detached
    }

    /// Notes that a later connection was handed to the session.
    pub(crate) fn hand(&self, epoch: u64, connection: u64, peer: SocketAddr) {
        // The session looks only at the latest, so more than a few are of a client that floods.
        const MAX_HANDED: usize = 8;
        let handed = &mut locked(&self.place).handed;
        if handed.len() == MAX_HANDED {
            handed.remove(0);
        }
        handed.push((epoch, connection, peer));
    }

    /// Notes that the session has lost its connection.
    pub(crate) fn detach(&self) {
        locked(&self.place).detached = true;
    }

    /// Notes that the session goes on over a later connection. Returns the number of that connection.
    pub(crate) fn attach(&self, epoch: u64) -> Option<u64> {
        let mut place = locked(&self.place);
        place.detached = false;
        let &(_, connection, peer) = place.handed.iter().find(|handed| handed.0 == epoch)?;
        place.handed.retain(|handed| handed.0 > epoch);
        place.peer = peer;
        Some(connection)
    }

    fn name(&self) -> (&ServiceName, &ClientId) {
        (&self.service, &self.client)
    }

    fn is(&self, whom: &Whom) -> bool {
        match whom {
            Whom::Session(id) => self.id == *id,
            Whom::Client(client) => self.client.as_str() == client,
            Whom::Service(service) => self.service.as_str() == service,
        }
    }

    fn ending(&self, why: Revoked) -> Ending {
        Ending {
            connection: self.id,
            peer: self.peer(),
            service: self.service.to_string(),
            client: self.client.to_string(),
            why,
        }
    }

    /// Ends the session at this time, or at an earlier one that was set before.
    fn end(&self, at: Instant, reason: ExitReason) {
        self.verdict.send_if_modified(|verdict| {
            let sooner = verdict.as_ref().is_none_or(|set| at < set.at);
            if sooner {
                *verdict = Some(Verdict { at, reason });
            }
            sooner
        });
    }

    /// Lets the session go on where it was only its right that was withdrawn, and its time is not over.
    fn pardon(&self) {
        let is_revoked =
            |verdict: &Verdict| verdict.reason == ExitReason::Revoked && verdict.at > Instant::now();
        self.verdict.send_if_modified(|verdict| verdict.take_if(|verdict| is_revoked(verdict)).is_some());
    }

    /// Waits until the session is to end, and returns why.
    pub(crate) async fn due(&self) -> ExitReason {
        let mut verdict = self.verdict.subscribe();
        loop {
            let set = verdict.borrow_and_update().clone();
            let time = async {
                match set {
                    Some(Verdict { at, reason }) => {
                        sleep_until(at).await;
                        reason
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                reason = time => return reason,
                // Never closed: this value has the other end.
                _ = verdict.changed() => {}
            }
        }
    }

    /// Returns why the session is over already, if it is.
    pub(crate) fn over(&self) -> Option<ExitReason> {
        let verdict = self.verdict.borrow();
        verdict.as_ref().filter(|verdict| verdict.at <= Instant::now()).map(|verdict| verdict.reason.clone())
    }

    /// Returns how the session is now; all zero before its service is started.
    pub(crate) fn stats(&self) -> SessionStats {
        self.control.get().map(Control::stats).unwrap_or_default()
    }

    /// Adds the bytes and calls since the last time to the metrics.
    pub(crate) fn count_use(&self, metrics: &Metrics, stats: &SessionStats) {
        let mut counted = locked(&self.counted);
        // Others may have counted since the snapshot was made.
        let calls = stats.calls.max(&counted.calls);
        let now = Used { received: self.traffic.received(), sent: self.traffic.sent(), calls };
        let service = self.service.as_str();
        metrics.add_bytes(service, now.received - counted.received, now.sent - counted.sent);
        metrics.add_calls(service, &now.calls, &counted.calls);
        *counted = now;
    }

    pub(crate) fn info(&self) -> SessionInfo {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let state = match (self.verdict.borrow().is_some(), self.control.get()) {
            (true, _) => SessionState::Ending,
            (false, None) => SessionState::Opening,
            (false, Some(_)) if self.is_detached() => SessionState::Detached,
            (false, Some(_)) => SessionState::Open,
        };
        let SessionStats { calls, calls_in_flight, mailbox_len, mailbox_bytes, unsent_bytes, .. } =
            self.stats();
        let calls_in_flight = calls_in_flight as u64;
        SessionInfo {
            connection: self.id,
            peer: self.peer(),
            service: self.service.to_string(),
            client: self.client.to_string(),
            state,
            since: humantime::format_rfc3339_seconds(self.since).to_string(),
            age_ms: ms(self.accepted.elapsed()),
            idle_ms: ms(self.traffic.idle()),
            bytes_in: self.traffic.received(),
            bytes_out: self.traffic.sent(),
            calls: calls.total() + calls_in_flight,
            calls_in_flight,
            mailbox_messages: mailbox_len,
            mailbox_bytes,
            unsent_bytes,
        }
    }
}
