//! What can be written on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::passwd::Passwd;
use crate::identity::{IdentityError, StateDir};

/// Serves named services to untrusted networks.
///
/// A configuration names each service, the password that opens it, and the function that is spawned for every client
/// which proves that it knows the password. Without a command and without a configuration, it serves a name server and
/// an echo to this machine alone, and prints how to reach them.
///
/// The configuration is looked for in $XDG_CONFIG_HOME/chan-server (or ~/.config/chan-server) and in
/// /etc/chan-server, under the name chan-server.toml.
#[derive(Debug, Parser)]
#[command(name = "chan-server", version, after_long_help = EXIT_CODES, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve, until Ctrl-C or SIGTERM: then wait for the sessions to end, and end what is left with `shutdown`
    Serve {
        #[command(flatten)]
        choice: Choice,
        #[command(flatten)]
        place: Place,
    },
    /// Check a configuration, and say what is wrong with it
    Check {
        /// The configuration
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make a verifier, which is what the server needs to know of a password
    Passwd(Passwd),
    /// Print the pin by which clients know this server, and the URL of each service
    Identity {
        #[command(flatten)]
        choice: Choice,
        #[command(flatten)]
        place: Place,
    },
    /// Print a script that completes command lines
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    Man {
        /// The directory to write them into, which has to exist
        directory: PathBuf,
    },
}

/// Which configuration, and under which name clients reach it.
#[derive(Debug, Args)]
pub(super) struct Choice {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The host name or address in the URLs that are printed, in place of the configuration's `public`
    #[arg(long, value_name = "HOST")]
    pub(super) host: Option<String>,
}

/// Where the server keeps what it must not lose.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The directory for the server's private key and its name key; made on first use
    /// [default: $XDG_STATE_HOME/chan-server, or ~/.local/state/chan-server]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Place {
    pub(super) fn state(&self) -> Result<StateDir, IdentityError> {
        self.state.as_ref().map_or_else(StateDir::standard, |path| Ok(StateDir::at(path)))
    }
}

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   something on this machine failed, such as listening on an address
  2   wrong usage or configuration";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_state_is_named_only_where_it_is_used() {
        let of_itself = Arguments::try_parse_from(["chan-server", "--state", "d"]).unwrap();
        assert_eq!(of_itself.place.state().unwrap().path(), std::path::Path::new("d"));
        let takes_it =
            |command: &clap::Command| command.get_arguments().any(|argument| argument.get_id() == "state");
        let arguments = Arguments::command();
        let takers: Vec<_> = arguments.get_subcommands().filter(|command| takes_it(command)).collect();
        let names: Vec<_> = takers.iter().map(|command| command.get_name()).collect();
        assert_eq!(names, ["serve", "passwd", "identity"]);
        assert!(Arguments::try_parse_from(["chan-server", "check", "--state", "d"]).is_err());
    }
}
