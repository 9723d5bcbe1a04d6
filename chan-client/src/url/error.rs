//! What is wrong with a URL.

use std::convert::Infallible;

/// What is wrong with a URL, where, and what to write instead.
///
/// It repeats nothing of the URL, so that a password that somebody wrote into it goes no further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the URL at character {}: {}; {}", .at + 1, .fault.what(), .fault.remedy())]
pub struct UrlError {
    /// The number of characters before the fault.
    pub at: usize,
    /// What is wrong.
    pub fault: UrlFault,
}

impl From<Infallible> for UrlError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// What can be wrong with a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UrlFault {
    /// A CA file without a name, or one that is not percent-encoded UTF-8.
    CaFile,
    /// White space, a control character or `#`.
    Character,
    /// The part before `@` is not a client's name.
    Client,
    /// Neither a host name nor an IP address.
    Host,
    /// An IPv6 address without its brackets, or with something else in them.
    Ipv6,
    /// The host is missing.
    NoHost,
    /// The port is missing.
    NoPort,
    /// The service is missing.
    NoService,
    /// Nothing says how the server is trusted.
    NoTrust,
    /// There is a password in it.
    Password,
    /// A pin that is not `sha256:` and 43 characters of base64url.
    Pin,
    /// The port is not a number from 1 to 65535.
    Port,
    /// It does not begin with `chan://`.
    Scheme,
    /// Not a service's name.
    Service,
    /// More than one way to trust the server.
    TwoTrusts,
    /// No such way to trust a server.
    UnknownTrust,
    /// `system` and `tofu` have no value; `pin` and `ca` need one.
    TrustValue,
}

impl UrlFault {
    const fn what(self) -> &'static str {
        match self {
            Self::CaFile => "the name of the CA file is empty or not percent-encoded UTF-8",
            Self::Character => "white space, a control character or `#` cannot stand here",
            Self::Client => "the client before `@` is not 1 to 64 letters, digits, `.`, `_` or `-`",
            Self::Host => "this is neither a host name nor an IP address",
            Self::Ipv6 => "an IPv6 address stands in brackets, alone",
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
            Self::UnknownTrust => "there is no such way to trust a server",
            Self::TrustValue => "`pin=` and `ca=` have a value, `system` and `tofu` have none",
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
            Self::Password => "remove it, change it if others can have seen it, and keep it in a file",
            Self::Pin => "take the URL that `chan-server identity` prints",
            Self::Scheme => "write chan://host:port/service and how to trust the server",
            Self::NoTrust | Self::TwoTrusts | Self::UnknownTrust | Self::TrustValue => {
                "end it with one of ?pin=sha256:…, ?ca=FILE, ?system and ?tofu"
            }
        }
    }
}
