//! Carries bytes both ways between a channel and a stream.
//!
//! A cast is a piece of the stream, of any length. An empty cast is the EOF of its direction. A session that ends
//! before that EOF, for whatever reason, resets the direction: `PROTOCOL.md`, section 16.
//!
//! Both ends of a session run the same relay: `chan-server` between the session and the target of a `tcp` or `unix`
//! service, `chan-client` between the session and a local connection or standard input and output.
//!
//! One session can also carry many streams: see [`Streams`]. A client can be the target of others: see [`Providers`] and
//! [`Junction`].

mod far_end;
mod junction;
mod streams;

use std::{
    future::pending,
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    time::sleep,
};

use self::far_end::{FarEnd, PieceSender, piece_len};
pub use self::{
    far_end::StreamEnd,
    junction::{Junction, JunctionEnd, JunctionError},
    streams::{Pieces, PiecesMessage, Providers, ProvidersMessage, STREAMS, Streams, StreamsMessage},
};
use crate::{Address, Channel, ExitReason, Opaque, Process, Remote, wire::max_table_len};

/// The longest piece in bytes that a relay sends. Pieces are shorter if the far end takes only shorter payloads.
pub const MAX_PIECE_LEN: usize = 16 * 1024;
/// The room for the first read of a stream. It doubles with each read that fills it and halves with each read that needs
/// less than a quarter of it, so an idle stream occupies little memory.
const MIN_READ_LEN: usize = 1024;
/// Silence after which a TCP connection is probed, and the time between probes. Linux sends 9 of them, so a host that
/// vanished is noticed in about 3 min. The system's own defaults add up to more than 2 h.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// A relay of bytes between a channel and a stream.
///
/// ```no_run
/// use lib_chan::{Channel, Opaque, relay::{Relay, RelayError, tcp_halves}};
/// use tokio::net::TcpStream;
///
/// async fn carry(chan: Channel<Opaque>, mut stream: TcpStream) -> Result<(), RelayError> {
///     // Dropped before the far end's EOF, `stream` is reset and not closed.
///     let (reader, writer) = tcp_halves(&mut stream)?;
///     Relay::new("the local stream").run(chan, reader, writer).await
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Relay {
    stream: &'static str,
    last_bytes_timeout: Option<Duration>,
    input_timeout: Option<Duration>,
}

impl Relay {
    /// Creates a relay for a stream with this name. If the stream fails, the name is part of the reason with which
    /// the session ends, so the far end sees it.
    pub const fn new(stream: &'static str) -> Self {
        Self { stream, last_bytes_timeout: None, input_timeout: None }
    }

    /// Gives up a stream that takes no byte for this long after the session has ended. Default: never.
    pub const fn last_bytes_timeout(mut self, timeout: Duration) -> Self {
        self.last_bytes_timeout = Some(timeout);
        self
    }

    /// Ends the relay after the far end's EOF if the stream returns no byte for this long. A stream that does is read
    /// to its EOF. Default: the stream is always read to its EOF.
    pub const fn input_timeout(mut self, timeout: Duration) -> Self {
        self.input_timeout = Some(timeout);
        self
    }

    /// Returns the longest first piece for [`Streams::open`] through `streams`.
    pub fn max_first_len(streams: &Remote<StreamsMessage>) -> usize {
        piece_len(streams.max_payload_len().saturating_sub(max_table_len(1))).min(MAX_PIECE_LEN)
    }

    /// Returns the number of streams that the limits of both ends allow in a session to the end that opens them. There, each
    /// takes a handle, a link and a monitor of the other end; at the other end, a handle and a monitor of this one.
    pub fn max_streams<Out>(session: &Remote<Out>) -> u32 {
        session.max_streams()
    }

    /// Sends the bytes of `reader` to the far end, and writes the bytes of the far end to `writer`, until both
    /// directions have reached EOF. Then closes the channel.
    ///
    /// The EOF of one direction leaves the other open. `writer` is shut down if and only if the far end sent its EOF.
    /// The relay also ends if the far end ends with `Normal` after its EOF, because it then wants no more bytes.
    ///
    /// Dropping the future ends the session. Bytes that are in flight are lost, and the far end sees a reset.
    ///
    /// # Errors
    /// The stream failed, or the session ended before both directions reached EOF. The far end is told the reason.
    pub async fn run(
        self,
        mut chan: Channel<Opaque>,
        reader: impl AsyncRead + Unpin,
        writer: impl AsyncWrite + Unpin,
    ) -> Result<(), RelayError> {
        match self.both_ways(&mut chan, reader, writer).await {
            Ok(()) => chan.close().await.map_err(RelayError::Session),
            Err(error) => {
                chan.end(error.reason(self.stream));
                Err(error)
            }
        }
    }

    /// Does what [`run`](Self::run) does for one of the [`Streams`] of a session. The calling process is this end of the
    /// stream, `far` the process at the other end, and `first` its first piece. The calling process traps exits, and is
    /// linked to `far` or monitors it. It should end when this returns, with the [reason](RelayError::reason) of an error,
    /// because its end is the end of the stream.
    ///
    /// # Errors
    /// The stream failed, or the far process ended before both directions reached EOF.
    pub async fn run_stream(
        self,
        me: &mut Process<PiecesMessage>,
        far: Address<PiecesMessage>,
        first: Bytes,
        reader: impl AsyncRead + Unpin,
        writer: impl AsyncWrite + Unpin,
    ) -> Result<(), RelayError> {
        self.both_ways(&mut StreamEnd::new(me, far, first), reader, writer).await
    }

    async fn both_ways<F: FarEnd>(
        self,
        far: &mut F,
        reader: impl AsyncRead + Unpin,
        writer: impl AsyncWrite + Unpin,
    ) -> Result<(), RelayError> {
        let sender = far.sender();
        let (state, mut when) = watch::channel(Writing::Open);
        let written = AtomicU64::new(0);
        let mut outward = pin!(self.to_far(reader, &sender, when.clone()));
        let mut inward = pin!(from_far(far, writer, &state, &written));
        let mut stuck = pin!(self.stuck(&sender, &written));
        // Cleared once nothing more is read: the local EOF was sent, or no far end is left.
        let mut reading = true;
        let mut sent_eof = false;
        loop {
            tokio::select! {
                over = &mut inward => return match over {
                    Ok(ExitReason::Normal) if *state.borrow() == Writing::Ended => Ok(()),
                    Ok(reason) => Err(RelayError::Session(reason)),
                    Err(error) => {
                        let closed = error.kind() == io::ErrorKind::BrokenPipe;
                        state.send_replace(if closed { Writing::Closed } else { Writing::Failed });
                        // Send the bytes that the stream received before it broke.
                        let said_all = if reading { outward.await? == Reading::Eof } else { sent_eof };
                        // A stream that takes nothing after its EOF was closed in good order.
                        if closed && said_all { Ok(()) } else { Err(error.into()) }
                    }
                },
                end = &mut outward, if reading => {
                    reading = false;
                    match end? {
                        Reading::Eof => sent_eof = true,
                        Reading::Silent => return Ok(()),
                        // Bytes that came before the end must still be written.
                        Reading::FarEndGone => {}
                    }
                }
                () = passed_on(&mut when), if sent_eof => return Ok(()),
                () = &mut stuck => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        }
    }

    /// Sends the bytes of the stream, and the EOF behind them.
    async fn to_far(
        self,
        mut reader: impl AsyncRead + Unpin,
        sender: &impl PieceSender,
        mut writing: watch::Receiver<Writing>,
    ) -> Result<Reading, RelayError> {
        let max_piece_len = sender.max_piece_len().min(MAX_PIECE_LEN);
        let mut len = MIN_READ_LEN.min(max_piece_len);
        let mut buffer = BytesMut::new();
        let mut input_timeout = self.input_timeout;
        loop {
            buffer.reserve(len);
            let mut piece = (&mut reader).take(len as u64);
            let read = tokio::select! {
                biased;
                read = piece.read_buf(&mut buffer) => read?,
                () = no_more(&mut writing, input_timeout) => return Ok(Reading::Silent),
            };
            let state = *writing.borrow();
            // A socket reports an error once. The writer got it, and to the reader it looks like an EOF.
            if read == 0 && state == Writing::Failed {
                return Ok(Reading::Silent);
            }
            if state == Writing::Ended {
                input_timeout = None;
            }
            if read == len {
                len = (len * 2).min(max_piece_len);
            } else if read < len / 4 {
                len = (len / 2).max(MIN_READ_LEN.min(max_piece_len));
            }
            if sender.send(buffer.split().freeze()).await.is_err() {
                return Ok(Reading::FarEndGone);
            }
            if read == 0 {
                return Ok(Reading::Eof);
            }
        }
    }

    /// Waits until the far end is gone and the stream has accepted no byte for a while. Without that, such a stream
    /// would be held for ever.
    async fn stuck(self, sender: &impl PieceSender, written: &AtomicU64) {
        let Some(timeout) = self.last_bytes_timeout else { return pending().await };
        sender.ended().await;
        let mut before = None;
        loop {
            let now = Some(written.load(Ordering::Relaxed));
            if before == now {
                return;
            }
            before = now;
            sleep(timeout).await;
        }
    }
}

/// The outcome of reading the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// The stream reached its EOF, which was sent.
    Eof,
    /// No more bytes are expected, though there was no EOF.
    Silent,
    /// The far end is gone.
    FarEndGone,
}

/// The state of writing to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Open,
    /// The far end's EOF was passed on.
    Ended,
    /// The stream accepts nothing more.
    Closed,
    /// The stream failed.
    Failed,
}

/// Waits until the far end's EOF has been passed on.
async fn passed_on(writing: &mut watch::Receiver<Writing>) {
    // The sender outlives this wait.
    let _ = writing.wait_for(|&state| state == Writing::Ended).await;
}

/// Waits until no byte can be expected from a stream that has nothing to read at the moment.
async fn no_more(writing: &mut watch::Receiver<Writing>, input_timeout: Option<Duration>) {
    let state = writing.wait_for(|&state| state != Writing::Open).await.map(|state| *state);
    match (state, input_timeout) {
        (Ok(Writing::Closed | Writing::Failed), _) => {}
        (Ok(Writing::Ended), Some(timeout)) => sleep(timeout).await,
        _ => pending().await,
    }
}

/// Writes the bytes that come until the far end is gone, also after the EOF, because that is how the end is noticed.
/// Returns the reason of the end.
async fn from_far(
    far: &mut impl FarEnd,
    mut writer: impl AsyncWrite + Unpin,
    state: &watch::Sender<Writing>,
    written: &AtomicU64,
) -> io::Result<ExitReason> {
    loop {
        let mut piece = match far.recv().await {
            Ok(piece) => piece,
            Err(reason) => return Ok(reason),
        };
        if *state.borrow() == Writing::Ended {
            // Bytes after an EOF break the protocol, and are ignored.
            continue;
        }
        if piece.is_empty() {
            writer.shutdown().await?;
            state.send_replace(Writing::Ended);
            continue;
        }
        while piece.has_remaining() {
            let len = writer.write_buf(&mut piece).await?;
            if len == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            written.fetch_add(len as u64, Ordering::Relaxed);
        }
        writer.flush().await?;
    }
}

/// The reason why a relay ended before both directions reached EOF.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The stream failed.
    #[error("the local stream failed: {0}")]
    Stream(#[from] io::Error),
    /// The session, or the far end of the stream, ended with another reason than `Normal`, or before the far end's EOF.
    #[error("the session ended: {0}")]
    Session(ExitReason),
}

impl RelayError {
    /// Returns the reason that the far end may know; of a system error, only its kind.
    pub fn reason(&self, stream: &str) -> ExitReason {
        match self {
            Self::Stream(error) => ExitReason::failed(format!("{stream}: {}", error.kind())),
            Self::Session(reason) => reason.clone(),
        }
    }
}

/// Splits a TCP connection for a relay, and makes it one that is reset when it is dropped.
///
/// The system closes a connection that is dropped, and the peer sees an EOF, as if it had received everything. This
/// connection is reset instead, until its sending half was shut down. So a peer never takes the death of a relay or
/// its program for an EOF. The connection also sends without delay, and probes a silent peer.
///
/// # Errors
/// The connection has failed already.
pub fn tcp_halves(stream: &mut TcpStream) -> io::Result<(ReadHalf<'_>, TcpWriter<'_>)> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&*stream);
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL),
    )?;
    // `into_split` does not fit: its sending half sends an EOF when it is dropped.
    let (reader, writer) = stream.split();
    Ok((reader, TcpWriter(writer)))
}

/// The sending half of a TCP connection. Unless this half was shut down, the connection is reset when it is dropped:
/// see [`tcp_halves`].
#[derive(Debug)]
pub struct TcpWriter<'a>(WriteHalf<'a>);

impl AsyncWrite for TcpWriter<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.0).poll_shutdown(cx))?;
        // From here on, a reset would destroy bytes that were sent in full.
        Poll::Ready(SockRef::from(self.0.as_ref()).set_linger(None))
    }
}

#[cfg(test)]
mod tests;
