//! One stream, as a driver writes to it and reads from it for an endpoint.

use std::{
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::{AsyncBufRead, AsyncWrite};

use super::{shared::Shared, wake::now};
use crate::{after, session::Batch};

/// Pieces that are written at once.
const MAX_PIECES: usize = 16;

/// A stream, with what was fetched to be written to it.
pub(super) struct Connection<S> {
    stream: S,
    /// Its number: the endpoint ignores what another one brings.
    epoch: u64,
    batch: Batch,
    /// Bytes were written that the stream has not flushed.
    unflushed: bool,
    writing: WriteHalf,
    /// When the last words must have been said.
    last_call: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriteHalf {
    Open,
    /// All has been written; the sending side is being shut down.
    Closing,
    /// Nothing is written any more: shut down, or broken.
    Done,
}

/// What reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Nothing has come.
    Nothing,
    /// The endpoint has handled some bytes.
    Some,
    /// Nothing more will come.
    End,
}

impl<S: AsyncBufRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn new(stream: S, epoch: u64) -> Self {
        Self {
            stream,
            epoch,
            batch: Batch::default(),
            unflushed: false,
            writing: WriteHalf::Open,
            last_call: None,
        }
    }

    /// Writes as much as the stream takes. Returns whether it took any.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, shared: &Shared) -> bool {
        let mut progress = false;
        let mut accepted = 0;
        while self.writing == WriteHalf::Open {
            if self.batch.chunk().is_empty() {
                let (len, now) = (std::mem::take(&mut accepted), now());
                let all = shared.drive(|endpoint| {
                    endpoint.handle_accepted(self.epoch, now, len);
                    endpoint.transmit(self.epoch, now, &mut self.batch)
                });
                if self.batch.chunk().is_empty() {
                    if all {
                        self.writing = WriteHalf::Closing;
                    }
                    break;
                }
            }
            // A short head and a long payload are one record of TLS and one system call, not two of each.
            let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
            let count = self.batch.chunks(&mut pieces);
            let pieces = pieces.get(..count).unwrap_or_default();
            match Pin::new(&mut self.stream).poll_write_vectored(cx, pieces) {
                Poll::Ready(Ok(len)) if len > 0 => {
                    self.batch.advance(len);
                    accepted += len;
                    self.unflushed = true;
                    progress = true;
                }
                // A write error stops writing only: why the peer went may still be in the receive buffer.
                Poll::Ready(_) => self.stop_writing(shared),
                Poll::Pending => break,
            }
        }
        if accepted > 0 {
            shared.drive(|endpoint| endpoint.handle_accepted(self.epoch, now(), accepted));
        }
        self.poll_flush(cx, shared);
        progress
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
            // A shutdown that fails has nobody left to tell.
            if Pin::new(&mut self.stream).poll_shutdown(cx).is_ready() {
                self.writing = WriteHalf::Done;
            }
        }
    }

    /// Reads one piece of what has come.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Read {
        let bytes = match Pin::new(&mut self.stream).poll_fill_buf(cx) {
            Poll::Pending => return Read::Nothing,
            Poll::Ready(Ok(bytes)) if !bytes.is_empty() => bytes,
            Poll::Ready(_) => return Read::End,
        };
        let len = bytes.len();
        shared.handle_bytes(self.epoch, now(), bytes);
        Pin::new(&mut self.stream).consume(len);
        Read::Some
    }
}

impl<S> Connection<S> {
    /// Writes nothing more. What the peer says is still heard for a while.
    pub(super) fn stop_writing(&mut self, shared: &Shared) {
        self.writing = WriteHalf::Done;
        self.batch = Batch::default();
        self.set_last_call(shared);
    }

    /// The connection is over, unless it is already, when [`Limits::last_words_timeout`](crate::Limits) has passed.
    pub(super) fn set_last_call(&mut self, shared: &Shared) {
        let timeout = shared.limits().last_words_timeout;
        self.last_call.get_or_insert_with(|| after(now(), timeout));
    }

    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) const fn last_call(&self) -> Option<Instant> {
        self.last_call
    }

    /// Ends it at once: nobody is left to talk to.
    pub(super) fn end(&mut self) {
        self.last_call = Some(now());
    }

    pub(super) fn is_over(&self) -> bool {
        self.last_call.is_some_and(|at| at <= now())
    }

    /// Whether it stopped writing only for want of something to write.
    pub(super) fn is_hungry(&self) -> bool {
        self.writing == WriteHalf::Open && self.batch.chunk().is_empty()
    }

    /// Lets go of the memory that a burst has left.
    pub(super) fn shrink(&mut self) {
        self.batch.shrink();
    }
}
