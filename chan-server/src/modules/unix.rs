//! A connection to a Unix socket for each client: `mfa = ["unix", "connect", "/run/thing.sock"]`.

use std::fmt;
use std::path::Path;

use lib_chan::{Channel, ExitReason, Opaque, Process};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::net::UnixStream;

use super::relay::{reason, relay};

/// The most bytes that the system takes for the path of a socket (unix(7)): the room for it less the byte that ends it.
const MAX_PATH_LEN: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The path of a socket, as a configuration names it.
#[derive(Clone, Debug)]
pub struct SocketPath(Box<Path>);

impl<'de> Deserialize<'de> for SocketPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SocketPathVisitor)
    }
}

struct SocketPathVisitor;

impl Visitor<'_> for SocketPathVisitor {
    type Value = SocketPath;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a path from the root of at most {MAX_PATH_LEN} bytes, as \"/run/thing.sock\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<SocketPath, E> {
        match Path::new(text) {
            path if path.is_absolute() && text.len() <= MAX_PATH_LEN && !text.contains('\0') => {
                Ok(SocketPath(path.into()))
            }
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

/// Connects, and relays bytes both ways. A client speaks the `raw` codec; an empty message is the end of a direction.
///
/// # Errors
/// When there is no connection, with the reason; and when the client is gone.
pub async fn connect(_me: Process, chan: Channel<Opaque>, to: SocketPath) -> Result<(), ExitReason> {
    let stream = UnixStream::connect(&to.0).await.map_err(|error| reason(&error))?;
    let (reader, writer) = stream.into_split();
    relay(chan, reader, writer).await
}
