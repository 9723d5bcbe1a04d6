//! The address of a process: sends messages and calls to its mailbox.

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::cell::{Cell, Posting};
use super::current::{in_time, is_current, poll_proceed_shortly};
use super::mailbox::{CallLetter, Letter, Parcel};
use super::owned::Owned;
use super::pid::{Local, Pid};
use super::reply::{Reply, Waiter};
use super::within::Within;
use crate::{CallError, CallFailure, Executed, ExitReason, SendError};

/// Sends messages of type `M` to one process.
///
/// Cheap to clone, and usable in any task. An address does not keep its process alive. After the process has ended, it
/// keeps a small record only.
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
    cell: Arc<Cell<M>>,
}

impl<M: Send + 'static> Address<M> {
    pub(super) const fn new(cell: Arc<Cell<M>>) -> Self {
        Self { cell }
    }

    /// Returns the pid of the process.
    pub fn pid(&self) -> Pid {
        self.cell.pid()
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
        self.post(Letter::Cast(message)).await
    }

    /// Sends a message if the mailbox has room for it. Never waits.
    ///
    /// # Errors
    ///
    /// `NoProc` if the process is not alive, and `Overload` if the mailbox is full or other senders wait for room. The
    /// error holds the message.
    pub fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        self.cell.try_post(Letter::Cast(message))
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
    /// * `Deadline`: no answer came in time. The call was *not executed* if the message was not taken; it never will be.
    /// * `Exit(reason)`: the process was not alive (`NoProc`), or the process that held the reply ended. The call was *not
    ///   executed* if the message was still in the mailbox.
    /// * `NoAnswer`: the reply was dropped.
    /// * `Refused`: the call was refused.
    pub async fn call<R: Send + 'static>(
        &self,
        within: Duration,
        make: impl FnOnce(Reply<R>) -> M,
    ) -> Result<R, CallError> {
        if is_current(self.cell.id()) {
            return Err(CallError::new(Executed::No, CallFailure::CallingSelf));
        }
        // Every way out drops the waiter, which gives the call up.
        let waiter = Waiter::new();
        let message = make(Reply::local(&waiter));
        let asked = Letter::Call(Box::new(CallLetter { message, ticket: waiter.ticket() }));
        let mut answer = pin!(async {
            // A message that comes back is dropped, and its reply with it. The outcome is known already.
            let sent = self.post(asked).await.map_err(|error| error.reason);
            sent.map_err(|reason| CallError::new(Executed::No, CallFailure::Exit(reason)))?;
            waiter.answer().await
        });
        match in_time(within, answer.as_mut()).await {
            Some(answer) => answer,
            // First give up, then drop the message, which may still wait for room: its reply must not settle the call.
            None => waiter.give_up(),
        }
    }

    /// Returns this address with a time: the methods of a [protocol](mod@crate::protocol) called through it take at most so
    /// long.
    pub const fn within(&self, time: Duration) -> Within<'_, Self> {
        Within { of: self, time }
    }

    /// Puts a parcel into the mailbox, even if it is full. Takes one lock and wakes once.
    pub(crate) fn put(&self, parcel: Box<dyn Parcel<M>>) -> Result<(), ExitReason> {
        self.cell.put(parcel)
    }

    /// Gives the process something to own. Fails with the reason of its end if the process has ended.
    pub(crate) fn own(&self, owned: Arc<dyn Owned>) -> Result<(), ExitReason> {
        self.cell.own(owned)
    }

    /// Undoes [`own`](Self::own).
    pub(crate) fn disown(&self, owned: &Arc<dyn Owned>) {
        self.cell.disown(owned);
    }

    #[cfg(test)]
    pub(super) fn cell(&self) -> &Cell<M> {
        &self.cell
    }

    #[cfg(test)]
    pub(super) fn downgrade(&self) -> std::sync::Weak<dyn super::SignalTarget> {
        Arc::downgrade(&self.cell) as std::sync::Weak<dyn super::SignalTarget>
    }

    fn post(&self, letter: Letter<M>) -> Post<'_, M> {
        Post { cell: &self.cell, posting: Posting::New(letter) }
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
