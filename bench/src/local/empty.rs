//! Looks into an empty mailbox that do not wait.

use std::time::Duration;

use anyhow::{Result, ensure};
use lib_chan::{ExitReason, Process, enter};

use crate::sample::{Clock, Sample};

/// Looks in bursts, because asking for the time costs as much as a look.
const BURST: u64 = 1000;

/// How a process looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// With `try_recv`.
    Try,
    /// With `recv_within` and a time of zero.
    WithinZero,
}

/// Looks for about `length`.
pub(super) async fn measure(look: Look, length: Duration) -> Result<Sample> {
    let looked =
        enter(async move |mut me: Process| Ok::<_, ExitReason>(look_on(&mut me, look, length).await));
    looked.await?
}

async fn look_on(me: &mut Process, look: Look, length: Duration) -> Result<Sample> {
    let clock = Clock::start(length);
    let mut looks = 0;
    while !clock.is_over() {
        for _ in 0..BURST {
            let found = match look {
                Look::Try => me.try_recv(),
                Look::WithinZero => me.recv_within(Duration::ZERO).await,
            };
            ensure!(found.is_none(), "an empty mailbox had {found:?}");
        }
        looks += BURST;
    }
    Ok(clock.sample(looks))
}
