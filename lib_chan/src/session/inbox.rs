//! What comes for the owner: how much of it may, and where it goes.

use std::{collections::VecDeque, time::Instant};

use super::{
    Delivery, Host, Inbound, InboundKind, Session, WindowChange, border::OWNER, credit::Grant, window::Tuner,
};
use crate::wire::{Frame, RefuseCode};

/// What becomes of messages that come in for the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiver {
    /// They wait in the inbox.
    Reads,
    /// They are handed over, in one order with the signals.
    HandedOver,
    /// Given up: casts are discarded, calls refused.
    Gone,
}

/// The owner's side of the messages that come in.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) receiver: Receiver,
    pub(super) messages: VecDeque<Inbound>,
    discarded: u64,
    pub(super) grant: Grant,
    pub(super) tuner: Tuner,
    /// The driver is to be told that the window should be wider, or is narrower.
    change: Option<WindowChange>,
}

impl Inbox {
    /// The credit window is `window` at first and at most `max`.
    pub(super) fn new(window: u64, max: u64, now: Instant) -> Self {
        Self {
            receiver: Receiver::Reads,
            messages: VecDeque::new(),
            discarded: 0,
            grant: Grant::new(window),
            tuner: Tuner::new(window, max, now),
            change: None,
        }
    }
}

impl<H: Host> Session<H> {
    /// The window that this end grants should be so long.
    pub(super) fn resize_window(&mut self, window: u64) {
        let Inbox { grant, tuner, .. } = &self.inbox;
        let (extra, now_extra) = (tuner.extra(window), tuner.extra(grant.window()));
        if extra > now_extra {
            self.inbox.change = Some(WindowChange::Wanted(extra - now_extra));
            return;
        }
        self.set_window(window);
        self.inbox.change = Some(WindowChange::Narrowed(extra));
    }

    /// Makes the window that this end grants so many bytes wider.
    pub(crate) fn widen(&mut self, more: u64) {
        if more == 0 {
            self.inbox.tuner.refuse();
        } else if !self.is_over() {
            self.set_window(self.inbox.grant.window() + more);
        }
    }

    fn set_window(&mut self, window: u64) {
        if let Some(total) = self.inbox.grant.resize(window) {
            self.put_credit(OWNER, total);
        }
    }

    /// Tells the peer how much this process has granted to it in all.
    pub(super) fn put_credit(&mut self, id: u64, total: u64) {
        if self.can_say() {
            self.outgoing.put(&Frame::Credit { id, total });
        }
    }

    /// What becomes of the window, once for each change.
    pub(crate) const fn take_window_change(&mut self) -> Option<WindowChange> {
        self.inbox.change.take()
    }

    /// Moves the messages that came for the owner to the end of `batch`.
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

    /// Whether the answer of a call that is about to be taken is still wanted; if not it is refused here.
    pub fn wants_answer(&mut self, call: u64, now: Instant) -> bool {
        let wanted = self.owing.is_wanted(call, now);
        if !wanted {
            self.refuse(call, RefuseCode::Refused, "the caller stopped waiting");
        }
        wanted
    }

    /// The owner took messages of this cost: the peer may send as much more.
    pub(crate) fn give_back(&mut self, cost: u64) {
        if let Some(total) = self.inbox.grant.give_back(cost) {
            self.put_credit(OWNER, total);
        }
    }

    /// From now on what comes for the owner is a delivery, in one order with the signals; what waits comes first.
    /// `first` are messages taken from the inbox that nobody has looked at.
    pub(crate) fn hand_over(&mut self, first: impl Iterator<Item = Inbound>) {
        self.inbox.receiver = Receiver::HandedOver;
        self.deliveries.extend(first.chain(self.inbox.messages.drain(..)).map(Delivery::Inbound));
        self.deliveries.extend(self.over().cloned().map(Delivery::Over));
    }

    /// Nobody reads any more: what came and what comes is discarded, calls are refused.
    pub(crate) fn give_up_receiving(&mut self) {
        self.inbox.receiver = Receiver::Gone;
        for message in std::mem::take(&mut self.inbox.messages) {
            self.discard(&message);
        }
    }

    /// Discards a message untaken: its credit returns, and a call is refused.
    pub(crate) fn discard(&mut self, message: &Inbound) {
        self.inbox.discarded += 1;
        self.give_back(message.cost());
        if let InboundKind::Call { call } = message.kind {
            self.refuse(call, RefuseCode::Refused, "nobody receives calls at this end");
        }
    }

    /// A message came for a process that the peer may not send to.
    pub(super) fn refuse_unreachable(&mut self, message: &Inbound) {
        self.inbox.discarded += 1;
        if let InboundKind::Call { call } = message.kind {
            self.refuse(call, RefuseCode::Refused, "no such process");
        }
    }

    /// Messages that came when nobody received any more.
    pub const fn discarded(&self) -> u64 {
        self.inbox.discarded
    }
}
