//! From a fresh TLS connection to [`Authenticated`]: four messages, two machines, no second way.
//!
//! ```text
//! client                                                server
//!   start_with_password, start_with_key                   ExpectHello
//!   │ ───────────────── hello (M1) ─────────────────────▶ │
//!   ExpectPasswordChallenge, ExpectKeyChallenge           ExpectProof
//!   │ ◀──────────────── challenge (M2) ────────────────── │
//!   ExpectKeys (a password only: derive, then prove)      │
//!   │ ───────────────── proof (M3) ─────────────────────▶ │
//!   ExpectAccept                                          Verdict: Accepted, or Refused
//!   │ ◀──────────────── accept (M4), or refusal ───────── │
//!   Authenticated                                         Authenticated
//! ```
//!
//! A state is consumed by the message it waits for, and a [`Step`] carries both the next state and the bytes to send, so
//! whoever drives the machines can neither skip a message nor invent one. The driver reads two bytes, asks
//! [`checked_len`] whether so much is due, reads that much, and hands it in. Time, sockets and randomness are its own
//! affair; the nonces come in as arguments.
//!
//! Every message of a session that comes here instead is malformed: the machines know no other message than the one
//! they wait for.

pub mod client;
mod memory;
mod message;
mod parameters;
pub mod server;

use crate::auth::{ClientId, Mechanism, ParamsError, ServiceName};

pub use memory::pair_in_memory;
pub use parameters::{ParametersError, SessionParameters};

/// What a state leads to: the next one, and what has to be sent before it can get its message.
#[derive(Debug)]
#[must_use]
pub struct Step<N> {
    /// The next state, or the end.
    pub next: N,
    /// The bytes to send and flush, length included.
    pub send: Vec<u8>,
}

/// Proof that the other end proved itself. Without one no session can be built, and only the two machines make it,
/// each after it has verified what the other sent.
#[derive(Debug)]
pub struct Authenticated {
    side: Side,
    service: ServiceName,
    client: ClientId,
    mechanism: Mechanism,
    parameters: SessionParameters,
}

/// Which end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The one that connected.
    Client,
    /// The one that accepted.
    Server,
}

impl Authenticated {
    /// Which end this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The service that the client may use.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Who the client is; empty where a service has one password for all.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// What the client proved itself with.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// What the server said about the session.
    pub fn parameters(&self) -> SessionParameters {
        self.parameters
    }
}

/// How the other end broke the rules of the handshake. There is no answer to it but to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// A message longer than any that is due. Found before anything is reserved.
    #[error("a message of {len} bytes where at most {max} are due")]
    TooLong {
        /// What it said.
        len: usize,
        /// What is due.
        max: usize,
    },
    /// Not the message that is due, or not well-formed.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// Another version of the protocol.
    #[error("version {0} of the authentication, which is unknown")]
    UnknownVersion(u8),
    /// A mechanism that does not exist.
    #[error("mechanism {0}, which is unknown")]
    UnknownMechanism(u8),
    /// A challenge for another mechanism than the one asked for.
    #[error("a challenge for another mechanism")]
    OtherMechanism,
    /// A second hello where the proof is due.
    #[error("a second hello")]
    SecondHello,
    /// A challenge that asks for more work, or less, than is reasonable.
    #[error("unreasonable challenge: {0}")]
    Challenge(#[from] ParamsError),
    /// A session that cannot be.
    #[error("unreasonable session: {0}")]
    Parameters(#[from] ParametersError),
}

/// The length of the message that follows these two bytes.
///
/// # Errors
/// If it is more than `max`. Nothing has been reserved for it.
pub fn checked_len(prefix: [u8; 2], max: usize) -> Result<usize, Misbehaviour> {
    let len = usize::from(u16::from_be_bytes(prefix));
    if len > max {
        return Err(Misbehaviour::TooLong { len, max });
    }
    Ok(len)
}

#[cfg(test)]
mod tests;
