//! One end of a session, as a program uses it: the session, its reader, its owner, and its waiters.
//!
//! Longer than other files, because every input and operation has to leave its work for the one output, `poll`.
//!
//! [`Endpoint`] decides, and its holder carries the decisions out. The methods form four classes:
//!
//! - **Inputs of the driver**: [`handle_bytes`](Endpoint::handle_bytes), [`handle_accepted`](Endpoint::handle_accepted),
//!   [`handle_timeout`](Endpoint::handle_timeout), [`handle_loss`](Endpoint::handle_loss),
//!   [`transmit`](Endpoint::transmit), [`rise`](Endpoint::rise), [`sleep`](Endpoint::sleep) and
//!   [`leave`](Endpoint::leave). One task calls them, in any order.
//! - **Operations of users**: everything that [`session_mut`](Endpoint::session_mut) offers to processes and callers,
//!   and the operations of the receiving half: [`fetch`](Endpoint::fetch), [`hand_over`](Endpoint::hand_over),
//!   [`own`](Endpoint::own), [`let_go`](Endpoint::let_go) and the like. Any thread calls them, one at a time.
//! - **The output**: [`poll`](Endpoint::poll). After every input and every operation the holder calls it until it
//!   returns `None`, and then carries out each [`Event`], in order. Only `rise` and `sleep` have no output.
//! - **Questions**, which change nothing: [`over`](Endpoint::over), [`poll_timeout`](Endpoint::poll_timeout),
//!   [`held`](Endpoint::held), [`cause`](Endpoint::cause).
//!
//! Each input of a connection names it by its *epoch*: [`FIRST_EPOCH`](super::FIRST_EPOCH) is the connection that
//! carried the `Start`. Inputs of a connection that is not [attached](Endpoint::attached) have no effect. If resume
//! was agreed on:
//!
//! - A connection that is lost, silent or stalled *detaches* the session. [`Event::Connection`] reports it,
//!   `attached` returns `None`, and the driver drops the stream with its [`Batch`], whatever the batch holds.
//! - Without a connection the driver sleeps, not hungry, and still calls `handle_timeout`, because the window of
//!   resume and the deadlines of calls continue. It carries out events and deliveries.
//! - A client that has dialled and logged in again calls [`resume`](Endpoint::resume). A server calls
//!   [`attach`](Endpoint::attach) for a connection with a valid proof. Both fence a connection that is still
//!   attached. From then on the new epoch counts, and [`transmit`](Endpoint::transmit) returns the output for it,
//!   beginning with the `Resume` or its answer.
//! - A client stays detached until the answer comes. If the answer is late, or the connection is lost again,
//!   `attached` returns `None` again, and the driver dials again until the session is [over](Endpoint::over).
//!
//! A receiver uses [`Claims`] and [`Reader`] beside the endpoint for each message.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Attach, Batch, ConnectionState, Delivery, Handles, Host, Inbound, InboundKind, Request, Session,
    WindowChange,
    answers::MAX_UNFINISHED,
    claims::{Claims, Reader},
};
use crate::{
    ExitReason, Limits, after,
    auth::{Exporter, ResumeClaim},
    handshake::Authenticated,
    wire::Tombstone,
};

/// The number of an empty place in a mailbox, for a message that was held when its own place came up.
const PLACE: u64 = u64::MAX;

/// An honest session may hold this many of the longest frames: the answers that take turns, and the answer that begins the
/// pause.
const LONGEST_HELD: usize = MAX_UNFINISHED + 1;

/// An event, to be carried out without the lock.
#[derive(Debug)]
pub enum Event<H: Host> {
    /// Wakes this waiter.
    Wake(H::Waiter),
    /// Tells processes, in this order. Only the driver gets it until it has left, so that everything of a session
    /// arrives in the order in which the session made it.
    Deliver(Vec<Delivery<H::Process>>),
    /// Starts the service, because the client's request has come. The driver gets it once.
    Requested(Box<Request>),
    /// Removes the session, once, from the things that this process owns.
    Disown(H::Process),
    /// Asks to [`widen`](Endpoint::widen) the window as far as the program has room, or reports a narrower window,
    /// which returns room.
    Window(WindowChange),
    /// Reports that the connection is lost, or that another one is attached.
    Connection(ConnectionState),
    /// Reports, once, that the session is over and nothing more comes for any process.
    Closed,
}

/// The caller of [`Endpoint::poll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The task that moves the bytes and tells processes.
    Driver,
    /// Any other caller.
    User,
}

/// The work that a driver finds when it wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rise {
    /// There is nothing to write.
    Nothing,
    /// There is output.
    Output,
    /// There is output, and several calls in flight will soon add more: the driver should let other tasks run before it
    /// writes.
    MoreSoon,
}

/// The answer to a driver that wants to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// The driver has work after all.
    Work,
    /// The driver sleeps until it is woken, or until this time.
    Until(Option<Instant>),
}

/// One end of a session, without its lock, its tasks and its wakers. The [module](self) describes how to call it.
#[derive(Debug)]
pub struct Endpoint<H: Host> {
    session: Session<H>,
    claims: Arc<Claims>,
    /// The value of [`Claims::is_paused`], for code that holds the lock.
    paused: bool,
    driver: Driver<H::Waiter>,
    /// The time by which the driver, when it last went to sleep, was to be awake.
    awake_by: Option<Instant>,
    /// The reader, while it sleeps.
    receiver: Option<H::Waiter>,
    /// Messages whose turn in the mailbox came while the session was paused, and the number of places in the mailbox
    /// that they are owed.
    held: VecDeque<Inbound>,
    owed_places: usize,
    watchers: Watchers<H::Waiter>,
    told_open: bool,
    told_over: bool,
    /// The watchers were told that the peer drains.
    told_drain: bool,
    /// The process that owns this session.
    owner: Option<H::Process>,
    /// The channel was let go, and the session lives until its last remote is gone.
    lives_by_remotes: bool,
    /// The reason with which this end ended the session, if it did so first.
    let_go_for: Option<ExitReason>,
    /// Events that occur once or twice in a session.
    rare: VecDeque<Event<H>>,
}

/// The state of the task that moves the bytes.
#[derive(Debug)]
enum Driver<W> {
    Awake,
    /// A `hungry` driver waits for output. It wakes by itself when its timer fires.
    Sleeps {
        waiter: W,
        hungry: bool,
        armed: Option<Instant>,
    },
    /// The driver has made its last delivery.
    Gone,
}

/// The waiters for the opening or the end, each with a place of its own.
#[derive(Debug)]
struct Watchers<W> {
    places: BTreeMap<u64, W>,
    last: u64,
}

impl<H: Host> Endpoint<H> {
    /// Creates the state after a login. `limits` are this end's.
    pub fn new(authenticated: &Authenticated, limits: &Limits, now: Instant) -> Self {
        let session = Session::new(authenticated, limits, now);
        Self {
            claims: Arc::new(Claims::new(limits.window_len as u64)),
            session,
            paused: false,
            driver: Driver::Awake,
            awake_by: None,
            receiver: None,
            held: VecDeque::new(),
            owed_places: 0,
            watchers: Watchers { places: BTreeMap::new(), last: 0 },
            told_open: false,
            told_over: false,
            told_drain: false,
            owner: None,
            lives_by_remotes: false,
            let_go_for: None,
            rare: VecDeque::new(),
        }
    }

    /// Returns the session, for operations of processes and callers.
    pub const fn session_mut(&mut self) -> &mut Session<H> {
        &mut self.session
    }

    /// Returns the session, for questions.
    pub const fn session(&self) -> &Session<H> {
        &self.session
    }

    /// Returns the state that receivers share with the endpoint.
    pub const fn claims(&self) -> &Arc<Claims> {
        &self.claims
    }

    // Inputs of the driver.

    /// Takes bytes that were read from the stream, in pieces of any size. `untaken` counts the exits that the peer
    /// [provoked](Delivery::Exit::provoked) and that no process has taken yet: those sent explicitly, and those of
    /// links. Returns `true` if there is output.
    pub fn handle_bytes(&mut self, epoch: u64, now: Instant, bytes: &[u8], untaken: [usize; 2]) -> bool {
        self.look_for_pause(now);
        if self.attached() != Some(epoch) {
            self.look_for_change();
            return true;
        }
        let [explicit, of_links] = untaken;
        self.session.check_untaken_exits(explicit, of_links);
        self.session.handle_bytes(now, bytes);
        if let Some(request) = self.session.take_request() {
            self.rare.push_back(Event::Requested(Box::new(request)));
        }
        self.look_for_change();
        self.session.has_output()
    }

    /// Notes that the stream accepted the next `len` bytes of the batch.
    pub fn handle_accepted(&mut self, epoch: u64, now: Instant, len: usize) {
        if self.attached() == Some(epoch) {
            self.session.handle_accepted(now, len);
        }
    }

    /// Handles due timers. Returns `true` if the connection was given up as dead; then nothing may be written any
    /// more.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        self.look_for_pause(now);
        self.session.handle_timeout(now);
        self.look_for_change();
        self.session.is_lost() || self.attached().is_none()
    }

    /// Counts a suspension of the machine for `time`, which `now` does not include.
    pub fn handle_suspension(&mut self, now: Instant, time: Duration) {
        self.session.handle_suspension(now, time);
        self.look_for_change();
    }

    /// Collects the rare events of the session.
    fn look_for_change(&mut self) {
        while let Some(change) = self.session.take_window_change() {
            self.rare.push_back(Event::Window(change));
        }
        if let Some(state) = self.session.take_connection_change() {
            self.rare.push_back(Event::Connection(state));
            self.wake_watchers();
        }
        if self.session.peer_drains() && !self.told_drain {
            self.told_drain = true;
            self.wake_watchers();
        }
    }

    /// Detects a pause. A driver that wakes a heartbeat later than its timer asked for was stopped, with the whole
    /// program or machine. This end's own silence must not count as the peer's.
    fn look_for_pause(&mut self, now: Instant) {
        let Some(awake_by) = self.awake_by.take() else { return };
        if now > after(awake_by, self.session.heartbeat_interval()) {
            self.session.handle_pause(now, awake_by);
        }
    }

    /// Handles the loss of the connection. The session ends, or is [detached](ConnectionState).
    pub fn handle_loss(&mut self, epoch: u64, now: Instant) {
        if self.attached() == Some(epoch) {
            self.session.handle_loss(now);
            self.look_for_change();
        }
    }

    /// Asks for the session on a new, authenticated connection of the client. Returns the epoch of the connection, or
    /// `None` if there is nothing to resume. Input of the previous connection is ignored from now on.
    pub fn resume(&mut self, now: Instant, exporter: &Exporter) -> Option<u64> {
        let epoch = self.session.resume(now, exporter);
        self.look_for_change();
        epoch
    }

    /// Continues the session on a new connection, on which the client has proved its right to it. Input of the
    /// previous connection is ignored from now on, unless the answer is [`Attach::Stale`].
    pub fn attach(&mut self, now: Instant, claim: &ResumeClaim) -> Attach {
        let attach = self.session.attach(now, claim);
        self.look_for_change();
        attach
    }

    /// Widens the window of the wanted change by `more` bytes, for which the program had room.
    pub fn widen(&mut self, change: WindowChange, more: u64) {
        if let WindowChange::Wanted { id, .. } = change {
            self.session.widen(id, more);
        }
    }

    /// Passes output to a driver that has written everything it had. Returns `true` if no output follows.
    pub fn transmit(&mut self, epoch: u64, now: Instant, batch: &mut Batch) -> bool {
        if self.attached() != Some(epoch) {
            return false;
        }
        self.session.transmit(now, batch);
        self.session.has_said_all()
    }

    /// Notes that the driver is awake. Returns what it finds.
    pub fn rise(&mut self) -> Rise {
        if !matches!(self.driver, Driver::Gone) {
            self.driver = Driver::Awake;
        }
        match (self.session.has_output(), self.session.is_busy()) {
            (false, _) => Rise::Nothing,
            (true, false) => Rise::Output,
            (true, true) => Rise::MoreSoon,
        }
    }

    /// Notes that the driver wants to sleep. A `hungry` driver waits for output. `armed` is the time at which its
    /// timer fires.
    pub fn sleep(&mut self, waiter: H::Waiter, hungry: bool, armed: Option<Instant>) -> Rest {
        if self.has_work(hungry) {
            return Rest::Work;
        }
        let until = self.session.poll_timeout();
        let armed = until.map(|until| armed.map_or(until, |armed| armed.min(until)));
        self.awake_by = armed;
        self.driver = Driver::Sleeps { waiter, hungry, armed };
        Rest::Until(until)
    }

    /// Notes that the driver is about to end. Returns `true` if it may; otherwise it has a delivery to make first.
    /// From then on, every caller of [`poll`](Self::poll) gets the deliveries.
    pub fn leave(&mut self) -> bool {
        self.session.lose(ExitReason::NoConnection, None);
        let leaves = !self.has_deliveries();
        if leaves {
            self.driver = Driver::Gone;
        }
        leaves
    }

    // The output.

    /// Returns the next event, or `None`. `in_all` is the number of bytes [held](Self::held) by all sessions of the
    /// program.
    #[inline(always)]
    pub fn poll(&mut self, who: Who, in_all: usize) -> Option<Event<H>> {
        // One decision serves all the waiters that an input wakes.
        if self.session.woken.is_empty() {
            self.decide(in_all);
        }
        if let Some(waiter) = self.session.woken.pop_front() {
            return Some(Event::Wake(waiter));
        }
        if !self.rare.is_empty() {
            return self.rare.pop_front();
        }
        if who == Who::User && !matches!(self.driver, Driver::Gone) {
            return None;
        }
        self.has_deliveries().then(|| Event::Deliver(self.take_deliveries()))
    }

    /// Derives everything that follows from the last input. It runs for each message, so rare consequences have
    /// functions of their own.
    #[inline(always)]
    fn decide(&mut self, in_all: usize) {
        if self.session.has_imports() {
            self.session.release_dropped();
        }
        let limits = self.session.limits();
        let mut share = limits.max_unsent_before_pause;
        if in_all > limits.max_held_in_all / 2 {
            self.make_room(in_all);
            share = 0;
        }
        let over = self.session.is_over();
        let paused = self.session.is_crowded(share) && !over;
        if paused != self.paused {
            self.set_paused(paused);
        }
        if over != self.told_over {
            self.tell_over();
        }
        if !self.told_open && self.session.is_open() {
            self.told_open = true;
            self.wake_watchers();
        }
        // A paused receiver takes nothing, so a wake would be in vain.
        if self.receiver.is_some()
            && self.session.has_inbox()
            && !paused
            && let Some(receiver) = self.receiver.take()
        {
            self.session.woken.push_back(receiver);
        }
        if let Driver::Sleeps { hungry, armed, .. } = self.driver
            && (self.has_work(hungry) || self.is_due_before(armed))
        {
            self.wake_driver();
        }
    }

    /// Ends a session that holds more than its share while all sessions together hold much. The last shares are so
    /// small that all sessions with them stay within the bound.
    #[cold]
    fn make_room(&mut self, in_all: usize) {
        if self.held() > Self::share(self.session.limits(), in_all) {
            self.session.break_off(ExitReason::Overload);
        }
    }

    /// Returns the bytes that a session may hold while all together hold more than half of the bound. The share is
    /// halved in even steps between half and three quarters, so sessions that hold much end before sessions that hold
    /// little.
    fn share(limits: &Limits, in_all: usize) -> usize {
        let half = limits.max_held_in_all / 2;
        let quarter = (half / 2).max(1);
        let over_half = in_all.saturating_sub(half);
        let even = Self::even_share(limits);
        if over_half > quarter {
            return even;
        }
        // This end's longest frame counts, because the far end chooses its own.
        let largest = limits.max_unsent_before_pause.saturating_add(LONGEST_HELD * limits.max_frame_len);
        let halvings = (largest / even.max(1)).max(1).ilog2() as usize + 1;
        let done = (over_half as u128 * halvings as u128 / quarter as u128) as u32;
        largest.checked_shr(done).unwrap_or(0).max(even)
    }

    /// Returns the share of each session when there is little room.
    fn even_share(limits: &Limits) -> usize {
        limits.max_held_in_all / 8 / limits.max_sessions.max(1)
    }

    /// Starts or ends a pause, in which no message may be taken because too much is unsent.
    #[cold]
    fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        self.claims.set_paused(paused);
        if !paused {
            self.session.woken.extend(self.receiver.take());
        }
    }

    #[cold]
    fn tell_over(&mut self) {
        self.told_over = true;
        self.claims.set_over();
        self.session.woken.extend(self.receiver.take());
        self.wake_watchers();
        self.wake_driver();
        self.rare.push_back(Event::Closed);
        self.disown();
    }

    /// Removes the session from its owner, once it is over and holds no messages for the owner. If the owner ended
    /// before that, no process would come to them.
    fn disown(&mut self) {
        if self.told_over && self.held.is_empty() {
            self.rare.extend(self.owner.take().map(Event::Disown));
        }
    }

    fn wake_watchers(&mut self) {
        self.session.woken.extend(std::mem::take(&mut self.watchers.places).into_values());
    }

    fn wake_driver(&mut self) {
        if matches!(self.driver, Driver::Sleeps { .. })
            && let Driver::Sleeps { waiter, .. } = std::mem::replace(&mut self.driver, Driver::Awake)
        {
            self.session.woken.push_back(waiter);
        }
    }

    /// Returns `true` if a driver has work at any time of the clock.
    fn has_work(&self, hungry: bool) -> bool {
        self.has_deliveries() || hungry && (self.session.has_output() || self.session.has_said_all())
    }

    fn is_due_before(&self, armed: Option<Instant>) -> bool {
        self.session.poll_timeout().is_some_and(|at| armed.is_none_or(|armed| at < armed))
    }

    /// Returns the deliveries. The places of held messages come first, unless the pause continues.
    fn take_deliveries(&mut self) -> Vec<Delivery<H::Process>> {
        let deliveries = self.session.take_deliveries();
        if self.paused || self.owed_places == 0 {
            return deliveries;
        }
        let place = || {
            let (kind, payload, handles) = (InboundKind::Cast, Bytes::new(), Handles::default());
            Delivery::Inbound(Inbound { number: PLACE, kind, payload, handles })
        };
        let places = std::iter::repeat_with(place).take(std::mem::take(&mut self.owed_places));
        places.chain(deliveries).collect()
    }

    // The receiving half.

    /// Returns the one reader of the channel, for the task that opened or accepted the session.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.claims))
    }

    /// Gives credit back and fetches received messages. Returns `true` if the reader has something: messages, or the
    /// end if it is empty. Otherwise stores a waiter.
    pub fn fetch(
        &mut self,
        reader: &mut Reader,
        waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter,
    ) -> bool {
        self.give_back();
        let over = self.session.is_over();
        if !self.paused || over {
            self.session.take_inbox(&mut reader.batch);
            if !reader.batch.is_empty() || over || self.session.has_let_go() {
                return true;
            }
        }
        self.receiver = Some(waiter(self.receiver.take()));
        false
    }

    /// Gives back the credit of all messages that were taken.
    pub fn give_back(&mut self) {
        let cost = self.claims.take_untold();
        self.session.give_back(cost);
    }

    /// Makes messages for the owner deliveries, in one order with the signals. Unread messages come first.
    pub fn hand_over(&mut self, reader: Reader) {
        self.give_back();
        self.session.hand_over(reader.batch.into_iter());
    }

    /// Returns the message that a process may take when it comes to `message` in its mailbox. While too much is
    /// unsent, that is none, and the message is held; afterwards each place in the mailbox returns the oldest held
    /// message. Signals of the session may overtake held messages. Once the owner has let go, none is held.
    ///
    /// Only needed if the [`Claims`] are not [straight](Claims::is_straight).
    pub fn take_turn(&mut self, message: Inbound) -> Option<Inbound> {
        if self.claims.is_closed() {
            return None;
        }
        if message.number != PLACE {
            self.held.push_back(message);
        }
        let taken = if self.paused { None } else { self.held.pop_front() };
        self.owed_places += usize::from(taken.is_none());
        self.claims.set_holding(!self.held.is_empty());
        self.disown();
        taken
    }

    /// Continues without a reader: discards casts, and refuses calls. The session lives until the [last
    /// remote](Self::last_remote_gone) is gone.
    pub fn live_by_remotes(&mut self, reader: Reader) {
        self.give_back();
        self.lives_by_remotes = true;
        self.own(None, false);
        // Fetched messages are discarded like the others: their calls are answered, and their credit returns.
        reader.batch.iter().for_each(|message| self.session.discard(message));
        self.session.give_up_receiving();
    }

    // How it ends.

    /// Makes `owner` the process that ends with this session, linked to the far owner or not; `None` for a task that
    /// is no process. The process already owns the session, once for each call.
    pub fn own(&mut self, owner: Option<H::Process>, linked: bool) {
        self.session.set_owner(owner.clone(), linked);
        let (next, too_late) = if self.session.is_over() { (None, owner) } else { (owner, None) };
        let before = std::mem::replace(&mut self.owner, next);
        // The former owner may be the same process, which then owns the session twice.
        self.rare.extend(before.into_iter().chain(too_late).map(Event::Disown));
    }

    /// Ends the session because its owner ended or let go, with this reason. The last message that it took is final,
    /// and the far end is told.
    pub fn let_go(&mut self, now: Instant, reason: ExitReason) {
        let taken = self.claims.close();
        // No process comes to the held messages any more. The last number taken tells the peer so.
        self.held = VecDeque::new();
        self.owed_places = 0;
        self.claims.set_holding(false);
        self.disown();
        if !self.session.is_over() && !self.session.has_let_go() {
            self.let_go_for = Some(reason.clone());
        }
        let deadline = after(now, self.session.limits().close_timeout);
        self.session.end(reason, taken, Some(deadline));
        self.session.give_up_receiving();
    }

    /// Ends a session that lived by its remotes, because the last one is gone.
    pub fn last_remote_gone(&mut self, now: Instant, reason: ExitReason) {
        if self.lives_by_remotes {
            self.let_go(now, reason);
        }
    }

    /// Stores a waiter until the session has opened or ended. `place` is 0 at first, and then identifies the waiter.
    pub fn watch(&mut self, place: &mut u64, waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter) {
        if *place == 0 {
            self.watchers.last += 1;
            *place = self.watchers.last;
        }
        let waiter = waiter(self.watchers.places.remove(place));
        self.watchers.places.insert(*place, waiter);
    }

    /// Removes the waiter of this place.
    pub fn unwatch(&mut self, place: u64) -> Option<H::Waiter> {
        self.watchers.places.remove(&place)
    }

    // Questions.

    /// Returns the epoch of the connection whose bytes are handled. `None` while there is none; a driver that still
    /// has a stream drops it.
    pub fn attached(&self) -> Option<u64> {
        self.session.attached()
    }

    /// Returns the state of the connection.
    pub const fn connection(&self) -> ConnectionState {
        self.session.connection()
    }

    /// Returns the record that a server keeps of a session that is over, for at least the window of resume; `None` if
    /// no record is needed.
    pub fn tombstone(&self) -> Option<Tombstone> {
        self.session.tombstone()
    }

    /// Returns `true` if the session ended because it had no connection for the whole window.
    pub fn has_expired(&self) -> bool {
        self.session.has_expired()
    }

    /// Returns the reason of the end, once the session is over.
    pub const fn over(&self) -> Option<&ExitReason> {
        self.session.over()
    }

    /// Returns the reason that ended the session, at whichever end.
    pub fn cause(&self) -> ExitReason {
        self.let_go_for.as_ref().or_else(|| self.over()).cloned().unwrap_or(ExitReason::NoConnection)
    }

    /// Returns the time at which [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.session.poll_timeout()
    }

    /// Returns `true` if processes must be told something.
    pub fn has_deliveries(&self) -> bool {
        self.session.has_deliveries() || (!self.paused && self.owed_places > 0)
    }

    /// Returns the number of bytes that this end keeps because of the peer.
    pub fn held(&self) -> usize {
        if matches!(self.driver, Driver::Gone) { 0 } else { self.session.held() }
    }

    /// Returns the step, a power of two, in which held bytes are counted for the sum of all sessions. With steps,
    /// small messages do not touch the sum, and the rounding stays within the bound.
    pub fn held_step(limits: &Limits) -> usize {
        let share = Self::even_share(limits).clamp(1, 64 * 1024);
        1 << share.ilog2()
    }

    /// Returns the number of entries in all tables. It is 0 for a session that is over and whose callers have all
    /// polled.
    pub fn entries(&self) -> usize {
        self.session.entries()
            + self.watchers.places.len()
            + self.held.len()
            + self.owed_places
            + usize::from(self.owner.is_some())
    }
}
