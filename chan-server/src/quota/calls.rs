//! Calls a second and calls at once that sessions share.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lib_chan::channel::OverQuota;

use super::{Flow, Quota};
use crate::gate::locked;

/// The calls of so long a time may come at once in all.
const ALL_AT_ONCE: Duration = Duration::from_secs(2);
/// Those of so long a time may come from anybody. The rest is for flows that have had less than their part.
const ANYBODY_AT_ONCE: Duration = Duration::from_secs(1);
/// A flow shares for so long after its last attempt.
const MEMORY: Duration = Duration::from_secs(1);
/// How often the flows are counted.
const RECOUNT: Duration = Duration::from_millis(100);

/// Bounds on calls, for all that share this value.
#[derive(Debug, Default)]
pub(super) struct CallBound {
    is_limited: AtomicBool,
    state: Mutex<CallState>,
}

#[derive(Debug, Default)]
struct CallState {
    /// The time that each call costs.
    each: Option<Duration>,
    max: Option<usize>,
    /// The time up to which calls are paid for.
    paid_until: Option<Instant>,
    in_flight: usize,
    flows: HashMap<Flow, FlowCalls>,
    /// The number of flows that share, and when they were counted.
    sharing: usize,
    counted: Option<Instant>,
}

/// The calls of one flow.
#[derive(Clone, Copy, Debug)]
struct FlowCalls {
    /// The time up to which its part is used.
    used_until: Instant,
    tried: Instant,
    in_flight: usize,
}

impl FlowCalls {
    fn is_sharing(&self, now: Instant) -> bool {
        self.in_flight > 0 || self.used_until > now || self.tried + MEMORY > now
    }
}

impl CallBound {
    pub(super) fn set(&self, per_second: Option<NonZeroU32>, max: Option<usize>) {
        let mut state = locked(&self.state);
        state.each = per_second.map(|per_second| Duration::from_secs(1) / per_second.get());
        state.max = max;
        self.is_limited.store(per_second.is_some() || max.is_some(), Ordering::Relaxed);
    }

    /// Takes a place for a call.
    pub(super) fn take(
        quota: &Arc<Quota>,
        flow: &Flow,
        now: Instant,
    ) -> Result<Option<PlaceOfCall>, OverQuota> {
        if !quota.calls.is_limited.load(Ordering::Relaxed) {
            return Ok(None);
        }
        locked(&quota.calls.state).take(flow, now)?;
        Ok(Some(PlaceOfCall { quota: Arc::clone(quota), flow: flow.clone() }))
    }
}

/// The place of a call in flight, given back on drop.
#[derive(Debug)]
pub(super) struct PlaceOfCall {
    quota: Arc<Quota>,
    flow: Flow,
}

impl Drop for PlaceOfCall {
    fn drop(&mut self) {
        locked(&self.quota.calls.state).leave(&self.flow);
    }
}

impl CallState {
    fn take(&mut self, flow: &Flow, now: Instant) -> Result<(), OverQuota> {
        let new = FlowCalls { used_until: now, tried: now, in_flight: 0 };
        let flow_calls = self.flows.entry(flow.clone()).or_insert(new);
        flow_calls.tried = now;
        let own = *flow_calls;
        if self.counted.is_none_or(|counted| now.saturating_duration_since(counted) >= RECOUNT) {
            self.flows.retain(|_, flow| flow.is_sharing(now));
            (self.sharing, self.counted) = (self.flows.len(), Some(now));
        }
        // One more than are known may come at any time.
        let parts = self.sharing.max(1) + 1;
        if let Some(max) = self.max {
            // The last quarter is for those who have less than an equal part.
            let may = own.in_flight < (max / parts).max(1) || self.in_flight < max - max / 4;
            if self.in_flight >= max || !may {
                return Err(OverQuota { retry_after: None });
            }
        }
        if let Some(each) = self.each {
            let ahead =
                |until: Option<Instant>| until.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
            let of_part = each * u32::try_from(parts).unwrap_or(u32::MAX);
            let in_all = ahead(self.paid_until) + each;
            let own_part = ahead(Some(own.used_until)) + of_part;
            let over_all = in_all.saturating_sub(ALL_AT_ONCE.max(each));
            let over = in_all
                .saturating_sub(ANYBODY_AT_ONCE.max(each))
                .min(own_part.saturating_sub(MEMORY.max(of_part)))
                .max(over_all);
            if over > Duration::ZERO {
                return Err(OverQuota { retry_after: Some(over) });
            }
            self.paid_until = Some(now + in_all);
            if let Some(flow) = self.flows.get_mut(flow) {
                flow.used_until = now + own_part;
            }
        }
        self.in_flight += 1;
        if let Some(flow) = self.flows.get_mut(flow) {
            flow.in_flight += 1;
        }
        Ok(())
    }

    fn leave(&mut self, flow: &Flow) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(flow) = self.flows.get_mut(flow) {
            flow.in_flight = flow.in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(per_second: Option<u32>, max: Option<usize>) -> CallState {
        let each = per_second.map(|per_second| Duration::from_secs(1) / per_second);
        CallState { each, max, ..CallState::default() }
    }

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn flow_alone_has_whole_rate() {
        let (mut calls, start) = (state(Some(100), None), start());
        let taken = (0..10_000)
            .filter(|ms| calls.take(&Flow::Session(1), start + Duration::from_millis(*ms)).is_ok());
        let taken = taken.count();
        assert!((1090..=1160).contains(&taken), "{taken}");
    }

    #[test]
    fn refused_call_succeeds_after_stated_time() {
        let (mut calls, mut now) = (state(Some(50), None), start());
        for _ in 0..1000 {
            match calls.take(&Flow::Session(1), now) {
                Ok(()) => {}
                Err(OverQuota { retry_after }) => {
                    let wait = retry_after.unwrap();
                    assert!(wait <= Duration::from_millis(40), "{wait:?}");
                    now += wait;
                    assert_eq!(calls.take(&Flow::Session(1), now), Ok(()));
                }
            }
        }
    }

    #[test]
    fn flood_of_one_flow_leaves_others_their_part() {
        for (honest, per_second) in [(1u64, 30), (4, 15), (20, 4)] {
            let (mut calls, start) = (state(Some(100), None), start());
            let mut taken = 0;
            for ms in 0..20_000 {
                let now = start + Duration::from_millis(ms);
                for _ in 0..20 {
                    taken += u32::from(calls.take(&Flow::Session(0), now).is_ok());
                }
                // The others come later, and call less than their part.
                for flow in 1..=honest {
                    let due = (ms + flow * 7) % (1000 / per_second) == 0;
                    if ms > 5000 && due {
                        assert_eq!(
                            calls.take(&Flow::Session(flow), now),
                            Ok(()),
                            "{flow} of {honest} at {ms} ms"
                        );
                    }
                }
            }
            assert!(taken > 500, "the rest is for the flood: {taken}");
        }
    }

    #[test]
    fn last_quarter_is_for_flows_with_few_calls() {
        let (mut calls, now) = (state(None, Some(100)), start());
        let flow = Flow::Session;
        let all = (0..200).filter(|_| calls.take(&flow(1), now).is_ok()).count();
        assert_eq!(all, 75);
        let others = (2..30).filter(|n| calls.take(&flow(*n), now).is_ok()).count();
        assert_eq!(others, 25);
        calls.leave(&flow(1));
        assert_eq!(calls.take(&flow(1), now), Err(OverQuota { retry_after: None }));
        assert_eq!(calls.take(&flow(40), now), Ok(()));
    }

    #[test]
    fn one_call_at_a_time_is_allowed() {
        let (mut calls, now) = (state(Some(1), Some(1)), start());
        assert_eq!(calls.take(&Flow::Session(1), now), Ok(()));
        assert_eq!(calls.take(&Flow::Session(1), now), Err(OverQuota { retry_after: None }));
        calls.leave(&Flow::Session(1));
        assert!(calls.take(&Flow::Session(1), now).is_err());
        assert_eq!(calls.take(&Flow::Session(1), now + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn forgets_flows_without_calls() {
        let (mut calls, start) = (state(Some(1000), Some(1000)), start());
        for n in 0..10_000 {
            let flow = Flow::Session(n);
            calls.take(&flow, start + Duration::from_millis(10 * n)).unwrap();
            calls.leave(&flow);
        }
        assert!(calls.flows.len() < 200, "{}", calls.flows.len());
    }
}
