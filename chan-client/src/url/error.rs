//! Errors of a URL.

use std::convert::Infallible;

/// A mistake in a URL: its place, and the correction.
///
/// The error does not repeat the URL, because somebody may have written a password into it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the URL at character {}: {}; {}", .at + 1, .fault.what(), .fault.remedy())]
pub struct UrlError {
    /// The number of characters before the fault.
    pub at: usize,
    /// The mistake.
    pub fault: UrlFault,
}

impl From<Infallible> for UrlError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// The kinds of mistakes in a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UrlFault {
    /// The name of the CA file is empty or not percent-encoded UTF-8.
    CaFile,
    /// The URL contains white space, a control character or `#`.
    Character,
    /// The text before `@` is not the name of a client.
    Client,
    /// The host is neither a host name nor an IP address.
    Host,
    /// An IPv6 address has no brackets, or the brackets contain something else.
    Ipv6,
    /// The host is missing.
    NoHost,
    /// The port is missing.
    NoPort,
    /// The service is missing.
    NoService,
    /// The URL does not say how to trust the server.
    NoTrust,
    /// The URL contains a password.
    Password,
    /// A pin is not `sha256:` and 43 characters of base64url.
    Pin,
    /// The port is not a number from 1 to 65535.
    Port,
    /// The URL does not begin with `chan://`.
    Scheme,
    /// The text after `/` is not the name of a service.
    Service,
    /// The URL names more than one way to trust the server.
    TwoTrusts,
    /// The URL names an unknown way to trust the server.
    UnknownTrust,
    /// `system` or `tofu` has a value, or `pin` or `ca` has none.
    TrustValue,
}

impl UrlFault {
    const fn what(self) -> &'static str {
        match self {
            Self::CaFile => "the name of the CA file is empty or not percent-encoded UTF-8",
            Self::Character => "white space, control characters and `#` are not allowed here",
            Self::Client => "the client before `@` is not 1 to 64 letters, digits, `.`, `_` or `-`",
            Self::Host => "expected a host name or an IP address",
            Self::Ipv6 => "an IPv6 address must be written in brackets",
            Self::NoHost => "the host is missing",
            Self::NoPort => "the port is missing, and there is no default",
            Self::NoService => "the service is missing",
            Self::NoTrust => "it does not say how to trust the server",
            Self::Password => "a password does not belong in a URL, where others can read it",
            Self::Pin => "a pin is `sha256:` and 43 characters of base64url",
            Self::Port => "the port is not a number from 1 to 65535",
            Self::Scheme => "it does not begin with `chan://`",
            Self::Service => "the service is not 1 to 64 letters, digits, `.`, `_` or `-`",
            Self::TwoTrusts => "there is more than one way to trust the server",
            Self::UnknownTrust => "unknown way to trust a server",
            Self::TrustValue => "`pin` and `ca` need a value, `system` and `tofu` take none",
        }
    }

    const fn remedy(self) -> &'static str {
        match self {
            Self::CaFile => "write ?ca=FILE, a space in it as %20 and a percent sign as %25",
            Self::Character => "quote the URL for the shell, and percent-encode what a file name needs",
            Self::Client => "write chan://CLIENT@host:port/service, or leave CLIENT@ out",
            Self::Host | Self::NoHost => "write chan://HOST:port/service",
            Self::Ipv6 => "write chan://[2001:db8::1]:port/service",
            Self::NoPort | Self::Port => "write chan://host:PORT/service",
            Self::NoService | Self::Service => "write chan://host:port/SERVICE",
            Self::Password => "remove it, change it if others may have seen it, and keep it in a file",
            Self::Pin => "take the URL that `chan-server identity` prints",
            Self::Scheme => "write chan://host:port/service and how to trust the server",
            Self::NoTrust | Self::TwoTrusts | Self::UnknownTrust | Self::TrustValue => {
                "end it with one of ?pin=sha256:…, ?ca=FILE, ?system and ?tofu"
            }
        }
    }
}
