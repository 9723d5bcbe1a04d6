//! What processes of this end do to those of the far end.

use super::{Delivery, Host, Rights, Session, border::OWNER, outgoing::Outgoing};
use crate::{ExitReason, wire::Frame};

impl<H: Host> Session<H> {
    /// Makes `owner` the owner: the process behind id 0, linked to the far owner or not. Once the session is over it has
    /// no owner any more, and a link to the far owner ends as it is made.
    pub(crate) fn set_owner(&mut self, owner: Option<H::Process>, linked: bool) {
        let Some(reason) = self.over().cloned() else {
            self.border.set_owner(owner, linked, self.peer.terms.max_links);
            return self.put_border();
        };
        if let Some(to) = owner.filter(|_| linked) {
            self.deliveries.push(Delivery::Link { from: OWNER, to: to.clone() });
            self.deliveries.push(Delivery::Exit { from: OWNER, to, reason, link: true, provoked: false });
        }
    }

    /// Returns whether the owner takes the session's end for an exit signal of the far owner.
    pub const fn is_linked(&self) -> bool {
        self.border.is_linked()
    }

    /// Returns the owner, if it is a process.
    pub const fn owner(&self) -> Option<&H::Process> {
        self.border.ids.owner()
    }

    /// Returns the process that the peer knows by this id.
    pub fn named(&self, id: u64) -> Option<H::Process> {
        self.border.ids.process(id)
    }

    /// Lets the peer reach `process` under the id returned.
    pub fn hand_out(&mut self, process: H::Process, rights: Rights) -> u64 {
        self.border.ids.hand_out(process, rights)
    }

    /// A process that was handed out took messages of this cost: the peer may send it as much more.
    pub fn give_back_to(&mut self, process: &H::Process, cost: u64) {
        if let Some((id, total)) = self.border.ids.give_back(process, cost) {
            self.put_credit(id, total);
        }
    }

    /// `process` links to the far process `far`.
    pub fn link(&mut self, process: H::Process, far: u64) {
        if self.is_over() {
            let (from, to, reason) = (far, process, ExitReason::NoConnection);
            return self.deliveries.push(Delivery::Exit { from, to, reason, link: true, provoked: false });
        }
        self.border.link(&process, far, self.peer.terms.max_links);
        self.put_border();
    }

    /// `process`, which is linked to the far owner already, links again. Nothing follows unless it has that link as the
    /// owner: then the far owner does not know of it.
    pub fn link_owners(&mut self, process: &H::Process) {
        if !self.is_over() {
            self.border.link_owners(process, self.peer.terms.max_links);
            self.put_border();
        }
    }

    /// `process` unlinks from the far process `far`, with this number.
    pub fn unlink(&mut self, process: &H::Process, far: u64, unlink: u64) {
        self.border.unlink(process, far, unlink);
        self.put_border();
    }

    /// `process` acknowledges an unlink of the far process `far`. A second time has no effect.
    pub fn unlink_ack(&mut self, process: &H::Process, far: u64, unlink: u64) {
        self.border.unlink_ack(process, far, unlink);
    }

    /// Ends the session `overload` if more exit signals that the peer [provoked](Delivery::Exit::provoked) lie untaken in
    /// mailboxes than allowed: `explicit` of those that it sent explicitly, `of_links` of those of links. To be called
    /// before bytes are handled.
    pub(crate) fn check_untaken_exits(&mut self, explicit: usize, of_links: usize) {
        if explicit > self.limits.max_untaken_exits || of_links > self.limits.max_links as usize {
            self.break_off(ExitReason::Overload);
        }
    }

    /// `process` sends an exit signal to `far`: over a link when `taken` says what it took last.
    pub fn exit(&mut self, process: &H::Process, far: u64, taken: Option<u64>, reason: ExitReason) {
        match taken {
            Some(taken) => self.border.exit_link(process, far, taken, &reason),
            None => self.border.exit(process, far, reason),
        }
        self.put_border();
    }

    /// `process` monitors the far process `far`, and calls the monitor `reference`.
    pub fn monitor(&mut self, process: H::Process, reference: u64, far: u64) {
        if self.is_over() {
            let (monitor, from, reason) = (reference, far, ExitReason::NoConnection);
            return self.deliveries.push(Delivery::Down { monitor, from, to: process, reason });
        }
        self.border.monitor(process, reference, far, self.peer.terms.max_links);
        self.put_border();
    }

    /// A process gives up the monitor that it calls `reference`: it hears nothing of it any more.
    pub fn demonitor(&mut self, reference: u64) {
        self.border.demonitor(reference);
        self.put_border();
    }

    /// The process on which the peer set `monitor` ended.
    pub fn down(&mut self, monitor: u64, taken: u64, reason: ExitReason) {
        self.border.down(monitor, taken, reason);
        self.put_border();
    }

    /// Takes what follows from what a process of this end did.
    fn put_border(&mut self) {
        self.take_border(|outgoing, frame| {
            outgoing.put(frame);
        });
    }

    /// Takes what follows from what a process of the peer did.
    pub(super) fn reflect_border(&mut self) {
        self.take_border(Outgoing::reflect);
    }

    fn take_border(&mut self, put: fn(&mut Outgoing, &Frame<'_>)) {
        self.deliveries.append(&mut self.border.deliveries);
        let mut frames = std::mem::take(&mut self.border.frames);
        if !frames.is_empty() && self.can_put() {
            frames.iter().for_each(|frame| put(&mut self.outgoing, frame));
            self.check_unsent();
            self.check_queued(&frames);
        }
        frames.clear();
        // Its memory serves again, unless the session ended meanwhile.
        self.border.frames = frames;
    }

    /// A session without a connection queues only so many frames that cost the peer more than their bytes.
    fn check_queued(&mut self, frames: &[Frame<'_>]) {
        let resumption = &mut self.resumption;
        let fine = !resumption.is_detached()
            || frames.iter().all(|frame| match frame {
                Frame::Unlink { .. } | Frame::Demonitor { .. } => resumption.spend_minor(),
                Frame::Exit { taken: None, .. } => resumption.spend_exit(),
                _ => true,
            });
        if !fine {
            self.break_off(ExitReason::Overload);
        }
    }
}
