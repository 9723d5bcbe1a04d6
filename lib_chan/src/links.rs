//! The links and monitors of one process, and the effect of exit signals on it.
//!
//! Pure data: nothing here sends, waits or locks. The methods change the table and return the signals to send. The
//! caller sends them in that order, after it has released the lock around the table.
//!
//! [`Link`] is the state machine of a link. A session runs the same one for links between the two ends.
//!
//! The machine needs `Link`, `Unlink` and `UnlinkAck` to arrive in the order sent. A process sends the first two
//! itself, but the thread that brings an `Unlink` acknowledges it for the process. So the table remembers an owed
//! acknowledgement until it was delivered. [`Links::link`] sends it again before the `Link`; a second one has no
//! effect, because its number is no longer known. While a `Link` or an `Unlink` is in flight, the acknowledgement
//! waits for it, and [`Links::sent`] returns it.

mod link;

use std::collections::BTreeMap;

pub use self::link::Link;
use crate::ExitReason;

/// Identifies one monitor. Every call of `monitor` makes a new reference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonitorRef(u64);

impl MonitorRef {
    /// Creates the reference with this number. The caller must not use a number twice.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number of the reference.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl std::fmt::Debug for MonitorRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The effect of an exit signal on the process that receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitEffect {
    /// The signal has no effect.
    Drop,
    /// The signal becomes a message.
    Deliver,
    /// The process ends with this reason.
    End(ExitReason),
}

/// An exit signal, as its receiver sees it.
#[derive(Clone, Copy, Debug)]
pub struct ExitSignal<'a, P> {
    /// The sender.
    pub from: &'a P,
    /// The reason in the signal.
    pub reason: &'a ExitReason,
    /// Whether the signal came over a link.
    pub link: bool,
    /// Whether sender and receiver are the same process.
    pub own: bool,
}

/// The signals that [`Links::link`] asks the caller to send to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRequest {
    /// The number of an `UnlinkAck` to send first.
    pub ack: Option<u64>,
    /// Whether to send a `Link`. `false` if the link exists already.
    pub link: bool,
}

/// The processes to tell of an end, from [`Links::part`].
#[derive(Debug)]
pub struct Parting<P> {
    /// The processes that get an `Exit` over the link.
    pub links: Vec<P>,
    /// The processes that get a `Down`.
    pub watchers: Vec<(MonitorRef, P)>,
    /// The processes that get a `Demonitor`.
    pub watched: Vec<(MonitorRef, P)>,
}

/// The state of a link, and the signals about it that are not delivered yet.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    link: Link,
    /// The number of a received `Unlink` whose acknowledgement may not have been delivered yet.
    owed: Option<u64>,
    /// The number of `Link` and `Unlink` signals in flight to the other side.
    sending: u32,
}

impl Record {
    /// Returns `true` if the record holds nothing worth keeping.
    const fn is_over(&self) -> bool {
        self.link.is_absent() && self.owed.is_none() && self.sending == 0
    }
}

/// The links and monitors of one process. `P` identifies other processes.
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
    /// Links this process to `to`. After the requested `Link` was sent, the caller calls [`sent`](Self::sent), or
    /// [`link_failed`](Self::link_failed) if no such process exists.
    pub fn link(&mut self, to: P) -> LinkRequest {
        let record = self.links.entry(to).or_default();
        if !record.link.link() {
            return LinkRequest { ack: None, link: false };
        }
        let ack = if record.sending == 0 { record.owed.take() } else { None };
        record.sending += 1;
        LinkRequest { ack, link: true }
    }

    /// Notes that a `Link` or `Unlink` has arrived at the other side. Returns the number of an `UnlinkAck` that had
    /// to wait for it. The caller sends that, and then calls [`ack_delivered`](Self::ack_delivered).
    pub fn sent(&mut self, to: &P) -> Option<u64> {
        let record = self.links.get_mut(to)?;
        record.sending = record.sending.saturating_sub(1);
        let owed = record.owed.filter(|_| record.sending == 0);
        self.tidy(to);
        owed
    }

    /// Removes a link whose other side does not exist. Returns `false` if this process was told of that already, or
    /// has unlinked meanwhile.
    pub fn link_failed(&mut self, to: &P) -> bool {
        self.links.remove(to).is_some_and(|record| record.link.is_active())
    }

    /// Handles a `Link`.
    pub fn handle_link(&mut self, from: P) {
        self.links.entry(from).or_default().link.handle_link();
    }

    /// Unlinks this process from `to`: from now on the link has no effect on it. Returns the number of the `Unlink`
    /// to send, or `None` if there was no link. After the `Unlink` was sent, the caller calls [`sent`](Self::sent).
    pub fn unlink(&mut self, to: &P) -> Option<u64> {
        let number = self.last_unlink + 1;
        let record = self.links.get_mut(to)?;
        record.link.unlink(number).then(|| {
            record.sending += 1;
            self.last_unlink = number;
            number
        })
    }

    /// Handles an `Unlink`. Returns `true` if the caller must answer it with an `UnlinkAck` of the same number, and
    /// then call [`ack_delivered`](Self::ack_delivered). Otherwise the sender of the signal in flight does so.
    pub fn handle_unlink(&mut self, from: P, id: u64) -> bool {
        let record = self.links.entry(from).or_default();
        record.link.handle_unlink();
        record.owed = Some(id);
        record.sending == 0
    }

    /// Notes that an owed acknowledgement has arrived at the other side.
    pub fn ack_delivered(&mut self, to: &P, id: u64) {
        if let Some(record) = self.links.get_mut(to).filter(|record| record.owed == Some(id)) {
            record.owed = None;
            self.tidy(to);
        }
    }

    /// Handles an `UnlinkAck`.
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

    /// Handles an `Exit`. The first rule that fits decides:
    ///
    /// 1. An exit over a link that is not active, or that was made again since, is dropped.
    /// 2. An explicit `kill` ends the process as `killed`, even if the process traps exits.
    /// 3. A process that traps exits gets a message.
    /// 4. `normal` is dropped, unless the process sent it to itself.
    /// 5. Any other reason ends the process.
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

    /// Monitors `target`. The caller sends a `Monitor`.
    pub fn monitor(&mut self, monitor: MonitorRef, target: P) {
        self.watched.insert(monitor, target);
    }

    /// Removes a monitor of this process. Returns the process to send a `Demonitor`, or `None` if there is no such
    /// monitor.
    pub fn demonitor(&mut self, monitor: MonitorRef) -> Option<P> {
        self.watched.remove(&monitor)
    }

    /// Handles a `Monitor`.
    pub fn handle_monitor(&mut self, monitor: MonitorRef, from: P) {
        self.watchers.insert(monitor, from);
    }

    /// Handles a `Demonitor`. Returns the process that had set the monitor.
    pub fn handle_demonitor(&mut self, monitor: MonitorRef) -> Option<P> {
        self.watchers.remove(&monitor)
    }

    /// Handles a `Down`. Returns the monitored process if the `Down` becomes a message, and `None` if the monitor was
    /// removed.
    pub fn handle_down(&mut self, monitor: MonitorRef) -> Option<P> {
        self.watched.remove(&monitor)
    }

    /// Empties the table at the end of the process. Returns the processes to tell; the links must be told first.
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

    /// Returns `true` if there is an active link to `peer`.
    pub fn is_linked(&self, peer: &P) -> bool {
        self.links.get(peer).is_some_and(|record| record.link.is_active())
    }

    /// Returns the processes with an active link to this one.
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

    /// Returns the number of records: links, active or not, and monitors in both directions.
    pub fn len(&self) -> usize {
        self.links.len() + self.watchers.len() + self.watched.len()
    }

    /// Returns `true` if there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
