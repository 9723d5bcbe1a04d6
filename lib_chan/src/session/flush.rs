//! Waits for an acknowledgement of everything sent before.

use std::collections::BTreeMap;

use super::{Host, Session};
use crate::{ExitReason, wire::Frame};

/// A wait for the acknowledgement of everything sent before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flush {
    /// The number of the last ordered frame sent before it.
    pub(super) number: u64,
    ticket: u64,
}

/// All waits for an acknowledgement.
#[derive(Debug)]
pub(super) struct Flushes<W> {
    waiting: BTreeMap<Flush, W>,
    last: Flush,
}

impl<W> Default for Flushes<W> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), last: Flush::default() }
    }
}

impl<W> Flushes<W> {
    /// Adds a wait for the acknowledgement of frame `number`.
    pub(super) const fn begin(&mut self, number: u64) -> Flush {
        self.last = Flush { number, ticket: self.last.ticket + 1 };
        self.last
    }

    /// Returns the highest frame number that is waited for.
    pub(super) const fn wanted(&self) -> u64 {
        self.last.number
    }

    pub(super) fn wait(&mut self, flush: Flush, waiter: W) {
        self.waiting.insert(flush, waiter);
    }

    pub(super) fn forget(&mut self, flush: Flush) {
        self.waiting.remove(&flush);
    }

    /// Handles the acknowledgement of the frames up to `number`. Returns the waiters to wake.
    pub(super) fn acked(&mut self, number: u64) -> impl Iterator<Item = W> {
        let later = self.waiting.split_off(&Flush { number: number + 1, ticket: 0 });
        std::mem::replace(&mut self.waiting, later).into_values()
    }

    /// Takes all waiters.
    pub(super) fn take(&mut self) -> impl Iterator<Item = W> {
        std::mem::take(&mut self.waiting).into_values()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

impl<H: Host> Session<H> {
    /// Asks the peer to acknowledge everything sent so far. Returns the value for
    /// [`poll_flushed`](Self::poll_flushed). Queued messages are not sent yet, and do not count.
    pub fn flush(&mut self) -> Flush {
        self.outgoing.put_answers();
        let flush = self.flushes.begin(self.outgoing.number);
        self.ping_for_flush();
        flush
    }

    /// Sends one ping at a time, however many tasks flush or wait for room: the pongs count against a bound of the
    /// peer.
    pub(super) fn ping_for_flush(&mut self) {
        let acked = self.outgoing.acked;
        let waits = acked < self.flushes.wanted() || !self.queues.is_empty() && self.outgoing.is_at_bound();
        if waits && self.attachment.flush_pinged <= acked && self.can_say() {
            self.attachment.flush_pinged = self.outgoing.number;
            self.outgoing.put(&Frame::Ping { token: self.outgoing.number });
        }
    }

    /// Removes the waiter of this flush.
    pub fn forget_flush(&mut self, flush: Flush) {
        self.flushes.forget(flush);
    }

    /// Returns the outcome of a flush. Until then, stores a waiter.
    ///
    /// # Errors
    /// The reason of the session's end, if it came first.
    pub fn poll_flushed(
        &mut self,
        flush: Flush,
        waiter: impl FnOnce() -> H::Waiter,
    ) -> Option<Result<(), ExitReason>> {
        if self.outgoing.acked >= flush.number {
            return Some(Ok(()));
        }
        if self.is_over() {
            return Some(Err(self.over_reason()));
        }
        self.flushes.wait(flush, waiter());
        None
    }
}
