//! A TCP connection of its own for each client: `mfa = ["tcp", "connect", "127.0.0.1:6379"]`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use lib_chan::{Channel, ExitReason, Opaque, Process};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::net::TcpStream;

use super::relay::{reason, relay};

/// A host and a port, as a configuration names them.
#[derive(Clone, Debug)]
pub struct HostPort(Box<str>);

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(HostPortVisitor)
    }
}

struct HostPortVisitor;

impl Visitor<'_> for HostPortVisitor {
    type Value = HostPort;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a host and a port, as \"127.0.0.1:6379\" or \"[::1]:6379\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<HostPort, E> {
        let parts = text
            .rsplit_once(':')
            .filter(|(host, port)| can_exist(host) && port.parse::<u16>().is_ok_and(|port| port > 0));
        match parts {
            Some(_) => Ok(HostPort(text.into())),
            None => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

/// Whether there can be a host of this name or address.
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

/// Connects, and relays bytes both ways. A client speaks the `raw` codec; an empty message is the end of a direction.
///
/// # Errors
/// When there is no connection, with the reason; and when the client is gone.
pub async fn connect(_me: Process, chan: Channel<Opaque>, to: HostPort) -> Result<(), ExitReason> {
    let connecting = tokio::time::timeout(chan.limits().dial_timeout, TcpStream::connect(&*to.0));
    let stream = match connecting.await {
        Ok(connected) => connected.map_err(|error| reason(&error))?,
        Err(_) => return Err(reason(&std::io::ErrorKind::TimedOut.into())),
    };
    // Pieces are as long as the other end made them; holding them back gains nothing.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    relay(chan, reader, writer).await
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
