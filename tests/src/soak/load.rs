//! What both ends do: calls, and processes that link to each other and watch each other.

use std::time::Duration;

use bytes::Bytes;
use lib_chan::{
    Call, CallError, CallFailure, Event, ExitReason, Pid, Process, Remote, SpawnOptions, spawn_with,
};
use serde::Serialize;
use tokio::time::Instant;

use super::{count::Counts, message::Echo};
use crate::differential::random::Random;

/// How long a process that had all its endings listens for one more.
const LISTENS: Duration = Duration::from_secs(2);
/// The longest payload.
const MAX_LEN: usize = 4096;

/// Whether a future is ready now.
pub(super) async fn is_ready<F: Future>(future: F) -> bool {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_ready())).await
}

/// Spawned with this, a process traps exits from its first moment.
pub(super) fn trapping() -> SpawnOptions {
    SpawnOptions { trap_exit: true, ..SpawnOptions::default() }
}

/// Some bytes: mostly few.
pub(super) fn payload(random: &mut Random) -> Bytes {
    let most = if random.percent(10) { MAX_LEN } else { 100 };
    Bytes::from(vec![7; random.below(most)])
}

/// Waits, for no longer than so many milliseconds.
pub(super) async fn pause(random: &mut Random, ms: usize) {
    tokio::time::sleep(Duration::from_millis(random.below(ms) as u64)).await;
}

/// Calls, and counts how that ended and how late. Whether the session still lives.
pub(super) async fn call<Q, Out>(
    counts: &Counts,
    kind: &'static str,
    remote: &Remote<Out>,
    within: Duration,
    request: Q,
) -> Option<Q::Reply>
where
    Q: Call + Into<Out>,
    Out: Serialize + 'static,
{
    let (mut started, began) = (counts.start(kind), Instant::now());
    let outcome = remote.call_within(within, request).await;
    let late = began.elapsed().saturating_sub(within);
    counts.late(u64::try_from(late.as_millis()).unwrap_or(u64::MAX));
    started.end(outcome.as_ref().map_or_else(said, |_| "answered".into()));
    outcome.ok()
}

/// Has something sent back, and looks whether it is what was sent.
pub(super) async fn echo<Out>(counts: &Counts, kind: &'static str, remote: &Remote<Out>, random: &mut Random)
where
    Echo: Into<Out>,
    Out: Serialize + 'static,
{
    let sent = Echo(payload(random));
    let answer = call(counts, kind, remote, Duration::from_secs(60), sent.clone()).await;
    if answer.is_some_and(|answer| answer != sent) {
        counts.fault(format!("{kind} got the answer of another"));
    }
}

fn said(error: &CallError) -> String {
    let reason = match &error.reason {
        CallFailure::Exit(reason) => reason.to_string(),
        other => format!("{other:?}"),
    };
    format!("{reason}, executed: {:?}", error.executed)
}

/// Spawns a process that links to another and monitors it, and ends when both have ended.
pub(super) fn watch(counts: &Counts, target: Pid) {
    let counts = counts.clone();
    spawn_with(trapping(), async move |mut me: Process| {
        see_the_end(&mut me, &counts, target, || ()).await;
        Ok(())
    });
}

/// Links to a process, monitors it twice, gives one monitor up, does something, and waits for the two endings.
pub(super) async fn see_the_end<M: Send + 'static>(
    me: &mut Process<M>,
    counts: &Counts,
    target: Pid,
    then: impl FnOnce(),
) {
    let (mut link, mut monitor) = (counts.start("link"), counts.start("monitor"));
    // A link to a far process fails with a signal.
    let _ = me.link(target.clone());
    let wanted = me.monitor(target.clone());
    let unwanted = me.monitor(target.clone());
    me.demonitor_flush(unwanted);
    then();
    let mut due = 2;
    loop {
        let event = if due > 0 { Some(me.recv().await) } else { me.recv_within(LISTENS).await };
        match event {
            Some(Event::Exit(from, reason)) if from == target => link.end(reason),
            Some(Event::Down(of, _, reason)) if of == wanted => monitor.end(reason),
            Some(Event::Down(..)) => counts.fault("a monitor that was given up fired".into()),
            // Others may have linked to this one.
            Some(Event::Exit(..) | Event::Message(_)) => continue,
            None => return,
        }
        due -= 1;
    }
}

/// The body of a process that ends with the first exit signal it gets. It links to a far one, so that it gets one even
/// if nobody ever learns of it.
pub(super) async fn ends_with_a_signal(
    mut me: Process<u32>,
    counts: Counts,
    far: Pid,
) -> Result<(), ExitReason> {
    let mut lives = counts.start("met process");
    // A link to a far process fails with a signal.
    let _ = me.link(far);
    loop {
        if let Event::Exit(_, reason) = me.recv().await {
            lives.end(&reason);
            return Err(reason);
        }
    }
}
