//! One session, from the end of the login to the end of the session.
//!
//! [`Session`] is the pure state of one end. [`handle_bytes`](Session::handle_bytes) takes received bytes,
//! [`transmit`](Session::transmit) returns the bytes to send, and time is an argument. Each action of this end's
//! processes is a method, which appends frames to the output. A process that waits leaves a waiter of the caller's
//! type, which the session returns when there is something to see.
//!
//! The state is in parts, each with a module of its own: the life ([`Life`]), the connection ([`Attachment`]), the
//! bytes to send ([`Outgoing`]), the messages that wait ([`SendQueues`]), the messages for the owner ([`Inbox`]), the
//! calls of either end ([`Asking`], [`Owing`]), and the border between processes ([`Border`]).
//!
//! [`Endpoint`] drives it, and its module describes the order of the calls.

mod answers;
mod attachment;
mod border;
mod budget;
mod call;
mod claims;
mod credit;
mod endpoint;
mod flush;
mod handles;
mod inbox;
mod life;
mod long;
mod message;
mod outgoing;
mod process;
mod queue;
mod quota;
mod receive;
mod resume;
mod send;
mod window;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::FxBuildHasher;

use self::{
    answers::{IncompletePayloads, MAX_UNFINISHED},
    attachment::Attachment,
    border::Border,
    budget::Budget,
    call::{Asking, Owing},
    credit::Balance,
    flush::Flushes,
    handles::Imports,
    inbox::Inbox,
    life::{Deadline, Expects, Life},
    long::IncompleteMessages,
    outgoing::Outgoing,
    queue::SendQueues,
    quota::Quota,
    receive::Received,
    resume::Resumption,
};
pub use self::{
    border::OWNER,
    call::Outcome,
    claims::{Claim, Claims, Next, Reader},
    credit::credit_part,
    endpoint::{Endpoint, Event, Rest, Rise, Who},
    flush::Flush,
    handles::{
        AliasName, DroppedHandles, Export, FarHandle, Handles, Passing, ProcessMailbox, ReceivedHandle,
        SentHandles,
    },
    message::{
        Delivery, Inbound, InboundKind, NotOpened, OpenRequest, Request, StartRefused, Unsendable,
        WindowChange,
    },
    outgoing::Batch,
    quota::{CallCounts, CallPlace, CallQuota, OverQuota},
    resume::{Attach, ConnectionState},
};
use crate::{
    ExitReason, Limits, after,
    handshake::{Authenticated, SessionParameters, Side},
    wire::{self, Frame, Terms},
};

/// A table by ids that this end made or that must grow by one each time, so no peer can choose colliding keys.
type Lookup<T> = HashMap<u64, T, FxBuildHasher>;

/// The epoch of the connection that carries the `Start`.
pub const FIRST_EPOCH: u64 = 1;

/// The longest time of any call.
const MAX_CALL_TIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// The types that the two halves of a driver bring.
pub trait Host {
    /// The means to wake a waiting task.
    type Waiter;
    /// A process of this end.
    type Process: Clone + Ord;
}

/// The bounds of the far end, from the login, or from its `Start` or `Started`.
#[derive(Debug)]
struct Peer {
    max_frame_len: usize,
    terms: Terms,
    /// The initial credit that each of its processes grants.
    window: u64,
    /// The credit of its owner.
    balance: Balance,
    /// The credit of its other processes.
    balances: BTreeMap<u64, Balance>,
    /// The process to which a message went that is longer than its window.
    oversized: Option<u64>,
    drains: bool,
}

impl Peer {
    const fn new(max_frame_len: usize, window: u64, terms: Terms) -> Self {
        let balance = Balance::new(window);
        let balances = BTreeMap::new();
        Self { max_frame_len, terms, window, balance, balances, oversized: None, drains: false }
    }
}

/// One end of a session.
#[derive(Debug)]
pub struct Session<H: Host> {
    side: Side,
    limits: Arc<Limits>,
    parameters: SessionParameters,
    life: Life,
    attachment: Attachment,
    resumption: Resumption,
    peer: Peer,

    outgoing: Outgoing,
    queues: SendQueues<H::Waiter>,
    flushes: Flushes<H::Waiter>,
    incoming: Received,
    inbox: Inbox,
    asking: Asking<H::Waiter>,
    owing: Owing<H::Waiter>,
    quota: Quota,
    incomplete: IncompletePayloads,
    incomplete_messages: IncompleteMessages,
    /// The budget of this end for cancels. It is well below the peer's, because frames that were sent over some time
    /// may arrive at once.
    own_cancels: Budget,
    /// The budget of the peer for cancels.
    cancels: Budget,
    border: Border<H::Process>,
    imports: Imports,

    // Results for the driver to take.
    request: Option<Request>,
    deliveries: Vec<Delivery<H::Process>>,
    woken: VecDeque<H::Waiter>,
}

impl<H: Host> Session<H> {
    /// The state after a login: the proof of it is what a session is made of. `limits` are this end's.
    pub fn new(authenticated: &Authenticated, limits: &Limits, now: Instant) -> Self {
        let (side, parameters) = (authenticated.side(), authenticated.parameters());
        let far_window = u64::from(parameters.window_len());
        let own_window = if side == Side::Server { far_window } else { limits.window_len as u64 };
        let deadline = (side == Side::Server).then(|| Deadline::new(after(now, limits.login_timeout)));
        Self {
            side,
            limits: Arc::new(limits.clone()),
            parameters,
            life: Life::Opening { expects: Expects::Start, deadline },
            attachment: Attachment::new(FIRST_EPOCH, parameters.heartbeat_interval(), now),
            resumption: Resumption::new(now),
            // A server learns the client's numbers from its `Start`, before it sends anything of length.
            peer: Peer::new(
                parameters.max_frame_len() as usize,
                far_window,
                Terms { max_calls: 0, max_links: 0, max_handles: 0 },
            ),
            outgoing: Outgoing::default(),
            queues: SendQueues::default(),
            flushes: Flushes::default(),
            incoming: Received::default(),
            inbox: Inbox::new(own_window, limits.max_window_len as u64, now),
            asking: Asking::default(),
            owing: Owing::default(),
            quota: Quota::default(),
            incomplete: IncompletePayloads::default(),
            incomplete_messages: IncompleteMessages::default(),
            own_cancels: Budget::new(limits.max_cancels_per_second / 10, limits.max_cancels_burst / 2),
            cancels: Budget::new(limits.max_cancels_per_second, limits.max_cancels_burst),
            border: Border::new(own_window),
            imports: Imports::default(),
            request: None,
            deliveries: Vec::new(),
            woken: VecDeque::new(),
        }
    }

    /// Returns the limits of this end.
    pub const fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Returns the time of silence after which a ping goes. Both ends use the server's.
    pub fn heartbeat_interval(&self) -> Duration {
        self.parameters.heartbeat_interval()
    }

    // Opening.

    /// Sends the client's first frame.
    ///
    /// # Errors
    /// [`Unsendable::TooLong`] if the arguments do not fit a frame.
    pub fn start(&mut self, request: &OpenRequest<'_>) -> Result<(), Unsendable> {
        self.note_asked_resume(resume::millis(request.resume));
        let resume = self.asked_resume();
        let frame = start_frame(&self.limits, request, resume);
        let room = self.peer.max_frame_len.saturating_sub(head_len(&frame));
        let max = room.min(self.max_payload_len());
        if request.args.len() > max {
            return Err(Unsendable::TooLong { max });
        }
        self.outgoing.put(&frame);
        if resume > 0 {
            self.keep_outgoing();
        }
        self.life = Life::Opening { expects: Expects::Answer, deadline: None };
        Ok(())
    }

    /// The login has sent these bytes behind the client's proof. Returns `false` if they are not what has been appended.
    pub fn was_sent(&mut self, now: Instant, early: &[u8]) -> bool {
        let mut batch = Batch::default();
        self.transmit(now, &mut batch);
        let same = batch.is(early);
        if same {
            self.handle_accepted(now, early.len());
        }
        same
    }

    /// Takes the client's request, once its `Start` has come.
    pub(crate) const fn take_request(&mut self) -> Option<Request> {
        self.request.take()
    }

    /// Tells the client that the service runs. `owner` is its process, which is linked to the far end if `linked` is
    /// set.
    pub fn accept(&mut self, owner: Option<H::Process>, linked: bool) {
        if self.is_over() {
            return;
        }
        let resume = self.take_granted();
        self.outgoing.put(&Frame::Started { terms: own_terms(&self.limits), resume });
        self.life = Life::Open;
        self.set_owner(owner, linked);
    }

    /// Tells the peer that this end drains. The session continues.
    pub fn go_away(&mut self) {
        if self.takes_messages() {
            self.outgoing.put(&Frame::GoAway);
        }
    }

    /// Returns the number of processes that this end may have handed out.
    pub const fn max_handed(&self) -> u64 {
        self.peer.terms.max_handles
    }

    /// Returns the number of links and monitors that this end may have.
    pub const fn max_links(&self) -> u64 {
        self.peer.terms.max_links
    }

    /// Returns `true` if the peer has announced that it drains.
    pub const fn peer_drains(&self) -> bool {
        self.peer.drains
    }

    /// Returns the number of entries in all tables. It is 0 for a session that is over and whose callers have all
    /// polled.
    pub fn entries(&self) -> usize {
        let handles = self.imports.len() + self.border.ids.handles();
        let waiting = self.queues.len() + self.flushes.len();
        self.asking.len() + self.owing.len() + self.border.len() + handles + waiting
    }

    // The driver's side.

    /// Passes output to a driver that has written everything it had.
    pub(crate) fn transmit(&mut self, now: Instant, batch: &mut Batch) {
        if self.attachment.has_hello() {
            if batch.chunk().is_empty() {
                batch.push(self.attachment.take_hello());
                self.attachment.begin_writing(now);
            }
            return;
        }
        if self.resumption.is_detached() {
            return;
        }
        self.put_ack();
        if batch.chunk().is_empty() {
            self.put_part(now);
        }
        if self.outgoing.fetch(batch) {
            self.attachment.begin_writing(now);
        }
    }

    /// Notes that the stream accepted the next `len` bytes of the batch.
    pub(crate) fn handle_accepted(&mut self, now: Instant, len: usize) {
        self.outgoing.accept(self.attachment.accept_hello(len));
        if len > 0 {
            self.attachment.say(now, len, self.outgoing.unsent() == 0);
            self.put_off_deadline(now, self.limits.close_timeout);
        }
        if !self.queues.is_empty() {
            self.pump(now);
        }
    }

    /// Returns the number of bytes that the stream has not accepted.
    pub fn unsent(&self) -> usize {
        self.outgoing.unsent()
    }

    /// Bytes that are kept because of the peer: a frame that came in part, messages that the owner has not taken, and what
    /// the stream has not taken or, with resume, the peer has not acknowledged.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.outgoing.held()
            + self.attachment.partial.capacity()
            + self.incomplete.held()
            + ((self.inbox.grant.outstanding() + self.border.ids.outstanding()) as usize)
                .saturating_add_signed(self.incomplete_messages.excess())
    }

    /// Returns the number of bytes that the peer has not acknowledged; up to as many more as were appended between
    /// two of its acks.
    pub fn unacked(&self) -> u64 {
        self.outgoing.unacked()
    }

    /// Returns `true` if [`transmit`](Self::transmit) has output to pass on.
    pub fn has_output(&self) -> bool {
        if self.resumption.is_detached() {
            return self.attachment.has_hello();
        }
        self.attachment.has_hello()
            || !self.outgoing.is_empty()
            || self.has_part()
            || (self.attachment.ack_due && self.can_put())
    }

    /// Returns `true` if so much waits for the peer that this end should take nothing more from it. Up to `share`
    /// bytes may be unsent, besides the long answers that take turns with everything else.
    #[inline]
    pub(crate) fn is_crowded(&self, share: usize) -> bool {
        (self.outgoing.unsent() > share && self.others_wait(share)) || self.outgoing.is_at_bound()
    }

    /// Returns `true` if more than `share` bytes are unsent besides the long answers that take turns. A message that is taken
    /// now has its answer between their parts. Without a share, the program is short of memory, and they count too. However
    /// long they are, the pause comes before the end with `overload`.
    fn others_wait(&self, share: usize) -> bool {
        let most =
            (MAX_UNFINISHED * self.limits.max_frame_len).min(self.limits.max_unsent.saturating_sub(share));
        share == 0 || self.outgoing.unsent() - self.outgoing.in_turn().min(most) > share
    }

    /// Returns the time at which [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let connection = match self.resumption.until() {
            None => [
                Some(self.attachment.deadline()),
                self.attachment.stall_deadline(self.limits.stall_timeout),
                self.attachment.ack_by,
            ],
            until => [until, self.attachment.answer_by, None],
        };
        [
            connection.into_iter().flatten().min(),
            self.asking.next_deadline(),
            self.owing.next_deadline(),
            self.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Handles due timers: fails late calls, pings, or gives the connection up as dead.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.is_over() {
            return;
        }
        self.outgoing.shrink();
        self.woken.shrink_to_fit();
        let late = self.asking.expire(now, &mut self.woken);
        if !late.is_empty() {
            self.withdraw_late(late);
        }
        self.owing.expire(now, &mut self.woken);
        if self.deadline().is_some_and(|at| now >= at) {
            return self.lose(ExitReason::NoConnection, None);
        }
        if self.resumption.is_detached() {
            return self.handle_detached_timeout(now);
        }
        let dead = self.attachment.is_dead(now)
            || self.attachment.is_stalled(now, self.limits.stall_timeout, self.limits.min_accepted);
        if dead {
            return self.handle_loss(now);
        }
        if self.attachment.ack_by.is_some_and(|at| now >= at) {
            self.attachment.ack_by = None;
            self.attachment.ack_due = true;
        }
        if self.attachment.ping(now) {
            self.narrow_windows();
            self.put_ping(0);
        }
        self.pump(now);
    }

    /// Handles a pause of this end. Delays are this end's own, so the clocks that watch the peer restart. Deadlines
    /// of calls stay. With resume, the connection counts as lost, because that is faster than a wait.
    pub(crate) fn handle_pause(&mut self, now: Instant, since: Instant) {
        if self.is_over() || self.resumption.is_detached() {
            return;
        }
        if self.is_resumable() {
            return self.detach(now, since);
        }
        self.attachment.restart(now);
        self.life.restart(now, self.limits.login_timeout, self.limits.close_timeout);
        self.put_ping(0);
    }

    fn put_ping(&mut self, token: u64) {
        if self.can_say() {
            self.outgoing.put(&Frame::Ping { token });
        }
    }

    /// Takes the events for processes, in order.
    pub(crate) fn take_deliveries(&mut self) -> Vec<Delivery<H::Process>> {
        std::mem::take(&mut self.deliveries)
    }

    /// The slots for calls that the peer holds: until the answer is written.
    fn owed_slots(&self) -> u64 {
        (self.owing.len() + self.outgoing.unwritten_answers()) as u64
    }

    /// Returns `true` if several calls of either end are in flight.
    pub fn is_busy(&self) -> bool {
        self.asking.in_flight() + self.owed_slots() > 1
    }

    /// Returns `true` if processes must be told something.
    pub fn has_deliveries(&self) -> bool {
        !self.deliveries.is_empty()
    }

    /// Takes the waiters to wake.
    #[cfg(test)]
    pub(crate) fn take_woken(&mut self) -> Vec<H::Waiter> {
        self.woken.drain(..).collect()
    }
}

/// Returns the client's first frames as bytes, for a login that sends them right behind the proof: the `Start`, and a
/// cast if there is one. Returns `None` if a payload is longer than every server accepts; the client does not know
/// this server's bound yet.
pub fn early_start(limits: &Limits, request: &OpenRequest<'_>) -> Option<Vec<u8>> {
    // As in a session with the least bound.
    let max_frame_len = *Limits::FRAME_LEN_RANGE.start();
    let max = max_frame_len - wire::MAX_OVERHEAD;
    let frame = start_frame(limits, request, resume::millis(request.resume));
    let longest = request.args.len().max(request.first.map_or(0, <[u8]>::len));
    if longest > max || head_len(&frame) + request.args.len() > max_frame_len {
        return None;
    }
    let mut bytes = Vec::new();
    frame.put(&mut bytes);
    if let Some(payload) = request.first {
        Frame::Cast { to: OWNER, payload }.put(&mut bytes);
    }
    Some(bytes)
}

fn start_frame<'a>(limits: &Limits, request: &OpenRequest<'a>, resume: u64) -> Frame<'a> {
    Frame::Start {
        codec: request.codec as u8,
        terms: own_terms(limits),
        max_frame_len: limits.max_frame_len as u64,
        window_len: limits.window_len as u64,
        resume,
        interface: request.interface.map(Box::new),
        args: request.args,
    }
}

/// Returns the length of a frame without its length field and its payload.
fn head_len(frame: &Frame<'_>) -> usize {
    let mut head = Vec::new();
    frame.put_head(&mut head);
    head.len() - wire::LEN_LEN
}

const fn own_terms(limits: &Limits) -> Terms {
    Terms {
        max_calls: limits.max_calls as u64,
        max_links: limits.max_links as u64,
        max_handles: limits.max_handles as u64,
    }
}

/// Returns the part of `text` that a `Refuse` may carry.
fn public(text: &str) -> &str {
    crate::exit::cut(text, wire::MAX_TEXT_LEN)
}

#[cfg(test)]
mod tests;
