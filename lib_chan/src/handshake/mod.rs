//! The login as two state machines: four messages lead from a fresh TLS connection to [`Authenticated`].
//!
//! ```text
//! client                                                server
//!   start_with_password, start_with_key                   ExpectHello
//!   │ ───────────────── hello (M1) ─────────────────────▶ │
//!   ExpectPasswordChallenge                               ExpectProof
//!   │ ◀──────────────── challenge (M2) ────────────────── │
//!   ExpectKeys (derive, then prove)                       │
//!   │ ───────────────── proof (M3) ─────────────────────▶ │
//!   ExpectAccept                                          Verdict: Accepted, or Refused
//!   │ ◀──────────────── accept (M4), or refusal ───────── │
//!   Authenticated                                         Authenticated
//! ```
//!
//! With a key there is no challenge: the hello and the proof go together, and the client begins with `ExpectAccept`.
//!
//! A message consumes the state that waits for it. A [`Step`] carries both the next state and the bytes to send, so a
//! driver can neither skip nor invent a message. The driver reads two bytes, checks the length with [`checked_len`],
//! reads that many bytes, and passes them in. The driver owns the clock, the socket and the random source; nonces are
//! arguments.
//!
//! Each state accepts one message only. Any other message, such as a frame of a session, is malformed.

pub mod client;
mod memory;
mod message;
mod parameters;
pub mod server;

use std::net::IpAddr;

use crate::auth::{ClientId, Mechanism, ParamsError, ServiceName};

pub use memory::pair_in_memory;
#[cfg(feature = "io")]
pub(crate) use memory::pair_in_memory_of;
pub use parameters::{ParametersError, SessionParameters};

/// The result of a state: the next state, and the bytes to send before its message can arrive.
#[derive(Debug)]
#[must_use]
pub struct Step<N> {
    /// The next state, or the end.
    pub next: N,
    /// The bytes to send and flush, including their length.
    pub send: Vec<u8>,
}

/// Shows that the other end has proved itself. A session cannot be built without one. Only the two machines create it,
/// each after it has verified the other end's proof.
#[derive(Debug)]
pub struct Authenticated {
    side: Side,
    service: ServiceName,
    client: ClientId,
    mechanism: Mechanism,
    parameters: SessionParameters,
    /// The bytes of the session that the client has sent right behind its proof.
    early: Option<Box<[u8]>>,
    peer: Option<IpAddr>,
}

/// An end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The end that connected.
    Client,
    /// The end that accepted.
    Server,
}

impl Authenticated {
    /// Returns which end this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Returns the service that the client may use.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Returns the name of the client; empty under a shared password.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// Returns the mechanism of the client's proof.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Returns the parameters that the server set for the session.
    pub fn parameters(&self) -> SessionParameters {
        self.parameters
    }

    /// Returns the address of the other end, if it was [set](Self::set_peer).
    #[cfg_attr(not(feature = "io"), expect(dead_code, reason = "only the io half counts what clients hold"))]
    pub(crate) fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// Notes the address of the other end. Sessions under one shared password are counted together if they come from one
    /// address; without addresses, all of them are counted together. An address may stand for its network.
    pub fn set_peer(&mut self, address: IpAddr) {
        self.peer = Some(address);
    }

    /// Returns the bytes of the session that were sent right behind the proof.
    #[cfg_attr(not(feature = "io"), expect(dead_code, reason = "only the io half logs in over a stream"))]
    pub(crate) fn early(&self) -> Option<&[u8]> {
        self.early.as_deref()
    }

    /// These bytes of the session were sent right behind the proof.
    #[cfg_attr(not(feature = "io"), expect(dead_code, reason = "only the io half logs in over a stream"))]
    pub(crate) fn sent_early(&mut self, bytes: Vec<u8>) {
        self.early = Some(bytes.into());
    }
}

/// A breach of the handshake by the other end. Close the connection without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// The message is longer than any that may come now. Detected before memory is allocated.
    #[error("a message of {len} bytes where at most {max} are due")]
    TooLong {
        /// The stated length in bytes.
        len: usize,
        /// The most bytes that may come now.
        max: usize,
    },
    /// The message is of another kind, or not well-formed.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The peer speaks another version of the protocol.
    #[error("version {0} of the authentication, which is unknown")]
    UnknownVersion(u8),
    /// The mechanism does not exist.
    #[error("mechanism {0}, which is unknown")]
    UnknownMechanism(u8),
    /// The challenge is for another mechanism than the requested one.
    #[error("a challenge for another mechanism")]
    OtherMechanism,
    /// A second hello came instead of the proof.
    #[error("a second hello")]
    SecondHello,
    /// The challenge asks for more or less work than the bounds of [`Argon2Params`](crate::auth::Argon2Params) allow.
    #[error("unreasonable challenge: {0}")]
    Challenge(#[from] ParamsError),
    /// The parameters of the session are out of bounds.
    #[error("unreasonable session: {0}")]
    Parameters(#[from] ParametersError),
}

/// Returns the length of the message that follows these two bytes.
///
/// # Errors
/// The length exceeds `max`. No memory has been allocated for it.
pub fn checked_len(prefix: [u8; 2], max: usize) -> Result<usize, Misbehaviour> {
    let len = usize::from(u16::from_be_bytes(prefix));
    if len > max {
        return Err(Misbehaviour::TooLong { len, max });
    }
    Ok(len)
}

#[cfg(test)]
mod tests;
