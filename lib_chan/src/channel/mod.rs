//! The two halves of a session, as users hold them: [`Channel`] receives, and [`Remote`] sends. [`open`] and
//! [`serve`] make them from a stream on which the login is done.

mod broadcast;
mod feed;
mod forwarding;
mod given;
mod handed;
mod handles;
mod later;
mod opening;
mod remote;
mod reply;
mod resume;
mod typed;

use std::{
    fmt,
    future::poll_fn,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll, ready},
};

pub use self::given::Incoming;
#[doc(hidden)]
pub use self::handed::Handed;
use self::{given::Given, handles::with_handles, remote::Handle};
pub use self::{
    opening::{
        Control, OpenError, Opening, SessionStats, interface_of, open, open_resumable, open_with, serve,
        serve_resumable,
    },
    remote::Remote,
    resume::{
        Attacher, Attachments, Change, Connected, Connecting, Connector, First, Served, attachments,
        hear_first, say_lost,
    },
};
pub use crate::session::{CallCounts, CallPlace, CallQuota, OpenRequest, OverQuota};
pub use crate::wire::InterfaceHash;
use crate::{
    Address, ExitReason, Limits, Message, Reply,
    middleman::{Shared, keep, now},
    payload::{self, Borrowable, PayloadError},
    process::{Owned, current, current_id, poll_proceed, poll_proceed_shortly, settle},
    protocol::Receive,
    session::{Inbound, InboundKind, Next, Reader},
    wire::RefuseCode,
};

/// The receiving half of a session: returns the messages of the far end in order, and then `None`.
///
/// The process that opened the channel or last received from it owns the session. When the owner ends, the session ends
/// with the same reason. When the channel is dropped otherwise, the session ends with `Normal`. Unread messages are lost
/// then, and the far end can tell which calls were not executed.
///
/// `In` is the type of received messages, and `Out` that of the messages that [`remote`](Self::remote) sends.
///
/// ```
/// use lib_chan::{Channel, ExitReason, Message};
///
/// /// Collects the texts of the far end until it ends the session.
/// async fn collect(mut chan: Channel<String>) -> Result<Vec<String>, ExitReason> {
///     let remote = chan.remote();
///     let mut texts = Vec::new();
///     while let Some(message) = chan.recv().await {
///         match message {
///             Message::Cast(text) => texts.push(text),
///             Message::Call(_, reply) => reply.refuse("casts only"),
///         }
///     }
///     match remote.ended().await {
///         ExitReason::Normal => Ok(texts),
///         reason => Err(reason),
///     }
/// }
/// ```
pub struct Channel<In, Out = In> {
    /// `None` once the channel was consumed.
    held: Option<Held>,
    types: PhantomData<fn(Out) -> In>,
}

/// The hold of a channel on its session.
struct Held {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
    reader: Reader,
    /// The number of the process that owns the session; 0 for none.
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

    /// Returns the name of the client's entry in the server's configuration; empty under a shared password.
    pub fn client(&self) -> &str {
        self.shared().terms().client()
    }

    /// Returns the name of the service.
    pub fn service(&self) -> &str {
        self.shared().terms().service()
    }

    /// Returns the limits of this end.
    pub fn limits(&self) -> &Limits {
        self.shared().terms().limits()
    }

    /// Returns the sending half. May be called any number of times.
    pub fn remote(&self) -> Remote<Out> {
        Remote::new(Arc::clone(&self.held().handle))
    }

    /// Continues the session without a receiver: casts from the far end are discarded, and calls are refused.
    ///
    /// The session ends when the last [`Remote`] is dropped: with the reason of the process that drops it if that process
    /// has ended, and with `Normal` otherwise.
    pub fn into_remote(mut self) -> Remote<Out> {
        let remote = self.remote();
        if let Some(Held { shared, reader, .. }) = self.held.take() {
            shared.with(|endpoint| endpoint.live_by_remotes(reader));
        }
        remote
    }

    /// Ends the session with `Normal`, and waits until the far end has confirmed everything that was sent.
    ///
    /// Dropping the future does not stop the close, which continues in the background.
    ///
    /// # Errors
    /// `NoConnection` if the far end made no progress within [`Limits::close_timeout`](crate::Limits::close_timeout) or
    /// the connection was lost. The far end's reason if that end ended the session first, and not with `Normal`.
    pub async fn close(mut self) -> Result<(), ExitReason> {
        let Some(held) = self.held.take() else { return Ok(()) };
        let remote = Remote::<Out>::new(held.handle);
        remote.close().await
    }

    /// Ends the session with this reason, after everything that was sent.
    pub(crate) fn end(mut self, reason: ExitReason) {
        if let Some(held) = self.held.take() {
            held.shared.let_go(reason);
        }
    }
}

impl<In: Receive, Out> Channel<In, Out> {
    /// Returns the next message, or `None` once the session has ended and every message has been read. The reason is in
    /// [`Remote::ended`], and in the exit signal that a linked process gets.
    ///
    /// Messages of a [protocol](mod@crate::protocol) are returned as they are, all others as a [`Message`].
    ///
    /// Waits while more than [`Limits::max_unsent_before_pause`](crate::Limits::max_unsent_before_pause) bytes are unsent,
    /// so that a client cannot fill the memory of a service with answers that it does not read.
    ///
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<In::Item> {
        loop {
            let message =
                poll_fn(|cx| self.held.as_mut().map_or(Poll::Ready(None), |held| held.poll(cx))).await?;
            if let Some(message) = decode::<In>(self.shared(), message) {
                return Some(message);
            }
        }
    }

    /// Gives the channel to a process, which gets every message, and last the end of the session, as `wrap` converts it.
    ///
    /// Unread messages go first. The process becomes the owner, so the session ends with it. From now on everything of
    /// this session, signals included, arrives in that mailbox in the order sent. Its messages are bounded by the
    /// session's credit and do not count against the mailbox's bound.
    ///
    /// # Errors
    /// Returns the channel if the process is not alive.
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
        shared.with(|endpoint| endpoint.own(Some(to.pid()), false));
        shared.processes().set_outlet(Given::outlet(to.clone(), wrap));
        shared.with(|endpoint| endpoint.hand_over(reader));
        Ok(())
    }
}

impl<In: Borrowable, Out> Channel<In, Out> {
    /// Passes the next message to `take` in the form that borrows from the received bytes ([`Borrowable`]), and returns
    /// what `take` returns; `None` as [`recv`](Self::recv) does. A text or bytes cost neither an allocation nor a copy.
    ///
    /// Waits, and takes messages from other ends, as `recv` does. `take` runs in this task and must not block. Dropping
    /// the future loses nothing; `take` is not called then.
    ///
    /// ```
    /// use lib_chan::{Channel, Message};
    ///
    /// /// Counts the bytes of all texts.
    /// async fn count(mut chan: Channel<String>) -> usize {
    ///     let mut bytes = 0;
    ///     while chan
    ///         .recv_with(|message| match message {
    ///             Message::Cast(text) => bytes += text.len(),
    ///             Message::Call(_, reply) => reply.refuse("casts only"),
    ///         })
    ///         .await
    ///         .is_some()
    ///     {}
    ///     bytes
    /// }
    /// ```
    pub async fn recv_with<R>(
        &mut self,
        take: impl for<'a> FnOnce(Message<In::Borrowed<'a>>) -> R,
    ) -> Option<R> {
        loop {
            let Inbound { kind, payload, handles, .. } =
                poll_fn(|cx| self.held.as_mut().map_or(Poll::Ready(None), |held| held.poll(cx))).await?;
            let codec = self.shared().terms().codec();
            let decoded = with_handles(self.shared(), &handles, || payload::decode_borrowed(codec, &payload));
            if let Some(message) = borrowed(self.shared(), &kind, decoded) {
                return Some(take(message));
            }
        }
    }
}

/// Finishes a message that was decoded by borrowing. Returns `None` if it cannot be decoded, or if the caller no
/// longer waits.
fn borrowed<T>(
    shared: &Arc<Shared>,
    kind: &InboundKind,
    decoded: Result<T, PayloadError>,
) -> Option<Message<T>> {
    match (kind, decoded) {
        (InboundKind::Cast, Ok(value)) => Some(Message::Cast(value)),
        (InboundKind::Cast, Err(error)) => {
            end_undecodable(shared, &error);
            None
        }
        (&InboundKind::Call { call }, decoded) => {
            if !wants_answer(shared, call) {
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

/// Returns `true` if the caller still waits for the answer of a call that is about to be taken. Refuses the call otherwise.
fn wants_answer(shared: &Shared, call: u64) -> bool {
    shared.ask(|session| session.is_wanted(call, now()))
        || shared.session(|session| session.wants_answer(call, now()))
}

/// Decodes a message in the task that takes it. Returns `None` if it cannot be decoded, if it is refused, or if the caller
/// no longer waits.
fn decode<In: Receive>(shared: &Arc<Shared>, message: Inbound) -> Option<In::Item> {
    let codec = shared.terms().codec();
    match message.kind {
        InboundKind::Cast => {
            let decoded = with_handles(shared, &message.handles, || In::decode_cast(codec, &message.payload));
            decoded.unwrap_or_else(|error| {
                end_undecodable(shared, &error);
                None
            })
        }
        InboundKind::Call { call } => {
            if !wants_answer(shared, call) {
                return None;
            }
            let reply = || Reply::far(Arc::clone(shared) as _, call);
            let decoded =
                with_handles(shared, &message.handles, || In::decode_call(codec, &message.payload, reply));
            decoded.unwrap_or_else(|error| {
                shared.session(|session| session.refuse(call, RefuseCode::Codec, &error.to_string()));
                None
            })
        }
    }
}

/// Ends the session because a cast cannot be decoded. A cast has no answer that could tell its sender.
fn end_undecodable(shared: &Shared, error: &PayloadError) {
    shared.shut_down(ExitReason::failed(format!("a cast cannot be decoded: {error}")));
}

impl Held {
    /// Polls for the next message; ready with `None` at the end.
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
            // The end of the owner is decided, so this future will not be polled again.
            Next::Closed => Poll::Pending,
        }
    }

    /// Makes the receiving process the owner, because the channel was moved to it. A task that is no process owns
    /// nothing.
    fn adopt(&mut self) {
        self.owner = current_id();
        let linked = self.shared.ask(|session| session.is_linked());
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

#[cfg(test)]
mod tests;
