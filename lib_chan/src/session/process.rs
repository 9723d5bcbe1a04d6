//! Operations of this end's processes on those of the far end.

use std::collections::BTreeSet;

use super::{Delivery, Host, ProcessMailbox, Session, border::OWNER, outgoing::Outgoing};
use crate::{ExitReason, Rights, wire::Frame};

impl<H: Host> Session<H> {
    /// Makes `owner` the process behind id 0, linked to the far owner or not. A session that is over has no owner; a
    /// link to the far owner then ends at once.
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

    /// Returns `true` if the owner treats the end of the session as an exit signal of the far owner.
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

    /// Lets the peer reach `process` by a number, and returns it.
    pub fn hand_out(&mut self, process: H::Process, rights: Rights) -> u64 {
        self.border.ids.hand_out(process, rights, None)
    }

    /// Lets the peer reach `process`, which has a mailbox, by a number, and returns it.
    pub fn hand_out_with(&mut self, process: H::Process, rights: Rights, mailbox: ProcessMailbox) -> u64 {
        // A session that is over reaches nothing.
        let mailbox = Some(mailbox).filter(|_| !self.is_over());
        self.border.ids.hand_out(process, rights, mailbox)
    }

    /// Returns the credit of messages that the process with this id took.
    pub fn give_back_to(&mut self, id: u64, cost: u64) {
        if let Some(total) = self.border.ids.give_back(id, cost) {
            self.put_credit(id, total);
            self.follow_path(id);
        }
    }

    /// Links `process` to the far process `far`.
    pub fn link(&mut self, process: H::Process, far: u64) {
        if self.is_over() {
            let (from, to, reason) = (far, process, ExitReason::NoConnection);
            return self.deliveries.push(Delivery::Exit { from, to, reason, link: true, provoked: false });
        }
        self.border.link(&process, far, self.peer.terms.max_links);
        self.put_border();
    }

    /// Links `process` again to the far owner, to which it is linked already. This has an effect only if the process
    /// has that link as the owner: the far owner does not know of such a link.
    pub fn link_owners(&mut self, process: &H::Process) {
        if !self.is_over() {
            self.border.link_owners(process, self.peer.terms.max_links);
            self.put_border();
        }
    }

    /// Unlinks `process` from the far process `far`, with this number.
    pub fn unlink(&mut self, process: &H::Process, far: u64, unlink: u64) {
        self.border.unlink(process, far, unlink);
        self.put_border();
    }

    /// Acknowledges an unlink of the far process `far`. A second acknowledgement has no effect.
    pub fn unlink_ack(&mut self, process: &H::Process, far: u64, unlink: u64) {
        self.border.unlink_ack(process, far, unlink);
    }

    /// Ends the session with `overload` if too many exit signals that the peer [provoked](Delivery::Exit::provoked)
    /// wait in mailboxes: `explicit` of those sent explicitly, `of_links` of those of links. The driver calls this
    /// before it passes bytes on.
    pub(crate) fn check_untaken_exits(&mut self, explicit: usize, of_links: usize) {
        if explicit > self.limits.max_untaken_exits || of_links > self.limits.max_links as usize {
            self.break_off(ExitReason::Overload);
        }
    }

    /// Sends an exit signal of `process` to `far`: over a link if `taken` states the last message that the process
    /// took.
    pub fn exit(&mut self, process: &H::Process, far: u64, taken: Option<u64>, reason: ExitReason) {
        match taken {
            Some(taken) => self.border.exit_link(process, far, taken, &reason),
            None => self.border.exit(process, far, reason),
        }
        self.put_border();
    }

    /// Monitors the far process `far` for `process`, which knows the monitor as `reference`.
    pub fn monitor(&mut self, process: H::Process, reference: u64, far: u64) {
        if self.is_over() {
            let (monitor, from, reason) = (reference, far, ExitReason::NoConnection);
            return self.deliveries.push(Delivery::Down { monitor, from, to: process, reason });
        }
        self.border.monitor(process, reference, far, self.peer.terms.max_links);
        self.put_border();
    }

    /// Removes the monitor that a process knows as `reference`. The process gets no message of it afterwards.
    pub fn demonitor(&mut self, reference: u64) {
        self.border.demonitor(reference);
        self.put_border();
    }

    /// Tells the peer that the process with its `monitor` has ended.
    pub fn down(&mut self, monitor: u64, taken: u64, reason: ExitReason) {
        self.border.down(monitor, taken, reason);
        self.put_border();
    }

    /// Returns the processes of this end, by ids other than 0, that the peer has linked to or monitors.
    pub fn exposed(&self) -> BTreeSet<H::Process> {
        self.border.exposed()
    }

    /// Tells the peer's links and monitors on `process` that it ends with this reason. Its calls end with the session,
    /// which must be [ended](super::Endpoint::let_go) next: nothing can be told after that.
    pub fn process_ended(&mut self, process: &H::Process, reason: &ExitReason) {
        self.border.process_ended(process, reason);
        self.put_border();
    }

    /// Sends and delivers the effects of an operation of this end.
    pub(super) fn put_border(&mut self) {
        self.take_border(|outgoing, frame| {
            outgoing.put(frame);
        });
    }

    /// Sends and delivers the effects of a frame of the peer.
    pub(super) fn reflect_border(&mut self) {
        self.take_border(Outgoing::reflect);
    }

    /// Delivers the effects of an operation of this end that has no frames.
    pub(super) fn take_border_deliveries(&mut self) {
        self.deliveries.append(&mut self.border.deliveries);
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
        // Reuses the memory, unless the session has ended meanwhile.
        self.border.frames = frames;
    }

    /// Returns `true` unless a detached session has queued too many frames that cost the peer more than their bytes.
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
