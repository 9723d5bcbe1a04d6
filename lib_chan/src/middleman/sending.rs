//! Messages that are encoded without the lock of the session, and the reasons for not sending one.

use serde::Serialize;

use super::terms::Agreed;
use crate::{
    ExitReason,
    payload::{self, Carried, PayloadError},
    session::Unsendable,
    sync::thread_local,
};

/// Messages are encoded ahead of the lock up to this many bytes, or this many messages.
const BATCH_LEN: usize = 16 * 1024;
const BATCH_COUNT: usize = 256;

/// Encoded messages, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    bytes: Vec<u8>,
    /// The end of each message.
    ends: Vec<usize>,
    /// The processes in the last message.
    carried: Carried,
}

impl Encoded {
    pub(crate) const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns the number of messages before the first that has processes in it, which is the last one.
    pub(crate) const fn plain(&self) -> usize {
        if self.carried.is_empty() { self.ends.len() } else { self.ends.len() - 1 }
    }

    /// Takes the processes in the last message.
    pub(crate) fn take_carried(&mut self) -> Carried {
        std::mem::take(&mut self.carried)
    }

    /// Returns the messages from number `first` on.
    pub(crate) fn from(&self, first: usize) -> impl Iterator<Item = &[u8]> {
        let mut start = first.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.iter().skip(first).map(move |&end| {
            let start = std::mem::replace(&mut start, end);
            self.bytes.get(start..end).unwrap_or_default()
        })
    }

    /// Replaces the batch by the next messages. Returns the error of the first message that cannot be encoded; it is
    /// left out.
    pub(crate) fn refill<U: Serialize + 'static>(
        &mut self,
        agreed: Agreed,
        mut messages: impl Iterator<Item = U>,
    ) -> Result<(), NotSent> {
        self.carried = Carried::default();
        self.bytes.clear();
        self.ends.clear();
        while self.bytes.len() < BATCH_LEN
            && self.ends.len() < BATCH_COUNT
            && self.carried.is_empty()
            && let Some(message) = messages.next()
        {
            let max = agreed.max_payload_len;
            self.carried = payload::encode_in_message(agreed.codec, &message, max, &mut self.bytes)
                .map_err(NotSent::Payload)?;
            self.ends.push(self.bytes.len());
        }
        Ok(())
    }
}

/// The reason why a message was not sent.
#[derive(Debug)]
pub(crate) enum NotSent {
    Payload(PayloadError),
    Session(Unsendable),
}

impl From<NotSent> for ExitReason {
    fn from(not_sent: NotSent) -> Self {
        match not_sent {
            NotSent::Payload(error) => Self::failed(error.to_string()),
            NotSent::Session(Unsendable::Ended(reason)) => reason,
            NotSent::Session(Unsendable::WouldWait | Unsendable::TooManyHandles { .. }) => Self::Overload,
            NotSent::Session(Unsendable::TooLong { max }) => {
                Self::failed(PayloadError::TooLong { max }.to_string())
            }
        }
    }
}

/// Lends a buffer that the thread keeps for the next call. Nested calls get a fresh buffer.
pub(crate) fn with_scratch<T>(f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    const KEPT_CAPACITY: usize = 64 * 1024;
    thread_local! {
        static SCRATCH: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
    }
    let mut scratch = SCRATCH.try_with(std::cell::Cell::take).unwrap_or_default();
    scratch.clear();
    let result = f(&mut scratch);
    if scratch.capacity() <= KEPT_CAPACITY {
        // A thread that is shutting down has no slot for the buffer.
        let _ = SCRATCH.try_with(|slot| slot.set(scratch));
    }
    result
}
