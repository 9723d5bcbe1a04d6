//! Processes inside one program: messages to one process, ping-pong, spawns, and what an idle process weighs.
//!
//! Every system does the same work, and the work checks itself: numbers arrive in order, the ball goes back and forth
//! one by one, every process spawned is seen to end.

mod calls;
mod chan;
mod empty;
mod kameo;
mod linked;
mod mpsc;
mod ractor;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use lib_chan::{Process, enter};
use serde::Serialize;
use tokio::sync::{Notify, oneshot};

use self::empty::Look;
use self::linked::Shape;
use crate::sample::{Clock, Sample, memory};

/// Whose processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// lib_chan.
    Chan,
    /// Tasks of tokio and its bounded channel.
    Mpsc,
    Ractor,
    /// With a bounded mailbox.
    Kameo,
    /// With its unbounded one.
    KameoUnbounded,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Messages from one process to another.
    OneWay,
    /// Messages from four processes to one.
    FourToOne,
    /// Messages from one process to another, which waits for each with a timeout that never passes.
    Timeout,
    /// Looks into an empty mailbox with `try_recv`.
    Empty,
    /// The same with `recv_within` and a time of zero.
    EmptyWithin,
    /// Calls from one process to another, one at a time.
    Call,
    /// Calls to a process from the task that `block_on` runs, as the main function of `#[tokio::main]` is.
    CallFromMain,
    /// A message there and one back.
    PingPong,
    /// Processes that end as soon as they run.
    Spawn,
    /// The memory of a process that waits.
    Idle,
    /// The end of ten thousand processes, each linked to the next.
    Chain,
    /// The same, all linked to one.
    Star,
    /// The same as the chain, with the last linked to the first.
    Ring,
}

/// Messages that a sender sends before it waits until they have been taken. Without that an unbounded mailbox would be
/// measured by how it fills the memory.
const BURST: u64 = 50_000;
/// Processes that are spawned before their end is waited for.
const SPAWNED: usize = 10_000;
/// Idle processes.
const IDLE: usize = 100_000;
/// What bounded mailboxes hold.
const CAPACITY: usize = 1024;
const ALONE: &str = "only lib_chan and Erlang do this work";

/// Measures one system at one work for about `length`.
pub async fn measure(system: System, work: Work, length: Duration) -> Result<Sample> {
    if work == Work::CallFromMain {
        ensure!(system == System::Chan, ALONE);
        return calls::measure(length).await;
    }
    // In a task: the thread that a runtime is entered on is none of its workers.
    tokio::spawn(async move {
        match system {
            System::Chan => match work {
                Work::Timeout => one_way::<chan::Chan<true>>(1, length).await,
                Work::Empty => empty::measure(Look::Try, length).await,
                Work::EmptyWithin => empty::measure(Look::WithinZero, length).await,
                Work::Call => enter(async move |_me: Process| Ok(calls::measure(length).await)).await?,
                Work::Chain => linked::measure(Shape::Chain, length).await,
                Work::Star => linked::measure(Shape::Star, length).await,
                Work::Ring => linked::measure(Shape::Ring, length).await,
                _ => measure_with::<chan::Chan<false>>(work, length).await,
            },
            System::Mpsc => measure_with::<mpsc::Mpsc>(work, length).await,
            System::Ractor => measure_with::<ractor::Ractor>(work, length).await,
            System::Kameo => measure_with::<kameo::Kameo<CAPACITY>>(work, length).await,
            System::KameoUnbounded => measure_with::<kameo::Kameo<0>>(work, length).await,
        }
    })
    .await?
}

/// What a system of processes does in the measurements.
trait Processes: 'static {
    /// Where to send to a process that takes notes.
    type Notes: Notes;

    /// Spawns a process that gives all notes it gets to a [`Reader`].
    fn spawn_reader() -> impl Future<Output = Self::Notes> + Send;

    /// Spawns two processes that hit a ball back and forth, one of them this player, and serves.
    fn play(player: Player) -> impl Future<Output = ()> + Send;

    /// Spawns a process that ends as soon as it runs, and then counts the latch down.
    fn spawn_brief(latch: Arc<Latch>);

    /// Spawns a process that counts the latch down and then waits for messages; it lives as long as what is returned.
    fn spawn_idle(latch: Arc<Latch>) -> impl Send;
}

/// An address of a process that takes notes.
trait Notes: Clone + Send + Sync + 'static {
    fn send(&self, note: Note) -> impl Future<Output = ()> + Send;
}

/// What is sent one way.
enum Note {
    Number {
        sender: usize,
        number: u64,
    },
    /// The sender wants to know how many numbers arrived in all, and how many of them out of order.
    Done(oneshot::Sender<(u64, u64)>),
}

async fn measure_with<P: Processes>(work: Work, length: Duration) -> Result<Sample> {
    match work {
        Work::OneWay => one_way::<P>(1, length).await,
        Work::FourToOne => one_way::<P>(4, length).await,
        Work::PingPong => {
            let (done, hits) = oneshot::channel();
            let clock = Clock::start(length);
            P::play(Player { expected: 0, clock: Some(clock), done: Some(done) }).await;
            Ok(clock.sample(hits.await?))
        }
        Work::Spawn => spawn::<P>(length).await,
        Work::Idle => idle::<P>().await,
        _ => bail!(ALONE),
    }
}

async fn one_way<P: Processes>(senders: usize, length: Duration) -> Result<Sample> {
    let notes = P::spawn_reader().await;
    let clock = Clock::start(length);
    let sending: Vec<_> =
        (0..senders).map(|sender| tokio::spawn(send_bursts(notes.clone(), sender, clock))).collect();
    let mut sent = 0;
    for sending in sending {
        sent += sending.await??;
    }
    let sample = clock.sample(sent);
    let (tell, told) = oneshot::channel();
    notes.send(Note::Done(tell)).await;
    let (arrived, wrong) = told.await?;
    ensure!((arrived, wrong) == (sent, 0), "{sent} sent, {arrived} arrived, {wrong} of them out of order");
    Ok(sample)
}

async fn send_bursts(notes: impl Notes, sender: usize, clock: Clock) -> Result<u64> {
    let mut sent = 0;
    while !clock.is_over() {
        for number in sent..sent + BURST {
            notes.send(Note::Number { sender, number }).await;
        }
        sent += BURST;
        let (tell, told) = oneshot::channel();
        notes.send(Note::Done(tell)).await;
        told.await?;
    }
    Ok(sent)
}

/// Checks notes.
#[derive(Default)]
struct Reader {
    next: [u64; 4],
    arrived: u64,
    wrong: u64,
}

impl Reader {
    fn read(&mut self, note: Note) {
        match note {
            Note::Number { sender, number } => {
                self.arrived += 1;
                self.wrong += u64::from(self.next[sender] != number);
                self.next[sender] = number + 1;
            }
            // One that asks waits for the answer.
            Note::Done(tell) => drop(tell.send((self.arrived, self.wrong))),
        }
    }
}

/// What goes back and forth: first where to hit it to, then the ball.
enum Ball<A> {
    To(A),
    Hit(u64),
}

/// One end of ping-pong. The one with the clock serves, and ends the game.
struct Player {
    expected: u64,
    clock: Option<Clock>,
    done: Option<oneshot::Sender<u64>>,
}

impl Player {
    const fn other() -> Self {
        Self { expected: 1, clock: None, done: None }
    }

    /// The ball came: what to hit back, while the game goes on.
    fn hit(&mut self, ball: u64) -> Option<u64> {
        assert_eq!(ball, self.expected, "the ball came out of turn");
        self.expected += 2;
        let rounds = ball / 2;
        if rounds.is_multiple_of(64)
            && self.clock.is_some_and(|clock| clock.is_over())
            && let Some(done) = self.done.take()
        {
            let _ = done.send(rounds);
            return None;
        }
        Some(ball + 1)
    }
}

async fn spawn<P: Processes>(length: Duration) -> Result<Sample> {
    let clock = Clock::start(length);
    let mut spawned = 0;
    while !clock.is_over() {
        let latch = Latch::new(SPAWNED);
        for _ in 0..SPAWNED {
            P::spawn_brief(Arc::clone(&latch));
        }
        latch.wait().await;
        spawned += SPAWNED as u64;
    }
    Ok(clock.sample(spawned))
}

async fn idle<P: Processes>() -> Result<Sample> {
    let pid = std::process::id();
    // What the first processes cost once is not theirs.
    let warm = Latch::new(1000);
    let first: Vec<_> = (0..1000).map(|_| P::spawn_idle(Arc::clone(&warm))).collect();
    warm.wait().await;
    let mut held = Vec::with_capacity(IDLE);
    let before = memory(pid)?;
    let clock = Clock::start(Duration::ZERO);
    let latch = Latch::new(IDLE);
    held.extend((0..IDLE).map(|_| P::spawn_idle(Arc::clone(&latch))));
    latch.wait().await;
    let after = memory(pid)?;
    drop((first, held));
    Ok(Sample { bytes_each: Some((after - before) / IDLE as f64), ..clock.sample(IDLE as u64) })
}

/// Opens when it has been counted down.
struct Latch {
    left: AtomicUsize,
    open: Notify,
}

impl Latch {
    fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(count), open: Notify::new() })
    }

    fn count_down(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.open.notify_one();
        }
    }

    async fn wait(&self) {
        self.open.notified().await;
    }
}
