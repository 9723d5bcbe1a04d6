//! Provides services of a machine behind NAT, and measures them beside `ssh -R`. Needs root. See `chan_tests::provides`.
//!
//! `provide [--rounds 5] [--mib 64] [--requests 2000] [--connections 400]`
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::process::ExitCode;

use chan_tests::provides::{Options, run, serve_target};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let mut options = Options::default();
    // This program itself, inside the network without inbound routes.
    let is_target = arguments.next_if(|name| name == "target").is_some();
    let done = if is_target {
        serve_target()
    } else {
        while let Some(name) = arguments.next() {
            let value = arguments.next().and_then(|value| value.parse().ok()).filter(|value| *value > 0);
            match (&*name, value) {
                ("--rounds", Some(value)) => options.rounds = value,
                ("--mib", Some(value)) => options.mib = value,
                ("--requests", Some(value)) => options.requests = value,
                ("--connections", Some(value)) => options.connections = value,
                _ => {
                    eprintln!(
                        "{name}: known are --rounds, --mib, --requests, --connections, each with a number"
                    );
                    return ExitCode::from(2);
                }
            }
        }
        run(options, |line| println!("{line}"))
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("provide: {error}");
            ExitCode::FAILURE
        }
    }
}
