//! Messages typed line by line.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{BufRead, IsTerminal, stdin, stdout};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use lib_chan::{Channel, Limits, Message, Opaque, Remote};
use rustix::process::{self, getpid, kill_process};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Editor, ExternalPrinter, Helper};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::access::typed_json;
use super::arguments::{Access, Start};
use super::exchange::{NO_CALLS, opaque, open, readable, shown};
use super::failure::{Failure, MAYBE};
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
        let mut interrupts = console.finish(left.is_err()).await;
        left?;
        let close = async {
            // A cast that cannot be read shows when it is taken, which the end of the session would overtake.
            let remote = chan.remote();
            if let Ok(taken) = timeout(Limits::default().close_timeout, remote.taken()).await {
                taken.map_err(|reason| Failure::cast(&reason))?;
            }
            chan.close().await.map_err(|reason| Failure::cast(&reason))
        };
        tokio::select! {
            closed = close => closed,
            () = interrupts.next() => Err(Failure::local(format_args!(
                "interrupted before the session was closed ({MAYBE})"
            ))),
        }
    })
}

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
            input = console.keyboard.input(more_input && typed.len() < console.keyboard.max_typed) => match input {
                Some(Input::Line(text)) => typed.extend(lines(text)),
                Some(Input::Interrupt) => {
                    typed.clear();
                    unshown.push_back(interrupted(work.take().is_some()));
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
    keyboard: Keyboard,
    show: mpsc::Sender<String>,
    showing: thread::JoinHandle<()>,
    /// The line editor, if there is one.
    editor: Option<Editing>,
}

struct Editing {
    prompt: Arc<Prompt>,
    keys: Keys,
}

impl Console {
    fn start() -> Result<Self, Failure> {
        let (input, inputs) = mpsc::channel(1);
        let (show, to_show) = mpsc::channel(1);
        if !stdin().is_terminal() || !stdout().is_terminal() {
            thread::spawn(move || read(&input));
            let showing = thread::spawn(move || show_plainly(to_show));
            let keyboard = Keyboard { inputs, interrupts: Interrupts::of(false)?, max_typed: MAX_TYPED };
            return Ok(Self { keyboard, show, showing, editor: None });
        }
        // Before the line editor takes the signal for itself, and gives it back after each line.
        let interrupts = Interrupts::of(true)?;
        let keys = Keys::wait_for_editor()?;
        // The history is kept in memory alone; what is typed here may be secret.
        let mut editor =
            Editor::with_history(Config::default(), MemHistory::new()).map_err(Failure::local)?;
        let prompt = Arc::new(Prompt::default());
        editor.set_helper(Some(Painter(Arc::clone(&prompt))));
        let printer = editor.create_external_printer().map_err(Failure::local)?;
        let (editing, showing) = (Arc::clone(&prompt), Arc::clone(&prompt));
        thread::spawn(move || {
            edit(editor, &editing, &input);
            editing.becomes(Reading::Over);
        });
        let showing = thread::spawn(move || show_above(printer, &showing, to_show));
        // Every key is read: among them may be the one that ends the waiting.
        let keyboard = Keyboard { inputs, interrupts, max_typed: usize::MAX };
        Ok(Self { keyboard, show, showing, editor: Some(Editing { prompt, keys }) })
    }

    /// Waits until everything is shown, and gives the terminal back as it was; if the user did not leave, with the
    /// prompt still in its last line. What interrupts from then on, if the user did leave; else the line editor was ended
    /// by such a signal.
    async fn finish(self, prompting: bool) -> Interrupts {
        let Self { show, showing, editor, keyboard: Keyboard { inputs, interrupts, .. } } = self;
        drop(show);
        // It ends when it has shown the last; a terminal that shows nothing more is nobody to wait for.
        let _ = tokio::task::spawn_blocking(|| showing.join()).await;
        drop(inputs);
        let Some(Editing { prompt, keys }) = editor else { return interrupts };
        let _ = tokio::task::spawn_blocking(move || prompt.close()).await;
        drop(keys);
        if prompting {
            eprintln!();
        }
        interrupts
    }
}

/// Lines read ahead from what is no terminal while an answer is waited for; more are not read.
const MAX_TYPED: usize = 64;

struct Keyboard {
    inputs: mpsc::Receiver<Input>,
    interrupts: Interrupts,
    /// Lines read ahead.
    max_typed: usize,
}

impl Keyboard {
    /// What comes next; a line only where one is wanted. Nothing at the end of the input.
    async fn input(&mut self, lines: bool) -> Option<Input> {
        tokio::select! {
            input = self.inputs.recv(), if lines => input,
            () = self.interrupts.next() => Some(Input::Interrupt),
        }
    }
}

/// Ctrl-C where no line is read: between two of them, and when the user has left. The line editor reads it as a key.
struct Interrupts(Option<Signal>);

impl Interrupts {
    /// From now on; what comes from no terminal is ended by the signal.
    fn of(terminal: bool) -> Result<Self, Failure> {
        let interrupts = terminal.then(|| signal(SignalKind::interrupt())).transpose();
        Ok(Self(interrupts.map_err(Failure::local)?))
    }

    async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// The terminal's settings while there is a line editor, which changes them for each line and back. Between two lines the
/// terminal would gather keys to lines, and take Ctrl-D for the end of one: it would be lost.
struct Keys(Termios);

impl Keys {
    fn wait_for_editor() -> Result<Self, Failure> {
        let settings = tcgetattr(stdin()).map_err(Failure::local)?;
        let mut waiting = settings.clone();
        waiting.local_modes -= LocalModes::ICANON;
        tcsetattr(stdin(), OptionalActions::Now, &waiting).map_err(Failure::local)?;
        Ok(Self(settings))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that is gone has no settings.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// Where the line editor is, as it and whoever gives the terminal back must agree: a program that ends while the editor
/// is on its way to change the terminal's settings, or to show a line, would leave it changed, or the line unseen.
#[derive(Debug, Default)]
struct Prompt {
    reading: Mutex<Reading>,
    moved: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    /// It may be about to change the terminal's settings.
    #[default]
    Not,
    /// It has changed them, and waits for keys.
    Waits,
    /// It reads no more, and the settings are as they were.
    Over,
}

impl Prompt {
    /// How long it is waited for the editor: on a terminal that cannot move its cursor it changes no settings, and
    /// never says that it waits.
    const PATIENCE: Duration = Duration::from_secs(1);

    fn becomes(&self, next: Reading) {
        *self.lock() = next;
        self.moved.notify_all();
    }

    /// Waits until the editor reads, or reads no more.
    fn wait(&self) {
        self.wait_while(|reading| reading == Reading::Not);
    }

    /// Ends the editor where it reads.
    fn close(&self) {
        self.wait();
        {
            // Under the lock, so that the editor is there to take the signal, which ends it.
            let reading = self.lock();
            if *reading != Reading::Waits || kill_process(getpid(), process::Signal::INT).is_err() {
                return;
            }
        }
        self.wait_while(|reading| reading != Reading::Over);
    }

    fn wait_while(&self, condition: impl Fn(Reading) -> bool) {
        let waited =
            self.moved.wait_timeout_while(self.lock(), Self::PATIENCE, |reading| condition(*reading));
        drop(waited);
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says when the prompt is drawn, which the editor does once it has changed the terminal's settings.
struct Painter(Arc<Prompt>);

impl Highlighter for Painter {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _default: bool) -> Cow<'b, str> {
        self.0.becomes(Reading::Waits);
        prompt.into()
    }
}

impl Helper for Painter {}

impl Validator for Painter {}

impl Completer for Painter {
    type Candidate = String;
}

impl Hinter for Painter {
    type Hint = String;
}

/// Reads with line editing until the end of the input, or until nobody takes it, or a signal.
fn edit(mut editor: Editor<Painter, MemHistory>, prompt: &Prompt, inputs: &mpsc::Sender<Input>) {
    loop {
        let read = editor.readline("> ");
        prompt.becomes(Reading::Not);
        let input = match read {
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

fn show_above(mut printer: impl ExternalPrinter, prompt: &Prompt, mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.blocking_recv() {
        // Where a prompt is, it is drawn anew below the line; one that is just being drawn would be written over.
        prompt.wait();
        if printer.print(line + "\n").is_err() {
            return;
        }
    }
    // The printer keeps one line for the editor, and waits with a second until that is taken to be shown.
    prompt.wait();
    let _ = printer.print(String::new());
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
