//! A TCP connection of its own for each client: `mfa = ["tcp", "connect", "127.0.0.1:6379"]`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use lib_chan::dial::dial;
use lib_chan::relay::{Relay, RelayError, tcp_halves};
use lib_chan::{Channel, ExitReason, Opaque, Process};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::Log;

/// The time for which a target may accept no byte after its session has ended. The session keeps its place meanwhile.
const LAST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);

/// The prefix of the text that a client gets about a failed target.
pub(super) const TARGET: &str = "target";

/// The relay between a client and the target of its service.
pub(super) const fn target_relay() -> Relay {
    Relay::new(TARGET).last_bytes_timeout(LAST_BYTES_TIMEOUT)
}

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

/// Connects to the target, and carries bytes both ways: see [`lib_chan::relay`]. A client speaks the `raw` codec.
///
/// # Errors
/// There is no connection, or it failed, or the session ended before both directions reached EOF.
pub(super) async fn connect(
    _me: Process,
    chan: Channel<Opaque>,
    to: HostPort,
    log: Log,
) -> Result<(), ExitReason> {
    let mut stream = match dial(&to.host, to.port, chan.limits().dial_timeout, |_| {}).await {
        Ok(stream) => stream,
        Err(error) => {
            log(&format!("{to}: {error}"));
            return Err(ExitReason::failed(format!("{TARGET}: {}", error.public())));
        }
    };
    let halves = tcp_halves(&mut stream).map_err(|error| RelayError::from(error).reason(TARGET));
    let (reader, writer) = halves?;
    target_relay().run(chan, reader, writer).await.map_err(|error| error.reason(TARGET))
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
