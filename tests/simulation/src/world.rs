//! Two programs, the connections between them, and the time.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use lib_chan::{
    ExitReason,
    session::{FIRST_EPOCH, Flush, Session, Unsendable},
};

use crate::{
    end::{Drive, End},
    log::{Answer, At, CastEnd, Entry, Fault, Pid, Proc, Side, Token, What, token},
    login,
    net::Pipe,
    plan::{Plan, Taste},
    process::{Doing, Letter, Life, Owed, Process},
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

    // What is awaited.

    fn op(&mut self, proc: Proc, at: At, kind: Kind) -> u32 {
        let op = self.ops.len() as u32;
        self.ops.push(Op { proc, at, kind, place: 0, over: false });
        self.process(proc).ops.push(op);
        op
    }

    pub(crate) fn wake(&mut self, op: u32) {
        let Op { proc, kind, over, .. } = self.ops[op as usize];
        if over {
            return;
        }
        if let Kind::Call { token, .. } = kind {
            self.note(What::CallWoken { token });
        }
        let process = self.process(proc);
        if !process.woken.contains(&op) {
            process.woken.push(op);
        }
    }

    /// Looks at something awaited: whether it is over.
    fn poll_op(&mut self, op: u32) -> bool {
        let Op { proc, at, kind, over, .. } = self.ops[op as usize];
        if over {
            return true;
        }
        let over = match kind {
            Kind::Cast { ticket, token } => {
                let polled = self.session(at, |session, _| session.poll_cast(ticket, |_| op)).flatten();
                polled.is_some_and(|result| {
                    let end = match result {
                        Ok(()) => CastEnd::Sent,
                        Err(Unsendable::Ended(reason)) => CastEnd::Ended(reason),
                        Err(_) => CastEnd::Refused,
                    };
                    self.note(What::CastEnd { token, end });
                    true
                })
            }
            Kind::Call { call, token: asked } => {
                let polled = self.session(at, |session, _| session.poll_call(call, |_| op)).flatten();
                polled.is_some_and(|outcome| {
                    let outcome = outcome.map(|payload| token(&payload));
                    self.note(What::CallEnd { token: asked, outcome });
                    true
                })
            }
            Kind::Flush(flush) => {
                let polled = self.session(at, |session, _| session.poll_flushed(flush, || op)).flatten();
                polled.is_some_and(|result| {
                    self.note(What::FlushEnd { op, result });
                    true
                })
            }
            Kind::Open => {
                if self.end(at).endpoint.is_none() {
                    self.end(at).gone
                } else {
                    let polled = self.session(at, |session, _| session.poll_open()).flatten();
                    if polled.is_none() {
                        self.watch_end(at, op);
                    }
                    polled.is_some_and(|result| {
                        self.opened(proc, at, &result);
                        true
                    })
                }
            }
            Kind::Close => {
                let reason = self.session(at, |session, _| session.over().cloned()).flatten();
                if reason.is_none() {
                    self.watch_end(at, op);
                }
                reason.is_some_and(|reason| {
                    self.note(What::CloseEnd { at, reason });
                    true
                })
            }
            Kind::Cancelled { call, token } => {
                let cancelled = self.session(at, |session, _| session.poll_cancelled(call, |_| op));
                cancelled == Some(true) && {
                    self.note(What::Cancelled { at, token });
                    true
                }
            }
        };
        if over {
            self.ops[op as usize].over = true;
            self.process(proc).ops.retain(|other| *other != op);
        }
        over
    }

    /// Wakes this when the session has opened or ended.
    fn watch_end(&mut self, at: At, op: u32) {
        let mut place = self.ops[op as usize].place;
        if let Some(endpoint) = &mut self.end(at).endpoint {
            endpoint.watch(&mut place, |_| op);
        }
        self.ops[op as usize].place = place;
    }

    pub(crate) fn drop_cancelled(&mut self, asked: Token) {
        let waits = |op: &Op| !op.over && matches!(op.kind, Kind::Cancelled { token, .. } if token == asked);
        while let Some(op) = self.ops.iter().position(waits) {
            self.drop_op(op as u32, &ExitReason::Normal);
        }
    }

    /// A future is dropped.
    pub(crate) fn drop_op(&mut self, op: u32, reason: &ExitReason) {
        let Op { proc, at, kind, over, .. } = self.ops[op as usize];
        if over {
            return;
        }
        self.ops[op as usize].over = true;
        self.process(proc).ops.retain(|other| *other != op);
        self.process(proc).woken.retain(|other| *other != op);
        match kind {
            Kind::Cast { ticket, token } => {
                self.note(What::CastEnd { token, end: CastEnd::Withdrawn });
                self.session(at, |session, now| session.withdraw_cast(now, ticket));
            }
            Kind::Call { call, token } => {
                self.note(What::CallGivenUp { token });
                self.session(at, |session, now| session.cancel_call(now, call));
            }
            Kind::Flush(flush) => {
                self.note(What::FlushGivenUp { op });
                self.session(at, |session, _| session.forget_flush(flush));
            }
            Kind::Open => {
                let place = self.ops[op as usize].place;
                self.end(at).endpoint.as_mut().and_then(|endpoint| endpoint.unwatch(place));
                self.abandon_login(at);
                self.let_go(at, reason.clone());
            }
            Kind::Cancelled { token, .. } => self.note(What::AwaitsNoCancel { token }),
            Kind::Close => {
                let place = self.ops[op as usize].place;
                self.end(at).endpoint.as_mut().and_then(|endpoint| endpoint.unwatch(place));
            }
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

    // What processes do.

    fn do_something(&mut self, proc: Proc) {
        let many = |taste, here: usize| if self.plan.taste == taste { 6 * here } else { here };
        let weights = [
            (many(Taste::Flood, 5), 0_u8),
            (many(Taste::Calls, 5), 1),
            (many(Taste::Calls, 5), 2),
            (many(Taste::Links, 4), 3),
            (many(Taste::Links, 3), 4),
            (many(Taste::Endings, 1), 5),
            (2, 6),
            (2, 7),
        ];
        let weights = if self.plan.entangled { ENTANGLED } else { weights };
        let mut chosen = self.rng.below(weights.iter().map(|(weight, _)| weight).sum());
        for (weight, what) in weights {
            if chosen < weight {
                return match what {
                    0 | 1 => self.say_something(proc, what == 1),
                    2 => self.answer_something(proc),
                    3 => self.link_something(proc),
                    4 => self.monitor_something(proc),
                    5 => self.end_something(proc),
                    6 => self.give_something_up(proc),
                    _ => self.rest(proc),
                };
            }
            chosen -= weight;
        }
    }

    /// An end at which this process could say something: its own, or one of which it has a remote.
    fn an_end(&mut self, proc: Proc) -> Option<At> {
        let side = self.process(proc).side;
        if self.conns.is_empty() {
            return None;
        }
        let conn = self.rng.below(self.conns.len()) as u8;
        let at = At { conn, side };
        self.end(at).is_open().then_some(at)
    }

    fn say_something(&mut self, proc: Proc, call: bool) {
        let Some(at) = self.an_end(proc) else { return };
        let token = self.fresh_token();
        let mut payload = self.payload(token);
        if call {
            let micros = if self.plan.hurried { HURRIED } else { UNHURRIED };
            let deadline = self.now + Duration::from_micros(self.rng.pick(&micros));
            let made = self.session(at, |session, now| session.call(now, deadline, &mut payload));
            let Some(Ok(call)) = made else { return };
            self.counts.calls += 1;
            let by = deadline.duration_since(self.base);
            self.note(What::Call { at, proc, token, deadline: by });
            let op = self.op(proc, at, Kind::Call { call, token });
            self.poll_op(op);
            return;
        }
        if self.rng.once_in(8) {
            let flushed = self.session(at, |session, _| session.flush());
            let Some(flush) = flushed else { return };
            let op = self.op(proc, at, Kind::Flush(flush));
            self.note(What::Flush { at, op });
            self.poll_op(op);
            return;
        }
        let made = if self.rng.once_in(4) {
            self.session(at, |session, _| session.try_cast(&mut payload).map(|()| None))
        } else if self.rng.once_in(6)
            && let Pid::Far { conn, id } = self.a_pid(proc)
            && conn == at.conn
            && id != 0
        {
            self.session(at, |session, _| session.try_cast_to(id, &mut payload).map(|()| None))
        } else {
            self.session(at, |session, now| session.cast(now, &mut payload))
        };
        let (end, ticket) = match made {
            None => return,
            Some(Ok(None)) => (CastEnd::Sent, None),
            Some(Ok(ticket)) => (CastEnd::Queued, ticket),
            Some(Err(Unsendable::Ended(reason))) => (CastEnd::Ended(reason), None),
            Some(Err(_)) => (CastEnd::Refused, None),
        };
        self.note(What::Cast { at, proc, token, end });
        if let Some(ticket) = ticket {
            let op = self.op(proc, at, Kind::Cast { ticket, token });
            self.poll_op(op);
        }
    }

    fn answer_something(&mut self, proc: Proc) {
        let len = self.process(proc).owed.len();
        if len == 0 {
            return;
        }
        let place = self.rng.below(len);
        let owed = self.process(proc).owed[place];
        if self.rng.once_in(6) {
            // One at a time waits for that.
            self.drop_cancelled(owed.token);
            let op = self.op(proc, owed.at, Kind::Cancelled { call: owed.call, token: owed.token });
            self.note(What::AwaitsCancel { proc, token: owed.token });
            self.poll_op(op);
            return;
        }
        self.process(proc).owed.swap_remove(place);
        let answer = self.rng.pick(&[
            Answer::Reply,
            Answer::Reply,
            Answer::Reply,
            Answer::Reply,
            Answer::Refused,
            Answer::Dropped,
            Answer::TooLong,
        ]);
        self.reply(owed, answer);
    }

    /// A process that this one may know.
    fn a_pid(&mut self, proc: Proc) -> Pid {
        let side = self.process(proc).side;
        if self.conns.is_empty() || (!self.plan.entangled && self.rng.once_in(4)) {
            let local = self.rng.below(self.procs.len()) as Proc;
            if self.process(local).side == side {
                return Pid::Local(local);
            }
        }
        let conn = self.rng.below(self.conns.len().max(1)) as u8;
        if usize::from(conn) >= self.conns.len() {
            return Pid::Local(proc);
        }
        let names = &self.conns[usize::from(conn)].ends[side.other() as usize].names;
        let id = match self.rng.below(8) {
            0..3 => 0,
            3 if self.plan.entangled => 0,
            3 => 99,
            _ if names.is_empty() => 0,
            _ => names[self.rng.below(names.len())].0,
        };
        Pid::Far { conn, id }
    }

    /// One that it was linked to before, most of the time.
    fn a_peer(&mut self, proc: Proc) -> Pid {
        let peers: Vec<Pid> = self.process(proc).links.links().copied().collect();
        if peers.is_empty() || self.rng.once_in(4) {
            return self.a_pid(proc);
        }
        peers[self.rng.below(peers.len())]
    }

    fn can_name(&mut self, proc: Proc, pid: Pid) -> bool {
        let side = self.process(proc).side;
        match pid {
            Pid::Far { conn, .. } => self.end(At { conn, side }).is_open(),
            Pid::Local(_) => true,
            Pid::Watch { .. } => false,
        }
    }

    fn link_something(&mut self, proc: Proc) {
        if self.process(proc).task {
            return;
        }
        let unlink = self.rng.once_in(2);
        let to = if unlink { self.a_peer(proc) } else { self.a_pid(proc) };
        if !self.can_name(proc, to) || (!unlink && self.is_doubtful(proc, to)) {
            return;
        }
        if unlink {
            self.unlink(proc, to);
        } else {
            self.link(proc, to);
        }
        if self.plan.entangled {
            return self.go_on_entangled(proc, to, unlink);
        }
        if unlink && self.plan.crossing {
            self.process(proc).doing.push_back(Doing::LinkAgain { to });
            return self.cross(proc, to);
        }
        if unlink && self.plan.restless {
            match self.rng.below(4) {
                0 | 1 => self.process(proc).doing.push_back(Doing::LinkAgain { to }),
                2 => self.give_away(proc),
                _ => {}
            }
        }
    }

    /// The other side of a link that `proc` has taken back does the same, and may link again as well.
    fn cross(&mut self, proc: Proc, to: Pid) {
        let Pid::Far { conn, id } = to else { return };
        let here = At { conn, side: self.process(proc).side };
        let Some(other) = self.named(here.far(), id) else { return };
        let names: Vec<Pid> = self.process(other).links.links().copied().collect();
        let back = names.into_iter().find(|name| {
            matches!(*name, Pid::Far { conn: back, id } if back == conn && self.named(here, id) == Some(proc))
        });
        if let Some(back) = back.filter(|_| self.process(other).is_alive() && self.rng.once_in(2)) {
            self.unlink(other, back);
            if !self.rng.once_in(4) {
                self.process(other).doing.push_back(Doing::LinkAgain { to: back });
            }
        }
    }

    /// The process that the peer of `at` means by this number.
    fn named(&self, at: At, id: u64) -> Option<Proc> {
        self.conns[usize::from(at.conn)].ends[at.side as usize].named(id)
    }

    /// What comes behind a link or an unlink before anybody has heard of it.
    fn go_on_entangled(&mut self, proc: Proc, to: Pid, unlinked: bool) {
        match self.rng.below(12) {
            0..4 if unlinked => self.process(proc).doing.push_back(Doing::LinkAgain { to }),
            0..2 => {
                self.unlink(proc, to);
                self.process(proc).doing.push_back(Doing::LinkAgain { to });
            }
            4..7 => self.give_away(proc),
            7 => {
                let reason = self.a_reason();
                self.decide(proc, reason);
            }
            _ => {}
        }
    }

    /// Gives a channel that this process reads to another, if there is one.
    fn give_away(&mut self, proc: Proc) {
        let Some(at) = self.process(proc).reads.first().copied() else { return };
        let to = self.rng.below(self.procs.len()) as Proc;
        let side = self.process(proc).side;
        if to >= 4 && to != proc && self.process(to).side == side {
            self.give_to(proc, at, to);
        }
    }

    /// Whether `other` has linked to `proc` as the owner of `at`, and `proc` to `other` under a name of its own.
    fn has_two_names(&self, at: At, proc: Proc, other: Proc) -> bool {
        let by_role = Pid::Far { conn: at.conn, id: 0 };
        let names = &self.conns[usize::from(at.conn)].ends[at.side.other() as usize].names;
        self.link_ops.contains(&(other, by_role))
            && names.iter().any(|(id, named)| {
                *named == other && self.link_ops.contains(&(proc, Pid::Far { conn: at.conn, id: *id }))
            })
    }

    /// An owner has two names, its role and the one that a link of its own gave it. The peer cannot know that they are
    /// one, so what holds between them is not that of one link.
    pub(crate) fn is_doubtful(&mut self, proc: Proc, to: Pid) -> bool {
        let Pid::Far { conn, id } = to else { return false };
        let here = At { conn, side: self.process(proc).side };
        if id == 0 {
            return false;
        }
        let there = self.end(here.far());
        let named = there.names.iter().rev().find(|(name, _)| *name == id).map(|(_, proc)| *proc);
        named.is_some() && named == there.owner
            || self.end(here).owner == Some(proc) && self.named_by_link(here.far(), id)
    }

    fn named_by_link(&self, at: At, id: u64) -> bool {
        let end = &self.conns[usize::from(at.conn)].ends[at.side as usize];
        end.linked_names.contains(&id)
    }

    fn monitor_something(&mut self, proc: Proc) {
        if self.process(proc).task {
            return;
        }
        let monitors = self.process(proc).monitors.len();
        if monitors > 0 && self.rng.once_in(3) {
            let place = self.rng.below(monitors);
            let monitor = self.process(proc).monitors[place];
            return self.demonitor(proc, monitor);
        }
        let to = self.a_pid(proc);
        if self.can_name(proc, to) {
            self.monitor(proc, to);
        }
    }

    pub(crate) fn a_reason(&mut self) -> ExitReason {
        self.rng.pick(&[0, 0, 1, 2, 3, 4]).try_into().map_or(ExitReason::Normal, |kind: u8| match kind {
            0 => ExitReason::Normal,
            1 => ExitReason::Shutdown,
            2 => ExitReason::failed("simulated"),
            3 => ExitReason::Panic,
            _ => ExitReason::Kill,
        })
    }

    fn end_something(&mut self, proc: Proc) {
        let reason = self.a_reason();
        let reads = self.process(proc).reads.clone();
        let mut kind = self.rng.below(16);
        if self.plan.gives_up && !reads.is_empty() && self.rng.once_in(2) {
            kind = self.rng.pick(&[8, 9]);
        }
        match kind {
            0..3 => self.decide(proc, reason),
            3..6 => {
                let to = self.a_pid(proc);
                if self.can_name(proc, to) && !self.process(proc).task {
                    self.send_exit(proc, to, reason);
                }
            }
            6 | 7 if !reads.is_empty() => {
                let at = reads[self.rng.below(reads.len())];
                self.process(proc).reads.retain(|read| *read != at);
                self.let_go(at, ExitReason::Normal);
                if self.rng.once_in(2) {
                    let op = self.op(proc, at, Kind::Close);
                    self.poll_op(op);
                }
            }
            8 if !reads.is_empty() => self.give_up_channel(proc, reads[0]),
            9 | 15 if !reads.is_empty() => self.give_away(proc),
            10 => {
                let Some(at) = self.an_end(proc) else { return };
                self.last_remote_gone(at);
            }
            11 => {
                if let Some(at) = self.an_end(proc).filter(|at| at.side == Side::Server)
                    && self.rng.once_in(4)
                {
                    self.break_off(at, ExitReason::Revoked);
                }
            }
            12 => {
                if self.procs.len() < MAX_PROCS {
                    let (side, task) = (self.process(proc).side, self.rng.once_in(4));
                    let child = self.spawn(side, task);
                    if side == Side::Client && self.rng.once_in(2) {
                        self.connect(child);
                    }
                }
            }
            13 => {
                let trap_exit = self.process(proc).trap_exit;
                self.process(proc).trap_exit = !trap_exit;
            }
            14 => {
                if let Some(at) = self.an_end(proc) {
                    self.session(at, |session, _| session.go_away());
                }
            }
            _ => {
                // A session that is not open yet is nobody's, and would wait for a process that is stuck.
                let opens = self.ops.iter().any(|op| op.proc == proc && !op.over && op.kind == Kind::Open);
                if self.rng.once_in(8) && !opens {
                    self.process(proc).stuck = true;
                }
            }
        }
    }

    fn give_something_up(&mut self, proc: Proc) {
        let len = self.process(proc).ops.len();
        if len > 0 {
            let place = self.rng.below(len);
            let op = self.process(proc).ops[place];
            if self.ops[op as usize].kind != Kind::Open {
                self.drop_op(op, &ExitReason::Normal);
            }
        }
    }

    fn rest(&mut self, proc: Proc) {
        if self.rng.once_in(3) {
            let micros = self.rng.pick(&[1_000, 500_000, 20_000_000, 200_000_000]);
            self.process(proc).deaf_until = Some(self.now + Duration::from_micros(micros));
        }
    }

    // What goes wrong.

    pub(crate) fn cut(&mut self, conn: u8) {
        let latency = self.latency();
        let at = self.now + latency;
        for pipe in &mut self.conns[usize::from(conn)].pipes {
            pipe.finish(at);
            pipe.break_off();
        }
    }

    /// Whether this connection can still be hurt.
    fn is_there(&self, conn: u8) -> bool {
        self.conns[usize::from(conn)].ends.iter().any(|end| !end.gone)
    }

    fn fault(&mut self) {
        if self.conns.is_empty() {
            return;
        }
        let conn = self.rng.below(self.conns.len()) as u8;
        let side = self.rng.below(2);
        let after = self.rng.pick(&[0, 0, 3, 20, 200]);
        let after = self.rng.below(after + 1);
        let now = self.now;
        // What hits nothing is not counted.
        let there = u64::from(self.is_there(conn));
        let fault = match self.rng.below(16) {
            0 => {
                self.counts.cuts += there;
                self.cut(conn);
                Fault::Cut
            }
            1 | 2 => {
                self.counts.cuts += there;
                self.conns[usize::from(conn)].pipes[side].cut_after(after);
                Fault::Cut
            }
            3 => {
                self.counts.resets += there;
                self.conns[usize::from(conn)].pipes.iter_mut().for_each(|pipe| pipe.reset(now));
                Fault::Reset
            }
            4 | 5 => {
                self.counts.half_opens += there;
                let pipes = &mut self.conns[usize::from(conn)].pipes;
                pipes[side].open_hole(after);
                if self.rng.once_in(2) {
                    self.conns[usize::from(conn)].pipes[1 - side].open_hole(0);
                }
                Fault::HalfOpen
            }
            6 => {
                self.counts.stalls += there;
                let seconds = self.rng.pick(&[30, 200]);
                self.conns[usize::from(conn)].pipes[side].trickle(now + Duration::from_secs(seconds));
                Fault::Stall
            }
            7..10 => {
                self.counts.stalls += there;
                let millis = self.rng.pick(&[10, 1000, 10_000, 70_000]);
                let until = now + Duration::from_millis(millis);
                self.conns[usize::from(conn)].pipes[side].freeze(until);
                Fault::Stall
            }
            10..15 => {
                let proc = self.rng.below(self.procs.len()) as Proc;
                self.counts.kills += u64::from(self.process(proc).is_alive());
                self.decide(proc, ExitReason::Killed);
                Fault::Kill
            }
            _ => {
                self.counts.kills += u64::from(!self.dead[side]);
                let quietly = self.rng.once_in(2);
                self.program_dies(Side::BOTH[side], quietly);
                Fault::Kill
            }
        };
        self.note(What::Fault { conn, fault });
    }

    /// A program dies: nobody in it says anything any more. `quietly`: its machine does not either.
    fn program_dies(&mut self, side: Side, quietly: bool) {
        if std::mem::replace(&mut self.dead[side as usize], true) {
            return;
        }
        self.note(What::ProgramDied { side });
        for at in self.ats().filter(|at| at.side == side) {
            self.end(at).endpoint = None;
            if std::mem::replace(&mut self.end(at).gone, true) {
                continue;
            }
            self.end(at).login = None;
            if quietly {
                let pipes = &mut self.conns[usize::from(at.conn)].pipes;
                pipes[side as usize].open_hole(0);
                pipes[side.other() as usize].open_hole(0);
            } else {
                self.close_socket(at);
            }
        }
        for proc in 0..self.procs.len() as Proc {
            if self.process(proc).side == side {
                self.lose(proc);
            }
        }
        for op in &mut self.ops {
            op.over |= self.procs[usize::from(op.proc)].life == Life::Lost;
        }
    }

    // How a run ends.

    /// Nobody begins anything, everybody listens: until all that waits has its end.
    pub(crate) fn settle(&mut self, seed: u64, phase: u64, patience: Duration) {
        self.calm = true;
        for process in &mut self.procs {
            process.deaf_until = None;
        }
        let until = self.now + patience;
        let mut step = 0;
        loop {
            step += 1;
            self.rng = Seeded::of_step(seed, (phase << 32) + step);
            if step > 200_000 {
                let next: Vec<_> = self.ats().map(|at| self.next_time(at)).collect();
                self.violations.push(Violation::new(
                    "it never comes to rest",
                    format!("{:?} {next:?} {:?}", self.now, self.drives),
                ));
                return;
            }
            if self.act() {
                continue;
            }
            if !self.is_waiting() || !self.pass_time(Some(until)) {
                return;
            }
        }
    }

    /// Whether anything is under way.
    fn is_waiting(&self) -> bool {
        let waits = |op: &Op| !op.over && !matches!(op.kind, Kind::Cancelled { .. });
        self.ops.iter().any(waits)
            || self.ats().any(|at| {
                let conn = &self.conns[usize::from(at.conn)];
                let end = &conn.ends[at.side as usize];
                !end.gone
                    && (end.is_over()
                        || end.login.is_some()
                        || conn.pipes.iter().any(Pipe::has_unread)
                        || end.session().is_some_and(|session| {
                            !session.is_open() || session.has_let_go() || session.unsent() > 0
                        }))
            })
    }

    /// After a rest: nobody waits for what is there already, and both sides know the same of every link.
    pub(crate) fn check_rest(&mut self) {
        for op in 0..self.ops.len() as u32 {
            let Op { proc, kind, over, .. } = self.ops[op as usize];
            if over || !self.process(proc).is_alive() {
                continue;
            }
            if self.poll_op(op) {
                self.violations.push(Violation::new("nobody was woken", format!("{kind:?} of {proc}")));
            } else if !matches!(kind, Kind::Cancelled { .. }) {
                self.violations.push(Violation::new("it waits for ever", format!("{kind:?} of {proc}")));
            }
        }
        self.check_agreement();
        self.check_tables();
        self.note(What::Rest);
    }

    /// The tables of a session hold no more than what processes have.
    fn check_tables(&mut self) {
        for at in self.ats() {
            let records: usize = self.procs.iter().map(|process| process.links.len()).sum();
            let waits = |op: &&Op| !op.over && op.at == at;
            let ops = self.ops.iter().filter(waits).count();
            // Of the calls that the other end took, those that nobody waits for any more are known here too.
            let is_call = |op: &Op, of| matches!(op.kind, Kind::Call { token, .. } if token == of);
            let is_waited = |token| self.ops.iter().filter(waits).any(|op| is_call(op, token));
            let is_known = |owed: &&Owed| owed.at == at || owed.at == at.far() && !is_waited(owed.token);
            let owed = self.procs.iter().flat_map(|process| &process.owed).filter(is_known).count();
            // What the other end never answers is kept until the session ends.
            let hole = self.conns[usize::from(at.conn)].pipes.iter().any(Pipe::has_hole);
            let far_over = self.end(at.far()).is_over();
            let end = self.end(at);
            let idle = end.is_idle() && (!hole && !far_over || end.is_over());
            let Some(endpoint) = end.endpoint.as_ref().filter(|_| idle) else { continue };
            let entries = endpoint.session().entries();
            // Besides its owner.
            let held = endpoint.entries() - entries > 1 && !endpoint.claims().is_paused();
            let given_to = end.given_to;
            if entries > 3 * records + ops + owed {
                let detail = format!("{at:?}: {entries}, and {records} records, {ops} waits, {owed} calls");
                self.violations.push(Violation::new("a table holds what nobody has", detail));
            }
            if held
                && let Some(proc) = given_to
                && self.process(proc).is_alive()
                && self.process(proc).mailbox.is_empty()
            {
                self.violations.push(Violation::new("a held message is taken", format!("{at:?} by {proc}")));
            }
        }
    }

    fn check_agreement(&mut self) {
        for conn in 0..self.conns.len() as u8 {
            let [client, server] = Side::BOTH.map(|side| At { conn, side });
            let both_open = [client, server].iter().all(|at| {
                let end = &self.conns[usize::from(conn)].ends[at.side as usize];
                end.is_open() && !end.is_over() && end.is_idle()
            });
            // Patience may have ended before a connection of long delays came to rest: what is on its way changes what
            // an end knows.
            let pipes = &self.conns[usize::from(conn)].pipes;
            if !both_open || pipes.iter().any(|pipe| pipe.has_hole() || pipe.has_unread()) {
                continue;
            }
            for (here, there) in [(client, server), (server, client)] {
                self.check_links(here, there);
            }
        }
    }

    /// Every link that a process of `here` sees is one that the other sees too.
    fn check_links(&mut self, here: At, there: At) {
        let (ours, theirs) = (
            &self.conns[usize::from(here.conn)].ends[here.side as usize],
            &self.conns[usize::from(here.conn)].ends[there.side as usize],
        );
        let mut wrong = Vec::new();
        for (proc, process) in (0..).zip(&self.procs) {
            if process.side != here.side || !process.is_alive() {
                continue;
            }
            for link in process.links.links() {
                let Pid::Far { conn, id } = *link else { continue };
                if conn != here.conn {
                    continue;
                }
                let by_the_end = ours.session().is_some_and(Session::is_linked) && ours.owner == Some(proc);
                if id == 0 && (by_the_end || theirs.owner.is_none()) {
                    continue;
                }
                let other = theirs.named(id);
                if other.is_some_and(|other| {
                    self.has_two_names(here, proc, other) || self.has_two_names(there, other, proc)
                }) {
                    continue;
                }
                let agrees = other.is_some_and(|other| {
                    let other = &self.procs[usize::from(other)];
                    // One that is stuck says nothing, and sees nothing.
                    !other.is_alive() && other.stuck
                        || other.links.links().any(|back| {
                            matches!(*back, Pid::Far { conn: back_conn, id } if back_conn == conn && ours.named(id) == Some(proc))
                        })
                });
                if !agrees {
                    wrong.push(format!("{here:?}: {proc} is linked to {id}"));
                }
            }
        }
        for detail in wrong {
            self.violations.push(Violation::new("one side of a link knows nothing of it", detail));
        }
        let lost: Vec<_> = self.wants.iter().filter(|want| self.is_lost_link(here, there, **want)).collect();
        for (proc, to) in lost {
            let detail = format!("{here:?}: {proc} to {to:?}");
            self.violations.push(Violation::new("a link that both sides made is there", detail));
        }
    }

    /// Whether `proc` of `here` and a process of `there` have linked to each other last, under ids of their own, and
    /// `proc` has no link.
    fn is_lost_link(&self, here: At, there: At, (proc, to): (Proc, Pid)) -> bool {
        let Pid::Far { conn, id } = to else { return false };
        let process = &self.procs[usize::from(proc)];
        if conn != here.conn || process.side != here.side || id == 0 {
            return false;
        }
        let end = |at: At| &self.conns[usize::from(conn)].ends[at.side as usize];
        let Some(other) = end(there).named(id) else { return false };
        if self.has_two_names(here, proc, other) || self.has_two_names(there, other, proc) {
            return false;
        }
        // Under whichever name: one without a link is forgotten, and the next link gets another.
        if process.links.links().any(|link| end(there).is_named(conn, *link, other)) {
            return false;
        }
        let backs = |(of, back): &(Proc, Pid)| {
            let is_owner = matches!(back, Pid::Far { id: 0, .. });
            *of == other && !is_owner && end(here).is_named(conn, *back, proc)
        };
        let both_live = [proc, other].iter().all(|proc| self.procs[usize::from(*proc)].is_alive());
        both_live && self.wants.iter().any(backs)
    }

    /// Everything ends, one way or another.
    pub(crate) fn finish(&mut self) {
        match self.rng.below(4) {
            0 => {
                for side in Side::BOTH {
                    if self.rng.once_in(2) {
                        let quietly = self.rng.once_in(2);
                        self.counts.kills += u64::from(!self.dead[side as usize]);
                        self.program_dies(side, quietly);
                    }
                }
            }
            1 => {
                for conn in 0..self.conns.len() as u8 {
                    self.counts.cuts += u64::from(self.is_there(conn));
                    self.cut(conn);
                    self.note(What::Fault { conn, fault: Fault::Cut });
                }
            }
            _ => {}
        }
    }

    /// Ends every process that is left.
    pub(crate) fn end_all(&mut self) {
        for proc in 0..self.procs.len() as Proc {
            let reason = self.a_reason();
            self.process(proc).stuck = false;
            self.decide(proc, reason);
        }
        for at in self.ats() {
            // The last remote of a channel that is no process's.
            self.let_go(at, ExitReason::Normal);
        }
    }

    /// At the very end nothing is left of anything.
    pub(crate) fn check_leavings(&mut self) {
        for at in self.ats() {
            let end = self.end(at);
            let idle = end.is_idle();
            let Some(endpoint) = &end.endpoint else { continue };
            let (entries, over) = (endpoint.entries(), endpoint.over().cloned());
            let deliveries = endpoint.has_deliveries();
            let gone = end.gone;
            if over.is_none() || !gone {
                self.violations
                    .push(Violation::new("a session never ended", format!("{at:?} {over:?} {gone}")));
            } else if entries > 0 {
                self.violations
                    .push(Violation::new("a table keeps an entry of the dead", format!("{at:?} {entries}")));
            } else if deliveries || !idle {
                self.violations.push(Violation::new("a delivery was never made", format!("{at:?}")));
            }
        }
        for proc in 0..self.procs.len() as Proc {
            let process = self.process(proc);
            if !process.is_gone() || !process.links.is_empty() {
                let detail = format!("{proc} {:?} {:?}", process.life, process.links);
                self.violations.push(Violation::new("a process never ended", detail));
            }
        }
    }
}
