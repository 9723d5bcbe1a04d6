//! Two programs, one TLS connection.
//!
//! Every peer does the same work over the same TLS: the same certificate, provider, version, groups and ciphers, no
//! resumption, `TCP_NODELAY` on both sides. Every message is checked by whoever receives it.

mod chan;
mod connect;
mod flood;
mod plain;
mod raw;
mod secure;
mod sessions;
mod stages;
mod tarpc;
pub mod tonic;

use std::io::Write;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use lib_chan::Limits;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub use self::chan::Pace;
pub use self::sessions::Order;
pub use self::stages::{Staged, Way, stages};
use crate::sample::{Clock, Sample, cpu_seconds, with_times};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// lib_chan, with messages of a Rust type in bincode.
    Chan,
    /// lib_chan, with messages that are bytes as they are.
    ChanBytes,
    /// lib_chan, many casts at once to a receiver that borrows.
    ChanAll,
    /// tokio-rustls and nothing else.
    Raw,
    /// TCP and nothing else.
    Tcp,
    Tarpc,
    Tonic,
    /// tonic, its client stream fed through a channel, as from a task that has other things to do.
    TonicFed,
}

impl Peer {
    /// Who it is, to people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chan => "lib_chan",
            Self::ChanBytes => "lib_chan, bytes",
            Self::ChanAll => "lib_chan, cast_all and recv_with",
            Self::Raw => "tokio-rustls",
            Self::Tcp => "TCP",
            Self::Tarpc => "tarpc",
            Self::Tonic => "tonic",
            Self::TonicFed => "tonic, fed",
        }
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// One caller, one call at a time.
    Latency,
    /// So many callers, each one call at a time.
    Calls,
    /// The same under a limit that lets frames of 2 MiB through.
    LongCalls,
    /// The same with a service that answers each call after a while.
    HeldCalls,
    /// Messages that want no answer.
    OneWay,
    /// Connections: connect, log in (what has a login), close.
    Connect,
    /// Connections that do nothing.
    Idle,
    /// Sessions that are told when to open and when to call.
    Sessions,
    /// Casts to a service that hardly takes any.
    Flood,
    /// The same as one way, with the windows that a user gets who sets none; tonic's follow the path.
    Bulk,
    /// Connections made one after the other, each until the answer to its first call.
    First,
    /// One caller, one short call at a time, beside calls of [`BULK_LEN`] on the same connection.
    Beside,
    /// The same beside short calls whose answers have [`BULK_LEN`].
    BesideAnswers,
    /// Short calls of the server, whose answers go beside casts of [`UPLOAD_LEN`] of the client.
    BesideUploads,
    /// The same with casts that go whole.
    BesideWholeUploads,
}

/// Callers at a time in [`Work::Calls`], where nothing else is said.
pub const CALLERS: usize = 64;
/// How long the service of [`Work::HeldCalls`] takes for an answer.
pub const HELD: Duration = Duration::from_millis(20);
/// The first calls of a client are not measured: a thousand, or those of so long.
const WARM_UP: Duration = Duration::from_millis(200);
/// How many times of calls all callers together have room for at first.
const ROOM_FOR_TIMES: usize = 400_000;
/// Bytes of a long call that is made beside short ones, and how many are made at a time.
const BULK_LEN: usize = 1024 * 1024;
const BULK_CALLERS: usize = 2;
/// Bytes of a cast in [`Work::BesideUploads`]: about as many as a frame may have.
const UPLOAD_LEN: usize = 16 * 1024 * 1024 - 64;
/// What long answers are made of.
static LONG: LazyLock<Body> = LazyLock::new(|| Body::new(BULK_LEN));
/// Connections that are being made at a time in [`Work::Connect`].
const CONNECTORS: usize = 4;
/// Idle connections: those that a server has before its memory is looked at, and those that are measured.
pub const IDLE: (usize, usize) = (200, 2000);

/// Where a server is, and how it is known. It prints this as its first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listening {
    pub address: std::net::SocketAddr,
    pub pin: String,
    /// The program.
    pub program: u32,
}

/// How much a client does.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Load {
    /// Bytes of a message.
    #[arg(long, default_value_t = 64)]
    pub len: usize,
    /// How many call, or flood, at a time.
    #[arg(long, default_value_t = CALLERS)]
    pub callers: usize,
    /// How a service that is flooded takes messages.
    #[arg(long, default_value = "stopped")]
    pub pace: Pace,
}

/// How far a stream of messages may run ahead of its reader: the same for all peers that bound it. As the documentation
/// of each advises where much goes one way, it is more than the default (64 KiB of tonic's, 256 KiB of ours).
const STREAM_WINDOW: u32 = 1024 * 1024;

/// What a session of ours allows. The benchmark's own: longer frames, where messages are longer, and the window of a
/// stream.
fn limits(work: Work) -> Limits {
    let mut limits = Limits::default();
    match work {
        Work::LongCalls | Work::Beside | Work::BesideAnswers => limits.max_frame_len *= 2,
        Work::BesideUploads | Work::BesideWholeUploads => {
            limits.max_frame_len = *Limits::FRAME_LEN_RANGE.end();
        }
        Work::OneWay => limits.window_len = STREAM_WINDOW as usize,
        _ => {}
    }
    limits
}

/// What a chan-server is told of the account that the clients use.
pub fn configured_account() -> Result<String> {
    connect::configured_account()
}

/// Serves one peer until standard input ends, then tells how many connections ended well, and the processor time.
pub async fn serve(peer: Peer, work: Work, at: IpAddr) -> Result<()> {
    if peer == Peer::Tcp {
        return plain::serve(at, work).await;
    }
    let server = secure::Server::bind(peer, at).await?;
    // Deriving a key takes its time, which is not part of what is measured.
    let accounts = match work {
        Work::Connect => connect::Accounts::with_password()?,
        _ => connect::Accounts::with_key(&limits(work))?,
    };
    say(&server.listening()?)?;
    let counters = server.counters();
    let serving = tokio::spawn(async move {
        match (peer, work) {
            (Peer::Chan | Peer::ChanBytes | Peer::ChanAll, Work::Connect) => {
                connect::serve_logins(server, accounts).await
            }
            (Peer::Raw, Work::Connect) => connect::serve_handshakes(server).await,
            (Peer::Chan | Peer::ChanBytes | Peer::ChanAll, _) => {
                chan::serve(server, accounts, limits(work)).await
            }
            (Peer::Raw, Work::OneWay | Work::Bulk) => raw::serve_stream(server).await,
            (Peer::Raw, _) => raw::serve_echo(server).await,
            (Peer::Tcp, _) => bail!("it has no TLS"),
            (Peer::Tarpc, _) => tarpc::serve(server).await,
            (Peer::Tonic | Peer::TonicFed, _) => tonic::serve(server, work == Work::Bulk).await,
        }
    });
    let start = cpu_seconds();
    until_input_ends().await?;
    if serving.is_finished() {
        serving.await??;
    }
    let cpu_seconds = cpu_seconds() - start;
    say(&Sample { count: counters.all_served().await, cpu_seconds, ..Sample::default() })
}

/// Waits until whoever started this program wants it to end.
async fn until_input_ends() -> Result<()> {
    let mut input = BufReader::new(stdin()).lines();
    while input.next_line().await?.is_some() {}
    Ok(())
}

/// Does the work of one peer as the client, for about `length`.
pub async fn measure(
    peer: Peer,
    work: Work,
    server: &Listening,
    length: Duration,
    load: Load,
) -> Result<Sample> {
    let client = secure::Client::new(peer, server)?;
    let Load { len, callers, pace } = load;
    let callers = if work == Work::Latency { 1 } else { callers };
    // In a task: the thread that a runtime is entered on is none of its workers.
    tokio::spawn(async move {
        match (work, peer) {
            (Work::Connect, Peer::Chan) => connect::measure(connect::Login::new(client)?, length).await,
            (Work::Connect, _) => connect::measure(connect::Handshake(client), length).await,
            (Work::Idle, Peer::Chan) => idle::<chan::Chan>(&client).await,
            (Work::Idle, _) => idle::<raw::Echo>(&client).await,
            (Work::OneWay, Peer::Chan) => chan::one_way(&client, len, length).await,
            (Work::OneWay, Peer::ChanAll) => chan::one_way_all(&client, len, length).await,
            (_, Peer::ChanAll) => bail!("it only casts"),
            (Work::OneWay | Work::Bulk, Peer::ChanBytes) => {
                chan::one_way_bytes(&client, &limits(work), len, length).await
            }
            (Work::OneWay | Work::Bulk, Peer::Raw) => {
                raw::one_way::<TlsStream<TcpStream>>(&client, len, length).await
            }
            (Work::OneWay | Work::Bulk, Peer::Tcp) => raw::one_way::<TcpStream>(&client, len, length).await,
            (Work::OneWay | Work::Bulk, Peer::Tonic) => tonic::one_way(&client, len, length).await,
            (Work::OneWay, Peer::TonicFed) => tonic::one_way_fed(&client, len, length).await,
            (Work::Bulk, _) => bail!("nobody asks"),
            (Work::OneWay, Peer::Tarpc) => bail!("every call of tarpc has an answer"),
            (Work::Calls, Peer::Raw | Peer::Tcp) | (Work::LongCalls, Peer::Tcp) => {
                bail!("a stream has no calls at a time")
            }
            (Work::First, Peer::Chan) => first::<chan::Chan>(&client, length).await,
            (Work::First, Peer::Raw) => first::<raw::Echo>(&client, length).await,
            (Work::First, Peer::Tcp) => first::<raw::EchoOver<TcpStream>>(&client, length).await,
            (Work::First, _) => bail!("nobody asks"),
            (Work::Beside | Work::BesideAnswers, Peer::Chan) => {
                beside::<chan::ChanLong>(&client, work, len, length).await
            }
            (Work::Beside | Work::BesideAnswers, Peer::Tonic) => {
                beside::<tonic::Tonic>(&client, work, len, length).await
            }
            (Work::Beside | Work::BesideAnswers, _) => bail!("a stream has no calls at a time"),
            (Work::BesideUploads | Work::BesideWholeUploads, Peer::Chan) => {
                chan::beside_uploads(&client, work, length).await
            }
            (Work::BesideUploads | Work::BesideWholeUploads, _) => bail!("only lib_chan does this"),
            (Work::LongCalls, Peer::Chan) => calls::<chan::ChanLong>(&client, len, callers, length).await,
            (Work::HeldCalls, Peer::Chan) => calls::<chan::ChanHeld>(&client, len, callers, length).await,
            (Work::Sessions, Peer::ChanBytes) => sessions::drive(&client).await,
            (Work::Flood, Peer::ChanBytes) => flood::drive(&client, len, callers, pace).await,
            (Work::HeldCalls | Work::Sessions | Work::Flood, _) => bail!("only lib_chan does this"),
            (_, Peer::Chan) => calls::<chan::Chan>(&client, len, callers, length).await,
            (_, Peer::ChanBytes) => calls::<chan::ChanBytes>(&client, len, callers, length).await,
            (_, Peer::Tcp) => calls::<raw::EchoOver<TcpStream>>(&client, len, callers, length).await,
            (_, Peer::Raw) => calls::<raw::Echo>(&client, len, callers, length).await,
            (_, Peer::Tarpc) => calls::<tarpc::Tarpc>(&client, len, callers, length).await,
            (_, Peer::Tonic | Peer::TonicFed) => calls::<tonic::Tonic>(&client, len, callers, length).await,
        }
    })
    .await?
}

/// A connection over which calls are made.
trait Caller: Clone + Send + Sync + 'static {
    fn connect(client: &secure::Client) -> impl Future<Output = Result<Self>> + Send;

    /// Sends these bytes there and back.
    fn call(&self, body: Bytes) -> impl Future<Output = Result<Bytes>> + Send;

    /// Asks for the long answer with this number.
    fn fetch(&self, _number: u64) -> impl Future<Output = Result<Bytes>> + Send {
        async { bail!("its service has no long answers") }
    }
}

async fn calls<C: Caller>(
    client: &secure::Client,
    len: usize,
    callers: usize,
    length: Duration,
) -> Result<Sample> {
    let caller = C::connect(client).await?;
    let body = Body::new(len);
    let warming = Clock::start(length.min(WARM_UP));
    for number in 0..1000 {
        if warming.is_over() {
            break;
        }
        checked_call(&caller, &body, number).await?;
    }
    let clock = Clock::start_with(length, client.server().program);
    let room = ROOM_FOR_TIMES / callers.max(1);
    let calling: Vec<_> =
        (0..callers).map(|_| tokio::spawn(call_on(caller.clone(), body.clone(), clock, room))).collect();
    let mut times = Vec::new();
    let mut of_one = (u64::MAX, 0);
    for calling in calling {
        let mut made = calling.await??;
        of_one = (of_one.0.min(made.len() as u64), of_one.1.max(made.len() as u64));
        times.append(&mut made);
    }
    let sample = Sample { calls_of_one: Some(of_one), ..clock.sample(times.len() as u64) };
    Ok(with_times(sample, times))
}

/// Calls until the time is over; how long each took, in nanoseconds.
async fn call_on(caller: impl Caller, body: Body, clock: Clock, room: usize) -> Result<Vec<u64>> {
    let mut times = Vec::with_capacity(room);
    while !clock.is_over() {
        let start = Instant::now();
        checked_call(&caller, &body, times.len() as u64).await?;
        times.push(start.elapsed().as_nanos() as u64);
    }
    Ok(times)
}

/// Makes connections one after the other, each until its first answer.
async fn first<C: Caller>(client: &secure::Client, length: Duration) -> Result<Sample> {
    let body = Body::new(64);
    let (clock, mut times) = (Clock::start(length), Vec::new());
    while times.is_empty() || !clock.is_over() {
        let start = Instant::now();
        checked_call(&C::connect(client).await?, &body, times.len() as u64).await?;
        times.push(start.elapsed().as_nanos() as u64);
    }
    Ok(with_times(clock.sample(times.len() as u64), times))
}

/// Makes short calls one at a time while long ones are under way on the same connection.
async fn beside<C: Caller>(
    client: &secure::Client,
    work: Work,
    len: usize,
    length: Duration,
) -> Result<Sample> {
    let caller = C::connect(client).await?;
    let bulk = (0..BULK_CALLERS).map(|_| {
        let caller = caller.clone();
        async move {
            for number in 0.. {
                if work == Work::BesideAnswers {
                    let came = caller.fetch(number).await?;
                    ensure!(came == LONG.numbered(number), "another answer than was asked for");
                } else {
                    checked_call(&caller, &LONG, number).await?;
                }
            }
            anyhow::Ok(())
        }
    });
    let mut bulk: tokio::task::JoinSet<_> = bulk.collect();
    let (body, clock, mut times) = (Body::new(len), Clock::start(length), Vec::new());
    while times.is_empty() || !clock.is_over() {
        let start = Instant::now();
        tokio::select! {
            called = checked_call(&caller, &body, times.len() as u64) => called?,
            Some(ended) = bulk.join_next() => return Err(ended?.err().context("a long call failed")?),
        }
        times.push(start.elapsed().as_nanos() as u64);
    }
    Ok(with_times(clock.sample(times.len() as u64), times))
}

async fn checked_call(caller: &impl Caller, body: &Body, number: u64) -> Result<()> {
    let sent = body.numbered(number);
    let came = caller.call(sent.clone()).await?;
    ensure!(came == sent, "another answer than was sent");
    Ok(())
}

/// Opens connections, each used once, and holds them while the other program looks at the server's memory. It says a
/// line when they stand, and reads one before it goes on.
async fn idle<C: Caller>(client: &secure::Client) -> Result<Sample> {
    let mut input = BufReader::new(stdin()).lines();
    let body = Body::new(64);
    let mut held = Vec::new();
    let clock = Clock::start(Duration::ZERO);
    for count in [IDLE.0, IDLE.1] {
        for number in 0..count {
            let caller = C::connect(client).await?;
            checked_call(&caller, &body, number as u64).await?;
            held.push(caller);
        }
        say(&clock.sample(count as u64))?;
        input.next_line().await?;
    }
    Ok(clock.sample(held.len() as u64))
}

/// What messages are made of: a number, and bytes that are always the same.
#[derive(Clone, Debug)]
struct Body {
    pattern: Bytes,
}

impl Body {
    const NUMBER_LEN: usize = 8;

    fn new(len: usize) -> Self {
        Self { pattern: (0..len).map(|at| (at * 31 + 7) as u8).collect() }
    }

    /// The message with this number.
    fn numbered(&self, number: u64) -> Bytes {
        let mut body = Vec::with_capacity(self.pattern.len());
        body.extend_from_slice(&number.to_be_bytes());
        body.extend_from_slice(&self.pattern[Self::NUMBER_LEN..]);
        body.into()
    }
}

/// What a receiver of one-way messages has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tally {
    arrived: u64,
    /// Not the number that was due, or not the bytes.
    wrong: u64,
}

impl Tally {
    /// What must have arrived when all is well.
    const fn all(sent: u64) -> Self {
        Self { arrived: sent, wrong: 0 }
    }

    fn check(&self, sent: u64) -> Result<()> {
        ensure!(*self == Self::all(sent), "{sent} sent, {} arrived, {} wrong", self.arrived, self.wrong);
        Ok(())
    }

    fn to_bytes(&self) -> [u8; 16] {
        (u128::from(self.arrived) << 64 | u128::from(self.wrong)).to_be_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let both = u128::from_be_bytes(bytes.try_into()?);
        Ok(Self { arrived: (both >> 64) as u64, wrong: both as u64 })
    }
}

/// Checks one-way messages as they come.
#[derive(Debug)]
struct Checker {
    body: Body,
    tally: Tally,
}

impl Checker {
    /// For messages as long as the first.
    fn new() -> Self {
        Self { body: Body::new(0), tally: Tally::all(0) }
    }

    fn check(&mut self, message: &[u8]) {
        if self.body.pattern.len() != message.len() {
            self.body = Body::new(message.len());
        }
        let right = message.split_at_checked(Body::NUMBER_LEN).is_some_and(|(number, rest)| {
            number == self.tally.arrived.to_be_bytes() && rest == &self.body.pattern[Body::NUMBER_LEN..]
        });
        self.tally.arrived += 1;
        self.tally.wrong += u64::from(!right);
    }
}

/// Prints a line for the program that started this one.
pub fn say(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
