//! What a process leaves behind when it ends, counted over a million of them. Alone in its program, because it looks at
//! the memory of all of it.

#![cfg(target_os = "linux")]

use std::time::Duration;

use lib_chan::{Address, Event, ExitReason, Pid, Process, spawn};

/// Processes of one round; a hundred rounds are a tenth of all.
const ROUND: usize = 1000;
/// What the allocator may hold more at the end than after a tenth. A word kept of each process would be more.
const SLACK_KIB: usize = 4 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn million_ended_processes_leave_no_memory() {
    rounds(100).await;
    let before = resident_kib();
    rounds(900).await;
    let after = resident_kib();
    assert!(after < before + SLACK_KIB, "{before} KiB after a tenth, {after} KiB at the end");
}

async fn rounds(count: usize) {
    for _ in 0..count {
        let pids: Vec<_> = (0..ROUND / 10).flat_map(|_| ten()).collect();
        for pid in pids {
            pid.ended().await;
        }
    }
}

/// Seven that return, one that is killed where it waits for a message, one killed where it waits for the time, and one
/// that ends with the first killed one over a link while a call waits for its answer. Those that are killed are monitored.
fn ten() -> impl Iterator<Item = Pid> {
    let brief = (0..7).map(|_| spawn(async |_me: Process| Ok(())).pid());
    let receiving: Address<()> = spawn(async |mut me: Process<()>| {
        loop {
            me.recv().await;
        }
    });
    let sleeping = spawn(async |_me: Process| {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        Ok(())
    });
    let (first, second, third) = (receiving.clone(), receiving.pid(), sleeping.pid());
    let linked = spawn(async move |mut me: Process| {
        me.monitor(third.clone());
        me.monitor(second.clone());
        me.link(second.clone())?;
        third.exit(ExitReason::Kill);
        let Event::Down(..) = me.recv().await else { return Err(ExitReason::failed("no message comes")) };
        second.exit(ExitReason::Kill);
        // It ends here, with the killed one.
        first.call(Duration::from_secs(3600), |_: lib_chan::Reply<()>| ()).await?;
        me.recv().await;
        Ok(())
    });
    brief.chain([receiving.pid(), sleeping.pid(), linked.pid()])
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).expect("in KiB")
}
