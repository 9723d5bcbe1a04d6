//! Decides what follows an attempt that failed. Pure: time and randomness are arguments.

use std::time::{Duration, Instant};

use lib_chan::after;

use super::error::ConnectError;
use super::step::Step;

/// The bounds of the wait after all servers of a URL have failed.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Random waits, each from 0 to a bound that doubles (full jitter). Clients that failed together do not return
/// together.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// Returns the next wait. `fraction` is a random number from 0 to 1.
    pub(crate) fn next(&mut self, fraction: f64) -> Duration {
        let wait = self.next.mul_f64(fraction.clamp(0.0, 1.0));
        self.next = (self.next * 2).min(self.max);
        wait
    }
}

/// The reason that one attempt at one server failed.
#[derive(Debug)]
pub(super) enum Setback {
    /// The server uses another salt than the key was derived with. The error is for the second time in a row.
    KeyOutdated(ConnectError),
    /// The time for a login ended while the key was derived. The derivation goes on, and the next attempt has its key.
    /// The error is for the second time in a row.
    Outlasted(ConnectError),
    /// The server closed the connection before TLS. It received nothing, so another attempt repeats nothing.
    TurnedAway(ConnectError),
    Failed(ConnectError),
    /// The request for the service was sent, and nobody knows whether it arrived. It is not sent again.
    Fatal(ConnectError),
}

impl<E: Into<ConnectError>> From<E> for Setback {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The step after a failed attempt.
#[derive(Debug)]
pub(super) enum Next {
    /// Report the step, wait, and try [`Retry::server`].
    Again {
        wait: Duration,
        step: Step,
    },
    Fail(ConnectError),
}

/// The attempts of one login.
#[derive(Debug)]
pub(super) struct Retry {
    servers: usize,
    server: usize,
    /// The current server has made the client log in again once.
    second: bool,
    /// Why the servers before this one failed, since the last wait.
    failed: Vec<ConnectError>,
    /// One of `failed` turned the client away.
    turned_away: bool,
    /// Until when servers are tried again of which one turned the client away.
    busy_until: Instant,
    /// Until when unreachable servers are tried again.
    absent_until: Instant,
    backoff: Backoff,
}

impl Retry {
    /// Prepares a login at one of `servers`. Servers that turn clients away are tried again for `busy`, unreachable ones
    /// for `absent`.
    pub(super) fn new(servers: usize, busy: Duration, absent: Duration, now: Instant) -> Self {
        Self {
            servers,
            server: 0,
            second: false,
            failed: Vec::new(),
            turned_away: false,
            busy_until: after(now, busy.max(absent)),
            absent_until: after(now, absent),
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
        }
    }

    /// Returns the index of the server to try.
    pub(super) fn server(&self) -> usize {
        self.server
    }

    /// Returns whether the next attempt is the second at this server because of the key.
    pub(super) fn is_second(&self) -> bool {
        self.second
    }

    /// Decides what follows a failed attempt. `fraction` is a random number from 0 to 1.
    pub(super) fn after(&mut self, setback: Setback, now: Instant, fraction: f64) -> Next {
        let error = match setback {
            Setback::KeyOutdated(error) | Setback::Outlasted(error) if self.second => {
                return Next::Fail(error);
            }
            Setback::KeyOutdated(_) => return self.once_more(Step::KeyOutdated),
            Setback::Outlasted(_) => return self.once_more(Step::Outlasted),
            Setback::TurnedAway(error) => {
                self.turned_away = true;
                error
            }
            Setback::Failed(error) if error.is_transient() => error,
            Setback::Failed(error) | Setback::Fatal(error) => return Next::Fail(error),
        };
        let why = error.to_string().into();
        self.failed.push(error);
        self.second = false;
        self.server += 1;
        if self.server < self.servers {
            return Next::Again {
                wait: Duration::ZERO,
                step: Step::Retrying { why, again_in: Duration::ZERO },
            };
        }
        let failed = std::mem::take(&mut self.failed);
        let until = if std::mem::take(&mut self.turned_away) { self.busy_until } else { self.absent_until };
        let wait = self.backoff.next(fraction);
        if after(now, wait) >= until {
            return Next::Fail(merged(failed));
        }
        self.server = 0;
        Next::Again { wait, step: Step::Retrying { why, again_in: wait } }
    }

    fn once_more(&mut self, step: Step) -> Next {
        self.second = true;
        Next::Again { wait: Duration::ZERO, step }
    }
}

/// Makes one error of those of all servers.
fn merged(mut failed: Vec<ConnectError>) -> ConnectError {
    if failed.len() == 1
        && let Some(only) = failed.pop()
    {
        return only;
    }
    let (mut authorities, mut causes) = (Vec::new(), Vec::new());
    for error in &failed {
        match error {
            ConnectError::Unreachable { authority, what } => {
                authorities.push(authority.as_ref());
                causes.push(format!("{authority}: {what}"));
            }
            other => causes.push(other.to_string()),
        }
    }
    ConnectError::Unreachable { authority: authorities.join(",").into(), what: causes.join("; ").into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn unreachable(authority: &str) -> ConnectError {
        ConnectError::Unreachable { authority: authority.into(), what: "connection refused".into() }
    }

    fn waits(next: &Next) -> Duration {
        match next {
            Next::Again { wait, .. } => *wait,
            Next::Fail(error) => panic!("{error}"),
        }
    }

    fn fails(next: Next) -> String {
        match next {
            Next::Fail(error) => error.to_string(),
            Next::Again { wait, step } => panic!("{wait:?} {step:?}"),
        }
    }

    // A real clock is read once, since an instant cannot be made in another way.
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn tries_each_server_once_without_waiting() {
        let mut retry = Retry::new(3, Duration::ZERO, Duration::ZERO, now());
        for (server, authority) in ["a:1", "b:2"].into_iter().enumerate() {
            assert_eq!(retry.server(), server);
            let next = retry.after(Setback::Failed(unreachable(authority)), now(), 1.0);
            assert_eq!(waits(&next), Duration::ZERO);
        }
        assert_eq!(
            fails(retry.after(Setback::Failed(unreachable("c:3")), now(), 1.0)),
            "cannot connect to a:1,b:2,c:3: a:1: connection refused; b:2: connection refused; c:3: connection refused"
        );
    }

    #[test]
    fn a_single_server_keeps_its_own_error() {
        let mut retry = Retry::new(1, Duration::ZERO, Duration::ZERO, now());
        let error = fails(retry.after(Setback::Failed(unreachable("a:1")), now(), 1.0));
        assert_eq!(error, "cannot connect to a:1: connection refused");
    }

    #[test]
    fn waits_for_absent_servers_for_a_time() {
        let began = now();
        let mut retry = Retry::new(2, Duration::ZERO, MINUTE, began);
        for wait in [200, 400, 800, 1600, 2000, 2000] {
            assert_eq!(waits(&retry.after(Setback::Failed(unreachable("a:1")), began, 1.0)), Duration::ZERO);
            let next = retry.after(Setback::Failed(unreachable("b:2")), began, 1.0);
            assert_eq!((waits(&next), retry.server()), (Duration::from_millis(wait), 0));
        }
        retry.after(Setback::Failed(unreachable("a:1")), began, 1.0);
        fails(retry.after(Setback::Failed(unreachable("b:2")), began + MINUTE, 0.0));
    }

    #[test]
    fn waits_for_busy_servers_when_turned_away() {
        let began = now();
        let mut retry = Retry::new(1, MINUTE, Duration::ZERO, began);
        assert!(
            waits(&retry.after(Setback::TurnedAway(unreachable("a:1")), began, 0.5))
                < Duration::from_millis(200)
        );
        fails(retry.after(Setback::Failed(unreachable("a:1")), began, 0.5));
    }

    #[test]
    fn passes_over_no_server_that_refuses() {
        let mut retry = Retry::new(2, MINUTE, MINUTE, now());
        assert!(
            fails(retry.after(Setback::Failed(ConnectError::Refused), now(), 0.5)).starts_with("refused")
        );
    }

    #[test]
    fn sends_no_request_for_a_service_twice() {
        let mut retry = Retry::new(2, MINUTE, MINUTE, now());
        let lost = Setback::Fatal(unreachable("a:1"));
        assert_eq!(fails(retry.after(lost, now(), 0.5)), "cannot connect to a:1: connection refused");
    }

    #[test]
    fn logs_in_again_once_per_server() {
        let outdated = || Setback::KeyOutdated(ConnectError::local("it changes its salt"));
        let mut retry = Retry::new(2, Duration::ZERO, Duration::ZERO, now());
        assert_eq!(waits(&retry.after(outdated(), now(), 1.0)), Duration::ZERO);
        assert_eq!((retry.server(), retry.is_second()), (0, true));
        retry.after(Setback::Failed(unreachable("a:1")), now(), 1.0);
        assert_eq!((retry.server(), retry.is_second()), (1, false));
        assert_eq!(waits(&retry.after(outdated(), now(), 1.0)), Duration::ZERO);
        assert!(fails(retry.after(outdated(), now(), 1.0)).contains("it changes its salt"));
    }
}
