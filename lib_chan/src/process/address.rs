//! Where messages to a process are sent.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::cell::{Cell, Owned, Posting};
use super::current::{in_time, is_current, poll_proceed_shortly};
use super::mailbox::{Asked, Letter, Parcel};
use super::pid::{Local, Pid};
use super::reply::{Call, Message, Reply, Waiter};
use crate::{CallError, CallFailure, Executed, ExitReason, SendError};

/// Sends messages of type `M` to one process.
///
/// Cheap to clone, and keeps the process neither alive nor, once it has ended, more of it than a small record.
pub struct Address<M> {
    cell: Arc<Cell<M>>,
}

impl<M: Send + 'static> Address<M> {
    pub(super) const fn new(cell: Arc<Cell<M>>) -> Self {
        Self { cell }
    }

    /// The pid of the process.
    pub fn pid(&self) -> Pid {
        self.cell.pid()
    }

    /// Sends a message, and waits while the mailbox is full; those that wait are served in the order they came. A
    /// process that sends to itself never waits.
    ///
    /// If the future is dropped while it waits, the message is dropped, or was sent already.
    ///
    /// # Errors
    ///
    /// `NoProc` if the process is not alive; the reason of its end if it ends meanwhile. The message is given back.
    pub async fn send(&self, message: M) -> Result<(), SendError<M>> {
        self.post(Letter::Cast(message)).await
    }

    /// Sends a message if the mailbox has room for it. Never waits.
    ///
    /// # Errors
    ///
    /// `NoProc` if the process is not alive, `Overload` if the mailbox is full or others wait for room. The message is
    /// given back.
    pub fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        self.cell.try_post(Letter::Cast(message))
    }

    /// Sends the message that `make` makes of a [`Reply`], and waits for the answer, `within` this time, room in the
    /// mailbox included. As `gen_server:call` does.
    ///
    /// A dropped future gives the call up: a message not yet taken is never delivered, the process can see it in
    /// [`Reply::cancelled`], and a late answer is dropped.
    ///
    /// # Errors
    ///
    /// * `CallingSelf`: a process that waits for itself would wait for ever.
    /// * `Deadline`: no answer in time. *Not executed* if the message was not taken: it never will be.
    /// * `Exit(reason)`: the process was not alive (`NoProc`), or ended with the reply in its hands, or in its mailbox,
    ///   and then the call was *not executed*. A reply handed to another process ends with that one.
    /// * `NoAnswer`: the reply was dropped. `Refused`: it was refused.
    pub async fn call<R: Send + 'static>(
        &self,
        within: Duration,
        make: impl FnOnce(Reply<R>) -> M,
    ) -> Result<R, CallError> {
        self.call_with(within, |waiter| make(Reply::local(waiter))).await
    }

    async fn call_with<R: Send + 'static>(
        &self,
        within: Duration,
        make: impl FnOnce(&Waiter<R>) -> M,
    ) -> Result<R, CallError> {
        if is_current(self.cell.id()) {
            return Err(CallError::new(Executed::No, CallFailure::CallingSelf));
        }
        // Dropped on every way out, and then the call is given up.
        let waiter = Waiter::new();
        let message = make(&waiter);
        let asked = Letter::Call(Box::new(Asked { message, ticket: waiter.ticket() }));
        let mut answer = pin!(async {
            // Where it comes back the message is dropped, and its reply with it, but its fate is known already.
            let sent = self.post(asked).await.map_err(|error| error.reason);
            sent.map_err(|reason| CallError::new(Executed::No, CallFailure::Exit(reason)))?;
            waiter.answer().await
        });
        match in_time(within, answer.as_mut()).await {
            Some(answer) => answer,
            // Before the message is dropped that may still wait for room.
            None => waiter.give_up(),
        }
    }

    /// Puts a parcel into the mailbox, whether or not there is room: one lock, one wake.
    pub(crate) fn put(&self, parcel: Box<dyn Parcel<M>>) -> Result<(), ExitReason> {
        self.cell.put(parcel)
    }

    /// Gives the process something to own, or says why it cannot own anything any more.
    pub(crate) fn own(&self, owned: Arc<dyn Owned>) -> Result<(), ExitReason> {
        self.cell.own(owned)
    }

    /// Takes back what was given to [`own`](Self::own).
    pub(crate) fn disown(&self, owned: &Arc<dyn Owned>) {
        self.cell.disown(owned);
    }

    #[cfg(test)]
    pub(super) fn cell(&self) -> &Cell<M> {
        &self.cell
    }

    #[cfg(test)]
    pub(super) fn downgrade(&self) -> std::sync::Weak<dyn super::Target> {
        Arc::downgrade(&self.cell) as std::sync::Weak<dyn super::Target>
    }

    fn post(&self, letter: Letter<M>) -> Post<'_, M> {
        Post { cell: &self.cell, posting: Posting::New(letter) }
    }
}

impl<T: Send + 'static> Address<Message<T>> {
    /// Calls a process that takes [`Message`]s with a request that owns the type of its reply, as
    /// [`call`](Self::call) does.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call); and `Codec`, executed, if the process answers another request than it was asked.
    pub async fn request<Q: Call + Into<T>>(
        &self,
        within: Duration,
        request: Q,
    ) -> Result<Q::Reply, CallError> {
        self.call_with(within, |waiter| Message::Call(request.into(), Reply::untyped(waiter))).await
    }
}

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self { cell: Arc::clone(&self.cell) }
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

// Nothing in it is ever pinned: the message is moved into the mailbox.
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
