//! Bytes both ways between a channel and a stream, each direction closing on its own.
//!
//! A cast is a piece of the stream, of any length; an empty one says that this direction is at its end.

use std::io::ErrorKind::ConnectionReset;

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
    let (closed, mut when_closed) = oneshot::channel();
    let outward = async {
        to_client(reader, &client).await?;
        let closed = when_closed.try_recv();
        if let Ok(Err(reset)) = closed {
            // A socket tells an error once. The writer was told, and to the reader it then looks like an end.
            return Err(reset);
        }
        client.cast(Opaque::default()).await?;
        // Both have said all they had to say: now there is nothing left to relay.
        if closed.is_err() {
            let _ = when_closed.await;
        }
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
    closed: oneshot::Sender<Result<(), ExitReason>>,
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
            let _ = closed.send(Ok(()));
            continue;
        }
        match write(&mut writer, &piece).await {
            Ok(()) => open = Some((writer, closed)),
            Err(error) if error.kind() == ConnectionReset => drop(closed.send(Err(reason(&error)))),
            Err(_) => drop(closed.send(Ok(()))),
        }
    }
    Ok(())
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), piece: &[u8]) -> std::io::Result<()> {
    writer.write_all(piece).await?;
    writer.flush().await
}

/// Sends what there is to read, to its end, but not that end.
async fn to_client(mut reader: impl AsyncRead + Unpin, client: &Remote<Opaque>) -> Result<(), ExitReason> {
    let mut buffer = bytes::BytesMut::new();
    loop {
        buffer.reserve(MAX_PIECE_LEN);
        let mut piece = (&mut reader).take(MAX_PIECE_LEN as u64);
        let read = piece.read_buf(&mut buffer).await.map_err(|error| reason(&error))?;
        if read == 0 {
            return Ok(());
        }
        client.cast(Opaque(buffer.split().freeze())).await?;
    }
}

/// What the client may know of an error: its kind. Addresses and paths stay at home.
pub(super) fn reason(error: &std::io::Error) -> ExitReason {
    ExitReason::failed(error.kind().to_string())
}
