//! A session: what holds between two ends that have proved themselves.

use std::time::Instant;

use bytes::Bytes;

/// A message that came in for a process, not yet decoded.
#[derive(Debug)]
pub struct Inbound {
    /// Its number in the ordered stream.
    pub number: u64,
    /// Cast, or call with the id its answer goes to.
    pub kind: InboundKind,
    /// The encoded payload.
    pub payload: Bytes,
}

/// What kind of message came in.
#[derive(Debug)]
pub enum InboundKind {
    /// No answer is wanted.
    Cast,
    /// An answer is wanted.
    Call {
        /// The call's id.
        call: u64,
        /// When the caller stops waiting.
        deadline: Instant,
    },
}
