//! Messages from the keyboard or a script, line by line.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lib_chan::signals::{self, Subscription};
use lib_chan::{Channel, ConnectionState, Limits, Message, Opaque, Remote};
use tokio::time::{sleep, timeout};

use super::access::{Way, typed_json};
use super::arguments::{Access, Outage, Start};
use super::block_on;
use super::console::{Console, Input};
use super::describe::{self, Completion};
use super::exchange::{NO_CALLS, opaque, open, readable, shown};
use super::failure::{Failure, MAYBE};
use super::notice::{DRAINING, Notice, RECONNECTED, RECONNECTING};

const HELP: &str = "\
MESSAGE     call: send JSON and show the answer
! MESSAGE   cast: send JSON without an answer
?           show this help
Tab         complete the name of a method, if the service describes its protocol
Ctrl-C      stop waiting for an answer
quit, exit  leave, like Ctrl-D";

/// The time for which the end of a script waits for messages of the service, once the service has taken the script's.
const LAST_MESSAGES_TIMEOUT: Duration = Duration::from_millis(250);

pub(super) fn repl(access: &Access, start: &Start, outage: &Outage, notice: &Notice) -> Result<(), Failure> {
    let args = start.args()?;
    let way = access.way()?.resuming(outage.of_messages());
    block_on(async {
        let mut signals = signals::subscribe();
        let (chan, session) = notice.during(&mut signals, open(&way, &args, notice)).await?;
        let held = hold(chan, &way, signals, notice).await;
        session.end(held).await
    })
}

/// Holds the conversation and closes the session.
async fn hold(
    mut chan: Channel<Opaque>,
    way: &Way,
    signals: Subscription,
    notice: &Notice,
) -> Result<(), Failure> {
    let mut console = Console::start(signals)?;
    if !console.has_editor() {
        notice.follow_all(chan.remote());
    }
    let mut conversation = Conversation::new(&console);
    let completions = console.completions();
    let left = tokio::select! {
        left = conversation.hold(&mut chan, &mut console) => left,
        never = learn(way, completions) => match never {},
    };
    let mut signals = console.finish(!matches!(left, Ok(Left::EndOfInput))).await;
    left?;
    let close = async {
        taken(&chan.remote()).await?;
        chan.close().await.map_err(|reason| Failure::cast(&reason))
    };
    tokio::select! {
        closed = close => closed?,
        signal = signals.recv() => return Err(Failure::signal(signal, MAYBE)),
    }
    conversation.result()
}

/// Returns the help, with the methods of the service if they are known.
fn help(console: &Console) -> String {
    let completions = console.completions();
    let methods = completions.iter().filter_map(|completions| completions.get()).flatten();
    let shown = methods.map(|method| format!("{}\n", method.shown)).collect::<String>();
    shown + HELP
}

/// Asks for the protocol of the service, beside the conversation, for the line editor to complete its methods.
async fn learn(way: &Way, completions: Option<Arc<OnceLock<Vec<Completion>>>>) -> Infallible {
    if let Some(completions) = completions
        && let Ok(interface) = way.quietly().describe().await
    {
        let _ = completions.set(describe::completions(&interface));
    }
    pending().await
}

/// Waits until the service has taken every cast. It reports a cast that it cannot decode only then, and closing the
/// session before that would hide the error.
async fn taken(remote: &Remote<Opaque>) -> Result<(), Failure> {
    match timeout(Limits::default().close_timeout, remote.taken()).await {
        Ok(taken) => taken.map_err(|reason| Failure::cast(&reason)),
        // The close that follows reports the cause.
        Err(_) => Ok(()),
    }
}

/// Gives the service time to react to the casts of a script. A cast has no answer, so the client cannot know whether
/// more messages follow.
async fn wait_for_last(remote: &Remote<Opaque>, script: bool) -> Result<(), Failure> {
    if script {
        taken(remote).await?;
        sleep(LAST_MESSAGES_TIMEOUT).await;
    }
    Ok(())
}

/// Why the user left.
enum Left {
    EndOfInput,
    Quit,
}

/// The state of the conversation.
struct Conversation {
    script: bool,
    typed: VecDeque<Result<String, Failure>>,
    /// Lines to show before the next message is taken. So the output is bounded, and a slow terminal does not keep the
    /// program from reading the keyboard.
    unshown: VecDeque<String>,
    /// The number of lines read.
    lines: u64,
    failed: u64,
    first_failure: Option<(u64, Failure)>,
}

impl Conversation {
    fn new(console: &Console) -> Self {
        Self {
            script: console.is_script(),
            typed: VecDeque::new(),
            unshown: VecDeque::new(),
            lines: 0,
            failed: 0,
            first_failure: None,
        }
    }

    /// Sends typed messages and shows messages of the service, until the user leaves or the service ends.
    async fn hold(&mut self, chan: &mut Channel<Opaque>, console: &mut Console) -> Result<Left, Failure> {
        let (remote, show) = (chan.remote(), console.show());
        let mut last = pin!(wait_for_last(&remote, self.script));
        let mut left = None;
        let mut work: Option<Work<'_>> = None;
        // The line editor owns the terminal, so the state of the connection and of the server is shown as a line above the
        // prompt.
        let mut connection = console.has_editor().then(|| remote.connection());
        let (mut draining, mut may_drain) = (pin!(remote.wait_draining()), console.has_editor());
        let mut over = false;
        loop {
            let mut waits_for_last = false;
            if work.is_none() && self.unshown.is_empty() {
                if over {
                    return Err(Failure::ended(&remote.ended().await));
                }
                match self.next_line() {
                    Some(Ok(Line::Call(message))) => work = Some(Box::pin(call(&remote, message))),
                    Some(Ok(Line::Cast(message))) => work = Some(Box::pin(cast(&remote, message))),
                    Some(Ok(Line::Help)) => self.unshown.push_back(help(console)),
                    Some(Ok(Line::Empty)) => continue,
                    Some(Ok(Line::Quit)) => {
                        self.typed.clear();
                        left = Some(Left::Quit);
                        continue;
                    }
                    Some(Err(failure)) => self.complain(failure),
                    None => waits_for_last = left.is_some(),
                }
            }
            let idle = self.unshown.is_empty();
            let reads = left.is_none() && self.typed.len() < console.max_typed();
            tokio::select! {
                biased;
                room = show.reserve(), if !idle => {
                    let room = room.map_err(|_| Failure::local("cannot write the output: nobody reads it"))?;
                    room.send(self.unshown.pop_front().unwrap_or_default());
                }
                input = console.input(reads) => match input {
                    Some(Input::Line(text)) => self.typed.extend(lines(text).into_iter().map(Ok)),
                    Some(Input::Unreadable(failure)) => self.typed.push_back(Err(failure)),
                    Some(Input::Interrupt) => {
                        self.typed.clear();
                        self.unshown.push_back(interrupted(work.take().is_some()));
                    }
                    Some(Input::Signal(signal)) => return Err(Failure::signal(signal, MAYBE)),
                    None => left = Some(Left::EndOfInput),
                },
                // Before the answer that came over the next connection.
                state = changed(&remote, connection), if connection.is_some() => {
                    self.unshown.extend(shown_change(connection, state));
                    connection = state;
                }
                drains = &mut draining, if may_drain => {
                    self.unshown.extend(drains.then(|| format!("- {DRAINING}")));
                    may_drain = false;
                }
                done = async { work.as_mut()?.await }, if idle && work.is_some() => {
                    work = None;
                    match done {
                        Some(Ok(line)) => self.unshown.push_back(line),
                        Some(Err(failure)) => self.complain(failure),
                        None => {}
                    }
                }
                done = &mut last, if waits_for_last => {
                    done?;
                    return Ok(left.unwrap_or(Left::EndOfInput));
                }
                message = chan.recv(), if idle && !over => match message {
                    Some(Message::Cast(message)) => {
                        let unreadable = |what| format!("- a message {what}");
                        self.unshown.push_back(readable(&message).unwrap_or_else(unreadable));
                    }
                    Some(Message::Call(_, reply)) => reply.refuse(NO_CALLS),
                    // The pending call ends with the session. Its result is shown first.
                    None => over = true,
                },
            }
        }
    }

    fn next_line(&mut self) -> Option<Result<Line, Failure>> {
        let typed = self.typed.pop_front()?;
        self.lines += 1;
        Some(typed.and_then(|line| parse(&line)))
    }

    /// Shows a failure among the answers, and keeps the first one for the exit code.
    fn complain(&mut self, failure: Failure) {
        self.unshown.push_back(match self.script {
            true => format!("- line {}: {failure}", self.lines),
            false => format!("- {failure}"),
        });
        self.failed += 1;
        self.first_failure.get_or_insert((self.lines, failure));
    }

    /// Returns the result of the command. A failed line fails a script; a person has already seen the failure.
    fn result(self) -> Result<(), Failure> {
        match self.first_failure {
            Some((line, failure)) if self.script => {
                let (failed, lines) = (self.failed, self.lines);
                Err(failure.map_line(|text| {
                    format!("{failed} of {lines} lines failed, the first is line {line}: {text}")
                }))
            }
            _ => Ok(()),
        }
    }
}

/// Waits until the state of the connection is another than `seen`; `None` once the session has ended.
async fn changed(remote: &Remote<Opaque>, seen: Option<ConnectionState>) -> Option<ConnectionState> {
    remote.connection_changed(seen?).await
}

/// Returns the line about a change of the connection, if there is one.
fn shown_change(before: Option<ConnectionState>, after: Option<ConnectionState>) -> Option<String> {
    use ConnectionState::{Attached, Detached};

    match (before?, after?) {
        (Attached { .. }, Detached { .. }) => Some(format!("- {RECONNECTING}")),
        (Detached { .. }, Attached { .. }) => Some(format!("- {RECONNECTED}")),
        _ => None,
    }
}

/// The message that the user waits for. Its result is a line to show, if there is one.
type Work<'r> = Pin<Box<dyn Future<Output = Option<Result<String, Failure>>> + Send + 'r>>;

async fn call(remote: &Remote<Opaque>, message: Box<str>) -> Option<Result<String, Failure>> {
    Some(shown(remote.call(opaque(&message)).await))
}

async fn cast(remote: &Remote<Opaque>, message: Box<str>) -> Option<Result<String, Failure>> {
    let sent = remote.cast(opaque(&message)).await;
    sent.err().map(|error| Err(Failure::not_sent(&error.into())))
}

fn interrupted(waited: bool) -> String {
    match waited {
        true => format!("- cancelled ({MAYBE})"),
        false => "- Ctrl-D leaves".into(),
    }
}

/// A parsed line.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Call(Box<str>),
    Cast(Box<str>),
    Empty,
    Help,
    Quit,
}

/// Splits pasted text: it is one message over several lines, or one message on each line.
fn lines(text: String) -> Vec<String> {
    match text.contains('\n') && parse(&text).is_err() {
        true => text.lines().map(str::to_owned).collect(),
        false => vec![text],
    }
}

fn parse(line: &str) -> Result<Line, Failure> {
    match line.trim() {
        "" => Ok(Line::Empty),
        "?" | "help" => Ok(Line::Help),
        "quit" | "exit" => Ok(Line::Quit),
        text => match text.strip_prefix('!') {
            Some(message) => Ok(Line::Cast(typed_json("the message", message)?)),
            None => Ok(Line::Call(typed_json("the message", text)?)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_pasted_messages() {
        let pasted = |text: &str| lines(text.into());
        assert_eq!(pasted("1"), ["1"]);
        assert_eq!(pasted("[1,\n2]"), ["[1,\n2]"]);
        assert_eq!(pasted("! {\"a\":\n1}\n"), ["! {\"a\":\n1}\n"]);
        assert_eq!(pasted("1\n! 2\n\n{wrong\n"), ["1", "! 2", "", "{wrong"]);
    }

    #[test]
    fn parses_calls_and_casts() {
        assert_eq!(
            parse(" {\"Lookup\": {\"key\": \"joe\"}} ").unwrap(),
            Line::Call(r#"{"Lookup":{"key":"joe"}}"#.into())
        );
        assert_eq!(parse("! 1 ").unwrap(), Line::Cast("1".into()));
        assert_eq!(parse("!\"!\"").unwrap(), Line::Cast("\"!\"".into()));
        assert_eq!(parse("  ").unwrap(), Line::Empty);
        assert_eq!(parse("?").unwrap(), Line::Help);
        assert_eq!(["quit", " exit "].map(|line| parse(line).unwrap()), [Line::Quit, Line::Quit]);
        let wrong = parse("Lookup").unwrap_err();
        assert_eq!(wrong.exit_code(), 2);
        assert!(!wrong.to_string().contains("shell"), "{wrong}");
        assert_eq!(parse("!").unwrap_err().exit_code(), 2);
    }
}
