//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use lib_chan::dial::{HostPort, SocketPath};

use super::provide::LocalTarget;

/// Talks to services of a chan-server.
///
/// A URL says where the service is and how to trust its server:
/// chan://[client@]host:port[,host:port…]/service?pin=sha256:… (or ?ca=FILE, ?system, ?tofu). Quote it for the shell.
/// @NAME is a saved URL. If a URL names several servers, the first that can be reached is used.
///
/// Messages and answers are JSON. The program asks for the password on the terminal unless a file is named. It never
/// reads a password from an argument or the environment.
#[expect(rustdoc::broken_intra_doc_links, reason = "the text of --help contains a URL, which is not a link")]
#[derive(Debug, Parser)]
#[command(name = "chan-client", version, after_long_help = EXIT_CODES, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
    /// Report each step on standard error: addresses, TLS, the server's key, the login, the session
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Send a message and print the answer
    Call {
        #[command(flatten)]
        access: Access,
        /// The message, in JSON; `-` reads it from standard input
        #[arg(allow_negative_numbers = true)]
        message: String,
        #[command(flatten)]
        start: Start,
    },
    /// Send a message without an answer, and wait until the service has taken it
    Cast {
        #[command(flatten)]
        access: Access,
        /// The message, in JSON; `-` reads it from standard input
        #[arg(allow_negative_numbers = true)]
        message: String,
        #[command(flatten)]
        start: Start,
    },
    /// Log in, without starting the service, and print how long that took
    Ping {
        #[command(flatten)]
        access: Access,
    },
    /// Print the protocol of the service, without starting it: its methods with their arguments, replies and docs
    ///
    /// A `cast` is sent with `chan-client cast`, a `call` with `chan-client call`: {"METHOD":{"ARGUMENT":…}}. The output
    /// can be kept, to compare later versions of the protocol with it (lib_chan: Interface::accepts).
    Describe {
        #[command(flatten)]
        access: Access,
        /// Print it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the messages that the service sends, one JSON line each, until it ends
    ///
    /// SIGHUP, SIGINT, SIGTERM and a closed standard output end the command with exit code 0.
    Receive {
        #[command(flatten)]
        access: Access,
        #[command(flatten)]
        start: Start,
        #[command(flatten)]
        outage: Outage,
    },
    /// Send messages line by line, and print what arrives (`?` shows the help)
    ///
    /// Input that is not a terminal is a script. A line that fails prints `- line N: …`, the script continues, and the exit
    /// code is that of the first failure. At the end of the script, the command waits 250 ms for messages of the service.
    Repl {
        #[command(flatten)]
        access: Access,
        #[command(flatten)]
        start: Start,
        #[command(flatten)]
        outage: Outage,
    },
    /// Make a private key in a new file, and print the public key for the server
    Keygen {
        /// The new file; only its owner can read it
        file: PathBuf,
    },
    /// Print the public key of a private key, for the server
    Pubkey {
        /// A file made by `chan-client keygen`
        file: PathBuf,
    },
    /// Save a URL under a name, to use it as @NAME
    Save {
        /// 1 to 64 letters, digits, `.`, `_` or `-`
        name: String,
        /// The URL
        url: String,
        /// Replace the URL that has this name
        #[arg(long)]
        replace: bool,
    },
    /// Print the saved URLs, one per line
    List,
    /// Delete a saved URL
    Delete {
        /// Its name
        name: String,
    },
    /// Listen, and carry each connection to the service
    ///
    /// All connections share one session, so a new one needs no login. If the service allows one connection in a session
    /// only, each gets a session of its own.
    ///
    /// SIGHUP, SIGINT and SIGTERM end the command with exit code 0.
    Forward {
        /// Where to listen: a port (on 127.0.0.1 and ::1 only) or ADDRESS:PORT
        listen: String,
        /// The most connections at once; further ones are reset. A server allows a client 300 sessions, unless its
        /// operator sets max_sessions_per_client
        #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
        max_connections: u16,
        /// Give each connection a session of its own
        #[arg(long)]
        isolate: bool,
        #[command(flatten)]
        access: Access,
        #[command(flatten)]
        outage: Outage,
    },
    /// Carry standard input to the service, and the bytes of the service to standard output
    ///
    /// EOF on standard input reaches the service. EOF from the service closes standard output; the command then continues
    /// while standard input delivers bytes, and ends once it has been silent for 1 s.
    Pipe {
        #[command(flatten)]
        access: Access,
        #[command(flatten)]
        outage: Outage,
    },
    /// Offer a service of this machine through a server, and carry connections of the server's clients to it
    ///
    /// For a machine that has no public address. The URL is that of a service for providers: mfa = ["provided", "for", NAME].
    /// Other clients use the service ["provided", "by", NAME] with forward or pipe. Several programs may provide one name.
    ///
    /// The command fails if the first login does. Later it logs in again until that works, whatever the reason is.
    /// SIGHUP, SIGINT and SIGTERM end the command with exit code 0.
    Provide {
        #[command(flatten)]
        access: Access,
        #[command(flatten)]
        target: Target,
        /// The most connections at once; further ones go to another provider, or are refused
        #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
        max_connections: u16,
        #[command(flatten)]
        outage: Outage,
    },
    /// Print a script that completes command lines
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    Man {
        /// An existing directory for the pages
        directory: PathBuf,
    },
}

/// How to reach the service and log in.
#[derive(Debug, Args)]
pub(super) struct Access {
    /// The service's URL, or @NAME
    pub(super) url: String,
    /// A file with the password, readable by its owner only
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    pub(super) password_file: Option<PathBuf>,
    /// A private key made by `chan-client keygen`, instead of a password
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// With ?tofu: accept the key of a server never seen before, and save it
    #[arg(long)]
    pub(super) accept_new: bool,
    /// The time until the answer arrives (call), the message is taken (cast) or the session is open, such as 5s or 2m; a
    /// number without a unit is seconds. Typing the password does not count
    /// [default: 10s to connect, 15s to log in, 60s for an answer]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) timeout: Option<Duration>,
    /// Wait this long for a server that is not running yet; counts against --timeout
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) wait: Option<Duration>,
}

/// How to start a service of messages.
#[derive(Debug, Args)]
pub(super) struct Start {
    /// The arguments of the service, in JSON [default: null]
    #[arg(long, value_name = "JSON", allow_negative_numbers = true)]
    pub(super) args: Option<String>,
}

/// The service of this machine that `provide` offers.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Target {
    /// Offer the service at this TCP port, of this machine or of one that it can reach
    #[arg(long, value_name = "HOST:PORT")]
    tcp: Option<HostPort>,
    /// Offer the service at this Unix socket
    #[arg(long, value_name = "PATH", value_parser = LocalTarget::parse_unix)]
    unix: Option<SocketPath>,
}

impl From<Target> for LocalTarget {
    fn from(Target { tcp, unix }: Target) -> Self {
        match (tcp, unix) {
            (Some(target), _) => Self::Tcp(target),
            (None, Some(target)) => Self::Unix(target),
            (None, None) => unreachable!("the command line needs one of the two"),
        }
    }
}

/// What becomes of a session without a connection.
#[derive(Debug, Args)]
pub(super) struct Outage {
    /// Keep the session for this long after its connection is lost, and reconnect meanwhile; 0 ends it at once. The server
    /// may keep it for less: 1m, unless its operator sets resume. If this program is killed (SIGKILL, a crash), the far
    /// end of a stream is reset only when that time is over
    /// [default: 2m; for the streams of forward, pipe and provide 5s]
    #[arg(long, value_name = "TIME", value_parser = time_or_zero)]
    resume: Option<Duration>,
}

impl Outage {
    /// Returns how long a session with messages is kept.
    pub(super) fn of_messages(&self) -> Duration {
        self.resume.unwrap_or(Duration::from_secs(120))
    }

    /// Returns how long a session with a stream is kept. Not for long: the target of a client that was killed waits, with
    /// what it has locked.
    pub(super) fn of_stream(&self) -> Duration {
        self.resume.unwrap_or(Duration::from_secs(5))
    }
}

/// Parses a time above zero.
fn time(text: &str) -> Result<Duration, String> {
    match time_or_zero(text)? {
        Duration::ZERO => Err("expected a time above zero; leave the option out for the default".into()),
        time => Ok(time),
    }
}

/// Parses a time as people write it. A time that is too long to count becomes [`FOREVER`].
fn time_or_zero(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds >= 0.0);
    let time = match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).unwrap_or(FOREVER),
        None => match humantime::parse_duration(text) {
            Err(humantime::DurationError::NumberOverflow) => FOREVER,
            parsed => parsed.map_err(|error| format!("{error}; write 5s, 2m or 1h 30m"))?,
        },
    };
    Ok(time.min(FOREVER))
}

/// Thirty years. Clocks cannot count every longer time.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   something on this machine failed, such as writing the output
  2   wrong usage, URL or configuration; nothing was sent
  3   cannot connect, or TLS fails; nothing was executed
  4   the server is not the expected one, or breaks the protocol; the message says whether it was executed
  5   refused; the server never says whether the password, the service or the client is wrong
  6   refused with a reason after the login; not executed
  7   the service ended or gave no answer; the message says whether it was executed
  8   the timeout has passed; the message says whether it was executed
  9   the connection was lost; the message says whether it was executed
  10  executed, but the answer is too long or cannot be read
  129, 130, 143  ended by SIGHUP, SIGINT (Ctrl-C) or SIGTERM before it was done";

/// The command line, with the exit codes in the help of every command.
pub(super) fn command() -> clap::Command {
    let mut command = Arguments::command();
    for name in command.get_subcommands().map(|command| command.get_name().to_owned()).collect::<Vec<_>>() {
        command = command.mut_subcommand(name, |command| command.after_long_help(EXIT_CODES));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_valid() {
        command().debug_assert();
    }

    #[test]
    fn every_command_lists_its_exit_codes() {
        for command in command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Exit codes:"), "{help}");
        }
    }

    #[test]
    fn accepts_negative_number_as_message() {
        for number in ["-5", "-0.5", "-1e5"] {
            let line = ["chan-client", "call", "@x", number, "--args", number];
            let Command::Call { message, start, .. } = Arguments::try_parse_from(line).unwrap().command
            else {
                panic!()
            };
            assert_eq!((message.as_str(), start.args.as_deref()), (number, Some(number)));
        }
    }

    #[test]
    fn password_and_key_exclude_each_other() {
        let line = ["chan-client", "ping", "@x", "--password-file", "a", "--key-file", "b"];
        assert!(Arguments::try_parse_from(line).is_err());
    }

    #[test]
    fn takes_no_secret_from_arguments() {
        for command in Arguments::command().get_subcommands() {
            for argument in command.get_arguments() {
                assert_ne!(argument.get_id(), "password");
            }
        }
        assert!(Arguments::try_parse_from(["chan-client", "ping", "@x", "--password", "a"]).is_err());
    }

    #[test]
    fn parses_times_with_units() {
        let line = ["chan-client", "call", "@x", "1", "--timeout", "2m"];
        let Command::Call { access, .. } = Arguments::try_parse_from(line).unwrap().command else { panic!() };
        assert_eq!(access.timeout, Some(Duration::from_secs(120)));
        for (text, wanted) in [
            ("5", Duration::from_secs(5)),
            ("0.5", Duration::from_millis(500)),
            ("1h 30m", Duration::from_secs(5400)),
            ("500000000000y", FOREVER),
            ("300000000000years", FOREVER),
            ("1e300", FOREVER),
        ] {
            assert_eq!(time(text).as_ref(), Ok(&wanted), "{text}");
        }
        for text in ["0", "0s", "-1", "soon", "NaN", ""] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn resume_takes_zero_and_has_default() {
        for (more, messages, stream) in [
            (&[][..], 120, 5),
            (&["--resume", "0"], 0, 0),
            (&["--resume", "0s"], 0, 0),
            (&["--resume", "1h"], 3600, 3600),
        ] {
            let line = [&["chan-client", "pipe", "@x"], more].concat();
            let Command::Pipe { outage, .. } = Arguments::try_parse_from(line).unwrap().command else {
                panic!()
            };
            let kept = [outage.of_messages(), outage.of_stream()];
            assert_eq!(kept, [messages, stream].map(Duration::from_secs), "{more:?}");
        }
    }
}
