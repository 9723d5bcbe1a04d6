//! What a peer can make this end keep.

use std::{
    future::poll_fn,
    sync::{Arc, Weak},
    task::{Context, Poll, Wake, Waker},
};

use super::*;
use crate::middleman::Shared;

/// A waker that only counts who holds it.
struct Counted;

impl Wake for Counted {
    fn wake(self: Arc<Self>) {}
}

/// Polls a future once, as a task of its own would that then gives up: how many hold on to its waker before and after.
fn held_by(future: impl Future) -> (usize, usize) {
    let counted = Arc::new(Counted);
    let waker = Waker::from(Arc::clone(&counted));
    let mut future = Box::pin(future);
    for _ in 0..10 {
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    drop(waker);
    let waiting = Arc::strong_count(&counted) - 1;
    drop(future);
    (waiting, Arc::strong_count(&counted) - 1)
}

/// Lets the other tasks run until nobody holds the session.
async fn gone(session: Weak<Shared>) {
    until(|| session.strong_count() == 0).await;
}

/// A service that gives its channel to `group` and ends; the session is told.
fn gives_to(
    group: &crate::Address<Incoming<Request>>,
) -> (impl FnOnce(Opening) + Send + 'static, oneshot::Receiver<Weak<Shared>>) {
    let (tell, told) = oneshot::channel();
    let group = group.clone();
    let start = move |opening: Opening| {
        spawn(async move |_me: Process| {
            let channel: Channel<Request, String> = opening.accept();
            let _ = tell.send(Arc::downgrade(channel.shared()));
            channel.give_to(&group, |incoming| incoming).map_err(|_| ExitReason::NoProc)
        });
    };
    (start, told)
}

/// Takes what comes, until it is told to fail.
async fn group(mut me: Process<Incoming<Request>>) -> Result<(), ExitReason> {
    loop {
        if let Event::Message(Incoming::Message(Message::Cast(Request::Fail(text)))) = me.recv().await {
            return Err(ExitReason::failed(text));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn process_forgets_given_session_after_end() {
    let group = spawn(group);
    let (start, told) = gives_to(&group);
    let (channel, served) = session(&Limits::default(), false, start).await;
    channel.close().await.unwrap();
    served.await.unwrap();
    gone(told.await.unwrap()).await;
    drop(group);
}

#[tokio::test(start_paused = true)]
async fn session_of_ended_process_leaves_nothing() {
    let group = spawn(group);
    let (start, told) = gives_to(&group);
    let (channel, served) = session(&Limits::default(), false, start).await;
    channel.remote().cast(Request::Fail("boom".into())).await.unwrap();
    assert_eq!(channel.remote().ended().await, ExitReason::failed("boom"));
    drop(channel);
    served.await.unwrap();
    gone(told.await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn forgets_abandoned_waits() {
    let (channel, _far) = with_silent_server().await;
    let remote = channel.remote();
    assert_eq!(held_by(remote.ended()), (1, 0));
    remote.cast(Blob(vec![1])).await.unwrap();
    let flush = remote.flush();
    assert_eq!(held_by(flush), (1, 0));
    // One that goes on waiting is woken.
    let mut ended = Box::pin(remote.ended());
    let pending = poll_fn(|cx| Poll::Ready(ended.as_mut().poll(cx).is_pending())).await;
    assert!(pending);
    channel.shared().shut_down(ExitReason::Shutdown);
    assert_eq!(ended.await, ExitReason::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn repeated_links_and_ends_fill_no_mailbox() {
    let parameters = SessionParameters::from_limits(&Limits::default()).unwrap();
    let (_, server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let served = tokio::spawn(async move {
        serve(BufReader::new(far), &server, &Limits::default(), |opening| {
            spawn(async move |me: Process| {
                me.trap_exit(true);
                let _channel: Channel<Request, String> = opening.accept();
                // It traps exits, and is busy.
                std::future::pending().await
            });
        })
        .await
    });
    let terms = crate::wire::Terms { max_calls: 1, max_links: 1, max_handles: 0 };
    let start = Frame::Start {
        codec: Codec::Bincode as u8,
        terms,
        max_frame_len: 1024,
        window_len: 65_536,
        resume: 0,
        interface: None,
        args: &[],
    };
    near.write_all(&frames([start])).await.unwrap();
    // The `Started`.
    assert_ne!(near.read(&mut [0; 100]).await.unwrap(), 0);
    let exit = Frame::Exit { from: 1, to: 0, taken: Some(0), reason: ExitReason::Normal };
    let bytes = frames([Frame::Link { from: 1, to: 0 }, exit]);
    for _ in 0..100_000 {
        if near.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let ended = tokio::time::timeout(Duration::from_secs(10), served).await;
    assert_eq!(ended.expect("the session ends").unwrap(), ExitReason::Overload);
}

/// Asks for much, many times, before the first answer, and reads none: how that session ended, if it has.
async fn asks_for_much_and_reads_nothing(limits: &Limits, max_frame_len: u64) -> Option<ExitReason> {
    const CALLS: u64 = 40;
    let parameters = SessionParameters::from_limits(limits).unwrap();
    let (_, server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let limits = limits.clone();
    let (tell, told) = oneshot::channel();
    let served = tokio::spawn(async move {
        serve(BufReader::new(far), &server, &limits, |opening| {
            spawn(async move |_me: Process| {
                let mut channel: Channel<Blob> = opening.accept();
                let mut replies = Vec::new();
                while let Some(Message::Call(blob, reply)) = channel.recv().await {
                    replies.push(reply.to(&blob));
                    if replies.len() as u64 == CALLS {
                        replies.drain(..).for_each(|reply| reply.send(Blob(vec![7; 100_000])));
                        let _ = tell.send(());
                        return std::future::pending().await;
                    }
                }
                Ok(())
            });
        })
        .await
    });
    let terms = crate::wire::Terms { max_calls: 1, max_links: 1, max_handles: 0 };
    let codec = Codec::Bincode as u8;
    let start = Frame::Start {
        codec,
        terms,
        max_frame_len,
        window_len: 65_536,
        resume: 0,
        interface: None,
        args: &[],
    };
    near.write_all(&frames([start])).await.unwrap();
    // The `Started`.
    assert_ne!(near.read(&mut [0; 100]).await.unwrap(), 0);
    let calls = (1..=CALLS).map(|call| Frame::Call { to: 0, call, left: 60_000, payload: &[0] });
    near.write_all(&frames(calls)).await.unwrap();
    told.await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), served).await.ok().map(Result::unwrap)
}

#[tokio::test(start_paused = true)]
async fn non_reading_peer_ends_when_memory_is_short() {
    let short = Limits { max_held_in_all: 1 << 20, ..Limits::default() };
    // However long the frames are that it says it takes.
    for max_frame_len in [1 << 20, 16 << 20] {
        assert_eq!(asks_for_much_and_reads_nothing(&Limits::default(), max_frame_len).await, None);
        let ended = asks_for_much_and_reads_nothing(&short, max_frame_len).await;
        assert_eq!(ended, Some(ExitReason::Overload), "{max_frame_len}");
    }
}
