//! Opens a session at both ends. [`open`] is the client's side, [`serve`] the server's; both take a stream on which the
//! login is done.

use std::{future::poll_fn, sync::Arc, task::Poll};

use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufRead, AsyncWrite};

use super::Channel;
use crate::{
    ExitReason, Limits,
    handshake::Authenticated,
    middleman::{Driver, Shared, keep, now},
    payload::{self, Codec, PayloadError},
    process::current,
    session::{Endpoint, NotOpened, Request, Unsendable},
    sync,
    wire::RefuseCode,
};

/// Why a session did not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The server refused by name, after the login: the codec, the arguments, or no room. Nothing was started.
    #[error("the server refused: {0}")]
    Refused(Box<str>),
    /// The session ended before there was an answer.
    #[error("the session ended before it was open: {0}")]
    Ended(ExitReason),
    /// The arguments do not fit a frame.
    #[error("invalid arguments: {0}")]
    Args(#[from] PayloadError),
    /// The login has asked for the service already, with other limits, another codec or other arguments.
    #[error("the login has asked for the service in another way")]
    OtherStart,
}

/// Opens a session as the client: asks for the service with these arguments, and gives the channel to it.
///
/// A process that calls this owns the channel; with `linked` it is linked to the service as well. Spawns the middleman
/// on the current runtime. Dropping the future ends the session.
///
/// # Errors
/// When the server refuses by name or the session ends first, or when the login has asked for the service in another way
/// ([`ClientLogin::start_early`](crate::login::ClientLogin::start_early)).
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

/// As [`open`], and casts a first message, encoded in the codec, without waiting for the service: it is there a round
/// trip earlier. Lost if the service does not start.
///
/// # Errors
/// As [`open`].
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
    let mut endpoint = Endpoint::new(authenticated, limits, now());
    let session = endpoint.session_mut();
    let started = session.start(codec, args);
    let cast = |()| first.map_or(Ok(()), |mut first| session.cast(now(), &mut first).map(drop));
    started.and_then(cast).map_err(|error| match error {
        Unsendable::TooLong { max } => OpenError::Args(PayloadError::TooLong { max }),
        Unsendable::Ended(reason) => OpenError::Ended(reason),
        Unsendable::WouldWait => OpenError::Ended(ExitReason::Overload),
    })?;
    if authenticated.early().is_some_and(|early| !session.was_sent(now(), early)) {
        return Err(OpenError::OtherStart);
    }
    let shared = Shared::new(endpoint, limits, authenticated);
    shared.agree(codec);
    let channel = Channel::new(Arc::clone(&shared));
    sync::spawn(Driver::new(stream, Arc::clone(&shared), None::<fn(Arc<Shared>, Request)>));
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
        NotOpened::Refused(refused) => OpenError::Refused(refused.text),
        NotOpened::Ended(reason) => OpenError::Ended(reason),
    })?;
    if let Some(process) = current() {
        shared.own(Some(process), linked);
    }
    Ok(channel)
}

/// Serves a session as the server, in the current task, until it is over and its last words are said. `start` is called
/// once, when the client has said what it wants; it spawns the service's process.
///
/// Returns what ended the session, at whichever end. Dropping the future cuts the connection.
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
    // Boxed: a future keeps room for every place that a value is moved through, for as long as it lives.
    Driver::new(Box::new(stream), shared, Some(Box::new(start)))
}

/// A session whose client has said what it wants, and waits for the service. Dropped, it is refused.
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

    /// How every payload of the session is encoded.
    pub const fn codec(&self) -> Codec {
        self.request.codec
    }

    /// Who is calling: the name of the client's entry, empty under a shared password.
    pub fn client(&self) -> &str {
        self.shared.client()
    }

    /// The service asked for.
    pub fn service(&self) -> &str {
        self.shared.service()
    }

    /// What this end allows, and how long it waits.
    pub fn limits(&self) -> &Limits {
        self.shared.limits()
    }

    /// The client's arguments, `ArgsC`.
    ///
    /// # Errors
    /// When they are not an `A` in the session's codec.
    pub fn args<A: DeserializeOwned>(&self) -> Result<A, PayloadError> {
        payload::decode(self.request.codec, &self.request.args)
    }

    /// What ends this session from outside.
    pub fn control(&self) -> Control {
        Control(Arc::clone(&self.shared))
    }

    /// Starts the service: the process that calls this owns the channel and is linked to the far end; the client is
    /// told.
    pub fn accept<In, Out>(mut self) -> Channel<In, Out> {
        self.answered = true;
        let channel = Channel::new(Arc::clone(&self.shared));
        self.shared.session(|session| session.accept(None, false));
        self.shared.own(current(), true);
        channel
    }

    /// Refuses because the codec is not one that the service speaks; `public` says which it does.
    pub fn refuse_codec(mut self, public: &str) {
        self.refuse_with(RefuseCode::Codec, public);
    }

    /// Refuses for want of room.
    pub fn refuse_overload(mut self, public: &str) {
        self.refuse_with(RefuseCode::Overload, public);
    }

    /// Refuses with words that the client may see.
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

/// Acts on a session from outside of its processes: for a server that drains, shuts down or revokes a right.
#[derive(Clone, Debug)]
pub struct Control(Arc<Shared>);

impl Control {
    /// Tells the far end that this one will end the session soon. Ends nothing by itself.
    pub fn go_away(&self) {
        self.0.session(|session| session.go_away());
    }

    /// Ends the session for both ends with this reason.
    pub fn end(&self, reason: ExitReason) {
        self.0.shut_down(reason);
    }
}
