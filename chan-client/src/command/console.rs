//! The terminal, or what stands in its place: where lines come from and are shown.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use lib_chan::signals::{self, Signal, Subscription};
use lib_chan::stdio;
use rustix::process::{self, getpid, kill_process};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Editor, ExternalPrinter, Helper};
use tokio::sync::mpsc;

use super::failure::Failure;

/// The most bytes of a line that does not come from the line editor: no frame can be longer.
const MAX_LINE_LEN: u64 = 16 * 1024 * 1024;

/// Lines read ahead from what has no line editor while an answer is waited for; more are not read.
const MAX_TYPED: usize = 64;

/// What comes from the keyboard, or in its place.
pub(super) enum Input {
    Line(String),
    /// A line that cannot be used. After one that could not be read, the input is at its end.
    Unreadable(Failure),
    /// Ctrl-C, from a person.
    Interrupt,
    /// The program is to end.
    Signal(Signal),
}

/// Threads that read and show.
pub(super) struct Console {
    inputs: mpsc::Receiver<Input>,
    signals: Subscription,
    show: mpsc::Sender<String>,
    showing: thread::JoinHandle<()>,
    /// A program writes the input, and not a person.
    script: bool,
    /// The line editor, if there is one.
    editor: Option<Editing>,
}

struct Editing {
    prompt: Arc<Prompt>,
    settings: signals::Settings,
}

impl Console {
    /// Begins to read: with a line editor on a terminal that can move its cursor, else line by line.
    pub(super) fn start() -> Result<Self, Failure> {
        let (input, inputs) = mpsc::channel(1);
        let (show, to_show) = mpsc::channel(1);
        let script = !std::io::stdin().is_terminal();
        // Before the line editor takes SIGINT for itself, and gives it back after each line.
        let signals = signals::subscribe();
        if script || !std::io::stdout().is_terminal() || is_dumb() {
            thread::spawn(move || read(&input));
            let showing = thread::spawn(move || show_plainly(to_show));
            return Ok(Self { inputs, signals, show, showing, script, editor: None });
        }
        let settings = wait_for_editor()?;
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
        Ok(Self { inputs, signals, show, showing, script, editor: Some(Editing { prompt, settings }) })
    }

    pub(super) fn is_script(&self) -> bool {
        self.script
    }

    /// The lines that are read while an answer is waited for. A person's keys are all read: among them may be the one
    /// that ends the waiting.
    pub(super) fn max_typed(&self) -> usize {
        if self.editor.is_some() { usize::MAX } else { MAX_TYPED }
    }

    /// Takes the lines to show, one at a time. It has to be dropped before the console is finished.
    pub(super) fn show(&self) -> mpsc::Sender<String> {
        self.show.clone()
    }

    /// What comes next; a line only where one is wanted. `None` at the end of the input.
    pub(super) async fn input(&mut self, lines: bool) -> Option<Input> {
        tokio::select! {
            input = self.inputs.recv(), if lines => input,
            signal = self.signals.recv() => Some(match signal {
                Signal::Interrupt if !self.script => Input::Interrupt,
                signal => Input::Signal(signal),
            }),
        }
    }

    /// Waits until everything is shown, and gives the terminal back as it was; `prompting` if the prompt is still in its
    /// last line. Returns the signals from then on.
    pub(super) async fn finish(self, prompting: bool) -> Subscription {
        let Self { inputs, signals, show, showing, editor, .. } = self;
        drop(show);
        // It ends when it has shown the last; a terminal that shows nothing more is nobody to wait for.
        let _ = tokio::task::spawn_blocking(|| showing.join()).await;
        drop(inputs);
        let Some(Editing { prompt, settings }) = editor else { return signals };
        let _ = tokio::task::spawn_blocking(move || prompt.close()).await;
        drop(settings);
        if prompting {
            stdio::complain("");
        }
        signals
    }
}

/// Whether the terminal cannot move its cursor, as in an editor's window or on the console of a build.
fn is_dumb() -> bool {
    matches!(std::env::var("TERM").as_deref(), Ok("dumb" | "cons25" | "emacs"))
}

/// Lets the terminal hand over each key while the line editor, which changes the settings for each line and back, is
/// between two lines: a terminal that gathers keys to lines would take Ctrl-D for the end of one, and it would be lost.
fn wait_for_editor() -> Result<signals::Settings, Failure> {
    let terminal = stdio::stdin();
    let settings = signals::Settings::keep(terminal).map_err(Failure::local)?;
    let mut waiting = tcgetattr(terminal).map_err(Failure::local)?;
    waiting.local_modes -= LocalModes::ICANON;
    tcsetattr(terminal, OptionalActions::Now, &waiting).map_err(Failure::local)?;
    Ok(settings)
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

/// Reads lines of at most [`MAX_LINE_LEN`] bytes until the end of the input, or until nobody takes them.
fn read(inputs: &mpsc::Sender<Input>) {
    let mut reader = BufReader::new(stdio::stdin());
    loop {
        let mut line = Vec::new();
        let read = (&mut reader).take(MAX_LINE_LEN + 1).read_until(b'\n', &mut line);
        let (input, last) = match read {
            Ok(0) => return,
            Ok(len) if len as u64 > MAX_LINE_LEN && line.last() != Some(&b'\n') => {
                let text = format!("the line is longer than {MAX_LINE_LEN} bytes; what follows was not read");
                (Input::Unreadable(Failure::usage(text)), true)
            }
            Ok(_) => (readable(line), false),
            Err(error) => {
                (Input::Unreadable(Failure::local(format_args!("cannot read the input: {error}"))), true)
            }
        };
        if inputs.blocking_send(input).is_err() || last {
            return;
        }
    }
}

fn readable(line: Vec<u8>) -> Input {
    match String::from_utf8(line) {
        Ok(line) => Input::Line(line),
        Err(error) => Input::Unreadable(Failure::usage(format_args!(
            "the line is not UTF-8 ({}; nothing was sent)",
            error.utf8_error()
        ))),
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
        if stdio::print(&(line + "\n")).is_err() {
            return;
        }
    }
}
