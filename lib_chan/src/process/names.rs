//! A table of names for processes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, Weak};

use super::owned::Owned;
use super::{Address, Pid};
use crate::ExitReason;
use crate::sync::{Mutex, MutexGuard};

/// A table of names for processes that take messages of type `M`.
///
/// There is no global table. A program creates its own tables. Clones of a table share its contents.
/// A name is removed as soon as the end of its process is decided, before any link or monitor is told. A lookup resolves
/// a name once: the address and its monitors stay with the process when the name moves to another.
pub struct Names<M> {
    table: Arc<Mutex<Table<M>>>,
}

struct Table<M> {
    by_name: HashMap<Box<str>, Entered<M>>,
    by_pid: HashMap<Pid, Box<str>>,
}

struct Entered<M> {
    address: Address<M>,
    entry: Arc<dyn Owned>,
}

/// The reason that a name was not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The process has a name in this table already.
    #[error("the process has a name already")]
    AlreadyNamed,
    /// The process is not alive.
    #[error("there is no such process")]
    NoProc,
    /// Another process has this name.
    #[error("the name is taken")]
    Taken,
}

impl<M: Send + 'static> Names<M> {
    /// Returns an empty table.
    pub fn new() -> Self {
        let table = Table { by_name: HashMap::new(), by_pid: HashMap::new() };
        Self { table: Arc::new(Mutex::new(table)) }
    }

    /// Gives a process a name.
    ///
    /// # Errors
    ///
    /// The name is taken, the process has one already, or it is not alive.
    pub fn register(&self, name: &str, address: &Address<M>) -> Result<(), NameError> {
        let pid = address.pid();
        let table = Arc::downgrade(&self.table);
        let entry: Arc<dyn Owned> = Arc::new(NameEntry { table, pid: pid.clone(), name: name.into() });
        {
            let mut table = lock(&self.table);
            if table.by_name.contains_key(name) {
                return Err(NameError::Taken);
            }
            if table.by_pid.contains_key(&pid) {
                return Err(NameError::AlreadyNamed);
            }
            table.by_pid.insert(pid.clone(), name.into());
            table
                .by_name
                .insert(name.into(), Entered { address: address.clone(), entry: Arc::clone(&entry) });
        }
        address.own(entry).map_err(|_ended| {
            release(&self.table, &pid);
            NameError::NoProc
        })
    }

    /// Removes a name from its process. Returns `false` if no process has it.
    pub fn unregister(&self, name: &str) -> bool {
        let entered = {
            let mut table = lock(&self.table);
            let Some(entered) = table.by_name.remove(name) else { return false };
            table.by_pid.remove(&entered.address.pid());
            entered
        };
        entered.address.disown(&entered.entry);
        true
    }

    /// Returns the address of the process that has this name now.
    pub fn whereis(&self, name: &str) -> Option<Address<M>> {
        lock(&self.table).by_name.get(name).map(|entered| entered.address.clone())
    }
}

impl<M: Send + 'static> Default for Names<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M> Clone for Names<M> {
    fn clone(&self) -> Self {
        Self { table: Arc::clone(&self.table) }
    }
}

impl<M> fmt::Debug for Names<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(lock(&self.table).by_name.keys()).finish()
    }
}

/// A registered name, which its process owns.
struct NameEntry<M> {
    table: Weak<Mutex<Table<M>>>,
    pid: Pid,
    name: Box<str>,
}

impl<M: Send + 'static> Owned for NameEntry<M> {
    fn owner_ended(&self, _reason: &ExitReason) {
        if let Some(table) = self.table.upgrade() {
            release(&table, &self.pid);
        }
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }
}

fn release<M>(table: &Mutex<Table<M>>, pid: &Pid) {
    let mut table = lock(table);
    let entered = table.by_pid.remove(pid).and_then(|name| table.by_name.remove(&name));
    // An address may be the last of its process, whose messages must not be dropped under the lock.
    drop(table);
    drop(entered);
}

fn lock<M>(table: &Mutex<Table<M>>) -> MutexGuard<'_, Table<M>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
