//! Parses a URL from left to right. An error knows the place of its fault.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use lib_chan::auth::{ClientId, ServiceName};
use lib_chan::tls::Pin;
use percent_encoding::percent_decode_str;
use rustls::pki_types::ServerName;

use super::{Authority, ChanUrl, SCHEME, UrlError, UrlFault};
use crate::trust::Trust;

/// The prefix of a pin.
const HASH: &str = "sha256:";

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
        let authorities = parse_authorities(address)?;
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
        Ok(Self { client, authorities, service, trust })
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

/// A piece of the URL, with its place.
#[derive(Clone, Copy)]
struct Part<'a> {
    /// The number of bytes before it.
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

fn parse_authorities(mut rest: Part<'_>) -> Result<Vec<Authority>, UrlError> {
    let mut authorities = Vec::new();
    while let Some((first, next)) = rest.split_once(',') {
        authorities.push(parse_authority(first)?);
        rest = next;
    }
    authorities.push(parse_authority(rest)?);
    Ok(authorities)
}

fn parse_authority(address: Part<'_>) -> Result<Authority, UrlError> {
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
    let Ok(host) = ServerName::try_from(host.text.to_ascii_lowercase()) else {
        return host.fault(UrlFault::Host);
    };
    if port.text.is_empty() {
        return port.fault(UrlFault::NoPort);
    }
    // `parse` alone would accept a plus sign.
    match port.text.parse() {
        Ok(number) if number != 0 && port.text.bytes().all(|b| b.is_ascii_digit()) => {
            Ok(Authority { host, port: number })
        }
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
        // Only the first pin needs the name of the hash.
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

/// Returns whether the path is not empty, has no NUL, and every `%` of its encoded form led two hexadecimal digits.
fn is_path(encoded: &str, decoded: &str) -> bool {
    let pairs = encoded
        .split('%')
        .skip(1)
        .all(|after| after.as_bytes().get(..2).is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit)));
    pairs && !decoded.is_empty() && !decoded.contains('\0')
}
