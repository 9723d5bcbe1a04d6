//! Checks of a world at rest: nobody waits for what is there, and both ends agree about every link.

use std::time::Duration;

use lib_chan::{ExitReason, session::Session};

use crate::{
    log::{At, Fault, Pid, Proc, Side, What},
    net::Pipe,
    process::Owed,
    seeded::Seeded,
};

use super::{Kind, Op, Violation, World};

impl World {
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
