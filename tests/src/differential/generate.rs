//! Makes random programs: by running them, so that each step is one of a process that is alive, about processes that
//! mostly are.
//!
//! A step is made so that Erlang says what comes of it. What it leaves open is kept out:
//!
//! * Two ends with two causes in one step: which one a third process hears of first is open. So a step that may end
//!   another process does nothing more but to that one.
//! * `link` to a process that has been told to end: that raises or sends a signal, as it happens.
//! * `demonitor` right after the monitor of a process that is not there: the signal may be in the mailbox already.
//! * Anything after a `spawn` in the same step: the driver has to know the process first.
//! * More than what is about the same process after a `link` to a far one that is not there: its exit signal comes at
//!   any time later, and may end the actor. When the connection is lost it may be there at once.
//! * What two do to each other at the same time, unless it comes to the same in whichever order it arrives: messages,
//!   monitors, and links that both of them leave as they want them to be: there or not.
//! * Ends of owners that are open (`relations`), and those while another does something.
//! * What one sees in a step in which another ends at the same time. It happens all the same, to one that survives it
//!   because it traps exits; only what it sees then is not compared ([`Program::open`]).

use std::collections::{BTreeMap, BTreeSet};

use super::ours::World;
use super::program::{
    Ends, Life, Monitor, Name, OUTSIDE, Op, Program, Reason, Slot, SpawnHow, Step, monitor_of_child,
};
use super::random::Random;
use super::relations::Relations;
use super::trace::Trace;

/// More are not spawned in one program.
const MAX_PROCESSES: Slot = 24;

/// The program of this seed, with what our processes did. `steps` that are not left out, then a last look: everybody
/// reads its mailbox, owners trap exits, and all are killed, one after the other, which shows the links and monitors
/// that there were.
pub async fn generate(seed: u64, steps: usize, ends: Ends) -> (Program, Trace) {
    let mut writer = Writer::new(seed, ends);
    let mut world = World::start(ends).await;
    let mut program = Program::default();
    let mut run = async |steps: Vec<Step>| {
        for step in steps {
            world.step(&step).await;
            program.0.push(step);
        }
        world.alive().collect::<Vec<_>>()
    };
    let cut_before = writer.cut_before(steps);
    run(vec![writer.first()]).await;
    let mut alive = run(writer.owners()).await;
    let mut done = 0;
    while done < steps {
        if cut_before.is_some_and(|step| step <= done)
            && let Some(cut) = writer.cut()
        {
            alive = run(vec![cut]).await;
        }
        let next = writer.next(&alive);
        done += next.len();
        alive = run(next).await;
    }
    for actor in std::mem::take(&mut writer.held) {
        if alive.contains(&actor) {
            alive = run(vec![Step::new(actor, vec![Op::Release])]).await;
        }
    }
    for owner in alive.clone().into_iter().filter(|slot| ends.owns(*slot)) {
        alive = run(vec![Step::new(owner, vec![Op::TrapExit(true)])]).await;
    }
    while let Some(last) = alive.last() {
        alive = run(vec![Step::new(OUTSIDE, vec![Op::ExitTo(*last, Reason::Kill)])]).await;
    }
    (program, world.finish().await)
}

#[derive(Clone, Copy)]
enum Kind {
    Crash,
    Demonitor,
    DemonitorFlush,
    Exit,
    ExitTo,
    Link,
    Monitor,
    MonitorName,
    Register,
    Return,
    Send,
    SendName,
    Spawn,
    TrapExit,
    Unlink,
    Unregister,
    WhereIs,
}

const KINDS: [(usize, Kind); 17] = [
    (2, Kind::Crash),
    (6, Kind::Demonitor),
    (6, Kind::DemonitorFlush),
    (3, Kind::Exit),
    (10, Kind::ExitTo),
    (20, Kind::Link),
    (12, Kind::Monitor),
    (3, Kind::MonitorName),
    (6, Kind::Register),
    (1, Kind::Return),
    (14, Kind::Send),
    (3, Kind::SendName),
    (9, Kind::Spawn),
    (9, Kind::TrapExit),
    (8, Kind::Unlink),
    (2, Kind::Unregister),
    (3, Kind::WhereIs),
];

struct Writer {
    random: Random,
    ends: Ends,
    /// The connection between the ends is lost.
    cut: bool,
    spawned: Slot,
    relations: Relations,
    monitors: Monitor,
    /// Messages are numbered, so that each is known.
    messages: u8,
    made: BTreeMap<Slot, Vec<Monitor>>,
    /// Monitors made in this step of processes that are not there.
    vain: BTreeSet<Monitor>,
    held: BTreeSet<Slot>,
}

impl Writer {
    const fn new(seed: u64, ends: Ends) -> Self {
        Self {
            random: Random::new(seed),
            ends,
            cut: false,
            spawned: 0,
            relations: Relations::new(ends),
            monitors: 0,
            messages: 0,
            made: BTreeMap::new(),
            vain: BTreeSet::new(),
            held: BTreeSet::new(),
        }
    }

    fn first(&mut self) -> Step {
        let count = match self.ends {
            Ends::One => 3,
            Ends::Two => 4,
        };
        let ops = (0..count).filter_map(|_| self.spawn(SpawnHow::Plain, Life::Serve)).collect();
        let step = Step::new(OUTSIDE, ops);
        self.note(std::slice::from_ref(&step));
        step
    }

    /// Half of the owners begin to trap exits.
    fn owners(&mut self) -> Vec<Step> {
        let owners: Vec<_> = (0..self.spawned).filter(|slot| self.ends.owns(*slot)).collect();
        let traps = |owner| Step::new(owner, vec![Op::TrapExit(self.random.percent(50))]);
        let steps: Vec<_> = owners.into_iter().map(traps).collect();
        self.note(&steps);
        steps
    }

    /// Whether both worlds must agree on what comes of it.
    fn is_decided(&self, relations: &Relations, actor: Slot, op: Op, alive: &[Slot]) -> bool {
        let is_vain = matches!(op, Op::Link(to) if self.is_vain(actor, to, alive));
        self.cut || !relations.leaves_open(actor, op, is_vain)
    }

    fn note(&mut self, steps: &[Step]) {
        for step in steps {
            for op in &step.ops {
                self.relations.note(step.actor, *op, steps.len() == 1);
            }
        }
    }

    /// Whether and when the connection is lost: in a quarter of the programs.
    fn cut_before(&mut self, steps: usize) -> Option<usize> {
        (self.ends == Ends::Two && self.random.percent(25)).then(|| self.random.below(steps))
    }

    fn cut(&mut self) -> Option<Step> {
        let first = u8::from(self.random.percent(50));
        (!std::mem::replace(&mut self.cut, true)).then(|| Step::new(OUTSIDE, vec![Op::Cut(first)]))
    }

    fn next(&mut self, alive: &[Slot]) -> Vec<Step> {
        self.relations.retain(alive);
        // The connection is lost with an owner.
        self.cut |= (0..self.spawned).any(|slot| self.ends.owns(slot) && !alive.contains(&slot));
        let crossing = self.ends == Ends::Two && !self.cut && self.random.percent(25);
        let pair = if crossing { self.random.pick(alive).zip(self.random.pick(alive)) } else { None };
        let steps = match pair.filter(|(one, other)| one != other) {
            Some((one, other)) => self.crossing(one, other, alive),
            None => vec![self.step(alive)],
        };
        self.note(&steps);
        steps
    }

    /// Two at the same time, mostly about each other.
    fn crossing(&mut self, one: Slot, other: Slot, alive: &[Slot]) -> Vec<Step> {
        self.vain.clear();
        if self.relations.traps(other) && !self.held.contains(&other) && self.random.percent(40) {
            let mut first = self.peaceful(one, other, true, alive);
            let reason = self.reason();
            let end = self.random.weighted(&[(1, Op::Return), (1, Op::Crash), (4, Op::Exit(reason))]);
            let second = self.peaceful(other, one, true, alive);
            let mut then = self.relations.clone();
            first.iter().for_each(|op| then.note(one, *op, false));
            second.iter().for_each(|op| then.note(other, *op, false));
            if !then.ends_owner(one, end, false) {
                first.push(end);
                return vec![Step { actor: one, ops: first, meanwhile: true }, Step::new(other, second)];
            }
        }
        // Both want the same in the end, or only the first has to do with their link.
        let linked = self.random.percent(50);
        let last = |to| if linked { Op::Link(to) } else { Op::Unlink(to) };
        let both = self.random.percent(70);
        let mut first = self.peaceful(one, other, true, alive);
        let mut second = self.peaceful(other, one, both, alive);
        if both {
            first.insert(self.random.below(first.len() + 1), last(other));
            second.insert(self.random.below(second.len() + 1), last(one));
            settle(&mut first, last(other));
            settle(&mut second, last(one));
        }
        vec![Step { actor: one, ops: first, meanwhile: true }, Step::new(other, second)]
    }

    /// A burst that ends nobody, to be done while `other` does one.
    fn peaceful(&mut self, actor: Slot, other: Slot, links: bool, alive: &[Slot]) -> Vec<Op> {
        let mut ops = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            let to = if self.random.percent(75) { other } else { self.random.pick(alive).unwrap_or(other) };
            let may_link = links || to != other;
            let op = match self.random.below(9) {
                0..=2 if may_link => Some(Op::Link(to)),
                3 | 4 if may_link => Some(Op::Unlink(to)),
                5 => self.monitor(actor).map(|monitor| Op::Monitor(to, monitor)),
                6 => self.made_by(actor).map(Op::Demonitor),
                7 => self.made_by(actor).map(Op::DemonitorFlush),
                _ => Some(Op::Send(to, self.message())),
            };
            ops.extend(op);
        }
        ops
    }

    /// At the other end than this one.
    fn is_far(&self, actor: Slot, to: Slot) -> bool {
        self.relations.is_far(actor, to)
    }

    /// Not alive, or out of reach.
    fn is_vain(&self, actor: Slot, to: Slot, alive: &[Slot]) -> bool {
        !alive.contains(&to) || self.cut && self.is_far(actor, to)
    }

    fn step(&mut self, alive: &[Slot]) -> Step {
        self.vain.clear();
        let Some(actor) = self.random.pick(alive).filter(|_| !self.random.percent(8)) else {
            return self.outside(alive);
        };
        if self.held.contains(&actor) {
            return self.step_of_held(actor, alive);
        }
        if self.random.percent(8) {
            self.held.insert(actor);
            return Step::new(actor, vec![Op::Hold]);
        }
        if alive.len() < 4
            && self.random.percent(40)
            && let Some(spawn) = self.any_spawn()
            && self.is_decided(&self.relations, actor, spawn, alive)
        {
            return Step::new(actor, vec![spawn]);
        }
        self.burst(actor, alive)
    }

    /// One that leaves its mailbox alone: mostly what may meet what waits in it.
    fn step_of_held(&mut self, actor: Slot, alive: &[Slot]) -> Step {
        let monitor = self.made_by(actor);
        let to = self.target(alive);
        let op = match self.random.below(8) {
            0 | 1 => {
                self.held.remove(&actor);
                Some(Op::Release)
            }
            2 => monitor.map(Op::Demonitor),
            3 | 4 => monitor.map(Op::DemonitorFlush),
            5 => Some(Op::Unlink(to)),
            6 => Some(Op::TrapExit(self.random.percent(50))),
            _ => None,
        };
        op.map_or_else(|| self.burst(actor, alive), |op| Step::new(actor, vec![op]))
    }

    fn burst(&mut self, actor: Slot, alive: &[Slot]) -> Step {
        let len = if self.random.percent(55) { 1 } else { 2 + self.random.below(4) };
        let mut ops = Vec::new();
        let mut then = self.relations.clone();
        while ops.len() < len {
            let op = self.op(actor, alive).filter(|op| self.is_decided(&then, actor, *op, alive));
            let Some(op) = op else { continue };
            then.note(actor, op, true);
            ops.push(op);
            if op.ends(actor) || matches!(op, Op::Spawn(..)) {
                break;
            }
            if let Op::ExitTo(to, _) = op {
                self.after_exit_to(actor, to, &then, len, &mut ops);
                break;
            }
            if let Op::Link(to) = op
                && self.is_far(actor, to)
                && self.is_vain(actor, to, alive)
            {
                self.after_vain_link(to, len, &mut ops);
                break;
            }
        }
        Step::new(actor, ops)
    }

    /// The same one again.
    fn after_vain_link(&mut self, to: Slot, len: usize, ops: &mut Vec<Op>) {
        while ops.len() < len && !self.cut {
            let number = self.message();
            let again = [(2, Op::Unlink(to)), (2, Op::Link(to)), (1, Op::Send(to, number))];
            ops.push(self.random.weighted(&again));
        }
    }

    /// Only to the same one: all that arrives there arrives in order.
    fn after_exit_to(&mut self, actor: Slot, to: Slot, then: &Relations, len: usize, ops: &mut Vec<Op>) {
        while ops.len() < len {
            let number = self.message();
            let reason = self.reason();
            let op = self.random.weighted(&[(2, Op::Send(to, number)), (1, Op::ExitTo(to, reason))]);
            ops.extend(Some(op).filter(|op| self.is_decided(then, actor, *op, &[])));
        }
    }

    fn outside(&mut self, alive: &[Slot]) -> Step {
        let to = self.random.pick(alive).filter(|_| self.random.percent(60));
        let op = match to {
            Some(to) if self.random.percent(50) => Some(Op::ExitTo(to, self.reason())),
            Some(to) => Some(Op::Send(to, self.message())),
            None => self.spawn(SpawnHow::Plain, Life::Serve),
        };
        let op = op.filter(|op| self.is_decided(&self.relations, OUTSIDE, *op, alive));
        Step::new(OUTSIDE, op.into_iter().collect())
    }

    fn op(&mut self, actor: Slot, alive: &[Slot]) -> Option<Op> {
        let to = self.target(alive);
        Some(match self.random.weighted(&KINDS) {
            Kind::Crash => Op::Crash,
            Kind::Demonitor => Op::Demonitor(self.made_by(actor)?),
            Kind::DemonitorFlush => Op::DemonitorFlush(self.made_by(actor)?),
            Kind::Exit => Op::Exit(self.reason()),
            Kind::ExitTo => Op::ExitTo(to, self.reason()),
            Kind::Link => Op::Link(to),
            Kind::Monitor => {
                let monitor = self.monitor(actor)?;
                if self.is_vain(actor, to, alive) {
                    self.vain.insert(monitor);
                }
                Op::Monitor(to, monitor)
            }
            Kind::MonitorName => Op::MonitorName(self.name(), self.monitor(actor)?),
            Kind::Register => Op::Register(self.name(), to),
            Kind::Return => Op::Return,
            Kind::Send => Op::Send(to, self.message()),
            Kind::SendName => Op::SendName(self.name(), self.message()),
            Kind::Spawn => {
                let spawn = self.any_spawn()?;
                if let Op::Spawn(child, SpawnHow::Monitored, _) = spawn {
                    self.made.entry(actor).or_default().push(monitor_of_child(child));
                }
                spawn
            }
            Kind::TrapExit => Op::TrapExit(self.random.percent(65)),
            Kind::Unlink => Op::Unlink(to),
            Kind::Unregister => Op::Unregister(self.name()),
            Kind::WhereIs => Op::WhereIs(self.name()),
        })
    }

    /// Mostly one that is alive, the actor itself among them.
    fn target(&mut self, alive: &[Slot]) -> Slot {
        if self.random.percent(88)
            && let Some(slot) = self.random.pick(alive)
        {
            return slot;
        }
        u8::try_from(self.random.below(usize::from(self.spawned))).unwrap_or(0)
    }

    fn any_spawn(&mut self) -> Option<Op> {
        let how =
            self.random.weighted(&[(1, SpawnHow::Plain), (2, SpawnHow::Linked), (2, SpawnHow::Monitored)]);
        let reason = self.reason();
        let life = self.random.weighted(&[
            (12, Life::Serve),
            (1, Life::Return),
            (1, Life::Crash),
            (2, Life::Exit(reason)),
        ]);
        self.spawn(how, life)
    }

    fn spawn(&mut self, how: SpawnHow, life: Life) -> Option<Op> {
        let child = self.spawned;
        (child < MAX_PROCESSES).then(|| {
            self.spawned += 1;
            Op::Spawn(child, how, life)
        })
    }

    fn monitor(&mut self, actor: Slot) -> Option<Monitor> {
        let monitor = self.monitors;
        (monitor < monitor_of_child(0)).then(|| {
            self.monitors += 1;
            self.made.entry(actor).or_default().push(monitor);
            monitor
        })
    }

    fn made_by(&mut self, actor: Slot) -> Option<Monitor> {
        let made = self.made.get(&actor)?;
        let last = made.last().filter(|_| self.random.percent(50)).copied();
        let made = last.or_else(|| self.random.pick(made));
        made.filter(|monitor| !self.vain.contains(monitor))
    }

    fn message(&mut self) -> u8 {
        self.messages = self.messages.wrapping_add(1);
        self.messages
    }

    fn name(&mut self) -> Name {
        u8::try_from(self.random.below(3)).unwrap_or(0)
    }

    fn reason(&mut self) -> Reason {
        self.random.pick(&Reason::SENT).unwrap_or(Reason::Boom)
    }
}

/// Leaves of what is done about one link only that which makes its last state this one's.
fn settle(ops: &mut [Op], last: Op) {
    let about = |op: &Op| match (*op, last) {
        (Op::Link(to) | Op::Unlink(to), Op::Link(of) | Op::Unlink(of)) => to == of,
        _ => false,
    };
    if let Some(place) = ops.iter().rposition(about)
        && let Some(op) = ops.get_mut(place)
    {
        *op = last;
    }
}
