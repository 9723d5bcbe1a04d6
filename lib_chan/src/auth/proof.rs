//! The proofs of both ends, and their binding to the connection.

use std::fmt;

use aws_lc_rs::{digest, hmac};

use super::argon2id::DerivedKeys;
use crate::secret::{PrivateKey, Secret};

/// The kind of credential that a client proves itself with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mechanism {
    /// A password.
    Password = 1,
    /// A private key.
    Key = 2,
}

impl Mechanism {
    /// Returns the code on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Returns the mechanism with this code, or `None` if there is none.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Password),
            2 => Some(Self::Key),
            _ => None,
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Password => "password",
            Self::Key => "key",
        })
    }
}

/// The exporter of a TLS connection (RFC 9266): 32 bytes that only its two ends know. Every proof covers it, so a proof
/// is useless on another connection.
#[derive(Clone, Debug)]
pub struct Exporter(Secret<32>);

impl Exporter {
    /// The label of RFC 9266 section 4.2; the context is empty.
    pub const LABEL: &'static [u8] = b"EXPORTER-Channel-Binding";

    /// Wraps the bytes that TLS exported under [`LABEL`](Self::LABEL) after its handshake was complete.
    pub fn new(bytes: Secret<32>) -> Self {
        Self(bytes)
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

/// The hash of all messages so far. Both proofs cover it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transcript([u8; 32]);

impl Transcript {
    /// Hashes the connection's exporter and the bytes of both messages, including their lengths.
    pub(crate) fn new(exporter: &Exporter, hello: &[u8], challenge: &[u8]) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in [b"chan-auth-v1\0".as_slice(), exporter.0.expose(), hello, challenge] {
            hash.update(part);
        }
        let mut transcript = [0; 32];
        for (to, from) in transcript.iter_mut().zip(hash.finish().as_ref()) {
            *to = *from;
        }
        Self(transcript)
    }

    /// Returns the bytes that a client signs.
    pub(crate) fn to_be_signed(&self) -> [u8; 58] {
        let mut message = [0; 58];
        let parts = b"chan-auth-v1 client proof\0".iter().chain(&self.0);
        for (to, from) in message.iter_mut().zip(parts) {
            *to = *from;
        }
        message
    }
}

/// Returns the client's proof, or `None` if the cryptographic library fails.
pub(crate) fn client_proof(key: &PrivateKey, transcript: &Transcript) -> Option<[u8; 64]> {
    key.sign(&transcript.to_be_signed())
}

/// The key of the server's proof.
pub(crate) struct ServerKey(hmac::Key);

impl ServerKey {
    /// For a password, on the server: the proof shows that the server has the verifier.
    pub(crate) fn of_password(server_key: &Secret<32>) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, server_key.expose()))
    }

    /// For a password, on the client.
    pub(crate) fn of_derived(keys: &DerivedKeys) -> Self {
        Self::of_password(&keys.server)
    }

    /// For a private key: TLS alone authenticates the server, and the proof only seals the message.
    pub(crate) fn of_connection(exporter: &Exporter) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, exporter.0.expose()))
    }

    /// Returns the server's proof over the transcript, the client's proof, and the parameters of the session.
    pub(crate) fn server_proof(
        &self,
        transcript: &Transcript,
        client_proof: &[u8; 64],
        status: u8,
        parameters: &[u8; 12],
    ) -> [u8; 32] {
        let tag = hmac::sign(&self.0, &proved(transcript, client_proof, status, parameters));
        let mut proof = [0; 32];
        for (to, from) in proof.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        proof
    }

    /// Returns `true` if this is the server's proof. Compares in constant time.
    pub(crate) fn verifies(
        &self,
        transcript: &Transcript,
        client_proof: &[u8; 64],
        status: u8,
        parameters: &[u8; 12],
        server_proof: &[u8; 32],
    ) -> bool {
        let message = proved(transcript, client_proof, status, parameters);
        hmac::verify(&self.0, &message, server_proof).is_ok()
    }
}

fn proved(transcript: &Transcript, client_proof: &[u8; 64], status: u8, parameters: &[u8; 12]) -> Vec<u8> {
    [b"chan-auth-v1 server proof\0".as_slice(), &transcript.0, client_proof, &[status], parameters].concat()
}
