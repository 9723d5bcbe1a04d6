//! Messages for the owner: the window that it grants, and the place where its messages go.

use std::{collections::VecDeque, time::Instant};

use super::{
    Delivery, Host, Inbound, InboundKind, Session, WindowChange, border::OWNER, credit::Grant, window::Tuner,
};
use crate::wire::{Frame, RefuseCode};

/// The place where received messages for the owner go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiver {
    /// Messages wait in the inbox until the reader fetches them.
    Reads,
    /// Messages become deliveries, in one order with the signals.
    HandedOver,
    /// Nobody receives: casts are discarded and calls refused.
    Gone,
}

/// The receiving side of the owner.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) receiver: Receiver,
    pub(super) messages: VecDeque<Inbound>,
    discarded: u64,
    pub(super) grant: Grant,
    pub(super) tuner: Tuner,
    /// A process whose window should be so many bytes wider.
    wanted: Option<(u64, u64)>,
    /// Windows are narrower than they were.
    narrowed: bool,
    /// The program's room that the windows have.
    room: u64,
}

impl Inbox {
    /// Creates an inbox with a credit window of `window` bytes, which may grow to `max`.
    pub(super) fn new(window: u64, max: u64, now: Instant) -> Self {
        Self {
            receiver: Receiver::Reads,
            messages: VecDeque::new(),
            discarded: 0,
            grant: Grant::new(window),
            tuner: Tuner::new(window, max, now),
            wanted: None,
            narrowed: false,
            room: 0,
        }
    }
}

impl<H: Host> Session<H> {
    /// Brings the window that this end grants to this length.
    pub(super) fn resize_window(&mut self, window: u64) {
        let Inbox { grant, tuner, .. } = &self.inbox;
        let (extra, now_extra) = (tuner.extra(window), tuner.extra(grant.window()));
        if extra > now_extra {
            match self.room_for(extra - now_extra) {
                0 => self.inbox.tuner.refuse(),
                more => drop(self.inbox.wanted.get_or_insert((OWNER, more))),
            }
            return;
        }
        self.set_window(window);
        self.inbox.narrowed = true;
    }

    /// Widens the window that this end grants to a process by `more` bytes.
    pub(crate) fn widen(&mut self, id: u64, more: u64) {
        self.inbox.room += more;
        if more == 0 {
            self.inbox.tuner.refuse();
        } else if id == OWNER && !self.is_over() {
            self.set_window(self.inbox.grant.window() + more);
        } else if let Some(total) = self.border.ids.widen(id, more) {
            self.put_credit(id, total);
        } else {
            // The process is gone, and its room returns.
            self.inbox.narrowed = true;
        }
    }

    /// Returns the bytes by which all windows together have grown.
    fn extra(&self) -> u64 {
        self.inbox.tuner.extra(self.inbox.grant.window()) + self.border.ids.extra()
    }

    /// Returns the part of `more` by which a window may grow. All windows together may grow as far as one.
    fn room_for(&self, more: u64) -> u64 {
        more.min(self.inbox.tuner.room(self.extra()))
    }

    /// Asks for a wider window for a handed-out process that takes a whole window in less than two round trips, so that its
    /// sender waits for credit.
    pub(super) fn follow_path(&mut self, id: u64) {
        let Some(rtt) = self.inbox.tuner.rtt() else { return };
        let now = self.attachment.last_heard();
        if let Some(window) = self.border.ids.short_window(id, now, 2 * rtt) {
            let more = self.room_for(window);
            if more > 0 {
                self.inbox.wanted.get_or_insert((id, more));
            }
        }
    }

    /// Brings the windows of an idle session back to their first lengths.
    pub(super) fn narrow_windows(&mut self) {
        if let Some(window) = self.inbox.tuner.idle(self.inbox.grant.window()) {
            self.resize_window(window);
        }
        self.border.ids.narrow();
    }

    fn set_window(&mut self, window: u64) {
        if let Some(total) = self.inbox.grant.resize(window) {
            self.put_credit(OWNER, total);
        }
    }

    /// Tells the peer the total credit that this process has granted.
    pub(super) fn put_credit(&mut self, id: u64, total: u64) {
        if self.can_say() {
            self.outgoing.put(&Frame::Credit { id, total });
        }
    }

    /// Returns a change of the windows, once.
    pub(crate) fn take_window_change(&mut self) -> Option<WindowChange> {
        let handed_narrowed = self.border.ids.take_narrowed();
        if std::mem::take(&mut self.inbox.narrowed) || handed_narrowed {
            let less = self.inbox.room.saturating_sub(self.extra());
            self.inbox.room -= less;
            if less > 0 {
                return Some(WindowChange::Narrowed(less));
            }
        }
        self.inbox.wanted.take().map(|(id, more)| WindowChange::Wanted { id, more })
    }

    /// Moves the received messages of the owner to the end of `batch`.
    pub(crate) fn take_inbox(&mut self, batch: &mut VecDeque<Inbound>) {
        if batch.is_empty() {
            std::mem::swap(batch, &mut self.inbox.messages);
        } else {
            batch.append(&mut self.inbox.messages);
        }
    }

    /// Whether messages wait for the owner.
    pub fn has_inbox(&self) -> bool {
        !self.inbox.messages.is_empty()
    }

    /// Returns `true` if the caller still waits for the answer.
    pub fn is_wanted(&self, call: u64, now: Instant) -> bool {
        self.owing.is_wanted(call, now)
    }

    /// Returns `true` if the caller still waits for the answer of a call that is about to be taken. Refuses the call
    /// otherwise.
    pub fn wants_answer(&mut self, call: u64, now: Instant) -> bool {
        let wanted = self.is_wanted(call, now);
        if !wanted {
            self.refuse(call, RefuseCode::Refused, "the caller stopped waiting");
        }
        wanted
    }

    /// Returns the credit of messages that the owner took.
    pub(crate) fn give_back(&mut self, cost: u64) {
        if let Some(total) = self.inbox.grant.give_back(cost) {
            self.put_credit(OWNER, total);
        }
    }

    /// From now on, messages for the owner are deliveries, in one order with the signals. Waiting messages come
    /// first, and before them `first`, which were fetched from the inbox and not taken.
    pub(crate) fn hand_over(&mut self, first: impl Iterator<Item = Inbound>) {
        self.inbox.receiver = Receiver::HandedOver;
        self.deliveries.extend(first.chain(self.inbox.messages.drain(..)).map(Delivery::Inbound));
        self.deliveries.extend(self.over().cloned().map(Delivery::Over));
    }

    /// Stops receiving: discards received and future casts, and refuses calls.
    pub(crate) fn give_up_receiving(&mut self) {
        self.inbox.receiver = Receiver::Gone;
        for message in std::mem::take(&mut self.inbox.messages) {
            self.discard(&message);
        }
    }

    /// Discards a message that was not taken: returns its credit, and refuses a call.
    pub(crate) fn discard(&mut self, message: &Inbound) {
        self.inbox.discarded += 1;
        self.give_back(message.cost());
        if let InboundKind::Call { call } = message.kind {
            self.refuse(call, RefuseCode::Refused, "nobody receives calls at this end");
        }
    }

    /// Discards a message that a handed-out process will not take: returns its credit, and refuses a call.
    pub(crate) fn discard_handed(&mut self, id: u64, message: &Inbound) {
        self.inbox.discarded += 1;
        self.give_back_to(id, message.cost());
        if let InboundKind::Call { call } = message.kind {
            self.refuse(call, RefuseCode::Refused, "no such process");
        }
    }

    /// Refuses a message for a process that the peer may not send to.
    pub(super) fn refuse_unreachable(&mut self, id: u64, message: &Inbound) {
        self.inbox.discarded += 1;
        if self.border.ids.is_gone(id) && self.can_say() {
            let total = self.border.ids.total(id);
            self.outgoing.reflect(&Frame::Credit { id, total });
            self.check_unsent();
        }
        if let InboundKind::Call { call } = message.kind {
            self.refuse(call, RefuseCode::Refused, "no such process");
        }
    }

    /// Returns the number of messages that were discarded because nobody received.
    pub const fn discarded(&self) -> u64 {
        self.inbox.discarded
    }
}
