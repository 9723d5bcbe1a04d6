//! What is done again and again, and its ends.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::ValueEnum;
use futures_util::future::try_join_all;
use lib_chan::auth::SessionId;
use lib_chan::channel::{OpenRequest, attachments, open, open_resumable, serve, serve_resumable};
use lib_chan::handshake::{SessionParameters, pair_in_memory};
use lib_chan::payload::Codec;
use lib_chan::secret::Secret;
use lib_chan::wire::Granted;
use lib_chan::{
    Address, Call, Channel, Event, ExitReason, Limits, Message, Process, Remote, Reply, Rights, spawn,
    testing,
};
use serde::{Deserialize, Serialize};
use tokio::io::BufReader;

/// What is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Path {
    /// A message of 64 bytes over a session.
    Cast,
    /// A call of 64 bytes over a session, one at a time.
    Call,
    /// Sixteen such calls at a time.
    Calls,
    /// A message from one process to another.
    Send,
    /// A call from one process to another.
    LocalCall,
    /// A process that ends as soon as it runs.
    Spawn,
    /// A message of 64 bytes of a protocol, over a session to its owner.
    OwnerCast,
    /// The same message to a process that the other end has handed out.
    HandedCast,
    /// A process in a message that the other end drops at once. Each has a name of its own.
    HandOut,
}

/// The messages of the paths with processes in messages.
#[lib_chan::protocol]
pub(crate) trait Notes {
    /// Drops a note.
    fn note(body: Bytes);
    /// Drops a process.
    fn meet(other: Address<NotesMessage>);
    /// Returns another process that takes notes.
    async fn helper() -> Address<NotesMessage>;
    /// Returns once everything that came before was taken.
    async fn done();
}

/// The ends of what is done, set up once.
pub(crate) struct Hot {
    remote: Remote<Request>,
    process: Address<Local>,
    owner: Remote<NotesMessage>,
    helper: Address<NotesMessage>,
    body: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Echo(Bytes);

impl Call for Echo {
    type Reply = Bytes;
}

#[derive(Serialize, Deserialize)]
enum Request {
    Echo(Echo),
    Note(Bytes),
}

impl From<Echo> for Request {
    fn from(echo: Echo) -> Self {
        Self::Echo(echo)
    }
}

enum Local {
    Note(u64),
    Echo(u64, Reply<u64>),
}

impl Hot {
    /// A session over a stream in memory, with an echo at its far end; and a process. With `resume`, the session would
    /// outlive its connection.
    pub(crate) async fn new(resume: bool) -> Result<Self> {
        let channel = session(resume).await?;
        let process = spawn(async move |mut me: Process<Local>| {
            let mut sum = 0;
            loop {
                match me.recv().await {
                    Event::Message(Local::Note(number)) => sum += number,
                    Event::Message(Local::Echo(number, reply)) => reply.send(number),
                    _ => return Err(ExitReason::failed(sum.to_string())),
                }
            }
        });
        let (notes, _line) = testing::pair().serve(notes).await?;
        let owner = notes.into_remote();
        let helper = owner.helper().await?;
        Ok(Self { remote: channel.into_remote(), process, owner, helper, body: Bytes::from(vec![7; 64]) })
    }

    /// Does it so often.
    pub(crate) async fn run(&self, path: Path, count: u64) -> Result<()> {
        match path {
            Path::Cast => {
                for _ in 0..count {
                    self.remote.cast(Request::Note(self.body.clone())).await?;
                }
                self.echo().await
            }
            Path::Call => {
                for _ in 0..count {
                    self.echo().await?;
                }
                Ok(())
            }
            Path::Calls => {
                for _ in 0..count / 16 {
                    try_join_all((0..16).map(|_| self.echo())).await?;
                }
                Ok(())
            }
            Path::Send => {
                for number in 0..count {
                    self.process.send(Local::Note(number)).await.map_err(|error| error.reason)?;
                }
                self.echo_locally(count).await
            }
            Path::LocalCall => {
                for number in 0..count {
                    self.echo_locally(number).await?;
                }
                Ok(())
            }
            Path::Spawn => {
                for number in 0..count {
                    let process = spawn(async move |_me: Process| Ok(()));
                    if number % 1000 == 999 {
                        process.pid().ended().await;
                    }
                }
                Ok(())
            }
            Path::OwnerCast => {
                for _ in 0..count {
                    self.owner.note(self.body.clone()).await?;
                }
                Ok(self.owner.done().await?)
            }
            Path::HandedCast => {
                for _ in 0..count {
                    self.helper.note(self.body.clone()).await?;
                }
                Ok(self.helper.done().await?)
            }
            Path::HandOut => {
                let me = spawn(take_notes);
                for number in 0..count {
                    self.owner.meet(me.grant(Rights::default())).await?;
                    if number % 500 == 499 {
                        self.owner.done().await?;
                    }
                }
                me.pid().exit(ExitReason::Shutdown);
                Ok(self.owner.done().await?)
            }
        }
    }

    async fn echo(&self) -> Result<()> {
        let answer = self.remote.call(Echo(self.body.clone())).await?;
        anyhow::ensure!(answer == self.body, "another answer");
        Ok(())
    }

    async fn echo_locally(&self, number: u64) -> Result<()> {
        let within = Duration::from_secs(60);
        let answer = self.process.call(within, |reply| Local::Echo(number, reply)).await?;
        anyhow::ensure!(answer == number, "another answer");
        Ok(())
    }
}

/// How long a session with resume would live without a connection.
const WINDOW: Duration = Duration::from_secs(60);

async fn session(resume: bool) -> Result<Channel<(), Request>> {
    const STREAM_LEN: usize = 64 * 1024;
    const READ_LEN: usize = 16 * 1024;
    let limits = Limits::default();
    let (client, server) = pair_in_memory(SessionParameters::from_limits(&limits)?, [7; 32])?;
    let (near, far) = tokio::io::duplex(STREAM_LEN);
    let buffered = |stream| BufReader::with_capacity(READ_LEN, stream);
    let (near, far) = (buffered(near), buffered(far));
    if !resume {
        tokio::spawn(async move {
            serve(far, &server, &Limits::default(), |opening| {
                spawn(async move |_me: Process| echo(opening.accept()).await);
            })
            .await
        });
        return open(near, &client, &limits, Codec::Bincode, b"", false).await.context("open");
    }
    tokio::spawn(async move {
        let (_attacher, later) = attachments();
        serve_resumable(
            far,
            b"",
            &server,
            &Limits::default(),
            later,
            |_| (),
            |mut opening| {
                let window = WINDOW.as_millis() as u64;
                opening.grant(Granted { window, id: SessionId::new([1; 16]), secret: Secret::new([2; 32]) });
                spawn(async move |_me: Process| echo(opening.accept()).await);
            },
        )
        .await
    });
    let request = OpenRequest { resume: WINDOW, ..OpenRequest::new(Codec::Bincode, b"") };
    let connector = Box::new(|_| Box::pin(std::future::pending()) as _);
    open_resumable(near, &client, &limits, &request, false, connector).await.context("open")
}

/// The service of the paths with processes in messages.
async fn notes(_me: Process, mut channel: Channel<NotesMessage, ()>) -> Result<(), ExitReason> {
    while let Some(message) = channel.recv().await {
        answer(message);
    }
    Ok(())
}

async fn take_notes(mut me: Process<NotesMessage>) -> Result<(), ExitReason> {
    loop {
        if let Event::Message(message) = me.recv().await {
            answer(message);
        }
    }
}

fn answer(message: NotesMessage) {
    match message {
        NotesMessage::Note { .. } | NotesMessage::Meet { .. } => {}
        NotesMessage::Helper { reply } => reply.send(spawn(take_notes)),
        NotesMessage::Done { reply } => reply.send(()),
    }
}

async fn echo(mut channel: Channel<Request, ()>) -> Result<(), ExitReason> {
    while let Some(message) = channel.recv().await {
        if let Message::Call(Request::Echo(echo), reply) = message {
            reply.to(&echo).send(echo.0);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Allocations for one of many, at most, once all buffers have their size.
    #[expect(clippy::print_stdout, reason = "docs/measurements/message-cost.md has these figures")]
    fn assert_allocates(path: Path, most: f64) {
        const COUNT: u64 = 20_000;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let hot = runtime.block_on(Hot::new(false)).unwrap();
        runtime.block_on(hot.run(path, COUNT)).unwrap();
        let counted = allocation_counter::measure(|| runtime.block_on(hot.run(path, COUNT)).unwrap());
        let each = counted.count_total as f64 / COUNT as f64;
        println!("{path:?}: {each:.3} allocations, {} bytes each", counted.bytes_total / COUNT);
        assert!(each <= most, "{path:?}: {each:.3} allocations each, more than {most}");
        assert!(counted.count_current.abs() < 100, "{path:?} leaves {} behind", counted.count_current);
    }

    // A `Bytes` that is decoded is an allocation of the message's own: one a cast, two a call, there and back.

    #[test]
    fn cast_allocates_only_its_message() {
        assert_allocates(Path::Cast, 1.1);
    }

    #[test]
    fn a_call_allocates_little() {
        assert_allocates(Path::Call, 7.1);
    }

    #[test]
    fn calls_at_a_time_allocate_little() {
        assert_allocates(Path::Calls, 2.6);
    }

    #[test]
    fn a_local_message_allocates_nothing() {
        assert_allocates(Path::Send, 0.01);
    }

    #[test]
    fn local_call_allocates_place_for_answer() {
        assert_allocates(Path::LocalCall, 2.1);
    }

    #[test]
    fn cast_to_handed_out_process_allocates_as_to_owner() {
        assert_allocates(Path::OwnerCast, 1.1);
        assert_allocates(Path::HandedCast, 1.1);
    }

    #[test]
    fn handed_out_processes_leave_nothing_behind() {
        assert_allocates(Path::HandOut, 40.0);
    }

    #[test]
    fn a_spawn_allocates_little() {
        assert_allocates(Path::Spawn, 2.1);
    }
}
