//! Streams of a session over cuts: each is a pair of handed-out processes.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::{How, Session, session_with};
use crate::{
    Event, Process, Rights,
    channel::Opening,
    enter,
    relay::{Pieces, PiecesMessage, Streams, StreamsMessage},
    spawn,
};

/// Opens streams that return each piece.
fn echo(opening: Opening) {
    spawn(async move |_: Process| {
        let mut chan = opening.accept::<StreamsMessage, ()>();
        while let Some(StreamsMessage::Open { client, reply, .. }) = chan.recv().await {
            reply.send(spawn(async move |mut me: Process<PiecesMessage>| {
                loop {
                    match me.recv().await {
                        Event::Message(PiecesMessage::Piece { bytes }) => client.piece(bytes).await?,
                        _ => return Ok(()),
                    }
                }
            }));
        }
        Ok(())
    });
}

#[tokio::test(start_paused = true)]
async fn streams_go_on_over_any_number_of_cuts() {
    let Session { channel, network, .. } = session_with::<(), StreamsMessage>(echo).await;
    let streams: Vec<_> = (0..20_usize)
        .map(|n| {
            let streams = channel.remote();
            tokio::spawn(enter(async move |mut me: Process<PiecesMessage>| {
                let client = me.address().grant(Rights { link: true, ..Rights::default() });
                let far = streams.open(Bytes::new(), client).await?;
                let piece = Bytes::from(vec![n as u8; 500 + 37 * n]);
                for _ in 0..1_000 {
                    far.piece(piece.clone()).await?;
                    let Event::Message(PiecesMessage::Piece { bytes }) = me.recv().await else {
                        panic!("an end")
                    };
                    assert_eq!(bytes, piece);
                }
                Ok(())
            }))
        })
        .collect();
    let counted = network.clone();
    let cutting = tokio::spawn(async move {
        for n in 0.. {
            for _ in 0..n % 977 {
                tokio::task::yield_now().await;
            }
            network.cut(if n % 2 == 0 { How::EndOfFile } else { How::HalfOpen });
            while network.state().cables.is_empty() {
                tokio::task::yield_now().await;
            }
        }
    });
    for stream in streams {
        timeout(Duration::from_secs(10_000), stream).await.expect("the stream goes on").unwrap().unwrap();
    }
    cutting.abort();
    let resumed = counted.state().dialled;
    assert!(resumed > 10, "{resumed}");
}
