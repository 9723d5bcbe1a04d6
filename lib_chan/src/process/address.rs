//! The address of a process: sends messages and calls to its mailbox.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::SpawnOptions;
use super::alias::Alias;
use super::cell::{Cell, Posting};
use super::current::{in_time, is_current, poll_proceed_shortly};
use super::far::{FarAddress, FarRoute, NOT_HERE};
use super::mailbox::{CallLetter, Letter, Parcel};
use super::owned::Owned;
use super::pid::{Local, Pid};
use super::reply::{PassedReply, Reply, Waiter};
use super::within::Within;
use crate::payload::{Carried, Codec, PayloadError};
use crate::{CallError, CallFailure, Executed, ExitReason, Rights, SendError};

/// Sends messages of type `M` to one process.
///
/// Cheap to clone, and usable in any task. An address does not keep its process alive. After the process has ended, it
/// keeps a small record only.
///
/// An address whose messages are a [protocol](mod@crate::protocol) may be part of any message of a session. The far end
/// decodes it to an address through which it can send and call; [`grant`](Self::grant) changes its rights. If the far end
/// sends that address back, it decodes to the original one. A far address may also be sent over another session: then a
/// process of this program forwards messages and answers. A far address is dead once its session has ended. When its last
/// clone is dropped, the other end is told.
///
/// ```
/// use std::time::Duration;
/// use lib_chan::{CallError, CallFailure, Event, Executed, ExitReason, Process, Reply, spawn};
///
/// # #[tokio::main]
/// # async fn main() {
/// let squares = spawn(async |mut me: Process<(u32, Reply<u32>)>| {
///     while let Event::Message((number, reply)) = me.recv().await {
///         reply.send(number * number);
///     }
///     Ok(())
/// });
/// assert_eq!(squares.call(Duration::from_secs(5), |reply| (7, reply)).await, Ok(49));
///
/// // Every caller learns why there is no answer.
/// squares.pid().exit(ExitReason::Shutdown);
/// assert_eq!(squares.pid().ended().await, ExitReason::Shutdown);
/// let error = squares.call(Duration::from_secs(5), |reply| (7, reply)).await.unwrap_err();
/// assert_eq!(error, CallError::new(Executed::No, CallFailure::Exit(ExitReason::NoProc)));
/// # }
/// ```
pub struct Address<M> {
    to: AddressTarget<M>,
}

enum AddressTarget<M> {
    Near(Arc<Cell<M>>),
    /// A second name of a process of this program.
    Granted(Arc<GrantedName<M>>),
    Far(Arc<FarAddress<M>>),
}

/// A process with the name under which it is handed out, and the rights to that.
struct GrantedName<M> {
    cell: Arc<Cell<M>>,
    alias: Arc<Alias>,
    rights: Rights,
}

/// The target of an address, as a session hands it out.
pub(crate) enum Departure {
    /// A process of this program, and its alias if it has one.
    Near(Option<Arc<Alias>>, Rights),
    Far(Arc<dyn FarRoute>),
}

impl<M: Send + 'static> Address<M> {
    pub(super) const fn new(cell: Arc<Cell<M>>) -> Self {
        Self { to: AddressTarget::Near(cell) }
    }

    /// Returns the address of a process that ended long ago.
    pub(crate) fn dead() -> Self {
        let cell = Cell::new(&SpawnOptions::default());
        drop(cell.decide(ExitReason::NoProc));
        cell.part();
        Self::new(cell)
    }

    /// Returns the address of a process of this program; `None` if it takes other messages.
    pub(crate) fn of(pid: &Pid) -> Option<Self> {
        pid.target().downcast().ok().map(Self::new)
    }

    /// Returns the address of a far process.
    pub(crate) fn far(
        route: Arc<dyn FarRoute>,
        encode: fn(&M, Codec, usize, &mut Vec<u8>) -> Result<Carried, PayloadError>,
        is_call: fn(&M) -> bool,
        into_reply: fn(M) -> Option<PassedReply>,
    ) -> Self {
        Self { to: AddressTarget::Far(Arc::new(FarAddress::new(route, encode, is_call, into_reply))) }
    }

    /// Returns the way to the process, if it is a far one.
    pub(crate) fn route(&self) -> Option<&Arc<dyn FarRoute>> {
        match &self.to {
            AddressTarget::Far(far) => Some(&far.route),
            AddressTarget::Near(_) | AddressTarget::Granted(_) => None,
        }
    }

    /// Returns the data that a session needs to hand the process out.
    pub(crate) fn departure(&self) -> Departure {
        match &self.to {
            AddressTarget::Near(_) => Departure::Near(None, Rights::default()),
            AddressTarget::Granted(granted) => {
                Departure::Near(Some(Arc::clone(&granted.alias)), granted.rights)
            }
            AddressTarget::Far(far) => Departure::Far(Arc::clone(&far.route)),
        }
    }

    /// Returns the pid of the process.
    pub fn pid(&self) -> Pid {
        match self.near() {
            Ok(cell) => cell.pid(),
            Err(far) => far.route.pid(),
        }
    }

    /// Returns another address of the process, for use in messages. The far end gets `rights` to it, which can be
    /// [revoked](Self::revoke) apart from those of other addresses.
    ///
    /// Without `grant`, the far end may send, call and monitor. For a far address, this returns a clone with unchanged rights.
    ///
    /// ```
    /// # use lib_chan::{Address, Rights};
    /// fn with_links<M: Send + 'static>(worker: &Address<M>) -> Address<M> {
    ///     worker.grant(Rights { link: true, ..Rights::default() })
    /// }
    /// ```
    #[must_use]
    pub fn grant(&self, rights: Rights) -> Self {
        match self.cell() {
            Some(cell) => {
                let (cell, alias) = (Arc::clone(cell), Arc::new(Alias::new()));
                Self { to: AddressTarget::Granted(Arc::new(GrantedName { cell, alias, rights })) }
            }
            None => self.clone(),
        }
    }

    /// Revokes, at once, the rights that far ends have to an address made with [`grant`](Self::grant). Their monitors fire
    /// with `noproc`, their casts are discarded, and their calls are refused. Messages that were received before, links, and
    /// addresses in this program are not affected.
    ///
    /// Returns `false` and does nothing if `grant` did not make this address.
    pub fn revoke(&self) -> bool {
        match &self.to {
            AddressTarget::Granted(granted) => {
                granted.alias.revoke();
                true
            }
            AddressTarget::Near(_) | AddressTarget::Far(_) => false,
        }
    }

    /// Returns `true` for a process at the far end of a session.
    pub fn is_far(&self) -> bool {
        self.route().is_some()
    }

    fn near(&self) -> Result<&Arc<Cell<M>>, &FarAddress<M>> {
        match &self.to {
            AddressTarget::Near(cell) => Ok(cell),
            AddressTarget::Granted(granted) => Ok(&granted.cell),
            AddressTarget::Far(far) => Err(far),
        }
    }

    fn cell(&self) -> Option<&Arc<Cell<M>>> {
        self.near().ok()
    }

    /// Sends a message, and waits while the mailbox is full. Waiting senders are served in the order in which they came.
    /// A process that sends to itself never waits.
    ///
    /// If the future is dropped while it waits, the message is either sent already or dropped.
    ///
    /// # Errors
    ///
    /// `NoProc` if the process is not alive, and the reason of its end if it ends meanwhile. The error holds the message.
    pub async fn send(&self, message: M) -> Result<(), SendError<M>> {
        match self.near() {
            Ok(cell) => post(cell, Letter::Cast(message)).await,
            Err(far) => far.send(message).await,
        }
    }

    /// Sends a message if the mailbox has room for it. Never waits.
    ///
    /// # Errors
    ///
    /// `NoProc` if the process is not alive, and `Overload` if the mailbox is full or other senders wait for room. The
    /// error holds the message.
    pub fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        match self.near() {
            Ok(cell) => cell.try_post(Letter::Cast(message)),
            Err(far) => far.try_send(message),
        }
    }

    /// Sends the message that `make` builds around a [`Reply`], and waits for the answer, as `gen_server:call` does. The
    /// time `within` includes the wait for room in the mailbox.
    ///
    /// Dropping the future gives the call up. A message that was not taken is never delivered, [`Reply::cancelled`]
    /// returns, and a late answer is dropped.
    ///
    /// # Errors
    ///
    /// * `CallingSelf`: the process calls itself, and would wait for ever.
    /// * `Deadline`: no answer came in time. The call was *not executed* if the message was not taken by then.
    /// * `Exit(reason)`: the process was not alive (`NoProc`), or the process that held the reply ended. The call was *not
    ///   executed* if the message was still in the mailbox.
    /// * `NoAnswer`: the reply was dropped.
    /// * `Refused`: the call was refused.
    pub async fn call<R: Send + 'static>(
        &self,
        within: Duration,
        make: impl FnOnce(Reply<R>) -> M,
    ) -> Result<R, CallError> {
        let near = self.near();
        if near.is_ok_and(|cell| is_current(cell.id())) {
            return Err(CallError::new(Executed::No, CallFailure::CallingSelf));
        }
        // Every way out drops the waiter, which gives the call up.
        let waiter = Waiter::new();
        let message = make(Reply::local(&waiter));
        let mut answer = pin!(async {
            // A message that comes back is dropped, and its reply with it. The outcome is known already.
            let sent = match near {
                Ok(cell) => {
                    let asked = CallLetter { message, ticket: waiter.ticket() };
                    post(cell, Letter::Call(Box::new(asked))).await
                }
                Err(far) => far.send(message).await,
            };
            let sent = sent.map_err(|error| error.reason);
            sent.map_err(|reason| CallError::new(Executed::No, CallFailure::Exit(reason)))?;
            waiter.answer().await
        });
        match in_time(within, answer.as_mut()).await {
            Some(answer) => answer,
            // First give up, then drop the message, which may still wait for room: its reply must not settle the call.
            None => waiter.give_up(),
        }
    }

    /// Returns this address with a timeout for all calls of [protocol](mod@crate::protocol) methods through it.
    pub const fn within(&self, time: Duration) -> Within<'_, Self> {
        Within { of: self, time }
    }

    /// Puts a parcel into the mailbox, even if it is full. Takes one lock and wakes once.
    pub(crate) fn put(&self, parcel: Box<dyn Parcel<M>>) -> Result<(), ExitReason> {
        self.cell().map_or(Err(NOT_HERE), |cell| cell.put(parcel))
    }

    /// Gives the process something to own. Fails with the reason of its end if the process has ended.
    pub(crate) fn own(&self, owned: Arc<dyn Owned>) -> Result<(), ExitReason> {
        self.cell().map_or(Err(NOT_HERE), |cell| cell.own(owned))
    }

    /// Undoes [`own`](Self::own).
    pub(crate) fn disown(&self, owned: &Arc<dyn Owned>) {
        if let Some(cell) = self.cell() {
            cell.disown(owned);
        }
    }

    #[cfg(test)]
    pub(super) fn here(&self) -> &Cell<M> {
        self.cell().unwrap()
    }

    #[cfg(test)]
    pub(super) fn downgrade(&self) -> std::sync::Weak<dyn super::SignalTarget> {
        Arc::downgrade(self.cell().unwrap()) as std::sync::Weak<dyn super::SignalTarget>
    }
}

fn post<M: Send + 'static>(cell: &Cell<M>, letter: Letter<M>) -> Post<'_, M> {
    Post { cell, posting: Posting::New(letter) }
}

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        let to = match &self.to {
            AddressTarget::Near(cell) => AddressTarget::Near(Arc::clone(cell)),
            AddressTarget::Granted(granted) => AddressTarget::Granted(Arc::clone(granted)),
            AddressTarget::Far(far) => AddressTarget::Far(Arc::clone(far)),
        };
        Self { to }
    }
}

impl<M: Send + 'static> fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.pid()).finish()
    }
}

/// A message on its way into a mailbox.
struct Post<'a, M: Send + 'static> {
    cell: &'a Cell<M>,
    posting: Posting<M>,
}

// The future is never pinned inside: it moves its message into the mailbox.
impl<M: Send + 'static> Unpin for Post<'_, M> {}

impl<M: Send + 'static> Future for Post<'_, M> {
    type Output = Result<(), SendError<M>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        ready!(poll_proceed_shortly(cx));
        let Self { cell, posting } = self.get_mut();
        cell.poll_post(posting, cx)
    }
}

impl<M: Send + 'static> Drop for Post<'_, M> {
    fn drop(&mut self) {
        if let Posting::Waiting(ticket) = self.posting {
            self.cell.withdraw(ticket);
        }
    }
}
