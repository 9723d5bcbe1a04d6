//! One end of a resumable session against a peer that is the test: it attaches connections in any order, and says anything.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    auth::ResumeClaim,
    wire::{Frame, Terms},
};

const TERMS: Terms = Terms { max_calls: 4, max_links: 4, max_handles: 0 };

/// The far end of one connection.
pub(super) struct Peer(DuplexStream);

impl Peer {
    fn new() -> (Self, Stream) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        (Self(near), BufReader::new(far))
    }

    async fn say(&mut self, said: impl IntoIterator<Item = Frame<'_>>) {
        self.0.write_all(&frames(said)).await.unwrap();
    }

    /// Reads the next frame; `None` at the end of the stream.
    async fn hear(&mut self) -> Option<Frame<'static>> {
        let len = self.0.read_u32().await.ok()?;
        let mut body = vec![0; len as usize];
        self.0.read_exact(&mut body).await.unwrap();
        Some(Frame::parse(body.leak()).unwrap())
    }

    /// Reads past acks, credit and heartbeats.
    async fn hear_ordered(&mut self) -> Option<Frame<'static>> {
        loop {
            match self.hear().await {
                Some(Frame::Ack { .. } | Frame::Credit { .. } | Frame::Ping { .. } | Frame::Pong { .. }) => {}
                other => return other,
            }
        }
    }

    /// As a client: asks for a session that can be resumed, and hears that it is.
    pub(super) async fn start(&mut self) {
        let resume = WINDOW.as_millis() as u64;
        let codec = Codec::Bincode as u8;
        let start = Frame::Start {
            codec,
            terms: TERMS,
            max_frame_len: 1 << 20,
            window_len: 1 << 18,
            resume,
            interface: None,
            args: b"",
        };
        self.say([start]).await;
        let Some(Frame::Started { resume: Some(granted), .. }) = self.hear().await else { panic!("a grant") };
        assert_eq!(granted.window, resume);
    }
}

/// A server of one session, as a client sees it.
pub(super) fn served(
    start: impl FnOnce(Opening) + Send + 'static,
) -> (Peer, Attacher<Box<Stream>>, JoinHandle<Served>) {
    let limits = Limits::default();
    let parameters = SessionParameters::from_limits(&limits).unwrap();
    let (_, server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (peer, far) = Peer::new();
    let (attacher, attachments) = attachments();
    let served = tokio::spawn(async move {
        let start = |mut opening: Opening| {
            opening.grant(granted());
            start(opening);
        };
        serve_resumable(far, &[], &server, &limits, attachments, |_| {}, start).await
    });
    (peer, attacher, served)
}

/// A connection that resumes, its proof checked.
fn attach(attacher: &Attacher<Box<Stream>>, epoch: u64, received: u64, sent: u64) -> Peer {
    let (peer, far) = Peer::new();
    let claim = ResumeClaim { id: granted().id, epoch, received, sent };
    attacher.attach(claim, Box::new(far)).unwrap();
    peer
}

fn note(text: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    crate::payload::encode(Codec::Bincode, &Request::Note(text.into()), &mut payload).unwrap();
    payload
}

fn echoed(frame: Option<Frame<'_>>) -> String {
    let Some(Frame::Cast { payload, .. }) = frame else { panic!("{frame:?}") };
    crate::payload::decode(Codec::Bincode, payload).unwrap()
}

#[tokio::test(start_paused = true)]
async fn fenced_connection_is_heard_no_more() {
    let (mut old, attacher, served) = served(service);
    old.start().await;
    let (first, second) = (note("first"), note("second"));
    let cast = frames([Frame::Cast { to: 0, payload: &second }]);
    old.say([Frame::Ack { number: 1 }, Frame::Cast { to: 0, payload: &first }]).await;
    assert_eq!(echoed(old.hear_ordered().await), "first");
    // A frame comes half; the connection is not known to be dead when the next one is there.
    old.0.write_all(&cast[..cast.len() / 2]).await.unwrap();
    tokio::task::yield_now().await;
    let mut new = attach(&attacher, 2, 2, 3);
    assert_eq!(new.hear().await, Some(Frame::Resumed { received: 2, sent: 2 }));
    let _ = old.0.write_all(&cast[cast.len() / 2..]).await;
    assert_eq!(old.hear_ordered().await, None);
    new.0.write_all(&cast).await.unwrap();
    assert_eq!(echoed(new.hear_ordered().await), "second");
    new.say([Frame::Ended { taken: 3, reason: ExitReason::Normal }]).await;
    assert!(matches!(new.hear_ordered().await, Some(Frame::Ended { .. })));
    drop(new);
    assert_eq!(served.await.unwrap().reason, ExitReason::Normal);
}

#[tokio::test(start_paused = true)]
async fn larger_epoch_wins_the_race() {
    let (mut old, attacher, _served) = served(service);
    old.start().await;
    old.say([Frame::Ack { number: 1 }]).await;
    let mut second = attach(&attacher, 2, 1, 1);
    let mut third = attach(&attacher, 3, 1, 1);
    assert_eq!(third.hear().await, Some(Frame::Resumed { received: 1, sent: 1 }));
    assert_eq!(second.hear().await, None);
    // Epochs that were used, or skipped, or are nonsense.
    for epoch in [0, 1, 2, 3, 4 + (1 << 20), 1 << 63, u64::MAX] {
        assert_eq!(attach(&attacher, epoch, 1, 1).hear().await, None, "{epoch}");
    }
    let payload = note("still here");
    third.say([Frame::Cast { to: 0, payload: &payload }]).await;
    assert_eq!(echoed(third.hear_ordered().await), "still here");
}

#[tokio::test(start_paused = true)]
async fn resume_is_answered_alike_if_answer_was_lost() {
    let (mut old, attacher, _served) = served(service);
    old.start().await;
    let payload = note("echo");
    old.say([Frame::Ack { number: 1 }, Frame::Cast { to: 0, payload: &payload }]).await;
    assert_eq!(echoed(old.hear_ordered().await), "echo");
    drop(old);
    for epoch in 2..6 {
        // Nothing is acknowledged, so everything is said again.
        let mut peer = attach(&attacher, epoch, 1, 2);
        assert_eq!(peer.hear().await, Some(Frame::Resumed { received: 2, sent: 2 }));
        assert_eq!(echoed(peer.hear_ordered().await), "echo");
    }
}

#[tokio::test(start_paused = true)]
async fn impossible_position_ends_session() {
    for (received, sent) in [(9, 1), (1, 0), (0, 1)] {
        let (mut old, attacher, served) = served(service);
        old.start().await;
        old.say([Frame::Ack { number: 1 }]).await;
        tokio::task::yield_now().await;
        let mut peer = attach(&attacher, 2, received, sent);
        let lost = peer.hear().await;
        let Some(Frame::Lost { tombstone: Some(tombstone) }) = lost else { panic!("{lost:?}") };
        assert_eq!(tombstone.reason, ExitReason::Protocol);
        assert_eq!(served.await.unwrap().reason, ExitReason::Protocol);
    }
}

#[tokio::test(start_paused = true)]
async fn resume_during_last_words_gets_lost() {
    let (tell, told) = oneshot::channel();
    let (mut old, attacher, served) = served(move |opening| {
        tell.send(opening.control()).unwrap();
        service(opening);
    });
    old.start().await;
    old.say([Frame::Ack { number: 1 }]).await;
    tokio::task::yield_now().await;
    told.await.unwrap().end(ExitReason::Revoked);
    assert!(matches!(old.hear_ordered().await, Some(Frame::Ended { reason: ExitReason::Revoked, .. })));
    // The client has not heard that, and the server waits for it to close.
    let mut peer = attach(&attacher, 2, 1, 1);
    let lost = peer.hear().await;
    let Some(Frame::Lost { tombstone: Some(tombstone) }) = lost else { panic!("{lost:?}") };
    assert_eq!(tombstone, Tombstone { received: 1, taken: 1, reason: ExitReason::Revoked });
    drop((old, peer));
    assert_eq!(served.await.unwrap().tombstone, Some(tombstone));
}

// The client.

/// Opens a session whose server is the test, which gets each new connection.
async fn opened() -> (Channel<String, Request>, Peer, mpsc::UnboundedReceiver<Peer>) {
    let limits = Limits::default();
    let parameters = SessionParameters::from_limits(&limits).unwrap();
    let (client, _) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (mut peer, near) = Peer::new();
    let (tell, dialled) = mpsc::unbounded_channel();
    let connector = Box::new(move |_| {
        let tell = tell.clone();
        Box::pin(async move {
            let (peer, stream) = Peer::new();
            tell.send(peer).map_err(|_| ExitReason::NoProc)?;
            Ok(Connected { stream, exporter: exporter(1) })
        }) as _
    });
    let request = OpenRequest { resume: WINDOW, ..OpenRequest::new(Codec::Bincode, b"") };
    let server = async {
        let Some(Frame::Start { resume, .. }) = peer.hear().await else { panic!("a start") };
        assert_eq!(resume, WINDOW.as_millis() as u64);
        peer.say([Frame::Started { terms: TERMS, resume: Some(Box::new(granted())) }]).await;
        assert_eq!(peer.hear().await, Some(Frame::Ack { number: 1 }));
    };
    let open = open_resumable(near, &client, &limits, &request, false, connector);
    let (channel, ()) = tokio::join!(open, server);
    (channel.unwrap(), peer, dialled)
}

async fn claimed(peer: &mut Peer) -> (u64, u64, u64) {
    let heard = peer.hear().await;
    let Some(Frame::Resume { claim, .. }) = heard else { panic!("{heard:?}") };
    (claim.epoch, claim.received, claim.sent)
}

#[tokio::test(start_paused = true)]
async fn unanswered_resume_is_given_up() {
    let (channel, peer, mut dialled) = opened().await;
    channel.remote().cast(Request::Note("late".into())).await.unwrap();
    drop(peer);
    let began = Instant::now();
    let mut silent = Vec::new();
    for epoch in 2..5 {
        let mut peer = dialled.recv().await.unwrap();
        assert_eq!(claimed(&mut peer).await, (epoch, 1, 2));
        assert_eq!(began.elapsed().as_secs(), 15 * (epoch - 2));
        silent.push(peer);
    }
    let mut peer = dialled.recv().await.unwrap();
    assert_eq!(claimed(&mut peer).await, (5, 1, 2));
    peer.say([Frame::Resumed { received: 1, sent: 1 }]).await;
    assert!(matches!(peer.hear_ordered().await, Some(Frame::Cast { .. })));
    // Those before were closed, and told nothing more.
    for mut peer in silent {
        assert_eq!(peer.hear().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn client_says_nothing_before_the_answer() {
    let (channel, peer, mut dialled) = opened().await;
    drop(peer);
    let mut peer = dialled.recv().await.unwrap();
    assert_eq!(claimed(&mut peer).await, (2, 1, 1));
    channel.remote().cast(Request::Note("late".into())).await.unwrap();
    let more = tokio::time::timeout(Duration::from_secs(10), peer.hear()).await;
    assert!(more.is_err(), "{more:?}");
    peer.say([Frame::Resumed { received: 1, sent: 1 }]).await;
    assert!(matches!(peer.hear_ordered().await, Some(Frame::Cast { .. })));
}

#[tokio::test(start_paused = true)]
async fn other_answer_to_resume_ends_session() {
    for answer in [Frame::Ack { number: 1 }, Frame::GoAway, Frame::Resumed { received: 5, sent: 1 }] {
        let (channel, peer, mut dialled) = opened().await;
        drop(peer);
        let mut peer = dialled.recv().await.unwrap();
        claimed(&mut peer).await;
        peer.say([answer]).await;
        assert_eq!(channel.remote().ended().await, ExitReason::Protocol);
    }
}

#[tokio::test(start_paused = true)]
async fn client_that_is_told_lost_closes() {
    for (tombstone, reason) in [
        (None, ExitReason::NoConnection),
        (Some(Tombstone { received: 1, taken: 1, reason: ExitReason::Shutdown }), ExitReason::Shutdown),
    ] {
        let (channel, peer, mut dialled) = opened().await;
        drop(peer);
        let mut peer = dialled.recv().await.unwrap();
        claimed(&mut peer).await;
        peer.say([Frame::Lost { tombstone }]).await;
        assert_eq!(channel.remote().ended().await, reason);
        assert_eq!(peer.hear().await, None);
        assert!(dialled.recv().await.is_none(), "it dials no more");
    }
}
