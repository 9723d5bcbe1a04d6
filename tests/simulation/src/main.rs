//! Runs schedules: see [`USAGE`].
#![expect(clippy::print_stdout, reason = "it is a program, and this is what it says")]

use std::{
    ops::Range,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use chan_simulation::{Counts, Run, run, run_some, shrink};

const USAGE: &str = "\
chan-simulation --seeds A..B [--threads N] [--failures N]   runs these schedules; ranges add up
chan-simulation --seed N [--only STEP,STEP,…] [--log]       runs one, or some steps of it
chan-simulation --seed N --shrink                           finds the few steps that break the same promise";

/// What is asked for.
#[derive(Debug, Default)]
struct Asked {
    seeds: Range<u64>,
    only: Option<Vec<u64>>,
    threads: usize,
    failures: u64,
    log: bool,
    shrink: bool,
}

fn main() -> ExitCode {
    let Some(asked) = parse(std::env::args().skip(1)) else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    if asked.shrink {
        return shrunk(asked.seeds.start);
    }
    campaign(&asked)
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<Asked> {
    let mut asked = Asked { seeds: 0..10_000, threads: 1, failures: 10, ..Asked::default() };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seeds" => {
                let seeds = args.next()?;
                let (first, end) = seeds.split_once("..")?;
                asked.seeds = first.parse().ok()?..end.parse().ok()?;
            }
            "--seed" => {
                let seed = args.next()?.parse().ok()?;
                asked.seeds = seed..seed + 1;
            }
            "--only" => {
                asked.only = Some(args.next()?.split(',').map(str::parse).collect::<Result<_, _>>().ok()?);
            }
            "--threads" => asked.threads = args.next()?.parse().ok()?,
            "--failures" => asked.failures = args.next()?.parse().ok()?,
            "--log" => asked.log = true,
            "--shrink" => asked.shrink = true,
            _ => return None,
        }
    }
    Some(asked)
}

fn shrunk(seed: u64) -> ExitCode {
    let Some(only) = shrink(seed) else {
        println!("seed {seed} breaks no promise");
        return ExitCode::SUCCESS;
    };
    let only: Vec<String> = only.iter().map(u64::to_string).collect();
    println!("chan-simulation --seed {seed} --only {} --log", only.join(","));
    ExitCode::FAILURE
}

fn one(seed: u64, asked: &Asked) -> Run {
    match &asked.only {
        Some(only) => run_some(seed, |step| only.contains(&step)),
        None => run(seed),
    }
}

#[expect(clippy::disallowed_methods, reason = "the rate is real")]
fn campaign(asked: &Asked) -> ExitCode {
    let start = Instant::now();
    let (next, failed) = (AtomicU64::new(asked.seeds.start), AtomicU64::new(0));
    let total = Mutex::new((0_u64, Counts::default()));
    let work = || {
        let (mut runs, mut counts) = (0, Counts::default());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= asked.seeds.end || failed.load(Ordering::Relaxed) >= asked.failures {
                break;
            }
            let result = one(seed, asked);
            runs += 1;
            counts.add(&result.counts);
            if asked.log {
                print!("{}", result.log());
            }
            for (place, broken) in result.violations.iter().enumerate() {
                let who = if place == 0 { format!("seed {seed}") } else { "    and".into() };
                println!("{who}: {}: {}", broken.rule, broken.detail);
            }
            failed.fetch_add(u64::from(!result.violations.is_empty()), Ordering::Relaxed);
        }
        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
        total.0 += runs;
        total.1.add(&counts);
    };
    std::thread::scope(|scope| {
        for _ in 0..asked.threads {
            scope.spawn(work);
        }
    });
    let (runs, counts) = *total.lock().unwrap_or_else(PoisonError::into_inner);
    let (seconds, failed) = (start.elapsed().as_secs_f64(), failed.into_inner());
    println!("{runs} schedules, {failed} broke a promise, {seconds:.0} s, {:.0}/s", runs as f64 / seconds);
    println!(
        "{} steps, {} sessions, {} calls, {} pieces; {} faults: {} cuts, {} resets, {} half-opens, {} kills, {} stalls",
        counts.steps,
        counts.sessions,
        counts.calls,
        counts.pieces,
        counts.faults(),
        counts.cuts,
        counts.resets,
        counts.half_opens,
        counts.kills,
        counts.stalls,
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
