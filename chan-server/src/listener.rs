//! Accepts connections. Each is handled in its own task.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use lib_chan::dial::prepare;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// Connections that the system keeps for us until they are accepted.
const BACKLOG: i32 = 1024;
/// The waits while the system has no descriptor to give.
const MIN_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    /// This port of every address.
    Everywhere(u16),
    /// These addresses.
    At(Vec<SocketAddr>),
}

/// A socket that a server listens with, as its configuration asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ListenAt {
    pub(crate) address: SocketAddr,
    /// Set if an IPv6 socket leaves IPv4 to others.
    only_v6: bool,
    /// Set if IPv4 alone suffices on a machine without IPv6.
    or_v4: bool,
}

impl Listen {
    #[cfg(feature = "cli")]
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Everywhere(port) => vec![(Ipv6Addr::UNSPECIFIED, *port).into()],
            Self::At(addresses) => addresses.clone(),
        }
    }

    /// Returns the sockets to listen with. `[::]` takes IPv4 as well, unless an IPv4 address stands beside it for the
    /// same port.
    pub(crate) fn places(&self) -> Vec<ListenAt> {
        match self {
            // One socket for both families.
            Self::Everywhere(port) => {
                let address = (Ipv6Addr::UNSPECIFIED, *port).into();
                vec![ListenAt { address, only_v6: false, or_v4: true }]
            }
            Self::At(addresses) => addresses
                .iter()
                .map(|&address| {
                    let beside_v4 =
                        addresses.iter().any(|other| other.is_ipv4() && other.port() == address.port());
                    ListenAt { address, only_v6: beside_v4 || !address.ip().is_unspecified(), or_v4: false }
                })
                .collect(),
        }
    }
}

impl ListenAt {
    /// Returns whether the system refuses one of these two while a socket listens at the other.
    fn excludes(&self, other: &Self) -> bool {
        let (a, b) = (self.address, other.address);
        let wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
        let is_dual = |place: &Self| place.address.is_ipv6() && !place.only_v6;
        let families_meet = a.is_ipv4() == b.is_ipv4() || is_dual(self) || is_dual(other);
        self != other
            && a.port() == b.port()
            && a.port() != 0
            && families_meet
            && (wildcard || a.ip() == b.ip())
    }
}

/// How the sockets of a running server become those of another configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) open: Vec<ListenAt>,
    pub(crate) close: Vec<ListenAt>,
    /// Cannot be opened before another one is closed, so it takes a restart.
    pub(crate) stuck: Vec<ListenAt>,
}

impl Move {
    /// Returns what to open and to close. Where two exclude each other, the one that is open stays.
    pub(crate) fn between(held: &[ListenAt], wanted: &[ListenAt]) -> Self {
        let mut this = Self::default();
        for &place in wanted.iter().filter(|place| !held.contains(place)) {
            let excluded = held.iter().any(|held| held.excludes(&place));
            if excluded { this.stuck.push(place) } else { this.open.push(place) }
        }
        let stays = |place: &&ListenAt| {
            !wanted.contains(place) && !this.stuck.iter().any(|stuck| stuck.excludes(place))
        };
        this.close = held.iter().filter(stays).copied().collect();
        this
    }
}

/// The reason that the server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}{}", advice(.error))]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// The error of the system.
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

/// The sockets that a server listens on.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listeners: Vec<(ListenAt, TcpListener)>,
    /// Addresses that the machine does not have, since it has no IPv6; the server goes on without them.
    pub(crate) skipped: Vec<BindError>,
}

/// Binds every address that the machine can have, or none. Without IPv6, `[::]` and `[::1]` are skipped as long as another
/// address remains, or `remains` says that there is one. A socket among `inherited` that listens at such an address is
/// taken instead of a new one.
pub(crate) fn bind(
    places: &[ListenAt],
    remains: bool,
    inherited: &mut Vec<std::net::TcpListener>,
) -> Result<Bound, BindError> {
    let mut bound = Bound { listeners: Vec::new(), skipped: Vec::new() };
    for &place in places {
        match open(place, inherited) {
            Ok(listener) => bound.listeners.push((place, listener)),
            Err(error) if error.is_for_want_of_ipv6() => bound.skipped.push(error),
            Err(error) => return Err(error),
        }
    }
    match bound.skipped.pop() {
        Some(error) if bound.listeners.is_empty() && !remains => Err(error),
        skipped => {
            bound.skipped.extend(skipped);
            Ok(bound)
        }
    }
}

fn open(place: ListenAt, inherited: &mut Vec<std::net::TcpListener>) -> Result<TcpListener, BindError> {
    let address = place.address;
    let given = |listener: &std::net::TcpListener| listener.local_addr().is_ok_and(|local| local == address);
    if let Some(at) = inherited.iter().position(given) {
        let listener = inherited.swap_remove(at);
        let adopted = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
        return adopted.map_err(|error| BindError { address, error });
    }
    match bind_one(address, place.only_v6) {
        Err(error) if place.or_v4 && error.is_for_want_of_ipv6() => {
            bind_one((Ipv4Addr::UNSPECIFIED, address.port()).into(), false)
        }
        bound => bound,
    }
}

/// Returns whether these can be bound, as far as can be told without listening there.
pub(crate) fn probe(places: &[ListenAt]) -> Result<(), BindError> {
    for place in places {
        match socket(place.address, place.only_v6) {
            Err(error) if !without_ipv6(&error) => return Err(BindError { address: place.address, error }),
            _ => {}
        }
    }
    Ok(())
}

fn bind_one(address: SocketAddr, only_v6: bool) -> Result<TcpListener, BindError> {
    let bound = socket(address, only_v6).and_then(|socket| {
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    });
    bound.map_err(|error| BindError { address, error })
}

fn socket(address: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // A server that starts again must not wait for the last connections of its predecessor to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
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
        // It fails for a peer that has gone, which is found later.
        let _ = prepare(&stream);
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

    fn bound(listen: &Listen) -> Result<Bound, BindError> {
        bind(&listen.places(), false, &mut Vec::new())
    }

    fn loopback() -> Listen {
        Listen::At(vec![(Ipv4Addr::LOCALHOST, 0).into()])
    }

    #[tokio::test]
    async fn accepted_connections_are_prepared() {
        let listener = bound(&loopback()).unwrap().listeners.remove(0).1;
        let address = listener.local_addr().unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (send, mut taken) = tokio::sync::mpsc::unbounded_channel();
        tokio::select! {
            () = accept(&listener, |stream, peer| send.send((stream, peer)).unwrap(), |_| {}) => {}
            Some((stream, peer)) = taken.recv() => {
                assert!(stream.nodelay().unwrap());
                #[cfg(target_os = "linux")]
                assert_eq!(socket2::SockRef::from(&stream).tcp_notsent_lowat().unwrap(), 64 * 1024);
                assert_eq!(peer.ip(), Ipv4Addr::LOCALHOST);
            }
        }
    }

    #[tokio::test]
    async fn port_in_use_is_named_with_advice() {
        let listener = bound(&loopback()).unwrap().listeners.remove(0).1;
        let address = listener.local_addr().unwrap();
        let text = bound(&Listen::At(vec![address])).unwrap_err().to_string();
        assert!(text.starts_with(&format!("cannot listen on {address}: ")), "{text}");
        assert!(text.ends_with("; end the program that listens there, or choose another port"), "{text}");
    }

    #[tokio::test]
    async fn both_wildcards_share_a_port() {
        let bind_both = || {
            let free = bound(&Listen::Everywhere(0)).unwrap().listeners.remove(0).1;
            let port = free.local_addr().unwrap().port();
            drop(free);
            let (v4, v6) = ((Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into());
            let one_v4 = (Ipv4Addr::LOCALHOST, port).into();
            [vec![v4, v6], vec![v6, v4], vec![v6, one_v4]].map(|addresses| {
                bound(&Listen::At(addresses)).map(|bound| bound.listeners.len() + bound.skipped.len())
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
    async fn listens_everywhere_on_both_families() {
        let listener = bound(&Listen::Everywhere(0)).unwrap().listeners.remove(0).1;
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
    async fn accept_backs_off_without_descriptors() {
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

    fn places(addresses: &[&str]) -> Vec<ListenAt> {
        Listen::At(addresses.iter().map(|address| address.parse().unwrap()).collect()).places()
    }

    #[test]
    fn a_move_opens_and_closes_what_differs() {
        let (a, b, c) = ("127.0.0.1:1", "[::1]:1", "127.0.0.1:2");
        let moved = Move::between(&places(&[a, b]), &places(&[c, a]));
        assert_eq!((moved.open, moved.close, moved.stuck), (places(&[c]), places(&[b]), vec![]));
        assert_eq!(Move::between(&places(&[a, b]), &places(&[b, a])), Move::default());
    }

    #[test]
    fn what_excludes_an_open_socket_takes_a_restart() {
        for (held, wanted) in [
            (["127.0.0.1:1"], ["0.0.0.0:1"]),
            (["0.0.0.0:1"], ["127.0.0.1:1"]),
            (["[::]:1"], ["0.0.0.0:1"]),
            (["[::1]:1"], ["[::]:1"]),
            (["127.0.0.1:1"], ["[::]:1"]),
        ] {
            let moved = Move::between(&places(&held), &places(&wanted));
            assert_eq!((moved.open, moved.close, moved.stuck), (vec![], vec![], places(&wanted)), "{held:?}");
        }
        // Another port, or another family, excludes nothing.
        for wanted in ["0.0.0.0:2", "[::1]:1", "127.0.0.2:1"] {
            assert_eq!(
                Move::between(&places(&["127.0.0.1:1"]), &places(&[wanted])).open.len(),
                1,
                "{wanted}"
            );
        }
    }

    #[tokio::test]
    async fn an_inherited_socket_is_used_where_it_fits() {
        let given = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = given.local_addr().unwrap();
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut inherited = vec![other, given];
        let bound = bind(&Listen::At(vec![address]).places(), false, &mut inherited).unwrap();
        assert_eq!(bound.listeners[0].1.local_addr().unwrap(), address);
        assert_eq!(inherited.len(), 1);
    }
}
