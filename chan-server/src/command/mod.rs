//! The program `chan-server`, as a library.

mod admin;
mod arguments;
mod failure;
mod operate;
mod passwd;
mod serve;
mod systemd;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser};
use lib_chan::private::forbid_core_dumps;
use lib_chan::{runtime, signals, stdio};

pub use arguments::Arguments;
use arguments::{Command, Place};
pub use failure::Failure;

use crate::config::{Config, Warning};
use crate::identity::IdentityError;
use crate::modules::Modules;

/// Runs the command that this program was started with.
///
/// # Errors
///
/// The command failed: what to tell the user, and the exit code. Wrong usage of the command line itself, and the
/// wish for help, end the program here.
pub fn run() -> Result<(), Failure> {
    // Before there is another thread.
    let inherited = systemd::inherited();
    signals::handle().map_err(|error| Failure::local(format_args!("cannot handle signals: {error}")))?;
    if let Err(error) = forbid_core_dumps() {
        // A sandbox may forbid it, and the program is of use all the same.
        stdio::complain(format_args!(
            "chan-server: cannot forbid core dumps, which would hold secrets: {error}"
        ));
    }
    let Arguments { command, place } =
        Arguments::try_parse().unwrap_or_else(|error| suggest_config(error).exit());
    match command {
        None => serve::serve_or_begin(&place.state()?, inherited),
        Some(Command::Serve { choice, log }) => serve::serve(&choice, &log, &place.state()?, inherited),
        Some(Command::Check { choice, diff }) => check(choice.config.as_deref(), diff, &place),
        Some(Command::Reload) => operate::reload(&place.state()?),
        Some(Command::Sessions { json }) => operate::sessions(&place.state()?, json),
        Some(Command::Kick(kick)) => operate::kick(&place.state()?, &kick),
        Some(Command::Drain) => operate::drain(&place.state()?),
        Some(Command::Status { json }) => operate::status(&place.state()?, json),
        Some(Command::Identity { choice, next, rotate }) => {
            serve::identity(&choice, next, rotate, &place.state()?)
        }
        Some(Command::Passwd(passwd)) => passwd.run(&place),
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

/// Suggests `--config` to a user who gave a file to a command that takes a configuration.
fn suggest_config(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(file)) = error.get(ContextKind::InvalidArg) else { return error };
    let suggestion = format!("did you mean `--config {file}`?");
    let is_file = error.kind() == clap::error::ErrorKind::UnknownArgument && !file.starts_with('-');
    let arguments = Arguments::command();
    let takes_config = |command: &clap::Command| command.get_arguments().any(|it| it.get_id() == "config");
    let mut given = std::env::args().filter_map(|argument| arguments.find_subcommand(argument));
    if is_file && given.any(takes_config) {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![suggestion.into()]));
    }
    error
}

fn check(file: Option<&Path>, diff: bool, place: &Place) -> Result<(), Failure> {
    let file = found(file)?;
    let config = block_on(async { Ok(Config::load(&file, &Modules::standard())?) })?;
    // Whoever checks a configuration for another machine may have no home.
    match place.state() {
        Err(IdentityError::NoPlace) => {}
        state => state?.check(config.identity().is_none())?,
    }
    for service in config.services() {
        let names = service.clients().iter().map(|client| match client.id().as_str() {
            "" => "shared password".into(),
            name if client.disabled() => format!("{name} (disabled)"),
            name => name.to_owned(),
        });
        let clients = names.collect::<Vec<_>>().join(", ");
        print_line(&format!("{}: {} for {clients}", service.name(), service.mfa()))?;
    }
    for Warning { problem, .. } in config.warnings() {
        print_line(&format!("{}:{}: warning: {}", file.display(), problem.line, problem.text))?;
    }
    print_line(&format!("{}: no mistakes", file.display()))?;
    if diff { operate::compare(&place.state()?, &file) } else { Ok(()) }
}

/// The configuration to use: the one named, or else the first that there is.
fn found(named: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(file) = named {
        return Ok(file.into());
    }
    searched().into_iter().find(|place| is_there(place)).ok_or_else(|| {
        let places: Vec<_> = searched().iter().map(|place| place.display().to_string()).collect();
        Failure::usage(format_args!("no configuration in {}; name one: --config FILE", places.join(" or ")))
    })
}

/// Whether there is a configuration, even one that cannot be read: a dangling link, or a file in a directory without
/// permission. Its owner wants it served, and nothing in its place.
fn is_there(file: &Path) -> bool {
    let dangles = |directory: &Path| directory.is_symlink() && !directory.exists();
    match file.symlink_metadata() {
        Ok(_) => true,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            file.parent().is_some_and(dangles)
        }
        Err(_) => true,
    }
}

/// Returns the places where a configuration is looked for, in this order.
fn searched() -> Vec<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    own.into_iter().chain(["/etc".into()]).map(|place| place.join("chan-server/chan-server.toml")).collect()
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = runtime::start().map_err(Failure::local)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_out_of_sight_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        assert!(!is_there(&path("nothing/chan-server.toml")));
        std::fs::write(path("file"), "").unwrap();
        assert!(!is_there(&path("file/chan-server.toml")));
        for link in ["link", "folder"] {
            std::os::unix::fs::symlink("/nowhere", path(link)).unwrap();
        }
        assert!(is_there(&path("link")));
        assert!(is_there(&path("folder/chan-server.toml")));
    }
}
