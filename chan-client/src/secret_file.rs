//! Files that nobody but their owner may read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The contents of a secret file.
///
/// # Errors
///
/// It cannot be read, anybody but its owner has any right to it, or it is longer than a password or key can be.
pub fn read_secret_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let failed = |source| SecretFileError::Io { path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    // Asked of the open file, so that no other can take its place in between.
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Exposed { path: path.into(), mode: mode & 0o777 });
    }
    // Room for all that is read, since a buffer that grows leaves copies behind.
    let mut contents = Zeroizing::new(Vec::with_capacity(MAX_LEN + 1));
    file.take(MAX_LEN as u64 + 1).read_to_end(&mut contents).map_err(failed)?;
    match contents.len() <= MAX_LEN {
        true => Ok(contents),
        false => Err(SecretFileError::TooLong { path: path.into() }),
    }
}

/// Makes a secret file of mode 0600, never in place of another.
///
/// # Errors
///
/// There is a file of this name, or it cannot be written; then nothing is left of it.
pub fn create_secret_file(path: &Path, contents: &[u8]) -> Result<(), SecretFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => SecretFileError::Exists { path: path.into() },
        _ => SecretFileError::Io { path: path.into(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(contents).and_then(|()| file.sync_all()).map_err(|error| {
        // Half a key is of no use; that it cannot be removed either would hide the cause.
        drop(fs::remove_file(path));
        failed(error)
    })
}

/// More than the longest password and the line end after it.
const MAX_LEN: usize = 4096;

/// Why a secret file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretFileError {
    /// There is a file of this name already.
    #[error("{} exists already and is not overwritten; name another file", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner have rights to it.
    #[error(
        "others may use the secret in {} (mode {mode:04o}); run: chmod 600 {}",
        path.display(), quoted(path)
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Reading or writing failed.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be a password or key.
    #[error("{} is too long to be a password or key; name another file", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
}

/// A path as it can be given to a shell.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    match text.chars().all(plain) && !text.starts_with('-') {
        true => text.into_owned(),
        false => format!("-- '{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_made_with_mode_0600() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create_secret_file(&path, b"secret\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(**read_secret_file(&path).unwrap(), *b"secret\n");
    }

    #[test]
    fn never_overwrites() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create_secret_file(&path, b"one").unwrap();
        assert!(matches!(create_secret_file(&path, b"two"), Err(SecretFileError::Exists { .. })));
        assert_eq!(**read_secret_file(&path).unwrap(), *b"one");
    }

    #[test]
    fn refuses_a_file_with_any_right_for_others_and_names_the_command_that_mends_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it's a key");
        create_secret_file(&path, b"secret").unwrap();
        for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600 | bit)).unwrap();
            let error = read_secret_file(&path).unwrap_err().to_string();
            let command = error.split_once("; run: ").unwrap().1;
            assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success());
            read_secret_file(&path).unwrap();
        }
    }

    #[test]
    fn reads_no_more_than_a_secret_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create_secret_file(&path, &[b'x'; MAX_LEN]).unwrap();
        read_secret_file(&path).unwrap();
        let path = directory.path().join("long");
        create_secret_file(&path, &[b'x'; MAX_LEN + 1]).unwrap();
        assert!(matches!(read_secret_file(&path), Err(SecretFileError::TooLong { .. })));
    }
}
