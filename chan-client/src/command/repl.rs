//! Messages typed line by line, or read from a script.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::time::Duration;

use lib_chan::{Channel, Limits, Message, Opaque, Remote};
use tokio::time::{sleep, timeout};

use super::access::typed_json;
use super::arguments::{Access, Start};
use super::block_on;
use super::console::{Console, Input};
use super::exchange::{NO_CALLS, opaque, open, readable, shown};
use super::failure::{Failure, MAYBE};
use super::notice::Notice;

const HELP: &str = "\
MESSAGE     call: send it, in JSON, and show the answer
! MESSAGE   cast: send it, and expect no answer
?           show this
Ctrl-C      stop waiting for an answer
quit, exit  leave, as Ctrl-D does";

/// How long the end of a script waits for messages of the service, once the service has taken all of the script's.
const LAST_MESSAGES_TIMEOUT: Duration = Duration::from_millis(250);

pub(super) fn repl(access: &Access, start: &Start, notice: &Notice) -> Result<(), Failure> {
    let args = start.args()?;
    let way = access.way()?;
    block_on(async {
        let mut chan = notice.during(open(&way, &args, notice)).await?;
        let mut console = Console::start()?;
        let mut conversation = Conversation::new(&console);
        let left = conversation.hold(&mut chan, &mut console).await;
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
    })
}

/// Waits until the service has taken every cast: one that cannot be read shows then, and the end of the session would
/// overtake that.
async fn taken(remote: &Remote<Opaque>) -> Result<(), Failure> {
    match timeout(Limits::default().close_timeout, remote.taken()).await {
        Ok(taken) => taken.map_err(|reason| Failure::cast(&reason)),
        // How the session closes says why.
        Err(_) => Ok(()),
    }
}

/// Gives the service time to say what it has to say to the messages of a script. Nobody knows what that is: a cast has
/// no answer.
async fn wait_for_last(remote: &Remote<Opaque>, script: bool) -> Result<(), Failure> {
    if script {
        taken(remote).await?;
        sleep(LAST_MESSAGES_TIMEOUT).await;
    }
    Ok(())
}

/// How a conversation was left.
enum Left {
    EndOfInput,
    Quit,
}

/// What is said, and in a script, what failed.
struct Conversation {
    script: bool,
    typed: VecDeque<Result<String, Failure>>,
    /// Lines that are shown one by one, before the next message is taken: what waits to be shown is bounded, and a
    /// terminal that is slow to show it still takes what is typed.
    unshown: VecDeque<String>,
    /// The lines that were read.
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

    /// Sends what is typed and shows what comes, until the user leaves or the service ends.
    async fn hold(&mut self, chan: &mut Channel<Opaque>, console: &mut Console) -> Result<Left, Failure> {
        let (remote, show) = (chan.remote(), console.show());
        let mut last = pin!(wait_for_last(&remote, self.script));
        let mut left = None;
        let mut work: Option<Work<'_>> = None;
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
                    Some(Ok(Line::Help)) => self.unshown.push_back(HELP.into()),
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
                    // What is waited for ends with the session, and is shown first.
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

    /// Shows what failed in its place among the answers, and keeps it for the exit code.
    fn complain(&mut self, failure: Failure) {
        self.unshown.push_back(match self.script {
            true => format!("- line {}: {failure}", self.lines),
            false => format!("- {failure}"),
        });
        self.failed += 1;
        self.first_failure.get_or_insert((self.lines, failure));
    }

    /// In a script every failure is one of the command. A person has seen it.
    fn result(self) -> Result<(), Failure> {
        match self.first_failure {
            Some((line, failure)) if self.script => {
                let (failed, lines) = (self.failed, self.lines);
                Err(failure.told_as(|text| {
                    format!("{failed} of {lines} lines failed, the first is line {line}: {text}")
                }))
            }
            _ => Ok(()),
        }
    }
}

/// What the user waits for; it ends with a line to show, if there is one.
type Work<'r> = Pin<Box<dyn Future<Output = Option<Result<String, Failure>>> + Send + 'r>>;

async fn call(remote: &Remote<Opaque>, message: Box<str>) -> Option<Result<String, Failure>> {
    Some(shown(remote.call(opaque(&message)).await))
}

async fn cast(remote: &Remote<Opaque>, message: Box<str>) -> Option<Result<String, Failure>> {
    let sent = remote.cast(opaque(&message)).await;
    sent.err().map(|error| Err(Failure::not_sent(&error.reason)))
}

fn interrupted(waited: bool) -> String {
    match waited {
        true => format!("- cancelled ({MAYBE})"),
        false => "- Ctrl-D leaves".into(),
    }
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Call(Box<str>),
    Cast(Box<str>),
    Empty,
    Help,
    Quit,
}

/// What was given at once: one message, that may be of several lines, or a message on each line, as they are pasted.
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
    fn pasted_lines_are_a_message_each_unless_they_are_one_together() {
        let pasted = |text: &str| lines(text.into());
        assert_eq!(pasted("1"), ["1"]);
        assert_eq!(pasted("[1,\n2]"), ["[1,\n2]"]);
        assert_eq!(pasted("! {\"a\":\n1}\n"), ["! {\"a\":\n1}\n"]);
        assert_eq!(pasted("1\n! 2\n\n{wrong\n"), ["1", "! 2", "", "{wrong"]);
    }

    #[test]
    fn a_line_is_a_call_or_with_a_bang_a_cast() {
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
