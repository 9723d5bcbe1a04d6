//! Lets sessions of strangers with grown windows stop reading, and prints the memory of the server. Fails if it exceeds its
//! bound. See `chan_tests::slow_readers`.
//!
//! `slow_readers [--sessions 1000] [--batch 100] [--rtt 400]`, the round trip time in milliseconds
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::{process::ExitCode, time::Duration};

use chan_tests::slow_readers::{Case, Options, run};

fn main() -> ExitCode {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok()).filter(|value| *value > 0);
        match (&*name, value) {
            ("--sessions", Some(value)) => options.sessions = value,
            ("--batch", Some(value)) => options.batch = value,
            ("--rtt", Some(value)) => options.rtt = Duration::from_millis(value as u64),
            _ => {
                eprintln!("{name}: known are --sessions, --batch and --rtt, each with a number");
                return ExitCode::from(2);
            }
        }
    }
    let mut code = ExitCode::SUCCESS;
    for case in Case::ALL {
        let report = run(case, options);
        println!("{report}");
        for fault in report.faults() {
            println!("  missed: {fault}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
