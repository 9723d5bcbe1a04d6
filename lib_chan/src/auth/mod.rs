//! chan-auth-v1: the credentials of clients, the verifiers of servers, and the cryptography of both.
//!
//! *The client* stretches a password with Argon2id and derives an Ed25519 key from it. The server stores the public half
//! in a verifier, which logs nobody in. A proof that the server sees is useless on any other connection. The server never
//! stretches a password for a stranger: it checks one signature.
//!
//! `PROTOCOL.md` specifies the bytes. [`handshake`](crate::handshake) has the messages and their order.

mod argon2id;
mod directory;
mod name;
mod proof;
mod resume;
pub mod secret;
mod verifier;

pub use argon2id::{Argon2Params, DerivedKeys, ParamsError, Salt, StretchError};
pub use directory::{
    Account, AccountName, AccountVerifier, Directory, DirectoryError, DirectoryWarning, NameKey, RefusalCause,
};
pub use name::{ClientId, InvalidName, ServiceName};
pub use proof::{Exporter, Mechanism};
pub use resume::{ResumeClaim, ResumeKey, SessionId};
pub use verifier::{PasswordVerifier, VerifierError};

pub(crate) use directory::Candidate;
pub(crate) use proof::{ServerKey, Transcript, client_proof};

#[cfg(test)]
pub(crate) use argon2id::runs_with;
