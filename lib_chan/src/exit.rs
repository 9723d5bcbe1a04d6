//! Exit reasons, and the errors of calls and casts.

use std::{fmt, time::Duration};

use crate::payload::PayloadError;

/// The reason why a process, a link, a channel or a session ended.
///
/// The set is closed and follows Erlang's reasons. An application's own reason is [`Failed`](Self::Failed) with a public text;
/// panic messages, paths and the like never cross the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitReason {
    /// The process returned `Ok(())`, or the channel was closed or dropped. Ends no linked process.
    Normal,
    /// A supervisor or a draining server asked for an orderly stop.
    Shutdown,
    /// Sent with [`Pid::exit`](crate::Pid::exit), it cannot be trapped and ends the receiver as `Killed`. If a process itself
    /// ends with this reason, its links get it and can trap it.
    Kill,
    /// Ended by `Kill` from outside.
    Killed,
    /// The process does not exist or has ended.
    NoProc,
    /// The connection to the far end was lost, or never existed.
    NoConnection,
    /// The process panicked. The message stays in the log of its own machine.
    Panic,
    /// The application's own reason, or the error of a cast that cannot be decoded. The text is public; at most
    /// [`MAX_TEXT_LEN`](Self::MAX_TEXT_LEN) bytes of it cross the wire.
    Failed(Box<str>),
    /// A peer sent or asked for more than its limits allow.
    Overload,
    /// The right to use this service was withdrawn during the session.
    Revoked,
    /// The server is draining.
    GoingAway,
    /// The peer broke the protocol.
    Protocol,
}

impl ExitReason {
    /// The most bytes of the text of [`Failed`](Self::Failed) that cross the wire; a longer one is cut at a
    /// character boundary.
    pub const MAX_TEXT_LEN: usize = 256;

    /// Returns `Failed` with this public text.
    pub fn failed(text: impl Into<Box<str>>) -> Self {
        Self::Failed(text.into())
    }

    /// Returns the reason's code on the wire (`PROTOCOL.md`, exit reasons).
    pub const fn code(&self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::Shutdown => 1,
            Self::Kill => 2,
            Self::Killed => 3,
            Self::NoProc => 4,
            Self::NoConnection => 5,
            Self::Panic => 6,
            Self::Failed(_) => 7,
            Self::Overload => 8,
            Self::Revoked => 9,
            Self::GoingAway => 10,
            Self::Protocol => 11,
        }
    }

    /// Returns the text that crosses the wire: the text of `Failed`, cut to [`MAX_TEXT_LEN`](Self::MAX_TEXT_LEN), else an
    /// empty one.
    pub fn text(&self) -> &str {
        match self {
            Self::Failed(text) => cut(text, Self::MAX_TEXT_LEN),
            _ => "",
        }
    }

    /// Returns the reason for a code and text from the wire; `None` for an unknown code, or a text where none belongs.
    pub fn from_wire(code: u8, text: &str) -> Option<Self> {
        if code != 7 && !text.is_empty() {
            return None;
        }
        Some(match code {
            0 => Self::Normal,
            1 => Self::Shutdown,
            2 => Self::Kill,
            3 => Self::Killed,
            4 => Self::NoProc,
            5 => Self::NoConnection,
            6 => Self::Panic,
            7 => Self::Failed(text.into()),
            8 => Self::Overload,
            9 => Self::Revoked,
            10 => Self::GoingAway,
            11 => Self::Protocol,
            _ => return None,
        })
    }
}

/// Returns the longest prefix of `text` that has at most `max` bytes and ends at a character boundary.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "normal",
            Self::Shutdown => "shutdown",
            Self::Kill => "kill",
            Self::Killed => "killed",
            Self::NoProc => "noproc",
            Self::NoConnection => "noconnection",
            Self::Panic => "panic",
            Self::Failed(text) => return write!(f, "failed: {text}"),
            Self::Overload => "overload",
            Self::Revoked => "revoked",
            Self::GoingAway => "going away",
            Self::Protocol => "protocol",
        })
    }
}

impl std::error::Error for ExitReason {}

/// Tells whether the other side executed a call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Executed {
    /// The other side did not execute the call, and will not.
    No,
    /// The other side executed the call; only the answer is missing.
    Yes,
    /// This side cannot know.
    Unknown,
}

impl fmt::Display for Executed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "not executed",
            Self::Yes => "executed",
            Self::Unknown => "perhaps executed",
        })
    }
}

/// The reason why a call gave no answer, and whether the call was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// Tells whether the other side executed the call.
    pub executed: Executed,
    /// The failure.
    pub reason: CallFailure,
}

/// A failure of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallFailure {
    /// Its deadline passed.
    Deadline,
    /// The called process, or the session to it, has ended.
    Exit(ExitReason),
    /// The process refused it, with this public text.
    Refused(Box<str>),
    /// The request or the answer cannot be encoded or decoded in the session's codec.
    Codec(Box<str>),
    /// The request or the answer is longer than a frame may be.
    TooLong {
        /// The most bytes a payload may have in this session.
        max: usize,
    },
    /// The far side has no room for it, or the caller has used up what it may call.
    Overload {
        /// The time after which the call may succeed, if the far side has stated one.
        retry_after: Option<Duration>,
    },
    /// The process dropped the call without an answer.
    NoAnswer,
    /// A process called itself, and would have waited for ever.
    CallingSelf,
}

impl fmt::Display for CallFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => f.write_str("the deadline passed"),
            Self::Exit(ExitReason::NoProc) => f.write_str("no such process (noproc)"),
            Self::Exit(ExitReason::NoConnection) => f.write_str("the connection was lost (noconnection)"),
            Self::Exit(reason) => write!(f, "the other end has ended ({reason})"),
            Self::Refused(text) => write!(f, "refused: {text}"),
            Self::Codec(text) => write!(f, "the codec: {text}"),
            Self::TooLong { max } => write!(f, "longer than the {max} bytes a payload may have"),
            Self::Overload { retry_after: None } => f.write_str("the other end is overloaded"),
            Self::Overload { retry_after: Some(wait) } => {
                write!(f, "the other end is overloaded; try again in {} ms", wait.as_millis())
            }
            Self::NoAnswer => f.write_str("the call was dropped without an answer"),
            Self::CallingSelf => f.write_str("a process cannot call itself"),
        }
    }
}

impl CallError {
    /// Creates an error for a call that failed in this way.
    pub const fn new(executed: Executed, reason: CallFailure) -> Self {
        Self { executed, reason }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let executed = match self.executed {
            Executed::No => "the call was not executed",
            Executed::Yes => "the call was executed",
            Executed::Unknown => "the call may have been executed",
        };
        write!(f, "{}; {executed}", self.reason)
    }
}

impl std::error::Error for CallError {}

impl From<CallError> for ExitReason {
    fn from(error: CallError) -> Self {
        match error.reason {
            CallFailure::Exit(reason) => reason,
            _ => Self::Failed(error.to_string().into()),
        }
    }
}

/// The reason why a cast was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CastError {
    /// The process, or the session to it, has ended.
    #[error("not sent: the other end has ended ({0})")]
    Ended(#[source] ExitReason),
    /// The message is longer than a frame may be.
    #[error("not sent: longer than the {max} bytes a payload may have")]
    TooLong {
        /// The most bytes that a payload may have in this session.
        max: usize,
    },
    /// The message does not encode in the session's codec.
    #[error("not sent: {0}")]
    Encode(#[source] PayloadError),
    /// The message contains more processes than the other end accepts.
    #[error("not sent: the other end takes at most {max} processes")]
    TooManyHandles {
        /// The most processes.
        max: u64,
    },
    /// The message would have to wait for credit or for room.
    #[error("not sent: it would have to wait")]
    WouldWait,
}

impl From<CastError> for ExitReason {
    fn from(error: CastError) -> Self {
        match error {
            CastError::Ended(reason) => reason,
            CastError::WouldWait | CastError::TooManyHandles { .. } => Self::Overload,
            CastError::TooLong { max } => Self::failed(PayloadError::TooLong { max }.to_string()),
            CastError::Encode(error) => Self::failed(error.to_string()),
        }
    }
}

/// A message that was not sent to a process of this program, with the reason.
#[derive(Clone, PartialEq, Eq)]
pub struct SendError<M> {
    /// The message, unchanged.
    pub message: M,
    /// The reason: `NoProc`, the reason of the end, or `Overload` if `try_send` found no room.
    pub reason: ExitReason,
}

impl<M> fmt::Debug for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<M> fmt::Display for SendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not sent: {}", self.reason)
    }
}

impl<M> std::error::Error for SendError<M> {}

impl<M> From<SendError<M>> for ExitReason {
    fn from(error: SendError<M>) -> Self {
        error.reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_reason_and_no_other_code() {
        let mut known = 0;
        for code in 0..=u8::MAX {
            let text = if code == 7 { "boom" } else { "" };
            if let Some(reason) = ExitReason::from_wire(code, text) {
                known += 1;
                assert_eq!((reason.code(), reason.text()), (code, text));
            }
        }
        assert_eq!(known, 12);
    }

    #[test]
    fn failed_call_says_whether_it_was_executed() {
        let text = |executed, reason| CallError::new(executed, CallFailure::Exit(reason)).to_string();
        assert_eq!(
            text(Executed::No, ExitReason::NoProc),
            "no such process (noproc); the call was not executed"
        );
        assert_eq!(
            text(Executed::Unknown, ExitReason::NoConnection),
            "the connection was lost (noconnection); the call may have been executed"
        );
        let late = CallError::new(Executed::Yes, CallFailure::TooLong { max: 9 }).to_string();
        assert_eq!(late, "longer than the 9 bytes a payload may have; the call was executed");
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        let reason = ExitReason::failed("é".repeat(200));
        assert_eq!(reason.text().len(), 256);
        let reason = ExitReason::failed(format!("x{}", "é".repeat(200)));
        assert_eq!(reason.text().len(), 255);
    }

    #[test]
    fn a_text_where_none_belongs_is_refused() {
        assert_eq!(ExitReason::from_wire(0, "why"), None);
    }
}
