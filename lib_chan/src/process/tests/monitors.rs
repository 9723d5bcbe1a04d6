//! Monitors. Monitors by name are in `names`.

use super::*;

/// `a` monitors `b`.
async fn pair() -> (Actor, Actor, MonitorRef) {
    let (a, b) = (Actor::new(), Actor::new());
    let r = a.monitors(&b).await;
    (a, b, r)
}

#[tokio::test]
async fn a_normal_exit_is_told() {
    let (a, b, r) = pair().await;
    b.ends(Ok(()));
    b.has_exited(Normal).await;
    a.is_alive_with(&[Down(r, b.pid(), Normal)]).await;
    assert_eq!(a.records(), 0);
}

#[tokio::test]
async fn a_crash_is_told_and_does_no_harm() {
    let (a, b, r) = pair().await;
    b.ends(Err(boom()));
    b.has_exited(boom()).await;
    a.is_alive_with(&[Down(r, b.pid(), boom())]).await;
}

#[tokio::test]
async fn a_kill_is_told_as_killed() {
    let (a, b, r) = pair().await;
    b.pid().exit(Kill);
    b.has_exited(Killed).await;
    a.is_alive_with(&[Down(r, b.pid(), Killed)]).await;
}

#[tokio::test]
async fn an_own_kill_is_told_as_kill() {
    let (a, b, r) = pair().await;
    b.ends(Err(Kill));
    b.has_exited(Kill).await;
    a.is_alive_with(&[Down(r, b.pid(), Kill)]).await;
}

#[tokio::test]
async fn a_dead_process_is_told_as_noproc() {
    let (a, dead) = (Actor::new(), dead().await);
    let pid = dead.clone();
    let r = a.does(move |me| me.monitor(pid)).await;
    a.is_alive_with(&[Down(r, dead, NoProc)]).await;
    assert_eq!(a.records(), 0);
}

#[tokio::test]
async fn monitors_are_counted() {
    let (a, b, first) = pair().await;
    let second = a.monitors(&b).await;
    assert_ne!(first, second);
    b.ends(Err(boom()));
    b.has_exited(boom()).await;
    a.is_alive_with(&[Down(first, b.pid(), boom()), Down(second, b.pid(), boom())]).await;
}

#[tokio::test]
async fn a_monitor_of_oneself_never_fires() {
    let a = Actor::new();
    a.monitors(&a).await;
    a.is_alive_with(&[]).await;
    assert_eq!(a.records(), 0);
}

#[tokio::test]
async fn end_of_watcher_leaves_watched_alone() {
    let (a, b, _) = pair().await;
    a.ends(Err(boom()));
    a.has_exited(boom()).await;
    b.is_alive_with(&[]).await;
    assert_eq!(b.records(), 0);
}

#[tokio::test]
async fn a_monitor_given_up_says_nothing() {
    let (a, b, r) = pair().await;
    assert!(a.does(move |me| me.demonitor(r)).await);
    assert_eq!((a.records(), b.records()), (0, 0));
    b.ends(Err(boom()));
    b.has_exited(boom()).await;
    a.is_alive_with(&[]).await;
}

/// A process whose mailbox holds a `Down` while it gives the monitor up; what that returned, and how many are left.
async fn demonitor_after_down(give_up: fn(&mut Process, MonitorRef) -> bool) -> (bool, usize) {
    let told = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&told);
    let a = spawn(move |mut me: Process| async move {
        let (b, r) = me.spawn_monitor(|_: Process| async { Err(boom()) });
        b.pid().ended().await;
        let returned = give_up(&mut me, r);
        let left = usize::from(now(me.recv()).await.is_some());
        *tell.lock().unwrap() = Some((returned, left));
        Ok(())
    });
    a.pid().ended().await;
    let told = told.lock().unwrap().take();
    told.unwrap()
}

// `demonitor` always returns whether the monitor was still there, as Erlang's does with the option `info`.

#[tokio::test]
async fn delivered_messages_stay_in_mailbox() {
    assert_eq!(demonitor_after_down(|me, r| me.demonitor(r)).await, (false, 1));
}

#[tokio::test]
async fn unless_it_is_flushed() {
    assert_eq!(demonitor_after_down(Process::demonitor_flush).await, (false, 0));
}

#[tokio::test]
async fn flush_removes_down_taken_with_another() {
    let watch = spawn(|mut me: Process| async move {
        let (first, one) = me.spawn_monitor(|_: Process| async { Err(boom()) });
        first.pid().ended().await;
        let (second, two) = me.spawn_monitor(|_: Process| async { Err(boom()) });
        second.pid().ended().await;
        // The mailbox gives all it has at a time.
        assert_eq!(me.recv().await, Event::Down(one, first.pid(), boom()));
        assert!(!me.demonitor_flush(two));
        assert_eq!(now(me.recv()).await, None);
        Ok(())
    });
    assert_eq!(watch.pid().ended().await, Normal);
}

#[tokio::test]
async fn ownership_ends_once() {
    let (a, _b, r) = pair().await;
    assert_eq!(a.does(move |me| [me.demonitor(r), me.demonitor(r)]).await, [true, false]);
}

#[tokio::test]
async fn nothing_to_flush_while_it_is_active() {
    let (a, _b, r) = pair().await;
    assert!(a.does(move |me| me.demonitor_flush(r)).await);
}

#[tokio::test]
async fn missing_ownership_does_not_end() {
    let a = Actor::new();
    assert!(!a.does(|me| me.demonitor(next_monitor())).await);
}

#[tokio::test]
async fn monitor_of_other_process_still_fires() {
    let (a, b, r) = pair().await;
    assert!(!Actor::new().does(move |me| me.demonitor(r)).await);
    b.ends(Err(boom()));
    b.has_exited(boom()).await;
    a.is_alive_with(&[Down(r, b.pid(), boom())]).await;
}

// Erlang's demonitor of something other than a monitor cannot be written here: `demonitor` takes a `MonitorRef`.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_flush_nothing_is_left() {
    let watch = spawn(|mut me: Process| async move {
        for round in 0..5000 {
            let (child, r) = me.spawn_monitor(|_: Process| async { Err(boom()) });
            (0..round % 500).for_each(|_| std::hint::spin_loop());
            me.demonitor_flush(r);
            child.pid().ended().await;
            assert_eq!(now(me.recv()).await, None);
        }
        Ok(())
    });
    assert_eq!(watch.pid().ended().await, Normal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn monitor_tells_reason_of_immediate_crash() {
    let watch = spawn(|mut me: Process| async move {
        for _ in 0..1000 {
            let (child, r) = me.spawn_monitor(|_: Process| async { Err(boom()) });
            assert_eq!(me.recv().await, Event::Down(r, child.pid(), boom()));
        }
        Ok(())
    });
    assert_eq!(watch.pid().ended().await, Normal);
}

#[tokio::test]
async fn a_link_and_a_monitor_give_one_each() {
    let (a, b) = (Actor::trapping(), Actor::new());
    let r = a.monitors(&b).await;
    a.links(&b).await;
    b.ends(Err(boom()));
    b.has_exited(boom()).await;
    a.is_alive_with(&[Exit(b.pid(), boom()), Down(r, b.pid(), boom())]).await;
}

#[tokio::test]
async fn the_exit_comes_before_the_down() {
    for _ in 0..200 {
        let (a, b) = (Actor::trapping(), Actor::new());
        a.links(&b).await;
        let r = a.monitors(&b).await;
        b.ends(Err(boom()));
        b.has_exited(boom()).await;
        a.is_alive_with(&[Exit(b.pid(), boom()), Down(r, b.pid(), boom())]).await;
    }
}

// Erlang's tag of a monitor is the message that a program makes of `Event::Down`. Its aliases are the replies of calls,
// tested in `calls`. Its monitor of something other than a pid cannot be written here: `monitor` takes a `Pid`.
