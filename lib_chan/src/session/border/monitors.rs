//! Monitors across a session: one-way, each reporting once.

use std::collections::BTreeMap;

use super::{Border, Breach, OWNER};
use crate::{ExitReason, session::Delivery, wire::Frame};

/// A monitor that one of this end's processes has set.
#[derive(Debug)]
pub(super) struct Watching<P> {
    process: P,
    /// The process's own number of the monitor.
    reference: u64,
    far: u64,
}

/// The monitors of both ends.
#[derive(Debug)]
pub(super) struct Monitors<P> {
    /// Those of this end, by their numbers on the wire.
    watching: BTreeMap<u64, Watching<P>>,
    /// Those numbers, by the processes' own.
    references: BTreeMap<u64, u64>,
    last_watching: u64,
    /// Those of the peer, by their numbers, and the id that each is on.
    watched: BTreeMap<u64, u64>,
    last_watched: u64,
}

impl<P> Monitors<P> {
    pub(super) const fn new() -> Self {
        Self {
            watching: BTreeMap::new(),
            references: BTreeMap::new(),
            last_watching: 0,
            watched: BTreeMap::new(),
            last_watched: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.watching.len().max(self.references.len()) + self.watched.len()
    }
}

impl<P: Clone + Ord> Border<P> {
    /// `process` monitors the far process. The far owner's end is the end of the session: that needs no frame.
    pub(in crate::session) fn monitor(&mut self, process: P, reference: u64, far: u64, max: u64) {
        let watching = Watching { process, reference, far };
        if far != OWNER && self.set_by_us >= max {
            return self.deliveries.push(watching.down(ExitReason::Overload));
        }
        self.monitors.last_watching += 1;
        let monitor = self.monitors.last_watching;
        self.monitors.watching.insert(monitor, watching);
        self.monitors.references.insert(reference, monitor);
        if far != OWNER {
            self.set_by_us += 1;
            self.frames.push(Frame::Monitor { monitor, to: far });
        }
    }

    /// A process gives up the monitor that it calls `reference`.
    pub(in crate::session) fn demonitor(&mut self, reference: u64) {
        let Some(monitor) = self.monitors.references.remove(&reference) else { return };
        if self.monitors.watching.remove(&monitor).is_some_and(|watching| watching.far != OWNER) {
            self.set_by_us -= 1;
            self.frames.push(Frame::Demonitor { monitor });
        }
    }

    /// A process that the peer monitors ended.
    pub(in crate::session) fn down(&mut self, monitor: u64, taken: u64, reason: ExitReason) {
        if self.unwatch(monitor).is_some() {
            self.frames.push(Frame::Down { monitor, taken, reason });
        }
    }

    pub(in crate::session) fn handle_monitor(
        &mut self,
        monitor: u64,
        to: u64,
        max: u64,
    ) -> Result<(), Breach> {
        if monitor <= self.monitors.last_watched {
            return Err(Breach::Name);
        }
        self.monitors.last_watched = monitor;
        if !self.ids.is_reachable(to, |rights| rights.monitor) {
            self.frames.push(Frame::Down { monitor, taken: 0, reason: ExitReason::NoProc });
            return Ok(());
        }
        if self.set_by_peer >= max {
            return Err(Breach::TooMany);
        }
        self.set_by_peer += 1;
        self.monitors.watched.insert(monitor, to);
        let watched = self.watched_process(to);
        self.deliveries.extend(watched.map(|to| Delivery::Monitor { monitor, to }));
        Ok(())
    }

    pub(in crate::session) fn handle_demonitor(&mut self, monitor: u64) -> Result<(), Breach> {
        if monitor > self.monitors.last_watched {
            return Err(Breach::Name);
        }
        let watched = self.unwatch(monitor).and_then(|to| self.watched_process(to));
        self.deliveries.extend(watched.map(|to| Delivery::Demonitor { monitor, to }));
        Ok(())
    }

    pub(in crate::session) fn handle_down(&mut self, monitor: u64, reason: ExitReason) {
        let Some(watching) = self.monitors.watching.remove(&monitor) else { return };
        self.set_by_us -= u64::from(watching.far != OWNER);
        self.monitors.references.remove(&watching.reference);
        self.deliveries.push(watching.down(reason));
    }

    /// Every monitor ends. `reason` is that of a far process for a process of this end.
    pub(super) fn end_monitors(&mut self, reason: impl Fn(u64, &P) -> ExitReason) {
        for watching in std::mem::take(&mut self.monitors.watching).into_values() {
            let reason = reason(watching.far, &watching.process);
            self.deliveries.push(watching.down(reason));
        }
        self.monitors.references.clear();
        for (monitor, to) in std::mem::take(&mut self.monitors.watched) {
            let watched = self.watched_process(to);
            self.deliveries.extend(watched.map(|to| Delivery::Demonitor { monitor, to }));
        }
    }

    /// The process that is told of a monitor on `id`. The owner is not: its end is the end of the session.
    fn watched_process(&self, id: u64) -> Option<P> {
        self.ids.process(id).filter(|_| id != OWNER)
    }

    fn unwatch(&mut self, monitor: u64) -> Option<u64> {
        let to = self.monitors.watched.remove(&monitor)?;
        self.set_by_peer -= 1;
        Some(to)
    }
}

impl<P: Clone> Watching<P> {
    fn down(&self, reason: ExitReason) -> Delivery<P> {
        Delivery::Down { monitor: self.reference, from: self.far, to: self.process.clone(), reason }
    }
}
