//! The count of bytes that all sessions of the program hold for their peers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{
    holder::{Holder, add},
    shared::Tokio,
};
use crate::{Limits, session::Endpoint};

/// Bytes held by all sessions of the program.
static HELD_IN_ALL: AtomicUsize = AtomicUsize::new(0);

/// One session's part of the count; taken out when dropped.
#[derive(Debug)]
pub(super) struct HeldBytes {
    in_all: &'static AtomicUsize,
    holder: Arc<Holder>,
    max_in_all: usize,
    /// The bytes counted so far: a multiple of the step.
    counted: usize,
    /// A power of two. Only whole steps are counted, so that small messages do not touch the sum that all sessions
    /// share.
    step: usize,
}

impl HeldBytes {
    pub(super) fn new(limits: &Limits, holder: Arc<Holder>) -> Self {
        Self::of(&HELD_IN_ALL, limits, holder)
    }

    fn of(in_all: &'static AtomicUsize, limits: &Limits, holder: Arc<Holder>) -> Self {
        let (max_in_all, step) = (limits.max_held_in_all, Endpoint::<Tokio>::held_step(limits));
        Self { in_all, holder, max_in_all, counted: 0, step }
    }

    /// Counts `held` bytes for this session. Returns the count of all sessions, or the client's own in proportion to its
    /// share, if that is more: a client that holds much is short of room before others are.
    #[inline(always)]
    pub(super) fn count(&mut self, held: usize) -> usize {
        let steps = held & !(self.step - 1);
        if steps != self.counted {
            self.recount(steps);
        }
        let in_all = self.in_all.load(Ordering::Relaxed);
        if Holder::may_be_short(in_all, self.max_in_all) { self.with_own(in_all) } else { in_all }
    }

    #[cold]
    fn with_own(&self, in_all: usize) -> usize {
        in_all.max(self.holder.held_in_proportion())
    }

    #[cold]
    fn recount(&mut self, steps: usize) {
        let before = std::mem::replace(&mut self.counted, steps);
        self.holder.hold(before, steps);
        add(self.in_all, before, steps);
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.recount(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::{SessionParameters, pair_in_memory_of};

    #[test]
    fn client_is_short_of_room_before_others() {
        static IN_ALL: AtomicUsize = AtomicUsize::new(0);
        let limits = Limits { max_held_in_all: 64 << 20, ..Limits::default() };
        let session = |client: &str| {
            let (service, client) = ("held".parse().unwrap(), client.parse().unwrap());
            let ends = pair_in_memory_of(
                SessionParameters::from_limits(&Limits::default()).unwrap(),
                [1; 32],
                service,
                client,
            );
            HeldBytes::of(&IN_ALL, &limits, Holder::of(&ends.unwrap().1))
        };
        let mut of_joe: Vec<_> = (0..16).map(|_| session("joe")).collect();
        let mut of_mike = session("mike");
        let half = limits.max_held_in_all / 2;
        assert!(of_joe.iter_mut().all(|one| one.count(1 << 20) <= half));
        assert!(of_joe[0].count(2 << 20) > half, "a quarter of the bound is where one client gets short");
        let of_others = of_mike.count(1 << 20);
        assert_eq!(of_others, 18 << 20);
        drop((of_joe, of_mike));
        assert_eq!(IN_ALL.load(Ordering::Relaxed), 0);
    }
}
