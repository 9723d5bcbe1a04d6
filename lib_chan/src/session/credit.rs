//! Credit: the number of bytes that a sender may send ahead of a process that does not read.

/// Credit returns in parts of the window, each of this length. Longer parts make a fast sender wait a round trip for
/// each, which costs a fifth of the rate of small messages on a fast network.
pub const fn credit_part(window: u64) -> u64 {
    window / 8
}

/// The cost of a message beside its payload.
pub(super) const MESSAGE_COST: u64 = 64;

/// Returns the cost of a message with a payload of `len` bytes.
pub(super) const fn cost(len: usize) -> u64 {
    len as u64 + MESSAGE_COST
}

/// The sender's side: the credit that one far process has granted, and the credit spent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Balance {
    granted: u64,
    spent: u64,
}

impl Balance {
    pub(super) const fn new(window: u64) -> Self {
        Self { granted: window, spent: 0 }
    }

    /// Returns `true` while one more message may be sent, whatever its length. So every legal frame passes any
    /// window.
    pub(super) const fn is_positive(self) -> bool {
        self.spent < self.granted
    }

    /// Returns `true` if a handed-out process takes a message of this cost: it fits into the rest of the window. A
    /// longer one goes only while the window is [unused](Self::is_unused).
    pub(super) const fn fits(self, cost: u64) -> bool {
        cost <= self.ahead()
    }

    /// Returns `true` if all credit of a window of this length has come back, but for a part that is not worth a
    /// frame.
    pub(super) const fn is_unused(self, window: u64) -> bool {
        self.ahead().saturating_add(credit_part(window)) > window
    }

    pub(super) const fn spend(&mut self, cost: u64) {
        self.spent += cost;
    }

    /// Takes a new total of granted credit. A total no larger than the last one has no effect: a grant that was lost
    /// with a connection is contained in the next.
    pub(super) fn grant(&mut self, total: u64) {
        self.granted = self.granted.max(total);
    }

    /// Returns the number of bytes that this end may send ahead now.
    pub(super) const fn ahead(self) -> u64 {
        self.granted.saturating_sub(self.spent)
    }
}

/// The receiver's side: the credit granted to the peer, the cost of messages that came, and the cost of those taken.
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

    /// Counts a received message. Returns `false` if the peer had no credit for it.
    #[must_use]
    pub(super) const fn receive(&mut self, cost: u64) -> bool {
        let allowed = self.received < self.granted;
        self.received += cost;
        allowed
    }

    /// Returns `true` if a message of this cost fits into the granted credit.
    pub(super) const fn fits(&self, cost: u64) -> bool {
        cost <= self.granted.saturating_sub(self.received)
    }

    /// Returns `true` if all credit of a window of this length has come back, but for a part that is not worth a
    /// frame: see [`Balance::is_unused`].
    pub(super) const fn is_unused(&self, window: u64) -> bool {
        self.granted.saturating_sub(self.received).saturating_add(credit_part(window)) > window
    }

    /// Returns the most bytes that the peer can make wait: what it may still send, and what was not taken.
    pub(super) const fn open(&self) -> u64 {
        self.granted.saturating_sub(self.returned)
    }

    /// Returns the cost of the messages that were received and neither taken nor discarded.
    pub(super) const fn outstanding(&self) -> u64 {
        self.received - self.returned
    }

    /// Takes back the credit of taken or discarded messages. Returns a new total for the peer, once it is worth a
    /// frame.
    pub(super) const fn give_back(&mut self, cost: u64) -> Option<u64> {
        self.returned += cost;
        self.total()
    }

    pub(super) const fn window(&self) -> u64 {
        self.window
    }

    /// Returns the total credit granted so far.
    pub(super) const fn granted(&self) -> u64 {
        self.granted
    }

    /// Returns the total cost of the messages that the process has taken.
    pub(super) const fn returned(&self) -> u64 {
        self.returned
    }

    /// Changes the length of the window. Returns a new total for the peer, if it is worth a frame. Granted credit is
    /// not taken back: after the window has shrunk, nothing is granted until the peer has used up the difference.
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
