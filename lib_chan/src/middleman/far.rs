//! What stands here for processes of the far end: they take signals, and send frames.

use std::sync::{Arc, Weak};

use super::shared::{Shared, now};
use crate::{
    ExitReason, Pid,
    process::{Signal, Target, next_id},
};

/// A process of the far end.
pub(super) struct Far {
    shared: Weak<Shared>,
    id: u64,
    /// The number of its pid here.
    number: u64,
    me: Weak<Self>,
}

impl Far {
    pub(super) fn new(shared: Weak<Shared>, id: u64) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { shared, id, number: next_id(), me: me.clone() })
    }

    /// The pid that names this process, always the same.
    pub(super) fn pid(&self) -> Pid {
        self.me.upgrade().map_or_else(Pid::nobody, |me| Pid::new(self.number, me))
    }
}

impl Target for Far {
    fn signal(&self, signal: Signal) {
        let far = self.id;
        let Some(shared) = self.shared.upgrade() else { return answer_for_lost(self.pid(), signal) };
        shared.session(|session| match signal {
            Signal::Link { from } => session.link(from, far),
            Signal::Unlink { from, id } => session.unlink(from, far, id),
            Signal::UnlinkAck { from, id } => session.unlink_ack(&from, far, id),
            Signal::Exit { from, reason, link, .. } => session.exit(&from, far, link.then_some(0), reason),
            Signal::Monitor { from, monitor } => session.monitor(from, monitor.number(), far),
            Signal::Demonitor { monitor } => session.demonitor(now(), monitor.number()),
            // What stands for a far process monitors nobody by this name.
            Signal::Down { .. } => {}
        });
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.forget_far(self.id);
        }
    }
}

/// A session that nobody holds any more is a connection that is lost.
fn answer_for_lost(lost: Pid, signal: Signal) {
    let reason = ExitReason::NoConnection;
    match signal {
        Signal::Link { from } => from.signal(Signal::Exit { from: lost, reason, link: true, receipt: None }),
        Signal::Unlink { from, id } => from.signal(Signal::UnlinkAck { from: lost, id }),
        Signal::Monitor { from, monitor } => from.signal(Signal::Down { from: lost, monitor, reason }),
        Signal::UnlinkAck { .. } | Signal::Demonitor { .. } | Signal::Exit { .. } | Signal::Down { .. } => {}
    }
}

/// A monitor that the peer set on a process of this end.
pub(super) struct Watch {
    shared: Weak<Shared>,
    monitor: u64,
}

impl Watch {
    pub(super) const fn new(shared: Weak<Shared>, monitor: u64) -> Self {
        Self { shared, monitor }
    }
}

impl Target for Watch {
    fn signal(&self, signal: Signal) {
        if let (Signal::Down { reason, .. }, Some(shared)) = (signal, self.shared.upgrade()) {
            shared.down(self.monitor, reason);
        }
    }
}
