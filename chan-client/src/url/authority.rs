//! The host and port of a server.

use std::fmt;

use rustls::pki_types::{IpAddr, ServerName};

/// The host and port of a server.
///
/// [`Display`](fmt::Display) writes `host:port`, with an IPv6 address in brackets. A known-hosts file lists a server
/// under this text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub(super) host: ServerName<'static>,
    pub(super) port: u16,
}

impl Authority {
    /// The host's name in lower case, or its IP address.
    pub fn host(&self) -> &ServerName<'static> {
        &self.host
    }

    /// The TCP port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.to_str();
        match &self.host {
            ServerName::IpAddress(IpAddr::V6(_)) => write!(f, "[{host}]:{}", self.port),
            _ => write!(f, "{host}:{}", self.port),
        }
    }
}
