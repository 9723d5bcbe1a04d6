//! The errors of a connection.

use std::fmt;

use lib_chan::ExitReason;
use lib_chan::channel::OpenError;
use lib_chan::payload::PayloadError;
use lib_chan::protocol::Incompatible;

use crate::known_hosts::KnownHostsError;
use crate::trust::{IdentityError, TrustError};
use crate::url::{Authority, UrlError};

/// The reason that there is no channel. The variants tell who can correct it. No call was executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The caller gave something unusable. Nothing was sent.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// This machine failed: it has no memory for the key, no random bytes, or the like.
    #[error("this machine cannot connect: {0}")]
    Local(Box<str>),
    /// The network failed, or the server is too busy: no TCP connection, no TLS, or no login in time. With a key, the
    /// request for the service goes along with the login, so the service may have started nevertheless.
    #[error("cannot connect to {authority}: {what}")]
    Unreachable {
        /// The server, `host:port`; all of them, with commas, if the URL names several.
        authority: Box<str>,
        /// What failed.
        what: Box<str>,
    },
    /// The peer does not speak the TLS of a chan-server.
    #[error("cannot connect to {authority}: {what}")]
    Incompatible {
        /// The server, `host:port`.
        authority: Box<str>,
        /// What failed.
        what: Box<str>,
    },
    /// The server is not the one that the caller expects. It got no secret.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The server broke the rules of the login, or did not prove that it knows the password.
    #[error("{authority} misbehaved in the login ({what}); do not trust it, and tell its operator")]
    Misbehaved {
        /// The server, `host:port`.
        authority: Box<str>,
        /// What it did.
        what: Box<str>,
    },
    /// The server refused the login. It never says whether the service, the client or the credential is wrong.
    #[error("refused; check the password or key, the service's name and the client's")]
    Refused,
    /// The server refused to start the service, after the login, for this reason.
    #[error("refused: {0}")]
    RefusedByName(Box<str>),
    /// The service does not speak the codec of the session, or cannot decode its arguments.
    #[error("refused: {0}")]
    Codec(Box<str>),
    /// The service has another protocol than this program, and would not understand it. This is the first difference.
    #[error("refused: the service has another protocol: {0}")]
    OtherProtocol(Incompatible),
    /// The service ended before it had started, with this reason.
    #[error("the service ended at its start ({0})")]
    Ended(ExitReason),
    /// The caller's timeout has passed.
    #[error("there was no session within the time given")]
    Deadline,
    /// The connection was lost after the login.
    #[error("the connection was lost before the service had started")]
    Lost,
}

impl ConnectError {
    /// Returns `true` if the same connection may succeed later without anybody changing anything: the server is
    /// unreachable, busy, or stopping, or the time was too short.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Deadline | Self::Lost => true,
            Self::Ended(reason) => {
                matches!(
                    reason,
                    ExitReason::GoingAway
                        | ExitReason::NoConnection
                        | ExitReason::Overload
                        | ExitReason::Shutdown
                )
            }
            Self::Usage(_)
            | Self::Local(_)
            | Self::Incompatible { .. }
            | Self::Identity(_)
            | Self::Misbehaved { .. }
            | Self::Refused
            | Self::RefusedByName(_)
            | Self::Codec(_)
            | Self::OtherProtocol(_) => false,
        }
    }

    pub(super) fn local(error: impl fmt::Display) -> Self {
        Self::Local(error.to_string().into())
    }

    pub(super) fn unreachable(authority: &Authority, what: impl fmt::Display) -> Self {
        Self::Unreachable { authority: authority.to_string().into(), what: what.to_string().into() }
    }

    pub(super) fn incompatible(authority: &Authority, what: impl fmt::Display) -> Self {
        Self::Incompatible { authority: authority.to_string().into(), what: what.to_string().into() }
    }

    pub(super) fn misbehaved(authority: &Authority, what: impl fmt::Display) -> Self {
        Self::Misbehaved { authority: authority.to_string().into(), what: what.to_string().into() }
    }
}

/// An input of the caller that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The arguments of the service do not encode in the codec of the session.
    #[error("the arguments of the service cannot be encoded: {0}")]
    Args(PayloadError),
    /// There is neither a password nor a key.
    #[error("there is neither a password nor a key to log in with")]
    NoCredential,
    /// The server cannot be trusted in the way that the URL asks for.
    #[error(transparent)]
    Trust(TrustError),
    /// The URL is invalid.
    #[error(transparent)]
    Url(#[from] UrlError),
}

impl From<OpenError> for ConnectError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Refused(text) => Self::RefusedByName(text),
            OpenError::Codec(text) => Self::Codec(text),
            OpenError::OtherProtocol { difference: Some(difference), .. } => Self::OtherProtocol(difference),
            OpenError::OtherProtocol { .. } => {
                Self::RefusedByName("the service has just changed its protocol".into())
            }
            OpenError::Args(error) => UsageError::Args(error).into(),
            OpenError::Ended(ExitReason::NoConnection) => Self::Lost,
            OpenError::Ended(reason) => Self::Ended(reason),
            error => Self::local(error),
        }
    }
}

impl From<UrlError> for ConnectError {
    fn from(error: UrlError) -> Self {
        UsageError::from(error).into()
    }
}

impl From<TrustError> for ConnectError {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::KnownHosts(KnownHostsError::Changed(identity)) => identity.into(),
            error => UsageError::Trust(error).into(),
        }
    }
}
