//! Writes lines to where the log goes, which may be full, slow or gone.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A file to append to, which can be opened anew under its name.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Set if the last line in it is complete.
    is_whole: bool,
    reopen: Arc<AtomicBool>,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.into(), file: append_to(path)?, is_whole: true, reopen: Arc::default() })
    }

    /// Returns what says, when it is set, that the file is to be opened anew.
    pub(super) fn reopen(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.reopen)
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_whole
            && self.reopen.swap(false, Ordering::Relaxed)
            && let Ok(file) = append_to(&self.path)
        {
            self.file = file;
        }
        let len = self.file.write(bytes)?;
        if let Some(last) = bytes.get(..len).and_then(<[u8]>::last) {
            self.is_whole = *last == b'\n';
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Writes whole lines. A line that was cut is completed before anything else, and lines that could not be written are
/// counted.
pub(super) struct Output<W> {
    writer: W,
    /// The end of a line that was cut.
    rest: Vec<u8>,
    lost: u64,
}

impl<W: Write> Output<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer, rest: Vec::new(), lost: 0 }
    }

    /// Writes a line, or counts it. `note` makes the line that tells how many are missing.
    pub(super) fn write_line(&mut self, line: &str, note: impl FnOnce(u64) -> Option<String>) {
        self.catch_up(note);
        if !self.rest.is_empty() || self.lost > 0 || !self.try_write(line.as_bytes()) {
            self.lost += 1;
        }
    }

    /// Completes a line that was cut, and tells what is missing, if that is possible now.
    pub(super) fn catch_up(&mut self, note: impl FnOnce(u64) -> Option<String>) {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() && !self.try_write(&rest) {
            self.rest = rest;
        }
        if self.rest.is_empty()
            && self.lost > 0
            && let Some(text) = note(self.lost)
            && self.try_write(text.as_bytes())
        {
            self.lost = 0;
        }
    }

    /// Writes this, at least its beginning; then the end of it waits. `false`: nothing was written.
    fn try_write(&mut self, bytes: &[u8]) -> bool {
        let mut written = 0;
        while written < bytes.len() {
            match self.writer.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(len) => written += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // What a buffer keeps is written with a later line.
        let _ = self.writer.flush();
        if written == 0 {
            return false;
        }
        self.rest = bytes[written..].to_vec();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_anew_when_asked() {
        let directory = tempfile::tempdir().unwrap();
        let (path, moved) = (directory.path().join("log"), directory.path().join("log.1"));
        let mut file = LogFile::open(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &moved).unwrap();
        file.write_all(b"two\n").unwrap();
        file.reopen().store(true, Ordering::Relaxed);
        file.write_all(b"three\n").unwrap();
        assert_eq!(std::fs::read(&moved).unwrap(), b"one\ntwo\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
        // Where no file can be made, the log goes on in the one that is open.
        std::fs::remove_dir_all(directory.path()).unwrap();
        file.reopen().store(true, Ordering::Relaxed);
        file.write_all(b"four\n").unwrap();
    }

    /// A disk with so much room.
    struct Disk {
        room: usize,
        written: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            let len = bytes.len().min(self.room);
            self.room -= len;
            self.written.extend(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn full_disk_cuts_no_line() {
        for room in 0..20 {
            let mut output = Output::new(Disk { room, written: Vec::new() });
            let note = |lost| Some(format!("lost {lost}\n"));
            (0..5).for_each(|n| output.write_line(&format!("line {n}\n"), note));
            output.writer.room = usize::MAX;
            output.write_line("last\n", note);
            let text = String::from_utf8(output.writer.written).unwrap();
            let lines: Vec<_> = text.lines().collect();
            let [whole @ .., note, last] = &lines[..] else { panic!("{room}: {text}") };
            assert_eq!(*last, "last");
            for (n, line) in whole.iter().enumerate() {
                assert_eq!(*line, format!("line {n}"), "{room}: {text}");
            }
            assert_eq!(*note, format!("lost {}", 5 - whole.len()), "{room}: {text}");
        }
    }
}
