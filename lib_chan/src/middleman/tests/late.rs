//! A far process ends while a process here gives up its link and its monitor: no event of it arrives afterwards.
//! `interleavings` has the same under a scheduler that chooses the order.

use tokio::runtime::Builder;

use super::*;
use crate::{MonitorRef, Pid};

/// Far processes, unless `CHAN_ROUNDS` is set.
const ROUNDS: u32 = 2_000;
/// Far processes of one session, which allows so many links and monitors at once.
const EACH: u32 = 50;

/// A session between the thread of the caller and two others, on which the drivers and the far processes run: the far
/// processes by number. Each ends as soon as it gets a message.
async fn far_processes(there: &tokio::runtime::Handle) -> Channel<u64, ()> {
    let start = |opening: Opening| {
        spawn(async move |_me: Process| {
            let mut channel: Channel<(), u64> = opening.accept();
            let remote = channel.remote();
            for _ in 0..EACH {
                let child = spawn(async |mut me: Process| {
                    me.recv().await;
                    Err(ExitReason::failed("boom"))
                });
                let number = remote.hand_out(&child, |(): ()| ());
                remote.cast(number).await?;
            }
            channel.recv().await;
            Ok(())
        });
    };
    let opened = there.spawn(async move { session_of(&Limits::default(), false, start).await });
    opened.await.unwrap().0
}

/// Links and monitors a far process, lets it end, and gives both up. Returns whether an event was there before.
fn give_up(me: &mut Process, pid: &Pid, monitor: MonitorRef, spins: u32) -> bool {
    (0..spins).for_each(|_| std::hint::spin_loop());
    let mut was_there = !me.demonitor_flush(monitor);
    me.unlink(pid.clone());
    while me.try_recv().is_some() {
        was_there = true;
    }
    was_there
}

#[test]
fn no_far_event_is_late() {
    let rounds = std::env::var("CHAN_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let there = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let here = Builder::new_current_thread().build().unwrap();
    let late = enter(async |mut me: Process| {
        me.trap_exit(true);
        // So long that the end is there every other time, because that is when the threads meet.
        let (mut spins, mut late) = (10_000, 0);
        for _ in 0..rounds / EACH {
            let mut channel = far_processes(there.handle()).await;
            let remote = channel.remote();
            for _ in 0..EACH {
                let Some(Message::Cast(number)) = channel.recv().await else { panic!("a number") };
                let far = remote.handed::<()>(number);
                let monitor = me.monitor(far.pid());
                me.link(far.pid())?;
                far.try_cast(&()).unwrap();
                let was_there = give_up(&mut me, &far.pid(), monitor, spins);
                spins = if was_there { spins - spins / 16 } else { spins + spins / 16 + 1 };
                // It travels behind everything that the far process said.
                far.pid().ended().await;
                while me.try_recv().is_some() {
                    late += 1;
                }
            }
        }
        Ok(late)
    });
    assert_eq!(here.block_on(late), Ok(0));
}
