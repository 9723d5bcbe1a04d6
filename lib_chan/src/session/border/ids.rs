//! The ids of this end's processes, and what each lets the peer do.

use std::collections::BTreeMap;

use super::Breach;
use crate::session::credit::Grant;

/// The id of the owner of each end, whichever process that is.
pub(in crate::session) const OWNER: u64 = 0;

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

/// The processes of this end that the peer knows.
#[derive(Debug)]
pub(in crate::session) struct Ids<P> {
    owner: Option<P>,
    window: u64,
    known: BTreeMap<u64, Known<P>>,
    ids: BTreeMap<P, u64>,
    last_id: u64,
}

impl<P: Clone + Ord> Ids<P> {
    /// Nobody is known, and each process that will be starts with this credit window.
    pub(super) const fn new(window: u64) -> Self {
        Self { owner: None, window, known: BTreeMap::new(), ids: BTreeMap::new(), last_id: OWNER }
    }

    /// Forgets everybody. No id is used again.
    pub(super) fn clear(&mut self) {
        *self = Self { last_id: self.last_id, ..Self::new(self.window) };
    }

    /// Makes `owner` the owner, and returns the owner before.
    pub(super) fn set_owner(&mut self, owner: Option<P>) -> Option<P> {
        std::mem::replace(&mut self.owner, owner)
    }

    pub(in crate::session) const fn owner(&self) -> Option<&P> {
        self.owner.as_ref()
    }

    /// Lets the peer reach `process` under the id returned.
    pub(in crate::session) fn hand_out(&mut self, process: P, rights: Rights) -> u64 {
        let id = self.own_id(&process);
        if let Some(known) = self.known.get_mut(&id) {
            known.rights = rights;
            known.handed_out = true;
        }
        id
    }

    /// A message of this cost came for `id`: the process, if the peer may send to it.
    pub(in crate::session) fn receive(&mut self, id: u64, cost: u64) -> Result<Option<P>, Breach> {
        let Some(known) = self.known.get_mut(&id).filter(|known| known.rights.send) else { return Ok(None) };
        if known.grant.receive(cost) { Ok(Some(known.process.clone())) } else { Err(Breach::TooMany) }
    }

    /// A process took messages of this cost: its id and the total that was granted to it, if that is worth a frame.
    pub(in crate::session) fn give_back(&mut self, process: &P, cost: u64) -> Option<(u64, u64)> {
        let &id = self.ids.get(process)?;
        let total = self.known.get_mut(&id)?.grant.give_back(cost)?;
        Some((id, total))
    }

    /// The credit that was granted so far to each id for which that is more than at first.
    pub(in crate::session) fn grants(&self) -> impl Iterator<Item = (u64, u64)> {
        let granted = self.known.iter().map(|(&id, known)| (id, known.grant.granted()));
        granted.filter(|&(_, total)| total > self.window)
    }

    /// The name under which the peer gets to know `process`.
    pub(super) fn name(&mut self, process: &P) -> u64 {
        if self.is_owner(process) { OWNER } else { self.own_id(process) }
    }

    pub(super) fn is_owner(&self, process: &P) -> bool {
        self.owner.as_ref() == Some(process)
    }

    /// The ids that `process` has, its name first. An owner has one of its own only if it had that before.
    pub(super) fn ids_of(&self, process: &P) -> impl Iterator<Item = u64> + use<P> {
        let owner = self.is_owner(process).then_some(OWNER);
        owner.into_iter().chain(self.ids.get(process).copied())
    }

    pub(in crate::session) fn process(&self, id: u64) -> Option<P> {
        if id == OWNER { self.owner.clone() } else { Some(self.known.get(&id)?.process.clone()) }
    }

    /// Whether the peer may do this to `id`, and there is somebody. An owner may be no process.
    pub(super) fn is_reachable(&self, id: u64, right: impl FnOnce(Rights) -> bool) -> bool {
        id == OWNER || self.known.get(&id).is_some_and(|known| !known.ended && right(known.rights))
    }

    pub(super) fn own_id(&mut self, process: &P) -> u64 {
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

    pub(super) const fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Forgets an id that no link needs, unless it was handed out.
    pub(super) fn forget(&mut self, id: u64) {
        if let Some(known) = self.known.get(&id).filter(|known| !known.handed_out) {
            self.ids.remove(&known.process);
            self.known.remove(&id);
        }
    }

    /// `process` with its id, where it has one besides that of an owner.
    pub(super) fn own_id_of<'a>(&self, process: Option<&'a P>) -> Option<(&'a P, u64)> {
        let process = process?;
        Some((process, *self.ids.get(process)?))
    }

    /// What the peer may do to `id`.
    pub(super) fn rights(&self, id: u64) -> Rights {
        if id == OWNER {
            return Rights::OWNER;
        }
        self.known.get(&id).map_or(Rights::NONE, |known| known.rights)
    }

    /// `process` has told a linked process of its end.
    pub(super) fn set_ended(&mut self, process: &P) {
        if let Some(known) = self.ids.get(process).and_then(|id| self.known.get_mut(id)) {
            known.ended = true;
        }
    }

    /// How many ids there are for the sake of links alone.
    pub(super) fn linked(&self) -> usize {
        self.known.values().filter(|known| !known.handed_out).count()
    }
}
