//! The sessions that can be resumed, and what is still known of those that are over.
//!
//! [`Resumables`] decides, with the time handed in; it knows no socket and no clock. It counts a session from the moment
//! at which its client is promised that it can come back, so that no promise has to be broken later.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use lib_chan::Limits;
use lib_chan::auth::{ClientId, Exporter, ResumeClaim, ResumeKey, ServiceName, SessionId};
use lib_chan::wire::Tombstone;
use tokio::time::Instant;

use crate::gate::{Counter, Holder, deadline};

/// Why a session cannot be resumable. It opens all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoRoom {
    /// The server has all the resumable sessions that it may have.
    Server,
    /// This client, or this source under a shared password, has all that it may have.
    Holder,
}

impl NoRoom {
    /// Returns what the log says, with the name of the bound.
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
    /// Its name on the wire.
    pub id: SessionId,
    /// What its proofs are checked with.
    pub key: ResumeKey,
    /// The service.
    pub service: ServiceName,
    /// The client; empty under a shared password.
    pub client: ClientId,
    /// With whom it is counted. The source of a shared password is that of the first connection.
    pub holder: Holder,
    /// For how long it may be without a connection, and is known after its end.
    pub window: Duration,
    /// How the session is reached.
    pub handle: H,
}

/// What a client finds that has proved which session it resumes.
#[derive(Debug)]
pub enum Found<'r, H> {
    /// It is there.
    Live(&'r H),
    /// It is over.
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
    /// All records, by the time at which they are forgotten.
    expiring: BTreeSet<(Instant, SessionId)>,
}

#[derive(Debug)]
struct Known<H> {
    session: Resumable<H>,
    /// Once it is over: what is known of it, and until when.
    record: Option<(Tombstone, Instant)>,
}

impl<H> Resumables<H> {
    /// Makes an empty table, for sessions under `limits`. `dummy` checks the proofs for sessions that do not exist: a key whose secret nobody has.
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

    /// Takes other bounds. What is there stays.
    pub(crate) fn set(&mut self, limits: &Limits) {
        self.max = limits.max_resumable;
        self.max_per_holder = limits.max_resumable_per_client;
        self.max_records = limits.max_tombstones;
        self.max_records_per_holder = limits.max_tombstones_per_client;
    }

    /// Takes a session up, before its client is promised anything.
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
            // Ids are random: this never happens.
            Occupied(_) => Err(NoRoom::Server),
            Vacant(place) => {
                self.live.add(session.holder.clone());
                place.insert(Known { session, record: None });
                Ok(())
            }
        }
    }

    /// Returns the session that a client resumes, or `None` if there is none, if it belongs to another service or client,
    /// or if the proof is wrong. These cost the same, and the client must be told the same.
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

    /// Notes that a session is over, and keeps the record of it, if there is one.
    ///
    /// A client that has all the records that it may have loses its oldest; so it does where all are taken. It never
    /// costs another client one.
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

    /// Returns how many sessions can be resumed.
    pub fn live(&self) -> usize {
        self.live.total()
    }

    /// Returns how many records there are of sessions that are over.
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
