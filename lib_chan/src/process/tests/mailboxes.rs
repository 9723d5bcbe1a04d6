//! Bounds, order, and what sessions hand over.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

use super::*;

fn small(mailbox_capacity: usize) -> SpawnOptions {
    SpawnOptions { mailbox_capacity, ..SpawnOptions::default() }
}

/// A process that takes a message each time it is told to, and gives it away.
struct Taker {
    address: Address<u32>,
    take: tokio::sync::mpsc::UnboundedSender<oneshot::Sender<u32>>,
}

impl Taker {
    fn new(capacity: usize) -> Self {
        let (take, mut orders) = tokio::sync::mpsc::unbounded_channel::<oneshot::Sender<u32>>();
        let address = spawn_with(small(capacity), |mut me: Process<u32>| async move {
            while let Some(to) = orders.recv().await {
                if let Event::Message(message) = me.recv().await {
                    let _ = to.send(message);
                }
            }
            Ok(())
        });
        Self { address, take }
    }

    async fn takes(&self) -> u32 {
        let (to, taken) = oneshot::channel();
        self.take.send(to).unwrap();
        taken.await.unwrap()
    }

    fn is_full(&self) -> bool {
        self.address.try_send(0).is_err_and(|error| error.reason == ExitReason::Overload)
    }
}

#[tokio::test]
async fn bound_counts_untaken_messages() {
    let taker = Taker::new(3);
    for message in 1..=3 {
        taker.address.try_send(message).unwrap();
    }
    assert!(taker.is_full());
    // The first one taken swaps the whole queue out; two are still not taken.
    assert_eq!(taker.takes().await, 1);
    taker.address.try_send(4).unwrap();
    assert!(taker.is_full());
    for message in 2..=4 {
        assert_eq!(taker.takes().await, message);
    }
    for message in 5..=7 {
        taker.address.try_send(message).unwrap();
    }
    assert!(taker.is_full());
}

#[tokio::test]
async fn senders_wait_in_the_order_they_came() {
    let taker = Taker::new(1);
    taker.address.try_send(1).unwrap();
    let mut waiting: Vec<_> = (2..=4).map(|message| Box::pin(taker.address.send(message))).collect();
    for sender in &mut waiting {
        assert!(now(sender).await.is_none());
    }
    assert!(taker.is_full());
    // The second gives up, and its message with it.
    drop(waiting.remove(1));
    assert_eq!(taker.takes().await, 1);
    assert!(taker.is_full(), "the room belongs to who waits");
    assert_eq!(now(&mut waiting[0]).await, Some(Ok(())));
    assert!(now(&mut waiting[1]).await.is_none());
    assert_eq!(taker.takes().await, 2);
    assert_eq!(now(&mut waiting[1]).await, Some(Ok(())));
    assert_eq!(taker.takes().await, 4);
    taker.address.try_send(5).unwrap();
}

#[tokio::test]
async fn waiting_sender_gets_message_back_at_end() {
    let taker = Taker::new(1);
    taker.address.try_send(1).unwrap();
    let mut sender = Box::pin(taker.address.send(2));
    assert!(now(&mut sender).await.is_none());
    taker.address.pid().exit(boom());
    let error = sender.await.unwrap_err();
    assert_eq!((error.message, error.reason), (2, boom()));
}

#[tokio::test]
async fn a_process_never_waits_for_itself() {
    let received = enter(async |mut me: Process<usize>| {
        let myself = me.address();
        let over = SpawnOptions::default().mailbox_capacity + 10;
        for message in 0..over {
            myself.send(message).await?;
        }
        for message in 0..over {
            assert_eq!(me.recv().await, Event::Message(message));
        }
        // And what it sent itself counts.
        for message in 0..SpawnOptions::default().mailbox_capacity {
            myself.try_send(message).unwrap();
        }
        Ok(myself.try_send(0).unwrap_err().reason)
    });
    assert_eq!(received.await, Ok(ExitReason::Overload));
}

#[tokio::test]
async fn signals_are_never_refused() {
    let taker = Taker::new(1);
    let a = Actor::new();
    taker.address.try_send(1).unwrap();
    let pid = taker.address.pid();
    a.does(move |me| {
        me.monitor(pid.clone());
        me.link(pid).unwrap();
    })
    .await;
    assert_eq!(taker.address.here().with_links(|links| links.len()), Some(2));
}

#[tokio::test]
async fn abandoned_end_frees_its_place() {
    let (go, gone) = oneshot::channel::<()>();
    let address = spawn_with(small(2), |mut me: Process<u32>| async move {
        assert_eq!(me.recv().await, Event::Message(1));
        drop(me);
        go.send(()).unwrap();
        std::future::pending().await
    });
    address.try_send(1).unwrap();
    address.try_send(2).unwrap();
    gone.await.unwrap();
    address.try_send(3).unwrap();
    address.try_send(4).unwrap();
    assert!(address.try_send(5).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_senders_keep_their_order_and_the_bound() {
    const SENDERS: usize = 8;
    const MESSAGES: usize = 5_000;
    for capacity in [1, 2, 7, 1024] {
        let untaken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&untaken);
        let receiver = spawn_with(small(capacity), |mut me: Process<(usize, usize)>| async move {
            let mut next = [0; SENDERS];
            for _ in 0..SENDERS * MESSAGES {
                let Event::Message((sender, number)) = me.recv().await else { unreachable!() };
                assert_eq!(number, next[sender]);
                next[sender] += 1;
                count.fetch_sub(1, Ordering::SeqCst);
            }
            Ok(())
        });
        for sender in 0..SENDERS {
            let (to, count) = (receiver.clone(), Arc::clone(&untaken));
            spawn(move |_: Process| async move {
                for number in 0..MESSAGES {
                    to.send((sender, number)).await?;
                    // Counted by the sender after it was sent and by the receiver after it was taken: so each of them
                    // can be one ahead.
                    let now = count.fetch_add(1, Ordering::SeqCst).cast_signed() + 1;
                    assert!(now <= (capacity + 1).cast_signed(), "{now} of {capacity}");
                }
                Ok(())
            });
        }
        assert_eq!(receiver.pid().ended().await, Normal);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_that_give_up_lose_nobody_elses_message() {
    let receiver = spawn_with(small(2), |mut me: Process<u32>| async move {
        let mut sum = 0;
        while let Event::Message(message) = me.recv().await {
            if message == 0 {
                return Err(ExitReason::failed(sum.to_string()));
            }
            sum += message;
        }
        Ok(())
    });
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let to = receiver.clone();
        tasks.push(tokio::spawn(async move {
            let mut sent = 0;
            for round in 0..2000_u32 {
                let mut sending = Box::pin(to.send(1));
                match round % 3 {
                    0 => {
                        sending.await.unwrap();
                        sent += 1;
                    }
                    _ => sent += u32::from(now(&mut sending).await.is_some()),
                }
            }
            sent
        }));
    }
    let mut at_least = 0;
    for task in tasks {
        at_least += task.await.unwrap();
    }
    receiver.send(0).await.unwrap();
    let ExitReason::Failed(sum) = receiver.pid().ended().await else { unreachable!() };
    // A sender that gave up may have sent; nothing else is lost or doubled.
    let sum: u32 = sum.parse().unwrap();
    assert!((at_least..=8000).contains(&sum), "{at_least} {sum}");
}

/// What stands for a session: numbers, of which the odd ones turn out to be nothing.
struct Numbers {
    source: u8,
    numbers: VecDeque<u64>,
}

impl Parcel<u64> for Numbers {
    fn next(&mut self) -> Option<u64> {
        std::iter::from_fn(|| self.numbers.pop_front()).find(|number| number.is_multiple_of(2))
    }

    fn len(&self) -> usize {
        self.numbers.len()
    }

    fn append(&mut self, other: Box<dyn Parcel<u64>>) -> Option<Box<dyn Parcel<u64>>> {
        let mut same = (other as Box<dyn Any>).downcast::<Self>().unwrap();
        if self.source != same.source {
            return Some(same);
        }
        self.numbers.append(&mut same.numbers);
        None
    }
}

fn parcel(source: u8, numbers: std::ops::Range<u64>) -> Box<dyn Parcel<u64>> {
    Box::new(Numbers { source, numbers: numbers.collect() })
}

#[tokio::test]
async fn messages_of_session_keep_their_order() {
    let (tell, told) = oneshot::channel();
    let (go, gone) = oneshot::channel::<()>();
    let address = spawn_with(small(2), |mut me: Process<u64>| async move {
        gone.await.unwrap();
        let mut received = Vec::new();
        while let Some(Event::Message(message)) = now(me.recv()).await {
            received.push(message);
        }
        tell.send(received).unwrap();
        Ok(())
    });
    address.try_send(100).unwrap();
    address.put(parcel(0, 0..5)).unwrap();
    address.put(parcel(0, 5..8)).unwrap();
    address.put(parcel(1, 20..24)).unwrap();
    address.try_send(101).unwrap();
    assert!(address.try_send(102).is_err(), "only what is sent is counted");
    address.put(parcel(0, 8..10)).unwrap();
    go.send(()).unwrap();
    assert_eq!(told.await.unwrap(), [100, 0, 2, 4, 6, 20, 22, 101, 8]);
    assert_eq!(address.pid().ended().await, Normal);
    assert_eq!(address.put(parcel(0, 0..1)), Err(Normal));
}

#[tokio::test]
async fn a_batch_is_one_wake() {
    let mut me = Process::new(cell::Cell::<u64>::new(&SpawnOptions::default()));
    let address = me.address();
    let wakes = Arc::new(CountWakes::default());
    let waker = std::task::Waker::from(Arc::clone(&wakes));
    let mut cx = std::task::Context::from_waker(&waker);
    let mut receive = pin!(me.recv());
    assert!(receive.as_mut().poll(&mut cx).is_pending());
    address.put(parcel(0, 0..100)).unwrap();
    address.put(parcel(0, 100..200)).unwrap();
    address.try_send(7).unwrap();
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
}

#[derive(Default)]
struct CountWakes(AtomicUsize);

impl std::task::Wake for CountWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn recv_within_times_out_without_loss() {
    let received = enter(async |mut me: Process<u32>| {
        assert_eq!(me.recv_within(Duration::from_secs(1)).await, None);
        me.address().send(1).await?;
        assert_eq!(me.recv_within(Duration::ZERO).await, Some(Event::Message(1)));
        me.address().send(2).await?;
        drop(Box::pin(me.recv()));
        assert_eq!(me.recv().await, Event::Message(2));
        Ok(())
    });
    received.await.unwrap();
}

#[tokio::test]
async fn busy_receiver_admits_waiting_senders() {
    let mut me = Process::new(cell::Cell::<u64>::new(&small(1)));
    let address = me.address();
    address.try_send(1).unwrap();
    let mut senders: Vec<_> = (2..=3).map(|message| Box::pin(address.send(message))).collect();
    for sender in &mut senders {
        assert!(now(sender).await.is_none());
    }
    for message in 1..=3 {
        assert_eq!(now(me.recv()).await, Some(Event::Message(message)));
    }
    // And a line in which nobody stands any more is none.
    address.try_send(4).unwrap();
    drop(now(Box::pin(address.send(5))).await);
    assert_eq!(now(me.recv()).await, Some(Event::Message(4)));
    assert!(now(me.recv()).await.is_none());
    address.try_send(6).unwrap();
}
