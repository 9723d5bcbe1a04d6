//! The two tables of calls: those that this end waits for, and those that it has to answer.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{CallPlace, Lookup, handles::Handles};
use crate::{CallError, CallFailure, Executed, ExitReason};

/// The outcome of a call.
pub type Outcome = Result<Bytes, CallError>;

/// The progress of the request of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    /// Not sent. It may never be.
    Grounded,
    /// Sent, with one of the far end's slots: its number, and the position of its end in the output
    /// (`Outgoing::end`).
    Sent { number: u64, end: u64 },
    /// Answered.
    Landed,
}

/// A call of this end. The entry lives until the far end's slot is free and the caller knows the outcome.
#[derive(Debug)]
struct Asked<W> {
    flight: Flight,
    deadline: Instant,
    outcome: Option<Outcome>,
    /// The handles in the answer.
    handles: Handles,
    waiter: Option<W>,
    /// The caller fetched the outcome, or gave up.
    caller_gone: bool,
}

impl<W> Asked<W> {
    /// Sets the outcome. Only the first counts.
    fn settle(&mut self, outcome: Outcome, woken: &mut VecDeque<W>) {
        if self.outcome.is_none() && !self.caller_gone {
            self.outcome = Some(outcome);
            if let Some(waiter) = self.waiter.take() {
                woken.push_back(waiter);
            }
        }
    }

    const fn is_over(&self) -> bool {
        self.caller_gone && !matches!(self.flight, Flight::Sent { .. })
    }

    /// Returns `true` while the deadline may still decide the outcome.
    const fn is_pending(&self) -> bool {
        self.outcome.is_none() && !self.caller_gone
    }
}

/// Calls of this end.
#[derive(Debug)]
pub(super) struct Asking<W> {
    calls: Lookup<Asked<W>>,
    /// The number of calls that hold one of the far end's slots.
    in_flight: u64,
    /// The largest id of a call that was sent.
    last_sent: u64,
    /// The ids on the wire of calls that had to wait while later ones were sent to other processes, by the ids that
    /// their callers have.
    renamed: BTreeMap<u64, u64>,
    /// A lower bound of all deadlines. It is made exact when it passes, so a call that is answered in time costs
    /// nothing here.
    next_deadline: Option<Instant>,
}

impl<W> Default for Asking<W> {
    fn default() -> Self {
        Self {
            calls: Lookup::default(),
            in_flight: 0,
            last_sent: 0,
            renamed: BTreeMap::new(),
            next_deadline: None,
        }
    }
}

impl<W> Asking<W> {
    /// Returns `true` if a call with this id may be sent now: ids on the wire only grow.
    pub(super) const fn may_have(&self, call: u64) -> bool {
        call > self.last_sent
    }

    /// Gives a call that was not sent another id.
    pub(super) fn rename(&mut self, call: u64, to: u64) {
        if let Some(asked) = self.calls.remove(&call) {
            self.calls.insert(to, asked);
            self.renamed.insert(call, to);
        }
    }

    /// Returns the id on the wire of the call that its caller knows as `call`.
    #[inline]
    pub(super) fn name(&self, call: u64) -> u64 {
        if self.renamed.is_empty() { call } else { self.renamed.get(&call).copied().unwrap_or(call) }
    }

    fn forget_name(&mut self, call: u64) {
        if !self.renamed.is_empty() {
            self.renamed.remove(&call);
        }
    }

    pub(super) fn begin(&mut self, call: u64, deadline: Instant) {
        self.next_deadline = earlier(self.next_deadline, deadline);
        let asked = Asked {
            flight: Flight::Grounded,
            deadline,
            outcome: None,
            handles: Handles::default(),
            waiter: None,
            caller_gone: false,
        };
        self.calls.insert(call, asked);
    }

    pub(super) fn deadline(&self, call: u64) -> Option<Instant> {
        self.calls.get(&call).map(|asked| asked.deadline)
    }

    /// Returns the milliseconds for which the caller still waits. They are rounded up, because the callee must not
    /// give up before the caller.
    pub(super) fn left(&self, call: u64, now: Instant) -> u64 {
        let pending = self.calls.get(&call).filter(|asked| asked.is_pending());
        pending.map_or(0, |asked| millis_left(asked.deadline, now))
    }

    /// Notes that the call was sent.
    pub(super) fn sent(&mut self, call: u64, number: u64, end: u64) {
        if let Some(asked) = self.calls.get_mut(&call) {
            asked.flight = Flight::Sent { number, end };
            self.in_flight += 1;
            self.last_sent = call;
        }
    }

    pub(super) const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Handles a part of an answer. Returns whether the caller still waits.
    pub(super) fn is_wanted(&self, call: u64) -> Option<bool> {
        let asked = self.calls.get(&call).filter(|asked| matches!(asked.flight, Flight::Sent { .. }));
        asked.map(Asked::is_pending)
    }

    /// Handles an answer. Returns whether it belongs to a call in flight.
    #[must_use]
    pub(super) fn answered(
        &mut self,
        call: u64,
        outcome: Outcome,
        handles: Handles,
        woken: &mut VecDeque<W>,
    ) -> bool {
        let Some(asked) = self.calls.get_mut(&call) else { return false };
        if !matches!(asked.flight, Flight::Sent { .. }) {
            return false;
        }
        asked.flight = Flight::Landed;
        self.in_flight -= 1;
        if asked.is_pending() {
            asked.handles = handles;
        }
        asked.settle(outcome, woken);
        if asked.is_over() {
            self.calls.remove(&call);
        }
        true
    }

    /// Fails a call that will never be sent.
    pub(super) fn fail(&mut self, call: u64, error: CallError, woken: &mut VecDeque<W>) {
        if let Some(asked) = self.calls.get_mut(&call) {
            asked.settle(Err(error), woken);
        }
    }

    /// Returns the outcome of a call, once. Until then, stores a waiter.
    pub(super) fn poll(
        &mut self,
        asked_as: u64,
        waiter: impl FnOnce(Option<W>) -> W,
    ) -> Option<(Outcome, Handles)> {
        let call = self.name(asked_as);
        let asked = self.calls.get_mut(&call)?;
        let Some(outcome) = asked.outcome.take() else {
            asked.waiter = Some(waiter(asked.waiter.take()));
            return None;
        };
        let handles = std::mem::take(&mut asked.handles);
        asked.caller_gone = true;
        if asked.is_over() {
            self.calls.remove(&call);
        }
        self.forget_name(asked_as);
        Some((outcome, handles))
    }

    /// Gives a call up. Returns whether the far end should be told.
    pub(super) fn abandon(&mut self, asked_as: u64) -> bool {
        let call = self.name(asked_as);
        self.forget_name(asked_as);
        let Some(asked) = self.calls.get_mut(&call) else { return false };
        let tell = asked.is_pending() && matches!(asked.flight, Flight::Sent { .. });
        asked.caller_gone = true;
        asked.waiter = None;
        asked.handles = Handles::default();
        if asked.is_over() {
            self.calls.remove(&call);
        }
        tell
    }

    pub(super) const fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline
    }

    /// Fails the calls whose deadline has passed. Returns those that were not sent.
    pub(super) fn expire(&mut self, now: Instant, woken: &mut VecDeque<W>) -> Vec<u64> {
        let mut grounded = Vec::new();
        if self.next_deadline.is_none_or(|next| now < next) {
            return grounded;
        }
        self.next_deadline = None;
        for (&call, asked) in &mut self.calls {
            if !asked.is_pending() {
                continue;
            }
            if now < asked.deadline {
                self.next_deadline = earlier(self.next_deadline, asked.deadline);
                continue;
            }
            let executed = match asked.flight {
                Flight::Grounded => {
                    grounded.push(call);
                    Executed::No
                }
                Flight::Sent { .. } | Flight::Landed => Executed::Unknown,
            };
            asked.settle(Err(CallError::new(executed, CallFailure::Deadline)), woken);
        }
        grounded
    }

    /// Moves the deadlines of the calls that end up to `reached` forward by `time`, which `now` does not include. A call that
    /// no connection has taken may have begun after that time, so it keeps its deadline.
    pub(super) fn skip(&mut self, now: Instant, time: Duration, reached: u64) {
        for asked in self.calls.values_mut() {
            if matches!(asked.flight, Flight::Sent { end, .. } if end <= reached) {
                asked.deadline = sooner(asked.deadline, time, now);
                self.next_deadline = earlier(self.next_deadline, asked.deadline);
            }
        }
    }

    /// Ends every call that has no outcome, because the session is over. `executed` judges a call by its number and
    /// the end of its bytes.
    pub(super) fn end(
        &mut self,
        reason: &ExitReason,
        executed: impl Fn(u64, u64) -> Executed,
        woken: &mut VecDeque<W>,
    ) {
        self.next_deadline = None;
        self.in_flight = 0;
        self.calls.retain(|_, asked| {
            let executed = match asked.flight {
                Flight::Grounded => Executed::No,
                Flight::Sent { number, end } => executed(number, end),
                Flight::Landed => Executed::Unknown,
            };
            asked.flight = Flight::Landed;
            asked.settle(Err(CallError::new(executed, CallFailure::Exit(reason.clone()))), woken);
            !asked.caller_gone
        });
    }
}

/// Returns the milliseconds until `deadline`, rounded up.
pub(super) fn millis_left(deadline: Instant, now: Instant) -> u64 {
    deadline.saturating_duration_since(now).as_nanos().div_ceil(1_000_000) as u64
}

fn earlier(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}

/// `at`, moved forward by `time`; `now` where there is no such instant.
pub(super) fn sooner(at: Instant, time: Duration, now: Instant) -> Instant {
    at.checked_sub(time).unwrap_or(now)
}

/// A call that the peer waits for.
#[derive(Debug)]
struct Owed<W> {
    deadline: Instant,
    cancelled: bool,
    waiter: Option<W>,
    /// The place in a quota, until the answer.
    _place: Option<CallPlace>,
}

/// Calls of the peer.
#[derive(Debug)]
pub(super) struct Owing<W> {
    calls: Lookup<Owed<W>>,
    last: u64,
    next_deadline: Option<Instant>,
}

impl<W> Default for Owing<W> {
    fn default() -> Self {
        Self { calls: Lookup::default(), last: 0, next_deadline: None }
    }
}

impl<W> Owing<W> {
    /// Adds a call. Returns `false` if its id is not larger than the last.
    #[must_use]
    pub(super) fn begin(&mut self, call: u64, deadline: Instant, place: Option<CallPlace>) -> bool {
        if call <= self.last {
            return false;
        }
        self.last = call;
        self.next_deadline = earlier(self.next_deadline, deadline);
        self.calls.insert(call, Owed { deadline, cancelled: false, waiter: None, _place: place });
        true
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// Notes that the caller gave up. Returns `false` if there was never such a call.
    #[must_use]
    pub(super) fn cancel(&mut self, call: u64, woken: &mut VecDeque<W>) -> bool {
        if let Some(owed) = self.calls.get_mut(&call) {
            owed.cancelled = true;
            woken.extend(owed.waiter.take());
        }
        call <= self.last
    }

    /// Returns `true` while the caller waits for the answer.
    pub(super) fn is_wanted(&self, call: u64, now: Instant) -> bool {
        self.calls.get(&call).is_some_and(|owed| !owed.cancelled && now < owed.deadline)
    }

    /// Returns `true` if the caller no longer waits. Otherwise stores a waiter.
    pub(super) fn poll_cancelled(&mut self, call: u64, waiter: impl FnOnce(Option<W>) -> W) -> bool {
        let Some(owed) = self.calls.get_mut(&call) else { return true };
        if !owed.cancelled {
            owed.waiter = Some(waiter(owed.waiter.take()));
        }
        owed.cancelled
    }

    /// Removes a call that is about to be answered. Returns whether its caller had given it up, or `None` if there is no
    /// such call.
    #[must_use]
    pub(super) fn answer(&mut self, call: u64) -> Option<bool> {
        self.calls.remove(&call).map(|owed| owed.cancelled)
    }

    pub(super) const fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline
    }

    /// Marks the calls whose deadline has passed, because their callers no longer wait.
    pub(super) fn expire(&mut self, now: Instant, woken: &mut VecDeque<W>) {
        if self.next_deadline.is_none_or(|next| now < next) {
            return;
        }
        self.next_deadline = None;
        for owed in self.calls.values_mut().filter(|owed| !owed.cancelled) {
            if now < owed.deadline {
                self.next_deadline = earlier(self.next_deadline, owed.deadline);
            } else {
                owed.cancelled = true;
                woken.extend(owed.waiter.take());
            }
        }
    }

    /// Moves every deadline forward by `time`, which `now` does not include.
    pub(super) fn skip(&mut self, now: Instant, time: Duration) {
        for owed in self.calls.values_mut() {
            owed.deadline = sooner(owed.deadline, time, now);
        }
        self.next_deadline = self.next_deadline.map(|next| sooner(next, time, now));
    }

    /// Removes all calls, because the session is over. Returns their number.
    pub(super) fn end(&mut self, woken: &mut VecDeque<W>) -> u64 {
        let count = self.calls.len() as u64;
        woken.extend(self.calls.drain().filter_map(|(_, owed)| owed.waiter));
        self.next_deadline = None;
        count
    }
}
