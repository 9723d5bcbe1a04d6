//! Where a service is and how its server is trusted, in one line.

mod error;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use lib_chan::auth::{ClientId, ServiceName};
use lib_chan::secret::Target;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::ServerName;

pub use error::{UrlError, UrlFault};

use crate::trust::Trust;

/// The address of a service: `chan://[client@]host:port/service?TRUST`.
///
/// `TRUST` is exactly one of `pin=sha256:…` (more pins after commas), `ca=FILE`, `system` and `tofu`
/// ([`Trust`]); there is none that trusts everybody, and no default. The port has no default either. An IPv6
/// address stands in brackets; the name of a CA file is percent-encoded. A password is never part of it.
///
/// [`Display`](fmt::Display) writes a URL that parses to the same value.
///
/// ```
/// use chan_client::url::ChanUrl;
///
/// let url: ChanUrl = "chan://joe@example.net:1234/name_server?system".parse()?;
/// assert_eq!((url.client().as_str(), url.service().as_str()), ("joe", "name_server"));
/// # Ok::<(), chan_client::url::UrlError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChanUrl {
    client: ClientId,
    host: ServerName<'static>,
    port: u16,
    service: ServiceName,
    trust: Trust,
}

impl ChanUrl {
    /// Who the client says it is; empty when the service has one password for everybody.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// The host's name in lower case, or its IP address.
    pub fn host(&self) -> &ServerName<'static> {
        &self.host
    }

    /// The TCP port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The service's name.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// How the server is trusted.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// `host:port`, an IPv6 address in brackets: under this a server stands in a known-hosts file.
    pub fn authority(&self) -> String {
        match &self.host {
            ServerName::IpAddress(rustls::pki_types::IpAddr::V6(_)) => {
                format!("[{}]:{}", self.host.to_str(), self.port)
            }
            host => format!("{}:{}", host.to_str(), self.port),
        }
    }

    /// Whom a password is used for with this URL.
    pub(crate) fn target(&self) -> Target {
        Target { host: self.authority().into(), service: self.service.clone(), client: self.client.clone() }
    }

    /// The same URL with the file it names, if any, as an absolute path, so that it can be kept for use
    /// elsewhere.
    ///
    /// # Errors
    ///
    /// The current directory cannot be found out.
    pub fn absolute(mut self) -> std::io::Result<Self> {
        if let Trust::Ca(file) = &mut self.trust {
            *file = std::path::absolute(&*file)?;
        }
        Ok(self)
    }
}

impl fmt::Display for ChanUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        if !self.client.as_str().is_empty() {
            write!(f, "{}@", self.client)?;
        }
        write!(f, "{}/{}?", self.authority(), self.service)?;
        match &self.trust {
            Trust::Pin(pins) => {
                f.write_str("pin=")?;
                for (i, pin) in pins.iter().enumerate() {
                    write!(f, "{}{pin}", if i == 0 { "" } else { "," })?;
                }
                Ok(())
            }
            Trust::Ca(file) => write!(f, "ca={}", encode(file)),
            Trust::System => f.write_str("system"),
            Trust::Tofu => f.write_str("tofu"),
        }
    }
}

const SCHEME: &str = "chan://";

/// What a path in a URL keeps as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'_').remove(b'-').remove(b'~');

/// A path that came from a URL is UTF-8, so nothing is lost here.
fn encode(file: &Path) -> String {
    utf8_percent_encode(&file.to_string_lossy(), PATH).to_string()
}
