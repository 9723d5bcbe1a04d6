//! The failures of commands.

use std::{fmt, io};

use lib_chan::private::PrivateFileError;
use lib_chan::signals::Signal;

use crate::config::ConfigError;
use crate::identity::IdentityError;
use crate::reload::ReloadError;
use crate::start::StartError;

/// The message for the user, and the exit code.
#[derive(Debug)]
pub struct Failure {
    text: String,
    code: u8,
}

impl Failure {
    /// Something on this machine failed: 1.
    pub(super) fn local(text: impl fmt::Display) -> Self {
        Self { text: format!("chan-server: {text}"), code: 1 }
    }

    /// The request is wrong: 2.
    pub(super) fn usage(text: impl fmt::Display) -> Self {
        Self { text: format!("chan-server: {text}"), code: 2 }
    }

    /// The user pressed Ctrl-C: 130.
    pub(super) fn interrupted(text: impl fmt::Display) -> Self {
        Self { text: format!("chan-server: interrupted; {text}"), code: Signal::Interrupt.exit_code() }
    }

    /// The answer of a running server.
    pub(super) fn of_server(text: String, code: u8) -> Self {
        Self { text, code }
    }

    /// 1 where something on this machine failed, 2 where the configuration or usage is wrong.
    pub fn exit_code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl From<ConfigError> for Failure {
    /// Its lines begin with file and line, as editors want them.
    fn from(error: ConfigError) -> Self {
        Self { text: error.to_string(), code: 2 }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Config(error) => error.into(),
            StartError::Identity(error) => error.into(),
            StartError::Directory(_) => Self::usage(error),
            _ => Self::local(error),
        }
    }
}

impl From<ReloadError> for Failure {
    fn from(error: ReloadError) -> Self {
        match error {
            ReloadError::Unusable(error) => error.into(),
            ReloadError::GoingAway => Self::local(error),
        }
    }
}

impl From<IdentityError> for Failure {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::File(error) => error.into(),
            IdentityError::Unusable { .. } | IdentityError::NoPlace => Self::usage(error),
            IdentityError::Crypto(_) => Self::local(error),
        }
    }
}

impl From<PrivateFileError> for Failure {
    /// 2 where another file, or another mode of this one, helps; 1 where the machine has to be mended.
    fn from(error: PrivateFileError) -> Self {
        use io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied};
        match error.io_kind() {
            None | Some(AlreadyExists | IsADirectory | NotADirectory | NotFound | PermissionDenied) => {
                Self::usage(error)
            }
            Some(_) => Self::local(error),
        }
    }
}
