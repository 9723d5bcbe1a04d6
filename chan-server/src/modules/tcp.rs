//! A TCP connection of its own for each client: `mfa = ["tcp", "connect", "127.0.0.1:6379"]`.

use std::fmt;

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
        let parts = text.rsplit_once(':').filter(|(host, port)| {
            let bracketed = host.starts_with('[') && host.ends_with(']');
            let host_fits = !host.is_empty() && (bracketed || !host.contains(':'));
            host_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        match parts {
            Some(_) => Ok(HostPort(text.into())),
            None => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
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
