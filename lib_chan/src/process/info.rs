//! What a process looks like from outside.

use std::time::Duration;

use super::Pid;

/// A snapshot of a local process, from [`Pid::info`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProcessInfo {
    /// The names that the process has in tables of [`Names`](super::Names).
    pub names: Vec<Box<str>>,
    /// The time since it was spawned.
    pub age: Duration,
    /// Messages that it has not taken. Signals do not count.
    pub mailbox_len: u64,
    /// Messages that it has taken since it was spawned. Messages of its timers do not count.
    pub messages_taken: u64,
    /// Whether exit signals become messages.
    pub trap_exit: bool,
    /// The processes that it is linked to.
    pub links: Vec<Pid>,
    /// The processes that it monitors, one entry for each monitor.
    pub monitors: Vec<Pid>,
    /// The processes that monitor it, one entry for each monitor.
    pub monitored_by: Vec<Pid>,
}
