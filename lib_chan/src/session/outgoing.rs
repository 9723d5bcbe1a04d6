//! What waits to be written: whole frames, counted and bounded.

use std::{collections::VecDeque, io::IoSlice};

use crate::wire::Frame;

/// Payloads from here on are kept as they are instead of being copied behind their frame's head.
pub(super) const OWNED_LEN: usize = 16 * 1024;
/// A buffer for small frames that has this length is full: another one is begun, instead of copying all that is in it into
/// a larger one.
const FULL_LEN: usize = 48 * 1024;
/// A buffer above this is not kept for later.
const KEPT_CAPACITY: usize = 2 * FULL_LEN;
/// So many buffers are kept on either side, to be filled and written, until the session's timer runs out: a heartbeat at
/// the latest.
const KEPT_BUFFERS: usize = 2;

/// Bytes on their way to the socket, oldest first; as the driver holds them.
///
/// Empty pieces do not occur.
#[derive(Debug, Default)]
pub struct Batch {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that have been written.
    written: usize,
    /// Empty buffers that were written.
    spare: Vec<Vec<u8>>,
}

impl Batch {
    /// What to write next; empty when all has been written.
    pub fn chunk(&self) -> &[u8] {
        self.pieces.front().and_then(|piece| piece.get(self.written..)).unwrap_or_default()
    }

    /// What to write next, in pieces: as many as there are places for. How many that is.
    pub fn chunks<'a>(&'a self, places: &mut [IoSlice<'a>]) -> usize {
        let mut written = self.written;
        let mut count = 0;
        for (place, piece) in places.iter_mut().zip(&self.pieces) {
            *place = IoSlice::new(piece.get(std::mem::take(&mut written)..).unwrap_or_default());
            count += 1;
        }
        count
    }

    /// The next bytes have been written.
    pub fn advance(&mut self, written: usize) {
        self.written += written;
        while let Some(len) = self.pieces.front().map(Vec::len)
            && len <= self.written
        {
            self.written -= len;
            if let Some(mut piece) = self.pieces.pop_front()
                && piece.capacity() <= KEPT_CAPACITY
                && self.spare.len() < KEPT_BUFFERS
            {
                piece.clear();
                self.spare.push(piece);
            }
        }
    }

    /// Lets go of the memory that is kept for later.
    pub fn shrink(&mut self) {
        self.spare = Vec::new();
        self.pieces.shrink_to_fit();
    }
}

/// The frames appended since the driver last came for them.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Whole pieces: the last of them, if there is one, is open for small frames when `open` says so.
    pieces: VecDeque<Vec<u8>>,
    open: bool,
    spare: Vec<Vec<u8>>,
    /// Ordered frames appended so far: the number of the last.
    pub(super) number: u64,
    /// Bytes appended so far.
    pub(super) appended: u64,
    /// Bytes that the stream took so far.
    pub(super) accepted: u64,
    /// Acks, pongs and answers about unknown processes: appended but not fetched, and fetched but not all accepted.
    reflections: (usize, usize),
    /// Where the bytes of the second of these end.
    fetched: u64,
    /// The number of the last ordered frame that the peer has acknowledged.
    pub(super) acked: u64,
    /// Bytes that the peer has acknowledged, at least; and what is known when the frame of this number is.
    acked_len: u64,
    mark: (u64, u64),
}

impl Outgoing {
    /// Appends a frame and returns its number, or the number of the last ordered frame when it is none.
    pub(super) fn put(&mut self, frame: &Frame<'_>) -> u64 {
        let tail = self.tail();
        let before = tail.len();
        frame.put(tail);
        let len = tail.len() - before;
        self.count(frame, len)
    }

    /// The same for a frame with a payload of its own: a long one is taken out of `payload` instead of being copied.
    pub(super) fn put_owned(
        &mut self,
        frame: impl for<'a> FnOnce(&'a [u8]) -> Frame<'a>,
        payload: &mut Vec<u8>,
    ) -> u64 {
        if payload.len() < OWNED_LEN {
            return self.put(&frame(payload));
        }
        let tail = self.tail();
        let before = tail.len();
        let frame = frame(payload);
        let len = {
            let payload = frame.put_head(tail);
            tail.len() - before + payload.len()
        };
        let number = self.count(&frame, len);
        self.pieces.push_back(std::mem::take(payload));
        self.open = false;
        number
    }

    /// Appends an answer that the peer provoked: these are counted.
    pub(super) fn reflect(&mut self, frame: &Frame<'_>) {
        self.reflections.0 += 1;
        self.put(frame);
    }

    pub(super) fn reflections(&self) -> usize {
        self.reflections.0 + self.reflections.1
    }

    /// How many buffers are kept for later.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.spare.len()
    }

    /// Lets go of the memory that is kept for later.
    pub(super) fn shrink(&mut self) {
        self.spare = Vec::new();
        self.pieces.shrink_to_fit();
    }

    /// Lets go of all that was not fetched.
    pub(super) fn clear(&mut self) {
        self.pieces = VecDeque::new();
    }

    /// Bytes that the stream has not taken.
    pub(super) fn unsent(&self) -> usize {
        (self.appended - self.accepted) as usize
    }

    /// Whether frames wait to be fetched.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Hands all that waits to a driver whose batch has been written. Returns whether there was anything.
    pub(super) fn fetch(&mut self, batch: &mut Batch) -> bool {
        if self.pieces.is_empty() || !batch.pieces.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.pieces, &mut batch.pieces);
        self.spare.append(&mut batch.spare);
        self.spare.truncate(KEPT_BUFFERS);
        self.fetched = self.appended;
        self.reflections.1 += std::mem::take(&mut self.reflections.0);
        true
    }

    /// The stream took this many bytes.
    pub(super) fn accept(&mut self, len: usize) {
        self.accepted += len as u64;
        if self.accepted == self.fetched {
            self.reflections.1 = 0;
        }
    }

    /// The peer has acknowledged the frames up to this number.
    pub(super) fn ack(&mut self, number: u64) {
        self.acked = self.acked.max(number);
        if number >= self.mark.0 {
            self.acked_len = self.mark.1;
            self.mark = (self.number, self.appended);
        }
    }

    /// Bytes that are not known to be acknowledged.
    pub(super) const fn unacked(&self) -> u64 {
        self.appended - self.acked_len
    }

    fn tail(&mut self) -> &mut Vec<u8> {
        if !self.open || self.pieces.back().is_none_or(|last| last.len() >= FULL_LEN) {
            self.open = true;
            self.pieces.push_back(self.spare.pop().unwrap_or_default());
        }
        let last = self.pieces.len() - 1;
        // `last` is in range: the queue was just made non-empty.
        #[expect(clippy::indexing_slicing, reason = "the queue is not empty")]
        &mut self.pieces[last]
    }

    fn count(&mut self, frame: &Frame<'_>, len: usize) -> u64 {
        self.appended += len as u64;
        self.number += u64::from(frame.is_ordered());
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outgoing: &mut Outgoing) -> Vec<u8> {
        let (mut batch, mut bytes) = (Batch::default(), Vec::new());
        outgoing.fetch(&mut batch);
        while !batch.chunk().is_empty() {
            let len = batch.chunk().len().min(1000);
            bytes.extend_from_slice(&batch.chunk()[..len]);
            batch.advance(len);
            outgoing.accept(len);
        }
        bytes
    }

    #[test]
    fn long_payload_is_not_copied() {
        let mut outgoing = Outgoing::default();
        let mut expected = Vec::new();
        for len in [10, OWNED_LEN, 20, OWNED_LEN + 1, OWNED_LEN * 3, 1] {
            let mut payload = vec![len as u8; len];
            Frame::Cast { to: 7, payload: &payload }.put(&mut expected);
            outgoing.put_owned(|payload| Frame::Cast { to: 7, payload }, &mut payload);
            assert_eq!(payload.is_empty(), len >= OWNED_LEN);
        }
        assert_eq!(outgoing.unsent(), expected.len());
        assert_eq!(drain(&mut outgoing), expected);
        assert_eq!((outgoing.unsent(), outgoing.number), (0, 6));
    }

    /// Small frames, five buffers full of them.
    fn fill(outgoing: &mut Outgoing) {
        for _ in 0..5 * FULL_LEN / 104 {
            outgoing.put(&Frame::Cast { to: 0, payload: &[7; 100] });
        }
    }

    #[test]
    fn reuses_bounded_buffers() {
        let (mut outgoing, mut batch) = (Outgoing::default(), Batch::default());
        for round in 0..6 {
            let kept = outgoing.kept();
            assert_eq!(kept > 0, round > 0, "{round}");
            fill(&mut outgoing);
            assert!(outgoing.spare.is_empty(), "those that were kept are filled first");
            outgoing.fetch(&mut batch);
            assert!(batch.pieces.len() >= 5);
            assert!(batch.pieces.iter().all(|piece| piece.capacity() <= KEPT_CAPACITY));
            let len = outgoing.unsent();
            batch.advance(len);
            outgoing.accept(len);
            // They come back with the next fetch.
            outgoing.put(&Frame::Pong { token: 0 });
            outgoing.fetch(&mut batch);
            batch.advance(outgoing.unsent());
            outgoing.accept(outgoing.unsent());
            assert!(outgoing.spare.len() <= KEPT_BUFFERS && batch.spare.len() <= KEPT_BUFFERS);
        }
        outgoing.shrink();
        batch.shrink();
        assert_eq!(outgoing.spare.capacity() + batch.spare.capacity() + batch.pieces.capacity(), 0);
    }

    #[test]
    fn reflections_count_until_the_stream_took_them() {
        let mut outgoing = Outgoing::default();
        outgoing.reflect(&Frame::Pong { token: 1 });
        let mut batch = Batch::default();
        outgoing.fetch(&mut batch);
        outgoing.reflect(&Frame::Pong { token: 2 });
        assert_eq!(outgoing.reflections(), 2);
        outgoing.accept(batch.chunk().len());
        assert_eq!(outgoing.reflections(), 1);
    }
}
