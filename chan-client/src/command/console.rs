//! Input and output of `repl`: a terminal with a line editor, or plain lines.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use lib_chan::runtime::{blocking, spawn_thread};
use lib_chan::signals::{self, Signal, Subscription};
use lib_chan::stdio;
use rustix::process::{self, getpid, kill_process};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, ExternalPrinter, Helper};
use tokio::sync::{mpsc, oneshot};

use super::describe::{Completion, matching};
use super::failure::Failure;

/// The longest line in bytes without the line editor. No frame can be longer.
const MAX_LINE_LEN: u64 = 16 * 1024 * 1024;

/// The most lines read ahead without the line editor while the user waits for an answer.
const MAX_TYPED: usize = 64;

/// One piece of input.
pub(super) enum Input {
    Line(String),
    /// A line that cannot be used. After a failed read, the input is at its end.
    Unreadable(Failure),
    /// Ctrl-C from a person.
    Interrupt,
    /// A signal that ends the program.
    Signal(Signal),
}

/// The threads that read input and show output.
pub(super) struct Console {
    inputs: mpsc::Receiver<Input>,
    signals: Subscription,
    show: mpsc::Sender<String>,
    /// Ready when all is shown.
    shown: oneshot::Receiver<()>,
    /// Whether the input is a script, not a person.
    script: bool,
    /// The line editor, if there is one.
    editor: Option<Editing>,
}

struct Editing {
    prompt: Arc<Prompt>,
    completions: Arc<OnceLock<Vec<Completion>>>,
    settings: signals::Settings,
}

impl Console {
    /// Starts the threads. Uses the line editor on a terminal that can move its cursor, and plain lines elsewhere.
    pub(super) fn start(signals: Subscription) -> Result<Self, Failure> {
        let (input, inputs) = mpsc::channel(1);
        let (show, to_show) = mpsc::channel(1);
        let (all_shown, shown) = oneshot::channel::<()>();
        let script = !std::io::stdin().is_terminal();
        if script || !std::io::stdout().is_terminal() || is_dumb() {
            let showing = move || {
                show_plainly(to_show);
                drop(all_shown);
            };
            spawn_thread(showing).map_err(Failure::local)?;
            spawn_thread(move || read(&input)).map_err(Failure::local)?;
            return Ok(Self { inputs, signals, show, shown, script, editor: None });
        }
        let settings = wait_for_editor()?;
        // The history is never written to disk, because typed messages may contain secrets.
        let config = Config::builder().completion_type(CompletionType::List).build();
        let mut editor = Editor::with_history(config, MemHistory::new()).map_err(Failure::local)?;
        let (prompt, completions) = (Arc::new(Prompt::default()), Arc::new(OnceLock::new()));
        editor.set_helper(Some(Painter(Arc::clone(&prompt), Arc::clone(&completions))));
        let printer = editor.create_external_printer().map_err(Failure::local)?;
        let (editing, showing) = (Arc::clone(&prompt), Arc::clone(&prompt));
        let reading = move || {
            edit(editor, &editing, &input);
            editing.becomes(Reading::Over);
        };
        let showing = move || {
            show_above(printer, &showing, to_show);
            drop(all_shown);
        };
        // The reading thread comes last, because it cannot be ended.
        spawn_thread(showing).map_err(Failure::local)?;
        spawn_thread(reading).map_err(Failure::local)?;
        Ok(Self {
            inputs,
            signals,
            show,
            shown,
            script,
            editor: Some(Editing { prompt, completions, settings }),
        })
    }

    pub(super) fn is_script(&self) -> bool {
        self.script
    }

    /// Returns whether the terminal shows a line editor. Only lines that it shows do not disturb it.
    pub(super) fn has_editor(&self) -> bool {
        self.editor.is_some()
    }

    /// Returns the place for the lines that the line editor completes, if there is an editor.
    pub(super) fn completions(&self) -> Option<Arc<OnceLock<Vec<Completion>>>> {
        self.editor.as_ref().map(|editor| Arc::clone(&editor.completions))
    }

    /// Returns the most lines to read ahead while the user waits for an answer. All keys of a person are read, because one
    /// of them may be Ctrl-C.
    pub(super) fn max_typed(&self) -> usize {
        if self.editor.is_some() { usize::MAX } else { MAX_TYPED }
    }

    /// Returns a sender for lines to show, one at a time. Drop it before calling [`finish`](Self::finish).
    pub(super) fn show(&self) -> mpsc::Sender<String> {
        self.show.clone()
    }

    /// Returns the next input, or `None` at its end. Reads lines only if `lines` is `true`.
    pub(super) async fn input(&mut self, lines: bool) -> Option<Input> {
        tokio::select! {
            input = self.inputs.recv(), if lines => input,
            signal = self.signals.recv() => Some(match signal {
                Signal::Interrupt if !self.script => Input::Interrupt,
                signal => Input::Signal(signal),
            }),
        }
    }

    /// Waits until all lines are shown, and restores the terminal. `prompting` says that the prompt is still in its last
    /// line. Returns the subscription to signals.
    pub(super) async fn finish(self, prompting: bool) -> Subscription {
        let Self { inputs, signals, show, shown, editor, .. } = self;
        drop(show);
        // The thread ends after the last line, or when the terminal fails.
        let _ = shown.await;
        drop(inputs);
        let Some(Editing { prompt, settings, .. }) = editor else { return signals };
        let closing = Arc::clone(&prompt);
        if blocking(move || closing.close()).await.is_err() {
            // Without a thread, the runtime waits along.
            prompt.close();
        }
        drop(settings);
        if prompting {
            stdio::complain("");
        }
        signals
    }
}

/// Returns whether the terminal cannot move its cursor, as in the window of an editor or the console of a build.
fn is_dumb() -> bool {
    matches!(std::env::var("TERM").as_deref(), Ok("dumb" | "cons25" | "emacs"))
}

/// Turns off the terminal's line mode for the time between two lines. The line editor changes the settings for each line
/// and restores them. In line mode, the terminal would take a Ctrl-D between two lines for the end of a line, and lose it.
fn wait_for_editor() -> Result<signals::Settings, Failure> {
    let terminal = stdio::stdin();
    let settings = signals::Settings::keep(terminal).map_err(Failure::local)?;
    let mut waiting = tcgetattr(terminal).map_err(Failure::local)?;
    waiting.local_modes -= LocalModes::ICANON;
    tcsetattr(terminal, OptionalActions::Now, &waiting).map_err(Failure::local)?;
    Ok(settings)
}

/// The state of the line editor. The thread that restores the terminal must know it: a program that ends while the editor
/// changes the settings or shows a line would leave the terminal changed, or the line unseen.
#[derive(Debug, Default)]
struct Prompt {
    reading: Mutex<Reading>,
    moved: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    /// The editor may be about to change the settings of the terminal.
    #[default]
    Not,
    /// The editor has changed the settings, and waits for keys.
    Waits,
    /// The editor has ended, and the settings are restored.
    Over,
}

impl Prompt {
    /// The longest wait for the editor. On a terminal that cannot move its cursor, it changes no settings and never reaches
    /// [`Reading::Waits`].
    const PATIENCE: Duration = Duration::from_secs(1);

    fn becomes(&self, next: Reading) {
        *self.lock() = next;
        self.moved.notify_all();
    }

    /// Waits until the editor waits for keys or has ended.
    fn wait(&self) {
        self.wait_while(|reading| reading == Reading::Not);
    }

    /// Ends the editor while it waits for keys.
    fn close(&self) {
        self.wait();
        {
            // Under the lock, so that the editor still waits when the signal, which ends it, arrives.
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

/// Learns when the editor draws the prompt, which it does after it has changed the settings of the terminal. Completes
/// lines.
struct Painter(Arc<Prompt>, Arc<OnceLock<Vec<Completion>>>);

impl Highlighter for Painter {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _default: bool) -> Cow<'b, str> {
        self.0.becomes(Reading::Waits);
        prompt.into()
    }
}

impl Helper for Painter {}

impl Validator for Painter {}

impl Completer for Painter {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let all = self.1.get().map_or(&[][..], Vec::as_slice);
        let pair = |one: &Completion| Pair { display: one.shown.clone(), replacement: one.line.clone() };
        Ok((0, matching(line.get(..at).unwrap_or_default(), all).into_iter().map(pair).collect()))
    }
}

impl Hinter for Painter {
    type Hint = String;
}

/// Reads lines with the editor until EOF, a signal, or the end of the receiver.
fn edit(mut editor: Editor<Painter, MemHistory>, prompt: &Prompt, inputs: &mpsc::Sender<Input>) {
    loop {
        let read = editor.readline("> ");
        prompt.becomes(Reading::Not);
        let input = match read {
            Ok(line) => {
                // A line that does not fit the history is still sent.
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

/// Reads lines of at most [`MAX_LINE_LEN`] bytes until EOF or the end of the receiver.
fn read(inputs: &mpsc::Sender<Input>) {
    let mut reader = BufReader::new(stdio::stdin());
    loop {
        let mut line = Vec::new();
        let read = (&mut reader).take(MAX_LINE_LEN + 1).read_until(b'\n', &mut line);
        let (input, last) = match read {
            Ok(0) => return,
            Ok(len) if len as u64 > MAX_LINE_LEN && line.last() != Some(&b'\n') => {
                let text = format!(
                    "the line is longer than {MAX_LINE_LEN} bytes; the rest of the input was not read"
                );
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
        // The editor redraws the prompt below the line. A line shown while it draws would overwrite the prompt.
        prompt.wait();
        if printer.print(line + "\n").is_err() {
            return;
        }
    }
    // The printer holds one line for the editor, and blocks on a second one until the editor has shown the first.
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
