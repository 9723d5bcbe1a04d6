//! What one process knows of its links and monitors, and what an exit signal does to it.
//!
//! Pure data: nothing here sends, waits or locks. The methods change the table and say which signals to send; whoever
//! holds the table sends them, in that order, after it has let go of the lock around it.
//!
//! [`Link`] is the state machine of a link; a session runs the same one for links that cross it.
//!
//! It needs `Link`, `Unlink` and `UnlinkAck` to arrive in the order sent, though a process sends the first two itself and
//! the thread that brought an `Unlink` acknowledges it for the process. So the table remembers the acknowledgement that
//! it owes until that was delivered. [`Links::link`] has it sent again before the `Link`: a second one has no effect,
//! because its number is known no more. While a `Link` or an `Unlink` is on its way, the acknowledgement waits for it,
//! and [`Links::sent`] gives it out.

mod link;

use std::collections::BTreeMap;

pub use self::link::Link;
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
pub enum ExitEffect {
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

/// What a process knows of a link, and what it has still to send about it.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    link: Link,
    /// The number of an `Unlink` that came in and whose acknowledgement may not have been delivered yet.
    owed: Option<u64>,
    /// How many `Link` and `Unlink` are on their way to the other side.
    sending: u32,
}

impl Record {
    /// Returns whether nothing would be lost with the record.
    const fn is_over(&self) -> bool {
        self.link.is_absent() && self.owed.is_none() && self.sending == 0
    }
}

/// The links and monitors of one process. `P` names the others.
#[derive(Clone, Debug)]
pub struct Links<P> {
    links: BTreeMap<P, Record>,
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
    /// This process links to `to`. Once the `Link` asked for was sent, call [`sent`](Self::sent), or
    /// [`link_failed`](Self::link_failed) if there is nobody.
    pub fn link(&mut self, to: P) -> LinkRequest {
        let record = self.links.entry(to).or_default();
        if !record.link.link() {
            return LinkRequest { ack: None, link: false };
        }
        let ack = if record.sending == 0 { record.owed.take() } else { None };
        record.sending += 1;
        LinkRequest { ack, link: true }
    }

    /// The `Link` or `Unlink` has arrived at the other side. Gives the number of an `UnlinkAck` that had to wait for it:
    /// send it, then call [`ack_delivered`](Self::ack_delivered).
    pub fn sent(&mut self, to: &P) -> Option<u64> {
        let record = self.links.get_mut(to)?;
        record.sending = record.sending.saturating_sub(1);
        let owed = record.owed.filter(|_| record.sending == 0);
        self.tidy(to);
        owed
    }

    /// There is nobody at the other side. `false` if this process was told of that already, or unlinked, meanwhile.
    pub fn link_failed(&mut self, to: &P) -> bool {
        self.links.remove(to).is_some_and(|record| record.link.is_active())
    }

    /// A `Link` came in.
    pub fn handle_link(&mut self, from: P) {
        self.links.entry(from).or_default().link.handle_link();
    }

    /// This process unlinks from `to`: from now on the link has no effect on it. Returns the number of the `Unlink` to
    /// send, or `None` where there was no link. Once it was sent, call [`sent`](Self::sent).
    pub fn unlink(&mut self, to: &P) -> Option<u64> {
        let number = self.last_unlink + 1;
        let record = self.links.get_mut(to)?;
        record.link.unlink(number).then(|| {
            record.sending += 1;
            self.last_unlink = number;
            number
        })
    }

    /// An `Unlink` came in. Returns whether to answer it now with an `UnlinkAck` of the same number, and then to call
    /// [`ack_delivered`](Self::ack_delivered); else the sender of the `Link` or `Unlink` that is on its way does it.
    pub fn handle_unlink(&mut self, from: P, id: u64) -> bool {
        let record = self.links.entry(from).or_default();
        record.link.handle_unlink();
        record.owed = Some(id);
        record.sending == 0
    }

    /// The acknowledgement that was owed has arrived at the other side.
    pub fn ack_delivered(&mut self, to: &P, id: u64) {
        if let Some(record) = self.links.get_mut(to).filter(|record| record.owed == Some(id)) {
            record.owed = None;
            self.tidy(to);
        }
    }

    /// An `UnlinkAck` came in.
    pub fn handle_unlink_ack(&mut self, from: &P, id: u64) {
        if let Some(record) = self.links.get_mut(from) {
            record.link.handle_unlink_ack(id);
            self.tidy(from);
        }
    }

    fn tidy(&mut self, peer: &P) {
        if self.links.get(peer).is_some_and(Record::is_over) {
            self.links.remove(peer);
        }
    }

    /// An `Exit` came in. The first rule that fits decides:
    ///
    /// 1. it came over a link, and there is no active one, or only one made again since: dropped;
    /// 2. it did not, and says `kill`: the end, as `killed`, and nothing helps against it;
    /// 3. the process traps exits: a message;
    /// 4. it says `normal`: dropped, except from the process itself;
    /// 5. the end, with the same reason.
    pub fn handle_exit(&mut self, signal: ExitSignal<'_, P>, trap_exit: bool) -> ExitEffect {
        if signal.link {
            let is_its_end = self.links.get_mut(signal.from).is_some_and(|record| record.link.handle_exit());
            if !is_its_end {
                return ExitEffect::Drop;
            }
            self.tidy(signal.from);
        } else if *signal.reason == ExitReason::Kill {
            return ExitEffect::End(ExitReason::Killed);
        }
        if trap_exit {
            ExitEffect::Deliver
        } else if *signal.reason == ExitReason::Normal && !signal.own {
            ExitEffect::Drop
        } else {
            ExitEffect::End(signal.reason.clone())
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
                .filter(|(_, record)| record.link.is_active())
                .map(|(peer, _)| peer)
                .collect(),
            watchers: std::mem::take(&mut self.watchers).into_iter().collect(),
            watched: std::mem::take(&mut self.watched).into_iter().collect(),
        }
    }

    /// Whether there is an active link to `peer`.
    pub fn is_linked(&self, peer: &P) -> bool {
        self.links.get(peer).is_some_and(|record| record.link.is_active())
    }

    /// The others that this process has an active link to.
    pub fn links(&self) -> impl Iterator<Item = &P> {
        self.links.iter().filter(|(_, record)| record.link.is_active()).map(|(peer, _)| peer)
    }

    /// Returns the processes that this one monitors, once for each monitor.
    pub fn watched(&self) -> impl Iterator<Item = &P> {
        self.watched.values()
    }

    /// Returns the processes that monitor this one, once for each monitor.
    pub fn watchers(&self) -> impl Iterator<Item = &P> {
        self.watchers.values()
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

#[cfg(test)]
mod tests;
