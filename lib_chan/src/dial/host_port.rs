//! A host and a port, as people write them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use tokio::net::TcpStream;

use super::{DialError, dial, text};

/// A host and a port of a TCP service, such as `127.0.0.1:6379`, `[::1]:6379` or `db.example.net:5432`.
#[derive(Clone, Debug)]
pub struct HostPort {
    host: Box<str>,
    port: u16,
}

impl HostPort {
    /// Connects within this time: see [`dial`](super::dial()).
    ///
    /// # Errors
    /// Those of [`dial`](super::dial()).
    pub async fn dial(&self, within: Duration) -> Result<TcpStream, DialError> {
        dial(&self.host, self.port, within, |_| {}).await
    }
}

impl FromStr for HostPort {
    type Err = InvalidHostPort;

    fn from_str(text: &str) -> Result<Self, InvalidHostPort> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidHostPort)?;
        let port = port.parse().ok().filter(|&port| port > 0).ok_or(InvalidHostPort)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if can_exist(host) { Ok(Self { host: bare.into(), port }) } else { Err(InvalidHostPort) }
    }
}

/// The text is no host and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {EXPECTED}")]
pub struct InvalidHostPort;

const EXPECTED: &str = "a host and a port, such as \"127.0.0.1:6379\" or \"[::1]:6379\"";

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer, EXPECTED)
    }
}

/// Returns `true` if a host can have this name or address.
fn can_exist(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        // A zone behind the address names a network card.
        return address.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let labels: Vec<_> = host.strip_suffix('.').unwrap_or(host).split('.').collect();
    let is_label = |label: &&str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let is_number = |label: &&str| label.bytes().all(|byte| byte.is_ascii_digit());
    let looks_like_v4 = labels.len() == 4 && labels.iter().all(is_number);
    host.len() <= 254 && labels.iter().all(is_label) && (!looks_like_v4 || host.parse::<Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::can_exist;

    #[test]
    fn knows_hosts_that_cannot_exist() {
        for host in [
            "localhost",
            "db.example.net.",
            "my_db",
            "10.0.0.1",
            "127.1",
            "[::1]",
            "[fe80::1%eth0]",
            "1.2.3.4.example",
        ] {
            assert!(can_exist(host), "{host}");
        }
        for host in ["", "a b", "a..b", "10.0.0.256", "[::g]", "[]", "::1", "http://x", &"x".repeat(64)] {
            assert!(!can_exist(host), "{host}");
        }
    }
}
