//! Secure socket RPC with Erlang's processes, links and exit reasons.
//!
//! A server offers named services and spawns a process for every client that logs in. Each session is one TLS 1.3
//! connection. Both ends send casts and calls, and each end learns once why the other one stopped.
//!
//! The crate `chan-server` offers services, and `chan-client` opens sessions. A program that does either needs five
//! types of this crate, in this order.
//!
//! # 1. `Process`: a future with a mailbox
//!
//! [`spawn`] starts a process, and [`enter`] makes the current task one. A process receives [`Event`]s: messages, exit
//! signals of the processes that it is linked to, and the ends of those that it monitors. It ends with `Ok(())` or with
//! an [`ExitReason`].
//!
//! ```
//! use lib_chan::{Event, ExitReason, Process, enter};
//!
//! # #[tokio::main]
//! # async fn main() {
//! let ended = enter(async |mut me: Process| {
//!     me.trap_exit(true);
//!     let child = me.spawn_link(async |_me: Process| Err(ExitReason::failed("out of paper")));
//!     match me.recv().await {
//!         Event::Exit(pid, reason) if pid == child.pid() => Ok(reason),
//!         _ => Err(ExitReason::failed("expected the exit of the child")),
//!     }
//! });
//! assert_eq!(ended.await, Ok(ExitReason::failed("out of paper")));
//! # }
//! ```
//!
//! # 2. `Address`: sends messages to a process
//!
//! An [`Address`] is typed, cheap to clone, and usable in any task. [`send`](Address::send) waits while the mailbox is
//! full. [`call`](Address::call) waits for the answer.
//!
//! ```
//! # use std::time::Duration;
//! # use lib_chan::{Address, Event, ExitReason, Process, Reply, spawn};
//! enum Ask {
//!     Add(u64),
//!     Total(Reply<u64>),
//! }
//!
//! async fn counter(mut me: Process<Ask>) -> Result<(), ExitReason> {
//!     let mut total = 0;
//!     loop {
//!         match me.recv().await {
//!             Event::Message(Ask::Add(number)) => total += number,
//!             Event::Message(Ask::Total(reply)) => reply.send(total),
//!             _ => {}
//!         }
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() {
//! let counter: Address<Ask> = spawn(counter);
//! counter.send(Ask::Add(2)).await.unwrap();
//! counter.send(Ask::Add(3)).await.unwrap();
//! assert_eq!(counter.call(Duration::from_secs(5), Ask::Total).await, Ok(5));
//! # }
//! ```
//!
//! # 3. `Channel`: receives from the far end
//!
//! A [`Channel`] is the receiving half of a session. A service gets one for each client, and a client gets one when it
//! opens a session. The process that receives from a channel owns the session: the session ends with its owner.
//!
//! ```
//! use lib_chan::{Channel, ExitReason, Message, Process};
//!
//! /// Sends every text back.
//! async fn echo(_me: Process, mut chan: Channel<String>) -> Result<(), ExitReason> {
//!     let client = chan.remote();
//!     while let Some(message) = chan.recv().await {
//!         match message {
//!             Message::Cast(text) => client.cast(text).await?,
//!             Message::Call(_, reply) => reply.refuse("this service takes casts only"),
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # 4. `Remote`: sends to the far end
//!
//! A [`Remote`] is the sending half of a session: cheap to clone, and usable in any task. The type of a request
//! determines the type of its answer. A failed call says whether it was executed.
//!
//! ```
//! use lib_chan::{Call, CallError, Remote};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Lookup {
//!     key: String,
//! }
//!
//! impl Call for Lookup {
//!     type Reply = Option<String>;
//! }
//!
//! async fn lookup(names: &Remote<Lookup>, key: &str) -> Result<Option<String>, CallError> {
//!     names.call(Lookup { key: key.into() }).await
//! }
//! ```
//!
//! # 5. `Reply`: answers one call
//!
//! A [`Reply`] is answered or refused, here or in another process. [`to`](Reply::to) gives a far call's reply its type.
//! If a `Reply` is dropped, its caller is told that no answer comes.
//!
//! ```
//! # use std::collections::HashMap;
//! # use lib_chan::{Call, Message};
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Serialize, Deserialize)]
//! # struct Lookup { key: String }
//! # impl Call for Lookup { type Reply = Option<String>; }
//! fn answer(names: &HashMap<String, String>, message: Message<Lookup>) {
//!     match message {
//!         Message::Call(lookup, reply) => {
//!             let value = names.get(&lookup.key).cloned();
//!             reply.to(&lookup).send(value);
//!         }
//!         Message::Cast(_) => {}
//!     }
//! }
//! ```
//!
//! # Protocols
//!
//! A [protocol](mod@protocol) says all of the above in one trait: its messages are an enum that a [`Process`] and a
//! [`Channel`] receive alike, and its methods are called on an [`Address`] or a [`Remote`]. Use it where both ends are
//! your own.
//!
//! [`Limits`] holds every bound of a session, with its default. [`supervisor`] restarts processes that fail, and
//! [`testing`] tries a service without a network.
//!
//! # Embed the protocol
//!
//! A program that brings its own listener or dialler uses the layers below: [`tls`], [`login`], [`auth`], [`secret`],
//! [`handshake`], [`payload`], [`dial`] and [`relay`]. Without the feature `io`, which is on by default, only the pure
//! half of the crate is built. It has no socket, clock, random source or task.
//!
//! # Stability
//!
//! The modules `links`, `session` and `wire` and everything else that these pages do not show are public for the tests
//! and tools of the project only. They are exempt from semantic versioning.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests ask for the time themselves"))]
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

// The attribute `protocol` names the crate so.
#[cfg(feature = "io")]
extern crate self as lib_chan;

#[cfg(all(feature = "io", not(unix)))]
compile_error!("the feature `io` needs a Unix system; without it the pure half builds everywhere");

pub mod auth;
mod exit;
pub mod handshake;
mod limits;
#[doc(hidden)]
pub mod links;
pub mod payload;
mod rights;
#[doc(hidden)]
#[allow(rustdoc::private_intra_doc_links, reason = "hidden pages are read with --document-private-items")]
pub mod session;
#[doc(hidden)]
pub mod wire;

#[cfg(feature = "io")]
pub mod channel;
#[cfg(feature = "io")]
pub mod dial;
#[cfg(feature = "io")]
pub mod heap;
#[cfg(feature = "io")]
pub mod login;
#[cfg(feature = "io")]
mod middleman;
#[cfg(feature = "io")]
pub mod private;
#[cfg(feature = "io")]
mod process;
#[cfg(feature = "io")]
pub mod protocol;
#[cfg(feature = "io")]
pub mod relay;
#[cfg(feature = "io")]
pub mod runtime;
#[cfg(feature = "io")]
pub mod signals;
#[cfg(feature = "io")]
pub mod stdio;
mod sync;
#[cfg(feature = "io")]
pub mod testing;
#[cfg(feature = "io")]
pub mod tls;

pub use auth::secret;
pub use exit::{CallError, CallFailure, CastError, Executed, ExitReason, SendError};
pub use limits::{Limits, after};
pub use payload::Opaque;
pub use rights::Rights;
#[cfg(feature = "io")]
pub use {
    channel::{Channel, Incoming, Remote},
    lib_chan_macros::protocol,
    process::*,
    session::ConnectionState,
};

/// For the code that the macros write.
#[cfg(feature = "io")]
#[doc(hidden)]
pub mod __private {
    pub use {
        crate::payload::{Carried, encode_value_in_message},
        bytes::Bytes,
        serde,
    };
}
