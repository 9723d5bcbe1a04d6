//! Processes as Erlang has them: mailboxes, links, monitors, exit reasons.
//!
//! A process is a future with a mailbox and a [`Pid`]. [`spawn`] starts a process; [`enter`] makes the calling task one.
//! A process ends with `Ok(())`, with `Err(reason)`, by a panic, or by an exit signal. Its links and monitors are told the
//! reason once, after its future has been dropped.
//!
//! Guarantees:
//!
//! * From one process to another, messages and signals arrive in the order sent.
//! * An exit signal acts at the next await, because a future cannot be stopped between two. Destructors run; other code
//!   behind that await does not. A process that never awaits delays its local links and monitors. What it owns, its
//!   sessions above all, ends at once. [`ending_processes`] counts such processes.
//! * Nobody sees a process alive whose end is decided.
//! * No [`Event::Down`] arrives after [`Process::demonitor_flush`] has returned, and a link has no effect after
//!   [`Process::unlink`] has returned: a signal removes its record and queues its event under one lock.
//! * The sender of a signal is the process whose future makes the call. In any other task the sender is a process that
//!   was never alive.
//! * Mailboxes are bounded for messages: [`Address::send`] waits, [`Address::try_send`] refuses. Signals are never
//!   refused and never wait.
//!
//! Each process has one lock, and no two locks are held together. There is no table of all processes.

mod address;
mod alias;
mod cell;
mod current;
mod far;
mod info;
mod mailbox;
mod names;
mod owned;
mod pid;
#[expect(clippy::module_inception, reason = "the file of the type Process")]
mod process;
mod reply;
mod run;
pub mod supervisor;
#[cfg(test)]
mod tests;
mod timers;
mod within;

pub use address::Address;
pub(crate) use address::Departure;
pub(crate) use alias::{Alias, Revoker};
pub use cell::ending_processes;
pub(crate) use far::{FarRoute, call as call_far, cast as cast_far, try_cast as try_cast_far};
pub use info::ProcessInfo;
pub use names::{NameError, Names};
pub use pid::Pid;
pub use process::{Event, Process};
#[doc(hidden)]
pub use reply::PassedReply;
pub use reply::{Call, Message, Reply, Untyped};
pub(crate) use reply::{EncodeAnswer, FarCallers};
pub use run::{SpawnOptions, enter, spawn, spawn_with};
pub use timers::TimerRef;
pub use within::Within;

pub use crate::links::MonitorRef;

pub(crate) use current::{current, current_id, in_time, poll_proceed, poll_proceed_shortly, settle};
pub(crate) use mailbox::Parcel;
pub(crate) use owned::Owned;
pub(crate) use pid::{ProcessSignal, Receipt, SignalTarget, next_id, next_monitor};
