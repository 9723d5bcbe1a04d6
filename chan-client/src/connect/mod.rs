//! From a URL to a channel.

mod attempt;
mod connector;
mod error;
mod keep;
mod redial;
mod retry;
mod step;

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lib_chan::channel::{InterfaceHash, OpenError, OpenRequest, interface_of, open_resumable, open_with};
use lib_chan::payload::{Codec, PayloadError, encode};
use lib_chan::protocol::{Interface, Protocol, Transmit};
use lib_chan::secret::{Password, PrivateKey};
use lib_chan::wire::Frame;
use lib_chan::{Channel, ExitReason, Limits, Remote};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use self::connector::{Connector, Early, First, OwnedCredential};
pub use self::error::{ConnectError, UsageError};
use self::redial::OnRedial;
pub use self::step::{Ping, Step};
#[cfg(feature = "cli")]
pub(crate) use self::{connector::random_fraction, retry::Backoff};
use crate::known_hosts::KnownHosts;
use crate::url::{ChanUrl, UrlError};

/// Prepares a connection to a service.
///
/// Does not connect until [`open`](Connect::open) or [`ping`](Connect::ping) is called. They also report an invalid URL.
pub fn connect<'c, U>(url: U) -> Connect<'c>
where
    U: TryInto<ChanUrl>,
    UrlError: From<U::Error>,
{
    Connect {
        url: url.try_into().map_err(UrlError::from),
        credential: None,
        codec: Codec::Bincode,
        args: Box::new(|codec| encoded(codec, &())),
        first: Box::new(|| None),
        linked: false,
        limits: Limits::default(),
        timeout: None,
        wait: Duration::ZERO,
        resume: Duration::ZERO,
        accept_new: false,
        known_hosts: None,
        on_step: Box::new(|_| {}),
        on_redial: Arc::new(|_: &ConnectError, _| {}),
    }
}

/// The settings of a connection that is not yet open. Made by [`connect`].
#[must_use = "does not connect until `open` is called"]
pub struct Connect<'c> {
    url: Result<ChanUrl, UrlError>,
    credential: Option<OwnedCredential>,
    codec: Codec,
    args: Box<dyn Fn(Codec) -> Result<Vec<u8>, PayloadError> + Send + Sync + 'c>,
    first: Box<First<'c>>,
    linked: bool,
    limits: Limits,
    timeout: Option<Duration>,
    wait: Duration,
    resume: Duration,
    accept_new: bool,
    known_hosts: Option<KnownHosts>,
    on_step: Box<dyn Fn(Step) + Send + Sync + 'c>,
    on_redial: Arc<OnRedial>,
}

impl<'c> Connect<'c> {
    /// Logs in with a password, given by value or by reference.
    ///
    /// The first login with a [`Password`] derives a key, which costs some tenths of a second and 64 MiB. The password
    /// and its clones remember the key.
    pub fn password(mut self, password: impl Borrow<Password>) -> Self {
        self.credential = Some(OwnedCredential::Password(password.borrow().clone()));
        self
    }

    /// Logs in with a private key, given by value or by reference.
    pub fn key(mut self, key: impl Borrow<PrivateKey>) -> Self {
        self.credential = Some(OwnedCredential::Key(key.borrow().clone()));
        self
    }

    /// Sets the arguments with which the service is started, its `ArgsC`. Default `()`.
    pub fn args<A: Serialize + Sync>(mut self, args: &'c A) -> Self {
        self.args = Box::new(move |codec| encoded(codec, args));
        self
    }

    /// Sets arguments that are already encoded in the codec of the session.
    pub fn encoded_args(mut self, args: Vec<u8>) -> Self {
        self.args = Box::new(move |_| Ok(args.clone()));
        self
    }

    /// Casts a first message right behind the request for the service, encoded. `first` is called when it is about to be
    /// sent, perhaps twice, and must return the same each time.
    #[cfg(feature = "cli")]
    pub(crate) fn first(mut self, first: impl Fn() -> Option<Vec<u8>> + Send + Sync + 'c) -> Self {
        self.first = Box::new(first);
        self
    }

    /// Sets the codec of the session. Default [`Codec::Bincode`].
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Links the service to the process that opens the channel, so that each ends with the other. Off by default,
    /// because a linked process loses answers that arrive just before the end.
    pub fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    /// Sets the limits of this end. Default [`Limits::default`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Bounds the whole of [`open`](Self::open) or [`ping`](Self::ping).
    ///
    /// By default only the parts are bounded: [`dial_timeout`](Limits::dial_timeout), then
    /// [`tls_timeout`](Limits::tls_timeout) and [`login_timeout`](Limits::login_timeout). Two waits are then unbounded:
    /// for other logins of this program that derive keys, and for the start of the service while its server answers
    /// pings.
    ///
    /// A server that has too many logins closes a connection before TLS. The client then tries again after a random
    /// time, which grows from at most 0.2 s to at most 2 s, until this timeout has passed (by default, until
    /// [`login_timeout`](Limits::login_timeout) has).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Waits up to `wait` for a server that cannot be reached, so that clients and servers may start in any order. Default
    /// zero.
    ///
    /// While the error is [transient](ConnectError::is_transient), the client tries all servers of the URL again after
    /// random times, which grow from at most 0.2 s to at most 2 s. Every attempt resolves host names anew. The wait counts
    /// against [`timeout`](Self::timeout), and does not cover the start of the service.
    pub fn wait_for_server(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Lets the session survive the loss of its connection for up to `window`, if the server agrees. The server may grant
    /// less, or nothing. Default zero: the session ends with its connection.
    ///
    /// The client then dials again: at once, and after random times which grow from at most 0.1 s to at most 30 s. It tries
    /// all servers of the URL, resolves host names anew and logs in again each time. Meanwhile casts and calls wait, the
    /// time for calls runs on, and links and monitors see nothing. Every message arrives once and in order. See
    /// [`Remote::connection`](lib_chan::Remote::connection).
    ///
    /// The session ends with `NoConnection` when the window is over. It ends at once with `Revoked` if the server refuses
    /// the login, and with `Failed` if the server is not the expected one. [`on_redial`](Self::on_redial) says why there is
    /// no connection.
    ///
    /// A client program that is killed cannot say goodbye. The service learns that only at the end of the window.
    pub fn resume(mut self, window: Duration) -> Self {
        self.resume = window;
        self
    }

    /// Sets whether to accept the key of a server never seen before, with [`Trust::Tofu`](crate::trust::Trust::Tofu).
    /// Default `false`. An accepted key is saved once the server has let the client in.
    pub fn accept_new(mut self, accept_new: bool) -> Self {
        self.accept_new = accept_new;
        self
    }

    /// Sets the file of known keys for [`Trust::Tofu`](crate::trust::Trust::Tofu). Default [`KnownHosts::of_user`].
    pub fn known_hosts(mut self, known_hosts: KnownHosts) -> Self {
        self.known_hosts = Some(known_hosts);
        self
    }

    /// Calls `on_step` with each [`Step`] that the connection reaches. `on_step` must not block.
    pub fn on_step(mut self, on_step: impl Fn(Step) + Send + Sync + 'c) -> Self {
        self.on_step = Box::new(on_step);
        self
    }

    /// Calls `on_redial` with each error that keeps a session with [`resume`](Self::resume) from its next connection, and the
    /// time until the next attempt. That time is `None` if another attempt is hopeless, and the session ends.
    ///
    /// `on_redial` must not block. It is called by the session, which may live longer than the call of
    /// [`open`](Self::open).
    pub fn on_redial(
        mut self,
        on_redial: impl Fn(&ConnectError, Option<Duration>) + Send + Sync + 'static,
    ) -> Self {
        self.on_redial = Arc::new(on_redial);
        self
    }

    /// Connects, checks the server's identity, logs in, and starts the service.
    ///
    /// The channel belongs to the process that calls this, or to no process if it is called elsewhere. Dropping the
    /// future closes the connection; a service that had started learns that its client is gone.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no channel. Its variant says who can do something about it.
    pub async fn open<In, Out: Transmit>(self) -> Result<Channel<In, Out>, ConnectError> {
        self.open_again().await
    }

    /// Does what [`open`](Self::open) does for a service with the protocol of `M`, and returns the sending half, on which the
    /// methods of the protocol are called.
    ///
    /// The session ends when the last clone of the remote is dropped. [`Remote::close`] also waits until everything has
    /// arrived. Messages that the service sends to the session itself are discarded, or refused if they are calls; those to
    /// processes that the client has sent it arrive.
    ///
    /// ```no_run
    /// use chan_client::connect;
    /// use lib_chan::{protocol, secret::Password};
    ///
    /// /// A store of names.
    /// #[protocol]
    /// pub trait Names {
    ///     /// Returns the value of `key`.
    ///     async fn lookup(key: String) -> Option<String>;
    /// }
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let password = Password::from_file("names.password")?;
    /// let url = "chan://example.net:1234/names?system";
    /// let names = connect(url).password(password).open_remote::<NamesMessage>().await?;
    /// println!("{:?}", names.lookup("joe").await?);
    /// names.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), such as [`ConnectError::OtherProtocol`].
    pub async fn open_remote<M: Protocol>(self) -> Result<Remote<M>, ConnectError> {
        Ok(self.open::<(), M>().await?.into_remote())
    }

    async fn open_again<In, Out: Transmit>(&self) -> Result<Channel<In, Out>, ConnectError> {
        let args = (self.args)(self.codec).map_err(UsageError::Args)?;
        let mut request = OpenRequest {
            resume: self.resume,
            interface: interface_of::<Out>(),
            ..OpenRequest::new(self.codec, &args)
        };
        within(self.timeout, async {
            let opened = match self.ask(&request).await? {
                // The service understands this client nevertheless, and starts for one that says so.
                Err(OpenError::OtherProtocol { service, difference: None }) => {
                    request.interface = Some(service.to_hash());
                    self.ask(&request).await?
                }
                opened => opened,
            };
            opened.map_err(ConnectError::from)
        })
        .await
    }

    /// Returns the protocol of the service, with its docs, and starts nothing.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open). The service refuses with [`ConnectError::RefusedByName`] if it has no protocol, or
    /// keeps it to itself.
    pub async fn describe(self) -> Result<Interface, ConnectError> {
        let request =
            OpenRequest { interface: Some(InterfaceHash::ASK), ..OpenRequest::new(Codec::Json, b"null") };
        within(self.timeout, async {
            match self.ask::<(), ()>(&request).await? {
                Err(OpenError::OtherProtocol { service, .. }) => Ok(*service),
                Err(error) => Err(error.into()),
                Ok(_) => Err(ConnectError::Ended(ExitReason::Protocol)),
            }
        })
        .await
    }

    /// Logs in, and asks for the service.
    async fn ask<In, Out: Transmit>(
        &self,
        request: &OpenRequest<'_>,
    ) -> Result<Result<Channel<In, Out>, OpenError>, ConnectError> {
        let connector = self.connector()?;
        let early = Early { request: *request, first: &*self.first };
        let login = connector.login(Some(early), &*self.on_step).await?;
        let first = (self.first)();
        let request = OpenRequest { first: first.as_deref(), ..*request };
        let (stream, authenticated) = (login.stream, &login.authenticated);
        Ok(if request.resume.is_zero() {
            open_with(stream, authenticated, &self.limits, &request, self.linked).await
        } else {
            let connector = redial::connector(connector, Arc::clone(&self.on_redial));
            open_resumable(stream, authenticated, &self.limits, &request, self.linked, connector).await
        })
    }

    /// Connects, checks the server's identity, logs in, and disconnects without starting the service.
    ///
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open), except for the errors of the service itself.
    pub async fn ping(self) -> Result<Ping, ConnectError> {
        let connector = self.connector()?;
        within(self.timeout, async {
            let began = Instant::now();
            let mut login = connector.login(None, &*self.on_step).await?;
            let took = began.elapsed();
            // The answer is known. A goodbye that the server does not get changes nothing.
            let mut last = Vec::new();
            Frame::Ended { taken: 0, reason: ExitReason::Normal }.put(&mut last);
            drop(login.stream.write_all(&last).await.and(login.stream.shutdown().await));
            Ok(Ping {
                authority: login.authority,
                took,
                pin: login.pin,
                parameters: login.authenticated.parameters(),
            })
        })
        .await
    }

    fn connector(&self) -> Result<Connector, ConnectError> {
        Ok(Connector {
            url: self.url.as_ref().map_err(Clone::clone)?.clone(),
            credential: self.credential.clone().ok_or(UsageError::NoCredential)?,
            limits: self.limits.clone(),
            timeout: self.timeout,
            busy: self.timeout.unwrap_or(self.limits.login_timeout),
            wait: self.wait,
            accept_new: self.accept_new,
            known_hosts: self.known_hosts.clone(),
        })
    }
}

impl fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("url", &self.url).finish_non_exhaustive()
    }
}

async fn within<T>(
    time: Option<Duration>,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    match time {
        Some(time) => timeout(time, work).await.unwrap_or(Err(ConnectError::Deadline)),
        None => work.await,
    }
}

fn encoded<A: Serialize>(codec: Codec, args: &A) -> Result<Vec<u8>, PayloadError> {
    let mut bytes = Vec::new();
    encode(codec, args, &mut bytes)?;
    Ok(bytes)
}
