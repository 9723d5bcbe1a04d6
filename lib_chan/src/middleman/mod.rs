//! The task that drives a session: turns frames into messages of processes, and messages into frames.
//!
//! | file | owns |
//! |---|---|
//! | `driver.rs` | the loop between a connection and an endpoint, and its timer |
//! | `connection.rs` | one stream: what is written to it, and read from it |
//! | `shared.rs` | the lock around an endpoint; carries out the endpoint's output |
//! | `processes.rs` | the pids and mailboxes behind the numbers of a session; deliveries as signals of processes |
//! | `far.rs` | far processes, and monitors of the peer, as targets of signals |
//! | `export.rs` | processes of this end that are handed out |
//! | `effects.rs` | where the endpoint's events go |
//! | `terms.rs` | limits, names, and the agreed encoding |
//! | `sending.rs` | batches of encoded messages, and why one was not sent |
//! | `ended.rs` | the wait for the end of a session |
//! | `holder.rs` | what the sessions of one client have together, and its share of what there is |
//! | `held.rs` | the count of bytes that all sessions hold |
//! | `windows.rs` | the bytes by which the windows of a session have grown |
//! | `source.rs` | where the next stream comes from when one is lost |
//! | `suspension.rs` | the time for which the machine was suspended |
//! | `wake.rs` | wakers and the clock |

mod connection;
mod driver;
mod effects;
mod ended;
mod export;
mod far;
mod held;
mod holder;
mod processes;
mod sending;
mod shared;
mod source;
mod suspension;
mod terms;
mod wake;
mod windows;

pub(crate) use self::{
    driver::Driver,
    ended::Ended,
    export::{Departing, Exported, Forward},
    far::handle_of,
    processes::{Fed, Outlet},
    sending::{Encoded, NotSent, with_scratch},
    shared::Shared,
    source::{NextStream, Once, Source},
    wake::{keep, now},
};

#[cfg(test)]
mod tests;
