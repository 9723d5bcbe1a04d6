//! Sessions that outlive their connection (`PROTOCOL.md`, section 15).
//!
//! The connection of a session is independent of its [life](super::life). If resume was agreed on, it changes as
//! follows; otherwise the session is always attached:
//!
//! ```text
//!              loss, silence, stall, a pause                    window over, break-off
//!  Attached ─────────────────────────────────▶ Detached ────────────────────────────────▶ (Over)
//!     ▲  ▲                                     │   ▲  │
//!     │  └──────────── attach (server) ────────┘   │  │ resume (client): Resume goes
//!     │                                 loss, 15 s │  ▼
//!     └──────────────────────────────────────── Resuming ─────────────▶ (Over)
//!                       Resumed came                      Lost came
//! ```
//!
//! Each connection is an [`Attachment`] with an epoch of its own. [`attach`](Session::attach) and
//! [`resume`](Session::resume) first fence the previous connection, so that no byte of it is handled any more, and
//! only then read how far this end is. A detached session continues as far as it can: it numbers and keeps casts and
//! calls, and its timers run. It makes no frames that belong to a connection (acks, pings, credit).

use std::time::{Duration, Instant};

use super::{
    Host, Session,
    attachment::Attachment,
    border::OWNER,
    call::sooner,
    life::{Ending, Life},
    receive::{ANSWER, Fault},
};
use crate::{
    ExitReason, after,
    auth::{Exporter, ResumeClaim, ResumeKey, SessionId},
    handshake::Side,
    wire::{Frame, Granted, Tombstone},
};

/// The time after which an unanswered `Resume` is given up.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// The bytes that may be kept beside the credit of the peer. Acks come at least at every half of it.
const KEPT_BESIDE_WINDOW: usize = 128 * 1024;
/// The most by which an epoch may exceed the last one, and the bound of all epochs.
const MAX_EPOCH_STEP: u64 = 1 << 20;
const MAX_EPOCH: u64 = 1 << 63;
/// The most cancels after a resume that spend nothing of the budget: those of a burst, of a connection that was silent for
/// a minute, and of the time without one.
const MAX_FREE_CANCELS: u32 = 10_000;
/// The most `Cancel`, `Unlink` and `Demonitor` frames that a detached end queues, and the most exits that are not
/// over a link.
const MAX_DETACHED_MINOR: u32 = 500;
const MAX_DETACHED_EXITS: u32 = 32;

/// The state of a session's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// The session has a connection.
    Attached {
        /// The number of the connection: 1, 2, 3…
        epoch: u64,
        /// The time at which the connection was attached.
        since: Instant,
    },
    /// The session has no connection, and ends at `until` unless it gets another.
    Detached {
        /// The time at which this end noticed the loss.
        since: Instant,
        /// The end of the window.
        until: Instant,
    },
}

/// The answer to a connection that asks for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attach {
    /// The connection carries the session from now on, under this epoch.
    Attached(u64),
    /// The claim is outdated or impossible: close the connection without a frame. The session is unchanged.
    Stale,
    /// The session is over: answer `Lost` with this.
    Over(Option<Tombstone>),
}

/// The agreement of the two ends on resume.
#[derive(Debug)]
struct Agreement {
    window: Duration,
    id: SessionId,
    /// The key of the client. The server keeps its key beside the session.
    key: Option<ResumeKey>,
    /// The number of the last frame that the peer had numbered at the last resume.
    peer_sent: u64,
    /// The cancels up to that number that still cost the peer nothing.
    free_cancels: u32,
}

/// The record of a session without a connection.
#[derive(Debug)]
struct Detached {
    since: Instant,
    until: Instant,
    /// The `Cancel`, `Unlink` and `Demonitor` frames queued meanwhile, and the exits.
    minor: u32,
    exits: u32,
}

/// The state of resume in a session.
#[derive(Debug)]
pub(super) struct Resumption {
    /// The window that the client asks for; zero for no resume.
    asked: Duration,
    granted: Option<Granted>,
    agreed: Option<Agreement>,
    detached: Option<Detached>,
    attached_since: Instant,
    /// A change of the connection that the driver has not been told.
    changed: bool,
}

impl Resumption {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            asked: Duration::ZERO,
            granted: None,
            agreed: None,
            detached: None,
            attached_since: now,
            changed: false,
        }
    }

    #[inline]
    pub(super) const fn is_detached(&self) -> bool {
        self.detached.is_some()
    }

    /// The number of the last frame that the peer had numbered at the last resume.
    fn peer_sent(&self) -> u64 {
        self.agreed.as_ref().map_or(0, |agreed| agreed.peer_sent)
    }

    /// Returns `true` if a cancel with this number costs the peer nothing, because it may have waited for a connection.
    /// The peer says which did, so their number is bounded.
    pub(super) fn is_free_cancel(&mut self, number: u64) -> bool {
        self.agreed.as_mut().is_some_and(|agreed| {
            let free = number <= agreed.peer_sent && agreed.free_cancels > 0;
            agreed.free_cancels -= u32::from(free);
            free
        })
    }

    pub(super) const fn until(&self) -> Option<Instant> {
        match &self.detached {
            Some(detached) => Some(detached.until),
            None => None,
        }
    }

    /// Counts one more `Cancel`, `Unlink` or `Demonitor`. Returns `false` if a detached session may not queue it.
    pub(super) fn spend_minor(&mut self) -> bool {
        self.detached.as_mut().is_none_or(|detached| {
            detached.minor += 1;
            detached.minor <= MAX_DETACHED_MINOR
        })
    }

    /// Counts one more exit that is not over a link. Returns `false` if a detached session may not queue it.
    pub(super) fn spend_exit(&mut self) -> bool {
        self.detached.as_mut().is_none_or(|detached| {
            detached.exits += 1;
            detached.exits <= MAX_DETACHED_EXITS
        })
    }
}

/// Converts a duration to the milliseconds of the wire.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<H: Host> Session<H> {
    // The agreement.

    /// Returns the time that the client asks the session to outlive its connection, in milliseconds.
    pub(super) fn asked_resume(&self) -> u64 {
        millis(self.resumption.asked)
    }

    pub(super) const fn note_asked_resume(&mut self, window: u64) {
        self.resumption.asked = Duration::from_millis(window);
    }

    /// Grants resume, for no longer than the client asked for. Must be called before [`accept`](Self::accept). Has no
    /// effect if the client did not ask.
    pub fn grant(&mut self, granted: Granted) {
        let window = granted.window.min(self.asked_resume());
        if window > 0 {
            self.resumption.granted = Some(Granted { window, ..granted });
        }
    }

    /// Returns the window of resume, if both ends have agreed on it.
    pub fn resume_window(&self) -> Option<Duration> {
        self.resumption.agreed.as_ref().map(|agreed| agreed.window)
    }

    /// Returns the part of `Started` about resume. If resume is granted, ordered frames are kept from now on.
    pub(super) fn take_granted(&mut self) -> Option<Box<Granted>> {
        let granted = self.resumption.granted.take()?;
        self.agree(&granted, None);
        self.keep_outgoing();
        Some(Box::new(granted))
    }

    /// Handles the server's grant of resume.
    pub(super) fn handle_granted(&mut self, granted: &Granted) -> Result<(), Fault> {
        if granted.window > self.asked_resume() {
            return Err(Fault::Protocol);
        }
        self.agree(granted, Some(ResumeKey::new(&granted.secret)));
        // The server waits for this ack: until it comes, the server does not know that the client has the secret.
        self.attachment.ack_due = true;
        Ok(())
    }

    fn agree(&mut self, granted: &Granted, key: Option<ResumeKey>) {
        let window = Duration::from_millis(granted.window);
        self.resumption.agreed =
            Some(Agreement { window, id: granted.id, key, peer_sent: 0, free_cancels: 0 });
        self.incoming.ack_often();
    }

    /// Keeps the ordered frames that follow.
    pub(super) fn keep_outgoing(&mut self) {
        let bound = self.limits.max_retained.max(self.kept_for(self.peer.window));
        self.outgoing.keep(bound);
    }

    /// Raises the bound of kept bytes to the credit of a process of the peer, so that no frame to it has to wait for room.
    pub(super) fn widen_kept(&mut self, ahead: u64) {
        if self.resumption.agreed.is_some() {
            let bound = self.kept_for(ahead);
            self.outgoing.widen(bound);
        }
    }

    /// Returns the number of kept bytes for a peer that allows this end to send `ahead` bytes. The peer chooses that number,
    /// and may choose any.
    fn kept_for(&self, ahead: u64) -> usize {
        ahead.min(self.limits.max_window_len as u64) as usize + KEPT_BESIDE_WINDOW
    }

    /// Returns `true` if the session outlives its connection now. A server waits until the client knows the secret.
    pub fn is_resumable(&self) -> bool {
        self.resumption.agreed.is_some()
            && !self.is_over()
            && (self.side == Side::Client || self.outgoing.acked > 0)
    }

    // Detached.

    /// Returns `true` while frames that belong to the connection may be appended.
    #[inline]
    pub(super) const fn can_say(&self) -> bool {
        self.can_put() && !self.resumption.is_detached()
    }

    /// Returns the epoch of the connection whose bytes are handled, if there is one.
    pub fn attached(&self) -> Option<u64> {
        self.attachment.open.then_some(self.attachment.epoch)
    }

    /// Returns the state of the connection.
    pub const fn connection(&self) -> ConnectionState {
        match &self.resumption.detached {
            Some(Detached { since, until, .. }) => ConnectionState::Detached { since: *since, until: *until },
            None => ConnectionState::Attached {
                epoch: self.attachment.epoch,
                since: self.resumption.attached_since,
            },
        }
    }

    /// Returns a change of the connection, once.
    pub(crate) fn take_connection_change(&mut self) -> Option<ConnectionState> {
        std::mem::take(&mut self.resumption.changed).then(|| self.connection())
    }

    /// Detaches the session from its connection, which was lost at `since`. No byte of it is handled any more.
    pub(super) fn detach(&mut self, now: Instant, since: Instant) {
        self.attachment = Attachment::gone(self.attachment.epoch, self.heartbeat_interval(), now);
        if self.resumption.is_detached() {
            return;
        }
        self.outgoing.detach();
        let window = self.resume_window().unwrap_or_default();
        let until = after(since, window);
        self.resumption.detached = Some(Detached { since, until, minor: 0, exits: 0 });
        self.resumption.changed = true;
    }

    /// Counts a suspension of the machine for `time`, which `now` does not include, against the window of resume and against
    /// the calls that a connection has taken. After more than a heartbeat, the session gives its connection up: the peer has
    /// heard nothing meanwhile, and the machine may be in another network.
    pub(crate) fn handle_suspension(&mut self, now: Instant, time: Duration) {
        if self.is_over() {
            return;
        }
        self.asking.skip(now, time, self.outgoing.reached());
        self.owing.skip(now, time);
        if time > self.heartbeat_interval() {
            self.handle_pause(now, now);
        }
        if let Some(detached) = &mut self.resumption.detached {
            detached.until = sooner(detached.until, time, now);
        }
    }

    /// Handles the timers of a session without a connection.
    pub(super) fn handle_detached_timeout(&mut self, now: Instant) {
        if self.resumption.until().is_some_and(|until| now >= until) {
            return self.expire();
        }
        if self.attachment.answer_by.is_some_and(|at| now >= at) {
            self.detach(now, now);
        }
        self.pump(now);
    }

    // Another connection.

    /// Asks for the session on a new, authenticated connection of the client, and fences the previous one. Returns
    /// the epoch of the connection, or `None` if there is nothing to resume.
    pub(crate) fn resume(&mut self, now: Instant, exporter: &Exporter) -> Option<u64> {
        if !self.is_resumable() || self.side != Side::Client {
            return None;
        }
        self.detach(now, now);
        let epoch = self.attachment.epoch + 1;
        let agreed = self.resumption.agreed.as_ref()?;
        let claim =
            ResumeClaim { id: agreed.id, epoch, received: self.incoming.number, sent: self.outgoing.number };
        let proof = agreed.key.as_ref()?.prove(exporter, &claim);
        self.attachment = Attachment::new(epoch, self.heartbeat_interval(), now);
        self.attachment.answer_by = Some(now + ANSWER_TIME);
        self.attachment.put_hello(&Frame::Resume { claim, proof: &proof });
        Some(epoch)
    }

    /// Continues the session on a new connection, on which the client has proved its right to the session. Fences the
    /// previous connection, even if it is not known to be dead.
    pub(crate) fn attach(&mut self, now: Instant, claim: &ResumeClaim) -> Attach {
        if self.is_over() || self.resumption.agreed.is_none() || self.side != Side::Server {
            return Attach::Over(self.tombstone());
        }
        let epoch = self.attachment.epoch;
        if claim.epoch <= epoch || claim.epoch > epoch + MAX_EPOCH_STEP || claim.epoch >= MAX_EPOCH {
            return Attach::Stale;
        }
        self.detach(now, now);
        if self.check_position(claim.received, claim.sent).is_err() {
            self.break_off(ExitReason::Protocol);
            return Attach::Over(self.tombstone());
        }
        self.attachment = Attachment::new(claim.epoch, self.heartbeat_interval(), now);
        let (received, sent) = (self.incoming.number, self.outgoing.number);
        self.attachment.put_hello(&Frame::Resumed { received, sent });
        self.reattach(now, claim.received, claim.sent);
        Attach::Attached(claim.epoch)
    }

    /// Handles the server's answer that the session continues.
    pub(super) fn handle_resumed(&mut self, now: Instant, received: u64, sent: u64) -> Result<(), Fault> {
        self.check_position(received, sent)?;
        self.attachment.answer_by = None;
        self.reattach(now, received, sent);
        Ok(())
    }

    /// Handles the server's answer that the session is over, with the record that the server still has.
    pub(super) fn handle_session_lost(&mut self, tombstone: Option<Tombstone>) {
        let Some(Tombstone { received, taken, reason }) = tombstone else {
            return self.lose(ExitReason::NoConnection, None);
        };
        // The server has answered this end's `Ended`, and only the answer was lost.
        let answered = self.has_let_go() && reason == ANSWER && received == self.outgoing.number;
        let reason = if answered { ExitReason::Normal } else { reason };
        let reached = self.outgoing.reached();
        self.lose_with(Ending { reason, far_owner_lives: answered, taken: Some(taken), reached });
    }

    /// Checks that the positions that the peer claims are possible.
    fn check_position(&self, received: u64, sent: u64) -> Result<(), Fault> {
        let possible = (self.outgoing.acked..=self.outgoing.number).contains(&received);
        if possible && sent >= self.incoming.number.max(self.resumption.peer_sent()) {
            Ok(())
        } else {
            Err(Fault::Protocol)
        }
    }

    /// Sends the missing frames again, once both ends know how far the other is.
    fn reattach(&mut self, now: Instant, received: u64, sent: u64) {
        if let Some(agreed) = &mut self.resumption.agreed {
            agreed.peer_sent = sent;
            agreed.free_cancels = MAX_FREE_CANCELS;
        }
        self.resumption.detached = None;
        self.resumption.attached_since = now;
        self.resumption.changed = true;
        let asking = &self.asking;
        self.outgoing.attach(received, |call| asking.left(call, now));
        self.woken.extend(self.flushes.acked(self.outgoing.acked));
        self.incoming.note_acked();
        // A grant may have been lost with the connection.
        let total = self.inbox.grant.granted();
        self.attachment.put_hello(&Frame::Credit { id: OWNER, total });
        for (id, total) in self.border.ids.grants() {
            self.attachment.put_hello(&Frame::Credit { id, total });
        }
        self.inbox.tuner.restart(now);
        self.life.restart(now, self.limits.login_timeout, self.limits.close_timeout);
        self.ping_for_flush();
        self.pump(now);
    }

    // The end.

    /// Returns the record that a server keeps of a session that is over. `None` if the client needs none: nothing was
    /// granted, or the client has answered the server's `Ended`.
    pub fn tombstone(&self) -> Option<Tombstone> {
        self.over_record().and_then(|over| over.tombstone.clone())
    }

    /// Returns `true` if the session ended because its window passed without a connection.
    pub fn has_expired(&self) -> bool {
        self.over_record().is_some_and(|over| over.expired)
    }

    /// Builds the record of a session that ends now. Every received message counts as possibly taken, unless this end
    /// has said otherwise in an `Ended` that was lost.
    pub(super) fn bury(&self, ending: &Ending) -> Option<Tombstone> {
        // A client that has answered knows how it ended.
        if self.side != Side::Server || !self.is_resumable() || ending.far_owner_lives {
            return None;
        }
        let received = self.incoming.number;
        let (taken, reason) = match &self.life {
            Life::Closing { said, .. } => said.clone(),
            // The client ended it, and the answer may be lost on its way.
            _ if ending.taken.is_some() => (received, ANSWER),
            _ => (received, ending.reason.clone()),
        };
        Some(Tombstone { received, taken, reason })
    }
}
