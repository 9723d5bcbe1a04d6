//! The destination of encoded bytes: the end of a buffer, up to the longest payload.

use std::io;

/// The bytes of a payload that is being encoded. Unless the payload is kept, the buffer is restored: after an error,
/// and after a `Serialize` that panicked.
pub(super) struct Sink<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    /// The length of the buffer with the longest payload.
    end: usize,
    overflowed: bool,
    kept: bool,
}

/// The buffer had no room.
#[derive(Debug, thiserror::Error)]
#[error("no room")]
pub(super) struct Full;

impl<'a> Sink<'a> {
    /// Creates a payload of at most `max` bytes behind the contents of `out`.
    pub(super) fn new(out: &'a mut Vec<u8>, max: usize) -> Self {
        let start = out.len();
        Self { out, start, end: start.saturating_add(max), overflowed: false, kept: false }
    }

    /// Appends all of `bytes`, or none.
    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Full> {
        if bytes.len() <= self.end - self.out.len() {
            self.out.extend_from_slice(bytes);
            Ok(())
        } else {
            self.overflowed = true;
            Err(Full)
        }
    }

    /// Leaves the payload in the buffer.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }

    /// Returns the number of bytes so far.
    pub(super) fn len(&self) -> usize {
        self.out.len() - self.start
    }

    /// Returns `true` if some bytes found no room. A `Serialize` may have ignored that error.
    pub(super) fn overflowed(&self) -> bool {
        self.overflowed
    }
}

impl Drop for Sink<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.out.truncate(self.start);
        }
    }
}

impl ::bincode::enc::write::Writer for Sink<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), ::bincode::error::EncodeError> {
        self.push(bytes).map_err(|Full| ::bincode::error::EncodeError::UnexpectedEnd)
    }
}

impl io::Write for Sink<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.push(bytes).map_err(|Full| io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
