//! How sessions begin and end.

use std::{collections::BTreeMap, time::Duration};

use lib_chan::{ExitReason, Limits};

use super::{Broken, wire::Wire};
use crate::{
    log::{At, Entry, Fault, Proc, Side, Tapped, What},
    plan::Plan,
};

const LAST_WORDS: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct End {
    wrong_login: bool,
    pub(super) let_go: Option<(ExitReason, Duration)>,
    pub(super) let_go_since: Option<Duration>,
    pub(super) over: Option<(Duration, ExitReason)>,
    /// By line.
    pub(super) over_since: usize,
    pub(super) broke_off: Option<ExitReason>,
    pub(super) gave_up: bool,
    pub(super) end_seen: bool,
    pub(super) reader: Option<Proc>,
    pub(super) gone: bool,
    /// Exits that the peer had provoked, sent explicitly and over links, and that somebody took or ended with.
    taken_exits: [usize; 2],
    /// It ended because the peer had gone beyond a limit, whatever was taken since.
    overloaded: bool,
    /// Processes by the ids that the peer knows, and their rights.
    pub(super) handed: BTreeMap<u64, Handed>,
    /// Ids that named a link before they were handed out, and had no right then.
    pub(super) named_before: Vec<u64>,
    /// Who has held id 0.
    pub(super) owners: Vec<Proc>,
    /// It was over because the peer's `Ended` came, which said this.
    pub(super) heard_taken: Option<u64>,
    /// It was over with the answer to its own end: the far owner lives.
    pub(super) answered: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Handed {
    pub(super) proc: Proc,
    pub(super) link: bool,
    pub(super) exit: bool,
    pub(super) kill: bool,
    pub(super) monitor: bool,
}

#[derive(Debug)]
pub(super) struct Sessions {
    ends: BTreeMap<At, End>,
    faulty: Vec<u8>,
    /// Connections that carry little, since then.
    slow: BTreeMap<u8, Duration>,
    pub(super) dead: [bool; 2],
    calm_network: bool,
    limits: [Limits; 2],
}

impl Sessions {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            ends: BTreeMap::new(),
            faulty: Vec::new(),
            slow: BTreeMap::new(),
            dead: [false; 2],
            calm_network: plan.latency == 0 || plan.latency <= 300 && plan.capacity >= 100_000,
            limits: plan.limits.clone(),
        }
    }

    pub(super) fn of(&self, at: At) -> Option<&End> {
        self.ends.get(&at)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (At, &End)> {
        self.ends.iter().map(|(at, end)| (*at, end))
    }

    /// Whether nothing was done to this connection on purpose.
    pub(super) fn is_healthy(&self, conn: u8) -> bool {
        self.calm_network
            && !self.faulty.contains(&conn)
            && !self.slow.contains_key(&conn)
            && self.dead == [false; 2]
    }

    /// Whether all that may end this connection by now is that it carries little, and for that it is too early.
    fn is_merely_slow(&self, conn: u8, now: Duration) -> bool {
        let lives = |end: &End| end.let_go.is_none() && !end.gone && end.reader.is_some();
        self.slow.get(&conn).is_some_and(|since| now < *since + self.limits[0].stall_timeout)
            && !self.faulty.contains(&conn)
            && self.dead == [false; 2]
            && Side::BOTH.iter().all(|side| self.of(at(conn, *side)).is_some_and(lives))
    }

    pub(super) fn see(&mut self, entry: &Entry, wire: &Wire, broken: &mut Broken) {
        let now = entry.at;
        match &entry.what {
            What::Fault { conn, fault: Fault::Slow } => {
                self.slow.insert(*conn, now);
            }
            What::Fault { conn, fault } => {
                self.faulty.extend(Some(*conn).filter(|_| *fault != Fault::Kill));
            }
            What::ProgramDied { side } => self.dead[*side as usize] = true,
            What::LoginGivenUp { at } => self.faulty.push(at.conn),
            What::WrongLogin { at } => {
                self.end(*at).wrong_login = true;
                self.faulty.push(at.conn);
            }
            What::Frame { at, frame: Tapped::Link { from, .. }, .. } => {
                let end = self.end(*at);
                if !end.handed.contains_key(from) {
                    end.named_before.push(*from);
                }
            }
            What::LoggedIn { at } => {
                let wrong = self.end(*at).wrong_login;
                broken.unless(!wrong, "nobody logs in with a wrong proof", || format!("{at:?}"));
            }
            What::LoginFailed { at, wrong } => {
                let fine = *wrong || !self.is_healthy(at.conn);
                self.faulty.push(at.conn);
                broken.unless(fine, "a login with the right proof succeeds", || format!("{at:?}"));
            }
            What::HandedOut { at, id, proc, link, exit, kill, monitor } => {
                let handed = Handed { proc: *proc, link: *link, exit: *exit, kill: *kill, monitor: *monitor };
                self.end(*at).handed.insert(*id, handed);
            }
            What::Owner { at, proc } => self.end(*at).owners.extend(proc),
            What::LetGo { at, close_by, reason } => {
                self.end(*at).let_go = Some((reason.clone(), *close_by));
                self.end(*at).let_go_since = Some(now);
            }
            What::Frame { at, frame: Tapped::Ended { reason, .. }, .. } => {
                // Its own, or the answer to the other's, or that of a fault.
                let (may_overload, end) = (self.may_overload(*at, wire), self.end(*at));
                let fine = end.let_go.as_ref().is_some_and(|(own, _)| own == reason)
                    || end.broke_off.as_ref() == Some(reason)
                    || (matches!(reason, ExitReason::Normal | ExitReason::NoConnection)
                        && end.let_go.is_none())
                    || (*reason == ExitReason::Overload && (may_overload || end.overloaded));
                broken.unless(fine, "the last word is the owner's", || format!("{at:?} {reason:?}"));
            }
            What::ExitTaken { at, link } => self.end(*at).taken_exits[usize::from(*link)] += 1,
            What::GaveUpReceiving { at } => self.end(*at).gave_up = true,
            What::Reads { at, proc } => self.end(*at).reader = Some(*proc),
            What::BrokeOff { at, reason } => self.end(*at).broke_off = Some(reason.clone()),
            What::Over { at, reason } => self.over(*at, now, reason, wire, broken),
            What::EndSeen { at, reason } => {
                let end = self.end(*at);
                let once = !std::mem::replace(&mut end.end_seen, true);
                broken.unless(once, "an owner sees one end", || format!("{at:?}"));
                let same = end.over.as_ref().is_some_and(|(_, over)| over == reason);
                broken.unless(same, "the end has one reason", || format!("{at:?} {reason:?}"));
            }
            What::CloseEnd { at, reason } => {
                let same = self.end(*at).over.as_ref().is_some_and(|(_, over)| over == reason);
                broken.unless(same, "the end has one reason", || format!("{at:?} {reason:?}"));
            }
            What::DriverGone { at } => {
                let end = self.end(*at);
                end.gone = true;
                let fine = end.over.as_ref().is_some_and(|(over, _)| now <= *over + LAST_WORDS);
                broken.unless(fine, "last words are bounded in time", || format!("{at:?}"));
            }
            _ => {}
        }
    }

    /// Whether nothing was done to this connection, and both ends of it are in the middle of their session.
    pub(super) fn is_lively(&self, conn: u8) -> bool {
        let lives = |end: &End| end.over.is_none() && end.let_go.is_none() && !end.gone;
        self.is_healthy(conn) && Side::BOTH.iter().all(|side| self.of(at(conn, *side)).is_some_and(lives))
    }

    /// The process that has had this id, with the rights it was handed out with, ever since anybody could know the id.
    pub(super) fn always_handed(&self, at: At, id: u64) -> Option<&Handed> {
        let end = self.of(at).filter(|end| !end.named_before.contains(&id))?;
        end.handed.get(&id)
    }

    /// Whether the peer may have gone beyond a limit of `at` that an honest peer cannot keep to.
    fn may_overload(&self, at: At, wire: &Wire) -> bool {
        let limits = &self.limits[at.side as usize];
        let Some(peer) = wire.written(at.far()) else { return false };
        let taken = self.ends.get(&at).map_or([0; 2], |end| end.taken_exits);
        let [explicit, of_links] = [0, 1].map(|kind| peer.exits[kind].saturating_sub(taken[kind]));
        explicit > limits.max_untaken_exits
            || of_links > limits.max_links as usize
            || 2 * peer.provoking > limits.max_reflections
            || limits.max_unsent < 100_000
    }

    fn end(&mut self, at: At) -> &mut End {
        self.ends.entry(at).or_default()
    }

    fn over(&mut self, at: At, now: Duration, reason: &ExitReason, wire: &Wire, broken: &mut Broken) {
        let (healthy, may_overload) = (self.is_healthy(at.conn), self.may_overload(at, wire));
        let merely_slow = self.is_merely_slow(at.conn, now);
        let end = self.end(at);
        broken.unless(end.over.is_none(), "a session ends once", || format!("{at:?}"));
        end.over = Some((now, reason.clone()));
        end.over_since = broken.line;
        if let Some(close_by) = end.let_go.as_ref().map(|(_, close_by)| *close_by) {
            broken.unless(now <= close_by, "a close is bounded in time", || format!("{at:?} {now:?}"));
        }
        // The answer to its own end says that the other owner lives.
        let answered = |heard: &ExitReason| *heard == ExitReason::NoConnection && end.let_go.is_some();
        let said = |heard| if answered(heard) { &ExitReason::Normal } else { heard };
        let heard = wire.heard(at).map(|ended| said(&ended.reason));
        end.answered = wire.heard(at).is_some_and(|ended| answered(&ended.reason));
        if end.broke_off.is_none() && heard == Some(reason) {
            end.heard_taken = wire.heard(at).map(|ended| ended.taken);
        }
        end.overloaded = *reason == ExitReason::Overload && heard != Some(reason) && may_overload;
        let fine = match (&end.broke_off, heard, reason) {
            (_, _, ExitReason::Protocol) => false,
            (Some(broke_off), _, reason) if broke_off == reason => true,
            (_, Some(heard), reason) if heard == reason => true,
            (_, _, ExitReason::Overload) => may_overload,
            // It ended before it was open, or was refused.
            (_, None, ExitReason::Normal) => true,
            (_, None, ExitReason::NoConnection) => !healthy && !merely_slow,
            _ => false,
        };
        broken.unless(fine, "a session ends with the right reason", || {
            format!("{at:?} {reason:?}, heard {heard:?}, broke off {:?}", end.broke_off)
        });
    }
}

/// The end of `side` at a connection.
pub(super) const fn at(conn: u8, side: Side) -> At {
    At { conn, side }
}
