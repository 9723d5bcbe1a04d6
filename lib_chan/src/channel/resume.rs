//! The path from new connections to the driver of a session: the first frame of a connection, the ways by which later
//! connections reach a driver, and the answer if there is nothing to resume. Makes no decision about sessions.

use std::{
    pin::Pin,
    sync::{Arc, PoisonError, atomic::Ordering},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use crate::{
    ExitReason, Limits,
    auth::{Exporter, ResumeClaim},
    sync::{AtomicBool, Mutex, MutexGuard},
    wire::{self, Frame, Tombstone},
};

/// The length of a frame up to its kind. No frame is shorter.
const HEAD_LEN: usize = wire::LEN_LEN + 1;

/// The first frame of a client on a connection, after its login.
#[derive(Debug)]
pub enum First {
    /// The client resumes a session.
    Resume {
        /// The session, and the position of the client.
        claim: ResumeClaim,
        /// The proof, to be checked with [`ResumeKey::judge`](crate::auth::ResumeKey::judge).
        proof: [u8; 32],
    },
    /// The client does something else. These bytes come before those that the stream returns next.
    Other(Vec<u8>),
}

/// Reads as many bytes of a new connection as show whether the client resumes a session. Waits for the first frame
/// without a bound.
///
/// An EOF or an error of the stream is [`First::Other`], with the bytes before it; the next read of the stream shows
/// it again. Dropping the future loses the bytes read, so drop the stream too.
pub async fn hear_first<S: AsyncRead + Unpin>(stream: &mut S) -> First {
    let mut bytes = Vec::with_capacity(wire::MAX_RESUME_LEN);
    read_up_to(stream, &mut bytes, wire::LEN_LEN).await;
    // The session judges any other frame, or none at all, without waiting for more bytes.
    let Ok(Some(len)) = wire::frame_len(&bytes, wire::MAX_RESUME_LEN) else { return First::Other(bytes) };
    read_up_to(stream, &mut bytes, HEAD_LEN).await;
    if bytes.get(wire::LEN_LEN) != Some(&wire::RESUME) {
        return First::Other(bytes);
    }
    read_up_to(stream, &mut bytes, wire::LEN_LEN + len).await;
    let body = bytes.get(wire::LEN_LEN..).unwrap_or_default();
    match Frame::parse(body) {
        Ok(Frame::Resume { claim, proof }) if body.len() == len => First::Resume { claim, proof: *proof },
        _ => First::Other(bytes),
    }
}

/// Reads until `len` bytes have come, or EOF.
async fn read_up_to<S: AsyncRead + Unpin>(stream: &mut S, bytes: &mut Vec<u8>, len: usize) {
    let missing = len.saturating_sub(bytes.len()) as u64;
    let _ = stream.take(missing).read_to_end(bytes).await;
}

/// Answers a [`First::Resume`] with `Lost`: the session is over, and this is its record. Then closes, and waits until
/// the client has closed, for at most [`Limits::last_words_timeout`](crate::Limits::last_words_timeout).
pub async fn say_lost<S>(mut stream: S, tombstone: Option<Tombstone>, limits: &Limits)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut bytes = Vec::new();
    Frame::Lost { tombstone }.put(&mut bytes);
    close_with(&mut stream, &bytes, limits.last_words_timeout).await;
}

async fn close_with<S>(stream: &mut S, bytes: &[u8], time: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let close = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        // A reset would destroy the answer.
        let mut discarded = [0; 1024];
        while stream.read(&mut discarded).await? > 0 {}
        std::io::Result::Ok(())
    };
    // A client that misses the answer resumes again.
    let _ = timeout(time, close).await;
}

/// Dials the next connection of a session for its driver.
///
/// The driver calls it each time that it needs a connection; the number counts the calls since the session was last
/// attached, from 0. The future waits, dials and logs in, as often as it takes. It resolves with a connection, or with a
/// reason with which the session ends at once, such as a refused login. The driver drops it when the session's time is
/// over.
pub type Connector<S> = Box<dyn FnMut(u32) -> Connecting<S> + Send>;

/// The future that a [`Connector`] returns.
pub type Connecting<S> = Pin<Box<dyn Future<Output = Result<Connected<S>, ExitReason>> + Send>>;

/// A new connection, after a login as the same service and client.
#[derive(Debug)]
pub struct Connected<S> {
    /// The stream, at the first byte of the session.
    pub stream: S,
    /// The exporter of this connection's TLS, which the proof covers.
    pub exporter: Exporter,
}

/// A change of a session's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The connection is lost, and the session waits for another.
    Detached,
    /// Another connection is attached.
    Resumed {
        /// The number of the connection.
        epoch: u64,
        /// The time without a connection; zero if the old one was still attached.
        gap: Duration,
    },
}

/// The end of a session that could be resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The reason that ended the session, at whichever end.
    pub reason: ExitReason,
    /// The session had no connection for its whole window.
    pub expired: bool,
    /// The record for a client that resumes the session; `None` if no client will.
    pub tombstone: Option<Tombstone>,
}

/// Makes a path on which later connections reach the driver of a server's session. It holds one connection; another
/// one with a larger epoch replaces it.
pub fn attachments<S>() -> (Attacher<S>, Attachments<S>) {
    let place = Arc::new(Place {
        filled: AtomicBool::new(false),
        held: Mutex::new(Parked { next: None, waker: None, is_gone: false }),
    });
    (Attacher(Arc::clone(&place)), Attachments { place, watching: None })
}

struct Place<S> {
    /// Set while a connection waits, and read without the lock.
    filled: AtomicBool,
    held: Mutex<Parked<S>>,
}

struct Parked<S> {
    next: Option<(ResumeClaim, S)>,
    /// The waker of [`Attachments::watching`], while no connection waits.
    waker: Option<Waker>,
    /// Set once the driver has ended.
    is_gone: bool,
}

impl<S> Place<S> {
    fn lock(&self) -> MutexGuard<'_, Parked<S>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands connections to the driver of a session. Cheap to clone.
pub struct Attacher<S>(Arc<Place<S>>);

impl<S> Attacher<S> {
    /// Hands over a connection whose client has proved `claim`. The driver closes it if the session cannot continue on it.
    ///
    /// # Errors
    /// Returns the stream if the session is over.
    pub fn attach(&self, claim: ResumeClaim, stream: S) -> Result<(), S> {
        let mut held = self.0.lock();
        if held.is_gone {
            return Err(stream);
        }
        if held.next.as_ref().is_some_and(|(next, _)| next.epoch >= claim.epoch) {
            return Ok(());
        }
        let replaced = held.next.replace((claim, stream));
        self.0.filled.store(true, Ordering::Release);
        let waker = held.waker.take();
        drop(held);
        drop(replaced);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }
}

impl<S> Clone for Attacher<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> std::fmt::Debug for Attacher<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attacher")
    }
}

/// The driver's end of [`attachments`].
pub struct Attachments<S> {
    place: Arc<Place<S>>,
    /// The waker that was stored.
    watching: Option<Waker>,
}

impl<S> Attachments<S> {
    /// Polls for the next connection. Takes no lock if none waits and the same task polled last. Never ends.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(ResumeClaim, S)> {
        if !self.place.filled.load(Ordering::Acquire)
            && self.watching.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            return Poll::Pending;
        }
        let mut held = self.place.lock();
        match held.next.take() {
            Some(next) => {
                self.place.filled.store(false, Ordering::Release);
                self.watching = None;
                Poll::Ready(next)
            }
            None => {
                let old = held.waker.replace(cx.waker().clone());
                drop(held);
                drop(old);
                self.watching = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<S> Drop for Attachments<S> {
    fn drop(&mut self) {
        let mut held = self.place.lock();
        held.is_gone = true;
        let left = (held.next.take(), held.waker.take());
        drop(held);
        drop(left);
    }
}

impl<S> std::fmt::Debug for Attachments<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attachments")
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::auth::SessionId;

    impl<S> Attachments<S> {
        async fn next(&mut self) -> (ResumeClaim, S) {
            poll_fn(|cx| self.poll_next(cx)).await
        }
    }

    fn claim(epoch: u64) -> ResumeClaim {
        ResumeClaim { id: SessionId::new([1; 16]), epoch, received: 300, sent: 7 }
    }

    fn resume() -> Vec<u8> {
        let mut bytes = Vec::new();
        Frame::Resume { claim: claim(2), proof: &[9; 32] }.put(&mut bytes);
        bytes
    }

    /// What is heard when these bytes come one at a time and then the end, and what is left to read.
    async fn heard(bytes: &[u8]) -> (First, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(1);
        let sent = async {
            far.write_all(bytes).await.unwrap();
            drop(far);
        };
        let hear = async {
            let first = hear_first(&mut near).await;
            let mut rest = Vec::new();
            near.read_to_end(&mut rest).await.unwrap();
            (first, rest)
        };
        tokio::join!(hear, sent).0
    }

    #[tokio::test]
    async fn malformed_first_frame_is_passed_on_at_once() {
        for bytes in [[0, 0, 0, 0], [0, 0xa0, 0, 0], [0xff; 4]] {
            // The other end stays open and says nothing more.
            let (mut near, mut far) = tokio::io::duplex(64);
            far.write_all(&bytes).await.unwrap();
            assert!(matches!(hear_first(&mut near).await, First::Other(heard) if heard == bytes));
        }
    }

    #[tokio::test]
    async fn resume_is_read_to_its_last_byte() {
        let (first, rest) = heard(&[resume(), b"more".to_vec()].concat()).await;
        assert!(
            matches!(first, First::Resume { claim: heard, proof } if heard == claim(2) && proof == [9; 32])
        );
        assert_eq!(rest, b"more");
    }

    #[tokio::test]
    async fn longest_resume_fits() {
        let claim = ResumeClaim { epoch: u64::MAX, received: u64::MAX, sent: u64::MAX, ..claim(2) };
        let mut bytes = Vec::new();
        Frame::Resume { claim, proof: &[9; 32] }.put(&mut bytes);
        assert_eq!(bytes.len() - wire::LEN_LEN, wire::MAX_RESUME_LEN);
        assert!(matches!(heard(&bytes).await.0, First::Resume { .. }));
    }

    #[tokio::test]
    async fn anything_else_keeps_its_bytes() {
        let mut start = Vec::new();
        let terms = wire::Terms { max_calls: 1, max_links: 1, max_handles: 0 };
        Frame::Start {
            codec: 3,
            terms,
            max_frame_len: 1024,
            window_len: 65_536,
            resume: 0,
            interface: None,
            args: b"args",
        }
        .put(&mut start);
        let too_long = [&[0, 0, 0, 80, 0x44][..], &[0; 80]].concat();
        let malformed = [&[0, 0, 0, 2, 0x44][..], &[1, 2, 3]].concat();
        let cut = resume()[..20].to_vec();
        for bytes in [start, too_long, malformed, cut, b"abc".to_vec(), Vec::new()] {
            let (First::Other(first), rest) = heard(&bytes).await else { panic!("{bytes:?}") };
            assert_eq!([first, rest].concat(), bytes);
        }
    }

    #[tokio::test]
    async fn lost_is_said_and_the_connection_closed() {
        let (near, mut far) = tokio::io::duplex(256);
        let tombstone = Some(Tombstone { received: 7, taken: 5, reason: ExitReason::Revoked });
        let limits = Limits::default();
        let said = async {
            let mut bytes = Vec::new();
            far.read_to_end(&mut bytes).await.unwrap();
            drop(far);
            bytes
        };
        let ((), bytes) = tokio::join!(say_lost(near, tombstone.clone(), &limits), said);
        assert_eq!(Frame::parse(&bytes[wire::LEN_LEN..]), Ok(Frame::Lost { tombstone }));
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_does_not_close_is_left() {
        let (near, _far) = tokio::io::duplex(1);
        let began = tokio::time::Instant::now();
        let limits = Limits::default();
        say_lost(near, None, &limits).await;
        assert_eq!(began.elapsed(), limits.last_words_timeout);
    }

    #[tokio::test]
    async fn connection_wakes_the_driver() {
        let (attacher, mut attachments) = attachments();
        let driver = tokio::spawn(async move {
            let first = attachments.next().await;
            let second = attachments.next().await;
            (first.1, second.1)
        });
        tokio::task::yield_now().await;
        attacher.attach(claim(2), "first").unwrap();
        tokio::task::yield_now().await;
        attacher.attach(claim(3), "second").unwrap();
        assert_eq!(driver.await.unwrap(), ("first", "second"));
    }

    #[tokio::test]
    async fn larger_epoch_replaces_the_smaller() {
        let (attacher, mut attachments) = attachments();
        for epoch in [3, 2, 4, 4] {
            attacher.attach(claim(epoch), Arc::new(epoch)).unwrap();
        }
        let (claim, stream) = attachments.next().await;
        assert_eq!((claim.epoch, *stream), (4, 4));
        let none = poll_fn(|cx| Poll::Ready(attachments.poll_next(cx).is_pending()));
        assert!(none.await);
    }

    #[test]
    fn session_that_is_over_returns_the_stream() {
        let (attacher, attachments) = attachments();
        let stream = Arc::new(());
        attacher.attach(claim(2), Arc::clone(&stream)).unwrap();
        drop(attachments);
        assert_eq!(Arc::strong_count(&stream), 1, "what was not taken is closed");
        attacher.attach(claim(3), stream).unwrap_err();
    }
}
