//! The lock around an endpoint: what must be woken, told or dropped is taken out under it and done after it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::{
    far::{Far, FarMonitor, OWNER, Tables},
    wake::{keep, now, wake_each, wake_together, with_scratch},
    windows::Widened,
};
use crate::{
    ExitReason, Limits, MonitorRef, Pid,
    handshake::Authenticated,
    payload::{self, Codec, PayloadError},
    process::{Owned, ProcessSignal, Receipt, next_monitor},
    session::{
        Claims, Delivery, Endpoint, Event, Host, Inbound, Request, Rights, Session, Unsendable, Who,
        WindowChange,
    },
    sync::{Mutex, MutexGuard},
};

/// What the driver's half of a session waits with, and whom it serves.
#[derive(Debug)]
pub(crate) struct Tokio;

impl Host for Tokio {
    type Waiter = Waker;
    type Process = Pid;
}

/// One end of a session, as its driver, its channel and its remotes share it.
///
/// One lock, and nothing is nested in it. It decides nothing: the [`Endpoint`] does, and says so in its events, which are
/// carried out once the lock has been let go.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    claims: Arc<Claims>,
    /// Set when the client's `Start` is known.
    terms: OnceLock<Agreed>,
    client: Box<str>,
    service: Box<str>,
    limits: Arc<Limits>,
    widened: Mutex<Widened>,
    untaken_exits: Receipt,
    /// The same for exit signals of links.
    untaken_ends: Receipt,
    remote: Pid,
    /// Itself, as processes own it.
    me: Weak<Self>,
}

/// What is agreed once for all messages.
#[derive(Clone, Copy, Debug)]
struct Agreed {
    codec: Codec,
    max_payload_len: usize,
}

struct Inner {
    endpoint: Endpoint<Tokio>,
    tables: Tables,
    /// Until the driver starts the service.
    request: Option<Box<Request>>,
    /// What this session has added to [`HELD_IN_ALL`]; a multiple of the step, which is a power of two.
    counted: usize,
    step: usize,
}

/// Bytes held by all sessions of the program.
static HELD_IN_ALL: AtomicUsize = AtomicUsize::new(0);

impl Inner {
    #[inline(always)]
    fn poll(&mut self, who: Who) -> Option<Event<Tokio>> {
        let held = self.endpoint.held();
        let steps = held & !(self.step - 1);
        if steps != self.counted {
            self.count(steps);
        }
        self.endpoint.poll(who, HELD_IN_ALL.load(Ordering::Relaxed))
    }

    #[cold]
    fn count(&mut self, steps: usize) {
        let before = std::mem::replace(&mut self.counted, steps);
        match steps.checked_sub(before) {
            Some(more) => HELD_IN_ALL.fetch_add(more, Ordering::Relaxed),
            None => HELD_IN_ALL.fetch_sub(before - steps, Ordering::Relaxed),
        };
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        HELD_IN_ALL.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl Shared {
    pub(crate) fn new(
        endpoint: Endpoint<Tokio>,
        limits: &Limits,
        authenticated: &Authenticated,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            claims: Arc::clone(endpoint.claims()),
            inner: Mutex::new(Inner {
                endpoint,
                tables: Tables::default(),
                request: None,
                counted: 0,
                step: Endpoint::<Tokio>::held_step(limits),
            }),
            terms: OnceLock::new(),
            client: authenticated.client().as_str().into(),
            service: authenticated.service().as_str().into(),
            limits: Arc::new(limits.clone()),
            widened: Mutex::new(Widened::new(authenticated)),
            untaken_exits: Receipt::default(),
            untaken_ends: Receipt::default(),
            remote: Far::new(me.clone(), OWNER).pid(),
            me: me.clone(),
        })
    }

    /// From now on messages may be encoded.
    pub(crate) fn agree(&self, codec: Codec) {
        let max_payload_len = self.session(|session| session.max_payload_len());
        let _ = self.terms.set(Agreed { codec, max_payload_len });
    }

    fn terms(&self) -> Agreed {
        self.terms.get().copied().unwrap_or(Agreed { codec: Codec::Raw, max_payload_len: 0 })
    }

    /// The longest payload that the far end takes.
    pub(crate) fn max_payload_len(&self) -> usize {
        self.terms().max_payload_len
    }

    pub(crate) fn codec(&self) -> Codec {
        self.terms().codec
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

    /// The pid of the far owner.
    pub(crate) const fn remote(&self) -> &Pid {
        &self.remote
    }

    /// What a receiver asks for each message.
    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the endpoint, and then, without the lock, all that follows from it.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Endpoint<Tokio>) -> T) -> T {
        let mut inner = self.lock();
        let result = f(&mut inner.endpoint);
        if let Some(event) = inner.poll(Who::User) {
            self.follow(inner, event, Who::User);
        }
        result
    }

    /// The same for what processes and callers do.
    pub(crate) fn session<T>(&self, f: impl FnOnce(&mut Session<Tokio>) -> T) -> T {
        self.with(|endpoint| f(endpoint.session_mut()))
    }

    /// The same for the driver.
    pub(super) fn drive<T>(&self, f: impl FnOnce(&mut Endpoint<Tokio>) -> T) -> T {
        let mut inner = self.lock();
        let result = f(&mut inner.endpoint);
        if let Some(event) = inner.poll(Who::Driver) {
            self.follow(inner, event, Who::Driver);
        }
        result
    }

    /// The same for what is followed by nothing.
    pub(super) fn quietly<T>(&self, f: impl FnOnce(&mut Endpoint<Tokio>) -> T) -> T {
        f(&mut self.lock().endpoint)
    }

    /// Takes what was read from the stream.
    pub(super) fn handle_bytes(&self, now: Instant, bytes: &[u8]) {
        let untaken = [&self.untaken_exits, &self.untaken_ends].map(Receipt::outstanding);
        self.drive(|endpoint| endpoint.handle_bytes(now, bytes, untaken));
    }

    /// What the client asks for, if it has just said so.
    pub(super) fn take_request(&self) -> Option<Request> {
        self.lock().request.take().map(|request| *request)
    }

    /// Carries out `event` and all that follow, without the lock.
    fn follow(&self, mut inner: MutexGuard<'_, Inner>, event: Event<Tokio>, who: Who) {
        match event {
            Event::Wake(waker) => match inner.poll(who) {
                None => {
                    drop(inner);
                    waker.wake();
                }
                Some(event) => self.perform(inner, vec![waker], event, who),
            },
            event => self.perform(inner, Vec::new(), event, who),
        }
    }

    #[inline(never)]
    fn perform(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        mut woken: Vec<Waker>,
        event: Event<Tokio>,
        who: Who,
    ) {
        let (mut rest, mut closed) = (Vec::new(), None);
        let mut next = Some(event);
        while let Some(event) = next {
            match event {
                Event::Wake(waker) => woken.push(waker),
                Event::Closed => {
                    closed = Some(inner.tables.close());
                    rest.push(Event::Closed);
                }
                Event::Requested(request) => inner.request = Some(request),
                other => rest.push(other),
            }
            next = inner.poll(who);
        }
        drop(inner);
        drop(closed);
        match who {
            Who::User => wake_each(woken),
            // Its poll ends soon.
            Who::Driver => wake_together(woken),
        }
        for event in rest {
            match event {
                Event::Deliver(deliveries) => self.deliver(deliveries),
                Event::Disown(owner) => self.disown(&owner),
                Event::Window(change) => self.change_window(change),
                Event::Closed => self.widened().shrink_to(0),
                Event::Wake(_) | Event::Requested(_) => {}
            }
        }
    }

    fn widened(&self) -> MutexGuard<'_, Widened> {
        self.widened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_window(&self, change: WindowChange) {
        match change {
            WindowChange::Wanted(more) => {
                let more = self.widened().grow(more as usize, &self.limits);
                let over = self.with(|endpoint| {
                    endpoint.widen(more as u64);
                    endpoint.over().is_some()
                });
                if over {
                    self.widened().shrink_to(0);
                }
            }
            WindowChange::Narrowed(extra) => self.widened().shrink_to(extra as usize),
        }
    }

    // Processes.

    fn disown(&self, owner: &Pid) {
        if let Some(me) = self.me.upgrade() {
            owner.disown(&(me as Arc<dyn Owned>));
        }
    }

    /// Tells processes what the session has for them, in its order.
    fn deliver(&self, deliveries: Vec<Delivery<Pid>>) {
        let mut batch = VecDeque::new();
        for delivery in deliveries {
            match delivery {
                Delivery::Inbound(message) => batch.push_back(Fed::Inbound(message)),
                Delivery::Over(reason) => batch.push_back(Fed::Ended(reason)),
                signal => {
                    self.put(std::mem::take(&mut batch));
                    self.signal(signal);
                }
            }
        }
        self.put(batch);
    }

    fn put(&self, batch: VecDeque<Fed>) {
        if batch.is_empty() {
            return;
        }
        let last = matches!(batch.back(), Some(Fed::Ended(_)));
        let outlet = self.lock().tables.outlet(last);
        if let Some(outlet) = outlet {
            outlet.put(batch);
        }
    }

    fn signal(&self, delivery: Delivery<Pid>) {
        match delivery {
            Delivery::Link { from, to } => to.signal(ProcessSignal::Link { from: self.far(from) }),
            Delivery::Unlink { from, to, unlink } => {
                to.signal(ProcessSignal::Unlink { from: self.far(from), id: unlink })
            }
            Delivery::UnlinkAck { from, to, unlink } => {
                to.signal(ProcessSignal::UnlinkAck { from: self.far(from), id: unlink });
            }
            Delivery::Exit { from, to, reason, link, provoked } => {
                let receipt = if link { &self.untaken_ends } else { &self.untaken_exits };
                let receipt = provoked.then(|| receipt.clone());
                to.signal(ProcessSignal::Exit { from: self.far(from), reason, link, receipt });
            }
            Delivery::Down { monitor, from, to, reason } => {
                to.signal(ProcessSignal::Down {
                    from: self.far(from),
                    monitor: MonitorRef::new(monitor),
                    reason,
                });
            }
            Delivery::Monitor { monitor, to } => {
                let watch = Pid::far(Arc::new(FarMonitor::new(self.me.clone(), monitor)));
                let reference = next_monitor();
                self.lock().tables.watch(monitor, reference);
                to.signal(ProcessSignal::Monitor { from: watch, monitor: reference });
            }
            Delivery::Demonitor { monitor, to } => {
                let reference = self.lock().tables.unwatch(monitor);
                if let Some(monitor) = reference {
                    to.signal(ProcessSignal::Demonitor { monitor });
                }
            }
            Delivery::Message { to, message } => {
                let outlet = self.lock().tables.handed_out(&to);
                if let Some(outlet) = outlet {
                    outlet.put(VecDeque::from([Fed::Inbound(message)]));
                }
            }
            // Those are put into the mailbox of the owner.
            Delivery::Inbound(_) | Delivery::Over(_) => {}
        }
    }

    /// The pid of a far process: the same one as long as somebody holds it.
    pub(crate) fn far(&self, id: u64) -> Pid {
        if id == OWNER {
            return self.remote.clone();
        }
        let far = self.lock().tables.far(id, &self.me);
        far.pid()
    }

    /// Nobody holds the pid of this far process any more.
    pub(super) fn forget_far(&self, id: u64) {
        self.lock().tables.forget_far(id);
    }

    /// A process on which the peer set a monitor ended.
    pub(super) fn down(&self, monitor: u64, reason: ExitReason) {
        let _ = self.lock().tables.unwatch(monitor);
        self.session(|session| session.down(monitor, 0, reason));
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

    /// Lets the peer send to, monitor, link to and end a process of this end.
    pub(crate) fn hand_out(&self, process: Pid, outlet: Arc<dyn Outlet>) -> u64 {
        let rights = Rights { send: true, monitor: true, link: true, exit: true, kill: true };
        let id = self.session(|session| session.hand_out(process.clone(), rights));
        self.lock().tables.hand_out(process, outlet);
        id
    }

    // Sending.

    /// Encodes outside of the lock, then does something with the session and the payload.
    pub(crate) fn send<T, U: serde::Serialize + 'static>(
        &self,
        value: &U,
        f: impl FnOnce(&mut Session<Tokio>, &mut Vec<u8>) -> Result<T, Unsendable>,
    ) -> Result<T, NotSent> {
        let Agreed { codec, max_payload_len } = self.terms();
        with_scratch(|scratch| {
            payload::encode_message(codec, value, max_payload_len, scratch).map_err(NotSent::Payload)?;
            self.session(|session| f(session, scratch)).map_err(NotSent::Session)
        })
    }

    // Where messages go, and how it ends.

    /// Sends what comes for the owner to a process, in one order with the signals.
    pub(crate) fn hand_over(
        &self,
        to: Pid,
        outlet: Arc<dyn Outlet>,
        hand_over: impl FnOnce(&mut Endpoint<Tokio>),
    ) {
        self.with(|endpoint| endpoint.own(Some(to), false));
        self.lock().tables.set_outlet(outlet);
        self.with(hand_over);
    }

    /// The owner ended or let go, with this reason.
    pub(crate) fn let_go(&self, reason: ExitReason) {
        self.with(|endpoint| endpoint.let_go(now(), reason));
        // The outlet holds the session, and nothing comes through it any more. Dropped after unlocking.
        let outlet = self.lock().tables.outlet(true);
        drop(outlet);
    }

    /// Ends the session for both ends with this reason.
    pub(crate) fn shut_down(&self, reason: ExitReason) {
        self.session(|session| session.break_off(reason));
    }

    /// Waits until the session has ended, and says why.
    pub(crate) fn ended(self: &Arc<Self>) -> Ended {
        Ended { shared: Arc::clone(self), place: 0 }
    }

    /// How many entries all tables hold, those of the endpoint and those beside it.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        let inner = self.lock();
        inner.endpoint.entries() + inner.tables.len()
    }
}

/// One piece of what a session hands to a process.
#[derive(Debug)]
pub(crate) enum Fed {
    /// A message, not yet decoded.
    Inbound(Inbound),
    /// The end of the session.
    Ended(ExitReason),
}

/// Where the messages of a channel go that was given to a process.
pub(crate) trait Outlet: Send + Sync {
    /// Puts these into the mailbox of the process.
    fn put(&self, items: VecDeque<Fed>);
}

/// The wait for the end of a session. Dropped, it leaves nothing behind: a session may outlive very many of them.
pub(crate) struct Ended {
    shared: Arc<Shared>,
    place: u64,
}

impl Ended {
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<ExitReason> {
        let place = &mut self.place;
        self.shared.with(|endpoint| match endpoint.over() {
            Some(reason) => Poll::Ready(reason.clone()),
            None => {
                endpoint.watch(place, keep(cx));
                Poll::Pending
            }
        })
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let waker = self.shared.lock().endpoint.unwatch(self.place);
        drop(waker);
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

/// Why a message was not sent.
#[derive(Debug)]
pub(crate) enum NotSent {
    Payload(PayloadError),
    Session(Unsendable),
}

impl From<NotSent> for ExitReason {
    fn from(not_sent: NotSent) -> Self {
        match not_sent {
            NotSent::Payload(error) => Self::failed(error.to_string()),
            NotSent::Session(Unsendable::Ended(reason)) => reason,
            NotSent::Session(Unsendable::WouldWait) => Self::Overload,
            NotSent::Session(Unsendable::TooLong { max }) => {
                Self::failed(PayloadError::TooLong { max }.to_string())
            }
        }
    }
}
