//! What stands here for processes of the far end, and where a session finds its processes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
};

use super::shared::{Outlet, Shared};
use crate::{
    ExitReason, MonitorRef, Pid,
    process::{ProcessSignal, SignalTarget, next_id},
};

/// The id of the role "owner" at the far end.
pub(super) const OWNER: u64 = 0;

/// Which pids and mailboxes the numbers of a session stand for.
#[derive(Default)]
pub(super) struct Tables {
    /// The mailbox of the process that the channel was given to.
    outlet: Option<Arc<dyn Outlet>>,
    /// Pids of far processes other than the owner, while somebody holds one.
    far: HashMap<u64, Weak<Far>>,
    /// What processes here call the monitors that the peer has set on them.
    watches: HashMap<u64, MonitorRef>,
    /// Where messages go for processes that were handed out to the peer.
    handed_out: BTreeMap<Pid, Arc<dyn Outlet>>,
    /// The session is over: nothing comes for those any more.
    closed: bool,
}

impl Tables {
    pub(super) fn set_outlet(&mut self, outlet: Arc<dyn Outlet>) {
        self.outlet = Some(outlet);
    }

    /// Where messages for the owner go. The outlet holds the session: after the `last` they let go of each other.
    pub(super) fn outlet(&mut self, last: bool) -> Option<Arc<dyn Outlet>> {
        if last { self.outlet.take() } else { self.outlet.clone() }
    }

    /// What stands for this far process.
    pub(super) fn far(&mut self, id: u64, session: &Weak<Shared>) -> Arc<Far> {
        self.far.get(&id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let far = Far::new(session.clone(), id);
            self.far.insert(id, Arc::downgrade(&far));
            far
        })
    }

    pub(super) fn forget_far(&mut self, id: u64) {
        if self.far.get(&id).is_some_and(|far| far.strong_count() == 0) {
            self.far.remove(&id);
        }
    }

    pub(super) fn watch(&mut self, monitor: u64, reference: MonitorRef) {
        self.watches.insert(monitor, reference);
    }

    pub(super) fn unwatch(&mut self, monitor: u64) -> Option<MonitorRef> {
        self.watches.remove(&monitor)
    }

    pub(super) fn hand_out(&mut self, process: Pid, outlet: Arc<dyn Outlet>) {
        if !self.closed {
            self.handed_out.insert(process, outlet);
        }
    }

    pub(super) fn handed_out(&self, process: &Pid) -> Option<Arc<dyn Outlet>> {
        self.handed_out.get(process).cloned()
    }

    /// Lets go of all that nothing comes for any more: to be dropped without the lock.
    pub(super) fn close(&mut self) -> BTreeMap<Pid, Arc<dyn Outlet>> {
        self.closed = true;
        std::mem::take(&mut self.handed_out)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.far.len() + self.watches.len() + self.handed_out.len() + usize::from(self.outlet.is_some())
    }
}

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
            // What stands for a far process monitors nobody by this name.
            ProcessSignal::Down { .. } => {}
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
            shared.down(self.monitor, reason);
        }
    }
}
