//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::passwd::Passwd;
use crate::identity::{IdentityError, StateDir};
use crate::live::Whom;

/// Serves named services to untrusted networks.
///
/// A configuration names each service, the passwords or keys that open it, and the function that is spawned for every client
/// that logs in. Without a command and without a configuration, the server offers a name server and an echo to this machine
/// alone, and prints how to reach them.
#[derive(Debug, Parser)]
#[command(name = "chan-server", version, after_long_help = EXIT_CODES, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve a configuration until Ctrl-C or SIGTERM
    ///
    /// After the first of these signals, the server refuses new clients and waits for its sessions to end (`drain_timeout`,
    /// 30 s by default). The second ends the sessions with `shutdown`, the third cuts them off. SIGHUP reloads the
    /// configuration, as `chan-server reload` does. SIGUSR1 reopens the log file. The URL of each service goes to standard
    /// output, the log to standard error.
    #[command(after_long_help = EXIT_CODES)]
    Serve {
        #[command(flatten)]
        choice: Choice,
        #[command(flatten)]
        log: LogPlace,
    },
    /// Check a configuration and print its mistakes
    ///
    /// Also checks the files that the configuration names, and those in the state directory. Warns about things that are
    /// allowed but need attention, such as a certificate that expires within 30 days. Warnings do not change the exit code.
    /// Creates no files.
    #[command(after_long_help = EXIT_CODES)]
    Check {
        #[command(flatten)]
        choice: ConfigFile,
        /// Ask the running server what a reload of this configuration would do: what changes, which sessions would end and
        /// why, and what needs a restart
        #[arg(long)]
        diff: bool,
    },
    /// Reload the configuration of the running server
    ///
    /// Sessions that the new configuration still grants continue. The others end with `revoked`, after `revoke_grace`. A
    /// configuration with mistakes changes nothing. Prints the changes.
    #[command(after_long_help = EXIT_CODES)]
    Reload,
    /// List the sessions of the running server
    #[command(after_long_help = EXIT_CODES)]
    Sessions {
        /// Print an array of JSON objects
        #[arg(long)]
        json: bool,
    },
    /// End sessions of the running server with `shutdown`
    ///
    /// The client may log in again. To keep it out, disable it in the configuration and reload.
    #[command(after_long_help = EXIT_CODES)]
    Kick(Kick),
    /// Stop the running server once its sessions have ended, as SIGTERM does
    ///
    /// Returns when the server has stopped.
    #[command(after_long_help = EXIT_CODES)]
    Drain,
    /// Print the state of the running server
    #[command(after_long_help = EXIT_CODES)]
    Status {
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make a password, or the verifier of a password
    ///
    /// A verifier lets a server check a password, and logs nobody in. Without --password-file, the command asks for
    /// the password on the terminal, or reads it from standard input.
    #[command(after_long_help = EXIT_CODES)]
    Passwd(Passwd),
    /// Print the pin of this server and the URL of each service
    ///
    /// Without a configuration, prints the pin only. Makes the server's key if there is none.
    #[command(after_long_help = EXIT_CODES)]
    Identity {
        #[command(flatten)]
        choice: Choice,
        /// Announce the next key of the server: make it if there is none, and print URLs with both pins
        #[arg(long)]
        next: bool,
        /// Replace the current key by the announced one. A running server uses it after a reload
        #[arg(long, conflicts_with = "next")]
        rotate: bool,
    },
    /// Print a script that completes command lines in a shell
    #[command(after_long_help = EXIT_CODES)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages into a directory
    #[command(after_long_help = EXIT_CODES)]
    Man {
        /// The directory, which must exist
        directory: PathBuf,
    },
}

/// The sessions to end: exactly one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Kick {
    /// The number of a session, as shown by `chan-server sessions` and the log
    id: Option<u64>,
    /// All sessions of the clients with this name
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// All sessions of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

impl Kick {
    pub(super) fn whom(&self) -> Option<Whom> {
        let client = self.client.clone().map(Whom::Client);
        self.id.map(Whom::Session).or(client).or_else(|| self.service.clone().map(Whom::Service))
    }
}

/// The destination and format of the log.
#[derive(Debug, Args)]
pub(super) struct LogPlace {
    /// The format of the log lines [default: text on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    pub(super) log_format: Option<LogFormat>,
    /// Append the log to this file; a new file gets mode 0600 [default: standard error]
    #[arg(long, value_name = "FILE")]
    pub(super) log_file: Option<PathBuf>,
}

/// The format of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Plain text
    Text,
    /// JSON objects
    Json,
}

/// The choice of the configuration.
#[derive(Debug, Args)]
pub(super) struct ConfigFile {
    /// The configuration [default: the first of $XDG_CONFIG_HOME/chan-server/chan-server.toml (or
    /// ~/.config/chan-server/chan-server.toml) and /etc/chan-server/chan-server.toml]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

/// The choice of the configuration, and the name under which clients reach the server.
#[derive(Debug, Args)]
pub(super) struct Choice {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// The host name or address in the URLs that are printed [default: `public` in the configuration, or the first
    /// address of `listen`]
    #[arg(long, value_name = "HOST")]
    pub(super) host: Option<String>,
}

/// The choice of the state directory.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The directory with the server's private key, its certificate and its name key; made on first use [default:
    /// $XDG_STATE_HOME/chan-server, or ~/.local/state/chan-server]
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
}

impl Place {
    pub(super) fn state(&self) -> Result<StateDir, IdentityError> {
        self.state.as_ref().map_or_else(StateDir::standard, |path| Ok(StateDir::at(path)))
    }
}

const EXIT_CODES: &str = "\
Exit codes:
  0   done; a server was told to stop
  1   something on this machine failed, such as listening on an address, writing a file, or finding a running server
  2   wrong usage, wrong configuration, or a file that was named and cannot be used
  129, 130, 143
      a signal ended the command: SIGHUP, SIGINT (Ctrl-C) or SIGTERM";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn takes_the_state_before_and_behind_a_command() {
        for line in
            ["--state d", "--state d identity", "identity --state d", "--state d check", "serve --state d"]
        {
            let line = ["chan-server"].into_iter().chain(line.split(' '));
            let arguments = Arguments::try_parse_from(line).unwrap();
            assert_eq!(arguments.place.state().unwrap().path(), std::path::Path::new("d"));
        }
    }

    #[test]
    fn every_command_tells_defaults_and_exit_codes() {
        let arguments = Arguments::command();
        for command in arguments.get_subcommands() {
            let makes_text = ["completions", "man"].contains(&command.get_name());
            let help = command.clone().render_long_help().to_string();
            assert!(makes_text || help.contains("Exit codes:"), "{help}");
            for argument in command.get_arguments().filter(|argument| argument.get_id() == "config") {
                assert!(argument.get_help().unwrap().to_string().contains("[default: "), "{help}");
            }
        }
    }
}
