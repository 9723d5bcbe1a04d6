//! The timers of one process.
//!
//! A timer lives in its [`Process`](super::Process), not in a task. It is registered with the runtime only while the
//! process waits for a message. When it is due, a marker goes to the end of the mailbox, so that everything that was
//! there before is received first. The message itself stays here until the process comes to the marker. That is why a
//! cancelled timer is never received, and why at most one message of an interval waits.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::pid::next_id;
use crate::after;

/// Names one timer of a process. A reference is never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerRef(u64);

impl fmt::Debug for TimerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timer {}", self.0)
    }
}

/// The shortest period of an interval, which is also the resolution of the runtime's timers.
const MIN_PERIOD: Duration = Duration::from_millis(1);

/// Makes the messages of an interval.
pub(super) type Make<M> = Box<dyn FnMut() -> M + Send>;

/// Allocates nothing until the first timer is set.
pub(super) struct Timers<M>(Option<Box<TimerTable<M>>>);

struct TimerTable<M> {
    /// The timers that wait for their time. One whose marker is in the mailbox is not among them.
    due: BTreeSet<(Instant, TimerRef)>,
    timers: HashMap<TimerRef, Timer<M>>,
}

struct Timer<M> {
    at: Instant,
    then: Then<M>,
}

enum Then<M> {
    Once(M),
    Every(Duration, Make<M>),
}

impl<M> Timers<M> {
    pub(super) const fn new() -> Self {
        Self(None)
    }

    pub(super) fn once(&mut self, delay: Duration, message: M) -> TimerRef {
        self.set(delay, Then::Once(message))
    }

    pub(super) fn every(&mut self, period: Duration, make: Make<M>) -> TimerRef {
        let period = period.max(MIN_PERIOD);
        self.set(period, Then::Every(period, make))
    }

    fn set(&mut self, delay: Duration, then: Then<M>) -> TimerRef {
        let timer = TimerRef(next_id());
        let at = later(Instant::now(), delay);
        let table = self
            .0
            .get_or_insert_with(|| Box::new(TimerTable { due: BTreeSet::new(), timers: HashMap::new() }));
        table.due.insert((at, timer));
        table.timers.insert(timer, Timer { at, then });
        timer
    }

    /// Removes a timer. Returns `false` if there is none.
    pub(super) fn cancel(&mut self, timer: TimerRef) -> bool {
        let Some(table) = &mut self.0 else { return false };
        let Some(Timer { at, .. }) = table.timers.remove(&timer) else { return false };
        table.due.remove(&(at, timer));
        true
    }

    /// Returns when the next timer is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.as_ref()?.due.first().map(|&(at, _)| at)
    }

    /// Removes the next timer that is due from the waiting ones.
    pub(super) fn pop_due(&mut self) -> Option<TimerRef> {
        let table = self.0.as_mut()?;
        let &(at, _) = table.due.first()?;
        if at > Instant::now() {
            return None;
        }
        table.due.pop_first().map(|(_, timer)| timer)
    }

    /// Takes the message of a timer that was due, and sets an interval again. `None` if it was cancelled meanwhile.
    pub(super) fn take(&mut self, timer: TimerRef) -> Option<M> {
        let table = self.0.as_mut()?;
        if let Timer { at, then: Then::Every(period, make) } = table.timers.get_mut(&timer)? {
            // The times that passed unseen are skipped, and the others stay where they were.
            let now = Instant::now();
            let behind = now.saturating_duration_since(*at).as_nanos() % period.as_nanos();
            let behind = u64::try_from(behind).map_or(Duration::ZERO, Duration::from_nanos);
            *at = later(now, period.saturating_sub(behind));
            table.due.insert((*at, timer));
            return Some(make());
        }
        match table.timers.remove(&timer)?.then {
            Then::Once(message) => Some(message),
            Then::Every(..) => None,
        }
    }
}

fn later(now: Instant, delay: Duration) -> Instant {
    after(now.into_std(), delay).into()
}
