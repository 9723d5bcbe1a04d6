//! The count of bytes that all sessions of the program hold for their peers.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::shared::Tokio;
use crate::{Limits, session::Endpoint};

/// Bytes held by all sessions of the program.
static HELD_IN_ALL: AtomicUsize = AtomicUsize::new(0);

/// One session's part of the count; taken out when dropped.
#[derive(Debug)]
pub(super) struct HeldBytes {
    /// The bytes counted so far: a multiple of the step.
    counted: usize,
    /// A power of two. Only whole steps are counted, so that small messages do not touch the sum that all sessions
    /// share.
    step: usize,
}

impl HeldBytes {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { counted: 0, step: Endpoint::<Tokio>::held_step(limits) }
    }

    /// Counts `held` bytes for this session. Returns the count of all sessions.
    #[inline(always)]
    pub(super) fn count(&mut self, held: usize) -> usize {
        let steps = held & !(self.step - 1);
        if steps != self.counted {
            self.recount(steps);
        }
        HELD_IN_ALL.load(Ordering::Relaxed)
    }

    #[cold]
    fn recount(&mut self, steps: usize) {
        let before = std::mem::replace(&mut self.counted, steps);
        match steps.checked_sub(before) {
            Some(more) => HELD_IN_ALL.fetch_add(more, Ordering::Relaxed),
            None => HELD_IN_ALL.fetch_sub(before - steps, Ordering::Relaxed),
        };
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        HELD_IN_ALL.fetch_sub(self.counted, Ordering::Relaxed);
    }
}
