//! The state that a receiver uses for each message without the lock.

use std::{collections::VecDeque, sync::Arc};

use super::{Inbound, credit_part};
use crate::sync::AtomicU64;
use std::sync::atomic::Ordering;

/// Set once the owner may take nothing more.
const CLOSED: u64 = 1 << 63;
/// Set while so much is unsent that no message may be taken.
const PAUSED: u64 = 1 << 62;
/// Set while messages are held whose turn came during a pause.
const HOLDING: u64 = 1 << 61;
/// Set once the session has ended, so that answers are useless.
const OVER: u64 = 1 << 60;
const FLAGS: u64 = CLOSED | PAUSED | HOLDING | OVER;

/// The number of the last message that the owner took, and whether it may take more.
///
/// A receiver takes messages from a batch of its own, so that a message does not cost the lock of the session. Two
/// things must be shared for each message all the same:
///
/// - *The claim.* The last number taken and the end of taking are one word. When the end of the owner and the claim
///   of a message race, a compare-and-swap on that word decides. A claim that succeeds is part of the number that the
///   peer is told, and no later claim succeeds. So a call above that number was certainly not executed.
/// - *The pause.* The endpoint sets it under the lock, and receivers read it without. A receiver that misses the
///   start of a pause takes one message too many. A receiver that misses its end takes the lock and checks again. So
///   the flag needs no ordering with anything else.
///
/// Only the one receiver writes the credit of taken messages, and it returns that credit under the lock. When another
/// task becomes the receiver, the lock orders the two.
#[derive(Debug)]
pub struct Claims {
    word: AtomicU64,
    /// The credit of taken messages that was not given back yet.
    untold: AtomicU64,
    /// The amount of credit that is worth giving back.
    part: u64,
}

/// The result of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The message belongs to the receiver.
    Taken,
    /// The message belongs to the receiver, and credit is due to be [given back](super::Endpoint::give_back).
    TakenGiveBack,
    /// The owner may take nothing more.
    Closed,
}

impl Claims {
    pub(super) fn new(window: u64) -> Self {
        Self { word: AtomicU64::new(0), untold: AtomicU64::new(0), part: credit_part(window) }
    }

    /// Claims `message` for the owner.
    #[inline]
    pub fn claim(&self, message: &Inbound) -> Claim {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            if word & CLOSED != 0 {
                return Claim::Closed;
            }
            let next = word & FLAGS | message.number;
            match self.word.compare_exchange_weak(word, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        let untold = self.untold.load(Ordering::Relaxed) + message.cost();
        self.untold.store(untold, Ordering::Relaxed);
        if untold >= self.part { Claim::TakenGiveBack } else { Claim::Taken }
    }

    /// Returns `true` while no message may be taken.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.word.load(Ordering::Relaxed) & PAUSED != 0
    }

    /// Returns `true` if a message whose turn has come may be claimed at once.
    #[inline]
    pub fn is_straight(&self) -> bool {
        self.word.load(Ordering::Relaxed) & (PAUSED | HOLDING) == 0
    }

    /// Returns `true` while messages are held whose turn came during a pause.
    #[cfg(test)]
    pub(crate) fn is_holding(&self) -> bool {
        self.word.load(Ordering::Relaxed) & HOLDING != 0
    }

    /// Returns `true` once the owner may take nothing more.
    pub(super) fn is_closed(&self) -> bool {
        self.word.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Returns `true` once the session has ended. The session itself may know it a moment earlier.
    pub fn is_over(&self) -> bool {
        self.word.load(Ordering::Relaxed) & OVER != 0
    }

    /// Forbids further claims. Returns the number of the last message taken.
    pub(super) fn close(&self) -> u64 {
        self.word.fetch_or(CLOSED, Ordering::AcqRel) & !FLAGS
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.set(PAUSED, paused);
    }

    pub(super) fn set_holding(&self, holding: bool) {
        self.set(HOLDING, holding);
    }

    pub(super) fn set_over(&self) {
        self.set(OVER, true);
    }

    pub(super) fn take_untold(&self) -> u64 {
        self.untold.swap(0, Ordering::Relaxed)
    }

    fn set(&self, flag: u64, on: bool) {
        if on {
            self.word.fetch_or(flag, Ordering::Relaxed);
        } else {
            self.word.fetch_and(!flag, Ordering::Relaxed);
        }
    }
}

/// The receiving end of a channel: the messages that were fetched and not taken yet.
///
/// A session has one reader at a time. [`Endpoint`](super::Endpoint) gives it out and takes it back, so no message is
/// lost in between.
#[derive(Debug)]
pub struct Reader {
    claims: Arc<Claims>,
    pub(super) batch: VecDeque<Inbound>,
}

/// The result of [`Reader::take`].
#[derive(Debug)]
pub enum Next {
    /// A message, which is claimed. With `true`, credit is due to be [given back](super::Endpoint::give_back).
    Message(Inbound, bool),
    /// The batch is empty.
    Empty,
    /// No message may be taken any more.
    Closed,
}

impl Reader {
    pub(super) const fn new(claims: Arc<Claims>) -> Self {
        Self { claims, batch: VecDeque::new() }
    }

    /// Returns `true` if the next message must be [fetched](super::Endpoint::fetch) first.
    #[inline]
    pub fn must_fetch(&self) -> bool {
        self.batch.is_empty() || self.claims.is_paused()
    }

    /// Takes the next fetched message.
    #[inline]
    pub fn take(&mut self) -> Next {
        let Some(message) = self.batch.pop_front() else { return Next::Empty };
        match self.claims.claim(&message) {
            Claim::Closed => {
                self.batch.push_front(message);
                Next::Closed
            }
            claim => Next::Message(message, claim == Claim::TakenGiveBack),
        }
    }
}
