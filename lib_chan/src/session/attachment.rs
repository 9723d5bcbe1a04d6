//! What dies with a connection: when something was heard and said, what has come in part, and what is owed at once.

use std::time::{Duration, Instant};

use crate::{after, wire::Frame};

/// Heartbeats without a byte after which a connection is dead.
const SILENT_HEARTBEATS: u32 = 3;
/// An end that hears something says something itself at least this many times in a heartbeat.
const SIGNS_PER_HEARTBEAT: u32 = 3;

/// Watches that bytes which should move do: at least so many in so much time.
#[derive(Clone, Copy, Debug, Default)]
struct StallClock {
    /// Since when bytes have waited, or were last found to move; and the count of moved bytes then.
    since: Option<(Instant, u64)>,
}

impl StallClock {
    /// Bytes wait, unless they did before.
    fn start(&mut self, now: Instant, count: u64) {
        self.since.get_or_insert((now, count));
    }

    const fn stop(&mut self) {
        self.since = None;
    }

    /// The peer gets its time anew.
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

/// One connection, attached to a session. A session that goes on over another connection gets a new one of these.
#[derive(Debug)]
pub(super) struct Attachment {
    /// Names it: larger than that of every one before.
    pub(super) epoch: u64,
    /// Whether its bytes are handled.
    pub(super) open: bool,
    /// Frames that go before all others, and bytes of these that the stream has not taken.
    hello: Vec<u8>,
    hello_left: usize,
    /// When a `Resume` must have been answered.
    pub(super) answer_by: Option<Instant>,
    /// When an `Ack` is due at the latest.
    pub(super) ack_by: Option<Instant>,
    /// The start of a frame whose rest has not come.
    pub(super) partial: Vec<u8>,
    /// Bytes of `partial`.
    incoming: StallClock,
    /// Bytes that the stream takes, and how many it took.
    outgoing: StallClock,
    accepted: u64,
    heartbeat: Duration,
    last_heard: Instant,
    /// When the stream last took a byte, or this end last promised one.
    last_said: Instant,
    pinged: bool,
    /// An `Ack` is to be written.
    pub(super) ack_due: bool,
    /// How far the last ping for a flush asks; until that is acknowledged no other goes.
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

    /// A connection that is gone, and was the last.
    pub(super) fn gone(epoch: u64, heartbeat: Duration, now: Instant) -> Self {
        Self { open: false, ..Self::new(epoch, heartbeat, now) }
    }

    /// Appends a frame that goes before all that are not of these.
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

    /// The stream took this many bytes: how many of them were of the ordinary output.
    pub(super) fn accept_hello(&mut self, len: usize) -> usize {
        let own = len.min(self.hello_left);
        self.hello_left -= own;
        len - own
    }

    /// Bytes came. In the middle of a long frame the peer gets no other sign that they arrive, and would take the
    /// connection for dead: so this end owes an `Ack` if it has said nothing for a while.
    pub(super) fn hear(&mut self, now: Instant) {
        self.last_heard = now;
        self.pinged = false;
        if now >= self.last_said + self.heartbeat / SIGNS_PER_HEARTBEAT {
            self.last_said = now;
            self.ack_due = true;
        }
    }

    /// A frame became whole, or was discarded.
    pub(super) fn take_partial(&mut self) -> Vec<u8> {
        self.incoming.stop();
        std::mem::take(&mut self.partial)
    }

    /// Bytes came and were handled: a frame may have begun.
    pub(super) fn note_partial(&mut self, now: Instant) {
        if !self.partial.is_empty() {
            self.incoming.start(now, self.partial.len() as u64);
        }
    }

    /// The driver has fetched bytes to write.
    pub(super) fn begin_writing(&mut self, now: Instant) {
        self.outgoing.start(now, self.accepted);
    }

    /// The stream took bytes, and with `all` nothing is left.
    pub(super) const fn say(&mut self, now: Instant, len: usize, all: bool) {
        self.last_said = now;
        self.accepted += len as u64;
        if all {
            self.outgoing.stop();
        }
    }

    /// When the session next looks whether bytes move.
    pub(super) fn stall_deadline(&self, timeout: Duration) -> Option<Instant> {
        let (out, inn) = (self.outgoing.deadline(timeout), self.incoming.deadline(timeout));
        out.into_iter().chain(inn).min()
    }

    /// Returns `true` if for all of `timeout` bytes waited to be written and the stream took less than `least`, or a frame
    /// was incomplete and less than `least` bytes of it came.
    ///
    /// The heartbeat does not see this, since any byte is a sign of life: a peer could hold the memory of a long frame for
    /// ever, at one byte a heartbeat.
    pub(super) fn is_stalled(&mut self, now: Instant, timeout: Duration, least: usize) -> bool {
        self.outgoing.is_stalled(now, timeout, least, self.accepted)
            || self.incoming.is_stalled(now, timeout, least, self.partial.len() as u64)
    }

    /// When there is something to ping or to give up.
    pub(super) fn deadline(&self) -> Instant {
        self.last_heard + if self.pinged { SILENT_HEARTBEATS * self.heartbeat } else { self.heartbeat }
    }

    pub(super) fn is_dead(&self, now: Instant) -> bool {
        now >= self.last_heard + SILENT_HEARTBEATS * self.heartbeat
    }

    /// Whether a ping is due, which is then under way.
    pub(super) fn ping(&mut self, now: Instant) -> bool {
        let due = !self.pinged && now >= self.last_heard + self.heartbeat;
        self.pinged |= due;
        due
    }

    /// This end did not run for a while. What was silent meanwhile was this end: the peer gets its time anew, and a ping.
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
