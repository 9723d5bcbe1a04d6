//! lib_chan: a service of a Rust type in bincode, and one of bytes as they are.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use lib_chan::middleman::{Opening, open, serve as serve_session};
use lib_chan::payload::Codec;
use lib_chan::{Call, Channel, ExitReason, Limits, Message, Opaque, Process, Remote, spawn};
use serde::{Deserialize, Serialize};

use super::connect::Accounts;
use super::secure::{Client, Server};
use super::{Body, Caller, Checker, Tally};
use crate::sample::{Clock, Sample};

/// Sends its bytes back.
#[derive(Serialize, Deserialize)]
struct Echo(Bytes);

impl Call for Echo {
    type Reply = Bytes;
}

/// Asks for what arrived one way.
#[derive(Serialize, Deserialize)]
struct Count;

impl Call for Count {
    type Reply = Tally;
}

#[derive(Serialize, Deserialize)]
enum Request {
    Echo(Echo),
    Note(Bytes),
    Count(Count),
}

impl From<Echo> for Request {
    fn from(echo: Echo) -> Self {
        Self::Echo(echo)
    }
}

impl From<Count> for Request {
    fn from(count: Count) -> Self {
        Self::Count(count)
    }
}

pub(super) async fn serve(server: Server, accounts: Accounts) -> Result<()> {
    let accounts = Arc::new(accounts);
    loop {
        let (accepting, accounts, counters) =
            (server.accept().await?, Arc::clone(&accounts), server.counters());
        // On the heap, as chan-server has them: a task keeps room for each place that a value is moved through.
        let logging_in = Box::pin(async move {
            let mut stream = accepting.await?;
            let authenticated = accounts.log_in(&mut stream).await?;
            anyhow::Ok((Box::new(stream), authenticated))
        });
        tokio::spawn(async move {
            let served = match logging_in.await {
                Ok((stream, authenticated)) => {
                    serve_session(stream, &authenticated, &Limits::default(), start).await;
                    Ok(())
                }
                Err(error) => Err(error),
            };
            counters.settle(served);
        });
    }
}

fn start(opening: Opening) {
    if opening.codec() == Codec::Raw {
        spawn(async move |_me: Process| serve_bytes(opening.accept()).await);
    } else {
        spawn(async move |_me: Process| serve_requests(opening.accept()).await);
    }
}

async fn serve_requests(mut channel: Channel<Request, ()>) -> Result<(), ExitReason> {
    let mut checker = Checker::new();
    while let Some(message) = channel.recv().await {
        match message {
            Message::Call(Request::Echo(echo), reply) => reply.to(&echo).send(echo.0),
            Message::Cast(Request::Note(body)) => checker.check(&body),
            Message::Call(Request::Count(count), reply) => reply.to(&count).send(checker.tally.clone()),
            _ => return Err(ExitReason::failed("a call that is a cast, or the other way round")),
        }
    }
    Ok(())
}

/// Every call of this service is an echo, but for one without bytes, which asks for what arrived.
#[derive(Serialize, Deserialize)]
struct Ask(Opaque);

impl Call for Ask {
    type Reply = Opaque;
}

impl From<Ask> for Opaque {
    fn from(ask: Ask) -> Self {
        ask.0
    }
}

async fn serve_bytes(mut channel: Channel<Opaque, ()>) -> Result<(), ExitReason> {
    let mut checker = Checker::new();
    while let Some(message) = channel.recv().await {
        match message {
            Message::Cast(Opaque(body)) => checker.check(&body),
            Message::Call(Opaque(body), reply) => {
                let count = body.is_empty().then(|| Bytes::copy_from_slice(&checker.tally.to_bytes()));
                reply.to(&Ask(Opaque::default())).send(Opaque(count.unwrap_or(body)));
            }
        }
    }
    Ok(())
}

async fn connect<Out>(client: &Client, codec: Codec) -> Result<Remote<Out>> {
    let mut stream = client.connect().await?;
    let authenticated = super::connect::log_in_with_key(&mut stream).await?;
    let channel: Channel<(), Out> =
        open(stream, &authenticated, &Limits::default(), codec, b"", false).await.context("open")?;
    Ok(channel.into_remote())
}

#[derive(Clone)]
pub(super) struct Chan(Remote<Request>);

impl Caller for Chan {
    async fn connect(client: &Client) -> Result<Self> {
        Ok(Self(connect(client, Codec::Bincode).await?))
    }

    async fn call(&self, body: Bytes) -> Result<Bytes> {
        Ok(self.0.call(Echo(body)).await?)
    }
}

#[derive(Clone)]
pub(super) struct ChanBytes(Remote<Opaque>);

impl Caller for ChanBytes {
    async fn connect(client: &Client) -> Result<Self> {
        Ok(Self(connect(client, Codec::Raw).await?))
    }

    async fn call(&self, body: Bytes) -> Result<Bytes> {
        Ok(self.0.call(Ask(Opaque(body))).await?.0)
    }
}

pub(super) async fn one_way(client: &Client, len: usize, length: Duration) -> Result<Sample> {
    let Chan(remote) = Chan::connect(client).await?;
    let body = Body::new(len);
    let clock = Clock::start(length);
    let mut sent = 0;
    while sent % 64 != 0 || !clock.is_over() {
        remote.cast(Request::Note(body.numbered(sent))).await?;
        sent += 1;
    }
    remote.call(Count).await?.check(sent)?;
    Ok(clock.sample(sent))
}

pub(super) async fn one_way_bytes(client: &Client, len: usize, length: Duration) -> Result<Sample> {
    let ChanBytes(remote) = ChanBytes::connect(client).await?;
    let body = Body::new(len);
    let clock = Clock::start(length);
    let mut sent = 0;
    while sent % 64 != 0 || !clock.is_over() {
        remote.cast(Opaque(body.numbered(sent))).await?;
        sent += 1;
    }
    let Opaque(tally) = remote.call(Ask(Opaque::default())).await?;
    Tally::from_bytes(&tally)?.check(sent)?;
    Ok(clock.sample(sent))
}
