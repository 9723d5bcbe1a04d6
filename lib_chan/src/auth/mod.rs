//! chan-auth-v1: what a client proves with, what a server stores, and the cryptography between the two.
//!
//! A password is stretched with Argon2id *by the client* and becomes an Ed25519 key; the server stores the public half
//! (the verifier), so what it stores logs nobody in, and what it sees of a login is of no use elsewhere. The server
//! itself never stretches anything for a stranger: verifying is one signature check.
//!
//! `PROTOCOL.md` has the bytes. The messages and the order they come in are in [`handshake`](crate::handshake).

mod argon2id;
mod directory;
mod name;
mod proof;
mod verifier;

pub use argon2id::{Argon2Params, DerivedKeys, ParamsError, Salt, StretchError};
pub use directory::{
    Account, AccountName, AccountVerifier, Directory, DirectoryError, DirectoryWarning, NameKey, RefusalCause,
};
pub use name::{ClientId, NameError, ServiceName};
pub use proof::{Exporter, Mechanism};
pub use verifier::{PasswordVerifier, VerifierError};

pub(crate) use directory::Candidate;
pub(crate) use proof::{ServerKey, Transcript, client_proof};

#[cfg(test)]
pub(crate) use argon2id::runs_with;
