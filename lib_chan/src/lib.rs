//! Secure socket RPC with Erlang's processes, links and exit reasons.
//!
//! The pure half ([`auth`], [`handshake`], [`session`], [`wire`], [`payload`], [`links`]) decides; it has no socket,
//! clock, randomness or task. The io half (feature `io`, on by default) does.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests ask for the time themselves"))]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

pub mod auth;
mod exit;
pub mod handshake;
mod limits;
pub mod links;
pub mod payload;
pub mod secret;
pub mod session;
pub mod wire;

#[cfg(feature = "io")]
mod channel;
#[cfg(feature = "io")]
pub mod dial;
#[cfg(feature = "io")]
pub mod heap;
#[cfg(feature = "io")]
pub mod login;
#[cfg(feature = "io")]
pub mod middleman;
#[cfg(feature = "io")]
pub mod private;
#[cfg(feature = "io")]
mod process;
#[cfg(feature = "io")]
pub mod relay;
#[cfg(all(feature = "io", unix))]
pub mod signals;
#[cfg(all(feature = "io", unix))]
pub mod stdio;
mod sync;
#[cfg(feature = "io")]
pub mod tls;

pub use exit::{CallError, CallFailure, Executed, ExitReason, SendError};
pub use limits::{Limits, after};
pub use payload::Opaque;
#[cfg(feature = "io")]
pub use {channel::*, process::*};
