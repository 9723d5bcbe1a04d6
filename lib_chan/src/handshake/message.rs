//! Encodes and decodes the four messages. `PROTOCOL.md` has the table.

use super::{Misbehaviour, SessionParameters};
use crate::auth::{Argon2Params, ClientId, Mechanism, Salt, ServiceName};

/// A hello with two names of 64 bytes.
pub(super) const MAX_HELLO_LEN: usize = 168;
/// A challenge for a password.
pub(super) const MAX_CHALLENGE_LEN: usize = 60;
/// An Ed25519 signature.
pub(super) const PROOF_LEN: usize = 64;
/// An accept; a refusal is one byte.
pub(super) const MAX_ACCEPT_LEN: usize = 45;

const MAGIC: &[u8; 4] = b"chan";
const VERSION: u8 = 1;
const ARGON2_VERSION: u8 = 0x13;
pub(super) const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;

/// M1: the service, the client and the mechanism of the proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) mechanism: Mechanism,
    pub(super) service: ServiceName,
    pub(super) client: ClientId,
    pub(super) nonce: [u8; 32],
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(MAX_HELLO_LEN);
        body.extend_from_slice(MAGIC);
        body.extend_from_slice(&[VERSION, self.mechanism.code()]);
        for name in [self.service.as_str(), self.client.as_str()] {
            // Names are checked to have at most 64 bytes.
            body.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            body.extend_from_slice(name.as_bytes());
        }
        body.extend_from_slice(&self.nonce);
        framed(&body)
    }

    pub(super) fn parse(body: &[u8]) -> Result<Self, Misbehaviour> {
        let malformed = Misbehaviour::Malformed("hello");
        let mut fields = MessageFields { rest: body, malformed };
        if fields.array()? != *MAGIC {
            return Err(malformed);
        }
        fields.version()?;
        let mechanism = fields.mechanism()?;
        let service = ServiceName::new(fields.text()?).map_err(|_| malformed)?;
        let client = ClientId::new(fields.text()?).map_err(|_| malformed)?;
        let nonce = fields.array()?;
        fields.end()?;
        Ok(Self { mechanism, service, client, nonce })
    }
}

/// M2: a nonce, the salt and the parameters of Argon2id. A login with a key has no M2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PasswordChallenge {
    pub(super) nonce: [u8; 32],
    pub(super) params: Argon2Params,
    pub(super) salt: Salt,
}

impl PasswordChallenge {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(MAX_CHALLENGE_LEN);
        body.extend_from_slice(&[VERSION, Mechanism::Password.code()]);
        body.extend_from_slice(&self.nonce);
        body.push(ARGON2_VERSION);
        body.extend_from_slice(&self.params.m_kib().to_be_bytes());
        body.extend_from_slice(&self.params.t().to_be_bytes());
        body.push(self.params.p());
        body.extend_from_slice(&self.salt.0);
        framed(&body)
    }

    pub(super) fn parse(body: &[u8]) -> Result<Self, Misbehaviour> {
        let malformed = Misbehaviour::Malformed("challenge");
        let mut fields = MessageFields { rest: body, malformed };
        fields.version()?;
        if fields.mechanism()? != Mechanism::Password {
            return Err(Misbehaviour::OtherMechanism);
        }
        let nonce = fields.array()?;
        if fields.byte()? != ARGON2_VERSION {
            return Err(malformed);
        }
        let m_kib = u32::from_be_bytes(fields.array()?);
        let t = u32::from_be_bytes(fields.array()?);
        let p = fields.byte()?;
        let salt = Salt(fields.array()?);
        fields.end()?;
        Ok(Self { nonce, params: Argon2Params::new(m_kib, t, p)?, salt })
    }
}

/// M3: the client's proof.
pub(super) fn encode_proof(proof: &[u8; PROOF_LEN]) -> Vec<u8> {
    framed(proof)
}

pub(super) fn parse_proof(body: &[u8]) -> Result<[u8; PROOF_LEN], Misbehaviour> {
    // A hello can be as long as a proof. A signature that reads as one comes up once in 2^90 logins.
    if Hello::parse(body).is_ok() {
        return Err(Misbehaviour::SecondHello);
    }
    body.try_into().map_err(|_| Misbehaviour::Malformed("proof"))
}

/// M4, or a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Accepted { server_proof: [u8; 32], parameters: [u8; SessionParameters::LEN] },
    Refused,
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Accepted { server_proof, parameters } => {
                framed(&[&[ACCEPTED], server_proof.as_slice(), parameters].concat())
            }
            Self::Refused => framed(&[REFUSED]),
        }
    }

    pub(super) fn parse(body: &[u8]) -> Result<Self, Misbehaviour> {
        if body == [REFUSED] {
            return Ok(Self::Refused);
        }
        let malformed = Misbehaviour::Malformed("accept");
        let mut fields = MessageFields { rest: body, malformed };
        if fields.byte()? != ACCEPTED {
            return Err(malformed);
        }
        let answer = Self::Accepted { server_proof: fields.array()?, parameters: fields.array()? };
        fields.end()?;
        Ok(answer)
    }
}

/// Encodes a message: its length in two bytes, then its body.
fn framed(body: &[u8]) -> Vec<u8> {
    // No message has more than 168 bytes.
    let len = u16::try_from(body.len()).unwrap_or(u16::MAX);
    [&len.to_be_bytes(), body].concat()
}

/// A received message with its length.
pub(super) fn as_received(body: &[u8]) -> Vec<u8> {
    framed(body)
}

/// Reads one field after another. A message that ends within a field is malformed.
struct MessageFields<'a> {
    rest: &'a [u8],
    malformed: Misbehaviour,
}

impl<'a> MessageFields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Misbehaviour> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(self.malformed)?;
        self.rest = rest;
        Ok(*field)
    }

    fn byte(&mut self) -> Result<u8, Misbehaviour> {
        self.array().map(|[byte]| byte)
    }

    fn text(&mut self) -> Result<&'a str, Misbehaviour> {
        let len = usize::from(self.byte()?);
        let (field, rest) = self.rest.split_at_checked(len).ok_or(self.malformed)?;
        self.rest = rest;
        std::str::from_utf8(field).map_err(|_| self.malformed)
    }

    fn version(&mut self) -> Result<(), Misbehaviour> {
        match self.byte()? {
            VERSION => Ok(()),
            other => Err(Misbehaviour::UnknownVersion(other)),
        }
    }

    fn mechanism(&mut self) -> Result<Mechanism, Misbehaviour> {
        let code = self.byte()?;
        Mechanism::from_code(code).ok_or(Misbehaviour::UnknownMechanism(code))
    }

    fn end(self) -> Result<(), Misbehaviour> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed) }
    }
}
