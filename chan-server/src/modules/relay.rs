//! Bytes both ways between a channel and a stream, each direction closing on its own.
//!
//! A cast is a piece of the stream, of any length; an empty one says that this direction is at its end.

use lib_chan::{Channel, ExitReason, Message, Opaque, Remote};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

/// The most bytes of one message.
const MAX_PIECE_LEN: usize = 16 * 1024;

/// Relays until both directions are at their end, or the session is.
pub(super) async fn relay(
    chan: Channel<Opaque>,
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
) -> Result<(), ExitReason> {
    let client = chan.remote();
    let (closed, when_closed) = oneshot::channel();
    let outward = async {
        to_client(reader, &client).await?;
        // Both have said all they had to say: now there is nothing left to relay.
        let _ = when_closed.await;
        client.flush().await
    };
    tokio::select! {
        ended = from_client(chan, writer, closed) => ended,
        ended = outward => ended,
    }
}

/// Reads to the end of the session, also after the client said that it has no more: this is how its end is noticed.
async fn from_client(
    mut chan: Channel<Opaque>,
    writer: impl AsyncWrite + Unpin,
    closed: oneshot::Sender<()>,
) -> Result<(), ExitReason> {
    let mut open = Some((writer, closed));
    while let Some(message) = chan.recv().await {
        let Opaque(piece) = match message {
            Message::Cast(piece) => piece,
            Message::Call(_, reply) => {
                reply.refuse("a stream takes casts only");
                continue;
            }
        };
        // What comes after the end, or for a stream that takes no more, is dropped: the other direction still lives.
        let Some((mut writer, closed)) = open.take() else { continue };
        if piece.is_empty() {
            let _ = writer.shutdown().await;
            let _ = closed.send(());
        } else if writer.write_all(&piece).await.is_ok() && writer.flush().await.is_ok() {
            open = Some((writer, closed));
        } else {
            let _ = closed.send(());
        }
    }
    Ok(())
}

async fn to_client(mut reader: impl AsyncRead + Unpin, client: &Remote<Opaque>) -> Result<(), ExitReason> {
    let mut buffer = bytes::BytesMut::new();
    loop {
        buffer.reserve(MAX_PIECE_LEN);
        let mut piece = (&mut reader).take(MAX_PIECE_LEN as u64);
        let read = piece.read_buf(&mut buffer).await.map_err(|error| reason(&error))?;
        client.cast(Opaque(buffer.split().freeze())).await?;
        if read == 0 {
            return Ok(());
        }
    }
}

/// What the client may know of an error: its kind. Addresses and paths stay at home.
pub(super) fn reason(error: &std::io::Error) -> ExitReason {
    ExitReason::failed(error.kind().to_string())
}
