//! Processes of the far end, and monitors that the peer has set, as targets of signals.

use std::sync::{Arc, OnceLock, Weak};

use super::shared::Shared;
use crate::{
    ExitReason, Pid,
    process::{ProcessSignal, SignalTarget, next_id},
    session::FarHandle,
};

/// The id of the owner of the far end.
pub(super) const OWNER: u64 = 0;

/// A process of the far end.
pub(super) struct Far {
    shared: Weak<Shared>,
    id: u64,
    /// The number of the pid at this end.
    number: u64,
    /// Set once the process has come in a message. While the pid is in use, the process is not released.
    handle: OnceLock<FarHandle>,
    me: Weak<Self>,
}

impl Far {
    pub(super) fn new(shared: Weak<Shared>, id: u64) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { shared, id, number: next_id(), handle: OnceLock::new(), me: me.clone() })
    }

    /// Notes that the process has come in a message.
    pub(super) fn keep(&self, handle: &FarHandle) {
        self.handle.get_or_init(|| handle.clone());
    }

    /// Returns the pid of this process, which is always the same.
    pub(super) fn pid(&self) -> Pid {
        self.me.upgrade().map_or_else(Pid::nobody, |me| Pid::new(self.number, me))
    }
}

/// Returns the handle of a far process, if it has come in a message. `None` for a process that is not of a session.
pub(crate) fn handle_of(pid: &Pid) -> Option<Option<FarHandle>> {
    let far = pid.target().downcast::<Far>().ok()?;
    Some(far.handle.get().cloned())
}

impl SignalTarget for Far {
    fn signal(&self, signal: ProcessSignal) {
        let far = self.id;
        let Some(shared) = self.shared.upgrade() else { return answer_for_lost(self.pid(), signal) };
        shared.session(|session| match signal {
            ProcessSignal::Link { from } => session.link(from, far),
            ProcessSignal::Unlink { from, id } => session.unlink(&from, far, id),
            ProcessSignal::UnlinkAck { from, id } => session.unlink_ack(&from, far, id),
            ProcessSignal::Exit { from, reason, link, .. } => {
                session.exit(&from, far, link.then_some(0), reason)
            }
            ProcessSignal::Monitor { from, monitor } => session.monitor(from, monitor.number(), far),
            ProcessSignal::Demonitor { monitor } => session.demonitor(monitor.number()),
            // The proxy of a far process sets no monitors of its own.
            ProcessSignal::Down { .. } => {}
        });
    }

    fn link_again(&self, from: Pid) {
        // Only the owner of a session can have a link that the far end does not know of.
        if self.id == OWNER
            && let Some(shared) = self.shared.upgrade()
        {
            shared.session(|session| session.link_owners(&from));
        }
    }

    fn is_far(&self) -> bool {
        true
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.processes().forget_far(self.id);
        }
    }
}

/// Returns the session; without one, the connection counts as lost.
fn answer_for_lost(lost: Pid, signal: ProcessSignal) {
    let reason = ExitReason::NoConnection;
    match signal {
        ProcessSignal::Link { from } => {
            from.signal(ProcessSignal::Exit { from: lost, reason, link: true, receipt: None })
        }
        ProcessSignal::Unlink { from, id } => from.signal(ProcessSignal::UnlinkAck { from: lost, id }),
        ProcessSignal::Monitor { from, monitor } => {
            from.signal(ProcessSignal::Down { from: lost, monitor, reason })
        }
        ProcessSignal::UnlinkAck { .. }
        | ProcessSignal::Demonitor { .. }
        | ProcessSignal::Exit { .. }
        | ProcessSignal::Down { .. } => {}
    }
}

/// A monitor that the peer set on a process of this end.
pub(super) struct FarMonitor {
    shared: Weak<Shared>,
    monitor: u64,
}

impl FarMonitor {
    pub(super) const fn new(shared: Weak<Shared>, monitor: u64) -> Self {
        Self { shared, monitor }
    }
}

impl SignalTarget for FarMonitor {
    fn signal(&self, signal: ProcessSignal) {
        if let (ProcessSignal::Down { reason, .. }, Some(shared)) = (signal, self.shared.upgrade()) {
            shared.processes().forget_watch(self.monitor);
            shared.session(|session| session.down(self.monitor, 0, reason));
        }
    }

    fn is_far(&self) -> bool {
        true
    }
}
