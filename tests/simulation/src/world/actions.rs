//! The actions of processes: each is chosen at random, from those that the process can do.

use std::time::Duration;

use lib_chan::{ExitReason, session::Unsendable};

use crate::{
    log::{Answer, At, CastEnd, Pid, Proc, Side, What},
    plan::Taste,
    process::Doing,
};

use super::{ENTANGLED, HURRIED, Kind, MAX_PROCS, UNHURRIED, World};

impl World {
    pub(super) fn do_something(&mut self, proc: Proc) {
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
    pub(super) fn has_two_names(&self, at: At, proc: Proc, other: Proc) -> bool {
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
}
