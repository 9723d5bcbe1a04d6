//! The bytes that a local program has sent before its stream is open.

use std::io;

use tokio::net::tcp::ReadHalf;

/// The bytes that a local program has sent when the service is asked for. They go along.
pub(super) struct FirstBytes {
    pub(super) bytes: Vec<u8>,
    /// The stream has failed. A socket reports an error once, and to the relay it would look like an EOF.
    pub(super) error: Option<io::Error>,
}

impl FirstBytes {
    /// Reads at most `max` bytes. Does not wait.
    pub(super) fn read(reader: &ReadHalf<'_>, max: usize) -> Self {
        let mut bytes = vec![0; max];
        let (len, error) = match reader.try_read(&mut bytes) {
            Ok(len) => (len, None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, None),
            Err(error) => (0, Some(error)),
        };
        bytes.truncate(len);
        Self { bytes, error }
    }
}

#[cfg(test)]
mod tests {
    use lib_chan::relay::tcp_halves;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn first_bytes_of_reset_stream_are_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for reset in [false, true] {
            let mut far = TcpStream::connect(address).await.unwrap();
            let (mut near, _) = listener.accept().await.unwrap();
            let (reader, _writer) = tcp_halves(&mut near).unwrap();
            assert!(FirstBytes::read(&reader, 16).bytes.is_empty());
            if reset {
                far.set_zero_linger().unwrap();
                drop(far);
            } else {
                tokio::io::AsyncWriteExt::write_all(&mut far, b"hello").await.unwrap();
            }
            reader.readable().await.unwrap();
            let FirstBytes { bytes, error } = FirstBytes::read(&reader, 16);
            assert_eq!(
                (&*bytes, error.is_some()),
                if reset { (&b""[..], true) } else { (&b"hello"[..], false) }
            );
        }
    }
}
