//! The three crates together, with the real programs.

#![allow(clippy::disallowed_methods, reason = "tests measure time themselves")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

mod attacks;
mod chat;
#[cfg(target_os = "linux")]
mod completion;
mod differential;
mod endings;
mod examples;
mod exit_codes;
mod handles;
mod hostile;
mod main_job;
#[cfg(target_os = "linux")]
mod memory;
mod neighbours;
#[cfg(target_os = "linux")]
mod operate;
mod pages;
#[cfg(target_os = "linux")]
mod platform;
mod protocols;
mod provide;
mod python;
mod reconnecting;
mod relay;
mod relay_endings;
mod shared_session;
mod streams;
#[cfg(target_os = "linux")]
mod terminal;
mod trust;
