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
    protocol::{Incompatible, Interface, Receive, Transmit},
    session::{
        CallCounts, CallQuota, Endpoint, FIRST_EPOCH, NotOpened, OpenRequest, Request, StartRefused,
        Unsendable,
    },
    sync,
    wire::{Granted, InterfaceHash, MAX_INTERFACE_LEN, RefuseCode},
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
    /// The service has another protocol than this client. No service was started.
    #[error("the service has another protocol{}", named(difference.as_ref()))]
    OtherProtocol {
        /// The protocol of the service.
        service: Box<Interface>,
        /// The first difference that matters. `None` if the service understands this client nevertheless: ask again, with
        /// the [hash](Interface::to_hash) of `service`.
        difference: Option<Incompatible>,
    },
    /// The login has already asked for the service, with other limits, another codec or other arguments.
    #[error("the login has asked for the service in another way")]
    OtherStart,
}

fn named(difference: Option<&Incompatible>) -> String {
    difference.map_or_else(String::new, |difference| format!(": {difference}"))
}

/// Opens a session as the client: asks for the service with these arguments, and gives the channel to it.
///
/// A process that calls this owns the channel; with `linked` it is linked to the service as well. Spawns the middleman
/// on the current runtime. Dropping the future ends the session.
///
/// If `Out` are the messages of a [protocol](mod@crate::protocol), a service with an incompatible protocol refuses to
/// start.
///
/// # Errors
/// The server's refusal, or the end of the session if it came first. Also fails if the login has asked for the
/// service in another way ([`ClientLogin::start_early`](crate::login::ClientLogin::start_early)).
pub async fn open<In, Out: Transmit, S>(
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
    let request = OpenRequest { interface: interface_of::<Out>(), ..OpenRequest::new(codec, args) };
    open_with(stream, authenticated, limits, &request, linked).await
}

/// Returns the protocol that a client states in its [`OpenRequest`]; `None` if `Out` are no messages of a protocol.
pub fn interface_of<Out: Transmit>() -> Option<InterfaceHash> {
    Out::protocol().map(Interface::to_hash)
}

/// Does what [`open`] does, with everything that a client can ask for except for resume.
///
/// # Errors
/// Those of [`open`].
pub async fn open_with<In, Out: Transmit, S>(
    stream: S,
    authenticated: &Authenticated,
    limits: &Limits,
    request: &OpenRequest<'_>,
    linked: bool,
) -> Result<Channel<In, Out>, OpenError>
where
    S: AsyncBufRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = OpenRequest { resume: Duration::ZERO, ..*request };
    open_from(stream, Once::new(), authenticated, limits, &request, linked).await
}

/// Opens a session as [`open_with`] does, and asks the server to let it survive its connection. If the server agrees,
/// and the connection is lost, the session waits for another one, which `connector` dials.
///
/// # Errors
/// Those of [`open`].
pub async fn open_resumable<In, Out: Transmit, S>(
    stream: S,
    authenticated: &Authenticated,
    limits: &Limits,
    request: &OpenRequest<'_>,
    linked: bool,
    connector: Connector<S>,
) -> Result<Channel<In, Out>, OpenError>
where
    S: AsyncBufRead + AsyncWrite + Unpin + Send + 'static,
{
    open_from(stream, Dialled::new(connector), authenticated, limits, request, linked).await
}

async fn open_from<In, Out: Transmit, N>(
    stream: N::Stream,
    later: N,
    authenticated: &Authenticated,
    limits: &Limits,
    request: &OpenRequest<'_>,
    linked: bool,
) -> Result<Channel<In, Out>, OpenError>
where
    N: Source<Stream: AsyncBufRead + AsyncWrite + Unpin + Send> + Send + 'static,
{
    let mut endpoint = Endpoint::new(authenticated, limits, now());
    let session = endpoint.session_mut();
    let started = session.start(request);
    let cast = |()| request.first.map_or(Ok(()), |first| session.cast(now(), &mut first.to_vec()).map(drop));
    started.and_then(cast).map_err(|error| match error {
        Unsendable::TooLong { max } => OpenError::Args(PayloadError::TooLong { max }),
        Unsendable::Ended(reason) => OpenError::Ended(reason),
        Unsendable::WouldWait | Unsendable::TooManyHandles { .. } => OpenError::Ended(ExitReason::Overload),
    })?;
    if authenticated.early().is_some_and(|early| !session.was_sent(now(), early)) {
        return Err(OpenError::OtherStart);
    }
    let shared = Shared::new(endpoint, limits, authenticated);
    shared.agree(request.codec);
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
        NotOpened::Refused(StartRefused { code: RefuseCode::Interface, text }) => {
            other_protocol(&text, Out::protocol(), request.codec)
        }
        NotOpened::Refused(StartRefused { code: RefuseCode::Codec, text }) => OpenError::Codec(text),
        NotOpened::Refused(StartRefused { text, .. }) => OpenError::Refused(text),
        NotOpened::Ended(reason) => OpenError::Ended(reason),
    })?;
    if let Some(process) = current() {
        shared.own(Some(process), linked);
    }
    Ok(channel)
}

/// Compares the protocol of this client with that of the service, `text`.
fn other_protocol(text: &str, own: Option<&Interface>, codec: Codec) -> OpenError {
    match text.parse::<Interface>() {
        Ok(service) => {
            let difference = own.and_then(|own| service.accepts(own, codec).err());
            OpenError::OtherProtocol { service: Box::new(service), difference }
        }
        Err(error) => {
            let public = format!("the service has another protocol, and its text cannot be read: {error}");
            OpenError::Refused(public.into())
        }
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
    hides_protocol: bool,
    request: Request,
}

impl Opening {
    const fn new(shared: Arc<Shared>, request: Request) -> Self {
        Self { shared, answered: false, hides_protocol: false, request }
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

    /// Keeps the protocol of the service from clients that have another one, or that ask for it.
    pub const fn hide_protocol(&mut self) {
        self.hides_protocol = true;
    }

    /// Checks that the client has the protocol whose messages are `In`, and refuses the request otherwise. A client without
    /// a protocol passes, and so does every client if `In` are no messages of a protocol.
    ///
    /// Call it before anything is started. [`accept`](Self::accept) does not compare protocols.
    ///
    /// # Errors
    /// The reason why the request was refused, for a log.
    pub fn agree<In: Receive>(mut self) -> Result<Self, &'static str> {
        let own = In::protocol();
        let Some(theirs) = self.request.interface.as_deref() else { return Ok(self) };
        let asks = theirs.methods == 0;
        let why = match own {
            None if asks => "the service has no protocol",
            None => return Ok(self),
            Some(own) if own.begins_with(theirs) => return Ok(self),
            Some(_) if self.hides_protocol && asks => "the service does not show its protocol",
            Some(_) if self.hides_protocol => "the service has another protocol, and does not show it",
            Some(own) => {
                let max = self.shared.ask(|session| session.max_payload_len()).min(MAX_INTERFACE_LEN);
                match [Interface::documented, Interface::text]
                    .map(|text| text(own))
                    .into_iter()
                    .find(|text| text.len() <= max)
                {
                    Some(text) => {
                        self.refuse_with(RefuseCode::Interface, &text);
                        return Err(if asks {
                            "it asked for the protocol only"
                        } else {
                            "it has another protocol"
                        });
                    }
                    None => "the service has another protocol, whose text is too long for the client",
                }
            }
        };
        self.refuse_with(RefuseCode::Refused, why);
        Err(why)
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
