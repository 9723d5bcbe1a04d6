//! The path of a Unix socket.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use serde::{Deserialize, Deserializer};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::text;

/// How soon, and at the latest how often, a socket whose queue is full is tried again. The system tells nobody when
/// there is room.
const RETRY_AFTER: Duration = Duration::from_millis(1);
const MAX_RETRY_AFTER: Duration = Duration::from_millis(50);

/// The most bytes that the system takes for the path of a socket (unix(7)): the room for it less the byte that ends it.
const MAX_PATH_LEN: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The absolute path of a Unix socket, such as `/run/thing.sock`. Clones wait for each other at a socket whose queue is full.
#[derive(Clone, Debug)]
pub struct SocketPath {
    path: Box<Path>,
    /// Held by the process that connects: where the queue is full, the others wait behind it, first come first served.
    turn: Arc<Mutex<()>>,
}

impl<'de> Deserialize<'de> for SocketPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer, Expected)
    }
}

impl FromStr for SocketPath {
    type Err = InvalidSocketPath;

    fn from_str(text: &str) -> Result<Self, InvalidSocketPath> {
        let path = Path::new(text);
        if path.is_absolute() && text.len() <= MAX_PATH_LEN && !text.contains('\0') {
            Ok(Self { path: path.into(), turn: Arc::default() })
        } else {
            Err(InvalidSocketPath)
        }
    }
}

impl fmt::Display for SocketPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.path.display(), f)
    }
}

/// The text is no path of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {}", Expected)]
pub struct InvalidSocketPath;

/// The words for a valid path.
struct Expected;

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an absolute path of at most {MAX_PATH_LEN} bytes, such as \"/run/thing.sock\"")
    }
}

impl SocketPath {
    /// Connects within this time. Waits while the queue of the socket is full.
    ///
    /// # Errors
    /// Those of the system, and `TimedOut`.
    pub async fn dial(&self, within: Duration) -> io::Result<UnixStream> {
        timeout(within, self.dial_in_turn()).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn dial_in_turn(&self) -> io::Result<UnixStream> {
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
            async move { to.dial_in_turn().await }
        });
        assert!(timeout(MAX_RETRY_AFTER * 2, &mut waiting).await.is_err(), "connected to a full queue");
        for _ in 0..=queued.len() {
            listener.accept().await.unwrap();
        }
        assert!(waiting.await.unwrap().is_ok());
    }
}
