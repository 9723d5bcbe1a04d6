//! A short session in which there is one of everything, and a ledger of what began and how it ended.
//!
//! Longer than other files, because each step of the session writes what the ledger checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::super::super::Shared;
use crate::{
    Address, Call, CallError, Channel, Event, Executed, ExitReason, Limits, Message, Pid, Process, Remote,
    Reply, SpawnOptions, Untyped,
    channel::{OpenError, Opening},
    spawn_with,
};
/// How long whoever had all its endings goes on listening for one more.
const PATIENCE: Duration = Duration::from_secs(300);
/// Casts in front of the one that fills the window, and behind it.
const NOTES: std::ops::Range<u32> = 0..8;
const FILL: u32 = 5;
/// Uses up the least window at once.
const FILL_LEN: usize = Limits::MIN_WINDOW_LEN;
const PUSHES: u32 = 5;

/// What is told once, and when.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    how: String,
    when: Instant,
}

/// What began, what ended, and what each end saw of the other.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) items: BTreeMap<&'static str, Vec<Ending>>,
    faults: Vec<String>,
    notes: Vec<u32>,
    unsent_notes: Vec<u32>,
    pushes: Vec<u32>,
    executed: BTreeSet<&'static str>,
    outcomes: Vec<(&'static str, Option<Executed>)>,
    /// Why the session ended, at each end that had one.
    pub(super) reasons: BTreeMap<&'static str, ExitReason>,
    sessions: Vec<Arc<Shared>>,
}

#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Entries>>);

/// Something that began, and must end once.
pub(super) struct Item {
    ledger: Ledger,
    name: &'static str,
}

impl Ledger {
    pub(super) fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, name: &'static str) -> Item {
        if self.entries().items.insert(name, Vec::new()).is_some() {
            self.fault(format!("{name} began twice"));
        }
        Item { ledger: self.clone(), name }
    }

    pub(super) fn fault(&self, what: String) {
        self.entries().faults.push(what);
    }

    fn share(&self, session: &Arc<Shared>) {
        self.entries().sessions.push(Arc::clone(session));
    }

    fn executed(&self, call: &'static str) {
        if !self.entries().executed.insert(call) {
            self.fault(format!("{call} was executed twice"));
        }
    }

    /// Waits for the end of the session at one end.
    fn expect_end<Out: 'static>(&self, end: &'static str, session: &'static str, remote: &Remote<Out>) {
        let (item, ended) = (self.begin(session), remote.ended());
        tokio::spawn(async move {
            let reason = ended.await;
            item.ledger.entries().reasons.insert(end, reason.clone());
            item.end(&reason);
        });
    }

    /// Makes a call and records its outcome.
    async fn outcome<R: std::fmt::Debug>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<R, CallError>>,
    ) -> Option<R> {
        let item = self.begin(name);
        let outcome = call.await;
        item.end(&outcome);
        self.entries().outcomes.push((name, outcome.as_ref().err().map(|error| error.executed)));
        outcome.ok()
    }
}

impl Item {
    pub(super) fn end(&self, how: &impl std::fmt::Debug) {
        let ending = Ending { how: format!("{how:?}"), when: Instant::now() };
        match self.ledger.entries().items.get_mut(self.name) {
            Some(endings) => endings.push(ending),
            None => unreachable!("it began"),
        }
    }
}

impl Entries {
    /// What does not hold, though it should whatever happens.
    pub(super) fn check(&mut self) -> Vec<String> {
        let mut faults = std::mem::take(&mut self.faults);
        for (name, endings) in &self.items {
            if endings.len() != 1 {
                faults.push(format!("{name} has {} endings: {endings:?}", endings.len()));
            }
        }
        for (what, seen) in [("notes", &self.notes), ("pushes", &self.pushes)] {
            if seen.iter().zip(0..).any(|(&seen, due)| seen != due) {
                faults.push(format!("{what} lost, doubled or out of order: {seen:?}"));
            }
        }
        for note in &self.unsent_notes {
            if self.notes.contains(note) {
                faults.push(format!("note {note} was said not to be sent, and came"));
            }
        }
        for (name, failed) in &self.outcomes {
            let executed = self.executed.contains(name);
            match failed {
                Some(Executed::No) if executed => {
                    faults.push(format!("{name} was executed, and said not to be"))
                }
                None | Some(Executed::Yes) if !executed => {
                    faults.push(format!("{name} was not executed, and said to be"));
                }
                _ => {}
            }
        }
        if self.how("close") == "Ok(())" && self.notes.len() as u32 != NOTES.end {
            faults.push(format!("closed in good order, but of the notes only these came: {:?}", self.notes));
        }
        for session in self.sessions.drain(..) {
            let left = session.entries();
            if left != 0 {
                faults.push(format!("{left} entries are left in a session"));
            }
            if Arc::strong_count(&session) != 1 {
                faults.push(format!("a session is held by {} others", Arc::strong_count(&session) - 1));
            }
        }
        faults
    }

    /// When the last of the items of these names ended.
    pub(super) fn last_ending(&self, counts: impl Fn(&str) -> bool) -> Option<Instant> {
        let items = self.items.iter().filter(|(name, _)| counts(name));
        items.flat_map(|(_, endings)| endings).map(|ending| ending.when).max()
    }

    /// How an item ended; empty if it did not.
    pub(super) fn how(&self, name: &str) -> &str {
        self.items.get(name).and_then(|endings| endings.first()).map_or("", |ending| &ending.how)
    }

    /// Everything that ended, in one text, to compare runs by.
    pub(super) fn summary(&self) -> String {
        let ends = |(name, endings): (&&str, &Vec<Ending>)| {
            let ends: Vec<_> = endings.iter().map(|ending| ending.how.as_str()).collect();
            format!("{name}: {}\n", ends.join(" | "))
        };
        let items: String = self.items.iter().map(ends).collect();
        format!("{items}notes {:?}\npushes {:?}\nexecuted {:?}", self.notes, self.pushes, self.executed)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ask(u32, u32);
impl Call for Ask {
    type Reply = u32;
}

/// A call that is kept unanswered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hold(u32);
impl Call for Hold {
    type Reply = u32;
}

/// A call that is given up.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Forsake(u32);
impl Call for Forsake {
    type Reply = u32;
}

/// Hands over one process, and asks for another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meet(u64);
impl Call for Meet {
    type Reply = u64;
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToService {
    Ask(Ask),
    Hold(Hold),
    Forsake(Forsake),
    Meet(Meet),
    Note(u32),
    Fill(u32, Bytes),
    Finish,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToClient {
    Ask(Ask),
    Hold(Hold),
    Push(u32),
}

/// The channel of the client.
pub(super) type ClientChannel = Channel<ToClient, ToService>;

macro_rules! messages {
    ($($whole:ident: $($one:ident)*;)*) => {
        $($(impl From<$one> for $whole {
            fn from(one: $one) -> Self {
                Self::$one(one)
            }
        })*)*
    };
}
messages! { ToService: Ask Hold Forsake Meet; ToClient: Ask Hold; }

/// How the client brings an uncut session to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finale {
    /// The service is told to fail.
    Fail,
    /// The client closes.
    Close,
}

/// The numbers of both ends.
pub(super) fn limits() -> Limits {
    Limits { window_len: Limits::MIN_WINDOW_LEN, ..Limits::default() }
}

fn trapping() -> SpawnOptions {
    SpawnOptions { trap_exit: true, ..SpawnOptions::default() }
}

// The client.

/// The client's end of the story. `open` opens the session, in the process that owns it.
pub(super) fn client(
    open: impl Future<Output = Result<ClientChannel, OpenError>> + Send + 'static,
    ledger: &Ledger,
    finale: Finale,
) {
    let ledger = ledger.clone();
    spawn_with(trapping(), async move |me: Process| {
        let opening = ledger.begin("opening");
        let opened = open.await;
        opening.end(&opened.as_ref().map(drop));
        if let Ok(channel) = opened {
            with_channel(me, channel, ledger, finale).await;
        }
        Ok(())
    });
}

async fn with_channel(mut me: Process, mut channel: ClientChannel, ledger: Ledger, finale: Finale) {
    ledger.share(channel.shared());
    let remote = channel.remote();
    ledger.expect_end("client", "client's session", &remote);
    let link = ledger.begin("client's link to the service");
    watch(&ledger, remote.pid(), "watcher's link to the service", "watcher's monitor of the service");
    let monitor = ledger.begin("task's monitor of the service");
    let ended = remote.pid().ended();
    tokio::spawn(async move { monitor.end(&ended.await) });
    let (tell, mut told) = oneshot::channel();
    tokio::spawn(send_everything(remote, ledger.clone(), finale, tell));

    let reading = ledger.begin("client's reading");
    let mut held = Vec::new();
    loop {
        let message = tokio::select! {
            biased;
            message = channel.recv() => message,
            Ok(()) = &mut told => {
                let closing = ledger.begin("close");
                closing.end(&channel.close().await);
                break;
            }
        };
        match message {
            Some(Message::Cast(ToClient::Push(n))) => ledger.entries().pushes.push(n),
            Some(Message::Call(ToClient::Ask(ask), reply)) => {
                ledger.executed("service's call");
                reply.to(&ask).send(ask.0 + ask.1);
            }
            Some(Message::Call(ToClient::Hold(_), reply)) => {
                ledger.executed("service's held call");
                held.push(reply);
            }
            Some(other) => ledger.fault(format!("the client got {other:?}")),
            None => break,
        }
    }
    reading.end(&());
    drop(held);
    while let Some(event) = me.recv_within(PATIENCE).await {
        match event {
            Event::Exit(_, reason) => link.end(&reason),
            other => ledger.fault(format!("the client was told {other:?}")),
        }
    }
}

/// Makes calls, casts and introductions, and then brings the session to its end.
async fn send_everything(
    remote: Remote<ToService>,
    ledger: Ledger,
    finale: Finale,
    close: oneshot::Sender<()>,
) {
    tokio::spawn({
        let (remote, ledger) = (remote.clone(), ledger.clone());
        async move { ledger.outcome("client's held call", remote.call(Hold(1))).await }
    });
    let forsaken = ledger.begin("client's forsaken call");
    let late = timeout(Duration::from_millis(5), remote.call(Forsake(1))).await;
    forsaken.end(&late.map(|outcome| outcome.map_err(|error| error.reason)));

    let calls = async {
        let answer = ledger.outcome("client's call", remote.call(Ask(1, 2))).await;
        if answer.is_some_and(|answer| answer != 3) {
            ledger.fault(format!("1 + 2 = {answer:?}"));
        }
    };
    let casts = async {
        for note in NOTES {
            let filling = note == FILL;
            let message = if filling {
                ToService::Fill(note, Bytes::from_static(&[0; FILL_LEN]))
            } else {
                ToService::Note(note)
            };
            if remote.cast(message).await.is_err() {
                ledger.entries().unsent_notes.push(note);
            }
        }
        let flush = ledger.begin("flush");
        flush.end(&remote.flush().await);
    };
    let introduction = async {
        let here = spawn_with(trapping(), {
            let ledger = ledger.clone();
            async move |me| here(me, ledger).await
        });
        let id = remote.hand_out(&here, |_: u32| Here::Stop);
        let there = ledger.outcome("introduction", remote.call(Meet(id))).await;
        let order = there.map_or(Here::Stop, |id| Here::Meet(remote.handed::<u32>(id).pid()));
        // It may have been ended by the other end.
        let _ = here.send(order).await;
        here.pid().ended().await;
    };
    tokio::join!(calls, casts, introduction);
    match finale {
        // When the session has ended already there is nothing to finish.
        Finale::Fail => drop(remote.cast(ToService::Finish).await),
        Finale::Close => drop(close.send(())),
    }
}

/// What the client's process is told that meets one of the service's.
enum Here {
    Meet(Pid),
    Stop,
}

/// Links to the far process, monitors it, tells it to exit, sees it end twice over, and fails.
async fn here(mut me: Process<Here>, ledger: Ledger) -> Result<(), ExitReason> {
    let far = loop {
        match me.recv().await {
            Event::Message(Here::Meet(far)) => break far,
            Event::Message(Here::Stop) => return Ok(()),
            // The far process linked first, and its session was lost.
            Event::Exit(..) | Event::Down(..) => {}
        }
    };
    let (link, monitor) = (ledger.begin("here's link"), ledger.begin("here's monitor"));
    // Links to far processes fail with a signal.
    let _ = me.link(far.clone());
    me.monitor(far.clone());
    far.exit(ExitReason::failed("told to"));
    let mut due = (true, true);
    while due != (false, false) {
        match me.recv().await {
            Event::Exit(from, reason) if from == far => {
                due.0 = false;
                link.end(&reason);
            }
            Event::Down(_, from, reason) if from == far => {
                due.1 = false;
                monitor.end(&reason);
            }
            Event::Exit(..) | Event::Down(..) | Event::Message(_) => {}
        }
    }
    Err(ExitReason::failed("here"))
}

/// A process that links to another and monitors it, and goes on listening when both have ended.
fn watch(ledger: &Ledger, target: Pid, link: &'static str, monitor: &'static str) -> Address<()> {
    let (link, monitor, ledger) = (ledger.begin(link), ledger.begin(monitor), ledger.clone());
    spawn_with(trapping(), async move |mut me: Process| {
        // Links to far processes fail with a signal.
        let _ = me.link(target.clone());
        me.monitor(target.clone());
        let mut due = 2;
        loop {
            let event = if due > 0 { Some(me.recv().await) } else { me.recv_within(PATIENCE).await };
            due -= 1;
            match event {
                Some(Event::Exit(_, reason)) => link.end(&reason),
                Some(Event::Down(_, _, reason)) => monitor.end(&reason),
                Some(Event::Message(())) => ledger.fault("a watcher got a message".into()),
                None => return Ok(()),
            }
        }
    })
}

// The server.

/// Starts the server's end of the story.
pub(super) fn start(opening: Opening, ledger: &Ledger) {
    let ledger = ledger.clone();
    spawn_with(trapping(), async move |me| service(me, opening, ledger).await);
}

async fn service(mut me: Process, opening: Opening, ledger: Ledger) -> Result<(), ExitReason> {
    let mut channel: Channel<ToService, ToClient> = opening.accept();
    ledger.share(channel.shared());
    let remote = channel.remote();
    ledger.expect_end("service", "service's session", &remote);
    let link = ledger.begin("service's link to the client");
    let reading = ledger.begin("service's reading");
    tokio::spawn(push(remote.clone(), ledger.clone()));
    let mut held = Vec::new();
    while let Some(message) = channel.recv().await {
        match message {
            Message::Call(ToService::Ask(ask), reply) => {
                ledger.executed("client's call");
                reply.to(&ask).send(ask.0 + ask.1);
            }
            Message::Call(ToService::Hold(_), reply) => {
                ledger.executed("client's held call");
                held.push(reply);
            }
            Message::Call(ToService::Forsake(_), reply) => forsaken(reply, &ledger),
            Message::Call(ToService::Meet(meet), reply) => {
                ledger.executed("introduction");
                let there = spawn_with(trapping(), async |mut me: Process<u32>| {
                    match me.recv_within(PATIENCE).await {
                        Some(Event::Exit(_, reason)) => Err(reason),
                        _ => Ok(()),
                    }
                });
                let near = remote.handed::<u32>(meet.0).pid();
                watch(&ledger, near, "other's link to here", "other's monitor of here");
                reply.to(&meet).send(remote.hand_out(&there, |n: u32| n));
            }
            Message::Cast(ToService::Note(note) | ToService::Fill(note, _)) => {
                ledger.entries().notes.push(note)
            }
            Message::Cast(ToService::Finish) => {
                reading.end(&());
                link.end(&"its own end");
                return Err(ExitReason::failed("done"));
            }
            other => ledger.fault(format!("the service got {other:?}")),
        }
    }
    reading.end(&());
    drop(held);
    while let Some(event) = me.recv_within(PATIENCE).await {
        match event {
            Event::Exit(from, reason) if from == remote.pid() => link.end(&reason),
            Event::Exit(_, reason) => ledger.begin("service's link from the watcher").end(&reason),
            other => ledger.fault(format!("the service was told {other:?}")),
        }
    }
    Ok(())
}

fn forsaken(reply: Reply<Untyped>, ledger: &Ledger) {
    let cancelled = ledger.begin("the cancelling of the forsaken call");
    tokio::spawn(async move {
        reply.cancelled().await;
        cancelled.end(&());
    });
}

/// Calls and pushes from the service.
async fn push(remote: Remote<ToClient>, ledger: Ledger) {
    tokio::spawn({
        let (remote, ledger) = (remote.clone(), ledger.clone());
        async move { ledger.outcome("service's held call", remote.call(Hold(2))).await }
    });
    for n in 0..PUSHES {
        // Whether it failed is seen by what comes.
        let _ = remote.cast(ToClient::Push(n)).await;
    }
    ledger.outcome("service's call", remote.call(Ask(3, 4))).await;
}
