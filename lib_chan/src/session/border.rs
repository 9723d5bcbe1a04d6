//! The border between the processes of the two ends: ids and their rights, links, monitors and exit signals.
//!
//! A link between two processes of the two ends is a chain, in which each session stands for the far process. A near
//! link connects each process with the session of its own end; a wire link connects the two sessions. Each of the
//! three runs the state machine of [`links`](crate::links). A session keeps its near link and its wire link equal:
//!
//! ```text
//! process ◀── near link ──▶ session ◀── wire link ──▶ session ◀── near link ──▶ process
//! ```
//!
//! A wire link belongs to an id, a near link to a process. Id 0 is the session's own. When it gets another owner, no
//! wire link changes its state: the near links follow ([`reconcile`](Border::reconcile)).

use std::collections::{BTreeMap, BTreeSet};

mod ids;
mod monitors;

pub(super) use self::ids::HANDLE_WINDOW;
pub use self::ids::OWNER;
use self::{ids::Ids, monitors::Monitors};
use super::{Delivery, handles::Export};
use crate::{ExitReason, Rights, links::Link, wire::Frame};

/// A wire link and the places that it takes.
///
/// An end frees its own place only when the peer knows that it is free, and the peer's place no later than the peer
/// does. So an end that keeps to the bound never exceeds it in the view of the other.
#[derive(Debug, Default)]
struct WireLink {
    link: Link,
    /// This end has sent a `Link`, which takes one of the places that the peer allows.
    ours: bool,
    /// The peer has sent a `Link`, which takes one of the places that this end allows.
    theirs: bool,
}

/// A rule that the peer broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breach {
    /// The peer has more links and monitors than allowed.
    TooMany,
    /// The number of a monitor was used before, or never.
    Name,
}

/// Links, monitors and exit signals between the ends. The effects of an input are appended to
/// [`deliveries`](Self::deliveries) and [`frames`](Self::frames), which the session takes.
#[derive(Debug)]
pub(super) struct Border<P> {
    /// Events for processes of this end.
    pub(super) deliveries: Vec<Delivery<P>>,
    /// Frames for the peer.
    pub(super) frames: Vec<Frame<'static>>,
    pub(super) ids: Ids<P>,
    /// The owner treats the end of the session as an exit signal of the far owner, without a wire link.
    linked: bool,
    /// The near links, by the far process and the process of this end. Never [`Link::Absent`].
    near: BTreeMap<(u64, P), Link>,
    /// The wire links, by the id of this end and that of the far process. Never [`Link::Absent`].
    wire: BTreeMap<(u64, u64), WireLink>,
    last_unlink: u64,
    monitors: Monitors<P>,
    /// The links and monitors that each end has made: the places taken at the other end.
    set_by_us: u64,
    set_by_peer: u64,
}

impl<P: Clone + Ord> Border<P> {
    /// Creates a border without ids. Each process that gets one starts with a credit window of `window` bytes.
    pub(super) const fn new(window: u64) -> Self {
        Self {
            deliveries: Vec::new(),
            frames: Vec::new(),
            ids: Ids::new(window),
            linked: false,
            near: BTreeMap::new(),
            wire: BTreeMap::new(),
            last_unlink: 0,
            monitors: Monitors::new(),
            set_by_us: 0,
            set_by_peer: 0,
        }
    }

    /// Makes `owner` the owner. Its own links continue under id 0. Links that the former owner has made continue
    /// under an id of that process. Links that the peer has made to id 0 stay with id 0.
    pub(super) fn set_owner(&mut self, owner: Option<P>, linked: bool, max: u64) {
        let before = self.ids.set_owner(owner.clone());
        let mut fars = vec![OWNER];
        if before != owner {
            // Includes the links of a time in which the owner was a task without a process.
            fars.extend(self.far_ends(OWNER));
            for (process, id) in before.iter().map(|it| (it, OWNER)).chain(self.ids.own_id_of(owner.as_ref()))
            {
                for far in self.far_ends(id) {
                    self.rename(process, id, far, max);
                    fars.push(far);
                }
            }
        }
        self.linked = linked;
        for far in fars {
            before.iter().chain(&owner).for_each(|process| self.reconcile(process, far));
        }
    }

    pub(super) const fn is_linked(&self) -> bool {
        self.linked
    }

    /// Returns the number of entries of all kinds.
    pub(super) fn len(&self) -> usize {
        self.near.len() + self.wire.len() + self.monitors.len() + self.ids.linked()
    }

    // Operations of this end's processes.

    /// Links `process` to the far process. The peer allows `max` links and monitors.
    pub(super) fn link(&mut self, process: &P, far: u64, max: u64) {
        if self.near(process, far, Link::handle_link) {
            let id = self.ids.name(process);
            if !self.put_link(id, far, max) {
                self.refuse_link(process, far);
            }
        }
    }

    /// Links `process` to the far owner again. The link that comes with ownership is not on the wire.
    pub(super) fn link_owners(&mut self, process: &P, max: u64) {
        let is_linked = self.near.get(&(OWNER, process.clone())).is_some_and(Link::is_active);
        if self.linked && self.ids.is_owner(process) && is_linked && !self.put_link(OWNER, OWNER, max) {
            self.linked = false;
            self.refuse_link(process, OWNER);
        }
    }

    /// Unlinks `process` from the far process.
    pub(super) fn unlink(&mut self, process: &P, far: u64, unlink: u64) {
        let unlinked = self.near(process, far, Link::handle_unlink);
        self.deliveries.push(Delivery::UnlinkAck { from: far, to: process.clone(), unlink });
        if unlinked {
            self.linked &= !(far == OWNER && self.ids.is_owner(process));
            self.ids.ids_of(process).for_each(|id| self.take_link(id, far));
        }
    }

    /// Acknowledges an unlink for `process`. A second acknowledgement has no effect.
    pub(super) fn unlink_ack(&mut self, process: &P, far: u64, unlink: u64) {
        self.near(process, far, |link| link.handle_unlink_ack(unlink));
    }

    /// Tells the far process that the linked `process` has ended.
    pub(super) fn exit_link(&mut self, process: &P, far: u64, taken: u64, reason: &ExitReason) {
        self.ids.set_ended(process);
        if !self.near(process, far, Link::handle_exit) {
            return;
        }
        self.ids.ids_of(process).for_each(|id| self.put_exit(id, far, taken, reason));
    }

    /// Returns the processes of this end that the peer has linked to or monitors by an id other than 0.
    pub(super) fn exposed(&self) -> BTreeSet<P> {
        let linked = self.wire.keys().filter(|&&(id, _)| id != OWNER);
        let linked = linked.filter_map(|&(id, _)| self.ids.known(id).cloned());
        linked.chain(self.monitored().cloned()).collect()
    }

    /// Tells the peer that `process` has ended, before its session ends. The links and monitors on id 0 end with the
    /// session.
    pub(super) fn process_ended(&mut self, process: &P, reason: &ExitReason) {
        for id in self.ids.ids_of(process).filter(|&id| id != OWNER) {
            self.far_ends(id).into_iter().for_each(|far| self.put_exit(id, far, 0, reason));
            self.fire_monitors(id, reason);
        }
    }

    /// Sends an exit signal of `process`. A process that has no id gets one that the peer cannot use.
    pub(super) fn exit(&mut self, process: &P, far: u64, reason: ExitReason) {
        let known = self.ids.ids_of(process).next();
        let from = known.unwrap_or_else(|| self.ids.fresh_id());
        self.frames.push(Frame::Exit { from, to: far, taken: None, reason });
    }

    // Operations of the peer's processes. This end allows `max` links and monitors.

    pub(super) fn handle_link(&mut self, from: u64, to: u64, max: u64) -> Result<(), Breach> {
        let is_new = !self.wire.contains_key(&(to, from));
        if is_new && !self.ids.is_reachable(to, |rights| rights.link) {
            let (taken, reason) = (Some(0), ExitReason::NoProc);
            self.frames.push(Frame::Exit { from: to, to: from, taken, reason });
            return Ok(());
        }
        let wire = self.wire.entry((to, from)).or_default();
        self.set_by_peer += u64::from(!std::mem::replace(&mut wire.theirs, true));
        wire.link.handle_link();
        self.reconcile_id(to, from);
        if self.set_by_peer > max { Err(Breach::TooMany) } else { Ok(()) }
    }

    pub(super) fn handle_unlink(&mut self, from: u64, to: u64, unlink: u64) {
        self.frames.push(Frame::UnlinkAck { from: to, to: from, unlink });
        if let Some(wire) = self.wire.get_mut(&(to, from)) {
            self.set_by_peer -= u64::from(std::mem::take(&mut wire.theirs));
            wire.link.handle_unlink();
            self.reconcile_id(to, from);
            self.tidy(to, from);
        }
    }

    pub(super) fn handle_unlink_ack(
        &mut self,
        from: u64,
        to: u64,
        unlink: u64,
        max: u64,
    ) -> Result<(), Breach> {
        let awaits = |wire: &&mut WireLink| wire.link.awaits().is_some();
        let Some(wire) = self.wire.get_mut(&(to, from)).filter(awaits) else { return Ok(()) };
        // The unlink frees the peer's place, even if another unlink is in flight.
        self.set_by_peer -= u64::from(std::mem::take(&mut wire.theirs));
        wire.link.handle_unlink_ack(unlink);
        self.tidy(to, from);
        self.check_kept(max)
    }

    /// Handles an exit over a link.
    pub(super) fn handle_exit_link(
        &mut self,
        from: u64,
        to: u64,
        reason: ExitReason,
        max: u64,
    ) -> Result<(), Breach> {
        let Some(wire) = self.wire.get_mut(&(to, from)) else { return Ok(()) };
        let provoked = wire.theirs;
        if !wire.link.handle_exit() {
            // The exit belongs to the former link. The peer knows no link any more.
            self.set_by_peer -= u64::from(std::mem::take(&mut wire.theirs));
            return self.check_kept(max);
        }
        let process = self.ids.process(to);
        self.tidy(to, from);
        let Some(process) = process else { return Ok(()) };
        if self.near.remove(&(from, process.clone())).is_some_and(|link| link.is_active()) {
            self.deliveries.push(Delivery::Exit { from, to: process.clone(), reason, link: true, provoked });
        }
        // A process with two ids is told once.
        self.ids.ids_of(&process).for_each(|id| self.take_link(id, from));
        self.reconcile(&process, from);
        Ok(())
    }

    /// Handles an exit that a process of the peer sent explicitly.
    pub(super) fn handle_exit(&mut self, from: u64, to: u64, mut reason: ExitReason) {
        let rights = self.ids.rights(to);
        if reason == ExitReason::Kill && !rights.kill {
            reason = ExitReason::Killed;
        }
        let process = self.ids.process(to).filter(|_| rights.exit);
        self.deliveries.extend(process.map(|to| Delivery::Exit {
            from,
            to,
            reason,
            link: false,
            provoked: true,
        }));
    }

    /// Ends every link and monitor, because the session is over. `reason` is the far owner's; if the far owner lives,
    /// it is the reason of this end's owner. All other far processes become unreachable.
    pub(super) fn end(&mut self, reason: &ExitReason, far_owner_lives: bool) {
        let owner = self.ids.owner().cloned();
        let reason = |far, process: &P| {
            let is_told = far == OWNER && (!far_owner_lives || owner.as_ref() == Some(process));
            if is_told { reason.clone() } else { ExitReason::NoConnection }
        };
        for ((from, to), _) in std::mem::take(&mut self.near).into_iter().filter(|(_, link)| link.is_active())
        {
            let reason = reason(from, &to);
            self.deliveries.push(Delivery::Exit { from, to, reason, link: true, provoked: false });
        }
        self.end_monitors(reason);
        let handed = self.ids.all_handed();
        self.deliveries.extend(handed.into_iter().map(|to| Delivery::Unwatch { to }));
        self.ids.clear();
        self.wire.clear();
        (self.set_by_us, self.set_by_peer, self.linked) = (0, 0, false);
    }

    // Handles.

    /// Prepares to hand out a process in a message. Returns its id and the rights of the peer, or `None` if the peer,
    /// which takes `max` processes, takes no more.
    pub(super) fn export(&mut self, export: Export<P>, max: u64) -> Option<(u64, Rights)> {
        let process = export.process.clone();
        let was_handed = self.ids.is_handed(&process);
        let (id, rights, is_new) = self.ids.export(export, max)?;
        if is_new && !was_handed {
            self.deliveries.push(Delivery::Watch { to: process });
        }
        Some((id, rights))
    }

    /// Forgets a handle of a message that is not sent.
    pub(super) fn withdraw_export(&mut self, id: u64) {
        let process = self.ids.known(id).cloned();
        if self.ids.withdraw(id) {
            self.take_back(id, process);
        }
    }

    /// Handles the peer's release of an id.
    pub(super) fn handle_release(&mut self, id: u64, count: u64) -> Result<(), Breach> {
        let process = self.ids.known(id).cloned();
        if self.ids.release(id, count)? {
            self.take_back(id, process);
        }
        Ok(())
    }

    /// Completes the end of an export.
    fn take_back(&mut self, id: u64, process: Option<P>) {
        self.unwatch_released(process);
        self.forget(id);
    }

    fn unwatch_released(&mut self, process: Option<P>) {
        let unwatched = process.filter(|process| !self.ids.is_handed(process));
        self.deliveries.extend(unwatched.map(|to| Delivery::Unwatch { to }));
    }

    /// Makes an alias useless for the peer: its monitors fire with `noproc`.
    pub(super) fn revoke(&mut self, alias: u64) {
        let Some(id) = self.ids.alias(alias) else { return };
        let process = self.ids.known(id).cloned();
        if self.ids.retire(id) {
            self.fire_monitors(id, &ExitReason::NoProc);
            self.frames.push(Frame::Credit { id, total: self.ids.total(id) });
            self.unwatch_released(process);
        }
    }

    /// Handles the end of a process that was handed out.
    pub(super) fn handed_out_ended(&mut self, process: &P) {
        for id in self.ids.ids_of(process).filter(|&id| id != OWNER) {
            if self.ids.retire(id) {
                self.fire_monitors(id, &ExitReason::NoProc);
                self.frames.push(Frame::Credit { id, total: self.ids.total(id) });
            }
            self.forget(id);
        }
    }

    // Links.

    /// Changes the near link of `process`, and removes the record once nothing is left to remember.
    fn near<T>(&mut self, process: &P, far: u64, change: impl FnOnce(&mut Link) -> T) -> T {
        let key = (far, process.clone());
        let mut link = self.near.get(&key).copied().unwrap_or_default();
        let result = change(&mut link);
        if link.is_absent() {
            self.near.remove(&key);
        } else {
            self.near.insert(key, link);
        }
        result
    }

    /// Makes the near link of `process` follow the wire: the process is linked if one of its ids is.
    fn reconcile(&mut self, process: &P, far: u64) {
        let by_itself = self.linked && far == OWNER && self.ids.is_owner(process);
        let wanted = by_itself || self.ids.ids_of(process).any(|id| self.is_wired(id, far));
        let (from, to, unlink) = (far, process.clone(), self.last_unlink + 1);
        if wanted {
            if self.near(process, far, Link::link) {
                self.deliveries.push(Delivery::Link { from, to });
            }
        } else if self.near(process, far, |link| link.unlink(unlink)) {
            self.last_unlink = unlink;
            self.deliveries.push(Delivery::Unlink { from, to, unlink });
        }
    }

    fn reconcile_id(&mut self, id: u64, far: u64) {
        if let Some(process) = self.ids.process(id) {
            self.reconcile(&process, far);
        }
    }

    fn refuse_link(&mut self, process: &P, far: u64) {
        self.near.remove(&(far, process.clone()));
        let (from, to, reason) = (far, process.clone(), ExitReason::Overload);
        self.deliveries.push(Delivery::Exit { from, to, reason, link: true, provoked: false });
    }

    /// Makes a wire link. Returns `false`, and does nothing, if there is no place for one.
    fn put_link(&mut self, id: u64, far: u64, max: u64) -> bool {
        let is_ours = self.wire.get(&(id, far)).is_some_and(|wire| wire.ours);
        if !is_ours && self.set_by_us >= max {
            self.forget(id);
            return false;
        }
        let wire = self.wire.entry((id, far)).or_default();
        if wire.link.link() {
            self.set_by_us += u64::from(!std::mem::replace(&mut wire.ours, true));
            self.frames.push(Frame::Link { from: id, to: far });
        }
        true
    }

    /// Ends a wire link with this reason, if there is one.
    fn put_exit(&mut self, id: u64, far: u64, taken: u64, reason: &ExitReason) {
        if self.is_wired(id, far) {
            let (taken, reason) = (Some(taken), reason.clone());
            self.frames.push(Frame::Exit { from: id, to: far, taken, reason });
            self.wire.get_mut(&(id, far)).into_iter().for_each(|wire| wire.link = Link::Absent);
            self.tidy(id, far);
        }
    }

    /// Takes a wire link back, if there is one.
    fn take_link(&mut self, id: u64, far: u64) {
        let unlink = self.last_unlink + 1;
        if self.wire.get_mut(&(id, far)).is_some_and(|wire| wire.link.unlink(unlink)) {
            self.last_unlink = unlink;
            self.frames.push(Frame::Unlink { from: id, to: far, unlink });
        }
    }

    /// Moves a link that this end has made under the id `from` to the current id of its process.
    fn rename(&mut self, process: &P, from: u64, far: u64, max: u64) {
        let Some(wire) = self.wire.get(&(from, far)).filter(|wire| wire.ours && wire.link.is_active()) else {
            return;
        };
        // A link of the peer stays under the id that the peer knows.
        let stays = wire.theirs;
        let to = self.ids.name(process);
        if to == OWNER && stays {
            return;
        }
        if !self.put_link(to, far, max) {
            if to == OWNER {
                return;
            }
            self.refuse_link(process, far);
        }
        if !stays {
            self.take_link(from, far);
        }
    }

    fn is_wired(&self, id: u64, far: u64) -> bool {
        self.wire.get(&(id, far)).is_some_and(|wire| wire.link.is_active())
    }

    fn far_ends(&self, id: u64) -> Vec<u64> {
        self.wire.range((id, 0)..=(id, u64::MAX)).map(|((_, far), _)| *far).collect()
    }

    /// A link that only waits for an acknowledgement takes no place of the peer's, because the acknowledgement may
    /// never come.
    fn check_kept(&self, max: u64) -> Result<(), Breach> {
        let most = self.set_by_us.saturating_add(max.saturating_mul(2));
        if self.wire.len() as u64 > most { Err(Breach::TooMany) } else { Ok(()) }
    }

    /// Removes an id that no link needs any more.
    fn forget(&mut self, id: u64) {
        if self.wire.range((id, 0)..=(id, u64::MAX)).next().is_none() {
            self.ids.forget(id);
        }
    }

    /// Removes a wire link about which neither end has anything to say.
    fn tidy(&mut self, id: u64, far: u64) {
        if let Some(wire) = self.wire.get(&(id, far)).filter(|wire| wire.link.is_absent()) {
            self.set_by_peer -= u64::from(wire.theirs);
            self.set_by_us -= u64::from(wire.ours);
            self.wire.remove(&(id, far));
            self.forget(id);
        }
    }
}
