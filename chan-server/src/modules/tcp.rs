//! Relay to a TCP port: `mfa = ["tcp", "connect", "127.0.0.1:6379"]`.

use std::time::Duration;

pub use lib_chan::dial::HostPort;
use lib_chan::relay::{RelayError, tcp_halves};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::relay::{Dialled, Unconnected};

impl Dialled for HostPort {
    type Stream = TcpStream;

    async fn connect(&self, within: Duration) -> Result<TcpStream, Unconnected> {
        let dialled = self.dial(within).await;
        dialled.map_err(|error| Unconnected { detail: format!("{self}: {error}"), public: error.public() })
    }

    fn halves(
        stream: &mut TcpStream,
    ) -> Result<(impl AsyncRead + Unpin + Send, impl AsyncWrite + Unpin + Send), RelayError> {
        Ok(tcp_halves(stream)?)
    }
}
