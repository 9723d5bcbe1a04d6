//! The processes of both programs: a model with real link tables, in which each step that two threads could do at the
//! same time is a step of its own.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use lib_chan::{
    ExitReason,
    links::{ExitEffect, ExitSignal, Links, MonitorRef},
    session::{Endpoint, Inbound},
};

use crate::{
    log::{At, Pid, Proc, Side, Signal, Token, What},
    world::{Violation, World},
};

/// One process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) side: Side,
    pub(crate) life: Life,
    /// A task that is no process: nobody can link to it.
    pub(crate) task: bool,
    pub(crate) links: Links<Pid>,
    pub(crate) trap_exit: bool,
    pub(crate) mailbox: VecDeque<Letter>,
    /// What it awaits, by number.
    pub(crate) ops: Vec<u32>,
    /// Those of them that were woken.
    pub(crate) woken: Vec<u32>,
    /// The rest of what it was doing.
    pub(crate) doing: VecDeque<Doing>,
    /// Ends of sessions that end with it.
    pub(crate) owned: Vec<At>,
    /// Channels that it reads.
    pub(crate) reads: Vec<At>,
    /// Calls that it has taken and not answered.
    pub(crate) owed: Vec<Owed>,
    /// A session that waits for it to accept.
    pub(crate) opening: Option<At>,
    /// Its monitors.
    pub(crate) monitors: Vec<u64>,
    /// When it does the next thing.
    pub(crate) next_at: Instant,
    /// It takes nothing until then.
    pub(crate) deaf_until: Option<Instant>,
    /// It never comes to an await again.
    pub(crate) stuck: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    /// The end is decided; `parting` once its future was dropped.
    Ending {
        reason: ExitReason,
        parting: bool,
    },
    Gone,
    /// Its program is dead.
    Lost,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed {
    pub(crate) at: At,
    pub(crate) call: u64,
    pub(crate) token: Token,
}

#[derive(Debug)]
pub(crate) enum Letter {
    /// An exit signal became a message.
    Exit {
        receipt: Receipt,
    },
    Down,
    Fed {
        at: At,
        message: Inbound,
    },
    Ended {
        at: At,
        reason: ExitReason,
    },
    /// A cast to this process itself.
    Direct {
        at: At,
        id: u64,
        message: Inbound,
    },
}

/// An exit that came from the peer of this session, over a link or not: it counts until it is taken.
pub(crate) type Receipt = Option<(At, bool)>;

/// What one thread does after another could have done something.
#[derive(Clone, Debug)]
pub(crate) enum Doing {
    Signal { to: Pid, signal: Signal },
    Sent { to: Pid },
    AckDelivered { to: Pid, id: u64 },
    LinkAgain { to: Pid },
    Own { at: At, linked: bool },
    HandOver { at: At, to: Proc },
}

impl Process {
    pub(crate) fn new(side: Side, task: bool, now: Instant) -> Self {
        Self {
            side,
            life: Life::Alive,
            task,
            links: Links::default(),
            trap_exit: false,
            mailbox: VecDeque::new(),
            ops: Vec::new(),
            woken: Vec::new(),
            doing: VecDeque::new(),
            owned: Vec::new(),
            reads: Vec::new(),
            owed: Vec::new(),
            opening: None,
            monitors: Vec::new(),
            next_at: now,
            deaf_until: None,
            stuck: false,
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.life == Life::Alive
    }

    /// Whether nothing of it is left that could act.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.life, Life::Gone | Life::Lost)
    }
}

impl World {
    pub(crate) fn spawn(&mut self, side: Side, task: bool) -> Proc {
        let proc = self.procs.len() as Proc;
        let mut process = Process::new(side, task, self.now);
        process.trap_exit = self.rng.once_in(2);
        self.procs.push(process);
        self.note(What::Born { proc, side, task });
        proc
    }

    pub(crate) fn process(&mut self, proc: Proc) -> &mut Process {
        &mut self.procs[usize::from(proc)]
    }

    // What a process does to others. The first half changes its own table; the rest waits in `doing`.

    pub(crate) fn link(&mut self, proc: Proc, to: Pid) {
        if to == Pid::Local(proc) {
            return;
        }
        let request = self.process(proc).links.link(to);
        self.link_ops.insert((proc, to));
        self.wants.insert((proc, to));
        self.note(What::LinkOp { proc, to, fresh: request.link });
        let doing = &mut self.process(proc).doing;
        if let Some(id) = request.ack {
            doing.push_back(Doing::Signal { to, signal: Signal::UnlinkAck { id } });
        }
        if request.link {
            doing.push_back(Doing::Signal { to, signal: Signal::Link });
            if !matches!(to, Pid::Local(_)) {
                doing.push_back(Doing::Sent { to });
            }
        }
    }

    /// Forgets that this process has linked to that one, under whichever name: a name without a link is replaced.
    fn no_longer_wants(&mut self, proc: Proc, to: Pid) {
        self.wants.remove(&(proc, to));
        let Pid::Far { conn, id } = to else { return };
        let side = self.procs[usize::from(proc)].side.other();
        let end = &self.conns[usize::from(conn)].ends[side as usize];
        let Some(other) = end.named(id) else { return };
        self.wants.retain(|(of, to)| *of != proc || !end.is_named(conn, *to, other));
    }

    pub(crate) fn unlink(&mut self, proc: Proc, to: Pid) {
        let id = self.process(proc).links.unlink(&to);
        self.no_longer_wants(proc, to);
        self.note(What::UnlinkOp { proc, to, id });
        if let Some(id) = id {
            let doing = &mut self.process(proc).doing;
            doing.push_back(Doing::Signal { to, signal: Signal::Unlink { id } });
            doing.push_back(Doing::Sent { to });
        }
    }

    pub(crate) fn monitor(&mut self, proc: Proc, to: Pid) {
        if to == Pid::Local(proc) {
            return;
        }
        self.last_monitor += 1;
        let monitor = self.last_monitor;
        self.process(proc).links.monitor(MonitorRef::new(monitor), to);
        self.process(proc).monitors.push(monitor);
        self.note(What::MonitorOp { proc, monitor, to });
        self.process(proc).doing.push_back(Doing::Signal { to, signal: Signal::Monitor { monitor } });
    }

    pub(crate) fn demonitor(&mut self, proc: Proc, monitor: u64) {
        let to = self.process(proc).links.demonitor(MonitorRef::new(monitor));
        self.note(What::DemonitorOp { proc, monitor, was: to.is_some() });
        if let Some(to) = to {
            self.process(proc).doing.push_back(Doing::Signal { to, signal: Signal::Demonitor { monitor } });
        }
    }

    pub(crate) fn send_exit(&mut self, proc: Proc, to: Pid, reason: ExitReason) {
        self.note(What::ExitOp { proc, to, reason: reason.clone() });
        self.signal(Pid::Local(proc), to, Signal::Exit { reason, link: false });
    }

    /// The next half of what a process does.
    pub(crate) fn go_on(&mut self, proc: Proc) {
        let Some(doing) = self.process(proc).doing.pop_front() else { return };
        match doing {
            Doing::Signal { to, signal } => {
                if let (Pid::Local(other), Signal::Link) = (to, &signal) {
                    self.link_local(proc, other);
                } else {
                    self.signal(Pid::Local(proc), to, signal);
                }
            }
            Doing::Sent { to } => {
                if let Some(id) = self.process(proc).links.sent(&to) {
                    let doing = &mut self.process(proc).doing;
                    doing.push_front(Doing::AckDelivered { to, id });
                    doing.push_front(Doing::Signal { to, signal: Signal::UnlinkAck { id } });
                }
            }
            Doing::AckDelivered { to, id } => self.process(proc).links.ack_delivered(&to, id),
            Doing::LinkAgain { to } => {
                if self.process(proc).is_alive() && !self.is_doubtful(proc, to) {
                    self.link(proc, to);
                }
            }
            Doing::Own { at, linked } => self.own(at, Some(proc), linked),
            Doing::HandOver { at, to } => self.hand_over(at, to),
        }
    }

    /// Links within a program are made in one step, and fail in that step.
    fn link_local(&mut self, proc: Proc, other: Proc) {
        let (me, to) = (Pid::Local(proc), Pid::Local(other));
        let there = self.process(other);
        let linked = match there.life {
            _ if there.task => false,
            Life::Alive => {
                there.links.handle_link(me);
                true
            }
            Life::Ending { .. } => there.links.is_linked(&me),
            Life::Gone | Life::Lost => false,
        };
        if linked {
            self.note(What::Signal { proc: other, from: me, signal: Signal::Link, seen: true });
            if let Some(id) = self.process(proc).links.sent(&to) {
                self.signal(me, to, Signal::UnlinkAck { id });
                self.process(proc).links.ack_delivered(&to, id);
            }
            return;
        }
        if self.process(proc).links.link_failed(&to) {
            self.note(What::LinkFailed { proc, to });
            if self.process(proc).trap_exit {
                self.process(proc).mailbox.push_back(Letter::Exit { receipt: None });
            } else {
                self.decide(proc, ExitReason::NoProc);
            }
        }
    }

    // What reaches a process.

    /// A signal from one process to another, wherever that lives.
    pub(crate) fn signal(&mut self, from: Pid, to: Pid, signal: Signal) {
        match to {
            Pid::Local(proc) => self.handle_signal(proc, from, signal, None),
            Pid::Far { conn, id } => {
                let Pid::Local(sender) = from else { return };
                let side = self.process(sender).side;
                self.signal_far(At { conn, side }, sender, id, signal);
            }
            Pid::Watch { conn, monitor } => {
                let Pid::Local(sender) = from else { return };
                let side = self.process(sender).side;
                if let Signal::Down { reason, .. } = signal {
                    self.down_far(At { conn, side }, monitor, reason);
                }
            }
        }
    }

    /// `receipt`: where it is an exit that a peer can cause any number of.
    pub(crate) fn handle_signal(&mut self, proc: Proc, from: Pid, signal: Signal, receipt: Receipt) {
        let me = Pid::Local(proc);
        if self.process(proc).life == Life::Lost {
            return;
        }
        if self.process(proc).is_gone() || self.process(proc).task {
            self.note(What::Signal { proc, from, signal: signal.clone(), seen: false });
            match signal {
                Signal::Link => {
                    self.signal(me, from, Signal::Exit { reason: ExitReason::NoProc, link: true });
                }
                Signal::Unlink { id } => self.signal(me, from, Signal::UnlinkAck { id }),
                Signal::Monitor { monitor } => {
                    self.signal(me, from, Signal::Down { monitor, reason: ExitReason::NoProc });
                }
                _ => {}
            }
            self.exit_taken(receipt);
            return;
        }
        let there = self.process(proc);
        let alive = there.is_alive();
        let mut seen = true;
        let mut answer = None;
        match &signal {
            Signal::Link => {
                if alive {
                    there.links.handle_link(from);
                } else if !there.links.is_linked(&from) {
                    seen = false;
                    answer = Some(Signal::Exit { reason: ExitReason::NoProc, link: true });
                }
            }
            Signal::Unlink { id } => {
                if there.links.handle_unlink(from, *id) {
                    answer = Some(Signal::UnlinkAck { id: *id });
                }
            }
            Signal::UnlinkAck { id } => there.links.handle_unlink_ack(&from, *id),
            Signal::Monitor { monitor } => {
                if alive {
                    there.links.handle_monitor(MonitorRef::new(*monitor), from);
                } else {
                    seen = false;
                    answer = Some(Signal::Down { monitor: *monitor, reason: ExitReason::NoProc });
                }
            }
            Signal::Demonitor { monitor } => {
                seen = there.links.handle_demonitor(MonitorRef::new(*monitor)).is_some();
            }
            Signal::Exit { reason, link } => {
                return self.handle_exit(proc, from, reason.clone(), *link, receipt);
            }
            Signal::Down { monitor, .. } => {
                seen = there.links.handle_down(MonitorRef::new(*monitor)).is_some() && alive;
                if seen {
                    there.mailbox.push_back(Letter::Down);
                }
            }
        }
        self.note(What::Signal { proc, from, signal, seen });
        if let Some(answer) = answer {
            self.answer(proc, from, answer);
        }
    }

    /// An acknowledgement goes out in two steps where another thread can come between.
    fn answer(&mut self, proc: Proc, to: Pid, answer: Signal) {
        if let (Pid::Far { conn, .. }, Signal::UnlinkAck { id }) = (to, &answer) {
            let side = self.process(proc).side;
            let end = self.end(At { conn, side });
            end.acknowledging.push_back((proc, to, *id));
            if self.plan.crossing && self.rng.once_in(4) {
                // While the acknowledgement is owed.
                self.process(proc).doing.push_back(Doing::LinkAgain { to });
            }
            return;
        }
        let id = if let Signal::UnlinkAck { id } = answer { Some(id) } else { None };
        self.signal(Pid::Local(proc), to, answer);
        if let Some(id) = id {
            self.process(proc).links.ack_delivered(&to, id);
        }
    }

    fn handle_exit(&mut self, proc: Proc, from: Pid, reason: ExitReason, link: bool, receipt: Receipt) {
        let there = self.process(proc);
        let (trap_exit, alive) = (there.trap_exit, there.is_alive());
        let own = from == Pid::Local(proc);
        let verdict =
            there.links.handle_exit(ExitSignal { from: &from, reason: &reason, link, own }, trap_exit);
        let seen = alive && verdict != ExitEffect::Drop;
        if link && seen {
            self.no_longer_wants(proc, from);
        }
        self.note(What::Signal { proc, from, signal: Signal::Exit { reason, link }, seen });
        match verdict {
            ExitEffect::Deliver if alive => self.process(proc).mailbox.push_back(Letter::Exit { receipt }),
            ExitEffect::Drop | ExitEffect::Deliver => self.exit_taken(receipt),
            ExitEffect::End(reason) => {
                self.exit_taken(receipt);
                self.decide(proc, reason);
            }
        }
    }

    // How one ends.

    /// From now on it is not alive, and what it owns is told.
    pub(crate) fn decide(&mut self, proc: Proc, reason: ExitReason) {
        if !self.process(proc).is_alive() {
            return;
        }
        self.process(proc).life = Life::Ending { reason: reason.clone(), parting: false };
        self.note(What::Decided { proc, reason: reason.clone() });
        if self.process(proc).stuck {
            self.note(What::Stuck { proc });
        }
        for at in std::mem::take(&mut self.process(proc).owned) {
            // One that is over stays for as long as messages are held for the process.
            let is_kept =
                |endpoint: &Endpoint<_>| endpoint.over().is_some() && endpoint.claims().is_straight();
            if self.end(at).endpoint.as_ref().is_some_and(is_kept) {
                let detail = format!("{proc} {at:?}");
                self.violations.push(Violation::new("a process keeps no session that is over", detail));
            }
            self.let_go(at, reason.clone());
        }
    }

    /// Drops its future, then tells its links and monitors, one a step.
    pub(crate) fn end_step(&mut self, proc: Proc) {
        let Life::Ending { reason, parting } = self.process(proc).life.clone() else { return };
        if !parting {
            self.drop_future(proc, &reason);
            self.process(proc).life = Life::Ending { reason, parting: true };
            return;
        }
        if self.process(proc).links.is_empty() {
            self.process(proc).life = Life::Gone;
            self.note(What::Gone { proc });
            return;
        }
        let parting = self.process(proc).links.part();
        let doing = |to, signal| Doing::Signal { to, signal };
        let mut told = VecDeque::new();
        for to in parting.links {
            self.note(What::Parted { proc, to });
            told.push_back(doing(to, Signal::Exit { reason: reason.clone(), link: true }));
        }
        for (monitor, to) in parting.watchers {
            told.push_back(doing(to, Signal::Down { monitor: monitor.number(), reason: reason.clone() }));
        }
        for (monitor, to) in parting.watched {
            told.push_back(doing(to, Signal::Demonitor { monitor: monitor.number() }));
        }
        self.process(proc).doing = told;
    }

    fn drop_future(&mut self, proc: Proc, reason: &ExitReason) {
        for op in std::mem::take(&mut self.process(proc).ops) {
            self.drop_op(op, reason);
        }
        self.process(proc).woken.clear();
        for at in std::mem::take(&mut self.process(proc).reads) {
            self.end(at).reader = None;
            // That of a process was let go when the end was decided.
            self.let_go(at, ExitReason::Normal);
        }
        for letter in std::mem::take(&mut self.process(proc).mailbox) {
            match letter {
                Letter::Exit { receipt } => self.exit_taken(receipt),
                Letter::Direct { at, id, message } => self.discard_direct(at, id, &message),
                _ => {}
            }
        }
        for owed in std::mem::take(&mut self.process(proc).owed) {
            self.drop_reply(owed);
        }
        if let Some(at) = self.process(proc).opening.take() {
            self.refuse_start(at);
        }
    }

    /// Its program died: nothing of it does anything any more, and nobody is told.
    pub(crate) fn lose(&mut self, proc: Proc) {
        let there = self.process(proc);
        if there.life != Life::Gone {
            there.life = Life::Lost;
        }
        there.ops.clear();
        there.woken.clear();
        there.doing.clear();
        there.mailbox.clear();
        there.reads.clear();
        there.owed.clear();
        there.owned.clear();
        there.links = Links::default();
    }

    pub(crate) fn think(&mut self, proc: Proc) {
        let think = match self.rng.below(4) {
            0 => self.rng.below(self.plan.think + 1),
            _ => 0,
        };
        self.process(proc).next_at = self.now + Duration::from_micros(think as u64);
    }
}
