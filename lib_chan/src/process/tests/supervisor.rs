//! Supervisors. Their behaviour beside Erlang's is compared in `lib_chan/tests/supervisor.rs`.

use super::*;
use crate::CallFailure;
use crate::supervisor::{
    Child, ChildInfo, Restart, Shutdown as Stopping, Strategy, Supervisor, SupervisorMessage,
};

/// Ends as it is told.
async fn worker(mut me: Process<Result<(), ExitReason>>) -> Result<(), ExitReason> {
    match me.recv().await {
        Event::Message(result) => result,
        _ => unreachable!("it traps no exits"),
    }
}

type Workers = Names<Result<(), ExitReason>>;

fn workers(strategy: Strategy, names: &Workers, restart: Restart) -> Supervisor {
    ["a", "b", "c"].into_iter().fold(Supervisor::new(strategy), |supervisor, id| {
        supervisor.child(Child::registered(id, names, worker).restart(restart))
    })
}

/// Ends a worker, and waits until the supervisor has acted on it.
async fn end(
    supervisor: &Address<SupervisorMessage>,
    names: &Workers,
    id: &str,
    result: Result<(), ExitReason>,
) {
    let worker = names.whereis(id).unwrap();
    worker.send(result).await.unwrap();
    worker.pid().ended().await;
    let _ = supervisor.children().await;
}

fn pids(names: &Workers) -> [Option<Pid>; 3] {
    ["a", "b", "c"].map(|id| names.whereis(id).map(|address| address.pid()))
}

/// Runs `f` with a supervisor that is linked to the process that runs it.
async fn supervised(supervisor: Supervisor, f: impl AsyncFnOnce(&mut Process, Address<SupervisorMessage>)) {
    let ended = enter(async |mut me: Process| {
        me.trap_exit(true);
        let supervisor = supervisor.start_link(&me).await?;
        f(&mut me, supervisor).await;
        Ok(())
    });
    assert_eq!(ended.await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn each_strategy_restarts_its_children() {
    for (strategy, restarted) in [
        (Strategy::OneForOne, [false, true, false]),
        (Strategy::OneForAll, [true, true, true]),
        (Strategy::RestForOne, [false, true, true]),
    ] {
        let names = Workers::new();
        supervised(workers(strategy, &names, Restart::Permanent), async |_me, supervisor| {
            let before = pids(&names);
            end(&supervisor, &names, "b", Err(boom())).await;
            let after = pids(&names);
            for (at, restarted) in restarted.into_iter().enumerate() {
                assert!(after[at].is_some());
                assert_eq!(before[at] != after[at], restarted, "{strategy:?} {at}");
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn restart_types_follow_the_reason() {
    for (restart, reason, alive, listed) in [
        (Restart::Permanent, Ok(()), true, true),
        (Restart::Transient, Ok(()), false, true),
        (Restart::Transient, Err(Shutdown), false, true),
        (Restart::Transient, Err(boom()), true, true),
        (Restart::Temporary, Err(boom()), false, false),
    ] {
        let names = Workers::new();
        supervised(workers(Strategy::OneForOne, &names, restart), async |_me, supervisor| {
            end(&supervisor, &names, "b", reason.clone()).await;
            assert_eq!(names.whereis("b").is_some(), alive, "{restart:?} {reason:?}");
            let children = supervisor.children().await.unwrap();
            let child: Option<&ChildInfo> = children.iter().find(|child| &*child.id == "b");
            assert_eq!(child.is_some(), listed);
            assert_eq!(child.is_some_and(|child| child.pid.is_some()), alive);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_restarts_end_everything_with_shutdown() {
    let names = Workers::new();
    let supervisor = workers(Strategy::OneForOne, &names, Restart::Permanent);
    supervised(supervisor.intensity(2, Duration::from_secs(5)), async |me, supervisor| {
        for _ in 0..2 {
            end(&supervisor, &names, "a", Err(boom())).await;
        }
        // The first two are too long ago now.
        tokio::time::sleep(Duration::from_secs(6)).await;
        for _ in 0..3 {
            end(&supervisor, &names, "a", Err(boom())).await;
        }
        assert_eq!(me.recv().await, Event::Exit(supervisor.pid(), Shutdown));
        assert_eq!(pids(&names), [None, None, None]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn parent_that_ends_takes_the_tree_along() {
    let names = Workers::new();
    let inner = {
        let names = names.clone();
        move |me| workers(Strategy::OneForOne, &names, Restart::Permanent).run(me)
    };
    let outer =
        Supervisor::new(Strategy::OneForOne).child(Child::new("inner", inner).shutdown(Stopping::Forever));
    let (started, starts) = tokio::sync::oneshot::channel();
    let parent = spawn(async move |mut me: Process| {
        let outer = outer.start_link(&me).await?;
        let _ = started.send(outer);
        me.recv().await;
        Ok(())
    });
    let outer = starts.await.unwrap();
    while pids(&names).contains(&None) {
        tokio::task::yield_now().await;
    }
    parent.pid().exit(boom());
    assert_eq!(outer.pid().ended().await, boom());
    assert_eq!(pids(&names), [None, None, None]);
}

#[tokio::test(start_paused = true)]
async fn exit_signals_of_strangers_are_ignored() {
    let names = Workers::new();
    supervised(workers(Strategy::OneForAll, &names, Restart::Permanent), async |_me, supervisor| {
        let before = pids(&names);
        let stranger = Actor::new();
        let pid = supervisor.pid();
        stranger.does(move |_| pid.exit(Shutdown)).await;
        assert!(supervisor.children().await.is_ok());
        assert_eq!(pids(&names), before);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn stubborn_child_is_killed_at_its_time() {
    let stubborn = |_: Process| std::future::pending();
    let options = SpawnOptions { trap_exit: true, ..SpawnOptions::default() };
    for (shutdown, expected) in
        [(Stopping::After(Duration::from_secs(7)), Duration::from_secs(7)), (Stopping::Kill, Duration::ZERO)]
    {
        let child = Child::new("stubborn", stubborn).options(options.clone()).shutdown(shutdown);
        supervised(Supervisor::new(Strategy::OneForOne).child(child), async |me, supervisor| {
            let pid = supervisor.children().await.unwrap()[0].pid.clone().unwrap();
            let start = tokio::time::Instant::now();
            supervisor.stop().await;
            assert_eq!(pid.ended().await, Killed);
            assert!((expected..expected + Duration::from_millis(2)).contains(&start.elapsed()));
            assert_eq!(me.recv().await, Event::Exit(supervisor.pid(), Normal));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn children_come_and_go_at_run_time() {
    let names = Workers::new();
    supervised(Supervisor::new(Strategy::OneForOne), async |_me, supervisor| {
        let pid = supervisor.start_child(Child::registered("a", &names, worker)).await.unwrap();
        assert_eq!(pids(&names)[0], Some(pid.clone()));
        let again = supervisor.start_child(Child::registered("a", &names, worker)).await.unwrap_err();
        assert_eq!(again.reason, CallFailure::Refused("there is a child with this id".into()));

        supervisor.stop_child("a").await.unwrap();
        assert_eq!(pid.ended().await, Shutdown);
        assert_eq!(supervisor.children().await, Ok(Vec::new()));
        let again = supervisor.stop_child("a").await.unwrap_err();
        assert_eq!(again.reason, CallFailure::Refused("there is no child with this id".into()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn child_that_does_not_start_fails_the_supervisor() {
    let names = Workers::new();
    names.register("b", &spawn(worker)).unwrap();
    let ended = enter(async |me: Process| {
        me.trap_exit(true);
        let supervisor = workers(Strategy::OneForOne, &names, Restart::Permanent);
        Ok(supervisor.start_link(&me).await.map(|_| ()))
    });
    let reason = ExitReason::failed("child `b`: the name is taken");
    assert_eq!(ended.await, Ok(Err(reason)));
    assert_eq!(names.whereis("a").map(|address| address.pid()), None);
}

#[tokio::test(start_paused = true)]
async fn killed_supervisor_takes_its_children_along() {
    let names = Workers::new();
    supervised(workers(Strategy::OneForOne, &names, Restart::Permanent), async |_me, supervisor| {
        let pids = pids(&names);
        supervisor.pid().exit(Kill);
        for pid in pids {
            assert_eq!(pid.unwrap().ended().await, Killed);
        }
    })
    .await;
}
