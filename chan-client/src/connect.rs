//! From a URL to a channel.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lib_chan::auth::Mechanism;
use lib_chan::channel::{OpenError, open};
use lib_chan::dial::{DialError, dial};
use lib_chan::handshake::client::ClientHandshakeError;
use lib_chan::handshake::{Authenticated, SessionParameters};
use lib_chan::login::{ClientLogin, Credential, LoginError};
use lib_chan::payload::{Codec, PayloadError, encode};
use lib_chan::secret::{Password, PrivateKey};
use lib_chan::tls::{Pin, client_config, exporter, spki_sha256};
use lib_chan::wire::Frame;
use lib_chan::{Channel, ExitReason, Limits, after};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::known_hosts::{KnownHosts, KnownHostsError};
use crate::trust::{IdentityError, Trust, TrustError};
use crate::url::{ChanUrl, UrlError};

/// A login that was turned away before TLS is tried again after a random time up to this, and up to twice as long each
/// time after that.
const RETRY_WITHIN: Duration = Duration::from_millis(200);
const MAX_RETRY_WITHIN: Duration = Duration::from_secs(2);
/// A time that is as good as none and can be added to now.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A connection to be made to a service.
///
/// Nothing happens before [`open`](Connect::open) or [`ping`](Connect::ping); a URL that is none is told there.
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
        linked: false,
        limits: Limits::default(),
        timeout: None,
        accept_new: false,
        known_hosts: None,
        on_step: Box::new(|_| {}),
    }
}

/// How a connection is to be made. Made by [`connect`].
#[must_use = "nothing happens before `open`"]
pub struct Connect<'c> {
    url: Result<ChanUrl, UrlError>,
    credential: Option<Credential<'c>>,
    codec: Codec,
    args: Box<dyn Fn(Codec) -> Result<Vec<u8>, PayloadError> + Send + Sync + 'c>,
    linked: bool,
    limits: Limits,
    timeout: Option<Duration>,
    accept_new: bool,
    known_hosts: Option<KnownHosts>,
    on_step: Box<dyn Fn(Step) + Send + Sync + 'c>,
}

impl<'c> Connect<'c> {
    /// Logs in with a password. The first login with this value derives a key, which costs some tenths of a second
    /// and 64 MiB; the value and its clones remember it.
    pub fn password(mut self, password: &'c Password) -> Self {
        self.credential = Some(Credential::Password(password));
        self
    }

    /// Logs in with a private key.
    pub fn key(mut self, key: &'c PrivateKey) -> Self {
        self.credential = Some(Credential::Key(key));
        self
    }

    /// What the service is started with, its `ArgsC`. `()` unless given.
    pub fn args<A: Serialize + Sync>(mut self, args: &'c A) -> Self {
        self.args = Box::new(move |codec| encoded(codec, args));
        self
    }

    /// The same, for arguments that are encoded already in the session's codec.
    pub fn encoded_args(mut self, args: Vec<u8>) -> Self {
        self.args = Box::new(move |_| Ok(args.clone()));
        self
    }

    /// How messages travel. [`Codec::Bincode`] unless given.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Links the service to the process that opens the channel: each ends with the other. Off unless asked for,
    /// since a linked process loses answers that came just before the end.
    pub fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    /// What this end allows, instead of [`Limits::default`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Time for all of it. Unless given, only the parts are bounded: [`dial_timeout`](Limits::dial_timeout), then
    /// [`tls_timeout`](Limits::tls_timeout) and [`login_timeout`](Limits::login_timeout). Waiting for other logins of
    /// this process that derive keys is not, nor is the start of the service while its server answers pings.
    ///
    /// A server that has too many logins closes a connection before TLS. Then the client tries again, after a random
    /// time that grows from 0.2 s to 2 s, as long as this time lasts; unless given, [`login_timeout`](Limits::login_timeout).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// With [`Trust::Tofu`]: whether the key of a server never seen before is accepted, and noted once it has let the
    /// client in. Not unless asked for.
    pub fn accept_new(mut self, accept_new: bool) -> Self {
        self.accept_new = accept_new;
        self
    }

    /// With [`Trust::Tofu`]: where known keys are noted, instead of [`KnownHosts::of_user`].
    pub fn known_hosts(mut self, known_hosts: KnownHosts) -> Self {
        self.known_hosts = Some(known_hosts);
        self
    }

    /// Tells `on_step` what has been reached. It must not block.
    pub fn on_step(mut self, on_step: impl Fn(Step) + Send + Sync + 'c) -> Self {
        self.on_step = Box::new(on_step);
        self
    }

    /// Connects, lets the server prove who it is, logs in, and starts the service.
    ///
    /// The channel belongs to the process that opens it, or to nobody if no process does. A dropped future ends what
    /// had begun; a service that had been started learns that its client is gone.
    ///
    /// # Errors
    ///
    /// There is no channel; the error is sorted by who has to do something about it.
    pub async fn open<In, Out>(self) -> Result<Channel<In, Out>, ConnectError> {
        let args = (self.args)(self.codec).map_err(UsageError::Args)?;
        within(self.timeout, async {
            let (stream, authenticated, _) = self.login().await?;
            let opened = open(stream, &authenticated, &self.limits, self.codec, &args, self.linked).await;
            opened.map_err(|error| match error {
                OpenError::Refused(text) => ConnectError::RefusedByName(text),
                OpenError::Args(error) => UsageError::Args(error).into(),
                OpenError::Ended(ExitReason::NoConnection) => ConnectError::Lost,
                OpenError::Ended(reason) => ConnectError::Ended(reason),
                error => ConnectError::local(error),
            })
        })
        .await
    }

    /// Connects, lets the server prove who it is, logs in, and goes: what a service needs to be reachable, without
    /// starting it.
    ///
    /// A dropped future loses the connection and nothing else.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), but for what the service itself has to say.
    pub async fn ping(self) -> Result<Ping, ConnectError> {
        let Self { timeout, .. } = self;
        within(timeout, async {
            let began = Instant::now();
            let (mut stream, authenticated, pin) = self.login().await?;
            let took = began.elapsed();
            // That is all it was wanted for; that it cannot be closed in good form changes nothing.
            let mut last = Vec::new();
            Frame::Ended { taken: 0, reason: ExitReason::Normal }.put(&mut last);
            drop(stream.write_all(&last).await.and(stream.shutdown().await));
            Ok(Ping { took, pin, parameters: authenticated.parameters() })
        })
        .await
    }
}

impl fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What a [`ping`](Connect::ping) found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ping {
    /// The time from the beginning to the end of the login.
    pub took: Duration,
    /// The server's key.
    pub pin: Pin,
    /// What the server says about sessions.
    pub parameters: SessionParameters,
}

/// What a connection has reached, for those who want to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The host has these addresses; now one of them is connected to.
    Found(Vec<SocketAddr>),
    /// There is a TCP connection to this one; now TLS is set up.
    Connected(SocketAddr),
    /// The server has proved that it is the expected one; now comes the login.
    Encrypted {
        /// How the TLS keys were agreed on.
        group: Box<str>,
        /// The server's key.
        pin: Pin,
    },
    /// Both have proved themselves; now the service is started.
    LoggedIn {
        /// With what.
        mechanism: Mechanism,
        /// What the server says about the session.
        parameters: SessionParameters,
    },
    /// The server's key was accepted and could not be noted, for this reason: it will be as unknown the next time.
    NotNoted(Box<str>),
    /// The key is derived from the password now.
    Stretching,
    /// The time for a login was over before the key was derived; all begins again when it is.
    Outlasted,
    /// The key in the password is not the right one any more; all begins again with a new one.
    KeyOutdated,
    /// The server has closed the connection before TLS: it has too many logins. The client connects again.
    TurnedAway {
        /// After this time.
        again_in: Duration,
    },
}

type Connection = (TlsStream<TcpStream>, Authenticated, Pin);

impl Connect<'_> {
    /// Attempts to log in until the server takes the login up, or the time is over.
    async fn login(&self) -> Result<Connection, ConnectError> {
        let url = self.url.as_ref().map_err(|error| error.clone())?;
        let credential = self.credential.ok_or(UsageError::NoCredential)?;
        let deadline = Instant::now() + self.timeout.unwrap_or(self.limits.login_timeout).min(LONGEST);
        // The caller's own time, where there is one, bounds the whole.
        let patience = self.timeout.is_none().then_some(self.limits.login_timeout);
        let (mut second, mut longest) = (false, RETRY_WITHIN);
        loop {
            match self.attempt(url, credential, patience.filter(|_| second)).await {
                Ok(connection) => return Ok(connection),
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::Outlasted) if second => return Err(self.too_slow()),
                Err(Attempt::KeyOutdated) if second => {
                    return Err(ConnectError::misbehaved(url, "it changes its salt at every login"));
                }
                Err(Attempt::KeyOutdated) => {
                    second = true;
                    (self.on_step)(Step::KeyOutdated);
                }
                Err(Attempt::Outlasted) => {
                    second = true;
                    (self.on_step)(Step::Outlasted);
                }
                Err(Attempt::TurnedAway(error)) => {
                    // Those that were turned away together must not come back together.
                    let again_in = longest.mul_f64(random_part());
                    if Instant::now() + again_in >= deadline {
                        return Err(error);
                    }
                    (self.on_step)(Step::TurnedAway { again_in });
                    sleep(again_in).await;
                    longest = (longest * 2).min(MAX_RETRY_WITHIN);
                }
            }
        }
    }

    fn too_slow(&self) -> ConnectError {
        ConnectError::local(format_args!(
            "deriving the key from the password takes longer than {}; give it longer with --timeout, or log in with a key",
            humantime::format_duration(self.limits.login_timeout * 2)
        ))
    }

    /// Waits for `patience` for the turn to derive a key, or for the derivation that an attempt before has left behind.
    async fn attempt(
        &self,
        url: &ChanUrl,
        credential: Credential<'_>,
        patience: Option<Duration>,
    ) -> Result<Connection, Attempt> {
        let known_hosts = self.known_hosts.clone();
        let (trust, authority, accept_new) = (url.trust().clone(), url.authority(), self.accept_new);
        let verifier = move || {
            let known_hosts = || known_hosts.map_or_else(KnownHosts::of_user, Ok);
            trust.verifier(&authority, known_hosts, accept_new)
        };
        let verifier = spawn_blocking(verifier).await.map_err(ConnectError::local)??;
        let connector = TlsConnector::from(client_config(verifier).map_err(ConnectError::local)?);

        let stretched = AtomicBool::new(false);
        let on_stretch = || {
            stretched.store(true, Ordering::Relaxed);
            (self.on_step)(Step::Stretching);
        };
        let prepare = ClientLogin::prepare(url.target(), credential);
        let login = match patience {
            Some(patience) => timeout(patience, prepare).await.map_err(|_| self.too_slow())?,
            None => prepare.await,
        };
        let login = login.on_stretch(&on_stretch);
        let found = |addresses: &[SocketAddr]| (self.on_step)(Step::Found(addresses.to_vec()));
        let tcp = dial(&url.host().to_str(), url.port(), self.limits.dial_timeout, found)
            .await
            .map_err(|error| ConnectError::dial(url, &error))?;
        (self.on_step)(Step::Connected(tcp.peer_addr().map_err(ConnectError::local)?));

        let began = Instant::now();
        let mut stream = timeout_at(
            after(began.into_std(), self.limits.tls_timeout).into(),
            connector.connect(url.host().clone(), tcp),
        )
        .await
        .map_err(|_| ConnectError::unreachable(url, "TLS was not set up in time"))?
        .map_err(|error| Attempt::tls(url, &error))?;
        let connection = stream.get_ref().1;
        let exporter = exporter(connection).map_err(|error| ConnectError::unreachable(url, error))?;
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        let pin = certificate.and_then(|certificate| spki_sha256(certificate).ok());
        let pin = pin.ok_or_else(|| ConnectError::unreachable(url, "TLS ended without a certificate"))?;
        let group = connection.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
        (self.on_step)(Step::Encrypted { group: group.unwrap_or_default().into(), pin });

        let authenticated = timeout_at(
            after(began.into_std(), self.limits.login_timeout).into(),
            login.run(&mut stream, exporter),
        )
        .await
        .map_err(|_| match stretched.load(Ordering::Relaxed) {
            true => Attempt::Outlasted,
            false => ConnectError::unreachable(url, "the login was not over in time").into(),
        })?
        .map_err(|error| match error {
            LoginError::Io(error) if stretched.load(Ordering::Relaxed) && is_closed(&error) => {
                Attempt::Outlasted
            }
            error => Attempt::login(url, &error),
        })?;
        let (mechanism, parameters) = (authenticated.mechanism(), authenticated.parameters());
        (self.on_step)(Step::LoggedIn { mechanism, parameters });
        self.remember(url, pin).await?;
        Ok((stream, authenticated, pin))
    }

    /// Notes the key of a server that has let the client in. With a password, that server has proved that it knows it;
    /// a key is never noted for one that has not.
    async fn remember(&self, url: &ChanUrl, pin: Pin) -> Result<(), ConnectError> {
        if *url.trust() != Trust::Tofu || !self.accept_new {
            return Ok(());
        }
        let (known_hosts, authority) = (self.known_hosts.clone(), url.authority());
        let add = move || known_hosts.map_or_else(KnownHosts::of_user, Ok)?.add(&authority, &pin);
        match spawn_blocking(add).await.map_err(ConnectError::local)? {
            // The caller has accepted this key, and whether it is asked again does not matter to this session.
            Err(KnownHostsError::File(error)) => (self.on_step)(Step::NotNoted(error.to_string().into())),
            noted => noted.map_err(TrustError::from)?,
        }
        Ok(())
    }
}

/// Why one attempt failed.
enum Attempt {
    KeyOutdated,
    /// The time for a login ended while the key was derived. The derivation goes on, and the next attempt has its key.
    Outlasted,
    /// The server closed the connection before TLS. It heard nothing, so another attempt repeats nothing.
    TurnedAway(ConnectError),
    Failed(ConnectError),
}

impl Attempt {
    fn tls(url: &ChanUrl, error: &io::Error) -> Self {
        let turned_away =
            error.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>()) && is_closed(error);
        let error = ConnectError::tls(url, error);
        if turned_away { Self::TurnedAway(error) } else { Self::Failed(error) }
    }

    fn login(url: &ChanUrl, error: &LoginError) -> Self {
        use ClientHandshakeError as Handshake;

        Self::Failed(match error {
            LoginError::KeyOutdated => return Self::KeyOutdated,
            LoginError::Handshake(Handshake::Refused) => ConnectError::Refused,
            LoginError::Handshake(error @ (Handshake::WrongServerProof | Handshake::ServerMisbehaved(_))) => {
                ConnectError::misbehaved(url, error)
            }
            LoginError::Io(error) if is_closed(error) => {
                ConnectError::unreachable(url, "the server closed the connection in the login")
            }
            LoginError::Io(error) => ConnectError::unreachable(url, error),
            error => ConnectError::local(error),
        })
    }
}

impl<E: Into<ConnectError>> From<E> for Attempt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
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

/// A random part of one.
fn random_part() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness it is half: nothing secret depends on it.
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

/// The other end has closed. What it had not read yet turns its close into a reset.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};

    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Why there is no channel, by who has to do something about it. No call was executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The caller gave something that cannot be used. Nothing was sent.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// This machine: no memory for the key, no random bytes and the like.
    #[error("this machine cannot connect: {0}")]
    Local(Box<str>),
    /// The network, or a server too busy to answer: no TCP connection, no TLS, or no login in time.
    #[error("cannot connect to {authority}: {what}")]
    Unreachable {
        /// The server, `host:port`.
        authority: Box<str>,
        /// What failed.
        what: Box<str>,
    },
    /// The server is not who the caller expects. No secret was sent to it.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The server broke the rules of the login, or did not prove that it knows the password.
    #[error("{authority} misbehaved in the login ({what}); do not trust it, and tell its operator")]
    Misbehaved {
        /// The server, `host:port`.
        authority: Box<str>,
        /// What it did.
        what: Box<str>,
    },
    /// The server refused the login. It does not say whether for the service, the client or what they proved.
    #[error("refused; check the password or key, the service's name and the client's")]
    Refused,
    /// The server refused to start the service, after the login, and says why.
    #[error("refused: {0}")]
    RefusedByName(Box<str>),
    /// The service ended before it had started, with this reason.
    #[error("the service ended at its start ({0})")]
    Ended(ExitReason),
    /// The caller's own time is over.
    #[error("there was no session within the time given")]
    Deadline,
    /// The connection was lost after the login.
    #[error("the connection was lost before the service had started")]
    Lost,
}

impl ConnectError {
    fn local(error: impl fmt::Display) -> Self {
        Self::Local(error.to_string().into())
    }

    fn unreachable(url: &ChanUrl, what: impl fmt::Display) -> Self {
        Self::Unreachable { authority: url.authority().into(), what: what.to_string().into() }
    }

    fn misbehaved(url: &ChanUrl, what: impl fmt::Display) -> Self {
        Self::Misbehaved { authority: url.authority().into(), what: what.to_string().into() }
    }

    fn dial(url: &ChanUrl, error: &DialError) -> Self {
        Self::unreachable(url, error)
    }

    /// What a TLS handshake that failed means.
    fn tls(url: &ChanUrl, error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidMessage(_)) => {
                Self::unreachable(url, "what listens there does not speak TLS")
            }
            Some(tls) => match IdentityError::from_tls(tls) {
                Some(identity) => identity.into(),
                None => Self::unreachable(url, format_args!("TLS failed, {tls}")),
            },
            None if is_closed(error) => Self::unreachable(
                url,
                "the server closed the connection at once; it may be too busy, or have had enough of this address: \
                 try again in a minute",
            ),
            None => Self::unreachable(url, error),
        }
    }
}

/// What a caller gave that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The arguments of the service do not travel in the session's codec.
    #[error("the arguments for the service cannot be sent: {0}")]
    Args(PayloadError),
    /// Neither a password nor a key.
    #[error("there is neither a password nor a key to log in with")]
    NoCredential,
    /// The way to trust the server.
    #[error(transparent)]
    Trust(TrustError),
    /// The URL.
    #[error(transparent)]
    Url(#[from] UrlError),
}

impl From<UrlError> for ConnectError {
    fn from(error: UrlError) -> Self {
        UsageError::from(error).into()
    }
}

impl From<TrustError> for ConnectError {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::KnownHosts(KnownHostsError::Changed(identity)) => identity.into(),
            error => UsageError::Trust(error).into(),
        }
    }
}
