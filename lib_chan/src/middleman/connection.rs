//! One stream: writes the output of an endpoint to it, and passes on the bytes read from it.

use std::{
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::{AsyncBufRead, AsyncWrite};

use super::{shared::Shared, wake::now};
use crate::{after, session::Batch};

/// The most pieces in one write.
const MAX_PIECES: usize = 16;

/// A stream, with the output that was fetched for it.
pub(super) struct Connection<S> {
    stream: S,
    /// The epoch of the connection. The endpoint ignores the input of any other.
    epoch: u64,
    batch: Batch,
    /// The endpoint had no output when it was last asked. Output that other tasks append meanwhile is found before the
    /// driver sleeps, or wakes it.
    dry: bool,
    /// Set while the stream has bytes that were not flushed.
    unflushed: bool,
    writing: WriteHalf,
    /// The time by which the last words must have been written.
    last_call: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteHalf {
    Open,
    /// Everything was written, and the sending side is being shut down.
    Closing,
    /// Nothing is written any more, because the sending side is shut down or broken.
    Done,
}

/// The result of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// No bytes have come.
    Nothing,
    /// The endpoint has handled some bytes.
    Some,
    /// EOF, or an error: no more bytes come.
    End,
}

impl<S: AsyncBufRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, epoch: u64) -> Self {
        Self {
            stream,
            epoch,
            batch: Batch::default(),
            dry: false,
            unflushed: false,
            writing: WriteHalf::Open,
            last_call: None,
        }
    }

    /// Writes until the stream takes no more, or there is no more output.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, shared: &Shared) {
        let mut accepted = 0;
        while self.writing == WriteHalf::Open {
            if self.batch.chunk().is_empty() {
                if self.dry && accepted == 0 {
                    break;
                }
                let (len, now) = (std::mem::take(&mut accepted), now());
                let all = shared.drive(|endpoint| {
                    endpoint.handle_accepted(self.epoch, now, len);
                    endpoint.transmit(self.epoch, now, &mut self.batch)
                });
                self.dry = self.batch.chunk().is_empty();
                if self.dry {
                    if all {
                        self.writing = WriteHalf::Closing;
                    }
                    break;
                }
            }
            // Written together, a short head and a long payload cost one TLS record and one system call instead of
            // two of each.
            let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
            let count = self.batch.chunks(&mut pieces);
            let pieces = pieces.get(..count).unwrap_or_default();
            match Pin::new(&mut self.stream).poll_write_vectored(cx, pieces) {
                Poll::Ready(Ok(len)) if len > 0 => {
                    self.batch.advance(len);
                    accepted += len;
                    self.unflushed = true;
                }
                // A write error stops writing only: the receive buffer may still have the peer's reason.
                Poll::Ready(_) => self.stop_writing(shared),
                Poll::Pending => break,
            }
        }
        if accepted > 0 {
            shared.drive(|endpoint| endpoint.handle_accepted(self.epoch, now(), accepted));
        }
        self.poll_flush(cx, shared);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, shared: &Shared) {
        if self.unflushed && self.writing != WriteHalf::Done && self.batch.chunk().is_empty() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => self.stop_writing(shared),
                Poll::Pending => {}
            }
        }
        if self.writing == WriteHalf::Closing && !self.unflushed {
            // An error of the shutdown concerns nobody any more.
            if Pin::new(&mut self.stream).poll_shutdown(cx).is_ready() {
                self.writing = WriteHalf::Done;
            }
        }
    }

    /// Reads one piece, and passes it to the endpoint.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Read {
        let bytes = match Pin::new(&mut self.stream).poll_fill_buf(cx) {
            Poll::Pending => return Read::Nothing,
            Poll::Ready(Ok(bytes)) if !bytes.is_empty() => bytes,
            Poll::Ready(_) => return Read::End,
        };
        let len = bytes.len();
        self.dry = !shared.handle_bytes(self.epoch, now(), bytes);
        Pin::new(&mut self.stream).consume(len);
        Read::Some
    }
}

impl<S> Connection<S> {
    /// Stops writing. The peer is still heard for a while.
    pub(super) fn stop_writing(&mut self, shared: &Shared) {
        self.writing = WriteHalf::Done;
        self.batch = Batch::default();
        self.set_last_call(shared);
    }

    /// Ends the connection, unless it has ended by then, when [`Limits::last_words_timeout`](crate::Limits) has
    /// passed.
    pub(super) fn set_last_call(&mut self, shared: &Shared) {
        let timeout = shared.terms().limits().last_words_timeout;
        self.last_call.get_or_insert_with(|| after(now(), timeout));
    }

    /// Notes whether the endpoint has output.
    pub(super) const fn set_dry(&mut self, dry: bool) {
        self.dry = dry;
    }

    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) const fn last_call(&self) -> Option<Instant> {
        self.last_call
    }

    /// Ends the connection at once.
    pub(super) fn end(&mut self) {
        self.last_call = Some(now());
    }

    pub(super) fn is_over(&self) -> bool {
        self.last_call.is_some_and(|at| at <= now())
    }

    /// Returns `true` if writing paused only because there was nothing to write.
    pub(super) fn is_hungry(&self) -> bool {
        self.writing == WriteHalf::Open && self.batch.chunk().is_empty()
    }

    /// Releases the memory that a burst has left.
    pub(super) fn shrink(&mut self) {
        self.batch.shrink();
    }
}
