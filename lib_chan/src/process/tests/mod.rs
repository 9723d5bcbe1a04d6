//! The semantics of Erlang's processes, as short scripts, and behaviour that Erlang does not define.
//!
//! Links, monitors and exits between the two ends of a session are tested in `middleman`.

mod calls;
mod endings;
mod exits;
mod info;
#[cfg(chan_shuttle)]
mod interleavings;
mod late;
mod links;
mod mailboxes;
mod monitors;
mod names;
mod order;
mod rest;
mod supervisor;
mod timers;
mod times;

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use super::*;
use crate::ExitReason;
use crate::ExitReason::{Kill, Killed, NoProc, Normal, Panic, Shutdown};

/// Long enough that only a test that fails waits for it.
const LONG: Duration = Duration::from_secs(20);

fn boom() -> ExitReason {
    ExitReason::failed("boom")
}

type Step = Box<dyn FnOnce(&mut Process<Order>) -> Next + Send>;

/// What an actor is told to do.
enum Order {
    Say(u32),
    Do(Step),
    Show(Reply<Vec<Seen>>),
}

/// Whether it goes on.
type Next = Option<Result<(), ExitReason>>;

/// What an actor found in its mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Said(u32),
    Exit(Pid, ExitReason),
    Down(MonitorRef, Pid, ExitReason),
}

use Seen::{Down, Exit, Said};

/// A process that does as it is told and keeps what it finds in its mailbox.
#[derive(Clone)]
struct Actor(Address<Order>);

impl Actor {
    fn new() -> Self {
        Self(spawn(Self::run))
    }

    fn trapping() -> Self {
        Self(spawn_with(SpawnOptions { trap_exit: true, ..SpawnOptions::default() }, Self::run))
    }

    async fn run(mut me: Process<Order>) -> Result<(), ExitReason> {
        let mut seen = Vec::new();
        loop {
            match me.recv().await {
                Event::Message(Order::Say(word)) => seen.push(Said(word)),
                Event::Message(Order::Show(reply)) => reply.send(seen.clone()),
                Event::Message(Order::Do(step)) => {
                    if let Some(result) = step(&mut me) {
                        return result;
                    }
                }
                Event::Exit(pid, reason) => seen.push(Exit(pid, reason)),
                Event::Down(monitor, pid, reason) => seen.push(Down(monitor, pid, reason)),
            }
        }
    }

    fn pid(&self) -> Pid {
        self.0.pid()
    }

    /// Does something in the process, and gives what came of it.
    async fn does<T: Send + 'static>(&self, f: impl FnOnce(&mut Process<Order>) -> T + Send + 'static) -> T {
        let step = |reply: Reply<T>| -> Step {
            Box::new(move |me| {
                reply.send(f(me));
                None
            })
        };
        self.0.call(LONG, |reply| Order::Do(step(reply))).await.unwrap()
    }

    /// Tells the process something to do, and does not wait for it.
    fn order(&self, f: impl FnOnce(&mut Process<Order>) -> Next + Send + 'static) {
        self.0.try_send(Order::Do(Box::new(f))).unwrap();
    }

    /// The process ends by itself.
    fn ends(&self, result: Result<(), ExitReason>) {
        self.order(|_| Some(result));
    }

    async fn links(&self, other: &Self) {
        let pid = other.pid();
        self.does(|me| me.link(pid)).await.unwrap();
    }

    async fn unlinks(&self, other: &Self) {
        let pid = other.pid();
        self.does(|me| me.unlink(pid)).await;
    }

    async fn monitors(&self, other: &Self) -> MonitorRef {
        let pid = other.pid();
        self.does(|me| me.monitor(pid)).await
    }

    /// Sends an exit signal from this process.
    async fn exits(&self, other: &Self, reason: ExitReason) {
        let pid = other.pid();
        self.does(move |_| pid.exit(reason)).await;
    }

    /// It is alive, and this is what it found in its mailbox.
    async fn is_alive_with(&self, expected: &[Seen]) {
        let seen = self.0.call(LONG, Order::Show).await.unwrap();
        assert_eq!(seen, expected);
    }

    /// It ends, for this reason, and leaves nothing in its table.
    async fn has_exited(&self, expected: ExitReason) {
        let reason = tokio::time::timeout(LONG, self.pid().ended()).await.expect("it does not end");
        assert_eq!(reason, expected);
        assert_eq!(self.records(), 0);
    }

    /// Active links, as its own table has them.
    fn linked(&self) -> Vec<Pid> {
        self.0.here().with_links(|links| links.links().cloned().collect()).unwrap_or_default()
    }

    /// Records of every kind.
    fn records(&self) -> usize {
        self.0.here().with_links(|links| links.len()).unwrap_or_default()
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The pid of a process that has ended.
async fn dead() -> Pid {
    let pid = spawn(|_: Process| async { Ok(()) }).pid();
    pid.ended().await;
    pid
}

/// What a future gives without waiting.
async fn now<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(tokio::task::coop::unconstrained(future));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Something far: keeps what signals it got, and answers none.
#[derive(Default)]
struct Recorder(Mutex<Vec<ProcessSignal>>);

impl Recorder {
    fn new() -> (Arc<Self>, Pid) {
        let recorder = Arc::new(Self::default());
        let pid = Pid::far(Arc::clone(&recorder) as Arc<dyn SignalTarget>);
        (recorder, pid)
    }

    fn taken(&self) -> Vec<ProcessSignal> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl SignalTarget for Recorder {
    fn signal(&self, signal: ProcessSignal) {
        self.0.lock().unwrap().push(signal);
    }
}

/// Something owned: keeps what it was told.
#[derive(Default)]
struct Belonging(Mutex<Vec<ExitReason>>);

impl Owned for Belonging {
    fn owner_ended(&self, reason: &ExitReason) {
        self.0.lock().unwrap().push(reason.clone());
    }
}
