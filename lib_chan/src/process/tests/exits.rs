//! Exit signals that one process sends to another.

use super::*;

/// `a` sends `b` an exit signal; they are not linked.
async fn signalled(b: Actor, reason: ExitReason) -> (Actor, Actor) {
    let a = Actor::new();
    a.exits(&b, reason).await;
    (a, b)
}

/// `b` does not trap exits, and ends with `seen`; `a` is not touched.
async fn ends_it(reason: ExitReason, seen: ExitReason) {
    let (a, b) = signalled(Actor::new(), reason).await;
    b.has_exited(seen).await;
    a.is_alive_with(&[]).await;
}

/// `b` traps exits, and is told.
async fn is_told(reason: ExitReason) {
    let (a, b) = signalled(Actor::trapping(), reason.clone()).await;
    b.is_alive_with(&[Exit(a.pid(), reason)]).await;
    a.is_alive_with(&[]).await;
}

#[tokio::test]
async fn normal_is_ignored() {
    let (a, b) = signalled(Actor::new(), Normal).await;
    b.is_alive_with(&[]).await;
    a.is_alive_with(&[]).await;
}

#[tokio::test]
async fn normal_is_told_to_who_traps() {
    is_told(Normal).await;
}

#[tokio::test]
async fn any_other_reason_ends_the_receiver() {
    ends_it(boom(), boom()).await;
}

#[tokio::test]
async fn any_other_reason_is_told_to_who_traps() {
    is_told(boom()).await;
}

#[tokio::test]
async fn kill_ends_as_killed() {
    ends_it(Kill, Killed).await;
}

#[tokio::test]
async fn kill_ends_who_traps_too() {
    let (a, b) = signalled(Actor::trapping(), Kill).await;
    b.has_exited(Killed).await;
    a.is_alive_with(&[]).await;
}

#[tokio::test]
async fn killed_is_told_to_who_traps() {
    is_told(Killed).await;
}

#[tokio::test]
async fn killed_ends_the_receiver() {
    ends_it(Killed, Killed).await;
}

#[tokio::test]
async fn normal_is_ignored_between_linked_processes_too() {
    let (a, b) = (Actor::new(), Actor::new());
    a.links(&b).await;
    a.exits(&b, Normal).await;
    b.is_alive_with(&[]).await;
    a.is_alive_with(&[]).await;
}

#[tokio::test]
async fn an_exit_comes_back_over_the_link() {
    let (a, b) = (Actor::new(), Actor::new());
    a.links(&b).await;
    let pid = b.pid();
    a.order(move |_| {
        pid.exit(boom());
        None
    });
    b.has_exited(boom()).await;
    a.has_exited(boom()).await;
}

#[tokio::test]
async fn kill_returns_over_link_as_killed() {
    let (a, b) = (Actor::trapping(), Actor::new());
    a.links(&b).await;
    a.exits(&b, Kill).await;
    b.has_exited(Killed).await;
    a.is_alive_with(&[Exit(b.pid(), Killed)]).await;
}

/// A process sends itself an exit signal.
fn to_itself(a: &Actor, reason: ExitReason) {
    a.order(move |me| {
        me.pid().exit(reason);
        None
    });
}

#[tokio::test]
async fn normal_from_oneself_ends() {
    let a = Actor::new();
    to_itself(&a, Normal);
    a.has_exited(Normal).await;
}

#[tokio::test]
async fn normal_from_oneself_is_told_to_who_traps() {
    let a = Actor::trapping();
    a.exits(&a, Normal).await;
    a.is_alive_with(&[Exit(a.pid(), Normal)]).await;
}

#[tokio::test]
async fn any_other_reason_from_oneself_ends() {
    let a = Actor::new();
    to_itself(&a, boom());
    a.has_exited(boom()).await;
}

#[tokio::test]
async fn own_exit_is_trapped() {
    let a = Actor::trapping();
    a.exits(&a, boom()).await;
    a.is_alive_with(&[Exit(a.pid(), boom())]).await;
}

#[tokio::test]
async fn kill_from_oneself_ends_who_traps() {
    let a = Actor::trapping();
    to_itself(&a, Kill);
    a.has_exited(Killed).await;
}

#[tokio::test]
async fn exit_of_oneself_acts_at_next_await() {
    for _ in 0..1000 {
        let (ran, probe) = (Arc::new(Mutex::new(0)), Actor::new());
        let count = Arc::clone(&ran);
        let a = spawn(|me: Process| async move {
            me.pid().exit(boom());
            // It would be ready, but it is an await of ours.
            let _ = probe.0.send(Order::Say(1)).await;
            *count.lock().unwrap() += 1;
            Ok(())
        });
        assert_eq!(a.pid().ended().await, boom());
        assert_eq!(*ran.lock().unwrap(), 0);
    }
}

#[tokio::test]
async fn an_exit_of_a_dead_process_is_nothing() {
    let (a, dead) = (Actor::new(), dead().await);
    a.does(move |_| dead.exit(boom())).await;
    a.is_alive_with(&[]).await;
}

// Erlang's exit signal to a name cannot be written here: `exit` is a method of `Pid`.

#[tokio::test]
async fn a_reason_is_told_as_it_was_given() {
    // Reasons are a closed set here; the open part is the text.
    is_told(ExitReason::failed("{my,[reason],#{k => 1}}")).await;
}

#[tokio::test]
async fn the_first_reason_decides() {
    let (a, b) = (Actor::new(), Actor::new());
    let pid = b.pid();
    a.does(move |_| {
        pid.exit(Kill);
        pid.exit(boom());
    })
    .await;
    b.has_exited(Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_nobody_sees_it_alive() {
    let a = Actor::new();
    for _ in 0..2000 {
        let b = Actor::new();
        let monitored = a
            .does(move |me| {
                b.pid().exit(Kill);
                assert_eq!(b.0.try_send(Order::Say(1)).unwrap_err().reason, NoProc);
                assert_eq!(me.link(b.pid()), Err(NoProc));
                (me.monitor(b.pid()), b.pid())
            })
            .await;
        monitored.1.ended().await;
        let seen = a.0.call(LONG, Order::Show).await.unwrap();
        // It is ending, or has ended.
        let told = [Killed, NoProc].map(|reason| Down(monitored.0, monitored.1.clone(), reason));
        assert!(seen.last().is_some_and(|seen| told.contains(seen)), "{seen:?}");
    }
}

#[tokio::test]
async fn killed_process_runs_only_destructors() {
    struct Sign(Arc<Mutex<Vec<&'static str>>>, &'static str);
    impl Drop for Sign {
        fn drop(&mut self) {
            self.0.lock().unwrap().push(self.1);
        }
    }
    let signs = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&signs);
    let a = spawn(|mut me: Process| async move {
        let _sign = Sign(Arc::clone(&kept), "destructor");
        me.recv().await;
        drop(Sign(kept, "after"));
        Ok(())
    });
    tokio::task::yield_now().await;
    a.pid().exit(Kill);
    a.pid().ended().await;
    assert_eq!(*signs.lock().unwrap(), ["destructor"]);
}
