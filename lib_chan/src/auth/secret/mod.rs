//! Passwords, keys and secret bytes: wiped from memory when dropped, masked when printed, and never serialized.

mod key;
mod password;

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

pub(crate) use key::decode_exactly;
pub use key::{KeyError, PrivateKey, PublicKey};
pub use password::{Password, PasswordError, Target};

/// `N` secret bytes.
///
/// They are wiped when dropped and compared in constant time. `Debug` shows `Secret(..)`.
#[derive(Clone)]
pub struct Secret<const N: usize>(Zeroizing<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Wraps secret bytes. The caller has to wipe its own copy.
    pub fn new(bytes: [u8; N]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes. A copy of them is not wiped.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl<const N: usize> PartialEq for Secret<N> {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&*self.0, &*other.0).is_ok()
    }
}

impl<const N: usize> Eq for Secret<N> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_masks_secrets() {
        let key = PrivateKey::from_seed(Secret::new([0xab; 32])).unwrap();
        let shown = format!("{:?} {:?} {key:?}", Password::new("hunter22").unwrap(), Secret::new([0xab; 32]));
        assert!(
            !shown.contains("hunter22") && !shown.contains("171, 171") && !shown.contains("q6ur"),
            "{shown}"
        );
        assert!(shown.contains("ed25519:"), "{shown}");
    }
}
