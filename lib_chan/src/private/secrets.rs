//! Passwords and keys from files, and new keys.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{PrivateFileError, create, quoted, read};
use crate::secret::{KeyError, Password, PasswordError, PrivateKey, Secret};

/// The reason why a file gave no password or key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretFileError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The contents of the file are not a password.
    #[error("{}: {error}", quoted(.path))]
    Password {
        /// The file.
        path: PathBuf,
        /// What is wrong with its contents.
        error: PasswordError,
    },
    /// The contents of the file are not a private key.
    #[error("{}: {error}", quoted(.path))]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with its contents.
        error: KeyError,
    },
}

impl Password {
    /// Reads a password from a file of one line. Blocks while the file is read.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, is open to other users by the rule of
    /// [`private::read`](crate::private::read), or does not hold a password.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, SecretFileError> {
        let path = path.as_ref();
        let contents = read(path, Self::MAX_FILE_LEN)?;
        Self::from_file_contents(&contents)
            .map_err(|error| SecretFileError::Password { path: path.into(), error })
    }
}

impl PrivateKey {
    /// Makes a new key from the random source of the system.
    ///
    /// # Errors
    ///
    /// Returns [`KeyError::Rejected`] if the system gives no random bytes or no memory.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(&mut *seed).map_err(|_| KeyError::Rejected)?;
        Self::from_seed(Secret::new(*seed))
    }

    /// Reads a key from a file that [`create_file`](Self::create_file) or `chan-client keygen` made. Blocks while the
    /// file is read.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, is open to other users by the rule of
    /// [`private::read`](crate::private::read), or does not hold a private key.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, SecretFileError> {
        let path = path.as_ref();
        let contents = read(path, Self::MAX_FILE_LEN)?;
        Self::from_file_contents(&contents).map_err(|error| SecretFileError::Key { path: path.into(), error })
    }

    /// Writes the key to a new file of mode 0600, as [`private::create`](crate::private::create) does. Blocks while the
    /// file is written.
    ///
    /// # Errors
    ///
    /// Returns an error if the file exists or cannot be written.
    pub fn create_file(&self, path: impl AsRef<Path>) -> Result<(), PrivateFileError> {
        create(path.as_ref(), self.to_file_contents().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keys_differ_and_survive_their_files() {
        let directory = tempfile::tempdir().unwrap();
        let keys = ["a", "b"].map(|name| {
            let path = directory.path().join(name);
            let key = PrivateKey::generate().unwrap();
            key.create_file(&path).unwrap();
            assert_eq!(PrivateKey::from_file(&path).unwrap().public_key(), key.public_key());
            key.public_key()
        });
        assert_ne!(keys[0], keys[1]);
    }

    #[test]
    fn never_overwrites_a_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let key = PrivateKey::generate().unwrap();
        key.create_file(&path).unwrap();
        assert!(PrivateKey::generate().unwrap().create_file(&path).is_err());
        assert_eq!(PrivateKey::from_file(&path).unwrap().public_key(), key.public_key());
    }

    #[test]
    fn wrong_contents_are_reported_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        create(&path, b"correct horse\n").unwrap();
        assert!(Password::from_file(&path).is_ok());
        let error = PrivateKey::from_file(&path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()) && !error.contains("horse"), "{error}");
        let key = directory.path().join("key");
        PrivateKey::generate().unwrap().create_file(&key).unwrap();
        let error = Password::from_file(&key).unwrap_err().to_string();
        assert!(error.contains("a client's private key"), "{error}");
        assert!(matches!(Password::from_file(directory.path()), Err(SecretFileError::File(_))));
    }
}
