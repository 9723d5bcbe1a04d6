//! Runs random programs on a real Erlang and on our processes, and says where they differ. See
//! `chan_tests::differential`.
//!
//! `differential [--programs 20000] [--steps 25] [--first 0] [--threads 1] [--ends 1]`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::process::ExitCode;

use chan_tests::differential::{Campaign, program::Ends};

fn main() -> ExitCode {
    let mut options = Options { programs: 20_000, steps: 25, first: 0, threads: 1, ends: Ends::One };
    if let Err(complaint) = options.read(std::env::args().skip(1)) {
        eprintln!("{complaint}");
        return ExitCode::from(2);
    }
    if !chan_tests::available("escript") {
        return ExitCode::FAILURE;
    }
    let started = tokio::time::Instant::now();
    let mut campaign = Campaign::start(options.steps, options.threads, options.ends);
    match campaign.run(options.first..options.first + options.programs) {
        Ok(figures) => {
            println!("{figures:?} in {:?}, no difference", started.elapsed());
            ExitCode::SUCCESS
        }
        Err(difference) => {
            println!("{difference}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    programs: u64,
    steps: usize,
    first: u64,
    threads: usize,
    ends: Ends,
}

impl Options {
    fn read(&mut self, mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
        while let Some(name) = arguments.next() {
            let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
            let value = value.ok_or_else(|| format!("{name} needs a number"))?;
            let small = usize::try_from(value).map_err(|_| format!("{name} is too large"));
            match name.as_str() {
                "--programs" => self.programs = value,
                "--steps" => self.steps = small?,
                "--first" => self.first = value,
                "--threads" => self.threads = small?.max(1),
                "--ends" => self.ends = if value == 2 { Ends::Two } else { Ends::One },
                _ => {
                    let known = "--programs, --steps, --first, --threads, --ends";
                    return Err(format!("{name} is no option: {known} are"));
                }
            }
        }
        Ok(())
    }
}
