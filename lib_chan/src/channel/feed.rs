//! The items that a session puts into the mailbox of a process.

use std::{any::Any, collections::VecDeque, sync::Arc};

use crate::{
    Address, ExitReason,
    middleman::{Fed, Outlet, Shared},
    process::Parcel,
    session::Inbound,
};

/// Converts the messages of a session into the messages of a process.
pub(super) trait Feed<M>: Send + Sync + 'static {
    /// Decodes a message that came to the process by this id, when the process takes it; `None` if it holds nothing for
    /// the process.
    fn take(&self, session: &Arc<Shared>, id: u64, inbound: Inbound) -> Option<M>;

    /// Handles a message that the process will never take.
    fn discard(&self, session: &Shared, id: u64, inbound: Inbound);

    /// Returns the message that reports the end of the session.
    fn ended(&self, reason: ExitReason) -> M;
}

/// Puts the items of a session into the mailbox of a process.
///
/// The session holds it, so it must not hold the session.
pub(super) struct FeedOutlet<M> {
    pub(super) to: Address<M>,
    pub(super) feed: Arc<dyn Feed<M>>,
}

impl<M: Send + 'static> Outlet for FeedOutlet<M> {
    fn put(&self, session: Arc<Shared>, items: VecDeque<Fed>) {
        // A process that is not alive takes nothing; a session that it owned has ended with it.
        let _ = self.to.put(Box::new(FeedParcel { session, feed: Arc::clone(&self.feed), items }));
    }
}

/// Decodes a message for a handed-out process; `None` if it holds nothing for the process.
type DecodeHanded<M> = dyn Fn(&Arc<Shared>, Inbound) -> Option<M> + Send + Sync;

/// Converts the messages of a session for a process that was handed out.
pub(super) struct HandedFeed<M>(Box<DecodeHanded<M>>);

impl<M: Send + 'static> HandedFeed<M> {
    /// Returns the way into the mailbox of `to`.
    pub(super) fn outlet(
        to: Address<M>,
        decode: impl Fn(&Arc<Shared>, Inbound) -> Option<M> + Send + Sync + 'static,
    ) -> FeedOutlet<M> {
        FeedOutlet { to, feed: Arc::new(Self(Box::new(decode))) as Arc<dyn Feed<M>> }
    }
}

impl<M: Send + 'static> Feed<M> for HandedFeed<M> {
    fn take(&self, session: &Arc<Shared>, id: u64, inbound: Inbound) -> Option<M> {
        session.session(|session| session.give_back_to(id, inbound.cost()));
        (self.0)(session, inbound)
    }

    fn discard(&self, session: &Shared, id: u64, inbound: Inbound) {
        session.session(|session| session.discard_handed(id, &inbound));
    }

    fn ended(&self, _reason: ExitReason) -> M {
        unreachable!("the session's end is told to its owner alone")
    }
}

/// Items of a session in a mailbox. They hold the session, because messages that came before its end are taken after it,
/// too.
struct FeedParcel<M: Send + 'static> {
    session: Arc<Shared>,
    feed: Arc<dyn Feed<M>>,
    items: VecDeque<Fed>,
}

impl<M: Send + 'static> Drop for FeedParcel<M> {
    fn drop(&mut self) {
        for item in self.items.drain(..) {
            if let Fed::Inbound(id, inbound) = item {
                self.feed.discard(&self.session, id, inbound);
            }
        }
    }
}

impl<M: Send + 'static> Parcel<M> for FeedParcel<M> {
    fn next(&mut self) -> Option<M> {
        loop {
            let message = match self.items.pop_front()? {
                Fed::Inbound(id, inbound) => self.feed.take(&self.session, id, inbound),
                Fed::Ended(reason) => Some(self.feed.ended(reason)),
            };
            if message.is_some() {
                return message;
            }
        }
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn append(&mut self, other: Box<dyn Parcel<M>>) -> Option<Box<dyn Parcel<M>>> {
        match (&*other as &dyn Any).downcast_ref::<Self>() {
            Some(same) if Arc::ptr_eq(&self.feed, &same.feed) => {}
            _ => return Some(other),
        }
        if let Ok(mut same) = (other as Box<dyn Any>).downcast::<Self>() {
            self.items.append(&mut same.items);
        }
        None
    }
}
