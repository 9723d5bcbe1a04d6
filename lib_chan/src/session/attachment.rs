//! The state that belongs to one connection: heartbeat, stalls, partial frames, and frames that are due.

use std::time::{Duration, Instant};

use crate::{after, wire::Frame};

/// A connection is dead after this many heartbeats without a byte.
const SILENT_HEARTBEATS: u32 = 3;
/// An end that receives bytes sends something at least this many times in a heartbeat.
const SIGNS_PER_HEARTBEAT: u32 = 3;

/// Checks that waiting bytes move: at least a minimum in a given time.
#[derive(Clone, Copy, Debug, Default)]
struct StallClock {
    /// The time since which bytes have waited, or at which they were last found to move, and the count of moved bytes
    /// then.
    since: Option<(Instant, u64)>,
}

impl StallClock {
    /// Starts the clock, unless it runs: bytes wait.
    fn start(&mut self, now: Instant, count: u64) {
        self.since.get_or_insert((now, count));
    }

    const fn stop(&mut self) {
        self.since = None;
    }

    /// Restarts a running clock.
    fn restart(&mut self, now: Instant, count: u64) {
        self.since = self.since.map(|_| (now, count));
    }

    fn deadline(&self, timeout: Duration) -> Option<Instant> {
        self.since.map(|(since, _)| after(since, timeout))
    }

    /// Returns whether bytes have waited for all of `timeout` while less than `least` moved.
    fn is_stalled(&mut self, now: Instant, timeout: Duration, least: usize, count: u64) -> bool {
        let Some((_, before)) = self.since.filter(|&(since, _)| now >= after(since, timeout)) else {
            return false;
        };
        let stalled = count.saturating_sub(before) < least as u64;
        if !stalled {
            self.since = Some((now, count));
        }
        stalled
    }
}

/// One connection of a session. Each connection that a session continues on gets a new attachment.
#[derive(Debug)]
pub(super) struct Attachment {
    /// Identifies the connection. Each epoch is larger than the one before.
    pub(super) epoch: u64,
    /// Whether the bytes of this connection are handled.
    pub(super) open: bool,
    /// Frames that go before all others, and the number of their bytes that the stream has not accepted.
    hello: Vec<u8>,
    hello_left: usize,
    /// The time by which a `Resume` must be answered.
    pub(super) answer_by: Option<Instant>,
    /// The time by which an `Ack` must be written.
    pub(super) ack_by: Option<Instant>,
    /// The start of a frame that is incomplete.
    pub(super) partial: Vec<u8>,
    /// Watches that `partial` grows.
    incoming: StallClock,
    /// Watches that the stream accepts bytes; and the number of bytes that it has accepted.
    outgoing: StallClock,
    accepted: u64,
    heartbeat: Duration,
    last_heard: Instant,
    /// The time at which the stream last accepted a byte, or at which this end last decided to send one.
    last_said: Instant,
    pinged: bool,
    /// An `Ack` must be written.
    pub(super) ack_due: bool,
    /// The frame up to which the last ping for a flush asks. Until that is acknowledged, no other such ping is sent.
    pub(super) flush_pinged: u64,
}

impl Attachment {
    pub(super) const fn new(epoch: u64, heartbeat: Duration, now: Instant) -> Self {
        Self {
            epoch,
            open: true,
            hello: Vec::new(),
            hello_left: 0,
            answer_by: None,
            ack_by: None,
            partial: Vec::new(),
            incoming: StallClock { since: None },
            outgoing: StallClock { since: None },
            accepted: 0,
            heartbeat,
            last_heard: now,
            last_said: now,
            pinged: false,
            ack_due: false,
            flush_pinged: 0,
        }
    }

    /// Creates an attachment for a connection that is gone, and was the last.
    pub(super) fn gone(epoch: u64, heartbeat: Duration, now: Instant) -> Self {
        Self { open: false, ..Self::new(epoch, heartbeat, now) }
    }

    /// Appends a frame that goes before all ordinary output.
    pub(super) fn put_hello(&mut self, frame: &Frame<'_>) {
        let before = self.hello.len();
        frame.put(&mut self.hello);
        self.hello_left += self.hello.len() - before;
    }

    pub(super) const fn has_hello(&self) -> bool {
        !self.hello.is_empty()
    }

    pub(super) fn take_hello(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.hello)
    }

    /// Counts `len` bytes that the stream accepted. Returns how many of them are ordinary output.
    pub(super) fn accept_hello(&mut self, len: usize) -> usize {
        let own = len.min(self.hello_left);
        self.hello_left -= own;
        len - own
    }

    /// Returns the time at which bytes came last.
    pub(super) const fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Notes that bytes came. While a long frame arrives, the peer gets no answer to it and would take the connection
    /// for dead. So this end owes an `Ack` if it has sent nothing for a while.
    pub(super) fn hear(&mut self, now: Instant) {
        self.last_heard = now;
        self.pinged = false;
        if now >= self.last_said + self.heartbeat / SIGNS_PER_HEARTBEAT {
            self.last_said = now;
            self.ack_due = true;
        }
    }

    /// Takes the bytes of a frame that is complete, or is discarded.
    pub(super) fn take_partial(&mut self) -> Vec<u8> {
        self.incoming.stop();
        std::mem::take(&mut self.partial)
    }

    /// Notes that received bytes have been handled, and starts the clock if a frame is incomplete.
    pub(super) fn note_partial(&mut self, now: Instant) {
        if !self.partial.is_empty() {
            self.incoming.start(now, self.partial.len() as u64);
        }
    }

    /// Notes that the driver has bytes to write.
    pub(super) fn begin_writing(&mut self, now: Instant) {
        self.outgoing.start(now, self.accepted);
    }

    /// Notes that the stream accepted `len` bytes; with `all`, nothing is left to write.
    pub(super) const fn say(&mut self, now: Instant, len: usize, all: bool) {
        self.last_said = now;
        self.accepted += len as u64;
        if all {
            self.outgoing.stop();
        }
    }

    /// Returns the time of the next check whether bytes move.
    pub(super) fn stall_deadline(&self, timeout: Duration) -> Option<Instant> {
        let (out, inn) = (self.outgoing.deadline(timeout), self.incoming.deadline(timeout));
        out.into_iter().chain(inn).min()
    }

    /// Returns `true` if bytes waited to be written for all of `timeout` while the stream accepted less than `least`,
    /// or if a frame was incomplete for all of `timeout` while less than `least` bytes of it came.
    ///
    /// The heartbeat cannot detect this, because any byte is a sign of life: a peer could occupy the memory of a long
    /// frame for ever, with one byte a heartbeat.
    pub(super) fn is_stalled(&mut self, now: Instant, timeout: Duration, least: usize) -> bool {
        self.outgoing.is_stalled(now, timeout, least, self.accepted)
            || self.incoming.is_stalled(now, timeout, least, self.partial.len() as u64)
    }

    /// Returns the time of the next ping, or the time at which the connection counts as dead.
    pub(super) fn deadline(&self) -> Instant {
        self.last_heard + if self.pinged { SILENT_HEARTBEATS * self.heartbeat } else { self.heartbeat }
    }

    pub(super) fn is_dead(&self, now: Instant) -> bool {
        now >= self.last_heard + SILENT_HEARTBEATS * self.heartbeat
    }

    /// Returns `true` if a ping is due, and notes that it is sent.
    pub(super) fn ping(&mut self, now: Instant) -> bool {
        let due = !self.pinged && now >= self.last_heard + self.heartbeat;
        self.pinged |= due;
        due
    }

    /// Restarts the clocks after a pause of this end. The silence was this end's own, so the peer gets its full time
    /// again, and a ping.
    pub(super) fn restart(&mut self, now: Instant) {
        self.last_heard = now;
        self.pinged = true;
        self.incoming.restart(now, self.partial.len() as u64);
        self.outgoing.restart(now, self.accepted);
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the time of a test has to begin somewhere")]
mod tests {
    use super::*;

    #[test]
    fn stream_stalls_when_it_takes_too_little() {
        let (start, minute, least) = (Instant::now(), Duration::from_secs(60), 65_536);
        let mut attachment = Attachment::new(1, minute, start);
        attachment.begin_writing(start);
        attachment.say(start, 70_000, false);
        assert!(!attachment.is_stalled(start + minute, minute, least));
        attachment.say(start, 60_000, false);
        assert_eq!(attachment.stall_deadline(minute), Some(start + 2 * minute));
        assert!(attachment.is_stalled(start + 2 * minute, minute, least));
        attachment.say(start, 1, true);
        assert!(!attachment.is_stalled(start + 3 * minute, minute, least));
    }
}
