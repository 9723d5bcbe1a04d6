//! Processes inside messages: how they are encoded and decoded, and how far ones are reached.

use std::{
    any::Any,
    cell::RefCell,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

use super::{
    decode,
    feed::HandedFeed,
    forwarding::forwarder,
    remote::{not_called, not_sent},
};
use crate::{
    Address, CallError, CallFailure, CastError, Executed, ExitReason, Pid, Rights, after,
    middleman::{Departing, NotSent, Shared, handle_of, keep, now},
    payload::{self, Codec},
    process::{Departure, EncodeAnswer, FarRoute},
    protocol::Protocol,
    session::{FarHandle, Handles, ReceivedHandle, Unsendable},
    sync::thread_local,
};

// Encoding.

impl<M: Protocol> Serialize for Address<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let departing = match self.departure() {
            Departure::Near(alias, rights) => {
                let outlet = HandedFeed::outlet(self.clone(), decode::<M>);
                Departing::Near { pid: self.pid(), alias, rights, outlet: Some(Arc::new(outlet)) }
            }
            Departure::Far(route) => {
                let far = (&*route as &dyn Any).downcast_ref::<FarProcess>();
                let far = far.ok_or_else(|| S::Error::custom("an unknown process"))?;
                Departing::Far {
                    handle: far.handle.clone(),
                    pid: far.pid.clone(),
                    forward: Some(forwarder(self)),
                }
            }
        };
        payload::serialize_process(Box::new(departing), serializer)
    }
}

impl Serialize for Pid {
    /// The far end may monitor the process; a far process goes back as itself.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let departing = match handle_of(self) {
            None => {
                let (pid, rights) = (self.clone(), Rights::MONITOR);
                Departing::Near { pid, alias: None, rights, outlet: None }
            }
            Some(Some(handle)) => Departing::Far { handle, pid: self.clone(), forward: None },
            Some(None) => {
                return Err(S::Error::custom("a far process that was never in a message cannot be in one"));
            }
        };
        payload::serialize_process(Box::new(departing), serializer)
    }
}

// Decoding.

/// A process that came with a message.
#[derive(Clone)]
enum Arrived {
    Far(Arc<FarProcess>),
    /// A process of this program.
    Near(Pid),
    /// A process of this program that can no longer be reached by the name that came back.
    Dead,
}

thread_local! {
    /// The processes of the message that is being decoded.
    static ARRIVED: RefCell<Arc<[Arrived]>> = RefCell::new(Arc::new([]));
}

/// Restores the processes of an outer message, also while a panic unwinds.
struct Restore(Option<Arc<[Arrived]>>);

impl Restore {
    fn set(arrived: Arc<[Arrived]>) -> Self {
        // A thread that is shutting down decodes no process.
        Self(ARRIVED.try_with(|slot| slot.replace(arrived)).ok())
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(outer) = self.0.take() {
            let inner = ARRIVED.try_with(|slot| slot.replace(outer));
            // Processes are dropped here, outside of the slot.
            drop(inner);
        }
    }
}

/// Calls `decode` for a message with these processes.
#[inline]
pub(super) fn with_handles<T>(shared: &Arc<Shared>, handles: &Handles, decode: impl FnOnce() -> T) -> T {
    if handles.is_empty() {
        return decode();
    }
    let arrived = handles.as_slice().iter().map(|handle| match handle {
        ReceivedHandle::Far(far, _) => Arrived::Far(FarProcess::new(shared, far.clone())),
        ReceivedHandle::Near(mailbox) => shared.pid_of(mailbox).map_or(Arrived::Dead, Arrived::Near),
        ReceivedHandle::Dead => Arrived::Dead,
    });
    let _restore = Restore::set(arrived.collect());
    decode()
}

/// Returns the process that a payload names.
fn arrived<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arrived, D::Error> {
    let place = payload::deserialize_place(deserializer)? as usize;
    let found = ARRIVED.try_with(|slot| slot.borrow().get(place).cloned()).ok().flatten();
    found.ok_or_else(|| D::Error::custom("a process that did not come with the message"))
}

impl<'de, M: Protocol> Deserialize<'de> for Address<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match arrived(deserializer)? {
            Arrived::Far(far) => Ok(Self::far(far, M::encode, M::is_call, M::into_reply)),
            Arrived::Near(pid) => {
                Self::of(&pid).ok_or_else(|| D::Error::custom("a process that takes other messages"))
            }
            Arrived::Dead => Ok(Self::dead()),
        }
    }
}

impl<'de> Deserialize<'de> for Pid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match arrived(deserializer)? {
            Arrived::Far(far) => far.pid.clone(),
            Arrived::Near(pid) => pid,
            Arrived::Dead => Self::nobody(),
        })
    }
}

// Far processes.

/// A process of the far end that came in a message.
struct FarProcess {
    shared: Weak<Shared>,
    pid: Pid,
    handle: FarHandle,
}

impl FarProcess {
    fn new(shared: &Arc<Shared>, handle: FarHandle) -> Arc<Self> {
        let pid = shared.processes().imported(&handle);
        Arc::new(Self { shared: Arc::downgrade(shared), pid, handle })
    }
}

/// The reason for operations on a session that is gone.
const GONE: ExitReason = ExitReason::NoConnection;

fn gone() -> NotSent {
    NotSent::Session(Unsendable::Ended(GONE))
}

impl FarRoute for FarProcess {
    fn pid(&self) -> Pid {
        self.pid.clone()
    }

    fn begin_cast(&self, wait: bool, encode: &mut EncodeAnswer<'_>) -> Result<Option<u64>, CastError> {
        let id = self.handle.id();
        let Some(shared) = self.shared.upgrade() else { return Err(not_sent(gone())) };
        let sent = shared.send_with(encode, |session, payload, handles| match wait {
            true => session.cast_to(now, id, payload, handles),
            false => session.try_cast_with(id, payload, handles).map(|()| None),
        });
        sent.map_err(not_sent)
    }

    fn poll_cast(&self, ticket: u64, cx: &Context<'_>) -> Poll<Result<(), CastError>> {
        let id = self.handle.id();
        let Some(shared) = self.shared.upgrade() else { return Poll::Ready(Err(not_sent(gone()))) };
        match shared.ask(|session| session.poll_cast_to(id, ticket, keep(cx))) {
            Some(sent) => Poll::Ready(sent.map_err(|error| not_sent(NotSent::Session(error)))),
            None => Poll::Pending,
        }
    }

    fn withdraw_cast(&self, ticket: u64) {
        if let Some(shared) = self.shared.upgrade() {
            shared.session(|session| session.withdraw_cast_to(now(), self.handle.id(), ticket));
        }
    }

    fn begin_call(&self, within: Duration, encode: &mut EncodeAnswer<'_>) -> Result<u64, CallError> {
        let id = self.handle.id();
        let Some(shared) = self.shared.upgrade() else { return Err(not_called(gone())) };
        let sent = shared.send_with(encode, |session, payload, handles| {
            let now = now();
            session.call_to(now, after(now, within), id, payload, handles)
        });
        sent.map_err(not_called)
    }

    fn poll_call(
        &self,
        call: u64,
        cx: &Context<'_>,
        decode: &mut dyn FnMut(Codec, &Bytes),
    ) -> Poll<Result<(), CallError>> {
        let Some(shared) = self.shared.upgrade() else {
            return Poll::Ready(Err(CallError::new(Executed::Unknown, CallFailure::Exit(GONE))));
        };
        let Some((outcome, handles)) = shared.ask(|session| session.poll_answer(call, keep(cx))) else {
            return Poll::Pending;
        };
        Poll::Ready(outcome.map(|answer| {
            with_handles(&shared, &handles, || decode(shared.terms().codec(), &answer));
        }))
    }

    fn cancel_call(&self, call: u64) {
        if let Some(shared) = self.shared.upgrade() {
            shared.session(|session| session.cancel_call_to(now(), self.handle.id(), call));
        }
    }

    fn call_timeout(&self) -> Duration {
        let default = || crate::Limits::default().call_timeout;
        self.shared.upgrade().map_or_else(default, |shared| shared.terms().limits().call_timeout)
    }

    fn max_payload_len(&self) -> usize {
        self.shared.upgrade().map_or(0, |shared| shared.ask(|session| session.max_payload_len()))
    }

    fn spawn(&self, task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) {
        if let Some(shared) = self.shared.upgrade() {
            shared.spawn(task);
        }
    }
}
