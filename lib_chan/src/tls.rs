//! TLS as both sides use it: version 1.3 only, the hybrid post-quantum group first, one application protocol, and
//! nothing resumed.
//!
//! The process-wide default of rustls is neither read nor set: a program with two providers compiled in would panic.

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

/// The application protocol, which both sides insist on.
pub const ALPN: &[u8] = b"lib-chan/1";

/// The cryptography of every connection: aws-lc-rs, with X25519MLKEM768 first.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    let kx_groups = vec![
        provider::kx_group::X25519MLKEM768,
        provider::kx_group::X25519,
        provider::kx_group::SECP256R1,
        provider::kx_group::SECP384R1,
    ];
    Arc::new(CryptoProvider { kx_groups, ..provider::default_provider() })
}

/// The configuration of a server that shows the certificate of `resolver`, usually a [`ReloadableKey`].
///
/// # Errors
/// If the provider cannot do TLS 1.3.
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

/// The configuration of a client that trusts whom `verifier` trusts, for instance a [`PinVerifier`].
///
/// # Errors
/// If the provider cannot do TLS 1.3.
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

/// What binds a login to this connection (RFC 9266), once its handshake is complete.
///
/// There is no other way to an [`Exporter`], so here is where the version and the application protocol are insisted
/// on: rustls lets a client through that offers no protocol at all.
///
/// # Errors
/// If the handshake is not complete, or the connection is not what both sides insist on: close it.
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

/// A certificate chain and the private key that belongs to it.
///
/// A certificate that has expired is no error: a client that pins the key does not look at dates. Ask
/// [`validity`](Self::validity) where they matter.
#[derive(Clone)]
pub struct CheckedKey {
    key: Arc<CertifiedKey>,
    validity: RangeInclusive<SystemTime>,
    is_authority: bool,
}

impl CheckedKey {
    /// Checks that the key is that of the first certificate.
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
    /// As [`new`](Self::new), and if the PEM cannot be read.
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

/// The moment so many seconds from the start of 1970; one before that counts as its start.
fn system_time(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

/// The identity of a server, which can be replaced while it serves. A connection gets what is there when its
/// handshake begins.
pub struct ReloadableKey(RwLock<CheckedKey>);

impl ReloadableKey {
    /// Shows this identity until it is replaced.
    pub fn new(key: CheckedKey) -> Self {
        Self(RwLock::new(key))
    }

    /// Shows another identity to whoever connects from now on. It has been checked before, so a bad pair never gets
    /// here and the old one stays.
    pub fn replace(&self, key: CheckedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    /// The identity that is shown now.
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

/// The SHA-256 of a public key (of the certificate's `SubjectPublicKeyInfo`), by which a client can know a server.
///
/// Written `sha256:` and 32 bytes in base64url without padding.
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

/// A text is not a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pin: expected `sha256:` and 32 bytes in base64url without padding")]
pub struct PinError;

/// The pin of a certificate.
///
/// It is read by the same parser as the key that checks the server's signature, so the two cannot be different keys.
///
/// # Errors
/// If it is not a certificate.
pub fn spki_sha256(certificate: &CertificateDer<'_>) -> Result<Pin, TlsError> {
    let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let hash = digest::digest(&digest::SHA256, &spki);
    let mut pin = [0; 32];
    for (to, from) in pin.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    Ok(Pin(pin))
}

/// Trusts a server whose public key has one of these pins and that shows that it owns the key. Neither name nor dates
/// count, as with SSH.
#[derive(Debug)]
pub struct PinVerifier {
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

impl PinVerifier {
    /// Trusts these. With an empty list it trusts nobody.
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

    /// A certificate is public; this is where its owner shows that it has the key. Without it a pin is worth nothing.
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

/// Why a connection or a certificate is of no use.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The handshake has to be completed first.
    #[error("the TLS handshake is not complete")]
    Handshaking,
    /// The connection is not of TLS 1.3.
    #[error("the connection is not of TLS 1.3")]
    OtherVersion,
    /// The other end did not ask for the application protocol `lib-chan/1`.
    #[error("the other end does not speak lib-chan/1")]
    OtherProtocol,
    /// A certificate or private key cannot be read.
    #[error("the {what} cannot be read: {why}")]
    Unreadable {
        /// Which.
        what: &'static str,
        /// Why.
        why: Box<str>,
    },
    /// Rustls says so.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

#[cfg(test)]
mod tests;
