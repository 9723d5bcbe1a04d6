//! Monitors between the ends: one-way, each fires once.

use std::collections::BTreeMap;

use super::{Border, Breach, OWNER};
use crate::{ExitReason, session::Delivery, wire::Frame};

/// A monitor that a process of this end has set.
#[derive(Debug)]
pub(super) struct Watching<P> {
    process: P,
    /// The reference by which the process knows the monitor.
    reference: u64,
    far: u64,
}

/// A monitor that the peer has set.
#[derive(Debug)]
struct Watched<P> {
    /// The id of the monitored process.
    id: u64,
    /// The process to tell; `None` for the owner, whose end is the end of the session.
    process: Option<P>,
}

/// The monitors of both ends.
#[derive(Debug)]
pub(super) struct Monitors<P> {
    /// The monitors of this end, by their numbers on the wire.
    watching: BTreeMap<u64, Watching<P>>,
    /// The numbers on the wire, by the references of the processes.
    references: BTreeMap<u64, u64>,
    last_watching: u64,
    /// The monitors of the peer, by their numbers.
    watched: BTreeMap<u64, Watched<P>>,
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
    /// Monitors the far process for `process`. A monitor on the far owner needs no frame: the end of the session
    /// fires it.
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

    /// Removes the monitor that a process knows as `reference`.
    pub(in crate::session) fn demonitor(&mut self, reference: u64) {
        let Some(monitor) = self.monitors.references.remove(&reference) else { return };
        if self.monitors.watching.remove(&monitor).is_some_and(|watching| watching.far != OWNER) {
            self.set_by_us -= 1;
            self.frames.push(Frame::Demonitor { monitor });
        }
    }

    /// Tells the peer that a monitored process of this end has ended.
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
        let process = self.ids.process(to).filter(|_| to != OWNER);
        self.monitors.watched.insert(monitor, Watched { id: to, process: process.clone() });
        self.deliveries.extend(process.map(|to| Delivery::Monitor { monitor, to }));
        Ok(())
    }

    pub(in crate::session) fn handle_demonitor(&mut self, monitor: u64) -> Result<(), Breach> {
        if monitor > self.monitors.last_watched {
            return Err(Breach::Name);
        }
        let watched = self.unwatch(monitor).and_then(|watched| watched.process);
        self.deliveries.extend(watched.map(|to| Delivery::Demonitor { monitor, to }));
        Ok(())
    }

    pub(in crate::session) fn handle_down(&mut self, monitor: u64, reason: ExitReason) {
        let Some(watching) = self.monitors.watching.remove(&monitor) else { return };
        self.set_by_us -= u64::from(watching.far != OWNER);
        self.monitors.references.remove(&watching.reference);
        self.deliveries.push(watching.down(reason));
    }

    /// Fires every monitor. Processes of this end get `reason` as the reason of the far process.
    pub(super) fn end_monitors(&mut self, reason: impl Fn(u64, &P) -> ExitReason) {
        for watching in std::mem::take(&mut self.monitors.watching).into_values() {
            let reason = reason(watching.far, &watching.process);
            self.deliveries.push(watching.down(reason));
        }
        self.monitors.references.clear();
        for (monitor, watched) in std::mem::take(&mut self.monitors.watched) {
            self.deliveries.extend(watched.process.map(|to| Delivery::Demonitor { monitor, to }));
        }
    }

    /// Returns the processes that the peer monitors, without the owner under id 0.
    pub(super) fn monitored(&self) -> impl Iterator<Item = &P> {
        self.monitors.watched.values().filter_map(|watched| watched.process.as_ref())
    }

    /// Fires the peer's monitors on an id.
    pub(super) fn fire_monitors(&mut self, id: u64, reason: &ExitReason) {
        let on_it = self.monitors.watched.iter().filter(|(_, watched)| watched.id == id);
        for monitor in on_it.map(|(&monitor, _)| monitor).collect::<Vec<_>>() {
            let process = self.unwatch(monitor).and_then(|watched| watched.process);
            self.deliveries.extend(process.map(|to| Delivery::Demonitor { monitor, to }));
            self.frames.push(Frame::Down { monitor, taken: 0, reason: reason.clone() });
        }
    }

    fn unwatch(&mut self, monitor: u64) -> Option<Watched<P>> {
        let watched = self.monitors.watched.remove(&monitor)?;
        self.set_by_peer -= 1;
        Some(watched)
    }
}

impl<P: Clone> Watching<P> {
    fn down(&self, reason: ExitReason) -> Delivery<P> {
        Delivery::Down { monitor: self.reference, from: self.far, to: self.process.clone(), reason }
    }
}
