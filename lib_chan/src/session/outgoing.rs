//! Output that waits to be written: whole frames, counted and bounded.
//!
//! Longer than other files, because output and frames kept for a replay are one queue with one set of counts.

use std::{collections::VecDeque, io::IoSlice, sync::Arc};

use super::answers::{LongAnswers, NextPart};
use crate::wire::{self, Frame, MessageHead};

/// Payloads of at least this length are moved into the output instead of being copied behind the head of their frame.
pub(super) const OWNED_LEN: usize = 16 * 1024;
/// A buffer for small frames of this length is full. Then another one is begun, because growing would copy its
/// contents.
const FULL_LEN: usize = 48 * 1024;
/// Larger buffers are not reused.
const KEPT_CAPACITY: usize = 2 * FULL_LEN;
/// The number of buffers that are kept for reuse on either side, until the session's timer fires: a heartbeat at the
/// latest.
const KEPT_BUFFERS: usize = 2;

/// Shorter pieces are copied when they are kept; longer ones are shared. A copy costs less than another buffer for
/// each write.
const SHARED_LEN: usize = 4 * 1024;

/// A buffer of whole frames, or the payload of the frame whose head ends the previous piece.
#[derive(Debug)]
struct Piece {
    bytes: PieceBytes,
    /// The piece holds ordered frames of a stream that is [kept](Outgoing::keep), and no others.
    ordered: bool,
    /// The number of the last ordered frame in the piece, even if only a part of it is.
    last: u64,
}

#[derive(Debug)]
enum PieceBytes {
    Owned(Vec<u8>),
    /// Kept until the peer has acknowledged it, and written as well.
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

    /// Returns the buffer, if it is not shared and worth reusing.
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

/// Bytes on their way to the socket, oldest first, as the driver holds them.
///
/// No piece is empty.
#[derive(Debug, Default)]
pub struct Batch {
    pieces: VecDeque<Piece>,
    /// The number of bytes of the first piece that were written.
    written: usize,
    /// Buffers that were written and can be reused.
    spare: Vec<Vec<u8>>,
}

impl Batch {
    /// Returns the next bytes to write; none when everything was written.
    pub fn chunk(&self) -> &[u8] {
        self.pieces.front().and_then(|piece| piece.bytes().get(self.written..)).unwrap_or_default()
    }

    /// Fills `places` with the next pieces to write. Returns their number.
    pub fn chunks<'a>(&'a self, places: &mut [IoSlice<'a>]) -> usize {
        let mut written = self.written;
        let mut count = 0;
        for (place, piece) in places.iter_mut().zip(&self.pieces) {
            *place = IoSlice::new(piece.bytes().get(std::mem::take(&mut written)..).unwrap_or_default());
            count += 1;
        }
        count
    }

    /// Returns `true` if nothing was written yet, and `bytes` are all that waits.
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        let rest = self.pieces.iter().try_fold(bytes, |rest, piece| rest.strip_prefix(piece.bytes()));
        self.written == 0 && rest.is_some_and(<[u8]>::is_empty)
    }

    /// Notes that the next bytes were written.
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

    /// Appends frames that belong to the connection alone.
    pub(super) fn push(&mut self, frames: Vec<u8>) {
        self.pieces.push_back(Piece { bytes: PieceBytes::Owned(frames), ordered: false, last: 0 });
    }

    /// Releases the buffers kept for reuse.
    pub fn shrink(&mut self) {
        self.spare = Vec::new();
        self.pieces.shrink_to_fit();
    }
}

/// The frames appended since the driver last fetched. With resume, also the frames that the peer has not
/// acknowledged.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Whole pieces, before the tail.
    pieces: VecDeque<Piece>,
    /// The buffer to which small frames are appended.
    tail: Vec<u8>,
    spare: Vec<Vec<u8>>,
    /// The number of ordered frames appended so far, which is the number of the last one.
    pub(super) number: u64,
    /// The number of bytes appended so far.
    pub(super) appended: u64,
    /// The number of bytes that the stream accepted so far.
    pub(super) accepted: u64,
    /// The numbers of acks, pongs and answers about unknown processes: appended and not fetched, and fetched and not
    /// all accepted.
    reflections: (usize, usize),
    /// The position at which the fetched bytes end.
    fetched: u64,
    /// The number of the last ordered frame that the peer has acknowledged.
    pub(super) acked: u64,
    /// A lower bound of the bytes that the peer has acknowledged; and the frame, with its position, whose ack raises
    /// it.
    acked_len: u64,
    mark: (u64, u64),
    /// Long answers, which are appended part by part, one each time the driver fetches.
    answers: LongAnswers,
    /// The ends of the answers that are not written yet: the peer's slots for these calls are not free.
    answer_ends: VecDeque<u64>,
    kept: Option<Retained>,
}

/// Frames kept for another connection.
#[derive(Debug)]
struct Retained {
    /// Pieces that were fetched and not acknowledged. Everything before them is acknowledged.
    pieces: VecDeque<Piece>,
    /// The number of the last ordered frame before all pieces.
    base: u64,
    /// The number of bytes of ordered frames in all pieces.
    len: usize,
    /// The number of kept bytes at which messages wait.
    bound: usize,
    /// Set if the tail holds ordered frames.
    ordered: bool,
    /// The number of the last frame of which any byte was given to a connection.
    written: u64,
}

impl Outgoing {
    /// Appends a frame. Returns its number; for a frame that is not ordered, the number of the last ordered one.
    pub(super) fn put(&mut self, frame: &Frame<'_>) -> u64 {
        self.append(frame)
    }

    /// Does what [`put`](Self::put) does, and is compiled for each kind of frame that calls it.
    #[inline(always)]
    fn append(&mut self, frame: &Frame<'_>) -> u64 {
        self.make_tail(frame);
        let before = self.tail.len();
        frame.put(&mut self.tail);
        let len = self.tail.len() - before;
        self.count(frame, len)
    }

    /// Appends a frame with a payload of its own. A long payload is taken out of `payload` instead of being copied.
    #[inline]
    pub(super) fn put_owned(
        &mut self,
        frame: impl for<'a> FnOnce(&'a [u8]) -> Frame<'a>,
        payload: &mut Vec<u8>,
    ) -> u64 {
        if payload.len() < OWNED_LEN { self.append(&frame(payload)) } else { self.put_long(frame, payload) }
    }

    // Bulk data comes here, but a long payload costs thousands of instructions on its way. Marked as cold, this costs short
    // payloads the least: 6 instructions less than if it is only not inlined.
    #[cold]
    fn put_long(&mut self, frame: impl for<'a> FnOnce(&'a [u8]) -> Frame<'a>, payload: &mut Vec<u8>) -> u64 {
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

    /// Appends the answer to a call of the peer, or begins to send it in parts.
    pub(super) fn answer(&mut self, call: u64, payload: &mut Vec<u8>, part_len: usize) {
        if payload.len() > part_len {
            self.answers.push(call, std::mem::take(payload), part_len);
        } else {
            self.put_owned(|payload| Frame::Reply { call, payload }, payload);
            self.end_answer();
        }
    }

    /// Appends a `Refuse` for a call of the peer.
    pub(super) fn refuse(&mut self, frame: &Frame<'_>) {
        self.put(frame);
        self.end_answer();
    }

    /// Notes that the last frame ends an answer.
    pub(super) fn end_answer(&mut self) {
        self.answer_ends.push_back(self.end());
    }

    /// Returns the number of answers that the stream has not accepted.
    pub(super) fn unwritten_answers(&self) -> usize {
        self.answer_ends.len() + self.answers.count()
    }

    /// Returns the bytes that are left of the long answers which take turns.
    pub(super) fn in_turn(&self) -> usize {
        self.answers.in_turn()
    }

    /// Appends the next part of a long answer.
    fn put_part(&mut self) {
        let Some(mut answer) = self.answers.pop() else { return };
        let call = answer.call;
        match answer.next() {
            NextPart::Part { total, payload } => {
                self.put(&Frame::Part { call, total, payload });
                self.answers.put_back(answer);
            }
            NextPart::Last(payload) => {
                self.put(&Frame::Reply { call, payload });
                self.end_answer();
            }
        }
    }

    /// Appends all that is left of the long answers, in front of a frame that must not overtake them.
    #[cold]
    pub(super) fn put_answers(&mut self) {
        while let Some(answer) = self.answers.pop() {
            let call = answer.call;
            self.put_owned(|payload| Frame::Reply { call, payload }, &mut answer.into_rest());
            self.end_answer();
        }
    }

    /// Appends an answer that the peer provoked, and counts it.
    pub(super) fn reflect(&mut self, frame: &Frame<'_>) {
        self.reflections.0 += 1;
        self.put(frame);
    }

    pub(super) fn reflections(&self) -> usize {
        self.reflections.0 + self.reflections.1
    }

    /// Returns the number of buffers that are kept for reuse.
    #[cfg(test)]
    pub(super) fn spare(&self) -> usize {
        self.spare.len() + usize::from(self.tail.is_empty() && self.tail.capacity() > 0)
    }

    /// Releases the buffers kept for reuse.
    pub(super) fn shrink(&mut self) {
        self.spare = Vec::new();
        self.pieces.shrink_to_fit();
        if self.tail.is_empty() {
            self.tail = Vec::new();
        }
    }

    /// Drops the frames that were not fetched, and those that were kept.
    pub(super) fn clear(&mut self) {
        self.pieces = VecDeque::new();
        self.tail = Vec::new();
        self.answers = LongAnswers::default();
        self.forget();
    }

    /// Returns the number of bytes that the stream has not accepted, with those of long answers that are not appended
    /// yet.
    pub(super) const fn unsent(&self) -> usize {
        self.unwritten() + self.answers.len()
    }

    /// Returns the number of appended bytes that the stream has not accepted. A message of this end goes behind them.
    pub(super) const fn unwritten(&self) -> usize {
        (self.appended - self.accepted) as usize
    }

    /// Returns the number of bytes in memory: not accepted by the stream or, with resume, not acknowledged by the
    /// peer.
    #[inline]
    pub(super) fn held(&self) -> usize {
        self.unwritten().max(self.kept.as_ref().map_or(0, |kept| kept.len)) + self.answers.len()
    }

    /// Returns `true` unless frames wait to be fetched.
    pub(super) fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.pieces.is_empty() && self.answers.is_empty()
    }

    /// Passes the waiting frames to a driver whose batch was written. Returns whether there were any.
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

    /// Notes that the stream accepted `len` bytes.
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

    /// Handles the peer's acknowledgement of the frames up to `number`.
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

    /// Returns the number of bytes that are not known to be acknowledged.
    pub(super) fn unacked(&self) -> u64 {
        self.kept.as_ref().map_or(self.appended - self.acked_len, |kept| kept.len as u64)
    }

    // Frames that outlive a connection.

    /// Begins to keep ordered frames until the peer has acknowledged them, about `bound` bytes of them. Those before
    /// belong to the opening, which is not repeated.
    pub(super) fn keep(&mut self, bound: usize) {
        if !self.tail.is_empty() {
            self.close_tail();
        }
        let pieces = VecDeque::new();
        let (base, written) = (self.number, self.number);
        self.acked = base;
        self.kept = Some(Retained { pieces, base, len: 0, bound, ordered: false, written });
    }

    /// Stops keeping frames, because no other connection will come.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }

    /// Raises the number of bytes that may be kept.
    pub(super) fn widen(&mut self, bound: usize) {
        if let Some(kept) = &mut self.kept {
            kept.bound = kept.bound.max(bound);
        }
    }

    /// Returns `true` if so many bytes are kept that messages wait.
    pub(super) fn is_at_bound(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.len >= kept.bound)
    }

    /// Returns the position of the last appended frame, to compare with [`reached`](Self::reached). It is a number of
    /// frames if they are kept, because a frame that is written twice may differ in length, and otherwise a number of
    /// bytes.
    pub(super) fn end(&self) -> u64 {
        if self.kept.is_some() { self.number } else { self.appended }
    }

    /// Returns the position up to which frames may have reached the peer.
    pub(super) fn reached(&self) -> u64 {
        self.kept.as_ref().map_or(self.accepted, |kept| kept.written)
    }

    /// Handles the loss of the connection: keeps the frames for another one, if frames are kept, and drops the
    /// others.
    pub(super) fn detach(&mut self) {
        if !self.tail.is_empty() {
            self.close_tail();
        }
        let Some(kept) = &mut self.kept else { return };
        let unfetched = std::mem::replace(&mut self.pieces, std::mem::take(&mut kept.pieces));
        self.pieces.extend(unfetched.into_iter().filter(|piece| piece.ordered));
        self.restart();
    }

    /// Prepares the replay on another connection. The peer has received the frames up to `received`; the rest is
    /// written again. `left` returns the remaining time of a call.
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

    /// Restarts the counts from the waiting pieces.
    fn restart(&mut self) {
        self.appended = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        (self.accepted, self.fetched, self.acked_len, self.mark) = (0, 0, 0, (self.number, 0));
        self.reflections = (0, 0);
    }

    /// Prepares the tail for the frame.
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

    /// Turns the tail into a whole piece.
    fn close_tail(&mut self) {
        let next = self.spare.pop().unwrap_or_default();
        let bytes = PieceBytes::Owned(std::mem::replace(&mut self.tail, next));
        let ordered = self.kept.as_ref().is_some_and(|kept| kept.ordered);
        self.pieces.push_back(Piece { bytes, ordered, last: self.number });
    }

    #[inline]
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

/// A walk over the kept frames, which writes them again.
struct Replay {
    /// The number of the last frame that the walk has passed.
    number: u64,
    /// The number of the last frame that the peer has.
    received: u64,
    /// Set if the next piece is the payload of the last frame.
    payload: bool,
}

impl Replay {
    const fn new(base: u64, received: u64) -> Self {
        Self { number: base, received, payload: false }
    }

    /// Returns `true` if the next piece is the payload of the last frame.
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
                    // A call without time keeps none: it asks whether its turn has come.
                    Ok(Frame::Call { to, call, left: before, payload }) if before > 0 => {
                        let start = out.len();
                        Frame::Call { to, call, left: left(call), payload }.put(out);
                        let len = (out.len() - start - wire::LEN_LEN + outside) as u32;
                        if let Some(head) = out.get_mut(start..start + wire::LEN_LEN) {
                            head.copy_from_slice(&len.to_be_bytes());
                        }
                    }
                    Ok(Frame::With {
                        message: MessageHead::Call { to, call, left: before },
                        handles,
                        payload,
                    }) if before > 0 => {
                        let message = MessageHead::Call { to, call, left: left(call) };
                        Frame::With { message, handles, payload }.put(out);
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

    /// Turns the copied frames into a piece.
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
