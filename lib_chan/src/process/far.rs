//! Addresses of processes at the far end of a session, as this layer sees them.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Pid;
use super::current::{poll_proceed, poll_proceed_shortly};
use super::reply::{EncodeAnswer, PassedReply};
use crate::payload::{self, Carried, Codec, PayloadError};
use crate::{CallError, CallFailure, CastError, Executed, ExitReason, SendError};

/// The time of a call whose caller has no deadline of its own: as long as a call may last.
const NO_DEADLINE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The way to one process at the far end of a session.
pub(crate) trait FarRoute: Any + Send + Sync {
    /// Returns the pid of the process.
    fn pid(&self) -> Pid;

    /// Sends a cast. Returns a ticket if the cast has to wait, which it only does with `wait`.
    fn begin_cast(&self, wait: bool, encode: &mut EncodeAnswer<'_>) -> Result<Option<u64>, CastError>;

    /// Polls for the time at which a waiting cast was sent.
    fn poll_cast(&self, ticket: u64, cx: &Context<'_>) -> Poll<Result<(), CastError>>;

    /// Withdraws a cast that waits.
    fn withdraw_cast(&self, ticket: u64);

    /// Sends a call, or queues it. Returns its number.
    fn begin_call(&self, within: Duration, encode: &mut EncodeAnswer<'_>) -> Result<u64, CallError>;

    /// Polls for the answer of a call, and passes it to `decode`, once.
    fn poll_call(
        &self,
        call: u64,
        cx: &Context<'_>,
        decode: &mut dyn FnMut(Codec, &Bytes),
    ) -> Poll<Result<(), CallError>>;

    /// Gives up a call.
    fn cancel_call(&self, call: u64);

    /// Returns the time of a call that states none.
    fn call_timeout(&self) -> Duration;

    /// Returns the most bytes that an encoded message to the process may have; 0 if its session is gone.
    fn max_payload_len(&self) -> usize;

    /// Runs a task that passes an answer on.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>);
}

/// Encodes a message of type `M` for a far process.
type EncodeMessage<M> = fn(&M, Codec, usize, &mut Vec<u8>) -> Result<Carried, PayloadError>;

/// The address of a far process that takes messages of type `M`.
pub(super) struct FarAddress<M> {
    pub(super) route: Arc<dyn FarRoute>,
    encode: EncodeMessage<M>,
    /// Returns `true` for a message that holds a reply.
    is_call: fn(&M) -> bool,
    /// Takes the reply out of a message that was sent.
    into_reply: fn(M) -> Option<PassedReply>,
}

impl<M> FarAddress<M> {
    pub(super) const fn new(
        route: Arc<dyn FarRoute>,
        encode: EncodeMessage<M>,
        is_call: fn(&M) -> bool,
        into_reply: fn(M) -> Option<PassedReply>,
    ) -> Self {
        Self { route, encode, is_call, into_reply }
    }
}

impl<M: Send + 'static> FarAddress<M> {
    /// Sends a message. A message that holds a reply becomes a call, and a task passes its answer on.
    pub(super) async fn send(&self, message: M) -> Result<(), SendError<M>> {
        if (self.is_call)(&message) {
            return self.pass_call(message);
        }
        let ticket = match self.begin(&message, true) {
            Ok(None) => {
                poll_fn(poll_proceed_shortly).await;
                return Ok(());
            }
            Ok(Some(ticket)) => ticket,
            Err(error) => return Err(SendError { message, reason: error.into() }),
        };
        let casting = FarCast { route: &self.route, ticket: Some(ticket) };
        casting.sent().await.map_err(|error| SendError { message, reason: error.into() })
    }

    /// Sends a message if it need not wait.
    pub(super) fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        if (self.is_call)(&message) {
            return self.pass_call(message);
        }
        match self.begin(&message, false) {
            Ok(_) => Ok(()),
            Err(error) => Err(SendError { message, reason: error.into() }),
        }
    }

    fn begin(&self, message: &M, wait: bool) -> Result<Option<u64>, CastError> {
        self.route.begin_cast(wait, &mut |codec, max, out| (self.encode)(message, codec, max, out))
    }

    fn pass_call(&self, message: M) -> Result<(), SendError<M>> {
        let begun = self
            .route
            .begin_call(NO_DEADLINE, &mut |codec, max, out| (self.encode)(&message, codec, max, out));
        let call = match begun {
            Ok(call) => call,
            Err(error) => return Err(SendError { message, reason: error.into() }),
        };
        if let Some(reply) = (self.into_reply)(message) {
            let route = Arc::clone(&self.route);
            self.route.spawn(Box::pin(pass_answer(route, call, reply)));
        }
        Ok(())
    }
}

/// Passes the answer of a call on to `reply`, unless nobody waits for it any more.
async fn pass_answer(route: Arc<dyn FarRoute>, call: u64, reply: PassedReply) {
    let (mut calling, mut reply) = (CallInFlight { route: &route, call: Some(call) }, Some(reply));
    poll_fn(|cx| {
        if reply.as_ref().is_none_or(|reply| reply.poll_cancelled(cx).is_ready()) {
            return Poll::Ready(());
        }
        let mut settled = false;
        let answered = calling.route.poll_call(call, cx, &mut |codec, answer| {
            if let Some(reply) = reply.take() {
                settled = true;
                reply.settle(Ok((codec, answer)));
            }
        });
        let outcome = ready!(answered);
        calling.call = None;
        if !settled && let (Some(reply), Err(error)) = (reply.take(), outcome) {
            reply.settle(Err(error));
        }
        Poll::Ready(())
    })
    .await;
}

/// Casts the wire form of a message.
pub(crate) async fn cast<T: Serialize + 'static>(
    route: &Arc<dyn FarRoute>,
    wire: T,
) -> Result<(), CastError> {
    let begun =
        route.begin_cast(true, &mut |codec, max, out| payload::encode_in_message(codec, &wire, max, out));
    drop(wire);
    match begun? {
        Some(ticket) => FarCast { route, ticket: Some(ticket) }.sent().await,
        None => {
            poll_fn(poll_proceed_shortly).await;
            Ok(())
        }
    }
}

/// Casts the wire form of a message if it need not wait.
pub(crate) fn try_cast<T: Serialize + 'static>(route: &Arc<dyn FarRoute>, wire: &T) -> Result<(), CastError> {
    route
        .begin_cast(false, &mut |codec, max, out| payload::encode_in_message(codec, wire, max, out))
        .map(drop)
}

/// Calls with the wire form of a message.
pub(crate) async fn call<T: Serialize + 'static, R: DeserializeOwned + 'static>(
    route: &Arc<dyn FarRoute>,
    within: Duration,
    wire: T,
) -> Result<R, CallError> {
    let begun =
        route.begin_call(within, &mut |codec, max, out| payload::encode_in_message(codec, &wire, max, out));
    drop(wire);
    let call = begun?;
    let mut calling = CallInFlight { route, call: Some(call) };
    poll_fn(|cx| {
        let coop = ready!(poll_proceed(cx));
        let mut decoded = None;
        let answered = calling.route.poll_call(call, cx, &mut |codec, answer| {
            decoded = Some(payload::decode_message(codec, answer));
        });
        let outcome = ready!(answered);
        calling.call = None;
        coop.made_progress();
        Poll::Ready(outcome.and_then(|()| match decoded {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(undecodable(&error)),
            None => Err(CallError::new(Executed::Unknown, CallFailure::NoAnswer)),
        }))
    })
    .await
}

/// The error of a call whose answer does not decode.
pub(super) fn undecodable(error: &PayloadError) -> CallError {
    CallError::new(Executed::Yes, CallFailure::Codec(error.to_string().into()))
}

/// A cast that waits. Dropping it withdraws the cast.
struct FarCast<'a> {
    route: &'a Arc<dyn FarRoute>,
    ticket: Option<u64>,
}

impl FarCast<'_> {
    async fn sent(mut self) -> Result<(), CastError> {
        poll_fn(|cx| {
            let coop = ready!(poll_proceed(cx));
            let Some(ticket) = self.ticket else { return Poll::Ready(Ok(())) };
            let sent = ready!(self.route.poll_cast(ticket, cx));
            self.ticket = None;
            coop.made_progress();
            Poll::Ready(sent)
        })
        .await
    }
}

impl Drop for FarCast<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.route.withdraw_cast(ticket);
        }
    }
}

/// A call in flight. Dropping it gives the call up.
struct CallInFlight<'a> {
    route: &'a Arc<dyn FarRoute>,
    call: Option<u64>,
}

impl Drop for CallInFlight<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.route.cancel_call(call);
        }
    }
}

impl fmt::Debug for dyn FarRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pid().fmt(f)
    }
}

/// The reason for an operation that only a process of this program permits.
pub(super) const NOT_HERE: ExitReason = ExitReason::NoProc;
