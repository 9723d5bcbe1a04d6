//! The types that a session hands to its driver and takes from it.

use std::time::Duration;

use bytes::Bytes;

use super::{
    credit::cost,
    handles::{Handles, ProcessMailbox},
};
use crate::{
    ExitReason,
    payload::Codec,
    wire::{InterfaceHash, RefuseCode},
};

/// A received message for a process of this end, still encoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The number of the message in the ordered stream.
    pub number: u64,
    /// A cast, or a call with the id for its answer.
    pub kind: InboundKind,
    /// The encoded payload.
    pub payload: Bytes,
    /// The handles that the payload names.
    pub handles: Handles,
}

impl Inbound {
    /// Returns the credit that the message takes up until it is taken.
    pub const fn cost(&self) -> u64 {
        cost(self.payload.len()) + self.handles.cost()
    }
}

/// The kind of a received message.
#[derive(Debug, PartialEq, Eq)]
pub enum InboundKind {
    /// The sender expects no answer.
    Cast,
    /// The sender expects an answer.
    Call {
        /// The call's id.
        call: u64,
    },
}

/// An event for a process of this end. Far processes are named by their ids.
#[derive(Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the signals of the same names")]
pub enum Delivery<P> {
    Link {
        from: u64,
        to: P,
    },
    Unlink {
        from: u64,
        to: P,
        unlink: u64,
    },
    UnlinkAck {
        from: u64,
        to: P,
        unlink: u64,
    },
    Exit {
        from: u64,
        to: P,
        reason: ExitReason,
        link: bool,
        /// The peer can cause any number of these, so they are counted until a process takes them
        /// ([`check_untaken_exits`](super::Session::check_untaken_exits)). The end of a link that this end has made
        /// does not count.
        provoked: bool,
    },
    Monitor {
        monitor: u64,
        to: P,
    },
    Demonitor {
        monitor: u64,
        to: P,
    },
    Down {
        monitor: u64,
        from: u64,
        to: P,
        reason: ExitReason,
    },
    Message {
        to: P,
        /// The id under which the process was handed out.
        id: u64,
        mailbox: Option<ProcessMailbox>,
        message: Inbound,
    },
    /// The process is handed out, so the session wants to know when it ends.
    Watch {
        to: P,
    },
    /// The process is no longer handed out.
    Unwatch {
        to: P,
    },
    /// A message for the owner, after [`hand_over`](super::Session::hand_over).
    Inbound(Inbound),
    /// The end of the session, for an owner after `hand_over`. Nothing follows it.
    Over(ExitReason),
}

/// The wishes of a client for its session.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest<'a> {
    /// The codec of every payload of the session.
    pub codec: Codec,
    /// The arguments for the service, encoded in that codec.
    pub args: &'a [u8],
    /// A message to cast without waiting for the service, encoded. It arrives a round trip earlier, and is lost if the
    /// service does not start.
    pub first: Option<&'a [u8]>,
    /// The time that the session should survive without a connection; zero for no resume.
    pub resume: Duration,
    /// The protocol of the client. A service with another one refuses to start. `None` for a client without a protocol.
    pub interface: Option<InterfaceHash>,
}

impl<'a> OpenRequest<'a> {
    /// Creates a request without a first message, resume or protocol.
    pub const fn new(codec: Codec, args: &'a [u8]) -> Self {
        Self { codec, args, first: None, resume: Duration::ZERO, interface: None }
    }
}

/// The content of the client's `Start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The codec of every payload.
    pub codec: Codec,
    /// The encoded arguments, `ArgsC`.
    pub args: Bytes,
    /// The time for which the client asks the session to outlive its connection; zero for no resume.
    pub resume: Duration,
    /// The protocol of the client; `None` if it has none.
    pub interface: Option<Box<InterfaceHash>>,
}

/// The server's refusal of a `Start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartRefused {
    /// The kind of the refusal.
    pub code: RefuseCode,
    /// The public text of the refusal.
    pub text: Box<str>,
}

/// The reason why a session did not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// The server refused the `Start`.
    Refused(StartRefused),
    /// The session ended before the server answered.
    Ended(ExitReason),
}

/// Why a message could not be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsendable {
    /// The session is over.
    Ended(ExitReason),
    /// The payload is longer than the peer takes.
    TooLong {
        /// The most bytes a payload may have.
        max: usize,
    },
    /// The message would have to wait.
    WouldWait,
    /// With this message, more processes would be handed out than the peer takes.
    TooManyHandles {
        /// The most processes.
        max: u64,
    },
}

/// A change of the windows that this end grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowChange {
    /// The window of a process should be wider: [`widen`](super::Session::widen) it as far as the program has room.
    Wanted {
        /// The id of the process.
        id: u64,
        /// The bytes to add.
        more: u64,
    },
    /// All windows together need this many bytes less of the program's room than before.
    Narrowed(u64),
}
