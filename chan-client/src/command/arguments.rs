//! What can be written on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Talks to services of a chan-server.
///
/// A URL says where the service is and how its server is trusted:
/// chan://[client@]host:port/service?pin=sha256:… (or ?ca=FILE, ?system, ?tofu). Quote it for the shell. @NAME
/// stands for a URL that was saved.
///
/// Messages and answers are JSON. The password is asked for on the terminal unless a file is named; it is never an
/// argument or in the environment.
#[expect(rustdoc::broken_intra_doc_links, reason = "a URL in the text of --help is no link")]
#[derive(Debug, Parser)]
#[command(name = "chan-client", version, after_long_help = EXIT_CODES, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
    /// Say on standard error what happens: addresses, TLS, the server's key, the login, the session
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Send a message and print the answer
    Call {
        #[command(flatten)]
        access: Access,
        /// The message, in JSON
        message: String,
        #[command(flatten)]
        start: Start,
    },
    /// Send a message that has no answer, and wait until the service has taken it
    Cast {
        #[command(flatten)]
        access: Access,
        /// The message, in JSON
        message: String,
        #[command(flatten)]
        start: Start,
    },
    /// Log in, without starting the service, and print how long that took
    Ping {
        #[command(flatten)]
        access: Access,
    },
    /// Print the messages that the service sends, one JSON line each, until it ends
    Receive {
        #[command(flatten)]
        access: Access,
        #[command(flatten)]
        start: Start,
    },
    /// Send messages line by line (`?` tells how); what arrives is shown as it arrives
    Repl {
        #[command(flatten)]
        access: Access,
        #[command(flatten)]
        start: Start,
    },
    /// Make a private key, in a new file, and print the line that the server is given
    Keygen {
        /// The file to make; only its owner may read it
        file: PathBuf,
    },
    /// Save a URL under a name; @NAME stands for it from then on
    Save {
        /// 1 to 64 letters, digits, `.`, `_` or `-`
        name: String,
        /// The URL
        url: String,
    },
    /// Listen, and carry each connection to the service in a session of its own
    Forward {
        /// Where to listen: a port (then on loopback alone) or ADDRESS:PORT
        listen: String,
        #[command(flatten)]
        access: Access,
    },
    /// Carry standard input to the service and what it sends to standard output
    Pipe {
        #[command(flatten)]
        access: Access,
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

/// How to reach the service and prove oneself.
#[derive(Debug, Args)]
pub(super) struct Access {
    /// The service's URL, or @NAME
    pub(super) url: String,
    /// A file with the password, which nobody but its owner may read
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    pub(super) password_file: Option<PathBuf>,
    /// A file that `chan-client keygen` made, to log in with instead of a password
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// With ?tofu: accept the key of a server never seen before, and remember it
    #[arg(long)]
    pub(super) accept_new: bool,
    /// Time until the answer is here (call), the message is taken (cast) or the session is open, such as 5s or 2m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) timeout: Option<Duration>,
}

/// What a service of messages is started with.
#[derive(Debug, Args)]
pub(super) struct Start {
    /// What the service is started with, in JSON
    #[arg(long, value_name = "JSON")]
    pub(super) args: Option<String>,
}

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   something on this machine failed, such as writing the output
  2   wrong usage, URL or configuration; nothing was sent
  3   cannot connect, or TLS fails; nothing was executed
  4   the server is not the expected one, or misbehaves; nothing was executed
  5   refused; it is never said whether for the password, the service or the client
  6   refused by name after the login; not executed
  7   the service ended or gave no answer; the message says whether it was executed
  8   the time is over; the message says whether it was executed
  9   the connection was lost; the message says whether it was executed
  10  executed, but the answer is too long or cannot be read";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_password_and_a_key_exclude_each_other() {
        let line = ["chan-client", "ping", "@x", "--password-file", "a", "--key-file", "b"];
        assert!(Arguments::try_parse_from(line).is_err());
    }

    #[test]
    fn nothing_takes_a_secret_from_the_command_line_or_the_environment() {
        for command in Arguments::command().get_subcommands() {
            for argument in command.get_arguments() {
                assert_ne!(argument.get_id(), "password");
            }
        }
        assert!(Arguments::try_parse_from(["chan-client", "ping", "@x", "--password", "a"]).is_err());
    }

    #[test]
    fn the_time_is_read_with_its_unit() {
        let line = ["chan-client", "call", "@x", "1", "--timeout", "2m"];
        let Command::Call { access, .. } = Arguments::try_parse_from(line).unwrap().command else { panic!() };
        assert_eq!(access.timeout, Some(Duration::from_secs(120)));
        assert!(Arguments::try_parse_from(["chan-client", "ping", "@x", "--timeout", "5"]).is_err());
    }
}
