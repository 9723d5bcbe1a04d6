//! The session between the two ends of a program: over a stream in memory that can be cut at either end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;

use lib_chan::channel::{open, serve};
use lib_chan::handshake::{SessionParameters, pair_in_memory};
use lib_chan::payload::Codec;
use lib_chan::{Address, Channel, Incoming, Limits, Message, Remote};
use tokio::io::{BufReader, DuplexStream};
use tokio::sync::oneshot;

use super::ours::Note;
use crate::cuttable::Cuttable;

/// Less than one step of a program may send, so that frames arrive in pieces and have to wait for each other.
const STREAM_LEN: usize = 60;

/// Both ends of a session.
pub(super) struct Session {
    ends: [End; 2],
    cut: bool,
}

struct End {
    /// Until it is given to the owner.
    channel: Option<Channel<Note>>,
    remote: Remote<Note>,
    cut: Option<oneshot::Sender<()>>,
    /// The middleman has let go of the stream.
    gone: oneshot::Receiver<Infallible>,
}

impl Session {
    /// Opens one. Needs a tokio runtime with a clock.
    pub(super) async fn open() -> Self {
        let limits = Limits::default();
        let parameters = SessionParameters::from_limits(&limits).expect("the defaults are valid");
        let (client, server) = pair_in_memory(parameters, [7; 32]).expect("a session in memory");
        let (near, far) = tokio::io::duplex(STREAM_LEN);
        let (near, cut_near, near_gone) = line(near);
        let (far, cut_far, far_gone) = line(far);
        let (tell, told) = oneshot::channel();
        let start = |opening: lib_chan::channel::Opening| drop(tell.send(opening.accept()));
        let server_limits = limits.clone();
        tokio::spawn(async move { serve(BufReader::new(far), &server, &server_limits, start).await });
        let near = open(BufReader::new(near), &client, &limits, Codec::Bincode, b"", false).await;
        let near = near.expect("the session opens");
        let far = told.await.expect("it is served");
        let end = |channel: Channel<Note>, cut, gone| {
            let remote = channel.remote();
            End { channel: Some(channel), remote, cut: Some(cut), gone }
        };
        Self { ends: [end(near, cut_near, near_gone), end(far, cut_far, far_gone)], cut: false }
    }

    pub(super) fn remotes(&self) -> [Remote<Note>; 2] {
        [self.ends[0].remote.clone(), self.ends[1].remote.clone()]
    }

    /// Gives an end to the process that owns it.
    pub(super) fn give(&mut self, end: usize, owner: &Address<Note>) {
        let channel = self.ends[end].channel.take().expect("an end is given once");
        let given = channel.give_to(owner, |incoming| match incoming {
            Incoming::Message(Message::Cast(note)) => note,
            Incoming::Message(Message::Call(..)) => unreachable!("nobody calls"),
            Incoming::Ended(_) => Note::ENDED,
        });
        given.expect("the owner is alive");
    }

    /// Waits until what each end has sent has been told to the processes of the other, unless it is cut. A session that is
    /// `disowned` ends first.
    pub(super) async fn flush(&mut self, disowned: bool) {
        let mut over = disowned;
        for end in self.ends.iter().filter(|_| !self.cut) {
            over |= end.remote.flush().await.is_err();
        }
        if over && !self.cut {
            for end in &self.ends {
                end.remote.ended().await;
            }
            self.cut(0).await;
        }
    }

    async fn gone(&mut self) {
        for end in &mut self.ends {
            poll_fn(|cx| Pin::new(&mut end.gone).poll(cx)).await.expect_err("nothing is sent");
        }
    }

    /// Loses the connection, and waits until all that follows from it has been told to the processes of both ends.
    pub(super) async fn cut(&mut self, first: usize) {
        if !std::mem::replace(&mut self.cut, true) {
            let cut = self.ends[first].cut.take().expect("it is cut once");
            // It is gone already where an owner has ended.
            let _ = cut.send(());
            self.gone().await;
        }
    }
}

/// Makes a stream that can be cut, and that tells when it is dropped. A middleman drops it last of all.
fn line(
    stream: DuplexStream,
) -> (Cuttable<DuplexStream>, oneshot::Sender<()>, oneshot::Receiver<Infallible>) {
    let (cut, mut told) = oneshot::channel();
    let (tell, gone) = oneshot::channel();
    let stream = Cuttable::new(stream, move |cx| {
        let _dropped_with_the_stream = &tell;
        Pin::new(&mut told).poll(cx).map(drop)
    });
    (stream, cut, gone)
}
