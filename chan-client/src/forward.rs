//! Bytes both ways between a channel and a stream, each direction closing on its own.

use std::future::{pending, ready};
use std::io;

use bytes::BytesMut;
use lib_chan::{Channel, ExitReason, Message, Opaque, Process, Remote, enter};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

/// The most bytes of one message; fewer where the service takes no more.
const MAX_PIECE_LEN: usize = 16 * 1024;

/// Carries what `reader` gives to the service, and what the service sends to `writer`, until both directions are at
/// their end; then closes the channel, which is one of the `raw` codec.
///
/// A message is a piece of the stream, of any length; an empty one says that this direction is at its end. One end
/// leaves the other direction as it is. A service that has closed its direction and then ends with `Normal` wants
/// nothing more, so that ends the relay too.
///
/// It is a process while it runs. If the stream fails, the service is told so by the reason of the session's end.
///
/// A dropped future ends the session with `Killed`, and loses what is on its way.
///
/// # Errors
///
/// The stream failed, or the session ended before both directions did.
pub async fn relay(
    chan: Channel<Opaque>,
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
) -> Result<(), RelayError> {
    let mut failed = None;
    let ended = enter(async |_: Process| {
        both_ways(chan, reader, writer).await.map_err(|error| {
            let reason = error.reason();
            failed = Some(error);
            reason
        })
    });
    let ended = ended.await;
    ended.map_err(|reason| failed.unwrap_or(RelayError::Session(reason)))
}

async fn both_ways(
    mut chan: Channel<Opaque>,
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
) -> Result<(), RelayError> {
    let remote = chan.remote();
    let (said_all, all_is_said) = oneshot::channel();
    let outward = async {
        to_service(reader, &remote).await?;
        // Nobody waits for this only if the other direction failed, which is told there.
        let _ = said_all.send(());
        Ok(())
    };
    let inward = async {
        from_service(&mut chan, &remote, writer).await?;
        // The service has nothing more to say; that it is gone shows in no message any more.
        tokio::select! {
            _ = all_is_said => Ok(()),
            reason = remote.ended() => match reason {
                ExitReason::Normal => Ok(()),
                reason => Err(RelayError::Session(reason)),
            },
        }
    };
    tokio::select! {
        // Its own end is none of the relay, only its failure is.
        Err(error) = outward => return Err(error),
        ended = inward => ended?,
    }
    chan.close().await.map_err(RelayError::Session)
}

async fn to_service(mut reader: impl AsyncRead + Unpin, remote: &Remote<Opaque>) -> Result<(), RelayError> {
    let max_piece_len = remote.max_payload_len().min(MAX_PIECE_LEN);
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(max_piece_len);
        let read = (&mut reader).take(max_piece_len as u64).read_buf(&mut buffer).await?;
        let piece = Opaque(buffer.split().freeze());
        if let Err(error) = remote.cast(piece).await {
            return tokio::select! {
                biased;
                // What came before the end is still to be written; the other direction finds the end after it.
                _ = remote.ended() => pending().await,
                () = ready(()) => Err(RelayError::Session(error.reason)),
            };
        }
        if read == 0 {
            return Ok(());
        }
    }
}

async fn from_service(
    chan: &mut Channel<Opaque>,
    remote: &Remote<Opaque>,
    mut writer: impl AsyncWrite + Unpin,
) -> Result<(), RelayError> {
    while let Some(message) = chan.recv().await {
        match message {
            Message::Cast(Opaque(piece)) if piece.is_empty() => return Ok(writer.shutdown().await?),
            Message::Cast(Opaque(piece)) => {
                writer.write_all(&piece).await?;
                writer.flush().await?;
            }
            Message::Call(_, reply) => reply.refuse("a stream takes casts only"),
        }
    }
    Err(RelayError::Session(remote.ended().await))
}

/// Why a relay ended before both directions were at their end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The stream on this side failed.
    #[error("the local stream failed: {0}")]
    Stream(#[from] io::Error),
    /// The session ended.
    #[error("the session ended: {0}")]
    Session(ExitReason),
}

impl RelayError {
    /// What the service may know of it: of the system's errors the kind.
    fn reason(&self) -> ExitReason {
        match self {
            Self::Stream(error) => ExitReason::failed(format!("the client's stream: {}", error.kind())),
            Self::Session(reason) => reason.clone(),
        }
    }
}
