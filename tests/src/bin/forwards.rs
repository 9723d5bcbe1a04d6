//! Measures the ways to carry TCP connections, side by side: `chan-client forward`, the same with `--isolate`, `ssh -L` and
//! stunnel. See `chan_tests::forwards`.
//!
//! `forwards [--rounds 5] [--connections 1000] [--idle 300]`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::process::ExitCode;

use chan_tests::forwards::{Options, measure};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut options = Options::default();
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok()).filter(|value| *value > 0);
        match (&*name, value) {
            ("--rounds", Some(value)) => options.rounds = value,
            ("--connections", Some(value)) => options.connections = value,
            ("--idle", Some(value)) => options.idle = value,
            _ => {
                eprintln!("{name}: known are --rounds, --connections and --idle, each with a number");
                return ExitCode::from(2);
            }
        }
    }
    match measure(options) {
        Ok(table) => {
            print!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("forwards: {error}");
            ExitCode::FAILURE
        }
    }
}
