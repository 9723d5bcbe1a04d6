//! From a URL to a channel.

use lib_chan::ExitReason;
use lib_chan::payload::PayloadError;

use crate::trust::{IdentityError, TrustError};
use crate::url::UrlError;

/// Why there is no channel, by who has to do something about it. No call was executed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The caller gave something that cannot be used. Nothing was sent.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The network, or a server too busy to answer: no TCP connection, no TLS, or no login in time.
    #[error("cannot connect to {authority}: {what}")]
    Unreachable {
        /// The server, `host:port`.
        authority: Box<str>,
        /// What failed.
        what: Box<str>,
    },
    /// The server is not who the caller expects. No secret was sent to it.
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
    /// The server refused the login. It does not say whether for the service, the client or what they proved.
    #[error("refused; check the password or key, the service's name and the client's")]
    Refused,
    /// The server refused to start the service, after the login, and says why.
    #[error("refused: {0}")]
    RefusedByName(Box<str>),
    /// The service ended before it had started, with this reason.
    #[error("the service ended at its start ({0})")]
    Ended(ExitReason),
    /// The caller's own time is over.
    #[error("there was no session within the time given")]
    Deadline,
    /// The connection was lost after the login.
    #[error("the connection was lost before the service had started")]
    Lost,
}

/// What a caller gave that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The arguments of the service do not travel in the session's codec.
    #[error("the arguments for the service cannot be sent: {0}")]
    Args(PayloadError),
    /// Neither a password nor a key.
    #[error("there is neither a password nor a key to log in with")]
    NoCredential,
    /// The way to trust the server.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The URL.
    #[error(transparent)]
    Url(#[from] UrlError),
}

impl From<UrlError> for ConnectError {
    fn from(error: UrlError) -> Self {
        UsageError::from(error).into()
    }
}

impl From<TrustError> for ConnectError {
    fn from(error: TrustError) -> Self {
        UsageError::from(error).into()
    }
}
