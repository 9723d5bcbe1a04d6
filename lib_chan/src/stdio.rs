//! Standard input, output and error of a program, which may be gone, full, or made non-blocking by another program.
//!
//! The macros of the standard library panic if a stream is gone. Its readers and writers fail if another program has
//! set `O_NONBLOCK` on a stream that it shares with this one, although `EAGAIN` is neither the end of the input nor a
//! failure. The streams of this module wait instead.
//!
//! | need | use |
//! |---|---|
//! | print a result | [`print()`]; the caller handles the error |
//! | tell the user something | [`complain`]; it never fails and never waits longer than a second |
//! | read or write as `std::io` does | [`stdin`], [`stdout`], [`stderr`] |
//! | the same in a task, without blocking the runtime | [`input`], [`output`] |
//! | notice that nobody reads the output any more | [`reader_gone`] |

use std::{
    fmt,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    time::Instant,
};

use crate::runtime::{Worker, spawn_thread};

/// The most bytes that are read or written at once.
const MAX_PIECE_LEN: usize = 64 * 1024;

/// The most bytes that a pipe takes without blocking once it says that it has room, on every system.
const PIPE_BUF: usize = 512;

/// The time for which a line waits for a standard error that accepts nothing.
const COMPLAINT_TIMEOUT: Duration = Duration::from_secs(1);

/// Standard input. A read waits while there is nothing to read.
pub fn stdin() -> Stream {
    Stream(rustix::stdio::stdin())
}

/// Standard output. A write waits while there is no room. Not buffered.
pub fn stdout() -> Stream {
    Stream(rustix::stdio::stdout())
}

/// Standard error. A write waits while there is no room. Not buffered.
pub fn stderr() -> Stream {
    Stream(rustix::stdio::stderr())
}

/// Writes a text to standard output. Blocks while there is no room for it.
///
/// # Errors
/// The output cannot be written: [`io::ErrorKind::BrokenPipe`] if its reader is gone.
pub fn print(text: &str) -> io::Result<()> {
    stdout().write_all(text.as_bytes())
}

/// Writes a line to standard error. Waits a second at most for room, and does not wait again until there was room. A
/// line that cannot be written is lost, and the program continues.
pub fn complain(line: impl fmt::Display) {
    static STUCK: AtomicBool = AtomicBool::new(false);

    let patience = if STUCK.load(Ordering::Relaxed) { Duration::ZERO } else { COMPLAINT_TIMEOUT };
    let written = write_within(rustix::stdio::stderr(), format!("{line}\n").as_bytes(), patience);
    STUCK.store(written.is_err(), Ordering::Relaxed);
}

/// Waits until standard output has no reader: its pipe or socket has none, or its terminal is gone. Never returns for
/// a file.
///
/// Occupies a thread until then, even if the future is dropped: call it once in a program.
pub async fn reader_gone() {
    let (tell, told) = oneshot::channel::<()>();
    let watch = move || {
        // No event is requested, so the system reports only that the stream is broken.
        if wait(rustix::stdio::stdout(), PollFlags::empty(), None).is_ok() {
            let _ = tell.send(());
        }
    };
    let watching = spawn_thread(watch);
    if watching.is_err() || told.await.is_err() {
        std::future::pending().await
    }
}

/// A standard stream, as a blocking reader or writer. Made by [`stdin`], [`stdout`] and [`stderr`].
#[derive(Clone, Copy, Debug)]
pub struct Stream(BorrowedFd<'static>);

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(self.0, &mut *buffer) {
                Err(Errno::AGAIN) => wait(self.0, PollFlags::IN, None)?,
                Err(Errno::INTR) => {}
                read => return Ok(read?),
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, bytes) {
                Err(Errno::AGAIN) => wait(self.0, PollFlags::OUT, None)?,
                Err(Errno::INTR) => {}
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all of it in time, or fails. Each write waits for room first and is short enough for it.
fn write_within(to: BorrowedFd<'_>, mut bytes: &[u8], time: Duration) -> io::Result<()> {
    let began = Instant::now();
    while !bytes.is_empty() {
        wait(to, PollFlags::OUT, Some(time.saturating_sub(began.elapsed())))?;
        let (piece, _) = bytes.split_at(bytes.len().min(PIPE_BUF));
        match rustix::io::write(to, piece) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until the stream is ready or broken. The next read or write tells which.
fn wait(stream: BorrowedFd<'_>, ready_to: PollFlags, time: Option<Duration>) -> io::Result<()> {
    let time = time.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    loop {
        let mut ready = [PollFd::from_borrowed_fd(stream, ready_to)];
        match poll(&mut ready, time.as_ref()) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Standard input for tasks. Reads happen on a thread of their own, at most 64 KiB ahead of the task. A read that has begun
/// goes on when the input is dropped.
///
/// The first read fails if the system gives no thread.
pub fn input() -> Input {
    Input(Work::default())
}

/// Standard output for tasks. Writes happen on a thread of their own, at most 64 KiB behind the task; a flush
/// waits for them. [`shutdown`](tokio::io::AsyncWriteExt::shutdown) closes the stream, so that its reader sees EOF.
///
/// The next write or flush reports a write that failed. The first write fails if the system gives no thread.
pub fn output() -> Output {
    Output(Work::default())
}

/// Standard input for tasks. Made by [`input`].
#[derive(Debug)]
pub struct Input(Work);

/// Standard output for tasks. Made by [`output`].
#[derive(Debug)]
pub struct Output(Work);

/// A buffer, and the thread that fills or empties it.
#[derive(Debug)]
struct Work {
    /// Started with the first work.
    worker: Option<Worker>,
    state: BufferState,
}

/// Where the buffer is.
#[derive(Debug)]
enum BufferState {
    Idle(Buffer),
    Busy(oneshot::Receiver<(io::Result<()>, Buffer)>),
}

use BufferState::{Busy, Idle};

/// Bytes to hand out, from a position on.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    at: usize,
}

impl Default for Work {
    fn default() -> Self {
        Self { worker: None, state: Idle(Buffer::default()) }
    }
}

impl Work {
    fn is_busy(&self) -> bool {
        matches!(self.state, Busy(_))
    }

    /// Returns the buffer, once no thread holds it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut Buffer>> {
        if let Busy(work) = &mut self.state {
            let (done, buffer) = ready!(Pin::new(work).poll(cx)).map_err(io::Error::other)?;
            self.state = Idle(buffer);
            done?;
        }
        match &mut self.state {
            Idle(buffer) => Poll::Ready(Ok(buffer)),
            // The buffer became idle just now.
            Busy(_) => Poll::Pending,
        }
    }

    fn begin(
        &mut self,
        mut buffer: Buffer,
        work: impl FnOnce(&mut Buffer) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None => Worker::start()?,
        };
        self.state = Busy(worker.begin(move || (work(&mut buffer), buffer)));
        self.worker = Some(worker);
        Ok(())
    }
}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut has_read = self.0.is_busy();
        loop {
            let buffer = ready!(self.0.poll(cx))?;
            let rest = buffer.bytes.get(buffer.at..).unwrap_or_default();
            if !rest.is_empty() || has_read || to.remaining() == 0 {
                let (piece, _) = rest.split_at(rest.len().min(to.remaining()));
                to.put_slice(piece);
                buffer.at += piece.len();
                return Poll::Ready(Ok(()));
            }
            has_read = true;
            let buffer = std::mem::take(buffer);
            self.0.begin(buffer, |buffer| {
                buffer.at = 0;
                buffer.bytes.resize(MAX_PIECE_LEN, 0);
                let read = stdin().read(&mut buffer.bytes);
                buffer.bytes.truncate(*read.as_ref().unwrap_or(&0));
                read.map(drop)
            })?;
        }
    }
}

impl AsyncWrite for Output {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut buffer = std::mem::take(ready!(self.0.poll(cx))?);
        let (piece, _) = bytes.split_at(bytes.len().min(MAX_PIECE_LEN));
        buffer.bytes.clear();
        buffer.bytes.extend_from_slice(piece);
        self.0.begin(buffer, |buffer| stdout().write_all(&buffer.bytes))?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll(cx).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll(cx))?;
        Poll::Ready(close_stdout())
    }
}

/// Closes standard output for its reader. The descriptor then leads nowhere; a closed one would be reused for the
/// next file that is opened.
fn close_stdout() -> io::Result<()> {
    // A socket needs its own shutdown, because other descriptors of it may stay open.
    let _ = rustix::net::shutdown(rustix::stdio::stdout(), rustix::net::Shutdown::Write);
    let nowhere = std::fs::File::options().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdout(&nowhere)?)
}
