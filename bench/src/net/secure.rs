//! TLS, the same for all peers.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use lib_chan::tls::{self, CheckedKey, PinVerifier, ReloadableKey};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::{Accept, TlsAcceptor, TlsConnector, client, server};

use super::{Listening, Peer};

/// Accepts connections.
pub(super) struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    pin: String,
    peer: Peer,
    counters: Arc<Counters>,
}

/// Connections accepted, and those that ended well.
#[derive(Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    served: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    /// How many ended well, once none is left. The client has gone before this is asked.
    pub(super) async fn all_served(&self) -> u64 {
        loop {
            let served = self.served.load(Ordering::SeqCst);
            let ended = served + self.failed.load(Ordering::SeqCst);
            if ended >= self.accepted.load(Ordering::SeqCst) {
                return served;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Server {
    /// Listens on a free port, with a new key of the kind that chan-server makes for itself.
    pub(super) async fn bind(peer: Peer, at: IpAddr) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".into()])?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let key = CheckedKey::new(vec![made.cert.der().clone()], key)?;
        let pin = key.pin()?.to_string();
        let mut config = (*tls::server_config(Arc::new(ReloadableKey::new(key)))?).clone();
        set_protocol(&mut config.alpn_protocols, peer);
        let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind((at, 0).into())?;
        let listener = socket.listen(1024)?;
        Ok(Self { listener, acceptor: Arc::new(config).into(), pin, peer, counters: Arc::default() })
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    pub(super) fn listening(&self) -> Result<Listening> {
        Ok(Listening {
            address: self.listener.local_addr()?,
            pin: self.pin.clone(),
            program: std::process::id(),
        })
    }

    /// The next connection, counted, with its TLS handshake still to do.
    pub(super) async fn accept(&self) -> Result<Accept<TcpStream>> {
        let (stream, _) = self.listener.accept().await?;
        prepare(&stream, self.peer)?;
        self.counters.accepted.fetch_add(1, Ordering::SeqCst);
        Ok(self.acceptor.accept(stream))
    }

    /// Accepts for ever: every connection that has done its TLS handshake is served in a task of its own.
    pub(super) async fn accept_all<F>(
        self,
        serve: impl Fn(server::TlsStream<TcpStream>) -> F + Clone + Send + 'static,
    ) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send,
    {
        loop {
            let accepting = self.accept().await?;
            let (counters, serve) = (self.counters(), serve.clone());
            tokio::spawn(async move {
                let served = match accepting.await {
                    Ok(stream) => serve(stream).await,
                    Err(error) => Err(error.into()),
                };
                counters.settle(served);
            });
        }
    }
}

impl Counters {
    /// How serving a connection has ended.
    pub(super) fn settle(&self, served: Result<()>) {
        let counter = if served.is_ok() { &self.served } else { &self.failed };
        counter.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = served {
            eprintln!("a connection failed: {error:#}");
        }
    }
}

/// Sets the options that a connection has with this peer.
fn prepare(stream: &TcpStream, peer: Peer) -> std::io::Result<()> {
    match peer {
        Peer::Chan | Peer::ChanBytes | Peer::ChanAll => lib_chan::dial::prepare(stream),
        _ => stream.set_nodelay(true),
    }
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Client {
    connector: TlsConnector,
    server: Listening,
    peer: Peer,
}

impl Client {
    pub(super) fn new(peer: Peer, server: &Listening) -> Result<Self> {
        // Plain TCP has no key.
        let pins = if peer == Peer::Tcp { Vec::new() } else { vec![server.pin.parse()?] };
        let verifier = PinVerifier::new(pins);
        let mut config = (*tls::client_config(Arc::new(verifier))?).clone();
        set_protocol(&mut config.alpn_protocols, peer);
        Ok(Self { connector: Arc::new(config).into(), server: server.clone(), peer })
    }

    pub(super) const fn server(&self) -> &Listening {
        &self.server
    }

    pub(super) async fn connect(&self) -> Result<client::TlsStream<TcpStream>> {
        self.handshake(self.dial().await?).await
    }

    /// Connects without TLS.
    pub(super) async fn dial(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.server.address).await?;
        prepare(&stream, self.peer)?;
        Ok(stream)
    }

    /// The TLS handshake on such a connection.
    pub(super) async fn handshake(&self, stream: TcpStream) -> Result<client::TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost")?;
        self.connector.connect(name, stream).await.context("TLS")
    }
}

/// gRPC insists on its own; all others keep ours.
fn set_protocol(protocols: &mut Vec<Vec<u8>>, peer: Peer) {
    if matches!(peer, Peer::Tonic | Peer::TonicFed) {
        *protocols = vec![b"h2".to_vec()];
    }
}
