//! What may cross: ids and their rights, and the links and monitors between processes of the two ends.
//!
//! The processes' own tables run the link protocol, end to end. This table names the two ends of each link and
//! monitor on the wire, refuses what the peer has no right to, and knows at the end of the session who must be told.

use std::collections::{BTreeMap, BTreeSet};

use super::{Delivery, credit::Grant};
use crate::{ExitReason, wire::Frame};

/// The number of an `Unlink` that takes a link from a process because the role has a new owner. The peer knows nothing
/// of it, so its acknowledgement stays here; unless the peer chose the same number for one of its own.
const NO_UNLINK: u64 = 0;

/// The id of the role "owner" of each end, whoever holds it now.
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
    /// What an id has that only names the sender of a link.
    const NONE: Self = Self { send: false, monitor: false, link: false, exit: false, kill: false };
    /// What the owner's role has.
    const OWNER: Self = Self { send: true, monitor: true, link: true, exit: true, kill: false };
}

impl Default for Rights {
    /// Send, call and monitor.
    fn default() -> Self {
        Self { send: true, monitor: true, ..Self::NONE }
    }
}

/// One of this end's processes, as the peer may know it.
#[derive(Debug)]
struct Known<P> {
    process: P,
    rights: Rights,
    /// Links that keep the id known; a process handed out stays known without.
    links: usize,
    handed_out: bool,
    /// It has told of its end, so links and monitors that come now have theirs at once. If they took a place until the
    /// process answers, the peer, which knows that the link before has ended, would have set too many.
    ended: bool,
    grant: Grant,
}

/// How a link stands for our process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Active,
    /// The process has unlinked: a `Link` of the peer's is older than that.
    TakenBack,
    /// And has linked again, for which there was no room: it is told behind the acknowledgement of the first.
    Refused,
    /// It has given the role away since, and has its acknowledgement. Who has the role now knows nothing of it.
    Orphaned,
    /// There is no link.
    Absent,
}

/// A link. The entry is here as long as either side still has to say something about it.
///
/// What it counts for follows one rule: this end gives its own place free no earlier than the peer knows that, and the
/// peer's no later than the peer gives it free itself. So neither finds the other beyond its number.
#[derive(Debug)]
struct Link {
    /// As of what our process said last, before it has seen an `Unlink` of the peer's that it has not acknowledged.
    standing: Standing,
    /// This end has sent a `Link`: it takes one of the places that the peer allows, as long as the entry is here.
    ours: bool,
    /// The peer has, and it takes one of the places that this end allows.
    theirs: bool,
    /// The number of our last `Unlink`, until it is acknowledged: what the peer says before is about the link before.
    awaits: Option<u64>,
    /// The process has that acknowledgement already.
    told: bool,
    /// The number of the peer's `Unlink` that our process has not acknowledged.
    unlinked: Option<u64>,
    /// And the peer has linked again behind that one.
    relinked: bool,
}

impl Link {
    /// How it will stand when the process has seen all that is on its way to it.
    const fn settled(&self) -> Standing {
        match self.standing {
            // The acknowledgement is on its way to the process, behind the peer's `Unlink`.
            Standing::TakenBack | Standing::Refused | Standing::Orphaned if self.awaits.is_none() => {
                Standing::Absent
            }
            Standing::Active | Standing::Absent if self.relinked => Standing::Active,
            Standing::Active if self.unlinked.is_some() => Standing::Absent,
            standing => standing,
        }
    }

    const fn is_active(&self) -> bool {
        matches!(self.settled(), Standing::Active)
    }

    /// Whether the process takes it for active, or will before it hears of anything else.
    const fn can_be_taken_back(&self) -> bool {
        matches!(self.standing, Standing::Active | Standing::Refused)
    }

    /// Whether the process waits for an acknowledgement, and takes every end before that for that of the link before.
    fn is_awaited(&self) -> bool {
        self.awaits.is_some() && !self.told && self.standing != Standing::Orphaned
    }

    const fn is_over(&self) -> bool {
        matches!(self.standing, Standing::Absent) && self.awaits.is_none() && self.unlinked.is_none()
    }
}

/// A monitor that one of this end's processes has set.
#[derive(Debug)]
struct Watching<P> {
    process: P,
    /// What the process calls it.
    reference: u64,
    far: u64,
}

/// The peer did what it was told it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breach {
    /// More links and monitors than allowed.
    TooMany,
    /// A name used twice, or never given.
    Name,
}

/// What to do with a frame about processes.
#[derive(Debug)]
pub(super) enum Crossing<P> {
    /// Tell this end's process.
    Deliver(Delivery<P>),
    /// Answer as if the process did not exist.
    Answer(Frame<'static>),
    /// It concerns nobody.
    Drop,
}

#[derive(Debug)]
pub(super) struct Border<P> {
    owner: Option<P>,
    /// The owner is linked to the far owner without a frame: the end of the session is that link's exit signal.
    linked: bool,
    window: u64,
    known: BTreeMap<u64, Known<P>>,
    ids: BTreeMap<P, u64>,
    last_id: u64,
    links: BTreeMap<(u64, u64), Link>,
    /// Unlinks whose acknowledgement is due although nobody of this end waits for it.
    due: BTreeMap<(u64, u64), u64>,
    /// Links that went with the role, and whose former owners have not acknowledged that.
    moved: BTreeSet<(P, u64)>,
    watching: BTreeMap<u64, Watching<P>>,
    /// Monitors that their processes have taken back, and the peer does not know: by the far process, and their names.
    given_up: BTreeSet<(u64, u64)>,
    /// The names on the wire of our monitors, by what their processes call them.
    references: BTreeMap<u64, u64>,
    last_watching: u64,
    /// The peer's monitors, by the peer's name, and the process each is on.
    watched: BTreeMap<u64, u64>,
    last_watched: u64,
    set_by_us: u64,
    set_by_peer: u64,
}

impl<P: Clone + Ord> Border<P> {
    /// Nobody is known, and each process that will be starts with this credit window.
    pub(super) const fn new(window: u64) -> Self {
        Self {
            owner: None,
            linked: false,
            window,
            known: BTreeMap::new(),
            ids: BTreeMap::new(),
            last_id: OWNER,
            links: BTreeMap::new(),
            due: BTreeMap::new(),
            moved: BTreeSet::new(),
            watching: BTreeMap::new(),
            given_up: BTreeSet::new(),
            references: BTreeMap::new(),
            last_watching: 0,
            watched: BTreeMap::new(),
            last_watched: 0,
            set_by_us: 0,
            set_by_peer: 0,
        }
    }

    /// Makes `owner` the holder of id 0. Links that the peer has to the role follow it, told in `deliveries`.
    pub(super) fn set_owner(&mut self, owner: Option<P>, linked: bool, deliveries: &mut Vec<Delivery<P>>) {
        let moved = self.owner != owner;
        for (&(_, far), link) in self.links.range_mut((OWNER, 0)..=(OWNER, u64::MAX)).filter(|_| moved) {
            if let Some(to) = self.owner.clone() {
                if let Some(unlink) = link.awaits {
                    // That will come when somebody else is the owner.
                    if link.is_awaited() {
                        let refused = link.standing == Standing::Refused;
                        deliveries.push(Delivery::UnlinkAck { from: far, to: to.clone(), unlink });
                        deliveries.extend(refused.then(|| overload(far, to)));
                    }
                    link.standing = Standing::Orphaned;
                } else {
                    self.moved.insert((to.clone(), far));
                    deliveries.push(Delivery::Unlink { from: far, to, unlink: NO_UNLINK });
                }
            }
            if let Some(to) = owner.clone().filter(|_| link.is_active()) {
                deliveries.push(Delivery::Link { from: far, to });
            }
        }
        let link_of = |linked, process: &Option<P>| process.clone().filter(|_| linked);
        if moved || self.linked != linked {
            // One that has linked by itself as well keeps that link.
            let old = link_of(self.linked, &self.owner).filter(|owner| !self.has_linked_to_owner(owner));
            if let Some(to) = old {
                self.moved.insert((to.clone(), OWNER));
                deliveries.push(Delivery::Unlink { from: OWNER, to, unlink: NO_UNLINK });
            }
            if let Some(to) = link_of(linked, &owner) {
                deliveries.push(Delivery::Link { from: OWNER, to });
            }
        }
        self.owner = owner;
        self.linked = linked;
    }

    pub(super) const fn is_linked(&self) -> bool {
        self.linked
    }

    pub(super) const fn owner(&self) -> Option<&P> {
        self.owner.as_ref()
    }

    /// Lets the peer reach `process` under the id returned.
    pub(super) fn hand_out(&mut self, process: P, rights: Rights) -> u64 {
        let id = self.id_of(&process);
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

    /// A process took messages of this cost: what to tell the peer, if that is worth a frame.
    pub(super) fn give_back(&mut self, process: &P, cost: u64) -> Option<Frame<'static>> {
        let &id = self.ids.get(process)?;
        let total = self.known.get_mut(&id)?.grant.give_back(cost)?;
        Some(Frame::Credit { id, total })
    }

    /// How many entries there are of any kind.
    pub(super) fn len(&self) -> usize {
        self.links.len()
            + self.due.len()
            + self.moved.len()
            + self.watching.len()
            + self.watched.len()
            + self.known.values().filter(|k| !k.handed_out).count()
    }

    // What this end's processes do.

    /// `process` links to the far process. The frame to send, if any; or an exit signal for it in `deliveries`.
    pub(super) fn link(
        &mut self,
        process: &P,
        far: u64,
        max: u64,
        deliveries: &mut Vec<Delivery<P>>,
    ) -> Option<Frame<'static>> {
        // It does not know yet that the link went with the role, and will take it for this one.
        if self.moved.contains(&(process.clone(), far)) {
            return None;
        }
        let own = self.ids.get(process).copied();
        let existing = own.and_then(|id| self.links.get(&(id, far)));
        // The peer has linked, and the process has yet to see that.
        if existing.is_some_and(|link| link.standing == Standing::Active) {
            return None;
        }
        if existing.is_none_or(|link| !link.ours) && self.set_by_us >= max {
            self.refuse_link(process, far, deliveries);
            return None;
        }
        let id = self.id_of(process);
        let Some(link) = self.links.get_mut(&(id, far)) else {
            self.add_link(id, far, true);
            return Some(Frame::Link { from: id, to: far });
        };
        self.set_by_us += u64::from(!std::mem::replace(&mut link.ours, true));
        link.standing = Standing::Active;
        Some(Frame::Link { from: id, to: far })
    }

    /// There is no room for a link. An end that came in front of an acknowledgement would be taken for that of the link
    /// before, so it waits for that.
    fn refuse_link(&mut self, process: &P, far: u64, deliveries: &mut Vec<Delivery<P>>) {
        match self.awaited(process, far) {
            Some(link) => link.standing = Standing::Refused,
            None => deliveries.push(overload(far, process.clone())),
        }
    }

    /// The link to `far`, under either name of `process`, of whose end that waits for an acknowledgement.
    fn awaited(&mut self, process: &P, far: u64) -> Option<&mut Link> {
        let is_there = |id: &u64| self.links.get(&(*id, far)).is_some_and(Link::is_awaited);
        let id = self.names_of(process).find(is_there)?;
        self.links.get_mut(&(id, far))
    }

    /// `process` unlinks. `None`: there is nothing to tell the peer, the process has its acknowledgement at once.
    pub(super) fn unlink(&mut self, process: &P, far: u64, unlink: u64) -> Option<Frame<'static>> {
        if far == OWNER && self.owner.as_ref() == Some(process) {
            self.linked = false;
        }
        let is_there = |id: &u64| self.links.get(&(*id, far)).is_some_and(Link::can_be_taken_back);
        let id = self.names_of(process).find(is_there)?;
        let link = self.links.get_mut(&(id, far))?;
        link.standing = Standing::TakenBack;
        (link.awaits, link.told) = (Some(unlink), false);
        Some(Frame::Unlink { from: id, to: far, unlink })
    }

    /// `process` acknowledges an unlink of the peer's. It may do so twice, and after the peer has linked again.
    pub(super) fn unlink_ack(&mut self, process: &P, far: u64, unlink: u64) -> Option<Frame<'static>> {
        if unlink == NO_UNLINK && self.moved.remove(&(process.clone(), far)) {
            return None;
        }
        // The role's link may have another owner by now.
        let awaits = |&id: &u64| self.links.get(&(id, far)).is_some_and(|link| link.unlinked == Some(unlink));
        let awaiting = self.ids.get(process).copied().into_iter().chain([OWNER]).find(awaits);
        let id = match awaiting {
            None if unlink == NO_UNLINK => return None,
            None => self.linked_id(process, far)?,
            Some(id) => id,
        };
        if awaiting.is_some()
            && let Some(link) = self.links.get_mut(&(id, far))
        {
            link.standing = link.settled();
            (link.unlinked, link.relinked) = (None, false);
            if !link.is_active() {
                self.set_by_peer -= u64::from(std::mem::take(&mut link.theirs));
            }
            self.tidy(id, far);
        }
        Some(Frame::UnlinkAck { from: id, to: far, unlink })
    }

    /// `process` ended, and was linked. In front of the exit goes the acknowledgement that it owes.
    pub(super) fn exit_link(
        &mut self,
        process: &P,
        far: u64,
        taken: u64,
        reason: ExitReason,
    ) -> [Option<Frame<'static>>; 2] {
        if let Some(known) = self.ids.get(process).and_then(|id| self.known.get_mut(id)) {
            known.ended = true;
        }
        let is_active = |id: &u64| self.links.get(&(*id, far)).is_some_and(Link::is_active);
        let Some(id) = self.names_of(process).find(is_active) else { return [None, None] };
        let owed = self.close_link(id, far);
        let ack = owed.map(|unlink| Frame::UnlinkAck { from: id, to: far, unlink });
        [ack, Some(Frame::Exit { from: id, to: far, taken: Some(taken), reason })]
    }

    /// `process` sends an exit signal. One that the peer does not know has a name that it will never know.
    pub(super) fn exit(&mut self, process: &P, far: u64, reason: ExitReason) -> Frame<'static> {
        let from = self.ids.get(process).copied().unwrap_or_else(|| self.fresh_id());
        Frame::Exit { from, to: far, taken: None, reason }
    }

    /// `process` monitors. The far owner's end is the end of the session: that needs no frame.
    pub(super) fn monitor(
        &mut self,
        process: P,
        reference: u64,
        far: u64,
        max: u64,
    ) -> Result<Option<Frame<'static>>, ExitReason> {
        // One that was given up is there still, and serves again.
        let again = self.given_up.range((far, 0)..=(far, u64::MAX)).next().copied();
        if let Some((far, monitor)) = again {
            self.given_up.remove(&(far, monitor));
            self.watching.insert(monitor, Watching { process, reference, far });
            self.references.insert(reference, monitor);
            return Ok(None);
        }
        if far != OWNER && self.set_by_us >= max {
            return Err(ExitReason::Overload);
        }
        self.last_watching += 1;
        let monitor = self.last_watching;
        self.watching.insert(monitor, Watching { process, reference, far });
        self.references.insert(reference, monitor);
        if far == OWNER {
            return Ok(None);
        }
        self.set_by_us += 1;
        Ok(Some(Frame::Monitor { monitor, to: far }))
    }

    /// Takes a monitor back, found by what its process calls it. The peer is told by [`demonitor_one`].
    ///
    /// [`demonitor_one`]: Self::demonitor_one
    pub(super) fn demonitor(&mut self, reference: u64) {
        let Some(monitor) = self.references.remove(&reference) else { return };
        match self.watching.get(&monitor).map(|watching| watching.far) {
            Some(OWNER) => drop(self.watching.remove(&monitor)),
            Some(far) => drop(self.given_up.insert((far, monitor))),
            None => {}
        }
    }

    /// Whether the peer has yet to be told that a monitor was taken back.
    pub(super) fn has_given_up(&self) -> bool {
        !self.given_up.is_empty()
    }

    /// Tells the peer of one.
    pub(super) fn demonitor_one(&mut self) -> Option<Frame<'static>> {
        let (_, monitor) = self.given_up.pop_first()?;
        self.watching.remove(&monitor);
        self.set_by_us -= 1;
        Some(Frame::Demonitor { monitor })
    }

    /// A process that the peer monitors ended.
    pub(super) fn down(&mut self, monitor: u64, taken: u64, reason: ExitReason) -> Option<Frame<'static>> {
        self.unwatch(monitor)?;
        Some(Frame::Down { monitor, taken, reason })
    }

    // What the peer's processes do.

    pub(super) fn handle_link(&mut self, from: u64, to: u64, max: u64) -> Result<Crossing<P>, Breach> {
        if let Some(link) = self.links.get_mut(&(to, from)) {
            // The peer has unlinked and links again, and our process has still to hear of both, in that order.
            let again = link.unlinked.is_some() && !link.relinked;
            if link.settled() == Standing::Absent {
                link.standing = Standing::Active;
            } else if !again || link.standing == Standing::Orphaned {
                return Ok(Crossing::Drop);
            }
            link.relinked = link.unlinked.is_some();
            self.set_by_peer += u64::from(!std::mem::replace(&mut link.theirs, true));
            if self.set_by_peer > max {
                return Err(Breach::TooMany);
            }
            let process = self.process(to);
            return Ok(process.map_or(Crossing::Drop, |to| Crossing::Deliver(Delivery::Link { from, to })));
        }
        let Some(process) = self.reachable(to, |rights| rights.link) else {
            return Ok(Crossing::Answer(Frame::Exit {
                from: to,
                to: from,
                taken: Some(0),
                reason: ExitReason::NoProc,
            }));
        };
        if self.set_by_peer >= max {
            return Err(Breach::TooMany);
        }
        self.add_link(to, from, false);
        Ok(process.map_or(Crossing::Drop, |to| Crossing::Deliver(Delivery::Link { from, to })))
    }

    pub(super) fn handle_unlink(&mut self, from: u64, to: u64, unlink: u64) -> Crossing<P> {
        let process = self.process(to);
        if let Some(link) = self.links.get_mut(&(to, from))
            && let Some(to) = process
        {
            (link.unlinked, link.relinked) = (Some(unlink), false);
            return Crossing::Deliver(Delivery::Unlink { from, to, unlink });
        }
        self.close_link(to, from);
        Crossing::Answer(Frame::UnlinkAck { from: to, to: from, unlink })
    }

    /// What to tell is put into `deliveries`.
    pub(super) fn handle_unlink_ack(
        &mut self,
        from: u64,
        to: u64,
        unlink: u64,
        max: u64,
        deliveries: &mut Vec<Delivery<P>>,
    ) -> Result<(), Breach> {
        let process = self.process(to);
        let was_due = self.due.get(&(to, from)) == Some(&unlink);
        if was_due {
            self.due.remove(&(to, from));
        }
        let may_be = |link: &&mut Link| was_due || link.awaits.is_some();
        let Some(link) = self.links.get_mut(&(to, from)).filter(may_be) else { return Ok(()) };
        // All that the peer had sent before is gone with the link; also where another unlink is under way.
        self.set_by_peer -= u64::from(std::mem::take(&mut link.theirs));
        if link.awaits.is_none() && !link.ours {
            self.take_void(to, from, deliveries);
            return Ok(());
        }
        if link.awaits != Some(unlink) {
            return self.check_kept(max);
        }
        let (standing, told) = (link.standing, !link.is_awaited());
        link.awaits = None;
        if link.unlinked.is_none() {
            link.standing = link.settled();
        }
        self.tidy(to, from);
        if let Some(to) = process.filter(|_| !told) {
            deliveries.push(Delivery::UnlinkAck { from, to: to.clone(), unlink });
            deliveries.extend((standing == Standing::Refused).then(|| overload(from, to)));
        }
        Ok(())
    }

    /// What follows when the peer has ended a link with a frame: the owners' own, which is none of the peer's to take away,
    /// is not the frame's, though for the process they are one.
    pub(super) fn restore(&self, from: u64, to: u64) -> Option<Delivery<P>> {
        let both = self.linked && from == OWNER && to == OWNER;
        self.owner.clone().filter(|_| both).map(|to| Delivery::Link { from, to })
    }

    /// A link of the peer's alone that it had sent before our unlink came, which nobody of this end waits for any more.
    fn take_void(&mut self, local: u64, far: u64, deliveries: &mut Vec<Delivery<P>>) {
        let process = self.process(local);
        let Some(link) = self.links.get_mut(&(local, far)) else { return };
        if let Some(to) = process.filter(|_| link.is_active()) {
            self.moved.insert((to.clone(), far));
            deliveries.push(Delivery::Unlink { from: far, to, unlink: NO_UNLINK });
        }
        link.relinked = false;
        if link.unlinked.is_none() {
            self.remove_link(local, far);
        }
    }

    /// Entries that are kept for an acknowledgement take no place of the peer's, which may never send it.
    fn check_kept(&self, max: u64) -> Result<(), Breach> {
        let most = self.set_by_us.saturating_add(max.saturating_mul(2));
        if self.links.len() as u64 > most { Err(Breach::TooMany) } else { Ok(()) }
    }

    /// An exit over a link: what to answer, and to tell.
    pub(super) fn handle_exit_link(
        &mut self,
        from: u64,
        to: u64,
        reason: ExitReason,
        max: u64,
        deliveries: &mut Vec<Delivery<P>>,
    ) -> Result<[Crossing<P>; 2], Breach> {
        if let Some(link) = self.links.get_mut(&(to, from)).filter(|link| link.awaits.is_some()) {
            // It is older than our `Unlink`, whose acknowledgement is waited for.
            self.set_by_peer -= u64::from(std::mem::take(&mut link.theirs));
            return self.check_kept(max).map(|()| [Crossing::Drop, Crossing::Drop]);
        }
        let process = self.process(to);
        let Some(link) = self.remove_link(to, from) else { return Ok([Crossing::Drop, Crossing::Drop]) };
        // What our process owes has its answer all the same: nothing is left of the link when it comes to it.
        let owed = link.unlinked.map(|unlink| Frame::UnlinkAck { from: to, to: from, unlink });
        let owed = owed.map_or(Crossing::Drop, Crossing::Answer);
        let Some(to) = process else { return Ok([owed, Crossing::Drop]) };
        // It knows of one link where an owner has two, under either name. This is the end of what it may wait for too.
        if let Some(other) = self.awaited(&to, from) {
            other.told = true;
            if other.standing == Standing::Refused {
                other.standing = Standing::TakenBack;
            }
            let acknowledged =
                other.awaits.map(|unlink| Delivery::UnlinkAck { from, to: to.clone(), unlink });
            deliveries.extend(acknowledged);
        }
        let exit = Delivery::Exit { from, to, reason, link: true, provoked: link.theirs };
        Ok([owed, Crossing::Deliver(exit)])
    }

    /// An exit that a process of the peer sent of its own will.
    pub(super) fn handle_exit(&self, from: u64, to: u64, mut reason: ExitReason) -> Crossing<P> {
        let rights = self.rights(to);
        if reason == ExitReason::Kill && !rights.kill {
            reason = ExitReason::Killed;
        }
        let process = self.process(to).filter(|_| rights.exit);
        process.map_or(Crossing::Drop, |to| {
            Crossing::Deliver(Delivery::Exit { from, to, reason, link: false, provoked: true })
        })
    }

    pub(super) fn handle_monitor(&mut self, monitor: u64, to: u64, max: u64) -> Result<Crossing<P>, Breach> {
        if monitor <= self.last_watched {
            return Err(Breach::Name);
        }
        self.last_watched = monitor;
        let Some(process) = self.reachable(to, |rights| rights.monitor) else {
            return Ok(Crossing::Answer(Frame::Down { monitor, taken: 0, reason: ExitReason::NoProc }));
        };
        if self.set_by_peer >= max {
            return Err(Breach::TooMany);
        }
        self.set_by_peer += 1;
        self.watched.insert(monitor, to);
        // The owner's end is told by `Ended`.
        Ok(process
            .filter(|_| to != OWNER)
            .map_or(Crossing::Drop, |to| Crossing::Deliver(Delivery::Monitor { monitor, to })))
    }

    pub(super) fn handle_demonitor(&mut self, monitor: u64) -> Result<Crossing<P>, Breach> {
        if monitor > self.last_watched {
            return Err(Breach::Name);
        }
        let to = self.unwatch(monitor).filter(|&to| to != OWNER).and_then(|to| self.process(to));
        Ok(to.map_or(Crossing::Drop, |to| Crossing::Deliver(Delivery::Demonitor { monitor, to })))
    }

    pub(super) fn handle_down(&mut self, monitor: u64, reason: ExitReason) -> Crossing<P> {
        let Some(watching) = self.watching.remove(&monitor) else { return Crossing::Drop };
        self.set_by_us -= u64::from(watching.far != OWNER);
        if self.given_up.remove(&(watching.far, monitor)) {
            return Crossing::Drop;
        }
        self.references.remove(&watching.reference);
        Crossing::Deliver(watching.down(reason))
    }

    /// The session is over: every link and monitor has its ending. `owner_reason` is that of the far owner; all
    /// others are out of reach.
    pub(super) fn end(&mut self, owner_reason: &ExitReason, deliveries: &mut Vec<Delivery<P>>) {
        let reason = |far| if far == OWNER { owner_reason.clone() } else { ExitReason::NoConnection };
        let mut owner = self.owner.clone().filter(|_| self.linked);
        // In front of all ends: an owner may wait for one under one name, and have a link under the other.
        for (&(local, from), link) in self.links.iter().filter(|(_, link)| link.is_awaited()) {
            let (to, unlink) = (self.process(local), link.awaits);
            deliveries.extend(to.zip(unlink).map(|(to, unlink)| Delivery::UnlinkAck { from, to, unlink }));
        }
        for ((local, far), link) in std::mem::take(&mut self.links) {
            let Some(to) = self.process(local) else { continue };
            if link.is_active() || link.standing == Standing::Refused {
                // An owner that has set a link of its own as well is told once.
                owner.take_if(|owner| far == OWNER && *owner == to);
                let (reason, link) = (reason(far), true);
                deliveries.push(Delivery::Exit { from: far, to, reason, link, provoked: false });
            }
        }
        if let Some(to) = owner {
            let (reason, link) = (reason(OWNER), true);
            deliveries.push(Delivery::Exit { from: OWNER, to, reason, link, provoked: false });
        }
        for (_, monitor) in std::mem::take(&mut self.given_up) {
            self.watching.remove(&monitor);
        }
        for watching in std::mem::take(&mut self.watching).into_values() {
            let reason = reason(watching.far);
            deliveries.push(watching.down(reason));
        }
        for (monitor, to) in std::mem::take(&mut self.watched) {
            if let Some(to) = self.process(to).filter(|_| to != OWNER) {
                deliveries.push(Delivery::Demonitor { monitor, to });
            }
        }
        *self = Self { last_id: self.last_id, ..Self::new(self.window) };
    }

    // The tables.

    /// The process at the peer's end of an id: `Some(None)` is an owner that is no process.
    fn reachable(&self, id: u64, right: impl FnOnce(Rights) -> bool) -> Option<Option<P>> {
        if id == OWNER {
            return Some(self.owner.clone());
        }
        let known = self.known.get(&id).filter(|known| !known.ended && right(known.rights))?;
        Some(Some(known.process.clone()))
    }

    fn process(&self, id: u64) -> Option<P> {
        if id == OWNER { self.owner.clone() } else { Some(self.known.get(&id)?.process.clone()) }
    }

    fn rights(&self, id: u64) -> Rights {
        if id == OWNER {
            Rights::OWNER
        } else {
            self.known.get(&id).map_or(Rights::NONE, |known| known.rights)
        }
    }

    /// Whether `process` has a link of its own to the far owner.
    fn has_linked_to_owner(&self, process: &P) -> bool {
        self.ids.get(process).and_then(|&id| self.links.get(&(id, OWNER))).is_some_and(Link::is_active)
    }

    /// The id under which `process` has an entry with `far`.
    fn linked_id(&self, process: &P, far: u64) -> Option<u64> {
        self.names_of(process).find(|&id| self.links.contains_key(&(id, far)))
    }

    /// The ids that `process` has: its own, and the role.
    fn names_of(&self, process: &P) -> impl Iterator<Item = u64> + use<P> {
        let own = self.ids.get(process).copied();
        let role = (self.owner.as_ref() == Some(process)).then_some(OWNER);
        own.into_iter().chain(role)
    }

    fn id_of(&mut self, process: &P) -> u64 {
        if let Some(&id) = self.ids.get(process) {
            return id;
        }
        let id = self.fresh_id();
        self.ids.insert(process.clone(), id);
        let known = Known {
            process: process.clone(),
            rights: Rights::NONE,
            links: 0,
            handed_out: false,
            ended: false,
            grant: Grant::new(self.window),
        };
        self.known.insert(id, known);
        id
    }

    const fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn add_link(&mut self, local: u64, far: u64, ours: bool) {
        let standing = Standing::Active;
        let link = Link {
            standing,
            ours,
            theirs: !ours,
            awaits: None,
            told: false,
            unlinked: None,
            relinked: false,
        };
        self.links.insert((local, far), link);
        if let Some(known) = self.known.get_mut(&local) {
            known.links += 1;
        }
        if ours {
            self.set_by_us += 1;
        } else {
            self.set_by_peer += 1;
        }
    }

    /// Lets an entry go about which nobody has anything to say.
    fn tidy(&mut self, local: u64, far: u64) {
        if self.links.get(&(local, far)).is_some_and(Link::is_over) {
            self.remove_link(local, far);
        }
    }

    /// Ends a link of which its process says nothing more. What it owed to the peer is returned.
    fn close_link(&mut self, local: u64, far: u64) -> Option<u64> {
        let link = self.remove_link(local, far)?;
        if let Some(unlink) = link.awaits {
            self.due.insert((local, far), unlink);
        }
        link.unlinked
    }

    fn remove_link(&mut self, local: u64, far: u64) -> Option<Link> {
        let link = self.links.remove(&(local, far))?;
        self.set_by_peer -= u64::from(link.theirs);
        self.set_by_us -= u64::from(link.ours);
        if let Some(known) = self.known.get_mut(&local) {
            known.links -= 1;
            if known.links == 0 && !known.handed_out {
                self.ids.remove(&known.process);
                self.known.remove(&local);
            }
        }
        Some(link)
    }

    fn unwatch(&mut self, monitor: u64) -> Option<u64> {
        let to = self.watched.remove(&monitor)?;
        self.set_by_peer -= 1;
        Some(to)
    }
}

/// The end of a link for which there is no room.
const fn overload<P>(from: u64, to: P) -> Delivery<P> {
    Delivery::Exit { from, to, reason: ExitReason::Overload, link: true, provoked: false }
}

impl<P> Watching<P> {
    fn down(self, reason: ExitReason) -> Delivery<P> {
        Delivery::Down { monitor: self.reference, from: self.far, to: self.process, reason }
    }
}
