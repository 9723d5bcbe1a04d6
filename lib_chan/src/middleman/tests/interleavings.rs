//! A session, its driver and its users, in orders that a scheduler chooses: nothing that is sent stays behind, nobody
//! sleeps on who should be awake, credit comes back once, and what races with an end has one outcome.
//!
//! Only with `--cfg chan_shuttle`. A lost wake-up shows as a deadlock: everybody sleeps, and no timer fires.

use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use shuttle::future::{block_on, spawn as task};

use super::*;
use crate::{Remote, SpawnOptions, middleman::Shared, spawn_with, sync::explore};

/// What the two ends say: who, and which of its messages, and some weight.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
struct Numbered(u32, u32, Bytes);

impl Call for Numbered {
    type Reply = Self;
}

type End = Channel<Numbered>;

fn numbered(sender: u32, n: u32) -> Numbered {
    Numbered(sender, n, Bytes::new())
}

/// What is left of a session when both its ends have been let go.
struct Left {
    serving: shuttle::future::JoinHandle<ExitReason>,
    ends: [Weak<Shared>; 2],
}

impl Left {
    /// Waits until that is nothing: the drivers have said their last words, and nobody holds the session.
    async fn goes_away(self) {
        self.serving.await.unwrap();
        for end in self.ends {
            while end.strong_count() > 0 {
                shuttle::future::yield_now().await;
            }
        }
    }
}

/// Opens a session over a stream with room for so many bytes: the client's channel, the server's, and what is left of
/// them.
async fn ends(limits: &Limits, room: usize) -> (End, End, Left) {
    let parameters = SessionParameters::from_limits(limits).unwrap();
    let (client, server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (near, far) = tokio::io::duplex(room);
    let (tell, told) = oneshot::channel();
    let server_limits = limits.clone();
    let serving = task(async move {
        let start = |opening: Opening| drop(tell.send(opening.accept()));
        serve(BufReader::new(far), &server, &server_limits, start).await
    });
    let near: End = open(BufReader::new(near), &client, limits, Codec::Bincode, b"", false).await.unwrap();
    let far: End = told.await.unwrap();
    let ends = [&near, &far].map(|end| Arc::downgrade(end.shared()));
    (near, far, Left { serving, ends })
}

/// Casts a sequence, until one is not sent: how many were.
async fn cast(remote: Remote<Numbered>, sender: u32, count: u32, len: usize) -> u32 {
    for n in 0..count {
        if remote.cast(Numbered(sender, n, Bytes::from(vec![0; len]))).await.is_err() {
            return n;
        }
    }
    count
}

/// Reads to the end: how many came of each of two senders, each in its order.
async fn read(mut end: End) -> [u32; 2] {
    let mut seen = [0, 0];
    while let Some(message) = end.recv().await {
        let Message::Cast(Numbered(sender, n, _)) = message else { panic!("a cast") };
        assert_eq!(n, seen[sender as usize], "in order, and once");
        seen[sender as usize] += 1;
    }
    seen
}

#[test]
fn casts_of_tasks_arrive_once_in_order() {
    for room in [20, 64 * 1024] {
        explore(move || {
            block_on(async move {
                let (near, far, left) = ends(&Limits::default(), room).await;
                let reading = task(read(far));
                let casting = [0, 1].map(|sender| task(cast(near.remote(), sender, 3, 0)));
                for one in casting {
                    assert_eq!(one.await.unwrap(), 3);
                }
                assert_eq!(near.close().await, Ok(()));
                assert_eq!(reading.await.unwrap(), [3, 3]);
                left.goes_away().await;
            });
        });
    }
}

#[test]
fn credit_returns_once_and_wakes_sender() {
    const LEN: usize = 30_000;
    explore(|| {
        block_on(async {
            let window = Limits::MIN_WINDOW_LEN;
            // One that does not grow.
            let limits = Limits { window_len: window, max_window_len: window, ..Limits::default() };
            let (near, mut far, left) = ends(&limits, 64 * 1024).await;
            let casting = [0, 1].map(|sender| task(cast(near.remote(), sender, 2, LEN)));
            for _ in 0..4 {
                assert!(matches!(far.recv().await, Some(Message::Cast(_))));
            }
            for one in casting {
                assert_eq!(one.await.unwrap(), 2);
            }
            // Now nothing is taken: what goes is what was granted.
            let remote = near.remote();
            // It gives back what it took when it next looks, and nothing is there.
            looks_in_vain(&mut far).await;
            remote.flush().await.unwrap();
            far.remote().flush().await.unwrap();
            let mut sent = 0;
            while remote.try_cast(Numbered(9, 0, Bytes::from(vec![0; 8000]))).is_ok() {
                sent += 1;
                remote.flush().await.unwrap();
                assert!(sent <= Limits::MIN_WINDOW_LEN / 8000 + 1, "more than was granted");
            }
            // Less than an eighth may still be on its way back.
            assert!(sent >= Limits::MIN_WINDOW_LEN * 7 / 8 / 8064, "credit was lost: {sent}");
            drop((near, far, remote));
            left.goes_away().await;
        });
    });
}

async fn looks_in_vain(end: &mut End) {
    let mut recv = std::pin::pin!(end.recv());
    std::future::poll_fn(|cx| {
        assert!(recv.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

#[test]
fn close_racing_casts_delivers_accepted_ones() {
    explore(|| {
        block_on(async {
            let (near, far, left) = ends(&Limits::default(), 64 * 1024).await;
            let reading = task(read(far));
            let casting = [0, 1].map(|sender| task(cast(near.remote(), sender, 3, 0)));
            let closed = near.close().await;
            let mut sent = [0, 0];
            for (sender, one) in casting.into_iter().enumerate() {
                sent[sender] = one.await.unwrap();
            }
            assert_eq!(closed, Ok(()));
            assert_eq!(reading.await.unwrap(), sent);
            left.goes_away().await;
        });
    });
}

#[test]
fn calls_racing_end_have_true_outcome() {
    explore(|| {
        block_on(async {
            let (near, mut far, left) = ends(&Limits::default(), 64 * 1024).await;
            let taken = Arc::new(Mutex::new(Vec::new()));
            let calling = [0, 1, 2].map(|caller| {
                let remote = near.remote();
                task(async move { remote.call(numbered(caller, 0)).await })
            });
            let serving = task({
                let taken = Arc::clone(&taken);
                async move {
                    if let Some(Message::Call(asked, reply)) = far.recv().await {
                        taken.lock().unwrap().push(asked.0);
                        reply.to(&asked).send(asked);
                    }
                    if let Some(Message::Call(asked, reply)) = far.recv().await {
                        taken.lock().unwrap().push(asked.0);
                        // The end and the dropped reply race as well.
                        task(async move { drop(reply.to(&asked)) });
                    }
                    drop(far);
                }
            });
            let mut answered = 0;
            for (caller, one) in (0..).zip(calling) {
                let outcome = one.await.unwrap();
                let was_taken = taken.lock().unwrap().contains(&caller);
                match outcome {
                    Ok(answer) => {
                        assert!(answer == numbered(caller, 0) && was_taken);
                        answered += 1;
                    }
                    Err(error) => assert_eq!(error.executed == Executed::No, !was_taken, "{error:?}"),
                }
            }
            assert_eq!(answered, 1);
            serving.await.unwrap();
            assert_eq!(near.remote().ended().await, ExitReason::Normal);
            drop(near);
            left.goes_away().await;
        });
    });
}

#[test]
fn waits_for_end_racing_it_are_over() {
    explore(|| {
        block_on(async {
            let (near, far, left) = ends(&Limits::default(), 64 * 1024).await;
            let ending = task(async move { drop(far) });
            let waiting = [near.remote(), near.remote()].map(|remote| task(remote.ended()));
            for one in waiting {
                assert_eq!(one.await.unwrap(), ExitReason::Normal);
            }
            ending.await.unwrap();
            drop(near);
            left.goes_away().await;
        });
    });
}

#[test]
fn not_executed_holds_when_service_is_killed() {
    explore(|| {
        block_on(async {
            let (near, mut far, left) = ends(&Limits::default(), 64 * 1024).await;
            let taken = Arc::new(Mutex::new(Vec::new()));
            let calling = [0, 1, 2].map(|caller| {
                let remote = near.remote();
                task(async move { remote.call(numbered(caller, 0)).await })
            });
            let (tell, told) = oneshot::channel();
            let service = spawn({
                let taken = Arc::clone(&taken);
                async move |_me: Process| {
                    let (mut tell, mut held) = (Some(tell), Vec::new());
                    while let Some(Message::Call(asked, reply)) = far.recv().await {
                        taken.lock().unwrap().push(asked.0);
                        held.push(reply);
                        let _ = tell.take().map(|tell| tell.send(()));
                    }
                    Ok(())
                }
            });
            // While it takes the others.
            told.await.unwrap();
            service.pid().exit(ExitReason::Kill);
            for (caller, one) in (0..).zip(calling) {
                let error = one.await.unwrap().unwrap_err();
                let was_taken = taken.lock().unwrap().contains(&caller);
                assert!(error.executed != Executed::No || !was_taken, "{error:?}");
            }
            assert_eq!(near.remote().ended().await, ExitReason::Killed);
            drop(near);
            left.goes_away().await;
        });
    });
}

#[test]
fn call_abandoned_while_answered_frees_slot() {
    explore(|| {
        block_on(async {
            let limits = Limits { max_calls: 1, ..Limits::default() };
            let (near, mut far, left) = ends(&limits, 64 * 1024).await;
            let serving = task(async move {
                while let Some(Message::Call(asked, reply)) = far.recv().await {
                    task(async move { reply.to(&asked).send(asked) });
                }
            });
            let remote = near.remote();
            let given_up = task({
                let remote = remote.clone();
                async move { remote.call(numbered(0, 0)).await }
            });
            let other = task({
                let remote = remote.clone();
                async move { remote.call(numbered(1, 0)).await }
            });
            given_up.abort();
            // It has the only slot, or waits for it.
            assert_eq!(other.await.unwrap(), Ok(numbered(1, 0)));
            assert_eq!(remote.call(numbered(2, 0)).await, Ok(numbered(2, 0)));
            assert_eq!(near.close().await, Ok(()));
            serving.await.unwrap();
            drop(remote);
            left.goes_away().await;
        });
    });
}

#[test]
fn given_channel_delivers_once_while_messages_arrive() {
    explore(|| {
        block_on(async {
            let (near, far, left) = ends(&Limits::default(), 64 * 1024).await;
            let (tell, told) = oneshot::channel();
            let group = spawn(async move |mut me: Process<Incoming<Numbered>>| {
                let mut seen = [0, 0];
                loop {
                    match me.recv().await {
                        Event::Message(Incoming::Message(Message::Cast(Numbered(sender, n, _))))
                            if n == seen[sender as usize] =>
                        {
                            seen[sender as usize] += 1;
                        }
                        Event::Message(Incoming::Ended(reason)) => {
                            let _ = tell.send((seen, reason));
                            return Ok(());
                        }
                        _ => return Err(ExitReason::failed("out of order")),
                    }
                }
            });
            let casting = [0, 1].map(|sender| task(cast(near.remote(), sender, 3, 0)));
            far.give_to(&group, |incoming| incoming).unwrap();
            for one in casting {
                assert_eq!(one.await.unwrap(), 3);
            }
            assert_eq!(near.close().await, Ok(()));
            assert_eq!(told.await.unwrap(), ([3, 3], ExitReason::Normal));
            left.goes_away().await;
        });
    });
}

#[test]
fn no_far_event_after_demonitor_flush() {
    explore(|| {
        block_on(async {
            let (near, far, left) = ends(&Limits::default(), 64 * 1024).await;
            let child = spawn(async |mut me: Process| {
                me.recv().await;
                Err(ExitReason::failed("boom"))
            });
            let number = far.remote().hand_out(&child, |(): ()| ());
            let child = near.remote().handed::<()>(number);
            let options = SpawnOptions { trap_exit: true, ..SpawnOptions::default() };
            let watcher = spawn_with(options, async move |mut me: Process| {
                let monitor = me.monitor(child.pid());
                me.link(child.pid())?;
                child.try_cast(&()).unwrap();
                shuttle::future::yield_now().await;
                me.demonitor_flush(monitor);
                me.unlink(child.pid());
                while me.try_recv().is_some() {}
                child.pid().ended().await;
                assert_eq!(me.try_recv(), None);
                Ok(())
            });
            assert_eq!(watcher.pid().ended().await, ExitReason::Normal);
            drop((near, far));
            left.goes_away().await;
        });
    });
}
