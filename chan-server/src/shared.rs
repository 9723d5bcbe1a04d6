//! What all connections of a server share, and how far the server has come.

use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use lib_chan::auth::NameKey;
use lib_chan::tls::ReloadableKey;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::audit::Audit;
use crate::gate::{Gate, Sessions, locked};
use crate::identity::StateDir;
use crate::listener::ListenAt;
use crate::live::Live;
use crate::policy::Policy;

/// What a server is about; it only goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Nothing new begins.
    Draining,
    /// What there is ends.
    Stopping,
    /// What is still there is cut off.
    Cut,
}

/// What all connections share.
pub(crate) struct Core {
    pub(crate) state: StateDir,
    pub(crate) name_key: NameKey,
    pub(crate) key: Arc<ReloadableKey>,
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) live: Mutex<Live>,
    pub(crate) sessions: Arc<Mutex<Sessions>>,
    pub(crate) gate: Arc<Mutex<Gate>>,
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
