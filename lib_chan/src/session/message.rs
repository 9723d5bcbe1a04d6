//! What a session hands to the two halves of its driver.

use std::time::Duration;

use bytes::Bytes;

use super::credit::cost;
use crate::{ExitReason, payload::Codec, wire::RefuseCode};

/// A message that came in for a process, not yet decoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Its number in the ordered stream.
    pub number: u64,
    /// Cast, or call with the id its answer goes to.
    pub kind: InboundKind,
    /// The encoded payload.
    pub payload: Bytes,
}

impl Inbound {
    /// The credit that comes back when it is taken.
    pub const fn cost(&self) -> u64 {
        cost(self.payload.len())
    }
}

/// What kind of message came in.
#[derive(Debug, PartialEq, Eq)]
pub enum InboundKind {
    /// No answer is wanted.
    Cast,
    /// An answer is wanted.
    Call {
        /// The call's id.
        call: u64,
    },
}

/// Something that must be told to a process of this end. Far processes go by their ids.
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
        /// The peer can cause any number of these: it counts while it lies untaken in a mailbox
        /// ([`check_untaken_exits`](super::Session::check_untaken_exits)). Not so the end of a link that this end has made.
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
        message: Inbound,
    },
    /// A message for the owner, where these are [handed over](super::Session::hand_over).
    Inbound(Inbound),
    /// The session's end for such an owner: nothing comes after it.
    Over(ExitReason),
}

/// What the client's `Start` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// How every payload is encoded.
    pub codec: Codec,
    /// `ArgsC`, encoded.
    pub args: Bytes,
    /// For how long the client would like the session to outlive its connection. Zero: not at all.
    pub resume: Duration,
}

/// The server's refusal of a `Start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartRefused {
    /// Its kind.
    pub code: RefuseCode,
    /// Its public words.
    pub text: Box<str>,
}

/// How the opening of a session ended that did not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// Refused by name.
    Refused(StartRefused),
    /// It ended before there was an answer.
    Ended(ExitReason),
}

/// Why a message could not be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsendable {
    /// The session is over.
    Ended(ExitReason),
    /// Longer than the peer takes.
    TooLong {
        /// The most bytes a payload may have.
        max: usize,
    },
    /// It would have to wait.
    WouldWait,
}

/// What becomes of the window that this end grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowChange {
    /// It should be so many bytes wider: [`widen`](super::Session::widen) it as far as the program has room.
    Wanted(u64),
    /// It is so many bytes wider than at the start, and no more.
    Narrowed(u64),
}
