//! What threads share, in orders that a scheduler chooses: no message is lost or doubled, nobody sleeps on who should be
//! awake, and everything that races with an end has one outcome.
//!
//! Only with `--cfg chan_shuttle`. A lost wake-up shows as a deadlock: everybody sleeps.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use shuttle::future::{block_on, spawn as task};

use super::*;
use crate::{CallFailure, Executed, process::pid::Local, sync::explore};

/// Room for so many messages.
fn with_room(mailbox_capacity: usize) -> SpawnOptions {
    SpawnOptions { mailbox_capacity, ..SpawnOptions::default() }
}

#[test]
fn messages_arrive_once_in_order_despite_backpressure() {
    const EACH: u32 = 3;
    for room in [1, 2] {
        explore(move || {
            block_on(async move {
                let (tell, told) = tokio::sync::oneshot::channel();
                let receiver = spawn_with(with_room(room), async move |mut me: Process<(usize, u32)>| {
                    let mut seen = Vec::new();
                    while seen.len() < 2 * EACH as usize {
                        let Event::Message(message) = me.recv().await else { return Err(boom()) };
                        seen.push(message);
                    }
                    let _ = tell.send(seen);
                    Ok(())
                });
                for sender in 0..2 {
                    let receiver = receiver.clone();
                    task(async move {
                        for n in 0..EACH {
                            receiver.send((sender, n)).await.unwrap();
                        }
                    });
                }
                let seen = told.await.unwrap();
                for sender in 0..2 {
                    let of_one = seen.iter().filter(|(from, _)| *from == sender).map(|(_, n)| *n);
                    assert!(of_one.eq(0..EACH), "{seen:?}");
                }
                assert_eq!(receiver.pid().ended().await, Normal);
            });
        });
    }
}

#[test]
fn sender_gets_room_from_waiting_receiver() {
    explore(|| {
        block_on(async {
            let (tell, told) = tokio::sync::oneshot::channel();
            let receiver = spawn_with(with_room(1), async move |mut me: Process<u32>| {
                me.recv().await;
                let _ = told.await;
                if me.recv().await == Event::Message(2) { Ok(()) } else { Err(boom()) }
            });
            receiver.send(1).await.unwrap();
            receiver.send(2).await.unwrap();
            tell.send(()).unwrap();
            assert_eq!(receiver.pid().ended().await, Normal);
        });
    });
}

/// A message that is counted while it exists.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(alive))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn sends_racing_end_leave_nothing() {
    explore(|| {
        block_on(async {
            let alive = Arc::new(AtomicUsize::new(0));
            let receiver = spawn_with(with_room(1), async |mut me: Process<Counted>| {
                for _ in 0..2 {
                    drop(me.recv().await);
                }
                Ok(())
            });
            let mut senders = Vec::new();
            for _ in 0..2 {
                let (receiver, alive) = (receiver.clone(), Arc::clone(&alive));
                senders.push(task(async move {
                    let mut sent = 0;
                    for _ in 0..3 {
                        match receiver.send(Counted::new(&alive)).await {
                            Ok(()) => sent += 1,
                            Err(error) => assert!(matches!(error.reason, NoProc | Normal)),
                        }
                    }
                    sent
                }));
            }
            assert_eq!(receiver.pid().ended().await, Normal);
            let mut sent = 0;
            for sender in senders {
                sent += sender.await.unwrap();
            }
            assert!(sent >= 2, "what was taken was sent");
            assert_eq!(alive.load(Ordering::Relaxed), 0, "messages that nobody has");
            assert_eq!(receiver.here().waiting(), 0);
        });
    });
}

#[test]
fn calls_racing_end_have_one_true_answer() {
    explore(|| {
        block_on(async {
            let taken = Arc::new(AtomicUsize::new(0));
            let callee = spawn_with(with_room(1), {
                let taken = Arc::clone(&taken);
                async move |mut me: Process<(usize, Reply<usize>)>| {
                    if let Event::Message((caller, reply)) = me.recv().await {
                        taken.fetch_or(caller, Ordering::Relaxed);
                        reply.send(caller);
                    }
                    if let Event::Message((caller, _unanswered)) = me.recv().await {
                        taken.fetch_or(caller, Ordering::Relaxed);
                        return Err(boom());
                    }
                    Ok(())
                }
            });
            let callers: Vec<_> = [1, 2, 4]
                .into_iter()
                .map(|caller| {
                    let callee = callee.clone();
                    task(async move { (caller, callee.call(LONG, |reply| (caller, reply)).await) })
                })
                .collect();
            let mut answered = 0;
            for caller in callers {
                let (caller, outcome) = caller.await.unwrap();
                let was_taken = taken.load(Ordering::Relaxed) & caller != 0;
                match outcome {
                    Ok(answer) => {
                        assert!(answer == caller && was_taken);
                        answered += 1;
                    }
                    Err(error) => {
                        assert!(matches!(error.reason, CallFailure::Exit(_)), "{error:?}");
                        assert_eq!(error.executed == Executed::No, !was_taken, "{error:?}");
                    }
                }
            }
            assert_eq!(answered, 1);
            assert_eq!(callee.pid().ended().await, boom());
        });
    });
}

#[test]
fn links_racing_end_are_told_once() {
    explore(|| {
        block_on(async {
            let target = spawn(async |mut me: Process| {
                me.recv().await;
                Err(boom())
            });
            let pid = target.pid();
            let watcher = spawn_with(
                SpawnOptions { trap_exit: true, ..SpawnOptions::default() },
                async move |mut me: Process| {
                    me.link(pid.clone())?;
                    let monitor = me.monitor(pid.clone());
                    let (mut exits, mut downs) = (0, 0);
                    while exits + downs < 2 {
                        match me.recv().await {
                            Event::Exit(from, reason) => {
                                assert!(from == pid && (reason == boom() || reason == NoProc));
                                exits += 1;
                            }
                            Event::Down(of, _, reason) => {
                                assert!(of == monitor && (reason == boom() || reason == NoProc));
                                downs += 1;
                            }
                            Event::Message(()) => return Err(Kill),
                        }
                    }
                    if (exits, downs) == (1, 1) { Ok(()) } else { Err(Kill) }
                },
            );
            let ended = task(target.pid().ended());
            target.send(()).await.unwrap();
            assert_eq!(ended.await.unwrap(), boom());
            assert_eq!(watcher.pid().ended().await, Normal);
        });
    });
}

#[test]
fn racing_kill_decides_one_end() {
    explore(|| {
        block_on(async {
            let target = spawn(async |mut me: Process<u32>| {
                loop {
                    me.recv().await;
                }
            });
            let (killer, failer) = (target.pid(), target.pid());
            task(async move { killer.exit(Kill) });
            task(async move { failer.exit(boom()) });
            let first = task(target.pid().ended());
            while target.send(1).await.is_ok() {
                shuttle::future::yield_now().await;
            }
            let reason = target.pid().ended().await;
            assert!(reason == Killed || reason == boom(), "{reason}");
            assert_eq!(first.await.unwrap(), reason);
        });
    });
}

/// Explores what `f` makes of a process that traps exits or not; it must end with `Normal`.
fn explore_process<F>(trap_exit: bool, f: fn(Process) -> F)
where
    F: Future<Output = Result<(), ExitReason>> + Send + 'static,
{
    explore(move || {
        block_on(async move {
            let process = spawn_with(SpawnOptions { trap_exit, ..SpawnOptions::default() }, f);
            assert_eq!(process.pid().ended().await, Normal);
        });
    });
}

#[test]
fn no_down_arrives_after_demonitor_flush() {
    explore_process(false, |mut me| async move {
        let (child, monitor) = me.spawn_monitor(async |_: Process| Err(boom()));
        me.demonitor_flush(monitor);
        child.pid().ended().await;
        assert_eq!(me.try_recv(), None);
        Ok(())
    });
}

#[test]
fn demonitor_reports_down_in_mailbox() {
    explore_process(false, |mut me| async move {
        let (child, monitor) = me.spawn_monitor(async |_: Process| Err(boom()));
        let fired = !me.demonitor(monitor);
        assert_eq!(me.try_recv().is_some(), fired);
        child.pid().ended().await;
        assert_eq!(me.try_recv(), None);
        Ok(())
    });
}

#[test]
fn no_exit_arrives_after_unlink() {
    explore_process(true, |mut me| async move {
        let child = me.spawn_link(async |_: Process| Err(boom()));
        me.unlink(child.pid());
        while me.try_recv().is_some() {}
        child.pid().ended().await;
        assert_eq!(me.try_recv(), None);
        Ok(())
    });
}

#[test]
fn one_exit_arrives_after_unlink_and_link() {
    explore_process(true, |mut me| async move {
        let child = me.spawn_link(async |_: Process| Err(boom()));
        me.unlink(child.pid());
        while me.try_recv().is_some() {}
        me.link(child.pid())?;
        child.pid().ended().await;
        assert!(matches!(me.try_recv(), Some(Event::Exit(..))));
        assert_eq!(me.try_recv(), None);
        Ok(())
    });
}

#[test]
fn no_process_ends_by_a_link_after_unlink() {
    explore(|| {
        block_on(async {
            let alive = Arc::new(AtomicBool::new(false));
            let process = spawn({
                let alive = Arc::clone(&alive);
                async move |me: Process| {
                    let child = me.spawn_link(async |_: Process| Err(boom()));
                    me.unlink(child.pid());
                    alive.store(me.address().here().reason().is_none(), Ordering::Relaxed);
                    child.pid().ended().await;
                    Ok(())
                }
            });
            let reason = process.pid().ended().await;
            assert_eq!(reason, if alive.load(Ordering::Relaxed) { Normal } else { boom() });
        });
    });
}
