//! One direction of a connection.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Bytes on their way, and all that may happen to them.
#[derive(Debug)]
pub(crate) struct Pipe {
    bytes: VecDeque<u8>,
    /// When each run of bytes arrives.
    runs: VecDeque<(Instant, usize)>,
    latest: Instant,
    /// So many bytes may be under way or unread.
    capacity: usize,
    /// So many more pass; what comes after them vanishes without a word.
    hole: Option<usize>,
    vanished: usize,
    /// So many more pass; then the connection is cut.
    cut: Option<usize>,
    /// Until then a few bytes arrive now and then.
    trickles_until: Option<Instant>,
    /// Nothing arrives before this.
    frozen_until: Option<Instant>,
    /// The end of the stream arrives after all bytes.
    fin: Option<Instant>,
    /// Nobody takes anything any more: a write fails.
    broken: bool,
}

/// So many bytes arrive at a time where they trickle.
const TRICKLE_LEN: usize = 40;
const TRICKLE_TIME: Duration = Duration::from_millis(700);

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// So many bytes were taken.
    Bytes(usize),
    /// These were the last: the connection is to be cut now.
    LastBytes(usize),
    Broken,
}

impl Pipe {
    pub(crate) fn new(now: Instant, capacity: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            runs: VecDeque::new(),
            latest: now,
            capacity,
            hole: None,
            vanished: 0,
            cut: None,
            trickles_until: None,
            frozen_until: None,
            fin: None,
            broken: false,
        }
    }

    /// Whether a write would do something.
    pub(crate) fn is_writable(&self) -> bool {
        self.broken || self.room() > 0
    }

    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.bytes.len() + self.vanished)
    }

    pub(crate) fn write(&mut self, data: &[u8], at: Instant) -> Wrote {
        if self.broken {
            return Wrote::Broken;
        }
        let mut len = data.len().min(self.room());
        let mut last = false;
        if let Some(cut) = &mut self.cut {
            last = *cut <= len;
            len = len.min(*cut);
            *cut -= len;
        }
        let mut passes = len;
        if let Some(hole) = &mut self.hole {
            passes = passes.min(*hole);
            *hole -= passes;
            self.vanished += len - passes;
        }
        self.bytes.extend(&data[..passes]);
        while self.trickles_until.is_some_and(|until| self.latest < until) && passes > 0 {
            let few = passes.min(TRICKLE_LEN);
            self.latest = self.latest.max(at) + TRICKLE_TIME;
            self.runs.push_back((self.latest, few));
            passes -= few;
        }
        if passes > 0 {
            self.latest = self.latest.max(at);
            self.runs.push_back((self.latest, passes));
        }
        if last { Wrote::LastBytes(len) } else { Wrote::Bytes(len) }
    }

    /// How many bytes can be read.
    pub(crate) fn arrived(&self, now: Instant) -> usize {
        if self.frozen_until.is_some_and(|until| now < until) {
            return 0;
        }
        self.runs.iter().take_while(|(at, _)| *at <= now).map(|(_, len)| len).sum()
    }

    pub(crate) fn read(&mut self, len: usize, into: &mut Vec<u8>) {
        into.clear();
        into.extend(self.bytes.drain(..len));
        let mut left = len;
        while left > 0
            && let Some((_, run)) = self.runs.front_mut()
        {
            let here = left.min(*run);
            *run -= here;
            left -= here;
            if *run == 0 {
                self.runs.pop_front();
            }
        }
    }

    /// Whether a read would find the end of the stream.
    pub(crate) fn is_at_end(&self, now: Instant) -> bool {
        self.bytes.is_empty()
            && self.fin.is_some_and(|at| at <= now)
            && self.frozen_until.is_none_or(|until| until <= now)
    }

    /// When something arrives next.
    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        let next = self.runs.front().map(|(at, _)| *at).or(self.fin)?;
        Some(self.frozen_until.map_or(next, |until| next.max(until)))
    }

    /// Bytes written that nobody has read.
    pub(crate) fn has_unread(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The writer has nothing more to say.
    pub(crate) fn finish(&mut self, at: Instant) {
        if self.hole.is_none() {
            self.latest = self.latest.max(at);
            self.fin.get_or_insert(self.latest);
        }
    }

    /// The reader is gone, or the way to it.
    pub(crate) fn break_off(&mut self) {
        self.broken = true;
    }

    /// What is under way is lost, and the reader finds the end.
    pub(crate) fn reset(&mut self, now: Instant) {
        self.broken = true;
        self.bytes.clear();
        self.runs.clear();
        self.hole = None;
        self.frozen_until = None;
        self.fin = Some(now);
    }

    pub(crate) fn has_hole(&self) -> bool {
        self.hole.is_some()
    }

    /// From `after` more bytes on everything vanishes, the end of the stream included.
    pub(crate) fn open_hole(&mut self, after: usize) {
        if self.fin.is_none() {
            self.hole.get_or_insert(after);
        }
    }

    pub(crate) fn cut_after(&mut self, after: usize) {
        self.cut.get_or_insert(after);
    }

    pub(crate) fn trickle(&mut self, until: Instant) {
        self.trickles_until = Some(until);
    }

    pub(crate) fn freeze(&mut self, until: Instant) {
        self.frozen_until = Some(self.frozen_until.map_or(until, |before| before.max(until)));
    }
}
