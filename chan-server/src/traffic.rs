//! The bytes that a connection carries, as the network sees them: TLS included.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use crate::quota::{Debt, Share};

/// Bytes counted so far.
#[derive(Debug)]
pub(crate) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    /// Milliseconds from `began` to the last byte.
    last: AtomicU64,
    began: Instant,
    /// The quotas that bound it; set as soon as the client is known.
    share: OnceLock<Arc<Share>>,
}

impl Default for Traffic {
    fn default() -> Self {
        let (received, sent, last) = Default::default();
        Self { received, sent, last, began: Instant::now(), share: OnceLock::new() }
    }
}

impl Traffic {
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Slows the connection down to this, from now on. Only the first call counts.
    pub(crate) fn limit(&self, share: Arc<Share>) {
        let _ = self.share.set(share);
    }

    /// Returns what the session may use, as soon as the client is known.
    pub(crate) fn share(&self) -> Option<&Arc<Share>> {
        self.share.get()
    }

    /// Returns the time since the last byte in either direction.
    pub(crate) fn idle(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }

    fn count(&self, direction: &AtomicU64, len: usize) {
        direction.fetch_add(len as u64, Ordering::Relaxed);
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }
}

/// A connection after TLS. On the heap, since it is large and moves from hand to hand.
pub(crate) type Stream = Box<TlsStream<Counted<TcpStream>>>;

/// A stream whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    stream: S,
    traffic: Arc<Traffic>,
    incoming: Debt,
    outgoing: Debt,
}

impl<S> Counted<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, traffic: Arc::default(), incoming: Debt::default(), outgoing: Debt::default() }
    }

    pub(crate) fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// From now on the bytes are those of a session that began on another connection, at the rates of that session.
    pub(crate) fn count_in(&mut self, traffic: &Arc<Traffic>) {
        self.traffic = Arc::clone(traffic);
    }

    /// Waits until what was sent is paid for.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.traffic.share() {
            Some(share) => self.outgoing.poll_pay(share, cx),
            None => Poll::Ready(()),
        }
    }

    fn count_sent(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(len)) = written {
            self.traffic.count(&self.traffic.sent, len);
            if self.traffic.share().is_some() {
                self.outgoing.add(len);
            }
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let share = this.traffic.share();
        if let Some(share) = share {
            ready!(this.incoming.poll_pay(share, cx));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let len = buf.filled().len() - before;
        if len > 0 {
            this.traffic.count(&this.traffic.received, len);
            if share.is_some() {
                this.incoming.add(len);
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx));
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count_sent(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx));
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.count_sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn both_directions_are_counted() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = Counted::new(near);
        let traffic = near.traffic();
        near.write_all(b"hello").await.unwrap();
        far.write_all(b"hi").await.unwrap();
        drop(far);
        near.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!((traffic.sent(), traffic.received()), (5, 2));
    }
}
