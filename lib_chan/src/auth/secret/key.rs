//! The keys that clients prove themselves with.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, Zeroizing};

use super::Secret;

/// An Ed25519 private key that a client proves itself with instead of a password.
///
/// Its file holds one line, `chan-key-v1:` and 32 bytes in base64url, and is to be readable by its owner only.
pub struct PrivateKey {
    seed: Secret<32>,
    pair: Ed25519KeyPair,
}

impl PrivateKey {
    /// The most bytes a key file may have, its newline included.
    pub const MAX_FILE_LEN: usize = Self::FILE_PREFIX.len() + 43 + 2;

    pub(super) const FILE_PREFIX: &'static str = "chan-key-v1:";

    /// The key made of these 32 bytes, which must have come from a secure random source.
    ///
    /// # Errors
    /// If the cryptographic library refuses, for want of memory.
    pub fn from_seed(seed: Secret<32>) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.expose()).map_err(|_| KeyError::Rejected)?;
        Ok(Self { seed, pair })
    }

    /// Reads a key file's contents; one newline (`\n` or `\r\n`) at the end is allowed.
    ///
    /// # Errors
    /// If they are anything but `chan-key-v1:` and 32 bytes in base64url without padding.
    pub fn from_file_contents(contents: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(contents).map_err(|_| KeyError::NotAPrivateKey)?;
        let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        let encoded = line.strip_prefix(Self::FILE_PREFIX).ok_or(KeyError::NotAPrivateKey)?;
        let mut bytes = Zeroizing::new([0; 32]);
        decode_exactly(encoded, &mut *bytes).ok_or(KeyError::NotAPrivateKey)?;
        Self::from_seed(Secret::new(*bytes))
    }

    /// What a key file holds, a newline at the end included. To be written with mode 0600.
    pub fn to_file_contents(&self) -> Zeroizing<String> {
        let mut contents = Zeroizing::new(String::with_capacity(64));
        contents.push_str(Self::FILE_PREFIX);
        URL_SAFE_NO_PAD.encode_string(self.seed.expose(), &mut contents);
        contents.push('\n');
        contents
    }

    /// The public key, which a server is given.
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(self.pair.public_key().as_ref()) {
            *to = *from;
        }
        PublicKey(bytes)
    }

    /// Signs; `None` if the cryptographic library fails, for want of memory.
    pub(crate) fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.pair.try_sign(message).ok()?.as_ref().try_into().ok()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(.., {})", self.public_key())
    }
}

/// An Ed25519 public key. Written `ed25519:` and 32 bytes in base64url.
///
/// It is no secret, can be mailed, and may be used for any number of services.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub(super) const PREFIX: &'static str = "ed25519:";

    /// Takes the 32 bytes of RFC 8032 section 5.1.2.
    ///
    /// # Errors
    /// If the point has small order (signatures under such a key can be forged without any secret), or the
    /// coordinate is not reduced.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        if !is_reduced(&bytes) {
            return Err(KeyError::NotReduced);
        }
        if has_small_order(&bytes) {
            return Err(KeyError::SmallOrder);
        }
        Ok(Self(bytes))
    }

    /// The 32 bytes of RFC 8032 section 5.1.2.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        ED25519.verify_sig(&self.0, message, signature).is_ok()
    }

    /// A key that no check has seen, to show that the checks are needed.
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
    /// Not the contents of a key file.
    #[error("not a private key: expected `chan-key-v1:` and 32 bytes in base64url without padding")]
    NotAPrivateKey,
    /// Not a public key's line.
    #[error("not a public key: expected `ed25519:` and 32 bytes in base64url without padding")]
    NotAPublicKey,
    /// A public key whose coordinate is not below 2^255 - 19.
    #[error("the public key is not in its reduced form")]
    NotReduced,
    /// A public key under which anybody can forge.
    #[error("the public key has small order: anybody could forge a signature under it")]
    SmallOrder,
    /// The cryptographic library refused it.
    #[error("the cryptographic library refused the key")]
    Rejected,
}

/// Decodes base64url without padding into exactly as many bytes as there is room for. What is left of a failed
/// attempt is wiped.
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

/// RFC 8032 section 5.1.3: a coordinate of 2^255 - 19 or more does not decode.
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
    fn a_key_file_reads_back_and_has_one_spelling() {
        let key = PrivateKey::from_seed(Secret::new([5; 32])).unwrap();
        let contents = key.to_file_contents();
        let read = PrivateKey::from_file_contents(contents.as_bytes()).unwrap();
        assert!(read.seed == key.seed && read.public_key() == key.public_key());
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
    fn a_public_key_reads_back_and_a_private_one_is_none() {
        let key = PrivateKey::from_seed(Secret::new([5; 32])).unwrap();
        assert_eq!(key.public_key().to_string().parse(), Ok(key.public_key()));
        assert_eq!(key.to_file_contents().trim_end().parse::<PublicKey>(), Err(KeyError::NotAPublicKey));
    }

    #[test]
    fn a_coordinate_that_is_not_reduced_is_refused() {
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
    fn ed25519_gives_the_signatures_of_rfc_8032() {
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
