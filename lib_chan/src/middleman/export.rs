//! Processes of this end that are handed out to the peer.

use std::sync::{Arc, Weak};

use super::{
    processes::Outlet,
    sending::{NotSent, with_scratch},
    shared::{Shared, Tokio},
};
use crate::{
    Pid, Rights,
    payload::{Carried, PayloadError},
    process::{Alias, EncodeAnswer, ProcessSignal, Revoker, SignalTarget},
    session::{
        AliasName, DroppedHandles, Export, FarHandle, Passing, ProcessMailbox, SentHandles, Session,
        Unsendable,
    },
};

/// A process that was handed out, as the session keeps it.
pub(crate) struct Exported {
    pid: Pid,
    /// The receiver of messages; `None` for a process that was handed out to be monitored only.
    outlet: Option<Arc<dyn Outlet>>,
}

impl Exported {
    /// Makes the mailbox that a session keeps.
    pub(crate) fn mailbox(pid: Pid, outlet: Option<Arc<dyn Outlet>>) -> ProcessMailbox {
        ProcessMailbox(Arc::new(Self { pid, outlet }))
    }

    /// Returns the process behind a mailbox of a session.
    pub(super) fn of(mailbox: &ProcessMailbox) -> Option<&Self> {
        mailbox.0.downcast_ref()
    }

    pub(super) const fn outlet(&self) -> Option<&Arc<dyn Outlet>> {
        self.outlet.as_ref()
    }
}

/// The session's own monitor of a process that was handed out.
///
/// It counts as a local watcher, and these are told last: the peer's links and monitors come first.
pub(super) struct ExportWatch(Weak<Shared>);

impl ExportWatch {
    pub(super) const fn new(shared: Weak<Shared>) -> Self {
        Self(shared)
    }
}

impl SignalTarget for ExportWatch {
    fn signal(&self, signal: ProcessSignal) {
        if let (ProcessSignal::Down { from, .. }, Some(shared)) = (signal, self.0.upgrade()) {
            shared.processes().forget_export(&from);
            shared.session(|session| session.handed_out_ended(&from));
        }
    }
}

/// A process of a message that is to be sent.
pub(crate) enum Departing {
    Near {
        pid: Pid,
        /// The name under which it is handed out; `None` for its own.
        alias: Option<Arc<Alias>>,
        rights: Rights,
        /// `None` for a process that is handed out to be monitored only.
        outlet: Option<Arc<dyn Outlet>>,
    },
    Far {
        handle: FarHandle,
        pid: Pid,
        /// For another session: makes the process that stands in for it there. `None` if there is no such process, because
        /// the type of the messages is not known.
        forward: Option<Forward>,
    },
}

/// Makes a forwarder, on this runtime: a process of this end, and the way to it. The forwarder ends once that is dropped.
pub(crate) type Forward = Box<dyn FnOnce(&tokio::runtime::Handle) -> (Pid, Arc<dyn Outlet>) + Send>;

/// The part of a session that is about handles.
pub(super) struct HandleState {
    /// The far processes of which the last handle was dropped.
    dropped: Arc<DroppedHandles>,
    /// Runs the tasks of handles, which may be dropped outside of the runtime.
    runtime: Option<tokio::runtime::Handle>,
}

impl HandleState {
    pub(super) fn new(dropped: &Arc<DroppedHandles>, session: Weak<Shared>) -> Self {
        let state =
            Self { dropped: Arc::clone(dropped), runtime: tokio::runtime::Handle::try_current().ok() };
        let runtime = state.runtime.clone();
        dropped.notify(move || {
            if let (Some(runtime), Some(session)) = (&runtime, session.upgrade()) {
                // The session releases what was dropped after any operation. The lock may be held here.
                runtime.spawn(async move { session.with(|_| ()) });
            }
        });
        state
    }
}

impl Shared {
    /// Converts the processes of an encoded message for the session.
    #[inline]
    pub(crate) fn passing(&self, carried: Carried) -> Result<SentHandles<Pid>, NotSent> {
        if carried.is_empty() { Ok(SentHandles::NONE) } else { self.convert(carried) }
    }

    #[cold]
    fn convert(&self, carried: Carried) -> Result<SentHandles<Pid>, NotSent> {
        let Some(me) = self.me() else { return Ok(SentHandles::NONE) };
        let convert = |item: Box<dyn std::any::Any + Send>| match item.downcast::<Departing>().map(|it| *it) {
            Ok(Departing::Far { handle, .. }) if handle.is_of_session(&self.handles().dropped) => {
                Ok(Passing::Back(handle))
            }
            Ok(Departing::Far { pid, forward: Some(forward), .. })
                if let Some(runtime) = &self.handles().runtime =>
            {
                let (process, outlet) = me.processes().forwarder(&pid, || forward(runtime));
                let mailbox = Exported::mailbox(process.clone(), Some(outlet));
                Ok(Passing::Near(Export { process, alias: None, rights: Rights::default(), mailbox }))
            }
            Ok(Departing::Near { pid, alias, rights, outlet }) => {
                let alias = alias.map(|alias| {
                    alias.note(Arc::downgrade(&me) as Weak<dyn Revoker>);
                    AliasName { number: alias.number(), revoked: Arc::clone(alias.revoked()) }
                });
                let mailbox = Exported::mailbox(pid.clone(), outlet);
                Ok(Passing::Near(Export { process: pid, alias, rights, mailbox }))
            }
            _ => {
                let what = "the pid of a process of another session cannot be passed on, only its address";
                Err(NotSent::Payload(PayloadError::process(self.terms().codec(), what)))
            }
        };
        carried.into_items().into_iter().map(convert).collect()
    }

    /// Encodes a message without the lock, and then calls `f` with the session, the payload and the processes in it.
    pub(crate) fn send_with<T>(
        &self,
        encode: &mut EncodeAnswer<'_>,
        f: impl FnOnce(&mut Session<Tokio>, &mut Vec<u8>, SentHandles<Pid>) -> Result<T, Unsendable>,
    ) -> Result<T, NotSent> {
        with_scratch(|scratch| {
            let carried = encode(self.terms().codec(), self.terms().max_payload_len(), scratch)
                .map_err(NotSent::Payload)?;
            let handles = self.passing(carried)?;
            self.session(|session| f(session, scratch, handles)).map_err(NotSent::Session)
        })
    }

    /// Runs a task on the runtime of the session.
    pub(crate) fn spawn(&self, task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) {
        if let Some(runtime) = &self.handles().runtime {
            runtime.spawn(task);
        }
    }

    /// Returns the process behind a mailbox of the session.
    pub(crate) fn pid_of(&self, mailbox: &ProcessMailbox) -> Option<Pid> {
        Exported::of(mailbox).map(|exported| exported.pid.clone())
    }
}

impl Revoker for Shared {
    fn revoke(&self, alias: u64) {
        self.session(|session| session.revoke(alias));
    }
}
