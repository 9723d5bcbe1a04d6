//! The sending half of a session. `life.rs` has what a remote tells of its session.

mod life;

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use super::handles::with_handles;
use crate::{
    Call, CallError, CallFailure, CastError, Executed, ExitReason, Pid, after,
    middleman::{Encoded, NotSent, Shared, keep, now},
    payload::{self, PayloadError},
    process::{Within, poll_proceed, poll_proceed_shortly, settle},
    session::{Flush, Handles, OWNER, SentHandles, Unsendable},
};

/// The sending half of a session. Cheap to clone, and usable in any task, process or not.
///
/// ```
/// use std::time::Duration;
/// use lib_chan::{Call, CallError, Executed, Remote};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Withdraw {
///     amount: u64,
/// }
///
/// impl Call for Withdraw {
///     type Reply = bool;
/// }
///
/// /// Tries again only if the first call was certainly not executed.
/// async fn withdraw(account: &Remote<Withdraw>, amount: u64) -> Result<bool, CallError> {
///     match account.call_within(Duration::from_secs(5), Withdraw { amount }).await {
///         Err(error) if error.executed == Executed::No => account.call(Withdraw { amount }).await,
///         result => result,
///     }
/// }
/// ```
pub struct Remote<Out> {
    handle: Arc<Handle>,
    types: PhantomData<fn(Out)>,
}

/// Shared by the channel and all remotes of a session; dropped with the last of them.
pub(super) struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { shared: Arc::clone(shared) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        settle(move |reason| {
            shared.last_remote_gone(reason.cloned().unwrap_or(ExitReason::Normal));
        });
    }
}

impl<Out> Remote<Out> {
    pub(super) fn new(handle: Arc<Handle>) -> Self {
        Self { handle, types: PhantomData }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Returns the pid of the far end's owner, which this end can link to, monitor, and send exit signals.
    pub fn pid(&self) -> Pid {
        self.shared().processes().remote().clone()
    }

    /// Returns the greatest length of an encoded message to the far end, in bytes. A relay splits its stream accordingly.
    pub fn max_payload_len(&self) -> usize {
        self.shared().ask(|session| session.max_payload_len())
    }

    /// See [`Relay::max_streams`](crate::relay::Relay::max_streams).
    pub(crate) fn max_streams(&self) -> u32 {
        let limits = self.shared().terms().limits();
        let own = limits.max_handles.min(limits.max_links / 2);
        let peer = self.shared().ask(|session| session.max_handed().min(session.max_links()));
        own.min(u32::try_from(peer).unwrap_or(u32::MAX)).max(1)
    }

    /// Waits until the far end has received everything that was sent before. Its process may not have taken it yet: see
    /// [`taken`](Self::taken).
    ///
    /// Dropping the future does not undo any send.
    ///
    /// # Errors
    /// The reason of the session's end, if the session ended first.
    pub async fn flush(&self) -> Result<(), ExitReason> {
        let shared = self.shared();
        let flushing = Flushing { shared, flush: shared.session(|session| session.flush()) };
        poll_fn(|cx| {
            let coop = ready!(poll_proceed(cx));
            match shared.ask(|session| session.poll_flushed(flushing.flush, || cx.waker().clone())) {
                Some(result) => {
                    coop.made_progress();
                    Poll::Ready(result)
                }
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl<Out> Remote<Out> {
    /// Waits until the far process has taken everything that was sent before, or has discarded it because it no longer
    /// receives. Takes at least one round trip. Only an answer tells that the process has *handled* a message.
    ///
    /// A message is decoded when it is taken, so this tells the sender of a cast whether it could be decoded.
    ///
    /// Counts as one call in flight until the far process has come this far, even if the future is dropped before.
    ///
    /// # Errors
    /// The reason of the session's end, if the session ended first. After a cast that cannot be decoded, that is `Failed`
    /// with a text that says why.
    pub async fn taken(&self) -> Result<(), ExitReason> {
        let shared = self.shared();
        let call = shared
            .session(|session| session.mark(now()))
            .map_err(|error| ExitReason::from(NotSent::Session(error)))?;
        match (Calling { shared, call: Some(call) }).answer().await {
            Err(CallError { reason: CallFailure::Exit(reason), .. }) => Err(reason),
            // The mark is never executed, so any answer means that its turn has come.
            _ => Ok(()),
        }
    }
}

/// A wait for an acknowledgement. Dropping it removes it from the session.
struct Flushing<'a> {
    shared: &'a Arc<Shared>,
    flush: Flush,
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.shared.ask(|session| session.forget_flush(self.flush));
    }
}

impl<Out: Serialize + 'static> Remote<Out> {
    /// Sends a message without an answer. Waits for credit, and while 256 KiB are unsent. Waiting senders are served in the
    /// order in which they came.
    ///
    /// When this returns, the message is in the session's output, in order; it may not have arrived: see
    /// [`flush`](Self::flush). If the future is dropped while it waits, the message is not sent.
    ///
    /// A message that is longer than 64 KiB, or than a sixteenth of the longest message if that is less, goes in parts. This
    /// then waits until the last part is in the output. Answers and messages to other processes pass it meanwhile; messages to
    /// the same process do not.
    ///
    /// # Errors
    /// The session has ended, or the message does not encode or is too long.
    pub async fn cast(&self, message: impl Into<Out>) -> Result<(), CastError> {
        let ticket = self.begin_cast(&message.into())?;
        self.finish_cast(ticket).await
    }

    /// Sends the messages of an iterator without answers, in order. Costs one lock and one wake-up for up to 256 messages or
    /// 16 KiB, where [`cast`](Self::cast) takes one for each message. Waits as `cast` does; meanwhile messages of others
    /// may go in between.
    ///
    /// Messages are taken from the iterator up to 256 in advance. Dropping the future drops those that are not yet in the
    /// session's output, and the rest of the iterator. Pass `iter.by_ref()` to keep the rest.
    ///
    /// ```
    /// # use lib_chan::{ExitReason, Remote};
    /// async fn count(remote: &Remote<u64>) -> Result<(), ExitReason> {
    ///     remote.cast_all(0..1_000_000_u64).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`cast`](Self::cast), at the first message that cannot be sent. The messages before it were sent.
    pub async fn cast_all<I>(&self, messages: I) -> Result<(), CastError>
    where
        I: IntoIterator<Item: Into<Out>>,
    {
        let shared = self.shared();
        let failed = |error| not_sent(NotSent::Session(error));
        let (mut messages, mut batch) = (messages.into_iter().map(Into::into), Encoded::default());
        loop {
            let encoded = batch.refill(shared.terms().agreed(), messages.by_ref());
            let (mut sent, plain) = (0, batch.plain());
            while sent < batch.len() {
                let next = batch.from(sent).take(plain.saturating_sub(sent));
                sent += shared.session(|session| session.try_cast_each(next)).map_err(failed)?;
                let next = batch.from(sent).next().map(<[u8]>::to_vec);
                if let Some(mut next) = next {
                    let handles = match sent < plain {
                        true => SentHandles::NONE,
                        false => shared.passing(batch.take_carried()).map_err(not_sent)?,
                    };
                    let ticket = shared
                        .session(|session| session.cast_to(now, OWNER, &mut next, handles))
                        .map_err(failed)?;
                    Casting { shared, ticket }.sent().await.map_err(failed)?;
                    sent += 1;
                }
            }
            encoded.map_err(not_sent)?;
            if batch.len() == 0 {
                return Ok(());
            }
            poll_fn(|cx| poll_proceed(cx).map(|coop| coop.made_progress())).await;
        }
    }

    /// Sends a message without an answer if it can be sent at once. Never waits.
    ///
    /// It suits a broadcast in which slow far ends may miss messages unnoticed. Otherwise use
    /// [`cast_latest`](Self::cast_latest) or [`cast_events`](Self::cast_events).
    ///
    /// # Errors
    /// Those of [`cast`](Self::cast), and `WouldWait` if the message would have to wait.
    pub fn try_cast(&self, message: impl Into<Out>) -> Result<(), CastError> {
        self.try_cast_value(&message.into())
    }

    /// Calls the far end as [`call_within`](Self::call_within) does, within
    /// [`Limits::call_timeout`](crate::Limits::call_timeout).
    ///
    /// # Errors
    /// Those of [`call_within`](Self::call_within).
    pub async fn call<Q: Call + Into<Out>>(&self, request: Q) -> Result<Q::Reply, CallError> {
        self.call_within(self.shared().terms().limits().call_timeout, request).await
    }

    /// Sends a request and waits for its answer, at most `within`. That time includes the waits for credit, for room in
    /// the output, and for the number of calls that the far end allows.
    ///
    /// Dropping the future gives the call up: the far end sees it as cancelled, and a late answer is discarded.
    ///
    /// # Errors
    /// [`CallError`] says what went wrong, and whether the far end executed the call. Calls are never retried.
    pub async fn call_within<Q: Call + Into<Out>>(
        &self,
        within: Duration,
        request: Q,
    ) -> Result<Q::Reply, CallError> {
        self.call_value(within, request.into()).await
    }
}

impl<Out> Remote<Out> {
    /// Returns this remote with a timeout for all calls of [protocol](mod@crate::protocol) methods through it.
    pub const fn within(&self, time: Duration) -> Within<'_, Self> {
        Within { of: self, time }
    }

    /// Encodes a cast and sends it. Returns its ticket if it has to wait.
    pub(super) fn begin_cast<T: Serialize + 'static>(&self, value: &T) -> Result<Option<u64>, CastError> {
        self.shared()
            .send(value, |session, payload, handles| session.cast_to(now, OWNER, payload, handles))
            .map_err(not_sent)
    }

    /// Waits until a cast is sent.
    pub(super) async fn finish_cast(&self, ticket: Option<u64>) -> Result<(), CastError> {
        if ticket.is_none() {
            return cooperate().await;
        }
        let casting = Casting { shared: self.shared(), ticket };
        casting.sent().await.map_err(|error| not_sent(NotSent::Session(error)))
    }

    pub(super) fn try_cast_value<T: Serialize + 'static>(&self, value: &T) -> Result<(), CastError> {
        let sent = self
            .shared()
            .send(value, |session, payload, handles| session.try_cast_with(OWNER, payload, handles));
        sent.map_err(not_sent)
    }

    pub(super) async fn call_value<T: Serialize + 'static, R: DeserializeOwned + 'static>(
        &self,
        within: Duration,
        request: T,
    ) -> Result<R, CallError> {
        let shared = self.shared();
        let call = shared
            .send(&request, |session, payload, handles| {
                let now = now();
                let deadline = after(now, within);
                session.call_to(now, deadline, OWNER, payload, handles)
            })
            .map_err(not_called)?;
        drop(request);
        let (answer, handles) = Calling { shared, call: Some(call) }.answer().await?;
        let codec = shared.terms().codec();
        with_handles(shared, &handles, || payload::decode_message(codec, &answer))
            .map_err(|error| CallError::new(Executed::Yes, CallFailure::Codec(error.to_string().into())))
    }
}

/// Yields now and then, so that a loop of casts that never wait lets other tasks run and can be killed.
async fn cooperate() -> Result<(), CastError> {
    poll_fn(|cx| {
        ready!(poll_proceed_shortly(cx));
        Poll::Ready(Ok(()))
    })
    .await
}

/// A cast that waits in the queue. Dropping it withdraws the cast.
struct Casting<'a> {
    shared: &'a Arc<Shared>,
    /// `None` once the cast was sent or has failed.
    ticket: Option<u64>,
}

impl Casting<'_> {
    async fn sent(mut self) -> Result<(), Unsendable> {
        poll_fn(|cx| {
            let coop = ready!(poll_proceed(cx));
            let Some(ticket) = self.ticket else { return Poll::Ready(Ok(())) };
            match self.shared.ask(|session| session.poll_cast(ticket, keep(cx))) {
                Some(result) => {
                    self.ticket = None;
                    coop.made_progress();
                    Poll::Ready(result)
                }
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl Drop for Casting<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.shared.session(|session| session.withdraw_cast(now(), ticket));
        }
    }
}

/// A call in flight. Dropping it gives the call up.
struct Calling<'a> {
    shared: &'a Arc<Shared>,
    /// `None` once the outcome is known.
    call: Option<u64>,
}

impl Calling<'_> {
    async fn answer(mut self) -> Result<(bytes::Bytes, Handles), CallError> {
        poll_fn(|cx| {
            let coop = ready!(poll_proceed(cx));
            let Some(call) = self.call else { return Poll::Pending };
            match self.shared.ask(|session| session.poll_answer(call, keep(cx))) {
                Some((outcome, handles)) => {
                    self.call = None;
                    coop.made_progress();
                    Poll::Ready(outcome.map(|answer| (answer, handles)))
                }
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.shared.session(|session| session.cancel_call(now(), call));
        }
    }
}

pub(super) fn not_sent(error: NotSent) -> CastError {
    match error {
        NotSent::Payload(PayloadError::TooLong { max }) | NotSent::Session(Unsendable::TooLong { max }) => {
            CastError::TooLong { max }
        }
        NotSent::Payload(error) => CastError::Encode(error),
        NotSent::Session(Unsendable::Ended(reason)) => CastError::Ended(reason),
        NotSent::Session(Unsendable::WouldWait) => CastError::WouldWait,
        NotSent::Session(Unsendable::TooManyHandles { max }) => CastError::TooManyHandles { max },
    }
}

pub(super) fn not_called(error: NotSent) -> CallError {
    let reason = match error {
        NotSent::Payload(PayloadError::TooLong { max }) | NotSent::Session(Unsendable::TooLong { max }) => {
            CallFailure::TooLong { max }
        }
        NotSent::Payload(error) => CallFailure::Codec(error.to_string().into()),
        NotSent::Session(Unsendable::Ended(reason)) => CallFailure::Exit(reason),
        NotSent::Session(Unsendable::WouldWait | Unsendable::TooManyHandles { .. }) => {
            CallFailure::Overload { retry_after: None }
        }
    };
    CallError::new(Executed::No, reason)
}

impl<Out> Clone for Remote<Out> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.handle))
    }
}

impl<Out> fmt::Debug for Remote<Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("session", self.shared()).finish_non_exhaustive()
    }
}
