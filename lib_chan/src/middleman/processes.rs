//! The processes behind the numbers of a session, and the signals that its deliveries become.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError, Weak},
};

use super::{
    export::{ExportWatch, Exported},
    far::{Far, FarMonitor, OWNER},
    shared::Shared,
};
use crate::{
    ExitReason, MonitorRef, Pid,
    process::{Owned, ProcessSignal, Receipt, next_monitor},
    session::{Delivery, FarHandle, Inbound, ProcessMailbox},
    sync::{Mutex, MutexGuard},
};

/// One item that a session passes to a process.
#[derive(Debug)]
pub(crate) enum Fed {
    /// A message, not yet decoded, and the id that it came to.
    Inbound(u64, Inbound),
    /// The end of the session.
    Ended(ExitReason),
}

/// The mailbox that gets the messages of a given channel.
pub(crate) trait Outlet: Send + Sync {
    /// Puts the items of this session into the mailbox of the process.
    fn put(&self, session: Arc<Shared>, items: VecDeque<Fed>);
}

/// Tells the processes of this end what a session has for them, and represents those of the far end.
pub(crate) struct Processes {
    session: Weak<Shared>,
    /// The pid of the far owner.
    remote: Pid,
    /// Locked for one look-up at a time. No other lock is taken under it, and it is not taken under another.
    tables: Mutex<Tables>,
    /// The explicit exit signals of the peer that no process has taken yet.
    untaken_exits: Receipt,
    /// The exit signals of links that no process has taken yet.
    untaken_ends: Receipt,
}

/// The pids and mailboxes behind the numbers of a session.
#[derive(Default)]
struct Tables {
    /// The mailbox of the process that the channel was given to.
    outlet: Option<Arc<dyn Outlet>>,
    /// The pids of far processes other than the owner, while they are in use.
    far: HashMap<u64, Weak<Far>>,
    /// The references, at this end, of the monitors that the peer has set.
    watches: HashMap<u64, MonitorRef>,
    /// The session's own monitors of the processes that were handed out in messages.
    exports: HashMap<Pid, MonitorRef>,
    /// The forwarders of far processes of other sessions, by the number of the far pid, while they are handed out.
    forwarders: HashMap<u64, (Pid, Weak<dyn Outlet>)>,
}

impl Tables {
    fn forwarder(&self, far: u64) -> Option<(Pid, Arc<dyn Outlet>)> {
        let (pid, outlet) = self.forwarders.get(&far)?;
        Some((pid.clone(), outlet.upgrade()?))
    }
}

/// Consecutive items for one process.
#[derive(Default)]
struct FedBatch {
    /// `None` for the owner.
    to: Option<ProcessMailbox>,
    items: VecDeque<Fed>,
}

impl Processes {
    pub(super) fn new(session: Weak<Shared>) -> Self {
        Self {
            remote: Far::new(session.clone(), OWNER).pid(),
            session,
            tables: Mutex::default(),
            untaken_exits: Receipt::default(),
            untaken_ends: Receipt::default(),
        }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The far end.

    /// Returns the pid of the far owner.
    pub(crate) const fn remote(&self) -> &Pid {
        &self.remote
    }

    /// Returns the pid of a far process, which stays the same while it is in use.
    pub(crate) fn far(&self, id: u64) -> Pid {
        if id == OWNER {
            return self.remote.clone();
        }
        self.far_of(id).pid()
    }

    /// Returns the pid of a far process that has come in a message.
    pub(crate) fn imported(&self, handle: &FarHandle) -> Pid {
        let far = self.far_of(handle.id());
        far.keep(handle);
        far.pid()
    }

    fn far_of(&self, id: u64) -> Arc<Far> {
        let mut tables = self.tables();
        tables.far.get(&id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let far = Far::new(self.session.clone(), id);
            tables.far.insert(id, Arc::downgrade(&far));
            far
        })
    }

    /// Removes a far process whose pid is no longer in use.
    pub(super) fn forget_far(&self, id: u64) {
        let mut tables = self.tables();
        if tables.far.get(&id).is_some_and(|far| far.strong_count() == 0) {
            tables.far.remove(&id);
        }
    }

    /// Removes a monitor that the peer has set, and returns its reference.
    pub(super) fn forget_watch(&self, monitor: u64) -> Option<MonitorRef> {
        self.tables().watches.remove(&monitor)
    }

    // This end.

    /// Sends messages for the owner to this outlet.
    pub(crate) fn set_outlet(&self, outlet: Arc<dyn Outlet>) {
        self.tables().outlet = Some(outlet);
    }

    /// Drops the owner's outlet, because no more messages come.
    pub(super) fn drop_outlet(&self) {
        let outlet = self.tables().outlet.take();
        drop(outlet);
    }

    /// Returns the process that stands in for a far process of another session here, and the way to it. Makes it if there
    /// is none.
    pub(super) fn forwarder(
        &self,
        far: &Pid,
        make: impl FnOnce() -> (Pid, Arc<dyn Outlet>),
    ) -> (Pid, Arc<dyn Outlet>) {
        let known = self.tables().forwarder(far.id());
        if let Some(known) = known {
            return known;
        }
        let (pid, outlet) = make();
        let mut tables = self.tables();
        let other = tables.forwarder(far.id());
        if other.is_none() {
            tables.forwarders.retain(|_, (_, outlet)| outlet.strong_count() > 0);
            tables.forwarders.insert(far.id(), (pid.clone(), Arc::downgrade(&outlet)));
        }
        // Dropped without the lock: one that came too late ends.
        drop(tables);
        other.unwrap_or((pid, outlet))
    }

    /// Forgets the session's monitor of a handed-out process, and returns its reference.
    pub(super) fn forget_export(&self, process: &Pid) -> Option<MonitorRef> {
        self.tables().exports.remove(process)
    }

    /// Removes the session, once, from the things that `owner` owns.
    pub(super) fn disown(&self, owner: &Pid) {
        if let Some(session) = self.session.upgrade() {
            owner.disown(&(session as Arc<dyn Owned>));
        }
    }

    // Deliveries.

    /// Returns the number of exit signals of the peer that no process has taken yet: explicit ones, and those of
    /// links.
    pub(super) fn untaken(&self) -> [usize; 2] {
        [&self.untaken_exits, &self.untaken_ends].map(Receipt::outstanding)
    }

    /// Tells processes the deliveries of the session, in order.
    pub(super) fn deliver(&self, deliveries: Vec<Delivery<Pid>>) {
        let mut batch = FedBatch::default();
        for delivery in deliveries {
            match delivery {
                Delivery::Inbound(message) => self.append(&mut batch, None, Fed::Inbound(OWNER, message)),
                Delivery::Over(reason) => self.append(&mut batch, None, Fed::Ended(reason)),
                Delivery::Message { id, mailbox: Some(mailbox), message, .. } => {
                    self.append(&mut batch, Some(mailbox), Fed::Inbound(id, message));
                }
                signal => {
                    self.put(std::mem::take(&mut batch));
                    self.signal(signal);
                }
            }
        }
        self.put(batch);
    }

    /// Appends an item to a batch. A batch for another process goes out first.
    fn append(&self, batch: &mut FedBatch, to: Option<ProcessMailbox>, item: Fed) {
        if batch.to != to {
            self.put(std::mem::replace(batch, FedBatch { to, items: VecDeque::new() }));
        }
        batch.items.push_back(item);
    }

    fn put(&self, FedBatch { to, items }: FedBatch) {
        if items.is_empty() {
            return;
        }
        let outlet = match to {
            Some(mailbox) => Exported::of(&mailbox).and_then(Exported::outlet).cloned(),
            None => {
                let mut tables = self.tables();
                let is_last = matches!(items.back(), Some(Fed::Ended(_)));
                if is_last { tables.outlet.take() } else { tables.outlet.clone() }
            }
        };
        if let (Some(outlet), Some(session)) = (outlet, self.session.upgrade()) {
            outlet.put(session, items);
        }
    }

    fn signal(&self, delivery: Delivery<Pid>) {
        match delivery {
            Delivery::Link { from, to } => to.signal(ProcessSignal::Link { from: self.far(from) }),
            Delivery::Unlink { from, to, unlink } => {
                to.signal(ProcessSignal::Unlink { from: self.far(from), id: unlink })
            }
            Delivery::UnlinkAck { from, to, unlink } => {
                to.signal(ProcessSignal::UnlinkAck { from: self.far(from), id: unlink });
            }
            Delivery::Exit { from, to, reason, link, provoked } => {
                let receipt = if link { &self.untaken_ends } else { &self.untaken_exits };
                let receipt = provoked.then(|| receipt.clone());
                to.signal(ProcessSignal::Exit { from: self.far(from), reason, link, receipt });
            }
            Delivery::Down { monitor, from, to, reason } => {
                to.signal(ProcessSignal::Down {
                    from: self.far(from),
                    monitor: MonitorRef::new(monitor),
                    reason,
                });
            }
            Delivery::Monitor { monitor, to } => {
                let from = Pid::far(Arc::new(FarMonitor::new(self.session.clone(), monitor)));
                let reference = next_monitor();
                self.tables().watches.insert(monitor, reference);
                to.signal(ProcessSignal::Monitor { from, monitor: reference });
            }
            Delivery::Demonitor { monitor, to } => {
                if let Some(monitor) = self.forget_watch(monitor) {
                    to.signal(ProcessSignal::Demonitor { monitor });
                }
            }
            Delivery::Watch { to } => {
                let from = Pid::far(Arc::new(ExportWatch::new(self.session.clone())));
                let monitor = next_monitor();
                let former = self.tables().exports.insert(to.clone(), monitor);
                to.signal(ProcessSignal::Monitor { from, monitor });
                if let Some(monitor) = former {
                    to.signal(ProcessSignal::Demonitor { monitor });
                }
            }
            Delivery::Unwatch { to } => {
                if let Some(monitor) = self.forget_export(&to) {
                    to.signal(ProcessSignal::Demonitor { monitor });
                }
            }
            // `deliver` puts these into mailboxes. A process without one takes no messages.
            Delivery::Inbound(_) | Delivery::Over(_) | Delivery::Message { .. } => {}
        }
    }

    /// Returns the number of entries in all tables.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        let tables = self.tables();
        let outlets = tables.exports.len() + usize::from(tables.outlet.is_some());
        tables.far.len() + tables.watches.len() + outlets
    }
}
