//! The events of an endpoint, apart from those that wake a task.

use std::sync::{Arc, Weak, atomic::Ordering};

use super::{
    holder::Holder,
    processes::Processes,
    shared::{Shared, Tokio},
    windows::Windows,
};
use crate::{session::Event, sync::AtomicBool};

/// Carries out the events of one endpoint, without its lock.
pub(super) struct Effects {
    pub(super) processes: Processes,
    windows: Windows,
    /// The connection has changed since the driver last asked.
    connection_changed: AtomicBool,
}

impl Effects {
    pub(super) fn new(session: Weak<Shared>, holder: Arc<Holder>) -> Self {
        Self {
            processes: Processes::new(session),
            windows: Windows::new(holder),
            connection_changed: AtomicBool::new(false),
        }
    }

    /// Carries out `event`, which is one of the endpoint of `shared`.
    pub(super) fn carry_out(&self, event: Event<Tokio>, shared: &Shared) {
        match event {
            Event::Deliver(deliveries) => self.processes.deliver(deliveries),
            Event::Disown(owner) => self.processes.disown(&owner),
            Event::Window(change) => self.windows.change(change, shared.terms().limits(), |more| {
                shared.with(|endpoint| {
                    endpoint.widen(change, more);
                    endpoint.over().is_none()
                })
            }),
            Event::Connection(_) => self.connection_changed.store(true, Ordering::Relaxed),
            Event::Closed => self.windows.close(),
            // The holder of the lock keeps the request and wakes the wakers.
            Event::Wake(_) | Event::Requested(_) => {}
        }
    }

    /// Returns whether the connection has changed since the last time. Only inputs of the driver change it.
    pub(super) fn take_connection_change(&self) -> bool {
        self.connection_changed.load(Ordering::Relaxed)
            && self.connection_changed.swap(false, Ordering::Relaxed)
    }
}
