//! Relay to a Unix socket: `mfa = ["unix", "connect", "/run/thing.sock"]`.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

pub use lib_chan::dial::SocketPath;
use lib_chan::relay::RelayError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use super::relay::{Dialled, Unconnected};

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

impl Dialled for SocketPath {
    type Stream = UnixStream;

    async fn connect(&self, within: Duration) -> Result<UnixStream, Unconnected> {
        let dialled = self.dial(within).await;
        dialled.map_err(|error| Unconnected {
            detail: format!("{self}: {error}"),
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
