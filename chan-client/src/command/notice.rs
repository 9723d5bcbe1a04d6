//! Messages on standard error while a command runs.

use std::fmt;
use std::io::{IsTerminal, stderr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lib_chan::signals::Subscription;
use lib_chan::stdio::complain;
use lib_chan::{ConnectionState, Remote};
use tokio::time::sleep;

use super::failure::{Failure, MAYBE};

/// The silent wait before the program tells a person what it waits for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Explains long waits on a terminal, and each step if the user asked for that.
#[derive(Debug)]
pub(super) struct Notice {
    verbose: bool,
    terminal: bool,
    waiting_for: Mutex<&'static str>,
    /// Whether the message may have reached the service.
    sent: AtomicBool,
    outages: Arc<Outages>,
}

/// The words that report a lost connection and its successor.
pub(super) const RECONNECTING: &str = "reconnecting…";
pub(super) const RECONNECTED: &str = "reconnected";
/// The words that report that the server drains.
pub(super) const DRAINING: &str = "the server is stopping: finish, and connect again";

/// Counts the sessions without a connection. Speaks of the first that loses its own, and when all have one again: a
/// network that fails takes the connections of all sessions at once.
#[derive(Debug, Default)]
struct Outages(Mutex<usize>);

impl Outages {
    /// A session has lost its connection. Returns what to say.
    fn begin(&self) -> Option<&'static str> {
        let mut detached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *detached += 1;
        (*detached == 1).then_some(RECONNECTING)
    }

    /// A session has a connection again, or has ended without. Returns what to say.
    fn end(&self, reconnected: bool) -> Option<&'static str> {
        let mut detached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *detached -= 1;
        (*detached == 0 && reconnected).then_some(RECONNECTED)
    }

    /// Reports the changes of the session's connection until the session ends.
    async fn follow<Out>(&self, remote: Remote<Out>, say: impl Fn(&'static str)) {
        let mut detached = false;
        let mut state = remote.connection();
        loop {
            let is_detached = matches!(state, ConnectionState::Detached { .. });
            if is_detached != detached {
                detached = is_detached;
                if let Some(line) = if detached { self.begin() } else { self.end(true) } {
                    say(line);
                }
            }
            match remote.connection_changed(state).await {
                Some(next) => state = next,
                None => break,
            }
        }
        if detached {
            self.end(false);
        }
    }
}

impl Notice {
    pub(super) fn new(verbose: bool) -> Self {
        Self {
            verbose,
            terminal: stderr().is_terminal(),
            waiting_for: Mutex::new(""),
            sent: AtomicBool::new(false),
            outages: Arc::default(),
        }
    }

    /// Sets what the command waits for.
    pub(super) fn wait_for(&self, what: &'static str) {
        *self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// Records that the message may be executed from now on, and sets what the command waits for.
    pub(super) fn sent(&self, what: &'static str) {
        self.sent.store(true, Ordering::Relaxed);
        self.wait_for(what);
    }

    /// Reports a detail if the user asked for details.
    pub(super) fn detail(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            self.complain(what());
        }
    }

    /// Reports a problem; the command continues.
    pub(super) fn complain(&self, what: impl fmt::Display) {
        say(what);
    }

    /// Reports when a session loses its connection, and when it has another.
    pub(super) fn follow<Out: 'static>(&self, remote: Remote<Out>) {
        let outages = Arc::clone(&self.outages);
        tokio::spawn(async move { outages.follow(remote, say).await });
    }

    /// Does what [`follow`](Self::follow) does, and reports that the server drains.
    pub(super) fn follow_all<Out: 'static>(&self, remote: Remote<Out>) {
        self.follow(remote.clone());
        tokio::spawn(async move {
            if remote.wait_draining().await {
                say(DRAINING);
            }
        });
    }

    /// Returns a report of details that outlives this.
    pub(super) fn details(&self) -> impl Fn(fmt::Arguments<'_>) + Send + Sync + use<> {
        let verbose = self.verbose;
        move |what: fmt::Arguments<'_>| {
            if verbose {
                say(what);
            }
        }
    }

    /// Runs `work` until it is done or a signal ends it. On a terminal, explains each wait that takes a second, once.
    ///
    /// A command has one subscription from its start to its end. Between two of them, a signal would end the program, and
    /// the server would wait for its session to be resumed.
    pub(super) async fn during<T>(
        &self,
        signals: &mut Subscription,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let explained = self.explain(work, |what| complain(format_args!("chan-client: {what}…")));
        tokio::select! {
            // A signal that has come is not lost because the work is done at the same moment.
            biased;
            signal = signals.recv() => Err(Failure::signal(signal, match self.sent.load(Ordering::Relaxed) {
                true => MAYBE,
                false => "not executed",
            })),
            done = explained => done,
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

fn say(what: impl fmt::Display) {
    complain(format_args!("chan-client: {}", crate::json::one_line(&what.to_string())));
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
    async fn explains_long_waits_once() {
        let steps = [("the network", 500), ("the key", 3600), ("the answer", 500)];
        assert_eq!(said_during(&notice(true), &steps).await, ["the key"]);
    }

    #[test]
    fn speaks_once_of_outage_of_many_sessions() {
        let outages = Outages::default();
        assert_eq!([outages.begin(), outages.begin()], [Some(RECONNECTING), None]);
        assert_eq!([outages.end(true), outages.end(true)], [None, Some(RECONNECTED)]);
        // The failure of a session that has ended is reported by itself.
        assert_eq!([outages.begin(), outages.end(false)], [Some(RECONNECTING), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn explains_nothing_to_programs() {
        assert!(said_during(&notice(false), &[("the key", 5000)]).await.is_empty());
    }
}
