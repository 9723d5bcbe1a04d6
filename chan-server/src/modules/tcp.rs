//! Relay to a TCP port: `mfa = ["tcp", "connect", "127.0.0.1:6379"]`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use lib_chan::dial::dial;
use lib_chan::relay::{RelayError, tcp_halves};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::relay::{Target, Unconnected};

/// A host and a port, as a configuration names them.
#[derive(Clone, Debug)]
pub struct HostPort {
    host: Box<str>,
    port: u16,
}

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
        deserializer.deserialize_str(HostPortVisitor)
    }
}

struct HostPortVisitor;

impl Visitor<'_> for HostPortVisitor {
    type Value = HostPort;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a host and a port, such as \"127.0.0.1:6379\" or \"[::1]:6379\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<HostPort, E> {
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            let port = port.parse().ok().filter(|&port| port > 0)?;
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            can_exist(host).then(|| HostPort { host: bare.into(), port })
        });
        parsed.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
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

impl Target for HostPort {
    type Stream = TcpStream;

    async fn connect(&self, within: Duration) -> Result<TcpStream, Unconnected> {
        dial(&self.host, self.port, within, |_| {})
            .await
            .map_err(|error| Unconnected { detail: format!("{self}: {error}"), public: error.public() })
    }

    fn halves(
        stream: &mut TcpStream,
    ) -> Result<(impl AsyncRead + Unpin + Send, impl AsyncWrite + Unpin + Send), RelayError> {
        Ok(tcp_halves(stream)?)
    }
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
