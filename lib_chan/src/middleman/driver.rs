//! The loop: bytes to the session, bytes from the session, one timer.

use std::{
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::{
    io::{AsyncBufRead, AsyncWrite},
    time::{Sleep, sleep_until},
};

use super::{shared::Shared, wake::now};
use crate::{
    ExitReason, after,
    session::{Batch, Endpoint, Request, Rest},
};

/// How often the driver goes round before it lets other tasks run.
const MAX_ROUNDS: usize = 32;
/// Pieces that are written at once.
const MAX_PIECES: usize = 16;

/// Drives one session over one stream until it is over and its last words are said.
///
/// It polls both directions and waits for neither inside the other: a peer that does not read is still read from.
pub(crate) struct Driver<S, F> {
    stream: S,
    shared: Arc<Shared>,
    /// What starts the service, until the client has said what it wants.
    start: Option<F>,
    batch: Batch,
    /// Bytes were written that the stream has not flushed.
    unflushed: bool,
    writing: WriteHalf,
    timer: Pin<Box<Sleep>>,
    armed: Option<Instant>,
    /// It has let others go first since it last wrote.
    yielded: bool,
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

impl<S, F> Driver<S, F>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
    F: FnOnce(Arc<Shared>, Request) + Unpin,
{
    pub(crate) fn new(stream: S, shared: Arc<Shared>, start: Option<F>) -> Self {
        Self {
            stream,
            shared,
            start,
            batch: Batch::default(),
            unflushed: false,
            writing: WriteHalf::Open,
            timer: Box::pin(sleep_until(tokio::time::Instant::now())),
            armed: None,
            yielded: false,
            last_call: None,
        }
    }

    /// Starts the service that the client asks for.
    fn start(&mut self) {
        if self.start.is_some()
            && let Some(request) = self.shared.take_request()
        {
            self.shared.agree(request.codec);
            if let Some(start) = self.start.take() {
                start(Arc::clone(&self.shared), request);
            }
        }
    }

    /// One round of everything: whether it is worth another.
    fn poll_round(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let wrote = self.poll_write(cx);
        let read = self.poll_read(cx);
        if self.is_done() {
            return Poll::Ready(false);
        }
        if wrote || read || self.poll_timer(cx) { Poll::Ready(true) } else { Poll::Pending }
    }

    /// Writes as much as the stream takes.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        let mut accepted = 0;
        while self.writing == WriteHalf::Open {
            if self.batch.chunk().is_empty() {
                let (len, now) = (std::mem::take(&mut accepted), now());
                let all = self.shared.drive(|endpoint| {
                    endpoint.handle_accepted(now, len);
                    endpoint.transmit(now, &mut self.batch)
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
                Poll::Ready(_) => self.stop_writing(),
                Poll::Pending => break,
            }
        }
        if accepted > 0 {
            self.shared.drive(|endpoint| endpoint.handle_accepted(now(), accepted));
        }
        self.poll_flush(cx);
        progress
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) {
        if self.unflushed && self.writing != WriteHalf::Done && self.batch.chunk().is_empty() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => self.stop_writing(),
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

    fn stop_writing(&mut self) {
        self.writing = WriteHalf::Done;
        self.batch = Batch::default();
        self.set_last_call();
    }

    /// Reads what has come: one piece of it.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> bool {
        let bytes = match Pin::new(&mut self.stream).poll_fill_buf(cx) {
            Poll::Pending => return false,
            Poll::Ready(Ok(bytes)) if !bytes.is_empty() => bytes,
            Poll::Ready(_) => {
                self.lose();
                return false;
            }
        };
        let len = bytes.len();
        self.shared.handle_bytes(now(), bytes);
        Pin::new(&mut self.stream).consume(len);
        self.start();
        true
    }

    /// Nothing more will come, and nothing more is worth sending.
    fn lose(&mut self) {
        self.shared.drive(Endpoint::handle_loss);
        self.last_call = Some(now());
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        // What was appended since the writing stopped for want of it has woken nobody.
        let hungry = self.writing == WriteHalf::Open && self.batch.chunk().is_empty();
        let (waker, armed) = (cx.waker().clone(), self.armed);
        let Rest::Until(wanted) = self.shared.quietly(|endpoint| endpoint.sleep(waker, hungry, armed)) else {
            self.shared.drive(|_| ());
            return true;
        };
        if wanted.is_none() {
            self.set_last_call();
        }
        // A timer that comes too early costs one look. To set it anew whenever something was heard would cost more.
        let wanted = [wanted, self.last_call].into_iter().flatten().min();
        if let Some(at) = wanted.filter(|&at| self.armed.is_none_or(|armed| at < armed)) {
            self.armed = Some(at);
            self.timer.as_mut().reset(at.into());
        }
        if self.armed.is_none() || self.timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.armed = None;
        self.handle_timeout();
        true
    }

    /// What the timer would do, for a driver that does not come to set it.
    fn look_at_the_clock(&mut self) {
        match self.shared.drive(|endpoint| endpoint.poll_timeout()) {
            Some(at) if at <= now() => self.handle_timeout(),
            Some(_) => {}
            None => self.set_last_call(),
        }
    }

    fn handle_timeout(&mut self) {
        // As the session does with its own: what a burst has left goes.
        self.batch.shrink();
        if self.shared.drive(|endpoint| endpoint.handle_timeout(now())) {
            self.stop_writing();
        }
    }

    fn set_last_call(&mut self) {
        let timeout = self.shared.limits().last_words_timeout;
        self.last_call.get_or_insert_with(|| after(now(), timeout));
    }

    /// Whether there is nobody left to talk to.
    fn is_done(&self) -> bool {
        self.last_call.is_some_and(|at| at <= now())
    }
}

impl<S, F> Future for Driver<S, F>
where
    S: AsyncBufRead + AsyncWrite + Unpin,
    F: FnOnce(Arc<Shared>, Request) + Unpin,
{
    type Output = ExitReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ExitReason> {
        // One turn for the others: what they are about to append goes out in the same write.
        if self.shared.quietly(Endpoint::rise) && !std::mem::replace(&mut self.yielded, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.yielded = false;
        for _ in 0..MAX_ROUNDS {
            let again = ready!(self.poll_round(cx));
            if !again {
                self.shared.drive(Endpoint::handle_loss);
                return Poll::Ready(self.shared.with(|endpoint| endpoint.cause()));
            }
        }
        // Nothing is put off because there is always something to read.
        self.look_at_the_clock();
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S, F> Drop for Driver<S, F> {
    /// However the driver ends, the session has its end, and all that is due is delivered.
    fn drop(&mut self) {
        while !self.shared.drive(Endpoint::leave) {}
    }
}
