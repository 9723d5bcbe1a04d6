//! Hundreds of sessions over TLS for half an hour, with something going wrong ten times a second: whether everything
//! that begins ends, once, and whether memory and descriptors stay where they were.
//!
//! The program starts itself several times over: as a server; as clients that live throughout; and as clients that are
//! killed. Between them is a network that cuts, resets, holds and loses connections. What each of these programs counts
//! it says at the end, and then the two columns must agree: what was started, and what has ended.

mod client;
mod count;
mod load;
mod message;
pub(crate) mod net;
mod report;
mod run;
pub(crate) mod sample;
mod server;

use std::time::Duration;

pub use self::run::soak;

/// The part that a program plays.
#[derive(Clone, Debug)]
pub enum Role {
    /// Starts the others, makes the faults, measures.
    Whole(Options),
    /// Serves.
    Server {
        /// Decides what happens to its services.
        seed: u64,
    },
    /// Keeps so many sessions open with the service at this URL.
    Clients {
        /// The service, by way of the network that fails.
        url: String,
        /// How many sessions.
        sessions: usize,
        /// Decides what they do.
        seed: u64,
    },
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long faults are made. Default 30 minutes.
    pub duration: Duration,
    /// Sessions at a time. Default 200.
    pub sessions: usize,
    /// Which faults, in which order. Default 1.
    pub seed: u64,
    /// The time between two faults. Default 100 ms.
    pub pace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(30 * 60),
            sessions: 200,
            seed: 1,
            pace: Duration::from_millis(100),
        }
    }
}

/// Plays a part other than the whole, to its end.
///
/// # Panics
/// If there is no runtime to be had, or the server does not start.
pub fn play(role: &Role) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    match role {
        Role::Whole(_) => unreachable!("the whole is no part"),
        Role::Server { seed } => runtime.block_on(server::serve(*seed)),
        Role::Clients { url, sessions, seed } => runtime.block_on(client::run(url, *sessions, *seed)),
    }
    // What still runs was counted before, and is not waited for.
    runtime.shutdown_background();
}
