//! One end of a session, as its driver, its channel and its remotes share it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    pin::pin,
    sync::{
        Arc, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

use bytes::Bytes;
use tokio::{runtime::Handle, task::yield_now};

use super::far::{Far, Watch};
use crate::{
    ExitReason, Limits, MonitorRef, Pid,
    handshake::Authenticated,
    payload::{self, Codec, PayloadError},
    process::{Fed, Owned, Receipt, Signal, next_monitor},
    session::{Batch, Delivery, Host, Inbound, InboundKind, Rights, Session, Unsendable},
    sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, thread_local},
};

/// The id of the role "owner" at the far end.
pub(crate) const OWNER: u64 = 0;
/// Set in `Shared::taken` once the owner may take nothing more.
const CLOSED: u64 = 1 << 63;
/// The number of an empty place in a mailbox, for a message that was held when its own place came up.
const PLACE: u64 = u64::MAX;

/// What the driver's half of a session waits with, and whom it serves.
#[derive(Debug)]
pub(crate) struct Tokio;

impl Host for Tokio {
    type Waiter = Waker;
    type Process = Pid;
}

/// The session behind a channel and its remotes.
///
/// One lock, and nothing is nested in it: what must be woken, told or dropped is taken out of it and done after it was
/// let go ([`with`](Self::with)). Deliveries to processes are made by the driver alone while it runs, so they arrive in
/// the order in which the session made them.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// The number of the last message that the owner took, and whether it may take more. The one thing that a receiver
    /// touches for each message, so it is not under the lock.
    taken: AtomicU64,
    /// So much is unsent that `recv` hands out nothing more.
    paused: AtomicBool,
    /// Messages are held (`Inner::held`).
    holding: AtomicBool,
    /// The session has ended: nobody is answered any more.
    ended: AtomicBool,
    codec: Codec,
    /// The longest payload that the far end takes.
    max_payload_len: usize,
    client: Box<str>,
    service: Box<str>,
    limits: Arc<Limits>,
    untaken_exits: Receipt,
    /// The same for exit signals of links.
    untaken_ends: Receipt,
    remote: Pid,
    /// Itself, as processes own it.
    me: Weak<Self>,
}

pub(super) struct Inner {
    pub(super) session: Session<Tokio>,
    /// The driver, while it sleeps; and what it will wake for by itself.
    pub(super) driver: Option<Waker>,
    pub(super) armed: Option<Instant>,
    /// The driver has made its last delivery.
    pub(super) driver_gone: bool,
    receiver: Option<Waker>,
    /// Who waits for the opening or the end, each in a place of its own.
    watchers: BTreeMap<u64, Waker>,
    last_watcher: u64,
    open_told: bool,
    end_told: bool,
    outlet: Option<Arc<dyn Outlet>>,
    /// Messages that a process came to in its mailbox while the session was paused, and how many places in the mailbox
    /// they are owed.
    held: VecDeque<Inbound>,
    owed_places: usize,
    /// The channel was let go, and the session lives as long as a remote.
    lives_by_remotes: bool,
    /// Pids of far processes other than the owner, while somebody holds one.
    far: HashMap<u64, Weak<Far>>,
    watches: HashMap<u64, (Pid, MonitorRef)>,
    /// Where messages go for processes that were handed out to the peer.
    handed_out: BTreeMap<Pid, Arc<dyn Outlet>>,
    /// The process that owns this session.
    owner: Option<Pid>,
    /// The reason with which this end ended the session, if it did so first.
    let_go_for: Option<ExitReason>,
    /// What this session has added to [`UNSENT_IN_ALL`].
    counted: usize,
}

/// Unsent bytes of all sessions of the program.
static UNSENT_IN_ALL: AtomicUsize = AtomicUsize::new(0);
/// A session counts in steps of this length, so that a small message does not cost a word that all cores share.
const COUNTED_STEP: usize = 64 * 1024;

const fn in_steps(unsent: usize) -> usize {
    unsent - unsent % COUNTED_STEP
}

impl Inner {
    /// Counts what is unsent now: how much it is in all sessions together.
    fn count_unsent(&mut self) -> usize {
        let unsent = if self.driver_gone { 0 } else { self.session.unsent() };
        let steps = in_steps(unsent);
        let before = std::mem::replace(&mut self.counted, steps);
        match steps.checked_sub(before) {
            Some(0) => UNSENT_IN_ALL.load(Ordering::Relaxed),
            Some(more) => UNSENT_IN_ALL.fetch_add(more, Ordering::Relaxed) + more,
            None => UNSENT_IN_ALL.fetch_sub(before - steps, Ordering::Relaxed) - (before - steps),
        }
    }

    /// What must be told to processes; first the places of held messages, unless they are still to be held.
    pub(super) fn take_deliveries(&mut self, paused: bool) -> Vec<Delivery<Pid>> {
        let deliveries = self.session.take_deliveries();
        if paused || self.owed_places == 0 {
            return deliveries;
        }
        let place =
            || Delivery::Inbound(Inbound { number: PLACE, kind: InboundKind::Cast, payload: Bytes::new() });
        let places = std::iter::repeat_with(place).take(std::mem::take(&mut self.owed_places));
        places.chain(deliveries).collect()
    }

    /// How many entries all tables hold, those of the session and those beside it.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.session.entries()
            + self.watchers.len()
            + self.held.len()
            + self.owed_places
            + self.far.len()
            + self.watches.len()
            + self.handed_out.len()
            + usize::from(self.outlet.is_some())
            + usize::from(self.owner.is_some())
    }

    /// Wakes this task when the session has opened or ended. `place` is its own from the first time on, 0 before.
    pub(super) fn watch(&mut self, place: &mut u64, cx: &Context<'_>) {
        if *place == 0 {
            self.last_watcher += 1;
            *place = self.last_watcher;
        }
        let waker = keep(cx)(self.watchers.remove(place));
        self.watchers.insert(*place, waker);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        UNSENT_IN_ALL.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// Where the messages of a channel go that was given to a process.
pub(crate) trait Outlet: Send + Sync {
    /// Puts these into the mailbox of the process.
    fn put(&self, items: VecDeque<Fed>);
}

/// What must be done once the lock has been let go.
#[derive(Default)]
struct Effects {
    woken: Vec<Waker>,
    driver: Option<Waker>,
    receiver: Option<Waker>,
    rare: Option<Box<Rare>>,
}

impl Effects {
    fn is_none(&self) -> bool {
        self.woken.is_empty() && self.driver.is_none() && self.receiver.is_none() && self.rare.is_none()
    }
}

/// What only the end of a session brings, or the time after it.
struct Rare {
    disown: Option<Pid>,
    /// Dropped with the rest.
    _handed_out: BTreeMap<Pid, Arc<dyn Outlet>>,
    deliveries: Vec<Delivery<Pid>>,
}

/// A session's numbers, all of them fixed when it opens.
pub(crate) struct Opened {
    pub(crate) session: Session<Tokio>,
    pub(crate) codec: Codec,
}

impl Shared {
    pub(super) fn new(opened: Opened, authenticated: &Authenticated) -> Arc<Self> {
        let Opened { session, codec } = opened;
        let limits = Arc::clone(session.limits());
        Arc::new_cyclic(|me| Self {
            max_payload_len: session.max_payload_len(),
            inner: Mutex::new(Inner {
                session,
                driver: None,
                armed: None,
                driver_gone: false,
                receiver: None,
                watchers: BTreeMap::new(),
                last_watcher: 0,
                open_told: false,
                end_told: false,
                outlet: None,
                held: VecDeque::new(),
                owed_places: 0,
                lives_by_remotes: false,
                far: HashMap::new(),
                watches: HashMap::new(),
                handed_out: BTreeMap::new(),
                owner: None,
                let_go_for: None,
                counted: 0,
            }),
            taken: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            holding: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            codec,
            client: authenticated.client().as_str().into(),
            service: authenticated.service().as_str().into(),
            limits,
            untaken_exits: Receipt::default(),
            untaken_ends: Receipt::default(),
            remote: Far::new(me.clone(), OWNER).pid(),
            me: me.clone(),
        })
    }

    /// The longest payload that the far end takes.
    pub(crate) const fn max_payload_len(&self) -> usize {
        self.max_payload_len
    }

    pub(crate) const fn codec(&self) -> Codec {
        self.codec
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the session, and then, without the lock, all that follows from it.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        self.with_and_wake(wake_each, f)
    }

    /// The same for the session alone.
    pub(crate) fn session<T>(&self, f: impl FnOnce(&mut Session<Tokio>) -> T) -> T {
        self.with(|inner| f(&mut inner.session))
    }

    /// The same, with a way to wake whoever has something to see.
    fn with_and_wake<T>(&self, wake: impl FnOnce(Vec<Waker>), f: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let result = f(&mut inner);
        if self.is_settled(&inner) {
            debug_assert!(self.effects(&mut inner).is_none(), "nothing follows");
            return result;
        }
        let effects = self.effects(&mut inner);
        drop(inner);
        self.perform(effects, wake);
        result
    }

    /// Whether nothing follows: as after most messages of many, which find the driver awake and change nothing but its
    /// work. [`effects`](Self::effects) would come to the same.
    fn is_settled(&self, inner: &Inner) -> bool {
        let session = &inner.session;
        let unsent = session.unsent();
        inner.driver.is_none()
            && !inner.driver_gone
            && inner.open_told
            && session.over().is_none()
            && !session.has_woken()
            && (inner.receiver.is_none() || !session.has_inbox())
            && !self.is_paused()
            && unsent <= self.limits.max_unsent_before_pause
            && in_steps(unsent) == inner.counted
            && UNSENT_IN_ALL.load(Ordering::Relaxed) <= self.limits.max_unsent_in_all
    }

    fn effects(&self, inner: &mut Inner) -> Effects {
        let crowded = inner.count_unsent() > self.limits.max_unsent_in_all;
        let session = &mut inner.session;
        let share = self.limits.max_unsent_before_pause;
        // Not the longest frame that the far end takes: that is as long as it likes.
        if crowded && session.unsent() > share + self.limits.max_frame_len {
            session.break_off(ExitReason::Overload);
        }
        let mut effects = Effects { woken: session.take_woken(), ..Effects::default() };
        let paused = session.over().is_none() && session.unsent() > if crowded { 0 } else { share };
        let resumed = self.paused.swap(paused, Ordering::Relaxed) && !paused;
        let over = session.over().is_some() && !std::mem::replace(&mut inner.end_told, true);
        if over {
            self.ended.store(true, Ordering::Relaxed);
        }
        if over || session.is_open() && !std::mem::replace(&mut inner.open_told, true) {
            effects.woken.extend(std::mem::take(&mut inner.watchers).into_values());
        }
        // A paused receiver takes nothing: woken for it, it would only ask again.
        if resumed || over || (!paused && session.has_inbox()) {
            effects.receiver = inner.receiver.take();
        }
        if over || inner.driver_gone {
            let deliveries = if inner.driver_gone { inner.take_deliveries(paused) } else { Vec::new() };
            let (disown, _handed_out) = (inner.owner.take(), std::mem::take(&mut inner.handed_out));
            effects.rare = Some(Box::new(Rare { disown, _handed_out, deliveries }));
        }
        let session = &inner.session;
        if !inner.driver_gone
            && inner.driver.is_some()
            && (over
                || (!paused && inner.owed_places > 0)
                || resumed
                || session.has_output()
                || session.has_deliveries()
                || session.has_let_go()
                || session.poll_timeout().is_some_and(|at| inner.armed.is_none_or(|armed| at < armed)))
        {
            effects.driver = inner.driver.take();
        }
        effects
    }

    fn perform(&self, effects: Effects, wake: impl FnOnce(Vec<Waker>)) {
        let Effects { woken, driver, receiver, rare } = effects;
        wake(woken);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        if let Some(driver) = driver {
            driver.wake();
        }
        let Some(rare) = rare else { return };
        if let (Some(owner), Some(me)) = (rare.disown, self.me.upgrade()) {
            owner.disown(&(me as Arc<dyn Owned>));
        }
        self.deliver(rare.deliveries);
    }

    /// Takes what was read from the stream, and tells processes what is in it for them.
    pub(super) fn handle_bytes(&self, bytes: &[u8]) {
        let (explicit, of_links) = (self.untaken_exits.outstanding(), self.untaken_ends.outstanding());
        // By the driver, whose poll ends soon.
        let deliveries = self.with_and_wake(wake_together, |inner| {
            inner.session.set_untaken_exits(explicit, of_links);
            inner.session.handle_bytes(now(), bytes);
            inner.take_deliveries(self.is_paused())
        });
        self.deliver(deliveries);
    }

    /// The stream took `accepted` bytes of a batch that has been written: fetches the next one, and tells processes what
    /// there is for them. Whether this end appends nothing more.
    pub(super) fn transmit(&self, accepted: usize, batch: &mut Batch) -> bool {
        let now = now();
        let (let_go, deliveries) = self.with(|inner| {
            inner.session.handle_accepted(now, accepted);
            inner.session.transmit(now, batch);
            (inner.session.has_let_go(), inner.take_deliveries(self.is_paused()))
        });
        self.deliver(deliveries);
        let_go
    }

    /// The driver sleeps until it is woken, or until the time given; not later than `armed`, if its timer is set to that.
    /// Nothing if there was something to do: to tell somebody, which is done here, or, for a `hungry` driver, to write.
    pub(super) fn sleep(
        &self,
        cx: &Context<'_>,
        hungry: bool,
        armed: Option<Instant>,
    ) -> Option<Option<Instant>> {
        let mut inner = self.lock();
        let paused = self.is_paused();
        // The pause may have ended with what was accepted last, behind the back of whoever took deliveries before it.
        if inner.session.has_deliveries() || (!paused && inner.owed_places > 0) {
            let deliveries = inner.take_deliveries(paused);
            drop(inner);
            self.deliver(deliveries);
            return None;
        }
        let session = &inner.session;
        if hungry && (session.has_output() || session.has_let_go()) {
            return None;
        }
        let until = session.poll_timeout();
        inner.armed = until.map(|until| armed.map_or(until, |armed| armed.min(until)));
        inner.driver = Some(cx.waker().clone());
        Some(until)
    }

    /// The driver is awake, and needs no waking. Whether it does well to let others go first: there is something to
    /// write, and there will soon be more, because several calls are under way.
    pub(super) fn rise(&self) -> bool {
        let mut inner = self.lock();
        inner.driver = None;
        inner.session.has_output() && inner.session.is_busy()
    }

    // Processes.

    /// Tells processes what the session has for them, in its order. Called by the driver, or when there is none.
    pub(super) fn deliver(&self, deliveries: Vec<Delivery<Pid>>) {
        if deliveries.is_empty() {
            return;
        }
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
        let outlet = {
            let mut inner = self.lock();
            // The outlet holds the session: nothing comes after its end, and then they let go of each other.
            if last { inner.outlet.take() } else { inner.outlet.clone() }
        };
        if let Some(outlet) = outlet {
            outlet.put(batch);
        }
    }

    fn signal(&self, delivery: Delivery<Pid>) {
        match delivery {
            Delivery::Link { from, to } => to.signal(Signal::Link { from: self.far(from) }),
            Delivery::Unlink { from, to, unlink } => {
                to.signal(Signal::Unlink { from: self.far(from), id: unlink })
            }
            Delivery::UnlinkAck { from, to, unlink } => {
                to.signal(Signal::UnlinkAck { from: self.far(from), id: unlink });
            }
            Delivery::Exit { from, to, reason, link, provoked } => {
                let receipt = if link { &self.untaken_ends } else { &self.untaken_exits };
                let receipt = provoked.then(|| receipt.clone());
                to.signal(Signal::Exit { from: self.far(from), reason, link, receipt });
            }
            Delivery::Down { monitor, from, to, reason } => {
                to.signal(Signal::Down { from: self.far(from), monitor: MonitorRef::new(monitor), reason });
            }
            Delivery::Monitor { monitor, to } => {
                let watch = Pid::far(Arc::new(Watch::new(self.me.clone(), monitor)));
                let reference = next_monitor();
                self.lock().watches.insert(monitor, (watch.clone(), reference));
                to.signal(Signal::Monitor { from: watch, monitor: reference });
            }
            Delivery::Demonitor { monitor, to } => {
                let watch = self.lock().watches.remove(&monitor);
                if let Some((_, reference)) = watch {
                    to.signal(Signal::Demonitor { monitor: reference });
                }
            }
            Delivery::Message { to, message } => {
                let outlet = self.lock().handed_out.get(&to).cloned();
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
        let mut inner = self.lock();
        let far = inner.far.get(&id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let far = Far::new(self.me.clone(), id);
            inner.far.insert(id, Arc::downgrade(&far));
            far
        });
        drop(inner);
        far.pid()
    }

    /// Nobody holds the pid of this far process any more.
    pub(super) fn forget_far(&self, id: u64) {
        let mut inner = self.lock();
        if inner.far.get(&id).is_some_and(|far| far.strong_count() == 0) {
            inner.far.remove(&id);
        }
    }

    /// A process on which the peer set a monitor ended.
    pub(super) fn down(&self, monitor: u64, reason: ExitReason) {
        self.with(|inner| {
            inner.watches.remove(&monitor);
            inner.session.down(monitor, 0, reason);
        });
    }

    /// Makes `owner` the process with which this session ends; `None` for a task that is no process.
    pub(crate) fn own(&self, owner: Option<Pid>, linked: bool) {
        let Some(me) = self.me.upgrade() else { return };
        let refused = owner.as_ref().and_then(|owner| owner.own(me).err());
        self.owned_by(owner, linked);
        if let Some(reason) = refused {
            self.let_go(reason);
        }
    }

    /// The same for a process that has the session among what it owns already: once more than before.
    pub(crate) fn owned_by(&self, owner: Option<Pid>, linked: bool) {
        let Some(me) = self.me.upgrade() else { return };
        let me: Arc<dyn Owned> = me;
        let before = self.with(|inner| {
            inner.session.set_owner(owner.clone(), linked);
            let next = owner.clone().filter(|_| inner.session.over().is_none());
            std::mem::replace(&mut inner.owner, next)
        });
        // It may be the same process, which then has it twice.
        if let Some(before) = before {
            before.disown(&me);
        }
        // A session that ended in the meantime has told its end to the owner before.
        if let Some(owner) = owner
            && self.lock().session.over().is_some()
        {
            owner.disown(&me);
        }
    }

    /// Whether the owner is linked to the far end as the server's is: by the session's end itself.
    pub(crate) fn is_linked(&self) -> bool {
        self.lock().session.is_linked()
    }

    /// Lets the peer send to, monitor, link to and end a process of this end.
    pub(crate) fn hand_out(&self, process: Pid, outlet: Arc<dyn Outlet>) -> u64 {
        let rights = Rights { send: true, monitor: true, link: true, exit: true, kill: true };
        self.with(|inner| {
            if inner.session.over().is_none() {
                inner.handed_out.insert(process.clone(), outlet);
            }
            inner.session.hand_out(process, rights)
        })
    }

    // Sending.

    /// Encodes outside of the lock, then does something with the session and the payload.
    pub(crate) fn send<T, U: serde::Serialize + 'static>(
        &self,
        value: &U,
        f: impl FnOnce(&mut Session<Tokio>, &mut Vec<u8>) -> Result<T, Unsendable>,
    ) -> Result<T, NotSent> {
        let max = self.max_payload_len;
        with_scratch(|scratch| {
            payload::encode_message(self.codec, value, max, scratch).map_err(NotSent::Payload)?;
            self.session(|session| f(session, scratch)).map_err(NotSent::Session)
        })
    }

    // Receiving.

    /// Takes the right to a message: false once the owner may take nothing more.
    pub(crate) fn claim(&self, number: u64) -> bool {
        let mut taken = self.taken.load(Ordering::Relaxed);
        while taken & CLOSED == 0 {
            match self.taken.compare_exchange_weak(taken, number, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => taken = now,
            }
        }
        false
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Whether the session has ended, without its lock; a moment later than it says itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Gives credit back and fetches what has come. Ready with nothing: the end.
    pub(crate) fn poll_inbox(&self, cx: &Context<'_>, cost: u64, batch: &mut VecDeque<Inbound>) -> Poll<()> {
        self.with(|inner| {
            inner.session.give_back(cost);
            let paused = self.is_paused() && inner.session.over().is_none();
            if !paused {
                inner.session.take_inbox(batch);
                if !batch.is_empty() || inner.session.over().is_some() || inner.session.has_let_go() {
                    return Poll::Ready(());
                }
            }
            inner.receiver = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    /// Sends what comes for the owner to a process, in one order with the signals; `first` what it had not read.
    pub(crate) fn hand_over(&self, outlet: Arc<dyn Outlet>, first: impl Iterator<Item = Inbound>) {
        self.with(|inner| {
            inner.outlet = Some(outlet);
            inner.session.hand_over(first);
        });
    }

    /// A process that the session was given to comes to `message` in its mailbox: what it may take. While too much is
    /// unsent that is nothing, and the message is held; afterwards each place in the mailbox gives the oldest held.
    /// Signals of the session may overtake messages held so.
    pub(crate) fn take_turn(&self, message: Inbound) -> Option<Inbound> {
        if !self.holding.load(Ordering::Relaxed) && !self.is_paused() {
            return Some(message);
        }
        self.with(|inner| {
            if message.number != PLACE {
                inner.held.push_back(message);
            }
            let taken = if self.is_paused() { None } else { inner.held.pop_front() };
            inner.owed_places += usize::from(taken.is_none());
            self.holding.store(!inner.held.is_empty(), Ordering::Relaxed);
            taken
        })
    }

    // How it ends.

    /// The owner ended or let go, with this reason: the last message it took is final, and the far end is told.
    pub(crate) fn let_go(&self, reason: ExitReason) {
        let taken = self.taken.fetch_or(CLOSED, Ordering::AcqRel) & !CLOSED;
        let deadline = now() + self.limits.close_timeout;
        // The outlet holds the session, and nothing comes through it any more. Dropped after unlocking.
        let _outlet = self.with(|inner| {
            if inner.session.over().is_none() && !inner.session.has_let_go() {
                inner.let_go_for = Some(reason.clone());
            }
            inner.session.end(reason, taken, Some(deadline));
            inner.session.give_up_receiving();
            inner.outlet.take()
        });
    }

    /// Ends the session for both ends with this reason.
    pub(crate) fn shut_down(&self, reason: ExitReason) {
        self.session(|session| session.break_off(reason));
    }

    /// The channel is let go, but the session goes on until the last remote is gone.
    pub(crate) fn live_by_remotes(&self) {
        self.with(|inner| {
            inner.lives_by_remotes = true;
            inner.session.give_up_receiving();
        });
    }

    /// The last remote is gone.
    pub(crate) fn last_remote_gone(&self, reason: ExitReason) {
        if self.lock().lives_by_remotes {
            self.let_go(reason);
        }
    }

    /// What ended the session, at whichever end.
    pub(super) fn cause(&self) -> ExitReason {
        let inner = self.lock();
        inner
            .let_go_for
            .as_ref()
            .or_else(|| inner.session.over())
            .cloned()
            .unwrap_or(ExitReason::NoConnection)
    }

    /// Waits until the session has ended, and says why.
    pub(crate) fn ended(self: &Arc<Self>) -> Ended {
        Ended { shared: Arc::clone(self), place: 0 }
    }
}

/// The wait for the end of a session. Dropped, it leaves nothing behind: a session may outlive very many of them.
pub(crate) struct Ended {
    shared: Arc<Shared>,
    place: u64,
}

impl Ended {
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<ExitReason> {
        let place = &mut self.place;
        self.shared.with(|inner| match inner.session.over() {
            Some(reason) => Poll::Ready(reason.clone()),
            None => {
                inner.watch(place, cx);
                Poll::Pending
            }
        })
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let waker = self.shared.lock().watchers.remove(&self.place);
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

/// Wakes all of these, in order.
fn wake_each(woken: Vec<Waker>) {
    woken.into_iter().for_each(Waker::wake);
}

/// Wakes all of these, in order, once the worker that this is called on has nothing else to do.
///
/// That is left to the runtime, as with tasks that have yielded: it then rouses one other worker for all of them. Waking
/// them here would rouse it again for every few, which finds little and sleeps: two fifths of the client's time with 64
/// callers. Nobody else can wake them meanwhile, so this is for a poll that ends soon and waits for none of them. Where
/// there is no other worker, or no runtime, they are woken here.
pub(super) fn wake_together(woken: Vec<Waker>) {
    let others = || Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_workers() > 1);
    if woken.len() < 2 || !others() {
        return wake_each(woken);
    }
    let together = Waker::from(Arc::new(Together(woken)));
    let _pending = pin!(yield_now()).poll(&mut Context::from_waker(&together));
}

/// Wakers that are woken when this is let go: by the runtime that uses it, or drops it, and else where it was made.
struct Together(Vec<Waker>);

impl Wake for Together {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Together {
    fn drop(&mut self) {
        wake_each(std::mem::take(&mut self.0));
    }
}

/// Keeps a waker, without a clone where it is the same as before.
pub(crate) fn keep(cx: &Context<'_>) -> impl FnOnce(Option<Waker>) -> Waker {
    |before| match before {
        Some(waker) if waker.will_wake(cx.waker()) => waker,
        _ => cx.waker().clone(),
    }
}

/// The time, as tokio tells it: a paused clock holds for all of the session.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Lends a buffer that the thread keeps for the next time. One that uses it while it uses it gets another.
pub(crate) fn with_scratch<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    const KEPT_CAPACITY: usize = 64 * 1024;
    thread_local! {
        static SCRATCH: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
    }
    let mut scratch = SCRATCH.try_with(std::cell::Cell::take).unwrap_or_default();
    scratch.clear();
    let result = f(&mut scratch);
    if scratch.capacity() <= KEPT_CAPACITY {
        // A thread that is going away keeps nothing.
        let _ = SCRATCH.try_with(|slot| slot.set(scratch));
    }
    result
}
