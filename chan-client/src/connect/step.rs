//! The steps of a connection that its caller can observe.

use std::net::SocketAddr;
use std::time::Duration;

use lib_chan::auth::Mechanism;
use lib_chan::handshake::SessionParameters;
use lib_chan::tls::Pin;

/// The result of a [`ping`](super::Connect::ping).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ping {
    /// The server that answered, `host:port`.
    pub authority: Box<str>,
    /// The time from the call to the end of the login.
    pub took: Duration,
    /// The server's key.
    pub pin: Pin,
    /// The server's parameters for sessions.
    pub parameters: SessionParameters,
}

/// A step that a connection has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The host has these addresses. Next, the client connects to one of them.
    Found {
        /// The host in the URL.
        host: Box<str>,
        /// Its addresses.
        addresses: Vec<SocketAddr>,
    },
    /// A TCP connection to this address exists. Next comes TLS.
    Connected(SocketAddr),
    /// TLS is set up, and the server is the expected one. Next comes the login.
    Encrypted {
        /// The key exchange of TLS.
        group: Box<str>,
        /// The server's key.
        pin: Pin,
    },
    /// Client and server have authenticated each other. Next, the service starts.
    LoggedIn {
        /// The kind of credential.
        mechanism: Mechanism,
        /// The server's parameters for sessions.
        parameters: SessionParameters,
    },
    /// The server's key was accepted, but could not be saved for this reason. The next connection will not know it.
    NotNoted(Box<str>),
    /// The client has begun to derive a key from the password.
    Stretching,
    /// The time for the login ended while the key was being derived. The client logs in again once it has the key.
    Outlasted,
    /// The server no longer accepts the key that the password remembers. The client logs in again with a new one.
    KeyOutdated,
    /// An attempt failed. The client tries again, at the next server of the URL if there are several.
    Retrying {
        /// The reason that the attempt failed.
        why: Box<str>,
        /// The time until the next attempt.
        again_in: Duration,
    },
}
