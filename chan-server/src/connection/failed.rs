//! The reasons that a login fails: what the gate, the log and the metrics get of each.

use std::io;

use lib_chan::handshake::server::Refusal;
use lib_chan::login::ServerLoginError;
use lib_chan::tls::TlsError;

use crate::audit::escaped;
use crate::gate::LoginEnd;
use crate::proxy_protocol;

/// The reason that a login failed.
pub(super) enum LoginFailed {
    /// The step that took too long.
    Deadline(&'static str),
    /// The TLS handshake failed.
    Handshake(io::Error),
    /// The handshake was done, and is not one that both sides insist on.
    Tls(TlsError),
    /// A proxy did not say whose connection it is.
    Proxy(proxy_protocol::HeaderError),
    Login(ServerLoginError),
    /// The proof was right, and refused unseen: too many were wrong before.
    Throttled(Refusal),
}

impl From<TlsError> for LoginFailed {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl LoginFailed {
    /// What the source deserves for it, having sent so many bytes.
    pub(super) fn end(&self, received: u64) -> LoginEnd {
        match self {
            Self::Deadline(_) => LoginEnd::DeadlinePassed,
            Self::Login(ServerLoginError::NoRandomness) | Self::Proxy(_) | Self::Throttled(_) => {
                LoginEnd::Good
            }
            Self::Login(ServerLoginError::Refused(_) | ServerLoginError::ClientMisbehaved(_)) => {
                LoginEnd::Failed
            }
            Self::Handshake(_) if received == 0 => LoginEnd::Silent,
            Self::Handshake(_) | Self::Tls(_) | Self::Login(_) => LoginEnd::Unproved,
        }
    }

    /// One word for it, for the metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Handshake(_) | Self::Tls(_) => "tls",
            Self::Proxy(_) => "proxy_protocol",
            Self::Throttled(_) => "throttled",
            Self::Login(ServerLoginError::Refused(_)) => "refused",
            Self::Login(_) => "broken_off",
        }
    }

    /// The true reason, for the log alone.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Deadline(what) => format!("{what}: deadline passed"),
            Self::Handshake(error) => format!("TLS: {}", escaped(&error.to_string())),
            Self::Tls(error) => format!("TLS: {error}"),
            Self::Proxy(error) => format!("PROXY protocol: {error}"),
            Self::Throttled(_) => "too many wrong passwords under this name from this source".into(),
            Self::Login(error) => match error.refusal_cause() {
                Some(cause) => cause.to_string(),
                None => escaped(&error.to_string()),
            },
        }
    }
}
