//! Typed protocols: a trait declares the casts and calls of a process, the same for local and far processes.
//!
//! The attribute [`protocol`](macro@crate::protocol) on a trait makes
//!
//! * an enum of its messages, `NamesMessage` for a trait `Names`. A [`Process`](crate::Process) and a
//!   [`Channel`](crate::Channel) receive it alike; a message of a call has a typed [`Reply`].
//! * the trait itself, with a method for each message. A [`Remote`](crate::Remote) and an [`Address`] of the messages
//!   implement it, so callers do not know where the process is.
//! * the form on the wire, which programs in other languages use too, and an [`Interface`] that describes it.
//!
//! `fn` declares a cast, which has no answer, and `async fn` a call.
//!
//! ```
//! use std::collections::HashMap;
//! use lib_chan::{Channel, ExitReason, Process, protocol, spawn, testing};
//!
//! /// A store of names.
//! #[protocol]
//! pub trait Names {
//!     /// Remembers `value` under `key`.
//!     fn store(key: String, value: String);
//!     /// Returns the value of `key`.
//!     async fn lookup(key: String) -> Option<String>;
//! }
//!
//! async fn names(_me: Process, mut chan: Channel<NamesMessage, ()>) -> Result<(), ExitReason> {
//!     let mut names = HashMap::new();
//!     while let Some(message) = chan.recv().await {
//!         match message {
//!             NamesMessage::Store { key, value } => drop(names.insert(key, value)),
//!             NamesMessage::Lookup { key, reply } => reply.send(names.get(&key).cloned()),
//!         }
//!     }
//!     Ok(())
//! }
//!
//! # #[tokio::main]
//! # async fn main() {
//! let (chan, _line) = testing::pair().serve(names).await.unwrap();
//! let names = chan.remote();
//! names.store("joe", "writing a book").await.unwrap();
//! assert_eq!(names.lookup("joe").await, Ok(Some("writing a book".into())));
//! # }
//! ```
//!
//! # On the wire
//!
//! A message is a serde enum. The variant is the method's name in `UpperCamelCase`, the fields are the arguments. In
//! JSON, `lookup("joe")` is `{"Lookup":{"key":"joe"}}`, and a method without arguments is `{"Ping":{}}`. In bincode, a
//! message is the index of its method, then its arguments. If a peer calls a cast, the call is refused with a text that
//! says so. If it casts a call, the cast is discarded. The session continues in both cases.
//!
//! # Processes in messages
//!
//! An argument or a reply may be the [`Address`] of a process, or its [`Pid`](crate::Pid). Whoever receives the message can
//! send to that process, call it and monitor it, for as long as the session lives: callbacks and subscriptions are ordinary
//! messages. A peer reaches exactly the processes that it was given.
//!
//! ```
//! # use lib_chan::{Address, Channel, Event, ExitReason, Process, enter, protocol, testing};
//! /// Tells of changes.
//! #[protocol]
//! pub trait Changes {
//!     /// The value of `key` is now `value`.
//!     fn changed(key: String, value: String);
//! }
//!
//! /// A store of names.
//! #[protocol]
//! pub trait Names {
//!     /// Remembers `value` under `key`.
//!     fn store(key: String, value: String);
//!     /// Tells `watcher` of every later change, until either ends.
//!     fn watch(watcher: Address<ChangesMessage>);
//! }
//!
//! async fn names(_me: Process, mut chan: Channel<NamesMessage, ()>) -> Result<(), ExitReason> {
//!     let mut watchers: Vec<Address<ChangesMessage>> = Vec::new();
//!     while let Some(message) = chan.recv().await {
//!         match message {
//!             NamesMessage::Store { key, value } => {
//!                 for watcher in &watchers {
//!                     watcher.changed(&key, &value).await?;
//!                 }
//!             }
//!             NamesMessage::Watch { watcher } => watchers.push(watcher),
//!         }
//!     }
//!     Ok(())
//! }
//!
//! # #[tokio::main]
//! # async fn main() {
//! let (chan, _line) = testing::pair().serve(names).await.unwrap();
//! let names = chan.remote();
//! let seen = enter(async |mut me: Process<ChangesMessage>| {
//!     names.watch(me.address()).await?;
//!     names.store("joe", "writing a book").await?;
//!     let Event::Message(ChangesMessage::Changed { key, value }) = me.recv().await else { panic!() };
//!     Ok((key, value))
//! });
//! assert_eq!(seen.await, Ok(("joe".into(), "writing a book".into())));
//! # }
//! ```
//!
//! # Mistakes that do not compile
//!
//! An answer of another type, or a call without its answer:
//!
//! ```compile_fail,E0308
//! # #[lib_chan::protocol]
//! # pub trait Names {
//! #     async fn lookup(key: String) -> Option<String>;
//! # }
//! fn handle(NamesMessage::Lookup { key, reply }: NamesMessage) {
//!     reply.send(key.len());
//! }
//! ```
//!
//! A method that the protocol does not have, at the caller:
//!
//! ```compile_fail,E0599
//! # #[lib_chan::protocol]
//! # pub trait Names {
//! #     async fn lookup(key: String) -> Option<String>;
//! # }
//! async fn forget(names: &impl Names) {
//!     names.forget("joe").await;
//! }
//! ```
//!
//! A type without a [`Schema`] as an argument or a reply:
//!
//! ```compile_fail,E0277
//! #[derive(serde::Serialize, serde::Deserialize)]
//! pub struct Place(f64, f64);
//!
//! #[lib_chan::protocol]
//! pub trait Places {
//!     async fn lookup(key: String) -> Place;
//! }
//! ```
//!
//! # Change a protocol
//!
//! [`Interface::accepts`] compares two versions. Keep the [text](Interface::text) of each released version in a file, and
//! call it in a test:
//!
//! ```
//! use lib_chan::payload::Codec;
//! use lib_chan::protocol::{Interface, Protocol};
//!
//! # #[lib_chan::protocol]
//! # pub trait Names {
//! #     fn store(key: String, value: String);
//! #     async fn lookup(key: String) -> Option<String>;
//! # }
//! let released: Interface = "\
//! protocol Names
//! cast Store(key: String, value: String)
//! call Lookup(key: String) -> String
//! ".parse().unwrap();
//! let error = NamesMessage::interface().accepts(&released, Codec::Bincode).unwrap_err();
//! assert_eq!(error.to_string(), "Lookup: the reply is Option<String> at the service, and String at the client");
//! ```
//!
//! The service makes the same comparison when a client opens a session. A client with an incompatible version is refused
//! before anything starts, and its error names the first difference. Ends of one version exchange a hash and nothing else.
//! These changes are compatible:
//!
//! * **bincode**: a service may append methods. Nothing else may change.
//! * **JSON**: a service may add methods anywhere and change their order. It may add arguments that are `Option`, and
//!   ignores arguments that it does not know. A client with such a version logs in twice.
//!
//! A client must not have a method that its service lacks: update services first. The comparison does not see into the
//! protocol of an [`Address`] in a message, or into the casts of the service to its client.

mod describe;
mod interface;

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use lib_chan_macros::Schema;

pub use self::describe::{Describer, Schema, describe};
pub use self::interface::{Incompatible, Interface, Method, SyntaxError};
use crate::payload::{self, Carried, Codec, PayloadError};
use crate::process::{PassedReply, Within, call_far, cast_far, in_time, try_cast_far};
use crate::{Address, CallError, CastError, ExitReason, Limits, Message, Reply, SendError};

/// The messages of a protocol. The attribute [`protocol`](macro@crate::protocol) implements it.
pub trait Protocol: Receive<Item = Self> + Transmit + Send {
    /// The form of a message on the wire, without the reply.
    #[doc(hidden)]
    type Wire: Serialize + DeserializeOwned + Send + 'static;

    /// The name of the trait.
    #[doc(hidden)]
    const NAME: &'static str;

    /// Describes the protocol: its methods, and the types of their arguments and replies.
    fn interface() -> &'static Interface;

    /// Appends the form on the wire, for a far process. Returns the processes in the message.
    #[doc(hidden)]
    fn encode(&self, codec: Codec, max: usize, out: &mut Vec<u8>) -> Result<Carried, PayloadError>;

    /// Returns `true` for a message that holds a reply.
    #[doc(hidden)]
    fn is_call(&self) -> bool;

    /// Returns the reply of a message that was passed on.
    #[doc(hidden)]
    fn into_reply(self) -> Option<PassedReply>;
}

/// A type that a [`Channel`](crate::Channel) can receive: the messages of a protocol, or any type that serde decodes.
#[diagnostic::on_unimplemented(
    message = "a channel cannot receive `{Self}`",
    note = "it receives the messages of a `#[lib_chan::protocol]`, and types that implement `serde::Deserialize`"
)]
pub trait Receive: Sized + 'static {
    /// The item that [`Channel::recv`](crate::Channel::recv) returns: the message of a protocol itself, or a
    /// [`Message`] around any other type.
    type Item;

    /// Returns the protocol of the messages, if they have one.
    #[doc(hidden)]
    fn protocol() -> Option<&'static Interface> {
        None
    }

    /// Decodes a cast; `None` if it is to be discarded.
    #[doc(hidden)]
    fn decode_cast(codec: Codec, payload: &Bytes) -> Result<Option<Self::Item>, PayloadError>;

    /// Decodes a call; `None` if it was refused.
    #[doc(hidden)]
    fn decode_call(
        codec: Codec,
        payload: &Bytes,
        make_reply: impl FnOnce() -> Reply,
    ) -> Result<Option<Self::Item>, PayloadError>;
}

impl<T: DeserializeOwned + 'static> Receive for T {
    type Item = Message<T>;

    fn decode_cast(codec: Codec, payload: &Bytes) -> Result<Option<Message<T>>, PayloadError> {
        payload::decode_message(codec, payload).map(|message| Some(Message::Cast(message)))
    }

    fn decode_call(
        codec: Codec,
        payload: &Bytes,
        make_reply: impl FnOnce() -> Reply,
    ) -> Result<Option<Message<T>>, PayloadError> {
        payload::decode_message(codec, payload).map(|message| Some(Message::Call(message, make_reply())))
    }
}

/// A type that a [`Remote`](crate::Remote) can send: the messages of a protocol, or any type that serde encodes.
#[diagnostic::on_unimplemented(
    message = "a remote cannot send `{Self}`",
    note = "it sends the messages of a `#[lib_chan::protocol]`, and types that implement `serde::Serialize`"
)]
pub trait Transmit {
    /// Returns the protocol of the messages, if they have one.
    #[doc(hidden)]
    fn protocol() -> Option<&'static Interface> {
        None
    }
}

impl<T: Serialize> Transmit for T {}

/// Something that takes the messages of a protocol: a [`Remote`](crate::Remote), an [`Address`], or one of them
/// [within](Address::within) a time. The trait of the protocol is implemented for all of them.
#[diagnostic::on_unimplemented(message = "`{Self}` does not take the messages of this protocol, `{M}`")]
pub trait Caller<M: Protocol>: Send + Sync {
    #[doc(hidden)]
    fn cast_with<A: Send>(
        &self,
        arguments: A,
        wire: fn(A) -> M::Wire,
        message: fn(A) -> M,
    ) -> impl Future<Output = Result<(), CastError>> + Send;

    #[doc(hidden)]
    fn call_with<A: Send, R: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        arguments: A,
        wire: fn(A) -> M::Wire,
        message: fn(A, Reply<R>) -> M,
    ) -> impl Future<Output = Result<R, CallError>> + Send;
}

/// A cast waits while the mailbox is full; to a far process, while it grants no credit. A call waits at most
/// [`Limits::call_timeout`]: of the session for a far process, else of the default limits.
impl<M: Protocol> Caller<M> for Address<M> {
    async fn cast_with<A: Send>(
        &self,
        arguments: A,
        wire: fn(A) -> M::Wire,
        message: fn(A) -> M,
    ) -> Result<(), CastError> {
        if let Some(route) = self.route() {
            return cast_far(route, wire(arguments)).await;
        }
        self.send(message(arguments)).await.map_err(not_cast)
    }

    async fn call_with<A: Send, R: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        arguments: A,
        wire: fn(A) -> M::Wire,
        message: fn(A, Reply<R>) -> M,
    ) -> Result<R, CallError> {
        if let Some(route) = self.route() {
            return call_far(route, route.call_timeout(), wire(arguments)).await;
        }
        self.call(Limits::default().call_timeout, |reply| message(arguments, reply)).await
    }
}

/// A cast that would have to wait longer fails with `WouldWait`; within no time, it never waits.
impl<M: Protocol> Caller<M> for Within<'_, Address<M>> {
    async fn cast_with<A: Send>(
        &self,
        arguments: A,
        wire: fn(A) -> M::Wire,
        message: fn(A) -> M,
    ) -> Result<(), CastError> {
        if let Some(route) = self.of.route() {
            let wire = wire(arguments);
            if self.time == Duration::ZERO {
                return try_cast_far(route, &wire);
            }
            return in_time(self.time, cast_far(route, wire)).await.unwrap_or(Err(CastError::WouldWait));
        }
        let message = message(arguments);
        if self.time == Duration::ZERO {
            return self.of.try_send(message).map_err(not_cast);
        }
        match in_time(self.time, self.of.send(message)).await {
            Some(sent) => sent.map_err(not_cast),
            None => Err(CastError::WouldWait),
        }
    }

    async fn call_with<A: Send, R: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        arguments: A,
        wire: fn(A) -> M::Wire,
        message: fn(A, Reply<R>) -> M,
    ) -> Result<R, CallError> {
        if let Some(route) = self.of.route() {
            return call_far(route, self.time, wire(arguments)).await;
        }
        self.of.call(self.time, |reply| message(arguments, reply)).await
    }
}

fn not_cast<M>(error: SendError<M>) -> CastError {
    match error.reason {
        ExitReason::Overload => CastError::WouldWait,
        reason => CastError::Ended(reason),
    }
}
