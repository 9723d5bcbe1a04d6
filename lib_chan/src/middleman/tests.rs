//! Both ends over an in-memory stream: real middlemen, real processes, a paused clock.
//!
//! Longer than other files, because these tests share their services, messages and peers.

mod cuts;
mod handed;
#[cfg(chan_shuttle)]
mod interleavings;
mod late;
mod leaks;
mod line;
mod owners;
mod resume;
mod waking;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use serde::{Deserialize, Serialize, Serializer};
use tokio::{
    io::{
        AsyncBufRead, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream, ReadBuf,
    },
    sync::oneshot,
    task::JoinHandle,
};

use crate::{
    Call, CallError, CallFailure, CastError, Channel, Event, Executed, ExitReason, Incoming, Limits, Message,
    Process,
    channel::{Opening, open, serve},
    enter,
    handshake::{SessionParameters, pair_in_memory},
    payload::Codec,
    protocol::Transmit,
    spawn,
    wire::Frame,
};

/// Lets the other tasks run until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the condition does not come true");
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Add(u32, u32);

impl Call for Add {
    type Reply = u32;
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
enum Request {
    Add(Add),
    Note(String),
    Fail(String),
    Panic,
    Hang(Add),
}

impl From<Add> for Request {
    fn from(add: Add) -> Self {
        Self::Add(add)
    }
}

/// A call that is answered by nobody.
#[derive(Serialize, Deserialize)]
struct Hang(Add);
impl Call for Hang {
    type Reply = u32;
}
impl From<Hang> for Request {
    fn from(hang: Hang) -> Self {
        Self::Hang(hang.0)
    }
}

/// Serves one session with `start` and opens it: the client's channel, and the task that serves.
async fn session(
    limits: &Limits,
    linked: bool,
    start: impl FnOnce(Opening) + Send + 'static,
) -> (Channel<String, Request>, JoinHandle<ExitReason>) {
    session_of(limits, linked, start).await
}

/// The same with messages of any type.
async fn session_of<In, Out: Transmit>(
    limits: &Limits,
    linked: bool,
    start: impl FnOnce(Opening) + Send + 'static,
) -> (Channel<In, Out>, JoinHandle<ExitReason>) {
    let parameters = SessionParameters::from_limits(limits).unwrap();
    let (client, server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (near, far) = tokio::io::duplex(1000);
    let server_limits = limits.clone();
    let served =
        tokio::spawn(async move { serve(BufReader::new(far), &server, &server_limits, start).await });
    let channel = open(BufReader::new(near), &client, limits, Codec::Bincode, b"", linked)
        .await
        .expect("the session opens");
    (channel, served)
}

/// A service that adds, notes, fails and panics as it is told.
fn service(opening: Opening) {
    spawn(async move |_me: Process| {
        let mut channel: Channel<Request, String> = opening.accept();
        while let Some(message) = channel.recv().await {
            match message {
                Message::Call(Request::Add(add), reply) => reply.to(&add).send(add.0 + add.1),
                Message::Cast(Request::Note(text)) => channel.remote().cast(text).await?,
                Message::Cast(Request::Fail(text)) => return Err(ExitReason::failed(text)),
                Message::Cast(Request::Panic) => panic!("as told"),
                Message::Call(Request::Hang(_), reply) => reply.cancelled().await,
                other => panic!("{other:?}"),
            }
        }
        Ok(())
    });
}

#[tokio::test(start_paused = true)]
async fn answers_calls_and_returns_casts_in_order() {
    let (mut channel, served) = session(&Limits::default(), false, service).await;
    let remote = channel.remote();
    for n in 0..100 {
        remote.cast(Request::Note(n.to_string())).await.unwrap();
        assert_eq!(remote.call(Add(n, 1)).await, Ok(n + 1));
    }
    for n in 0..100 {
        let Some(Message::Cast(text)) = channel.recv().await else { panic!("a cast") };
        assert_eq!(text, n.to_string());
    }
    assert_eq!(channel.close().await, Ok(()));
    assert_eq!(served.await.unwrap(), ExitReason::Normal);
}

#[tokio::test(start_paused = true)]
async fn failed_service_tells_reason_and_executes_no_call() {
    let (mut channel, served) = session(&Limits::default(), false, service).await;
    let remote = channel.remote();
    remote.cast(Request::Note("last words".into())).await.unwrap();
    remote.cast(Request::Fail("boom".into())).await.unwrap();
    let failed = remote.call(Add(1, 1)).await;
    assert_eq!(failed, Err(CallError::new(Executed::No, CallFailure::Exit(ExitReason::failed("boom")))));
    assert_eq!(remote.ended().await, ExitReason::failed("boom"));
    let Some(Message::Cast(text)) = channel.recv().await else { panic!("what came before the end") };
    assert_eq!(text, "last words");
    assert!(channel.recv().await.is_none());
    drop(channel);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_panics_is_seen_as_panic() {
    let (channel, _served) = session(&Limits::default(), false, service).await;
    channel.remote().cast(Request::Panic).await.unwrap();
    assert_eq!(channel.remote().ended().await, ExitReason::Panic);
}

#[tokio::test(start_paused = true)]
async fn linked_client_gets_exit_signal_of_service() {
    let seen = enter(async |mut me: Process| {
        me.trap_exit(true);
        let (channel, _served) = session(&Limits::default(), true, service).await;
        channel.remote().cast(Request::Fail("boom".into())).await?;
        Ok(match me.recv().await {
            Event::Exit(pid, reason) => (pid == channel.remote().pid(), reason),
            _ => panic!("an exit"),
        })
    });
    assert_eq!(seen.await, Ok((true, ExitReason::failed("boom"))));
}

#[tokio::test(start_paused = true)]
async fn service_reads_queue_before_end_of_dropped_channel() {
    let (tell, told) = oneshot::channel();
    let (channel, served) = session(&Limits::default(), false, move |opening| {
        spawn(async move |mut me: Process| {
            me.trap_exit(true);
            let mut channel: Channel<Request, String> = opening.accept();
            let mut notes = 0;
            while channel.recv().await.is_some() {
                notes += 1;
            }
            let Event::Exit(_, reason) = me.recv().await else { panic!("an exit") };
            let _ = tell.send((notes, reason));
            Ok(())
        });
    })
    .await;
    for _ in 0..50 {
        channel.remote().cast(Request::Note("x".into())).await.unwrap();
    }
    drop(channel);
    assert_eq!(told.await.unwrap(), (50, ExitReason::Normal));
    assert_eq!(served.await.unwrap(), ExitReason::Normal);
}

#[tokio::test(start_paused = true)]
async fn call_past_deadline_fails_and_counts_as_cancelled() {
    let (channel, _served) = session(&Limits::default(), false, service).await;
    let failed = channel.remote().call_within(Duration::from_secs(3), Hang(Add(1, 2))).await;
    assert_eq!(failed, Err(CallError::new(Executed::Unknown, CallFailure::Deadline)));
    // The service waited for that, and goes on.
    assert_eq!(channel.remote().call(Add(2, 2)).await, Ok(4));
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_is_noconnection_at_both_ends() {
    let parameters = SessionParameters::from_limits(&Limits::default()).unwrap();
    let (client, server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (near, far) = tokio::io::duplex(1000);
    let served =
        tokio::spawn(async move { serve(BufReader::new(far), &server, &Limits::default(), service).await });
    let channel: Channel<String, Request> =
        open(BufReader::new(near), &client, &Limits::default(), Codec::Bincode, b"", false).await.unwrap();
    served.abort();
    assert_eq!(channel.remote().ended().await, ExitReason::NoConnection);
    let failed = channel.remote().call(Add(1, 1)).await.unwrap_err();
    assert_eq!(failed, CallError::new(Executed::No, CallFailure::Exit(ExitReason::NoConnection)));
}

#[tokio::test(start_paused = true)]
async fn given_channel_brings_messages_in_order_then_end() {
    let (tell, told) = oneshot::channel();
    let (channel, _served) = session(&Limits::default(), false, move |opening| {
        let group = spawn(async move |mut me: Process<Incoming<Request>>| {
            let mut seen = Vec::new();
            loop {
                match me.recv().await {
                    Event::Message(Incoming::Message(Message::Cast(Request::Note(text)))) => seen.push(text),
                    Event::Message(Incoming::Ended(reason)) => {
                        let _ = tell.send((seen, reason));
                        return Ok(());
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        spawn(async move |_me: Process| {
            let mut channel: Channel<Request, String> = opening.accept();
            let Some(Message::Cast(Request::Note(_))) = channel.recv().await else { panic!("the first") };
            channel.give_to(&group, |incoming| incoming).map_err(|_| ExitReason::NoProc)
        });
    })
    .await;
    for n in 0..500 {
        channel.remote().cast(Request::Note(n.to_string())).await.unwrap();
    }
    drop(channel);
    let (seen, reason) = told.await.unwrap();
    assert_eq!(seen, (1..500).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(reason, ExitReason::Normal);
}

#[tokio::test(start_paused = true)]
async fn peer_sees_drain() {
    let (give, control) = oneshot::channel();
    let (channel, _served) = session(&Limits::default(), false, move |opening| {
        let _ = give.send(opening.control());
        service(opening);
    })
    .await;
    let remote = channel.remote();
    assert!(!remote.draining());
    control.await.unwrap().go_away();
    // The answer arrives behind the announcement.
    assert_eq!(remote.call(Add(1, 1)).await, Ok(2));
    assert!(remote.draining());
}

#[tokio::test(start_paused = true)]
async fn ends_one_given_session_and_not_its_owner() {
    let (tell, told) = oneshot::channel();
    let group = spawn(async move |mut me: Process<Incoming<Request>>| {
        let mut reasons = Vec::new();
        while reasons.len() < 2 {
            if let Event::Message(Incoming::Ended(reason)) = me.recv().await {
                reasons.push(reason);
            }
        }
        let _ = tell.send(reasons);
        Ok(())
    });
    let mut members = Vec::new();
    for _ in 0..2 {
        let group = group.clone();
        let (send, remote) = oneshot::channel();
        let (channel, served) = session(&Limits::default(), false, move |opening| {
            spawn(async move |_me: Process| {
                let channel: Channel<Request, String> = opening.accept();
                let _ = send.send(channel.remote());
                channel.give_to(&group, |incoming| incoming).map_err(|_| ExitReason::NoProc)
            });
        })
        .await;
        members.push((channel, served, remote.await.unwrap()));
    }
    let (mut first, served, member) = members.remove(0);
    member.cast("farewell").await.unwrap();
    member.end(ExitReason::Revoked);
    assert!(matches!(first.recv().await, Some(Message::Cast(text)) if text == "farewell"));
    assert!(first.recv().await.is_none());
    assert_eq!(first.remote().ended().await, ExitReason::Revoked);
    assert_eq!(served.await.unwrap(), ExitReason::Revoked);
    let (second, _served, _member) = members.remove(0);
    second.remote().cast(Request::Note("still here".into())).await.unwrap();
    assert_eq!(second.close().await, Ok(()));
    assert_eq!(told.await.unwrap(), [ExitReason::Revoked, ExitReason::Normal]);
}

/// Both ends call each other at once; each answers what it is asked with what it was asked.
async fn echo_calls(mut channel: Channel<Blob, Blob>) {
    while let Some(message) = channel.recv().await {
        if let Message::Call(blob, reply) = message {
            reply.to(&blob).send(blob);
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
struct Blob(Vec<u8>);

impl Call for Blob {
    type Reply = Self;
}

/// Opens a session between two ends that both answer calls, and gives the two remotes.
async fn answering(limits: &Limits) -> (crate::Remote<Blob>, crate::Remote<Blob>) {
    let (tell, told) = oneshot::channel();
    let parameters = SessionParameters::from_limits(limits).unwrap();
    let (client, server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server_limits = limits.clone();
    tokio::spawn(async move {
        serve(BufReader::new(far), &server, &server_limits, |opening| {
            spawn(async move |_me: Process| {
                let channel: Channel<Blob> = opening.accept();
                let _ = tell.send(channel.remote());
                echo_calls(channel).await;
                Ok(())
            });
        })
        .await
    });
    let channel = open(BufReader::new(near), &client, limits, Codec::Bincode, b"", false).await.unwrap();
    let here = channel.remote();
    tokio::spawn(echo_calls(channel));
    (here, told.await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn calls_both_ways_with_full_windows_are_answered() {
    let limits = Limits { window_len: Limits::MIN_WINDOW_LEN, max_calls: 100, ..Limits::default() };
    let (here, there) = answering(&limits).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64 {
        for remote in [&here, &there] {
            let remote = remote.clone();
            tasks.spawn(async move {
                for n in 0..20 {
                    // Together far more than either window, and more calls than either end's slots.
                    let blob = Blob(vec![task as u8 ^ n; 200 + usize::from(n) * 200]);
                    assert_eq!(remote.call(blob.clone()).await, Ok(blob));
                }
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn answers_256_calls_in_flight_in_any_order() {
    let (channel, _served) = session(&Limits::default(), false, |opening| {
        spawn(async move |_me: Process| {
            let mut channel: Channel<Request, String> = opening.accept();
            let mut waiting = Vec::new();
            while let Some(Message::Call(Request::Add(add), reply)) = channel.recv().await {
                waiting.push((add, reply));
                if waiting.len() == 256 {
                    // A stride that visits each once, in no order of theirs.
                    let mut order: Vec<_> = (0..256).map(|n| n * 77 % 256).collect();
                    order.dedup();
                    let mut slots: Vec<_> = waiting.drain(..).map(Some).collect();
                    for index in order {
                        let (add, reply) = slots[index].take().unwrap();
                        reply.to(&add).send(add.0 * 1000 + add.1);
                    }
                }
            }
            Ok(())
        });
    })
    .await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64 {
        for n in 0..4 {
            let remote = channel.remote();
            tasks.spawn(async move { assert_eq!(remote.call(Add(task, n)).await, Ok(task * 1000 + n)) });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn refuses_message_longer_than_frame_before_sending() {
    let (here, _there) = answering(&Limits::default()).await;
    let error = here.call(Blob(vec![0; 10 << 20])).await.unwrap_err();
    assert_eq!(error.executed, Executed::No);
    assert!(matches!(error.reason, CallFailure::TooLong { max } if max <= 1 << 20), "{error}");
    // The session is as it was.
    assert_eq!(here.call(Blob(vec![1])).await, Ok(Blob(vec![1])));
}

#[tokio::test(start_paused = true)]
async fn answer_longer_than_frame_counts_as_executed() {
    let small = Limits { max_frame_len: 1024, ..Limits::default() };
    let parameters = SessionParameters::from_limits(&Limits::default()).unwrap();
    let (client, server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (near, far) = tokio::io::duplex(1000);
    tokio::spawn(async move {
        serve(BufReader::new(far), &server, &Limits::default(), |opening| {
            spawn(async move |_me: Process| {
                echo_calls(opening.accept()).await;
                Ok(())
            });
        })
        .await
    });
    let channel: Channel<Blob> =
        open(BufReader::new(near), &client, &small, Codec::Bincode, b"", false).await.unwrap();
    let error = channel.remote().call(Blob(vec![0; 2000])).await.unwrap_err();
    assert_eq!(error.executed, Executed::Yes);
    assert!(matches!(error.reason, CallFailure::TooLong { .. }), "{error}");
}

/// A long answer, which counts how much of it has been encoded.
#[derive(Debug, Deserialize)]
struct Long {
    #[serde(skip)]
    encoded: Arc<AtomicUsize>,
}

impl Serialize for Long {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbers = (0..1_000_000_u32).inspect(|_| {
            self.encoded.fetch_add(1, Ordering::Relaxed);
        });
        serializer.collect_seq(numbers)
    }
}

#[derive(Serialize, Deserialize)]
struct Ask;

impl Call for Ask {
    type Reply = Long;
}

#[tokio::test(start_paused = true)]
async fn encoding_stops_where_answer_is_too_long() {
    let small = Limits { max_frame_len: 1024, ..Limits::default() };
    let encoded = Arc::new(AtomicUsize::new(0));
    let (channel, _served): (Channel<(), Ask>, _) = session_of(&small, false, {
        let encoded = Arc::clone(&encoded);
        |opening| {
            spawn(async move |_me: Process| {
                let mut channel: Channel<Ask, String> = opening.accept();
                while let Some(Message::Call(ask, reply)) = channel.recv().await {
                    reply.to(&ask).send(Long { encoded: Arc::clone(&encoded) });
                }
                Ok(())
            });
        }
    })
    .await;
    let error = channel.remote().call(Ask).await.unwrap_err();
    assert!(matches!(error.reason, CallFailure::TooLong { .. }), "{error}");
    assert!((1..=1024).contains(&encoded.load(Ordering::Relaxed)), "{encoded:?}");
}

#[tokio::test(start_paused = true)]
async fn encodes_no_answer_after_session_has_ended() {
    let encoded = Arc::new(AtomicUsize::new(0));
    let (took, taken) = oneshot::channel();
    let (answered, answer) = oneshot::channel();
    let (channel, _served): (Channel<(), Ask>, _) = session_of(&Limits::default(), false, {
        let encoded = Arc::clone(&encoded);
        |opening| {
            spawn(async move |_me: Process| {
                let mut channel: Channel<Ask, String> = opening.accept();
                let Some(Message::Call(ask, reply)) = channel.recv().await else { panic!("a call") };
                let _ = took.send(());
                assert!(channel.recv().await.is_none());
                reply.to(&ask).send(Long { encoded });
                let _ = answered.send(());
                Ok(())
            });
        }
    })
    .await;
    let remote = channel.remote();
    let mut call = Box::pin(remote.call(Ask));
    is_pending(&mut call).await;
    taken.await.unwrap();
    assert_eq!(channel.close().await, Ok(()));
    assert!(call.await.is_err());
    answer.await.unwrap();
    assert_eq!(encoded.load(Ordering::Relaxed), 0);
}

/// A raw far end: the client's session over a stream that the test drives by hand.
async fn with_silent_server() -> (Channel<Blob>, DuplexStream) {
    with_raw_server(false, BufReader::new).await
}

/// The same for a session over what `over` makes of the stream.
async fn with_raw_server<S>(
    linked: bool,
    over: impl FnOnce(DuplexStream) -> S,
) -> (Channel<Blob>, DuplexStream)
where
    S: AsyncBufRead + AsyncWrite + Send + Unpin + 'static,
{
    let parameters = SessionParameters::from_limits(&Limits::default()).unwrap();
    let (client, _server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (near, mut far) = tokio::io::duplex(4096);
    let limits = Limits::default();
    let opened = open(over(near), &client, &limits, Codec::Bincode, b"", linked);
    let answered = async {
        let mut start = [0; 64];
        assert!(far.read(&mut start).await.unwrap() > 0);
        let terms = crate::wire::Terms { max_calls: 1024, max_links: 1024, max_handles: 0 };
        far.write_all(&frames([Frame::Started { terms, resume: None }])).await.unwrap();
    };
    let (opened, ()) = tokio::join!(opened, answered);
    (opened.unwrap(), far)
}

fn frames<'a>(frames: impl IntoIterator<Item = Frame<'a>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.into_iter().for_each(|frame| frame.put(&mut bytes));
    bytes
}

#[tokio::test(start_paused = true)]
async fn peer_cannot_remove_link_of_session() {
    let link = Frame::Link { from: 0, to: 0 };
    let unlinked = frames([link.clone(), Frame::Unlink { from: 0, to: 0, unlink: 1 }]);
    let exit = Frame::Exit { from: 0, to: 0, taken: Some(0), reason: ExitReason::Normal };
    let exited = frames([link, exit]);
    for (bytes, seen) in [
        (unlinked, vec![ExitReason::NoConnection]),
        (exited, vec![ExitReason::Normal, ExitReason::NoConnection]),
    ] {
        let told = enter(async move |mut me: Process| {
            me.trap_exit(true);
            let (channel, mut far) = with_raw_server(true, BufReader::new).await;
            far.write_all(&bytes).await.unwrap();
            drop(far);
            for reason in seen {
                match me.recv().await {
                    Event::Exit(pid, told) => assert_eq!((pid, told), (channel.remote().pid(), reason)),
                    _ => panic!("an exit"),
                }
            }
            Ok(())
        });
        assert_eq!(tokio::time::timeout(Duration::from_secs(1), told).await, Ok(Ok(())));
    }
}

/// A stream on which something always comes, once it is told to.
struct Chatty {
    stream: BufReader<DuplexStream>,
    talks: Arc<AtomicBool>,
    pongs: Vec<u8>,
}

impl AsyncRead for Chatty {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncBufRead for Chatty {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.talks.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(&this.pongs));
        }
        Pin::new(&mut this.stream).poll_fill_buf(cx)
    }

    fn consume(mut self: Pin<&mut Self>, len: usize) {
        if !self.talks.load(Ordering::Relaxed) {
            Pin::new(&mut self.stream).consume(len);
        }
    }
}

impl AsyncWrite for Chatty {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn constant_traffic_postpones_no_deadline() {
    let talks = Arc::new(AtomicBool::new(false));
    let chatty = |stream| {
        let pongs = frames([Frame::Pong { token: 0 }]);
        Chatty { stream: BufReader::new(stream), talks: Arc::clone(&talks), pongs }
    };
    let (channel, _far) = with_raw_server(false, chatty).await;
    let remote = channel.remote();
    talks.store(true, Ordering::Relaxed);
    let mut call = Box::pin(remote.call_within(Duration::from_secs(5), Blob(vec![1])));
    is_pending(&mut call).await;
    tokio::time::advance(Duration::from_millis(4_900)).await;
    is_pending(&mut call).await;
    tokio::time::advance(Duration::from_millis(200)).await;
    assert_eq!(call.await.unwrap_err().reason, CallFailure::Deadline);
    let mut closed = Box::pin(channel.close());
    is_pending(&mut closed).await;
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(closed.await, Err(ExitReason::NoConnection));
}

/// Polls a future once, here. The clock moves by itself only while nobody has anything to do.
async fn is_pending(future: &mut (impl Future + Unpin)) {
    let pending = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await;
    assert!(pending);
}

#[tokio::test(start_paused = true)]
async fn silent_peer_is_lost_after_three_heartbeats() {
    let (channel, _far) = with_silent_server().await;
    let before = tokio::time::Instant::now();
    assert_eq!(channel.remote().ended().await, ExitReason::NoConnection);
    let took = before.elapsed();
    assert!((Duration::from_secs(44)..=Duration::from_secs(46)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn peer_that_stops_reading_is_lost_within_bound() {
    let (channel, mut far) = with_silent_server().await;
    let remote = channel.remote();
    // It goes on talking, so it is not silent: only what is sent to it does not go.
    let talk = tokio::spawn(async move {
        let pong = frames([Frame::Pong { token: 0 }]);
        let mut now_and_then = tokio::time::interval(Duration::from_secs(5));
        loop {
            now_and_then.tick().await;
            if far.write_all(&pong).await.is_err() {
                return;
            }
        }
    });
    let before = tokio::time::Instant::now();
    let mut sent = 0;
    let reason = loop {
        match remote.cast(Blob(vec![0; 10_000])).await {
            Ok(()) => sent += 1,
            Err(error) => break ExitReason::from(error),
        }
    };
    let took = before.elapsed();
    assert_eq!(reason, ExitReason::NoConnection);
    // The window, and one message over it.
    assert!(sent * 10_000 <= 256 * 1024 + 10_000, "{sent} messages went");
    assert!((Duration::from_secs(59)..=Duration::from_secs(61)).contains(&took), "{took:?}");
    talk.abort();
}

/// A process at each end of one session, each handed to the other end.
async fn two_processes()
-> (crate::Address<Order>, crate::Address<Order>, crate::Pid, crate::Pid, Channel<String, Request>) {
    let (tell, told) = oneshot::channel();
    let (channel, _served) = session(&Limits::default(), false, move |opening| {
        spawn(async move |mut me: Process| {
            let channel: Channel<Request, String> = opening.accept();
            let there = spawn(actor);
            let id = channel.remote().hand_out(&there, Order::Note);
            let _ = tell.send((there, id, channel.remote()));
            let _held = channel;
            loop {
                me.recv().await;
            }
        });
    })
    .await;
    let (there, id, remote) = told.await.unwrap();
    let far = channel.remote().handed::<String>(id).pid();
    let here = spawn(actor);
    let near = remote.handed::<String>(channel.remote().hand_out(&here, Order::Note)).pid();
    (here, there, far, near, channel)
}

type Todo = Box<dyn FnOnce(&mut Process<Order>) -> Result<(), ExitReason> + Send>;

enum Order {
    Note(String),
    Do(Todo),
    Show(crate::Reply<Vec<String>>),
}

/// Does what it is told, and shows what it saw.
async fn actor(mut me: Process<Order>) -> Result<(), ExitReason> {
    let mut seen = Vec::new();
    loop {
        match me.recv().await {
            Event::Message(Order::Note(text)) => seen.push(text),
            Event::Message(Order::Do(order)) => order(&mut me)?,
            Event::Message(Order::Show(reply)) => reply.send(seen.clone()),
            Event::Exit(_, reason) => seen.push(format!("exit {reason}")),
            Event::Down(_, _, reason) => seen.push(format!("down {reason}")),
        }
    }
}

async fn tell(
    to: &crate::Address<Order>,
    order: impl FnOnce(&mut Process<Order>) -> Result<(), ExitReason> + Send + 'static,
) {
    to.send(Order::Do(Box::new(order))).await.unwrap();
}

async fn seen(by: &crate::Address<Order>, count: usize) -> Vec<String> {
    loop {
        let seen = by.call(Duration::from_secs(1000), Order::Show).await.unwrap();
        if seen.len() >= count {
            return seen;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn failure_crosses_link_and_monitor() {
    let (here, there, far, _near, channel) = two_processes().await;
    let target = far.clone();
    tell(&here, move |me| {
        me.trap_exit(true);
        me.link(target.clone())?;
        me.monitor(target);
        Ok(())
    })
    .await;
    // A call through the session behind it: the link and the monitor have arrived.
    channel.remote().flush().await.unwrap();
    tell(&there, |_| Err(ExitReason::failed("boom"))).await;
    assert_eq!(seen(&here, 2).await, ["exit failed: boom", "down failed: boom"]);
}

#[tokio::test(start_paused = true)]
async fn kill_across_session_reaches_links_as_killed() {
    let (here, there, far, _near, _channel) = two_processes().await;
    let target = far.clone();
    tell(&here, move |me| {
        me.trap_exit(true);
        me.link(target.clone())?;
        target.exit(ExitReason::Kill);
        Ok(())
    })
    .await;
    assert_eq!(there.pid().ended().await, ExitReason::Killed);
    assert_eq!(seen(&here, 1).await, ["exit killed"]);
}

#[tokio::test(start_paused = true)]
async fn linked_far_process_without_trap_dies_along() {
    let (here, there, far, _near, _channel) = two_processes().await;
    tell(&here, move |me| {
        me.link(far)?;
        Err(ExitReason::failed("boom"))
    })
    .await;
    assert_eq!(there.pid().ended().await, ExitReason::failed("boom"));
}

#[tokio::test(start_paused = true)]
async fn cut_is_noconnection_to_links_and_monitors() {
    let (here, there, far, near, channel) = two_processes().await;
    let target = near.clone();
    tell(&there, move |me| {
        me.trap_exit(true);
        me.monitor(target);
        Ok(())
    })
    .await;
    tell(&here, move |me| {
        me.trap_exit(true);
        me.link(far)?;
        Ok(())
    })
    .await;
    channel.remote().flush().await.unwrap();
    drop(channel);
    assert_eq!(seen(&here, 1).await, ["exit noconnection"]);
    let mut both = seen(&there, 2).await;
    assert_eq!(both.pop().as_deref(), Some("down noconnection"));
    // The other one is the link made from here; it did not trap then, but both are alive.
    assert_eq!(both, ["exit noconnection"]);
}

#[tokio::test(start_paused = true)]
async fn far_end_after_unlink_and_demonitor_is_unseen() {
    let (here, there, far, _near, channel) = two_processes().await;
    tell(&here, move |me| {
        me.link(far.clone())?;
        let monitor = me.monitor(far.clone());
        me.unlink(far);
        me.demonitor(monitor);
        Ok(())
    })
    .await;
    channel.remote().flush().await.unwrap();
    tell(&there, |_| Err(ExitReason::failed("boom"))).await;
    there.pid().ended().await;
    channel.remote().call(Add(0, 0)).await.unwrap_err();
    assert!(seen(&here, 0).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn link_and_monitor_to_dead_far_are_noproc() {
    let (here, there, far, _near, _channel) = two_processes().await;
    tell(&there, |_| Err(ExitReason::failed("boom"))).await;
    there.pid().ended().await;
    tell(&here, move |me| {
        me.trap_exit(true);
        me.link(far.clone())?;
        me.monitor(far);
        Ok(())
    })
    .await;
    assert_eq!(seen(&here, 2).await, ["exit noproc", "down noproc"]);
}

#[tokio::test(start_paused = true)]
async fn pid_of_ended_session_is_out_of_reach() {
    let (here, _there, far, _near, channel) = two_processes().await;
    let remote = channel.remote();
    drop(channel);
    remote.ended().await;
    drop(remote);
    tell(&here, move |me| {
        me.trap_exit(true);
        me.link(far.clone())?;
        me.monitor(far);
        Ok(())
    })
    .await;
    assert_eq!(seen(&here, 2).await, ["exit noconnection", "down noconnection"]);
}

#[tokio::test(start_paused = true)]
async fn far_process_survives_lost_session() {
    let (here, there, far, _near, channel) = two_processes().await;
    let bystander = spawn(actor);
    let (a, b) = (far.clone(), far);
    tell(&here, move |me| {
        me.trap_exit(true);
        me.link(a.clone())?;
        me.monitor(a);
        Ok(())
    })
    .await;
    tell(&bystander, move |me| me.link(b)).await;
    channel.remote().flush().await.unwrap();
    tell(&there, |me| {
        me.trap_exit(true);
        Ok(())
    })
    .await;
    drop(channel);
    assert_eq!(seen(&here, 2).await, ["exit noconnection", "down noconnection"]);
    assert_eq!(bystander.pid().ended().await, ExitReason::NoConnection);
    // Both of its links are told, and it lives on.
    assert_eq!(seen(&there, 2).await, ["exit noconnection", "exit noconnection"]);
}

#[tokio::test(start_paused = true)]
async fn new_session_restores_nothing_of_old_one() {
    let (here, there, far, _near, channel) = two_processes().await;
    tell(&here, move |me| {
        me.trap_exit(true);
        me.link(far)
    })
    .await;
    tell(&there, |me| {
        me.trap_exit(true);
        Ok(())
    })
    .await;
    channel.remote().flush().await.unwrap();
    drop(channel);
    assert_eq!(seen(&here, 1).await, ["exit noconnection"]);
    assert_eq!(seen(&there, 1).await, ["exit noconnection"]);
    let (_again, _served) = session(&Limits::default(), false, service).await;
    tell(&there, |_| Err(ExitReason::failed("boom"))).await;
    there.pid().ended().await;
    assert_eq!(seen(&here, 1).await, ["exit noconnection"]);
}

#[tokio::test(start_paused = true)]
async fn normal_end_and_exit_across_session_harm_nobody() {
    let (here, there, far, near, channel) = two_processes().await;
    let linked = far.clone();
    tell(&here, move |me| me.link(linked)).await;
    channel.remote().flush().await.unwrap();
    tell(&there, move |_| {
        near.exit(ExitReason::Normal);
        Err(ExitReason::Normal)
    })
    .await;
    there.pid().ended().await;
    assert_eq!(far.ended().await, ExitReason::NoProc);
    assert!(seen(&here, 0).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn link_to_dead_far_process_ends_later() {
    let (here, there, far, _near, _channel) = two_processes().await;
    tell(&there, |_| Err(ExitReason::failed("boom"))).await;
    there.pid().ended().await;
    tell(&here, move |me| {
        assert_eq!(me.link(far), Ok(()));
        Ok(())
    })
    .await;
    assert_eq!(here.pid().ended().await, ExitReason::NoProc);
}

#[tokio::test(start_paused = true)]
async fn every_waiter_learns_the_end_after_its_causes() {
    let (here, _there, far, _near, channel) = two_processes().await;
    tell(&here, move |me| {
        me.trap_exit(true);
        me.link(far.clone())?;
        me.monitor(far);
        Ok(())
    })
    .await;
    let remote = channel.remote();
    remote.flush().await.unwrap();
    let (first, given_up) = (remote.ended(), remote.ended());
    drop(given_up);
    let both = async { (first.await, remote.ended().await) };
    drop(channel);
    assert_eq!(both.await, (ExitReason::Normal, ExitReason::Normal));
    assert_eq!(seen(&here, 2).await, ["exit noconnection", "down noconnection"]);
}

#[tokio::test(start_paused = true)]
async fn cast_after_end_fails_and_call_ends() {
    let (channel, served) = session(&Limits::default(), false, service).await;
    let remote = channel.remote();
    let asked = tokio::spawn({
        let remote = remote.clone();
        async move { remote.call(Hang(Add(1, 1))).await }
    });
    // Behind the call: when it has been answered, the call has come.
    remote.flush().await.unwrap();
    served.abort();
    assert_eq!(
        asked.await.unwrap(),
        Err(CallError::new(Executed::Unknown, CallFailure::Exit(ExitReason::NoConnection)))
    );
    let error = remote.cast(Request::Note("late".into())).await.unwrap_err();
    assert_eq!(error, CastError::Ended(ExitReason::NoConnection));
}

#[tokio::test(start_paused = true)]
async fn messages_of_far_process_precede_its_down() {
    let (tell_test, told) = oneshot::channel();
    let (channel, _served) = session(&Limits::default(), false, move |opening| {
        spawn(async move |mut me: Process| {
            let channel: Channel<Request, String> = opening.accept();
            let _ = tell_test.send(channel.remote());
            let _held = channel;
            loop {
                me.recv().await;
            }
        });
    })
    .await;
    let there_remote = told.await.unwrap();
    let here = spawn(actor);
    let to_here = channel.remote().hand_out(&here, Order::Note);
    let there = spawn(actor);
    let far = channel.remote().handed::<String>(there_remote.hand_out(&there, Order::Note)).pid();
    tell(&here, move |me| {
        me.monitor(far);
        Ok(())
    })
    .await;
    channel.remote().flush().await.unwrap();
    tell(&there, move |_| {
        let near = there_remote.handed::<String>(to_here);
        for n in 0..1000 {
            near.try_cast(&n.to_string())?;
        }
        Err(ExitReason::failed("boom"))
    })
    .await;
    let mut expected: Vec<_> = (0..1000).map(|n| n.to_string()).collect();
    expected.push("down failed: boom".into());
    assert_eq!(seen(&here, 1001).await, expected);
}

#[tokio::test(start_paused = true)]
async fn local_link_survives_loss_of_session() {
    let (here, there, far, _near, channel) = two_processes().await;
    let (a, b) = (there.clone(), spawn(actor));
    let peer = b.pid();
    tell(&a, move |me| me.link(peer)).await;
    tell(&here, move |me| {
        me.trap_exit(true);
        me.monitor(far);
        Ok(())
    })
    .await;
    channel.remote().flush().await.unwrap();
    drop(channel);
    assert_eq!(seen(&here, 1).await, ["down noconnection"]);
    assert!(seen(&a, 0).await.is_empty() && seen(&b, 0).await.is_empty());
    tell(&a, |_| Err(ExitReason::failed("boom"))).await;
    assert_eq!(b.pid().ended().await, ExitReason::failed("boom"));
}

#[tokio::test(start_paused = true)]
async fn limits_without_end_open_call_and_close() {
    let limits = Limits {
        login_timeout: Duration::MAX,
        stall_timeout: Duration::MAX,
        call_timeout: Duration::MAX,
        close_timeout: Duration::MAX,
        last_words_timeout: Duration::MAX,
        ..Limits::default()
    };
    let (channel, served) = session(&limits, false, service).await;
    let remote = channel.remote();
    assert_eq!(remote.call(Add(1, 2)).await, Ok(3));
    assert_eq!(remote.call_within(Duration::MAX, Add(3, 4)).await, Ok(7));
    remote.flush().await.unwrap();
    assert_eq!(channel.close().await, Ok(()));
    assert_eq!(served.await.unwrap(), ExitReason::Normal);
}
