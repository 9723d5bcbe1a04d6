//! The lock around an endpoint. Decides nothing: the [`Endpoint`] does, and says so in its events, which are carried out
//! after the lock has been released.

use std::{
    sync::{Arc, OnceLock, PoisonError, Weak, atomic::Ordering},
    task::Waker,
    time::Instant,
};

use serde::Serialize;

use super::{
    ended::Ended,
    held::HeldBytes,
    processes::Processes,
    sending::{Agreed, Encoded, NotSent},
    wake::{now, wake_each, wake_together},
    windows::Windows,
};
use crate::{
    ExitReason, Limits, Pid,
    handshake::Authenticated,
    payload::Codec,
    process::Owned,
    session::{Claims, Endpoint, Event, Host, Request, Session, Unsendable, Who},
    sync::{AtomicBool, Mutex, MutexGuard},
};

/// The waiters and processes of an endpoint in the io half.
#[derive(Debug)]
pub(crate) struct Tokio;

/// Room for so many wakers is made where there are several.
const EXPECTED_WAKES: usize = 16;

impl Host for Tokio {
    type Waiter = Waker;
    type Process = Pid;
}

/// One end of a session, shared by its driver, its channel and its remotes.
pub(crate) struct Shared {
    /// No other lock is taken under this one.
    inner: Mutex<Inner>,
    claims: Arc<Claims>,
    /// The connection has changed since the driver last asked.
    connection_changed: AtomicBool,
    processes: Processes,
    windows: Windows,
    /// Set when the client's `Start` is known.
    agreed: OnceLock<Agreed>,
    limits: Arc<Limits>,
    client: Box<str>,
    service: Box<str>,
    /// Itself, as processes own it.
    me: Weak<Self>,
}

struct Inner {
    endpoint: Endpoint<Tokio>,
    held: HeldBytes,
    /// Until the driver starts the service.
    request: Option<Box<Request>>,
}

impl Shared {
    pub(crate) fn new(
        endpoint: Endpoint<Tokio>,
        limits: &Limits,
        authenticated: &Authenticated,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            claims: Arc::clone(endpoint.claims()),
            connection_changed: AtomicBool::new(false),
            inner: Mutex::new(Inner { endpoint, held: HeldBytes::new(limits), request: None }),
            processes: Processes::new(me.clone()),
            windows: Windows::new(authenticated),
            agreed: OnceLock::new(),
            limits: Arc::new(limits.clone()),
            client: authenticated.client().as_str().into(),
            service: authenticated.service().as_str().into(),
            me: me.clone(),
        })
    }

    /// From now on messages may be encoded.
    pub(crate) fn agree(&self, codec: Codec) {
        let max_payload_len = self.session(|session| session.max_payload_len());
        let _ = self.agreed.set(Agreed { codec, max_payload_len });
    }

    #[inline]
    fn agreed(&self) -> Agreed {
        self.agreed.get().copied().unwrap_or(Agreed::NOTHING)
    }

    /// Returns the length of the longest payload that the far end takes.
    pub(crate) fn max_payload_len(&self) -> usize {
        self.agreed().max_payload_len
    }

    #[inline]
    pub(crate) fn codec(&self) -> Codec {
        self.agreed().codec
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn client(&self) -> &str {
        &self.client
    }

    pub(crate) fn service(&self) -> &str {
        &self.service
    }

    /// Returns the state that a receiver uses for each message.
    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    pub(crate) const fn processes(&self) -> &Processes {
        &self.processes
    }

    // The endpoint.

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the endpoint, and then, without the lock, all that follows from it.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Endpoint<Tokio>) -> T) -> T {
        self.enter(Who::User, f)
    }

    /// The same for what processes and callers do.
    pub(crate) fn session<T>(&self, f: impl FnOnce(&mut Session<Tokio>) -> T) -> T {
        self.with(|endpoint| f(endpoint.session_mut()))
    }

    /// The same for the driver.
    pub(super) fn drive<T>(&self, f: impl FnOnce(&mut Endpoint<Tokio>) -> T) -> T {
        self.enter(Who::Driver, f)
    }

    /// The same for what is followed by nothing.
    pub(super) fn quietly<T>(&self, f: impl FnOnce(&mut Endpoint<Tokio>) -> T) -> T {
        f(&mut self.lock().endpoint)
    }

    #[inline(always)]
    fn enter<T>(&self, who: Who, f: impl FnOnce(&mut Endpoint<Tokio>) -> T) -> T {
        let mut inner = self.lock();
        let result = f(&mut inner.endpoint);
        let held = inner.endpoint.held();
        let in_all = inner.held.count(held);
        if let Some(event) = inner.endpoint.poll(who, in_all) {
            self.follow(inner, event, who, in_all);
        }
        result
    }

    /// Carries out `event` and all that follow, without the lock.
    fn follow(&self, mut inner: MutexGuard<'_, Inner>, event: Event<Tokio>, who: Who, in_all: usize) {
        match event {
            // Mostly there is nothing else.
            Event::Wake(waker) => match inner.endpoint.poll(who, in_all) {
                None => {
                    drop(inner);
                    waker.wake();
                }
                Some(event) => {
                    let mut woken = Vec::with_capacity(EXPECTED_WAKES);
                    woken.push(waker);
                    self.perform(inner, woken, event, who, in_all);
                }
            },
            event => self.perform(inner, Vec::new(), event, who, in_all),
        }
    }

    #[inline(never)]
    fn perform(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        mut woken: Vec<Waker>,
        event: Event<Tokio>,
        who: Who,
        in_all: usize,
    ) {
        let mut rest = Vec::new();
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                Event::Wake(waker) => woken.push(waker),
                Event::Requested(request) => inner.request = Some(request),
                other => rest.push(other),
            }
            next = inner.endpoint.poll(who, in_all);
        }
        drop(inner);
        match who {
            Who::User => wake_each(woken),
            // Its poll ends soon.
            Who::Driver => wake_together(woken),
        }
        for event in rest {
            match event {
                Event::Deliver(deliveries) => self.processes.deliver(deliveries),
                Event::Disown(owner) => self.processes.disown(&owner),
                Event::Window(change) => self.windows.change(change, &self.limits, |more| {
                    self.with(|endpoint| {
                        endpoint.widen(more);
                        endpoint.over().is_none()
                    })
                }),
                Event::Connection(_) => self.connection_changed.store(true, Ordering::Relaxed),
                Event::Closed => self.windows.close(),
                Event::Wake(_) | Event::Requested(_) => {}
            }
        }
    }

    // The driver.

    /// Takes the bytes that were read from the stream.
    pub(crate) fn handle_bytes(&self, epoch: u64, now: Instant, bytes: &[u8]) {
        let untaken = self.processes.untaken();
        self.drive(|endpoint| endpoint.handle_bytes(epoch, now, bytes, untaken));
    }

    /// The driver ends: delivers all that is due, and lets go of the processes that were handed out.
    pub(super) fn leave(&self) {
        while !self.drive(Endpoint::leave) {}
        self.processes.close();
    }

    /// Returns whether the connection has changed since the last time. Only inputs of the driver change it.
    pub(super) fn take_connection_change(&self) -> bool {
        self.connection_changed.load(Ordering::Relaxed)
            && self.connection_changed.swap(false, Ordering::Relaxed)
    }

    /// Returns whether the session is over.
    pub(super) fn is_over(&self) -> bool {
        self.quietly(|endpoint| endpoint.over().is_some())
    }

    /// Takes what the client asks for, if it has just said so.
    pub(super) fn take_request(&self) -> Option<Request> {
        self.lock().request.take().map(|request| *request)
    }

    // The channel and the remotes.

    /// Encodes without the lock, then does something with the session and the payload.
    pub(crate) fn send<T, U: Serialize + 'static>(
        &self,
        value: &U,
        f: impl FnOnce(&mut Session<Tokio>, &mut Vec<u8>) -> Result<T, Unsendable>,
    ) -> Result<T, NotSent> {
        self.agreed().encode(value, |payload| self.session(|session| f(session, payload)))
    }

    /// Encodes the next messages of many without the lock.
    pub(crate) fn encode_next<U: Serialize + 'static>(
        &self,
        batch: &mut Encoded,
        messages: impl Iterator<Item = U>,
    ) -> Result<(), NotSent> {
        batch.refill(self.agreed(), messages)
    }

    /// Makes `owner` the process with which this session ends; `None` for a task that is no process.
    pub(crate) fn own(&self, owner: Option<Pid>, linked: bool) {
        let Some(me) = self.me.upgrade() else { return };
        let refused = owner.as_ref().and_then(|owner| owner.own(me).err());
        self.with(|endpoint| endpoint.own(owner, linked));
        if let Some(reason) = refused {
            self.let_go(reason);
        }
    }

    /// The owner ended or let go, with this reason.
    pub(crate) fn let_go(&self, reason: ExitReason) {
        self.with(|endpoint| endpoint.let_go(now(), reason));
        self.processes.drop_outlet();
    }

    /// Ends the session for both ends with this reason.
    pub(crate) fn shut_down(&self, reason: ExitReason) {
        self.session(|session| session.break_off(reason));
    }

    /// Returns a wait for the end of the session.
    pub(crate) fn ended(self: &Arc<Self>) -> Ended {
        Ended::new(Arc::clone(self))
    }

    /// How many entries all tables hold, those of the endpoint and those beside it.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.quietly(|endpoint| endpoint.entries()) + self.processes.entries()
    }
}

impl Owned for Shared {
    fn owner_ended(&self, reason: &ExitReason) {
        self.let_go(reason.clone());
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("service", &self.service).finish_non_exhaustive()
    }
}
