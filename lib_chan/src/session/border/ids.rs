//! The ids of this end's processes, and the rights that each gives the peer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::Breach;
use crate::{
    Limits, Rights,
    session::{
        credit::Grant,
        handles::{Export, ProcessMailbox, ReceivedHandle},
    },
};

/// The id of the owner of each end, whatever process that is.
pub const OWNER: u64 = 0;

/// The credit window of each process that is handed out in a message.
pub(in crate::session) const HANDLE_WINDOW: u64 = Limits::MIN_WINDOW_LEN as u64;
/// The total of a grant that never ends: messages to a process that is gone are discarded, and cost nothing.
const ENDLESS: u64 = u64::MAX;

/// The extent to which a process is known to the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// It only names the sender of a link, and is forgotten with its last link.
    #[default]
    Named,
    /// Handed out by number, for as long as the session lives.
    Fixed,
    /// Handed out in messages, until the peer has released every handle.
    Handed,
    /// As `Handed`, but the process has ended, or the name was revoked.
    Gone,
}

/// A process of this end with an id of its own.
#[derive(Debug)]
struct Known<P> {
    process: P,
    /// The alias that this id stands for; 0 for the process itself.
    alias: u64,
    rights: Rights,
    standing: Standing,
    /// The handles that were sent and not released.
    sent: u64,
    /// The handles in messages that wait to be sent.
    waiting: u64,
    mailbox: Option<ProcessMailbox>,
    /// The process has told a linked process of its end, so later links and monitors are answered at once. If they
    /// took a place until the process answers, the peer would exceed the bound: it knows that the former link has
    /// ended.
    ended: bool,
    grant: Grant,
    /// The time at which the process began to take the current window, and what it had taken by then.
    round: (Option<Instant>, u64),
    /// The cost of untaken messages that came before the process was released and handed out again.
    stale: u64,
}

impl<P> Known<P> {
    /// Brings the window back to its first length. Returns `false` if it had that length.
    fn narrow(&mut self) -> bool {
        let narrowed = self.standing == Standing::Handed && self.grant.window() > HANDLE_WINDOW;
        if narrowed {
            // A narrower window grants nothing.
            let _ = self.grant.resize(HANDLE_WINDOW);
        }
        narrowed
    }

    const fn is_handed_out(&self) -> bool {
        !matches!(self.standing, Standing::Named)
    }

    const fn is_reachable(&self) -> bool {
        matches!(self.standing, Standing::Fixed | Standing::Handed)
    }

    /// Returns the first length of the window; `fixed` is that of a process that was handed out by number.
    const fn first_window(&self, fixed: u64) -> u64 {
        if matches!(self.standing, Standing::Fixed) { fixed } else { HANDLE_WINDOW }
    }

    /// Returns the bytes by which the window has grown since the process was handed out in a message. Credit that was granted
    /// counts until it is used, because it is not taken back.
    fn extra(&self) -> u64 {
        match self.standing {
            Standing::Handed => self.grant.window().max(self.grant.open()).saturating_sub(HANDLE_WINDOW),
            Standing::Named | Standing::Fixed | Standing::Gone => 0,
        }
    }
}

/// The processes of this end that have an id.
#[derive(Debug)]
pub(in crate::session) struct Ids<P> {
    owner: Option<P>,
    window: u64,
    known: BTreeMap<u64, Known<P>>,
    /// The id of each process, other than those of its aliases.
    ids: BTreeMap<P, u64>,
    /// The ids of aliases, by their numbers.
    aliases: BTreeMap<u64, u64>,
    last_id: u64,
    /// The ids that were handed out in messages and not released.
    handed: u64,
    /// The cost of the untaken messages of all handed-out processes.
    outstanding: u64,
    /// The process that has got a message longer than its window.
    oversized: Option<u64>,
    /// The cost of the messages that handed-out processes have taken.
    returned: u64,
    /// Windows are narrower than they were.
    narrowed: bool,
}

impl<P: Clone + Ord> Ids<P> {
    /// Creates a table without processes. Each process that gets an id starts with a credit window of `window` bytes.
    pub(super) const fn new(window: u64) -> Self {
        Self {
            owner: None,
            window,
            known: BTreeMap::new(),
            ids: BTreeMap::new(),
            aliases: BTreeMap::new(),
            last_id: OWNER,
            handed: 0,
            outstanding: 0,
            oversized: None,
            returned: 0,
            narrowed: false,
        }
    }

    /// Forgets all processes. No id is used again.
    pub(super) fn clear(&mut self) {
        *self = Self { last_id: self.last_id, returned: self.returned, ..Self::new(self.window) };
    }

    /// Makes `owner` the owner, and returns the owner before.
    pub(super) fn set_owner(&mut self, owner: Option<P>) -> Option<P> {
        std::mem::replace(&mut self.owner, owner)
    }

    pub(in crate::session) const fn owner(&self) -> Option<&P> {
        self.owner.as_ref()
    }

    /// Gives `process` an id by which the peer can reach it for as long as the session lives, and returns the id.
    pub(in crate::session) fn hand_out(
        &mut self,
        process: P,
        rights: Rights,
        mailbox: Option<ProcessMailbox>,
    ) -> u64 {
        let id = self.own_id(&process);
        if let Some(known) = self.known.get_mut(&id) {
            known.rights = rights;
            known.standing = Standing::Fixed;
            known.mailbox = mailbox;
        }
        id
    }

    // Handles.

    /// Prepares to hand out a process in a message. The peer takes `max` processes; over that, returns `None`. Returns
    /// the id, the rights that the peer then has, and whether the id is new to the peer.
    pub(super) fn export(&mut self, export: Export<P>, max: u64) -> Option<(u64, Rights, bool)> {
        let Export { process, alias, rights, mailbox } = export;
        let number = alias.as_ref().map_or(0, |alias| alias.number);
        let known = if number == 0 { self.ids.get(&process) } else { self.aliases.get(&number) };
        let is_handed = |id: &u64| self.known.get(id).is_some_and(Known::is_handed_out);
        let is_new = !known.is_some_and(is_handed);
        if is_new && self.handed >= max {
            return None;
        }
        let id = match known {
            Some(&id) => id,
            None if number == 0 => self.own_id(&process),
            None => self.make(process.clone(), number),
        };
        self.handed += u64::from(is_new);
        let known = self.known.get_mut(&id)?;
        if is_new {
            known.grant = Grant::new(HANDLE_WINDOW);
            known.round = (None, 0);
            known.standing = Standing::Handed;
        }
        known.waiting += 1;
        if alias.is_some_and(|alias| alias.revoked.load(Ordering::Acquire)) {
            known.standing = Standing::Gone;
            return Some((id, Rights::NONE, false));
        }
        if known.is_reachable() {
            if rights.send || known.mailbox.is_none() {
                known.mailbox = Some(mailbox);
            }
            known.rights = known.rights.with(rights);
        }
        Some((id, known.rights, is_new))
    }

    /// Counts a handle that goes with a message which gets its number now.
    pub(in crate::session) fn count_sent(&mut self, id: u64) {
        if let Some(known) = self.known.get_mut(&id) {
            known.waiting = known.waiting.saturating_sub(1);
            known.sent += 1;
        }
    }

    /// Forgets a handle of a message that is not sent. Returns `true` if the process is no longer handed out.
    pub(super) fn withdraw(&mut self, id: u64) -> bool {
        let Some(known) = self.known.get_mut(&id) else { return false };
        known.waiting = known.waiting.saturating_sub(1);
        self.take_back(id)
    }

    /// Releases handles. Returns `true` if the process is no longer handed out.
    pub(super) fn release(&mut self, id: u64, count: u64) -> Result<bool, Breach> {
        let known = self.known.get_mut(&id).filter(|known| count > 0 && count <= known.sent);
        known.ok_or(Breach::Name)?.sent -= count;
        Ok(self.take_back(id))
    }

    /// Ends the export of an id of which no handle is left. Returns `true` if it has ended.
    fn take_back(&mut self, id: u64) -> bool {
        let left = |known: &&mut Known<P>| {
            matches!(known.standing, Standing::Handed | Standing::Gone) && known.sent + known.waiting == 0
        };
        let Some(known) = self.known.get_mut(&id).filter(left) else { return false };
        self.narrowed |= known.narrow();
        known.standing = Standing::Named;
        known.rights = Rights::NONE;
        known.mailbox = None;
        known.stale += known.grant.outstanding();
        let alias = known.alias;
        self.aliases.remove(&alias);
        self.handed -= 1;
        true
    }

    /// Makes an id useless for the peer, which may still have handles. Returns `false` if it was already.
    pub(super) fn retire(&mut self, id: u64) -> bool {
        let Some(known) = self.known.get_mut(&id).filter(|known| known.is_reachable()) else { return false };
        let is_fixed = known.standing == Standing::Fixed;
        self.narrowed |= known.narrow();
        known.standing = if is_fixed { Standing::Named } else { Standing::Gone };
        known.rights = Rights::NONE;
        known.mailbox = None;
        true
    }

    /// Returns the id of an alias.
    pub(super) fn alias(&self, number: u64) -> Option<u64> {
        self.aliases.get(&number).copied()
    }

    /// Returns `true` if `process` can be reached by an id that was handed out in a message.
    pub(super) fn is_handed(&self, process: &P) -> bool {
        self.ids_of(process).any(|id| self.known.get(&id).is_some_and(|it| it.standing == Standing::Handed))
    }

    /// Returns the processes that can be reached by an id that was handed out in a message.
    pub(super) fn all_handed(&self) -> BTreeSet<P> {
        let handed = self.known.values().filter(|known| known.standing == Standing::Handed);
        handed.map(|known| known.process.clone()).collect()
    }

    /// Returns the process of this id.
    pub(super) fn known(&self, id: u64) -> Option<&P> {
        self.known.get(&id).map(|known| &known.process)
    }

    /// Returns the handle that the peer sent back.
    pub(in crate::session) fn returned(&self, id: u64) -> Result<ReceivedHandle, Breach> {
        if id == OWNER || id > self.last_id {
            return Err(Breach::Name);
        }
        match self.known.get(&id) {
            Some(known) if !known.is_handed_out() && known.mailbox.is_none() && known.stale == 0 => {
                Err(Breach::Name)
            }
            Some(Known { mailbox: Some(mailbox), .. }) => Ok(ReceivedHandle::Near(mailbox.clone())),
            _ => Ok(ReceivedHandle::Dead),
        }
    }

    /// Returns the number of processes that were handed out in messages and not released.
    pub(in crate::session) const fn handles(&self) -> usize {
        self.handed as usize
    }

    // Messages.

    /// Returns the process that a message of this cost for `id` goes to, with the way to its mailbox, if the peer may
    /// send to it.
    pub(in crate::session) fn receive(
        &mut self,
        id: u64,
        cost: u64,
    ) -> Result<Option<(P, Option<ProcessMailbox>)>, Breach> {
        let last = self.oversized.and_then(|id| self.known.get(&id));
        let may_be_long = last.is_none_or(|known| known.grant.is_unused(HANDLE_WINDOW));
        let Some(known) = self.known.get_mut(&id).filter(|known| known.rights.send) else { return Ok(None) };
        let is_long = cost > HANDLE_WINDOW;
        let fits = match known.standing {
            Standing::Handed if is_long => may_be_long && known.grant.is_unused(HANDLE_WINDOW),
            Standing::Handed => known.grant.fits(cost),
            _ => true,
        };
        if !known.grant.receive(cost) || !fits {
            return Err(Breach::TooMany);
        }
        self.outstanding += cost;
        if is_long && known.standing == Standing::Handed {
            self.oversized = Some(id);
        }
        Ok(Some((known.process.clone(), known.mailbox.clone())))
    }

    /// Returns the process that a message for `id` goes to whose cost was counted before, with the way to its mailbox, if the
    /// peer may still send to it.
    pub(in crate::session) fn reach(&self, id: u64) -> Option<(P, Option<ProcessMailbox>)> {
        let known = self.known.get(&id).filter(|known| known.rights.send)?;
        Some((known.process.clone(), known.mailbox.clone()))
    }

    /// Returns the credit of messages that the process with this id took: the new total, if that is worth a frame.
    pub(in crate::session) fn give_back(&mut self, id: u64, cost: u64) -> Option<u64> {
        self.outstanding = self.outstanding.saturating_sub(cost);
        self.returned += cost;
        let known = self.known.get_mut(&id)?;
        let stale = known.stale.min(cost);
        known.stale -= stale;
        // Credit of a window that was longer is used up.
        self.narrowed |= known.grant.open() > known.grant.window();
        let total = known.grant.give_back((cost - stale).min(known.grant.outstanding()))?;
        known.is_reachable().then_some(total)
    }

    /// Returns the cost of the messages that handed-out processes have taken.
    pub(in crate::session) const fn returned_in_all(&self) -> u64 {
        self.returned
    }

    // Windows.

    /// Returns the bytes by which all windows have grown.
    pub(in crate::session) fn extra(&self) -> u64 {
        self.known.values().map(Known::extra).sum()
    }

    /// Returns the window of a process that takes a whole one in at most `within`, once for each window.
    pub(in crate::session) fn short_window(
        &mut self,
        id: u64,
        now: Instant,
        within: Duration,
    ) -> Option<u64> {
        let known = self.known.get_mut(&id).filter(|known| known.standing == Standing::Handed)?;
        let (began, taken) = known.round;
        let window = known.grant.window();
        if began.is_some() && known.grant.returned().saturating_sub(taken) < window {
            return None;
        }
        known.round = (Some(now), known.grant.returned());
        (now.saturating_duration_since(began?) <= within).then_some(window)
    }

    /// Widens the window of a process. Returns the new total of its credit; `None` if there is no such process any more.
    pub(in crate::session) fn widen(&mut self, id: u64, more: u64) -> Option<u64> {
        let known = self.known.get_mut(&id).filter(|known| known.standing == Standing::Handed)?;
        known.grant.resize(known.grant.window() + more);
        Some(known.grant.granted())
    }

    /// Brings all windows back to their first length.
    pub(in crate::session) fn narrow(&mut self) {
        for known in self.known.values_mut() {
            self.narrowed |= known.narrow();
        }
    }

    /// Returns `true`, once, if windows are narrower than they were.
    pub(in crate::session) const fn take_narrowed(&mut self) -> bool {
        std::mem::replace(&mut self.narrowed, false)
    }

    /// Returns the cost of the untaken messages of all handed-out processes.
    pub(in crate::session) const fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Returns `true` if the peer has handles of this id that are of no use any more.
    pub(in crate::session) fn is_gone(&self, id: u64) -> bool {
        self.known.get(&id).is_some_and(|known| known.standing == Standing::Gone)
    }

    /// Returns the total credit to state for this id.
    pub(in crate::session) fn total(&self, id: u64) -> u64 {
        self.known
            .get(&id)
            .filter(|known| known.is_reachable())
            .map_or(ENDLESS, |known| known.grant.granted())
    }

    /// Returns the ids that were granted more credit than at first, with their totals.
    pub(in crate::session) fn grants(&self) -> impl Iterator<Item = (u64, u64)> {
        let handed_out = self.known.iter().filter(|(_, known)| known.is_handed_out());
        let granted = handed_out.map(|(&id, known)| (id, self.total(id), known.first_window(self.window)));
        granted.filter(|&(_, total, first)| total > first).map(|(id, total, _)| (id, total))
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
        let aliases: Vec<u64> = match self.known.len() == self.ids.len() {
            true => Vec::new(),
            false => {
                let is_its = |(_, known): &(&u64, &Known<P>)| known.alias != 0 && known.process == *process;
                self.known.iter().filter(is_its).map(|(&id, _)| id).collect()
            }
        };
        owner.into_iter().chain(self.ids.get(process).copied()).chain(aliases)
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
        self.make(process.clone(), 0)
    }

    /// Makes an id for a process, or for an alias of it.
    fn make(&mut self, process: P, alias: u64) -> u64 {
        let id = self.fresh_id();
        match alias {
            0 => drop(self.ids.insert(process.clone(), id)),
            alias => drop(self.aliases.insert(alias, id)),
        }
        let known = Known {
            process,
            alias,
            rights: Rights::NONE,
            standing: Standing::Named,
            sent: 0,
            waiting: 0,
            mailbox: None,
            ended: false,
            grant: Grant::new(self.window),
            round: (None, 0),
            stale: 0,
        };
        self.known.insert(id, known);
        id
    }

    pub(super) const fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Removes an id that no link needs, unless it was handed out.
    pub(super) fn forget(&mut self, id: u64) {
        if self.known.get(&id).is_some_and(|known| !known.is_handed_out())
            && let Some(known) = self.known.remove(&id)
            && known.alias == 0
        {
            self.ids.remove(&known.process);
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
        self.known.values().filter(|known| !known.is_handed_out()).count()
    }
}
