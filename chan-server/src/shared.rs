//! What all connections of a server share, and how far the server has come.

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use lib_chan::Limits;
use lib_chan::auth::Directory;
use lib_chan::handshake::{Authenticated, SessionParameters};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::audit::Audit;
use crate::gate::{Gate, Sessions};
use crate::modules::Starter;

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
    pub(crate) limits: Limits,
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) directory: Directory,
    pub(crate) parameters: SessionParameters,
    pub(crate) sessions: Arc<Mutex<Sessions>>,
    pub(crate) audit: Arc<Audit>,
    /// What to start, by the index of an account.
    pub(crate) starters: Vec<Arc<Starter>>,
    /// Where the PROXY protocol is spoken.
    pub(crate) proxies: Vec<IpNet>,
    pub(crate) gate: Arc<Mutex<Gate>>,
    /// Connections accepted so far, which numbers them.
    pub(crate) connections: AtomicU64,
}

impl Core {
    /// What to start for a client that has proved itself.
    pub(crate) fn starter(&self, client: &Authenticated) -> Option<&Starter> {
        let account = self.directory.account(client.service(), client.client())?;
        self.starters.get(account.index).map(Arc::as_ref)
    }

    /// Returns whether a peer is a proxy, which says whose each of its connections is.
    pub(crate) fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.iter().any(|net| net.contains(&peer))
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
