//! Credit: how far a sender may run ahead of a process that does not read.

/// Credit goes back in parts of the window, each of this length. With longer ones a sender that is ahead waits at each for
/// the way there and back, which costs a fifth of the rate of small messages where the network is fast.
pub const fn credit_part(window: u64) -> u64 {
    window / 8
}

/// What a message costs beside its payload.
pub(super) const MESSAGE_COST: u64 = 64;

/// The cost of a message with a payload of `len` bytes.
pub(super) const fn cost(len: usize) -> u64 {
    len as u64 + MESSAGE_COST
}

/// The sender's side: what one far process has granted, and what was spent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Balance {
    granted: u64,
    spent: u64,
}

impl Balance {
    pub(super) const fn new(window: u64) -> Self {
        Self { granted: window, spent: 0 }
    }

    /// One message may go while this holds, whatever its length: so every legal frame passes any window.
    pub(super) const fn is_positive(self) -> bool {
        self.spent < self.granted
    }

    pub(super) const fn spend(&mut self, cost: u64) {
        self.spent += cost;
    }

    /// A total not larger than the last says nothing new: a grant lost with a connection is in the next one.
    pub(super) fn grant(&mut self, total: u64) {
        self.granted = self.granted.max(total);
    }

    /// How far this end may run ahead now.
    pub(super) const fn ahead(self) -> u64 {
        self.granted.saturating_sub(self.spent)
    }
}

/// The receiver's side: what was granted to the peer, what came, and what the process took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    window: u64,
    granted: u64,
    received: u64,
    returned: u64,
}

impl Grant {
    pub(super) const fn new(window: u64) -> Self {
        Self { window, granted: window, received: 0, returned: 0 }
    }

    /// Counts a message that came; false when the peer had no credit for it.
    #[must_use]
    pub(super) const fn receive(&mut self, cost: u64) -> bool {
        let allowed = self.received < self.granted;
        self.received += cost;
        allowed
    }

    /// What messages cost that came and were neither taken nor discarded yet.
    pub(super) const fn outstanding(&self) -> u64 {
        self.received - self.returned
    }

    /// Credit of taken or discarded messages comes back. A new total to tell the peer, once that is worth a frame.
    pub(super) const fn give_back(&mut self, cost: u64) -> Option<u64> {
        self.returned += cost;
        self.total()
    }

    pub(super) const fn window(&self) -> u64 {
        self.window
    }

    /// All that was granted so far.
    pub(super) const fn granted(&self) -> u64 {
        self.granted
    }

    /// What the process has taken in all.
    pub(super) const fn returned(&self) -> u64 {
        self.returned
    }

    /// The window is so long from now on. A new total to tell the peer, if that is worth a frame. What was granted is
    /// not taken back: with a shorter window nothing is granted until the peer has used up the difference.
    pub(super) const fn resize(&mut self, window: u64) -> Option<u64> {
        self.window = window;
        self.total()
    }

    const fn total(&mut self) -> Option<u64> {
        let total = self.returned + self.window;
        if total.saturating_sub(self.granted) < credit_part(self.window) {
            return None;
        }
        self.granted = total;
        Some(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_agree_on_credit() {
        let (mut balance, mut grant) = (Balance::new(1000), Grant::new(1000));
        for len in [10, 5_000, 900, 30, 100_000] {
            let mut sent = 0;
            while balance.is_positive() {
                balance.spend(cost(len));
                assert!(grant.receive(cost(len)));
                sent += 1;
            }
            assert!(sent > 0);
            assert!(!{ grant }.receive(1), "one more without credit is seen");
            let totals = (0..sent).filter_map(|_| grant.give_back(cost(len))).last();
            balance.grant(totals.unwrap_or(0));
            balance.grant(0);
        }
    }

    #[test]
    fn both_ends_see_exhausted_window() {
        let (mut balance, mut grant) = (Balance::new(1000), Grant::new(1000));
        balance.spend(1000);
        assert!(grant.receive(1000));
        assert!(!balance.is_positive());
        assert!(!grant.receive(1));
    }

    #[test]
    fn narrowed_window_withholds_credit() {
        let mut grant = Grant::new(64_000);
        assert_eq!(grant.resize(256_000), Some(256_000));
        assert_eq!(grant.resize(64_000), None);
        assert!(grant.receive(256_000));
        assert_eq!(grant.give_back(192_000), None, "that much more was granted before");
        assert_eq!(grant.give_back(8_000), Some(264_000));
    }

    #[test]
    fn credit_comes_back_in_few_frames() {
        let mut grant = Grant::new(64_000);
        assert!(grant.receive(64_000));
        let frames = (0..1000).filter_map(|_| grant.give_back(64)).count();
        assert_eq!(frames, 8);
    }
}
