//! A job queue: submitters hand in jobs, workers run them, and a dashboard watches.
//!
//! ```text
//!   submitter ══submit══▶ ┌───────┐ ◀══take, done══ worker
//!                         │ queue │
//!   dashboard ══status══▶ └───────┘ ◀══take, done══ worker
//! ```
//!
//! The queue is one process, to which the channels of all clients are given. It keeps the replies of calls that it cannot
//! answer yet. The job of a worker that is lost goes to the next one; the job of a submitter that gave up is not run.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use chan_server::modules::Modules;
use lib_chan::protocol::Schema;
use lib_chan::supervisor::{Child, Strategy, Supervisor};
use lib_chan::{
    CallError, Channel, Event, ExitReason, Incoming, Names, Pid, Process, Remote, Reply, protocol, spawn,
};
use serde::{Deserialize, Serialize};

/// What came of a job: its output, or why it failed.
pub type Outcome = Result<String, String>;

/// The queue, as its clients see it.
#[protocol]
pub trait Jobs {
    /// Runs a job. The answer comes when a worker is done with it.
    async fn submit(input: String) -> Outcome;
    /// Returns the next job, as soon as there is one.
    async fn take() -> Job;
    /// Ends a job that this worker took.
    fn done(id: u64, outcome: Outcome);
    /// Returns the status, as soon as it is not the one that was `seen`. A dashboard that is slow misses some in between,
    /// but never the last.
    async fn status(seen: Option<Status>) -> Status;
}

/// A job that a worker took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// What to work on.
    pub input: String,
}

/// How many jobs there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Schema)]
pub struct Status {
    /// Nobody has taken them.
    pub waiting: u64,
    /// A worker runs them.
    pub running: u64,
    /// They are over.
    pub done: u64,
}

/// The process that began a client's session, which stands for the client, and what came from the client.
pub type FromClient = (Pid, Incoming<JobsMessage>);

/// The module `job_queue` with its function `start`. Must be called inside a tokio runtime.
pub fn modules() -> Modules {
    let names = Names::new();
    let supervisor = Supervisor::new(Strategy::OneForOne).child(Child::registered("queue", &names, queue));
    spawn(|me| supervisor.run(me));
    Modules::new().function("job_queue", "start", move |me: Process, chan, (): (), (): ()| {
        std::future::ready(start(&me, chan, &names))
    })
}

/// Gives the channel of a client to the queue, which is its owner from now on.
///
/// # Errors
/// If there is no queue.
pub fn start(
    me: &Process,
    chan: Channel<JobsMessage, ()>,
    names: &Names<FromClient>,
) -> Result<(), ExitReason> {
    let queue = names.whereis("queue").ok_or(ExitReason::NoProc)?;
    let client = me.pid();
    chan.give_to(&queue, move |what| (client.clone(), what)).map_err(|_chan| ExitReason::NoProc)
}

#[derive(Default)]
struct Queue {
    last: u64,
    waiting: VecDeque<(Job, Reply<Outcome>)>,
    /// With the client that runs it.
    running: HashMap<u64, (Pid, Job, Reply<Outcome>)>,
    done: u64,
    workers: VecDeque<(Pid, Reply<Job>)>,
    watchers: Vec<(Option<Status>, Reply<Status>)>,
}

/// The process of the queue.
///
/// # Errors
/// The reason of its supervisor's end.
pub async fn queue(mut me: Process<FromClient>) -> Result<(), ExitReason> {
    // A client may send exit signals to the process that owns its channel. Only those of the supervisor count.
    me.trap_exit(true);
    let supervisors = me.pid().info().map(|info| info.links).unwrap_or_default();
    let mut queue = Queue::default();
    loop {
        match me.recv().await {
            Event::Message((client, Incoming::Message(message))) => queue.handle(client, message),
            Event::Message((client, Incoming::Ended(_))) => queue.lose(&client),
            Event::Exit(pid, reason) if supervisors.contains(&pid) => return Err(reason),
            Event::Exit(..) | Event::Down(..) => {}
        }
        queue.hand_out();
        queue.report();
    }
}

impl Queue {
    fn handle(&mut self, client: Pid, message: JobsMessage) {
        match message {
            JobsMessage::Submit { input, reply } => {
                self.last += 1;
                self.waiting.push_back((Job { id: self.last, input }, reply));
            }
            JobsMessage::Take { reply } => self.workers.push_back((client, reply)),
            JobsMessage::Done { id, outcome } => {
                // Only the worker that has the job may end it.
                if self.running.get(&id).is_some_and(|(worker, ..)| *worker == client)
                    && let Some((_, _, reply)) = self.running.remove(&id)
                {
                    reply.send(outcome);
                    self.done += 1;
                }
            }
            JobsMessage::Status { seen, reply } => self.watchers.push((seen, reply)),
        }
    }

    /// Puts the jobs of a worker that is gone in front of all others.
    fn lose(&mut self, client: &Pid) {
        self.workers.retain(|(worker, _)| worker != client);
        for (_, (_, job, reply)) in self.running.extract_if(|_, (worker, ..)| worker == client) {
            self.waiting.push_front((job, reply));
        }
    }

    fn hand_out(&mut self) {
        self.waiting.retain(|(_, reply)| !reply.is_cancelled());
        self.workers.retain(|(_, reply)| !reply.is_cancelled());
        while !self.waiting.is_empty()
            && let Some((worker, take)) = self.workers.pop_front()
            && let Some((job, reply)) = self.waiting.pop_front()
        {
            take.send(job.clone());
            self.running.insert(job.id, (worker, job, reply));
        }
    }

    fn report(&mut self) {
        let (waiting, running) = (self.waiting.len() as u64, self.running.len() as u64);
        let status = Status { waiting, running, done: self.done };
        for (_, reply) in self.watchers.extract_if(.., |(seen, _)| seen.as_ref() != Some(&status)) {
            reply.send(status.clone());
        }
    }
}

/// Takes jobs and runs them, one after the other, until the session ends.
///
/// # Errors
/// The end of the session.
pub async fn work(jobs: &Remote<JobsMessage>, run: impl AsyncFn(String) -> Outcome) -> Result<(), CallError> {
    /// A call waits at most so long; then it is made again.
    const PATIENCE: Duration = Duration::from_secs(24 * 3600);
    loop {
        let Job { id, input } = jobs.within(PATIENCE).take().await?;
        // If the session has ended, the next call says so.
        let _ = jobs.done(id, run(input).await).await;
    }
}
