//! Takes connections, and nothing else: what becomes of one is its own task's affair.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// Connections that the system keeps for us until they are accepted.
const BACKLOG: i32 = 1024;
/// The waits while the system has no descriptor to give.
const MIN_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    /// This port of every address.
    Everywhere(u16),
    /// These addresses.
    At(Vec<SocketAddr>),
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}{}", advice(.error))]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// What the system said.
    pub error: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; end the program that listens there, or choose another port",
        io::ErrorKind::PermissionDenied => "; choose a port above 1023, or allow this one to the program",
        io::ErrorKind::AddrNotAvailable => "; no network of this machine has this address: choose another",
        _ => "",
    }
}

/// What a server listens on.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listeners: Vec<TcpListener>,
    /// Addresses that the machine does not have, since it has no IPv6; the server goes on without them.
    pub(crate) skipped: Vec<BindError>,
}

/// Binds every address that the machine can have, or none. Without IPv6, `[::]` and `[::1]` are skipped as long as another
/// address remains.
///
/// `[::]` takes IPv4 as well, unless an IPv4 address stands beside it for the same port.
pub(crate) fn bind(listen: &Listen) -> Result<Bound, BindError> {
    let mut bound = Bound { listeners: Vec::new(), skipped: Vec::new() };
    match listen {
        Listen::At(addresses) => {
            for address in addresses {
                let beside_v4 =
                    addresses.iter().any(|other| other.is_ipv4() && other.port() == address.port());
                match bind_one(*address, beside_v4 || !address.ip().is_unspecified()) {
                    Ok(listener) => bound.listeners.push(listener),
                    Err(error) if error.is_for_want_of_ipv6() => bound.skipped.push(error),
                    Err(error) => return Err(error),
                }
            }
            match bound.skipped.pop() {
                Some(error) if bound.listeners.is_empty() => return Err(error),
                skipped => bound.skipped.extend(skipped),
            }
        }
        Listen::Everywhere(port) => {
            // One socket for both families, where the system has IPv6.
            let listener = match bind_one((Ipv6Addr::UNSPECIFIED, *port).into(), false) {
                Err(error) if error.is_for_want_of_ipv6() => {
                    bind_one((Ipv4Addr::UNSPECIFIED, *port).into(), false)?
                }
                both => both?,
            };
            bound.listeners.push(listener);
        }
    }
    Ok(bound)
}

fn bind_one(address: SocketAddr, only_v6: bool) -> Result<TcpListener, BindError> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(only_v6)?;
        }
        // A server that starts again must not wait for the last connections of its predecessor to be forgotten.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bound().map_err(|error| BindError { address, error })
}

/// Returns whether a network of this machine has the address, as far as binding tells: `true` in doubt.
pub(crate) fn has_address(ip: IpAddr) -> bool {
    let address = SocketAddr::new(ip, 0);
    let bound = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| socket.bind(&address.into()));
    bound.map_or_else(|error| error.kind() != io::ErrorKind::AddrNotAvailable, |()| true)
}

impl BindError {
    /// Whether the machine has no IPv6. An IPv6 address of a network that is missing is a mistake, and no such case.
    fn is_for_want_of_ipv6(&self) -> bool {
        let IpAddr::V6(ip) = self.address.ip() else { return false };
        (ip.is_unspecified() || ip.is_loopback()) && without_ipv6(&self.error)
    }
}

fn without_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT; the standard library has no kind for it.
    const UNSUPPORTED: i32 = if cfg!(target_os = "linux") { 97 } else { 47 };
    error.raw_os_error() == Some(UNSUPPORTED) || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// Accepts for ever, and hands every connection over. To be stopped, the future is dropped.
///
/// `refused` hears of the errors that are not of one connection, before the wait that follows each.
pub(crate) async fn accept(
    listener: &TcpListener,
    mut taken: impl FnMut(TcpStream, SocketAddr),
    refused: impl FnMut(&io::Error),
) {
    let taken = |(stream, peer): (TcpStream, SocketAddr)| {
        // Small messages must not wait for an acknowledgement. It fails for a peer that has gone, which is found later.
        let _ = stream.set_nodelay(true);
        taken(stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
    };
    accept_from(|| listener.accept(), taken, refused).await;
}

async fn accept_from<C, F: Future<Output = io::Result<C>>>(
    mut accept: impl FnMut() -> F,
    mut taken: impl FnMut(C),
    mut refused: impl FnMut(&io::Error),
) {
    let mut backoff = MIN_BACKOFF;
    loop {
        match accept().await {
            Ok(connection) => {
                backoff = MIN_BACKOFF;
                taken(connection);
            }
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                refused(&error);
                sleep(backoff).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }
}

/// Errors of a connection that was gone before it was accepted; the next one may be good.
fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::time::Instant;

    use super::*;

    fn loopback() -> Listen {
        Listen::At(vec![(Ipv4Addr::LOCALHOST, 0).into()])
    }

    #[tokio::test]
    async fn a_connection_is_handed_over_without_delay_on_its_writes() {
        let listener = bind(&loopback()).unwrap().listeners.remove(0);
        let address = listener.local_addr().unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (send, mut taken) = tokio::sync::mpsc::unbounded_channel();
        tokio::select! {
            () = accept(&listener, |stream, peer| send.send((stream, peer)).unwrap(), |_| {}) => {}
            Some((stream, peer)) = taken.recv() => {
                assert!(stream.nodelay().unwrap());
                assert_eq!(peer.ip(), Ipv4Addr::LOCALHOST);
            }
        }
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_what_to_do() {
        let listener = bind(&loopback()).unwrap().listeners.remove(0);
        let address = listener.local_addr().unwrap();
        let text = bind(&Listen::At(vec![address])).unwrap_err().to_string();
        assert!(text.starts_with(&format!("cannot listen on {address}: ")), "{text}");
        assert!(text.ends_with("; end the program that listens there, or choose another port"), "{text}");
    }

    #[tokio::test]
    async fn both_wildcards_share_a_port() {
        let bind_both = || {
            let free = bind(&Listen::Everywhere(0)).unwrap().listeners.remove(0);
            let port = free.local_addr().unwrap().port();
            drop(free);
            let (v4, v6) = ((Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into());
            let one_v4 = (Ipv4Addr::LOCALHOST, port).into();
            [vec![v4, v6], vec![v6, v4], vec![v6, one_v4]].map(|addresses| {
                bind(&Listen::At(addresses)).map(|bound| bound.listeners.len() + bound.skipped.len())
            })
        };
        // Another program may take the port in between, but not each time.
        let both = |bound: [Result<usize, BindError>; 3]| bound.iter().all(|bound| matches!(bound, Ok(2)));
        assert!((0..10).any(|_| both(bind_both())), "{:?}", bind_both());
    }

    #[test]
    fn only_a_missing_ipv6_is_skipped() {
        let not_available = || io::ErrorKind::AddrNotAvailable.into();
        for (address, skipped) in
            [("[::1]:1", true), ("[::]:1", true), ("[2001:db8::1]:1", false), ("192.0.2.1:1", false)]
        {
            let error = BindError { address: address.parse().unwrap(), error: not_available() };
            assert_eq!(error.is_for_want_of_ipv6(), skipped, "{address}");
        }
        let taken = BindError { address: "[::1]:1".parse().unwrap(), error: io::ErrorKind::AddrInUse.into() };
        assert!(!taken.is_for_want_of_ipv6());
    }

    #[tokio::test]
    async fn everywhere_is_reached_over_both_families_where_there_are_both() {
        let listener = bind(&Listen::Everywhere(0)).unwrap().listeners.remove(0);
        let bound = listener.local_addr().unwrap();
        let (send, mut taken) = tokio::sync::mpsc::unbounded_channel();
        let accepting = tokio::spawn(async move {
            accept(&listener, |_, peer| send.send(peer).unwrap(), |_| {}).await;
        });
        let _v4 = TcpStream::connect((Ipv4Addr::LOCALHOST, bound.port())).await.unwrap();
        // An IPv4 peer of a socket for both is named by its IPv4 address.
        assert_eq!(taken.recv().await.unwrap().ip(), Ipv4Addr::LOCALHOST);
        if bound.is_ipv6() && TcpStream::connect((Ipv6Addr::LOCALHOST, bound.port())).await.is_ok() {
            assert_eq!(taken.recv().await.unwrap().ip(), Ipv6Addr::LOCALHOST);
        }
        accepting.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn without_descriptors_it_waits_longer_each_time_and_never_ends() {
        const EMFILE: i32 = 24;
        let mut script: VecDeque<io::Result<u32>> = VecDeque::new();
        script.extend((0..9).map(|_| Err(io::Error::from_raw_os_error(EMFILE))));
        script.push_back(Ok(1));
        script.push_back(Err(io::Error::from_raw_os_error(EMFILE)));
        script.push_back(Err(io::ErrorKind::ConnectionAborted.into()));
        script.push_back(Ok(2));
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        let (start, mut last) = (Instant::now(), Instant::now());
        let next = || {
            let result = script.pop_front();
            async { if let Some(result) = result { result } else { std::future::pending().await } }
        };
        let looping = accept_from(
            next,
            |connection| taken.push((connection, start.elapsed())),
            |_| {
                refused.push(last.elapsed().as_millis());
                last = Instant::now();
            },
        );
        assert!(tokio::time::timeout(Duration::from_secs(60), looping).await.is_err());
        let waits = [10, 20, 40, 80, 160, 320, 640, 1000];
        assert_eq!(refused[1..9], waits);
        let all: u64 = waits.iter().map(|&wait| wait as u64).sum::<u64>() + 1000;
        assert_eq!(taken[0], (1, Duration::from_millis(all)));
        assert_eq!(taken[1], (2, Duration::from_millis(all + 10)));
    }
}
