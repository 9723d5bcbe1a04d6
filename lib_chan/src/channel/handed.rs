//! Processes other than the owner, handed to the far end by number.
//!
//! The wire and the session support them already; how a process travels inside a message comes later. Until then,
//! only tests of links and signals between any two processes of the two ends use this, and it is no part of the
//! public API.

use std::{fmt, marker::PhantomData, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use super::{Remote, end_undecodable, feed::HandedFeed};
use crate::{
    Address, Pid, Rights, SendError,
    middleman::{Exported, Shared},
    payload,
};

impl<Out> Remote<Out> {
    /// Hands a process to the far end, with every right. Casts of type `In` reach it after `wrap` has converted them.
    #[doc(hidden)]
    pub fn hand_out<In: DeserializeOwned + 'static, M: Send + 'static>(
        &self,
        to: &Address<M>,
        wrap: impl Fn(In) -> M + Send + Sync + 'static,
    ) -> u64 {
        let outlet = HandedFeed::outlet(to.clone(), move |shared, inbound| {
            let decoded = payload::decode_message(shared.terms().codec(), &inbound.payload);
            decoded.map(&wrap).map_err(|error| end_undecodable(shared, &error)).ok()
        });
        let rights = Rights { send: true, monitor: true, link: true, exit: true, kill: true };
        let mailbox = Exported::mailbox(to.pid(), Some(Arc::new(outlet)));
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
