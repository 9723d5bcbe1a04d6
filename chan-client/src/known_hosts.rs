//! Saved keys of servers.

use std::path::{Path, PathBuf};

use lib_chan::tls::Pin;

use crate::config_file::{ConfigFile, FileError};
use crate::identity::IdentityError;

/// A file of the keys that servers showed the first time, for [`Trust::Tofu`](crate::trust::Trust::Tofu).
///
/// A line is `host:port sha256:…`. A server may have several lines, one for each key. Empty lines and lines that begin
/// with `#` are kept. A new file gets mode 0600. A file that other users may write is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownHosts {
    file: ConfigFile,
}

impl KnownHosts {
    /// Uses the file at this path, which need not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { file: ConfigFile::at(path) }
    }

    /// Uses the file of the user: `$XDG_CONFIG_HOME/chan-client/known_hosts`, or in `~/.config/chan-client`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no home directory.
    pub fn of_user() -> Result<Self, KnownHostsError> {
        Ok(Self { file: ConfigFile::of_user("known_hosts")? })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Returns the keys known for this `host:port`; none for a server never seen. Reads the file.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, other users may write it, or a line is malformed.
    pub fn keys(&self, authority: &str) -> Result<Vec<Pin>, KnownHostsError> {
        self.keys_in(&self.file.read()?, authority)
    }

    /// Adds the key of a server never seen before. Does nothing if the file has it already. Waits while another program
    /// writes the file.
    ///
    /// # Errors
    ///
    /// As for [`keys`](Self::keys). Returns [`KnownHostsError::Changed`] if another program has meanwhile saved another
    /// key for the same server.
    pub fn add(&self, authority: &str, key: &Pin) -> Result<(), KnownHostsError> {
        // A key that the file has already does not need a writable file.
        if self.keys(authority)?.contains(key) {
            return Ok(());
        }
        self.file.change(|text| {
            let known = self.keys_in(text, authority)?;
            if known.contains(key) {
                return Ok(None);
            }
            if !known.is_empty() {
                return Err(IdentityError::changed(known, *key, self.path(), authority).into());
            }
            let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            Ok(Some(format!("{text}{end}{authority} {key}\n")))
        })
    }

    fn keys_in(&self, text: &str, authority: &str) -> Result<Vec<Pin>, KnownHostsError> {
        let mut keys = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split_whitespace();
            match (words.next(), words.next().map(str::parse::<Pin>), words.next()) {
                (None, ..) => {}
                (Some(host), ..) if host.starts_with('#') => {}
                (Some(host), Some(Ok(key)), None) if host == authority => keys.push(key),
                (Some(_), Some(Ok(_)), None) => {}
                _ => return Err(KnownHostsError::Line { path: self.path().to_owned(), number }),
            }
        }
        Ok(keys)
    }
}

/// The reason that the file of known hosts cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KnownHostsError {
    /// The file has another key for this server.
    #[error(transparent)]
    Changed(#[from] IdentityError),
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A line is malformed.
    #[error("{}, line {number}: expected `host:port sha256:…`; correct or remove the line", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        number: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Pin {
        Pin([byte; 32])
    }

    #[test]
    fn saves_keys_by_host_and_port() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(directory.path().join("known_hosts"));
        known.add("h:1", &key(1)).unwrap();
        known.add("h:1", &key(1)).unwrap();
        known.add("h:2", &key(2)).unwrap();
        assert_eq!(known.keys("h:1").unwrap(), [key(1)]);
        assert_eq!(known.keys("h:2").unwrap(), [key(2)]);
        assert_eq!(known.keys("h:3").unwrap(), []);
        assert_eq!(
            std::fs::read_to_string(known.path()).unwrap(),
            format!("h:1 {}\nh:2 {}\n", key(1), key(2))
        );
    }

    #[test]
    fn known_key_needs_no_writable_directory() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(directory.path().join("known_hosts"));
        known.add("h:1", &key(1)).unwrap();
        std::fs::remove_file(directory.path().join("known_hosts.lock")).unwrap();
        known.add("h:1", &key(1)).unwrap();
        // Not even the lock was written.
        assert!(!directory.path().join("known_hosts.lock").exists());
    }

    #[test]
    fn never_adds_second_key() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(directory.path().join("known_hosts"));
        known.add("h:1", &key(1)).unwrap();
        assert!(matches!(known.add("h:1", &key(2)), Err(KnownHostsError::Changed(_))));
        assert_eq!(known.keys("h:1").unwrap(), [key(1)]);
    }

    #[test]
    fn keeps_comments_and_reads_several_keys() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(directory.path().join("known_hosts"));
        let text = format!("# mine\n\nh:1 {}\n h:1\t{} ", key(1), key(2));
        known.file.change(|_| Ok::<_, FileError>(Some(text.clone()))).unwrap();
        assert_eq!(known.keys("h:1").unwrap(), [key(1), key(2)]);
        known.add("h:2", &key(3)).unwrap();
        assert_eq!(known.file.read().unwrap(), format!("{text}\nh:2 {}\n", key(3)));
    }

    #[test]
    fn names_malformed_line() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(directory.path().join("known_hosts"));
        for line in ["h:1", "h:1 sha256:short", "h:1 md5:x", &format!("h:1 {} x", key(1))] {
            known.file.change(|_| Ok::<_, FileError>(Some(format!("# one\n{line}\n")))).unwrap();
            assert!(matches!(known.keys("h:9"), Err(KnownHostsError::Line { number: 2, .. })), "{line}");
        }
    }
}
