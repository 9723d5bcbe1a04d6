//! The sessions that can be resumed, and records of those that are over.
//!
//! [`Resumables`] decides. The caller passes the time in; the table knows no socket and no clock. A session counts
//! from the moment at which its client is promised that it can come back, so that no promise is broken later.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use lib_chan::Limits;
use lib_chan::auth::{ClientId, Exporter, ResumeClaim, ResumeKey, ServiceName, SessionId};
use lib_chan::wire::Tombstone;
use tokio::time::Instant;

use crate::gate::{Counter, Holder, deadline};

/// The reason why a session cannot be resumed. The session opens all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoRoom {
    /// The server has all the resumable sessions that it may have.
    Server,
    /// This client, or this source under a shared password, has all the resumable sessions that it may have.
    Holder,
}

impl NoRoom {
    /// Returns the text for the log, with the name of the bound.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "the server has too many resumable sessions (max_resumable)",
            Self::Holder => "this client has too many resumable sessions (max_resumable_per_client)",
        }
    }
}

/// A session whose client may resume it.
#[derive(Debug)]
pub struct Resumable<H> {
    /// The name of the session on the wire.
    pub id: SessionId,
    /// The key that checks proofs for the session.
    pub key: ResumeKey,
    /// The service.
    pub service: ServiceName,
    /// The client; empty under a shared password.
    pub client: ClientId,
    /// The holder with whom the session is counted. The source of a shared password is that of the first connection.
    pub holder: Holder,
    /// The time for which the session may be without a connection, and for which its record is kept.
    pub window: Duration,
    /// The path to the session.
    pub handle: H,
}

/// The state of a session whose proof is right.
#[derive(Debug)]
pub enum Found<'r, H> {
    /// The session is alive.
    Live(&'r H),
    /// The session is over.
    Over(&'r Tombstone),
}

/// All sessions that can be resumed, and the records of those that are over, by their ids.
#[derive(Debug)]
pub struct Resumables<H> {
    dummy: ResumeKey,
    max: usize,
    max_per_holder: usize,
    max_records: usize,
    max_records_per_holder: usize,
    entries: HashMap<SessionId, Known<H>>,
    live: Counter<Holder>,
    /// The records of each holder, oldest first.
    records: HashMap<Holder, VecDeque<SessionId>>,
    /// All records, in the order in which they are forgotten.
    expiring: BTreeSet<(Instant, SessionId)>,
}

#[derive(Debug)]
struct Known<H> {
    session: Resumable<H>,
    /// The record of a session that is over, and the time at which it is forgotten.
    record: Option<(Tombstone, Instant)>,
}

impl<H> Resumables<H> {
    /// Creates an empty table for sessions under `limits`. `dummy` checks the proofs for sessions that do not exist,
    /// with a key whose secret nobody has.
    pub fn new(limits: &Limits, dummy: ResumeKey) -> Self {
        Self {
            dummy,
            max: limits.max_resumable,
            max_per_holder: limits.max_resumable_per_client,
            max_records: limits.max_tombstones,
            max_records_per_holder: limits.max_tombstones_per_client,
            entries: HashMap::new(),
            live: Counter::default(),
            records: HashMap::new(),
            expiring: BTreeSet::new(),
        }
    }

    /// Takes new bounds. The sessions and records stay.
    pub(crate) fn set(&mut self, limits: &Limits) {
        self.max = limits.max_resumable;
        self.max_per_holder = limits.max_resumable_per_client;
        self.max_records = limits.max_tombstones;
        self.max_records_per_holder = limits.max_tombstones_per_client;
    }

    /// Adds a session, before its client is promised anything.
    ///
    /// # Errors
    /// Returns the first bound that is reached.
    pub fn register(&mut self, session: Resumable<H>) -> Result<(), NoRoom> {
        if self.live.total() >= self.max {
            return Err(NoRoom::Server);
        }
        if self.live.of(&session.holder) >= self.max_per_holder {
            return Err(NoRoom::Holder);
        }
        match self.entries.entry(session.id) {
            // Ids are random, so this never happens.
            Occupied(_) => Err(NoRoom::Server),
            Vacant(place) => {
                self.live.add(session.holder.clone());
                place.insert(Known { session, record: None });
                Ok(())
            }
        }
    }

    /// Returns the session that a client resumes. Returns `None` if there is none, if it belongs to another service
    /// or client, or if the proof is wrong. These cases cost the same, and the client must be told the same.
    pub fn judge(
        &self,
        now: Instant,
        (service, client): (&ServiceName, &ClientId),
        exporter: &Exporter,
        claim: &ResumeClaim,
        proof: &[u8; 32],
    ) -> Option<Found<'_, H>> {
        let found = self.entries.get(&claim.id).filter(|entry| {
            let session = &entry.session;
            let is_known = entry.record.as_ref().is_none_or(|&(_, until)| until > now);
            is_known && session.service == *service && session.client == *client
        });
        let found = found.map(|entry| (entry, &entry.session.key));
        let entry = ResumeKey::judge(found, &self.dummy, exporter, claim, proof)?;
        Some(match &entry.record {
            None => Found::Live(&entry.session.handle),
            Some((tombstone, _)) => Found::Over(tombstone),
        })
    }

    /// Notes that a session is over, and keeps its record, if there is one.
    ///
    /// A client that has all the records that it may have loses its oldest one. The same happens if the table is
    /// full. A client never costs another one a record.
    pub fn end(&mut self, now: Instant, id: SessionId, tombstone: Option<Tombstone>) {
        self.forget_expired(now);
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.record.is_none()) else { return };
        let holder = entry.session.holder.clone();
        let until = deadline(now, entry.session.window);
        self.live.remove(&holder);
        let Some(tombstone) = tombstone else {
            self.entries.remove(&id);
            return;
        };
        entry.record = Some((tombstone, until));
        self.expiring.insert((until, id));
        let own = self.records.entry(holder).or_default();
        own.push_back(id);
        if (own.len() > self.max_records_per_holder || self.expiring.len() > self.max_records)
            && let Some(&oldest) = own.front()
        {
            self.forget(oldest);
        }
    }

    /// Returns the number of sessions that can be resumed.
    pub fn live(&self) -> usize {
        self.live.total()
    }

    /// Returns the number of records of sessions that are over.
    pub fn records(&self) -> usize {
        self.expiring.len()
    }

    fn forget_expired(&mut self, now: Instant) {
        while let Some(&(until, id)) = self.expiring.first()
            && until <= now
        {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: SessionId) {
        let Some(Known { session, record: Some((_, until)) }) = self.entries.remove(&id) else { return };
        self.expiring.remove(&(until, id));
        let Some(own) = self.records.get_mut(&session.holder) else { return };
        // The windows of one client's sessions may differ, so the first to be forgotten need not be the oldest.
        own.retain(|&known| known != id);
        if own.is_empty() {
            self.records.remove(&session.holder);
        }
    }
}

#[cfg(test)]
mod tests;
