//! Busy processes, owners of sessions, and processes that trap exits.

use super::*;

/// A process that never waits for anything that is not there: it floods a mailbox of its own.
async fn busy(mut me: Process<u32>) -> Result<(), ExitReason> {
    let myself = me.address();
    let mut exits = 0;
    loop {
        myself.send(exits).await?;
        match me.recv().await {
            Event::Message(_) => {}
            Event::Exit(..) => exits += 1,
            Event::Down(..) => unreachable!("it monitors nobody"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_process_ends_at_its_next_await() {
    // Whoever does not await at all is in `endings`.
    for _ in 0..20 {
        let a = spawn(busy);
        tokio::task::yield_now().await;
        let since = std::time::Instant::now();
        a.pid().exit(boom());
        assert_eq!(a.pid().ended().await, boom());
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_trapping_process_is_told_and_killed() {
    let a = spawn_with(SpawnOptions { trap_exit: true, ..SpawnOptions::default() }, busy);
    a.pid().exit(boom());
    a.send(0).await.unwrap();
    a.pid().exit(Kill);
    assert_eq!(a.pid().ended().await, Killed);
}

#[tokio::test]
async fn trapping_is_not_inherited() {
    let a = Actor::trapping();
    let child = Actor(a.does(|me| me.spawn_link(Actor::run)).await);
    assert!(a.does(|me| me.trap_exit(true)).await);
    assert!(!child.does(|me| me.trap_exit(false)).await);
}

#[tokio::test]
async fn message_like_exit_stays_message() {
    // Messages and exits are different variants of an event; nobody can send the one as the other.
    let received = enter(async |mut me: Process<Seen>| {
        me.address().send(Exit(me.pid(), boom())).await?;
        Ok(me.recv().await)
    });
    assert!(matches!(received.await, Ok(Event::Message(Exit(_, reason))) if reason == boom()));
}

/// What stands for a socket is what the process owns.
fn socket() -> (Arc<Belonging>, Arc<dyn Owned>) {
    let socket = Arc::new(Belonging::default());
    (Arc::clone(&socket), socket)
}

fn told(socket: &Belonging) -> Vec<ExitReason> {
    socket.0.lock().unwrap().clone()
}

#[tokio::test]
async fn kill_ends_owned_sessions_at_once() {
    let (socket, owned) = socket();
    let a = Actor::new();
    a.pid().own(owned).unwrap();
    a.pid().exit(Kill);
    assert_eq!(told(&socket), [Killed]);
    a.has_exited(Killed).await;
    assert_eq!(told(&socket), [Killed]);
}

#[tokio::test]
async fn given_session_ends_with_new_owner() {
    let (socket, owned) = socket();
    let (a, b) = (Actor::new(), Actor::new());
    a.0.own(Arc::clone(&owned)).unwrap();
    b.0.own(Arc::clone(&owned)).unwrap();
    a.0.disown(&owned);
    a.ends(Err(boom()));
    a.has_exited(boom()).await;
    assert_eq!(told(&socket), []);
    b.ends(Err(Shutdown));
    b.has_exited(Shutdown).await;
    assert_eq!(told(&socket), [Shutdown]);
    // And a dead process owns nothing.
    assert_eq!(b.0.own(owned), Err(Shutdown));
    assert_eq!(told(&socket), [Shutdown]);
}

#[tokio::test]
async fn former_owner_hears_nothing() {
    let (socket, owned) = socket();
    let a = Actor::trapping();
    a.pid().own(Arc::clone(&owned)).unwrap();
    a.pid().disown(&owned);
    a.is_alive_with(&[]).await;
    assert_eq!(a.0.here().belongings(), 0);
    a.ends(Ok(()));
    a.has_exited(Normal).await;
    assert_eq!(told(&socket), []);
}

#[tokio::test]
async fn process_ends_from_outside_with_its_links() {
    let (far, port) = Recorder::new();
    let a = Actor::trapping();
    let pid = port.clone();
    a.does(move |me| me.link(pid)).await.unwrap();
    assert!(matches!(&far.taken()[..], [ProcessSignal::Link { from }] if *from == a.pid()));
    a.pid().signal(ProcessSignal::Exit { from: port.clone(), reason: boom(), link: true, receipt: None });
    a.is_alive_with(&[Exit(port, boom())]).await;
    assert_eq!(a.records(), 0);
}

#[tokio::test]
async fn only_spawning_trapped_misses_no_exit() {
    let late = spawn(|me: Process<Order>| {
        me.trap_exit(false);
        Actor::run(me)
    });
    late.pid().exit(boom());
    assert_eq!(late.pid().ended().await, boom());
    for _ in 0..2000 {
        let early = Actor::trapping();
        early.pid().exit(boom());
        let seen = early.0.call(LONG, Order::Show).await.unwrap();
        assert!(matches!(&seen[..], [Exit(_, reason)] if *reason == boom()));
        early.ends(Ok(()));
    }
}

#[tokio::test]
async fn a_child_ends_when_its_parent_is_killed() {
    let a = Actor::new();
    let child = Actor(a.does(|me| me.spawn_link(Actor::run)).await);
    a.pid().exit(Kill);
    a.has_exited(Killed).await;
    child.has_exited(Killed).await;
}

#[tokio::test]
async fn exit_comes_before_down() {
    for _ in 0..200 {
        let (a, b) = (Actor::trapping(), Actor::new());
        let r = a.monitors(&b).await;
        a.links(&b).await;
        b.ends(Err(boom()));
        b.has_exited(boom()).await;
        a.is_alive_with(&[Exit(b.pid(), boom()), Down(r, b.pid(), boom())]).await;
    }
}

#[tokio::test]
async fn link_is_gone_after_exit() {
    let (a, b) = (Actor::new(), Actor::trapping());
    b.links(&a).await;
    a.ends(Err(boom()));
    a.has_exited(boom()).await;
    assert_eq!(b.records(), 0);
}

#[tokio::test]
async fn the_first_of_two_links_decides() {
    let (a, b, c) = (Actor::new(), Actor::new(), Actor::trapping());
    b.links(&a).await;
    b.links(&c).await;
    a.ends(Err(ExitReason::failed("r1")));
    a.has_exited(ExitReason::failed("r1")).await;
    c.ends(Err(ExitReason::failed("r2")));
    b.has_exited(ExitReason::failed("r1")).await;
}

#[tokio::test]
async fn a_kill_goes_on_as_killed() {
    let (a, b, c) = (Actor::trapping(), Actor::new(), Actor::new());
    b.links(&c).await;
    let pid = b.pid();
    a.does(move |me| {
        me.link(pid.clone()).unwrap();
        pid.exit(Kill);
    })
    .await;
    b.has_exited(Killed).await;
    c.has_exited(Killed).await;
    a.is_alive_with(&[Exit(b.pid(), Killed)]).await;
}

#[tokio::test(start_paused = true)]
async fn output_of_a_future_comes_as_a_message() {
    let heard = enter(async |mut me: Process<u32>| {
        me.send_when(tokio::time::sleep(Duration::from_secs(1)), |()| 2);
        me.address().send(1).await?;
        Ok([me.recv().await, me.recv().await])
    });
    assert_eq!(heard.await, Ok([1, 2].map(Event::Message)));
}

#[tokio::test(start_paused = true)]
async fn future_is_dropped_when_its_process_ends() {
    let held = Arc::new(());
    let future = Arc::clone(&held);
    let process = spawn(async move |mut me: Process<()>| {
        me.send_when(
            async move {
                std::future::pending::<()>().await;
                drop(future);
            },
            |()| (),
        );
        me.recv().await;
        Ok(())
    });
    tokio::task::yield_now().await;
    assert_eq!(Arc::strong_count(&held), 2);
    process.send(()).await.unwrap();
    assert_eq!(process.pid().ended().await, Normal);
    while Arc::strong_count(&held) > 1 {
        tokio::task::yield_now().await;
    }
}
