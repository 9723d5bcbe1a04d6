//! What a receiver touches for each message without the lock.

use std::{collections::VecDeque, sync::Arc};

use super::{Inbound, credit_part};
use crate::sync::AtomicU64;
use std::sync::atomic::Ordering;

/// The owner may take nothing more.
const CLOSED: u64 = 1 << 63;
/// So much is unsent that nothing is handed out.
const PAUSED: u64 = 1 << 62;
/// Messages are held that came to their turn during a pause.
const HOLDING: u64 = 1 << 61;
/// The session has ended: nobody is answered any more.
const OVER: u64 = 1 << 60;
const FLAGS: u64 = CLOSED | PAUSED | HOLDING | OVER;

/// The number of the last message that the owner took, and whether it may take more.
///
/// A receiver takes messages from a batch of its own, so a message must not cost the lock of the session. Two things
/// per message have to be shared all the same, and both are here:
///
/// - *The claim.* The last number taken and the end of taking are one word. The end of the owner and the claim of a
///   message race, and a compare-and-swap on that word decides: a claim that succeeds is part of the number that the
///   peer is told, and none succeeds behind it. This is why a call above that number was certainly not executed.
/// - *The pause.* The endpoint sets it under the lock, receivers read it without. A receiver that misses a pause takes
///   one message more than it should; one that misses the end of a pause takes the lock and looks again there. So it
///   needs no order with anything else.
///
/// The credit of taken messages is written by the one receiver alone, and given back by that receiver under the lock.
/// When another becomes the receiver, the lock is between the two.
#[derive(Debug)]
pub struct Claims {
    word: AtomicU64,
    /// Credit of messages that were taken and not given back yet.
    untold: AtomicU64,
    /// So much of that is worth giving back.
    part: u64,
}

/// What a claim came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The message is the receiver's.
    Taken,
    /// It is, and credit is to be [given back](super::Endpoint::give_back).
    TakenGiveBack,
    /// The owner may take nothing more.
    Closed,
}

impl Claims {
    pub(super) fn new(window: u64) -> Self {
        Self { word: AtomicU64::new(0), untold: AtomicU64::new(0), part: credit_part(window) }
    }

    /// Takes the right to `message`.
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

    /// Whether nothing is handed out at the moment.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.word.load(Ordering::Relaxed) & PAUSED != 0
    }

    /// Whether a message that comes to its turn may be claimed at once.
    #[inline]
    pub fn is_straight(&self) -> bool {
        self.word.load(Ordering::Relaxed) & (PAUSED | HOLDING) == 0
    }

    /// Whether messages are held that came to their turn during a pause.
    #[cfg(test)]
    pub(crate) fn is_holding(&self) -> bool {
        self.word.load(Ordering::Relaxed) & HOLDING != 0
    }

    /// Whether the owner may take nothing more.
    pub(super) fn is_closed(&self) -> bool {
        self.word.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Whether the session has ended, a moment later than it says itself.
    pub fn is_over(&self) -> bool {
        self.word.load(Ordering::Relaxed) & OVER != 0
    }

    /// Nothing is taken any more: the number of the last message that was.
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

/// The receiving end of a channel: the messages that were fetched and not yet taken.
///
/// There is one at a time. [`Endpoint`](super::Endpoint) gives it out and takes it back, so no message is lost on the way.
#[derive(Debug)]
pub struct Reader {
    claims: Arc<Claims>,
    pub(super) batch: VecDeque<Inbound>,
}

/// What a [`Reader`] had.
#[derive(Debug)]
pub enum Next {
    /// A message that is the reader's now. With `true`, credit is to be [given back](super::Endpoint::give_back).
    Message(Inbound, bool),
    /// Nothing is left.
    Empty,
    /// Nothing may be taken any more.
    Closed,
}

impl Reader {
    pub(super) const fn new(claims: Arc<Claims>) -> Self {
        Self { claims, batch: VecDeque::new() }
    }

    /// Whether the next message has to be [fetched](super::Endpoint::fetch) first.
    #[inline]
    pub fn must_fetch(&self) -> bool {
        self.batch.is_empty() || self.claims.is_paused()
    }

    /// Takes the next message that was fetched.
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
