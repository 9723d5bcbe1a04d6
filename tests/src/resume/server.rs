//! The server's program, and how the others start and ask it.

use std::{
    io::{self, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use chan_server::{
    Server, audit::Audit, config::Config, identity::StateDir, live::SessionState, modules::Modules,
};
use lib_chan::{Channel, ExitReason, Message, Opaque, Process, payload::Codec};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::{Instant, sleep},
};

use crate::{Folder, Lines, client_key, soak::sample::Sample};

/// The first byte of a cast that comes back; one with another is dropped.
pub(super) const BACK: u8 = 1;
/// Longer than any of the campaigns may be without a connection.
pub(super) const WINDOW: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(120);

/// Answers calls with what they say, sends casts back that ask for it, and drops the others.
async fn service(mut chan: Channel<Opaque>) -> Result<(), ExitReason> {
    let remote = chan.remote();
    while let Some(message) = chan.recv().await {
        match message {
            Message::Call(call, reply) => reply.to(&call).send(call),
            Message::Cast(Opaque(bytes)) if bytes.first() == Some(&BACK) => {
                remote.cast(Opaque(bytes)).await?;
            }
            Message::Cast(_) => {}
        }
    }
    Ok(())
}

/// Serves until standard input ends. Prints its URL, and for each line that comes how many sessions there are and how many
/// of them are detached.
///
/// # Panics
/// If the server does not start.
pub async fn serve() {
    let _ = chan_server::raise_descriptor_limit();
    let folder = Folder::new();
    let key = client_key().public_key();
    let text = format!(
        "listen = ['127.0.0.1:0']\n[[service]]\nname = 'resume'\nmfa = ['resume', 'serve']\nresume = '10 min'\n\
         [[service.client]]\nname = 'joe'\nkey = '{key}'\nmax_sessions = 30000\n\
         [limits]\nmax_sessions = 30000\nmax_sessions_per_service = 30000\nmax_sessions_per_client = 30000\n\
         max_resumable = 30000\nmax_resumable_per_client = 30000\nheartbeat_interval = '5 s'\n"
    );
    let start = |_me: Process, chan, (): (), (): ()| service(chan);
    let modules = Modules::new().function_for(&[Codec::Raw], "resume", "serve", start);
    let config = Config::parse(&text, Path::new("resume"), &modules).expect("a configuration");
    let state = StateDir::at(folder.path().join("state"));
    let server = Server::bind(config, &state, Audit::none()).await.expect("the server starts");
    say(&format!("url {}", server.urls().remove(0).url));
    let handle = server.handle();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(_)) = lines.next_line().await {
        let sessions = handle.sessions();
        let detached = sessions.iter().filter(|session| session.state == SessionState::Detached).count();
        say(&format!("count {} {detached}", sessions.len()));
    }
}

#[expect(clippy::print_stdout, reason = "it is how the programs talk")]
fn say(line: &str) {
    println!("{line}");
    let _ = io::stdout().flush();
}

/// That program, as another one sees it.
pub(super) struct Program {
    child: Child,
    stdin: ChildStdin,
    lines: Lines,
    asked: usize,
    pub(super) url: String,
}

impl Program {
    /// Starts it, which is this program with another argument.
    pub(super) fn start() -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg("server").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes"));
        };
        let lines = Lines::of(stdout);
        let line = lines.wait("its URL", |line| line.starts_with("url "));
        let url = line.trim_start_matches("url ").to_owned();
        Ok(Self { child, stdin, lines, asked: 0, url })
    }

    /// How many sessions it has, and how many of them are detached.
    pub(super) fn count(&mut self) -> io::Result<(usize, usize)> {
        writeln!(self.stdin)?;
        self.asked += 1;
        let is_count = |line: &&String| line.starts_with("count ");
        let asked = self.asked;
        self.lines.wait_for("counts", |lines| lines.iter().filter(is_count).count() == asked);
        let line = self.lines.all().into_iter().rfind(|line| is_count(&line)).unwrap_or_default();
        let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
        numbers.next().zip(numbers.next()).ok_or_else(|| io::Error::other("the server said no counts"))
    }

    /// Waits until its counts are these.
    pub(super) async fn wait_for(&mut self, wanted: (usize, usize)) -> io::Result<()> {
        let began = Instant::now();
        loop {
            let counts = self.count()?;
            if counts == wanted {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                return Err(io::Error::other(format!(
                    "{counts:?} sessions and detached ones, not {wanted:?}"
                )));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What it takes of the machine.
    pub(super) fn sample(&self) -> io::Result<Sample> {
        Sample::of(self.child.id())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A message of this kind with a number, so long.
pub(super) fn message(kind: u8, number: u64, len: usize) -> Opaque {
    let mut bytes = vec![0; len.max(9)];
    bytes[0] = kind;
    bytes[1..9].copy_from_slice(&number.to_be_bytes());
    Opaque(Bytes::from(bytes))
}

/// The number in such a message.
pub(super) fn number(message: &Opaque) -> Option<u64> {
    Some(u64::from_be_bytes(*message.0.get(1..)?.first_chunk()?))
}
