//! Failures of a command: one line, and an exit code.

use std::fmt;
use std::io;

use lib_chan::private::{PrivateFileError, SecretFileError};
use lib_chan::signals::Signal;
use lib_chan::{CallError, CallFailure, Executed, ExitReason};

use crate::bookmark::BookmarkError;
use crate::config_file::FileError;
use crate::connect::ConnectError;
use crate::json::one_line;

pub(super) const DONE: &str = "executed: do not send it again";
pub(super) const MAYBE: &str = "perhaps executed: find out before you send it again";

/// The advice for reason `protocol`. A session ends with it only if an end broke the protocol; a message that the service
/// cannot decode is another reason.
const BROKEN: &str = "the server broke the protocol, or claims that this client did: their versions differ, or something between them \
     changes the data; tell the server's operator";

/// The failure of a command.
///
/// The line says what happened, whether the message was executed (if one was sent), and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    code: Code,
    line: String,
}

/// The exit codes of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    /// This machine failed, for example to write the output.
    Local = 1,
    Usage = 2,
    Connect = 3,
    Identity = 4,
    Refused = 5,
    RefusedByName = 6,
    Ended = 7,
    Deadline = 8,
    Lost = 9,
    Answer = 10,
    Hangup = Signal::Hangup.exit_code(),
    Interrupt = Signal::Interrupt.exit_code(),
    Terminate = Signal::Terminate.exit_code(),
}

impl From<Signal> for Code {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Hangup => Self::Hangup,
            Signal::Interrupt => Self::Interrupt,
            Signal::Terminate => Self::Terminate,
        }
    }
}

impl Failure {
    pub(super) fn new(code: Code, line: impl fmt::Display) -> Self {
        Self { code, line: line.to_string() }
    }

    pub(super) fn usage(line: impl fmt::Display) -> Self {
        Self::new(Code::Usage, line)
    }

    pub(super) fn local(line: impl fmt::Display) -> Self {
        Self::new(Code::Local, line)
    }

    /// Standard output failed.
    pub(super) fn output(error: &io::Error) -> Self {
        Self::local(format_args!("cannot write the output: {error}"))
    }

    /// A signal ended the command early. `executed` says whether its message was executed.
    pub(super) fn signal(signal: Signal, executed: impl fmt::Display) -> Self {
        let what = match signal {
            Signal::Interrupt => "interrupted",
            Signal::Hangup => "ended by SIGHUP",
            Signal::Terminate => "ended by SIGTERM",
        };
        Self::new(signal.into(), format_args!("{what} ({executed})"))
    }

    /// The session ended while no call was open.
    pub(super) fn ended(reason: &ExitReason) -> Self {
        match reason {
            ExitReason::NoConnection => Self::new(Code::Lost, "the connection was lost; connect again"),
            ExitReason::Protocol => Self::new(Code::Identity, BROKEN),
            reason => Self::new(Code::Ended, format_args!("the service ended: {}", meaning(reason))),
        }
    }

    /// The session has lost its connection, and another one is hopeless.
    pub(super) fn reconnect(error: &ConnectError) -> Self {
        let (code, advice) = judge(error);
        Self::new(code, format_args!("the connection was lost, and reconnecting failed: {error}{advice}"))
    }

    /// A cast was not sent.
    pub(super) fn not_sent(reason: &ExitReason) -> Self {
        match reason {
            // The error of the codec.
            ExitReason::Failed(text) => Self::usage(format_args!("not sent: {text} (not executed)")),
            reason => {
                let Self { code, line } = Self::ended(reason);
                Self { code, line: format!("{line} (not executed: it can be sent again)") }
            }
        }
    }

    /// The session ended while a cast was on its way.
    pub(super) fn cast(reason: &ExitReason) -> Self {
        let Self { code, line } = Self::ended(reason);
        Self { code, line: format!("{line} ({MAYBE})") }
    }

    /// Changes the line and keeps the exit code.
    pub(super) fn map_line(self, change: impl FnOnce(String) -> String) -> Self {
        Self { line: change(self.line), ..self }
    }

    /// Returns the exit code of the program.
    pub fn exit_code(&self) -> u8 {
        self.code as u8
    }
}

impl fmt::Display for Failure {
    /// Writes one line and escapes control characters, because parts of the line came from the server.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.line))
    }
}

impl std::error::Error for Failure {}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::usage(error)
    }
}

impl From<BookmarkError> for Failure {
    fn from(error: BookmarkError) -> Self {
        Self::usage(error)
    }
}

impl From<PrivateFileError> for Failure {
    fn from(error: PrivateFileError) -> Self {
        Self::usage(error)
    }
}

impl From<SecretFileError> for Failure {
    fn from(error: SecretFileError) -> Self {
        Self::usage(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::local(error)
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let (code, advice) = judge(&error);
        let executed = match code {
            Code::Usage => "nothing was sent",
            _ => "not executed",
        };
        Self::new(code, format_args!("{error}{advice} ({executed})"))
    }
}

/// Returns the exit code of an error of a connection, and the advice behind its words.
fn judge(error: &ConnectError) -> (Code, &'static str) {
    match error {
        ConnectError::Usage(_) => (Code::Usage, ""),
        ConnectError::Local(_) => (Code::Local, ""),
        ConnectError::Unreachable { .. } => {
            (Code::Connect, "; check the host and port, and that the server runs, then try again")
        }
        ConnectError::Incompatible { .. } => (Code::Connect, "; check the host and port"),
        ConnectError::Identity(_) | ConnectError::Misbehaved { .. } => (Code::Identity, ""),
        ConnectError::Refused => (Code::Refused, ""),
        // The refusal of a service that does not speak JSON (`modules`, PROTOCOL.md section 6).
        ConnectError::Codec(text) if text.contains("speaks raw") && text.ends_with(", not json") => {
            (Code::RefusedByName, "; it carries bytes: use `chan-client pipe` or `chan-client forward`")
        }
        ConnectError::OtherProtocol(_) => {
            (Code::RefusedByName, "; build the client for this version of the service")
        }
        ConnectError::RefusedByName(_) | ConnectError::Codec(_) => {
            (Code::RefusedByName, "; ask the server's operator")
        }
        ConnectError::Ended(ExitReason::Protocol) => (Code::Identity, "; tell the server's operator"),
        ConnectError::Ended(_) => (Code::Ended, "; ask the server's operator"),
        ConnectError::Deadline => (Code::Deadline, "; allow more time with --timeout, or try again"),
        ConnectError::Lost => (Code::Lost, "; try again"),
    }
}

impl From<CallError> for Failure {
    fn from(CallError { executed, reason }: CallError) -> Self {
        let advice = match executed {
            Executed::No => "not executed: it can be sent again",
            Executed::Unknown => MAYBE,
            Executed::Yes => DONE,
        };
        let code = call_code(executed, &reason);
        match &reason {
            CallFailure::Exit(ExitReason::NoConnection) => {
                Self::new(code, format_args!("the connection was lost ({advice})"))
            }
            CallFailure::Exit(ExitReason::Protocol) => Self::new(code, format_args!("{BROKEN} ({advice})")),
            CallFailure::Exit(reason) => {
                Self::new(code, format_args!("the service ended: {} ({advice})", meaning(reason)))
            }
            CallFailure::Deadline => {
                Self::new(code, format_args!("no answer in time; allow more with --timeout ({advice})"))
            }
            CallFailure::NoAnswer => {
                Self::new(code, format_args!("the service gave no answer; ask its operator ({advice})"))
            }
            CallFailure::Codec(_) | CallFailure::TooLong { .. } if executed == Executed::Yes => Self::new(
                code,
                format_args!("the answer cannot be shown, {reason}; ask the operator ({advice})"),
            ),
            CallFailure::Refused(_) | CallFailure::Codec(_) | CallFailure::TooLong { .. } => {
                Self::new(code, format_args!("{reason}; correct the message ({executed})"))
            }
            _ => Self::new(code, format_args!("{reason} ({advice})")),
        }
    }
}

/// Returns the exit code of a failed call. A payload that does not decode has one code before the execution and another
/// after it.
fn call_code(executed: Executed, reason: &CallFailure) -> Code {
    match reason {
        CallFailure::Deadline => Code::Deadline,
        CallFailure::Exit(ExitReason::NoConnection) => Code::Lost,
        CallFailure::Exit(ExitReason::Protocol) => Code::Identity,
        CallFailure::Exit(_) | CallFailure::NoAnswer => Code::Ended,
        CallFailure::Codec(_) | CallFailure::TooLong { .. } if executed == Executed::Yes => Code::Answer,
        CallFailure::Codec(_)
        | CallFailure::TooLong { .. }
        | CallFailure::Refused(_)
        | CallFailure::Overload { .. } => Code::RefusedByName,
        _ => Code::Local,
    }
}

/// Explains a reason to the user of a service, with advice.
fn meaning(reason: &ExitReason) -> String {
    let advice = match reason {
        ExitReason::Normal => "it has finished",
        ExitReason::GoingAway => "the server is stopping; try again later",
        ExitReason::Shutdown => {
            "the server is stopping, or its operator has ended the session; try again later"
        }
        ExitReason::Overload => "too much was sent or left unread; try again with less",
        ExitReason::Revoked => "access was withdrawn; ask the operator",
        ExitReason::Failed(_) => "if that does not help, ask the operator, whose log says more",
        _ => "ask the operator, whose log says more",
    };
    format!("{reason}; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::UsageError;
    use crate::trust::IdentityError;

    fn connect(error: ConnectError) -> u8 {
        Failure::from(error).exit_code()
    }

    fn call(executed: Executed, reason: CallFailure) -> u8 {
        Failure::from(CallError::new(executed, reason)).exit_code()
    }

    #[test]
    fn connect_errors_have_exit_codes() {
        let authority = || Box::from("h:1");
        assert_eq!(connect(ConnectError::Usage(UsageError::NoCredential)), 2);
        assert_eq!(connect(ConnectError::Unreachable { authority: authority(), what: "x".into() }), 3);
        assert_eq!(connect(ConnectError::Incompatible { authority: authority(), what: "x".into() }), 3);
        assert_eq!(connect(ConnectError::Identity(IdentityError::Signature)), 4);
        assert_eq!(connect(ConnectError::Misbehaved { authority: authority(), what: "x".into() }), 4);
        assert_eq!(connect(ConnectError::Refused), 5);
        assert_eq!(connect(ConnectError::Codec("codec".into())), 6);
        assert_eq!(connect(ConnectError::Ended(ExitReason::Panic)), 7);
        assert_eq!(connect(ConnectError::Ended(ExitReason::Protocol)), 4);
        assert_eq!(connect(ConnectError::Deadline), 8);
        assert_eq!(connect(ConnectError::Lost), 9);
    }

    #[test]
    fn call_errors_have_exit_codes() {
        use Executed::{No, Unknown, Yes};
        assert_eq!(call(No, CallFailure::Refused("no".into())), 6);
        assert_eq!(call(No, CallFailure::Codec("x".into())), 6);
        assert_eq!(call(No, CallFailure::TooLong { max: 1 }), 6);
        assert_eq!(call(No, CallFailure::Overload { retry_after: None }), 6);
        assert_eq!(call(Unknown, CallFailure::Exit(ExitReason::Protocol)), 4);
        assert_eq!(Failure::ended(&ExitReason::Protocol).exit_code(), 4);
        assert_eq!(call(No, CallFailure::Exit(ExitReason::Panic)), 7);
        assert_eq!(call(Unknown, CallFailure::Exit(ExitReason::Normal)), 7);
        assert_eq!(call(Unknown, CallFailure::NoAnswer), 7);
        assert_eq!(call(No, CallFailure::Deadline), 8);
        assert_eq!(call(Unknown, CallFailure::Deadline), 8);
        assert_eq!(call(Unknown, CallFailure::Exit(ExitReason::NoConnection)), 9);
        assert_eq!(call(Yes, CallFailure::TooLong { max: 1 }), 10);
        assert_eq!(call(Yes, CallFailure::Codec("x".into())), 10);
    }

    #[test]
    fn failed_calls_say_whether_executed() {
        for (executed, words) in [
            (Executed::No, "not executed"),
            (Executed::Yes, "executed: do not"),
            (Executed::Unknown, "perhaps executed"),
        ] {
            for reason in [
                CallFailure::Deadline,
                CallFailure::Exit(ExitReason::Panic),
                CallFailure::Exit(ExitReason::NoConnection),
                CallFailure::NoAnswer,
                CallFailure::Overload { retry_after: None },
            ] {
                let line = Failure::from(CallError::new(executed, reason)).to_string();
                assert!(line.contains(words), "{line}");
            }
        }
    }

    #[test]
    fn escapes_text_of_the_server() {
        let text = "no\n\x1b[2J".into();
        let line = Failure::from(CallError::new(Executed::No, CallFailure::Refused(text))).to_string();
        assert_eq!(line, "refused: no\\n\\u{1b}[2J; correct the message (not executed)");
    }
}
