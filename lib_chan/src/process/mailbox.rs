//! The queue of a process.
//!
//! Everything sent to a process goes through one queue, in one order. The receiver takes the whole queue at once and
//! then pops from its own batch without locking. Messages are bounded: accepted messages that were not taken yet, the
//! batch included, never exceed the capacity, except for those that a process sends itself. Signals, and messages of
//! a session (which has its own credit), are neither counted nor refused.
//!
//! A sender that finds no room waits in line. Its message is admitted when the receiver has emptied its batch, or at
//! the end of the poll in which the receiver took something. Admitting after every message would cost a lock and a
//! wake each time.
//!
//! Callers wake and drop the wakers and messages that these methods return after unlocking, because both may run code
//! of users.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use super::TimerRef;
use super::pid::{Pid, Receipt};
use crate::ExitReason;
use crate::links::MonitorRef;
use crate::sync::AtomicU64;

/// Messages that come into the mailbox together, from a source that bounds them itself, such as a session.
pub(crate) trait Parcel<M>: Any + Send {
    /// Takes out the next message, when the process gets to it.
    fn next(&mut self) -> Option<M>;

    /// Returns the number of messages that are left.
    fn len(&self) -> usize;

    /// Appends another parcel of the same source. Returns a parcel of another source.
    fn append(&mut self, other: Box<dyn Parcel<M>>) -> Option<Box<dyn Parcel<M>>>;
}

/// One entry of a mailbox. Everything but plain messages is boxed, to keep it small.
pub(super) enum Item<M> {
    Letter(Letter<M>),
    Parcel(Box<dyn Parcel<M>>),
    Told(Box<Told>),
    /// A timer of the process is due.
    Timer(TimerRef),
}

/// A message that a process or task sent, and that counts against the bound.
pub(super) enum Letter<M> {
    Cast(M),
    Call(Box<CallLetter<M>>),
}

/// A message whose sender waits for the outcome.
pub(super) struct CallLetter<M> {
    pub(super) message: M,
    pub(super) ticket: Arc<dyn Ticket>,
}

/// The caller that waits for the answer to a message.
pub(super) trait Ticket: Send + Sync {
    /// Notes that the message is being taken. Returns `false` if the caller no longer waits; then the message is not
    /// delivered.
    fn take(&self) -> bool;
}

/// A signal that became a message.
pub(super) enum Told {
    /// The receipt goes back to the counter of untaken signals when it is dropped.
    Exit(
        Pid,
        ExitReason,
        #[expect(dead_code, reason = "what matters is that it is dropped")] Option<Receipt>,
    ),
    Down(MonitorRef, Pid, ExitReason),
}

impl<M> Letter<M> {
    /// Returns the message alone, for its sender.
    pub(super) fn into_message(self) -> M {
        match self {
            Self::Cast(message) => message,
            Self::Call(asked) => asked.message,
        }
    }
}

/// The part of a mailbox that senders use, under the lock of the process.
pub(super) struct Mailbox<M> {
    inbox: VecDeque<Item<M>>,
    capacity: u64,
    /// The number of counted messages ever accepted.
    accepted: u64,
    /// The count of `Taken` when it was last read; never more than the current one.
    known_taken: u64,
    /// The senders that wait for room, by ticket, and so in the order in which they came.
    waiting: BTreeMap<u64, WaitingSender<M>>,
    last_ticket: u64,
    /// The receiver, while it sleeps.
    receiver: Option<Waker>,
}

pub(super) struct WaitingSender<M> {
    pub(super) letter: Letter<M>,
    sender: Waker,
}

impl<M> Mailbox<M> {
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            inbox: VecDeque::new(),
            capacity: u64::try_from(capacity.max(1)).unwrap_or(u64::MAX),
            accepted: 0,
            known_taken: 0,
            waiting: BTreeMap::new(),
            last_ticket: 0,
            receiver: None,
        }
    }

    /// Puts a message into the queue and counts it, whether there is room or not. The caller wakes the returned waker
    /// after unlocking.
    #[must_use]
    pub(super) fn push_letter(&mut self, letter: Letter<M>) -> Option<Waker> {
        self.accepted += 1;
        self.inbox.push_back(Item::Letter(letter));
        self.receiver.take()
    }

    /// Puts a signal that became a message into the queue. The caller wakes the returned waker after unlocking.
    #[must_use]
    pub(super) fn push_told(&mut self, told: Told) -> Option<Waker> {
        self.inbox.push_back(Item::Told(Box::new(told)));
        self.receiver.take()
    }

    /// Puts the marker of a due timer into the queue. Its process does that itself, so no waker is returned.
    pub(super) fn push_timer(&mut self, timer: TimerRef) {
        self.inbox.push_back(Item::Timer(timer));
    }

    /// Returns the number of counted messages that ever came in.
    pub(super) const fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Returns `true` if a new message may go in at once.
    pub(super) fn has_room(&mut self, taken: &Taken) -> bool {
        if !self.waiting.is_empty() {
            return false;
        }
        if self.is_below_capacity() {
            return true;
        }
        self.known_taken = taken.count();
        self.is_below_capacity()
    }

    /// Adds a sender behind those that wait already. Returns its ticket.
    pub(super) fn wait(&mut self, letter: Letter<M>, sender: Waker, taken: &Taken) -> u64 {
        self.last_ticket += 1;
        self.waiting.insert(self.last_ticket, WaitingSender { letter, sender });
        taken.ask_for_room();
        self.last_ticket
    }

    /// Moves waiting messages into the queue while there is room. The caller wakes the returned wakers after
    /// unlocking.
    #[must_use]
    pub(super) fn admit(&mut self, taken: &Taken) -> Vec<Waker> {
        let mut wakers = Vec::new();
        if !taken.is_wanted() {
            return wakers;
        }
        self.known_taken = taken.count();
        while self.is_below_capacity()
            && let Some((_, waiting)) = self.waiting.pop_first()
        {
            wakers.extend(self.push_letter(waiting.letter));
            wakers.push(waiting.sender);
        }
        if self.waiting.is_empty() {
            taken.nobody_waits();
        }
        wakers
    }

    /// Returns `true` while the sender with this ticket waits.
    pub(super) fn waits(&self, ticket: u64) -> bool {
        self.waiting.contains_key(&ticket)
    }

    /// Does what [`waits`](Self::waits) does. A sender that waits is woken through `sender` from now on, which
    /// becomes the old waker.
    pub(super) fn still_waits(&mut self, ticket: u64, sender: &mut Waker) -> bool {
        let Some(waiting) = self.waiting.get_mut(&ticket) else { return false };
        mem::swap(&mut waiting.sender, sender);
        true
    }

    /// Removes the waiting sender with this ticket.
    pub(super) fn withdraw(&mut self, ticket: u64) -> Option<WaitingSender<M>> {
        self.waiting.remove(&ticket)
    }

    /// Returns the wakers of all waiting senders, to be woken at the end of the process.
    pub(super) fn senders(&self) -> Vec<Waker> {
        self.waiting.values().map(|waiting| waiting.sender.clone()).collect()
    }

    /// Moves the whole queue into the empty `batch`. Returns `false` if the queue is empty.
    pub(super) fn take(&mut self, batch: &mut VecDeque<Item<M>>) -> bool {
        if self.inbox.is_empty() {
            return false;
        }
        mem::swap(&mut self.inbox, batch);
        true
    }

    /// Does what [`take`](Self::take) does. If the queue is empty, stores the receiver's waker, and `old` becomes the
    /// one stored before.
    pub(super) fn receive(
        &mut self,
        batch: &mut VecDeque<Item<M>>,
        cx: &Context<'_>,
        old: &mut Option<Waker>,
    ) -> bool {
        if self.take(batch) {
            return true;
        }
        for queue in [&mut self.inbox, batch] {
            // A burst leaves a large buffer behind, which a sleeping process gives back.
            if queue.capacity() > KEPT_CAPACITY {
                *queue = VecDeque::new();
            }
        }
        if !self.receiver.as_ref().is_some_and(|receiver| receiver.will_wake(cx.waker())) {
            *old = self.receiver.replace(cx.waker().clone());
        }
        false
    }

    /// Removes the `Down` of this monitor from the queue.
    pub(super) fn flush(&mut self, monitor: MonitorRef) {
        flush(&mut self.inbox, monitor);
    }

    /// Returns everything that was never taken.
    pub(super) fn clear(&mut self) -> VecDeque<Item<M>> {
        mem::take(&mut self.inbox)
    }

    const fn is_below_capacity(&self) -> bool {
        self.accepted.saturating_sub(self.known_taken) < self.capacity
    }
}

impl<M: 'static> Mailbox<M> {
    /// Queues a parcel, joined with the previous one if both have the same source. The caller wakes the returned
    /// waker after unlocking.
    #[must_use]
    pub(super) fn push_parcel(&mut self, parcel: Box<dyn Parcel<M>>) -> Option<Waker> {
        let other = match self.inbox.back_mut() {
            Some(Item::Parcel(last)) => last.append(parcel),
            _ => Some(parcel),
        };
        self.inbox.extend(other.map(Item::Parcel));
        self.receiver.take()
    }
}

/// The number of items that the buffer of a sleeping process may hold.
const KEPT_CAPACITY: usize = 64;

/// Removes the `Down` of this monitor from a queue.
pub(super) fn flush<M>(queue: &mut VecDeque<Item<M>>, monitor: MonitorRef) {
    queue.retain(|item| {
        !matches!(item, Item::Told(told) if matches!(**told, Told::Down(other, ..) if other == monitor))
    });
}

/// The number of counted messages that the receiver has taken, and whether a sender waits for it to take more.
///
/// Both are in one word, so that a taken message and a sender that starts to wait cannot miss each other.
#[derive(Default)]
pub(super) struct Taken(AtomicU64);

impl Taken {
    const WANTED: u64 = 1;
    const ONE: u64 = 2;

    /// Counts one message.
    pub(super) fn take_one(&self) {
        self.0.fetch_add(Self::ONE, Ordering::AcqRel);
    }

    /// Returns `true` if a sender waits for room.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.load(Ordering::Acquire) & Self::WANTED != 0
    }

    /// Returns the number of messages taken so far.
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire) / Self::ONE
    }

    fn ask_for_room(&self) {
        self.0.fetch_or(Self::WANTED, Ordering::AcqRel);
    }

    fn nobody_waits(&self) {
        self.0.fetch_and(!Self::WANTED, Ordering::AcqRel);
    }
}
