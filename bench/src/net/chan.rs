//! lib_chan: a service of a Rust type in bincode, and one of bytes as they are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::ValueEnum;
use lib_chan::channel::{Opening, open, serve as serve_session};
use lib_chan::handshake::Authenticated;
use lib_chan::payload::{self, Borrowable, Codec};
use lib_chan::protocol::Transmit;
use lib_chan::{Call, CastError, Channel, ExitReason, Limits, Message, Opaque, Process, Remote, spawn};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::connect::Accounts;
use super::secure::{Client, Server};
use super::{Body, Caller, Checker, Tally};
use crate::sample::{Clock, Sample, with_times};

/// How a service takes the messages that it is flooded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pace {
    /// One every ten milliseconds.
    Slow,
    /// None at all.
    Stopped,
}

impl Pace {
    /// The arguments that a session with such a service is opened with.
    const fn args(self) -> &'static [u8] {
        match self {
            Self::Slow => b"slow",
            Self::Stopped => b"stopped",
        }
    }
}

/// How often a slow service takes a message.
const TAKEN_EVERY: Duration = Duration::from_millis(10);

/// Sends its bytes back.
#[derive(Serialize, Deserialize)]
struct Echo(Bytes);

impl Call for Echo {
    type Reply = Bytes;
}

/// Sends its bytes back after [`super::HELD`], as a service does that asks somebody else.
#[derive(Serialize, Deserialize)]
struct Hold(Bytes);

impl Call for Hold {
    type Reply = Bytes;
}

/// Asks for the long answer with this number.
#[derive(Serialize, Deserialize)]
struct Fetch(u64);

impl Call for Fetch {
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
    Note(Bytes),
    Count(Count),
    Echo(Echo),
    Hold(Hold),
    Fetch(Fetch),
}

/// The first two of them, without a copy of the note. The others do not decode.
#[derive(Deserialize)]
enum RequestRef<'a> {
    Note(&'a [u8]),
    Count(Count),
}

impl Borrowable for Request {
    type Borrowed<'a> = RequestRef<'a>;
}

impl From<Echo> for Request {
    fn from(echo: Echo) -> Self {
        Self::Echo(echo)
    }
}

impl From<Hold> for Request {
    fn from(hold: Hold) -> Self {
        Self::Hold(hold)
    }
}

impl From<Fetch> for Request {
    fn from(fetch: Fetch) -> Self {
        Self::Fetch(fetch)
    }
}

impl From<Count> for Request {
    fn from(count: Count) -> Self {
        Self::Count(count)
    }
}

pub(super) async fn serve(server: Server, accounts: Accounts, limits: Limits) -> Result<()> {
    let (accounts, limits) = (Arc::new(accounts), Arc::new(limits));
    loop {
        let limits = Arc::clone(&limits);
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
                    serve_session(stream, &authenticated, &limits, start).await;
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
        match opening.args() {
            Ok(Opaque(pace)) if pace == Pace::Slow.args() => {
                spawn(async move |_me: Process| take_slowly(opening.accept()).await);
            }
            Ok(Opaque(pace)) if pace == Pace::Stopped.args() => {
                spawn(async move |_me: Process| take_nothing(opening.accept()).await);
            }
            Ok(Opaque(args)) if args == CALLING_BACK => {
                spawn(async move |_me: Process| call_back(opening.accept()).await);
            }
            _ => {
                spawn(async move |_me: Process| serve_bytes(opening.accept()).await);
            }
        }
    } else if opening.args().is_ok_and(|args: String| args.as_bytes() == BORROWING) {
        spawn(async move |_me: Process| count_borrowed(opening.accept()).await);
    } else {
        spawn(async move |_me: Process| serve_requests(opening.accept()).await);
    }
}

async fn serve_requests(mut channel: Channel<Request, ()>) -> Result<(), ExitReason> {
    let mut checker = Checker::new();
    while let Some(message) = channel.recv().await {
        match message {
            Message::Call(Request::Echo(echo), reply) => reply.to(&echo).send(echo.0),
            Message::Call(Request::Hold(hold), reply) => {
                let reply = reply.to(&hold);
                tokio::spawn(async move {
                    tokio::time::sleep(super::HELD).await;
                    reply.send(hold.0);
                });
            }
            Message::Call(Request::Fetch(fetch), reply) => {
                let answer = super::LONG.numbered(fetch.0);
                reply.to(&fetch).send(answer);
            }
            Message::Cast(Request::Note(body)) => checker.check(&body),
            Message::Call(Request::Count(count), reply) => reply.to(&count).send(checker.tally.clone()),
            _ => return Err(ExitReason::failed("a call that is a cast, or the other way round")),
        }
    }
    Ok(())
}

/// The argument that asks for a service which borrows its messages from the received batch.
const BORROWING: &[u8] = b"borrowing";

async fn count_borrowed(mut channel: Channel<Request, ()>) -> Result<(), ExitReason> {
    let mut checker = Checker::new();
    let mut wrong = false;
    let take = |checker: &mut Checker, message: Message<RequestRef<'_>>| match message {
        Message::Cast(RequestRef::Note(body)) => {
            checker.check(body);
            true
        }
        Message::Call(RequestRef::Count(count), reply) => {
            reply.to(&count).send(checker.tally.clone());
            true
        }
        _ => false,
    };
    while !wrong && let Some(taken) = channel.recv_with(|message| take(&mut checker, message)).await {
        wrong = !taken;
    }
    if wrong { Err(ExitReason::failed("only notes are taken here")) } else { Ok(()) }
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

/// The argument that asks for a service which calls its client while casts arrive.
const CALLING_BACK: &[u8] = b"calling back";
/// A call of that service is answered at last.
const PATIENCE: Duration = Duration::from_secs(600);

/// Calls the client, one call at a time, until the client calls, and answers with the time of each in nanoseconds.
async fn call_back(mut channel: Channel<Opaque, Opaque>) -> Result<(), ExitReason> {
    let remote = channel.remote();
    let (times, stop) = (Arc::new(Mutex::new(Vec::<u64>::new())), Arc::new(AtomicBool::new(false)));
    let (noted, stopped) = (Arc::clone(&times), Arc::clone(&stop));
    tokio::spawn(async move {
        let body = Body::new(64);
        while !stopped.load(Ordering::Relaxed) {
            let start = Instant::now();
            let asked = Ask(Opaque(body.numbered(0)));
            if remote.call_within(PATIENCE, asked).await.is_err() {
                return;
            }
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(start.elapsed().as_nanos() as u64);
        }
    });
    let mut checker = Checker::new();
    while let Some(message) = channel.recv().await {
        match message {
            Message::Cast(Opaque(body)) => checker.check(&body),
            Message::Call(_, reply) => {
                stop.store(true, Ordering::Relaxed);
                let times = std::mem::take(&mut *times.lock().unwrap_or_else(PoisonError::into_inner));
                let answer = (checker.tally.clone(), times);
                let text = serde_json::to_vec(&answer).unwrap_or_default();
                reply.to(&Ask(Opaque::default())).send(Opaque(text.into()));
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn take_slowly(mut channel: Channel<Opaque, ()>) -> Result<(), ExitReason> {
    let mut checker = Checker::new();
    while let Some(Message::Cast(Opaque(body))) = channel.recv().await {
        checker.check(&body);
        if checker.tally.wrong > 0 {
            return Err(ExitReason::failed("not what was sent"));
        }
        tokio::time::sleep(TAKEN_EVERY).await;
    }
    Ok(())
}

async fn take_nothing(channel: Channel<Opaque, ()>) -> Result<(), ExitReason> {
    channel.remote().ended().await;
    Ok(())
}

async fn connect<Out: Transmit>(client: &Client, codec: Codec) -> Result<Remote<Out>> {
    connect_with(client, codec, &Limits::default(), b"").await
}

async fn connect_with<Out: Transmit>(
    client: &Client,
    codec: Codec,
    limits: &Limits,
    args: &[u8],
) -> Result<Remote<Out>> {
    let mut stream = client.connect().await?;
    let authenticated = super::connect::log_in_with_key(&mut stream, limits, codec, args).await?;
    let channel: Channel<(), Out> =
        open(stream, &authenticated, limits, codec, args, false).await.context("open")?;
    Ok(channel.into_remote())
}

#[derive(Clone)]
pub(super) struct Chan(Remote<Request>);

impl Chan {
    /// A session after the login.
    pub(super) async fn open(stream: TlsStream<TcpStream>, authenticated: &Authenticated) -> Result<Self> {
        let limits = Limits::default();
        let channel: Channel<(), Request> =
            open(stream, authenticated, &limits, Codec::Bincode, b"", false).await.context("open")?;
        Ok(Self(channel.into_remote()))
    }

    pub(super) async fn close(self) -> Result<()> {
        Ok(self.0.close().await?)
    }
}

impl Caller for Chan {
    async fn connect(client: &Client) -> Result<Self> {
        Ok(Self(connect(client, Codec::Bincode).await?))
    }

    async fn call(&self, body: Bytes) -> Result<Bytes> {
        Ok(self.0.call(Echo(body)).await?)
    }
}

/// The same under a limit that lets longer messages through.
#[derive(Clone)]
pub(super) struct ChanLong(Chan);

impl Caller for ChanLong {
    async fn connect(client: &Client) -> Result<Self> {
        let limits = super::limits(super::Work::LongCalls);
        Ok(Self(Chan(connect_with(client, Codec::Bincode, &limits, b"").await?)))
    }

    async fn call(&self, body: Bytes) -> Result<Bytes> {
        self.0.call(body).await
    }

    async fn fetch(&self, number: u64) -> Result<Bytes> {
        Ok(self.0.0.call(Fetch(number)).await?)
    }
}

/// The same with calls whose answers take a while.
#[derive(Clone)]
pub(super) struct ChanHeld(Remote<Request>);

impl Caller for ChanHeld {
    async fn connect(client: &Client) -> Result<Self> {
        Ok(Self(connect(client, Codec::Bincode).await?))
    }

    async fn call(&self, body: Bytes) -> Result<Bytes> {
        Ok(self.0.call(Hold(body)).await?)
    }
}

/// A session that is only cast to.
pub(super) async fn connect_to_flood(client: &Client, pace: Pace) -> Result<Remote<Opaque>> {
    connect_with(client, Codec::Raw, &Limits::default(), pace.args()).await
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

/// Casts many messages at once to a service that borrows them from the received batch.
pub(super) async fn one_way_all(client: &Client, len: usize, length: Duration) -> Result<Sample> {
    let mut args = Vec::new();
    payload::encode(Codec::Bincode, &std::str::from_utf8(BORROWING)?, &mut args)?;
    let remote: Remote<Request> = connect_with(client, Codec::Bincode, &Limits::default(), &args).await?;
    let body = Body::new(len);
    let clock = Clock::start(length);
    let mut sent = 0;
    let notes = std::iter::from_fn(|| {
        (sent % 64 != 0 || !clock.is_over()).then(|| {
            sent += 1;
            Request::Note(body.numbered(sent - 1))
        })
    });
    remote.cast_all(notes).await?;
    remote.call(Count).await?.check(sent)?;
    Ok(clock.sample(sent))
}

/// Casts long messages, and answers the short calls of the service meanwhile: how long each of these took.
pub(super) async fn beside_uploads(client: &Client, work: super::Work, length: Duration) -> Result<Sample> {
    let limits = super::limits(work);
    let mut stream = client.connect().await?;
    let authenticated =
        super::connect::log_in_with_key(&mut stream, &limits, Codec::Raw, CALLING_BACK).await?;
    let mut channel: Channel<Opaque, Opaque> =
        open(stream, &authenticated, &limits, Codec::Raw, CALLING_BACK, false).await.context("open")?;
    let remote = channel.remote();
    let answering = tokio::spawn(async move {
        while let Some(message) = channel.recv().await {
            if let Message::Call(Opaque(body), reply) = message {
                reply.to(&Ask(Opaque::default())).send(Opaque(body));
            }
        }
    });
    let body = Body::new(super::UPLOAD_LEN);
    let clock = Clock::start(length);
    let mut sent = 0;
    while sent < 2 || !clock.is_over() {
        let message = Opaque(body.numbered(sent));
        if work == super::Work::BesideUploads {
            remote.cast(message).await?;
        } else {
            while let Err(error) = remote.try_cast(message.clone()) {
                anyhow::ensure!(matches!(error, CastError::WouldWait), "{error}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        sent += 1;
    }
    let Opaque(answer) = remote.call_within(PATIENCE, Ask(Opaque::default())).await?;
    let (tally, times): (Tally, Vec<u64>) = serde_json::from_slice(&answer)?;
    tally.check(sent)?;
    answering.abort();
    Ok(with_times(clock.sample(sent), times))
}

pub(super) async fn one_way_bytes(
    client: &Client,
    limits: &Limits,
    len: usize,
    length: Duration,
) -> Result<Sample> {
    let remote: Remote<Opaque> = connect_with(client, Codec::Raw, limits, b"").await?;
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
