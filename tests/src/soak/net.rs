//! A network between the clients and the server in which single connections fail.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

use crate::differential::random::Random;

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It carries bytes.
    Carries,
    /// It carries nothing for the time being.
    Holds,
    /// Nothing arrives any more, and nobody is told.
    Swallows,
    /// Both ends read the end of the stream, in the middle of what is carried.
    Ends,
    /// Both ends are reset.
    Resets,
}

/// The network.
#[derive(Clone)]
pub(crate) struct Net {
    port: u16,
    connections: Arc<Mutex<BTreeMap<u32, watch::Sender<Fate>>>>,
}

impl Net {
    /// Starts one in front of the server at this port.
    pub(crate) async fn before(server: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let net = Self { port: listener.local_addr()?.port(), connections: Arc::default() };
        let carrier = net.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carrier.clone().carry(near, server));
            }
        });
        Ok(net)
    }

    /// Where clients connect to.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Decides the fate of one of the connections.
    pub(crate) fn strike(&self, random: &mut Random, fate: Fate) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = connections.values().nth(random.below(connections.len())) {
            // One that is lost stays lost.
            turn(connection, Fate::Carries, fate);
            turn(connection, Fate::Holds, fate);
        }
    }

    /// Holds one of the connections for so long.
    pub(crate) fn hold(&self, random: &mut Random, time: Duration) {
        let connection = {
            let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.values().nth(random.below(connections.len())).cloned()
        };
        let Some(connection) = connection else { return };
        turn(&connection, Fate::Carries, Fate::Holds);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            turn(&connection, Fate::Holds, Fate::Carries);
        });
    }

    async fn carry(self, near: TcpStream, server: u16) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let Ok(far) = dial(number, server).await else { return };
        let (tell, fate) = watch::channel(Fate::Carries);
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).insert(number, tell);
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        tokio::join!(pump(near_read, far_write, fate.clone()), pump(far_read, near_write, fate));
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }
}

/// Changes the fate of a connection from one to another, if it is that one.
fn turn(connection: &watch::Sender<Fate>, from: Fate, to: Fate) {
    connection.send_if_modified(|now| {
        let turns = *now == from;
        if turns {
            *now = to;
        }
        turns
    });
}

/// From so many addresses clients connect. The server remembers 65 536 addresses of good logins, with 200 bytes each: if
/// every connection came from a new one, that table would grow during the whole of a run.
const ADDRESSES: u32 = 1_000;

/// Connects to the server as clients of many places would: a server penalizes addresses from which logins fail.
async fn dial(number: u32, server: u16) -> io::Result<TcpStream> {
    let [_, _, third, fourth] = (number % ADDRESSES).to_be_bytes();
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 1, third, fourth], 0)))?;
    let stream = socket.connect(SocketAddr::from(([127, 0, 0, 1], server))).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Carries bytes one way, until the connection or this way of it ends.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut fate: watch::Receiver<Fate>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let now = *fate.borrow_and_update();
        let read = match now {
            Fate::Ends => break,
            Fate::Resets => {
                // Closed with this, and with no end said before, a socket sends a reset.
                let _ = SockRef::from(to.as_ref()).set_linger(Some(Duration::ZERO));
                to.forget();
                return;
            }
            Fate::Holds => {
                // The sender lives in the table until both ways have ended.
                let _ = fate.changed().await;
                continue;
            }
            Fate::Carries | Fate::Swallows => tokio::select! {
                _ = fate.changed() => continue,
                read = from.read(&mut buffer) => read,
            },
        };
        match read {
            Ok(len @ 1..) if now == Fate::Carries => {
                tokio::select! {
                    biased;
                    written = to.write_all(&buffer[..len]) => if written.is_err() { break },
                    () = lost(&mut fate) => {}
                }
            }
            Ok(1..) => {}
            // The end of a way is told to the other side, unless nothing arrives there.
            Ok(0) | Err(_) => {
                if now == Fate::Swallows {
                    to.forget();
                    return;
                }
                break;
            }
        }
    }
}

/// Ready when a connection that may be waiting for a reader is to fail.
async fn lost(fate: &mut watch::Receiver<Fate>) {
    while matches!(*fate.borrow_and_update(), Fate::Carries | Fate::Holds) {
        if fate.changed().await.is_err() {
            return;
        }
    }
}
