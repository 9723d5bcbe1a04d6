//! A small text file of the user, which several programs may change at once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lib_chan::private::quoted;
use rustix::fs::{FlockOperation, flock};

/// A file of lines in the user's configuration directory, of mode 0600.
///
/// It is read and rewritten as a whole. A new file replaces the old one in one step, so that a reader sees one or the
/// other, and a full disk destroys nothing. Writers take turns with a lock on a file beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigFile {
    path: PathBuf,
}

impl ConfigFile {
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Uses `name` in `$XDG_CONFIG_HOME/chan-client`, or in `~/.config/chan-client`.
    pub(crate) fn of_user(name: &str) -> Result<Self, FileError> {
        let absolute =
            |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = absolute("XDG_CONFIG_HOME")
            .or_else(|| Some(absolute("HOME")?.join(".config")))
            .ok_or(FileError::NoHome)?;
        Ok(Self::at(config.join("chan-client").join(name)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the text, which is empty if the file does not exist.
    pub(crate) fn read(&self) -> Result<String, FileError> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match fs::symlink_metadata(&self.path) {
                    Ok(_) => Err(FileError::Dangling { path: self.path.clone() }),
                    Err(_) => Ok(String::new()),
                };
            }
            Err(error) => return Err(self.error(error)),
        };
        let mode = file.metadata().map_err(|error| self.error(error))?.permissions().mode();
        if mode & 0o022 != 0 {
            return Err(FileError::Writable { path: self.path.clone() });
        }
        io::read_to_string(&mut file).map_err(|error| self.error(error))
    }

    /// Replaces the text by the result of `edit`, or leaves it if that is `None`. No other program changes the file
    /// meanwhile.
    pub(crate) fn change<E: From<FileError>>(
        &self,
        edit: impl FnOnce(&str) -> Result<Option<String>, E>,
    ) -> Result<(), E> {
        // A link, as dotfile managers make them, stays; its target is replaced.
        let target = Self { path: fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone()) };
        let _turn = target.lock().map_err(|error| self.error(error))?;
        if let Some(text) = edit(&target.read()?)? {
            target.replace(&text).map_err(|error| self.error(error))?;
        }
        Ok(())
    }

    /// Takes the lock. Closing the returned file releases it, also when the program dies.
    fn lock(&self) -> io::Result<File> {
        if let Some(directory) = self.path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.beside(".lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(lock)
    }

    /// Replaces the file. The caller holds the lock, so an existing new file was left by a program that died.
    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.beside(".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(suffix);
        path.into()
    }

    fn error(&self, source: io::Error) -> FileError {
        FileError::Io { path: self.path.clone(), source }
    }
}

/// The reason that a file of the user cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Reading or writing failed.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The path is a dangling link.
    #[error("{} is a link to a file that does not exist; make that file, or remove the link", path.display())]
    Dangling {
        /// The link.
        path: PathBuf,
    },
    /// Neither `XDG_CONFIG_HOME` nor `HOME` names a directory.
    #[error("no directory for the user's files: neither XDG_CONFIG_HOME nor HOME is set; set one of them")]
    NoHome,
    /// Other users may have changed the file.
    #[error("other users may write {}, so it is not trusted; check it, then run: chmod 600 {}", path.display(), quoted(path))]
    Writable {
        /// The file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(file: &ConfigFile, line: &str) -> Result<(), FileError> {
        file.change(|text| Ok(Some(format!("{text}{line}\n"))))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn new_file_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let file = ConfigFile::at(directory.path().join("new/deep/file"));
        assert_eq!(file.read().unwrap(), "");
        append(&file, "one").unwrap();
        append(&file, "two").unwrap();
        assert_eq!(file.read().unwrap(), "one\ntwo\n");
        assert_eq!((mode(file.path()), mode(&directory.path().join("new"))), (0o600, 0o700));
    }

    #[test]
    fn concurrent_writers_lose_no_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = ConfigFile::at(directory.path().join("file"));
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let file = &file;
                scope.spawn(move || (0..8).for_each(|i| append(file, &format!("{writer} {i}")).unwrap()));
            }
        });
        assert_eq!(file.read().unwrap().lines().count(), 64);
    }

    #[test]
    fn failed_edit_leaves_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = ConfigFile::at(directory.path().join("file"));
        append(&file, "one").unwrap();
        let failed = file.change(|_| Err(FileError::NoHome));
        assert!(matches!(failed, Err(FileError::NoHome)));
        file.change(|_| Ok::<_, FileError>(None)).unwrap();
        assert_eq!(file.read().unwrap(), "one\n");
    }

    #[test]
    fn replaces_draft_of_dead_program() {
        let directory = tempfile::tempdir().unwrap();
        let file = ConfigFile::at(directory.path().join("file"));
        fs::write(directory.path().join("file.new"), "half").unwrap();
        append(&file, "one").unwrap();
        assert_eq!(file.read().unwrap(), "one\n");
    }

    #[test]
    fn refuses_dangling_link() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/nowhere/file", &link).unwrap();
        let file = ConfigFile::at(&link);
        assert!(matches!(file.read(), Err(FileError::Dangling { .. })));
        assert!(matches!(append(&file, "one"), Err(FileError::Dangling { .. })));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn keeps_links() {
        let directory = tempfile::tempdir().unwrap();
        let real = ConfigFile::at(directory.path().join("real"));
        append(&real, "one").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(real.path(), &link).unwrap();
        append(&ConfigFile::at(&link), "two").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(real.read().unwrap(), "one\ntwo\n");
    }

    #[test]
    fn refuses_file_that_others_may_write() {
        let directory = tempfile::tempdir().unwrap();
        let file = ConfigFile::at(directory.path().join("file"));
        append(&file, "one").unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o620)).unwrap();
        let error = file.read().unwrap_err();
        assert!(error.to_string().ends_with(&format!("chmod 600 {}", file.path().display())), "{error}");
    }
}
