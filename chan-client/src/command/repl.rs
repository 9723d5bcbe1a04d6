//! Messages typed line by line.

use std::collections::VecDeque;
use std::io::{BufRead, IsTerminal, stdin, stdout};
use std::pin::Pin;
use std::thread;

use lib_chan::{Channel, Limits, Message, Opaque, Remote};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, ExternalPrinter};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::access::typed_json;
use super::arguments::{Access, Start};
use super::exchange::{NO_CALLS, opaque, open, readable, shown};
use super::failure::Failure;
use super::notice::Notice;
use super::{block_on, print_line};

const HELP: &str = "\
MESSAGE   call: send it, in JSON, and show the answer
! MESSAGE cast: send it, and expect no answer
Ctrl-C    stop waiting for an answer
Ctrl-D    leave";

pub(super) fn repl(access: &Access, start: &Start, notice: &Notice) -> Result<(), Failure> {
    let args = start.args()?;
    let way = access.way()?;
    block_on(async {
        let mut chan = notice.during(open(&way, &args, notice)).await?;
        let mut console = Console::start()?;
        let left = converse(&mut chan, &mut console).await;
        console.finish(left.is_err()).await;
        left?;
        // A cast that cannot be read shows when it is taken, which the end of the session would overtake.
        let remote = chan.remote();
        if let Ok(taken) = timeout(Limits::default().close_timeout, remote.taken()).await {
            taken.map_err(|reason| Failure::cast(&reason))?;
        }
        chan.close().await.map_err(|reason| Failure::cast(&reason))
    })
}

/// Lines typed ahead while an answer is waited for; more are not read.
const MAX_TYPED: usize = 64;

/// Sends what is typed and shows what comes, until the user leaves or the service ends.
async fn converse(chan: &mut Channel<Opaque>, console: &mut Console) -> Result<(), Failure> {
    let remote = chan.remote();
    let mut typed = VecDeque::new();
    let mut more_input = true;
    let mut work: Option<Work<'_>> = None;
    // One thing is shown before the next is taken, so what waits to be shown is bounded, and a terminal that is slow
    // to show it still takes what is typed.
    let mut unshown = VecDeque::new();
    let mut over = false;
    loop {
        if work.is_none() && unshown.is_empty() {
            if over {
                return Err(Failure::ended(&remote.ended().await));
            }
            match typed.pop_front().as_deref().map(parse) {
                Some(Ok(Line::Call(message))) => work = Some(Box::pin(call(&remote, message))),
                Some(Ok(Line::Cast(message))) => work = Some(Box::pin(cast(&remote, message))),
                Some(Ok(Line::Help)) => unshown.push_back(HELP.into()),
                Some(Ok(Line::Empty)) => continue,
                Some(Err(failure)) => unshown.push_back(complaint(failure)),
                None if !more_input => return Ok(()),
                None => {}
            }
        }
        let idle = unshown.is_empty();
        tokio::select! {
            room = console.show.reserve(), if !idle => {
                let room = room.map_err(|_| Failure::local("the output is gone"))?;
                room.send(unshown.pop_front().unwrap_or_default());
            }
            input = console.inputs.recv(), if more_input && typed.len() < MAX_TYPED => match input {
                Some(Input::Line(text)) => typed.extend(lines(text)),
                Some(Input::Interrupt) => {
                    typed.clear();
                    unshown.push_back(interrupted(work.take().is_some()).into());
                }
                None => more_input = false,
            },
            line = async { work.as_mut()?.await }, if idle && work.is_some() => {
                work = None;
                unshown.extend(line);
            }
            message = chan.recv(), if idle && !over => match message {
                Some(Message::Cast(message)) => {
                    unshown.push_back(readable(&message).unwrap_or_else(|what| format!("- a message {what}")));
                }
                Some(Message::Call(_, reply)) => reply.refuse(NO_CALLS),
                // What is waited for ends with the session, and is shown first.
                None => over = true,
            },
        }
    }
}

/// What the user waits for; it ends with a line to show, if there is one.
type Work<'r> = Pin<Box<dyn Future<Output = Option<String>> + Send + 'r>>;

async fn call(remote: &Remote<Opaque>, message: Box<str>) -> Option<String> {
    Some(shown(remote.call(opaque(&message)).await).unwrap_or_else(complaint))
}

async fn cast(remote: &Remote<Opaque>, message: Box<str>) -> Option<String> {
    let sent = remote.cast(opaque(&message)).await;
    sent.err().map(|error| complaint(Failure::not_sent(&error.reason)))
}

fn complaint(failure: Failure) -> String {
    format!("- {failure}")
}

fn interrupted(waited: bool) -> &'static str {
    match waited {
        true => "- cancelled (perhaps executed: find out before you send it again)",
        false => "- Ctrl-D leaves",
    }
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Call(Box<str>),
    Cast(Box<str>),
    Empty,
    Help,
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
        text => match text.strip_prefix('!') {
            Some(message) => Ok(Line::Cast(typed_json("the message", message)?)),
            None => Ok(Line::Call(typed_json("the message", text)?)),
        },
    }
}

/// What comes from the keyboard.
enum Input {
    Line(String),
    Interrupt,
}

/// The terminal, or what stands in its place: threads that read and show.
struct Console {
    inputs: mpsc::Receiver<Input>,
    show: mpsc::Sender<String>,
    showing: thread::JoinHandle<()>,
    /// The terminal's own settings. The editor has changed them, and is still reading when the service ends.
    settings: Option<Termios>,
}

impl Console {
    fn start() -> Result<Self, Failure> {
        let (input, inputs) = mpsc::channel(1);
        let (show, to_show) = mpsc::channel(1);
        let terminal = stdin().is_terminal() && stdout().is_terminal();
        let (settings, showing) = match terminal {
            true => {
                let settings = tcgetattr(stdin()).map_err(std::io::Error::from)?;
                // The history is kept in memory alone; what is typed here may be secret.
                let mut editor = DefaultEditor::new().map_err(Failure::local)?;
                let printer = editor.create_external_printer().map_err(Failure::local)?;
                thread::spawn(move || edit(&mut editor, &input));
                (Some(settings), thread::spawn(move || show_above(printer, to_show)))
            }
            false => {
                thread::spawn(move || read(&input));
                (None, thread::spawn(move || show_plainly(to_show)))
            }
        };
        Ok(Self { inputs, show, showing, settings })
    }

    /// Waits until everything is shown, and gives the terminal back as it was; if the user did not leave, with the
    /// prompt still in its last line.
    async fn finish(self, prompting: bool) {
        let Self { show, showing, settings, inputs: _ } = self;
        drop(show);
        // It ends when it has shown the last; a terminal that shows nothing more is nobody to wait for.
        let _ = tokio::task::spawn_blocking(|| showing.join()).await;
        if let Some(settings) = settings {
            // If the terminal is gone there is nothing to set.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &settings);
            if prompting {
                eprintln!();
            }
        }
    }
}

/// Reads with line editing until the end of the input, or until nobody takes it.
fn edit(editor: &mut DefaultEditor, inputs: &mpsc::Sender<Input>) {
    loop {
        let input = match editor.readline("> ") {
            Ok(line) => {
                // A line that cannot be kept in the history is still one to send.
                let _ = editor.add_history_entry(&line);
                Input::Line(line)
            }
            Err(ReadlineError::Interrupted) => Input::Interrupt,
            Err(_) => return,
        };
        if inputs.blocking_send(input).is_err() {
            return;
        }
    }
}

fn read(inputs: &mpsc::Sender<Input>) {
    for line in stdin().lock().lines().map_while(Result::ok) {
        if inputs.blocking_send(Input::Line(line)).is_err() {
            return;
        }
    }
}

fn show_above(mut printer: impl ExternalPrinter, mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.blocking_recv() {
        if printer.print(line + "\n").is_err() {
            return;
        }
    }
}

fn show_plainly(mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.blocking_recv() {
        if print_line(&line).is_err() {
            return;
        }
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
        let wrong = parse("Lookup").unwrap_err();
        assert_eq!(wrong.exit_code(), 2);
        assert!(!wrong.to_string().contains("shell"), "{wrong}");
        assert_eq!(parse("!").unwrap_err().exit_code(), 2);
    }
}
