//! Faults: connections that are cut, reset, silent or stalled, processes that are killed, programs that die.

use std::time::Duration;

use lib_chan::ExitReason;

use crate::{
    log::{Fault, Proc, Side, What},
    process::Life,
};

use super::World;

impl World {
    pub(crate) fn cut(&mut self, conn: u8) {
        let latency = self.latency();
        let at = self.now + latency;
        for pipe in &mut self.conns[usize::from(conn)].pipes {
            pipe.finish(at);
            pipe.break_off();
        }
    }

    /// Whether this connection can still be hurt.
    pub(super) fn is_there(&self, conn: u8) -> bool {
        self.conns[usize::from(conn)].ends.iter().any(|end| !end.gone)
    }

    pub(super) fn fault(&mut self) {
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
    pub(super) fn program_dies(&mut self, side: Side, quietly: bool) {
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
}
