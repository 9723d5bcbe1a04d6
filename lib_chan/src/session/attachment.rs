//! What belongs to the connection and not to the session: when something was heard and said, and what has come in part.

use std::time::{Duration, Instant};

use crate::after;

/// Heartbeats without a byte after which a connection is dead.
const SILENT_HEARTBEATS: u32 = 3;
/// An end that hears something says something itself at least this many times in a heartbeat.
const SIGNS_PER_HEARTBEAT: u32 = 3;

/// One connection, attached to a session. A session that goes on over another connection gets a new one of these.
#[derive(Debug)]
pub(super) struct Attachment {
    /// The start of a frame whose rest has not come.
    pub(super) partial: Vec<u8>,
    /// Since when `partial` has waited for its rest, or was last found to make progress, and its length then.
    incomplete: Option<(Instant, usize)>,
    heartbeat: Duration,
    last_heard: Instant,
    /// When the stream last took a byte, or this end last promised one.
    last_said: Instant,
    pinged: bool,
}

impl Attachment {
    pub(super) const fn new(heartbeat: Duration, now: Instant) -> Self {
        Self {
            partial: Vec::new(),
            incomplete: None,
            heartbeat,
            last_heard: now,
            last_said: now,
            pinged: false,
        }
    }

    /// Bytes came. Returns whether the peer should be told so: in the middle of a long frame it gets no other sign
    /// that its bytes arrive, and would take the connection for dead.
    pub(super) fn hear(&mut self, now: Instant) -> bool {
        self.last_heard = now;
        self.pinged = false;
        let owes_sign = now >= self.last_said + self.heartbeat / SIGNS_PER_HEARTBEAT;
        if owes_sign {
            self.last_said = now;
        }
        owes_sign
    }

    /// A frame became whole, or was discarded.
    pub(super) fn take_partial(&mut self) -> Vec<u8> {
        self.incomplete = None;
        std::mem::take(&mut self.partial)
    }

    /// Bytes came and were handled: a frame may have begun.
    pub(super) fn note_partial(&mut self, now: Instant) {
        if !self.partial.is_empty() {
            self.incomplete.get_or_insert((now, self.partial.len()));
        }
    }

    /// When the session next looks whether an incomplete frame makes progress.
    pub(super) fn stall_deadline(&self, timeout: Duration) -> Option<Instant> {
        self.incomplete.map(|(since, _)| after(since, timeout))
    }

    /// Returns `true` if a frame was incomplete for all of `timeout` while less than `least` bytes of it came.
    ///
    /// The heartbeat does not see this, since any byte is a sign of life: a peer could hold the memory of a long frame for
    /// ever, at one byte a heartbeat.
    pub(super) fn is_stalled(&mut self, now: Instant, timeout: Duration, least: usize) -> bool {
        let Some((since, len)) = self.incomplete.filter(|&(since, _)| now >= after(since, timeout)) else {
            return false;
        };
        let stalled = self.partial.len().saturating_sub(len) < least;
        self.incomplete = Some(if stalled { (since, len) } else { (now, self.partial.len()) });
        stalled
    }

    /// The stream took bytes.
    pub(super) const fn say(&mut self, now: Instant) {
        self.last_said = now;
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
        if self.incomplete.is_some() {
            self.incomplete = Some((now, self.partial.len()));
        }
    }
}
