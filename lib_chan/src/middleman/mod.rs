//! The task that drives a session: socket frames become messages of processes, and the other way round.
//!
//! | file | owns |
//! |---|---|
//! | `driver.rs` | the loop between a connection and an endpoint, and its timer |
//! | `connection.rs` | one stream: what is written to it, and read from it |
//! | `shared.rs` | the lock around an endpoint; carries out the endpoint's output |
//! | `processes.rs` | the pids and mailboxes behind the numbers of a session; deliveries as signals of processes |
//! | `far.rs` | far processes, and monitors of the peer, as targets of signals |
//! | `sending.rs` | the encoding of messages, and why one was not sent |
//! | `ended.rs` | the wait for the end of a session |
//! | `held.rs` | the count of bytes that all sessions hold |
//! | `windows.rs` | the count of bytes by which windows have grown |
//! | `source.rs` | where the next stream comes from when one is lost |
//! | `wake.rs` | wakers and the clock |

mod connection;
mod driver;
mod ended;
mod far;
mod held;
mod processes;
mod sending;
mod shared;
mod source;
mod wake;
mod windows;

pub(crate) use self::{
    driver::Driver,
    processes::{Fed, Outlet},
    sending::{Encoded, NotSent, with_scratch},
    shared::Shared,
    source::{NextStream, Once, Source},
    wake::{keep, now},
};

#[cfg(test)]
mod tests;
