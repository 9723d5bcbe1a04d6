//! The commands that talk to a running server.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use humantime::format_duration;
use lib_chan::private::quoted;

use super::admin::{self, Answer, Order};
use super::arguments::Kick;
use super::{Failure, print_line};
use crate::identity::StateDir;
use crate::live::{SessionInfo, SessionState};
use crate::server::Status;

/// A question to the running server, and its connection, on which nothing more comes until the server ends.
struct Asked {
    answer: Answer,
    connection: BufReader<UnixStream>,
}

fn ask(state: &StateDir, request: &Order) -> Result<Asked, Failure> {
    let path = admin::path(state);
    let cannot = |error: std::io::Error| {
        let hint = if admin::is_there(&path) {
            ""
        } else {
            "; is it running, and is this its state directory (--state)?"
        };
        Failure::local(format_args!("cannot ask the server at {}: {error}{hint}", quoted(&path)))
    };
    let mut stream = UnixStream::connect(&path).map_err(cannot)?;
    let mut text = serde_json::to_string(request).map_err(Failure::local)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).map_err(cannot)?;
    let mut connection = BufReader::new(stream);
    let mut line = String::new();
    connection.read_line(&mut line).map_err(cannot)?;
    if line.is_empty() {
        return Err(Failure::local("the server gave no answer; only its own user and root may ask"));
    }
    match serde_json::from_str(&line) {
        Ok(Answer::Failed { text, code }) => Err(Failure::of_server(text, code)),
        Ok(answer) => Ok(Asked { answer, connection }),
        Err(error) => Err(unexpected(error)),
    }
}

fn unexpected(what: impl std::fmt::Display) -> Failure {
    Failure::local(format_args!("the server answered something else ({what}); is it of another version?"))
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print_line(&serde_json::to_string_pretty(value).map_err(Failure::local)?)
}

/// `chan-server reload`.
pub(super) fn reload(state: &StateDir) -> Result<(), Failure> {
    print_changes(ask(state, &Order::Reload)?)
}

/// `chan-server check --diff`.
pub(super) fn compare(state: &StateDir, file: &Path) -> Result<(), Failure> {
    let file = std::path::absolute(file).map_err(Failure::local)?;
    print_changes(ask(state, &Order::Compare(file))?)
}

fn print_changes(asked: Asked) -> Result<(), Failure> {
    match asked.answer {
        Answer::Changes(changes) => print_line(&changes.to_string()),
        other => Err(unexpected(format_args!("{other:?}"))),
    }
}

/// `chan-server sessions`.
pub(super) fn sessions(state: &StateDir, json: bool) -> Result<(), Failure> {
    match ask(state, &Order::Sessions)?.answer {
        Answer::Sessions(sessions) if json => print_json(&sessions),
        Answer::Sessions(sessions) => print_line(&table(&sessions)),
        other => Err(unexpected(format_args!("{other:?}"))),
    }
}

/// Columns that are as wide as what is in them.
fn table(sessions: &[SessionInfo]) -> String {
    let head = [
        "ID",
        "SERVICE",
        "CLIENT",
        "ADDRESS",
        "STATE",
        "AGE",
        "IDLE",
        "BYTES IN",
        "BYTES OUT",
        "CALLS",
        "IN FLIGHT",
        "MAILBOX",
        "UNSENT",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(sessions.iter().map(|session| {
        let state = match session.state {
            SessionState::Opening => "opening",
            SessionState::Open => "open",
            SessionState::Detached => "detached",
            SessionState::Ending => "ending",
        };
        let client = if session.client.is_empty() { "-" } else { &session.client };
        [
            session.connection.to_string(),
            session.service.clone(),
            client.to_owned(),
            session.peer.to_string(),
            state.to_owned(),
            time(session.age_ms),
            time(session.idle_ms),
            session.bytes_in.to_string(),
            session.bytes_out.to_string(),
            session.calls.to_string(),
            session.calls_in_flight.to_string(),
            session.mailbox_messages.to_string(),
            session.unsent_bytes.to_string(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.pop();
    text
}

/// Whole seconds from one second on.
fn time(ms: u64) -> String {
    let ms = if ms < 1000 { ms } else { ms / 1000 * 1000 };
    format_duration(Duration::from_millis(ms)).to_string()
}

/// `chan-server kick`.
pub(super) fn kick(state: &StateDir, kick: &Kick) -> Result<(), Failure> {
    let Some(whom) = kick.whom() else { return Err(Failure::usage("name a session, a client or a service")) };
    match ask(state, &Order::Kick(whom))?.answer {
        Answer::Kicked(ids) if ids.is_empty() => Err(Failure::usage("there is no such session")),
        Answer::Kicked(ids) => ids.iter().try_for_each(|id| print_line(&format!("ended: session {id}"))),
        other => Err(unexpected(format_args!("{other:?}"))),
    }
}

/// `chan-server drain`.
pub(super) fn drain(state: &StateDir) -> Result<(), Failure> {
    let Asked { answer, mut connection } = ask(state, &Order::Drain)?;
    let Answer::Draining { sessions } = answer else { return Err(unexpected(format_args!("{answer:?}"))) };
    let plural = if sessions == 1 { "" } else { "s" };
    print_line(&format!("Waiting for {sessions} session{plural} to end; Ctrl-C ends the wait alone."))?;
    // The end of the connection is the end of the server, however it comes.
    let _ = connection.read_line(&mut String::new());
    print_line("The server has ended.")
}

/// `chan-server status`.
pub(super) fn status(state: &StateDir, json: bool) -> Result<(), Failure> {
    let status = match ask(state, &Order::Status)?.answer {
        Answer::Status(status) => status,
        other => return Err(unexpected(format_args!("{other:?}"))),
    };
    if json {
        return print_json(&status);
    }
    let Status { phase, version, listen, pin, next_pin, sessions, logins, connections } = status;
    let listen: Vec<_> = listen.iter().map(ToString::to_string).collect();
    let mut text =
        format!("chan-server {version}, {phase}\nlistening on {}\npin {pin}", listen.join(" and "));
    if let Some(next) = next_pin {
        let _ = write!(text, "\nnext pin {next}");
    }
    let _ = write!(
        text,
        "\n{sessions} logged in, {logins} logging in, {connections} connections since the start"
    );
    print_line(&text)
}
