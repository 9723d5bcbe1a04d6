//! Keeps hundreds of sessions busy while something goes wrong ten times a second, and says at the end whether
//! everything ended and nothing grew. See `chan_tests::soak`.
//!
//! `soak [--minutes 30] [--sessions 200] [--seed 1] [--pace 100]`, the pace in milliseconds from fault to fault; the
//! programs that it starts are this one, too.
#![expect(clippy::print_stderr, reason = "it is a program")]

use std::{process::ExitCode, time::Duration};

use chan_tests::soak::{Options, Role, play, soak};

fn main() -> ExitCode {
    let role = match read(std::env::args().skip(1)) {
        Ok(role) => role,
        Err(complaint) => {
            eprintln!("{complaint}");
            return ExitCode::from(2);
        }
    };
    let Role::Whole(options) = &role else {
        play(&role);
        return ExitCode::SUCCESS;
    };
    let runtime = tokio::runtime::Runtime::new();
    match runtime.and_then(|runtime| runtime.block_on(soak(options))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn read(arguments: impl Iterator<Item = String>) -> Result<Role, String> {
    let mut arguments = arguments.peekable();
    let part = arguments.next_if(|word| !word.starts_with("--"));
    let (mut options, mut url) = (Options::default(), String::new());
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name} needs a number"));
        match name.as_str() {
            "--minutes" => options.duration = Duration::from_secs(60 * number()?),
            "--seconds" => options.duration = Duration::from_secs(number()?),
            "--sessions" => options.sessions = usize::try_from(number()?).unwrap_or(usize::MAX),
            "--seed" => options.seed = number()?,
            "--pace" => options.pace = Duration::from_millis(number()?),
            "--url" => url = value,
            _ => {
                return Err(format!(
                    "{name} is no option: --minutes, --seconds, --sessions, --seed, --pace are"
                ));
            }
        }
    }
    match part.as_deref() {
        None => Ok(Role::Whole(options)),
        Some("server") => Ok(Role::Server { seed: options.seed }),
        Some("clients") => Ok(Role::Clients { url, sessions: options.sessions, seed: options.seed }),
        Some(other) => Err(format!("{other} is no part of it: server, clients are")),
    }
}
