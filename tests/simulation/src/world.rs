//! Two programs, the connections between them, and the time.

mod actions;
mod faults;
mod ops;
mod rest;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lib_chan::session::{FIRST_EPOCH, Flush};

use crate::{
    end::{Drive, End},
    log::{Answer, At, Entry, Fault, Pid, Proc, Side, Token, What},
    login,
    net::Pipe,
    plan::Plan,
    process::{Letter, Life, Process},
    seeded::Seeded,
};

/// Something that may not happen.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which promise is broken: the same words for the same kind.
    pub rule: &'static str,
    /// Where and how.
    pub detail: String,
}

impl Violation {
    pub(crate) const fn new(rule: &'static str, detail: String) -> Self {
        Self { rule, detail }
    }
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) ends: [End; 2],
    /// By who writes.
    pub(crate) pipes: [Pipe; 2],
}

/// Something that a process awaits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub(crate) proc: Proc,
    pub(crate) at: At,
    pub(crate) kind: Kind,
    /// Its place among those that watch for the opening or the end.
    pub(crate) place: u64,
    pub(crate) over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cast {
        ticket: u64,
        token: Token,
    },
    Call {
        call: u64,
        token: Token,
    },
    Flush(Flush),
    Open,
    Close,
    /// Of a call that it has taken.
    Cancelled {
        call: u64,
        token: Token,
    },
}

/// How often what was done to a schedule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Steps of anybody.
    pub steps: u64,
    /// Sessions that opened, counted at one end.
    pub sessions: u64,
    /// Calls made.
    pub calls: u64,
    /// Connections cut, at any byte.
    pub cuts: u64,
    /// Connections reset.
    pub resets: u64,
    /// Directions in which everything vanishes from some byte on.
    pub half_opens: u64,
    /// Processes and programs killed or stopped.
    pub kills: u64,
    /// Directions that stood still for a while.
    pub stalls: u64,
    /// Pieces in which bytes arrived late or split: the everyday.
    pub pieces: u64,
}

impl Counts {
    /// Faults, without the everyday.
    pub const fn faults(&self) -> u64 {
        self.cuts + self.resets + self.half_opens + self.kills + self.stalls
    }

    /// Adds those of another run.
    pub const fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.sessions += other.sessions;
        self.calls += other.calls;
        self.cuts += other.cuts;
        self.resets += other.resets;
        self.half_opens += other.half_opens;
        self.kills += other.kills;
        self.stalls += other.stalls;
        self.pieces += other.pieces;
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Seeded,
    pub(crate) base: Instant,
    pub(crate) now: Instant,
    pub(crate) plan: Plan,
    pub(crate) procs: Vec<Process>,
    pub(crate) conns: Vec<Conn>,
    dead: [bool; 2],
    ops: Vec<Op>,
    pub(crate) last_monitor: u64,
    last_token: Token,
    /// Nobody begins anything new.
    calm: bool,
    pub(crate) log: Vec<Entry>,
    pub(crate) violations: Vec<Violation>,
    /// Who has linked to whom under which name.
    pub(crate) link_ops: BTreeSet<(Proc, Pid)>,
    /// Who has linked to whom last, and has neither unlinked nor seen the end since.
    pub(crate) wants: BTreeSet<(Proc, Pid)>,
    pub(crate) counts: Counts,
    pub(crate) scratch: Vec<u8>,
    drives: Vec<(At, Drive)>,
    runnable: Vec<Proc>,
}

/// No run has more connections, or processes.
const MAX_CONNS: usize = 4;
const MAX_PROCS: usize = 24;

/// What a process does in an entangled schedule, with its weights.
const ENTANGLED: [(usize, u8); 8] = [(1, 0), (0, 1), (1, 2), (30, 3), (3, 4), (2, 5), (0, 6), (0, 7)];

/// The time that a call has, in microseconds.
const UNHURRIED: [u64; 6] = [0, 1_000, 40_000, 1_000_000, 60_000_000, 60_000_000];
const HURRIED: [u64; 6] = [300, 700, 1_300, 1_900, 2_600, 60_000_000];

/// Longer than a connection may be stalled.
const SLOW_TIME: Duration = Duration::from_secs(200);

impl World {
    pub(crate) fn new(seed: u64, base: Instant) -> Self {
        let plan = Plan::new(seed);
        let mut world = Self {
            rng: Seeded::of_step(seed, u64::MAX - 1),
            base,
            now: base,
            plan,
            procs: Vec::with_capacity(12),
            conns: Vec::new(),
            dead: [false; 2],
            ops: Vec::new(),
            last_monitor: 0,
            last_token: 0,
            calm: false,
            log: Vec::with_capacity(512),
            violations: Vec::new(),
            link_ops: BTreeSet::new(),
            wants: BTreeSet::new(),
            counts: Counts::default(),
            scratch: Vec::new(),
            drives: Vec::new(),
            runnable: Vec::new(),
        };
        for side in Side::BOTH {
            for _ in 0..2 {
                world.spawn(side, false);
            }
        }
        if world.plan.entangled {
            // To whom a channel can be given.
            for side in Side::BOTH {
                for _ in 0..2 {
                    world.spawn(side, false);
                }
            }
        }
        for _ in 0..world.plan.conns {
            let task = world.rng.once_in(4);
            let owner = world.spawn(Side::Client, task);
            world.connect(owner);
        }
        world
    }

    pub(crate) fn note(&mut self, what: What) {
        self.log.push(Entry { at: self.now.duration_since(self.base), what });
    }

    pub(crate) fn fresh_token(&mut self) -> Token {
        self.last_token += 1;
        self.last_token
    }

    pub(crate) fn plan_once(&mut self, of: usize) -> bool {
        self.rng.once_in(of)
    }

    fn ats(&self) -> impl Iterator<Item = At> + use<> {
        (0..self.conns.len() as u8).flat_map(|conn| Side::BOTH.map(|side| At { conn, side }))
    }

    fn connect(&mut self, proc: Proc) {
        if self.conns.len() >= MAX_CONNS || self.dead[1] {
            return;
        }
        let conn = self.conns.len() as u8;
        let (now, capacity) = (self.now, self.plan.capacity);
        let logins = if self.plan.login {
            let [client, server] = login::begin(&mut self.rng, &self.plan.limits[1], now);
            [Some(client), Some(server)]
        } else {
            [None, None]
        };
        let [client, server] = logins;
        let wrong = [&client, &server].map(|login| login.as_ref().is_some_and(|login| login.wrong));
        for side in Side::BOTH {
            if wrong[side as usize] {
                self.note(What::WrongLogin { at: At { conn, side } });
            }
        }
        let at = |side| At { conn, side };
        let limits = &self.plan.limits;
        self.conns.push(Conn {
            ends: [End::new(&limits[0], client, now), End::new(&limits[1], server, now)],
            pipes: [Pipe::new(now, capacity), Pipe::new(now, capacity)],
        });
        if !self.plan.login {
            let both = login::done(&self.plan.limits[1]);
            for (side, authenticated) in [(Side::Client, &both.0), (Side::Server, &both.1)] {
                let endpoint = self.new_endpoint(at(side), authenticated);
                self.begin(at(side), endpoint);
            }
        }
        if self.plan.slow {
            let side = self.rng.below(2);
            self.conns[usize::from(conn)].pipes[side].trickle(now + SLOW_TIME);
            self.note(What::Fault { conn, fault: Fault::Slow });
        }
        let op = self.op(proc, at(Side::Client), Kind::Open);
        self.end(at(Side::Client)).opener = Some(op);
        self.poll_op(op);
    }

    /// Lets the peer reach some processes of this end.
    pub(crate) fn hand_out(&mut self, at: At) {
        let first = match at.side {
            Side::Client => 0,
            Side::Server => 2,
        };
        for proc in first..first + 2 {
            if self.process(proc).is_gone()
                || self.rng.once_in(4)
                || (self.plan.entangled && proc > first && self.rng.once_in(2))
            {
                continue;
            }
            let rights = lib_chan::Rights {
                send: true,
                monitor: !self.rng.once_in(4),
                link: !self.rng.once_in(4),
                exit: self.rng.once_in(2),
                kill: self.rng.once_in(4),
            };
            let Some(id) = self.session(at, |session, _| session.hand_out(Pid::Local(proc), rights)) else {
                return;
            };
            self.end(at).names.push((id, proc));
            let lib_chan::Rights { link, exit, kill, monitor, .. } = rights;
            self.note(What::HandedOut { at, id, proc, link, exit, kill, monitor });
        }
    }

    // A schedule.

    /// One step of somebody.
    pub(crate) fn step(&mut self, rng: Seeded) {
        self.rng = rng;
        self.counts.steps += 1;
        if self.plan.faults > 0 && self.rng.once_in(self.plan.faults) {
            return self.fault();
        }
        if !self.act() && !self.pass_time(None) {
            // All have come to an end; somebody begins again.
            let side = Side::BOTH[self.rng.below(2)];
            if !self.dead[side as usize] && self.procs.len() < MAX_PROCS {
                let proc = self.spawn(side, false);
                if side == Side::Client {
                    self.connect(proc);
                }
            }
        }
    }

    /// Somebody who can do something does it.
    fn act(&mut self) -> bool {
        let mut drives = std::mem::take(&mut self.drives);
        let mut runnable = std::mem::take(&mut self.runnable);
        drives.clear();
        runnable.clear();
        for at in self.ats() {
            self.could(at, &mut drives);
        }
        runnable.extend((0..self.procs.len() as Proc).filter(|proc| self.is_runnable(*proc)));
        let all = drives.len() + runnable.len();
        if all > 0 {
            let chosen = self.rng.below(all);
            match drives.get(chosen) {
                Some(&(at, drive)) => {
                    self.counts.pieces += u64::from(matches!(drive, Drive::Read));
                    self.drive(at, drive);
                }
                None => self.run(runnable[chosen - drives.len()]),
            }
        }
        self.drives = drives;
        self.runnable = runnable;
        all > 0
    }

    /// Nobody has anything to do at this moment: the next one. `until`: and no later than this.
    fn pass_time(&mut self, until: Option<Instant>) -> bool {
        let mut next = self.ats().filter_map(|at| self.next_time(at)).min();
        for process in self.procs.iter().filter(|process| process.is_alive()) {
            let act = (!self.calm).then_some(process.next_at);
            for at in [act, process.deaf_until].into_iter().flatten() {
                if at > self.now {
                    next = Some(next.map_or(at, |next| next.min(at)));
                }
            }
        }
        self.look_for_sleepers();
        let Some(next) = next.filter(|next| until.is_none_or(|until| *next <= until)) else { return false };
        self.now = self.now.max(next);
        self.look_at_the_clock();
        true
    }

    /// Nobody has anything to do: so nobody waits for something that is there, and no message that could go.
    fn look_for_sleepers(&mut self) {
        for at in self.ats() {
            self.look_for_sleeping_driver(at);
            let now = self.now;
            let Some(endpoint) = &mut self.end(at).endpoint else { continue };
            let before = endpoint.session().unsent();
            endpoint.handle_accepted(FIRST_EPOCH, now, 0);
            // Nothing is due, so this only looks at what waits.
            if endpoint.poll_timeout().is_some_and(|due| due > now) {
                endpoint.handle_timeout(now);
            }
            if endpoint.session().unsent() > before {
                let detail = format!("{at:?}");
                self.violations.push(Violation::new("what can go does not wait", detail));
            }
        }
        for proc in 0..self.procs.len() as Proc {
            if !self.process(proc).is_alive() || self.process(proc).ops.is_empty() {
                continue;
            }
            for op in self.process(proc).ops.clone() {
                let kind = self.ops[op as usize].kind;
                // Whoever does not look was woken perhaps.
                if !self.process(proc).woken.contains(&op) && self.poll_op(op) {
                    let detail = format!("{kind:?} of {proc}");
                    self.violations.push(Violation::new("nobody was woken", detail));
                }
            }
        }
    }

    /// What must have happened by now has happened.
    fn look_at_the_clock(&mut self) {
        let now = self.now;
        for at in self.ats() {
            if let Some((since, _)) = self.end(at).waiting
                && !self.end(at).gone
                && now > since + 2 * self.end(at).limits.stall_timeout
            {
                let detail = format!("{at:?}");
                self.violations.push(Violation::new("a stalled connection is given up in time", detail));
            }
            let heartbeat = 3 * self.plan.limits[1].heartbeat_interval;
            let end = self.end(at);
            if !end.gone && !end.is_over() && now > end.last_heard + heartbeat {
                let detail = format!("{at:?}");
                self.violations.push(Violation::new("a silent connection was not given up in time", detail));
            }
        }
    }

    fn is_runnable(&self, proc: Proc) -> bool {
        let process = &self.procs[usize::from(proc)];
        match process.life {
            Life::Gone | Life::Lost => return false,
            _ if !process.doing.is_empty() => return true,
            Life::Ending { .. } => return !process.stuck,
            Life::Alive => {}
        }
        if process.deaf_until.is_some_and(|until| self.now < until) {
            return false;
        }
        !process.woken.is_empty()
            || !process.mailbox.is_empty()
            || process.reads.iter().any(|at| self.may_receive(*at))
            || process.opening.is_some()
            || (self.calm && !process.owed.is_empty())
            || (!self.calm && process.next_at <= self.now)
    }

    fn run(&mut self, proc: Proc) {
        if !self.process(proc).doing.is_empty() {
            return self.go_on(proc);
        }
        if !self.process(proc).is_alive() {
            return self.end_step(proc);
        }
        let process = &self.procs[usize::from(proc)];
        let wants_to_act =
            !self.calm && process.next_at <= self.now && process.opening.is_none() && self.rng.once_in(2);
        if wants_to_act {
            self.think(proc);
            return self.do_something(proc);
        }
        let process = &self.procs[usize::from(proc)];
        if let Some(at) = process.opening {
            return self.accept(proc, at);
        }
        if !process.woken.is_empty() {
            let place = self.rng.below(process.woken.len());
            let op = self.process(proc).woken.swap_remove(place);
            self.poll_op(op);
            return;
        }
        if let Some(letter) = self.process(proc).mailbox.pop_front() {
            return match letter {
                Letter::Exit { receipt } => self.exit_taken(receipt),
                Letter::Down => {}
                Letter::Fed { at, message } => self.receive_letter(proc, at, message),
                Letter::Direct { at, id, message } => self.receive_direct(proc, at, id, &message),
                Letter::Ended { at, reason } => self.note(What::EndSeen { at, reason }),
            };
        }
        let process = &self.procs[usize::from(proc)];
        if let Some(at) = process.reads.iter().copied().find(|at| self.may_receive(*at)) {
            return self.receive(proc, at);
        }
        if let Some(owed) = self.process(proc).owed.pop() {
            return self.reply(owed, Answer::Reply);
        }
        if !self.calm {
            self.think(proc);
            self.do_something(proc);
        }
    }
}
