//! A stream that is read late, or no more.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, ReadHalf, WriteHalf, split},
    sync::{mpsc, watch},
    time::{Instant, Sleep, sleep_until},
};

/// A stream whose bytes arrive a time after they were received. Bytes in flight do not make the sender wait, as on a long
/// path.
pub(crate) struct Delayed<S> {
    writer: WriteHalf<S>,
    pieces: mpsc::UnboundedReceiver<(Instant, Bytes)>,
    front: Bytes,
    /// The next piece, which arrives when the timer fires.
    next: Option<(Pin<Box<Sleep>>, Bytes)>,
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Delayed<S> {
    /// While `reads` is false, nothing is taken from the stream.
    pub(crate) fn new(stream: S, delay: Duration, mut reads: watch::Receiver<bool>) -> Self {
        let (mut reader, writer): (ReadHalf<S>, _) = split(stream);
        let (send, pieces) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while reads.wait_for(|reads| *reads).await.is_ok() {
                let len = tokio::select! {
                    len = reader.read(&mut buffer) => len.unwrap_or(0),
                    changed = reads.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                };
                let piece = Bytes::copy_from_slice(buffer.get(..len).unwrap_or_default());
                // The empty piece is the EOF.
                if send.send((Instant::now() + delay, piece)).is_err() || len == 0 {
                    return;
                }
            }
        });
        Self { writer, pieces, front: Bytes::new(), next: None }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Delayed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(self.as_mut().poll_fill_buf(cx))?;
        let len = bytes.len().min(into.remaining());
        into.put_slice(bytes.get(..len).unwrap_or_default());
        self.consume(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncBufRead for Delayed<S> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.front.is_empty() {
            if this.next.is_none() {
                let Some((at, piece)) = ready!(this.pieces.poll_recv(cx)) else { break };
                this.next = Some((Box::pin(sleep_until(at)), piece));
            }
            let Some((timer, piece)) = &mut this.next else { break };
            ready!(timer.as_mut().poll(cx));
            if piece.is_empty() {
                break;
            }
            this.front = std::mem::take(piece);
            this.next = None;
        }
        Poll::Ready(Ok(&this.front))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.front.advance(amount);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Delayed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
