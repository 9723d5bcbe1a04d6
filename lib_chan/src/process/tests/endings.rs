//! How processes end, whatever happens.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Weak, mpsc};

use super::*;

/// Leaves a note when dropped, as a channel does; the notes come out at the other end.
struct Noted(mpsc::Sender<Option<ExitReason>>);

impl Drop for Noted {
    fn drop(&mut self) {
        let to = self.0.clone();
        settle(move |reason| to.send(reason.cloned()).unwrap());
    }
}

fn noted() -> (Noted, mpsc::Receiver<Option<ExitReason>>) {
    let (to, notes) = mpsc::channel();
    (Noted(to), notes)
}

#[tokio::test]
async fn a_note_carries_the_reason_of_the_end() {
    async fn ends_with<F>(f: impl FnOnce(Noted) -> F, reason: ExitReason)
    where
        F: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        let (note, notes) = noted();
        let future = f(note);
        let pid = spawn(|_: Process| future).pid();
        assert_eq!(pid.ended().await, reason);
        assert_eq!(notes.try_iter().collect::<Vec<_>>(), [Some(reason)]);
    }
    ends_with(
        |note| async move {
            let _note = note;
            tokio::task::yield_now().await;
            Ok(())
        },
        Normal,
    )
    .await;
    ends_with(
        |note| async move {
            let _note = note;
            Err(boom())
        },
        boom(),
    )
    .await;
    ends_with(
        |note| async move {
            let _note = note;
            panic!("on purpose")
        },
        Panic,
    )
    .await;
}

#[tokio::test]
async fn note_carries_reason_of_kill() {
    for polled in 0..3 {
        let (note, notes) = noted();
        let a = spawn(|mut me: Process| async move {
            let _note = note;
            me.recv().await;
            Ok(())
        });
        for _ in 0..polled {
            tokio::task::yield_now().await;
        }
        a.pid().exit(Kill);
        a.pid().ended().await;
        assert_eq!(notes.try_iter().collect::<Vec<_>>(), [Some(Killed)]);
    }
}

#[tokio::test]
async fn note_of_living_process_has_no_reason() {
    let (note, notes) = noted();
    let a = Actor::new();
    a.does(move |_| {
        drop(note);
        assert_eq!(notes.try_recv(), Err(mpsc::TryRecvError::Empty), "not before the poll is over");
        notes
    })
    .await
    .recv()
    .map(|reason| assert_eq!(reason, None))
    .unwrap();
    // Also when it was dropped by a panic that is caught.
    let (note, notes) = noted();
    a.does(move |_| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _note = note;
            panic!("on purpose");
        }));
        assert!(caught.is_err());
    })
    .await;
    a.is_alive_with(&[]).await;
    assert_eq!(notes.try_iter().collect::<Vec<_>>(), [None]);
}

#[tokio::test]
async fn note_outside_processes_settles_at_once() {
    let (note, notes) = noted();
    drop(note);
    assert_eq!(notes.try_recv(), Ok(None));
}

#[tokio::test]
async fn drops_untaken_message_with_reason() {
    let (note, notes) = noted();
    let a = spawn(|_me: Process<Noted>| std::future::pending());
    a.send(note).await.unwrap();
    a.pid().exit(boom());
    a.pid().ended().await;
    assert_eq!(notes.try_iter().collect::<Vec<_>>(), [Some(boom())]);
}

#[tokio::test]
async fn a_panic_in_a_destructor_changes_nothing() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let (note, notes) = noted();
    let watcher = Actor::trapping();
    let a = watcher
        .does(|me| {
            me.spawn_link(|_me: Process<Bomb>| async move {
                let _note = note;
                let _bomb = Bomb;
                std::future::pending().await
            })
        })
        .await;
    a.try_send(Bomb).ok().unwrap();
    a.try_send(Bomb).ok().unwrap();
    tokio::task::yield_now().await;
    a.pid().exit(Kill);
    assert_eq!(a.pid().ended().await, Killed);
    watcher.is_alive_with(&[Exit(a.pid(), Killed)]).await;
    assert_eq!(notes.try_iter().collect::<Vec<_>>(), [Some(Killed)]);
}

#[tokio::test]
async fn kill_at_any_await_leaves_tables_empty() {
    let full = spawn_with(SpawnOptions { mailbox_capacity: 1, ..SpawnOptions::default() }, {
        |_me: Process<Reply<()>>| std::future::pending()
    });
    let (other, (far, far_pid)) = (Actor::trapping(), Recorder::new());
    for stage in 0..8 {
        let (other_pid, far_pid, full) = (other.pid(), far_pid.clone(), full.clone());
        let a = spawn(move |mut me: Process| async move {
            me.link(other_pid.clone())?;
            me.link(far_pid.clone())?;
            me.monitor(other_pid.clone());
            me.monitor(far_pid.clone());
            let ended = other_pid.ended();
            match stage {
                0 => {
                    me.recv().await;
                }
                1 => {
                    me.recv_within(LONG).await;
                }
                2 => {
                    ended.await;
                }
                3 | 4 => {
                    // The first of them finds room, the second waits for it.
                    let _ = full.call(LONG, |reply| reply).await;
                }
                5 => std::future::pending().await,
                6 => {
                    let child = me.spawn_link(|_: Process| std::future::pending());
                    child.pid().ended().await;
                }
                _ => tokio::task::yield_now().await,
            }
            me.unlink(other_pid);
            Ok(())
        });
        for _ in 0..stage % 3 {
            tokio::task::yield_now().await;
        }
        a.pid().exit(Kill);
        a.pid().ended().await;
        assert_eq!(a.here().with_links(|links| links.len()), None, "stage {stage}");
        assert_eq!(other.records(), 0, "stage {stage}");
        assert_eq!(a.here().belongings(), 0);
        for signal in far.taken() {
            if let ProcessSignal::Exit { reason, .. } = signal {
                assert_eq!(reason, Killed);
            }
        }
    }
    assert_eq!(full.here().waiting(), 0);
}

#[tokio::test]
async fn ended_watches_without_leaving_anything() {
    let a = Actor::new();
    let ended = a.pid().ended();
    assert_eq!(a.records(), 1);
    drop(ended);
    assert_eq!(a.records(), 0);
    a.pid().exit(boom());
    // Decided, not over; and long over: the reason all the same.
    assert_eq!(a.pid().ended().await, boom());
    assert_eq!(a.pid().ended().await, boom());
}

#[tokio::test]
async fn ended_asks_far_end() {
    let (far, pid) = Recorder::new();
    let mut ended = Box::pin(pid.ended());
    let [ProcessSignal::Monitor { from, monitor }] = &far.taken()[..] else { panic!("no monitor") };
    assert!(now(&mut ended).await.is_none());
    from.signal(ProcessSignal::Down {
        from: pid.clone(),
        monitor: *monitor,
        reason: ExitReason::NoConnection,
    });
    assert_eq!(ended.await, ExitReason::NoConnection);
    assert!(far.taken().is_empty());
    drop(pid.ended());
    assert!(matches!(&far.taken()[..], [ProcessSignal::Monitor { .. }, ProcessSignal::Demonitor { .. }]));
}

/// Processes that live until they are ended.
fn many(count: usize) -> Vec<Actor> {
    (0..count).map(|_| Actor::new()).collect()
}

async fn all_have_exited(actors: &[Actor], reason: ExitReason) {
    for actor in actors {
        actor.has_exited(reason.clone()).await;
    }
}

#[tokio::test]
async fn chain_and_ring_of_ten_thousand_end() {
    for ring in [false, true] {
        let actors = many(10_000);
        for pair in actors.windows(2) {
            pair[0].links(&pair[1]).await;
        }
        if ring {
            actors[9_999].links(&actors[0]).await;
        }
        actors[0].pid().exit(boom());
        all_have_exited(&actors, boom()).await;
    }
}

#[tokio::test]
async fn star_of_ten_thousand_ends() {
    for end in [0, 5_000] {
        let actors = many(10_001);
        for tip in &actors[1..] {
            actors[0].links(tip).await;
        }
        actors[end].pid().exit(boom());
        all_have_exited(&actors, boom()).await;
    }
}

#[tokio::test]
async fn a_chain_of_owners_needs_no_stack() {
    /// What ends the next process when its owner has ended, as a session between two processes here would.
    struct Next(Pid);
    impl Owned for Next {
        fn owner_ended(&self, reason: &ExitReason) {
            self.0.exit(reason.clone());
        }
    }
    let actors = many(10_000);
    for pair in actors.windows(2) {
        pair[0].pid().own(Arc::new(Next(pair[1].pid()))).unwrap();
    }
    actors[0].pid().exit(boom());
    assert_eq!(actors[9_999].0.try_send(Order::Say(1)).unwrap_err().reason, NoProc, "all at once");
    all_have_exited(&actors, boom()).await;
}

#[tokio::test]
async fn a_process_that_ended_is_gone_from_memory() {
    let (alive, mut cells) = (Arc::new(()), Vec::<Weak<dyn SignalTarget>>::new());
    let parent = Actor::trapping();
    for round in 0..2_000 {
        let token = Arc::clone(&alive);
        let child = parent
            .does(move |me| {
                let child = me.spawn_link(move |mut me: Process| async move {
                    let _token = token;
                    me.monitor(me.pid());
                    me.recv().await;
                    Ok(())
                });
                me.monitor(child.pid());
                child
            })
            .await;
        match round % 2 {
            0 => child.send(()).await.unwrap(),
            _ => child.pid().exit(Kill),
        }
        child.pid().ended().await;
        cells.push(child.downgrade());
        drop(child);
    }
    parent.ends(Ok(()));
    parent.has_exited(Normal).await;
    tokio::task::yield_now().await;
    assert_eq!(Arc::strong_count(&alive), 1);
    assert_eq!(cells.iter().filter(|cell| cell.strong_count() > 0).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flooded_process_is_killed_at_once() {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let a = spawn(|mut me: Process<u32>| async move {
        loop {
            me.recv().await;
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let to = a.clone();
            spawn(|_: Process| async move {
                loop {
                    to.send(0).await?;
                }
            })
        })
        .collect();
    while taken.load(Ordering::Relaxed) < 10_000 {
        tokio::task::yield_now().await;
    }
    a.pid().exit(Kill);
    let at_kill = taken.load(Ordering::Relaxed);
    assert_eq!(a.pid().ended().await, Killed);
    // Not one await of ours gets through after that; the one under way may.
    assert!(taken.load(Ordering::Relaxed) <= at_kill + 1);
    for sender in senders {
        let reason = sender.pid().ended().await;
        assert!(matches!(reason, Killed | NoProc), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_awaiting_process_delays_only_its_links() {
    let release = Arc::new(AtomicBool::new(false));
    let (released, belonging) = (Arc::clone(&release), Arc::new(Belonging::default()));
    let (started, start) = tokio::sync::oneshot::channel();
    let watcher = Actor::trapping();
    let stuck = watcher
        .does(move |me| {
            me.spawn_link(|_me: Process| async move {
                started.send(()).unwrap();
                while !released.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                tokio::task::yield_now().await;
                unreachable!("it was ended before this await");
            })
        })
        .await;
    start.await.unwrap();
    stuck.pid().own(Arc::clone(&belonging) as Arc<dyn Owned>).unwrap();
    stuck.pid().exit(Kill);
    assert_eq!(*belonging.0.lock().unwrap(), [Killed], "its sessions end at once");
    assert!(ending_processes() >= 1);
    let pid = stuck.pid();
    let r = watcher.does(move |me| me.monitor(pid)).await;
    watcher.is_alive_with(&[]).await;
    assert_eq!(watcher.linked(), [stuck.pid()]);
    release.store(true, Ordering::Relaxed);
    assert_eq!(stuck.pid().ended().await, Killed);
    watcher.is_alive_with(&[Exit(stuck.pid(), Killed), Down(r, stuck.pid(), Killed)]).await;
}

#[test]
fn a_runtime_that_goes_away_ends_its_processes() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (note, notes) = noted();
    let pid = runtime.block_on(async {
        let a = spawn(|mut me: Process| async move {
            let _note = note;
            me.recv().await;
            Ok(())
        });
        tokio::task::yield_now().await;
        a.pid()
    });
    let (far, watcher) = Recorder::new();
    pid.signal(ProcessSignal::Monitor { from: watcher, monitor: next_monitor() });
    drop(runtime);
    assert!(matches!(&far.taken()[..], [ProcessSignal::Down { reason: Killed, .. }]));
    assert_eq!(notes.try_recv(), Ok(Some(Killed)));
}

#[tokio::test]
async fn enter_returns_value() {
    assert_eq!(enter(async |_: Process| Ok(7)).await, Ok(7));
    assert_eq!(enter(async |_: Process| Err::<(), _>(boom())).await, Err(boom()));
}

#[tokio::test]
async fn enter_gives_the_reason_of_an_exit() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let entered = enter(async |me: Process| {
        tell.send(me.pid()).unwrap();
        std::future::pending::<()>().await;
        Ok(())
    });
    let (result, ()) = tokio::join!(entered, async { told.await.unwrap().exit(Kill) });
    assert_eq!(result, Err(Killed));
    // Also where it was decided by the very poll that returned.
    let late = enter(async |me: Process| {
        me.pid().exit(boom());
        Ok(())
    });
    assert_eq!(late.await, Err(boom()));
}

#[tokio::test]
async fn enter_dropped_is_killed() {
    let mut told = None;
    let mut entered = Box::pin(enter(async |me: Process| {
        told = Some(me.pid());
        std::future::pending::<Result<(), _>>().await
    }));
    assert!(now(&mut entered).await.is_none());
    drop(entered);
    assert_eq!(told.unwrap().ended().await, Killed);
}

#[tokio::test]
async fn enter_passes_panic_on_after_end() {
    let a = Actor::trapping();
    let pid = a.pid();
    let entered = tokio::spawn(enter(async move |me: Process| {
        me.link(pid)?;
        if me.trap_exit(true) { Ok(()) } else { panic!("on purpose") }
    }));
    assert!(entered.await.unwrap_err().is_panic());
    let seen = a.0.call(LONG, Order::Show).await.unwrap();
    assert!(matches!(&seen[..], [Exit(_, Panic)]));
}

#[tokio::test]
async fn a_process_inside_a_process_is_another() {
    let (note, notes) = noted();
    let (inner_note, inner_notes) = noted();
    let a = spawn(|me: Process| async move {
        let _note = note;
        let inner = enter(async move |inner: Process| {
            let _note = inner_note;
            assert_eq!(current(), Some(inner.pid()));
            tokio::task::yield_now().await;
            Err::<(), _>(boom())
        });
        assert_eq!(inner.await, Err(boom()));
        assert_eq!(current(), Some(me.pid()));
        Ok(())
    });
    assert_eq!(a.pid().ended().await, Normal);
    assert_eq!(inner_notes.try_recv(), Ok(Some(boom())));
    assert_eq!(notes.try_recv(), Ok(Some(Normal)));
}

#[tokio::test]
async fn outside_of_processes_the_sender_was_never_alive() {
    assert_eq!(current(), None);
    let a = Actor::trapping();
    a.pid().exit(boom());
    let seen = a.0.call(LONG, Order::Show).await.unwrap();
    let [Exit(from, _)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(a.0.call(LONG, Order::Show).await.unwrap(), [Exit(from.clone(), boom())]);
    let from = from.clone();
    assert_eq!(Actor::new().does(move |me| me.link(from).map(|()| me.trap_exit(true))).await, Ok(false));
}
