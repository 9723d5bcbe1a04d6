//! Channels that were given to a process.

use std::{fmt, sync::Arc};

use super::{
    decode,
    feed::{Feed, FeedOutlet},
};
use crate::{
    Address, ExitReason,
    middleman::{Outlet, Shared},
    protocol::Receive,
    session::{Claim, Inbound},
};

/// An item from a channel that was given to a process with [`Channel::give_to`](crate::Channel::give_to).
pub enum Incoming<In: Receive> {
    /// A message, as [`Channel::recv`](crate::Channel::recv) returns it.
    Message(In::Item),
    /// The session has ended. This is the last item.
    Ended(ExitReason),
}

impl<In: Receive<Item: fmt::Debug>> fmt::Debug for Incoming<In> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => f.debug_tuple("Message").field(message).finish(),
            Self::Ended(reason) => f.debug_tuple("Ended").field(reason).finish(),
        }
    }
}

/// Converts received messages into the messages of the process that was given the channel.
pub(super) struct Given<In: Receive, M>(Box<dyn Fn(Incoming<In>) -> M + Send + Sync>);

impl<In: Receive, M: Send + 'static> Given<In, M> {
    pub(super) fn outlet(
        to: Address<M>,
        wrap: impl Fn(Incoming<In>) -> M + Send + Sync + 'static,
    ) -> Arc<dyn Outlet> {
        Arc::new(FeedOutlet { to, feed: Arc::new(Self(Box::new(wrap))) as Arc<dyn Feed<M>> })
    }
}

impl<In: Receive, M: Send + 'static> Feed<M> for Given<In, M> {
    fn take(&self, session: &Arc<Shared>, _: u64, inbound: Inbound) -> Option<M> {
        let claims = session.claims();
        let inbound = if claims.is_straight() {
            inbound
        } else {
            session.with(|endpoint| endpoint.take_turn(inbound))?
        };
        match claims.claim(&inbound) {
            Claim::Taken => {}
            Claim::TakenGiveBack => session.with(|endpoint| endpoint.give_back()),
            Claim::Closed => return None,
        }
        decode::<In>(session, inbound).map(|message| (self.0)(Incoming::Message(message)))
    }

    /// The session ends with its owner, which answers every call.
    fn discard(&self, _: &Shared, _: u64, _: Inbound) {}

    fn ended(&self, reason: ExitReason) -> M {
        (self.0)(Incoming::Ended(reason))
    }
}
