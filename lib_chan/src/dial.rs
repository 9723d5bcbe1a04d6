//! Connections to a host by name, or to a Unix socket: of a client to its server, of a relay to its target.

mod host_port;
mod socket_path;
mod text;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

pub use self::{
    host_port::{HostPort, InvalidHostPort},
    socket_path::{InvalidSocketPath, SocketPath},
};
use crate::runtime::blocking;

/// The time after which the next address is tried in parallel (RFC 8305, section 8).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// The most bytes that the system takes for a connection before it can send them.
#[cfg(target_os = "linux")]
const MAX_NOT_SENT: u32 = 64 * 1024;

/// Prepares a TCP connection to carry messages or a stream, so that a small message waits for little else:
///
/// - Small segments go at once (`TCP_NODELAY`).
/// - On Linux, the system takes at most 64 KiB that it cannot send yet (`TCP_NOTSENT_LOWAT`, tcp(7)). By default it takes
///   megabytes. A small message then waits behind all of them, whatever its session puts first. How much is on its way in
///   the network is bounded by the congestion window alone, so bulk data are as fast.
///
/// [`dial`](dial()) does this; call it for a connection that was accepted.
///
/// # Errors
/// The connection has ended.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A system without this option carries all the same.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(MAX_NOT_SENT);
    Ok(())
}

/// Connects to the first address of `host` that answers, and [prepares](prepare) the connection.
///
/// Tries the addresses one after the other, IPv6 and IPv4 in turn: the next one as soon as one fails, or after 250 ms
/// in parallel (RFC 8305). Calls `found` with the addresses. `within` bounds all of it, the lookup included.
///
/// Dropping the future gives up all attempts.
///
/// # Errors
/// No address was found, or none answered. The error lists the attempts and their outcomes.
pub async fn dial(
    host: &str,
    port: u16,
    within: Duration,
    found: impl FnOnce(&[SocketAddr]),
) -> Result<TcpStream, DialError> {
    let mut attempts = Attempts::default();
    let dialling = async {
        let addresses = look_up(host, port).await.map_err(DialError::Lookup)?;
        found(&addresses);
        Ok(attempts.first_that_answers(addresses, TcpStream::connect).await)
    };
    let stream = match timeout(within, dialling).await {
        Ok(Ok(Some(stream))) => stream,
        Ok(Ok(None)) => return Err(DialError::NoAnswer { tried: attempts.0, within: None }),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(DialError::NoAnswer { tried: attempts.0, within: Some(within) }),
    };
    prepare(&stream).map_err(DialError::Socket)?;
    Ok(stream)
}

/// Asks the resolver of the system, which blocks. A literal address needs no resolver.
async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let host = host.to_owned();
    Ok(blocking(move || (host.as_str(), port).to_socket_addrs()).await??.collect())
}

/// The addresses that were tried, with the errors of those that failed.
#[derive(Debug, Default)]
struct Attempts(Vec<(SocketAddr, Option<io::Error>)>);

impl Attempts {
    /// Tries one address after the other: the next one as soon as one fails or has been silent for a while. Returns
    /// `None` if all have failed.
    async fn first_that_answers<F, C>(
        &mut self,
        addresses: Vec<SocketAddr>,
        connect: impl Fn(SocketAddr) -> F,
    ) -> Option<C>
    where
        F: Future<Output = io::Result<C>> + Send + 'static,
        C: Send + 'static,
    {
        let mut untried = alternate(addresses).into_iter();
        let mut running = JoinSet::new();
        loop {
            if let Some(address) = untried.next() {
                let (attempt, place) = (connect(address), self.0.len());
                self.0.push((address, None));
                running.spawn(async move { attempt.await.map_err(|error| (place, error)) });
            }
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(Ok(Ok(stream))) => return Some(stream),
                    Some(Ok(Err((place, error)))) => {
                        if let Some((_, failure)) = self.0.get_mut(place) {
                            *failure = Some(error);
                        }
                    }
                    // An attempt neither panics nor is cancelled. If it were, it would count as failed.
                    Some(Err(_)) => {}
                    None => return None,
                },
                () = sleep(NEXT_ADDRESS_AFTER), if untried.len() > 0 => {}
            }
        }
    }
}

/// The same addresses with the families in turn, beginning with that of the first, so that a family without a route
/// costs one step and not all of them (RFC 8305, section 4).
fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else {
        return addresses;
    };
    let (same, other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let len = same.len().max(other.len());
    let turns = (0..len).flat_map(|i| [same.get(i), other.get(i)]);
    turns.flatten().copied().collect()
}

/// The reason why there is no TCP connection. Does not name the host.
#[derive(Debug)]
#[non_exhaustive]
pub enum DialError {
    /// The name has no address, or the lookup failed.
    Lookup(io::Error),
    /// No address answered.
    NoAnswer {
        /// The addresses that were tried, and why each failed; `None` for an address that did not answer.
        tried: Vec<(SocketAddr, Option<io::Error>)>,
        /// The time that it had, if it was used up.
        within: Option<Duration>,
    },
    /// The connection was made, but its socket could not be set up.
    Socket(io::Error),
}

impl DialError {
    /// Returns the failure without an address, for a reader who may not know the target.
    pub fn public(&self) -> String {
        match self {
            Self::Lookup(_) => "name not found".into(),
            Self::NoAnswer { within: Some(_), .. } => io::ErrorKind::TimedOut.to_string(),
            Self::NoAnswer { tried, .. } => match tried.iter().find_map(|(_, failure)| failure.as_ref()) {
                Some(failure) => failure.kind().to_string(),
                None => "no address".into(),
            },
            Self::Socket(error) => error.kind().to_string(),
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup(error) => write!(f, "no address found: {error}"),
            Self::NoAnswer { tried, within: Some(within) } if tried.is_empty() => {
                write!(f, "no address found within {within:?}")
            }
            Self::NoAnswer { tried, within } => {
                if tried.is_empty() {
                    return f.write_str("no address found");
                }
                for (i, (address, failure)) in tried.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    // The host identifies a single address well enough.
                    if tried.len() > 1 {
                        write!(f, "{address}: ")?;
                    }
                    match failure {
                        Some(error) => error.fmt(f)?,
                        None => write!(f, "no answer within {:?}", within.unwrap_or_default())?,
                    }
                }
                Ok(())
            }
            Self::Socket(error) => write!(f, "cannot set up the socket: {error}"),
        }
    }
}

impl std::error::Error for DialError {}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::{net::TcpListener, time::Instant};

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn connects_by_name_and_prepares() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut found = Vec::new();
        let stream = dial("localhost", port, SECOND, |addresses| found = addresses.to_vec()).await.unwrap();
        assert!(stream.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket2::SockRef::from(&stream).tcp_notsent_lowat().unwrap(), MAX_NOT_SENT);
        assert!(found.contains(&stream.peer_addr().unwrap()));
    }

    #[tokio::test]
    async fn says_that_a_port_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = dial("127.0.0.1", port, SECOND, |_| {}).await.unwrap_err();
        assert!(error.to_string().starts_with("Connection refused"), "{error}");
        assert_eq!(error.public(), "connection refused");
    }

    #[tokio::test]
    async fn says_that_a_name_is_not_found() {
        let error = dial("nobody.invalid", 1, SECOND * 10, |_| {}).await.unwrap_err();
        assert!(error.to_string().starts_with("no address found: "), "{error}");
        assert_eq!(error.public(), "name not found");
    }

    #[tokio::test(start_paused = true)]
    async fn next_address_follows_a_failure_at_once() {
        let began = Instant::now();
        let addresses = vec![address("[::1]:1"), address("127.0.0.1:1"), address("127.0.0.2:1")];
        let mut attempts = Attempts::default();
        let connected =
            attempts.first_that_answers(addresses, async |address| match address.to_string().as_str() {
                "127.0.0.2:1" => Ok(address),
                _ => Err(io::ErrorKind::ConnectionRefused.into()),
            });
        assert_eq!(connected.await, Some(address("127.0.0.2:1")));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_address_costs_one_step_and_may_answer() {
        let began = Instant::now();
        let addresses = vec![address("[::1]:1"), address("127.0.0.1:1"), address("[::2]:1")];
        let slow = async |address: SocketAddr| match address.to_string().as_str() {
            "[::1]:1" => {
                sleep(NEXT_ADDRESS_AFTER * 5 / 2).await;
                Ok(address)
            }
            _ => pending().await,
        };
        let connected = Attempts::default().first_that_answers(addresses, slow).await;
        assert_eq!(connected, Some(address("[::1]:1")));
        assert_eq!(began.elapsed(), NEXT_ADDRESS_AFTER * 5 / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn names_every_address_that_was_tried() {
        let addresses = vec![address("[::1]:1"), address("127.0.0.1:1")];
        let mut attempts = Attempts::default();
        let connect = async |address: SocketAddr| match address.is_ipv6() {
            true => pending::<io::Result<()>>().await,
            false => Err(io::ErrorKind::ConnectionRefused.into()),
        };
        assert!(timeout(SECOND, attempts.first_that_answers(addresses, connect)).await.is_err());
        let error = DialError::NoAnswer { tried: attempts.0, within: Some(SECOND) };
        assert_eq!(error.to_string(), "[::1]:1: no answer within 1s, 127.0.0.1:1: connection refused");
        assert_eq!(error.public(), "timed out");
    }

    #[test]
    fn families_take_turns() {
        let given = ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1"].map(address).to_vec();
        let turns = ["[::1]:1", "127.0.0.1:1", "[::2]:1", "[::3]:1"].map(address).to_vec();
        assert_eq!(alternate(given), turns);
        assert_eq!(alternate(vec![]), []);
    }
}
