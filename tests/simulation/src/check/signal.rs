//! Links, monitors and exits: each has one ending, with the right reason.
//!
//! Longer than other files: a link, its unlinks and its exits are judged from one record.

use std::collections::{BTreeMap, BTreeSet};

use lib_chan::ExitReason;

use super::{
    Broken,
    session::{Sessions, at},
};
use crate::{
    log::{At, Entry, Pid, Proc, Side, Signal, What},
    plan::Plan,
};

#[derive(Debug)]
struct Life {
    side: Side,
    task: bool,
    decided: Option<ExitReason>,
    gone: bool,
    stuck: bool,
    lost: bool,
}

#[derive(Debug)]
struct Monitor {
    proc: Proc,
    to: Pid,
    ended: bool,
    demonitored: bool,
    /// And the session has heard of it.
    taken_back: bool,
    line: usize,
}

/// A link, as its process knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    standing: Standing,
    /// The last unlink of the process, until it is acknowledged: an ending before that is of the link before.
    awaits: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Active,
    /// Taken back at this side; the other may not know.
    TakenBack,
    /// Taken back by both.
    TakenBackByBoth,
    /// Taken back by the other side, which may not know that this one knows.
    Unlinked,
}

impl Link {
    const ACTIVE: Self = Self { standing: Standing::Active, awaits: None };

    fn is_active(&self) -> bool {
        self.standing == Standing::Active
    }
}

#[derive(Debug)]
pub(super) struct Signals {
    lives: BTreeMap<Proc, Life>,
    links: BTreeMap<(Proc, Pid), Link>,
    monitors: BTreeMap<u64, Monitor>,
    /// Exits sent and not come, by sender.
    exits: Vec<(Proc, Pid, ExitReason)>,
    max_links: [usize; 2],
    few_links: bool,
    /// When, by line, links and monitors across a connection have ended, and at which end of it.
    freed: Vec<(usize, At)>,
    /// Links that were taken back: on the wire they keep their places until the far session has acknowledged that.
    taken_back: Vec<At>,
    /// When the last link was made.
    link_lines: BTreeMap<(Proc, Pid), usize>,
    line: usize,
    /// Links that were said to a session. Those of an owner are links by a second name: where the peer has linked to the
    /// role too, the process knows of one link, and it takes two places.
    said: Vec<(At, Proc)>,
    /// Of which the session heard when they had their ending already, or when one was on its way from the peer: they
    /// have another, which nobody sees.
    late: BTreeSet<(Proc, Pid)>,
    /// Links made again while the one before was under way to its end: the end of the session may come to both.
    made_anew: BTreeSet<(Proc, Pid)>,
}

impl Signals {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            lives: BTreeMap::new(),
            links: BTreeMap::new(),
            monitors: BTreeMap::new(),
            exits: Vec::new(),
            made_anew: BTreeSet::new(),
            said: Vec::new(),
            late: BTreeSet::new(),
            max_links: [0, 1].map(|side| plan.limits[side].max_links as usize),
            freed: Vec::new(),
            taken_back: Vec::new(),
            link_lines: BTreeMap::new(),
            line: 0,
            few_links: plan.limits.iter().any(|limits| limits.max_links < 1000),
        }
    }

    /// Whether its program died, so that nobody hears of it any more.
    pub(super) fn is_lost(&self, proc: Proc) -> bool {
        self.lives.get(&proc).is_none_or(|life| life.lost)
    }

    pub(super) fn is_alive(&self, proc: Proc) -> bool {
        self.lives.get(&proc).is_some_and(|life| !life.lost && life.decided.is_none())
    }

    pub(super) fn see(&mut self, entry: &Entry, sessions: &Sessions, broken: &mut Broken) {
        self.line = broken.line;
        match &entry.what {
            What::Born { proc, side, task } => {
                let (side, task) = (*side, *task);
                let life = Life { side, task, decided: None, gone: false, stuck: false, lost: false };
                self.lives.insert(*proc, life);
            }
            What::Decided { proc, reason } => {
                if let Some(life) = self.lives.get_mut(proc) {
                    broken.unless(life.decided.is_none(), "a process ends once", || format!("{proc}"));
                    life.decided = Some(reason.clone());
                }
            }
            What::Gone { proc } => {
                if let Some(life) = self.lives.get_mut(proc) {
                    life.gone = true;
                }
                // What it has taken back keeps its place until that is acknowledged.
                let waits = |link: &Link| link.awaits.is_some();
                let gone: Vec<_> = self
                    .links
                    .iter()
                    .filter(|((of, _), link)| of == proc && !waits(link))
                    .map(|(key, _)| *key)
                    .collect();
                for key in gone {
                    self.remove(key);
                }
            }
            What::Stuck { proc } => {
                if let Some(life) = self.lives.get_mut(proc) {
                    life.stuck = true;
                }
            }
            What::ProgramDied { side } => {
                for life in self.lives.values_mut().filter(|life| life.side == *side) {
                    life.lost = true;
                }
            }
            What::Said { at, proc, far, signal } => {
                self.said(*at, *proc, *far, signal);
            }
            What::EndUnderWay { at, proc, far } => {
                self.late.insert((*proc, Pid::Far { conn: at.conn, id: *far }));
            }
            What::LinkOp { proc, to, fresh } => {
                let before = self.links.get(&(*proc, *to)).copied();
                let link = self.links.entry((*proc, *to)).or_insert(Link::ACTIVE);
                link.standing = Standing::Active;
                if before.is_some_and(|before| !before.is_active()) {
                    self.made_anew.insert((*proc, *to));
                }
                let same = before.is_none_or(|before| !before.is_active()) == *fresh;
                broken.unless(same, "a process knows its links", || format!("{proc} {to:?} {before:?}"));
            }
            What::LinkFailed { proc, to } => {
                let active = self.links.remove(&(*proc, *to)).is_some_and(|link| link.is_active());
                let nobody = match to {
                    Pid::Local(to) => {
                        self.lives.get(to).is_none_or(|life| life.task || life.decided.is_some())
                    }
                    _ => false,
                };
                broken.unless(active && nobody, "a link fails where there is nobody", || {
                    format!("{proc} {to:?}")
                });
            }
            What::UnlinkOp { proc, to, id } => {
                let link = self.links.get_mut(&(*proc, *to));
                let same = link.as_deref().is_some_and(Link::is_active) == id.is_some();
                broken.unless(same, "a process knows its links", || format!("{proc} {to:?} {link:?}"));
                if let (Some(link), Some(number)) = (link, id) {
                    *link = Link { standing: Standing::TakenBack, awaits: Some(*number) };
                    if let (Pid::Far { conn, .. }, Some(life)) = (*to, self.lives.get(proc)) {
                        self.taken_back.push(at(conn, life.side));
                    }
                }
            }
            What::Parted { proc, to } => {
                let active = self.links.get(&(*proc, *to)).is_some_and(Link::is_active);
                broken.unless(active, "only the linked are told of an end", || format!("{proc} {to:?}"));
            }
            What::MonitorOp { proc, monitor, to } => {
                let (proc, to) = (*proc, *to);
                self.monitors.insert(
                    *monitor,
                    Monitor {
                        proc,
                        to,
                        ended: false,
                        demonitored: false,
                        taken_back: false,
                        line: broken.line,
                    },
                );
            }
            What::DemonitorOp { monitor, was, .. } => {
                if let Some(monitor) = self.monitors.get_mut(monitor) {
                    let same = *was == (!monitor.ended && !monitor.demonitored);
                    broken.unless(same, "a process knows its monitors", || format!("{monitor:?}"));
                    monitor.demonitored |= *was;
                }
            }
            What::ExitOp { proc, to, reason } => self.exits.push((*proc, *to, reason.clone())),
            What::Signal { proc, from, signal, seen } => {
                self.signal(*proc, *from, signal, *seen, sessions, broken)
            }
            _ => {}
        }
    }

    fn signal(
        &mut self,
        proc: Proc,
        from: Pid,
        signal: &Signal,
        seen: bool,
        sessions: &Sessions,
        broken: &mut Broken,
    ) {
        let Some(life) = self.lives.get(&proc) else { return };
        let (alive, gone, side) = (life.decided.is_none() && !life.task, life.gone || life.task, life.side);
        match signal {
            Signal::Link => {
                if alive {
                    let link = self.links.entry((proc, from)).or_insert(Link::ACTIVE);
                    if link.standing == Standing::Unlinked {
                        link.standing = Standing::Active;
                    }
                }
            }
            Signal::Unlink { .. } => {
                if let Some(link) = self.links.get_mut(&(proc, from)) {
                    link.standing = match link.standing {
                        Standing::Active => Standing::Unlinked,
                        Standing::TakenBack => Standing::TakenBackByBoth,
                        other => other,
                    };
                }
            }
            Signal::UnlinkAck { id } => {
                let link = self.links.get_mut(&(proc, from)).filter(|link| link.awaits == Some(*id));
                let Some(link) = link else { return };
                link.awaits = None;
                match link.standing {
                    Standing::TakenBack => drop(self.remove((proc, from))),
                    Standing::TakenBackByBoth => link.standing = Standing::Unlinked,
                    Standing::Active | Standing::Unlinked => {}
                }
            }
            Signal::Exit { reason, link: true } => {
                let made = self.link_lines.get(&(proc, from)).copied().unwrap_or(0);
                if self.links.get(&(proc, from)).is_some_and(|link| link.awaits.is_some()) {
                    return broken.unless(!seen, "a link that was taken back has no effect", || {
                        format!("{proc} {from:?} {reason:?}")
                    });
                }
                let link = self.remove((proc, from));
                if gone {
                    return;
                }
                // A link that this end refused may have been there still, under way to its end. The link that is the
                // session's own may have been taken back with one of the same name; and one of
                // this program may have begun to tell its end when the unlink came.
                // Asked only where there is no link: an ending on its way is that of the link that is not found then.
                let mut own = || match from {
                    Pid::Far { id: 0, .. } => !seen,
                    // An owner that is linked under both its names is told twice, and sees it once.
                    Pid::Far { conn, .. } => {
                        let here = sessions.of(at(conn, side));
                        !seen
                            && (self.late.remove(&(proc, from))
                                || self.few_links
                                || self.made_anew.contains(&(proc, from))
                                || here.is_some_and(|end| end.owners.contains(&proc)))
                    }
                    _ => !seen,
                };
                broken.unless(link.is_some() || own() || !alive, "a link has one ending", || {
                    format!("{proc} {from:?} {reason:?}")
                });
                let taken_back = link.is_some_and(|link| !link.is_active());
                broken.unless(!(taken_back && seen), "a link that was taken back has no effect", || {
                    format!("{proc} {from:?} {reason:?}")
                });
                if link.is_some_and(|link| link.is_active()) {
                    let fine = seen || !alive || *reason == ExitReason::Normal;
                    broken
                        .unless(fine, "the end of a link is seen", || format!("{proc} {from:?} {reason:?}"));
                    self.reason(side, from, reason, (true, made), sessions, broken);
                }
            }
            Signal::Exit { reason, link: false } => self.explicit(proc, side, from, reason, sessions, broken),
            Signal::Down { monitor, reason } => {
                let Some(monitor) = self.monitors.get_mut(monitor) else {
                    return broken.unless(false, "a Down is of a monitor", || format!("{proc} {monitor}"));
                };
                let once = !std::mem::replace(&mut monitor.ended, true);
                broken.unless(once, "a monitor has one ending", || format!("{monitor:?}"));
                let fine = seen == (alive && !monitor.demonitored);
                broken.unless(fine, "a Down is seen unless the monitor was given up", || {
                    format!("{monitor:?}")
                });
                let same = monitor.proc == proc && monitor.to == from;
                broken.unless(same, "a Down is of whom was monitored", || format!("{monitor:?} {from:?}"));
                let (to, line) = (monitor.to, monitor.line);
                self.free(side, to);
                self.reason(side, to, reason, (false, line), sessions, broken);
            }
            Signal::Monitor { .. } | Signal::Demonitor { .. } => {}
        }
    }

    /// The session hears of it now, which may be later than when the process did it.
    fn said(&mut self, here: At, proc: Proc, far: u64, signal: &Signal) {
        let of = Pid::Far { conn: here.conn, id: far };
        match signal {
            Signal::Link => {
                self.link_lines.insert((proc, of), self.line);
                self.said.push((here, proc));
                if !self.links.contains_key(&(proc, of)) {
                    self.late.insert((proc, of));
                }
            }
            Signal::Monitor { monitor } => {
                if let Some(monitor) = self.monitors.get_mut(monitor) {
                    monitor.line = self.line;
                }
            }
            Signal::Demonitor { monitor } => {
                if let Some(monitor) = self.monitors.get_mut(monitor) {
                    monitor.taken_back = true;
                }
                self.free(here.side, of);
            }
            _ => {}
        }
    }

    fn remove(&mut self, key: (Proc, Pid)) -> Option<Link> {
        let link = self.links.remove(&key)?;
        if let Some(side) = self.lives.get(&key.0).map(|life| life.side) {
            self.free(side, key.1);
        }
        Some(link)
    }

    fn free(&mut self, side: Side, of: Pid) {
        if let Pid::Far { conn, .. } = of {
            self.freed.push((self.line, at(conn, side)));
        }
    }

    /// Whether all places for links and monitors may have been taken at some time after this line.
    fn is_full(&self, here: At, since: usize, sessions: &Sessions) -> bool {
        let is_here = |proc: &Proc, of: Pid| {
            let side = self.lives.get(proc).map(|life| life.side);
            matches!(of, Pid::Far { conn, .. } if conn == here.conn) && side == Some(here.side)
        };
        let links = self.links.keys().filter(|(proc, of)| is_here(proc, *of)).count();
        let open = |monitor: &&Monitor| !monitor.ended && !monitor.taken_back;
        let monitors = self.monitors.values().filter(open).filter(|one| is_here(&one.proc, one.to)).count();
        let freed = self.freed.iter().filter(|(line, at)| *line > since && *at == here).count();
        let owned = |proc: &Proc| sessions.of(here).is_some_and(|end| end.owners.contains(proc));
        let twice = self.said.iter().filter(|(at, proc)| *at == here && owned(proc)).count();
        // Each change of the owner gives links another name, and what had the old one keeps its place for a while.
        let renamed = sessions.of(here).map_or(0, |end| end.owners.len()) * links;
        let taken_back = self.taken_back.iter().filter(|at| **at == here).count();
        // Those that were said when an end was on its way: the session waits for another one.
        let late = self.late.iter().filter(|(proc, of)| is_here(proc, *of)).count();
        // The one in question is among them.
        links + monitors + freed + twice + renamed + taken_back + late
            > self.max_links[here.side.other() as usize]
    }

    /// Whether a link to or monitor on `of` may end with this reason now, at a process of `side`.
    fn reason(
        &self,
        side: Side,
        of: Pid,
        reason: &ExitReason,
        (link, since): (bool, usize),
        sessions: &Sessions,
        broken: &mut Broken,
    ) {
        let decided = |proc: Proc| self.lives.get(&proc).and_then(|life| life.decided.as_ref());
        let fine = match of {
            Pid::Local(proc) => {
                let task = self.lives.get(&proc).is_some_and(|life| life.task);
                decided(proc) == Some(reason)
                    || *reason == ExitReason::NoProc && (task || decided(proc).is_some())
            }
            Pid::Far { conn, id } => {
                let over =
                    sessions.of(at(conn, side)).and_then(|end| end.over.as_ref()).map(|(_, over)| over);
                let there = sessions.of(at(conn, side.other()));
                let handed = there.and_then(|end| end.handed.get(&id));
                let late = sessions.of(at(conn, side)).is_some_and(|end| end.over_since < since);
                let lives = sessions.of(at(conn, side)).is_some_and(|end| end.answered);
                let owner_reason = id == 0 && over == Some(reason);
                let own_reason = self.named(at(conn, side.other()), id, sessions).any(|proc| {
                    decided(proc) == Some(reason) || *reason == ExitReason::NoProc && decided(proc).is_some()
                });
                let had_none = there.is_some_and(|end| end.named_before.contains(&id));
                let no_right =
                    had_none || handed.is_none_or(|handed| if link { !handed.link } else { !handed.monitor });
                owner_reason
                    || own_reason
                    || *reason == ExitReason::NoProc && id != 0 && no_right
                    || *reason == ExitReason::NoConnection && over.is_some() && (id != 0 || late || lives)
                    || *reason == ExitReason::Overload && self.is_full(at(conn, side), since, sessions)
            }
            Pid::Watch { .. } => false,
        };
        broken.unless(fine, "the ending has the right reason", || format!("{of:?} {reason:?} at {side:?}"));
    }

    /// Who may be meant by an id. That of a link is not known here, so anybody of that end may be.
    fn named<'a>(&'a self, there: At, id: u64, sessions: &'a Sessions) -> impl Iterator<Item = Proc> + 'a {
        let handed = sessions.of(there).and_then(|end| end.handed.get(&id)).map(|handed| handed.proc);
        self.lives
            .iter()
            .filter(move |(proc, life)| {
                life.side == there.side && handed.is_none_or(|handed| handed == **proc)
            })
            .map(|(proc, _)| *proc)
    }

    /// An exit that somebody sent of his own will.
    fn explicit(
        &mut self,
        proc: Proc,
        side: Side,
        from: Pid,
        reason: &ExitReason,
        sessions: &Sessions,
        broken: &mut Broken,
    ) {
        let fits = |(sender, to, sent): &(Proc, Pid, ExitReason)| match (from, to) {
            (Pid::Local(from), to) => *sender == from && *to == Pid::Local(proc) && sent == reason,
            (Pid::Far { conn, .. }, Pid::Far { conn: by, id }) => {
                let there = sessions.of(at(conn, side));
                let other_side = self.lives.get(sender).is_some_and(|life| life.side != side);
                let handed = there.and_then(|end| end.handed.get(id));
                let (exit, kill) = match handed {
                    _ if *id == 0 => (true, false),
                    Some(handed) => (handed.exit && handed.proc == proc, handed.kill),
                    None => (false, false),
                };
                let arrives = if *sent == ExitReason::Kill && !kill { &ExitReason::Killed } else { sent };
                conn == *by && other_side && exit && arrives == reason
            }
            _ => false,
        };
        // One to the owner may have come to nobody: that to this very process first.
        let to_role = |to: &Pid| matches!(to, Pid::Far { id: 0, .. });
        let place = self.exits.iter().position(|exit| !to_role(&exit.1) && fits(exit));
        let place = place.or_else(|| self.exits.iter().position(fits));
        broken.unless(place.is_some(), "an exit comes once, and with the right to it", || {
            format!("{proc} from {from:?} {reason:?}")
        });
        if let Some(place) = place {
            self.exits.remove(place);
        }
    }

    /// Nobody has anything to do: what is linked or monitored is there.
    pub(super) fn rest(&self, sessions: &Sessions, broken: &mut Broken) {
        self.readers(sessions, broken);
        for (sender, to, reason) in &self.exits {
            let Pid::Far { conn, id } = *to else { continue };
            let Some(life) = self.lives.get(sender) else { continue };
            let handed = sessions.always_handed(at(conn, life.side.other()), id);
            let comes = handed.is_some_and(|handed| handed.exit) && sessions.is_lively(conn);
            broken.unless(!comes, "an exit comes to whom it may be sent", || {
                format!("{sender} {to:?} {reason:?}")
            });
        }
        for state in self.monitors.values() {
            if !state.ended && !state.demonitored {
                self.is_there(state.proc, state.to, sessions, "every monitor has an ending", broken);
            }
        }
        for ((proc, to), link) in &self.links {
            if link.is_active() {
                self.is_there(*proc, *to, sessions, "every link has an ending", broken);
            }
            if link.awaits.is_some() {
                let waits = self.lives.get(proc).is_some_and(|life| {
                    let far_waits = |conn| {
                        let here = sessions.of(at(conn, life.side));
                        sessions.is_healthy(conn) || here.is_some_and(|end| end.over.is_some())
                    };
                    let reachable = match to {
                        Pid::Far { conn, .. } => far_waits(*conn),
                        _ => true,
                    };
                    !life.lost && life.decided.is_none() && reachable
                });
                broken.unless(!waits, "every unlink is acknowledged", || format!("{proc} {to:?}"));
            }
        }
    }

    /// Whoever reads a channel sees its end.
    fn readers(&self, sessions: &Sessions, broken: &mut Broken) {
        for (at, end) in sessions.all() {
            let reader = end.reader.and_then(|reader| self.lives.get(&reader));
            let waits = reader.is_some_and(|reader| !reader.lost && reader.decided.is_none());
            let fine = !waits || end.over.is_none() || end.gave_up || end.end_seen;
            broken.unless(fine, "who reads a channel sees its end", || format!("{at:?}"));
        }
    }

    fn is_there(&self, proc: Proc, of: Pid, sessions: &Sessions, rule: &'static str, broken: &mut Broken) {
        let Some(life) = self.lives.get(&proc).filter(|life| !life.lost && life.decided.is_none()) else {
            return;
        };
        let there = match of {
            Pid::Local(other) => self.lives.get(&other).is_some_and(|other| !other.gone && !other.task),
            Pid::Far { conn, id } => {
                let (here, far) = (at(conn, life.side), at(conn, life.side.other()));
                let over = sessions.of(here).is_some_and(|end| end.over.is_some());
                let handed = sessions.of(far).and_then(|end| end.handed.get(&id));
                let ended =
                    handed.and_then(|handed| self.lives.get(&handed.proc)).is_some_and(|other| other.gone);
                !(over || ended && sessions.is_healthy(conn))
            }
            Pid::Watch { .. } => true,
        };
        broken.unless(there, rule, || format!("{proc} and {of:?}"));
    }
}
