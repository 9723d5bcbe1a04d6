//! What everybody did and saw, in the order in which it happened. The checker knows nothing but this.

use std::time::Duration;

use lib_chan::{CallError, ExitReason, wire::Frame};

/// A process, numbered by birth over both programs.
pub(crate) type Proc = u16;

/// One end of a session: which connection, and whose end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct At {
    pub(crate) conn: u8,
    pub(crate) side: Side,
}

/// Which of the two programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    /// The one that connects.
    Client,
    /// The one that accepts.
    Server,
}

impl At {
    /// Each has its own.
    pub(crate) const fn number(self) -> u32 {
        self.conn as u32 * 2 + self.side as u32
    }
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Client, Self::Server];

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl At {
    pub(crate) const fn far(self) -> Self {
        Self { conn: self.conn, side: self.side.other() }
    }

    pub(crate) const fn index(self) -> usize {
        self.conn as usize * 2 + self.side as usize
    }
}

/// A process, as another one names it. A far one is meant from the end at which the name is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Pid {
    /// One of the same program.
    Local(Proc),
    /// One at the other end.
    Far {
        /// Of which session.
        conn: u8,
        /// Its id there.
        id: u64,
    },
    /// What stands for a monitor that the other end has set.
    Watch {
        /// Of which session.
        conn: u8,
        /// The other end's name for the monitor.
        monitor: u64,
    },
}

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// When, counted from the beginning of the run.
    pub(crate) at: Duration,
    pub(crate) what: What,
}

/// What a payload says; each is used once.
pub(crate) type Token = u32;

/// How a process answered a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Reply,
    TooLong,
    Refused,
    Dropped,
}

/// A frame, as far as the checker wants to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tapped {
    Start {
        window: u64,
        max_calls: u64,
        max_links: u64,
    },
    Started {
        max_calls: u64,
        max_links: u64,
    },
    Message {
        to: u64,
        call: Option<(u64, u64)>,
        token: Token,
        len: usize,
    },
    Cancel {
        call: u64,
    },
    Answer {
        call: u64,
        code: u8,
        token: Token,
        len: usize,
    },
    Part {
        call: u64,
        total: u64,
        len: usize,
    },
    PartTo {
        to: u64,
        total: u64,
        token: Token,
        len: usize,
    },
    Exit {
        from: u64,
        to: u64,
        link: bool,
        reason: ExitReason,
    },
    Ended {
        taken: u64,
        reason: ExitReason,
    },
    Link {
        from: u64,
        to: u64,
    },
    Unlink {
        from: u64,
        to: u64,
        unlink: u64,
    },
    UnlinkAck {
        from: u64,
        to: u64,
        unlink: u64,
    },
    Monitor {
        monitor: u64,
        to: u64,
    },
    Demonitor {
        monitor: u64,
    },
    Down {
        monitor: u64,
        reason: ExitReason,
    },
    GoAway,
    Credit {
        id: u64,
        total: u64,
    },
    Ack {
        number: u64,
    },
    Ping,
    Pong,
    /// Bytes that are no frame.
    Garbage,
}

/// The token at the front of a payload.
pub(crate) fn token(payload: &[u8]) -> Token {
    payload.first_chunk().map_or(0, |bytes| Token::from_be_bytes(*bytes))
}

impl Tapped {
    pub(crate) fn new(frame: Frame<'_>) -> Self {
        match frame {
            Frame::Start { terms, window_len, .. } => {
                Self::Start { window: window_len, max_calls: terms.max_calls, max_links: terms.max_links }
            }
            Frame::Started { terms, resume: _ } => {
                Self::Started { max_calls: terms.max_calls, max_links: terms.max_links }
            }
            Frame::Cast { to, payload } => {
                Self::Message { to, call: None, token: token(payload), len: payload.len() }
            }
            Frame::Call { to, call, left, payload } => {
                Self::Message { to, call: Some((call, left)), token: token(payload), len: payload.len() }
            }
            Frame::Cancel { call } => Self::Cancel { call },
            Frame::Reply { call, payload } => {
                Self::Answer { call, code: 0, token: token(payload), len: payload.len() }
            }
            Frame::Part { call, total, payload } => Self::Part { call, total, len: payload.len() },
            Frame::PartTo { to, total, payload } => {
                Self::PartTo { to, total, token: token(payload), len: payload.len() }
            }
            Frame::Refuse { call, code, .. } => Self::Answer { call, code: code as u8, token: 0, len: 0 },
            Frame::Exit { from, to, taken, reason } => Self::Exit { from, to, link: taken.is_some(), reason },
            Frame::Ended { taken, reason } => Self::Ended { taken, reason },
            Frame::Link { from, to } => Self::Link { from, to },
            Frame::Unlink { from, to, unlink } => Self::Unlink { from, to, unlink },
            Frame::UnlinkAck { from, to, unlink } => Self::UnlinkAck { from, to, unlink },
            Frame::Monitor { monitor, to } => Self::Monitor { monitor, to },
            Frame::Demonitor { monitor } => Self::Demonitor { monitor },
            Frame::Down { monitor, reason, .. } => Self::Down { monitor, reason },
            Frame::GoAway => Self::GoAway,
            Frame::Credit { id, total } => Self::Credit { id, total },
            Frame::Ack { number } => Self::Ack { number },
            Frame::Ping { .. } => Self::Ping,
            Frame::Pong { .. } => Self::Pong,
            // Neither end asks for it, and nothing is handed out in messages.
            Frame::With { .. } | Frame::Release { .. } => Self::Garbage,
            Frame::Resume { .. } | Frame::Resumed { .. } | Frame::Lost { .. } => Self::Garbage,
        }
    }

    /// Whether it is a signal between processes, or the end of the session.
    pub(crate) const fn is_signal(&self) -> bool {
        matches!(
            self,
            Self::Exit { .. }
                | Self::Ended { .. }
                | Self::Link { .. }
                | Self::Unlink { .. }
                | Self::UnlinkAck { .. }
                | Self::Monitor { .. }
                | Self::Demonitor { .. }
                | Self::Down { .. }
        )
    }

    /// Whether it counts in the ordered stream.
    pub(crate) const fn is_ordered(&self) -> bool {
        !matches!(self, Self::Credit { .. } | Self::Ack { .. } | Self::Ping | Self::Pong | Self::Garbage)
    }
}

/// A signal as it reaches a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Link,
    Unlink { id: u64 },
    UnlinkAck { id: u64 },
    Exit { reason: ExitReason, link: bool },
    Monitor { monitor: u64 },
    Demonitor { monitor: u64 },
    Down { monitor: u64, reason: ExitReason },
}

/// What became of a cast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CastEnd {
    Sent,
    /// It waits.
    Queued,
    Refused,
    Ended(ExitReason),
    /// The sender stopped waiting.
    Withdrawn,
}

#[derive(Clone, Debug)]
#[expect(dead_code, reason = "some of it is for whoever reads the log")]
pub(crate) enum What {
    // Processes.
    Born {
        proc: Proc,
        side: Side,
        task: bool,
    },
    Decided {
        proc: Proc,
        reason: ExitReason,
    },
    Gone {
        proc: Proc,
    },
    /// It never came to an await again, and its end was decided.
    Stuck {
        proc: Proc,
    },
    ProgramDied {
        side: Side,
    },
    // What one does, and the signal as it is sent.
    LinkOp {
        proc: Proc,
        to: Pid,
        fresh: bool,
    },
    UnlinkOp {
        proc: Proc,
        to: Pid,
        id: Option<u64>,
    },
    MonitorOp {
        proc: Proc,
        monitor: u64,
        to: Pid,
    },
    DemonitorOp {
        proc: Proc,
        monitor: u64,
        was: bool,
    },
    ExitOp {
        proc: Proc,
        to: Pid,
        reason: ExitReason,
    },
    Parted {
        proc: Proc,
        to: Pid,
    },
    /// A signal reaches a process; `seen` is whether it had an effect that the process or others can see.
    Signal {
        proc: Proc,
        from: Pid,
        signal: Signal,
        seen: bool,
    },
    /// A link within a program could not be made, because there is nobody, and its process is told at once.
    LinkFailed {
        proc: Proc,
        to: Pid,
    },
    /// When the session heard of a link, the end of the one before had come and was not told.
    EndUnderWay {
        at: At,
        proc: Proc,
        far: u64,
    },
    /// An exit that the peer had provoked was taken by a process, or ended it.
    ExitTaken {
        at: At,
        link: bool,
    },
    /// The session hears of what a process does: from now on that counts.
    Said {
        at: At,
        proc: Proc,
        far: u64,
        signal: Signal,
    },
    // Messages.
    Cast {
        at: At,
        proc: Proc,
        token: Token,
        end: CastEnd,
    },
    CastEnd {
        token: Token,
        end: CastEnd,
    },
    Call {
        at: At,
        proc: Proc,
        token: Token,
        deadline: Duration,
    },
    CallWoken {
        token: Token,
    },
    CallEnd {
        token: Token,
        outcome: Result<Token, CallError>,
    },
    CallGivenUp {
        token: Token,
    },
    Took {
        at: At,
        number: u64,
        token: Token,
        call: bool,
    },
    /// A process that was handed out took what was sent to it.
    TookDirect {
        at: At,
        proc: Proc,
        number: u64,
        token: Token,
    },
    /// A call whose caller had stopped waiting came to its turn and was refused.
    Skipped {
        at: At,
        number: u64,
    },
    Answered {
        at: At,
        token: Token,
        answer: Answer,
        token_back: Token,
    },
    /// Whoever has taken this call wants to know when nobody waits for it any more.
    AwaitsCancel {
        proc: Proc,
        token: Token,
    },
    AwaitsNoCancel {
        token: Token,
    },
    Cancelled {
        at: At,
        token: Token,
    },
    Flush {
        at: At,
        op: u32,
    },
    FlushEnd {
        op: u32,
        result: Result<(), ExitReason>,
    },
    FlushGivenUp {
        op: u32,
    },
    // Sessions.
    /// A login that must fail at this end.
    WrongLogin {
        at: At,
    },
    LoggedIn {
        at: At,
    },
    LoginFailed {
        at: At,
        wrong: bool,
    },
    /// Whoever waited for it is gone.
    LoginGivenUp {
        at: At,
    },
    Opened {
        at: At,
    },
    NotOpened {
        at: At,
        refused: bool,
    },
    HandedOut {
        at: At,
        id: u64,
        proc: Proc,
        link: bool,
        exit: bool,
        kill: bool,
        monitor: bool,
    },
    Owner {
        at: At,
        proc: Option<Proc>,
    },
    /// The owner ended or let go: nothing is taken from here on.
    LetGo {
        at: At,
        reason: ExitReason,
        close_by: Duration,
    },
    /// Who reads the channel from now on.
    Reads {
        at: At,
        proc: Proc,
    },
    GaveUpReceiving {
        at: At,
    },
    BrokeOff {
        at: At,
        reason: ExitReason,
    },
    /// The session is over for this end.
    Over {
        at: At,
        reason: ExitReason,
    },
    /// The reader of the channel saw its end.
    EndSeen {
        at: At,
        reason: ExitReason,
    },
    CloseEnd {
        at: At,
        reason: ExitReason,
    },
    DriverGone {
        at: At,
    },
    // The network.
    Frame {
        at: At,
        end: u64,
        frame: Tapped,
    },
    Read {
        at: At,
        upto: u64,
    },
    /// Everybody has come to rest: what waits is only what may wait.
    Rest,
    /// A reader found the end of the stream.
    EndOfStream {
        at: At,
    },
    Fault {
        conn: u8,
        fault: Fault,
    },
}

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Cut,
    Reset,
    HalfOpen,
    Stall,
    /// Nothing is lost, but little passes.
    Slow,
    Kill,
}
