//! TCP connections to a host by name.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long an address has before the next is tried beside it (RFC 8305 section 8).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Connects `within` this time to the first address of `host` that answers, without delaying small segments.
///
/// Dropping the future gives up all attempts.
pub(crate) async fn dial(
    host: &str,
    port: u16,
    within: Duration,
    found: impl FnOnce(&[SocketAddr]),
) -> Result<TcpStream, DialError> {
    let dialling = async {
        let addresses: Vec<_> = lookup_host((host, port)).await.map_err(DialError::Lookup)?.collect();
        found(&addresses);
        let stream = first_that_answers(alternate(addresses), TcpStream::connect).await?;
        stream.set_nodelay(true).map_err(DialError::Socket)?;
        Ok(stream)
    };
    timeout(within, dialling).await.unwrap_or(Err(DialError::Silent(within)))
}

/// Tries one address after the other, the next as soon as one fails or has kept silent for a while.
async fn first_that_answers<F, C>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<C, DialError>
where
    F: Future<Output = io::Result<C>> + Send + 'static,
    C: Send + 'static,
{
    let mut untried = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failures = Vec::new();
    loop {
        if let Some(address) = untried.next() {
            let attempt = connect(address);
            attempts.spawn(async move { attempt.await.map_err(|error| (address, error)) });
        }
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(failure))) => failures.push(failure),
                // An attempt neither panics nor is it cancelled; if it were, it would be one that failed.
                Some(Err(_)) => {}
                None => return Err(DialError::NoAddress(failures)),
            },
            () = sleep(NEXT_ADDRESS_AFTER), if untried.len() > 0 => {}
        }
    }
}

/// The same addresses with the families in turn, beginning with that of the first, so that one family without a
/// route costs one step and not all of them (RFC 8305 section 4).
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

/// Why there is no TCP connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("its address is not found: {0}")]
    Lookup(io::Error),
    #[error("{}", list(.0))]
    NoAddress(Vec<(SocketAddr, io::Error)>),
    #[error("no address of it answered within {}", humantime::format_duration(*.0))]
    Silent(Duration),
    #[error("the socket cannot be set up: {0}")]
    Socket(io::Error),
}

fn list(failures: &[(SocketAddr, io::Error)]) -> String {
    match failures {
        [] => "it has no address".into(),
        [(_, error)] => error.to_string(),
        several => {
            let each = several.iter().map(|(address, error)| format!("{address}: {error}"));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn connects_by_name_without_delay_for_small_segments() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut found = Vec::new();
        let stream = dial("localhost", port, SECOND, |addresses| found = addresses.to_vec()).await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(found.contains(&stream.peer_addr().unwrap()));
    }

    #[tokio::test]
    async fn a_closed_port_is_told_as_such() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = dial("127.0.0.1", port, SECOND, |_| {}).await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_told_as_such() {
        let error = dial("nobody.invalid", 1, SECOND * 10, |_| {}).await.unwrap_err();
        assert!(matches!(error, DialError::Lookup(_)), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_fails_costs_no_time() {
        let began = Instant::now();
        let addresses = vec![address("[::1]:1"), address("127.0.0.1:1"), address("127.0.0.2:1")];
        let connected =
            first_that_answers(addresses, async |address| match address.ip().to_string().as_str() {
                "127.0.0.2" => Ok(address),
                _ => Err(io::ErrorKind::ConnectionRefused.into()),
            });
        assert_eq!(connected.await.unwrap(), address("127.0.0.2:1"));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_one_step_and_may_still_answer_first() {
        let began = Instant::now();
        let addresses = vec![address("[::1]:1"), address("127.0.0.1:1"), address("[::2]:1")];
        let slow = async |address: SocketAddr| match address.is_ipv6() {
            true if address.ip().to_string() == "::1" => {
                sleep(NEXT_ADDRESS_AFTER * 5 / 2).await;
                Ok(address)
            }
            _ => pending().await,
        };
        assert_eq!(first_that_answers(addresses, slow).await.unwrap(), address("[::1]:1"));
        assert_eq!(began.elapsed(), NEXT_ADDRESS_AFTER * 5 / 2);
    }

    #[tokio::test]
    async fn every_failure_is_in_the_error() {
        let addresses = vec![address("[::1]:1"), address("127.0.0.1:1")];
        let refuse = async |_| Err::<(), _>(io::ErrorKind::ConnectionRefused.into());
        let error = first_that_answers(addresses, refuse).await.unwrap_err();
        assert_eq!(error.to_string(), "[::1]:1: connection refused, 127.0.0.1:1: connection refused");
    }

    #[test]
    fn the_families_take_turns() {
        let given = ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1"].map(address).to_vec();
        let turns = ["[::1]:1", "127.0.0.1:1", "[::2]:1", "[::3]:1"].map(address).to_vec();
        assert_eq!(alternate(given), turns);
        assert_eq!(alternate(vec![]), []);
    }
}
