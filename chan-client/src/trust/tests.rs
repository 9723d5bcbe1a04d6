//! TLS handshakes with genuine and false servers.

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

/// Runs a TLS handshake in memory between a client of `h:1` and a server that shows `certificate` and signs with `key`.
/// Returns the client's view.
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
async fn accepts_pinned_key_only() {
    let (one, other) = (Server::self_signed(), Server::self_signed());
    let pins = Trust::Pin(vec![one.pin(), Server::self_signed().pin()]);
    assert_eq!(try_trust(&pins, &one).await, Ok(()));
    let error = try_trust(&pins, &other).await.unwrap_err();
    assert_eq!(error, IdentityError::NotPinned { authority: "h:1".into(), shown: other.pin() });
    assert!(error.to_string().contains("print the URL with the right pin"), "{error}");
}

#[tokio::test]
async fn refuses_certificate_without_its_key() {
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
async fn only_unknown_key_needs_consent() {
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
async fn refuses_changed_key_with_both_fingerprints() {
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
async fn private_authority_vouches_for_its_servers() {
    let authority = Authority::new("ours");
    assert_eq!(try_trust(&authority.trust(), &authority.sign("h", 2020..4000)).await, Ok(()));
    let error = try_trust(&authority.trust(), &Authority::new("other").sign("h", 2020..4000)).await;
    assert_eq!(error, Err(IdentityError::Issuer));
    let error = try_trust(&authority.trust(), &Authority::new("ours").sign("h", 2020..4000)).await;
    assert_eq!(error, Err(IdentityError::Signature), "another key under the same name");
    assert!(IdentityError::Issuer.to_string().contains("?ca=FILE"));
}

#[tokio::test]
async fn refuses_certificate_of_authority_with_advice() {
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
async fn refuses_expired_certificate_with_its_date() {
    let authority = Authority::new("ours");
    let error = try_trust(&authority.trust(), &authority.sign("h", 2020..2021)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server's certificate expired on 2021-01-01T00:00:00Z; its operator has to renew it"
    );
}

#[tokio::test]
async fn refuses_future_certificate_with_its_date() {
    let authority = Authority::new("ours");
    let error = try_trust(&authority.trust(), &authority.sign("h", 3000..4000)).await.unwrap_err();
    assert_eq!(error, IdentityError::NotYet { on: "3000-01-01T00:00:00Z".into() });
}

#[tokio::test]
async fn refuses_other_host_with_both_names() {
    let authority = Authority::new("ours");
    let error = try_trust(&authority.trust(), &authority.sign("other.net", 2020..4000)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server's certificate is not valid for h but for other.net; use that name, or pin the key"
    );
}

#[test]
fn names_unusable_ca_file() {
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in [empty.path(), Path::new("/nowhere/ca.pem")] {
        let trust = Trust::Ca(path.into());
        let error = trust.verifier("h:1", || panic!("not asked"), false).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[tokio::test]
async fn system_trusts_no_invented_certificate() {
    // On a machine without authorities, the mode itself fails and says what to do instead.
    match Trust::System.verifier("h:1", || panic!("not asked"), false) {
        Ok(verifier) => {
            let server = Authority::new("ours").sign("h", 2020..4000);
            let error = handshake(verifier, &server.certificate, &server.key).await;
            assert_eq!(error, Err(IdentityError::Issuer));
        }
        Err(error) => assert!(error.to_string().contains("pin the server's key"), "{error}"),
    }
}
