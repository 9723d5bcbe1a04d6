//! Links: made, removed, and followed by exits; `spawn_link` and `trap_exit`.

use super::*;

/// Two processes, linked; whether the second traps exits.
async fn pair(b_traps: bool) -> (Actor, Actor) {
    let (a, b) = (Actor::new(), if b_traps { Actor::trapping() } else { Actor::new() });
    a.links(&b).await;
    (a, b)
}

/// `a` ends by itself with `result`, linked to a trapping `b`, and `b` sees it.
async fn trapped(result: Result<(), ExitReason>, reason: ExitReason) {
    let (a, b) = pair(true).await;
    a.ends(result);
    a.has_exited(reason.clone()).await;
    b.is_alive_with(&[Exit(a.pid(), reason)]).await;
    assert_eq!(b.records(), 0);
}

/// `a` ends by itself with `reason`, linked to `b` which does not trap, and takes it along.
async fn taken_along(reason: ExitReason) {
    let (a, b) = pair(false).await;
    a.ends(Err(reason.clone()));
    a.has_exited(reason.clone()).await;
    b.has_exited(reason).await;
}

#[tokio::test]
async fn a_normal_exit_takes_nobody_along() {
    let (a, b) = pair(false).await;
    a.ends(Err(Normal));
    a.has_exited(Normal).await;
    b.is_alive_with(&[]).await;
    assert_eq!(b.records(), 0);
}

#[tokio::test]
async fn a_normal_exit_is_told_to_who_traps() {
    trapped(Err(Normal), Normal).await;
}

#[tokio::test]
async fn an_exit_takes_along_who_does_not_trap() {
    taken_along(boom()).await;
}

#[tokio::test]
async fn an_exit_is_told_to_who_traps() {
    trapped(Err(boom()), boom()).await;
}

#[tokio::test]
async fn an_own_kill_stays_kill_over_a_link() {
    taken_along(Kill).await;
}

#[tokio::test]
async fn a_kill_over_a_link_can_be_trapped() {
    trapped(Err(Kill), Kill).await;
}

#[tokio::test]
async fn a_third_party_kills_a_linked_process() {
    let (a, b) = pair(false).await;
    Actor::new().exits(&a, Kill).await;
    a.has_exited(Killed).await;
    b.has_exited(Killed).await;
}

#[tokio::test]
async fn kill_reaches_trapping_link_as_killed() {
    let (a, b) = pair(true).await;
    Actor::new().exits(&a, Kill).await;
    a.has_exited(Killed).await;
    b.is_alive_with(&[Exit(a.pid(), Killed)]).await;
}

#[tokio::test]
async fn a_panic_is_told_as_panic() {
    let (a, b) = pair(true).await;
    a.order(|_| panic!("on purpose"));
    a.has_exited(Panic).await;
    b.is_alive_with(&[Exit(a.pid(), Panic)]).await;
}

#[tokio::test]
async fn an_error_that_nobody_handles_is_the_reason() {
    // In Erlang an uncaught throw; here what `?` lets through.
    trapped(Err(ExitReason::failed("thrown")), ExitReason::failed("thrown")).await;
}

#[tokio::test]
async fn shutdown_is_a_reason_as_any_other() {
    taken_along(Shutdown).await;
}

#[tokio::test]
async fn a_reason_of_ones_own_travels_unchanged() {
    taken_along(ExitReason::failed("shutdown: x")).await;
}

#[tokio::test]
async fn a_return_is_a_normal_exit() {
    trapped(Ok(()), Normal).await;
}

#[tokio::test]
async fn caught_panic_stays_unseen() {
    let (a, b) = pair(true).await;
    a.does(|_| std::panic::catch_unwind(|| panic!("on purpose")).unwrap_err()).await;
    a.is_alive_with(&[]).await;
    b.is_alive_with(&[]).await;
}

#[tokio::test]
async fn an_exit_goes_down_a_chain() {
    let (a, b, c, d) = (Actor::new(), Actor::new(), Actor::new(), Actor::new());
    a.links(&b).await;
    b.links(&c).await;
    c.links(&d).await;
    a.ends(Err(boom()));
    for actor in [a, b, c, d] {
        actor.has_exited(boom()).await;
    }
}

#[tokio::test]
async fn trapping_process_stops_exit() {
    let (a, b, c) = (Actor::new(), Actor::trapping(), Actor::new());
    a.links(&b).await;
    b.links(&c).await;
    a.ends(Err(boom()));
    a.has_exited(boom()).await;
    b.is_alive_with(&[Exit(a.pid(), boom())]).await;
    c.is_alive_with(&[]).await;
}

/// a, b and c, each linked to the next and c to a.
async fn ring(b: Actor, c: Actor) -> (Actor, Actor, Actor) {
    let a = Actor::new();
    a.links(&b).await;
    b.links(&c).await;
    c.links(&a).await;
    (a, b, c)
}

#[tokio::test]
async fn ring_ends_once_with_one_reason() {
    let (a, b, c) = ring(Actor::new(), Actor::new()).await;
    a.ends(Err(boom()));
    for actor in [a, b, c] {
        actor.has_exited(boom()).await;
    }
}

#[tokio::test]
async fn trapping_ring_tells_each_once() {
    let (a, b, c) = ring(Actor::trapping(), Actor::trapping()).await;
    a.ends(Err(boom()));
    a.has_exited(boom()).await;
    b.is_alive_with(&[Exit(a.pid(), boom())]).await;
    c.is_alive_with(&[Exit(a.pid(), boom())]).await;
    assert_eq!((b.linked(), c.linked()), (vec![c.pid()], vec![b.pid()]));
}

#[tokio::test]
async fn tells_failure_before_first_poll() {
    // What is spawned exists here; what it can do at the earliest is to panic before there is a future.
    let a = Actor::trapping();
    let child = a
        .does(|me| {
            let child = me.spawn_link(|_: Process| -> std::future::Ready<Result<(), ExitReason>> {
                panic!("on purpose")
            });
            child.pid()
        })
        .await;
    assert_eq!(child.ended().await, Panic);
    a.is_alive_with(&[Exit(child, Panic)]).await;
}

#[tokio::test]
async fn link_to_dead_process_is_error() {
    let (a, dead) = (Actor::new(), dead().await);
    assert_eq!(a.does(move |me| me.link(dead)).await, Err(NoProc));
    a.is_alive_with(&[]).await;
    assert_eq!(a.records(), 0);
}

#[tokio::test]
async fn unhandled_error_becomes_reason() {
    let (a, dead) = (Actor::new(), dead().await);
    a.order(move |me| me.link(dead).err().map(Err));
    a.has_exited(NoProc).await;
}

#[tokio::test]
async fn link_to_dead_process_is_trapped() {
    let (a, dead) = (Actor::trapping(), dead().await);
    let pid = dead.clone();
    assert_eq!(a.does(move |me| me.link(dead)).await, Ok(()));
    a.is_alive_with(&[Exit(pid, NoProc)]).await;
    assert_eq!(a.records(), 0);
}

#[tokio::test]
async fn a_link_to_oneself_is_nothing() {
    let a = Actor::new();
    a.links(&a).await;
    assert_eq!(a.records(), 0);
}

#[tokio::test]
async fn links_are_not_counted() {
    let (a, b) = pair(false).await;
    a.links(&b).await;
    a.unlinks(&b).await;
    assert_eq!((a.records(), b.records()), (0, 0));
    a.ends(Err(boom()));
    a.has_exited(boom()).await;
    b.is_alive_with(&[]).await;
}

#[tokio::test]
async fn one_unlink_removes_mutual_link() {
    let (a, b) = pair(false).await;
    b.links(&a).await;
    a.unlinks(&b).await;
    assert_eq!((a.records(), b.records()), (0, 0));
    a.ends(Err(boom()));
    a.has_exited(boom()).await;
    b.is_alive_with(&[]).await;
}

#[tokio::test]
async fn the_side_that_did_not_link_can_unlink() {
    let (a, b) = pair(false).await;
    b.unlinks(&a).await;
    a.ends(Err(boom()));
    a.has_exited(boom()).await;
    b.is_alive_with(&[]).await;
}

#[tokio::test]
async fn an_unlink_without_a_link_is_nothing() {
    let (a, b, dead) = (Actor::new(), Actor::new(), dead().await);
    a.unlinks(&b).await;
    a.does(|me| me.unlink(dead)).await;
    assert_eq!((a.records(), b.records()), (0, 0));
}

#[tokio::test]
async fn unlink_leaves_mailbox() {
    let (a, b) = pair(true).await;
    a.ends(Err(boom()));
    a.has_exited(boom()).await;
    b.unlinks(&a).await;
    b.is_alive_with(&[Exit(a.pid(), boom())]).await;
}

#[tokio::test]
async fn a_link_made_again_works_again() {
    let (a, b) = pair(false).await;
    a.unlinks(&b).await;
    a.links(&b).await;
    a.ends(Err(boom()));
    a.has_exited(boom()).await;
    b.has_exited(boom()).await;
}

// Erlang's link to something other than a pid cannot be written here: `link` takes a `Pid`.

#[tokio::test]
async fn both_sides_know_of_a_link() {
    let (a, b) = pair(false).await;
    assert_eq!((a.linked(), b.linked()), (vec![b.pid()], vec![a.pid()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn link_tells_immediate_crash_once() {
    for _ in 0..1000 {
        let a = Actor::trapping();
        let child = a.does(|me| me.spawn_link(|_: Process| async { Err(boom()) }).pid()).await;
        child.ended().await;
        a.is_alive_with(&[Exit(child, boom())]).await;
        a.ends(Ok(()));
    }
}

#[tokio::test]
async fn crashing_child_ends_linked_parent() {
    let a = Actor::new();
    a.order(|me| {
        me.spawn_link(|_: Process| async { panic!("on purpose") });
        None
    });
    a.has_exited(Panic).await;
}

/// A parent, and a child that it has spawned linked.
async fn family() -> (Actor, Actor) {
    let a = Actor::new();
    let child = a.does(|me| me.spawn_link(Actor::run)).await;
    (a, Actor(child))
}

#[tokio::test]
async fn child_survives_normal_end_of_parent() {
    let (a, child) = family().await;
    a.ends(Ok(()));
    a.has_exited(Normal).await;
    child.is_alive_with(&[]).await;
}

#[tokio::test]
async fn child_ends_when_parent_shuts_down() {
    let (a, child) = family().await;
    a.ends(Err(Shutdown));
    a.has_exited(Shutdown).await;
    child.has_exited(Shutdown).await;
}

#[tokio::test]
async fn process_that_stops_trapping_ends() {
    let (a, b) = pair(true).await;
    b.does(|me| me.trap_exit(false)).await;
    a.ends(Err(boom()));
    b.has_exited(boom()).await;
}

#[tokio::test]
async fn trapped_exit_stays_message() {
    let (a, b) = pair(true).await;
    a.ends(Err(boom()));
    a.has_exited(boom()).await;
    b.does(|me| me.trap_exit(false)).await;
    b.is_alive_with(&[Exit(a.pid(), boom())]).await;
}

#[tokio::test]
async fn trap_exit_returns_former_setting() {
    let a = Actor::new();
    let before = a.does(|me| [me.trap_exit(true), me.trap_exit(true), me.trap_exit(false)]).await;
    assert_eq!(before, [false, true, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_unlink_nothing_comes_any_more() {
    let watch = spawn(|mut me: Process| async move {
        me.trap_exit(true);
        for round in 0..3000 {
            let child = me.spawn_link(|_: Process| async { Err(boom()) }).pid();
            (0..round % 500).for_each(|_| std::hint::spin_loop());
            me.unlink(child.clone());
            // The flush: what came before the unlink stays in the mailbox.
            now(me.recv()).await;
            child.ended().await;
            assert_eq!(now(me.recv()).await, None);
        }
        Ok(())
    });
    assert_eq!(watch.pid().ended().await, Normal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_agree_whatever_crosses() {
    let (a, b) = (Actor::trapping(), Actor::trapping());
    let toggle = |other: Pid, seed: u32| {
        move |me: &mut Process<Order>| {
            let mut bits = seed.wrapping_mul(2_654_435_761);
            for _ in 0..8 {
                bits = bits.rotate_left(5).wrapping_mul(5).wrapping_add(seed);
                match bits >> 31 {
                    0 => me.link(other.clone()).unwrap(),
                    _ => me.unlink(other.clone()),
                }
            }
        }
    };
    for round in 0..2000 {
        tokio::join!(a.does(toggle(b.pid(), round)), b.does(toggle(a.pid(), !round)));
        let (a_has, b_has) = (a.linked() == [b.pid()], b.linked() == [a.pid()]);
        assert_eq!(a_has, b_has, "round {round}");
        assert_eq!((a.records(), b.records()), (usize::from(a_has), usize::from(b_has)), "round {round}");
    }
}

#[tokio::test]
async fn a_killed_process_tells_all_its_links_killed() {
    let a = Actor::new();
    let others = [Actor::trapping(), Actor::trapping(), Actor::trapping()];
    for other in &others {
        a.links(other).await;
    }
    a.pid().exit(Kill);
    a.has_exited(Killed).await;
    for other in &others {
        other.is_alive_with(&[Exit(a.pid(), Killed)]).await;
    }
}

#[tokio::test]
async fn spawn_link_and_spawn_monitor_take_options() {
    let options = || SpawnOptions { trap_exit: true, mailbox_capacity: 1 };
    let parent = Actor::new();
    let (linked, (monitored, monitor)) = parent
        .does(move |me| {
            (me.spawn_link_with(options(), Actor::run), me.spawn_monitor_with(options(), Actor::run))
        })
        .await;
    let (linked, monitored) = (Actor(linked), Actor(monitored));
    assert!(linked.0.try_send(Order::Say(1)).is_ok() && linked.0.try_send(Order::Say(2)).is_err());
    monitored.pid().exit(Shutdown);
    monitored.ends(Err(boom()));
    monitored.has_exited(boom()).await;
    parent.is_alive_with(&[Down(monitor, monitored.pid(), boom())]).await;
    parent.ends(Err(Shutdown));
    parent.has_exited(Shutdown).await;
    linked.is_alive_with(&[Said(1), Exit(parent.pid(), Shutdown)]).await;
}
