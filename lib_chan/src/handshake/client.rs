//! The state machine of the client.

use super::message::{
    ACCEPTED, Answer, Hello, MAX_ACCEPT_LEN, MAX_CHALLENGE_LEN, PasswordChallenge, as_received, encode_proof,
};
use super::{Authenticated, Misbehaviour, SessionParameters, Side, Step};
use crate::auth::{
    Argon2Params, ClientId, DerivedKeys, Exporter, Mechanism, Salt, ServerKey, ServiceName, Transcript,
    client_proof,
};
use crate::secret::PrivateKey;

/// Begins a login with a password. `nonce` is 32 bytes from a secure random source, never used before.
pub fn start_with_password(
    exporter: Exporter,
    service: ServiceName,
    client: ClientId,
    nonce: [u8; 32],
) -> Step<ExpectPasswordChallenge> {
    let said = Said::new(exporter, Hello { mechanism: Mechanism::Password, service, client, nonce });
    Step { send: said.wire.clone(), next: ExpectPasswordChallenge { said } }
}

/// Begins a login with a private key: the hello, and the proof right behind it. `nonce` is 32 bytes from a secure random
/// source, never used before.
///
/// There is no challenge to wait for. The proof covers the exporter, which both ends have made anew for this connection,
/// so it is as fresh as an answer to a nonce of the server.
///
/// # Errors
/// The cryptographic library failed.
pub fn start_with_key(
    exporter: &Exporter,
    service: ServiceName,
    client: ClientId,
    key: &PrivateKey,
    nonce: [u8; 32],
) -> Result<Step<ExpectAccept>, ClientHandshakeError> {
    let hello = Hello { mechanism: Mechanism::Key, service, client, nonce };
    let wire = hello.encode();
    let transcript = Transcript::new(exporter, &wire, &[]);
    let Step { next, send } =
        ExpectAccept::prove(key, ServerKey::of_connection(exporter), transcript, hello)?;
    Ok(Step { next, send: [wire, send].concat() })
}

/// Waits for the challenge of a login with a password.
#[derive(Debug)]
pub struct ExpectPasswordChallenge {
    said: Said,
}

impl ExpectPasswordChallenge {
    /// The most bytes that are due.
    pub const MAX_LEN: usize = MAX_CHALLENGE_LEN;

    /// Takes the challenge: the salt and the parameters with which to stretch the password. Checks both. Does not stretch
    /// the password, and sends nothing yet.
    ///
    /// # Errors
    /// The server misbehaved.
    pub fn handle(self, body: &[u8]) -> Result<ExpectKeys, ClientHandshakeError> {
        let PasswordChallenge { params, salt, nonce: _ } = PasswordChallenge::parse(body)?;
        let transcript = Transcript::new(&self.said.exporter, &self.said.wire, &as_received(body));
        Ok(ExpectKeys { hello: self.said.hello, transcript, params, salt })
    }
}

/// Waits for the keys that the client derives from the password. Receives nothing.
#[derive(Debug)]
pub struct ExpectKeys {
    hello: Hello,
    transcript: Transcript,
    params: Argon2Params,
    salt: Salt,
}

impl ExpectKeys {
    /// Returns the salt for the password.
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Returns the parameters of Argon2id.
    pub fn params(&self) -> Argon2Params {
        self.params
    }

    /// Signs with the keys that [`DerivedKeys::derive`] derived from the password, the salt and the parameters.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn prove(self, keys: &DerivedKeys) -> Result<Step<ExpectAccept>, ClientHandshakeError> {
        ExpectAccept::prove(&keys.client, ServerKey::of_derived(keys), self.transcript, self.hello)
    }
}

/// Waits for the server's answer to the proof.
pub struct ExpectAccept {
    hello: Hello,
    transcript: Transcript,
    proof: [u8; 64],
    server_key: ServerKey,
}

impl ExpectAccept {
    /// The most bytes that are due.
    pub const MAX_LEN: usize = MAX_ACCEPT_LEN;

    /// Takes the answer. The driver must accept no byte of the session before this returns `Ok`, and with a password it
    /// must not send one either.
    ///
    /// # Errors
    /// The server refused, did not prove itself, or misbehaved.
    pub fn handle(self, body: &[u8]) -> Result<Authenticated, ClientHandshakeError> {
        let (server_proof, parameters) = match Answer::parse(body)? {
            Answer::Accepted { server_proof, parameters } => (server_proof, parameters),
            Answer::Refused => return Err(ClientHandshakeError::Refused),
        };
        if !self.server_key.verifies(&self.transcript, &self.proof, ACCEPTED, &parameters, &server_proof) {
            return Err(ClientHandshakeError::WrongServerProof);
        }
        let parameters = SessionParameters::parse(&parameters).map_err(Misbehaviour::from)?;
        let Hello { mechanism, service, client, nonce: _ } = self.hello;
        Ok(Authenticated {
            side: Side::Client,
            service,
            client,
            mechanism,
            parameters,
            early: None,
            peer: None,
        })
    }

    fn prove(
        key: &PrivateKey,
        server_key: ServerKey,
        transcript: Transcript,
        hello: Hello,
    ) -> Result<Step<Self>, ClientHandshakeError> {
        let proof = client_proof(key, &transcript).ok_or(ClientHandshakeError::Library)?;
        Ok(Step { send: encode_proof(&proof), next: Self { hello, transcript, proof, server_key } })
    }
}

impl std::fmt::Debug for ExpectAccept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExpectAccept").field("hello", &self.hello).finish_non_exhaustive()
    }
}

/// The hello as a value and as its bytes, and the connection that carried it.
#[derive(Debug)]
struct Said {
    exporter: Exporter,
    hello: Hello,
    wire: Vec<u8>,
}

impl Said {
    fn new(exporter: Exporter, hello: Hello) -> Self {
        let wire = hello.encode();
        Self { exporter, hello, wire }
    }
}

/// Why a login ended without [`Authenticated`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientHandshakeError {
    /// The server refused. It never says which of service, client, password and key was wrong.
    #[error("refused: the service, the client, the password or the key is wrong")]
    Refused,
    /// The server accepted without proving that it knows the password, so it is not the expected server.
    #[error("the server did not prove that it knows the password")]
    WrongServerProof,
    /// The server broke the protocol, or asked for work outside of the bounds.
    #[error("the server misbehaved: {0}")]
    ServerMisbehaved(#[from] Misbehaviour),
    /// The cryptographic library failed because memory ran out. Neither end is at fault.
    #[error("the cryptographic library failed to sign")]
    Library,
}
