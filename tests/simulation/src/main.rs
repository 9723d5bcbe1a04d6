//! Runs schedules: see [`USAGE`].
#![expect(clippy::print_stdout, reason = "it is a program, and this is what it says")]

use std::{
    collections::BTreeMap,
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

/// What has been run.
#[derive(Debug, Default)]
struct Tally {
    counts: Counts,
    /// How many schedules had so many steps.
    by_steps: BTreeMap<u64, u64>,
}

impl Tally {
    fn add(&mut self, counts: &Counts) {
        self.counts.add(counts);
        *self.by_steps.entry(counts.steps).or_default() += 1;
    }

    fn merge(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        for (steps, runs) in &other.by_steps {
            *self.by_steps.entry(*steps).or_default() += runs;
        }
    }

    fn runs(&self) -> u64 {
        self.by_steps.values().sum()
    }

    /// So many steps has the one in the middle.
    fn median_steps(&self) -> u64 {
        let mut before = 0;
        let middle = self.by_steps.iter().find(|(_, runs)| {
            before += **runs;
            2 * before >= self.runs()
        });
        middle.map_or(0, |(steps, _)| *steps)
    }

    fn print(&self, asked: &Asked, failed: u64, seconds: f64) {
        let (Range { start, end }, runs, counts) = (&asked.seeds, self.runs(), &self.counts);
        let fewest = self.by_steps.keys().next().copied().unwrap_or_default();
        println!("seeds {start}..{end}: {runs} schedules in {seconds:.0} s, {:.0}/s", runs as f64 / seconds);
        println!("  {failed} broke a promise");
        println!("  {} steps; of a schedule at least {fewest}, median {}", counts.steps, self.median_steps());
        println!("  {} sessions, {} calls", counts.sessions, counts.calls);
        println!(
            "  {} faults: {} cuts, {} resets, {} half-opens, {} kills, {} stalls",
            counts.faults(),
            counts.cuts,
            counts.resets,
            counts.half_opens,
            counts.kills,
            counts.stalls,
        );
        println!("  apart from these: {} pieces that came late or split", counts.pieces);
    }
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
    let total = Mutex::new(Tally::default());
    let work = || {
        let mut tally = Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= asked.seeds.end || failed.load(Ordering::Relaxed) >= asked.failures {
                break;
            }
            let result = one(seed, asked);
            tally.add(&result.counts);
            if asked.log {
                print!("{}", result.log());
            }
            for (place, broken) in result.violations.iter().enumerate() {
                let who = if place == 0 { format!("seed {seed}") } else { "    and".into() };
                println!("{who}: {}: {}", broken.rule, broken.detail);
            }
            failed.fetch_add(u64::from(!result.violations.is_empty()), Ordering::Relaxed);
        }
        total.lock().unwrap_or_else(PoisonError::into_inner).merge(&tally);
    };
    std::thread::scope(|scope| {
        for _ in 0..asked.threads {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner();
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.print(asked, failed, start.elapsed().as_secs_f64());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
