//! Calls: a request owns the type of its reply, and whoever holds the [`Reply`] answers.

use std::any::Any;
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::current::{poll_proceed, settle};
use super::mailbox::Ticket;
use crate::payload::{self, Codec, PayloadError};
use crate::sync::{Mutex, MutexGuard};
use crate::{CallError, CallFailure, Executed, ExitReason};

/// A request that is answered with a value of one type.
pub trait Call: Serialize + DeserializeOwned {
    /// What it is answered with.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

/// Whoever hands messages on does not know what they are answered with.
impl Call for crate::Opaque {
    type Reply = Self;
}

/// What a process that is cast to and called receives.
#[derive(Debug)]
pub enum Message<T> {
    /// No answer is wanted.
    Cast(T),
    /// An answer is wanted: `reply.to(&request).send(answer)`.
    Call(T, Reply),
}

/// What comes from a channel that was given to a process.
#[derive(Debug)]
pub enum Incoming<T> {
    /// A message.
    Message(Message<T>),
    /// The channel has ended, and nothing comes after this.
    Ended(ExitReason),
}

/// The type of a reply whose request was not looked at yet. It has no values.
#[derive(Debug)]
pub enum Untyped {}

/// The right, and the duty, to answer one call with an `R`. It may be handed to another process.
///
/// Dropped without an answer, the caller learns so: with the reason of the process, if it ended with the reply in its
/// hands; else as *no answer*. An answer that nobody waits for any more is dropped.
#[must_use = "the caller waits"]
pub struct Reply<R = Untyped> {
    /// Where the answer goes; nothing once it went.
    route: Option<Route>,
    /// How a far caller gets an `R`. Nothing where the caller is near.
    encode: Option<Encode<R>>,
}

enum Route {
    Near(Arc<dyn AnySlot>),
    /// A call of this number.
    Far(Arc<dyn FarCallers>, u64),
}

/// The callers at the far end of a session. Each call is answered once.
pub(crate) trait FarCallers: Send + Sync + 'static {
    /// Encodes an answer, at most as long as the far end takes, and sends it. Never waits.
    fn answer(&self, call: u64, encode: &mut EncodeAnswer<'_>);

    /// Refuses the call, with a text that the caller may see.
    fn refuse(&self, call: u64, public: &str);

    /// Tells the caller that no answer comes.
    fn give_no_answer(&self, call: u64);

    /// Ready once the caller no longer waits: it gave up, its deadline passed, or its session ended.
    fn poll_cancelled(&self, call: u64, cx: &mut Context<'_>) -> Poll<()>;
}

/// Appends an answer in this codec, at most so many bytes, to a buffer.
pub(crate) type EncodeAnswer<'a> = dyn FnMut(Codec, usize, &mut Vec<u8>) -> Result<(), PayloadError> + 'a;

type Encode<R> = fn(Codec, &R, usize, &mut Vec<u8>) -> Result<(), PayloadError>;

impl Reply {
    /// A reply to a caller at the far end of a session.
    pub(crate) const fn far(callers: Arc<dyn FarCallers>, call: u64) -> Self {
        Self { route: Some(Route::Far(callers, call)), encode: None }
    }

    /// A reply to a caller that knows the type; the one that answers learns it from the request.
    pub(super) fn untyped<R: Send + 'static>(waiter: &Waiter<R>) -> Self {
        Self { route: Some(Route::Near(Arc::clone(&waiter.0) as Arc<dyn AnySlot>)), encode: None }
    }

    /// The reply of the type that this request is answered with.
    pub fn to<Q: Call>(mut self, _request: &Q) -> Reply<Q::Reply> {
        Reply { route: self.route.take(), encode: Some(payload::encode_message) }
    }
}

impl<R: Send + 'static> Reply<R> {
    pub(super) fn local(waiter: &Waiter<R>) -> Self {
        Self { route: Some(Route::Near(Arc::clone(&waiter.0) as Arc<dyn AnySlot>)), encode: None }
    }

    /// Answers. Never waits.
    ///
    /// If the answer does not travel to a far caller (too long, not encodable), the caller is told that, and that the
    /// call was executed.
    pub fn send(mut self, answer: R) {
        match (self.route.take(), self.encode) {
            (Some(Route::Near(slot)), _) => {
                match (Arc::clone(&slot) as Arc<dyn Any + Send + Sync>).downcast() {
                    Ok(slot) => Slot::<R>::settle(&slot, Ok(answer)),
                    Err(_) => slot.fail(CallFailure::Codec("an answer to another request".into())),
                }
            }
            (Some(Route::Far(callers, call)), Some(encode)) => {
                callers.answer(call, &mut |codec, max, out| encode(codec, &answer, max, out));
            }
            // `Untyped` has no values, so this is never reached.
            (Some(Route::Far(callers, call)), None) => callers.give_no_answer(call),
            (None, _) => {}
        }
    }
}

impl<R> Reply<R> {
    /// Refuses the call, with a text that the caller may see. The call counts as *not executed*.
    pub fn refuse(mut self, public: &str) {
        match self.route.take() {
            Some(Route::Near(slot)) => slot.fail(CallFailure::Refused(public.into())),
            Some(Route::Far(callers, call)) => callers.refuse(call, public),
            None => {}
        }
    }

    /// Waits until nobody waits for the answer any more: the caller gave up, ended, or its deadline passed. A dropped
    /// future loses nothing.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + '_ {
        poll_fn(|cx| {
            let coop = ready!(poll_proceed(cx));
            match &self.route {
                Some(Route::Near(slot)) => ready!(slot.poll_cancelled(cx)),
                Some(Route::Far(callers, call)) => ready!(callers.poll_cancelled(*call, cx)),
                None => {}
            }
            coop.made_progress();
            Poll::Ready(())
        })
    }
}

impl<R> Drop for Reply<R> {
    fn drop(&mut self) {
        match self.route.take() {
            Some(Route::Near(slot)) => settle(move |reason| {
                slot.fail(reason.map_or(CallFailure::NoAnswer, |reason| CallFailure::Exit(reason.clone())));
            }),
            // If the process ended and owns the session, the session has told its end already, and sends this no more.
            Some(Route::Far(callers, call)) => settle(move |_| callers.give_no_answer(call)),
            None => {}
        }
    }
}

impl<R> fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// The caller's end of a local call. Dropped, it gives the call up.
pub(super) struct Waiter<R: Send + 'static>(Arc<Slot<R>>);

impl<R: Send + 'static> Waiter<R> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Slot(Mutex::new(Wait {
            stage: Stage::Queued,
            answer: None,
            caller: None,
            callee: None,
        }))))
    }

    pub(super) fn ticket(&self) -> Arc<dyn Ticket> {
        Arc::clone(&self.0) as Arc<dyn Ticket>
    }

    pub(super) fn answer(&self) -> impl Future<Output = Result<R, CallError>> + Send {
        poll_fn(|cx| {
            let coop = ready!(poll_proceed(cx));
            let mut wait = self.0.lock();
            if let Some(answer) = wait.answer.take() {
                coop.made_progress();
                return Poll::Ready(wait.judge(answer));
            }
            let old = wait.caller.replace(cx.waker().clone());
            drop(wait);
            drop(old);
            Poll::Pending
        })
    }

    /// The time is over. An answer that came in wins.
    pub(super) fn give_up(&self) -> Result<R, CallError> {
        let mut wait = self.0.lock();
        let answer = wait.answer.take().unwrap_or(Err(CallFailure::Deadline));
        let judged = wait.judge(answer);
        wait.stage = Stage::GivenUp;
        judged
    }
}

impl<R: Send + 'static> Drop for Waiter<R> {
    fn drop(&mut self) {
        let mut wait = self.0.lock();
        wait.stage = Stage::GivenUp;
        let (late, callee) = (wait.answer.take(), wait.callee.take());
        drop(wait);
        drop(late);
        if let Some(waker) = callee {
            waker.wake();
        }
    }
}

/// Where the two ends of a local call meet.
struct Slot<R>(Mutex<Wait<R>>);

struct Wait<R> {
    stage: Stage,
    answer: Option<Result<R, CallFailure>>,
    caller: Option<Waker>,
    /// Waits in [`Reply::cancelled`].
    callee: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The message was not taken yet.
    Queued,
    Taken,
    /// Nobody waits.
    GivenUp,
}

impl<R> Wait<R> {
    fn judge(&self, answer: Result<R, CallFailure>) -> Result<R, CallError> {
        answer.map_err(|reason| {
            let executed = match reason {
                _ if self.stage == Stage::Queued => Executed::No,
                CallFailure::Refused(_) => Executed::No,
                CallFailure::Codec(_) => Executed::Yes,
                _ => Executed::Unknown,
            };
            CallError { executed, reason }
        })
    }
}

impl<R> Slot<R> {
    fn lock(&self) -> MutexGuard<'_, Wait<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first ending is the only one; what comes after it, or too late, is dropped.
    fn settle(&self, answer: Result<R, CallFailure>) {
        let mut wait = self.lock();
        if wait.stage == Stage::GivenUp || wait.answer.is_some() {
            drop(wait);
            return;
        }
        wait.answer = Some(answer);
        let caller = wait.caller.take();
        drop(wait);
        if let Some(waker) = caller {
            waker.wake();
        }
    }
}

/// A slot, whatever its type.
trait AnySlot: Any + Send + Sync {
    fn fail(&self, failure: CallFailure);
    fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<()>;
}

impl<R: Send + 'static> AnySlot for Slot<R> {
    fn fail(&self, failure: CallFailure) {
        self.settle(Err(failure));
    }

    fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<()> {
        let mut wait = self.lock();
        if wait.stage == Stage::GivenUp {
            return Poll::Ready(());
        }
        let old = wait.callee.replace(cx.waker().clone());
        drop(wait);
        drop(old);
        Poll::Pending
    }
}

impl<R: Send> Ticket for Slot<R> {
    fn take(&self) -> bool {
        let mut wait = self.lock();
        if wait.stage == Stage::GivenUp {
            return false;
        }
        wait.stage = Stage::Taken;
        true
    }
}
