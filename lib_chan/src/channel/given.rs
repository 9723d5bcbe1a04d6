//! A channel that was given to a process.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::de::DeserializeOwned;

use super::open;
use crate::{
    Address, ExitReason, Incoming,
    middleman::{Outlet, Shared},
    process::{Fed, Feed},
    session::{Inbound, credit_part},
};

/// Makes the process's messages of what the session receives.
pub(super) struct Given<In, M> {
    shared: Arc<Shared>,
    wrap: Box<dyn Fn(Incoming<In>) -> M + Send + Sync>,
    /// Credit of messages taken that was not given back yet.
    cost: AtomicU64,
}

/// Where the session puts them.
struct Mailbox<M> {
    to: Address<M>,
    feed: Arc<dyn Feed<M>>,
}

impl<In: DeserializeOwned + 'static, M: Send + 'static> Given<In, M> {
    pub(super) fn outlet(
        shared: &Arc<Shared>,
        to: Address<M>,
        wrap: impl Fn(Incoming<In>) -> M + Send + Sync + 'static,
    ) -> Arc<dyn Outlet> {
        let feed =
            Arc::new(Self { shared: Arc::clone(shared), wrap: Box::new(wrap), cost: AtomicU64::new(0) });
        Arc::new(Mailbox { to, feed: feed as Arc<dyn Feed<M>> })
    }
}

impl<In: DeserializeOwned + 'static, M: Send + 'static> Feed<M> for Given<In, M> {
    fn take(&self, inbound: Inbound) -> Option<M> {
        let inbound = self.shared.take_turn(inbound)?;
        if !self.shared.claim(inbound.number) {
            return None;
        }
        let cost = self.cost.fetch_add(inbound.cost(), Ordering::Relaxed) + inbound.cost();
        if cost >= credit_part(self.shared.limits().window_len as u64) {
            let cost = self.cost.swap(0, Ordering::Relaxed);
            self.shared.session(|session| session.give_back(cost));
        }
        open(&self.shared, inbound).map(|message| (self.wrap)(Incoming::Message(message)))
    }

    fn ended(&self, reason: ExitReason) -> M {
        (self.wrap)(Incoming::Ended(reason))
    }
}

impl<M: Send + 'static> Outlet for Mailbox<M> {
    fn put(&self, items: VecDeque<Fed>) {
        // A process that is not alive any more ended this session with it.
        let _ = self.to.feed(&self.feed, items.into_iter());
    }
}
