//! The program `chan-client`.

mod access;
mod arguments;
mod console;
mod describe;
mod descriptors;
mod exchange;
mod failure;
mod forward;
mod local;
mod notice;
mod pipe;
mod provide;
mod repl;
mod session;

use std::io;

use clap::FromArgMatches;
use lib_chan::private::forbid_core_dumps;
use lib_chan::runtime::{self, blocking};
use lib_chan::{signals, stdio};

pub use arguments::Arguments;
use arguments::Command;
pub use failure::Failure;
use notice::Notice;

/// Runs the command that this program was started with.
///
/// # Errors
///
/// Returns a message for the user and the exit code if the command failed. Exits the program after wrong usage of the
/// command line and after `--help`.
pub fn run() -> Result<(), Failure> {
    signals::handle().map_err(|error| Failure::local(format_args!("cannot handle signals: {error}")))?;
    if let Err(error) = forbid_core_dumps() {
        // A sandbox may refuse this. The program works without it.
        stdio::complain(format_args!(
            "chan-client: cannot forbid core dumps, which would hold secrets: {error}"
        ));
    }
    let Arguments { command, verbose } = arguments()?;
    let notice = Notice::new(verbose);
    match command {
        Command::Call { access, message, start } => exchange::call(&access, &message, &start, &notice),
        Command::Cast { access, message, start } => exchange::cast(&access, &message, &start, &notice),
        Command::Ping { access } => exchange::ping(&access, &notice),
        Command::Describe { access, json } => describe::describe(&access, json, &notice),
        Command::Receive { access, start, outage } => exchange::receive(&access, &start, &outage, &notice),
        Command::Repl { access, start, outage } => repl::repl(&access, &start, &outage, &notice),
        Command::Keygen { file } => local::keygen(&file),
        Command::Pubkey { file } => local::pubkey(&file),
        Command::Save { name, url, replace } => local::save(&name, &url, replace),
        Command::List => local::list(),
        Command::Delete { name } => local::delete(&name),
        Command::Forward { listen, max_connections, isolate, access, outage } => {
            let options = forward::Options { listen: &listen, max_connections, isolate };
            forward::forward(&options, &access, &outage, notice)
        }
        Command::Pipe { access, outage } => pipe::pipe(&access, &outage, &notice),
        Command::Provide { target, max_connections, access, outage } => {
            provide::provide(target.into(), max_connections, &access, &outage, notice)
        }
        Command::Completions { shell } => local::completions(shell),
        Command::Man { directory } => local::man(&directory),
    }
}

/// Parses the command line. Exits the program after wrong usage and after `--help`, even if the text cannot be written.
fn arguments() -> Result<Arguments, Failure> {
    let parsed = arguments::command().try_get_matches().and_then(|found| Arguments::from_arg_matches(&found));
    parsed.or_else(|error| {
        if error.use_stderr() {
            stdio::complain(error.render().to_string().trim_end());
        } else {
            print_line(error.render().to_string().trim_end())?;
        }
        std::process::exit(error.exit_code())
    })
}

/// Runs a command that talks to a server.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = runtime::start()?;
    let done = runtime.block_on(work);
    // Nobody waits for tasks that are left.
    runtime.shutdown_background();
    done
}

/// Writes one line to standard output and flushes it. Blocks while the reader is slow.
fn print_line(line: &str) -> Result<(), Failure> {
    stdio::print(&format!("{line}\n")).map_err(|error| Failure::output(&error))
}

/// Writes one line to standard output on a thread of its own, so that a slow reader does not delay signals.
async fn show_line(line: String) -> io::Result<()> {
    blocking(move || stdio::print(&format!("{line}\n"))).await?
}
