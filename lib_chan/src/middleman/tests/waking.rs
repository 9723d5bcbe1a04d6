//! Who is woken, and for what.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use super::*;
use crate::{
    middleman::wake::wake_together,
    wire::{Frame, Terms},
};

/// A waker that counts how often it is used.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A server's channel, and the client's end of its stream with nobody at it.
async fn with_raw_client(limits: Limits) -> (Channel<Blob>, DuplexStream) {
    let parameters = SessionParameters::from_limits(&limits).unwrap();
    let (_, server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let start = |opening: Opening| {
            let _ = tell.send(opening.accept());
        };
        serve(BufReader::new(far), &server, &limits, start).await
    });
    let mut bytes = Vec::new();
    let terms = Terms { max_calls: 1, max_links: 1, max_handles: 0 };
    let (codec, max_frame_len) = (Codec::Bincode as u8, 1 << 20);
    Frame::Start { codec, terms, max_frame_len, window_len: 65_536, resume: 0, interface: None, args: &[] }
        .put(&mut bytes);
    near.write_all(&bytes).await.unwrap();
    (told.await.unwrap(), near)
}

/// Limits with which one long answer pauses the receiver.
fn pausing_early() -> Limits {
    Limits { max_frame_len: 65_536, max_unsent_before_pause: 65_536, ..Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn paused_receiver_sleeps_until_output_drains() {
    let (mut channel, mut near) = with_raw_client(pausing_early()).await;
    let mut bytes = Vec::new();
    Frame::Call { to: 0, call: 1, left: 60_000, payload: &[0] }.put(&mut bytes);
    near.write_all(&bytes).await.unwrap();
    let Some(Message::Call(blob, reply)) = channel.recv().await else { panic!("a call") };
    reply.to(&blob).send(Blob(vec![7; 400_000]));
    assert!(channel.shared().claims().is_paused());
    bytes.clear();
    Frame::Cast { to: 0, payload: &[0] }.put(&mut bytes);
    let shared = Arc::clone(channel.shared());
    near.write_all(&bytes).await.unwrap();
    until(|| shared.quietly(|endpoint| endpoint.session().has_inbox())).await;

    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let mut recv = Box::pin(channel.recv());
    assert!(recv.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let held = || shared.quietly(|endpoint| endpoint.held());
    let before = held();
    near.write_all(&bytes).await.unwrap();
    until(|| held() > before).await;
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "another message changes nothing");

    let mut read = 0;
    while wakes.0.load(Ordering::Relaxed) == 0 {
        read += near.read(&mut [0; 10_000]).await.unwrap();
        assert!(read < 400_000, "it is woken before all is gone");
    }
    let message = poll_fn(|_| Poll::Ready(recv.as_mut().poll(&mut Context::from_waker(&waker)))).await;
    assert!(matches!(message, Poll::Ready(Some(Message::Cast(Blob(_))))), "{message:?}");
}

#[tokio::test(start_paused = true)]
async fn given_channel_resumes_when_output_drains() {
    let (channel, mut near) = with_raw_client(pausing_early()).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let group = spawn(async move |mut me: Process<Incoming<Blob>>| {
        loop {
            match me.recv().await {
                Event::Message(Incoming::Message(Message::Call(blob, reply))) => {
                    reply.to(&blob).send(Blob(vec![7; 400_000]));
                }
                Event::Message(Incoming::Message(Message::Cast(blob))) => tell.send(blob).unwrap(),
                _ => return Ok(()),
            }
        }
    });
    let shared = Arc::clone(channel.shared());
    channel.give_to(&group, |incoming| incoming).unwrap();
    let mut bytes = Vec::new();
    Frame::Call { to: 0, call: 1, left: 60_000, payload: &[0] }.put(&mut bytes);
    Frame::Cast { to: 0, payload: &[0] }.put(&mut bytes);
    near.write_all(&bytes).await.unwrap();
    until(|| shared.claims().is_paused() && shared.claims().is_holding()).await;
    assert!(told.try_recv().is_err());
    // Some of the answer is read, and then nothing more: the rest fills the stream.
    near.read_exact(&mut vec![0; 200_000]).await.unwrap();
    assert_eq!(told.recv().await, Some(Blob(vec![])));
    assert!(!shared.claims().is_paused());
}

/// A waker that says when it was used, among others.
struct Place(u8, Arc<Mutex<Vec<u8>>>);

impl Wake for Place {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0);
    }
}

/// Five wakers, and the order in which they have been used.
fn five_wakers() -> (Vec<Waker>, Arc<Mutex<Vec<u8>>>) {
    let order = Arc::new(Mutex::new(Vec::new()));
    ((0..5).map(|place| Arc::new(Place(place, Arc::clone(&order))).into()).collect(), order)
}

fn are_woken_at_once() {
    let (wakers, order) = five_wakers();
    wake_together(wakers);
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wakes_batch_in_order_when_worker_is_free() {
    let (wakers, order) = five_wakers();
    let woken = tokio::spawn(async move {
        wake_together(wakers);
        let at_once = order.lock().unwrap().len();
        tokio::task::yield_now().await;
        (at_once, order.lock().unwrap().clone())
    });
    assert_eq!(woken.await.unwrap(), (0, vec![0, 1, 2, 3, 4]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wakes_batch_at_once_beside_workers() {
    are_woken_at_once();
}

#[test]
fn wakes_batch_when_runtime_ends() {
    let many = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let one = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (wakers, order) = five_wakers();
    one.block_on(async {
        // The runtime that is asked is not the one that runs this.
        let _many = many.enter();
        wake_together(wakers);
    });
    drop(one);
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn wakes_batch_at_once_on_single_worker() {
    are_woken_at_once();
}

#[test]
fn wakes_batch_at_once_outside_runtime() {
    are_woken_at_once();
}
