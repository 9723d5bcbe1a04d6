//! The table of handles in the head of a message.
//!
//! A handle is a process inside a message. The payload holds the place of the handle in the table, and the table says
//! which process that is.

use super::{WireError, varint};
use crate::Rights;

/// The most handles in one message.
pub const MAX_HANDLES: usize = 1024;

/// Returns the most bytes of a table with so many handles.
pub const fn max_table_len(count: usize) -> usize {
    if count == 0 { 0 } else { 2 + count * (2 + 2 * varint::MAX_LEN) }
}

/// One handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleEntry {
    /// A process of the sender, which is handed out with this message.
    Sender {
        /// The sender's process; never 0.
        id: u64,
        /// The operations that the receiver may use.
        rights: Rights,
        /// The first credit of the process, in bytes.
        window: u64,
    },
    /// A process of the receiver, which comes back.
    Receiver {
        /// The receiver's process.
        id: u64,
    },
}

impl HandleEntry {
    fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Sender { id, rights, window } => {
                varint::put(0, out);
                varint::put(id, out);
                varint::put(u64::from(rights.bits()), out);
                varint::put(window, out);
            }
            Self::Receiver { id } => {
                varint::put(1, out);
                varint::put(id, out);
            }
        }
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, WireError> {
        match (varint::take(bytes)?, varint::take(bytes)?) {
            (_, 0) => Err(WireError::Number),
            (0, id) => {
                let rights = u8::try_from(varint::take(bytes)?).ok().and_then(Rights::from_bits);
                let rights = rights.ok_or(WireError::Number)?;
                Ok(Self::Sender { id, rights, window: varint::take(bytes)? })
            }
            (1, id) => Ok(Self::Receiver { id }),
            _ => Err(WireError::Number),
        }
    }
}

/// The handles of one message, as they are on the wire: their number, which is at least 1, and each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleTable<'a> {
    count: usize,
    entries: &'a [u8],
}

impl<'a> HandleTable<'a> {
    /// Writes the entries into `out`, and returns the table. There is at least one entry, and at most [`MAX_HANDLES`].
    pub fn new(entries: &[HandleEntry], out: &'a mut Vec<u8>) -> Self {
        out.clear();
        entries.iter().for_each(|entry| entry.put(out));
        Self { count: entries.len(), entries: out }
    }

    /// Returns the handles, in the order of their places.
    pub fn entries(self) -> impl Iterator<Item = HandleEntry> + use<'a> {
        let mut rest = self.entries;
        // The table was read before, so no entry fails.
        std::iter::from_fn(move || HandleEntry::take(&mut rest).ok()).take(self.count)
    }

    /// Returns the number of handles.
    pub const fn len(self) -> usize {
        self.count
    }

    /// Returns `false`: a table has an entry.
    pub const fn is_empty(self) -> bool {
        self.count == 0
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        varint::put(self.count as u64, out);
        out.extend_from_slice(self.entries);
    }

    pub(super) fn take(bytes: &mut &'a [u8]) -> Result<Self, WireError> {
        let count = usize::try_from(varint::take(bytes)?).unwrap_or(usize::MAX);
        if !(1..=MAX_HANDLES).contains(&count) {
            return Err(WireError::Number);
        }
        let start = *bytes;
        for _ in 0..count {
            HandleEntry::take(bytes)?;
        }
        let entries = start.get(..start.len() - bytes.len()).unwrap_or_default();
        Ok(Self { count, entries })
    }
}
