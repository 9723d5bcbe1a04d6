//! What is said on standard error while a command runs.

use std::fmt;
use std::io::{IsTerminal, stderr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lib_chan::signals;
use lib_chan::stdio::complain;
use tokio::time::sleep;

use super::failure::{Failure, MAYBE};

/// How long a person waits without being told for what.
const PATIENCE: Duration = Duration::from_secs(1);

/// Knows what is being waited for, and says so when that takes long; says everything if asked to.
#[derive(Debug)]
pub(super) struct Notice {
    verbose: bool,
    terminal: bool,
    waiting_for: Mutex<&'static str>,
    /// The message may have reached the service.
    sent: AtomicBool,
}

impl Notice {
    pub(super) fn new(verbose: bool) -> Self {
        Self {
            verbose,
            terminal: stderr().is_terminal(),
            waiting_for: Mutex::new(""),
            sent: AtomicBool::new(false),
        }
    }

    /// From now on this is waited for.
    pub(super) fn wait_for(&self, what: &'static str) {
        *self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// From now on the message may be executed, and this is waited for.
    pub(super) fn sent(&self, what: &'static str) {
        self.sent.store(true, Ordering::Relaxed);
        self.wait_for(what);
    }

    /// Something that only those want to know who asked.
    pub(super) fn detail(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            self.complain(what());
        }
    }

    /// Something went wrong, and the command goes on.
    pub(super) fn complain(&self, what: impl fmt::Display) {
        complain(format_args!("chan-client: {}", crate::json::one_line(&what.to_string())));
    }

    /// Runs `work` until it is done or a signal ends it. On a terminal, tells what is being waited for after a second,
    /// each thing once.
    pub(super) async fn during<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut signals = signals::subscribe();
        let explained = self.explain(work, |what| complain(format_args!("chan-client: {what}…")));
        tokio::select! {
            biased;
            done = explained => done,
            signal = signals.recv() => Err(Failure::signal(signal, match self.sent.load(Ordering::Relaxed) {
                true => MAYBE,
                false => "not executed",
            })),
        }
    }

    async fn explain<T>(&self, work: impl Future<Output = T>, mut say: impl FnMut(&'static str)) -> T {
        let mut work = pin!(work);
        let mut said = "";
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = sleep(PATIENCE), if self.terminal => {
                    let what = *self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner);
                    if what != said {
                        say(what);
                        said = what;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(terminal: bool) -> Notice {
        Notice { terminal, ..Notice::new(false) }
    }

    async fn said_during(notice: &Notice, steps: &[(&'static str, u64)]) -> Vec<&'static str> {
        let mut said = Vec::new();
        let work = async {
            for (what, milliseconds) in steps {
                notice.wait_for(what);
                sleep(Duration::from_millis(*milliseconds)).await;
            }
        };
        notice.explain(work, |what| said.push(what)).await;
        said
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_is_explained_once_and_a_short_one_not_at_all() {
        let steps = [("the network", 500), ("the key", 3600), ("the answer", 500)];
        assert_eq!(said_during(&notice(true), &steps).await, ["the key"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_explained_to_a_program() {
        assert!(said_during(&notice(false), &[("the key", 5000)]).await.is_empty());
    }
}
