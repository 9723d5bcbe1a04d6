//! Bytes over TCP as it is: for what carries connections itself.

use std::net::IpAddr;

use anyhow::Result;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};

use super::raw::{self, Connect};
use super::secure::Client;
use super::{Listening, Work, say};

/// Serves until standard input ends.
pub(super) async fn serve(at: IpAddr, work: Work) -> Result<()> {
    let listener = TcpListener::bind((at, 0)).await?;
    say(&Listening { address: listener.local_addr()?, pin: String::new(), program: std::process::id() })?;
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            ended = super::until_input_ends() => return ended,
        };
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let stream = BufReader::new(stream);
            if matches!(work, Work::OneWay | Work::Bulk) {
                raw::take(stream).await
            } else {
                raw::echo(stream).await
            }
        });
    }
}

impl Connect for TcpStream {
    async fn connect(client: &Client) -> Result<Self> {
        let stream = Self::connect(client.server().address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
