//! One end of a session as a program has it: the session, its reader, its owner, and who must be woken or told.
//!
//! Longer than other files, because every input and operation has to leave its work for the one output, `poll`.
//!
//! [`Endpoint`] decides; its holder carries the decisions out. Its methods are of four classes:
//!
//! - **Inputs of the driver**: [`handle_bytes`](Endpoint::handle_bytes), [`handle_accepted`](Endpoint::handle_accepted),
//!   [`handle_timeout`](Endpoint::handle_timeout), [`handle_loss`](Endpoint::handle_loss),
//!   [`transmit`](Endpoint::transmit), [`rise`](Endpoint::rise), [`sleep`](Endpoint::sleep) and
//!   [`leave`](Endpoint::leave). One task calls them, in any order.
//! - **Operations of users**: everything that [`session_mut`](Endpoint::session_mut) offers to processes and callers, and what
//!   is done with the receiving half: [`fetch`](Endpoint::fetch), [`hand_over`](Endpoint::hand_over),
//!   [`own`](Endpoint::own), [`let_go`](Endpoint::let_go) and the like. Any thread calls them, one at a time.
//! - **The output**: [`poll`](Endpoint::poll). After every input and every operation it is called until it says
//!   `None`, before the next one; then each [`Event`] is carried out, in order. Only `rise` and `sleep` have none.
//! - **Questions**, which change nothing: [`over`](Endpoint::over), [`poll_timeout`](Endpoint::poll_timeout),
//!   [`held`](Endpoint::held), [`cause`](Endpoint::cause).
//!
//! Each input of a connection names it by its *epoch*: [`FIRST_EPOCH`](super::FIRST_EPOCH) is the one that carried the
//! `Start`. Those of a connection that is not [attached](Endpoint::attached) have no effect. Where resume was agreed:
//!
//! - A connection that is lost, silent or stalled *detaches* the session. [`Event::Connection`] says so, `attached` is
//!   `None`, and the driver drops the stream with its [`Batch`], whatever is in it.
//! - Without a connection the driver sleeps, not hungry, and calls `handle_timeout` as ever: the window of resume and the
//!   deadlines of calls run on. It carries out events and deliveries.
//! - A client that has dialled and logged in again calls [`resume`](Endpoint::resume), a server to which a connection with a
//!   valid proof came calls [`attach`](Endpoint::attach). Both may be called while another connection is attached, which is
//!   fenced then. From then on the new epoch counts, and [`transmit`](Endpoint::transmit) gives what goes over it, the
//!   `Resume` or its answer first.
//! - A client stays detached until the answer comes. If that is late, or the connection is lost again, `attached` is `None`
//!   again, and the driver dials again until the session is [over](Endpoint::over).
//!
//! Beside it, [`Claims`] and [`Reader`] are what a receiver uses for each message without it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;

use super::{
    Attach, Batch, ConnectionState, Delivery, Host, Inbound, InboundKind, Request, Session, WindowChange,
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

/// What has to be done, outside of the lock.
#[derive(Debug)]
pub enum Event<H: Host> {
    /// Wake this: it has something to see, or something to do.
    Wake(H::Waiter),
    /// Tell processes, in this order. For the driver alone, until it has left: so everything of a session arrives in
    /// the order in which the session made it.
    Deliver(Vec<Delivery<H::Process>>),
    /// The client has said what it wants: start the service. Said once, to the driver, which brought the bytes.
    Requested(Box<Request>),
    /// This process owns the session once less.
    Disown(H::Process),
    /// The window should be wider: [`widen`](Endpoint::widen) it as far as the program has room. Or it is narrower, and
    /// the program has room again.
    Window(WindowChange),
    /// The connection is gone, or another is there.
    Connection(ConnectionState),
    /// The session is over, and nothing more comes for any process: said once.
    Closed,
}

/// Who asks for the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The task that moves the bytes and tells processes.
    Driver,
    /// Anybody else.
    User,
}

/// What a driver without work does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It has work after all.
    Work,
    /// It sleeps until it is woken, or until then.
    Until(Option<Instant>),
}

/// One end of a session, without its lock, its tasks and its wakers. See the [module](self) for who calls what.
#[derive(Debug)]
pub struct Endpoint<H: Host> {
    session: Session<H>,
    claims: Arc<Claims>,
    /// What [`Claims::is_paused`] says, for whoever has the lock.
    paused: bool,
    driver: Driver<H::Waiter>,
    /// When the driver last went to sleep, it was to be awake by then.
    awake_by: Option<Instant>,
    /// The reader, while it sleeps.
    receiver: Option<H::Waiter>,
    /// Messages that a process came to in its mailbox while the session was paused, and how many places in the mailbox
    /// they are owed.
    held: VecDeque<Inbound>,
    owed_places: usize,
    watchers: Watchers<H::Waiter>,
    told_open: bool,
    told_over: bool,
    /// The process that owns this session.
    owner: Option<H::Process>,
    /// The channel was let go, and the session lives as long as a remote.
    lives_by_remotes: bool,
    /// The reason with which this end ended the session, if it did so first.
    let_go_for: Option<ExitReason>,
    /// What happens once or twice in a session.
    rare: VecDeque<Event<H>>,
}

/// The task that moves the bytes.
#[derive(Debug)]
enum Driver<W> {
    Awake,
    /// `hungry` for something to write, and awake by itself when its timer runs out.
    Sleeps {
        waiter: W,
        hungry: bool,
        armed: Option<Instant>,
    },
    /// It has made its last delivery.
    Gone,
}

/// Who waits for the opening or the end, each in a place of its own.
#[derive(Debug)]
struct Watchers<W> {
    places: BTreeMap<u64, W>,
    last: u64,
}

impl<H: Host> Endpoint<H> {
    /// The state after a login. `limits` are this end's.
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
            owner: None,
            lives_by_remotes: false,
            let_go_for: None,
            rare: VecDeque::new(),
        }
    }

    /// What processes and callers do with the session.
    pub const fn session_mut(&mut self) -> &mut Session<H> {
        &mut self.session
    }

    /// What can be asked of the session.
    pub const fn session(&self) -> &Session<H> {
        &self.session
    }

    /// What receivers share with this.
    pub const fn claims(&self) -> &Arc<Claims> {
        &self.claims
    }

    // Inputs of the driver.

    /// Takes what was read from the stream, in pieces of any size. `untaken` are the exits that the peer
    /// [provoked](Delivery::Exit::provoked) and that no process has taken yet: those sent explicitly, and those of links.
    pub fn handle_bytes(&mut self, epoch: u64, now: Instant, bytes: &[u8], untaken: [usize; 2]) {
        self.look_for_pause(now);
        if self.attached() != Some(epoch) {
            return self.look_for_change();
        }
        let [explicit, of_links] = untaken;
        self.session.check_untaken_exits(explicit, of_links);
        self.session.handle_bytes(now, bytes);
        if let Some(request) = self.session.take_request() {
            self.rare.push_back(Event::Requested(Box::new(request)));
        }
        self.look_for_change();
    }

    /// The stream took the next `len` bytes of the batch.
    pub fn handle_accepted(&mut self, epoch: u64, now: Instant, len: usize) {
        if self.attached() == Some(epoch) {
            self.session.handle_accepted(now, len);
        }
    }

    /// Time has passed. Returns whether the connection was given up for dead: then nothing may be written any more.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        self.look_for_pause(now);
        self.session.handle_timeout(now);
        self.look_for_change();
        self.session.is_lost() || self.attached().is_none()
    }

    /// What the session says once, and seldom.
    fn look_for_change(&mut self) {
        self.rare.extend(self.session.take_window_change().map(Event::Window));
        if let Some(state) = self.session.take_connection_change() {
            self.rare.push_back(Event::Connection(state));
            self.wake_watchers();
        }
    }

    /// A driver that wakes a heartbeat later than its timer said was stopped, and the whole program or machine with it. Its
    /// own silence must not count as the peer's.
    fn look_for_pause(&mut self, now: Instant) {
        let Some(awake_by) = self.awake_by.take() else { return };
        if now > after(awake_by, self.session.heartbeat_interval()) {
            self.session.handle_pause(now, awake_by);
        }
    }

    /// The connection is gone: nothing more comes or goes over it. The session ends, or is [detached](ConnectionState).
    pub fn handle_loss(&mut self, epoch: u64, now: Instant) {
        if self.attached() == Some(epoch) {
            self.session.handle_loss(now);
            self.look_for_change();
        }
    }

    /// The client has a new connection, logged in: asks for the session on it. Returns the epoch of the connection, or
    /// `None` if there is nothing to resume. Whatever comes of the connection before is ignored from now on.
    pub fn resume(&mut self, now: Instant, exporter: &Exporter) -> Option<u64> {
        let epoch = self.session.resume(now, exporter);
        self.look_for_change();
        epoch
    }

    /// A client has proved on a new connection that the session is its own. Whatever comes of the connection before is
    /// ignored from now on, unless the answer is [`Attach::Stale`].
    pub fn attach(&mut self, now: Instant, claim: &ResumeClaim) -> Attach {
        let attach = self.session.attach(now, claim);
        self.look_for_change();
        attach
    }

    /// The program had room for a window that is so many bytes wider.
    pub fn widen(&mut self, more: u64) {
        self.session.widen(more);
    }

    /// Hands what is to be written to a driver that has written all it had. Returns whether nothing follows it: this end
    /// appends nothing more.
    pub fn transmit(&mut self, epoch: u64, now: Instant, batch: &mut Batch) -> bool {
        if self.attached() != Some(epoch) {
            return false;
        }
        self.session.transmit(now, batch);
        self.session.has_said_all()
    }

    /// The driver is awake, and needs no waking. Returns whether it should let others go first: there is something to
    /// write, and there will soon be more, because several calls are under way.
    pub fn rise(&mut self) -> bool {
        if !matches!(self.driver, Driver::Gone) {
            self.driver = Driver::Awake;
        }
        self.session.has_output() && self.session.is_busy()
    }

    /// The driver has no work that it knows of. A `hungry` one would write if there was something to write. `armed`
    /// is when its timer will wake it.
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

    /// The driver is about to end. Returns whether it may: else it has something to deliver first. From then on
    /// whoever calls [`poll`](Self::poll) gets the deliveries.
    pub fn leave(&mut self) -> bool {
        self.session.lose(ExitReason::NoConnection, None);
        let leaves = !self.has_deliveries();
        if leaves {
            self.driver = Driver::Gone;
        }
        leaves
    }

    // The output.

    /// What is to be done next; `None` when nothing is. `in_all` is the count of bytes [held](Self::held) by all sessions
    /// of the program together.
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

    /// Everything that follows from the state that the last input left. It is looked at after each message: what seldom
    /// follows is in functions of its own.
    #[inline(always)]
    fn decide(&mut self, in_all: usize) {
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
        // A paused receiver takes nothing: woken for it, it would only ask again.
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

    /// All sessions together hold much: one that holds more than its share of that ends. In the end the shares are so
    /// small that all of them and what is there already stay within the bound.
    #[cold]
    fn make_room(&mut self, in_all: usize) {
        if self.held() > Self::share(self.session.limits(), in_all) {
            self.session.break_off(ExitReason::Overload);
        }
    }

    /// What a session may hold while all together hold more than half of the bound. It is halved in even steps between half
    /// and three quarters: whoever fills the total with large shares loses those before others lose small ones.
    fn share(limits: &Limits, in_all: usize) -> usize {
        let half = limits.max_held_in_all / 2;
        let quarter = (half / 2).max(1);
        let over_half = in_all.saturating_sub(half);
        let even = Self::even_share(limits);
        if over_half > quarter {
            return even;
        }
        // Not the longest frame that the far end takes: that is as long as it likes.
        let largest = limits.max_unsent_before_pause.saturating_add(limits.max_frame_len);
        let halvings = (largest / even.max(1)).max(1).ilog2() as usize + 1;
        let done = (over_half as u128 * halvings as u128 / quarter as u128) as u32;
        largest.checked_shr(done).unwrap_or(0).max(even)
    }

    /// What each of the most sessions may hold when there is little room.
    fn even_share(limits: &Limits) -> usize {
        limits.max_held_in_all / 8 / limits.max_sessions.max(1)
    }

    /// While too much is unsent, nothing more is handed out.
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

    /// The owner owns a session that is over for as long as messages are held for it: if it ends, nobody comes to them.
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

    /// Whether a driver has something to do, whatever the time is.
    fn has_work(&self, hungry: bool) -> bool {
        self.has_deliveries() || hungry && (self.session.has_output() || self.session.has_said_all())
    }

    fn is_due_before(&self, armed: Option<Instant>) -> bool {
        self.session.poll_timeout().is_some_and(|at| armed.is_none_or(|armed| at < armed))
    }

    /// What must be told to processes; first the places of held messages, unless they are still to be held.
    fn take_deliveries(&mut self) -> Vec<Delivery<H::Process>> {
        let deliveries = self.session.take_deliveries();
        if self.paused || self.owed_places == 0 {
            return deliveries;
        }
        let place =
            || Delivery::Inbound(Inbound { number: PLACE, kind: InboundKind::Cast, payload: Bytes::new() });
        let places = std::iter::repeat_with(place).take(std::mem::take(&mut self.owed_places));
        places.chain(deliveries).collect()
    }

    // The receiving half.

    /// The one reader of the channel: for whoever opened the session, or accepted it.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.claims))
    }

    /// Gives credit back and fetches what has come. `true`: look at the reader, where nothing is the end. Else a waiter is
    /// kept.
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

    /// Gives the credit of all messages back that were taken.
    pub fn give_back(&mut self) {
        let cost = self.claims.take_untold();
        self.session.give_back(cost);
    }

    /// From now on what comes for the owner is a delivery, in one order with the signals. What was not read comes first.
    pub fn hand_over(&mut self, reader: Reader) {
        self.give_back();
        self.session.hand_over(reader.batch.into_iter());
    }

    /// A process that the session was given to comes to `message` in its mailbox: what it may take. While too much is
    /// unsent that is nothing, and the message is held; afterwards each place in the mailbox gives the oldest held.
    /// Signals of the session may overtake messages held so. Once the owner has let go, nothing is held.
    ///
    /// Only where the [`Claims`] are not [straight](Claims::is_straight) is there anything to decide.
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

    /// Goes on without a reader: what comes is discarded, calls are refused. The session lives until the
    /// [last remote](Self::last_remote_gone) is gone.
    pub fn live_by_remotes(&mut self, reader: Reader) {
        self.give_back();
        self.lives_by_remotes = true;
        self.own(None, false);
        // What was fetched is discarded like what was not: its calls are answered, its credit returns.
        reader.batch.iter().for_each(|message| self.session.discard(message));
        self.session.give_up_receiving();
    }

    // How it ends.

    /// Makes `owner` the process with which this session ends, linked to the far owner or not; `None` for a task that is
    /// no process. The process has the session among what it owns already, once for each call.
    pub fn own(&mut self, owner: Option<H::Process>, linked: bool) {
        self.session.set_owner(owner.clone(), linked);
        let (next, too_late) = if self.session.is_over() { (None, owner) } else { (owner, None) };
        let before = std::mem::replace(&mut self.owner, next);
        // It may be the same process, which then has it twice.
        self.rare.extend(before.into_iter().chain(too_late).map(Event::Disown));
    }

    /// The owner ended or let go, with this reason: the last message it took is final, and the far end is told.
    pub fn let_go(&mut self, now: Instant, reason: ExitReason) {
        let taken = self.claims.close();
        // Nobody comes to these any more; the last number taken tells the peer so.
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

    /// The last remote is gone: the end of a session that lived by these.
    pub fn last_remote_gone(&mut self, now: Instant, reason: ExitReason) {
        if self.lives_by_remotes {
            self.let_go(now, reason);
        }
    }

    /// Keeps a waiter until the session has opened or ended. `place` is its own from the first time on, 0 before.
    pub fn watch(&mut self, place: &mut u64, waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter) {
        if *place == 0 {
            self.watchers.last += 1;
            *place = self.watchers.last;
        }
        let waiter = waiter(self.watchers.places.remove(place));
        self.watchers.places.insert(*place, waiter);
    }

    /// Nobody waits in this place any more.
    pub fn unwatch(&mut self, place: u64) -> Option<H::Waiter> {
        self.watchers.places.remove(&place)
    }

    // Questions.

    /// The epoch of the connection whose bytes are handled; `None` while there is none, and a driver that holds one drops
    /// it.
    pub fn attached(&self) -> Option<u64> {
        self.session.attached()
    }

    /// Whether the session has a connection.
    pub const fn connection(&self) -> ConnectionState {
        self.session.connection()
    }

    /// What a server keeps of a session that is over, for at least the window of resume; `None` if nothing needs to be kept.
    pub fn tombstone(&self) -> Option<Tombstone> {
        self.session.tombstone()
    }

    /// Whether the session ended because it was without a connection for the whole window.
    pub fn has_expired(&self) -> bool {
        self.session.has_expired()
    }

    /// Why the session ended, once it has.
    pub const fn over(&self) -> Option<&ExitReason> {
        self.session.over()
    }

    /// What ended the session, at whichever end.
    pub fn cause(&self) -> ExitReason {
        self.let_go_for.as_ref().or_else(|| self.over()).cloned().unwrap_or(ExitReason::NoConnection)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.session.poll_timeout()
    }

    /// Whether processes must be told something.
    pub fn has_deliveries(&self) -> bool {
        self.session.has_deliveries() || (!self.paused && self.owed_places > 0)
    }

    /// Bytes that this end keeps because of the peer.
    pub fn held(&self) -> usize {
        if matches!(self.driver, Driver::Gone) { 0 } else { self.session.held() }
    }

    /// A power of two. Who adds up what is held may round it down to a multiple of this, so that small messages do not
    /// change a sum that all sessions share: what the rounding hides stays within the bound.
    pub fn held_step(limits: &Limits) -> usize {
        let share = Self::even_share(limits).clamp(1, 64 * 1024);
        1 << share.ilog2()
    }

    /// How many entries its tables hold; 0 for a session that is over and whose callers have all looked.
    pub fn entries(&self) -> usize {
        self.session.entries()
            + self.watchers.places.len()
            + self.held.len()
            + self.owed_places
            + usize::from(self.owner.is_some())
    }
}
