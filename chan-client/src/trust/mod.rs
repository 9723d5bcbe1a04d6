//! The four ways to trust a server.

mod error;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lib_chan::tls::{Pin, PinVerifier, crypto_provider, spki_sha256};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

pub use error::TrustError;

pub use crate::identity::IdentityError;
use crate::known_hosts::{KnownHosts, KnownHostsError};

/// The way in which the client checks the identity of the server. Only the caller chooses it; the server cannot change it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// The server's key is one of these. This is the strongest and simplest way. Names and dates in the certificate do
    /// not matter. A second pin lets the server change its key.
    Pin(Vec<Pin>),
    /// An authority in this PEM file has signed the server's certificate for this host, and it has not expired.
    Ca(PathBuf),
    /// An authority that the system trusts has signed the server's certificate for this host, and it has not expired.
    System,
    /// The server's key is the one that it showed the first time, as saved in [`KnownHosts`]. An unknown key is an error
    /// unless the caller accepts new keys. A changed key is always an error.
    Tofu,
}

impl Trust {
    /// Makes the verifier of the server's certificate. Reads files, so call it on a thread for blocking work.
    pub(crate) fn verifier(
        &self,
        authority: &str,
        known_hosts: impl FnOnce() -> Result<KnownHosts, KnownHostsError>,
        accept_new: bool,
    ) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
        let keys = |judge| {
            Arc::new(KeyVerifier { judge, authority: authority.into(), signatures: PinVerifier::new([]) })
        };
        Ok(match self {
            Self::Pin(pins) => keys(Judge::Pinned(pins.clone())),
            Self::Ca(file) => {
                let roots = Arc::new(read_roots(file)?);
                WebPkiServerVerifier::builder_with_provider(roots, crypto_provider())
                    .build()
                    .map_err(|error| TrustError::ca(file, error))?
            }
            Self::System => Arc::new(
                rustls_platform_verifier::Verifier::new(crypto_provider()).map_err(TrustError::System)?,
            ),
            Self::Tofu => {
                let known_hosts = known_hosts()?;
                let known = known_hosts.keys(authority)?;
                keys(match known.is_empty() {
                    true if accept_new => Judge::Anything,
                    true => Judge::Nothing,
                    false => Judge::Known(known, known_hosts.path().into()),
                })
            }
        })
    }
}

fn read_roots(file: &Path) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| TrustError::ca(file, error))? {
        let certificate = certificate.map_err(|error| TrustError::ca(file, error))?;
        roots.add(certificate).map_err(|error| TrustError::ca(file, error))?;
    }
    match roots.is_empty() {
        true => Err(TrustError::ca(file, "it contains no PEM certificate")),
        false => Ok(roots),
    }
}

/// Accepts a server that shows an expected key. The provider checks the signature over the handshake, which proves that
/// the server owns the key.
#[derive(Debug)]
struct KeyVerifier {
    judge: Judge,
    authority: Box<str>,
    /// Checks signatures. It has no pins.
    signatures: PinVerifier,
}

#[derive(Debug)]
enum Judge {
    /// Accepts these keys, which the URL names.
    Pinned(Vec<Pin>),
    /// Accepts these keys, which this file names.
    Known(Vec<Pin>, PathBuf),
    /// Accepts every key: the server is unknown, and the caller accepts new keys. The key is saved after the login.
    Anything,
    /// Accepts no key: the server is unknown, and the caller does not accept new keys.
    Nothing,
}

impl KeyVerifier {
    fn judge(&self, shown: Pin) -> Result<(), IdentityError> {
        match &self.judge {
            Judge::Anything => Ok(()),
            Judge::Pinned(keys) | Judge::Known(keys, _) if keys.contains(&shown) => Ok(()),
            Judge::Pinned(_) => Err(IdentityError::NotPinned { authority: self.authority.clone(), shown }),
            Judge::Known(known, file) => {
                Err(IdentityError::changed(known.clone(), shown, file, &self.authority))
            }
            Judge::Nothing => Err(IdentityError::Unknown { authority: self.authority.clone(), shown }),
        }
    }
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = spki_sha256(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        self.judge(shown)
            .map(|()| ServerCertVerified::assertion())
            .map_err(|error| CertificateError::Other(OtherError(Arc::new(error))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_verify_schemes()
    }
}
