//! What the sessions of a service, or of a client, may use together: bytes a second, calls a second, and calls at once.
//!
//! A quota outlives the sessions and the policies that it bounds, so a reload changes it for running sessions too.
//!
//! Nobody takes a quota from those who share it: in that of a service, clients take turns, and in that of a client, its
//! sessions.

mod bytes;
mod calls;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use lib_chan::auth::{ClientId, ServiceName};
use lib_chan::channel::{CallPlace, CallQuota, OverQuota};

use crate::gate::Holder;

use bytes::ByteRate;
pub(crate) use bytes::Debt;
use calls::CallBound;

/// The numbers of a service or a client; `None` for no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuotaTerms {
    /// Bytes a second, in and out.
    pub(crate) max_bytes_per_second: Option<NonZeroU32>,
    /// Calls of clients a second.
    pub(crate) max_calls_per_second: Option<NonZeroU32>,
    /// Calls of clients in flight.
    pub(crate) max_calls: Option<usize>,
}

impl QuotaTerms {
    /// Returns each key with whether it differs.
    pub(crate) fn differs(&self, after: &Self) -> [(&'static str, bool); 3] {
        [
            ("max_bytes_per_second", self.max_bytes_per_second != after.max_bytes_per_second),
            ("max_calls_per_second", self.max_calls_per_second != after.max_calls_per_second),
            ("max_calls", self.max_calls != after.max_calls),
        ]
    }
}

/// Those who take turns in a quota.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Flow {
    /// The sessions of a client, at a service.
    Holder(Holder),
    /// One session, at a client.
    Session(u64),
}

/// The quota of a service or a client.
#[derive(Debug, Default)]
struct Quota {
    bytes: ByteRate,
    calls: CallBound,
}

impl Quota {
    fn set(&self, terms: &QuotaTerms) {
        self.bytes.set(terms.max_bytes_per_second);
        self.calls.set(terms.max_calls_per_second, terms.max_calls);
    }
}

/// A service, or a client of one.
type Owner = (ServiceName, Option<ClientId>);

/// The quotas of all services and clients of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Quotas(HashMap<Owner, Arc<Quota>>);

impl Quotas {
    /// Takes new numbers, also for sessions that run.
    pub(crate) fn set<'t>(
        &mut self,
        terms: impl Iterator<Item = (ServiceName, Option<ClientId>, &'t QuotaTerms)>,
    ) {
        let mut before = std::mem::take(&mut self.0);
        for (service, client, terms) in terms {
            let owner = (service, client);
            // Sessions of a removed owner keep its numbers until they end.
            let quota = before.remove(&owner).unwrap_or_default();
            quota.set(terms);
            self.0.insert(owner, quota);
        }
    }

    /// Returns the part of a session of this client.
    pub(crate) fn share(
        &self,
        (service, client): (&ServiceName, &ClientId),
        holder: Holder,
        session: u64,
    ) -> Share {
        let of_client = self.0.get(&(service.clone(), Some(client.clone())));
        let of_service = self.0.get(&(service.clone(), None));
        let parts = [of_client.zip(Some(Flow::Session(session))), of_service.zip(Some(Flow::Holder(holder)))];
        let part = |(quota, flow): (&Arc<Quota>, _)| Part { quota: Arc::clone(quota), flow };
        Share { parts: parts.into_iter().flatten().map(part).collect() }
    }
}

/// The part of one session in the quotas above it.
#[derive(Debug, Default)]
pub(crate) struct Share {
    parts: Box<[Part]>,
}

#[derive(Debug)]
struct Part {
    quota: Arc<Quota>,
    flow: Flow,
}

impl CallQuota for Share {
    fn take(&self, now: Instant) -> Result<Option<CallPlace>, OverQuota> {
        let mut places = Vec::new();
        for Part { quota, flow } in &self.parts {
            places.extend(CallBound::take(quota, flow, now)?);
        }
        Ok((!places.is_empty()).then(|| Box::new(places) as CallPlace))
    }
}
