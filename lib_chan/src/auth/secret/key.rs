//! The keys with which clients prove themselves.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, Zeroizing};

use super::Secret;

/// An Ed25519 private key, with which a client proves itself instead of a password.
///
/// A key file holds one line: `chan-key-v1:` and 32 bytes in base64url. Only its owner should be able to read it. Clones
/// share the key and cost nothing; the last one that is dropped wipes it.
#[derive(Clone)]
pub struct PrivateKey(Arc<KeyInner>);

struct KeyInner {
    seed: Secret<32>,
    pair: Ed25519KeyPair,
}

impl PrivateKey {
    /// The longest key file in bytes, with its newline.
    pub const MAX_FILE_LEN: usize = Self::FILE_PREFIX.len() + 43 + 2;

    pub(super) const FILE_PREFIX: &'static str = "chan-key-v1:";

    /// Makes a key of 32 bytes from a secure random source.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Rejected`] if the cryptographic library has no memory.
    pub fn from_seed(seed: Secret<32>) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| KeyError::Rejected)?;
        Ok(Self(Arc::new(KeyInner { seed, pair })))
    }

    /// Parses the contents of a key file. One newline (`\n` or `\r\n`) at the end is allowed.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::NotAPrivateKey`] unless the line is `chan-key-v1:` and 32 bytes in base64url without padding.
    pub fn from_file_contents(contents: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(contents).map_err(|_| KeyError::NotAPrivateKey)?;
        let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        let encoded = line.strip_prefix(Self::FILE_PREFIX).ok_or(KeyError::NotAPrivateKey)?;
        let mut bytes = Zeroizing::new([0; 32]);
        decode_exactly(encoded, &mut *bytes).ok_or(KeyError::NotAPrivateKey)?;
        Self::from_seed(Secret::new(*bytes))
    }

    /// Returns the contents of a key file, with a newline at the end. Write it with mode 0600.
    pub fn to_file_contents(&self) -> Zeroizing<String> {
        let mut contents = Zeroizing::new(String::with_capacity(64));
        contents.push_str(Self::FILE_PREFIX);
        URL_SAFE_NO_PAD.encode_string(self.0.seed.expose(), &mut contents);
        contents.push('\n');
        contents
    }

    /// Returns the public key, which the operator of a server needs.
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(self.0.pair.public_key().as_ref()) {
            *to = *from;
        }
        PublicKey(bytes)
    }

    /// Signs a message. Returns `None` if the cryptographic library has no memory.
    pub(crate) fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.0.pair.try_sign(message).ok()?.as_ref().try_into().ok()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(.., {})", self.public_key())
    }
}

/// An Ed25519 public key. Written `ed25519:` and 32 bytes in base64url.
///
/// It is not a secret. One key may serve for many services.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub(super) const PREFIX: &'static str = "ed25519:";

    /// Makes a key of the 32 bytes of RFC 8032 section 5.1.2.
    ///
    /// # Errors
    ///
    /// Returns an error if the coordinate is not reduced, or if the point has small order. Anybody can forge signatures
    /// under a key of small order.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        if !is_reduced(&bytes) {
            return Err(KeyError::NotReduced);
        }
        if has_small_order(&bytes) {
            return Err(KeyError::SmallOrder);
        }
        Ok(Self(bytes))
    }

    /// Returns the 32 bytes of RFC 8032 section 5.1.2.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        ED25519.verify_sig(&self.0, message, signature).is_ok()
    }

    /// Makes a key without the checks, to show that they are needed.
    #[cfg(test)]
    pub(crate) fn unchecked(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl std::str::FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(line: &str) -> Result<Self, KeyError> {
        let encoded = line.strip_prefix(Self::PREFIX).ok_or(KeyError::NotAPublicKey)?;
        let mut bytes = [0; 32];
        decode_exactly(encoded, &mut bytes).ok_or(KeyError::NotAPublicKey)?;
        Self::from_bytes(bytes)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::PREFIX, URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Why bytes are not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is not the contents of a key file.
    #[error("not a private key: expected `chan-key-v1:` and 32 bytes in base64url without padding")]
    NotAPrivateKey,
    /// The text is not a public key.
    #[error("not a public key: expected `ed25519:` and 32 bytes in base64url without padding")]
    NotAPublicKey,
    /// The coordinate of the public key is not below 2^255 - 19.
    #[error("the public key is not in its reduced form")]
    NotReduced,
    /// Anybody can forge signatures under the public key.
    #[error("the public key has small order: anybody could forge a signature under it")]
    SmallOrder,
    /// The cryptographic library refused the key.
    #[error("the cryptographic library refused the key")]
    Rejected,
}

/// Decodes base64url without padding into exactly `out.len()` bytes. Wipes `out` if that fails.
pub(crate) fn decode_exactly(encoded: &str, out: &mut [u8]) -> Option<()> {
    match URL_SAFE_NO_PAD.decode_slice(encoded, out) {
        Ok(len) if len == out.len() => Some(()),
        _ => {
            out.zeroize();
            None
        }
    }
}

/// The y coordinates of the eight points whose order divides eight, little-endian: 0, 1, -1 and the two of order
/// eight. The sign of x makes no difference.
const SMALL_ORDER: [[u8; 32]; 5] = [
    [0; 32],
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    MINUS_ONE,
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

/// 2^255 - 20, the greatest reduced coordinate.
const MINUS_ONE: [u8; 32] = [
    0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
];

fn has_small_order(key: &[u8; 32]) -> bool {
    SMALL_ORDER.contains(&without_sign(*key))
}

/// Returns whether a coordinate is below 2^255 - 19, as RFC 8032 section 5.1.3 demands.
fn is_reduced(key: &[u8; 32]) -> bool {
    without_sign(*key).iter().rev().le(MINUS_ONE.iter().rev())
}

fn without_sign(mut key: [u8; 32]) -> [u8; 32] {
    if let Some(last) = key.last_mut() {
        *last &= 0x7f;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_file_has_one_spelling() {
        let key = PrivateKey::from_seed(Secret::new([5; 32])).unwrap();
        let contents = key.to_file_contents();
        let read = PrivateKey::from_file_contents(contents.as_bytes()).unwrap();
        assert!(read.0.seed == key.0.seed && read.public_key() == key.public_key());
        let line = contents.trim_end();
        for wrong in [
            line.replace("v1", "v2"),
            format!("{line}="),
            format!("{line}A"),
            format!(" {line}"),
            format!("{line}\n\n"),
            line[..line.len() - 1].to_owned(),
            String::new(),
        ] {
            let error = PrivateKey::from_file_contents(wrong.as_bytes()).unwrap_err();
            assert_eq!(error, KeyError::NotAPrivateKey, "{wrong:?}");
        }
    }

    #[test]
    fn private_key_does_not_parse_as_public() {
        let key = PrivateKey::from_seed(Secret::new([5; 32])).unwrap();
        assert_eq!(key.public_key().to_string().parse(), Ok(key.public_key()));
        assert_eq!(key.to_file_contents().trim_end().parse::<PublicKey>(), Err(KeyError::NotAPublicKey));
    }

    #[test]
    fn refuses_unreduced_coordinate() {
        let mut unreduced = MINUS_ONE;
        for low in 0xed..=0xff {
            unreduced[0] = low;
            for sign in [0x7f, 0xff] {
                unreduced[31] = sign;
                assert_eq!(PublicKey::from_bytes(unreduced), Err(KeyError::NotReduced));
            }
        }
        let mut reduced = MINUS_ONE;
        reduced[0] = 0xeb;
        assert!(PublicKey::from_bytes(reduced).is_ok());
    }

    /// RFC 8032 section 7.1, tests 1 to 3.
    #[test]
    fn signs_as_rfc_8032() {
        for (seed, public, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b\
                 d25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c\
                 387b2eaeb4302aeeb00d291612bb0c00",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659\
                 4a7c15e9716ed28dc027beceea1ec40a",
            ),
        ] {
            let key = PrivateKey::from_seed(Secret::new(hex(seed).try_into().unwrap())).unwrap();
            assert_eq!(key.public_key().as_bytes().to_vec(), hex(public));
            let signature: [u8; 64] = hex(signature).try_into().unwrap();
            assert_eq!(key.sign(&hex(message)).unwrap(), signature);
            assert!(key.public_key().verifies(&hex(message), &signature));
            assert!(!key.public_key().verifies(b"other", &signature));
        }
    }

    fn hex(digits: &str) -> Vec<u8> {
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }
}
