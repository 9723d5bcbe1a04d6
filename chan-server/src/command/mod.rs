//! The program `chan-server`, as a library.

mod arguments;
mod failure;
mod passwd;
mod serve;

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use lib_chan::private::forbid_core_dumps;
use lib_chan::{signals, stdio};

pub use arguments::Arguments;
use arguments::Command;
pub use failure::Failure;

use crate::config::Config;
use crate::modules::Modules;

/// Runs the command that this program was started with.
///
/// # Errors
///
/// The command failed: what to tell the user, and the exit code. Wrong usage of the command line itself, and the
/// wish for help, end the program here.
pub fn run() -> Result<(), Failure> {
    signals::handle()?;
    forbid_core_dumps()?;
    let Arguments { command, place } = Arguments::parse();
    match command {
        None => serve::serve_or_begin(&place.state()?),
        Some(Command::Serve { choice, place }) => serve::serve(&choice, &place.state()?),
        Some(Command::Check { config }) => check(config.as_deref()),
        Some(Command::Identity { choice, place }) => serve::identity(&choice, &place.state()?),
        Some(Command::Passwd(passwd)) => passwd.run(),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "chan-server", &mut script);
            // The generator for bash names a subcommand in two ways where the program's name has a hyphen.
            let script = String::from_utf8_lossy(&script)
                .replace("chan__subcmd__server__subcmd__", "chan__server__subcmd__");
            print_line(script.trim_end())
        }
        Some(Command::Man { directory }) => {
            let failed =
                |error| Failure::usage(format_args!("cannot write to {}: {error}", directory.display()));
            clap_mangen::generate_to(Arguments::command(), &directory).map_err(failed)
        }
    }
}

fn check(file: Option<&Path>) -> Result<(), Failure> {
    let file = found(file)?;
    let config = block_on(async { Ok(Config::load(&file, &Modules::standard())?) })?;
    for service in config.services() {
        let names = service.clients().iter().map(|client| match client.id().as_str() {
            "" => "shared password".into(),
            name if client.disabled() => format!("{name} (disabled)"),
            name => name.to_owned(),
        });
        let clients = names.collect::<Vec<_>>().join(", ");
        print_line(&format!("{}: {} for {clients}", service.name(), service.mfa()))?;
    }
    print_line(&format!("{}: no mistakes", file.display()))
}

/// The configuration to use: the one named, or else the first that there is.
fn found(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(file) = named {
        return Ok(file.into());
    }
    searched().into_iter().find(|place| place.exists()).ok_or_else(|| {
        let places: Vec<_> = searched().iter().map(|place| place.display().to_string()).collect();
        Failure::usage(format_args!("no configuration in {}; name one: --config FILE", places.join(" or ")))
    })
}

/// Where a configuration is looked for, in this order.
fn searched() -> Vec<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    own.into_iter().chain(["/etc".into()]).map(|place| place.join("chan-server/chan-server.toml")).collect()
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Runtime::new()?;
    let done = runtime.block_on(work);
    // Nothing that still runs is worth waiting for: what had to end has ended.
    runtime.shutdown_background();
    done
}

/// Writes one line to standard output, at once.
fn print_line(line: &str) -> Result<(), Failure> {
    stdio::print(&format!("{line}\n"))
        .map_err(|error| Failure::local(format_args!("cannot write the output: {error}")))
}
