//! The reasons that a configuration cannot be served.

use std::io;

use lib_chan::auth::{DirectoryError, StretchError};
use lib_chan::handshake::ParametersError;
use lib_chan::tls::TlsError;

use crate::config::ConfigError;
use crate::identity::IdentityError;
use crate::listener::BindError;

/// The reason that a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The state directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The accounts.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A password could not be stretched.
    #[error("a password of the configuration: {0}")]
    Stretch(#[from] StretchError),
    /// The system gave no thread for it.
    #[error("the passwords of the configuration: {0}")]
    Thread(#[source] io::Error),
    /// The limits that clients are told.
    #[error(transparent)]
    Parameters(#[from] ParametersError),
    /// The cryptographic library.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system has no random bytes to give.
    #[error("the system gave no random bytes")]
    NoRandomness,
}
