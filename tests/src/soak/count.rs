//! What was started and what has ended.

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

/// Things of one kind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Kind {
    pub(super) started: u64,
    /// How many ended in each way.
    pub(super) ended: BTreeMap<String, u64>,
}

impl Kind {
    pub(super) fn all_ended(&self) -> u64 {
        self.ended.values().sum()
    }
}

/// All that one program counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Totals {
    pub(super) kinds: BTreeMap<String, Kind>,
    /// What should never happen, the first few of them.
    pub(super) faults: Vec<String>,
    /// How long after its deadline a call came back, at most, in milliseconds.
    pub(super) latest_call_ms: u64,
    /// Tasks that are still there at the end and should not be; processes whose end is decided and not done.
    pub(super) tasks_left: usize,
    pub(super) ending_processes: usize,
}

/// Faults kept.
const KEPT_FAULTS: usize = 20;

impl Totals {
    /// Whether everything that was started has ended.
    pub(super) fn is_settled(&self) -> bool {
        self.kinds.values().all(|kind| kind.started == kind.all_ended())
    }

    /// How many of one kind are there now.
    pub(super) fn open(&self, kind: &str) -> u64 {
        self.kinds.get(kind).map_or(0, |kind| kind.started.saturating_sub(kind.all_ended()))
    }

    /// Adds what another program counted.
    pub(super) fn add(&mut self, other: &Self) {
        for (name, kind) in &other.kinds {
            let mine = self.kinds.entry(name.clone()).or_default();
            mine.started += kind.started;
            for (how, count) in &kind.ended {
                *mine.ended.entry(how.clone()).or_default() += count;
            }
        }
        self.faults.extend(other.faults.iter().cloned());
        self.latest_call_ms = self.latest_call_ms.max(other.latest_call_ms);
        self.tasks_left += other.tasks_left;
        self.ending_processes += other.ending_processes;
    }
}

/// The counters of a program.
#[derive(Clone, Default)]
pub(super) struct Counts(Arc<Mutex<Totals>>);

impl Counts {
    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted so far.
    pub(super) fn so_far(&self) -> Totals {
        self.totals().clone()
    }

    /// Something begins. It ends when that is said, or else when what is returned is dropped, as *let go*.
    pub(super) fn start(&self, kind: &'static str) -> Started {
        self.totals().kinds.entry(kind.into()).or_default().started += 1;
        Started { counts: self.clone(), kind, ended: false }
    }

    /// Something that should never happen.
    pub(super) fn fault(&self, what: String) {
        let mut totals = self.totals();
        if totals.faults.len() < KEPT_FAULTS {
            totals.faults.push(what);
        }
    }

    /// A call came back so long after its deadline.
    pub(super) fn late(&self, ms: u64) {
        let mut totals = self.totals();
        totals.latest_call_ms = totals.latest_call_ms.max(ms);
    }
}

/// Something that has begun and must end.
#[must_use]
pub(super) struct Started {
    counts: Counts,
    kind: &'static str,
    ended: bool,
}

impl Started {
    /// It ended so. A second time is a fault.
    pub(super) fn end(&mut self, how: impl Display) {
        if std::mem::replace(&mut self.ended, true) {
            self.counts.fault(format!("{} ended twice, now with {how}", self.kind));
            return;
        }
        let mut totals = self.counts.totals();
        let kind = totals.kinds.entry(self.kind.into()).or_default();
        *kind.ended.entry(how.to_string()).or_default() += 1;
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.ended {
            self.end("let go");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_missing_and_double_endings() {
        let counts = Counts::default();
        let (mut once, dropped) = (counts.start("call"), counts.start("call"));
        once.end("answered");
        assert!(!counts.so_far().is_settled());
        drop(dropped);
        assert!(counts.so_far().is_settled() && counts.so_far().faults.is_empty());
        once.end("answered");
        assert_eq!(counts.so_far().faults.len(), 1);
    }
}
