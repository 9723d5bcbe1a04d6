//! Events that must not arrive late, on real threads: children end on one thread while their parent gives up its links
//! and monitors on another. `interleavings` has the same under a scheduler that chooses the order.

use std::hint::spin_loop;

use tokio::runtime::Builder;

use super::*;

/// Children of each test, unless `CHAN_ROUNDS` is set.
const ROUNDS: u32 = 20_000;

/// Lets a process spawn children on another thread with `give_up`, which returns once it has given up what tells their
/// end, and says whether the end was there before. Returns how many events arrived afterwards.
///
/// `give_up` is told how long to spin before it gives up: so long that the end is there every other time, because that
/// is when the two threads meet.
fn late_events(give_up: fn(&mut Process, spins: u32) -> (Pid, bool)) -> u32 {
    let rounds = std::env::var("CHAN_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let children = Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let parent = Builder::new_current_thread().build().unwrap();
    let late = enter(async |mut me: Process| {
        me.trap_exit(true);
        let (mut spins, mut late) = (1000, 0);
        for _ in 0..rounds {
            let (child, was_there) = {
                let _spawned_there = children.enter();
                give_up(&mut me, spins)
            };
            spins = if was_there { spins - spins / 32 } else { spins + spins / 32 + 1 };
            // Everybody else has been told by then.
            child.ended().await;
            while me.try_recv().is_some() {
                late += 1;
            }
        }
        Ok(late)
    });
    parent.block_on(late).unwrap()
}

async fn fails(_me: Process) -> Result<(), ExitReason> {
    Err(boom())
}

fn spin(spins: u32) {
    (0..spins).for_each(|_| spin_loop());
}

/// Takes everything out of the mailbox, and says whether there was anything.
fn drain(me: &mut Process) -> bool {
    let mut any = false;
    while me.try_recv().is_some() {
        any = true;
    }
    any
}

#[test]
fn no_down_is_late_after_demonitor_flush() {
    let late = late_events(|me, spins| {
        let (child, monitor) = me.spawn_monitor(fails);
        spin(spins);
        let was_there = !me.demonitor_flush(monitor);
        (child.pid(), was_there)
    });
    assert_eq!(late, 0);
}

#[test]
fn no_exit_is_late_after_unlink() {
    let late = late_events(|me, spins| {
        let child = me.spawn_link(fails).pid();
        spin(spins);
        me.unlink(child.clone());
        let was_there = drain(me);
        (child, was_there)
    });
    assert_eq!(late, 0);
}

#[test]
fn no_late_exit_after_unlink_and_link() {
    let late = late_events(|me, spins| {
        let child = me.spawn_link(fails).pid();
        spin(spins);
        me.unlink(child.clone());
        let was_there = drain(me);
        me.link(child.clone()).unwrap();
        while me.try_recv().is_none() {}
        (child, was_there)
    });
    assert_eq!(late, 0);
}

#[test]
fn fired_monitor_has_delivered_down() {
    let late = late_events(|me, spins| {
        let (child, monitor) = me.spawn_monitor(fails);
        spin(spins);
        let was_there = !me.demonitor(monitor);
        assert_eq!(me.try_recv().is_some(), was_there);
        (child.pid(), was_there)
    });
    assert_eq!(late, 0);
}
