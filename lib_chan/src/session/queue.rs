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
    /// For a message that goes in parts, once it has begun: the number of bytes that were sent.
    pub(super) progress: Option<usize>,
}

impl<W> Waiting<W> {
    /// Takes the message out of `payload`.
    pub(super) fn new(
        ticket: u64,
        sort: Sort,
        payload: &mut Vec<u8>,
        handles: Option<Box<Admitted>>,
    ) -> Self {
        Self { ticket, sort, payload: std::mem::take(payload), handles, waiter: None, progress: None }
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
    /// The processes whose first message goes in parts, in the order of their turns.
    unfinished: VecDeque<u64>,
    /// The number of calls among these messages.
    unfinished_calls: u64,
}

impl<W> Default for SendQueues<W> {
    fn default() -> Self {
        Self {
            owner: SendQueue::default(),
            others: BTreeMap::new(),
            last_served: OWNER,
            last_ticket: 0,
            unfinished: VecDeque::new(),
            unfinished_calls: 0,
        }
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
        let first = self.change(far, |queue| {
            let first = queue.waiting.pop_front()?;
            if first.sort == Sort::Cast {
                queue.sent.insert(first.ticket);
            }
            Some(first)
        })?;
        self.finish(far, &first);
        Some(first)
    }

    // Messages in parts.

    /// Returns the number of messages that have begun to go in parts.
    #[inline]
    pub(super) fn unfinished(&self) -> usize {
        self.unfinished.len()
    }

    /// Returns the number of calls that have begun to go in parts.
    #[inline]
    pub(super) const fn unfinished_calls(&self) -> u64 {
        self.unfinished_calls
    }

    /// Notes that `sent` bytes of the first message for `far` are sent as its first part. Returns the message, unless it has
    /// begun before.
    pub(super) fn begin(&mut self, far: u64, sent: usize) -> Option<&Waiting<W>> {
        let first = self.first_mut(far).filter(|first| first.progress.is_none())?;
        first.progress = Some(sent);
        let is_call = first.sort != Sort::Cast;
        self.unfinished_calls += u64::from(is_call);
        self.unfinished.push_back(far);
        self.first(far)
    }

    /// Returns the message whose turn it is to send a part, and its process.
    pub(super) fn next_unfinished(&mut self) -> Option<(u64, &mut Waiting<W>)> {
        let far = *self.unfinished.front()?;
        self.first_mut(far).map(|first| (far, first))
    }

    /// Gives the turn to the next message.
    pub(super) fn turn(&mut self) {
        let turns = usize::from(!self.unfinished.is_empty());
        self.unfinished.rotate_left(turns);
    }

    /// Notes that a message has left the queue of `far`.
    fn finish(&mut self, far: u64, message: &Waiting<W>) {
        if message.progress.is_some() {
            self.unfinished.retain(|&unfinished| unfinished != far);
            self.unfinished_calls -= u64::from(message.sort != Sort::Cast);
        }
    }

    fn first_mut(&mut self, far: u64) -> Option<&mut Waiting<W>> {
        let queue = if far == OWNER { Some(&mut self.owner) } else { self.others.get_mut(&far) };
        queue?.waiting.front_mut()
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
        let withdrawn =
            self.change(far, |queue| queue.place(ticket).and_then(|place| queue.waiting.remove(place)))?;
        self.finish(far, &withdrawn);
        Some(withdrawn)
    }

    /// Removes the messages with these tickets, which are sorted. Returns them with their processes.
    pub(super) fn withdraw_all(&mut self, tickets: &[u64]) -> Vec<(u64, Waiting<W>)> {
        let mut late = Vec::new();
        for (far, queue) in self.each_mut() {
            let is_late = |waiting: &mut Waiting<W>| tickets.binary_search(&waiting.ticket).is_ok();
            if queue.waiting.iter_mut().any(is_late) {
                for mut waiting in std::mem::take(&mut queue.waiting) {
                    if is_late(&mut waiting) {
                        late.push((far, waiting));
                    } else {
                        queue.waiting.push_back(waiting);
                    }
                }
            }
        }
        late.iter().for_each(|(far, waiting)| self.finish(*far, waiting));
        self.others.retain(|_, queue| !queue.is_idle());
        late
    }

    /// Takes all messages that wait. Casts that were sent may still be polled.
    pub(super) fn drain(&mut self) -> Vec<Waiting<W>> {
        let all = self.each_mut().flat_map(|(_, queue)| queue.waiting.drain(..)).collect();
        self.unfinished.clear();
        self.unfinished_calls = 0;
        self.others.retain(|_, queue| !queue.is_idle());
        all
    }

    fn each(&self) -> impl Iterator<Item = &SendQueue<W>> {
        std::iter::once(&self.owner).chain(self.others.values())
    }

    fn each_mut(&mut self) -> impl Iterator<Item = (u64, &mut SendQueue<W>)> {
        let others = self.others.iter_mut().map(|(&far, queue)| (far, queue));
        std::iter::once((OWNER, &mut self.owner)).chain(others)
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
