//! Ten thousand processes that are linked, one of which fails: how long until all have ended, each with its reason,
//! and a process that monitors them all has been told of each.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lib_chan::{Address, Event, ExitReason, Pid, Process, Reply, spawn};
use tokio::sync::oneshot;

use crate::sample::{Clock, Sample, with_times};

/// Processes that are linked.
const LINKED: usize = 10_000;

/// How they are linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Each to the next.
    Chain,
    /// All to the first.
    Star,
    /// Each to the next, and the last to the first.
    Ring,
}

enum Order {
    Link(Pid, Reply<()>),
    Fail,
}

/// Lets them end again and again for about `length`: the time of each.
pub(super) async fn measure(shape: Shape, length: Duration) -> Result<Sample> {
    let clock = Clock::start(length);
    let mut times = Vec::new();
    while times.is_empty() || !clock.is_over() {
        let (tell, told) = oneshot::channel();
        spawn(async move |me: Process| {
            // Who asked waits for the answer.
            let _ = tell.send(collapse(me, shape).await);
            Ok(())
        });
        times.push(u64::try_from(told.await??.as_nanos())?);
    }
    Ok(with_times(clock.sample((times.len() * LINKED) as u64), times))
}

async fn collapse(mut me: Process, shape: Shape) -> Result<Duration> {
    let processes: Vec<_> = (0..LINKED).map(|_| spawn(obey)).collect();
    for (number, process) in processes.iter().enumerate().skip(1) {
        let other = if shape == Shape::Star { 0 } else { number - 1 };
        link(process, &processes[other]).await?;
    }
    if shape == Shape::Ring {
        link(&processes[0], &processes[LINKED - 1]).await?;
    }
    for process in &processes {
        me.monitor(process.pid());
    }
    let start = Instant::now();
    processes[0].send(Order::Fail).await.map_err(|error| error.reason)?;
    for _ in 0..LINKED {
        let event = me.recv().await;
        ensure!(matches!(&event, Event::Down(_, _, reason) if *reason == boom()), "{event:?}");
    }
    Ok(start.elapsed())
}

async fn link(process: &Address<Order>, other: &Address<Order>) -> Result<()> {
    Ok(process.call(Duration::from_secs(60), |reply| Order::Link(other.pid(), reply)).await?)
}

async fn obey(mut me: Process<Order>) -> Result<(), ExitReason> {
    loop {
        match me.recv().await {
            Event::Message(Order::Link(pid, done)) => {
                me.link(pid)?;
                done.send(());
            }
            Event::Message(Order::Fail) => return Err(boom()),
            _ => {}
        }
    }
}

fn boom() -> ExitReason {
    ExitReason::failed("boom")
}
