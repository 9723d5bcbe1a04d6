//! Long answers, sent in parts, so that no other frame waits for more than one part; and payloads that come in parts.

use std::collections::VecDeque;

use bytes::Bytes;

use super::receive::{Fault, reserve};

/// The most answers of one end that are sent in parts at once; and the most messages.
pub(super) const MAX_UNFINISHED: usize = 4;
/// The bytes of a part: a sixteenth of the longest payload that the peer accepts, within these bounds. Longer parts delay
/// other frames, shorter ones cost more writes.
const PART_OF_LONGEST: usize = 16;
pub(super) const MIN_PART_LEN: usize = 256;
const MAX_PART_LEN: usize = 64 * 1024;

/// The bytes of a part for a peer that accepts payloads of at most `max` bytes.
#[inline]
pub(super) fn part_len(max: usize) -> usize {
    (max / PART_OF_LONGEST).clamp(MIN_PART_LEN, MAX_PART_LEN)
}

/// An answer that was not sent yet, or only in part.
#[derive(Debug)]
pub(super) struct LongAnswer {
    pub(super) call: u64,
    payload: Vec<u8>,
    sent: usize,
    part_len: usize,
}

/// The next bytes of a long answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextPart<'a> {
    Part {
        /// Bytes of the whole answer, in the first part only.
        total: u64,
        payload: &'a [u8],
    },
    Last(&'a [u8]),
}

impl LongAnswer {
    /// Takes the next part.
    pub(super) fn next(&mut self) -> NextPart<'_> {
        let start = self.sent;
        let end = start + self.part_len;
        match self.payload.get(start..end) {
            Some(payload) if end < self.payload.len() => {
                self.sent = end;
                let total = if start == 0 { self.payload.len() as u64 } else { 0 };
                NextPart::Part { total, payload }
            }
            _ => NextPart::Last(self.payload.get(start..).unwrap_or_default()),
        }
    }

    /// Takes everything that is left.
    pub(super) fn into_rest(mut self) -> Vec<u8> {
        if self.sent > 0 { self.payload.split_off(self.sent) } else { self.payload }
    }

    const fn left(&self) -> usize {
        self.payload.len() - self.sent
    }
}

/// The long answers of this end, oldest first. The first [`MAX_UNFINISHED`] take turns.
#[derive(Debug, Default)]
pub(super) struct LongAnswers {
    waiting: VecDeque<LongAnswer>,
    /// The number of bytes that were not sent, of all answers.
    len: usize,
}

impl LongAnswers {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the number of bytes that were not sent.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Returns the number of bytes that were not sent, of the answers that take turns.
    pub(super) fn in_turn(&self) -> usize {
        self.waiting.iter().take(MAX_UNFINISHED).map(LongAnswer::left).sum()
    }

    pub(super) fn push(&mut self, call: u64, payload: Vec<u8>, part_len: usize) {
        self.len += payload.len();
        self.waiting.push_back(LongAnswer { call, payload, sent: 0, part_len });
    }

    /// Takes the answer whose turn it is.
    pub(super) fn pop(&mut self) -> Option<LongAnswer> {
        let answer = self.waiting.pop_front()?;
        self.len -= answer.left();
        Some(answer)
    }

    /// Puts an answer back after a part was taken. The other answers have their turn first.
    pub(super) fn put_back(&mut self, answer: LongAnswer) {
        self.len += answer.left();
        let place = self.waiting.len().min(MAX_UNFINISHED - 1);
        self.waiting.insert(place, answer);
    }
}

/// A payload of the peer that is incomplete.
#[derive(Debug)]
struct Incomplete {
    /// The call, or the process.
    of: u64,
    total: usize,
    /// The number of received bytes.
    len: usize,
    /// The received bytes; empty if nobody wants them.
    bytes: Vec<u8>,
}

/// The incomplete payloads of the peer: of answers, by their calls, or of messages, by their processes.
#[derive(Debug, Default)]
pub(super) struct IncompletePayloads {
    incomplete: Vec<Incomplete>,
    /// The number of bytes of memory.
    held: usize,
}

impl IncompletePayloads {
    /// Returns the number of bytes of memory.
    #[inline]
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.incomplete.is_empty()
    }

    /// Returns `true` if the payload of this call or process is incomplete.
    pub(super) fn contains(&self, of: u64) -> bool {
        self.incomplete.iter().any(|payload| payload.of == of)
    }

    /// Adds a part to a payload. Its bytes are kept only while they are `wanted`. A payload has at most `max` bytes.
    pub(super) fn add(
        &mut self,
        of: u64,
        total: u64,
        part: &[u8],
        wanted: bool,
        max: usize,
    ) -> Result<(), Fault> {
        let place = self.incomplete.iter().position(|payload| payload.of == of);
        if place.is_some() == (total > 0) || total > max as u64 {
            return Err(Fault::Protocol);
        }
        if place.is_none() {
            if self.incomplete.len() == MAX_UNFINISHED {
                return Err(Fault::Protocol);
            }
            self.incomplete.push(Incomplete { of, total: total as usize, len: 0, bytes: Vec::new() });
        }
        let place = place.unwrap_or(self.incomplete.len() - 1);
        let Some(payload) = self.incomplete.get_mut(place) else { return Ok(()) };
        let before = payload.bytes.capacity();
        payload.len += part.len();
        if part.is_empty() || payload.len >= payload.total {
            return Err(Fault::Protocol);
        }
        if !wanted {
            payload.bytes = Vec::new();
            self.held -= before;
            return Ok(());
        }
        reserve(&mut payload.bytes, payload.total, payload.len);
        payload.bytes.extend_from_slice(part);
        self.held = self.held - before + payload.bytes.capacity();
        Ok(())
    }

    /// Returns the whole payload, of which `last` are the last bytes.
    pub(super) fn complete(&mut self, of: u64, last: Bytes) -> Result<Bytes, Fault> {
        let Some(place) = self.incomplete.iter().position(|payload| payload.of == of) else {
            return Ok(last);
        };
        let mut payload = self.incomplete.swap_remove(place);
        self.held -= payload.bytes.capacity();
        if payload.len + last.len() != payload.total || last.is_empty() {
            return Err(Fault::Protocol);
        }
        payload.bytes.extend_from_slice(&last);
        Ok(payload.bytes.into())
    }

    /// Forgets a payload, because the peer takes it back. Returns `false` if there is none.
    pub(super) fn remove(&mut self, of: u64) -> bool {
        let Some(place) = self.incomplete.iter().position(|payload| payload.of == of) else { return false };
        self.held -= self.incomplete.swap_remove(place).bytes.capacity();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_answers_take_turns() {
        let mut answers = LongAnswers::default();
        for call in 1..=5 {
            answers.push(call, vec![call as u8; 500], 200);
        }
        let mut order = Vec::new();
        while let Some(mut answer) = answers.pop() {
            order.push(answer.call);
            if let NextPart::Part { .. } = answer.next() {
                answers.put_back(answer);
            }
        }
        assert_eq!(order, [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 5, 5, 5]);
        assert_eq!(answers.len(), 0);
    }

    #[test]
    fn parts_make_the_answer() {
        for len in [1_usize, 199, 200, 201, 400, 401] {
            let payload: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let (mut answers, mut incomplete) = (LongAnswers::default(), IncompletePayloads::default());
            answers.push(7, payload.clone(), 200);
            let mut answer = answers.pop().unwrap();
            let whole = loop {
                match answer.next() {
                    NextPart::Part { total, payload } => {
                        incomplete.add(7, total, payload, true, 1000).unwrap();
                        assert!(incomplete.held() <= len.next_power_of_two());
                    }
                    NextPart::Last(last) => {
                        break incomplete.complete(7, Bytes::copy_from_slice(last)).unwrap();
                    }
                }
            };
            assert_eq!(whole, payload);
            assert_eq!(incomplete.held(), 0);
        }
    }

    #[test]
    fn refuses_parts_that_do_not_fit() {
        let begun = || {
            let mut incomplete = IncompletePayloads::default();
            incomplete.add(1, 10, b"12345", true, 100).unwrap();
            incomplete
        };
        assert!(begun().add(2, 0, b"1", true, 100).is_err(), "the first part without a total");
        assert!(begun().add(1, 10, b"1", true, 100).is_err(), "a total in a later part");
        assert!(begun().add(2, 101, b"1", true, 100).is_err(), "longer than an answer may be");
        assert!(begun().add(1, 0, b"", true, 100).is_err(), "an empty part");
        assert!(begun().add(1, 0, b"67890", true, 100).is_err(), "nothing left for the last");
        assert!(begun().complete(1, Bytes::from_static(b"6789")).is_err(), "shorter than its total");
        assert!(begun().complete(1, Bytes::from_static(b"67890!")).is_err(), "longer than its total");
        let mut four = begun();
        for call in 2..=4 {
            four.add(call, 10, b"1", true, 100).unwrap();
        }
        assert!(four.add(5, 10, b"1", true, 100).is_err(), "a fifth");
    }

    #[test]
    fn unwanted_answer_keeps_no_bytes() {
        let mut incomplete = IncompletePayloads::default();
        incomplete.add(1, 10, b"12345", true, 100).unwrap();
        incomplete.add(1, 0, b"678", false, 100).unwrap();
        assert_eq!(incomplete.held(), 0);
        assert!(incomplete.complete(1, Bytes::from_static(b"90")).is_ok());
    }
}
