//! Whether both worlds must agree on what comes of the end of an owner, which is the end of the session too.
//!
//! In Erlang nobody owns a connection. There the driver lets all that follows from the end come to rest, and then cuts
//! the connection. Here the session ends at once: an exit signal that another process sends because of that end may
//! find it closed. So a step is open if an owner ends, and another process that ends with it, later than the first of
//! all, has to do with a third of the other end.

use std::collections::{BTreeMap, BTreeSet};

use super::program::{Ends, Life, Op, Program, Reason, Slot, SpawnHow};
use super::trace::{Entry, Seen, Trace};

/// Who has to do with whom. There may be less in truth: a monitor that was taken back is kept.
#[derive(Clone, Debug)]
pub(super) struct Relations {
    ends: Ends,
    /// At which end each process is.
    places: BTreeMap<Slot, usize>,
    trapping: BTreeSet<Slot>,
    linked: BTreeSet<[Slot; 2]>,
    watched: BTreeSet<[Slot; 2]>,
}

/// Whether nothing that both worlds must agree on is open in a program of which this was seen.
pub(super) fn decides(program: &Program, ends: Ends, seen: &Trace) -> bool {
    let mut relations = Relations::new(ends);
    let mut cut = false;
    for (number, step) in (0..).zip(&program.0) {
        let ended = |slot: Slot| {
            let is_end = |entry: &Entry| entry.actor == slot && matches!(entry.seen, Seen::Ended(_));
            seen.0.iter().any(|entry| entry.step < number && is_end(entry))
        };
        let alive: Vec<_> = relations.places.keys().copied().filter(|slot| !ended(*slot)).collect();
        relations.retain(&alive);
        cut |= relations.places.keys().any(|slot| ends.owns(*slot) && !alive.contains(slot));
        for op in &step.ops {
            let is_vain = matches!(op, Op::Link(to) if !alive.contains(to));
            let open = relations.leaves_open(step.actor, *op, is_vain)
                || step.meanwhile && relations.ends_owner(step.actor, *op, is_vain);
            if open && !cut {
                return false;
            }
            relations.note(step.actor, *op, !step.meanwhile);
            cut |= matches!(op, Op::Cut(_));
        }
    }
    true
}

impl Relations {
    pub(super) const fn new(ends: Ends) -> Self {
        Self {
            ends,
            places: BTreeMap::new(),
            trapping: BTreeSet::new(),
            linked: BTreeSet::new(),
            watched: BTreeSet::new(),
        }
    }

    /// Forgets those that are not alive.
    pub(super) fn retain(&mut self, alive: &[Slot]) {
        let lives = |pair: &[Slot; 2]| pair.iter().all(|slot| alive.contains(slot));
        self.linked.retain(lives);
        self.watched.retain(lives);
    }

    pub(super) fn traps(&self, slot: Slot) -> bool {
        self.trapping.contains(&slot)
    }

    pub(super) fn is_far(&self, actor: Slot, to: Slot) -> bool {
        self.places.get(&actor) != self.places.get(&to)
    }

    /// `actor` does this. `alone`: nobody does anything at the same time.
    pub(super) fn note(&mut self, actor: Slot, op: Op, alone: bool) {
        match op {
            Op::Spawn(child, how, _) => {
                let place = self.places.get(&actor).copied().unwrap_or_else(|| self.ends.of(child));
                self.places.insert(child, place);
                match how {
                    SpawnHow::Plain => {}
                    SpawnHow::Linked => drop(self.linked.insert(pair(actor, child))),
                    SpawnHow::Monitored => drop(self.watched.insert(pair(actor, child))),
                }
            }
            Op::Link(to) => drop(self.linked.insert(pair(actor, to))),
            Op::Unlink(to) if alone => drop(self.linked.remove(&pair(actor, to))),
            Op::Monitor(of, _) => drop(self.watched.insert(pair(actor, of))),
            Op::TrapExit(true) => drop(self.trapping.insert(actor)),
            Op::TrapExit(false) => drop(self.trapping.remove(&actor)),
            _ => {}
        }
    }

    /// Whether an owner may end because `actor` does this.
    pub(super) fn ends_owner(&self, actor: Slot, op: Op, is_vain: bool) -> bool {
        self.fallen(actor, op, is_vain).iter().any(|slot| self.ends.owns(*slot))
    }

    /// Whether it is open what comes of it that `actor` does this, which is of no use if it `is_vain`.
    pub(super) fn leaves_open(&self, actor: Slot, op: Op, is_vain: bool) -> bool {
        let fallen = self.fallen(actor, op, is_vain);
        if !fallen.iter().any(|slot| self.ends.owns(*slot)) {
            // The peer may not kill an owner. One that traps exits is told then; in Erlang it is killed.
            return matches!(op, Op::ExitTo(to, Reason::Kill)
                if self.ends.owns(to) && self.traps(to) && self.is_far(actor, to));
        }
        let [first, others @ ..] = fallen.as_slice() else { return false };
        // Two owners tell each other of their ends with the end of the session.
        let are_owners = |one: Slot, other: Slot| self.ends.owns(one) && self.ends.owns(other);
        let crosses = |slot: Slot| {
            let related = self.linked.iter().chain(&self.watched).filter(|pair| pair.contains(&slot));
            let mut others = related.flatten().filter(|other| self.is_far(slot, **other));
            others.any(|other| other != first && !are_owners(slot, *other))
        };
        others.iter().any(|slot| crosses(*slot))
    }

    /// Who may end because `actor` does this, the first of them in front.
    fn fallen(&self, actor: Slot, op: Op, is_vain: bool) -> Vec<Slot> {
        let (first, reason) = match op {
            Op::Exit(reason) => (actor, reason),
            Op::Return => (actor, Reason::Normal),
            Op::Crash => (actor, Reason::Crash),
            Op::ExitTo(to, Reason::Kill)
                if !(self.ends.owns(to) && self.is_far(actor, to) && self.traps(to)) =>
            {
                (to, Reason::Killed)
            }
            Op::ExitTo(to, reason) if !self.traps(to) && (reason != Reason::Normal || to == actor) => {
                (to, reason)
            }
            Op::Spawn(_, SpawnHow::Linked, Life::Crash) if !self.traps(actor) => (actor, Reason::Crash),
            Op::Spawn(_, SpawnHow::Linked, Life::Exit(reason))
                if !self.traps(actor) && reason != Reason::Normal =>
            {
                (actor, reason)
            }
            Op::Link(_) if is_vain && !self.traps(actor) => (actor, Reason::NoProc),
            _ => return Vec::new(),
        };
        let mut fallen = vec![first];
        let mut told = 0;
        while let Some(&slot) = fallen.get(told).filter(|_| reason != Reason::Normal) {
            told += 1;
            let linked = self.linked.iter().filter(|pair| pair.contains(&slot)).flatten();
            let more: BTreeSet<_> =
                linked.filter(|other| !self.traps(**other) && !fallen.contains(other)).copied().collect();
            fallen.extend(more);
        }
        fallen
    }
}

fn pair(one: Slot, other: Slot) -> [Slot; 2] {
    if one < other { [one, other] } else { [other, one] }
}
