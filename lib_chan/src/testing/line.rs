//! Bytes between two ends in memory, with delays, silence and cuts.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::after;

/// The most bytes in flight in one direction before a writer waits, about as many as in a socket.
const CAPACITY: usize = 64 * 1024;

/// The connection under a pair, as the test that made it controls it. A clone controls the same connection.
#[derive(Clone)]
pub struct Line {
    state: Arc<Mutex<LineState>>,
}

#[derive(Default)]
struct LineState {
    delay: Duration,
    held: bool,
    cut: bool,
    /// By the end that reads.
    ways: [Way; 2],
}

/// One direction.
#[derive(Default)]
struct Way {
    /// Pieces, each with the time of its arrival.
    pieces: VecDeque<(Instant, Bytes)>,
    len: usize,
    /// The writer is done, or the reader is gone.
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Line {
    /// Returns a line, and its two ends.
    pub(super) fn new(delay: Duration) -> (Self, LineEnd, LineEnd) {
        let line = Self { state: Arc::default() };
        line.set_delay(delay);
        let end = |side| LineEnd { line: line.clone(), side, front: Bytes::new(), arrival: None };
        let (one, other) = (end(0), end(1));
        (line, one, other)
    }

    /// Sets the time that bytes take from one end to the other, from now on. Bytes never overtake each other. Default 0.
    pub fn set_delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// Stops all bytes in both directions, like a failed network. Neither end is told; each notices after three
    /// heartbeats ([`Limits::heartbeat_interval`](crate::Limits::heartbeat_interval)).
    pub fn hold(&self) {
        self.lock().held = true;
    }

    /// Undoes [`hold`](Self::hold). Everything that was stopped arrives.
    pub fn release(&self) {
        self.change(|state| state.held = false);
    }

    /// Cuts the connection. Bytes in flight are lost, and both ends read EOF, as if the program at the other end had
    /// been killed. Cannot be undone.
    pub fn cut(&self) {
        self.change(|state| {
            state.cut = true;
            state.ways.iter_mut().for_each(Way::clear);
        });
    }

    #[cfg(test)]
    pub(super) fn holders(&self) -> usize {
        Arc::strong_count(&self.state)
    }

    fn change(&self, f: impl FnOnce(&mut LineState)) {
        let mut state = self.lock();
        f(&mut state);
        let wakers: Vec<_> =
            state.ways.iter_mut().flat_map(|way| [way.reader.take(), way.writer.take()]).collect();
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, LineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Line")
            .field("delay", &state.delay)
            .field("held", &state.held)
            .field("cut", &state.cut)
            .finish()
    }
}

impl Way {
    fn clear(&mut self) {
        self.pieces.clear();
        self.len = 0;
    }
}

/// One end: the stream that a session runs over.
pub(super) struct LineEnd {
    line: Line,
    side: usize,
    /// The piece that is being read.
    front: Bytes,
    arrival: Option<Pin<Box<Sleep>>>,
}

impl LineState {
    fn incoming(&mut self, side: usize) -> &mut Way {
        let [one, other] = &mut self.ways;
        if side == 0 { one } else { other }
    }
}

/// The result of looking for bytes.
enum LineRead {
    Piece(Bytes, Option<Waker>),
    Nothing,
    Later(Instant),
    Eof,
}

impl LineEnd {
    fn find(&self, cx: &Context<'_>) -> LineRead {
        let mut state = self.line.lock();
        let (held, cut) = (state.held, state.cut);
        let way = state.incoming(self.side);
        if cut {
            return LineRead::Eof;
        }
        match way.pieces.front() {
            Some(&(at, _)) if !held && at <= Instant::now() => {
                let (_, piece) = way.pieces.pop_front().unwrap_or_else(|| (at, Bytes::new()));
                way.len -= piece.len();
                return LineRead::Piece(piece, way.writer.take());
            }
            None if way.closed && !held => return LineRead::Eof,
            _ => {}
        }
        let old = way.reader.replace(cx.waker().clone());
        let later = way.pieces.front().filter(|_| !held).map(|&(at, _)| at);
        drop(state);
        drop(old);
        later.map_or(LineRead::Nothing, LineRead::Later)
    }
}

impl AsyncBufRead for LineEnd {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.front.is_empty() {
            match this.find(cx) {
                LineRead::Piece(piece, writer) => {
                    this.front = piece;
                    writer.into_iter().for_each(Waker::wake);
                }
                LineRead::Eof => break,
                LineRead::Nothing => return Poll::Pending,
                LineRead::Later(at) => {
                    let arrival = this.arrival.get_or_insert_with(|| Box::pin(sleep_until(at)));
                    if arrival.deadline() != at {
                        arrival.as_mut().reset(at);
                    }
                    ready!(arrival.as_mut().poll(cx));
                }
            }
        }
        Poll::Ready(Ok(&this.front))
    }

    fn consume(self: Pin<&mut Self>, len: usize) {
        let this = self.get_mut();
        this.front.advance(len.min(this.front.len()));
    }
}

impl AsyncRead for LineEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let from = ready!(self.as_mut().poll_fill_buf(cx))?;
        let len = from.len().min(to.remaining());
        to.put_slice(from.get(..len).unwrap_or_default());
        self.consume(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LineEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.line.lock();
        let arrival: Instant = after(Instant::now().into_std(), state.delay).into();
        let cut = state.cut;
        let way = state.incoming(1 - self.side);
        if cut || way.closed {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let room = CAPACITY - way.len;
        if room == 0 {
            let old = way.writer.replace(cx.waker().clone());
            drop(state);
            drop(old);
            return Poll::Pending;
        }
        let piece = bytes.get(..room).unwrap_or(bytes);
        // A shorter delay than before must not let these overtake others.
        let arrival = way.pieces.back().map_or(arrival, |&(last, _)| arrival.max(last));
        way.pieces.push_back((arrival, Bytes::copy_from_slice(piece)));
        way.len += piece.len();
        let reader = way.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let side = 1 - self.side;
        self.line.change(|state| state.incoming(side).closed = true);
        Poll::Ready(Ok(()))
    }
}

impl Drop for LineEnd {
    fn drop(&mut self) {
        self.line.change(|state| {
            state.ways.iter_mut().for_each(|way| way.closed = true);
            state.incoming(self.side).clear();
        });
    }
}
