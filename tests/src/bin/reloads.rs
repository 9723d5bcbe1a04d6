//! Reloads a server under load, and prints what its clients saw. See `chan_tests::reloads`.
//!
//! `reloads [--reloads 1000] [--sessions 100] [--tls 0]`. With `--tls 1`, the server has a certificate of an authority
//! instead of a key that clients pin.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::process::ExitCode;

use chan_tests::reloads::{Options, campaign};

fn main() -> ExitCode {
    let mut options = Options { reloads: 1000, sessions: 100, tls: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (&*name, value) {
            ("--reloads", Some(value)) => options.reloads = value,
            ("--sessions", Some(value)) => options.sessions = value,
            ("--tls", Some(value)) => options.tls = value > 0,
            _ => {
                eprintln!("{name}: known are --reloads, --sessions and --tls, each with a number");
                return ExitCode::from(2);
            }
        }
    }
    let report = campaign(options);
    println!("{report}");
    let good = report.failed == 0
        && report.ended == report.revoked
        && report.not_closed == 0
        && report.descriptors[1] <= report.descriptors[0] + 4;
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
