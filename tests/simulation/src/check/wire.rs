//! What one end may write, seen by somebody who reads along.

use std::{collections::BTreeMap, time::Duration};

use lib_chan::ExitReason;

use super::Broken;
use crate::{
    log::{At, Entry, Tapped, Token, What},
    plan::Plan,
};

/// One direction of a session.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// Ordered frames so far.
    number: u64,
    /// How far the other end has read.
    pub(super) read: u64,
    /// The last frame.
    pub(super) ended: Option<Ended>,
    pub(super) messages: Vec<Message>,
    /// How many of them have been read, and when each was.
    pub(super) arrived: Vec<Duration>,
    spent: BTreeMap<u64, u64>,
    granted: BTreeMap<u64, u64>,
    window: u64,
    max_calls: u64,
    max_links: u64,
    /// Calls of this direction: whether they are answered, and where a cancel of them ends.
    calls: BTreeMap<u64, Call>,
    unanswered: u64,
    /// Since when there has been a slot for a call to the owner, and credit.
    free_since: Option<Duration>,
    last_call: u64,
    /// Messages that have begun in parts, by their processes: the token, bytes of the whole payload, and bytes written.
    begun: BTreeMap<u64, (Token, u64, u64)>,
    monitors: BTreeMap<u64, bool>,
    acked: u64,
    /// Exits sent explicitly, exits over links, and frames that want an answer.
    pub(super) exits: [usize; 2],
    pub(super) provoking: usize,
    pings: u64,
    pongs: u64,
    /// The token of the last message to each process.
    pub(super) last_token: BTreeMap<u64, Token>,
}

#[derive(Debug)]
pub(super) struct Ended {
    pub(super) end: u64,
    pub(super) taken: u64,
    pub(super) reason: ExitReason,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) number: u64,
    pub(super) end: u64,
    pub(super) to: u64,
    pub(super) token: Token,
    pub(super) call: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Call {
    answered: bool,
    /// Bytes of the whole answer, and of the parts that were written, once there was one.
    parts: Option<(u64, u64)>,
    cancelled: Option<u64>,
}

/// All directions, by who writes.
#[derive(Debug)]
pub(super) struct Wire {
    directions: Vec<Direction>,
    window: u64,
}

impl Direction {
    fn charge(&mut self, at: At, to: u64, len: usize, broken: &mut Broken) {
        let granted = self.granted.get(&to).copied().unwrap_or(0).max(self.window);
        let spent = self.spent.entry(to).or_default();
        let fine = *spent < granted;
        *spent += len as u64 + 64;
        broken.unless(fine, "nothing is sent without credit", || format!("{at:?} to {to}, {len} bytes"));
    }

    fn note_free(&mut self, now: Duration) {
        let granted = self.granted.get(&0).copied().unwrap_or(0).max(self.window);
        let spent = self.spent.get(&0).copied().unwrap_or(0);
        // A message in parts may be a call that has a slot, and others to its process wait behind it.
        let free = self.unanswered < self.max_calls && spent < granted && self.begun.is_empty();
        self.free_since = self.free_since.or(Some(now)).filter(|_| free);
    }

    /// Whether a call to the owner could have gone before this.
    pub(super) fn was_free_before(&self, then: Duration) -> bool {
        self.free_since.is_some_and(|since| since < then)
    }
}

impl Call {
    fn is_unfinished(&self) -> bool {
        !self.answered && self.parts.is_some()
    }
}

impl Wire {
    pub(super) fn new(plan: &Plan) -> Self {
        Self { directions: Vec::new(), window: plan.limits[1].window_len as u64 }
    }

    pub(super) fn of(&mut self, at: At) -> &mut Direction {
        while self.directions.len() <= at.index() {
            self.directions.push(Direction { window: self.window, ..Direction::default() });
        }
        &mut self.directions[at.index()]
    }

    /// What `at` has written, if anything.
    pub(super) fn written(&self, at: At) -> Option<&Direction> {
        self.directions.get(at.index())
    }

    /// The `Ended` of the peer, where `at` has read it.
    pub(super) fn heard(&self, at: At) -> Option<&Ended> {
        let direction = self.written(at.far())?;
        direction.ended.as_ref().filter(|ended| ended.end <= direction.read)
    }

    /// Whether the peer's cancel of this call of its own was read by `at`.
    pub(super) fn heard_cancel(&self, at: At, call: u64) -> bool {
        self.written(at.far()).is_some_and(|direction| {
            direction
                .calls
                .get(&call)
                .and_then(|call| call.cancelled)
                .is_some_and(|end| end <= direction.read)
        })
    }

    pub(super) fn see(&mut self, entry: &Entry, broken: &mut Broken) {
        match &entry.what {
            What::Frame { at, end, frame } => {
                self.frame(*at, *end, frame, broken);
                self.of(*at).note_free(entry.at);
                self.of(at.far()).note_free(entry.at);
            }
            What::Read { at, upto } => {
                let direction = self.of(at.far());
                direction.read = *upto;
                while direction
                    .messages
                    .get(direction.arrived.len())
                    .is_some_and(|message| message.end <= *upto)
                {
                    direction.arrived.push(entry.at);
                }
            }
            _ => {}
        }
    }

    fn frame(&mut self, at: At, end: u64, frame: &Tapped, broken: &mut Broken) {
        let (theirs_number, theirs_pings) = {
            let theirs = self.of(at.far());
            (theirs.number, theirs.pings)
        };
        let ours = self.of(at);
        broken.unless(ours.ended.is_none(), "nothing follows an Ended", || format!("{at:?} {frame:?}"));
        ours.number += u64::from(frame.is_ordered());
        let number = ours.number;
        match frame {
            Tapped::Exit { link, .. } => ours.exits[usize::from(*link)] += 1,
            Tapped::Ping | Tapped::Link { .. } | Tapped::Unlink { .. } | Tapped::Monitor { .. } => {
                ours.provoking += 1;
            }
            _ => {}
        }
        if frame.is_signal() {
            let theirs = self.of(at.far());
            let unfinished = theirs.calls.values().any(Call::is_unfinished);
            broken.unless(!unfinished, "a signal overtakes no answer", || format!("{at:?} {frame:?}"));
        }
        let ours = self.of(at);
        match frame {
            Tapped::Garbage => broken.unless(false, "only frames are written", || format!("{at:?}")),
            Tapped::Start { window, max_calls, max_links } => {
                // What this end grants to the other.
                let theirs = self.of(at.far());
                (theirs.window, theirs.max_calls, theirs.max_links) = (*window, *max_calls, *max_links);
            }
            Tapped::Started { max_calls, max_links } => {
                let theirs = self.of(at.far());
                (theirs.max_calls, theirs.max_links) = (*max_calls, *max_links);
            }
            Tapped::Message { to, call, token, len } => {
                let (mut token, mut cost) = (*token, Some(*len));
                if let Some((first, total, sum)) = ours.begun.remove(to) {
                    let fine = *len > 0 && sum + *len as u64 == total;
                    broken.unless(fine, "parts make a message", || {
                        format!("{at:?} {frame:?} {sum} of {total}")
                    });
                    (token, cost) = (first, None);
                }
                self.message(at, Message { number, end, to: *to, token, call: *call }, cost, broken);
            }
            Tapped::PartTo { to, total: 0, len: 0, .. } => {
                let fine = ours.begun.remove(to).is_some();
                broken.unless(fine, "a message that is taken back has begun", || format!("{at:?} {frame:?}"));
            }
            Tapped::PartTo { to, total, token, len } => {
                let unfinished = ours.begun.len();
                let known = ours.begun.contains_key(to);
                let (_, whole, sum) = ours.begun.entry(*to).or_insert((*token, *total, 0));
                *sum += *len as u64;
                let fine = known == (*total == 0) && (known || unfinished < 4) && *len > 0 && *sum < *whole;
                broken.unless(fine, "parts make a message", || {
                    format!("{at:?} {frame:?}, {unfinished} unfinished")
                });
                if !known {
                    ours.charge(at, *to, *total as usize, broken);
                }
            }
            Tapped::Cancel { call } => {
                let call = ours.calls.get_mut(call).filter(|call| call.cancelled.is_none());
                broken.unless(call.is_some(), "a cancel is of a call, and comes once", || {
                    format!("{at:?} {frame:?}")
                });
                if let Some(call) = call {
                    call.cancelled = Some(end);
                }
            }
            Tapped::Answer { call: 0, .. } => {}
            Tapped::Part { call, total, len } => {
                let theirs = self.of(at.far());
                let unfinished = theirs.calls.values().filter(|call| call.is_unfinished()).count();
                let Some(asked) = theirs.calls.get_mut(call).filter(|call| !call.answered) else {
                    return broken.unless(false, "a part is of a call", || format!("{at:?} {frame:?}"));
                };
                let fine = asked.parts.is_some() == (*total == 0) && (*total == 0 || unfinished < 4);
                let (total, before) = asked.parts.unwrap_or((*total, 0));
                let sum = before + *len as u64;
                asked.parts = Some((total, sum));
                broken.unless(fine && *len > 0 && sum < total, "parts make an answer", || {
                    format!("{at:?} {frame:?} {sum} of {total}, {unfinished} unfinished")
                });
            }
            Tapped::Answer { call, len, .. } => {
                let theirs = self.of(at.far());
                let asked = theirs.calls.get_mut(call).filter(|call| !call.answered);
                broken.unless(asked.is_some(), "a call has one answer", || format!("{at:?} {frame:?}"));
                if let Some(asked) = asked {
                    let fine = asked.parts.is_none_or(|(total, sum)| sum + *len as u64 == total);
                    broken.unless(fine, "parts make an answer", || format!("{at:?} {frame:?} {asked:?}"));
                    asked.answered = true;
                    theirs.unanswered -= 1;
                }
            }
            Tapped::Ended { taken, reason } => {
                broken.unless(*taken <= theirs_number, "only what was sent is taken", || {
                    format!("{at:?} {frame:?}")
                });
                ours.ended = Some(Ended { end, taken: *taken, reason: reason.clone() });
            }
            Tapped::Monitor { monitor, .. } => {
                let last = ours.monitors.last_key_value().map_or(0, |(last, _)| *last);
                broken.unless(*monitor > last, "numbers of monitors grow", || format!("{at:?} {frame:?}"));
                ours.monitors.insert(*monitor, true);
            }
            Tapped::Demonitor { monitor } => {
                let known = ours.monitors.contains_key(monitor);
                broken.unless(known, "a demonitor is of a monitor", || format!("{at:?} {frame:?}"));
            }
            Tapped::Down { monitor, .. } => {
                let theirs = self.of(at.far());
                let open = theirs.monitors.get_mut(monitor).map(|open| std::mem::replace(open, false));
                broken.unless(open == Some(true), "a monitor has one Down", || format!("{at:?} {frame:?}"));
            }
            Tapped::Credit { id, total } => {
                let granted = self.of(at.far()).granted.entry(*id).or_default();
                *granted = (*granted).max(*total);
            }
            Tapped::Ack { number } => {
                let fine = *number <= theirs_number && *number >= ours.acked;
                broken.unless(fine, "an ack is of what was sent, and grows", || format!("{at:?} {frame:?}"));
                ours.acked = *number;
            }
            Tapped::Ping => ours.pings += 1,
            Tapped::Pong => {
                ours.pongs += 1;
                let fine = ours.pongs <= theirs_pings;
                broken.unless(fine, "a pong answers a ping", || format!("{at:?}"));
            }
            Tapped::Exit { .. }
            | Tapped::Link { .. }
            | Tapped::Unlink { .. }
            | Tapped::UnlinkAck { .. }
            | Tapped::GoAway => {}
        }
    }

    /// `cost` is the length of the payload, unless it was counted with a first part.
    fn message(&mut self, at: At, message: Message, cost: Option<usize>, broken: &mut Broken) {
        let ours = self.of(at);
        let last = ours.last_token.entry(message.to).or_default();
        let fine = message.token > std::mem::replace(last, message.token);
        let rule = "messages to one process leave in the order sent, once";
        broken.unless(fine, rule, || format!("{at:?} {message:?}"));
        ours.messages.push(message);
        if let Some(len) = cost {
            ours.charge(at, message.to, len, broken);
        }
        let Some((call, _)) = message.call else { return };
        broken.unless(call > ours.last_call, "ids of calls grow", || format!("{at:?} {message:?}"));
        ours.last_call = call;
        ours.calls.insert(call, Call::default());
        ours.unanswered += 1;
        let fine = ours.unanswered <= ours.max_calls;
        broken.unless(fine, "no more calls in flight than allowed", || format!("{at:?} {message:?}"));
    }
}
