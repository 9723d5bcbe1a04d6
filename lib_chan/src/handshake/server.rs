//! The state machine of the server.

use super::message::{
    ACCEPTED, Answer, Hello, MAX_HELLO_LEN, PROOF_LEN, PasswordChallenge, as_received, parse_proof,
};
use super::{Authenticated, Misbehaviour, SessionParameters, Side, Step};
use crate::auth::{
    Account, Candidate, ClientId, Directory, Exporter, Mechanism, RefusalCause, ServiceName, Transcript,
};

/// Waits for the client's hello.
#[derive(Debug)]
pub struct ExpectHello<'d> {
    directory: &'d Directory,
    exporter: Exporter,
    parameters: SessionParameters,
    nonce: [u8; 32],
}

impl<'d> ExpectHello<'d> {
    /// The most bytes that are due.
    pub const MAX_LEN: usize = MAX_HELLO_LEN;

    /// Creates the machine for one connection. `nonce` is 32 bytes from a secure random source, never used before. The
    /// client is told the `parameters` of the session.
    pub fn new(
        directory: &'d Directory,
        exporter: Exporter,
        parameters: SessionParameters,
        nonce: [u8; 32],
    ) -> Self {
        Self { directory, exporter, parameters, nonce }
    }

    /// Takes the hello. The answer does not show whether the service exists. A hello for a key has no answer: the proof
    /// follows it at once.
    ///
    /// # Errors
    /// The client misbehaved. Close the connection without an answer.
    pub fn handle(self, body: &[u8]) -> Result<Step<ExpectProof<'d>>, Misbehaviour> {
        let hello = Hello::parse(body)?;
        let candidate = self.directory.candidate(&hello.service, &hello.client, hello.mechanism);
        let challenge = match hello.mechanism {
            Mechanism::Password => {
                PasswordChallenge { nonce: self.nonce, params: candidate.params, salt: candidate.salt }
                    .encode()
            }
            Mechanism::Key => Vec::new(),
        };
        let transcript = Transcript::new(&self.exporter, &as_received(body), &challenge);
        let Self { exporter, parameters, .. } = self;
        let next = ExpectProof { hello, candidate, transcript, exporter, parameters };
        Ok(Step { next, send: challenge })
    }
}

/// Waits for the client's proof.
#[derive(Debug)]
pub struct ExpectProof<'d> {
    hello: Hello,
    candidate: Candidate<'d>,
    transcript: Transcript,
    exporter: Exporter,
    parameters: SessionParameters,
}

impl<'d> ExpectProof<'d> {
    /// The most bytes that are due.
    pub const MAX_LEN: usize = PROOF_LEN;

    /// Takes the proof. `allows_source` returns `true` if the account may be used from the source of the connection. It is
    /// called only for an account whose proof was right.
    ///
    /// # Errors
    /// The client misbehaved. Close the connection without an answer.
    pub fn handle(
        self,
        body: &[u8],
        allows_source: impl FnOnce(&Account) -> bool,
    ) -> Result<Step<Verdict>, Misbehaviour> {
        let proof = parse_proof(body)?;
        let Hello { mechanism, service, client, nonce: _ } = self.hello;
        let account = match self.candidate.judge(&self.transcript, &proof, allows_source) {
            Ok(account) => account,
            Err(cause) => {
                let refusal = Refusal { service, client, mechanism, cause };
                return Ok(Step { next: Verdict::Refused(refusal), send: Answer::Refused.encode() });
            }
        };
        let parameters = self.parameters.encode();
        let server_proof =
            account.server_key(&self.exporter).server_proof(&self.transcript, &proof, ACCEPTED, &parameters);
        let send = Answer::Accepted { server_proof, parameters }.encode();
        let parameters = self.parameters;
        let accepted = Authenticated {
            side: Side::Server,
            service,
            client,
            mechanism,
            parameters,
            early: None,
            peer: None,
        };
        Ok(Step { next: Verdict::Accepted(accepted), send })
    }
}

/// The outcome of a login. Both outcomes have an answer to send.
#[derive(Debug)]
pub enum Verdict {
    /// The client proved itself.
    Accepted(Authenticated),
    /// The client did not prove itself. Close the connection after the answer: each connection has one attempt.
    Refused(Refusal),
}

/// The refused client and the true reason, for the log. The client learns neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service `{service}`, client `{client}`, {mechanism}: {cause}")]
pub struct Refusal {
    /// The requested service, which may not exist.
    pub service: ServiceName,
    /// The name that the client claimed.
    pub client: ClientId,
    /// The mechanism of its proof.
    pub mechanism: Mechanism,
    /// The reason of the refusal.
    pub cause: RefusalCause,
}
