//! Calls of one caller to a process, made from a process or from the task that the runtime was entered with.

use std::time::Duration;

use anyhow::{Result, ensure};
use lib_chan::{Event, Process, Reply, spawn};

use crate::sample::{Clock, Sample};

const PATIENCE: Duration = Duration::from_secs(60);

/// The successor of this number is wanted.
struct Next(u64, Reply<u64>);

/// Makes calls one after another in the calling task for about `length`.
pub(super) async fn measure(length: Duration) -> Result<Sample> {
    let server = spawn(async move |mut me: Process<Next>| {
        loop {
            if let Event::Message(Next(number, reply)) = me.recv().await {
                reply.send(number + 1);
            }
        }
    });
    let clock = Clock::start(length);
    let mut calls = 0_u64;
    while !calls.is_multiple_of(64) || !clock.is_over() {
        let answer = server.call(PATIENCE, |reply| Next(calls, reply)).await?;
        ensure!(answer == calls + 1, "asked for the successor of {calls}, got {answer}");
        calls = answer;
    }
    Ok(clock.sample(calls))
}
