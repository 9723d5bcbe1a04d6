//! Relays between streams and channels.

use std::io;

use chan_client::connect;
use lib_chan::payload::Codec;
use lib_chan::relay::{Relay, RelayError};
use lib_chan::{Channel, ExitReason, Opaque};
use tokio::io::{AsyncRead, AsyncWriteExt, duplex, empty, repeat};

use crate::server::{BRIEF, Server, key};

async fn open(server: &Server, what: &str) -> Channel<Opaque> {
    let url = server.url().replace("localhost", "joe@localhost");
    let (key, what) = (key(), what.to_owned());
    connect(url).key(&key).codec(Codec::Raw).args(&what).open().await.unwrap()
}

/// Relays `reader` to the service. Returns the bytes that came back, and the result.
async fn carry(what: &str, reader: impl AsyncRead + Unpin) -> (String, Result<(), RelayError>) {
    let server = Server::start().await;
    let mut back = Vec::new();
    let ended = Relay::new("stream").run(open(&server, what).await, reader, &mut back).await;
    (String::from_utf8(back).unwrap(), ended)
}

#[tokio::test]
async fn carries_empty_stream() {
    let (back, ended) = carry("echo", empty()).await;
    assert!(back.is_empty() && ended.is_ok(), "{ended:?}");
}

#[tokio::test]
async fn carries_more_bytes_than_window() {
    let text = (0..200_000).map(|i| i.to_string()).collect::<String>();
    let (back, ended) = carry("echo", text.as_bytes()).await;
    assert!(ended.is_ok(), "{ended:?}");
    assert!(back == text, "{} of {} bytes", back.len(), text.len());
}

#[tokio::test]
async fn hears_service_that_reads_no_more() {
    let (silent, _open) = duplex(1);
    let (back, ended) = carry("brief", silent).await;
    assert!(back == BRIEF && ended.is_ok(), "{back} {ended:?}");
    let (back, ended) = carry("brief", repeat(b'x')).await;
    assert!(back == BRIEF && ended.is_ok(), "{back} {ended:?}");
}

#[tokio::test]
async fn missing_eof_is_failure_with_reason() {
    for reader in [&mut empty() as &mut (dyn AsyncRead + Send + Unpin), &mut repeat(b'x')] {
        let (back, ended) = carry("broken", reader).await;
        assert_eq!(back, BRIEF);
        let Err(RelayError::Session(reason)) = ended else { panic!("{ended:?}") };
        assert_eq!(reason, ExitReason::failed("out of order"));
    }
}

#[tokio::test]
async fn failed_stream_ends_session() {
    let server = Server::start().await;
    let chan = open(&server, "echo").await;
    let ended = chan.remote();
    let (gone, _) = duplex(1);
    let (reader, mut input) = duplex(16);
    input.write_all(b"x").await.unwrap();
    let relayed = Relay::new("stream").run(chan, reader, gone).await;
    assert!(
        matches!(&relayed, Err(RelayError::Stream(error)) if error.kind() == io::ErrorKind::BrokenPipe),
        "{relayed:?}"
    );
    // The service has answered to that.
    assert_eq!(ended.ended().await, ExitReason::Normal);
}
