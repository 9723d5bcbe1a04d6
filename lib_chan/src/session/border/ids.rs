//! The ids of this end's processes, and the rights that each gives the peer.

use std::collections::BTreeMap;

use super::Breach;
use crate::session::credit::Grant;

/// The id of the owner of each end, whatever process that is.
pub(in crate::session) const OWNER: u64 = 0;

/// The operations that a handed-out process permits to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Messages and calls.
    pub send: bool,
    /// Monitors.
    pub monitor: bool,
    /// Links.
    pub link: bool,
    /// Exit signals.
    pub exit: bool,
    /// Exit signals with the reason `kill`, which cannot be trapped.
    pub kill: bool,
}

impl Rights {
    /// The rights of an id that only names the sender of a link.
    const NONE: Self = Self { send: false, monitor: false, link: false, exit: false, kill: false };
    /// The rights to the owner.
    const OWNER: Self = Self { send: true, monitor: true, link: true, exit: true, kill: false };
}

impl Default for Rights {
    /// The rights to send, call and monitor.
    fn default() -> Self {
        Self { send: true, monitor: true, ..Self::NONE }
    }
}

/// A process of this end with an id of its own.
#[derive(Debug)]
struct Known<P> {
    process: P,
    rights: Rights,
    /// The id stays known. An id that was not handed out is forgotten with its last link.
    handed_out: bool,
    /// The process has told a linked process of its end, so later links and monitors are answered at once. If they
    /// took a place until the process answers, the peer would exceed the bound: it knows that the former link has
    /// ended.
    ended: bool,
    grant: Grant,
}

/// The processes of this end that have an id.
#[derive(Debug)]
pub(in crate::session) struct Ids<P> {
    owner: Option<P>,
    window: u64,
    known: BTreeMap<u64, Known<P>>,
    ids: BTreeMap<P, u64>,
    last_id: u64,
}

impl<P: Clone + Ord> Ids<P> {
    /// Creates a table without processes. Each process that gets an id starts with a credit window of `window` bytes.
    pub(super) const fn new(window: u64) -> Self {
        Self { owner: None, window, known: BTreeMap::new(), ids: BTreeMap::new(), last_id: OWNER }
    }

    /// Forgets all processes. No id is used again.
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

    /// Gives `process` an id by which the peer can reach it, and returns the id.
    pub(in crate::session) fn hand_out(&mut self, process: P, rights: Rights) -> u64 {
        let id = self.own_id(&process);
        if let Some(known) = self.known.get_mut(&id) {
            known.rights = rights;
            known.handed_out = true;
        }
        id
    }

    /// Returns the process that a message of this cost for `id` goes to, if the peer may send to it.
    pub(in crate::session) fn receive(&mut self, id: u64, cost: u64) -> Result<Option<P>, Breach> {
        let Some(known) = self.known.get_mut(&id).filter(|known| known.rights.send) else { return Ok(None) };
        if known.grant.receive(cost) { Ok(Some(known.process.clone())) } else { Err(Breach::TooMany) }
    }

    /// Returns the credit of messages that a process took: its id and the new total, if that is worth a frame.
    pub(in crate::session) fn give_back(&mut self, process: &P, cost: u64) -> Option<(u64, u64)> {
        let &id = self.ids.get(process)?;
        let total = self.known.get_mut(&id)?.grant.give_back(cost)?;
        Some((id, total))
    }

    /// Returns the ids that were granted more credit than at first, with their totals.
    pub(in crate::session) fn grants(&self) -> impl Iterator<Item = (u64, u64)> {
        let granted = self.known.iter().map(|(&id, known)| (id, known.grant.granted()));
        granted.filter(|&(_, total)| total > self.window)
    }

    /// Returns the id under which the peer knows `process`, and makes one if there is none.
    pub(super) fn name(&mut self, process: &P) -> u64 {
        if self.is_owner(process) { OWNER } else { self.own_id(process) }
    }

    pub(super) fn is_owner(&self, process: &P) -> bool {
        self.owner.as_ref() == Some(process)
    }

    /// Returns the ids of `process`, its own name first. An owner has a name of its own only if it had one before.
    pub(super) fn ids_of(&self, process: &P) -> impl Iterator<Item = u64> + use<P> {
        let owner = self.is_owner(process).then_some(OWNER);
        owner.into_iter().chain(self.ids.get(process).copied())
    }

    pub(in crate::session) fn process(&self, id: u64) -> Option<P> {
        if id == OWNER { self.owner.clone() } else { Some(self.known.get(&id)?.process.clone()) }
    }

    /// Returns `true` if the peer may do this to `id` and a process is there. An owner may be a task without a
    /// process.
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

    /// Removes an id that no link needs, unless it was handed out.
    pub(super) fn forget(&mut self, id: u64) {
        if let Some(known) = self.known.get(&id).filter(|known| !known.handed_out) {
            self.ids.remove(&known.process);
            self.known.remove(&id);
        }
    }

    /// Returns the entry of `process`, if it has an id other than that of an owner.
    pub(super) fn own_id_of<'a>(&self, process: Option<&'a P>) -> Option<(&'a P, u64)> {
        let process = process?;
        Some((process, *self.ids.get(process)?))
    }

    /// Returns the rights to `id`.
    pub(super) fn rights(&self, id: u64) -> Rights {
        if id == OWNER {
            return Rights::OWNER;
        }
        self.known.get(&id).map_or(Rights::NONE, |known| known.rights)
    }

    /// Notes that `process` has told a linked process of its end.
    pub(super) fn set_ended(&mut self, process: &P) {
        if let Some(known) = self.ids.get(process).and_then(|id| self.known.get_mut(id)) {
            known.ended = true;
        }
    }

    /// Returns the number of ids that exist for links alone.
    pub(super) fn linked(&self) -> usize {
        self.known.values().filter(|known| !known.handed_out).count()
    }
}
