//! What threads share, by the names of the standard library. Tests built with `--cfg chan_shuttle` get the same from
//! `shuttle`, which decides there who runs when, and so tries orders that no machine would.
//!
//! Counters of the whole program, which only count, stay the standard library's; so does `Arc`.

#[cfg(not(all(test, chan_shuttle)))]
mod chosen {
    pub(crate) use std::sync::atomic::AtomicU64;
    #[cfg(feature = "io")]
    pub(crate) use std::{
        sync::{Mutex, MutexGuard, atomic::AtomicBool},
        thread_local,
    };
    #[cfg(feature = "io")]
    pub(crate) use tokio::spawn;
}

#[cfg(all(test, chan_shuttle))]
mod chosen {
    pub(crate) use shuttle::{
        future::spawn,
        sync::{
            Mutex, MutexGuard,
            atomic::{AtomicBool, AtomicU64},
        },
        thread_local,
    };
}

pub(crate) use chosen::*;

/// Runs `test` over and over, with another order of its tasks each time: half of them by chance, half by priorities that
/// change few times, which finds what needs few changes in unlikely places. `CHAN_SCHEDULES` says how many; default
/// 2000. A failure prints its schedule.
#[cfg(all(test, chan_shuttle))]
pub(crate) fn explore(test: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    const CHANGES: usize = 3;
    let schedules = std::env::var("CHAN_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(2000);
    // For timers to be made with; they never fire.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    let mut config = shuttle::Config::new();
    // The stack of a task; a login and a session in a build without optimisation need more than is usual.
    config.stack_size = 1 << 20;
    let test = std::sync::Arc::new(test);
    let first = std::sync::Arc::clone(&test);
    shuttle::Runner::new(RandomScheduler::new(schedules / 2), config.clone()).run(move || first());
    shuttle::Runner::new(PctScheduler::new(CHANGES, schedules / 2), config).run(move || test());
}
