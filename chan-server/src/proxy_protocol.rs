//! The header that a load balancer puts in front of a connection, so that the server knows where it comes from: PROXY
//! protocol, version 2. It is believed from the addresses that the configuration names, and required from them.

use std::io;
use std::net::SocketAddr;

use ppp::v2::{Addresses, Command, Header, PROTOCOL_PREFIX};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The part of a header that says how long the rest is.
const PREFIX_LEN: usize = 16;
/// The most bytes of a header. What comes after the addresses is for others; a certificate of the client may be in it.
const MAX_LEN: usize = 4096;

/// Reads the header, and nothing behind it. Returns the client's address, or `None` where the proxy speaks for itself, as
/// for a health check.
///
/// It waits for ever: wrap the call in a timeout. A dropped future leaves a connection that is of no use any more.
///
/// # Errors
/// If it is no such header, or the connection is lost.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = [0; MAX_LEN];
    stream.read_exact(&mut header[..PREFIX_LEN]).await?;
    if !header.starts_with(PROTOCOL_PREFIX) {
        return Err(HeaderError::None);
    }
    let len = PREFIX_LEN + usize::from(u16::from_be_bytes([header[14], header[15]]));
    let rest = header.get_mut(PREFIX_LEN..len).ok_or(HeaderError::TooLong(len))?;
    stream.read_exact(rest).await?;
    let header = Header::try_from(&header[..len]).map_err(|_| HeaderError::Malformed)?;
    Ok(match (header.command, header.addresses) {
        (Command::Proxy, Addresses::IPv4(v4)) => Some((v4.source_address, v4.source_port).into()),
        (Command::Proxy, Addresses::IPv6(v6)) => Some((v6.source_address, v6.source_port).into()),
        // Whatever else it stands for has no address.
        _ => None,
    })
}

/// The reason that there is no header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// The connection was lost.
    #[error("the connection was lost: {0}")]
    Io(#[from] io::Error),
    /// Something else came, most likely TLS.
    #[error(
        "none came; let the proxy send it (HAProxy: send-proxy-v2), or remove its address from proxy_protocol_from"
    )]
    None,
    /// It is longer than any that makes sense.
    #[error("a header of {0} bytes; at most {MAX_LEN} are read")]
    TooLong(usize),
    /// It breaks the rules of the protocol.
    #[error("a malformed header")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = PROTOCOL_PREFIX.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    async fn read_all(bytes: &[u8]) -> (Result<Option<SocketAddr>, String>, usize) {
        let mut left = bytes;
        let result = read(&mut left).await.map_err(|error| error.to_string());
        (result, left.len())
    }

    #[tokio::test]
    async fn reads_client_address_and_nothing_more() {
        let v4 = [203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 0, 80];
        let mut bytes = header(1, 0x11, &v4);
        bytes.extend(b"TLS");
        assert_eq!(read_all(&bytes).await, (Ok(Some("203.0.113.9:4711".parse().unwrap())), 3));
        let mut v6 = [0; 36];
        (v6[15], v6[33]) = (7, 9);
        // With a field of 5 bytes behind the addresses.
        let bytes = header(1, 0x21, &[&v6[..], &[4, 0, 2, 1, 1]].concat());
        assert_eq!(read_all(&bytes).await, (Ok(Some("[::7]:9".parse().unwrap())), 0));
        assert_eq!(read_all(&header(0, 0, &[])).await, (Ok(None), 0), "a health check");
    }

    #[tokio::test]
    async fn refuses_malformed_and_endless_headers() {
        let v4 = [203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 0, 80];
        let tls = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 0, 0, 0, 0, 0, 0, 0];
        assert!(read_all(&tls).await.0.unwrap_err().contains("send-proxy-v2"));
        assert!(read_all(b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n").await.0.is_err());
        assert!(read_all(&header(1, 0x11, &[0; 5000])).await.0.unwrap_err().contains("5016 bytes"));
        for (command, family, rest) in [(2, 0x11, &v4[..]), (1, 0x41, &v4), (1, 0x11, &v4[..4])] {
            assert_eq!(read_all(&header(command, family, rest)).await.0.unwrap_err(), "a malformed header");
        }
        assert!(read_all(&header(1, 0x11, &v4)[..20]).await.0.unwrap_err().contains("lost"));
    }
}
