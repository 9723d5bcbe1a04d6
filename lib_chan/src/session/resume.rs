//! A session that outlives its connection (`PROTOCOL.md`, section 15).
//!
//! Orthogonal to the [life](super::life) of a session is its connection. With resume agreed, and not without:
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
//! [`resume`](Session::resume) fence the one before first: from then on no byte of it is handled, and only then this end
//! looks how far it is. Detached, a session goes on as far as it can: casts and calls are numbered and kept, time runs.
//! Frames that belong to a connection (acks, pings, credit) are not made.

use std::time::{Duration, Instant};

use super::{
    Host, Session,
    attachment::Attachment,
    border::OWNER,
    life::{Ending, Life},
    receive::Fault,
};
use crate::{
    ExitReason, after,
    auth::{Exporter, ResumeClaim, ResumeKey, SessionId},
    handshake::Side,
    wire::{Frame, Granted, Tombstone},
};

/// A `Resume` that is not answered for so long is given up.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// Beside the credit that the peer grants, so many bytes may be kept: acks come at least every half of it.
const KEPT_BESIDE_WINDOW: usize = 128 * 1024;
/// The most that an epoch may be ahead of the last one, and the bound of all.
const MAX_EPOCH_STEP: u64 = 1 << 20;
const MAX_EPOCH: u64 = 1 << 63;
/// While detached, an end queues no more of `Cancel`, `Unlink` and `Demonitor`, and of exits that are not over a link.
const MAX_DETACHED_MINOR: u32 = 500;
const MAX_DETACHED_EXITS: u32 = 32;

/// Whether a session has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// It has.
    Attached {
        /// Counts the connections of the session, from 1.
        epoch: u64,
        /// Since when.
        since: Instant,
    },
    /// It has none at the moment, and ends at `until` unless it gets another.
    Detached {
        /// When this end noticed the loss.
        since: Instant,
        /// When the session ends.
        until: Instant,
    },
}

/// What becomes of a connection that asks for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attach {
    /// It carries the session from now on, under this epoch.
    Attached(u64),
    /// It comes too late, or claims nonsense: close it without a frame. The session is as before.
    Stale,
    /// The session is over: answer `Lost` with this.
    Over(Option<Tombstone>),
}

/// What the two ends agreed upon.
#[derive(Debug)]
struct Agreement {
    window: Duration,
    id: SessionId,
    /// The client's; the server keeps its own beside the session.
    key: Option<ResumeKey>,
    /// The number of the last frame that the peer had numbered when the session was last resumed.
    peer_sent: u64,
}

/// A session without a connection.
#[derive(Debug)]
struct Detached {
    since: Instant,
    until: Instant,
    /// Frames that were queued meanwhile: `Cancel`, `Unlink`, `Demonitor`; and exits.
    minor: u32,
    exits: u32,
}

/// What a session knows about being resumed.
#[derive(Debug)]
pub(super) struct Resumption {
    /// The window that the client asks for; zero for none.
    asked: Duration,
    granted: Option<Granted>,
    agreed: Option<Agreement>,
    detached: Option<Detached>,
    attached_since: Instant,
    /// The driver is to be told that the connection is gone, or another is there.
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

    /// Frames up to this number spend nothing of the budgets of time: they may have waited for a connection.
    pub(super) fn peer_sent(&self) -> u64 {
        self.agreed.as_ref().map_or(0, |agreed| agreed.peer_sent)
    }

    pub(super) const fn until(&self) -> Option<Instant> {
        match &self.detached {
            Some(detached) => Some(detached.until),
            None => None,
        }
    }

    /// Whether a detached session may queue one more `Cancel`, `Unlink` or `Demonitor`.
    pub(super) fn spend_minor(&mut self) -> bool {
        self.detached.as_mut().is_none_or(|detached| {
            detached.minor += 1;
            detached.minor <= MAX_DETACHED_MINOR
        })
    }

    /// Whether a detached session may queue one more exit that is not over a link.
    pub(super) fn spend_exit(&mut self) -> bool {
        self.detached.as_mut().is_none_or(|detached| {
            detached.exits += 1;
            detached.exits <= MAX_DETACHED_EXITS
        })
    }
}

/// Milliseconds on the wire.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<H: Host> Session<H> {
    // The agreement.

    /// The client would like the session to outlive its connection for so long; rounded down to milliseconds. To be called
    /// before [`start`](Self::start). Nothing is asked for by default.
    pub const fn ask_resume(&mut self, window: Duration) {
        self.resumption.asked = window;
    }

    pub(super) fn asked_resume(&self) -> u64 {
        millis(self.resumption.asked)
    }

    pub(super) const fn handle_asked_resume(&mut self, window: u64) {
        self.resumption.asked = Duration::from_millis(window);
    }

    /// The server grants resume, for no longer than the client asked for. To be called before [`accept`](Self::accept). No
    /// effect if the client did not ask.
    pub fn grant(&mut self, granted: Granted) {
        let window = granted.window.min(self.asked_resume());
        if window > 0 {
            self.resumption.granted = Some(Granted { window, ..granted });
        }
    }

    /// For how long the session outlives its connection, if both ends agreed to that.
    pub fn resume_window(&self) -> Option<Duration> {
        self.resumption.agreed.as_ref().map(|agreed| agreed.window)
    }

    /// What the `Started` says of resume. From now on ordered frames are kept if it is granted.
    pub(super) fn take_granted(&mut self) -> Option<Box<Granted>> {
        let granted = self.resumption.granted.take()?;
        self.agree(&granted, None);
        Some(Box::new(granted))
    }

    /// The server's `Started` grants this.
    pub(super) fn handle_granted(&mut self, granted: &Granted) -> Result<(), Fault> {
        if granted.window > self.asked_resume() {
            return Err(Fault::Protocol);
        }
        self.agree(granted, Some(ResumeKey::new(&granted.secret)));
        // The server waits for it: until then it does not know that the client has the secret.
        self.attachment.ack_due = true;
        Ok(())
    }

    fn agree(&mut self, granted: &Granted, key: Option<ResumeKey>) {
        let window = Duration::from_millis(granted.window);
        self.resumption.agreed = Some(Agreement { window, id: granted.id, key, peer_sent: 0 });
        let bound = self.limits.max_retained.max(self.peer.window as usize + KEPT_BESIDE_WINDOW);
        self.outgoing.keep(bound);
        self.incoming.ack_often();
    }

    /// The peer's credit lets this end run so far ahead: as much must be kept without waiting.
    pub(super) fn widen_kept(&mut self) {
        if self.resumption.agreed.is_some() {
            let ahead = self.peer.balance.ahead().min(self.limits.max_window_len as u64);
            self.outgoing.widen(ahead as usize + KEPT_BESIDE_WINDOW);
        }
    }

    /// Whether the session outlives its connection now. The server waits for the client to know the secret.
    pub fn is_resumable(&self) -> bool {
        self.resumption.agreed.is_some()
            && !self.is_over()
            && (self.side == Side::Client || self.outgoing.acked > 0)
    }

    // Detached.

    /// Whether frames of the connection alone may be appended.
    #[inline]
    pub(super) const fn can_say(&self) -> bool {
        self.can_put() && !self.resumption.is_detached()
    }

    /// The epoch of the connection whose bytes are handled.
    pub fn attached(&self) -> Option<u64> {
        self.attachment.open.then_some(self.attachment.epoch)
    }

    /// Whether the session has a connection.
    pub const fn connection(&self) -> ConnectionState {
        match &self.resumption.detached {
            Some(Detached { since, until, .. }) => ConnectionState::Detached { since: *since, until: *until },
            None => ConnectionState::Attached {
                epoch: self.attachment.epoch,
                since: self.resumption.attached_since,
            },
        }
    }

    /// The change of the connection, told once.
    pub(crate) fn take_connection_change(&mut self) -> Option<ConnectionState> {
        std::mem::take(&mut self.resumption.changed).then(|| self.connection())
    }

    /// The connection is gone since then: no byte of it is handled any more.
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

    /// Time has passed for a session without a connection.
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

    /// A new connection of the client, logged in. This end asks for the session on it: the epoch of the connection, or
    /// `None` if there is nothing to resume. A connection before it is fenced.
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

    /// A client has proved that this session is its own, and goes on over a new connection. A connection before it is
    /// fenced, whether it is known to be dead or not.
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

    /// The server's answer: the session goes on.
    pub(super) fn handle_resumed(&mut self, now: Instant, received: u64, sent: u64) -> Result<(), Fault> {
        self.check_position(received, sent)?;
        self.attachment.answer_by = None;
        self.reattach(now, received, sent);
        Ok(())
    }

    /// The server's other answer: the session is over, and this is what the server still knows of it.
    pub(super) fn handle_session_lost(&mut self, tombstone: Option<Tombstone>) {
        let (reason, taken) = match tombstone {
            Some(Tombstone { taken, reason, .. }) => (reason, Some(taken)),
            None => (ExitReason::NoConnection, None),
        };
        self.lose(reason, taken);
    }

    /// Whether the peer can be where it says that it is.
    fn check_position(&self, received: u64, sent: u64) -> Result<(), Fault> {
        let possible = (self.outgoing.acked..=self.outgoing.number).contains(&received);
        if possible && sent >= self.incoming.number.max(self.resumption.peer_sent()) {
            Ok(())
        } else {
            Err(Fault::Protocol)
        }
    }

    /// Both ends know how far the other is: what is missing is written again.
    fn reattach(&mut self, now: Instant, received: u64, sent: u64) {
        if let Some(agreed) = &mut self.resumption.agreed {
            agreed.peer_sent = sent;
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

    /// What is to be kept of a session of the server that is over, for a client that asks for it. `None` where the client
    /// needs none: nothing was granted, or its own `Ended` came.
    pub fn tombstone(&self) -> Option<Tombstone> {
        self.over_record().and_then(|over| over.tombstone.clone())
    }

    /// Whether the session ended because nobody came back in time.
    pub fn has_expired(&self) -> bool {
        self.over_record().is_some_and(|over| over.expired)
    }

    /// What a tombstone says of a session that ends now. Every message that came may have been taken, unless this end has
    /// said otherwise in an `Ended` that did not get through.
    pub(super) fn bury(&self, ending: &Ending) -> Option<Tombstone> {
        // A client whose own `Ended` has come knows how it ended.
        if self.side != Side::Server || !self.is_resumable() || ending.taken.is_some() {
            return None;
        }
        let received = self.incoming.number;
        let (taken, reason) = match &self.life {
            Life::Closing { said, .. } => said.clone(),
            _ => (received, ending.reason.clone()),
        };
        Some(Tombstone { received, taken, reason })
    }
}
