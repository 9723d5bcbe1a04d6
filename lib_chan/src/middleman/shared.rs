//! The lock around an endpoint. The [`Endpoint`] makes every decision and reports it as an event, which is carried
//! out after the lock was released.

use std::{
    sync::{Arc, PoisonError, Weak},
    task::Waker,
    time::Instant,
};

use serde::Serialize;

use super::{
    effects::Effects,
    export::HandleState,
    held::HeldBytes,
    holder::Holder,
    processes::Processes,
    sending::NotSent,
    terms::SessionTerms,
    wake::{now, wake_each, wake_together},
};
use crate::{
    ExitReason, Limits, Pid,
    handshake::Authenticated,
    payload::Codec,
    process::Owned,
    session::{Claims, Endpoint, Event, Host, Request, SentHandles, Session, Unsendable, Who},
    sync::{Mutex, MutexGuard},
};

/// The waiters and processes of an endpoint in the io half.
#[derive(Debug)]
pub(crate) struct Tokio;

/// The room that is made for wakers, once there are several.
const EXPECTED_WAKES: usize = 16;

impl Host for Tokio {
    type Waiter = Waker;
    type Process = Pid;
}

/// One end of a session, shared by its driver, its channel and its remotes.
pub(crate) struct Shared {
    /// No other lock is taken under this one, except those of a quota, under which none is taken.
    inner: Mutex<Inner>,
    claims: Arc<Claims>,
    effects: Effects,
    handles: HandleState,
    terms: SessionTerms,
    /// The session itself, as a thing that processes own.
    me: Weak<Self>,
}

struct Inner {
    endpoint: Endpoint<Tokio>,
    held: HeldBytes,
    /// The client's request, until the driver starts the service.
    request: Option<Box<Request>>,
}

impl Shared {
    pub(crate) fn new(
        endpoint: Endpoint<Tokio>,
        limits: &Limits,
        authenticated: &Authenticated,
    ) -> Arc<Self> {
        let holder = Holder::of(authenticated);
        Arc::new_cyclic(|me| Self {
            claims: Arc::clone(endpoint.claims()),
            handles: HandleState::new(endpoint.session().dropped_handles(), me.clone()),
            inner: Mutex::new(Inner {
                endpoint,
                held: HeldBytes::new(limits, Arc::clone(&holder)),
                request: None,
            }),
            effects: Effects::new(me.clone(), holder),
            terms: SessionTerms::new(limits, authenticated),
            me: me.clone(),
        })
    }

    /// Fixes the encoding. From now on messages may be encoded.
    pub(crate) fn agree(&self, codec: Codec) {
        self.terms.agree(codec, self.session(|session| session.max_payload_len()));
    }

    /// Returns the terms, which need no lock.
    pub(crate) const fn terms(&self) -> &SessionTerms {
        &self.terms
    }

    /// Returns the state that a receiver uses for each message.
    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    pub(super) fn me(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    pub(super) const fn handles(&self) -> &HandleState {
        &self.handles
    }

    pub(crate) const fn processes(&self) -> &Processes {
        &self.effects.processes
    }

    // The endpoint.

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f` with the endpoint, and then carries out the events without the lock.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Endpoint<Tokio>) -> T) -> T {
        self.enter(Who::User, f)
    }

    /// Calls `f` with the session, for processes and callers, and then carries out the events.
    pub(crate) fn session<T>(&self, f: impl FnOnce(&mut Session<Tokio>) -> T) -> T {
        self.with(|endpoint| f(endpoint.session_mut()))
    }

    /// Calls `f` with the endpoint, for the driver, and then carries out the events.
    pub(super) fn drive<T>(&self, f: impl FnOnce(&mut Endpoint<Tokio>) -> T) -> T {
        self.enter(Who::Driver, f)
    }

    /// Calls `f` with the session, for a question, or to store or remove a waiter.
    pub(crate) fn ask<T>(&self, f: impl FnOnce(&mut Session<Tokio>) -> T) -> T {
        self.quietly(|endpoint| f(endpoint.session_mut()))
    }

    /// Calls `f` with the endpoint, for a use that causes no event.
    pub(crate) fn quietly<T>(&self, f: impl FnOnce(&mut Endpoint<Tokio>) -> T) -> T {
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

    /// Carries out `event` and those that follow, without the lock.
    fn follow(&self, mut inner: MutexGuard<'_, Inner>, event: Event<Tokio>, who: Who, in_all: usize) {
        match event {
            // Usually no other event follows.
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
            // The poll of a driver ends soon.
            Who::Driver => wake_together(woken),
        }
        rest.into_iter().for_each(|event| self.effects.carry_out(event, self));
    }

    // The driver.

    /// Passes bytes from the stream to the endpoint. Returns `true` if there is output.
    pub(crate) fn handle_bytes(&self, epoch: u64, now: Instant, bytes: &[u8]) -> bool {
        let untaken = self.processes().untaken();
        self.drive(|endpoint| endpoint.handle_bytes(epoch, now, bytes, untaken))
    }

    /// Makes the last deliveries. Called when the driver ends.
    pub(super) fn leave(&self) {
        while !self.drive(Endpoint::leave) {}
    }

    /// Returns whether the connection has changed since the last time.
    pub(super) fn take_connection_change(&self) -> bool {
        self.effects.take_connection_change()
    }

    /// Returns whether the session is over.
    pub(super) fn is_over(&self) -> bool {
        self.quietly(|endpoint| endpoint.over().is_some())
    }

    /// Takes the client's request, once it has come.
    pub(super) fn take_request(&self) -> Option<Request> {
        self.lock().request.take().map(|request| *request)
    }

    // The channel and the remotes.

    /// Encodes `value` without the lock, and then calls `f` with the session, the payload and the processes in it.
    pub(crate) fn send<T, U: Serialize + 'static>(
        &self,
        value: &U,
        f: impl FnOnce(&mut Session<Tokio>, &mut Vec<u8>, SentHandles<Pid>) -> Result<T, Unsendable>,
    ) -> Result<T, NotSent> {
        self.terms.agreed().encode(value, |payload, carried| {
            let handles = self.passing(carried)?;
            self.session(|session| f(session, payload, handles)).map_err(NotSent::Session)
        })
    }

    /// Makes `owner` the process that ends with this session; `None` for a task that is no process.
    pub(crate) fn own(&self, owner: Option<Pid>, linked: bool) {
        let Some(me) = self.me.upgrade() else { return };
        let refused = owner.as_ref().and_then(|owner| owner.own(me).err());
        self.with(|endpoint| endpoint.own(owner, linked));
        if let Some(reason) = refused {
            self.let_go(reason);
        }
    }

    /// Ends the session because its owner has ended or let go, with this reason.
    pub(crate) fn let_go(&self, reason: ExitReason) {
        self.end_with(|endpoint| endpoint.let_go(now(), reason));
        self.processes().drop_outlet();
    }

    /// Ends a session that lived by its remotes, because the last one is gone.
    pub(crate) fn last_remote_gone(&self, reason: ExitReason) {
        self.end_with(|endpoint| endpoint.last_remote_gone(now(), reason));
    }

    /// Ends the session with `end`. The session tells nobody anything afterwards, so processes whose end is decided, but
    /// whose futures are not dropped yet, tell the links and monitors of the far end before.
    fn end_with(&self, end: impl FnOnce(&mut Endpoint<Tokio>)) {
        let exposed = self.ask(|session| session.exposed());
        let ended: Vec<_> = exposed.into_iter().filter_map(|pid| Some((pid.reason()?, pid))).collect();
        self.with(|endpoint| {
            for (reason, pid) in &ended {
                endpoint.session_mut().process_ended(pid, reason);
            }
            end(endpoint);
        });
    }

    /// Ends the session for both ends with this reason.
    pub(crate) fn shut_down(&self, reason: ExitReason) {
        self.session(|session| session.break_off(reason));
    }

    /// Returns the number of entries in all tables, those of the endpoint and those beside it.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.quietly(|endpoint| endpoint.entries()) + self.processes().entries()
    }
}

impl Owned for Shared {
    fn owner_ended(&self, reason: &ExitReason) {
        self.let_go(reason.clone());
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("service", &self.terms.service()).finish_non_exhaustive()
    }
}
