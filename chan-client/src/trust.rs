//! How a client trusts a server: four ways, and no other.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use lib_chan::tls::{Pin, PinVerifier, crypto_provider, spki_sha256};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

use crate::known_hosts::{KnownHosts, KnownHostsError};

/// How the server's identity is judged. It always comes from the caller, never from what the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// The server's key is one of these. The strongest and the simplest; names and dates do not matter, and a
    /// second pin lets the server change its key.
    Pin(Vec<Pin>),
    /// Its certificate was signed by an authority in this PEM file, for this host, and has not expired.
    Ca(PathBuf),
    /// The same, with the authorities that the system trusts.
    System,
    /// Its key is the one it showed the first time, as noted in [`KnownHosts`]. An unknown key is an error unless
    /// the caller accepts new ones; another key than the known one always is.
    Tofu,
}

impl Trust {
    /// What checks the server's certificate in the TLS handshake. Reads files, so not for a task.
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
        true => Err(TrustError::ca(file, "it holds no certificate in PEM form")),
        false => Ok(roots),
    }
}

/// Checks that the server shows a key that is expected and, like every other verifier, that it owns it: the
/// signature over the handshake is checked by the provider.
#[derive(Debug)]
struct KeyVerifier {
    judge: Judge,
    authority: Box<str>,
    /// Judges signatures alone: it pins nothing.
    signatures: PinVerifier,
}

#[derive(Debug)]
enum Judge {
    /// One of these, as the URL says.
    Pinned(Vec<Pin>),
    /// One of these, as this file says.
    Known(Vec<Pin>, PathBuf),
    /// Never seen, and the caller accepts new keys: it is noted after the login.
    Anything,
    /// Never seen, and the caller does not.
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

/// Why the caller's way to trust a server cannot be used at all. Nothing was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The file of a private authority.
    #[error("cannot use the CA file {}: {what}; name a file with the authority's certificate", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: Box<str>,
    },
    /// The file of known hosts.
    #[error(transparent)]
    KnownHosts(#[from] KnownHostsError),
    /// The system's authorities.
    #[error("cannot use the system's certificate authorities ({0}); pin the server's key instead")]
    System(Error),
}

impl TrustError {
    fn ca(path: &Path, what: impl fmt::Display) -> Self {
        Self::Ca { path: path.into(), what: what.to_string().into() }
    }
}

/// Why the server is not who the caller expects. Nothing but the TLS handshake was sent to it, no secret and no
/// name among it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The server's own certificate is one of an authority.
    #[error(
        "the server's certificate is that of an authority (CA:TRUE), which no server may show; pin its key (?pin=…), or \
         ask its operator for a certificate with basicConstraints CA:FALSE"
    )]
    CaCertificate,
    /// A certificate with another fault.
    #[error("the server's certificate is not acceptable ({what}); ask its operator")]
    Certificate {
        /// The fault.
        what: Box<str>,
    },
    /// Another key than the known one.
    #[error(
        "{authority} shows the key {shown}, but {} knows {} for it: somebody may be listening in; \
         ask the operator, and only if the key has really changed remove that line and accept the new key \
         (--accept-new)", file.display(), list(known)
    )]
    Changed {
        /// The server.
        authority: Box<str>,
        /// The keys noted for it.
        known: Vec<Pin>,
        /// The key it showed.
        shown: Pin,
        /// Where they are noted.
        file: Box<Path>,
    },
    /// The certificate's time is over.
    #[error("the server's certificate expired on {on}; its operator has to renew it")]
    Expired {
        /// When, as RFC 3339 writes it; empty if not known.
        on: Box<str>,
    },
    /// No trusted authority signed the certificate.
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
    /// A key that the URL does not pin.
    #[error(
        "{authority} shows the key {shown}, which is not one that the URL pins: somebody may be listening in; \
         ask the operator, who can print the URL with the right pin"
    )]
    NotPinned {
        /// The server.
        authority: Box<str>,
        /// The key it showed.
        shown: Pin,
    },
    /// The certificate's time has not come.
    #[error("the server's certificate is not valid before {on}; compare the clocks of both machines")]
    NotYet {
        /// When, as RFC 3339 writes it; empty if not known.
        on: Box<str>,
    },
    /// A key never seen before.
    #[error(
        "{authority} is not known yet and shows the key {shown}; compare it with what its operator says, \
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

    /// What a TLS handshake that failed says about the server's identity; `None` if it failed for another reason.
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
                // The verifier has no type of its own for it.
                None if other.to_string() == "CaUsedAsEndEntity" => Self::CaCertificate,
                None => Self::Certificate { what: other.to_string().into() },
            },
            other => Self::Certificate { what: other.to_string().into() },
        })
    }
}

/// The names in a certificate, which arrive as `DnsName("…")` and the like.
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

#[cfg(test)]
mod tests {
    use lib_chan::tls::{client_config, server_config};
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::server::ResolvesServerCert;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// A server's certificate and the key it signs with.
    struct Server {
        certificate: CertificateDer<'static>,
        key: KeyPair,
    }

    impl Server {
        fn self_signed() -> Self {
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(vec!["h".into()]).unwrap().self_signed(&key).unwrap();
            Self { certificate: certificate.into(), key }
        }

        fn pin(&self) -> Pin {
            spki_sha256(&self.certificate).unwrap()
        }
    }

    /// A private authority in a file.
    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        file: tempfile::NamedTempFile,
    }

    impl Authority {
        fn new(name: &str) -> Self {
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), params.self_signed(&key).unwrap().pem()).unwrap();
            Self { issuer: Issuer::new(params, key), file }
        }

        fn trust(&self) -> Trust {
            Trust::Ca(self.file.path().into())
        }

        fn sign(&self, name: &str, years: std::ops::Range<i32>) -> Server {
            let mut params = CertificateParams::new(vec![name.into()]).unwrap();
            params.not_before = date_time_ymd(years.start, 1, 1);
            params.not_after = date_time_ymd(years.end, 1, 1);
            let key = KeyPair::generate().unwrap();
            Server { certificate: params.signed_by(&key, &self.issuer).unwrap().into(), key }
        }
    }

    fn resolver(certificate: &CertificateDer<'static>, key: &KeyPair) -> Arc<dyn ResolvesServerCert> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = crypto_provider().key_provider.load_private_key(key).unwrap();
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate.clone()], key)))
    }

    /// A TLS handshake in memory with a server that shows `certificate` and signs with `key`, as seen by a client
    /// that wants to talk to `h:1`.
    async fn handshake(
        verifier: Arc<dyn ServerCertVerifier>,
        certificate: &CertificateDer<'static>,
        key: &KeyPair,
    ) -> Result<(), IdentityError> {
        let server = server_config(resolver(certificate, key)).unwrap();
        let client = client_config(verifier).unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let accepting = tokio::spawn(TlsAcceptor::from(server).accept(far));
        let host = ServerName::try_from("h").unwrap();
        let connected = TlsConnector::from(client).connect(host, near).await;
        drop(accepting.await);
        let Err(error) = connected else { return Ok(()) };
        let error = error.into_inner().unwrap().downcast::<Error>().unwrap();
        Err(IdentityError::from_tls(&error).unwrap_or_else(|| panic!("{error} is not about identity")))
    }

    async fn try_trust(trust: &Trust, server: &Server) -> Result<(), IdentityError> {
        let verifier = trust.verifier("h:1", || panic!("no known hosts here"), false).unwrap();
        handshake(verifier, &server.certificate, &server.key).await
    }

    async fn try_tofu(known: &KnownHosts, accept_new: bool, server: &Server) -> Result<(), IdentityError> {
        let verifier = Trust::Tofu.verifier("h:1", || Ok(known.clone()), accept_new).unwrap();
        handshake(verifier, &server.certificate, &server.key).await
    }

    #[tokio::test]
    async fn a_pinned_key_is_accepted_and_any_other_is_shown() {
        let (one, other) = (Server::self_signed(), Server::self_signed());
        let pins = Trust::Pin(vec![one.pin(), Server::self_signed().pin()]);
        assert_eq!(try_trust(&pins, &one).await, Ok(()));
        let error = try_trust(&pins, &other).await.unwrap_err();
        assert_eq!(error, IdentityError::NotPinned { authority: "h:1".into(), shown: other.pin() });
        assert!(error.to_string().contains("print the URL with the right pin"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_shows_a_certificate_without_owning_its_key_is_refused_in_every_mode() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(directory.path().join("known_hosts"));
        let authority = Authority::new("ours");
        let server = authority.sign("h", 2020..4000);
        let thief = KeyPair::generate().unwrap();
        for (trust, accept_new) in
            [(Trust::Pin(vec![server.pin()]), false), (authority.trust(), false), (Trust::Tofu, true)]
        {
            let verifier = trust.verifier("h:1", || Ok(known.clone()), accept_new).unwrap();
            assert_eq!(handshake(verifier.clone(), &server.certificate, &server.key).await, Ok(()));
            let error = handshake(verifier, &server.certificate, &thief).await;
            assert_eq!(error, Err(IdentityError::Signature), "{trust:?}");
        }
    }

    #[tokio::test]
    async fn an_unknown_key_needs_consent_and_a_known_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(directory.path().join("known_hosts"));
        let server = Server::self_signed();
        let error = try_tofu(&known, false, &server).await.unwrap_err();
        assert_eq!(error, IdentityError::Unknown { authority: "h:1".into(), shown: server.pin() });
        assert!(error.to_string().contains("--accept-new"), "{error}");
        assert_eq!(try_tofu(&known, true, &server).await, Ok(()));
        known.add("h:1", &server.pin()).unwrap();
        assert_eq!(try_tofu(&known, false, &server).await, Ok(()));
    }

    #[tokio::test]
    async fn a_changed_key_is_refused_with_both_fingerprints_even_if_new_ones_are_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(directory.path().join("known_hosts"));
        let (old, new) = (Server::self_signed(), Server::self_signed());
        known.add("h:1", &old.pin()).unwrap();
        for accept_new in [false, true] {
            let error = try_tofu(&known, accept_new, &new).await.unwrap_err().to_string();
            for part in [old.pin().to_string(), new.pin().to_string(), known.path().display().to_string()] {
                assert!(error.contains(&part), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn a_private_authority_vouches_for_its_own_servers() {
        let authority = Authority::new("ours");
        assert_eq!(try_trust(&authority.trust(), &authority.sign("h", 2020..4000)).await, Ok(()));
        let error = try_trust(&authority.trust(), &Authority::new("other").sign("h", 2020..4000)).await;
        assert_eq!(error, Err(IdentityError::Issuer));
        let error = try_trust(&authority.trust(), &Authority::new("ours").sign("h", 2020..4000)).await;
        assert_eq!(error, Err(IdentityError::Signature), "another key under the same name");
        assert!(IdentityError::Issuer.to_string().contains("?ca=FILE"));
    }

    #[tokio::test]
    async fn the_certificate_of_an_authority_is_told_with_what_to_do() {
        let mut params = CertificateParams::new(vec!["h".into()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certificate.pem()).unwrap();
        let server = Server { certificate: certificate.into(), key };
        let error = try_trust(&Trust::Ca(file.path().into()), &server).await.unwrap_err();
        assert_eq!(error, IdentityError::CaCertificate);
        assert!(error.to_string().contains("?pin=") && error.to_string().contains("CA:FALSE"), "{error}");
    }

    #[tokio::test]
    async fn an_expired_certificate_is_refused_with_its_date() {
        let authority = Authority::new("ours");
        let error = try_trust(&authority.trust(), &authority.sign("h", 2020..2021)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server's certificate expired on 2021-01-01T00:00:00Z; its operator has to renew it"
        );
    }

    #[tokio::test]
    async fn a_certificate_of_the_future_is_refused_with_its_date() {
        let authority = Authority::new("ours");
        let error = try_trust(&authority.trust(), &authority.sign("h", 3000..4000)).await.unwrap_err();
        assert_eq!(error, IdentityError::NotYet { on: "3000-01-01T00:00:00Z".into() });
    }

    #[tokio::test]
    async fn a_certificate_for_another_host_is_refused_with_both_names() {
        let authority = Authority::new("ours");
        let error =
            try_trust(&authority.trust(), &authority.sign("other.net", 2020..4000)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server's certificate is not valid for h but for other.net; use that name, or pin the key"
        );
    }

    #[test]
    fn a_ca_file_that_is_missing_or_holds_no_certificate_is_named() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        for path in [empty.path(), Path::new("/nowhere/ca.pem")] {
            let trust = Trust::Ca(path.into());
            let error = trust.verifier("h:1", || panic!("not asked"), false).unwrap_err();
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
    }

    #[tokio::test]
    async fn the_system_trusts_no_certificate_that_was_just_made_up() {
        // Without any authority on the machine the mode itself fails, and says what to do instead.
        match Trust::System.verifier("h:1", || panic!("not asked"), false) {
            Ok(verifier) => {
                let server = Authority::new("ours").sign("h", 2020..4000);
                let error = handshake(verifier, &server.certificate, &server.key).await;
                assert_eq!(error, Err(IdentityError::Issuer));
            }
            Err(error) => assert!(error.to_string().contains("pin the server's key"), "{error}"),
        }
    }
}
