//! Calls: the request determines the type of the answer, and the holder of the [`Reply`] answers.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::current::{poll_proceed, settle};
use super::far::undecodable;
use super::mailbox::Ticket;
use bytes::Bytes;

use crate::payload::{self, Carried, Codec, PayloadError};
use crate::sync::{Mutex, MutexGuard};
use crate::{CallError, CallFailure, Executed};

/// A request whose type determines the type of its answer.
pub trait Call: Serialize + DeserializeOwned {
    /// The type of the answer.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

/// For relays, which do not know the types of the answers that they pass on.
impl Call for crate::Opaque {
    type Reply = Self;
}

/// A cast or a call, as its receiver gets it.
#[derive(Debug)]
pub enum Message<T> {
    /// A message without an answer.
    Cast(T),
    /// A request and its reply. Answer it with `reply.to(&request).send(answer)`.
    Call(T, Reply),
}

/// The type parameter of a [`Reply`] before [`Reply::to`] has given it the type of its answer. It has no values.
#[derive(Debug)]
pub enum Untyped {}

/// The right and the duty to answer one call with an `R`.
///
/// A reply may be moved to another process. If it is dropped without an answer, the caller gets `NoAnswer`; if the
/// process that held it has ended, the caller gets the reason of that end. An answer is dropped if its caller no longer
/// waits.
///
/// ```
/// use std::time::Duration;
/// use lib_chan::{CallFailure, Event, Executed, Process, Reply, spawn};
///
/// # #[tokio::main]
/// # async fn main() {
/// let halves = spawn(async |mut me: Process<(u32, Reply<u32>)>| {
///     while let Event::Message((number, reply)) = me.recv().await {
///         match number % 2 {
///             0 => reply.send(number / 2),
///             _ => reply.refuse("an odd number"),
///         }
///     }
///     Ok(())
/// });
/// let half = async |number| halves.call(Duration::from_secs(5), |reply| (number, reply)).await;
/// assert_eq!(half(8).await, Ok(4));
/// let error = half(7).await.unwrap_err();
/// assert_eq!(error.executed, Executed::No);
/// assert_eq!(error.reason, CallFailure::Refused("an odd number".into()));
/// # }
/// ```
#[must_use = "the caller waits"]
pub struct Reply<R: Send + 'static = Untyped> {
    /// The receiver of the answer; `None` once it was given.
    route: Option<Route<R>>,
}

enum Route<R> {
    Near(Arc<Slot<R>>),
    Far(FarCall, Encode<R>),
}

/// A call of this number, from the far end of a session.
struct FarCall {
    callers: Arc<dyn FarCallers>,
    call: u64,
}

/// The callers at the far end of a session. Each call is answered once.
pub(crate) trait FarCallers: Send + Sync + 'static {
    /// Encodes an answer within the length that the far end accepts, and sends it. Never waits.
    fn answer(&self, call: u64, encode: &mut EncodeAnswer<'_>);

    /// Refuses the call, with a text that the caller may see.
    fn refuse(&self, call: u64, public: &str);

    /// Tells the caller that no answer comes.
    fn give_no_answer(&self, call: u64);

    /// Becomes ready once the caller no longer waits: it gave up, its deadline passed, or its session ended.
    fn poll_cancelled(&self, call: u64, cx: &mut Context<'_>) -> Poll<()>;

    /// Returns whether the caller no longer waits.
    fn is_cancelled(&self, call: u64) -> bool;
}

/// Appends a message or an answer in the given codec, of at most the given number of bytes, to a buffer. Returns the
/// processes in it.
pub(crate) type EncodeAnswer<'a> =
    dyn FnMut(Codec, usize, &mut Vec<u8>) -> Result<Carried, PayloadError> + 'a;

type Encode<R> = fn(Codec, &R, usize, &mut Vec<u8>) -> Result<Carried, PayloadError>;

impl Reply {
    /// Makes a reply to a caller at the far end of a session.
    pub(crate) fn far(callers: Arc<dyn FarCallers>, call: u64) -> Self {
        Self { route: Some(Route::Far(FarCall { callers, call }, |_, never, _, _| match *never {})) }
    }

    /// Gives the reply the type of the answer to `request`.
    pub fn to<Q: Call>(self, _request: &Q) -> Reply<Q::Reply> {
        self.typed()
    }

    /// Gives the reply the type of its answer, which the message of a protocol knows.
    #[doc(hidden)]
    pub fn typed<R: Serialize + Send + 'static>(mut self) -> Reply<R> {
        let route = match self.route.take() {
            Some(Route::Far(call, _)) => Some(Route::Far(call, payload::encode_in_message)),
            Some(Route::Near(_)) | None => None,
        };
        Reply { route }
    }
}

impl<R: Send + 'static> Reply<R> {
    pub(super) fn local(waiter: &Waiter<R>) -> Self {
        Self { route: Some(Route::Near(Arc::clone(&waiter.0))) }
    }

    /// Answers the call. Never waits.
    ///
    /// If the answer to a far caller is too long or cannot be encoded, the caller gets an error that says so, and that
    /// the call was executed.
    pub fn send(mut self, answer: R) {
        match self.route.take() {
            Some(Route::Near(slot)) => slot.settle(Ok(answer)),
            Some(Route::Far(FarCall { callers, call }, encode)) => {
                callers.answer(call, &mut |codec, max, out| encode(codec, &answer, max, out));
            }
            None => {}
        }
    }

    /// Refuses the call, with a text that the caller sees. The call counts as *not executed*.
    pub fn refuse(mut self, public: &str) {
        match self.route.take() {
            Some(Route::Near(slot)) => slot.fail(CallFailure::Refused(public.into())),
            Some(Route::Far(FarCall { callers, call }, _)) => callers.refuse(call, public),
            None => {}
        }
    }

    /// Returns `true` if the caller no longer waits for the answer. A process that keeps replies can then skip the work for
    /// this one.
    pub fn is_cancelled(&self) -> bool {
        match &self.route {
            Some(Route::Near(slot)) => slot.lock().stage == Stage::GivenUp,
            Some(Route::Far(FarCall { callers, call }, _)) => callers.is_cancelled(*call),
            None => true,
        }
    }

    /// Waits until the caller no longer waits for the answer: it gave up or ended, or its deadline passed.
    ///
    /// Dropping the future loses nothing.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + '_ {
        poll_fn(|cx| {
            let coop = ready!(poll_proceed(cx));
            match &self.route {
                Some(Route::Near(slot)) => ready!(slot.poll_cancelled(cx)),
                Some(Route::Far(FarCall { callers, call }, _)) => ready!(callers.poll_cancelled(*call, cx)),
                None => {}
            }
            coop.made_progress();
            Poll::Ready(())
        })
    }
}

impl<R: Serialize + DeserializeOwned + Send + 'static> Reply<R> {
    /// Makes a reply that gets the answer of a call to a far process. The message of a protocol knows its type.
    #[doc(hidden)]
    pub fn pass_on(self) -> PassedReply {
        // The call was sent, so it may be executed from now on.
        if let Some(Route::Near(slot)) = &self.route {
            slot.take();
        }
        PassedReply(Box::new(self))
    }
}

/// A reply to a call that was passed on to a far process.
#[doc(hidden)]
pub struct PassedReply(Box<dyn PassOn>);

impl PassedReply {
    /// Gives the caller the outcome of the call that was passed on.
    pub(super) fn settle(self, outcome: Result<(Codec, &Bytes), CallError>) {
        self.0.settle(outcome);
    }

    pub(super) fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.poll_cancelled(cx)
    }
}

impl fmt::Debug for PassedReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassedReply").finish_non_exhaustive()
    }
}

trait PassOn: Send {
    fn settle(self: Box<Self>, outcome: Result<(Codec, &Bytes), CallError>);
    fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<()>;
}

impl<R: Serialize + DeserializeOwned + Send + 'static> PassOn for Reply<R> {
    fn settle(mut self: Box<Self>, outcome: Result<(Codec, &Bytes), CallError>) {
        let outcome = outcome.and_then(|(codec, answer)| {
            payload::decode_message(codec, answer).map_err(|error| undecodable(&error))
        });
        if let Some(Route::Near(slot)) = &self.route {
            slot.settle_passed(outcome);
            self.route = None;
            return;
        }
        match outcome {
            Ok(answer) => self.send(answer),
            Err(CallError { reason: CallFailure::Refused(text), .. }) => self.refuse(&text),
            // The caller learns that no answer comes.
            Err(_) => {}
        }
    }

    fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.route {
            Some(Route::Near(slot)) => slot.poll_cancelled(cx),
            Some(Route::Far(FarCall { callers, call }, _)) => {
                callers.poll_cancelled(*call, &mut Context::from_waker(cx.waker()))
            }
            None => Poll::Ready(()),
        }
    }
}

impl<R: Send + 'static> Drop for Reply<R> {
    fn drop(&mut self) {
        match self.route.take() {
            Some(Route::Near(slot)) => settle(move |reason| {
                slot.fail(reason.map_or(CallFailure::NoAnswer, |reason| CallFailure::Exit(reason.clone())));
            }),
            // If the process has ended and owned the session, the session has ended too and no longer sends this.
            Some(Route::Far(FarCall { callers, call }, _)) => settle(move |_| callers.give_no_answer(call)),
            None => {}
        }
    }
}

impl<R: Send + 'static> fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

/// The caller's end of a local call. Dropping it gives the call up.
pub(super) struct Waiter<R: Send + 'static>(Arc<Slot<R>>);

impl<R: Send + 'static> Waiter<R> {
    pub(super) fn new() -> Self {
        Self(Arc::new(Slot(Mutex::new(Wait {
            stage: Stage::Queued,
            answer: None,
            executed: None,
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

    /// Gives the call up at its deadline. Returns the answer if one has arrived.
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

/// The state that the two ends of a local call share.
struct Slot<R>(Mutex<Wait<R>>);

struct Wait<R> {
    stage: Stage,
    answer: Option<Result<R, CallFailure>>,
    /// The outcome of a call that was passed on says itself whether it was executed.
    executed: Option<Executed>,
    caller: Option<Waker>,
    /// Waits in [`Reply::cancelled`].
    callee: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The message has not been taken.
    Queued,
    Taken,
    /// The caller no longer waits.
    GivenUp,
}

impl<R> Wait<R> {
    fn judge(&self, answer: Result<R, CallFailure>) -> Result<R, CallError> {
        answer.map_err(|reason| {
            let executed = match reason {
                _ if self.executed.is_some() => self.executed.unwrap_or(Executed::Unknown),
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

    fn lock(&self) -> MutexGuard<'_, Wait<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles a call that was passed on.
    fn settle_passed(&self, outcome: Result<R, CallError>) {
        let executed = outcome.as_ref().err().map(|error| error.executed);
        self.lock().executed = executed;
        self.settle(outcome.map_err(|error| error.reason));
    }

    /// Settles the call once. Drops later endings, and those of a call that was given up.
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
