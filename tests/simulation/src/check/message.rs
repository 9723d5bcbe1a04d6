//! Casts, calls and flushes: each has one ending, and it is true.

use std::{collections::BTreeMap, time::Duration};

use lib_chan::{CallError, CallFailure, Executed, ExitReason};

use super::{Broken, session::Sessions, signal::Signals, wire::Wire};
use crate::log::{Answer, At, CastEnd, Entry, Proc, Token, What};

/// Longer than anything is under way where nothing was done to a connection.
const WAY: Duration = Duration::from_millis(5);

#[derive(Debug)]
struct Call {
    at: At,
    proc: Proc,
    made: Duration,
    deadline: Duration,
    woken: Option<Duration>,
    outcome: Option<Result<Token, CallError>>,
    given_up: bool,
    /// While it could still have been answered in time.
    given_up_early: bool,
}

#[derive(Debug)]
struct Cast {
    proc: Proc,
    at: At,
    end: CastEnd,
}

/// What has become of a message at the other side.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    taken: bool,
    answered: Option<(Answer, Token)>,
}

#[derive(Debug, Default)]
pub(super) struct Messages {
    calls: BTreeMap<Token, Call>,
    casts: BTreeMap<Token, Cast>,
    fates: BTreeMap<Token, Fate>,
    /// Who waits to be told that nobody waits for the answer of a call.
    cancel_waits: BTreeMap<Token, Proc>,
    flushes: BTreeMap<u32, (At, Token, bool)>,
    /// How many of the far owner's messages have had their turn, per receiver.
    turns: BTreeMap<At, usize>,
    /// The last message that was certainly sent, per sender.
    sent: BTreeMap<At, Token>,
}

impl Messages {
    pub(super) fn see(&mut self, entry: &Entry, wire: &Wire, sessions: &Sessions, broken: &mut Broken) {
        let now = entry.at;
        match &entry.what {
            What::Cast { at, proc, token, end } => {
                if *end == CastEnd::Sent {
                    self.sent.insert(*at, *token);
                }
                self.casts.insert(*token, Cast { proc: *proc, at: *at, end: end.clone() });
            }
            What::CastEnd { token, end } => self.cast_end(*token, end, broken),
            What::Call { at, proc, token, deadline } => {
                let (at, proc, deadline) = (*at, *proc, *deadline);
                let made = now;
                let call = Call {
                    at,
                    proc,
                    made,
                    deadline,
                    woken: None,
                    outcome: None,
                    given_up: false,
                    given_up_early: false,
                };
                self.calls.insert(*token, call);
            }
            What::CallWoken { token } => {
                if let Some(call) = self.calls.get_mut(token) {
                    broken.unless(now <= call.deadline, "a call ends within its time", || {
                        format!("{call:?} {now:?}")
                    });
                    call.woken.get_or_insert(now);
                }
            }
            What::CallGivenUp { token } => {
                if let Some(call) = self.calls.get_mut(token) {
                    call.given_up = true;
                    call.given_up_early = now < call.deadline;
                }
            }
            What::CallEnd { token, outcome } => self.call_end(*token, now, outcome, wire, sessions, broken),
            What::Took { at, number, token, call } => {
                self.turn(*at, *number, wire, sessions, broken);
                self.took(*at, *number, *token, *call, now, wire, sessions, broken);
            }
            What::Skipped { at, number } => {
                self.turn(*at, *number, wire, sessions, broken);
                self.skipped(*at, *number, now, wire, sessions, broken);
            }
            What::TookDirect { at, proc, number, token } => {
                let message = wire.written(at.far()).and_then(|direction| {
                    direction.messages.iter().find(|message| message.number == *number)
                });
                let handed = message.and_then(|message| sessions.of(*at)?.handed.get(&message.to));
                let fine = message.is_some_and(|message| message.token == *token)
                    && handed.is_some_and(|handed| handed.proc == *proc);
                broken.unless(fine, "a process gets what was sent to it", || format!("{at:?} {number}"));
                self.take_once(*token, broken);
            }
            What::Answered { at: _, token, answer, token_back } => {
                self.fates.entry(*token).or_default().answered = Some((*answer, *token_back));
            }
            What::AwaitsCancel { proc, token } => drop(self.cancel_waits.insert(*token, *proc)),
            What::AwaitsNoCancel { token } => drop(self.cancel_waits.remove(token)),
            What::Cancelled { at, token } => {
                self.cancel_waits.remove(token);
                // The caller gave up, its time is over, or the session is.
                let over = sessions.of(*at).is_some_and(|end| end.over.is_some());
                let call = self.calls.get(token);
                let fine = over || call.is_none_or(|call| call.given_up || call.deadline <= now);
                broken.unless(fine, "only a call that nobody waits for is cancelled", || {
                    format!("{at:?} {token}")
                });
            }
            What::Flush { at, op } => {
                let upto = self.sent.get(at).copied().unwrap_or(0);
                self.flushes.insert(*op, (*at, upto, false));
            }
            What::FlushEnd { op, result } => self.flush_end(*op, result, wire, broken),
            What::FlushGivenUp { op } => {
                if let Some(flush) = self.flushes.get_mut(op) {
                    flush.2 = true;
                }
            }
            _ => {}
        }
    }

    fn cast_end(&mut self, token: Token, end: &CastEnd, broken: &mut Broken) {
        let Some(cast) = self.casts.get_mut(&token) else { return };
        let once = cast.end == CastEnd::Queued;
        broken.unless(once, "a cast has one ending", || format!("{token} {cast:?} {end:?}"));
        cast.end = end.clone();
        if *end == CastEnd::Sent {
            let last = self.sent.entry(cast.at).or_default();
            *last = token.max(*last);
        }
    }

    fn flush_end(&mut self, op: u32, result: &Result<(), ExitReason>, wire: &Wire, broken: &mut Broken) {
        let Some((at, upto, over)) = self.flushes.get_mut(&op) else { return };
        broken.unless(!*over, "a flush has one ending", || format!("{op}"));
        *over = true;
        if result.is_ok() && *upto > 0 {
            let has_come = wire.written(*at).is_some_and(|direction| {
                direction
                    .messages
                    .iter()
                    .any(|message| message.token >= *upto && message.end <= direction.read)
            });
            broken.unless(has_come, "what is flushed has come", || format!("{at:?} {upto}"));
        }
    }

    /// The messages for an owner come to their turn in the order sent, none left out and none twice.
    fn turn(&mut self, at: At, number: u64, wire: &Wire, sessions: &Sessions, broken: &mut Broken) {
        let turn = self.turns.entry(at).or_default();
        let Some(direction) = wire.written(at.far()) else { return };
        while direction.messages.get(*turn).is_some_and(|message| message.to != 0) {
            *turn += 1;
        }
        let next = direction.messages.get(*turn);
        let fine = next.is_some_and(|next| next.number == number && next.end <= direction.read);
        broken.unless(fine, "messages are taken in the order sent, each once", || {
            format!("{at:?} {number}, and not {next:?}")
        });
        *turn += 1;
        let fine = sessions.of(at).is_none_or(|end| end.let_go.is_none() && !end.gave_up);
        broken.unless(fine, "nothing is taken after the end", || format!("{at:?} {number}"));
    }

    /// A call came to its turn and was refused unseen: nobody waited for it.
    fn skipped(
        &self,
        at: At,
        number: u64,
        now: Duration,
        wire: &Wire,
        sessions: &Sessions,
        broken: &mut Broken,
    ) {
        let Some(direction) = wire.written(at.far()) else { return };
        let place = direction.messages.iter().position(|message| message.number == number);
        let message =
            place.and_then(|place| Some((direction.messages[place], *direction.arrived.get(place)?)));
        let fine = message.is_none_or(|(message, arrived)| {
            let over = sessions.of(at).is_some_and(|end| end.over.is_some());
            message.call.is_some_and(|(id, left)| {
                over || wire.heard_cancel(at, id) || now >= arrived + Duration::from_millis(left)
            })
        });
        broken.unless(fine, "a call that somebody waits for is executed", || format!("{at:?} {message:?}"));
    }

    /// Nobody has anything to do: what was sent over a connection to which nothing was done has come.
    pub(super) fn rest(
        &self,
        now: Duration,
        wire: &Wire,
        sessions: &Sessions,
        signals: &Signals,
        broken: &mut Broken,
    ) {
        for (at, _) in sessions.all().filter(|(at, _)| sessions.is_lively(at.conn)) {
            for message in wire.written(at.far()).into_iter().flat_map(|written| &written.messages) {
                let Some(handed) = sessions.always_handed(at, message.to) else { continue };
                let taken = self.fates.get(&message.token).is_some_and(|fate| fate.taken);
                let fine = taken || !signals.is_alive(handed.proc);
                broken.unless(fine, "what is sent to a process comes", || format!("{at:?} {message:?}"));
            }
        }
        for (token, proc) in self.cancel_waits.iter().filter(|(_, proc)| signals.is_alive(**proc)) {
            let Some(call) = self.calls.get(token).filter(|call| sessions.is_lively(call.at.conn)) else {
                continue;
            };
            let fine = now <= call.deadline + WAY && !call.given_up_early;
            broken.unless(fine, "who waits for a cancel is told", || format!("{proc} {token} {call:?}"));
        }
    }

    fn take_once(&mut self, token: Token, broken: &mut Broken) {
        let fate = self.fates.entry(token).or_default();
        let once = !std::mem::replace(&mut fate.taken, true);
        broken.unless(once, "nothing is delivered twice", || format!("{token}"));
        if let Some(cast) = self.casts.get(&token) {
            let fine = matches!(cast.end, CastEnd::Sent | CastEnd::Queued | CastEnd::Withdrawn);
            broken.unless(fine, "what was not sent is not taken", || format!("{token} {cast:?}"));
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the line, and what it is judged by")]
    fn took(
        &mut self,
        at: At,
        number: u64,
        token: Token,
        call: bool,
        now: Duration,
        wire: &Wire,
        sessions: &Sessions,
        broken: &mut Broken,
    ) {
        self.take_once(token, broken);
        let Some(direction) = wire.written(at.far()) else { return };
        let place = direction.messages.iter().position(|message| message.number == number);
        let Some(message) = place.map(|place| direction.messages[place]) else { return };
        broken.unless(message.token == token, "what is taken is what was sent", || {
            format!("{at:?} {token} {message:?}")
        });
        let same = message.call.is_some() == call;
        broken.unless(same, "a call is a call at both sides", || format!("{at:?} {token}"));
        if let Some((_, left)) = message.call {
            let arrived = place.and_then(|place| direction.arrived.get(place)).copied().unwrap_or(now);
            let in_time = now < arrived + Duration::from_millis(left);
            broken.unless(in_time, "a call whose time is over is not executed", || format!("{at:?} {token}"));
        }
        if let Some((id, _)) = message.call {
            let over = sessions.of(at).is_some_and(|end| end.over.is_some());
            let cancelled = !over && wire.heard_cancel(at, id);
            broken.unless(!cancelled, "a call that was cancelled is not executed", || {
                format!("{at:?} {token}")
            });
        }
        if let Some(asked) = self.calls.get(&token) {
            let said_no = matches!(&asked.outcome, Some(Err(error)) if error.executed == Executed::No);
            broken
                .unless(!said_no, "what was said not to be executed is not", || format!("{token} {asked:?}"));
        }
    }

    fn call_end(
        &mut self,
        token: Token,
        now: Duration,
        outcome: &Result<Token, CallError>,
        wire: &Wire,
        sessions: &Sessions,
        broken: &mut Broken,
    ) {
        let fate = self.fates.get(&token).copied().unwrap_or_default();
        let Some(call) = self.calls.get_mut(&token) else { return };
        let once = call.outcome.is_none() && !call.given_up;
        broken.unless(once, "a call has one ending", || format!("{token} {call:?}"));
        call.outcome = Some(outcome.clone());
        let direction = wire.written(call.at);
        let sent =
            direction.and_then(|written| written.messages.iter().find(|message| message.token == token));
        let fine = match outcome {
            Ok(back) => fate.taken && fate.answered == Some((Answer::Reply, *back)),
            Err(error) => {
                // What a process refuses in its own words counts as not executed.
                let refused = matches!(fate.answered, Some((Answer::Refused, _)));
                let false_no = error.executed == Executed::No && fate.taken && !refused;
                broken.unless(!false_no, "what was said not to be executed is not", || {
                    format!("{token} {call:?}")
                });
                let false_yes = error.executed == Executed::Yes && fate.answered.is_none();
                broken.unless(!false_yes, "what was said to be executed is", || format!("{token} {call:?}"));
                match &error.reason {
                    CallFailure::Deadline => {
                        let known = sent.is_none() || error.executed == Executed::Unknown;
                        known && now >= call.deadline
                    }
                    CallFailure::Refused(text) => match fate.answered {
                        Some((Answer::Refused, _)) => &**text == "as the process says",
                        // Never taken; or refused because taken too late, and then the caller waits no more.
                        _ => !fate.taken && (&**text != "the caller stopped waiting" || now >= call.deadline),
                    },
                    CallFailure::NoAnswer => matches!(fate.answered, Some((Answer::Dropped, _))),
                    CallFailure::TooLong { .. } => matches!(fate.answered, Some((Answer::TooLong, _))),
                    CallFailure::Exit(reason) => {
                        let end = sessions.of(call.at);
                        let over = end.and_then(|end| end.over.as_ref()).map(|(_, reason)| reason);
                        let let_go = end.is_some_and(|end| end.let_go.is_some());
                        let known = over == Some(reason) || (let_go && *reason == ExitReason::Normal);
                        let lost = end.is_some_and(|end| end.broke_off.is_none())
                            && *reason == ExitReason::NoConnection;
                        let executed = match (sent, end.and_then(|end| end.heard_taken)) {
                            (None, Some(_)) => error.executed == Executed::No,
                            (Some(sent), Some(taken)) => {
                                (error.executed == Executed::No) == (sent.number > taken)
                            }
                            // Nothing more is written to what is lost.
                            (None, None) => error.executed == Executed::No || !lost,
                            (Some(_), None) => error.executed == Executed::Unknown,
                        };
                        // One that ended for its own reason may have read the other's, which is the same.
                        known && (executed || *reason == ExitReason::Overload)
                    }
                    _ => false,
                }
            }
        };
        let late = matches!(outcome, Err(error) if error.reason == CallFailure::Deadline);
        // What was written on a healthy connection has come by then.
        let by = call.deadline.saturating_sub(WAY);
        let could_go = call.made < by
            && sessions.is_healthy(call.at.conn)
            && direction.is_some_and(|written| written.was_free_before(by));
        broken.unless(!(late && sent.is_none() && could_go), "a call that can go does not wait", || {
            format!("{token} {call:?}")
        });
        broken.unless(fine, "the outcome of a call is true", || {
            format!("{token} {call:?} {sent:?} {fate:?}, heard {:?}", wire.heard(call.at))
        });
    }

    /// At the very end.
    pub(super) fn end(&self, wire: &Wire, sessions: &Sessions, signals: &Signals, broken: &mut Broken) {
        for (token, call) in &self.calls {
            let fine = call.outcome.is_some() || call.given_up || signals.is_lost(call.proc);
            broken.unless(fine, "every call has an ending", || format!("{token} {call:?}"));
            // Nothing follows an Ended, so what is not in front of it when that is said never goes.
            let let_go = sessions.of(call.at).and_then(|end| end.let_go_since);
            let never_went = wire.written(call.at).is_some_and(|written| {
                written.ended.is_some() && written.messages.iter().all(|message| message.token != *token)
            });
            let late = call.woken.zip(let_go).is_some_and(|(woken, let_go)| let_go < woken);
            broken.unless(!(never_went && late), "a call that will never go is told at once", || {
                format!("{token} {call:?}")
            });
            if let Some(Err(CallError { executed: Executed::No, reason: CallFailure::Exit(_) })) =
                &call.outcome
            {
                let heard = sessions.of(call.at).is_some_and(|end| end.heard_taken.is_some());
                let never = heard
                    || wire
                        .written(call.at)
                        .is_none_or(|written| written.messages.iter().all(|message| message.token != *token));
                broken.unless(never, "what was said never to be sent is not", || format!("{token} {call:?}"));
            }
        }
        for (token, cast) in &self.casts {
            let fine = cast.end != CastEnd::Queued || signals.is_lost(cast.proc);
            broken.unless(fine, "every cast has an ending", || format!("{token} {cast:?}"));
        }
    }
}
