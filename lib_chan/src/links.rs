//! What one process knows of its links and monitors, and what an exit signal does to it.
//!
//! Pure data: nothing here sends, waits or locks. The methods change the table and say which signals to send; whoever
//! holds the table sends them, in that order, after it has let go of the lock around it.
//!
//! A record is kept on both sides of a link. `unlink` makes the record of its own side inactive at once, and the other
//! side answers with an acknowledgement; only that removes the record. So a link exit that was under way is ignored,
//! and both sides agree afterwards whatever crossed on the way. The acknowledgement has to arrive before any later
//! `Link` of the same sender, and it may be sent by another thread than that: a table therefore remembers which
//! acknowledgement it owes until that was delivered, and [`Links::link`] has it sent again first. A second one has no
//! effect, because its number is known no more.

use std::collections::BTreeMap;

use crate::ExitReason;

/// Names one monitor. Every call of `monitor` makes a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonitorRef(u64);

impl MonitorRef {
    /// The reference with this number. Whoever counts sees to it that no number comes twice.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl std::fmt::Debug for MonitorRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What an exit signal does to the process that receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Drop,
    /// It becomes a message.
    Deliver,
    /// The process ends, with this reason.
    End(ExitReason),
}

/// An exit signal, as its receiver sees it.
#[derive(Clone, Copy, Debug)]
pub struct ExitSignal<'a, P> {
    /// Who sent it.
    pub from: &'a P,
    /// The reason in it.
    pub reason: &'a ExitReason,
    /// Whether it came over a link.
    pub link: bool,
    /// Whether sender and receiver are the same process.
    pub own: bool,
}

/// What [`Links::link`] asks to be sent to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRequest {
    /// An `UnlinkAck` with this number first.
    pub ack: Option<u64>,
    /// Whether a `Link` is to be sent. Not where the link was there already.
    pub link: bool,
}

/// Everybody who has to be told of an end, from [`Links::part`].
#[derive(Debug)]
pub struct Parting<P> {
    /// Get an `Exit` over the link.
    pub links: Vec<P>,
    /// Get a `Down`.
    pub watchers: Vec<(MonitorRef, P)>,
    /// Get a `Demonitor`.
    pub watched: Vec<(MonitorRef, P)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    Active,
    /// This side has unlinked; the number waits for its acknowledgement.
    Unlinking(u64),
    /// There is no link; the record is here for the acknowledgement owed.
    Absent,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    state: LinkState,
    /// The number of an `Unlink` that came in and whose acknowledgement may not have been delivered yet.
    owed: Option<u64>,
}

/// The links and monitors of one process. `P` names the others.
#[derive(Debug)]
pub struct Links<P> {
    links: BTreeMap<P, Link>,
    watchers: BTreeMap<MonitorRef, P>,
    watched: BTreeMap<MonitorRef, P>,
    last_unlink: u64,
}

impl<P> Default for Links<P> {
    fn default() -> Self {
        Self { links: BTreeMap::new(), watchers: BTreeMap::new(), watched: BTreeMap::new(), last_unlink: 0 }
    }
}

impl<P: Ord + Clone> Links<P> {
    /// This process links to `to`.
    pub fn link(&mut self, to: P) -> LinkRequest {
        let record = self.links.entry(to).or_insert(Link { state: LinkState::Absent, owed: None });
        if record.state == LinkState::Active {
            return LinkRequest { ack: None, link: false };
        }
        record.state = LinkState::Active;
        LinkRequest { ack: record.owed.take(), link: true }
    }

    /// Takes back [`link`](Self::link), because there is no process to link to.
    pub fn link_failed(&mut self, to: &P) {
        self.links.remove(to);
    }

    /// A `Link` came in. Ignored where there is a record: the link is active then, or this side has unlinked after
    /// the other sent it.
    pub fn handle_link(&mut self, from: P) {
        let record = self.links.entry(from).or_insert(Link { state: LinkState::Absent, owed: None });
        if record.state == LinkState::Absent {
            *record = Link { state: LinkState::Active, owed: None };
        }
    }

    /// This process unlinks from `to`: from now on the link has no effect on it. Gives the number of the `Unlink` to
    /// send, or nothing where there was no link.
    pub fn unlink(&mut self, to: &P) -> Option<u64> {
        let record = self.links.get_mut(to).filter(|record| record.state == LinkState::Active)?;
        self.last_unlink += 1;
        record.state = LinkState::Unlinking(self.last_unlink);
        Some(self.last_unlink)
    }

    /// An `Unlink` came in. Answer it with an `UnlinkAck` of the same number, always, then call
    /// [`ack_delivered`](Self::ack_delivered).
    pub fn handle_unlink(&mut self, from: P, id: u64) {
        let record = self.links.entry(from).or_insert(Link { state: LinkState::Absent, owed: None });
        if record.state == LinkState::Active {
            record.state = LinkState::Absent;
        }
        record.owed = Some(id);
    }

    /// The acknowledgement that was owed has arrived at the other side.
    pub fn ack_delivered(&mut self, to: &P, id: u64) {
        let Some(record) = self.links.get_mut(to) else { return };
        if record.owed == Some(id) {
            record.owed = None;
            if record.state == LinkState::Absent {
                self.links.remove(to);
            }
        }
    }

    /// An `UnlinkAck` came in: lets the record go, unless the link was made anew since.
    pub fn handle_unlink_ack(&mut self, from: &P, id: u64) {
        let Some(record) = self.links.get_mut(from) else { return };
        if record.state == LinkState::Unlinking(id) {
            record.state = LinkState::Absent;
            if record.owed.is_none() {
                self.links.remove(from);
            }
        }
    }

    /// An `Exit` came in. The first rule that fits decides:
    ///
    /// 1. it came over a link, and there is no active one: dropped;
    /// 2. it did not, and says `kill`: the end, as `killed`, and nothing helps against it;
    /// 3. the process traps exits: a message;
    /// 4. it says `normal`: dropped, except from the process itself;
    /// 5. the end, with the same reason.
    pub fn handle_exit(&mut self, signal: ExitSignal<'_, P>, trap_exit: bool) -> Verdict {
        if signal.link {
            let record = self.links.remove(signal.from);
            if record.is_none_or(|record| record.state != LinkState::Active) {
                return Verdict::Drop;
            }
        } else if *signal.reason == ExitReason::Kill {
            return Verdict::End(ExitReason::Killed);
        }
        if trap_exit {
            Verdict::Deliver
        } else if *signal.reason == ExitReason::Normal && !signal.own {
            Verdict::Drop
        } else {
            Verdict::End(signal.reason.clone())
        }
    }

    /// This process monitors `target`. Send a `Monitor`.
    pub fn monitor(&mut self, monitor: MonitorRef, target: P) {
        self.watched.insert(monitor, target);
    }

    /// This process gives a monitor up. Gives whom to send a `Demonitor`, or nothing where it is not there (any more).
    pub fn demonitor(&mut self, monitor: MonitorRef) -> Option<P> {
        self.watched.remove(&monitor)
    }

    /// A `Monitor` came in.
    pub fn handle_monitor(&mut self, monitor: MonitorRef, from: P) {
        self.watchers.insert(monitor, from);
    }

    /// A `Demonitor` came in. Gives who had monitored.
    pub fn handle_demonitor(&mut self, monitor: MonitorRef) -> Option<P> {
        self.watchers.remove(&monitor)
    }

    /// A `Down` came in: it becomes a message if this gives who was monitored, and not where the monitor was given up.
    pub fn handle_down(&mut self, monitor: MonitorRef) -> Option<P> {
        self.watched.remove(&monitor)
    }

    /// The end: empties the table, and says whom to tell. Tell the links first: that order is kept.
    pub fn part(&mut self) -> Parting<P> {
        let links = std::mem::take(&mut self.links);
        Parting {
            links: links
                .into_iter()
                .filter(|(_, record)| record.state == LinkState::Active)
                .map(|(peer, _)| peer)
                .collect(),
            watchers: std::mem::take(&mut self.watchers).into_iter().collect(),
            watched: std::mem::take(&mut self.watched).into_iter().collect(),
        }
    }

    /// Whether there is an active link to `peer`.
    pub fn is_linked(&self, peer: &P) -> bool {
        self.links.get(peer).is_some_and(|record| record.state == LinkState::Active)
    }

    /// The others that this process has an active link to.
    pub fn links(&self) -> impl Iterator<Item = &P> {
        self.links.iter().filter(|(_, record)| record.state == LinkState::Active).map(|(peer, _)| peer)
    }

    /// Records of any kind: links active and not, monitors in both directions.
    pub fn len(&self) -> usize {
        self.links.len() + self.watchers.len() + self.watched.len()
    }

    /// Whether there is no record of any kind.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
