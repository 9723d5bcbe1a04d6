//! Attacks a server with connections that say nothing and wrong logins while clients call, and prints what the clients
//! saw. Fails if a figure misses its target. See `chan_tests::strangers`.
//!
//! `strangers [--seconds 60] [--silent 1000] [--logins 20000] [--sessions 50]`, the logins in a minute; the program of the
//! attack is this one, too.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::process::{Command, ExitCode};

use chan_tests::strangers::{Options, attack, campaign};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == "attack").is_some() {
        attack(&arguments.collect::<Vec<_>>());
        return ExitCode::SUCCESS;
    }
    let mut options = Options::default();
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok()).filter(|value| *value > 0);
        match (&*name, value) {
            ("--seconds", Some(value)) => options.seconds = value,
            ("--silent", Some(value)) => options.silent = value as usize,
            ("--logins", Some(value)) => options.logins = value,
            ("--sessions", Some(value)) => options.sessions = value as usize,
            _ => {
                eprintln!(
                    "{name}: known are --seconds, --silent, --logins and --sessions, each with a number"
                );
                return ExitCode::from(2);
            }
        }
    }
    let program = std::env::current_exe().expect("a program has a path");
    let report = campaign(options, |arguments| {
        let mut command = Command::new(&program);
        command.arg("attack").args(arguments);
        command
    });
    println!("{report}");
    let faults = report.faults();
    faults.iter().for_each(|fault| println!("missed: {fault}"));
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
