//! Runs schedules: `chan-simulation --seeds A..B`, or one of them: `chan-simulation --seed N [--without 3,5] [--log]`.
#![expect(clippy::print_stdout, reason = "it is a program, and this is what it says")]

use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use chan_simulation::{Counts, run};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut seeds, mut left_out, mut log, mut threads) = (0..10_000, BTreeSet::new(), false, 1);
    let mut first_only = false;
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_default();
        match arg.as_str() {
            "--seeds" => {
                let value = value();
                let (first, last) = value.split_once("..").unwrap_or(("0", &value));
                seeds = first.parse().unwrap_or(0)..last.parse().unwrap_or(0);
            }
            "--seed" => {
                let seed = value().parse().unwrap_or(0);
                seeds = seed..seed + 1;
            }
            "--without" => left_out = value().split(',').filter_map(|step| step.parse().ok()).collect(),
            "--threads" => threads = value().parse().unwrap_or(1),
            "--log" => log = true,
            "--first" => first_only = true,
            other => {
                println!("unknown: {other}");
                return ExitCode::from(2);
            }
        }
    }
    campaign(seeds, &left_out, log, threads, if first_only { 1 } else { 40 })
}

#[expect(clippy::disallowed_methods, reason = "the rate is real")]
fn campaign(
    seeds: std::ops::Range<u64>,
    left_out: &BTreeSet<u64>,
    log: bool,
    threads: usize,
    most: u64,
) -> ExitCode {
    let start = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicU64::new(0);
    let total = std::sync::Mutex::new((Counts::default(), 0_u64));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut counts = Counts::default();
                let mut runs = 0;
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || failed.load(Ordering::Relaxed) >= most {
                        break;
                    }
                    let result = run(seed, left_out);
                    counts.add(&result.counts);
                    runs += 1;
                    if log {
                        print!("{}", result.log());
                    }
                    if let Some(first) = result.violations.first() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        println!("seed {seed}: {}: {}", first.rule, first.detail);
                        for other in &result.violations[1..] {
                            println!("    {}: {}", other.rule, other.detail);
                        }
                    }
                }
                let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                total.0.add(&counts);
                total.1 += runs;
            });
        }
    });
    let (counts, runs) = *total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seconds = start.elapsed().as_secs_f64();
    println!("{runs} schedules in {seconds:.1} s, {:.0}/s", runs as f64 / seconds);
    println!("{counts:?}, faults: {}", counts.faults());
    if failed.load(Ordering::Relaxed) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
