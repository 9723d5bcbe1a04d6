//! Enough schedules to notice at once what has gone wrong; campaigns are run by hand (`CONTRIBUTING.md`).

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use chan_simulation::{Counts, run, run_some, shrink, steps};

/// Seeds whose schedules have found something once, with what that was.
const FOUND: &[(u64, &str)] = &[];

#[test]
fn ten_thousand_schedules_break_no_promise() {
    const SCHEDULES: u64 = 10_000;
    let next = AtomicU64::new(0);
    let total = Mutex::new(Counts::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SCHEDULES {
                        return;
                    }
                    let run = run(seed);
                    assert!(run.violations.is_empty(), "seed {seed}: {:?}", run.violations);
                    total.lock().unwrap().add(&run.counts);
                }
            });
        }
    });
    // A simulation in which nothing happens breaks no promise either.
    let counts = total.into_inner().unwrap();
    assert!(counts.steps > SCHEDULES * 100, "{counts:?}");
    assert!(counts.sessions > SCHEDULES / 2 && counts.calls > SCHEDULES * 2, "{counts:?}");
    for faults in [counts.cuts, counts.resets, counts.half_opens, counts.kills, counts.stalls] {
        assert!(faults > SCHEDULES / 10, "{counts:?}");
    }
}

#[test]
fn what_was_found_once_is_not_found_again() {
    for (seed, what) in FOUND {
        assert_eq!(run(*seed).violations.first().map(|first| first.rule), None, "seed {seed}: {what}");
    }
}

#[test]
fn the_same_seed_is_the_same_run_bit_for_bit_in_any_thread() {
    let logs = || (0..200).map(|seed| run(seed).log()).collect::<Vec<_>>();
    let here = logs();
    let there = std::thread::spawn(logs).join().unwrap();
    assert!(here.iter().all(|log| log.len() > 1000));
    assert!(here == there);
    assert!(here[0] != here[1]);
}

#[test]
fn steps_can_be_left_out_and_a_schedule_that_breaks_nothing_does_not_shrink() {
    let all = run(3);
    assert!(run_some(3, |_| true).log() == all.log());
    assert!(run_some(3, |step| step % 2 == 0 || step + 1 == steps(3)).log() != all.log());
    assert_eq!(shrink(3), None);
}
