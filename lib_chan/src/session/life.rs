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
//! With [resume](super::resume) a loss ends nothing by itself: `Open` and `Closing` may be attached to a connection or not,
//! and loss in the picture is the end of the window without another connection.
//!
//! Only [`Life::Opening`] and [`Life::Open`] append frames. A session that is over has told everybody who waits.

use std::time::{Duration, Instant};

use super::{
    Delivery, Host, NotOpened, Session, StartRefused, answers::IncompleteAnswers, inbox::Receiver, public,
    queue::Sort,
};
use crate::{
    CallError, CallFailure, Executed, ExitReason, after,
    handshake::Side,
    wire::{Frame, RefuseCode, Tombstone},
};

/// When something must have happened; it may be put off, but not beyond `last`.
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

/// Where a session is in its life: see the [module](self).
#[derive(Debug)]
pub(super) enum Life {
    Opening {
        expects: Expects,
        /// When the client must have said what it wants.
        deadline: Option<Deadline>,
    },
    Open,
    /// This end sent its `Ended`, and waits for the peer's.
    Closing {
        deadline: Option<Deadline>,
        /// What the `Ended` says: the last message that this end took, and why it ended.
        said: (u64, ExitReason),
    },
    Over(Over),
}

/// What an opening waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expects {
    /// The client's `Start`.
    Start,
    /// The server's answer.
    Answer,
}

/// A session that is over.
#[derive(Debug)]
pub(super) struct Over {
    /// Why, for this end's processes.
    reason: ExitReason,
    /// It had been open.
    opened: bool,
    /// It ended because the connection did: nothing may be written any more.
    lost: bool,
    /// It did not open because the server refused the `Start`.
    refused: Option<StartRefused>,
    /// It was detached, and nobody came back in time.
    pub(super) expired: bool,
    /// What a client that comes back is told.
    pub(super) tombstone: Option<Tombstone>,
}

impl Life {
    const fn deadline(&self) -> Option<&Deadline> {
        match self {
            Self::Opening { deadline, .. } | Self::Closing { deadline, .. } => deadline.as_ref(),
            Self::Open | Self::Over(_) => None,
        }
    }

    /// The time that is left, anew: this end did not run for a while.
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

/// How a session comes to its end.
pub(super) struct Ending {
    pub(super) reason: ExitReason,
    /// It was this end's owner that ended the session.
    pub(super) far_owner_lives: bool,
    /// What the far owner took, when it said so.
    pub(super) taken: Option<u64>,
    /// How far frames may have got to it: see `Outgoing::reached`.
    pub(super) reached: u64,
}

impl<H: Host> Session<H> {
    /// How the opening went, once that is known.
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

    /// Whether it has opened.
    pub const fn is_open(&self) -> bool {
        match &self.life {
            Life::Opening { .. } => false,
            Life::Open | Life::Closing { .. } => true,
            Life::Over(over) => over.opened,
        }
    }

    /// Whether messages may be sent.
    pub(super) const fn takes_messages(&self) -> bool {
        matches!(self.life, Life::Open)
    }

    /// Whether this is a client that waits for the answer to its `Start`. Its casts may follow at once, unless they are to be
    /// kept for another connection, which is not agreed upon yet.
    pub(super) fn has_asked(&self) -> bool {
        self.side == Side::Client
            && self.asked_resume() == 0
            && matches!(self.life, Life::Opening { expects: Expects::Answer, .. })
    }

    /// Whether frames may be appended: nothing follows an `Ended`.
    #[inline]
    pub(super) const fn can_put(&self) -> bool {
        matches!(self.life, Life::Opening { .. } | Life::Open)
    }

    /// This end's owner ended, or let go: the peer is told, with the number of the last message it took. `deadline`
    /// bounds the wait for the peer's answer. While the peer makes progress with what was sent before, the wait goes
    /// on, for as long as a peer may take that does not stall.
    pub(crate) fn end(&mut self, reason: ExitReason, taken: u64, deadline: Option<Instant>) {
        if !self.can_put() {
            return;
        }
        let opened = self.is_open();
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

    /// Ends the session for both ends at once, with the same reason: for the peer's fault, or because a right was
    /// withdrawn.
    pub fn break_off(&mut self, reason: ExitReason) {
        if self.is_over() {
            return;
        }
        if self.resumption.is_detached() {
            // Nothing more goes out. A client that comes back gets the reason from the tombstone.
            return self.lose(reason, None);
        }
        if self.can_put() {
            self.outgoing.put(&Frame::Ended { taken: self.incoming.number, reason: reason.clone() });
        }
        // All that was appended still goes out, in front of the `Ended`.
        let reached = self.outgoing.end();
        self.finish(Ending { reason, far_owner_lives: false, taken: None, reached });
    }

    /// Refuses the client's `Start`, and ends the session.
    pub fn refuse_start(&mut self, code: RefuseCode, text: &str) {
        if !self.is_over() {
            self.outgoing.put(&Frame::Refuse { call: 0, code, text: public(text) });
            self.end(ExitReason::Normal, 0, None);
        }
    }

    /// The server refused the `Start`.
    pub(super) fn handle_start_refused(&mut self, refused: StartRefused) {
        let (reason, reached) = (ExitReason::Normal, self.outgoing.end());
        self.finish(Ending { reason, far_owner_lives: false, taken: None, reached });
        if let Life::Over(over) = &mut self.life {
            over.refused = Some(refused);
        }
    }

    /// The connection is gone, or must be taken for gone: nothing more comes or goes over it. The session ends with it,
    /// or goes on [detached](super::resume).
    pub(crate) fn handle_loss(&mut self, now: Instant) {
        if self.is_resumable() {
            self.detach(now, now);
        } else {
            self.lose(ExitReason::NoConnection, None);
        }
    }

    /// The session is lost, with or without a word of the peer about what its owner took. A driver that could still write
    /// must not: what was not accepted is reported never to have been sent ([`is_lost`](Self::is_lost)).
    pub(crate) fn lose(&mut self, reason: ExitReason, taken: Option<u64>) {
        if self.is_over() {
            return;
        }
        let reached = self.outgoing.reached();
        self.finish(Ending { reason, far_owner_lives: false, taken, reached });
        self.outgoing.clear();
        if let Life::Over(over) = &mut self.life {
            over.lost = true;
        }
    }

    /// Nobody came back in time.
    pub(super) fn expire(&mut self) {
        self.lose(ExitReason::NoConnection, None);
        if let Life::Over(over) = &mut self.life {
            over.expired = true;
        }
    }

    /// Everything that waits gets its one ending.
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
        self.owing.end(&mut self.woken);
        self.border.end(&reason, far_owner_lives);
        self.deliveries.append(&mut self.border.deliveries);
        if self.inbox.receiver == Receiver::HandedOver {
            self.deliveries.push(Delivery::Over(reason));
        }
        self.woken.extend(self.flushes.take());
        drop(self.attachment.take_partial());
        self.incomplete = IncompleteAnswers::default();
        // Nothing is written again.
        if self.resumption.is_detached() {
            self.outgoing.clear();
        } else {
            self.outgoing.forget();
        }
    }

    /// Messages that were never appended fail.
    fn fail_waiting(&mut self, reason: &ExitReason) {
        for waiting in self.queue.drain() {
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

    /// Why the session ended, once it has: what the far owner's links and monitors here were told.
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

    /// Whether it is over: nothing that comes in matters any more.
    pub const fn is_over(&self) -> bool {
        matches!(self.life, Life::Over(_))
    }

    /// Whether the session ended because the connection did, so that nothing may be written any more.
    pub const fn is_lost(&self) -> bool {
        matches!(self.life, Life::Over(Over { lost: true, .. }))
    }

    /// Whether this end will append nothing more of its own.
    pub const fn has_let_go(&self) -> bool {
        !self.can_put()
    }

    /// Whether all has been written that this end will ever write. While a `Resume` is not answered, what is kept may follow.
    pub(crate) fn has_said_all(&self) -> bool {
        self.has_let_go() && !self.has_output() && (self.is_over() || !self.resumption.is_detached())
    }

    /// The reason for what comes too late.
    pub(super) fn over_reason(&self) -> ExitReason {
        self.over().cloned().unwrap_or(ExitReason::Normal)
    }

    /// When something must have happened, if anything must. A server without a connection keeps its `Ended` for the window of
    /// resume.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.side == Side::Server && self.resumption.is_detached() {
            return None;
        }
        self.life.deadline().map(|deadline| deadline.at)
    }

    /// The peer makes progress: it may take so much longer to answer the end of this session.
    pub(super) fn put_off_deadline(&mut self, now: Instant, wait: Duration) {
        if let Life::Closing { deadline: Some(deadline), .. } = &mut self.life
            && now < deadline.at
        {
            deadline.at = deadline.at.max(after(now, wait).min(deadline.last));
        }
    }
}
