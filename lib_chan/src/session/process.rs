//! What processes of this end do to those of the far end.

use std::time::Instant;

use super::{Delivery, Host, Rights, Session, border::OWNER};
use crate::{ExitReason, wire::Frame};

impl<H: Host> Session<H> {
    /// Makes `owner` the holder of id 0, linked to the far owner or not. Once the session is over nobody holds it any
    /// more, and a link to the far owner ends as it is made.
    pub(crate) fn set_owner(&mut self, owner: Option<H::Process>, linked: bool) {
        let Some(reason) = self.over.clone() else {
            return self.border.set_owner(owner, linked, &mut self.deliveries);
        };
        if let Some(to) = owner.filter(|_| linked) {
            self.deliveries.push(Delivery::Link { from: OWNER, to: to.clone() });
            self.deliveries.push(Delivery::Exit { from: OWNER, to, reason, link: true, provoked: false });
        }
    }

    /// Whether the owner is linked to the far owner by the session's end itself.
    pub const fn is_linked(&self) -> bool {
        self.border.is_linked()
    }

    /// The process that holds id 0, if it is one.
    pub const fn owner(&self) -> Option<&H::Process> {
        self.border.owner()
    }

    /// Lets the peer reach `process` under the id returned.
    pub fn hand_out(&mut self, process: H::Process, rights: Rights) -> u64 {
        self.border.hand_out(process, rights)
    }

    /// A process that was handed out took messages of this cost: the peer may send it as much more.
    pub fn give_back_to(&mut self, process: &H::Process, cost: u64) {
        let frame = self.border.give_back(process, cost);
        self.put_border(frame);
    }

    /// `process` links to the far process `far`.
    pub fn link(&mut self, process: H::Process, far: u64) {
        if self.over.is_some() {
            let (reason, link) = (ExitReason::NoConnection, true);
            return self.deliveries.push(Delivery::Exit {
                from: far,
                to: process,
                reason,
                link,
                provoked: false,
            });
        }
        let frame = self.border.link(&process, far, self.far_terms.max_links, &mut self.deliveries);
        self.put_border(frame);
    }

    /// `process` unlinks from the far process `far`, with this number.
    pub fn unlink(&mut self, process: H::Process, far: u64, unlink: u64) {
        match self.border.unlink(&process, far, unlink) {
            Some(frame) => self.put_border(Some(frame)),
            None => self.deliveries.push(Delivery::UnlinkAck { from: far, to: process, unlink }),
        }
    }

    /// `process` acknowledges an unlink of the far process `far`. A second time has no effect.
    pub fn unlink_ack(&mut self, process: &H::Process, far: u64, unlink: u64) {
        let frame = self.border.unlink_ack(process, far, unlink);
        self.put_border(frame);
    }

    /// How many exit signals that the peer [provoked](Delivery::Exit::provoked) no process has taken or ended with yet:
    /// those that it sent explicitly, and those of links. Said before bytes are handled.
    pub(crate) const fn set_untaken_exits(&mut self, explicit: usize, of_links: usize) {
        self.untaken_exits = explicit;
        self.untaken_ends = of_links;
    }

    /// `process` sends an exit signal to `far`: over a link when `taken` says what it took last.
    pub fn exit(&mut self, process: &H::Process, far: u64, taken: Option<u64>, reason: ExitReason) {
        match taken {
            Some(taken) => {
                let frames = self.border.exit_link(process, far, taken, reason);
                frames.into_iter().for_each(|frame| self.put_border(frame));
            }
            None => {
                let frame = self.border.exit(process, far, reason);
                self.put_border(Some(frame));
            }
        }
    }

    /// `process` monitors the far process `far`, and calls the monitor `reference`.
    pub fn monitor(&mut self, process: H::Process, reference: u64, far: u64) {
        let frame = match &self.over {
            Some(_) => Err(ExitReason::NoConnection),
            None => self.border.monitor(process.clone(), reference, far, self.far_terms.max_links),
        };
        match frame {
            Ok(frame) => self.put_border(frame),
            Err(reason) => {
                self.deliveries.push(Delivery::Down { monitor: reference, from: far, to: process, reason });
            }
        }
    }

    /// A process takes the monitor back that it calls `reference`: it hears nothing of it any more. Of very many taken
    /// back at once the peer learns bit by bit; meanwhile they serve those who monitor the same again.
    pub fn demonitor(&mut self, now: Instant, reference: u64) {
        self.border.demonitor(reference);
        self.tell_given_up(now);
    }

    /// Tells the peer of monitors that were taken back, as fast as it may be told.
    pub(super) fn tell_given_up(&mut self, now: Instant) {
        while self.border.has_given_up() && self.taking_back.spend(now) {
            let frame = self.border.demonitor_one();
            self.put_border(frame);
        }
    }

    /// The process on which the peer set `monitor` ended.
    pub fn down(&mut self, monitor: u64, taken: u64, reason: ExitReason) {
        let frame = self.border.down(monitor, taken, reason);
        self.put_border(frame);
    }

    fn put_border(&mut self, frame: Option<Frame<'static>>) {
        if let Some(frame) = frame.filter(|_| self.can_put()) {
            self.outgoing.put(&frame);
            self.check_unsent();
        }
    }
}
