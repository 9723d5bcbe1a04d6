//! Messages that wait for credit, a slot or room, and waits for an acknowledgement.

use std::collections::{BTreeMap, HashSet, VecDeque};

use rustc_hash::FxBuildHasher;

use super::{credit::cost, handles::Admitted};

/// A message that waits.
#[derive(Debug)]
pub(super) struct Waiting<W> {
    /// The ticket of the message. The ticket of a call is its id.
    pub(super) ticket: u64,
    pub(super) sort: Sort,
    pub(super) payload: Vec<u8>,
    /// The handles in the message.
    pub(super) handles: Option<Box<Admitted>>,
    pub(super) waiter: Option<W>,
}

impl<W> Waiting<W> {
    fn cost(&self) -> u64 {
        cost(self.payload.len()) + self.handles.as_ref().map_or(0, |handles| handles.cost())
    }
}

/// The kind of a waiting message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Cast,
    Call,
    /// A call that nobody may execute: see [`Session::mark`](super::Session::mark).
    Mark,
}

/// The messages that wait, in the order of their tickets.
#[derive(Debug)]
pub(super) struct SendQueue<W> {
    waiting: VecDeque<Waiting<W>>,
    last_ticket: u64,
    /// The tickets of casts that were sent since their senders last polled.
    sent: HashSet<u64, FxBuildHasher>,
}

impl<W> Default for SendQueue<W> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), last_ticket: 0, sent: HashSet::default() }
    }
}

impl<W> SendQueue<W> {
    /// Returns the next ticket. Tickets leave the queue in order, so the ids of calls on the wire only grow.
    pub(super) const fn next_ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    pub(super) fn push(&mut self, sort: Sort, ticket: u64, payload: Vec<u8>, handles: Option<Box<Admitted>>) {
        self.waiting.push_back(Waiting { ticket, sort, payload, handles, waiter: None });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.sent.len()
    }

    /// Returns `true` if no message waits, and no sender has yet to learn that its cast was sent.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    /// Returns the kind of the first message.
    pub(super) fn first(&self) -> Option<Sort> {
        self.waiting.front().map(|first| first.sort)
    }

    /// Returns the cost of the first message.
    pub(super) fn first_cost(&self) -> u64 {
        self.waiting.front().map_or(0, Waiting::cost)
    }

    /// Takes the first message.
    pub(super) fn pop(&mut self) -> Option<Waiting<W>> {
        self.waiting.pop_front()
    }

    /// Notes that a cast was sent.
    pub(super) fn note_sent(&mut self, ticket: u64) {
        self.sent.insert(ticket);
    }

    /// Returns `true`, once, if this cast was sent.
    pub(super) fn take_sent(&mut self, ticket: u64) -> bool {
        self.sent.remove(&ticket)
    }

    /// Stores the waiter of a message. Returns whether the message still waits.
    pub(super) fn wait(&mut self, ticket: u64, waiter: impl FnOnce(Option<W>) -> W) -> bool {
        let Some(waiting) = self.place(ticket).and_then(|place| self.waiting.get_mut(place)) else {
            return false;
        };
        waiting.waiter = Some(waiter(waiting.waiter.take()));
        true
    }

    /// Removes a message, and returns it if it still waited.
    pub(super) fn withdraw(&mut self, ticket: u64) -> Option<Waiting<W>> {
        self.place(ticket).and_then(|place| self.waiting.remove(place))
    }

    /// Removes the messages with these tickets, which are sorted.
    pub(super) fn withdraw_all(&mut self, tickets: &[u64]) -> Vec<Waiting<W>> {
        let is_late = |waiting: &Waiting<W>| tickets.binary_search(&waiting.ticket).is_ok();
        let (late, rest) = self.waiting.drain(..).partition::<Vec<_>, _>(is_late);
        self.waiting = rest.into();
        late
    }

    /// Takes all messages that wait.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waiting<W>> {
        self.waiting.drain(..)
    }

    /// Returns the position of a message in the queue.
    fn place(&self, ticket: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()
    }
}

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
