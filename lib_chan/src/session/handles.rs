//! Handles: processes inside messages.
//!
//! A message names the processes in it by their places in a table in its head. An end *exports* a process when it sends
//! a message with it; [`Ids`](super::border::Ids) keeps the exports. The other end *imports* it: it holds a
//! [`FarHandle`] for as long as anything in its program refers to the process, the undecoded message included, and then
//! releases it. The counts of a `Release` close the race with a handle that is on its way: an export ends only when as
//! many handles were released as were sent.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Host, Session, Unsendable, border::HANDLE_WINDOW, credit::Balance, receive::Fault};
use crate::{
    Rights,
    wire::{Frame, HandleEntry, HandleTable, MAX_HANDLES, MessageHead},
};

/// The credit that each handle in a message takes, beside that of the message.
const HANDLE_COST: u64 = 64;

/// The way to the mailbox of a process that was handed out. The session returns it unchanged.
#[derive(Clone)]
pub struct ProcessMailbox(pub Arc<dyn Any + Send + Sync>);

impl PartialEq for ProcessMailbox {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for ProcessMailbox {}

impl fmt::Debug for ProcessMailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProcessMailbox")
    }
}

/// A second name of a process, which can be revoked.
#[derive(Clone, Debug)]
pub struct AliasName {
    /// Identifies the alias in this program; never 0.
    pub number: u64,
    /// Set before the sessions are told, so that no message on its way makes the alias work again.
    pub revoked: Arc<AtomicBool>,
}

/// A process of this end that is to be handed out.
#[derive(Clone, Debug)]
pub struct Export<P> {
    /// The process.
    pub process: P,
    /// The alias under which it is handed out; `None` for its own name.
    pub alias: Option<AliasName>,
    /// The operations that the peer may use. The rights to one name only grow.
    pub rights: Rights,
    /// The way to its mailbox.
    pub mailbox: ProcessMailbox,
}

/// A handle of a message that is to be sent.
#[derive(Clone, Debug)]
pub enum Passing<P> {
    /// A process of this end.
    Near(Export<P>),
    /// A process of the far end, which goes back.
    Back(FarHandle),
}

/// The handles of a message that is to be sent, in the order of their places. Usually there are none, so the type is as
/// small as can be.
#[derive(Debug)]
pub struct SentHandles<P>(Option<Box<[Passing<P>]>>);

impl<P> SentHandles<P> {
    /// The handles of a message without processes.
    pub const NONE: Self = Self(None);

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |handles| handles.len())
    }
}

impl<P> FromIterator<Passing<P>> for SentHandles<P> {
    fn from_iter<T: IntoIterator<Item = Passing<P>>>(handles: T) -> Self {
        let handles: Box<[_]> = handles.into_iter().collect();
        Self((!handles.is_empty()).then_some(handles))
    }
}

/// A process of the far end that was handed to this end. When the last clone is dropped, it is released.
#[derive(Clone)]
pub struct FarHandle(Arc<KeptHandle>);

struct KeptHandle {
    id: u64,
    dropped: Arc<DroppedHandles>,
}

impl FarHandle {
    /// Returns the id of the process.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Returns `true` if both belong to one session.
    pub fn is_of_session(&self, other: &DroppedHandles) -> bool {
        std::ptr::eq(&*self.0.dropped, other)
    }
}

impl fmt::Debug for FarHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FarHandle").field(&self.0.id).finish()
    }
}

impl Drop for KeptHandle {
    fn drop(&mut self) {
        self.dropped.push(self.id);
    }
}

/// The imports of a session of which the last handle was dropped. A drop may happen anywhere, even under the lock of
/// the session, so it only leaves a note here.
#[derive(Default)]
pub struct DroppedHandles {
    ids: Mutex<Vec<u64>>,
    /// The list is not empty.
    pending: AtomicBool,
    notify: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl DroppedHandles {
    /// Sets the function to call, once, when there is something to release. It must not lock the session.
    pub fn notify(&self, notify: impl Fn() + Send + Sync + 'static) {
        let _ = self.notify.set(Box::new(notify));
    }

    fn push(&self, id: u64) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        if !self.pending.swap(true, Ordering::AcqRel)
            && let Some(notify) = self.notify.get()
        {
            notify();
        }
    }

    fn take(&self) -> Vec<u64> {
        if !self.pending.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.pending.store(false, Ordering::Release);
        std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for DroppedHandles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DroppedHandles")
    }
}

/// A handle of a received message.
#[derive(Clone, Debug)]
pub enum ReceivedHandle {
    /// A process of the far end.
    Far(FarHandle, Rights),
    /// A process of this end, which came back.
    Near(ProcessMailbox),
    /// A process of this end that can no longer be reached by this name.
    Dead,
}

/// The handles of a received message, in the order of the table in its head. Usually there are none, so the type is as
/// small as can be.
#[derive(Clone, Debug, Default)]
pub struct Handles(Option<Box<HandleList>>);

type HandleList = Box<[ReceivedHandle]>;

impl Handles {
    /// Returns the handles.
    pub fn as_slice(&self) -> &[ReceivedHandle] {
        self.0.as_deref().map_or(&[], |handles| handles)
    }

    /// Returns `true` if the message has no handles.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the credit that the handles take.
    #[inline]
    pub(super) const fn cost(&self) -> u64 {
        match &self.0 {
            None => 0,
            Some(handles) => handles.len() as u64 * HANDLE_COST,
        }
    }
}

impl PartialEq for Handles {
    fn eq(&self, other: &Self) -> bool {
        let key = |handle: &ReceivedHandle| match handle {
            ReceivedHandle::Far(far, rights) => (Some(far.id()), Some(*rights), None),
            ReceivedHandle::Near(mailbox) => (None, None, Some(mailbox.clone())),
            ReceivedHandle::Dead => (None, None, None),
        };
        self.as_slice().iter().map(key).eq(other.as_slice().iter().map(key))
    }
}

impl Eq for Handles {}

/// The handles of a message that was accepted for sending.
#[derive(Debug)]
pub(super) struct Admitted {
    entries: Vec<HandleEntry>,
    /// Keeps the far processes that go back from being released before the message.
    back: Vec<FarHandle>,
}

impl Admitted {
    /// Returns the credit that the handles take.
    pub(super) const fn cost(&self) -> u64 {
        Self::cost_of(self.entries.len())
    }

    /// Returns the credit that so many handles take.
    pub(super) const fn cost_of(count: usize) -> u64 {
        count as u64 * HANDLE_COST
    }

    /// Returns the ids of this end's processes, once for each handle.
    fn exported(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().filter_map(|entry| match entry {
            HandleEntry::Sender { id, .. } => Some(*id),
            HandleEntry::Receiver { .. } => None,
        })
    }
}

/// A process of the far end that was handed to this end.
#[derive(Debug)]
struct Import {
    handle: Weak<KeptHandle>,
    /// The handles with this id that came.
    received: u64,
    /// The credit window of the process.
    window: u64,
}

impl fmt::Debug for KeptHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// The processes of the far end that were handed to this end.
#[derive(Debug, Default)]
pub(super) struct Imports {
    known: BTreeMap<u64, Import>,
    dropped: Arc<DroppedHandles>,
}

impl Imports {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// Returns the credit window of a process; `None` if it was not handed to this end in a message.
    pub(super) fn window(&self, id: u64) -> Option<u64> {
        self.known.get(&id).map(|import| import.window)
    }

    fn receive(&mut self, id: u64, window: u64) -> FarHandle {
        let import =
            self.known.entry(id).or_insert_with(|| Import { handle: Weak::new(), received: 0, window });
        import.received += 1;
        if let Some(kept) = import.handle.upgrade() {
            return FarHandle(kept);
        }
        let kept = Arc::new(KeptHandle { id, dropped: Arc::clone(&self.dropped) });
        import.handle = Arc::downgrade(&kept);
        FarHandle(kept)
    }
}

impl<H: Host> Session<H> {
    /// Returns the list of dropped handles, to be told of new ones.
    pub const fn dropped_handles(&self) -> &Arc<DroppedHandles> {
        &self.imports.dropped
    }

    /// Returns `true` if the peer has handed out processes.
    #[inline]
    pub(super) fn has_imports(&self) -> bool {
        !self.imports.is_empty()
    }

    /// Releases the imports of which nothing is left in the program.
    #[cold]
    pub(super) fn release_dropped(&mut self) {
        for id in self.imports.dropped.take() {
            // The handle may have come again meanwhile.
            let is_gone = |import: &Import| import.handle.strong_count() == 0;
            if !self.imports.known.get(&id).is_some_and(is_gone) {
                continue;
            }
            let count = self.imports.known.remove(&id).map_or(0, |import| import.received);
            self.peer.balances.remove(&id);
            if self.can_put() {
                self.outgoing.put(&Frame::Release { id, count });
                self.check_unsent();
            }
        }
    }

    /// Handles the peer's `Release`.
    pub(super) fn handle_release(&mut self, id: u64, count: u64) -> Result<(), Fault> {
        self.border.handle_release(id, count)?;
        self.reflect_border();
        Ok(())
    }

    /// Takes the handles of a received message.
    pub(super) fn receive_handles(&mut self, table: HandleTable<'_>) -> Result<Handles, Fault> {
        let mut handles = Vec::with_capacity(table.len());
        for entry in table.entries() {
            handles.push(match entry {
                HandleEntry::Sender { id, rights, window } => {
                    let far = self.imports.receive(id, window);
                    self.peer.balances.entry(id).or_insert_with(|| Balance::new(window));
                    ReceivedHandle::Far(far, rights)
                }
                HandleEntry::Receiver { id } => self.border.ids.returned(id)?,
            });
        }
        if self.imports.len() as u64 > u64::from(self.limits.max_handles) {
            return Err(Fault::Overload);
        }
        Ok(Handles(Some(Box::new(handles.into()))))
    }

    /// Accepts the handles of a message for sending.
    #[inline]
    pub(super) fn admit(
        &mut self,
        handles: SentHandles<H::Process>,
    ) -> Result<Option<Box<Admitted>>, Unsendable> {
        handles.0.map(|handles| self.admit_each(handles)).transpose()
    }

    #[cold]
    fn admit_each(&mut self, handles: Box<[Passing<H::Process>]>) -> Result<Box<Admitted>, Unsendable> {
        let max = self.peer.terms.max_handles;
        if handles.len() > MAX_HANDLES {
            return Err(Unsendable::TooManyHandles { max: MAX_HANDLES as u64 });
        }
        let mut admitted = Admitted { entries: Vec::with_capacity(handles.len()), back: Vec::new() };
        for handle in handles {
            let entry = match handle {
                Passing::Back(far) => {
                    let id = far.id();
                    admitted.back.push(far);
                    Some(HandleEntry::Receiver { id })
                }
                Passing::Near(export) => self
                    .border
                    .export(export, max)
                    .map(|(id, rights)| HandleEntry::Sender { id, rights, window: HANDLE_WINDOW }),
            };
            let Some(entry) = entry else {
                self.withdraw_handles(Some(Box::new(admitted)));
                return Err(Unsendable::TooManyHandles { max });
            };
            admitted.entries.push(entry);
        }
        self.take_border_deliveries();
        Ok(Box::new(admitted))
    }

    /// Takes back the handles of a message that is not sent.
    pub(super) fn withdraw_handles(&mut self, admitted: Option<Box<Admitted>>) {
        for id in admitted.iter().flat_map(|admitted| admitted.exported()) {
            self.border.withdraw_export(id);
        }
        self.take_border_deliveries();
    }

    /// Appends a message with handles. Returns its number. From now on the handles count as sent.
    pub(super) fn put_with(&mut self, message: MessageHead, admitted: &Admitted, payload: &[u8]) -> u64 {
        admitted.exported().for_each(|id| self.border.ids.count_sent(id));
        let mut bytes = Vec::new();
        let handles = HandleTable::new(&admitted.entries, &mut bytes);
        self.outgoing.put(&Frame::With { message, handles, payload })
    }

    /// Makes an alias useless for the peer, at once: monitors fire with `noproc`, and messages are refused. Messages
    /// already received, and links, stay.
    pub fn revoke(&mut self, alias: u64) {
        self.border.revoke(alias);
        self.put_border();
    }

    /// Handles the end of a process that was handed out. Its links and monitors have been told.
    pub fn handed_out_ended(&mut self, process: &H::Process) {
        self.border.handed_out_ended(process);
        self.put_border();
    }
}
