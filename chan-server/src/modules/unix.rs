//! Relay to a Unix socket: `mfa = ["unix", "connect", "/run/thing.sock"]`.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use lib_chan::relay::RelayError;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::relay::{Target, Unconnected};

/// How soon, and at the latest how often, a socket whose queue is full is tried again. The system tells nobody when
/// there is room.
const RETRY_AFTER: Duration = Duration::from_millis(1);
const MAX_RETRY_AFTER: Duration = Duration::from_millis(50);

/// The most bytes that the system takes for the path of a socket (unix(7)): the room for it less the byte that ends it.
const MAX_PATH_LEN: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The path of a socket, as a configuration names it.
#[derive(Clone, Debug)]
pub struct SocketPath {
    path: Box<Path>,
    /// Held by the process that connects: where the queue is full, the others wait behind it, first come first served.
    turn: Arc<Mutex<()>>,
}

impl<'de> Deserialize<'de> for SocketPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SocketPathVisitor)
    }
}

struct SocketPathVisitor;

impl Visitor<'_> for SocketPathVisitor {
    type Value = SocketPath;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an absolute path of at most {MAX_PATH_LEN} bytes, such as \"/run/thing.sock\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<SocketPath, E> {
        match Path::new(text) {
            path if path.is_absolute() && text.len() <= MAX_PATH_LEN && !text.contains('\0') => {
                Ok(SocketPath { path: path.into(), turn: Arc::default() })
            }
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

/// Says what stands in the place of a socket. The socket itself may come later, so nothing there is no warning.
pub(crate) fn warning(path: &str) -> Option<String> {
    let kind = fs::metadata(path).ok()?.file_type();
    let what = match kind {
        kind if kind.is_socket() => return None,
        kind if kind.is_dir() => "a directory",
        kind if kind.is_file() => "an ordinary file",
        _ => "a device or a pipe",
    };
    Some(format!("{path} is {what}, not a socket; name the socket, or have its program make it"))
}

impl SocketPath {
    /// Connects. Waits while the queue of the socket is full.
    async fn dial(&self) -> io::Result<UnixStream> {
        let _turn = self.turn.lock().await;
        let mut wait = RETRY_AFTER;
        loop {
            match UnixStream::connect(&self.path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(wait).await,
                connected => return connected,
            }
            wait = (wait * 2).min(MAX_RETRY_AFTER);
        }
    }
}

impl Target for SocketPath {
    type Stream = UnixStream;

    async fn connect(&self, within: Duration) -> Result<UnixStream, Unconnected> {
        let connected = timeout(within, self.dial()).await;
        connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| Unconnected {
            detail: format!("{}: {error}", self.path.display()),
            public: error.kind().to_string(),
        })
    }

    /// A Unix socket has no reset. Where a TCP connection would be reset, the socket is closed without a shutdown: a
    /// target that only reads cannot tell this from an EOF, one that writes gets `EPIPE`.
    fn halves(
        stream: &mut UnixStream,
    ) -> Result<(impl AsyncRead + Unpin + Send, impl AsyncWrite + Unpin + Send), RelayError> {
        // Not `into_split`: its sending half sends an EOF when it is dropped.
        Ok(stream.split())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn waits_its_turn_at_a_full_queue() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = {
            let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
            socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
            socket.listen(1).unwrap();
            socket.set_nonblocking(true).unwrap();
            UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into()).unwrap()
        };
        let mut queued = Vec::new();
        let full = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => queued.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let to = SocketPath { path: path.into(), turn: Arc::default() };
        let mut waiting = tokio::spawn({
            let to = to.clone();
            async move { to.dial().await }
        });
        assert!(timeout(MAX_RETRY_AFTER * 2, &mut waiting).await.is_err(), "connected to a full queue");
        for _ in 0..=queued.len() {
            listener.accept().await.unwrap();
        }
        assert!(waiting.await.unwrap().is_ok());
    }
}
