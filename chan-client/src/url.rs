//! Where a service is and how its server is trusted, in one line.

use std::convert::Infallible;
use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lib_chan::auth::{ClientId, ServiceName};
use lib_chan::secret::Target;
use lib_chan::tls::Pin;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rustls::pki_types::ServerName;

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

impl FromStr for ChanUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text).map_err(|error| UrlError { at: text[..error.at].chars().count(), ..error })
    }
}

impl ChanUrl {
    fn parse(text: &str) -> Result<Self, UrlError> {
        let whole = Part { at: 0, text };
        if !text.starts_with(SCHEME) {
            return whole.fault(UrlFault::Scheme);
        }
        if let Some(bad) = text.find(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
            return whole.skip(bad).fault(UrlFault::Character);
        }
        let rest = whole.skip(SCHEME.len());
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        let (authority, service) = match place.split_once('/') {
            Some((authority, service)) => (authority, Some(service)),
            None => (place, None),
        };
        let (client, address) = parse_client(authority)?;
        let (host, port) = parse_address(address)?;
        let service = match service {
            Some(service) if !service.text.is_empty() => match ServiceName::new(service.text) {
                Ok(name) => name,
                Err(_) => return service.fault(UrlFault::Service),
            },
            _ => return place.end().fault(UrlFault::NoService),
        };
        let trust = match query {
            Some(query) => parse_trust(query)?,
            None => return rest.end().fault(UrlFault::NoTrust),
        };
        Ok(Self { client, host, port, service, trust })
    }
}

impl TryFrom<&str> for ChanUrl {
    type Error = UrlError;

    fn try_from(text: &str) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl TryFrom<&String> for ChanUrl {
    type Error = UrlError;

    fn try_from(text: &String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl TryFrom<String> for ChanUrl {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

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

const SCHEME: &str = "chan://";

/// What a pin begins with.
const HASH: &str = "sha256:";

/// What a path in a URL keeps as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'_').remove(b'-').remove(b'~');

/// A piece of the URL that knows where it stands.
#[derive(Clone, Copy)]
struct Part<'a> {
    /// Bytes before it.
    at: usize,
    text: &'a str,
}

impl<'a> Part<'a> {
    fn skip(self, len: usize) -> Self {
        Self { at: self.at + len, text: &self.text[len..] }
    }

    fn end(self) -> Self {
        self.skip(self.text.len())
    }

    fn split_once(self, separator: char) -> Option<(Self, Self)> {
        let len = self.text.find(separator)?;
        Some((Self { text: &self.text[..len], ..self }, self.skip(len + separator.len_utf8())))
    }

    fn fault<T>(self, fault: UrlFault) -> Result<T, UrlError> {
        Err(UrlError { at: self.at, fault })
    }
}

fn parse_client(authority: Part<'_>) -> Result<(ClientId, Part<'_>), UrlError> {
    let Some((client, address)) = authority.split_once('@') else {
        return Ok((ClientId::default(), authority));
    };
    if client.text.contains(':') {
        return client.fault(UrlFault::Password);
    }
    match ClientId::new(client.text) {
        Ok(name) if !client.text.is_empty() => Ok((name, address)),
        _ => client.fault(UrlFault::Client),
    }
}

fn parse_address(address: Part<'_>) -> Result<(ServerName<'static>, u16), UrlError> {
    let (host, port) = if address.text.starts_with('[') {
        let Some((host, port)) = address.skip(1).split_once(']') else {
            return address.fault(UrlFault::Ipv6);
        };
        if host.text.parse::<Ipv6Addr>().is_err() {
            return address.fault(UrlFault::Ipv6);
        }
        match port.text.strip_prefix(':') {
            Some(_) => (host, port.skip(1)),
            None if port.text.is_empty() => return port.fault(UrlFault::NoPort),
            None => return port.fault(UrlFault::Ipv6),
        }
    } else if address.text.matches(':').count() > 1 {
        return address.fault(UrlFault::Ipv6);
    } else if let Some(parts) = address.split_once(':') {
        parts
    } else if address.text.is_empty() {
        return address.fault(UrlFault::NoHost);
    } else {
        return address.end().fault(UrlFault::NoPort);
    };
    if host.text.is_empty() {
        return host.fault(UrlFault::NoHost);
    }
    let Ok(name) = ServerName::try_from(host.text.to_ascii_lowercase()) else {
        return host.fault(UrlFault::Host);
    };
    if port.text.is_empty() {
        return port.fault(UrlFault::NoPort);
    }
    // `parse` alone would let a plus sign through.
    match port.text.parse() {
        Ok(number) if number != 0 && port.text.bytes().all(|b| b.is_ascii_digit()) => Ok((name, number)),
        _ => port.fault(UrlFault::Port),
    }
}

fn parse_trust(query: Part<'_>) -> Result<Trust, UrlError> {
    if query.text.is_empty() {
        return query.fault(UrlFault::NoTrust);
    }
    if let Some((_, second)) = query.split_once('&') {
        return second.fault(UrlFault::TwoTrusts);
    }
    match query.split_once('=') {
        Some((mode, value)) => match mode.text {
            "pin" => parse_pins(value).map(Trust::Pin),
            "ca" => match percent_decode_str(value.text).decode_utf8() {
                Ok(file) if is_path(value.text, &file) => Ok(Trust::Ca(PathBuf::from(file.into_owned()))),
                _ => value.fault(UrlFault::CaFile),
            },
            "system" | "tofu" => query.fault(UrlFault::TrustValue),
            _ => query.fault(UrlFault::UnknownTrust),
        },
        None => match query.text {
            "system" => Ok(Trust::System),
            "tofu" => Ok(Trust::Tofu),
            "pin" | "ca" => query.fault(UrlFault::TrustValue),
            _ => query.fault(UrlFault::UnknownTrust),
        },
    }
}

fn parse_pins(mut rest: Part<'_>) -> Result<Vec<Pin>, UrlError> {
    let mut pins = Vec::new();
    loop {
        let (pin, next) = match rest.split_once(',') {
            Some((pin, next)) => (pin, Some(next)),
            None => (rest, None),
        };
        // From the second on, the name of the hash may be left out.
        let parsed = match pin.text.starts_with(HASH) || pins.is_empty() {
            true => pin.text.parse(),
            false => format!("{HASH}{}", pin.text).parse(),
        };
        match parsed {
            Ok(parsed) => pins.push(parsed),
            Err(_) => return pin.fault(UrlFault::Pin),
        }
        match next {
            Some(next) => rest = next,
            None => return Ok(pins),
        }
    }
}

/// A decoded path is one when it is not empty, has no NUL, and every `%` of the encoded one led a pair of digits.
fn is_path(encoded: &str, decoded: &str) -> bool {
    let pairs = encoded
        .split('%')
        .skip(1)
        .all(|after| after.as_bytes().get(..2).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit)));
    pairs && !decoded.is_empty() && !decoded.contains('\0')
}

/// A path that came from a URL is UTF-8, so nothing is lost here.
fn encode(file: &Path) -> String {
    utf8_percent_encode(&file.to_string_lossy(), PATH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: &str = "sha256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    const NEXT: &str = "sha256:_____________________________________________"; // two characters too many

    fn parse(text: &str) -> ChanUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_form_is_read_and_written_back() {
        for text in [
            format!("chan://localhost:1234/name_server?pin={PIN}"),
            format!("chan://joe@10.0.0.1:1/a.b-c_D?pin={PIN},{PIN}"),
            "chan://[2001:db8::1]:65535/s?system".into(),
            "chan://example.net:1234/s?tofu".into(),
            "chan://example.net:1234/s?ca=/etc/a%20b%25c/r%C3%B6%26%3D.pem".into(),
            "chan://example.net:1234/s?ca=ca.pem".into(),
        ] {
            let url = parse(&text);
            assert_eq!(url.to_string(), text);
            assert_eq!(parse(&url.to_string()), url);
        }
    }

    #[test]
    fn a_ca_file_is_percent_decoded() {
        let url = parse("chan://h:1/s?ca=/a%20b/%C3%B6.pem");
        assert_eq!(url.trust(), &Trust::Ca("/a b/ö.pem".into()));
    }

    #[test]
    fn a_second_pin_may_leave_the_name_of_the_hash_out() {
        let short = parse(&format!("chan://h:1/s?pin={PIN},{}", &PIN[7..]));
        assert_eq!(short, parse(&format!("chan://h:1/s?pin={PIN},{PIN}")));
    }

    #[test]
    fn a_host_name_is_compared_in_lower_case() {
        assert_eq!(parse("chan://Example.NET:1/s?tofu").authority(), "example.net:1");
        assert_eq!(parse("chan://[2001:DB8::1]:1/s?tofu").authority(), "[2001:db8::1]:1");
    }

    #[test]
    fn a_relative_ca_file_becomes_absolute() {
        let url = parse("chan://h:1/s?ca=x.pem").absolute().unwrap();
        assert!(matches!(url.trust, Trust::Ca(file) if file.is_absolute() && file.ends_with("x.pem")));
    }

    #[test]
    fn each_fault_is_named_with_its_place() {
        use UrlFault::*;
        let pin_hex = format!("chan://h:1/s?pin=sha256:{}", "0".repeat(64));
        let pin_long = format!("chan://h:1/s?pin={PIN},{NEXT}");
        let name_long = format!("chan://h:1/{}?tofu", "s".repeat(65));
        for (text, at, fault) in [
            ("", 0, Scheme),
            ("https://h:1/s?tofu", 0, Scheme),
            ("chan:/h:1/s?tofu", 0, Scheme),
            ("chan://h:1/s?tofu#x", 17, Character),
            ("chan://h:1/s ?tofu", 12, Character),
            ("chan://joe:secret@h:1/s?tofu", 7, Password),
            ("chan://@h:1/s?tofu", 7, Client),
            ("chan://j oe@h:1/s?tofu", 8, Character),
            ("chan://jö@h:1/s?tofu", 7, Client),
            ("chan:///s?tofu", 7, NoHost),
            ("chan://:1/s?tofu", 7, NoHost),
            ("chan://h/s?tofu", 8, NoPort),
            ("chan://h:/s?tofu", 9, NoPort),
            ("chan://[::1]/s?tofu", 12, NoPort),
            ("chan://::1/s?tofu", 7, Ipv6),
            ("chan://[::1/s?tofu", 7, Ipv6),
            ("chan://[h]:1/s?tofu", 7, Ipv6),
            ("chan://[::1]1/s?tofu", 12, Ipv6),
            ("chan://a..b:1/s?tofu", 7, Host),
            ("chan://ü:1/s?tofu", 7, Host),
            ("chan://ü", 8, NoPort),
            ("chan://h:0/s?tofu", 9, Port),
            ("chan://h:+1/s?tofu", 9, Port),
            ("chan://h:65536/s?tofu", 9, Port),
            ("chan://h:1?tofu", 10, NoService),
            ("chan://h:1/?tofu", 11, NoService),
            ("chan://h:1/a/b?tofu", 11, Service),
            ("chan://h:1/a%20b?tofu", 11, Service),
            (&name_long, 11, Service),
            ("chan://h:1/s", 12, NoTrust),
            ("chan://h:1/s?", 13, NoTrust),
            ("chan://h:1/s?tofu&system", 18, TwoTrusts),
            ("chan://h:1/s?ca=a&ca=b", 18, TwoTrusts),
            ("chan://h:1/s?insecure", 13, UnknownTrust),
            ("chan://h:1/s?none=1", 13, UnknownTrust),
            ("chan://h:1/s?tofu=1", 13, TrustValue),
            ("chan://h:1/s?pin", 13, TrustValue),
            ("chan://h:1/s?pin=", 17, Pin),
            (&pin_hex, 17, Pin),
            (&pin_long, 17 + PIN.len() + 1, Pin),
            ("chan://h:1/s?ca=", 16, CaFile),
            ("chan://h:1/s?ca=%ff", 16, CaFile),
            ("chan://h:1/s?ca=%2", 16, CaFile),
            ("chan://h:1/s?ca=a%zz", 16, CaFile),
            ("chan://h:1/s?ca=a%00", 16, CaFile),
        ] {
            assert_eq!(ChanUrl::from_str(text), Err(UrlError { at, fault }), "{text}");
        }
    }

    #[test]
    fn an_error_says_where_what_and_what_to_write_and_repeats_no_secret() {
        let error = ChanUrl::from_str("chan://joe:hunter2@h:1/s?tofu").unwrap_err().to_string();
        assert_eq!(
            error,
            "the URL at character 8: a password does not belong in a URL, where others can read it; \
             remove it, change it if others can have seen it, and keep it in a file"
        );
    }
}
