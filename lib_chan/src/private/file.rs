//! Files that nobody but their owner may read.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// Why a secret file was not read, or not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateFileError {
    /// Somebody else may read it.
    #[error("{} may be read by others (mode {mode:04o}); run: chmod {} {}", .path.display(), .mend, quoted(.path))]
    NotPrivate {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What the bits should be, as `chmod` takes them.
        mend: &'static str,
    },
    /// More bytes than such a file can have.
    #[error("{} is longer than {max} bytes, so it is not the file that is meant", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most bytes it may have.
        max: usize,
    },
    /// The system said no.
    #[error("{}: {}", .path.display(), told(.error))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl PrivateFileError {
    /// The file or directory that it is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::NotPrivate { path, .. } | Self::TooLong { path, .. } | Self::Io { path, .. } => path,
        }
    }
}

/// What the system said; where a new file has no room, what to do.
fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists => "it exists already and is not overwritten; name another file".into(),
        _ => error.to_string(),
    }
}

/// Reads a secret file of at most `max` bytes.
///
/// The permission bits are those of the file that was opened, so it cannot be exchanged in between.
///
/// # Errors
/// When it cannot be read, when group or others have any right to it, and when it is longer.
pub fn read(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let file = File::open(path).map_err(|error| io_error(path, error))?;
    refuse_shared(path, &file, "600")?;
    // One allocation that never grows, so no copy of the secret stays behind in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(max + 1));
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|error| io_error(path, error))?;
    if bytes.len() > max {
        return Err(PrivateFileError::TooLong { path: path.into(), max });
    }
    Ok(bytes)
}

/// Writes a new secret file, mode 0600 from its first moment; it appears whole or not at all.
///
/// A program that is killed meanwhile may leave a draft beside it, which is in nobody's way.
///
/// # Errors
/// When it cannot be written; [`io::ErrorKind::AlreadyExists`] when there is one, which stays as it is.
pub fn create(path: &Path, bytes: &[u8]) -> Result<(), PrivateFileError> {
    let create = || {
        let (draft, file) = new_draft(path)?;
        let written = write(file, bytes).and_then(|()| fs::hard_link(&draft, path));
        let removed = fs::remove_file(&draft);
        written.and(removed)
    };
    create().map_err(|error| io_error(path, error))
}

/// Makes sure that a directory exists which only its owner may enter, mode 0700 when it is made here.
///
/// # Errors
/// When it cannot be made, or is there and group or others have any right to it.
pub fn create_directory(path: &Path) -> Result<(), PrivateFileError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| io_error(path, error))?;
    let directory = File::open(path).map_err(|error| io_error(path, error))?;
    refuse_shared(path, &directory, "700")
}

/// A path as it can be given to a command in a shell.
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

#[cfg(unix)]
fn refuse_shared(path: &Path, file: &File, mend: &'static str) -> Result<(), PrivateFileError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = file.metadata().map_err(|error| io_error(path, error))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::NotPrivate { path: path.into(), mode, mend });
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_shared(_path: &Path, _file: &File, _mend: &'static str) -> Result<(), PrivateFileError> {
    Ok(())
}

/// A new file beside `path`, under a name that no other program has taken, nor left behind.
fn new_draft(path: &Path) -> io::Result<(PathBuf, File)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
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

fn write(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

fn io_error(path: &Path, error: io::Error) -> PrivateFileError {
    PrivateFileError::Io { path: path.into(), error }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_file_is_private_and_leaves_no_draft() {
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
        assert!(
            matches!(error, PrivateFileError::Io { error, .. } if error.kind() == io::ErrorKind::AlreadyExists)
        );
        assert_eq!(read(&path, 3).unwrap().as_slice(), b"one");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_draft_left_by_a_program_that_was_killed_is_in_nobodys_way() {
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
    fn every_bit_of_group_and_others_is_refused_with_the_command_that_mends_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it's secret");
        create(&path, b"one").unwrap();
        for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600 | bit)).unwrap();
            let text = read(&path, 3).unwrap_err().to_string();
            assert!(text.contains(&format!("mode {:04o}); run: chmod 600 '/", 0o600 | bit)), "{text}");
            let command = text.split_once("; run: ").unwrap().1;
            assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success());
            read(&path, 3).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        create(&path, b"four").unwrap();
        assert!(matches!(read(&path, 3), Err(PrivateFileError::TooLong { max: 3, .. })));
    }

    #[test]
    fn a_path_is_quoted_so_that_a_shell_gives_it_to_the_command_as_it_is() {
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
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        let text = create_directory(&path).unwrap_err().to_string();
        assert!(text.contains("run: chmod 700 "), "{text}");
    }
}
