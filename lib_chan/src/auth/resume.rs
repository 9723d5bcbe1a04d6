//! The proof with which a client takes up a session again on another connection (`PROTOCOL.md`, section 15).

use std::fmt;

use aws_lc_rs::{digest, hmac};

use super::proof::Exporter;
use crate::secret::Secret;

/// Names a session across its connections. It is no secret, and useless without one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// Takes 16 bytes: new ones from a secure random source, or those that the server sent.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes on the wire.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// The claim of a client that resumes a session. The proof covers all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumeClaim {
    /// The session.
    pub id: SessionId,
    /// The number of the attachment that begins.
    pub epoch: u64,
    /// The number of the last ordered frame that the client has processed.
    pub received: u64,
    /// The number of the last ordered frame that the client has numbered.
    pub sent: u64,
}

/// The key of a session's proofs: all that either end keeps of the secret. Wiped when dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeKey(Secret<32>);

impl ResumeKey {
    /// Derives the key from the secret in the `Started`. Drop the secret afterwards.
    pub fn new(secret: &Secret<32>) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"lib-chan resume key\0");
        hash.update(secret.expose());
        let mut key = [0; 32];
        for (to, from) in key.iter_mut().zip(hash.finish().as_ref()) {
            *to = *from;
        }
        let secret = Secret::new(key);
        zeroize::Zeroize::zeroize(&mut key);
        Self(secret)
    }

    /// Returns the proof of `claim`, which counts on the connection of this exporter only.
    pub fn prove(&self, exporter: &Exporter, claim: &ResumeClaim) -> [u8; 32] {
        let tag = hmac::sign(&self.hmac(), &proved(exporter, claim));
        let mut proof = [0; 32];
        for (to, from) in proof.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        proof
    }

    /// Returns what was `found` under the claim's id if the proof is right under its key.
    ///
    /// Give `None` if there is no such session, or if it belongs to another service or client: the proof is then checked
    /// under `dummy`, so that all three cases cost the same. Compares in constant time. `dummy` is a key of random bytes
    /// whose secret nobody has.
    pub fn judge<T>(
        found: Option<(T, &Self)>,
        dummy: &Self,
        exporter: &Exporter,
        claim: &ResumeClaim,
        proof: &[u8; 32],
    ) -> Option<T> {
        let (found, key) = match found {
            Some((found, key)) => (Some(found), key),
            None => (None, dummy),
        };
        let verified = hmac::verify(&key.hmac(), &proved(exporter, claim), proof).is_ok();
        found.filter(|_| verified)
    }

    /// Built for each use: it is twenty times as large as the bytes, and a server keeps many keys.
    fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.expose())
    }
}

fn proved(exporter: &Exporter, claim: &ResumeClaim) -> zeroize::Zeroizing<Vec<u8>> {
    let numbers = [claim.epoch, claim.received, claim.sent].map(u64::to_be_bytes);
    let parts =
        [b"lib-chan resume\0".as_slice(), exporter.expose(), claim.id.as_bytes(), numbers.as_flattened()];
    zeroize::Zeroizing::new(parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> Secret<32> {
        Secret::new([byte; 32])
    }

    fn claim() -> ResumeClaim {
        ResumeClaim { id: SessionId::new([1; 16]), epoch: 2, received: 3, sent: 4 }
    }

    #[test]
    fn proof_matches_vectors() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/vectors/auth.json")).unwrap();
        let resume = vectors["resume"].as_array().unwrap();
        assert_eq!(resume.len(), 3);
        for vector in resume {
            let bytes = |name: &str| -> Vec<u8> {
                let digits = vector[name].as_str().unwrap();
                (0..digits.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
                    .collect()
            };
            let number = |name: &str| vector[name].as_str().unwrap().parse().unwrap();
            let key = ResumeKey::new(&Secret::new(bytes("secret").try_into().unwrap()));
            assert_eq!(key.0.expose().to_vec(), bytes("key"));
            let claim = ResumeClaim {
                id: SessionId::new(bytes("id").try_into().unwrap()),
                epoch: number("epoch"),
                received: number("received"),
                sent: number("sent"),
            };
            let exporter = Exporter::new(Secret::new(bytes("ekm").try_into().unwrap()));
            assert_eq!(key.prove(&exporter, &claim).to_vec(), bytes("proof"));
        }
    }

    #[test]
    fn proof_covers_every_field_and_the_connection() {
        let key = ResumeKey::new(&secret(7));
        let dummy = ResumeKey::new(&secret(8));
        let exporter = Exporter::new(secret(9));
        let proof = key.prove(&exporter, &claim());
        let judged = |exporter: &Exporter, claim: &ResumeClaim, proof: &[u8; 32]| {
            ResumeKey::judge(Some(((), &key)), &dummy, exporter, claim, proof).is_some()
        };
        assert!(judged(&exporter, &claim(), &proof));
        assert!(!judged(&Exporter::new(secret(10)), &claim(), &proof), "another connection");
        for wrong in [
            ResumeClaim { id: SessionId::new([2; 16]), ..claim() },
            ResumeClaim { epoch: 3, ..claim() },
            ResumeClaim { received: 2, ..claim() },
            ResumeClaim { sent: 5, ..claim() },
        ] {
            assert!(!judged(&exporter, &wrong, &proof), "{wrong:?}");
        }
        for bit in 0..256 {
            let mut forged = proof;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!judged(&exporter, &claim(), &forged), "bit {bit}");
        }
    }

    #[test]
    fn nothing_is_found_under_the_dummy_key() {
        let dummy = ResumeKey::new(&secret(8));
        let exporter = Exporter::new(secret(9));
        let proof = dummy.prove(&exporter, &claim());
        assert_eq!(ResumeKey::judge(None::<((), _)>, &dummy, &exporter, &claim(), &proof), None);
        let other = ResumeKey::new(&secret(7));
        assert_eq!(ResumeKey::judge(Some(((), &other)), &dummy, &exporter, &claim(), &proof), None);
    }

    #[test]
    fn key_is_masked_when_printed() {
        assert_eq!(format!("{:?}", ResumeKey::new(&secret(7))), "ResumeKey(Secret(..))");
    }
}
