//! What waits to be written: whole frames, counted and bounded.
//!
//! Longer than other files: what is written and what is kept to be written again are one queue, with one set of counts.

use std::{collections::VecDeque, io::IoSlice, sync::Arc};

use super::answers::{LongAnswers, Next};
use crate::wire::{self, Frame};

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

/// Pieces below this are copied to be kept; longer ones are shared. A copy costs less than another buffer for each write.
const SHARED_LEN: usize = 4 * 1024;

/// A buffer of whole frames; or the payload of the frame whose head ends the piece before it.
#[derive(Debug)]
struct Piece {
    bytes: PieceBytes,
    /// Its frames are ordered, in an outgoing stream that is [kept](Outgoing::keep); there is no other kind in the piece then.
    ordered: bool,
    /// The number of the last ordered frame that is in the piece, at least in part.
    last: u64,
}

#[derive(Debug)]
enum PieceBytes {
    Owned(Vec<u8>),
    /// It is kept until the peer has acknowledged it, and written.
    Shared(Arc<Vec<u8>>),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            PieceBytes::Owned(bytes) => bytes,
            PieceBytes::Shared(bytes) => bytes,
        }
    }

    fn len(&self) -> usize {
        self.bytes().len()
    }

    #[cfg(test)]
    fn capacity(&self) -> usize {
        match &self.bytes {
            PieceBytes::Owned(bytes) => bytes.capacity(),
            PieceBytes::Shared(bytes) => bytes.capacity(),
        }
    }

    /// Its buffer, if nobody else has it and it is worth keeping.
    fn recycle(self) -> Option<Vec<u8>> {
        let bytes = match self.bytes {
            PieceBytes::Owned(bytes) => Some(bytes),
            PieceBytes::Shared(bytes) => Arc::try_unwrap(bytes).ok(),
        };
        let mut bytes = bytes.filter(|bytes| bytes.capacity() <= KEPT_CAPACITY)?;
        bytes.clear();
        Some(bytes)
    }
}

/// Bytes on their way to the socket, oldest first; as the driver holds them.
///
/// Empty pieces do not occur.
#[derive(Debug, Default)]
pub struct Batch {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that have been written.
    written: usize,
    /// Empty buffers that were written.
    spare: Vec<Vec<u8>>,
}

impl Batch {
    /// What to write next; empty when all has been written.
    pub fn chunk(&self) -> &[u8] {
        self.pieces.front().and_then(|piece| piece.bytes().get(self.written..)).unwrap_or_default()
    }

    /// What to write next, in pieces: as many as there are places for. How many that is.
    pub fn chunks<'a>(&'a self, places: &mut [IoSlice<'a>]) -> usize {
        let mut written = self.written;
        let mut count = 0;
        for (place, piece) in places.iter_mut().zip(&self.pieces) {
            *place = IoSlice::new(piece.bytes().get(std::mem::take(&mut written)..).unwrap_or_default());
            count += 1;
        }
        count
    }

    /// The next bytes have been written.
    pub fn advance(&mut self, written: usize) {
        self.written += written;
        while let Some(len) = self.pieces.front().map(Piece::len)
            && len <= self.written
        {
            self.written -= len;
            if let Some(piece) = self.pieces.pop_front()
                && self.spare.len() < KEPT_BUFFERS
            {
                self.spare.extend(piece.recycle());
            }
        }
    }

    /// Appends frames of the connection alone.
    pub(super) fn push(&mut self, frames: Vec<u8>) {
        self.pieces.push_back(Piece { bytes: PieceBytes::Owned(frames), ordered: false, last: 0 });
    }

    /// Lets go of the memory that is kept for later.
    pub fn shrink(&mut self) {
        self.spare = Vec::new();
        self.pieces.shrink_to_fit();
    }
}

/// The frames appended since the driver last came for them; and, where the session outlives its connection, those that
/// the peer has not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Whole pieces, in front of the tail.
    pieces: VecDeque<Piece>,
    /// Where small frames are appended.
    tail: Vec<u8>,
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
    /// Long answers, which are appended in parts, one each time that the driver comes.
    answers: LongAnswers,
    /// Where the answers end that are not written: the peer's slots for these calls are not free yet.
    answer_ends: VecDeque<u64>,
    kept: Option<Retained>,
}

/// What is kept for another connection.
#[derive(Debug)]
struct Retained {
    /// Pieces that were fetched and that the peer has not acknowledged. Those in front of them are acknowledged as a whole.
    pieces: VecDeque<Piece>,
    /// The number of the last ordered frame in front of all pieces that there are.
    base: u64,
    /// Bytes of ordered frames in all pieces that there are.
    len: usize,
    /// So many may be kept before messages wait.
    bound: usize,
    /// The tail is of ordered frames.
    ordered: bool,
    /// The number of the last frame any byte of which was given to a connection.
    written: u64,
}

impl Outgoing {
    /// Appends a frame and returns its number, or the number of the last ordered frame when it is none.
    pub(super) fn put(&mut self, frame: &Frame<'_>) -> u64 {
        self.make_tail(frame);
        let before = self.tail.len();
        frame.put(&mut self.tail);
        let len = self.tail.len() - before;
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
        let frame = frame(payload);
        self.make_tail(&frame);
        let before = self.tail.len();
        let len = {
            let payload = frame.put_head(&mut self.tail);
            self.tail.len() - before + payload.len()
        };
        let number = self.count(&frame, len);
        self.close_tail();
        let bytes = PieceBytes::Owned(std::mem::take(payload));
        self.pieces.push_back(Piece { bytes, ordered: self.kept.is_some(), last: number });
        number
    }

    /// Appends the answer to a call of the peer's, or its parts one by one.
    pub(super) fn answer(&mut self, call: u64, payload: &mut Vec<u8>, part_len: usize) {
        if payload.len() > part_len {
            self.answers.push(call, std::mem::take(payload), part_len);
        } else {
            self.put_owned(|payload| Frame::Reply { call, payload }, payload);
            self.answer_ends.push_back(self.end());
        }
    }

    /// Appends the other answer to a call of the peer's, a `Refuse`.
    pub(super) fn refuse(&mut self, frame: &Frame<'_>) {
        self.put(frame);
        self.answer_ends.push_back(self.end());
    }

    /// Answers that the stream has not taken.
    pub(super) fn unwritten_answers(&self) -> usize {
        self.answer_ends.len() + self.answers.count()
    }

    /// Appends the next part of a long answer.
    fn put_part(&mut self) {
        let Some(mut answer) = self.answers.pop() else { return };
        let call = answer.call;
        match answer.next() {
            Next::Part { total, payload } => {
                self.put(&Frame::Part { call, total, payload });
                self.answers.put_back(answer);
            }
            Next::Last(payload) => {
                self.put(&Frame::Reply { call, payload });
                self.answer_ends.push_back(self.end());
            }
        }
    }

    /// Appends all that is left of the long answers, in front of a frame that must not overtake them.
    #[cold]
    pub(super) fn put_answers(&mut self) {
        while let Some(answer) = self.answers.pop() {
            let call = answer.call;
            self.put_owned(|payload| Frame::Reply { call, payload }, &mut answer.into_rest());
            self.answer_ends.push_back(self.end());
        }
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
    pub(super) fn spare(&self) -> usize {
        self.spare.len() + usize::from(self.tail.is_empty() && self.tail.capacity() > 0)
    }

    /// Lets go of the memory that is kept for later.
    pub(super) fn shrink(&mut self) {
        self.spare = Vec::new();
        self.pieces.shrink_to_fit();
        if self.tail.is_empty() {
            self.tail = Vec::new();
        }
    }

    /// Lets go of all that was not fetched, and of all that was kept.
    pub(super) fn clear(&mut self) {
        self.pieces = VecDeque::new();
        self.tail = Vec::new();
        self.answers = LongAnswers::default();
        self.forget();
    }

    /// Bytes that the stream has not taken, with those of long answers that are not appended yet.
    pub(super) const fn unsent(&self) -> usize {
        self.unwritten() + self.answers.len()
    }

    /// Bytes that are appended, and that the stream has not taken: a message of this end goes behind them.
    pub(super) const fn unwritten(&self) -> usize {
        (self.appended - self.accepted) as usize
    }

    /// Bytes in memory: not taken by the stream, or not acknowledged by the peer where that matters.
    pub(super) fn held(&self) -> usize {
        self.unwritten().max(self.kept.as_ref().map_or(0, |kept| kept.len)) + self.answers.len()
    }

    /// Whether frames wait to be fetched.
    pub(super) fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.pieces.is_empty() && self.answers.is_empty()
    }

    /// Hands all that waits to a driver whose batch has been written. Returns whether there was anything.
    pub(super) fn fetch(&mut self, batch: &mut Batch) -> bool {
        if self.is_empty() || !batch.pieces.is_empty() {
            return false;
        }
        self.put_part();
        if !self.tail.is_empty() {
            self.close_tail();
        }
        std::mem::swap(&mut self.pieces, &mut batch.pieces);
        if let Some(kept) = &mut self.kept {
            batch.pieces.iter_mut().filter(|piece| piece.ordered).for_each(|piece| kept.keep(piece));
            kept.written = self.number;
        }
        self.spare.append(&mut batch.spare);
        self.spare.truncate(KEPT_BUFFERS);
        if self.tail.capacity() == 0 {
            self.tail = self.spare.pop().unwrap_or_default();
        }
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
        let reached = self.reached();
        while self.answer_ends.front().is_some_and(|end| *end <= reached) {
            self.answer_ends.pop_front();
        }
    }

    /// The peer has acknowledged the frames up to this number.
    pub(super) fn ack(&mut self, number: u64) {
        self.acked = self.acked.max(number);
        if number >= self.mark.0 {
            self.acked_len = self.mark.1;
            self.mark = (self.number, self.appended);
        }
        if let Some(kept) = &mut self.kept {
            while kept.pieces.front().is_some_and(|piece| piece.last <= number)
                && let Some(piece) = kept.pieces.pop_front()
            {
                kept.len -= piece.len();
                kept.base = piece.last;
                if self.spare.len() < KEPT_BUFFERS {
                    self.spare.extend(piece.recycle());
                }
            }
        }
    }

    /// Bytes that are not known to be acknowledged.
    pub(super) fn unacked(&self) -> u64 {
        self.kept.as_ref().map_or(self.appended - self.acked_len, |kept| kept.len as u64)
    }

    // What outlives a connection.

    /// From now on ordered frames are kept until the peer has acknowledged them, about `bound` bytes of them.
    pub(super) fn keep(&mut self, bound: usize) {
        if !self.tail.is_empty() {
            self.close_tail();
        }
        let pieces = VecDeque::new();
        let (base, written) = (self.number, self.number);
        // The answer to the `Start` acknowledges it.
        self.acked = base;
        self.kept = Some(Retained { pieces, base, len: 0, bound, ordered: false, written });
    }

    /// Nothing more is kept: there will be no other connection.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// Lets more be kept.
    pub(super) fn widen(&mut self, bound: usize) {
        if let Some(kept) = &mut self.kept {
            kept.bound = kept.bound.max(bound);
        }
    }

    /// Whether so much is kept that messages wait.
    pub(super) fn is_at_bound(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.len >= kept.bound)
    }

    /// Where a frame that was just appended ends, to compare with [`reached`](Self::reached): in numbers of frames where
    /// they are kept, because the bytes of a frame that is written twice differ; else in bytes.
    pub(super) fn end(&self) -> u64 {
        if self.kept.is_some() { self.number } else { self.appended }
    }

    /// How far frames may have got to the peer.
    pub(super) fn reached(&self) -> u64 {
        self.kept.as_ref().map_or(self.accepted, |kept| kept.written)
    }

    /// The connection is gone: frames that are kept wait for another, the others are gone with it.
    pub(super) fn detach(&mut self) {
        if !self.tail.is_empty() {
            self.close_tail();
        }
        let Some(kept) = &mut self.kept else { return };
        let unfetched = std::mem::replace(&mut self.pieces, std::mem::take(&mut kept.pieces));
        self.pieces.extend(unfetched.into_iter().filter(|piece| piece.ordered));
        self.restart();
    }

    /// Another connection is there, and the peer has received the frames up to `received`. The rest of what is kept is
    /// written again, calls with the time that `left` says of them.
    pub(super) fn attach(&mut self, received: u64, left: impl Fn(u64) -> u64) {
        if !self.tail.is_empty() {
            self.close_tail();
        }
        let Some(kept) = &mut self.kept else { return };
        let (mut replay, mut small) = (Replay::new(kept.base, received), Vec::new());
        let mut pieces = VecDeque::new();
        for piece in std::mem::take(&mut self.pieces).into_iter().filter(|piece| piece.ordered) {
            if replay.takes_payload() {
                if replay.is_wanted() {
                    replay.push(&mut pieces, &mut small);
                    pieces.push_back(piece);
                }
            } else {
                replay.copy(piece.bytes(), &mut small, &left);
            }
            if small.len() >= FULL_LEN {
                replay.push(&mut pieces, &mut small);
            }
        }
        replay.push(&mut pieces, &mut small);
        kept.base = received.max(kept.base);
        kept.len = pieces.iter().map(Piece::len).sum();
        self.acked = self.acked.max(received);
        self.pieces = pieces;
        self.restart();
    }

    /// Counts anew what waits.
    fn restart(&mut self) {
        self.appended = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        (self.accepted, self.fetched, self.acked_len, self.mark) = (0, 0, 0, (self.number, 0));
        self.reflections = (0, 0);
    }

    /// Sees to it that the frame can be appended to the tail.
    #[inline]
    fn make_tail(&mut self, frame: &Frame<'_>) {
        if !self.answers.is_empty() && frame.is_signal() {
            self.put_answers();
        }
        let is_full = self.tail.len() >= FULL_LEN;
        let ordered = frame.is_ordered();
        if is_full || self.kept.as_ref().is_some_and(|kept| kept.ordered != ordered) {
            self.turn_tail(ordered);
        }
    }

    #[cold]
    fn turn_tail(&mut self, ordered: bool) {
        if !self.tail.is_empty() {
            self.close_tail();
        }
        if let Some(kept) = &mut self.kept {
            kept.ordered = ordered;
        }
    }

    /// The tail becomes a whole piece.
    fn close_tail(&mut self) {
        let next = self.spare.pop().unwrap_or_default();
        let bytes = PieceBytes::Owned(std::mem::replace(&mut self.tail, next));
        let ordered = self.kept.as_ref().is_some_and(|kept| kept.ordered);
        self.pieces.push_back(Piece { bytes, ordered, last: self.number });
    }

    fn count(&mut self, frame: &Frame<'_>, len: usize) -> u64 {
        self.appended += len as u64;
        let ordered = frame.is_ordered();
        self.number += u64::from(ordered);
        if let Some(kept) = self.kept.as_mut().filter(|_| ordered) {
            kept.len += len;
        }
        self.number
    }
}

impl Retained {
    /// Keeps a piece that goes to the driver.
    fn keep(&mut self, piece: &mut Piece) {
        if piece.len() < SHARED_LEN
            && let PieceBytes::Owned(bytes) = &piece.bytes
        {
            if let Some(Piece { bytes: PieceBytes::Owned(before), last, .. }) = self.pieces.back_mut()
                && before.len() < FULL_LEN
            {
                before.extend_from_slice(bytes);
                *last = piece.last;
            } else {
                let bytes = PieceBytes::Owned(bytes.clone());
                self.pieces.push_back(Piece { bytes, ordered: true, last: piece.last });
            }
            return;
        }
        let shared = match std::mem::replace(&mut piece.bytes, PieceBytes::Owned(Vec::new())) {
            PieceBytes::Owned(bytes) => Arc::new(bytes),
            PieceBytes::Shared(bytes) => bytes,
        };
        piece.bytes = PieceBytes::Shared(Arc::clone(&shared));
        self.pieces.push_back(Piece { bytes: PieceBytes::Shared(shared), ordered: true, last: piece.last });
    }
}

/// A walk over the frames that are kept, to write them again.
struct Replay {
    /// The number of the last frame that was walked over.
    number: u64,
    /// The peer has those up to here.
    received: u64,
    /// The payload of the last one is the next piece.
    payload: bool,
}

impl Replay {
    const fn new(base: u64, received: u64) -> Self {
        Self { number: base, received, payload: false }
    }

    /// Whether the next piece is the payload of the last frame.
    const fn takes_payload(&mut self) -> bool {
        std::mem::replace(&mut self.payload, false)
    }

    const fn is_wanted(&self) -> bool {
        self.number > self.received
    }

    /// Copies the frames of `piece` that the peer does not have.
    fn copy(&mut self, piece: &[u8], out: &mut Vec<u8>, left: impl Fn(u64) -> u64) {
        let mut rest = piece;
        while let Some((head, behind)) = rest.split_first_chunk::<{ wire::LEN_LEN }>() {
            let len = u32::from_be_bytes(*head) as usize;
            let body = behind.get(..len).unwrap_or(behind);
            let outside = len - body.len();
            self.number += 1;
            self.payload = outside > 0;
            if self.is_wanted() {
                match Frame::parse(body) {
                    // A call that had no time keeps none: it asks whether its turn has come.
                    Ok(Frame::Call { to, call, left: before, payload }) if before > 0 => {
                        let start = out.len();
                        Frame::Call { to, call, left: left(call), payload }.put(out);
                        let len = (out.len() - start - wire::LEN_LEN + outside) as u32;
                        if let Some(head) = out.get_mut(start..start + wire::LEN_LEN) {
                            head.copy_from_slice(&len.to_be_bytes());
                        }
                    }
                    _ => {
                        out.extend_from_slice(head);
                        out.extend_from_slice(body);
                    }
                }
            }
            rest = behind.get(len..).unwrap_or_default();
        }
    }

    /// What was copied is a piece.
    fn push(&self, pieces: &mut VecDeque<Piece>, copied: &mut Vec<u8>) {
        if !copied.is_empty() {
            let bytes = PieceBytes::Owned(std::mem::take(copied));
            pieces.push_back(Piece { bytes, ordered: true, last: self.number });
        }
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
            let kept = outgoing.spare();
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
