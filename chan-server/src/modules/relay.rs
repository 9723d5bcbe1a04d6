//! Bytes both ways between a channel and a stream, each direction closing on its own.
//!
//! A cast is a piece of the stream, of any length; an empty one says that this direction is at its end.

use std::io::ErrorKind::ConnectionReset;
use std::time::Duration;

use lib_chan::{Channel, ExitReason, Message, Opaque, Remote};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::sleep;

/// The most bytes of one message; fewer where the client takes no more.
const MAX_PIECE_LEN: usize = 16 * 1024;
/// How long a stream may still take what came before the end of its session.
const LAST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);

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
    // A stream that neither takes nor gives anything would keep this process long after its session.
    let abandoned = async {
        let reason = client.ended().await;
        sleep(LAST_BYTES_TIMEOUT).await;
        reason
    };
    tokio::select! {
        ended = from_client(chan, writer, closed) => ended,
        ended = outward => ended,
        reason = abandoned => Err(reason),
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
    let max_piece_len = client.max_payload_len().min(MAX_PIECE_LEN);
    let mut buffer = bytes::BytesMut::new();
    loop {
        buffer.reserve(max_piece_len);
        let mut piece = (&mut reader).take(max_piece_len as u64);
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lib_chan::auth::{Account, AccountVerifier, Directory, Exporter, NameKey};
    use lib_chan::handshake::{Authenticated, SessionParameters};
    use lib_chan::login::{ClientLogin, Credential, login_server};
    use lib_chan::middleman::{open, serve};
    use lib_chan::payload::Codec;
    use lib_chan::secret::{PrivateKey, Secret, Target};
    use lib_chan::{Limits, Process, spawn};
    use tokio::io::{BufStream, DuplexStream, duplex};

    use super::*;

    type Side = (BufStream<DuplexStream>, Authenticated);

    async fn logged_in() -> (Side, Side) {
        let (near, far) = duplex(64 * 1024);
        let (mut near, mut far) = (BufStream::new(near), BufStream::new(far));
        let key = PrivateKey::from_seed(Secret::new([1; 32])).unwrap();
        let (service, client) = ("relay".parse().unwrap(), "joe".parse().unwrap());
        let target = Target { host: "here".into(), service, client };
        let account = Account {
            service: target.service.clone(),
            client: target.client.clone(),
            verifier: AccountVerifier::Key(key.public_key()),
            enabled: true,
            index: 0,
        };
        let name_key = NameKey::new(Secret::new([2; 32]));
        let (directory, _) = Directory::new(name_key, Secret::new([3; 32]), [account]).unwrap();
        let parameters = SessionParameters::from_limits(&Limits::default()).unwrap();
        let exporter = || Exporter::new(Secret::new([4; 32]));
        let login = ClientLogin::prepare(target, Credential::Key(&key)).await;
        let (client, server) = tokio::join!(
            login.run(&mut near, exporter()),
            login_server(&mut far, exporter(), &directory, parameters, |_| true),
        );
        ((near, client.unwrap()), (far, server.unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_takes_and_gives_nothing_is_left_some_time_after_the_session() {
        let ((near, client), (far, server)) = logged_in().await;
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            serve(far, &server, &Limits::default(), |opening| {
                spawn(async move |_me: Process| {
                    let (stream, _other_end) = duplex(16);
                    let (reader, writer) = tokio::io::split(stream);
                    let ended = relay(opening.accept(), reader, writer).await;
                    let _ = tell.send(());
                    ended
                });
            })
            .await
        });
        let limits = Limits::default();
        let chan: Channel<Opaque> = open(near, &client, &limits, Codec::Raw, b"", false).await.unwrap();
        chan.remote().cast(Opaque(Bytes::from_static(&[7; 100]))).await.unwrap();
        chan.close().await.unwrap();
        let in_time = tokio::time::timeout(LAST_BYTES_TIMEOUT * 2, told).await;
        assert!(in_time.is_ok(), "the relay is still there");
    }
}
