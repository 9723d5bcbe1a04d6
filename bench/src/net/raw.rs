//! Bytes straight into tokio-rustls, and out of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::client::TlsStream;

use super::secure::{Client, Server};
use super::{Body, Caller, Checker, Tally};
use crate::sample::{Clock, Sample};

/// Sends every frame back: a length of four bytes, and so many more. It holds no buffer while it waits.
pub(super) async fn serve_echo(server: Server) -> Result<()> {
    server.accept_all(echo).await
}

pub(super) async fn echo(mut stream: impl AsyncBufRead + AsyncWrite + Unpin) -> Result<()> {
    let mut partial = Vec::new();
    loop {
        let bytes = match stream.fill_buf().await {
            Ok(bytes) if !bytes.is_empty() => bytes,
            // The client's program has ended, in good order or not.
            _ => return Ok(()),
        };
        let len = bytes.len();
        partial.extend_from_slice(bytes);
        stream.consume(len);
        let mut whole = 0;
        while let Some(prefix) = partial[whole..].first_chunk::<4>()
            && let end = whole + 4 + u32::from_be_bytes(*prefix) as usize
            && end <= partial.len()
        {
            whole = end;
        }
        stream.write_all(&partial[..whole]).await?;
        stream.flush().await?;
        partial.drain(..whole);
        if partial.is_empty() {
            partial = Vec::new();
        }
    }
}

/// A connection to the echo.
pub(super) struct EchoOver<S>(Arc<Mutex<S>>);

/// The same over TLS.
pub(super) type Echo = EchoOver<TlsStream<TcpStream>>;

impl<S> Clone for EchoOver<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// A stream that a client makes.
pub(super) trait Connect: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    fn connect(client: &Client) -> impl Future<Output = Result<Self>> + Send;
}

impl Connect for TlsStream<TcpStream> {
    async fn connect(client: &Client) -> Result<Self> {
        client.connect().await
    }
}

impl<S: Connect> Caller for EchoOver<S> {
    async fn connect(client: &Client) -> Result<Self> {
        Ok(Self(Arc::new(Mutex::new(S::connect(client).await?))))
    }

    async fn call(&self, body: Bytes) -> Result<Bytes> {
        // Never contended: a stream has one caller.
        let mut stream = self.0.lock().await;
        let mut frame = Vec::with_capacity(4 + body.len());
        frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
        frame.extend_from_slice(&body);
        stream.write_all(&frame).await?;
        stream.flush().await?;
        let mut prefix = [0; 4];
        stream.read_exact(&mut prefix).await?;
        let mut answer = vec![0; u32::from_be_bytes(prefix) as usize];
        stream.read_exact(&mut answer).await?;
        Ok(answer.into())
    }
}

/// Takes messages one after the other, of the length that comes first, until the sending side is shut down; then says
/// what it counted.
pub(super) async fn serve_stream(server: Server) -> Result<()> {
    server.accept_all(take).await
}

pub(super) async fn take(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut message = vec![0; stream.read_u32().await? as usize];
    let mut checker = Checker::new();
    while stream.read_exact(&mut message).await.is_ok() {
        checker.check(&message);
    }
    stream.write_all(&checker.tally.to_bytes()).await?;
    Ok(stream.shutdown().await?)
}

pub(super) async fn one_way<S: Connect>(client: &Client, len: usize, length: Duration) -> Result<Sample> {
    let mut stream = S::connect(client).await?;
    let body = Body::new(len);
    let clock = Clock::start(length);
    stream.write_u32(len as u32).await?;
    let mut sent = 0;
    while sent % 64 != 0 || !clock.is_over() {
        stream.write_all(&body.numbered(sent)).await?;
        sent += 1;
    }
    stream.shutdown().await?;
    let mut tally = [0; 16];
    stream.read_exact(&mut tally).await?;
    Tally::from_bytes(&tally)?.check(sent)?;
    Ok(clock.sample(sent))
}
