//! Runs programs on our processes, through their public interface only.
//!
//! Longer than other files: it is one interpreter, with a case for each kind of step.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lib_chan::channel::Handed;
use lib_chan::{Address, Event, ExitReason, MonitorRef, Names, Pid, Process, Remote, spawn};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::yield_now;

use super::program::{
    Ends, Life, Monitor, Name, OUTSIDE, Op, Program, Reason, Slot, SpawnHow, Step, monitor_of_child,
};
use super::session::Session;
use super::trace::{Entry, Seen, Trace, Value};

const NAMES: [&str; 3] = ["first", "second", "third"];

/// A program while it runs: the driver, who tells the processes what to do and lets them come to rest.
pub struct World {
    shared: Arc<Shared>,
    session: Option<Session>,
    reports: UnboundedReceiver<Report>,
    /// Who has been told to do something and has not said that it is done.
    acting: Vec<Slot>,
    alive: BTreeSet<Slot>,
    /// An owner has ended.
    disowned: bool,
    born: BTreeMap<Slot, u8>,
    step: u8,
    round: u64,
    entries: Vec<Entry>,
}

/// What the processes of one program share.
struct Shared {
    ends: Ends,
    table: Mutex<Table>,
    /// Those of each end.
    names: [Names<Note>; 2],
    /// By which each end reaches the other.
    remotes: Option<[Remote<Note>; 2]>,
    reports: UnboundedSender<Report>,
}

#[derive(Default)]
struct Table {
    slots: BTreeMap<Slot, Entrance>,
    /// A process has a pid at each end.
    numbers: HashMap<Pid, Slot>,
    /// Spawned, and not yet known to the driver.
    new: Vec<Slot>,
}

/// How to reach a process.
#[derive(Clone)]
struct Entrance {
    end: usize,
    address: Address<Note>,
    /// As the other end knows it, if there is one and it does.
    far: Option<Far>,
    commands: UnboundedSender<Command>,
}

/// A process as it is reached from one of the ends.
enum Reached {
    Near(Address<Note>),
    Far(Far),
}

/// A process as the other end knows it.
#[derive(Clone)]
enum Far {
    Owner(Remote<Note>),
    Handed(Arc<Handed<Note>>),
}

impl Far {
    fn pid(&self) -> Pid {
        match self {
            Self::Owner(remote) => remote.pid(),
            Self::Handed(handed) => handed.pid(),
        }
    }
}

/// A message from one process to another.
#[derive(Serialize, Deserialize)]
pub(super) struct Note {
    from: Slot,
    number: u8,
}

impl Note {
    /// What an owner finds behind the last message of its session.
    pub(super) const ENDED: Self = Self { from: OUTSIDE - 1, number: 0 };

    const fn is_ended(&self) -> bool {
        self.from == Self::ENDED.from
    }
}

enum Command {
    Do(Vec<Op>),
    /// Asks for what was seen since the last time.
    Fence(u64),
}

enum Report {
    Done(Slot, Vec<Value>),
    Quiet(Slot, u64, Vec<Seen>),
    Ended(Slot, ExitReason),
}

impl World {
    /// One without processes. Needs a tokio runtime.
    pub async fn start(ends: Ends) -> Self {
        let (sender, reports) = unbounded_channel();
        let session = match ends {
            Ends::One => None,
            Ends::Two => Some(Session::open().await),
        };
        let shared = Shared {
            ends,
            table: Mutex::default(),
            names: [Names::new(), Names::new()],
            remotes: session.as_ref().map(Session::remotes),
            reports: sender,
        };
        Self {
            shared: Arc::new(shared),
            session,
            reports,
            acting: Vec::new(),
            alive: BTreeSet::new(),
            disowned: false,
            born: BTreeMap::new(),
            step: 0,
            round: 0,
            entries: Vec::new(),
        }
    }

    /// Runs a whole program.
    pub async fn run(program: &Program, ends: Ends) -> Trace {
        let mut world = Self::start(ends).await;
        for step in &program.0 {
            world.step(step).await;
        }
        world.finish().await
    }

    /// The processes that are alive.
    pub fn alive(&self) -> impl ExactSizeIterator<Item = Slot> {
        self.alive.iter().copied()
    }

    /// Runs a step, and lets all come to rest, unless another is to be done meanwhile.
    ///
    /// # Panics
    /// If a process does not answer the driver as it should.
    pub async fn step(&mut self, step: &Step) {
        if step.actor == OUTSIDE {
            let mut values = Vec::new();
            for op in &step.ops {
                values.push(self.outside(*op).await);
            }
            self.record_values(OUTSIDE, values);
        } else if self.alive.contains(&step.actor) {
            self.tell(step.actor, Command::Do(step.ops.clone()));
            self.acting.push(step.actor);
        } else if self.acting.is_empty() {
            self.step += 1;
            return;
        }
        if !step.meanwhile {
            self.all_done().await;
            self.rest().await;
        }
        self.step += 1;
    }

    /// What a third party can do.
    async fn outside(&mut self, op: Op) -> Value {
        match (op, &mut self.session) {
            (Op::Cut(end), Some(session)) => {
                session.cut(usize::from(end)).await;
                Value::Done
            }
            _ => {
                let value = self.shared.outside(op);
                if let (Op::Spawn(child, ..), Some(session)) = (op, &mut self.session)
                    && self.shared.ends.owns(child)
                {
                    let owner = self.shared.entrance(child).expect("it was spawned");
                    session.give(owner.end, &owner.address);
                }
                value
            }
        }
    }

    /// Waits until everybody has done what it was told.
    async fn all_done(&mut self) {
        while !self.acting.is_empty() {
            match self.report().await {
                Report::Done(actor, values) => {
                    let place = self.acting.iter().position(|acting| *acting == actor);
                    self.acting.swap_remove(place.expect("it was told to do something"));
                    self.record_values(actor, values);
                }
                Report::Ended(slot, reason) => self.end(slot, &reason),
                Report::Quiet(slot, ..) => panic!("nobody has asked process {slot}"),
            }
        }
    }

    /// Ends what is left, and gives what was seen.
    ///
    /// # Panics
    /// Never: every process that is alive was spawned.
    pub async fn finish(mut self) -> Trace {
        for slot in &self.alive {
            self.shared.entrance(*slot).expect("it was spawned").address.pid().exit(ExitReason::Kill);
        }
        while !self.alive.is_empty() {
            if let Report::Ended(slot, _) = self.report().await {
                self.alive.remove(&slot);
            }
        }
        if let Some(mut session) = self.session {
            session.cut(0).await;
        }
        Trace(self.entries)
    }

    /// Asks everybody, again and again, until no one has anything to say: two quiet rounds, or one after a loud one.
    async fn rest(&mut self) {
        let mut rounds = 0;
        loop {
            self.learn();
            // What one end has sent to the other has arrived, and what that was answered too.
            if let Some(session) = &mut self.session {
                session.flush(self.disowned).await;
            }
            rounds += 1;
            if !self.ask_all().await && rounds > 1 {
                return;
            }
        }
    }

    /// Whether anybody had anything to say.
    async fn ask_all(&mut self) -> bool {
        self.round += 1;
        let mut awaited = self.alive.clone();
        for slot in &awaited {
            self.tell(*slot, Command::Fence(self.round));
        }
        let mut loud = false;
        while !awaited.is_empty() {
            match self.report().await {
                Report::Quiet(slot, round, seen) => {
                    assert_eq!(round, self.round, "process {slot} answers another question");
                    awaited.remove(&slot);
                    loud |= !seen.is_empty();
                    self.record(slot, seen);
                }
                Report::Ended(slot, reason) => {
                    awaited.remove(&slot);
                    loud = true;
                    self.end(slot, &reason);
                }
                Report::Done(slot, _) => panic!("process {slot} did what it was not told"),
            }
        }
        loud
    }

    fn end(&mut self, slot: Slot, reason: &ExitReason) {
        self.alive.remove(&slot);
        self.disowned |= self.shared.ends.owns(slot);
        self.acting.retain(|acting| *acting != slot);
        let known = self.born.get(&slot) != Some(&self.step);
        let reason = if known { Reason::of_ours(reason) } else { Reason::Any };
        self.record(slot, [Seen::Ended(reason)]);
    }

    /// Watches those that were spawned since the last time.
    fn learn(&mut self) {
        let new = std::mem::take(&mut self.shared.table().new);
        for slot in new {
            self.alive.insert(slot);
            self.born.insert(slot, self.step);
            let pid = self.shared.entrance(slot).expect("it was spawned").address.pid();
            let reports = self.shared.reports.clone();
            tokio::spawn(async move {
                let reason = pid.ended().await;
                // The first is told before other watchers are; who comes after that is told last.
                pid.ended().await;
                let _ = reports.send(Report::Ended(slot, reason));
            });
        }
    }

    fn tell(&self, slot: Slot, command: Command) {
        // One that has ended meanwhile is heard of in another way.
        let _ = self.shared.entrance(slot).expect("it was spawned").commands.send(command);
    }

    async fn report(&mut self) -> Report {
        self.reports.recv().await.expect("the other end is ours too")
    }

    fn record_values(&mut self, actor: Slot, values: Vec<Value>) {
        self.record(actor, (0..).zip(values).map(|(index, value)| Seen::Returned(index, value)));
    }

    fn record(&mut self, actor: Slot, seen: impl IntoIterator<Item = Seen>) {
        let step = self.step;
        self.entries.extend(seen.into_iter().map(|seen| Entry { step, actor, seen }));
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entrance(&self, slot: Slot) -> Option<Entrance> {
        self.table().slots.get(&slot).cloned()
    }

    fn named(&self, end: usize, name: Name) -> Option<Address<Note>> {
        self.names[end].whereis(text(name))
    }

    fn number(&self, pid: &Pid) -> Slot {
        self.table().numbers.get(pid).copied().unwrap_or(OUTSIDE)
    }

    /// What a third party can do, at the end where the process is.
    fn outside(self: &Arc<Self>, op: Op) -> Value {
        match op {
            Op::Spawn(child, SpawnHow::Plain, life) => {
                self.bear(self.ends.of(child), child, life, spawn);
                Value::Done
            }
            Op::Send(to, number) => self.at_home(to, |it| send(&Reached::Near(it), OUTSIDE, number)),
            Op::ExitTo(to, reason) => self.at_home(to, |it| exit(&it.pid(), reason)),
            _ => panic!("{op:?} is done by processes only"),
        }
    }

    fn at_home(&self, slot: Slot, f: impl FnOnce(Address<Note>) -> Value) -> Value {
        self.entrance(slot).map_or(Value::Absent, |entrance| f(entrance.address))
    }

    /// Does something with a process as this end knows it.
    fn with(&self, end: usize, slot: Slot, f: impl FnOnce(&Reached) -> Value) -> Value {
        let Some(entrance) = self.entrance(slot) else { return Value::Absent };
        match entrance.far {
            _ if entrance.end == end => f(&Reached::Near(entrance.address)),
            Some(far) => f(&Reached::Far(far)),
            None => Value::Absent,
        }
    }

    /// Spawns a process in the way that is given, hands it to the other end unless it is hidden, and enters it.
    fn bear(
        self: &Arc<Self>,
        end: usize,
        child: Slot,
        life: Life,
        spawn: impl FnOnce(Box<dyn FnOnce(Process<Note>) -> Body + Send>) -> Address<Note>,
    ) {
        let (sender, commands) = unbounded_channel();
        let shared = Arc::clone(self);
        let address = spawn(Box::new(move |me| Box::pin(live(me, life, (end, child), shared, commands))));
        let remotes = self.remotes.as_ref().filter(|_| !self.ends.hides(child));
        let far = remotes.map(|remotes| {
            if self.ends.owns(child) {
                return Far::Owner(remotes[1 - end].clone());
            }
            let id = remotes[end].hand_out(&address, |note: Note| note);
            Far::Handed(Arc::new(remotes[1 - end].handed::<Note>(id)))
        });
        let mut table = self.table();
        table.numbers.insert(address.pid(), child);
        table.numbers.extend(far.as_ref().map(|far| (far.pid(), child)));
        table.slots.insert(child, Entrance { end, address, far, commands: sender });
        table.new.push(child);
    }
}

impl Reached {
    fn pid(&self) -> Pid {
        match self {
            Self::Near(address) => address.pid(),
            Self::Far(far) => far.pid(),
        }
    }
}

type Body = std::pin::Pin<Box<dyn Future<Output = Result<(), ExitReason>> + Send>>;

fn send(to: &Reached, from: Slot, number: u8) -> Value {
    let note = Note { from, number };
    // Whether it arrives is seen by the receiver. Mailboxes and windows have room for more than a program sends.
    match to {
        Reached::Near(address) => drop(address.try_send(note)),
        Reached::Far(Far::Owner(remote)) => drop(remote.try_cast(note)),
        Reached::Far(Far::Handed(handed)) => drop(handed.try_cast(&note)),
    }
    Value::Done
}

fn exit(to: &Pid, reason: Reason) -> Value {
    to.exit(reason.ours());
    Value::Done
}

async fn live(
    me: Process<Note>,
    life: Life,
    (end, slot): (usize, Slot),
    shared: Arc<Shared>,
    commands: UnboundedReceiver<Command>,
) -> Result<(), ExitReason> {
    match life {
        Life::Serve => Actor::new(me, end, slot, shared).serve(commands).await,
        Life::Return => Ok(()),
        Life::Crash => crash(),
        Life::Exit(reason) => Err(reason.ours()),
    }
}

/// A panic that says nothing on standard error.
fn crash() -> ! {
    resume_unwind(Box::new("oops"))
}

/// A process of the program.
struct Actor {
    me: Process<Note>,
    end: usize,
    slot: Slot,
    shared: Arc<Shared>,
    held: bool,
    monitors: BTreeMap<Monitor, MonitorRef>,
    by_name: BTreeSet<Monitor>,
    seen: Vec<Seen>,
}

impl Actor {
    const fn new(me: Process<Note>, end: usize, slot: Slot, shared: Arc<Shared>) -> Self {
        Self {
            me,
            end,
            slot,
            shared,
            held: false,
            monitors: BTreeMap::new(),
            by_name: BTreeSet::new(),
            seen: Vec::new(),
        }
    }

    async fn serve(mut self, mut commands: UnboundedReceiver<Command>) -> Result<(), ExitReason> {
        let mut asked = None;
        loop {
            // An end that was decided before the command, or in it, takes effect here.
            yield_now().await;
            tokio::select! {
                // An answer waits until the mailbox is empty, so it is behind all that had arrived.
                biased;
                event = self.me.recv(), if !self.held => {
                    let seen = self.see(event);
                    self.seen.extend(seen);
                }
                round = async { asked.unwrap_or_default() }, if asked.is_some() => {
                    asked = None;
                    let seen = std::mem::take(&mut self.seen);
                    self.tell(Report::Quiet(self.slot, round, seen));
                }
                command = commands.recv() => match command {
                    Some(Command::Do(ops)) => {
                        if let ControlFlow::Break(end) = self.handle_all(&ops) {
                            return end;
                        }
                    }
                    Some(Command::Fence(round)) => asked = Some(round),
                    None => return Ok(()),
                },
            }
        }
    }

    /// Does what it is told, without an await in between, and says so before it ends.
    fn handle_all(&mut self, ops: &[Op]) -> ControlFlow<Result<(), ExitReason>> {
        let mut values = Vec::with_capacity(ops.len());
        for op in ops {
            if op.ends(self.slot) {
                values.push(Value::Done);
                self.tell(Report::Done(self.slot, values));
                return self.finish(*op);
            }
            values.push(self.handle(*op));
        }
        self.tell(Report::Done(self.slot, values));
        ControlFlow::Continue(())
    }

    fn finish(&self, op: Op) -> ControlFlow<Result<(), ExitReason>> {
        match op {
            Op::Exit(reason) => ControlFlow::Break(Err(reason.ours())),
            Op::Crash => crash(),
            Op::ExitTo(_, reason) => {
                self.me.pid().exit(reason.ours());
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(Ok(())),
        }
    }

    fn handle(&mut self, op: Op) -> Value {
        let shared = Arc::clone(&self.shared);
        match op {
            Op::Spawn(child, how, life) => self.spawn(child, how, life),
            Op::Link(to) => shared.with(self.end, to, |it| match self.me.link(it.pid()) {
                Ok(()) => Value::True,
                Err(reason) => {
                    assert_eq!(reason, ExitReason::NoProc);
                    Value::Failed
                }
            }),
            Op::Unlink(from) => shared.with(self.end, from, |it| {
                self.me.unlink(it.pid());
                Value::Done
            }),
            Op::Monitor(of, monitor) => shared.with(self.end, of, |it| {
                self.monitors.insert(monitor, self.me.monitor(it.pid()));
                Value::Done
            }),
            Op::MonitorName(name, monitor) => shared.named(self.end, name).map_or(Value::Failed, |it| {
                self.by_name.insert(monitor);
                self.monitors.insert(monitor, self.me.monitor(it.pid()));
                Value::True
            }),
            Op::Demonitor(monitor) => {
                self.monitors.get(&monitor).map_or(Value::Absent, |it| answer(self.me.demonitor(*it)))
            }
            Op::DemonitorFlush(monitor) => {
                self.monitors.get(&monitor).map_or(Value::Absent, |it| answer(self.me.demonitor_flush(*it)))
            }
            Op::TrapExit(trap) => answer(self.me.trap_exit(trap)),
            Op::Send(to, number) => shared.with(self.end, to, |it| send(it, self.slot, number)),
            Op::SendName(name, number) => shared.named(self.end, name).map_or(Value::Failed, |it| {
                send(&Reached::Near(it), self.slot, number);
                Value::True
            }),
            Op::Register(name, process) => shared.with(self.end, process, |it| match it {
                Reached::Near(it) if shared.names[self.end].register(text(name), it).is_ok() => Value::True,
                Reached::Near(_) | Reached::Far(_) => Value::Failed,
            }),
            Op::Unregister(name) if shared.names[self.end].unregister(text(name)) => Value::True,
            Op::Unregister(_) => Value::Failed,
            Op::WhereIs(name) => shared
                .named(self.end, name)
                .map_or(Value::Failed, |it| Value::Process(shared.number(&it.pid()))),
            Op::ExitTo(to, reason) => shared.with(self.end, to, |it| exit(&it.pid(), reason)),
            Op::Hold | Op::Release => {
                self.held = op == Op::Hold;
                Value::Done
            }
            Op::Exit(_) | Op::Return | Op::Crash | Op::Cut(_) => unreachable!("these are done elsewhere"),
        }
    }

    fn spawn(&mut self, child: Slot, how: SpawnHow, life: Life) -> Value {
        let shared = Arc::clone(&self.shared);
        shared.bear(self.end, child, life, |f| match how {
            SpawnHow::Plain => spawn(f),
            SpawnHow::Linked => self.me.spawn_link(f),
            SpawnHow::Monitored => {
                let (address, monitor) = self.me.spawn_monitor(f);
                self.monitors.insert(monitor_of_child(child), monitor);
                address
            }
        });
        Value::Done
    }

    fn see(&self, event: Event<Note>) -> Option<Seen> {
        Some(match event {
            Event::Message(note) if note.is_ended() => return None,
            Event::Message(note) => Seen::Message(note.from, note.number),
            Event::Exit(pid, reason) => Seen::Exit(self.shared.number(&pid), Reason::of_ours(&reason)),
            Event::Down(reference, pid, reason) => {
                let known = self.monitors.iter().find(|(_, other)| **other == reference);
                let monitor = *known.expect("it made the monitor").0;
                let by_name = self.by_name.contains(&monitor);
                let of = if by_name { OUTSIDE } else { self.shared.number(&pid) };
                Seen::Down(monitor, of, Reason::of_ours(&reason))
            }
        })
    }

    fn tell(&self, report: Report) {
        // The driver waits for every answer, so it is there.
        let _ = self.shared.reports.send(report);
    }
}

fn text(name: Name) -> &'static str {
    NAMES[usize::from(name)]
}

const fn answer(yes: bool) -> Value {
    if yes { Value::True } else { Value::False }
}
