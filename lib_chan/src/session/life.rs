//! The life of a session: how it opens, and how it ends.
//!
//! ```text
//!             ┌───────────────── Opening ─────────────────┐
//!             │        start / Start                      │ accept / Started
//!             │ Start ───────────────▶ Answer             ├───────────────────▶ Open
//!             └──────────────────────┬────────────────────┘                      │
//!                                    │                                           │ end: Ended goes
//!                Refuse, Ended, end, │             ┌─────────────────────────────┤
//!                break-off, loss     │             │ the peer's Ended,           ▼
//!                                    │             │ break-off, loss          Closing
//!                                    ▼             ▼                             │
//!                                   Over ◀─────────┴─────────────────────────────┘
//!                                                    the peer's Ended, its deadline, break-off, loss
//! ```
//!
//! With [resume](super::resume), a lost connection does not end the session: `Open` and `Closing` continue without a
//! connection. In the picture, loss then means that the window ended without another connection.
//!
//! Only [`Life::Opening`] and [`Life::Open`] append frames. A session that is over has woken every waiter.

use std::time::{Duration, Instant};

use super::{
    Delivery, Host, NotOpened, Session, StartRefused, answers::IncompletePayloads, inbox::Receiver,
    long::IncompleteMessages, public, queue::Sort,
};
use crate::{
    CallError, CallFailure, Executed, ExitReason, after,
    handshake::Side,
    wire::{self, Frame, RefuseCode, Tombstone},
};

/// A deadline that can be postponed, but not beyond `last`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    last: Instant,
}

impl Deadline {
    pub(super) const fn new(at: Instant) -> Self {
        Self { at, last: at }
    }
}

/// The state of a session's life. The [module](self) draws the transitions.
#[derive(Debug)]
pub(super) enum Life {
    Opening {
        expects: Expects,
        /// The time by which the client must have sent its `Start`.
        deadline: Option<Deadline>,
    },
    Open,
    /// This end has sent its `Ended` and waits for the peer's.
    Closing {
        deadline: Option<Deadline>,
        /// The content of the `Ended`: the last message that this end took, and the reason.
        said: (u64, ExitReason),
    },
    Over(Over),
}

/// The frame that an opening waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expects {
    /// The client's `Start`.
    Start,
    /// The server's answer.
    Answer,
}

/// The record of a session that is over.
#[derive(Debug)]
pub(super) struct Over {
    /// The reason that the processes of this end are told.
    reason: ExitReason,
    /// The session had been open.
    opened: bool,
    /// The session ended with its connection, so nothing may be written any more.
    lost: bool,
    /// The server refused the `Start`, so the session never opened.
    refused: Option<StartRefused>,
    /// The session was detached, and its window ended.
    pub(super) expired: bool,
    /// The answer for a client that comes back.
    pub(super) tombstone: Option<Tombstone>,
}

impl Life {
    const fn deadline(&self) -> Option<&Deadline> {
        match self {
            Self::Opening { deadline, .. } | Self::Closing { deadline, .. } => deadline.as_ref(),
            Self::Open | Self::Over(_) => None,
        }
    }

    /// Restarts the running deadline, because this end did not run for a while.
    pub(super) fn restart(&mut self, now: Instant, login: Duration, close: Duration) {
        let (deadline, wait) = match self {
            Self::Opening { deadline: Some(deadline), .. } => (deadline, login),
            Self::Closing { deadline: Some(deadline), .. } => (deadline, close),
            _ => return,
        };
        let at = after(now, wait);
        *deadline = Deadline { at, last: deadline.last.max(at) };
    }
}

/// The circumstances of an ending.
pub(super) struct Ending {
    pub(super) reason: ExitReason,
    /// The owner of this end ended the session, so the far owner lives.
    pub(super) far_owner_lives: bool,
    /// The number of the last message that the far owner took, if the peer has said so.
    pub(super) taken: Option<u64>,
    /// The position in the output that the peer may have received: see `Outgoing::reached`.
    pub(super) reached: u64,
}

impl<H: Host> Session<H> {
    /// Returns the outcome of the opening, once it is known.
    ///
    /// # Errors
    /// The refusal, or the end of the session.
    pub fn poll_open(&mut self) -> Option<Result<(), NotOpened>> {
        match &mut self.life {
            Life::Opening { .. } => None,
            Life::Open | Life::Closing { .. } => Some(Ok(())),
            Life::Over(over) => Some(match over.refused.take() {
                Some(refused) => Err(NotOpened::Refused(refused)),
                None if over.opened => Ok(()),
                None => Err(NotOpened::Ended(over.reason.clone())),
            }),
        }
    }

    /// Returns `true` once the session has opened, also after its end.
    pub const fn is_open(&self) -> bool {
        match &self.life {
            Life::Opening { .. } => false,
            Life::Open | Life::Closing { .. } => true,
            Life::Over(over) => over.opened,
        }
    }

    /// Returns `true` while messages may be sent.
    pub(super) const fn takes_messages(&self) -> bool {
        matches!(self.life, Life::Open)
    }

    /// Returns `true` for a client that waits for the answer to its `Start`. Such a client may cast at once.
    pub(super) fn has_asked(&self) -> bool {
        self.side == Side::Client && matches!(self.life, Life::Opening { expects: Expects::Answer, .. })
    }

    /// Returns `true` while frames may be appended. Nothing follows an `Ended`.
    #[inline]
    pub(super) const fn can_put(&self) -> bool {
        matches!(self.life, Life::Opening { .. } | Life::Open)
    }

    /// Ends the session because the owner of this end has ended or let go. Tells the peer the last message that the
    /// owner took, or a later one that a handed-out process may take. `deadline` bounds the wait for the peer's answer. The wait is extended while the peer accepts what
    /// was sent before, for as long as a peer may take that does not stall.
    pub(crate) fn end(&mut self, reason: ExitReason, taken: u64, deadline: Option<Instant>) {
        if !self.can_put() {
            return;
        }
        let opened = self.is_open();
        let taken = taken.max(self.incoming.handed);
        let said = (taken, reason.clone());
        self.outgoing.put(&Frame::Ended { taken, reason });
        let (stall, least) = (self.limits.stall_timeout, self.limits.min_accepted.max(1));
        let periods = self.outgoing.unacked().div_ceil(least as u64);
        let slowest = stall.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX));
        let deadline = deadline.map(|at| Deadline { at, last: after(at, slowest) });
        self.fail_waiting(&ExitReason::Normal);
        if opened {
            self.life = Life::Closing { deadline, said };
        } else {
            self.finish(Ending {
                reason: ExitReason::Normal,
                far_owner_lives: false,
                taken: None,
                reached: self.outgoing.end(),
            });
        }
    }

    /// Ends the session for both ends at once and with one reason, because the peer broke a rule or a right was
    /// withdrawn.
    pub fn break_off(&mut self, reason: ExitReason) {
        if self.is_over() {
            return;
        }
        if self.resumption.is_detached() {
            // Nothing can be sent. A client that comes back gets the reason from the tombstone.
            return self.lose(reason, None);
        }
        if self.can_put() {
            self.outgoing.put(&Frame::Ended { taken: self.incoming.number, reason: reason.clone() });
        }
        // Everything appended so far is still sent, before the `Ended`.
        let reached = self.outgoing.end();
        self.finish(Ending { reason, far_owner_lives: false, taken: None, reached });
    }

    /// Refuses the client's `Start`, and ends the session.
    pub fn refuse_start(&mut self, code: RefuseCode, text: &str) {
        if !self.is_over() {
            let text = match code {
                RefuseCode::Interface => crate::exit::cut(text, wire::MAX_INTERFACE_LEN),
                _ => public(text),
            };
            self.outgoing.put(&Frame::Refuse { call: 0, code, text });
            self.end(ExitReason::Normal, 0, None);
        }
    }

    /// Ends the session because the server refused the `Start`.
    pub(super) fn handle_start_refused(&mut self, refused: StartRefused) {
        let (reason, reached) = (ExitReason::Normal, self.outgoing.end());
        self.finish(Ending { reason, far_owner_lives: false, taken: None, reached });
        if let Life::Over(over) = &mut self.life {
            over.refused = Some(refused);
        }
    }

    /// Handles the loss of the connection: no byte comes or goes over it any more. Ends the session, or
    /// [detaches](super::resume) it.
    pub(crate) fn handle_loss(&mut self, now: Instant) {
        if self.is_resumable() {
            self.detach(now, now);
        } else {
            self.lose(ExitReason::NoConnection, None);
        }
    }

    /// Ends the session as lost. `taken` is the last message that the far owner took, if the peer said so. A driver
    /// that could still write must not: messages that the stream has not accepted are reported as never sent
    /// ([`is_lost`](Self::is_lost)).
    pub(crate) fn lose(&mut self, reason: ExitReason, taken: Option<u64>) {
        let reached = self.outgoing.reached();
        self.lose_with(Ending { reason, far_owner_lives: false, taken, reached });
    }

    pub(super) fn lose_with(&mut self, ending: Ending) {
        if self.is_over() {
            return;
        }
        self.finish(ending);
        self.outgoing.clear();
        if let Life::Over(over) = &mut self.life {
            over.lost = true;
        }
    }

    /// Ends a detached session whose window is over.
    pub(super) fn expire(&mut self) {
        self.lose(ExitReason::NoConnection, None);
        if let Life::Over(over) = &mut self.life {
            over.expired = true;
        }
    }

    /// Gives every waiter its one ending, and ends the session.
    pub(super) fn finish(&mut self, ending: Ending) {
        if self.is_over() {
            return;
        }
        let tombstone = self.bury(&ending);
        let Ending { reason, far_owner_lives, taken, reached } = ending;
        let (opened, lost, refused, expired) = (self.is_open(), false, None, false);
        self.life = Life::Over(Over { reason: reason.clone(), opened, lost, refused, expired, tombstone });
        self.fail_waiting(&reason);
        let executed = |number: u64, end: u64| match taken {
            Some(taken) if number > taken => Executed::No,
            _ if end > reached => Executed::No,
            _ => Executed::Unknown,
        };
        self.asking.end(&reason, executed, &mut self.woken);
        self.quota.counts.ended += self.owing.end(&mut self.woken);
        self.border.end(&reason, far_owner_lives);
        self.imports.clear();
        self.deliveries.append(&mut self.border.deliveries);
        if self.inbox.receiver == Receiver::HandedOver {
            self.deliveries.push(Delivery::Over(reason));
        }
        self.woken.extend(self.flushes.take());
        drop(self.attachment.take_partial());
        self.incomplete = IncompletePayloads::default();
        self.incomplete_messages = IncompleteMessages::default();
        // A session that is over is never replayed.
        if self.resumption.is_detached() {
            self.outgoing.clear();
        } else {
            self.outgoing.forget();
        }
    }

    /// Fails the messages that were never appended.
    fn fail_waiting(&mut self, reason: &ExitReason) {
        for waiting in self.queues.drain() {
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

    /// Returns the reason of the end, once the session is over. The links and monitors of this end's processes on the
    /// far owner get the same reason.
    pub const fn over(&self) -> Option<&ExitReason> {
        match &self.life {
            Life::Over(over) => Some(&over.reason),
            _ => None,
        }
    }

    pub(super) const fn over_record(&self) -> Option<&Over> {
        match &self.life {
            Life::Over(over) => Some(over),
            _ => None,
        }
    }

    /// Returns `true` once the session is over. Input has no effect from then on.
    pub const fn is_over(&self) -> bool {
        matches!(self.life, Life::Over(_))
    }

    /// Returns `true` if the session ended with its connection, so that nothing may be written any more.
    pub const fn is_lost(&self) -> bool {
        matches!(self.life, Life::Over(Over { lost: true, .. }))
    }

    /// Returns `true` once this end appends no more frames.
    pub const fn has_let_go(&self) -> bool {
        !self.can_put()
    }

    /// Returns `true` once everything that this end will ever write has been written. While a `Resume` is unanswered,
    /// kept frames may follow.
    pub(crate) fn has_said_all(&self) -> bool {
        self.has_let_go() && !self.has_output() && (self.is_over() || !self.resumption.is_detached())
    }

    /// Returns the reason for an operation that comes too late.
    pub(super) fn over_reason(&self) -> ExitReason {
        self.over().cloned().unwrap_or(ExitReason::Normal)
    }

    /// Returns the deadline of the current state, if it has one. A server without a connection has none: it keeps its
    /// `Ended` for the window of resume.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.side == Side::Server && self.resumption.is_detached() {
            return None;
        }
        self.life.deadline().map(|deadline| deadline.at)
    }

    /// Extends the wait for the peer's `Ended`, because the peer makes progress.
    pub(super) fn put_off_deadline(&mut self, now: Instant, wait: Duration) {
        if let Life::Closing { deadline: Some(deadline), .. } = &mut self.life
            && now < deadline.at
        {
            deadline.at = deadline.at.max(after(now, wait).min(deadline.last));
        }
    }
}
