//! Files that only their owner may read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::access::excess;

/// The reason why a secret file was not read or not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateFileError {
    /// Other users may read the file.
    #[error("{} may be read by others (mode {mode:04o}); {remedy}", .path.display())]
    NotPrivate {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The remedy.
        remedy: String,
    },
    /// The path is a directory, not a file.
    #[error("{} is a directory; name a file in it", .0.display())]
    Directory(
        /// The directory.
        PathBuf,
    ),
    /// The file is longer than such a file can be.
    #[error("{} is longer than {max} bytes, so it holds something else", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most bytes it may have.
        max: usize,
    },
    /// The system reported an error.
    #[error("cannot {what} {}: {}", .path.display(), told(.error))]
    Io {
        /// The operation, such as `read`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
}

/// Advice for a file that belongs to another user or cannot be changed, as in a volume of a container.
const NOT_OURS: &str = "this program cannot change that: have it handed over with mode 0400, or 0440 and a group that only \
                        this program has, or set CREDENTIALS_DIRECTORY to its directory";

impl PrivateFileError {
    /// Returns the file or directory that could not be used.
    pub fn path(&self) -> &Path {
        match self {
            Self::NotPrivate { path, .. }
            | Self::Directory(path)
            | Self::TooLong { path, .. }
            | Self::Io { path, .. } => path,
        }
    }

    /// Returns the error of the system, unless the file itself is at fault.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { error, .. } => Some(error.kind()),
            _ => None,
        }
    }
}

/// Returns the error of the system, with advice if a file is in the way.
fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists => "it exists already and is not overwritten; name another file".into(),
        _ => error.to_string(),
    }
}

/// Reads a secret file of at most `max` bytes.
///
/// The file must be closed to everybody but this process:
///
/// - A file of this process's user must not be open to others, nor to its group, unless no other user has that group.
/// - A file of another user must not be open to others, and to its group only if this process has it and no other user
///   does (a Kubernetes volume with `fsGroup`). Other users may have the group if the file is root's and the group may
///   only read.
/// - A file below `$CREDENTIALS_DIRECTORY` (systemd) or `/run/secrets` (Docker) is taken as the platform hands it over,
///   unless others may write it.
///
/// The permission bits are those of the file that was opened, so another file cannot take its place in between.
///
/// # Errors
///
/// The file cannot be read, is open to others, is a directory, or is longer.
pub fn read(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    if file.metadata().map_err(io_error("read", path))?.is_dir() {
        return Err(PrivateFileError::Directory(path.into()));
    }
    refuse_shared(path, &file, "600")?;
    // One allocation that never grows, so no copy of the secret stays behind in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(max + 1));
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() > max {
        return Err(PrivateFileError::TooLong { path: path.into(), max });
    }
    Ok(bytes)
}

/// Returns the permission bits of an open file if somebody else may read or change it, by the rule of [`read`].
///
/// # Errors
///
/// The system gives no permission bits.
pub fn shared_mode(path: &Path, file: &File) -> io::Result<Option<u32>> {
    Ok(excess(path, file)?.map(|excess| excess.mode))
}

/// Writes a new secret file, mode 0600 from its first moment; it appears whole or not at all.
///
/// A program that is killed meanwhile may leave a draft beside the file, which does no harm. On a filesystem without
/// hard links the file itself is written, and may be incomplete after a crash.
///
/// # Errors
///
/// The file cannot be written; [`io::ErrorKind::AlreadyExists`] if there is one, which stays as it is.
pub fn create(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    create_by(path, bytes, |draft, path| fs::hard_link(draft, path)).map_err(io_error("make", path))
}

fn create_by(path: &Path, bytes: &[u8], link: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    let (draft, file) = new_draft(path)?;
    let linked = write(file, bytes).map(|()| link(&draft, path));
    let removed = fs::remove_file(&draft);
    match linked? {
        Ok(()) => removed,
        Err(error) if has_no_links(&error) => {
            let file = new_file().open(path)?;
            write(file, bytes).inspect_err(|_| drop(fs::remove_file(path)))
        }
        Err(error) => Err(error),
    }
}

/// Returns `true` if the filesystem has no hard links, or a sandbox allows none. FAT reports EPERM, other filesystems
/// report other errors.
fn has_no_links(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), PermissionDenied | TooManyLinks | Unsupported)
}

/// Makes sure that a directory exists which only its owner may enter, mode 0700 if it is made here.
///
/// # Errors
///
/// The directory cannot be made, or exists and is open to others by the rule of [`read`].
pub fn create_directory(path: &Path) -> Result<(), PrivateFileError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(io_error("make the directory", path))?;
    check_directory(path)
}

/// Checks that a directory is closed to others, by the rule of [`read`].
///
/// # Errors
///
/// The directory cannot be opened, or is open to others.
pub fn check_directory(path: &Path) -> Result<(), PrivateFileError> {
    let directory = File::open(path).map_err(io_error("open the directory", path))?;
    refuse_shared(path, &directory, "700")
}

/// Returns a path as a shell command needs it.
pub fn quoted(path: &Path) -> String {
    let mut text = path.display().to_string();
    if text.starts_with('-') {
        text.insert_str(0, "./");
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn refuse_shared(path: &Path, file: &File, mend: &'static str) -> Result<(), PrivateFileError> {
    let Some(excess) = excess(path, file).map_err(io_error("read the permissions of", path))? else {
        return Ok(());
    };
    let remedy = match excess.can_mend {
        true => format!("run: chmod {mend} {}", quoted(path)),
        false => NOT_OURS.into(),
    };
    Err(PrivateFileError::NotPrivate { path: path.into(), mode: excess.mode, remedy })
}

/// Creates a new file beside `path`, under an unused name.
fn new_draft(path: &Path) -> io::Result<(PathBuf, File)> {
    let options = new_file();
    let mut number = 0_u32;
    loop {
        let mut name = std::ffi::OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{number}.draft"));
        let draft = path.with_file_name(name);
        match options.open(&draft) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            opened => return Ok((draft, opened?)),
        }
    }
}

/// Creates a file for its owner alone. Fails if the file exists.
fn new_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn write(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PrivateFileError {
    let path = path.into();
    move |error| PrivateFileError::Io { what, path, error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn new_secret_is_private_without_draft() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        create(&path, b"one").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read(&path, 3).unwrap().as_slice(), b"one");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_existing_file_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        create(&path, b"one").unwrap();
        let error = create(&path, b"two").unwrap_err();
        assert_eq!(error.io_kind(), Some(io::ErrorKind::AlreadyExists));
        assert_eq!(read(&path, 3).unwrap().as_slice(), b"one");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn ignores_draft_of_killed_program() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        // Made as a program would have, so whatever its name is, it is the one that is tried first.
        let (left, _) = new_draft(&path).unwrap();
        create(&path, b"one").unwrap();
        assert_eq!(read(&path, 3).unwrap().as_slice(), b"one");
        assert_eq!(fs::read(&left).unwrap(), b"");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn refuses_shared_file_with_fix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it's secret");
        create(&path, b"one").unwrap();
        for bit in [0o004, 0o002, 0o001] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600 | bit)).unwrap();
            let text = read(&path, 3).unwrap_err().to_string();
            assert!(text.contains(&format!("mode {:04o}); run: chmod 600 '/", 0o600 | bit)), "{text}");
            let command = text.split_once("; run: ").unwrap().1;
            assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success());
            read(&path, 3).unwrap();
        }
    }

    #[test]
    fn needs_no_hard_links() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let no_links = |_: &Path, _: &Path| Err(io::Error::from_raw_os_error(1));
        create_by(&path, b"one", no_links).unwrap();
        assert_eq!((mode(&path), read(&path, 3).unwrap().as_slice()), (0o600, b"one".as_slice()));
        let error = create_by(&path, b"two", no_links).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&path, 3).unwrap().as_slice(), b"one");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn refuses_a_directory_in_place_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let error = read(directory.path(), 3).unwrap_err();
        assert!(error.to_string().ends_with(" is a directory; name a file in it"), "{error}");
    }

    #[test]
    fn does_not_read_too_long_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        create(&path, b"four").unwrap();
        assert!(matches!(read(&path, 3), Err(PrivateFileError::TooLong { max: 3, .. })));
    }

    #[test]
    fn quotes_paths_for_shell() {
        for path in ["plain", "/a b", "it's", "-rf", "$HOME", "a\nb", ""] {
            let script = format!("printf %s {}", quoted(Path::new(path)));
            let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap().stdout;
            let said = String::from_utf8(said).unwrap();
            assert_eq!(said.strip_prefix("./").unwrap_or(&said), path);
        }
        assert_eq!(quoted(Path::new("-rf")), "./-rf");
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        create_directory(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o701)).unwrap();
        let text = create_directory(&path).unwrap_err().to_string();
        assert!(text.contains("run: chmod 700 "), "{text}");
    }
}
