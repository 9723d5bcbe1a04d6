//! The server: what it serves, and the tasks that do it.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lib_chan::auth::{
    Account, AccountVerifier, Argon2Params, Directory, DirectoryError, NameKey, PasswordVerifier,
    StretchError,
};
use lib_chan::handshake::{ParametersError, SessionParameters};
use lib_chan::secret::Secret;
use lib_chan::tls::{ReloadableKey, TlsError, server_config};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::audit::{Audit, Event};
use crate::config::{Client, Config, ConfigError, Credential, Service};
use crate::connection::Connection;
use crate::descriptors::{keep_within, max_descriptors};
use crate::gate::{Gate, LoginPermit, Sessions, Source, beat};
use crate::identity::{Identity, IdentityError, StateDir, url};
use crate::listener::{self, BindError, Bound};
use crate::modules::Starter;
use crate::shared::{Core, Phase, after};

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The state directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The accounts.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A password could not be stretched.
    #[error("a password of the configuration: {0}")]
    Stretch(#[from] StretchError),
    /// The limits that clients are told.
    #[error(transparent)]
    Parameters(#[from] ParametersError),
    /// The cryptographic library.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system has no random bytes to give.
    #[error("the system gave no random bytes")]
    NoRandomness,
}

/// A server that takes connections, until it is shut down or dropped.
pub struct Server {
    addresses: Vec<SocketAddr>,
    urls: Vec<ServiceUrl>,
    phase: watch::Sender<Phase>,
    /// One task for each address; it owns the tasks of its connections.
    acceptors: JoinSet<()>,
    core: Arc<Core>,
}

/// How a client reaches a service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceUrl {
    /// The service.
    pub service: String,
    /// The client; empty for the password that all share.
    pub client: String,
    /// What it connects to, with the server's pin.
    pub url: String,
}

impl Server {
    /// Starts a server: binds its addresses, makes verifiers of the passwords that it was given (a tenth of a second
    /// and 64 MiB each, one after the other), and accepts.
    ///
    /// The identity comes from the configuration or else from `state`, where it is made on first use.
    ///
    /// Dropping the future leaves nothing behind but the files in `state`.
    ///
    /// # Errors
    /// With what is missing, and what to do about it.
    pub async fn bind(
        config: Config,
        state: &StateDir,
        audit: impl Into<Arc<Audit>>,
    ) -> Result<Self, StartError> {
        let audit = audit.into();
        let Bound { listeners, skipped } = listener::bind(&config.listen)?;
        let identity = match &config.identity {
            Some(identity) => identity.clone(),
            None => Identity::in_state(state)?,
        };
        let name_key = state.name_key()?;
        let relays = config.services.iter().any(|service| service.starter.is_relay());
        let mut limits = config.limits.clone();
        if let Some(text) = max_descriptors().and_then(|most| keep_within(&mut limits, most, relays)) {
            audit.write(&Event::Warning { text });
        }
        let addresses =
            listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect::<Vec<_>>();
        let urls = urls(&config, &addresses, &identity);
        for warning in &config.warnings {
            let text = warning.problem.text.clone();
            audit.write(&if warning.is_fatal { Event::Error { text } } else { Event::Warning { text } });
        }
        for error in skipped {
            audit.write(&Event::Warning { text: format!("{error}; the server goes on without it") });
        }
        // A proxy speaks for many.
        let mut rules = config.gate.clone();
        rules.exempt.extend(&config.proxies);
        let max_of =
            config.services.iter().map(|service| (service.name.as_str().into(), service.max_sessions));
        let sessions = Sessions::new(&limits, max_of);
        let passwords = count_passwords(&config.services);
        if passwords > 0 {
            audit.write(&Event::Starting { passwords });
        }
        let (accounts, starters) = accounts(config.services, name_key.clone()).await?;
        let (directory, warnings) = Directory::new(name_key, nobody_seed()?, accounts)?;
        for warning in &warnings {
            audit.write(&Event::Warning { text: warning.to_string() });
        }
        for &address in &addresses {
            audit.write(&Event::Listening { address });
        }
        let tls = server_config(Arc::new(ReloadableKey::new(identity.key())))?;
        let core = Arc::new(Core {
            acceptor: TlsAcceptor::from(tls),
            directory,
            parameters: SessionParameters::from_limits(&limits)?,
            sessions: Arc::new(Mutex::new(sessions)),
            gate: Arc::new(Mutex::new(Gate::new(&limits, rules))),
            proxies: config.proxies,
            audit,
            starters,
            connections: AtomicU64::new(0),
            limits,
        });
        let (phase, watched) = watch::channel(Phase::Serving);
        let mut acceptors = JoinSet::new();
        for listener in listeners {
            acceptors.spawn(Arc::clone(&core).accept(listener, watched.clone()));
        }
        Ok(Self { addresses, urls, phase, acceptors, core })
    }

    /// Where it listens, with the real ports.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How clients reach each service: for each credential a URL that can be pasted.
    pub fn urls(&self) -> &[ServiceUrl] {
        &self.urls
    }

    /// Waits as long as the server serves: for ever, unless it is [shut down](Self::shutdown). Dropping the future
    /// changes nothing.
    pub async fn run(&mut self) {
        while self.acceptors.join_next().await.is_some() {}
    }

    /// How many sessions there are now.
    pub fn sessions(&self) -> usize {
        self.core.sessions.lock().unwrap_or_else(PoisonError::into_inner).total()
    }

    /// Accepts nothing more, tells every client so, and waits for the sessions to end by themselves, at most
    /// [`Limits::drain_timeout`](lib_chan::Limits::drain_timeout). What is left then goes on until the server is [shut down](Self::shutdown).
    ///
    /// Dropping the future ends the wait and nothing else.
    pub async fn drain(&mut self) {
        let wait = self.core.limits.drain_timeout;
        let (sessions, ms) = (self.sessions(), u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self.core.audit.write(&Event::Draining { sessions, ms });
        self.phase.send_replace(Phase::Draining);
        let _ = timeout(wait, self.run()).await;
    }

    /// Returns a handle that cuts off the connections for which a [shutdown](Self::shutdown) waits.
    pub fn cutter(&self) -> Cutter {
        Cutter(self.phase.clone())
    }

    /// Accepts nothing more, ends every session with `shutdown`, and waits until their last words are said, but no
    /// longer than the limits for that. Dropping the future cuts what is left.
    pub async fn shutdown(mut self) {
        self.phase.send_replace(Phase::Stopping);
        self.run().await;
        self.core.audit.write(&Event::Stopped);
    }
}

/// Cuts off the connections of a [`Server`] that is shutting down. Made by [`Server::cutter`].
#[derive(Debug)]
pub struct Cutter(watch::Sender<Phase>);

impl Cutter {
    /// Closes all connections at once. Clients that have not heard the end of their session get `noconnection`. The
    /// server still logs the end of each session.
    pub fn cut(&self) {
        self.0.send_replace(Phase::Cut);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Core {
    /// Accepts until it is stopped, then waits for the connections that were accepted here.
    async fn accept(self: Arc<Self>, listener: TcpListener, mut phase: watch::Receiver<Phase>) {
        let mut connections = JoinSet::new();
        let watched = phase.clone();
        let taken = |tcp, peer| {
            while let Some(ended) = connections.try_join_next() {
                self.note(ended);
            }
            self.admit(tcp, peer, &watched, &mut connections);
        };
        let failed = |error: &std::io::Error| {
            self.audit.write(&Event::AcceptFailed { error: error.to_string() });
        };
        tokio::select! {
            biased;
            _ = after(Phase::Serving, &mut phase) => {}
            () = listener::accept(&listener, taken, failed) => {}
            () = beat(&self.gate) => {}
        }
        drop(listener);
        let mut all_ended = pin!(async {
            while let Some(ended) = connections.join_next().await {
                self.note(ended);
            }
        });
        tokio::select! {
            () = &mut all_ended => return,
            _ = after(Phase::Draining, &mut phase) => {}
        }
        // What does not end in this time is cut off, with the set that owns it.
        let _ = timeout(self.limits.close_timeout.saturating_add(self.limits.last_words_timeout), all_ended)
            .await;
    }

    /// Takes a place for a connection, and lets it go its way; or drops it.
    fn admit(
        self: &Arc<Self>,
        tcp: TcpStream,
        peer: SocketAddr,
        phase: &watch::Receiver<Phase>,
        connections: &mut JoinSet<()>,
    ) {
        match LoginPermit::take(&self.gate, Source::of(peer.ip())) {
            Ok(permit) => {
                let id = self.connections.fetch_add(1, Ordering::Relaxed);
                let connection = Connection { core: Arc::clone(self), id, peer, accepted: Instant::now() };
                connections.spawn(connection.run(tcp, permit, phase.clone()));
            }
            Err(turned) => self.audit.write(&Event::Turned { peer, why: turned.as_str() }),
        }
    }

    /// A connection's panic ends that connection alone, and is written down.
    fn note(&self, ended: Result<(), tokio::task::JoinError>) {
        if ended.is_err_and(|error| error.is_panic()) {
            self.audit.write(&Event::Crashed);
        }
    }
}

/// How many passwords need a verifier.
fn count_passwords(services: &[Service]) -> usize {
    let clients = services.iter().flat_map(|service| &service.clients);
    clients.filter(|client| matches!(client.credential, Credential::Password(_))).count()
}

/// The accounts of all services, and for each the service's starter under the same index.
async fn accounts(
    services: Vec<Service>,
    name_key: NameKey,
) -> Result<(Vec<Account>, Vec<Arc<Starter>>), StartError> {
    let derive_all = move || {
        let (mut accounts, mut starters) = (Vec::new(), Vec::new());
        for Service { name, clients, starter, .. } in services {
            for client in clients {
                let verifier = match client.credential {
                    Credential::Password(password) => {
                        let salt = name_key.salt(&name, &client.id);
                        let params = Argon2Params::DEFAULT;
                        AccountVerifier::Password(PasswordVerifier::derive(&password, &salt, params)?)
                    }
                    Credential::Verifier(verifier) => AccountVerifier::Password(*verifier),
                    Credential::Key(key) => AccountVerifier::Key(key),
                };
                let (service, client, enabled) = (name.clone(), client.id, !client.disabled);
                accounts.push(Account { service, client, verifier, enabled, index: starters.len() });
                starters.push(Arc::clone(&starter));
            }
        }
        Ok((accounts, starters))
    };
    match spawn_blocking(derive_all).await {
        Ok(derived) => derived,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn nobody_seed() -> Result<Secret<32>, StartError> {
    let mut seed = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *seed).map_err(|_| StartError::NoRandomness)?;
    Ok(Secret::new(*seed))
}

/// How each service is reached at the first of these addresses.
pub(crate) fn urls(config: &Config, addresses: &[SocketAddr], identity: &Identity) -> Vec<ServiceUrl> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let host = match (&config.public, first.ip()) {
        (Some(public), _) => public.clone(),
        // Listening everywhere it is reached under any of its names; this one it always has.
        (None, ip) if ip.is_unspecified() => "localhost".into(),
        (None, ip) => ip.to_string(),
    };
    let clients = config.services.iter().flat_map(|service| {
        service.clients.iter().filter(|client| !client.disabled).map(move |client| (service, client))
    });
    let to_url = |(service, client): (&Service, &Client)| ServiceUrl {
        service: service.name.to_string(),
        client: client.id.to_string(),
        url: url(client.id.as_str(), &host, first.port(), service.name.as_str(), identity.pin()),
    };
    clients.map(to_url).collect()
}
