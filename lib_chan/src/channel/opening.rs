//! Opens a session at both ends. [`open`] is the client's side, [`serve`] the server's; both take a stream on which the
//! login is done.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncWrite};

use super::{
    Channel,
    later::{Claimed, Dialled},
    resume::{Attachments, Change, Connector, Served},
};
use crate::{
    ExitReason, Limits,
    handshake::Authenticated,
    middleman::{Driver, Once, Shared, Source, keep, now},
    payload::{self, Codec, PayloadError},
    process::current,
    session::{CallCounts, CallQuota, Endpoint, FIRST_EPOCH, NotOpened, Request, StartRefused, Unsendable},
    sync,
    wire::{Granted, RefuseCode},
};

/// The reason why a session did not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The server refused after the login, for example for lack of room. No service was started.
    #[error("the server refused: {0}")]
    Refused(Box<str>),
    /// The service does not speak the codec, or cannot decode the arguments. It was not started.
    #[error("the server refused: {0}")]
    Codec(Box<str>),
    /// The session ended before the server answered.
    #[error("the session ended before it was open: {0}")]
    Ended(ExitReason),
    /// The arguments do not fit a frame.
    #[error("invalid arguments: {0}")]
    Args(#[from] PayloadError),
    /// The login has already asked for the service, with other limits, another codec or other arguments.
    #[error("the login has asked for the service in another way")]
    OtherStart,
}

/// Opens a session as the client: asks for the service with these arguments, and gives the channel to it.
///
/// A process that calls this owns the channel; with `linked` it is linked to the service as well. Spawns the middleman
/// on the current runtime. Dropping the future ends the session.
///
/// # Errors
/// The server's refusal, or the end of the session if it came first. Also fails if the login has asked for the
/// service in another way ([`ClientLogin::start_early`](crate::login::ClientLogin::start_early)).
pub async fn open<In, Out, S>(
    stream: S,
    authenticated: &Authenticated,
    limits: &Limits,
    codec: Codec,
    args: &[u8],
    linked: bool,
) -> Result<Channel<In, Out>, OpenError>
where
    S: AsyncBufRead + AsyncWrite + Unpin + Send + 'static,
{
    open_casting(stream, authenticated, limits, codec, args, None, linked).await
}

/// Does what [`open`] does, and casts a first message, encoded in the codec, without waiting for the service. The
/// message arrives a round trip earlier. It is lost if the service does not start.
///
/// # Errors
/// Those of [`open`].
pub async fn open_casting<In, Out, S>(
    stream: S,
    authenticated: &Authenticated,
    limits: &Limits,
    codec: Codec,
    args: &[u8],
    first: Option<Vec<u8>>,
    linked: bool,
) -> Result<Channel<In, Out>, OpenError>
where
    S: AsyncBufRead + AsyncWrite + Unpin + Send + 'static,
{
    let ask = OpenRequest { codec, args, first, linked, window: Duration::ZERO };
    ask.open(stream, Once::new(), authenticated, limits).await
}

/// The way in which a client resumes its session after the connection is lost.
pub struct Resume<S> {
    /// The time that the session should survive without a connection. The server may grant less, or nothing.
    pub window: Duration,
    /// Dials the next connection.
    pub connector: Connector<S>,
}

/// Opens a session as [`open_casting`] does, and asks the server to let it survive its connection. If the server agrees,
/// and the connection is lost, the session waits for another one.
///
/// # Errors
/// Those of [`open`].
#[expect(clippy::too_many_arguments, reason = "those of `open_casting`, and the way to resume")]
pub async fn open_resumable<In, Out, S>(
    stream: S,
    authenticated: &Authenticated,
    limits: &Limits,
    codec: Codec,
    args: &[u8],
    first: Option<Vec<u8>>,
    linked: bool,
    resume: Resume<S>,
) -> Result<Channel<In, Out>, OpenError>
where
    S: AsyncBufRead + AsyncWrite + Unpin + Send + 'static,
{
    let ask = OpenRequest { codec, args, first, linked, window: resume.window };
    ask.open(stream, Dialled::new(resume.connector), authenticated, limits).await
}

/// The wishes of a client for its session.
struct OpenRequest<'a> {
    codec: Codec,
    args: &'a [u8],
    /// A message to cast at once.
    first: Option<Vec<u8>>,
    linked: bool,
    window: Duration,
}

impl OpenRequest<'_> {
    async fn open<In, Out, N>(
        self,
        stream: N::Stream,
        later: N,
        authenticated: &Authenticated,
        limits: &Limits,
    ) -> Result<Channel<In, Out>, OpenError>
    where
        N: Source<Stream: AsyncBufRead + AsyncWrite + Unpin + Send> + Send + 'static,
    {
        let Self { codec, args, first, linked, window } = self;
        let mut endpoint = Endpoint::new(authenticated, limits, now());
        let session = endpoint.session_mut();
        session.ask_resume(window);
        let started = session.start(codec, args);
        let cast = |()| first.map_or(Ok(()), |mut first| session.cast(now(), &mut first).map(drop));
        started.and_then(cast).map_err(|error| match error {
            Unsendable::TooLong { max } => OpenError::Args(PayloadError::TooLong { max }),
            Unsendable::Ended(reason) => OpenError::Ended(reason),
            Unsendable::WouldWait | Unsendable::TooManyHandles { .. } => {
                OpenError::Ended(ExitReason::Overload)
            }
        })?;
        if authenticated.early().is_some_and(|early| !session.was_sent(now(), early)) {
            return Err(OpenError::OtherStart);
        }
        let shared = Shared::new(endpoint, limits, authenticated);
        shared.agree(codec);
        let channel = Channel::new(Arc::clone(&shared));
        sync::spawn(Driver::new(stream, later, Arc::clone(&shared), None::<fn(Arc<Shared>, Request)>));
        let mut place = 0;
        poll_fn(|cx| {
            shared.with(|endpoint| match endpoint.session_mut().poll_open() {
                Some(result) => Poll::Ready(result),
                None => {
                    endpoint.watch(&mut place, keep(cx));
                    Poll::Pending
                }
            })
        })
        .await
        .map_err(|error| match error {
            NotOpened::Refused(StartRefused { code: RefuseCode::Codec, text }) => OpenError::Codec(text),
            NotOpened::Refused(StartRefused { text, .. }) => OpenError::Refused(text),
            NotOpened::Ended(reason) => OpenError::Ended(reason),
        })?;
        if let Some(process) = current() {
            shared.own(Some(process), linked);
        }
        Ok(channel)
    }
}

/// Serves a session as the server, in the current task, until it is over and its last words are written. When the
/// client's request has come, calls `start` once, which spawns the process of the service.
///
/// Returns the reason that ended the session, at whichever end. Dropping the future cuts the connection.
pub fn serve<S>(
    stream: S,
    authenticated: &Authenticated,
    limits: &Limits,
    start: impl FnOnce(Opening) + Send,
) -> impl Future<Output = ExitReason> + Send
where
    S: AsyncBufRead + AsyncWrite + Unpin + Send,
{
    let shared = Shared::new(Endpoint::new(authenticated, limits, now()), limits, authenticated);
    let start = |shared, request| start(Opening::new(shared, request));
    // Boxed, because a future keeps room for each place through which a value is moved, for as long as it lives.
    Driver::new(Box::new(stream), Once::new(), shared, Some(Box::new(start)))
}

/// Serves a session as [`serve`] does, and lets it continue on later connections, if [`Opening::grant`] is called.
///
/// `first` are the bytes of the stream that were read before. `attachments` are the later connections: the client of
/// each has logged in again and proved that the session is its own. `changed` is called with each change of the
/// connection.
///
/// Dropping the future cuts the connection and ends the session.
pub fn serve_resumable<S>(
    stream: S,
    first: &[u8],
    authenticated: &Authenticated,
    limits: &Limits,
    attachments: Attachments<Box<S>>,
    changed: impl FnMut(Change) + Send + Unpin,
    start: impl FnOnce(Opening) + Send,
) -> impl Future<Output = Served> + Send
where
    S: AsyncBufRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Shared::new(Endpoint::new(authenticated, limits, now()), limits, authenticated);
    // `first` is never a whole `Start`, so there is no error to report.
    shared.handle_bytes(FIRST_EPOCH, now(), first);
    let start = |shared, request| start(Opening::new(shared, request));
    let later = Claimed::new(attachments, changed);
    let driver = Driver::new(Box::new(stream), later, Arc::clone(&shared), Some(Box::new(start)));
    async move {
        let reason = driver.await;
        shared.with(|endpoint| Served {
            reason,
            expired: endpoint.has_expired(),
            tombstone: endpoint.tombstone(),
        })
    }
}

/// A session whose client has sent its request, and waits for the service. Dropping it refuses the request.
#[derive(Debug)]
#[must_use = "the client waits"]
pub struct Opening {
    shared: Arc<Shared>,
    answered: bool,
    request: Request,
}

impl Opening {
    const fn new(shared: Arc<Shared>, request: Request) -> Self {
        Self { shared, answered: false, request }
    }

    /// Returns the codec of every payload of the session.
    pub const fn codec(&self) -> Codec {
        self.request.codec
    }

    /// Returns the name of the client's entry; empty under a shared password.
    pub fn client(&self) -> &str {
        self.shared.terms().client()
    }

    /// Returns the name of the service.
    pub fn service(&self) -> &str {
        self.shared.terms().service()
    }

    /// Returns the limits of this end.
    pub fn limits(&self) -> &Limits {
        self.shared.terms().limits()
    }

    /// Returns the client's arguments, `ArgsC`.
    ///
    /// # Errors
    /// The arguments are not an `A` in the codec of the session.
    pub fn args<A: DeserializeOwned>(&self) -> Result<A, PayloadError> {
        payload::decode(self.request.codec, &self.request.args)
    }

    /// Returns the time that the client asks the session to survive without a connection; zero for no resume.
    pub const fn wants_resume(&self) -> Duration {
        self.request.resume
    }

    /// Lets the client resume the session with this name and secret, within this time. Must be called before
    /// [`accept`](Self::accept), and only if the client [asks](Self::wants_resume) for it.
    pub fn grant(&mut self, granted: Granted) {
        self.shared.session(|session| session.grant(granted));
    }

    /// Puts the calls of the client under this bound, which sessions may share.
    pub fn limit_calls(&self, quota: Arc<dyn CallQuota>) {
        self.shared.session(|session| session.limit_calls(quota));
    }

    /// Returns a handle that ends this session from outside.
    pub fn control(&self) -> Control {
        Control(Arc::clone(&self.shared))
    }

    /// Starts the service, and tells the client. The calling process owns the channel and is linked to the far end.
    pub fn accept<In, Out>(mut self) -> Channel<In, Out> {
        self.answered = true;
        let channel = Channel::new(Arc::clone(&self.shared));
        self.shared.session(|session| session.accept(None, false));
        self.shared.own(current(), true);
        channel
    }

    /// Refuses the codec. `public` tells the client which codecs the service supports.
    pub fn refuse_codec(mut self, public: &str) {
        self.refuse_with(RefuseCode::Codec, public);
    }

    /// Refuses for lack of room.
    pub fn refuse_overload(mut self, public: &str) {
        self.refuse_with(RefuseCode::Overload, public);
    }

    /// Refuses with a text that the client may see.
    pub fn refuse(mut self, public: &str) {
        self.refuse_with(RefuseCode::Refused, public);
    }

    fn refuse_with(&mut self, code: RefuseCode, public: &str) {
        if !std::mem::replace(&mut self.answered, true) {
            self.shared.session(|session| session.refuse_start(code, public));
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.refuse_with(RefuseCode::Refused, "the service did not start");
    }
}

/// A snapshot of a session, from [`Control::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Calls of the other end, by ending.
    pub calls: CallCounts,
    /// Calls of the other end that are not answered.
    pub calls_in_flight: usize,
    /// Messages that the owner has not taken: those of the other end, and those in the mailbox of the owner if it is a
    /// process.
    pub mailbox_len: u64,
    /// Bytes of messages of the other end that no process has taken.
    pub mailbox_bytes: u64,
    /// Bytes that the connection has not accepted.
    pub unsent_bytes: u64,
}

/// Ends, drains or watches a session from outside of its processes: for a server that drains, shuts down or revokes a
/// right.
#[derive(Clone, Debug)]
pub struct Control(Arc<Shared>);

impl Control {
    /// Tells the far end that this end will end the session soon. The session continues.
    pub fn go_away(&self) {
        self.0.session(|session| session.go_away());
    }

    /// Describes the session.
    pub fn stats(&self) -> SessionStats {
        let (owner, stats) = self.0.ask(|session| {
            let (messages, mailbox_bytes) = session.untaken();
            let stats = SessionStats {
                calls: session.call_counts(),
                calls_in_flight: session.calls_in_flight(),
                mailbox_len: messages as u64,
                mailbox_bytes,
                unsent_bytes: session.unsent() as u64,
            };
            (session.owner().cloned(), stats)
        });
        let own = owner.and_then(|owner| owner.info()).map_or(0, |info| info.mailbox_len);
        SessionStats { mailbox_len: stats.mailbox_len + own, ..stats }
    }

    /// Ends the session for both ends with this reason.
    pub fn end(&self, reason: ExitReason) {
        self.0.shut_down(reason);
    }
}
