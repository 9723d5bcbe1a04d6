//! Derives keys from a password: Argon2id, then HKDF.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use zeroize::Zeroizing;

use super::verifier::PasswordVerifier;
use crate::secret::{Password, PrivateKey, Secret};

/// The cost of stretching a password, within the bounds that every client accepts: 19 to 256 MiB, 2 to 10 passes, 1 to 4
/// lanes, and memory times passes at most 1 GiB.
///
/// Default: 64 MiB, 3 passes and 1 lane, which take 0.1 to 0.5 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Argon2Params {
    m_kib: u32,
    t: u32,
    p: u8,
}

impl Argon2Params {
    /// The default parameters. A server also shows them for a service that does not exist.
    pub const DEFAULT: Self = Self { m_kib: 64 * 1024, t: 3, p: 1 };

    const M_KIB: std::ops::RangeInclusive<u32> = 19 * 1024..=256 * 1024;
    const T: std::ops::RangeInclusive<u32> = 2..=10;
    const P: std::ops::RangeInclusive<u8> = 1..=4;
    const MAX_M_KIB_TIMES_T: u64 = 1024 * 1024;

    /// Checks parameters: memory in KiB, passes, lanes. Allocates nothing.
    ///
    /// # Errors
    /// A parameter is outside of its bounds. The error holds its value.
    pub fn new(m_kib: u32, t: u32, p: u8) -> Result<Self, ParamsError> {
        if !Self::M_KIB.contains(&m_kib) {
            return Err(ParamsError::Memory(m_kib));
        }
        if !Self::T.contains(&t) {
            return Err(ParamsError::Passes(t));
        }
        if !Self::P.contains(&p) {
            return Err(ParamsError::Lanes(p));
        }
        if u64::from(m_kib) * u64::from(t) > Self::MAX_M_KIB_TIMES_T {
            return Err(ParamsError::Work { m_kib, t });
        }
        Ok(Self { m_kib, t, p })
    }

    /// Returns the memory in KiB.
    pub fn m_kib(self) -> u32 {
        self.m_kib
    }

    /// Returns the number of passes over the memory.
    pub fn t(self) -> u32 {
        self.t
    }

    /// Returns the number of lanes.
    pub fn p(self) -> u8 {
        self.p
    }
}

impl Default for Argon2Params {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Argon2Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m={},t={},p={}", self.m_kib, self.t, self.p)
    }
}

/// A parameter that is outside of its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamsError {
    /// Memory, in KiB.
    #[error("Argon2 memory of {0} KiB is not between 19456 and 262144")]
    Memory(u32),
    /// Passes.
    #[error("{0} Argon2 passes are not between 2 and 10")]
    Passes(u32),
    /// Lanes.
    #[error("{0} Argon2 lanes are not between 1 and 4")]
    Lanes(u8),
    /// Memory and passes are each within their bounds, but their product is too large.
    #[error("{t} Argon2 passes over {m_kib} KiB are more than 1 GiB of work")]
    Work {
        /// Memory, in KiB.
        m_kib: u32,
        /// Passes.
        t: u32,
    },
}

/// A salt: makes the keys of equal passwords differ. Not a secret: the server sends it to anyone who asks for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Salt(pub [u8; 16]);

/// The keys that are derived from a password: one signs for the client, the other keys the server's answer.
///
/// Both are wiped when dropped.
#[derive(Debug)]
pub struct DerivedKeys {
    /// The key that signs the client's proof.
    pub(crate) client: PrivateKey,
    /// The key of the server's answer.
    pub(crate) server: Secret<32>,
}

impl DerivedKeys {
    /// Runs Argon2id. Blocks for a tenth of a second or more, and allocates the memory that the parameters name. Don't call
    /// this in an async task; use `runtime::blocking`.
    ///
    /// # Errors
    /// The memory cannot be allocated.
    pub fn derive(password: &Password, salt: &Salt, params: Argon2Params) -> Result<Self, StretchError> {
        password.count_derivation();
        #[cfg(test)]
        count_run(salt);

        let mut stretched = Zeroizing::new([0; 32]);
        stretch(password.bytes(), &salt.0, params, &mut stretched)?;
        let stretched = Prk::new_less_safe(HKDF_SHA256, &*stretched);
        let seed = expand(&stretched, b"chan-auth-v1 client key")?;
        let client = PrivateKey::from_seed(seed).map_err(|_| StretchError::Library)?;
        Ok(Self { client, server: expand(&stretched, b"chan-auth-v1 server key")? })
    }

    /// Returns the part of these keys that a server stores.
    pub fn verifier(&self, salt: &Salt, params: Argon2Params) -> PasswordVerifier {
        PasswordVerifier::new(params, *salt, self.client.public_key(), self.server.clone())
    }
}

/// The reason that a password could not be stretched. Never depends on the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StretchError {
    /// The memory cannot be allocated.
    #[error("not enough memory to stretch a password: it takes {m_kib} KiB")]
    NoMemory {
        /// The requested memory in KiB.
        m_kib: u32,
    },
    /// The cryptographic library refused.
    #[error("the cryptographic library failed to stretch a password")]
    Library,
}

fn stretch(
    password: &[u8],
    salt: &[u8],
    params: Argon2Params,
    out: &mut [u8; 32],
) -> Result<(), StretchError> {
    let library = |_| StretchError::Library;
    let no_memory = |_| StretchError::NoMemory { m_kib: params.m_kib };
    let params =
        Params::new(params.m_kib, params.t, u32::from(params.p), Some(out.len())).map_err(library)?;
    let block_count = params.block_count();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);

    // The keys can be computed from the contents of the blocks, so the blocks are wiped too. `try_reserve`, because a
    // failed `vec!` ends the whole program.
    let mut blocks = Zeroizing::new(Vec::new());
    blocks.try_reserve_exact(block_count).map_err(no_memory)?;
    blocks.resize(block_count, Block::new());
    argon2.hash_password_into_with_memory(password, salt, out, blocks.as_mut_slice()).map_err(library)
}

fn expand(stretched: &Prk, info: &[u8]) -> Result<Secret<32>, StretchError> {
    let mut key = Zeroizing::new([0; 32]);
    let info = [info];
    let expanded = stretched.expand(&info, KeyLen).map_err(|_| StretchError::Library)?;
    expanded.fill(&mut *key).map_err(|_| StretchError::Library)?;
    Ok(Secret::new(*key))
}

struct KeyLen;

impl KeyType for KeyLen {
    fn len(&self) -> usize {
        32
    }
}

/// How often Argon2 ran with each salt in this test program. Tests run side by side; one that uses a salt of its own
/// reads its own number.
#[cfg(test)]
static RUNS: std::sync::Mutex<std::collections::BTreeMap<[u8; 16], u64>> =
    std::sync::Mutex::new(std::collections::BTreeMap::new());

#[cfg(test)]
fn count_run(salt: &Salt) {
    *RUNS.lock().unwrap().entry(salt.0).or_default() += 1;
}

#[cfg(test)]
pub(crate) fn runs_with(salt: &Salt) -> u64 {
    RUNS.lock().unwrap().get(&salt.0).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_bounds_hold_on_both_sides() {
        assert_eq!(Argon2Params::new(64 * 1024, 3, 1), Ok(Argon2Params::DEFAULT));
        for (m_kib, t, p) in [(19_456, 2, 1), (262_144, 4, 4), (104_857, 10, 1), (104_857, 10, 4)] {
            assert!(Argon2Params::new(m_kib, t, p).is_ok(), "{m_kib} {t} {p}");
        }
        assert_eq!(Argon2Params::new(19_455, 3, 1), Err(ParamsError::Memory(19_455)));
        assert_eq!(Argon2Params::new(262_145, 3, 1), Err(ParamsError::Memory(262_145)));
        assert_eq!(Argon2Params::new(u32::MAX, u32::MAX, u8::MAX), Err(ParamsError::Memory(u32::MAX)));
        assert_eq!(Argon2Params::new(65_536, 1, 1), Err(ParamsError::Passes(1)));
        assert_eq!(Argon2Params::new(65_536, 11, 1), Err(ParamsError::Passes(11)));
        assert_eq!(Argon2Params::new(65_536, 3, 0), Err(ParamsError::Lanes(0)));
        assert_eq!(Argon2Params::new(65_536, 3, 5), Err(ParamsError::Lanes(5)));
        assert_eq!(Argon2Params::new(262_144, 5, 1), Err(ParamsError::Work { m_kib: 262_144, t: 5 }));
        assert_eq!(Argon2Params::new(104_858, 10, 1), Err(ParamsError::Work { m_kib: 104_858, t: 10 }));
    }

    /// RFC 9106 section 5.3.
    #[test]
    fn argon2id_gives_the_tag_of_rfc_9106() {
        let params = argon2::ParamsBuilder::new()
            .m_cost(32)
            .t_cost(3)
            .p_cost(4)
            .data(argon2::AssociatedData::new(&[4; 12]).unwrap())
            .output_len(32)
            .build()
            .unwrap();
        let argon2 = Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params).unwrap();
        let mut tag = [0; 32];
        argon2.hash_password_into(&[1; 32], &[2; 16], &mut tag).unwrap();
        let expected = [
            0x0d, 0x64, 0x0d, 0xf5, 0x8d, 0x78, 0x76, 0x6c, 0x08, 0xc0, 0x37, 0xa3, 0x4a, 0x8b, 0x53, 0xc9,
            0xd0, 0x1e, 0xf0, 0x45, 0x2d, 0x75, 0xb6, 0x5e, 0xb5, 0x25, 0x20, 0xe9, 0x6b, 0x01, 0xe6, 0x59,
        ];
        assert_eq!(tag, expected);
    }

    #[test]
    fn clones_share_derivations() {
        let password = Password::new("correct horse").unwrap();
        let params = Argon2Params::new(19_456, 2, 1).unwrap();
        let same = password.clone();
        DerivedKeys::derive(&same, &Salt([0xc0; 16]), params).unwrap();
        assert_eq!(same.derivations(), 1);
        assert_eq!((password.derivations(), runs_with(&Salt([0xc0; 16]))), (1, 1));
    }
}
