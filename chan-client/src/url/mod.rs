//! `chan://` URLs: where a service is, and how to trust its server.

mod authority;
mod error;
mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use lib_chan::auth::{ClientId, ServiceName};
use lib_chan::secret::Target;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub use authority::Authority;
pub use error::{UrlError, UrlFault};

use crate::trust::Trust;

/// The URL of a service: `chan://[client@]host:port[,host:port…]/service?TRUST`.
///
/// - `TRUST` is one of `pin=sha256:…` (more pins after commas), `ca=FILE`, `system` and `tofu`; see [`Trust`]. There is
///   no default, and no way to trust every server.
/// - The port has no default.
/// - An IPv6 address is written in brackets.
/// - Several servers, separated by commas, offer the same service under the same trust. The client tries them in this
///   order and takes the first that it can reach. A server that is not the expected one, or that refuses the login, is
///   an error; the client does not try the next.
/// - The name of a CA file is percent-encoded.
/// - A URL never contains a password.
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
    /// At least one.
    authorities: Vec<Authority>,
    service: ServiceName,
    trust: Trust,
}

impl ChanUrl {
    /// The name of the client; empty if the service has one password for everybody.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// The servers to try, in this order; at least one.
    pub fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    /// The name of the service.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The way to trust the server.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Returns the target of a login at one of the servers.
    pub(crate) fn target(&self, authority: &Authority) -> Target {
        Target {
            host: authority.to_string().into(),
            service: self.service.clone(),
            client: self.client.clone(),
        }
    }

    /// Returns the servers as the URL writes them.
    pub(crate) fn authority_list(&self) -> String {
        self.authorities.iter().map(Authority::to_string).collect::<Vec<_>>().join(",")
    }

    /// Makes the path of a CA file absolute, so that the URL can be used in other directories.
    ///
    /// # Errors
    ///
    /// Returns an error if the current directory is unknown.
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
        write!(f, "{}/{}?", self.authority_list(), self.service)?;
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

/// The characters that a path in a URL does not encode.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'_').remove(b'-').remove(b'~');

/// A path from a URL is UTF-8, so the conversion loses nothing.
fn encode(file: &Path) -> String {
    utf8_percent_encode(&file.to_string_lossy(), PATH).to_string()
}
