//! Messages that wait for credit, a slot or room.

use std::collections::{BTreeMap, HashSet, VecDeque};

use rustc_hash::FxBuildHasher;

use super::{border::OWNER, credit::cost, handles::Admitted};

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
    /// Takes the message out of `payload`.
    pub(super) fn new(
        ticket: u64,
        sort: Sort,
        payload: &mut Vec<u8>,
        handles: Option<Box<Admitted>>,
    ) -> Self {
        Self { ticket, sort, payload: std::mem::take(payload), handles, waiter: None }
    }

    pub(super) fn cost(&self) -> u64 {
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

/// The messages that wait for one far process, in the order of their tickets.
#[derive(Debug)]
struct SendQueue<W> {
    waiting: VecDeque<Waiting<W>>,
    /// The tickets of casts that were sent since their senders last polled.
    sent: HashSet<u64, FxBuildHasher>,
}

impl<W> Default for SendQueue<W> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), sent: HashSet::default() }
    }
}

impl<W> SendQueue<W> {
    /// Returns `true` if no message waits, and no sender has yet to learn that its cast was sent.
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.sent.is_empty()
    }

    /// Returns the position of a message in the queue.
    fn place(&self, ticket: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()
    }
}

/// The messages that wait for far processes, each of which has its own queue.
#[derive(Debug)]
pub(super) struct SendQueues<W> {
    owner: SendQueue<W>,
    /// The queues of other processes; none is idle.
    others: BTreeMap<u64, SendQueue<W>>,
    /// The process, other than the owner, whose queue a message left last.
    last_served: u64,
    last_ticket: u64,
}

impl<W> Default for SendQueues<W> {
    fn default() -> Self {
        Self { owner: SendQueue::default(), others: BTreeMap::new(), last_served: OWNER, last_ticket: 0 }
    }
}

impl<W> SendQueues<W> {
    /// Returns the next ticket. Tickets leave each queue in order.
    pub(super) const fn next_ticket(&mut self) -> u64 {
        self.last_ticket += 1;
        self.last_ticket
    }

    pub(super) fn push(&mut self, far: u64, message: Waiting<W>) {
        let queue = if far == OWNER { &mut self.owner } else { self.others.entry(far).or_default() };
        queue.waiting.push_back(message);
    }

    /// Returns `true` if no message waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.owner.waiting.is_empty() && self.others.values().all(|queue| queue.waiting.is_empty())
    }

    /// Returns the number of messages that wait, and of casts whose senders have yet to learn that they were sent.
    pub(super) fn len(&self) -> usize {
        self.each().map(|queue| queue.waiting.len() + queue.sent.len()).sum()
    }

    /// Returns the processes with a queue, but for the owner, in the order in which it is their turn.
    pub(super) fn others(&self) -> Vec<u64> {
        let mut others: Vec<u64> = self.others.keys().copied().collect();
        let served = others.partition_point(|&far| far <= self.last_served);
        others.rotate_left(served);
        others
    }

    /// Returns the first message for `far`.
    #[inline]
    pub(super) fn first(&self, far: u64) -> Option<&Waiting<W>> {
        let queue = if far == OWNER { Some(&self.owner) } else { self.others.get(&far) };
        queue?.waiting.front()
    }

    /// Takes the first message for `far`, which is sent now.
    pub(super) fn pop(&mut self, far: u64) -> Option<Waiting<W>> {
        if far != OWNER {
            self.last_served = far;
        }
        self.change(far, |queue| {
            let first = queue.waiting.pop_front()?;
            if first.sort == Sort::Cast {
                queue.sent.insert(first.ticket);
            }
            Some(first)
        })
    }

    /// Returns `true`, once, if this cast was sent.
    pub(super) fn take_sent(&mut self, far: u64, ticket: u64) -> bool {
        self.change(far, |queue| queue.sent.remove(&ticket).then_some(())).is_some()
    }

    /// Stores the waiter of a message. Returns whether the message still waits.
    pub(super) fn wait(&mut self, far: u64, ticket: u64, waiter: impl FnOnce(Option<W>) -> W) -> bool {
        let stored = self.change(far, |queue| {
            let place = queue.place(ticket)?;
            let waiting = queue.waiting.get_mut(place)?;
            waiting.waiter = Some(waiter(waiting.waiter.take()));
            Some(())
        });
        stored.is_some()
    }

    /// Removes a message, and returns it if it still waited.
    pub(super) fn withdraw(&mut self, far: u64, ticket: u64) -> Option<Waiting<W>> {
        self.change(far, |queue| queue.place(ticket).and_then(|place| queue.waiting.remove(place)))
    }

    /// Removes the messages with these tickets, which are sorted. Returns their handles.
    pub(super) fn withdraw_all(&mut self, tickets: &[u64]) -> Vec<Option<Box<Admitted>>> {
        let mut handles = Vec::new();
        for queue in self.each_mut() {
            queue.waiting.retain_mut(|waiting| {
                let is_late = tickets.binary_search(&waiting.ticket).is_ok();
                if is_late {
                    handles.push(waiting.handles.take());
                }
                !is_late
            });
        }
        self.others.retain(|_, queue| !queue.is_idle());
        handles
    }

    /// Takes all messages that wait. Casts that were sent may still be polled.
    pub(super) fn drain(&mut self) -> Vec<Waiting<W>> {
        let all = self.each_mut().flat_map(|queue| queue.waiting.drain(..)).collect();
        self.others.retain(|_, queue| !queue.is_idle());
        all
    }

    fn each(&self) -> impl Iterator<Item = &SendQueue<W>> {
        std::iter::once(&self.owner).chain(self.others.values())
    }

    fn each_mut(&mut self) -> impl Iterator<Item = &mut SendQueue<W>> {
        std::iter::once(&mut self.owner).chain(self.others.values_mut())
    }

    /// Changes the queue of `far`, if it has one, and removes it once it is idle.
    fn change<T>(&mut self, far: u64, change: impl FnOnce(&mut SendQueue<W>) -> Option<T>) -> Option<T> {
        if far == OWNER {
            return change(&mut self.owner);
        }
        let queue = self.others.get_mut(&far)?;
        let changed = change(queue);
        if queue.is_idle() {
            self.others.remove(&far);
        }
        changed
    }
}
