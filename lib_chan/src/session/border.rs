//! What crosses between the processes of the two ends: ids and their rights, links, monitors and exit signals.
//!
//! A link between two processes of the two ends is a chain: the session stands for the far process, so there is a link
//! between each process and the session of its own end, and one on the wire between the two sessions. Each runs the
//! state machine of [`links`](crate::links), and the session keeps the two that it takes part in equal:
//!
//! ```text
//! process ◀── near link ──▶ session ◀── wire link ──▶ session ◀── near link ──▶ process
//! ```
//!
//! A wire link belongs to an id, a near link to a process. So when id 0, which is the session's own, gets another owner,
//! no link on the wire changes its state: the near links follow ([`reconcile`](Border::reconcile)).

use std::collections::BTreeMap;

use super::{Delivery, credit::Grant};
use crate::{ExitReason, links::Link, wire::Frame};

/// The id of the owner of each end, whichever process that is.
pub(super) const OWNER: u64 = 0;

/// What a process that was handed out lets the peer do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Send and call.
    pub send: bool,
    /// Monitor.
    pub monitor: bool,
    /// Link.
    pub link: bool,
    /// Send exit signals.
    pub exit: bool,
    /// Send exit signals with `kill`, which cannot be trapped.
    pub kill: bool,
}

impl Rights {
    /// Those of an id that only names the sender of a link.
    const NONE: Self = Self { send: false, monitor: false, link: false, exit: false, kill: false };
    /// Those of the owner.
    const OWNER: Self = Self { send: true, monitor: true, link: true, exit: true, kill: false };
}

impl Default for Rights {
    /// Send, call and monitor.
    fn default() -> Self {
        Self { send: true, monitor: true, ..Self::NONE }
    }
}

/// A process of this end under an id of its own.
#[derive(Debug)]
struct Known<P> {
    process: P,
    rights: Rights,
    /// It stays known; one that was not handed out only as long as it has a link.
    handed_out: bool,
    /// It has told a linked process of its end, so links and monitors that come now are answered at once. If they took
    /// a place until the process answers, the peer, which knows that the link before has ended, would set too many.
    ended: bool,
    grant: Grant,
}

/// A link on the wire, and the places that it takes.
///
/// This end frees its own place no earlier than the peer knows of that, and the peer's no later than the peer frees it
/// itself. So an end that keeps to its number never exceeds it in the eyes of the other.
#[derive(Debug, Default)]
struct WireLink {
    link: Link,
    /// This end has sent a `Link`: it takes one of the places that the peer allows.
    ours: bool,
    /// The peer has sent a `Link`: it takes one of the places that this end allows.
    theirs: bool,
}

/// A monitor that one of this end's processes has set.
#[derive(Debug)]
struct Watching<P> {
    process: P,
    /// The process's own number of the monitor.
    reference: u64,
    far: u64,
}

/// What the peer did against the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breach {
    /// More links and monitors than allowed.
    TooMany,
    /// A monitor's number that was used before, or never.
    Name,
}

/// Links, monitors and exit signals across a session. What follows from an input is appended to
/// [`deliveries`](Self::deliveries) and [`frames`](Self::frames), for the session to take.
#[derive(Debug)]
pub(super) struct Border<P> {
    /// For processes of this end.
    pub(super) deliveries: Vec<Delivery<P>>,
    /// For the peer.
    pub(super) frames: Vec<Frame<'static>>,
    owner: Option<P>,
    /// The owner takes the end of the session for an exit signal of the far owner, without a link on the wire.
    linked: bool,
    window: u64,
    known: BTreeMap<u64, Known<P>>,
    ids: BTreeMap<P, u64>,
    last_id: u64,
    /// By the far process and the process of this end. Never [`Link::Absent`].
    near: BTreeMap<(u64, P), Link>,
    /// By the id of this end and that of the far process. Never [`Link::Absent`].
    wire: BTreeMap<(u64, u64), WireLink>,
    last_unlink: u64,
    watching: BTreeMap<u64, Watching<P>>,
    /// The numbers on the wire of our monitors, by the processes' own.
    references: BTreeMap<u64, u64>,
    last_watching: u64,
    /// The peer's monitors, by their numbers, and the id that each is on.
    watched: BTreeMap<u64, u64>,
    last_watched: u64,
    set_by_us: u64,
    set_by_peer: u64,
}

impl<P: Clone + Ord> Border<P> {
    /// Nobody is known, and each process that will be starts with this credit window.
    pub(super) const fn new(window: u64) -> Self {
        Self {
            deliveries: Vec::new(),
            frames: Vec::new(),
            owner: None,
            linked: false,
            window,
            known: BTreeMap::new(),
            ids: BTreeMap::new(),
            last_id: OWNER,
            near: BTreeMap::new(),
            wire: BTreeMap::new(),
            last_unlink: 0,
            watching: BTreeMap::new(),
            references: BTreeMap::new(),
            last_watching: 0,
            watched: BTreeMap::new(),
            last_watched: 0,
            set_by_us: 0,
            set_by_peer: 0,
        }
    }

    /// Makes `owner` the owner. Links that it has made so far go on under id 0, and links that the owner before has made
    /// under an id of its own. Links that the peer has made to id 0 stay with id 0.
    pub(super) fn set_owner(&mut self, owner: Option<P>, linked: bool, max: u64) {
        let before = std::mem::replace(&mut self.owner, owner.clone());
        let mut fars = vec![OWNER];
        if before != owner {
            fars.extend(self.far_ends(OWNER));
            for &far in fars.iter().skip(1) {
                if let Some(before) = &before {
                    self.rename(before, OWNER, far, max);
                }
            }
            if let Some(owner) = &owner
                && let Some(&id) = self.ids.get(owner)
            {
                for far in self.far_ends(id) {
                    self.rename(owner, id, far, max);
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

    pub(super) const fn owner(&self) -> Option<&P> {
        self.owner.as_ref()
    }

    /// Lets the peer reach `process` under the id returned.
    pub(super) fn hand_out(&mut self, process: P, rights: Rights) -> u64 {
        let id = self.own_id(&process);
        if let Some(known) = self.known.get_mut(&id) {
            known.rights = rights;
            known.handed_out = true;
        }
        id
    }

    /// A message of this cost came for `id`: the process, if the peer may send to it.
    pub(super) fn receive(&mut self, id: u64, cost: u64) -> Result<Option<P>, Breach> {
        let Some(known) = self.known.get_mut(&id).filter(|known| known.rights.send) else { return Ok(None) };
        if known.grant.receive(cost) { Ok(Some(known.process.clone())) } else { Err(Breach::TooMany) }
    }

    /// A process took messages of this cost. The peer is told if that is worth a frame.
    pub(super) fn give_back(&mut self, process: &P, cost: u64) {
        let Some(&id) = self.ids.get(process) else { return };
        let total = self.known.get_mut(&id).and_then(|known| known.grant.give_back(cost));
        self.frames.extend(total.map(|total| Frame::Credit { id, total }));
    }

    /// How many entries there are of any kind.
    pub(super) fn len(&self) -> usize {
        self.near.len()
            + self.wire.len()
            + self.watching.len()
            + self.watched.len()
            + self.known.values().filter(|k| !k.handed_out).count()
    }

    // What this end's processes do.

    /// `process` links to the far process. The peer allows `max` links and monitors.
    pub(super) fn link(&mut self, process: &P, far: u64, max: u64) {
        if self.near(process, far, Link::handle_link) {
            let id = self.name(process);
            if !self.put_link(id, far, max) {
                self.refuse_link(process, far);
            }
        }
    }

    /// `process` unlinks from the far process.
    pub(super) fn unlink(&mut self, process: &P, far: u64, unlink: u64) {
        let unlinked = self.near(process, far, Link::handle_unlink);
        self.deliveries.push(Delivery::UnlinkAck { from: far, to: process.clone(), unlink });
        if unlinked {
            self.linked &= !(far == OWNER && self.is_owner(process));
            self.ids_of(process).for_each(|id| self.take_link(id, far));
        }
    }

    /// `process` acknowledges an unlink. A second time has no effect.
    pub(super) fn unlink_ack(&mut self, process: &P, far: u64, unlink: u64) {
        self.near(process, far, |link| link.handle_unlink_ack(unlink));
    }

    /// `process` ended, and was linked.
    pub(super) fn exit_link(&mut self, process: &P, far: u64, taken: u64, reason: &ExitReason) {
        if let Some(known) = self.ids.get(process).and_then(|id| self.known.get_mut(id)) {
            known.ended = true;
        }
        if !self.near(process, far, Link::handle_exit) {
            return;
        }
        for id in self.ids_of(process) {
            if self.is_wired(id, far) {
                self.frames.push(Frame::Exit {
                    from: id,
                    to: far,
                    taken: Some(taken),
                    reason: reason.clone(),
                });
                self.wire.get_mut(&(id, far)).into_iter().for_each(|wire| wire.link = Link::Absent);
                self.tidy(id, far);
            }
        }
    }

    /// `process` sends an exit signal. A process that the peer does not know gets an id that the peer never will.
    pub(super) fn exit(&mut self, process: &P, far: u64, reason: ExitReason) {
        let known = self.ids_of(process).next();
        let from = known.unwrap_or_else(|| self.fresh_id());
        self.frames.push(Frame::Exit { from, to: far, taken: None, reason });
    }

    /// `process` monitors the far process. The far owner's end is the end of the session: that needs no frame.
    pub(super) fn monitor(&mut self, process: P, reference: u64, far: u64, max: u64) {
        let watching = Watching { process, reference, far };
        if far != OWNER && self.set_by_us >= max {
            return self.deliveries.push(watching.down(ExitReason::Overload));
        }
        self.last_watching += 1;
        let monitor = self.last_watching;
        self.watching.insert(monitor, watching);
        self.references.insert(reference, monitor);
        if far != OWNER {
            self.set_by_us += 1;
            self.frames.push(Frame::Monitor { monitor, to: far });
        }
    }

    /// A process gives up the monitor that it calls `reference`.
    pub(super) fn demonitor(&mut self, reference: u64) {
        let Some(monitor) = self.references.remove(&reference) else { return };
        if self.watching.remove(&monitor).is_some_and(|watching| watching.far != OWNER) {
            self.set_by_us -= 1;
            self.frames.push(Frame::Demonitor { monitor });
        }
    }

    /// A process that the peer monitors ended.
    pub(super) fn down(&mut self, monitor: u64, taken: u64, reason: ExitReason) {
        if self.unwatch(monitor).is_some() {
            self.frames.push(Frame::Down { monitor, taken, reason });
        }
    }

    // What the peer's processes do. This end allows `max` links and monitors.

    pub(super) fn handle_link(&mut self, from: u64, to: u64, max: u64) -> Result<(), Breach> {
        let is_new = !self.wire.contains_key(&(to, from));
        if is_new && !self.is_reachable(to, |rights| rights.link) {
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
        // The peer's part of the link went with the unlink, also where another unlink is under way.
        self.set_by_peer -= u64::from(std::mem::take(&mut wire.theirs));
        wire.link.handle_unlink_ack(unlink);
        self.tidy(to, from);
        self.check_kept(max)
    }

    /// An exit over a link.
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
            // Of the link before. The peer knows of no link any more.
            self.set_by_peer -= u64::from(std::mem::take(&mut wire.theirs));
            return self.check_kept(max);
        }
        let process = self.process(to);
        self.tidy(to, from);
        let Some(process) = process else { return Ok(()) };
        if self.near.remove(&(from, process.clone())).is_some_and(|link| link.is_active()) {
            self.deliveries.push(Delivery::Exit { from, to: process.clone(), reason, link: true, provoked });
        }
        // A process under two ids is told once.
        self.ids_of(&process).for_each(|id| self.take_link(id, from));
        self.reconcile(&process, from);
        Ok(())
    }

    /// An exit that a process of the peer sent of its own will.
    pub(super) fn handle_exit(&mut self, from: u64, to: u64, mut reason: ExitReason) {
        let rights = match self.known.get(&to) {
            _ if to == OWNER => Rights::OWNER,
            known => known.map_or(Rights::NONE, |known| known.rights),
        };
        if reason == ExitReason::Kill && !rights.kill {
            reason = ExitReason::Killed;
        }
        let process = self.process(to).filter(|_| rights.exit);
        self.deliveries.extend(process.map(|to| Delivery::Exit {
            from,
            to,
            reason,
            link: false,
            provoked: true,
        }));
    }

    pub(super) fn handle_monitor(&mut self, monitor: u64, to: u64, max: u64) -> Result<(), Breach> {
        if monitor <= self.last_watched {
            return Err(Breach::Name);
        }
        self.last_watched = monitor;
        if !self.is_reachable(to, |rights| rights.monitor) {
            self.frames.push(Frame::Down { monitor, taken: 0, reason: ExitReason::NoProc });
            return Ok(());
        }
        if self.set_by_peer >= max {
            return Err(Breach::TooMany);
        }
        self.set_by_peer += 1;
        self.watched.insert(monitor, to);
        let watched = self.watched_process(to);
        self.deliveries.extend(watched.map(|to| Delivery::Monitor { monitor, to }));
        Ok(())
    }

    pub(super) fn handle_demonitor(&mut self, monitor: u64) -> Result<(), Breach> {
        if monitor > self.last_watched {
            return Err(Breach::Name);
        }
        let watched = self.unwatch(monitor).and_then(|to| self.watched_process(to));
        self.deliveries.extend(watched.map(|to| Delivery::Demonitor { monitor, to }));
        Ok(())
    }

    pub(super) fn handle_down(&mut self, monitor: u64, reason: ExitReason) {
        let Some(watching) = self.watching.remove(&monitor) else { return };
        self.set_by_us -= u64::from(watching.far != OWNER);
        self.references.remove(&watching.reference);
        self.deliveries.push(watching.down(reason));
    }

    /// The session is over: every link and monitor ends. `reason` is that of the far owner, unless it lives: then that
    /// of this end's owner. All others are out of reach.
    pub(super) fn end(&mut self, reason: &ExitReason, far_owner_lives: bool) {
        let known = |far, process: &P| far == OWNER && (!far_owner_lives || self.is_owner(process));
        let reason =
            |far, process: &P| if known(far, process) { reason.clone() } else { ExitReason::NoConnection };
        let mut deliveries = Vec::new();
        for ((from, to), link) in self.near.iter().filter(|(_, link)| link.is_active()) {
            let (from, to, reason) = (*from, to.clone(), reason(*from, to));
            deliveries.push(Delivery::Exit { from, to, reason, link: link.is_active(), provoked: false });
        }
        for watching in self.watching.values() {
            deliveries.push(watching.down(reason(watching.far, &watching.process)));
        }
        for (&monitor, &to) in &self.watched {
            let watched = self.watched_process(to);
            deliveries.extend(watched.map(|to| Delivery::Demonitor { monitor, to }));
        }
        self.deliveries.append(&mut deliveries);
        *self = Self {
            last_id: self.last_id,
            deliveries: std::mem::take(&mut self.deliveries),
            ..Self::new(self.window)
        };
    }

    // Links.

    /// Changes the near link of `process`, and drops the record once there is nothing to remember.
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

    /// Makes the near link of `process` follow the wire: it is there if the process is linked under one of its ids.
    fn reconcile(&mut self, process: &P, far: u64) {
        let by_itself = self.linked && far == OWNER && self.is_owner(process);
        let wanted = by_itself || self.ids_of(process).any(|id| self.is_wired(id, far));
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
        if let Some(process) = self.process(id) {
            self.reconcile(&process, far);
        }
    }

    fn refuse_link(&mut self, process: &P, far: u64) {
        self.near.remove(&(far, process.clone()));
        let (from, to, reason) = (far, process.clone(), ExitReason::Overload);
        self.deliveries.push(Delivery::Exit { from, to, reason, link: true, provoked: false });
    }

    /// Makes a link on the wire; false, and nothing is done, where there is no room for one.
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

    /// Takes a link on the wire back, where there is one.
    fn take_link(&mut self, id: u64, far: u64) {
        let unlink = self.last_unlink + 1;
        if self.wire.get_mut(&(id, far)).is_some_and(|wire| wire.link.unlink(unlink)) {
            self.last_unlink = unlink;
            self.frames.push(Frame::Unlink { from: id, to: far, unlink });
        }
    }

    /// Lets a link that this end has made under the id `from` go on under what is now the name of its process.
    fn rename(&mut self, process: &P, from: u64, far: u64, max: u64) {
        let Some(wire) = self.wire.get(&(from, far)).filter(|wire| wire.ours && wire.link.is_active()) else {
            return;
        };
        // The peer's part of a link stays under the id that the peer knows.
        let stays = wire.theirs;
        let to = self.name(process);
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

    /// Links that are kept for an acknowledgement take no place of the peer's, which may never send it.
    fn check_kept(&self, max: u64) -> Result<(), Breach> {
        let most = self.set_by_us.saturating_add(max.saturating_mul(2));
        if self.wire.len() as u64 > most { Err(Breach::TooMany) } else { Ok(()) }
    }

    /// Drops a link on the wire about which neither end has anything to say.
    fn tidy(&mut self, id: u64, far: u64) {
        if let Some(wire) = self.wire.get(&(id, far)).filter(|wire| wire.link.is_absent()) {
            self.set_by_peer -= u64::from(wire.theirs);
            self.set_by_us -= u64::from(wire.ours);
            self.wire.remove(&(id, far));
            self.forget(id);
        }
    }

    // Names.

    /// The name under which the peer gets to know `process`.
    fn name(&mut self, process: &P) -> u64 {
        if self.is_owner(process) { OWNER } else { self.own_id(process) }
    }

    fn is_owner(&self, process: &P) -> bool {
        self.owner.as_ref() == Some(process)
    }

    /// The ids that `process` has, its name first. An owner has one of its own only if it had that before.
    fn ids_of(&self, process: &P) -> impl Iterator<Item = u64> + use<P> {
        let owner = self.is_owner(process).then_some(OWNER);
        owner.into_iter().chain(self.ids.get(process).copied())
    }

    fn process(&self, id: u64) -> Option<P> {
        if id == OWNER { self.owner.clone() } else { Some(self.known.get(&id)?.process.clone()) }
    }

    /// The process that is told of a monitor on `id`. The owner is not: its end is the end of the session.
    fn watched_process(&self, id: u64) -> Option<P> {
        self.process(id).filter(|_| id != OWNER)
    }

    /// Whether the peer may do this to `id`, and there is somebody. An owner may be no process.
    fn is_reachable(&self, id: u64, right: impl FnOnce(Rights) -> bool) -> bool {
        id == OWNER || self.known.get(&id).is_some_and(|known| !known.ended && right(known.rights))
    }

    fn own_id(&mut self, process: &P) -> u64 {
        if let Some(&id) = self.ids.get(process) {
            return id;
        }
        let id = self.fresh_id();
        let known = Known {
            process: process.clone(),
            rights: Rights::NONE,
            handed_out: false,
            ended: false,
            grant: Grant::new(self.window),
        };
        self.ids.insert(process.clone(), id);
        self.known.insert(id, known);
        id
    }

    const fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Forgets an id that no link needs and that was not handed out.
    fn forget(&mut self, id: u64) {
        let in_use = self.wire.range((id, 0)..=(id, u64::MAX)).next().is_some();
        if let Some(known) = self.known.get(&id).filter(|known| !known.handed_out && !in_use) {
            self.ids.remove(&known.process);
            self.known.remove(&id);
        }
    }

    fn unwatch(&mut self, monitor: u64) -> Option<u64> {
        let to = self.watched.remove(&monitor)?;
        self.set_by_peer -= 1;
        Some(to)
    }
}

impl<P: Clone> Watching<P> {
    fn down(&self, reason: ExitReason) -> Delivery<P> {
        Delivery::Down { monitor: self.reference, from: self.far, to: self.process.clone(), reason }
    }
}
