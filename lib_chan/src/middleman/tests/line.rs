//! A stream that breaks after a byte of one's choice.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    time::Instant,
};

/// What a connection does to those at its ends when it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Both read the end of the stream; writing fails.
    EndOfFile,
    /// This end reads an error, the other the end of the stream; writing fails.
    Reset,
    /// This end reads an error, and the other is told nothing: a network that was left.
    HalfOpen,
    /// Nothing arrives at either end, and neither is told: a cable pulled.
    Silence,
    /// Nothing arrives any more in the direction that was counted. The other direction works.
    OneWay,
}

/// Which bytes are counted, from where the stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Written,
}

/// Where a stream breaks, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) way: Way,
    pub(super) after: usize,
    pub(super) how: How,
}

/// So much is taken from a writer and goes nowhere, as the system's buffers do, before it has to wait.
const SWALLOWED: usize = 64 * 1024;

/// What went over a stream, seen from one of its ends.
#[derive(Default)]
pub(super) struct Record {
    /// The bytes themselves, where nothing is to be cut.
    pub(super) read: Vec<u8>,
    pub(super) written: Vec<u8>,
    /// When it broke, if it did.
    pub(super) broke: Option<Instant>,
    /// Streams that were let go behind a silent line: their other ends are not told.
    void: Vec<DuplexStream>,
}

pub(super) type Recorded = Arc<Mutex<Record>>;

/// One end of an in-memory stream.
pub(super) struct Line {
    /// Nothing once both ends were told that it broke.
    stream: Option<DuplexStream>,
    cut: Option<Cut>,
    broken: bool,
    /// The most bytes that one read or write carries.
    piece: usize,
    /// How many bytes were counted towards the cut.
    passed: usize,
    swallowed: usize,
    /// A direction may break while a task waits in the other.
    reader: Option<Waker>,
    record: Recorded,
}

impl Line {
    pub(super) fn new(stream: DuplexStream, cut: Option<Cut>, piece: usize) -> (Self, Recorded) {
        let record = Recorded::default();
        let mut line = Self {
            stream: Some(stream),
            cut,
            broken: false,
            piece,
            passed: 0,
            swallowed: 0,
            reader: None,
            record: Arc::clone(&record),
        };
        line.pass(cut.map_or(Way::Read, |cut| cut.way), &[]);
        (line, record)
    }

    /// How many bytes may pass this way at once.
    fn allowed(&self, way: Way) -> usize {
        match self.cut {
            Some(cut) if cut.way == way => self.piece.min(cut.after - self.passed),
            _ => self.piece,
        }
    }

    /// These went this way; breaks the line if they were the last.
    fn pass(&mut self, way: Way, bytes: &[u8]) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(cut) = self.cut else {
            match way {
                Way::Read => record.read.extend_from_slice(bytes),
                Way::Written => record.written.extend_from_slice(bytes),
            }
            return;
        };
        if cut.way != way {
            return;
        }
        self.passed += bytes.len();
        if self.passed == cut.after && !self.broken {
            self.broken = true;
            record.broke = Some(Instant::now());
            match cut.how {
                How::EndOfFile | How::Reset => self.stream = None,
                How::HalfOpen => record.void.extend(self.stream.take()),
                How::Silence | How::OneWay => {}
            }
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }

    /// How it broke, as far as this way is concerned.
    fn broken(&self, way: Way) -> Option<How> {
        let cut = self.cut.filter(|_| self.broken)?;
        (cut.how != How::OneWay || cut.way == way).then_some(cut.how)
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        line.reader = Some(cx.waker().clone());
        match line.broken(Way::Read) {
            Some(How::EndOfFile) => return Poll::Ready(Ok(())),
            Some(How::Reset | How::HalfOpen) => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            Some(How::Silence | How::OneWay) => return Poll::Pending,
            None => {}
        }
        let mut bytes = [0; 4096];
        let allowed = line.allowed(Way::Read).min(buf.remaining()).min(bytes.len());
        let Some(stream) = &mut line.stream else { return Poll::Ready(Ok(())) };
        let mut part = ReadBuf::new(&mut bytes[..allowed]);
        ready!(Pin::new(stream).poll_read(cx, &mut part))?;
        line.pass(Way::Read, part.filled());
        buf.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let line = self.get_mut();
        match line.broken(Way::Written) {
            Some(How::EndOfFile) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(How::Reset | How::HalfOpen) => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            Some(How::Silence | How::OneWay) => {
                let len = bytes.len().min(SWALLOWED - line.swallowed);
                line.swallowed += len;
                return if len == 0 { Poll::Pending } else { Poll::Ready(Ok(len)) };
            }
            None => {}
        }
        let allowed = line.allowed(Way::Written).min(bytes.len());
        let Some(stream) = &mut line.stream else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let len = ready!(Pin::new(stream).poll_write(cx, &bytes[..allowed]))?;
        line.pass(Way::Written, &bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        let broken = line.broken(Way::Written).is_some();
        match &mut line.stream {
            Some(stream) if !broken => Pin::new(stream).poll_shutdown(cx),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.broken(Way::Written).is_some() {
            let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            record.void.extend(self.stream.take());
        }
    }
}
