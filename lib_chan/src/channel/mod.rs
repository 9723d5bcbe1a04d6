//! What the user holds: the receiving half of a session, [`Channel`], and the sending half, [`Remote`].

mod feed;
mod given;
mod handed;
mod remote;
mod reply;

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll, ready},
};

use serde::de::DeserializeOwned;

#[doc(hidden)]
pub use self::handed::Handed;
pub use self::remote::Remote;
use self::{given::Given, remote::Handle};
use crate::{
    Address, ExitReason, Incoming, Limits, Message, Reply,
    middleman::{Shared, keep, now},
    payload,
    process::{Owned, current, current_id, poll_proceed, poll_proceed_shortly, settle},
    session::{Inbound, InboundKind, Next, Reader},
    wire::RefuseCode,
};

/// The receiving half of a session: what the far end sends comes out of it, in order, and then its end.
///
/// It belongs to the process that opened it or last received from it, or to a task that is no process. When that
/// process ends, the session ends with the same reason; when the channel is dropped otherwise, with `Normal`. What is
/// in the channel unread is lost then, and the far end can tell which calls were not executed.
///
/// `In` is what comes, `Out` what [`remote`](Self::remote) sends.
pub struct Channel<In, Out = In> {
    /// Nothing once the channel was given on.
    held: Option<Held>,
    types: PhantomData<fn(Out) -> In>,
}

/// A channel's hold on its session.
struct Held {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    reader: Reader,
    /// The number of the process that owns the session, 0 for none.
    owner: u64,
}

impl<In, Out> Channel<In, Out> {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let handle = Handle::new(&shared);
        let reader = shared.with(|endpoint| endpoint.reader());
        let held = Held { shared, handle, reader, owner: current_id() };
        Self { held: Some(held), types: PhantomData }
    }

    #[expect(clippy::expect_used, reason = "nothing is taken out but by what consumes the channel")]
    fn held(&self) -> &Held {
        self.held.as_ref().expect("a channel holds its session")
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.held().shared
    }

    /// Who is calling: the name of the client's entry in the server's configuration, empty under a shared password.
    pub fn client(&self) -> &str {
        self.shared().client()
    }

    /// The service that this session is with.
    pub fn service(&self) -> &str {
        self.shared().service()
    }

    /// What this end allows, and how long it waits.
    pub fn limits(&self) -> &Limits {
        self.shared().limits()
    }

    /// The sending half; as many as are wanted.
    pub fn remote(&self) -> Remote<Out> {
        Remote::new(Arc::clone(&self.held().handle))
    }

    /// Goes on without a receiver: casts that come are discarded, calls refused. The session ends with the last
    /// [`Remote`], with the reason of the process that drops it if that ends, else with `Normal`.
    pub fn into_remote(mut self) -> Remote<Out> {
        let remote = self.remote();
        if let Some(Held { shared, reader, .. }) = self.held.take() {
            shared.with(|endpoint| endpoint.live_by_remotes(reader));
        }
        remote
    }

    /// Ends the session in good order: waits until the far end has all that was sent, and has said so.
    ///
    /// Dropping the future does not take the end back: it goes on by itself.
    ///
    /// # Errors
    /// `NoConnection` if the far end did not answer in [`Limits::close_timeout`](crate::Limits::close_timeout), or the
    /// connection was lost; the far end's reason if it ended first with another than `Normal`.
    pub async fn close(mut self) -> Result<(), ExitReason> {
        let Some(held) = self.held.take() else { return Ok(()) };
        held.shared.let_go(ExitReason::Normal);
        let mut ended = held.shared.ended();
        let reason = poll_fn(|cx| {
            let coop = ready!(poll_proceed(cx));
            let reason = ready!(ended.poll(cx));
            coop.made_progress();
            Poll::Ready(reason)
        })
        .await;
        if reason == ExitReason::Normal { Ok(()) } else { Err(reason) }
    }

    /// Ends the session with this reason, behind what was sent.
    pub(crate) fn end(mut self, reason: ExitReason) {
        if let Some(held) = self.held.take() {
            held.shared.let_go(reason);
        }
    }
}

impl<In: DeserializeOwned + 'static, Out> Channel<In, Out> {
    /// The next message; `None` when the session has ended and all has been read. Why it ended is what
    /// [`Remote::ended`] says, and the exit signal of a process that is linked.
    ///
    /// Nothing is handed out while more than [`Limits::max_unsent_before_pause`](crate::Limits::max_unsent_before_pause)
    /// bytes are unsent, so a service that only answers cannot be made to fill the memory.
    ///
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<Message<In>> {
        loop {
            let message =
                poll_fn(|cx| self.held.as_mut().map_or(Poll::Ready(None), |held| held.poll(cx))).await?;
            if let Some(message) = open(self.shared(), message) {
                return Some(message);
            }
        }
    }

    /// Gives the channel to a process: `wrap` makes a message of it of what comes, and last of the session's end.
    ///
    /// What has come and was not read goes first; the session's ownership goes with it: it ends with its new owner. From
    /// now on everything of this session, signals included, arrives in that one mailbox in the order sent. It is bounded
    /// by the session's own credit and does not count against the mailbox's bound.
    ///
    /// # Errors
    /// The channel is given back if the process is not alive any more.
    pub fn give_to<M: Send + 'static>(
        mut self,
        to: &Address<M>,
        wrap: impl Fn(Incoming<In>) -> M + Send + Sync + 'static,
    ) -> Result<(), Self> {
        let shared = Arc::clone(self.shared());
        if to.own(Arc::clone(&shared) as Arc<dyn Owned>).is_err() {
            return Err(self);
        }
        let Some(Held { reader, .. }) = self.held.take() else { return Ok(()) };
        let outlet = Given::outlet(&shared, to.clone(), wrap);
        shared.hand_over(to.pid(), outlet, |endpoint| endpoint.hand_over(reader));
        Ok(())
    }
}

/// What a message that a process takes is to it: decoded here, by whoever takes it. Nothing if it cannot be read, or
/// nobody waits for its answer any more.
fn open<In: DeserializeOwned + 'static>(shared: &Arc<Shared>, message: Inbound) -> Option<Message<In>> {
    let decoded = payload::decode_message(shared.codec(), &message.payload);
    match (message.kind, decoded) {
        (InboundKind::Cast, Ok(value)) => Some(Message::Cast(value)),
        (InboundKind::Cast, Err(error)) => {
            // A cast has no answer that could tell its sender, so the end of the session does.
            shared.shut_down(ExitReason::failed(format!("a cast cannot be decoded: {error}")));
            None
        }
        (InboundKind::Call { call }, decoded) => {
            if !shared.session(|session| session.wants_answer(call, now())) {
                return None;
            }
            match decoded {
                Ok(value) => Some(Message::Call(value, Reply::far(Arc::clone(shared) as _, call))),
                Err(error) => {
                    shared.session(|session| session.refuse(call, RefuseCode::Codec, &error.to_string()));
                    None
                }
            }
        }
    }
}

impl Held {
    /// The next message that may be taken; ready with nothing at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Inbound>> {
        let fetch = self.reader.must_fetch();
        let coop = if fetch { Some(ready!(poll_proceed(cx))) } else { None };
        if coop.is_none() {
            ready!(poll_proceed_shortly(cx));
        }
        if self.owner != current_id() {
            self.adopt();
        }
        if let Some(coop) = coop {
            let reader = &mut self.reader;
            if !self.shared.with(|endpoint| endpoint.fetch(reader, keep(cx))) {
                return Poll::Pending;
            }
            coop.made_progress();
        }
        match self.reader.take() {
            Next::Message(message, give_back) => {
                if give_back {
                    self.shared.with(|endpoint| endpoint.give_back());
                }
                Poll::Ready(Some(message))
            }
            Next::Empty => Poll::Ready(None),
            // The owner's end is decided: this future will not be polled again.
            Next::Closed => Poll::Pending,
        }
    }

    /// Whoever receives owns: the channel was moved to another process, or to a task that is none.
    fn adopt(&mut self) {
        self.owner = current_id();
        let linked = self.shared.session(|session| session.is_linked());
        self.shared.own(current(), linked);
    }
}

impl<In, Out> Drop for Channel<In, Out> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            settle(move |reason| held.shared.let_go(reason.cloned().unwrap_or(ExitReason::Normal)));
        }
    }
}

impl<In, Out> fmt::Debug for Channel<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("session", self.shared()).finish_non_exhaustive()
    }
}
