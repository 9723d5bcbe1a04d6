//! The server as a value, and the tasks behind it.

use std::fmt;
use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::ready;

use lib_chan::auth::ResumeKey;
use lib_chan::secret::Secret;
use lib_chan::tls::{ReloadableKey, server_config};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::audit::{Audit, Event, Who};
use crate::config::{Config, Credential, Service};
use crate::connection::Connection;
use crate::gate::{Gate, LoginPermit, Sessions, Source, beat, locked};
use crate::identity::{Identity, StateDir, url};
use crate::listener::{self, BindError, Bound, ListenAt};
use crate::live::{Live, SessionInfo, Whom};
use crate::policy::Policy;
use crate::quota::Quotas;
use crate::reload::{Changes, ReloadError};
use crate::resume::Resumables;
use crate::scrape;
use crate::shared::{Core, Listeners, Phase, after};
use crate::start::StartError;

/// A server that accepts connections until it is shut down or dropped.
pub struct Server {
    core: Arc<Core>,
}

/// Watches and changes a server while it [runs](Server::run), from any task. Made by [`Server::handle`].
#[derive(Clone)]
pub struct Handle {
    core: Arc<Core>,
}

/// The URL by which a client reaches a service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceUrl {
    /// The service.
    pub service: String,
    /// The client; empty for the password that all share.
    pub client: String,
    /// The URL, with the server's pin.
    pub url: String,
}

impl Server {
    /// Starts a server: binds its addresses, derives the verifiers of its passwords (a tenth of a second and 64 MiB each, one
    /// after the other), and accepts connections.
    ///
    /// The identity comes from the configuration, or else from `state`, where it is made on first use.
    ///
    /// Dropping the future undoes everything but the files made in `state`.
    ///
    /// # Errors
    /// The configuration cannot be served. The error says why, and what to do about it.
    pub async fn bind(
        config: Config,
        state: &StateDir,
        audit: impl Into<Arc<Audit>>,
    ) -> Result<Self, StartError> {
        Self::bind_with(config, state, audit, Vec::new()).await
    }

    /// Does what [`bind`](Self::bind) does, with sockets that the program inherited. A socket that listens at an address of the
    /// configuration is used instead of a new one. The others are closed, with a warning in the log.
    ///
    /// # Errors
    /// Those of [`bind`](Self::bind).
    pub async fn bind_with(
        config: Config,
        state: &StateDir,
        audit: impl Into<Arc<Audit>>,
        mut inherited: Vec<StdListener>,
    ) -> Result<Self, StartError> {
        let audit = audit.into();
        let Bound { listeners, skipped } = listener::bind(&config.listen.places(), false, &mut inherited)?;
        for warning in &config.warnings {
            let text = warning.problem.text.clone();
            audit.write(&if warning.is_fatal { Event::Error { text } } else { Event::Warning { text } });
        }
        for error in skipped {
            audit.write(&Event::Warning { text: format!("{error}; the server goes on without it") });
        }
        for unused in inherited {
            let at =
                unused.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string());
            let text = format!("the socket {at}, which this program was started with, is not in \"listen\"");
            audit.write(&Event::Warning { text });
        }
        let name_key = state.name_key()?;
        let passwords = count_passwords(&config.services);
        if passwords > 0 {
            audit.write(&Event::Starting { passwords });
        }
        let (policy, warnings) = Policy::prepare(config, state, &name_key, None).await?;
        for text in warnings {
            audit.write(&Event::Warning { text });
        }
        let metrics = match policy.metrics {
            Some(address) => Some(scrape::bind(address).await.map_err(|error| BindError { address, error })?),
            None => None,
        };
        let key = Arc::new(ReloadableKey::new(policy.identity.key()));
        let mut sessions = Sessions::new(&policy.limits, []);
        sessions.set(&policy.limits, policy.max_sessions(), policy.max_sessions_of_clients());
        let mut quotas = Quotas::default();
        quotas.set(policy.quotas());
        let core = Arc::new(Core {
            state: state.clone(),
            name_key,
            acceptor: TlsAcceptor::from(server_config(Arc::clone(&key) as _)?),
            key,
            sessions: Arc::new(Mutex::new(sessions)),
            quotas: Mutex::new(quotas),
            gate: Arc::new(Mutex::new(Gate::new(&policy.limits, policy.rules.clone()))),
            resumables: Mutex::new(Resumables::new(&policy.limits, nobody_key()?)),
            resumable: watch::Sender::new(0),
            live: Mutex::new(Live::new(policy)),
            audit,
            connections: AtomicU64::new(0),
            phase: watch::Sender::new(Phase::Serving),
            listeners: Mutex::new(Listeners::default()),
            reloading: tokio::sync::Mutex::new(()),
            metrics: Mutex::new(None),
        });
        for (place, listener) in listeners {
            core.listen(place, listener);
        }
        if let Some(listener) = metrics {
            core.listen_for_metrics(Some(listener));
        }
        Ok(Self { core })
    }

    /// Returns a handle that watches and changes this server while it runs.
    pub fn handle(&self) -> Handle {
        Handle { core: Arc::clone(&self.core) }
    }

    /// Returns the addresses that the server listens on, with the real ports.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        locked(&self.core.listeners).addresses()
    }

    /// Returns the URL of each service for each of its credentials, ready to paste.
    pub fn urls(&self) -> Vec<ServiceUrl> {
        self.handle().urls()
    }

    /// Waits while the server serves: for ever, unless it is [shut down](Self::shutdown). Dropping the future
    /// changes nothing.
    pub async fn run(&mut self) {
        poll_fn(|cx| {
            let mut listeners = locked(&self.core.listeners);
            while ready!(listeners.tasks.poll_join_next(cx)).is_some() {}
            std::task::Poll::Ready(())
        })
        .await;
    }

    /// Serves until `stop` is ready, then [shuts down](Self::shutdown). Returns the output of `stop`.
    ///
    /// Dropping the future cuts the sessions.
    pub async fn run_until<T>(self, stop: impl Future<Output = T>) -> T {
        // The tasks of the server need nobody who waits for them.
        let stopped = stop.await;
        self.shutdown().await;
        stopped
    }

    /// Returns the address at which the server answers requests for metrics, with the real port; `None` without `[metrics]`.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        locked(&self.core.metrics).as_ref().map(|(address, _)| *address)
    }

    /// Returns the number of sessions.
    pub fn sessions(&self) -> usize {
        locked(&self.core.sessions).total()
    }

    /// Starts no more sessions, tells every client so, and waits for the sessions to end by themselves, at most
    /// [`Limits::drain_timeout`](lib_chan::Limits::drain_timeout). Sessions that are left then continue until the server is
    /// [shut down](Self::shutdown).
    ///
    /// Accepts connections as long as there are sessions that a client could resume, and refuses all others.
    ///
    /// Dropping the future ends the wait only.
    pub async fn drain(&mut self) {
        let wait = self.core.policy().limits.drain_timeout;
        let (sessions, ms) = (self.sessions(), u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        // Nobody sees the phase before the line is written, nor the line before the phase has changed.
        self.core.phase.send_modify(|phase| {
            *phase = Phase::Draining;
            self.core.audit.write(&Event::Draining { sessions, ms });
        });
        let _ = timeout(wait, self.run()).await;
    }

    /// Returns a handle that cuts off the connections for which a [shutdown](Self::shutdown) waits.
    pub fn cutter(&self) -> Cutter {
        Cutter(self.core.phase.clone())
    }

    /// Accepts no more connections, ends every session with `shutdown`, and waits until their last frames are sent, within
    /// `close_timeout` and `last_words_timeout`. Dropping the future cuts the remaining connections.
    pub async fn shutdown(mut self) {
        self.core.phase.send_replace(Phase::Stopping);
        self.run().await;
        self.core.audit.write(&Event::Stopped);
    }
}

impl Drop for Server {
    /// Cuts the remaining connections. Their tasks own the state that they share with this value.
    fn drop(&mut self) {
        locked(&self.core.listeners).tasks.abort_all();
        self.core.listen_for_metrics(None);
    }
}

impl Handle {
    /// Replaces the configuration. Sessions that it still grants continue, whatever else it changes; the others end with
    /// `revoked`, after its `revoke_grace`. New limits apply to new sessions. New passwords cost a tenth of a second and 64 MiB
    /// each.
    ///
    /// Load the configuration with the same [`Modules`](crate::modules::Modules) as the running one, so that its functions keep
    /// their state. Reloads wait for each other. Dropping the future before it is ready changes nothing.
    ///
    /// # Errors
    /// The new configuration cannot be served, or the server is stopping. Nothing has changed then, and the log says why.
    pub async fn reload(&self, config: Config) -> Result<Changes, ReloadError> {
        self.core.reload(config).await
    }

    /// Returns the changes that a [reload](Self::reload) of this configuration would make now, without making them.
    ///
    /// # Errors
    /// Those of [`reload`](Self::reload).
    pub async fn compare(&self, config: Config) -> Result<Changes, ReloadError> {
        self.core.compare(config).await
    }

    /// Logs that a new configuration could not be read.
    #[cfg(feature = "cli")]
    pub(crate) fn note_failed_reload(&self, why: &dyn fmt::Display) {
        self.core.audit.write(&Event::ReloadFailed { why: why.to_string() });
    }

    /// Returns all sessions, in the order of the logins.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let seats: Vec<_> = locked(&self.core.live).seats().cloned().collect();
        seats.iter().map(|seat| seat.info()).collect()
    }

    /// Ends sessions with `shutdown`, and returns their numbers.
    pub fn kick(&self, whom: &Whom) -> Vec<u64> {
        let kicked = locked(&self.core.live).kick(whom, Instant::now());
        for seat in &kicked {
            let who = Who { service: seat.service.as_str(), client: seat.client.as_str() };
            self.core.audit.write(&Event::Kicked { connection: seat.id, peer: seat.peer(), who });
        }
        kicked.iter().map(|seat| seat.id).collect()
    }

    /// Returns the state of the server.
    pub fn status(&self) -> Status {
        let phase = match *self.core.phase.borrow() {
            Phase::Serving => "serving",
            Phase::Draining => "draining",
            Phase::Stopping | Phase::Cut => "stopping",
        };
        let policy = self.core.policy();
        Status {
            phase: phase.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            listen: locked(&self.core.listeners).addresses(),
            pin: policy.identity.pin().to_string(),
            next_pin: policy.identity.next_pin().map(|pin| pin.to_string()),
            sessions: locked(&self.core.live).seats().count(),
            logins: locked(&self.core.gate).waiting(),
            connections: self.core.connections.load(Ordering::Relaxed),
        }
    }

    /// Returns the same as [`Server::urls`].
    pub fn urls(&self) -> Vec<ServiceUrl> {
        let (policy, addresses) = (self.core.policy(), locked(&self.core.listeners).addresses());
        urls(policy.public.as_deref(), policy.reachable(), &addresses, &policy.identity)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

/// The state of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// `serving`, `draining` or `stopping`.
    pub phase: String,
    /// The version of this crate.
    pub version: String,
    /// The addresses that it listens on, with the real ports.
    pub listen: Vec<SocketAddr>,
    /// The pin of its key.
    pub pin: String,
    /// The pin of the announced key, if there is one.
    pub next_pin: Option<String>,
    /// Clients that are logged in.
    pub sessions: usize,
    /// Connections that have not logged in.
    pub logins: usize,
    /// Connections accepted since the start.
    pub connections: u64,
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
        f.debug_struct("Server").field("addresses", &self.local_addrs()).finish_non_exhaustive()
    }
}

impl Core {
    /// Accepts from this socket, in a task of its own.
    pub(crate) fn listen(self: &Arc<Self>, place: ListenAt, listener: TcpListener) {
        let address = listener.local_addr().unwrap_or(place.address);
        self.audit.write(&Event::Listening { address });
        let mut listeners = locked(&self.listeners);
        let closed = listeners.add(place, address);
        listeners.tasks.spawn(Arc::clone(self).accept(listener, closed, self.phase.subscribe()));
    }

    /// Answers requests for metrics from this socket alone, from now on.
    pub(crate) fn listen_for_metrics(self: &Arc<Self>, listener: Option<TcpListener>) {
        let task = listener.and_then(|listener| {
            let address = listener.local_addr().ok()?;
            Some((address, tokio::spawn(scrape::serve(Arc::clone(self), listener)).abort_handle()))
        });
        if let Some((_, before)) = std::mem::replace(&mut *locked(&self.metrics), task) {
            before.abort();
        }
    }

    /// Accepts until the socket is to be closed or the server stops, then waits for the connections accepted here.
    async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        closed: oneshot::Receiver<()>,
        mut phase: watch::Receiver<Phase>,
    ) {
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
            () = self.closed(&mut phase) => {}
            _ = closed => {}
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
        let limits = &self.policy().limits;
        let _ = timeout(limits.close_timeout.saturating_add(limits.last_words_timeout), all_ended).await;
    }

    /// Takes a place for a connection and spawns its task, or drops the connection.
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
                let (core, policy) = (Arc::clone(self), self.policy());
                let connection = Connection { core, policy, id, peer, accepted: Instant::now() };
                connections.spawn(connection.run(tcp, permit, phase.clone()));
            }
            Err(turned) => {
                self.audit.write(&Event::Turned { peer, why: turned.as_str(), cause: turned.cause() })
            }
        }
    }

    /// Logs a panic of a connection's task, which ends that connection alone.
    fn note(&self, ended: Result<(), tokio::task::JoinError>) {
        if ended.is_err_and(|error| error.is_panic()) {
            self.audit.write(&Event::Crashed);
        }
    }
}

/// A key whose secret nobody has.
fn nobody_key() -> Result<ResumeKey, StartError> {
    let mut secret = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *secret).map_err(|_| StartError::NoRandomness)?;
    Ok(ResumeKey::new(&Secret::new(*secret)))
}

/// Returns the number of passwords that need a verifier.
fn count_passwords(services: &[Service]) -> usize {
    let clients = services.iter().flat_map(|service| &service.clients);
    clients.filter(|client| matches!(client.credential, Credential::Password(_))).count()
}

/// Returns the URL of each service at the first of these addresses.
pub(crate) fn urls<'n>(
    public: Option<&str>,
    names: impl Iterator<Item = (&'n str, &'n str)>,
    addresses: &[SocketAddr],
    identity: &Identity,
) -> Vec<ServiceUrl> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let host = match (public, first.ip()) {
        (Some(public), _) => public.to_owned(),
        // Listening everywhere it is reached under any of its names; this one it always has.
        (None, ip) if ip.is_unspecified() => "localhost".into(),
        (None, ip) => ip.to_string(),
    };
    let to_url = |(service, client): (&str, &str)| ServiceUrl {
        service: service.to_owned(),
        client: client.to_owned(),
        url: url(client, &host, first.port(), service, identity),
    };
    names.map(to_url).collect()
}
