//! The reasons that a server is not the expected one.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use lib_chan::tls::Pin;
use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error, OtherError};

/// The reason that the server is not the expected one. The client sent only the TLS handshake, which contains no
/// secret, service or client name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The server's certificate is one of an authority.
    #[error(
        "the server's certificate is one of an authority (CA:TRUE), which no server may show; pin its key (?pin=…), or \
         ask its operator for a certificate with basicConstraints CA:FALSE"
    )]
    CaCertificate,
    /// The certificate has another fault.
    #[error("the server's certificate is not acceptable ({what}); ask its operator")]
    Certificate {
        /// The fault.
        what: Box<str>,
    },
    /// The server has another key than the known one.
    #[error(
        "{authority} shows the key {shown}, but {} knows {} for it: somebody may be intercepting \
         the connection; ask the operator, and remove that line and accept the new key (--accept-new) only if the key \
         has really changed", file.display(), list(known)
    )]
    Changed {
        /// The server.
        authority: Box<str>,
        /// The keys saved for it.
        known: Vec<Pin>,
        /// The key it showed.
        shown: Pin,
        /// The file in which they are saved.
        file: Box<Path>,
    },
    /// The certificate has expired.
    #[error("the server's certificate expired on {on}; its operator has to renew it")]
    Expired {
        /// The date in the form of RFC 3339; empty if unknown.
        on: Box<str>,
    },
    /// No trusted authority has signed the certificate.
    #[error(
        "no authority that you trust signed the server's certificate; \
         ask its operator for the URL with its pin, or for the authority's certificate (?ca=FILE)"
    )]
    Issuer,
    /// The server does not own the key it shows, or its certificate was not signed by the authority it names.
    #[error(
        "a signature is wrong: the server does not own the key it shows, or its certificate is forged; \
         tell its operator"
    )]
    Signature,
    /// The server has a key that the URL does not pin.
    #[error(
        "{authority} shows the key {shown}, which the URL does not pin: somebody may be intercepting the connection; \
         ask the operator, who can print the URL with the right pin"
    )]
    NotPinned {
        /// The server.
        authority: Box<str>,
        /// The key it showed.
        shown: Pin,
    },
    /// The certificate is not valid yet.
    #[error("the server's certificate is not valid before {on}; compare the clocks of both machines")]
    NotYet {
        /// The date in the form of RFC 3339; empty if unknown.
        on: Box<str>,
    },
    /// The server has a key never seen before.
    #[error(
        "{authority} is not known yet and shows the key {shown}; compare it with the key that its operator names, \
         then accept it (--accept-new)"
    )]
    Unknown {
        /// The server.
        authority: Box<str>,
        /// The key it showed.
        shown: Pin,
    },
    /// The certificate is for another host.
    #[error(
        "the server's certificate is not valid for {expected} but for {presented}; use that name, or pin the key"
    )]
    WrongName {
        /// The host in the URL.
        expected: Box<str>,
        /// The names in the certificate.
        presented: Box<str>,
    },
}

impl IdentityError {
    pub(crate) fn changed(known: Vec<Pin>, shown: Pin, file: &Path, authority: &str) -> Self {
        Self::Changed { authority: authority.into(), known, shown, file: file.into() }
    }

    /// Returns what a failed TLS handshake says about the server's identity, or `None` if it failed for another reason.
    pub(crate) fn from_tls(error: &Error) -> Option<Self> {
        use CertificateError as Fault;

        let Error::InvalidCertificate(fault) = error else {
            return None;
        };
        Some(match fault {
            Fault::BadSignature => Self::Signature,
            Fault::Expired => Self::Expired { on: "".into() },
            Fault::ExpiredContext { not_after, .. } => Self::Expired { on: date(*not_after) },
            Fault::NotValidYet => Self::NotYet { on: "".into() },
            Fault::NotValidYetContext { not_before, .. } => Self::NotYet { on: date(*not_before) },
            Fault::NotValidForNameContext { expected, presented } => {
                Self::WrongName { expected: expected.to_str().into(), presented: names(presented) }
            }
            Fault::UnknownIssuer => Self::Issuer,
            Fault::Other(OtherError(other)) => match other.downcast_ref::<Self>() {
                Some(own) => own.clone(),
                // The verifier has no public type for this error.
                None if other.to_string() == "CaUsedAsEndEntity" => Self::CaCertificate,
                None => Self::Certificate { what: other.to_string().into() },
            },
            other => Self::Certificate { what: other.to_string().into() },
        })
    }
}

/// Lists the names in a certificate, which rustls gives as `DnsName("…")` and the like.
fn names(presented: &[String]) -> Box<str> {
    match presented.is_empty() {
        true => "no name at all".into(),
        false => {
            let bare = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name));
            bare.collect::<Vec<_>>().join(" or ").into()
        }
    }
}

fn date(time: UnixTime) -> Box<str> {
    let time = UNIX_EPOCH + Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(time).to_string().into()
}

fn list(keys: &[Pin]) -> String {
    keys.iter().map(Pin::to_string).collect::<Vec<_>>().join(" or ")
}
