//! The state that all connections of a server share, and the server's phase.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use lib_chan::auth::{NameKey, SessionId};
use lib_chan::channel::Attacher;
use lib_chan::tls::ReloadableKey;
use lib_chan::wire::Tombstone;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::audit::Audit;
use crate::gate::{Gate, Sessions, locked};
use crate::identity::StateDir;
use crate::listener::ListenAt;
use crate::live::{Live, Seat};
use crate::policy::Policy;
use crate::quota::Quotas;
use crate::resume::{NoRoom, Resumable, Resumables};
use crate::traffic::Stream;

/// The phase of a server. Phases only advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Nothing new begins.
    Draining,
    /// All sessions end.
    Stopping,
    /// The remaining connections are cut off.
    Cut,
}

/// The way from a client's later connections to its session.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) attacher: Attacher<Stream>,
    pub(crate) seat: Arc<Seat>,
}

/// The state that all connections share.
pub(crate) struct Core {
    pub(crate) state: StateDir,
    pub(crate) name_key: NameKey,
    pub(crate) key: Arc<ReloadableKey>,
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) live: Mutex<Live>,
    pub(crate) sessions: Arc<Mutex<Sessions>>,
    pub(crate) quotas: Mutex<Quotas>,
    pub(crate) gate: Arc<Mutex<Gate>>,
    pub(crate) resumables: Mutex<Resumables<Way>>,
    /// The number of sessions that can be resumed.
    pub(crate) resumable: watch::Sender<usize>,
    pub(crate) audit: Arc<Audit>,
    /// Connections accepted so far, which numbers them.
    pub(crate) connections: AtomicU64,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) listeners: Mutex<Listeners>,
    /// Held by the one reload that is under way.
    pub(crate) reloading: tokio::sync::Mutex<()>,
    /// Where metrics are asked for, and what answers.
    pub(crate) metrics: Mutex<Option<(SocketAddr, AbortHandle)>>,
}

impl Core {
    /// Returns the policy of this moment.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(locked(&self.live).policy())
    }

    /// Takes up a session whose client may resume it.
    pub(crate) fn register(&self, session: Resumable<Way>) -> Result<(), NoRoom> {
        let mut table = locked(&self.resumables);
        table.register(session)?;
        self.resumable.send_replace(table.live());
        Ok(())
    }

    /// Notes that such a session is over. Only the first call counts.
    pub(crate) fn end_resumable(&self, id: SessionId, tombstone: Option<Tombstone>) {
        let mut table = locked(&self.resumables);
        table.end(Instant::now(), id, tombstone);
        self.resumable.send_replace(table.live());
    }

    /// Waits until the server takes no logins any more. One that drains takes them as long as sessions could be resumed.
    pub(crate) async fn closed(&self, phase: &mut watch::Receiver<Phase>) {
        if after(Phase::Serving, phase).await == Phase::Draining {
            let mut resumable = self.resumable.subscribe();
            tokio::select! {
                // Never closed: this value has the other end.
                _ = resumable.wait_for(|&live| live == 0) => {}
                _ = after(Phase::Draining, phase) => {}
            }
        }
    }
}

/// The sockets that a server listens with. Each has a task, which owns the tasks of its connections and goes on after its
/// socket is closed, until they have ended.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub(crate) tasks: JoinSet<()>,
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    place: ListenAt,
    local: SocketAddr,
    /// Dropped, it closes the socket.
    _stop: oneshot::Sender<()>,
}

impl Listeners {
    /// Notes a socket. It is to be closed when the receiver is ready.
    pub(crate) fn add(&mut self, place: ListenAt, local: SocketAddr) -> oneshot::Receiver<()> {
        let (stop, stopped) = oneshot::channel();
        self.open.push(Open { place, local, _stop: stop });
        stopped
    }

    pub(crate) fn close(&mut self, places: &[ListenAt]) {
        self.open.retain(|open| !places.contains(&open.place));
    }

    pub(crate) fn places(&self) -> Vec<ListenAt> {
        self.open.iter().map(|open| open.place).collect()
    }

    /// Returns where they listen, with the real ports.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().map(|open| open.local).collect()
    }
}

/// Waits until the server has come further than `seen`. One that is dropped without a word cuts its connections itself.
pub(crate) async fn after(seen: Phase, phase: &mut watch::Receiver<Phase>) -> Phase {
    let further = phase.wait_for(|&phase| phase > seen).await.map(|phase| *phase);
    match further {
        Ok(phase) => phase,
        Err(_) => std::future::pending().await,
    }
}
