//! One attempt at one server: dial, TLS, login. Decides what each failure means.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lib_chan::after;
use lib_chan::channel::OpenRequest;
use lib_chan::dial::dial;
use lib_chan::handshake::Authenticated;
use lib_chan::handshake::client::ClientHandshakeError;
use lib_chan::login::{ClientLogin, LoginError};
use lib_chan::runtime::blocking;
use lib_chan::tls::{Pin, client_config, exporter, spki_sha256};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connector::{Connector, Early, OnStep, OwnedCredential};
use super::error::ConnectError;
use super::retry::Setback;
use super::step::Step;
use crate::known_hosts::{KnownHosts, KnownHostsError};
use crate::trust::{IdentityError, Trust, TrustError};
use crate::url::Authority;

/// A connection whose two ends have authenticated each other.
pub(super) struct Login {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) authenticated: Authenticated,
    /// The server's key.
    pub(super) pin: Pin,
    /// The server, `host:port`.
    pub(super) authority: Box<str>,
}

impl Connector {
    /// Logs in to one server. Waits at most `patience` for the turn to derive a key, or for the derivation that an
    /// earlier attempt has left behind.
    pub(super) async fn attempt(
        &self,
        authority: &Authority,
        patience: Option<Duration>,
        early: Option<Early<'_>>,
        on_step: OnStep<'_>,
    ) -> Result<Login, Setback> {
        let known_hosts = self.known_hosts.clone();
        let (trust, name, accept_new) = (self.url.trust().clone(), authority.to_string(), self.accept_new);
        let verifier = move || {
            let known_hosts = || known_hosts.map_or_else(KnownHosts::of_user, Ok);
            trust.verifier(&name, known_hosts, accept_new)
        };
        let verifier = blocking(verifier).await.map_err(ConnectError::local)??;
        let tls = TlsConnector::from(client_config(verifier).map_err(ConnectError::local)?);

        let stretched = AtomicBool::new(false);
        let on_stretch = || {
            stretched.store(true, Ordering::Relaxed);
            on_step(Step::Stretching);
        };
        let prepare = ClientLogin::prepare(self.url.target(authority), self.credential.borrow());
        let login = match patience {
            Some(patience) => timeout(patience, prepare).await.map_err(|_| self.too_slow())?,
            None => prepare.await,
        };
        let mut login = login.on_stretch(&on_stretch);
        let host = authority.host().to_str();
        let found = |addresses: &[SocketAddr]| {
            on_step(Step::Found { host: host.as_ref().into(), addresses: addresses.to_vec() });
        };
        let tcp = dial(&host, authority.port(), self.limits.dial_timeout, found)
            .await
            .map_err(|error| ConnectError::unreachable(authority, error))?;
        on_step(Step::Connected(tcp.peer_addr().map_err(ConnectError::local)?));

        let began = Instant::now();
        let mut stream = timeout_at(
            after(began.into_std(), self.limits.tls_timeout).into(),
            tls.connect(authority.host().clone(), tcp),
        )
        .await
        .map_err(|_| ConnectError::unreachable(authority, "TLS was not set up in time"))?
        .map_err(|error| tls_failed(authority, &error))?;
        let connection = stream.get_ref().1;
        let exporter = exporter(connection).map_err(|error| ConnectError::incompatible(authority, error))?;
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        let pin = certificate.and_then(|certificate| spki_sha256(certificate).ok());
        let pin =
            pin.ok_or_else(|| ConnectError::incompatible(authority, "the server showed no certificate"))?;
        let group = connection.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name()));
        on_step(Step::Encrypted { group: group.unwrap_or_default().into(), pin });

        let early = early.filter(|_| matches!(self.credential, OwnedCredential::Key(_)));
        if let Some(Early { request, first }) = early {
            let first = first();
            login = login.start_early(&self.limits, &OpenRequest { first: first.as_deref(), ..request });
        }
        // With a request behind the proof, the service may have started with the message that went along: nothing is done
        // twice.
        let once = |setback| match setback {
            Setback::Failed(error) if early.is_some() => Setback::Fatal(error),
            setback => setback,
        };
        let mut authenticated = timeout_at(
            after(began.into_std(), self.limits.login_timeout).into(),
            login.run(&mut stream, exporter),
        )
        .await
        .map_err(|_| match stretched.load(Ordering::Relaxed) {
            true => Setback::Outlasted(self.too_slow()),
            false => once(ConnectError::unreachable(authority, "the login took too long").into()),
        })?
        .map_err(|error| match error {
            LoginError::Io(error) if stretched.load(Ordering::Relaxed) && is_closed(&error) => {
                Setback::Outlasted(self.too_slow())
            }
            error => once(login_failed(authority, &error)),
        })?;
        if let Ok(server) = stream.get_ref().0.peer_addr() {
            authenticated.set_peer(server.ip());
        }
        let (mechanism, parameters) = (authenticated.mechanism(), authenticated.parameters());
        on_step(Step::LoggedIn { mechanism, parameters });
        self.remember(authority, pin, on_step).await?;
        Ok(Login { stream, authenticated, pin, authority: authority.to_string().into() })
    }

    /// Saves the key of a server that has let the client in. With a password, that server has proved that it knows the
    /// password. The key of a server that has not let the client in is never saved.
    async fn remember(
        &self,
        authority: &Authority,
        pin: Pin,
        on_step: OnStep<'_>,
    ) -> Result<(), ConnectError> {
        if *self.url.trust() != Trust::Tofu || !self.accept_new {
            return Ok(());
        }
        let (known_hosts, authority) = (self.known_hosts.clone(), authority.to_string());
        let add = move || known_hosts.map_or_else(KnownHosts::of_user, Ok)?.add(&authority, &pin);
        match blocking(add).await.map_err(ConnectError::local)? {
            // The caller has accepted this key. Being asked again the next time does not harm this session.
            Err(KnownHostsError::File(error)) => on_step(Step::NotNoted(error.to_string().into())),
            noted => noted.map_err(TrustError::from)?,
        }
        Ok(())
    }

    fn too_slow(&self) -> ConnectError {
        ConnectError::local(format_args!(
            "deriving the key from the password takes longer than {}; allow more time (--timeout), or log in with a \
             key",
            humantime::format_duration(self.limits.login_timeout * 2)
        ))
    }
}

/// Returns what a TLS handshake that failed means.
fn tls_failed(authority: &Authority, error: &io::Error) -> Setback {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            ConnectError::incompatible(authority, "the peer does not speak TLS").into()
        }
        Some(tls) => match IdentityError::from_tls(tls) {
            Some(identity) => identity.into(),
            None => ConnectError::incompatible(authority, format_args!("TLS failed, {tls}")).into(),
        },
        None if is_closed(error) => Setback::TurnedAway(ConnectError::unreachable(
            authority,
            "the server closed the connection at once; it may be too busy, or turn this address away after failed \
             logins: try again in a minute",
        )),
        None => ConnectError::unreachable(authority, error).into(),
    }
}

/// Returns what a login that failed means.
fn login_failed(authority: &Authority, error: &LoginError) -> Setback {
    use ClientHandshakeError as Handshake;

    Setback::Failed(match error {
        LoginError::KeyOutdated => {
            let again = ConnectError::misbehaved(authority, "it changes its salt at every login");
            return Setback::KeyOutdated(again);
        }
        LoginError::Handshake(Handshake::Refused) => ConnectError::Refused,
        LoginError::Handshake(error @ (Handshake::WrongServerProof | Handshake::ServerMisbehaved(_))) => {
            ConnectError::misbehaved(authority, error)
        }
        LoginError::Io(error) if is_closed(error) => {
            ConnectError::unreachable(authority, "the server closed the connection during the login")
        }
        LoginError::Io(error) => ConnectError::unreachable(authority, error),
        error => ConnectError::local(error),
    })
}

/// Returns whether the other end has closed. Bytes that it had not read yet turn its close into a reset.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};

    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
