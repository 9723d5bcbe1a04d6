//! The signals that ask a program to end: SIGHUP, SIGINT and SIGTERM.
//!
//! A program calls [`handle`] first in `main`. From then on a thread of its own waits for these signals, so no blocking
//! read, write or computation delays them, and they end the program as process 1 of a container too.
//!
//! - **By default** a signal ends the program at once with the exit code `128 + n` ([`Signal::exit_code`]). Every terminal
//!   whose settings were changed under a [`Settings`] guard is given back first.
//! - **A program that ends in good order** holds a [`Subscription`] and receives each signal from it. Dropping the
//!   subscription restores the default. A signal that finds [`MAX_WAITING`] others unread ends the program by the default:
//!   a program that reads none of them is stuck.
//! - **A program that reads its configuration anew at SIGHUP** holds [`Hangups`] as well, and SIGHUP goes nowhere else.
//!
//! ```no_run
//! use lib_chan::signals;
//!
//! # async fn serve() {}
//! # async fn drain() {}
//! fn main() -> std::io::Result<()> {
//!     signals::handle()?;
//!     // … reads files, asks for passwords: a signal ends the program
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         let mut signals = signals::subscribe();
//!         tokio::select! {
//!             () = serve() => {}
//!             _ = signals.recv() => drain().await,
//!         }
//!     });
//!     Ok(())
//! }
//! ```

use std::{
    fmt, fs,
    future::pending,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};

use crate::runtime::MORE_THREADS;

/// The number of signals that wait to be read from a [`Subscription`].
pub const MAX_WAITING: usize = 2;

/// A signal that asks the program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: the terminal was closed, or an operator wants the configuration read anew.
    Hangup,
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: an operator or a service manager wants the program to end.
    Terminate,
}

impl Signal {
    /// Returns the exit code that tells a shell which signal ended the program: 129, 130 or 143.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// Handles SIGHUP, SIGINT and SIGTERM from now on, as the [module](self) describes.
///
/// A program that was started with SIGHUP ignored, as `nohup` does, goes on ignoring it. Calling this twice does no more
/// than calling it once.
///
/// # Errors
/// The system gives no thread, or no handler.
pub fn handle() -> io::Result<()> {
    let mut state = state();
    if state.handled {
        return Ok(());
    }
    let (ready, is_ready) = sync_channel(1);
    let watching = thread::Builder::new().name("signals".into()).spawn(move || watch(&ready));
    watching.map_err(|error| io::Error::new(error.kind(), MORE_THREADS))?;
    is_ready.recv().map_err(io::Error::other)??;
    state.handled = true;
    Ok(())
}

/// Receives the signals instead of letting them end the program. The newest subscription receives them.
///
/// Receives nothing in a program that has not called [`handle`].
pub fn subscribe() -> Subscription {
    let (tell, told) = mpsc::channel(MAX_WAITING);
    state().subscriber = Some(tell);
    Subscription(told)
}

/// Receives SIGHUP apart from the other signals, for a program that reads its configuration anew. The newest value receives
/// them.
///
/// Receives nothing in a program that has not called [`handle`], or that was started with SIGHUP ignored.
pub fn hangups() -> Hangups {
    let (tell, told) = watch::channel(());
    state().hangups = Some(tell);
    Hangups(told)
}

/// Receives SIGHUP until it is dropped. Made by [`hangups`].
#[derive(Debug)]
pub struct Hangups(watch::Receiver<()>);

impl Hangups {
    /// Waits for SIGHUP. All that came since the last call count as one. Dropping the future loses none.
    pub async fn recv(&mut self) {
        if self.0.changed().await.is_err() {
            // Newer ones have taken its place.
            pending::<()>().await;
        }
    }
}

/// Receives SIGHUP, SIGINT and SIGTERM until it is dropped. Made by [`subscribe`].
#[derive(Debug)]
pub struct Subscription(mpsc::Receiver<Signal>);

impl Subscription {
    /// Waits for the next signal. Dropping the future loses none.
    pub async fn recv(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            // A newer subscription has taken its place.
            None => pending().await,
        }
    }
}

/// Keeps a terminal's settings while they are changed, and restores them when it is dropped or a signal ends the program.
#[derive(Debug)]
pub struct Settings {
    id: u64,
}

impl Settings {
    /// Keeps the settings that `terminal` has now.
    ///
    /// # Errors
    /// It is not a terminal.
    pub fn keep(terminal: impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd();
        let kept = Kept { settings: tcgetattr(terminal)?, terminal: terminal.try_clone_to_owned()? };
        let mut state = state();
        state.last_id += 1;
        let id = state.last_id;
        state.kept.push((id, kept));
        Ok(Self { id })
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        let mut state = state();
        if let Some(at) = state.kept.iter().position(|(id, _)| *id == self.id) {
            state.kept.remove(at).1.restore();
        }
    }
}

#[derive(Debug)]
struct Kept {
    terminal: OwnedFd,
    settings: Termios,
}

impl Kept {
    fn restore(&self) {
        // A terminal that is gone has no settings.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.settings);
    }
}

/// Signals are the whole process's, and so is what becomes of them.
static STATE: Mutex<State> =
    Mutex::new(State { handled: false, hangups: None, subscriber: None, last_id: 0, kept: Vec::new() });

struct State {
    handled: bool,
    hangups: Option<watch::Sender<()>>,
    subscriber: Option<mpsc::Sender<Signal>>,
    last_id: u64,
    kept: Vec<(u64, Kept)>,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the subscriber, or ends the program.
fn act(signal: Signal) {
    let state = state();
    // It fails where the receiver was dropped.
    if signal == Signal::Hangup && state.hangups.as_ref().is_some_and(|hangups| hangups.send(()).is_ok()) {
        return;
    }
    if state.subscriber.as_ref().is_some_and(|subscriber| subscriber.try_send(signal).is_ok()) {
        return;
    }
    // The newest guard was set last, so it is restored first. This thread keeps the lock, so nothing changes the
    // terminal again before the program has ended.
    state.kept.iter().rev().for_each(|(_, kept)| kept.restore());
    std::process::exit(signal.exit_code().into());
}

/// Waits for signals to the end of the program.
fn watch(ready: &SyncSender<io::Result<()>>) {
    let runtime = match runtime::Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(error) => return ready.send(Err(error)).unwrap_or_default(),
    };
    runtime.block_on(async {
        let all = || {
            let hangup = if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
            io::Result::Ok((hangup, signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
        };
        let (mut hangup, mut interrupt, mut terminate) = match all() {
            Ok(all) => all,
            Err(error) => return ready.send(Err(error)).unwrap_or_default(),
        };
        let _ = ready.send(Ok(()));
        loop {
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => pending().await,
                }
            };
            act(tokio::select! {
                _ = hung_up => Signal::Hangup,
                _ = interrupt.recv() => Signal::Interrupt,
                _ = terminate.recv() => Signal::Terminate,
            });
        }
    });
}

/// Whether this program was started with SIGHUP ignored. Only Linux says so without `unsafe`.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Signals count from 1, and SIGHUP is the first.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}
