//! Processes other than the owner, handed to the far end by number.
//!
//! The wire and the session support them already; how a process travels inside a message comes later. Until then,
//! only tests of links and signals between any two processes of the two ends use this, and it is no part of the
//! public API.

use std::{
    fmt,
    marker::PhantomData,
    sync::{Arc, Weak},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Remote, end_undecodable,
    feed::{Feed, FeedOutlet},
};
use crate::{
    Address, ExitReason, Pid, Rights, SendError,
    middleman::{Exported, Shared},
    payload,
    session::Inbound,
};

impl<Out> Remote<Out> {
    /// Hands a process to the far end, with every right. Casts of type `In` reach it after `wrap` has converted them.
    #[doc(hidden)]
    pub fn hand_out<In: DeserializeOwned + 'static, M: Send + 'static>(
        &self,
        to: &Address<M>,
        wrap: impl Fn(In) -> M + Send + Sync + 'static,
    ) -> u64 {
        let shared = Arc::downgrade(self.shared());
        let feed: Arc<dyn Feed<M>> = Arc::new(HandedOut { shared, wrap: Box::new(wrap) });
        let rights = Rights { send: true, monitor: true, link: true, exit: true, kill: true };
        let outlet = Arc::new(FeedOutlet { to: to.clone(), feed });
        let mailbox = Exported::mailbox(to.pid(), Some(outlet));
        self.shared().session(|session| session.hand_out_with(to.pid(), rights, mailbox))
    }

    /// Returns the process that the far end has handed out under this number.
    #[doc(hidden)]
    pub fn handed<T>(&self, id: u64) -> Handed<T> {
        Handed {
            shared: Arc::clone(self.shared()),
            id,
            pid: self.shared().processes().far(id),
            message: PhantomData,
        }
    }
}

/// A process of the far end that takes casts of type `T`.
#[doc(hidden)]
pub struct Handed<T> {
    shared: Arc<Shared>,
    id: u64,
    pid: Pid,
    message: PhantomData<fn(T)>,
}

impl<T: Serialize + 'static> Handed<T> {
    /// Returns its pid.
    pub fn pid(&self) -> Pid {
        self.pid.clone()
    }

    /// Sends a cast, if it need not wait.
    ///
    /// # Errors
    /// The reason of the session's end; `Overload` without credit.
    pub fn try_cast(&self, message: &T) -> Result<(), SendError<()>> {
        let sent = self
            .shared
            .send(message, |session, payload, handles| session.try_cast_with(self.id, payload, handles));
        sent.map_err(|error| SendError { message: (), reason: error.into() })
    }
}

impl<T> fmt::Debug for Handed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handed").field("pid", &self.pid).finish_non_exhaustive()
    }
}

struct HandedOut<In, M> {
    shared: Weak<Shared>,
    wrap: Box<dyn Fn(In) -> M + Send + Sync>,
}

impl<In: DeserializeOwned + 'static, M: Send + 'static> Feed<M> for HandedOut<In, M> {
    fn take(&self, id: u64, inbound: Inbound) -> Option<M> {
        let shared = self.shared.upgrade()?;
        shared.session(|session| session.give_back_to(id, inbound.cost()));
        match payload::decode_message(shared.terms().codec(), &inbound.payload) {
            Ok(message) => Some((self.wrap)(message)),
            Err(error) => {
                end_undecodable(&shared, &error);
                None
            }
        }
    }

    fn discard(&self, id: u64, inbound: Inbound) {
        if let Some(shared) = self.shared.upgrade() {
            shared.session(|session| session.discard_handed(id, &inbound));
        }
    }

    fn ended(&self, _reason: ExitReason) -> M {
        unreachable!("the session's end is told to its owner alone")
    }
}
