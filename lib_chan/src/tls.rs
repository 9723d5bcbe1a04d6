//! The TLS of both ends: version 1.3 only, the hybrid post-quantum group first, one application protocol, and no
//! resumption.
//!
//! Neither reads nor sets the process-wide default of rustls, which panics in a program with two providers.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::aws_lc_rs as provider;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, ServerConfig,
};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ConnectionCommon, DigitallySignedStruct, ProtocolVersion, SignatureScheme};

use crate::auth::Exporter;
use crate::secret::{Secret, decode_exactly};

/// The application protocol (ALPN), which both ends require.
pub const ALPN: &[u8] = b"lib-chan/1";

/// Returns the cryptography of every connection: aws-lc-rs, with X25519MLKEM768 first.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    let kx_groups = vec![
        provider::kx_group::X25519MLKEM768,
        provider::kx_group::X25519,
        provider::kx_group::SECP256R1,
        provider::kx_group::SECP384R1,
    ];
    Arc::new(CryptoProvider { kx_groups, ..provider::default_provider() })
}

/// Returns the configuration of a server that shows the certificate of `resolver`, usually a [`ReloadableKey`].
///
/// # Errors
/// The provider does not support TLS 1.3.
pub fn server_config(resolver: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// Returns the configuration of a client that trusts the servers that `verifier` accepts, for instance a
/// [`PinVerifier`].
///
/// # Errors
/// The provider does not support TLS 1.3.
pub fn client_config(verifier: Arc<dyn ServerCertVerifier>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// Returns the exporter that binds a login to this connection (RFC 9266), once the TLS handshake is complete.
///
/// Every login needs an [`Exporter`], so this checks the version and the application protocol: rustls accepts a client
/// that offers no protocol at all.
///
/// # Errors
/// The handshake is not complete, or the version or protocol is wrong. Close the connection.
pub fn exporter<Side>(connection: &ConnectionCommon<Side>) -> Result<Exporter, TlsError> {
    if connection.is_handshaking() {
        return Err(TlsError::Handshaking);
    }
    if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return Err(TlsError::OtherVersion);
    }
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(TlsError::OtherProtocol);
    }
    let bytes = connection.export_keying_material([0; 32], Exporter::LABEL, Some(&[]))?;
    Ok(Exporter::new(Secret::new(bytes)))
}

/// A certificate chain and its private key.
///
/// An expired certificate is no error, because a client that pins the key ignores the dates. [`validity`](Self::validity)
/// returns them.
#[derive(Clone)]
pub struct CheckedKey {
    key: Arc<CertifiedKey>,
    validity: RangeInclusive<SystemTime>,
    is_authority: bool,
}

impl CheckedKey {
    /// Checks that the private key belongs to the first certificate.
    ///
    /// # Errors
    ///
    /// The key belongs to another certificate, or either cannot be read.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let key = crypto_provider().key_provider.load_private_key(key)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match()?;
        let unreadable = |why: &dyn fmt::Display| TlsError::Unreadable {
            what: "certificate",
            why: why.to_string().into(),
        };
        let (_, parsed) = x509_parser::parse_x509_certificate(certified.end_entity_cert()?)
            .map_err(|error| unreadable(&error))?;
        let (from, to) = (&parsed.validity().not_before, &parsed.validity().not_after);
        let validity = system_time(from.timestamp())..=system_time(to.timestamp());
        let constraints = parsed.basic_constraints().map_err(|error| unreadable(&error))?;
        let is_authority = constraints.is_some_and(|constraints| constraints.value.ca);
        Ok(Self { key: Arc::new(certified), validity, is_authority })
    }

    /// Checks the contents of two PEM files in the same way.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new), or the PEM cannot be read.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| TlsError::Unreadable { what: "certificate", why: error.to_string().into() })?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError::Unreadable { what: "private key", why: error.to_string().into() })?;
        Self::new(chain, key)
    }

    /// Returns the pin of the first certificate.
    ///
    /// # Errors
    ///
    /// The certificate cannot be read, which [`new`](Self::new) has ruled out.
    pub fn pin(&self) -> Result<Pin, TlsError> {
        spki_sha256(self.key.end_entity_cert()?)
    }

    /// Returns the first and the last moment at which the first certificate is valid.
    pub fn validity(&self) -> &RangeInclusive<SystemTime> {
        &self.validity
    }

    /// Returns `true` if the first certificate says that it belongs to an authority (`CA:TRUE`). A client that trusts an
    /// authority refuses it as the certificate of a server.
    pub fn is_authority(&self) -> bool {
        self.is_authority
    }
}

impl fmt::Debug for CheckedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckedKey(..)")
    }
}

/// Returns the moment `seconds` after the start of 1970, or that start for a negative number.
fn system_time(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

/// The identity of a server, which can be replaced while the server runs. A connection uses the identity at the start of
/// its handshake.
pub struct ReloadableKey(RwLock<CheckedKey>);

impl ReloadableKey {
    /// Creates a key that shows this identity until it is replaced.
    pub fn new(key: CheckedKey) -> Self {
        Self(RwLock::new(key))
    }

    /// Replaces the identity for new connections. A [`CheckedKey`] is checked on creation, so this cannot fail.
    pub fn replace(&self, key: CheckedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    /// Returns the current identity.
    pub fn current(&self) -> CheckedKey {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for ReloadableKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReloadableKey(..)")
    }
}

impl ResolvesServerCert for ReloadableKey {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().key)
    }
}

/// The SHA-256 of a public key, by which a client recognises a server. Covers the certificate's `SubjectPublicKeyInfo`.
///
/// Its text is `sha256:` and 32 bytes in base64url without padding.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let encoded = text.strip_prefix("sha256:").ok_or(PinError)?;
        let mut bytes = [0; 32];
        decode_exactly(encoded, &mut bytes).ok_or(PinError)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

/// The error for a text that is not a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pin: expected `sha256:` and 32 bytes in base64url without padding")]
pub struct PinError;

/// Returns the pin of a certificate.
///
/// Uses the parser that also reads the key for the check of the server's signature, so both see the same key.
///
/// # Errors
/// The bytes are not a certificate.
pub fn spki_sha256(certificate: &CertificateDer<'_>) -> Result<Pin, TlsError> {
    let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let hash = digest::digest(&digest::SHA256, &spki);
    let mut pin = [0; 32];
    for (to, from) in pin.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    Ok(Pin(pin))
}

/// Trusts a server that proves that it has the private key of one of these pins. Ignores names and dates, as SSH does.
#[derive(Debug)]
pub struct PinVerifier {
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

impl PinVerifier {
    /// Creates a verifier that trusts these pins, and nobody if the list is empty.
    pub fn new(pins: impl IntoIterator<Item = Pin>) -> Self {
        Self { pins: pins.into_iter().collect(), provider: crypto_provider() }
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = spki_sha256(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        if !self.pins.contains(&shown) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    // A certificate is public. This check shows that the server has the private key; without it, a pin is worthless.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The reason that a connection or a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The TLS handshake is not complete.
    #[error("the TLS handshake is not complete")]
    Handshaking,
    /// The connection does not use TLS 1.3.
    #[error("the connection does not use TLS 1.3")]
    OtherVersion,
    /// The peer did not offer the application protocol `lib-chan/1`.
    #[error("the other end does not speak lib-chan/1")]
    OtherProtocol,
    /// A certificate or private key cannot be read.
    #[error("the {what} cannot be read: {why}")]
    Unreadable {
        /// The certificate or key in question.
        what: &'static str,
        /// The error of the parser.
        why: Box<str>,
    },
    /// Rustls reported an error.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

#[cfg(test)]
mod tests;
