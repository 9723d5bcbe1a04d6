//! What can be written on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::passwd::Passwd;

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
pub struct Arguments {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    /// The directory for the server's private key and its name key; made on first use
    /// [default: $XDG_STATE_HOME/chan-server, or ~/.local/state/chan-server]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve, until Ctrl-C or SIGTERM: then wait for the sessions to end, and end what is left with `shutdown`
    Serve {
        #[command(flatten)]
        choice: Choice,
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
}
