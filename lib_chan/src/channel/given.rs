//! A channel that was given to a process.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{
    decode,
    feed::{Feed, FeedOutlet},
};
use crate::{
    Address, ExitReason, Incoming,
    middleman::{Outlet, Shared},
    session::{Claim, Inbound},
};

/// Makes the process's messages of what the session receives.
pub(super) struct Given<In, M> {
    shared: Arc<Shared>,
    wrap: Box<dyn Fn(Incoming<In>) -> M + Send + Sync>,
}

impl<In: DeserializeOwned + 'static, M: Send + 'static> Given<In, M> {
    pub(super) fn outlet(
        shared: &Arc<Shared>,
        to: Address<M>,
        wrap: impl Fn(Incoming<In>) -> M + Send + Sync + 'static,
    ) -> Arc<dyn Outlet> {
        let feed = Arc::new(Self { shared: Arc::clone(shared), wrap: Box::new(wrap) });
        Arc::new(FeedOutlet { to, feed: feed as Arc<dyn Feed<M>> })
    }
}

impl<In: DeserializeOwned + 'static, M: Send + 'static> Feed<M> for Given<In, M> {
    fn take(&self, inbound: Inbound) -> Option<M> {
        let claims = self.shared.claims();
        let inbound = if claims.is_straight() {
            inbound
        } else {
            self.shared.with(|endpoint| endpoint.take_turn(inbound))?
        };
        match claims.claim(&inbound) {
            Claim::Taken => {}
            Claim::TakenGiveBack => self.shared.with(|endpoint| endpoint.give_back()),
            Claim::Closed => return None,
        }
        decode(&self.shared, inbound).map(|message| (self.wrap)(Incoming::Message(message)))
    }

    fn ended(&self, reason: ExitReason) -> M {
        (self.wrap)(Incoming::Ended(reason))
    }
}
