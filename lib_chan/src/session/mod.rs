//! One session, from the end of the login to the end of the session.
//!
//! [`Session`] is the pure state of one end. [`handle_bytes`](Session::handle_bytes) takes received bytes,
//! [`transmit`](Session::transmit) returns the bytes to send, and time is an argument. Each action of this end's
//! processes is a method, which appends frames to the output. A process that waits leaves a waiter of the caller's
//! type, which the session returns when there is something to see.
//!
//! ```text
//!            start / Start                accept / Started
//! ExpectStart ──────────▶ ExpectAnswer ───────────────────▶ Open ──▶ Over
//!      └───────────────────────┴──────────── Refuse, Ended, loss ─────┘
//! ```
//!
//! [`Endpoint`] drives it: see its module for the order of the calls.

mod attachment;
mod border;
mod budget;
mod call;
mod claims;
mod credit;
mod endpoint;
mod outgoing;
mod process;
mod receive;
mod send;
mod window;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustc_hash::FxBuildHasher;

use self::{
    attachment::Attachment,
    border::Border,
    budget::Budget,
    call::{Asking, Owing},
    credit::{Balance, Grant, cost},
    outgoing::Outgoing,
    window::Tuner,
};
pub use self::{
    border::Rights,
    call::Outcome,
    claims::{Claim, Claims, Next, Reader},
    credit::credit_part,
    endpoint::{Endpoint, Event, Rest, Who},
    outgoing::Batch,
};
use crate::{
    CallError, CallFailure, Executed, ExitReason, Limits, after,
    handshake::{Authenticated, SessionParameters, Side},
    payload::Codec,
    wire::{Frame, RefuseCode, Terms},
};

/// A table by an id that this end made or that must grow by one each time: no peer can choose what collides.
type Lookup<T> = HashMap<u64, T, FxBuildHasher>;

/// No call waits longer, whatever it says.
const MAX_CALL_TIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// What the two halves of a driver call their own.
pub trait Host {
    /// How something that waits is woken.
    type Waiter;
    /// A process of this end.
    type Process: Clone + Ord;
}

/// A message that came in for a process, not yet decoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Its number in the ordered stream.
    pub number: u64,
    /// Cast, or call with the id its answer goes to.
    pub kind: InboundKind,
    /// The encoded payload.
    pub payload: Bytes,
}

impl Inbound {
    /// The credit that comes back when it is taken.
    pub const fn cost(&self) -> u64 {
        cost(self.payload.len())
    }
}

/// What kind of message came in.
#[derive(Debug, PartialEq, Eq)]
pub enum InboundKind {
    /// No answer is wanted.
    Cast,
    /// An answer is wanted.
    Call {
        /// The call's id.
        call: u64,
    },
}

/// Something that must be told to a process of this end. Far processes go by their ids.
#[derive(Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the signals of the same names")]
pub enum Delivery<P> {
    Link {
        from: u64,
        to: P,
    },
    Unlink {
        from: u64,
        to: P,
        unlink: u64,
    },
    UnlinkAck {
        from: u64,
        to: P,
        unlink: u64,
    },
    Exit {
        from: u64,
        to: P,
        reason: ExitReason,
        link: bool,
        /// The peer can cause any number of these: it counts while it lies untaken in a mailbox
        /// ([`check_untaken_exits`](Session::check_untaken_exits)). Not so the end of a link that this end has made.
        provoked: bool,
    },
    Monitor {
        monitor: u64,
        to: P,
    },
    Demonitor {
        monitor: u64,
        to: P,
    },
    Down {
        monitor: u64,
        from: u64,
        to: P,
        reason: ExitReason,
    },
    Message {
        to: P,
        message: Inbound,
    },
    /// A message for the owner, where these are [handed over](Session::hand_over).
    Inbound(Inbound),
    /// The session's end for such an owner: nothing comes after it.
    Over(ExitReason),
}

/// What the client's `Start` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// How every payload is encoded.
    pub codec: Codec,
    /// `ArgsC`, encoded.
    pub args: Bytes,
}

/// The server's refusal of a `Start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartRefused {
    /// Its kind.
    pub code: RefuseCode,
    /// Its public words.
    pub text: Box<str>,
}

/// How the opening of a session ended that did not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// Refused by name.
    Refused(StartRefused),
    /// It ended before there was an answer.
    Ended(ExitReason),
}

/// Why a message could not be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsendable {
    /// The session is over.
    Ended(ExitReason),
    /// Longer than the peer takes.
    TooLong {
        /// The most bytes a payload may have.
        max: usize,
    },
    /// It would have to wait.
    WouldWait,
}

/// What becomes of the window that this end grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowChange {
    /// It should be so many bytes wider: [`widen`](Session::widen) it as far as the program has room.
    Wanted(u64),
    /// It is so many bytes wider than at the start, and no more.
    Narrowed(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    ExpectStart,
    ExpectAnswer,
    Open,
}

/// A message that waits for credit, a slot or room. The queue is in the order of the tickets.
#[derive(Debug)]
struct Waiting<W> {
    /// A call's is its id.
    ticket: u64,
    sort: Sort,
    payload: Vec<u8>,
    waiter: Option<W>,
}

/// A wait until the peer has acknowledged all that was sent before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flush {
    number: u64,
    ticket: u64,
}

/// What a waiting message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Cast,
    Call,
    /// A call whose time is over when it comes: see [`Session::mark`].
    Mark,
}

/// When something must have happened; it may be put off, but not beyond `last`.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    last: Instant,
}

impl Deadline {
    const fn new(at: Instant) -> Self {
        Self { at, last: at }
    }
}

/// What becomes of messages that come in for the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiver {
    /// They wait in the inbox.
    Reads,
    /// They are handed over, in one order with the signals.
    HandedOver,
    /// Given up: casts are discarded, calls refused.
    Gone,
}

/// One end of a session.
#[derive(Debug)]
pub struct Session<H: Host> {
    side: Side,
    phase: Phase,
    limits: Arc<Limits>,
    parameters: SessionParameters,
    /// What the far end takes; known from the login or from its `Start`.
    max_far_frame_len: usize,
    far_terms: Terms,
    request: Option<Request>,
    refused: Option<StartRefused>,

    outgoing: Outgoing,
    attachment: Attachment,
    received: u64,
    received_len: u64,
    acked_by_us: (u64, u64),
    ack_due: bool,
    acked: u64,

    balance: Balance,
    /// The credit that each far process grants at first, and the balances of those that are not the owner.
    far_window: u64,
    far_balances: BTreeMap<u64, Balance>,
    grant: Grant,
    tuner: Tuner,
    /// The driver is to be told that the window should be wider, or is narrower.
    window_change: Option<WindowChange>,
    receiver: Receiver,
    inbox: VecDeque<Inbound>,
    discarded: u64,
    waiting: VecDeque<Waiting<H::Waiter>>,
    last_ticket: u64,
    sent_tickets: HashSet<u64, FxBuildHasher>,
    asking: Asking<H::Waiter>,
    /// What this end spends on cancels: well below what it allows the peer, because what goes out over a time may arrive
    /// at once.
    own_cancels: Budget,
    /// What the peer spends on cancels.
    cancels: Budget,
    owing: Owing<H::Waiter>,
    border: Border<H::Process>,
    flushing: BTreeMap<Flush, H::Waiter>,
    last_flush: Flush,
    /// How far the last ping for a flush asks; until that is acknowledged no other goes.
    flush_pinged: u64,

    /// When the client must have said what it wants, or the far end must have answered an end.
    deadline: Option<Deadline>,
    /// This end sent its `Ended`.
    let_go: bool,
    lost: bool,
    /// Why the session ended for this end's processes, once it has.
    over: Option<ExitReason>,
    /// The peer's `Ended` came, or nothing can come any more.
    heard_all: bool,
    peer_drains: bool,

    deliveries: Vec<Delivery<H::Process>>,
    woken: VecDeque<H::Waiter>,
}

impl<H: Host> Session<H> {
    /// The state after a login: the proof of it is what a session is made of. `limits` are this end's.
    pub fn new(authenticated: &Authenticated, limits: &Limits, now: Instant) -> Self {
        let (side, parameters) = (authenticated.side(), authenticated.parameters());
        let far_window = u64::from(parameters.window_len());
        let own_window = if side == Side::Server { far_window } else { limits.window_len as u64 };
        Self {
            side,
            phase: Phase::ExpectStart,
            parameters,
            // A server learns the client's numbers from its `Start`, before it sends anything of length.
            max_far_frame_len: parameters.max_frame_len() as usize,
            far_terms: Terms { max_calls: 0, max_links: 0 },
            request: None,
            refused: None,
            outgoing: Outgoing::default(),
            attachment: Attachment::new(parameters.heartbeat_interval(), now),
            received: 0,
            received_len: 0,
            acked_by_us: (0, 0),
            ack_due: false,
            acked: 0,
            balance: Balance::new(far_window),
            far_window,
            far_balances: BTreeMap::new(),
            grant: Grant::new(own_window),
            tuner: Tuner::new(own_window, limits.max_window_len as u64, now),
            window_change: None,
            receiver: Receiver::Reads,
            inbox: VecDeque::new(),
            discarded: 0,
            waiting: VecDeque::new(),
            last_ticket: 0,
            sent_tickets: HashSet::default(),
            asking: Asking::default(),
            own_cancels: Budget::new(limits.max_cancels_per_second / 10, limits.max_cancels_burst / 2),
            cancels: Budget::new(limits.max_cancels_per_second, limits.max_cancels_burst),
            owing: Owing::default(),
            border: Border::new(own_window),
            flushing: BTreeMap::new(),
            last_flush: Flush::default(),
            flush_pinged: 0,
            deadline: (side == Side::Server).then(|| Deadline::new(after(now, limits.login_timeout))),
            let_go: false,
            lost: false,
            over: None,
            heard_all: false,
            peer_drains: false,
            deliveries: Vec::new(),
            woken: VecDeque::new(),
            limits: Arc::new(limits.clone()),
        }
    }

    /// This end's limits.
    pub const fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    // Opening.

    /// The client's first word: what it wants to speak, and `ArgsC`.
    ///
    /// # Errors
    /// [`Unsendable::TooLong`] when the arguments do not fit a frame.
    pub fn start(&mut self, codec: Codec, args: &[u8]) -> Result<(), Unsendable> {
        let max = self.max_payload_len();
        if args.len() > max {
            return Err(Unsendable::TooLong { max });
        }
        self.outgoing.put(&Frame::Start {
            codec: codec as u8,
            terms: self.own_terms(),
            max_frame_len: self.limits.max_frame_len as u64,
            window_len: self.limits.window_len as u64,
            resume: 0,
            args,
        });
        self.phase = Phase::ExpectAnswer;
        Ok(())
    }

    /// What the client asks for, once its `Start` has come.
    pub(crate) fn take_request(&mut self) -> Option<Request> {
        self.request.take()
    }

    /// The service runs: tells the client. `owner` is its process, and is linked to the far end when `linked`.
    pub fn accept(&mut self, owner: Option<H::Process>, linked: bool) {
        if self.over.is_some() {
            return;
        }
        self.outgoing.put(&Frame::Started { terms: self.own_terms(), resume: None });
        self.phase = Phase::Open;
        self.set_owner(owner, linked);
    }

    /// Refuses the client's `Start`, and ends the session.
    pub fn refuse_start(&mut self, code: RefuseCode, text: &str) {
        if self.over.is_none() {
            self.outgoing.put(&Frame::Refuse { call: 0, code, text: public(text) });
            self.end(ExitReason::Normal, 0, None);
        }
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// How the opening went, once that is known.
    ///
    /// # Errors
    /// The refusal, or the end of the session.
    pub fn poll_open(&mut self) -> Option<Result<(), NotOpened>> {
        if let Some(refused) = self.refused.take() {
            return Some(Err(NotOpened::Refused(refused)));
        }
        if self.phase == Phase::Open {
            return Some(Ok(()));
        }
        self.over.clone().map(|reason| Err(NotOpened::Ended(reason)))
    }

    /// How long a silence is answered with a ping; both ends use the server's.
    pub fn heartbeat_interval(&self) -> Duration {
        self.parameters.heartbeat_interval()
    }

    // How it ends.

    /// This end's owner ended, or let go: the peer is told, with the number of the last message it took. `deadline`
    /// bounds the wait for the peer's answer. While the peer makes progress with what was sent before, the wait goes
    /// on, for as long as a peer may take that does not stall.
    pub(crate) fn end(&mut self, reason: ExitReason, taken: u64, deadline: Option<Instant>) {
        if self.let_go {
            return;
        }
        self.let_go = true;
        if self.over.is_none() {
            self.outgoing.put(&Frame::Ended { taken, reason });
            let (stall, least) = (self.limits.stall_timeout, self.limits.min_accepted.max(1));
            let periods = self.outgoing.unacked().div_ceil(least as u64);
            let slowest = stall.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX));
            self.deadline = deadline.map(|at| Deadline { at, last: after(at, slowest) });
            self.fail_waiting(&ExitReason::Normal);
            if self.phase != Phase::Open {
                self.finish(ExitReason::Normal, false, None, self.outgoing.appended);
            }
        }
    }

    /// Ends the session for both ends at once, with the same reason: for the peer's fault, or because a right was
    /// withdrawn.
    pub fn break_off(&mut self, reason: ExitReason) {
        if self.over.is_some() {
            return;
        }
        if !std::mem::replace(&mut self.let_go, true) {
            self.outgoing.put(&Frame::Ended { taken: self.received, reason: reason.clone() });
        }
        // All that was appended still goes out, in front of the `Ended`.
        self.finish(reason, false, None, self.outgoing.appended);
    }

    /// The connection is gone, or must be taken for gone: nothing more comes or goes. A driver that could still write
    /// must not: what was not accepted is reported never to have been sent ([`is_lost`](Self::is_lost)).
    pub(crate) fn handle_loss(&mut self) {
        if self.over.is_none() {
            self.outgoing.clear();
            self.lost = true;
        }
        self.finish(ExitReason::NoConnection, false, None, self.outgoing.accepted);
    }

    /// Everything that waits gets its one ending. `far_owner_lives`: it was this end's owner that ended the session.
    /// `taken`: what the far owner took, when it said so.
    /// `sent`: how many bytes may have reached it.
    fn finish(&mut self, reason: ExitReason, far_owner_lives: bool, taken: Option<u64>, sent: u64) {
        if self.over.is_some() {
            return;
        }
        self.heard_all = true;
        self.let_go = true;
        self.fail_waiting(&reason);
        let executed = |number: u64, end: u64| match taken {
            Some(taken) if number > taken => Executed::No,
            None if end > sent => Executed::No,
            _ => Executed::Unknown,
        };
        self.asking.end(&reason, executed, &mut self.woken);
        self.owing.end(&mut self.woken);
        self.border.end(&reason, far_owner_lives);
        self.deliveries.append(&mut self.border.deliveries);
        if self.receiver == Receiver::HandedOver {
            self.deliveries.push(Delivery::Over(reason.clone()));
        }
        self.woken.extend(std::mem::take(&mut self.flushing).into_values());
        drop(self.attachment.take_partial());
        self.deadline = None;
        self.over = Some(reason);
    }

    /// Messages that were never appended fail.
    fn fail_waiting(&mut self, reason: &ExitReason) {
        for waiting in self.waiting.drain(..) {
            self.woken.extend(waiting.waiter);
            if waiting.sort != Sort::Cast {
                self.asking.fail(
                    waiting.ticket,
                    CallError::new(Executed::No, CallFailure::Exit(reason.clone())),
                    &mut self.woken,
                );
            }
        }
    }

    /// Tells the peer that this end drains: nothing ends by it.
    pub fn go_away(&mut self) {
        if self.phase == Phase::Open && self.can_put() {
            self.outgoing.put(&Frame::GoAway);
        }
    }

    /// Why the session ended, once it has: what the far owner's links and monitors here were told.
    pub const fn over(&self) -> Option<&ExitReason> {
        self.over.as_ref()
    }

    /// Whether nothing that comes in matters any more.
    pub const fn has_heard_all(&self) -> bool {
        self.heard_all
    }

    /// Whether the session ended because the connection did, so that nothing may be written any more.
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether this end will append nothing more of its own.
    pub const fn has_let_go(&self) -> bool {
        self.let_go
    }

    /// Whether the peer said that it drains.
    pub const fn peer_drains(&self) -> bool {
        self.peer_drains
    }

    /// How many entries its tables hold; 0 for a session that is over and whose callers have all looked.
    pub fn entries(&self) -> usize {
        self.asking.len()
            + self.owing.len()
            + self.border.len()
            + self.waiting.len()
            + self.sent_tickets.len()
            + self.flushing.len()
    }

    fn over_reason(&self) -> ExitReason {
        self.over.clone().unwrap_or(ExitReason::Normal)
    }

    // The driver's side.

    /// Hands what is to be written to a driver that has written all it had.
    pub(crate) fn transmit(&mut self, now: Instant, batch: &mut Batch) {
        self.put_ack();
        self.outgoing.fetch(now, batch);
    }

    /// The stream took the next `len` bytes of the batch.
    pub(crate) fn handle_accepted(&mut self, now: Instant, len: usize) {
        self.outgoing.accept(len);
        if len > 0 {
            self.attachment.say(now);
            self.put_off_deadline(now, self.limits.close_timeout);
        }
        self.owing.written(self.outgoing.accepted);
        if !self.waiting.is_empty() {
            self.pump(now);
        }
    }

    /// Bytes that the stream has not taken.
    pub fn unsent(&self) -> usize {
        self.outgoing.unsent()
    }

    /// Bytes that are kept because of the peer: a frame that came in part, messages that the owner has not taken, and what
    /// the stream has not taken.
    pub(crate) fn held(&self) -> usize {
        self.outgoing.unsent() + self.attachment.partial.capacity() + self.grant.outstanding() as usize
    }

    /// Bytes that the peer has not acknowledged; up to as many more as were appended between two of its acks.
    pub fn unacked(&self) -> u64 {
        self.outgoing.unacked()
    }

    /// Whether there is something for [`transmit`](Self::transmit) to hand over.
    pub fn has_output(&self) -> bool {
        !self.outgoing.is_empty() || (self.ack_due && self.can_put())
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.heard_all {
            return None;
        }
        [
            Some(self.attachment.deadline()),
            self.outgoing.stall_deadline(self.limits.stall_timeout),
            self.attachment.stall_deadline(self.limits.stall_timeout),
            self.asking.next_deadline(),
            self.owing.next_deadline(),
            self.deadline.map(|deadline| deadline.at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Time has passed: fails what is late, pings, or takes the connection for dead.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.heard_all {
            return;
        }
        self.outgoing.shrink();
        self.woken.shrink_to_fit();
        let mut withdrawn = self.asking.expire(now, &mut self.woken);
        if !withdrawn.is_empty() {
            withdrawn.sort_unstable();
            self.waiting.retain(|waiting| withdrawn.binary_search(&waiting.ticket).is_err());
        }
        self.owing.expire(now, &mut self.woken);
        let dead = self.attachment.is_dead(now)
            || self.outgoing.is_stalled(now, self.limits.stall_timeout, self.limits.min_accepted)
            || self.attachment.is_stalled(now, self.limits.stall_timeout, self.limits.min_accepted)
            || self.deadline.is_some_and(|deadline| now >= deadline.at);
        if dead {
            return self.handle_loss();
        }
        if self.attachment.ping(now) {
            if let Some(window) = self.tuner.idle() {
                self.resize_window(window);
            }
            if self.can_put() {
                self.outgoing.put(&Frame::Ping { token: 0 });
            }
        }
        self.pump(now);
    }

    /// This end did not run for a while, so whatever is late is late because of that: the clocks that watch the peer
    /// start anew. Deadlines of calls stay.
    pub(crate) fn handle_pause(&mut self, now: Instant) {
        if self.heard_all {
            return;
        }
        self.attachment.restart(now);
        self.outgoing.restart(now);
        if let Some(deadline) = &mut self.deadline {
            let wait = if self.let_go { self.limits.close_timeout } else { self.limits.login_timeout };
            let at = after(now, wait);
            *deadline = Deadline { at, last: deadline.last.max(at) };
        }
        if self.can_put() {
            self.outgoing.put(&Frame::Ping { token: 0 });
        }
    }

    /// The peer makes progress: it may take so much longer to answer the end of this session.
    fn put_off_deadline(&mut self, now: Instant, wait: Duration) {
        if let Some(deadline) = self.deadline.as_mut().filter(|deadline| self.let_go && now < deadline.at) {
            deadline.at = deadline.at.max(after(now, wait).min(deadline.last));
        }
    }

    /// What must be told to processes, in order.
    pub(crate) fn take_deliveries(&mut self) -> Vec<Delivery<H::Process>> {
        std::mem::take(&mut self.deliveries)
    }

    /// Whether several calls are under way, of either end.
    pub fn is_busy(&self) -> bool {
        self.asking.in_flight() + self.owing.slots() > 1
    }

    /// Whether something must be told to processes.
    pub fn has_deliveries(&self) -> bool {
        !self.deliveries.is_empty()
    }

    /// Who has something to see.
    #[cfg(test)]
    pub(crate) fn take_woken(&mut self) -> Vec<H::Waiter> {
        self.woken.drain(..).collect()
    }
}

/// What a `Refuse` may say of `text`.
fn public(text: &str) -> &str {
    crate::exit::cut(text, crate::wire::MAX_TEXT_LEN)
}

#[cfg(test)]
mod tests;
