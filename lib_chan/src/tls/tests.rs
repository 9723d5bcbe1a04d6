use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::client::ClientConnection;
use rustls::server::ServerConnection;
use rustls::{AlertDescription, Error, NamedGroup, PeerIncompatible};

use super::*;

/// A certificate and its key, both valid now.
fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    identity_with(|_| {})
}

fn identity_with(
    change: impl FnOnce(&mut CertificateParams),
) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    change(&mut params);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.der().clone(), PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

fn checked(identity: (CertificateDer<'static>, PrivateKeyDer<'static>)) -> CheckedKey {
    CheckedKey::new(vec![identity.0], identity.1).unwrap()
}

fn server(resolver: impl ResolvesServerCert + 'static) -> ServerConnection {
    ServerConnection::new(server_config(Arc::new(resolver)).unwrap()).unwrap()
}

fn client(config: Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap()
}

fn client_with_pins(pins: impl IntoIterator<Item = Pin>) -> ClientConnection {
    client(client_config(Arc::new(PinVerifier::new(pins))).unwrap())
}

/// Carries bytes both ways until both handshakes are complete.
fn shake_hands(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), Error> {
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

#[test]
fn pinned_server_uses_tls_1_3_hybrid() {
    let key = checked(identity());
    let (mut client, mut server) = (client_with_pins([key.pin().unwrap()]), server(ReloadableKey::new(key)));
    shake_hands(&mut client, &mut server).unwrap();
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(client.alpn_protocol(), Some(ALPN));
    assert_eq!(client.tls13_tickets_received(), 0);
}

#[test]
fn gives_no_tls_tickets() {
    let key = checked(identity());
    let pins = Arc::new(PinVerifier::new([key.pin().unwrap()]));
    let mut config = Arc::unwrap_or_clone(client_config(pins).unwrap());
    config.resumption = Resumption::default();
    let (mut client, mut server) = (client(Arc::new(config)), server(ReloadableKey::new(key.clone())));
    shake_hands(&mut client, &mut server).unwrap();
    assert_eq!(client.tls13_tickets_received(), 0);
    // Either is enough by itself; both have to stay.
    let config = server_config(Arc::new(ReloadableKey::new(key))).unwrap();
    assert_eq!((config.send_tls13_tickets, config.max_early_data_size), (0, 0));
    assert!(!config.session_storage.can_cache());
}

#[test]
fn exporters_match_and_differ_per_connection() {
    let key = checked(identity());
    let pin = key.pin().unwrap();
    let exported = || {
        let (mut client, mut server) = (client_with_pins([pin]), server(ReloadableKey::new(key.clone())));
        shake_hands(&mut client, &mut server).unwrap();
        let of = |connection: &ConnectionCommon<_>| exported_bytes(exporter(connection));
        let of_server = exported_bytes(exporter(&server));
        assert_eq!(of(&client), of_server);
        of_server
    };
    assert_ne!(exported(), exported());
}

/// The exporter as a login would feel it: through what is hashed of it.
fn exported_bytes(exporter: Result<Exporter, TlsError>) -> [u8; 58] {
    crate::auth::Transcript::new(&exporter.unwrap(), &[], &[]).to_be_signed()
}

#[test]
fn nothing_is_exported_before_the_handshake_is_complete() {
    assert_eq!(exporter(&client_with_pins([])).unwrap_err(), TlsError::Handshaking);
}

#[test]
fn refuses_client_without_alpn() {
    let key = checked(identity());
    let pins = Arc::new(PinVerifier::new([key.pin().unwrap()]));
    let mut config = Arc::unwrap_or_clone(client_config(pins).unwrap());
    config.alpn_protocols.clear();
    let (mut client, mut server) = (client(Arc::new(config)), server(ReloadableKey::new(key)));
    // Rustls lets it through.
    shake_hands(&mut client, &mut server).unwrap();
    assert_eq!(exporter(&server).unwrap_err(), TlsError::OtherProtocol);
    assert_eq!(exporter(&client).unwrap_err(), TlsError::OtherProtocol);
}

#[test]
fn refuses_client_of_other_alpn() {
    let key = checked(identity());
    let pins = Arc::new(PinVerifier::new([key.pin().unwrap()]));
    let mut config = Arc::unwrap_or_clone(client_config(pins).unwrap());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (mut client, mut server) = (client(Arc::new(config)), server(ReloadableKey::new(key)));
    assert_eq!(shake_hands(&mut client, &mut server), Err(Error::NoApplicationProtocol));
}

#[test]
fn refuses_server_without_alpn() {
    let key = checked(identity());
    let pin = key.pin().unwrap();
    let mut config = Arc::unwrap_or_clone(server_config(Arc::new(ReloadableKey::new(key))).unwrap());
    config.alpn_protocols.clear();
    let (mut client, mut server) =
        (client_with_pins([pin]), ServerConnection::new(Arc::new(config)).unwrap());
    shake_hands(&mut client, &mut server).unwrap();
    assert_eq!(exporter(&client).unwrap_err(), TlsError::OtherProtocol);
}

#[test]
fn a_hello_of_tls_1_2_is_refused() {
    let mut server = server(ReloadableKey::new(checked(identity())));
    let hello = tls_1_2_hello();
    server.read_tls(&mut hello.as_slice()).unwrap();
    let error = server.process_new_packets().unwrap_err();
    assert_eq!(error, Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired));
    let mut answer = Vec::new();
    server.write_tls(&mut answer).unwrap();
    // A fatal alert and nothing else.
    assert_eq!((answer[0], answer[5], answer.len()), (21, 2, 7));
    assert_eq!(AlertDescription::from(answer[6]), AlertDescription::ProtocolVersion);
}

/// The hello of a client that knows TLS 1.2 only (RFC 5246 section 7.4.1.2), written by hand since no rustls is built
/// here that could make one. It offers what a server of 1.2 would take.
fn tls_1_2_hello() -> Vec<u8> {
    let vector16 = |body: &[u8]| [&u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat();
    let extension = |kind: u16, body: &[u8]| [kind.to_be_bytes().as_slice(), &vector16(body)].concat();
    let extensions = [
        extension(0, &vector16(&[&[0][..], &vector16(b"localhost")].concat())),
        extension(10, &vector16(&[0x00, 0x1d, 0x00, 0x17])),
        extension(11, &[1, 0]),
        extension(13, &vector16(&[0x04, 0x03, 0x08, 0x04, 0x08, 0x07])),
        extension(16, &vector16(&[&[u8::try_from(ALPN.len()).unwrap()][..], ALPN].concat())),
        extension(23, &[]),
    ]
    .concat();
    let body = [
        &[0x03, 0x03][..],
        &[0x42; 32],
        &[0],
        &vector16(&[0xc0, 0x2b, 0xc0, 0x2f, 0xcc, 0xa9]),
        &[1, 0],
        &vector16(&extensions),
    ]
    .concat();
    let handshake = [&[1, 0][..], &vector16(&body)].concat();
    [&[22, 0x03, 0x01][..], &vector16(&handshake)].concat()
}

#[test]
fn refuses_pinned_certificate_with_other_key() {
    let (certificate, own_key) = identity();
    let (_, other_key) = identity();
    let pin = spki_sha256(&certificate).unwrap();
    let shake_hands_with = |key| {
        let key = crypto_provider().key_provider.load_private_key(key).unwrap();
        // Nothing checks here that the two belong together, as a thief of certificates would not.
        let certified = CertifiedKey::new(vec![certificate.clone()], key);
        let mut server = server(rustls::sign::SingleCertAndKey::from(certified));
        shake_hands(&mut client_with_pins([pin]), &mut server)
    };
    assert_eq!(shake_hands_with(other_key), Err(CertificateError::BadSignature.into()));
    assert_eq!(shake_hands_with(own_key), Ok(()));
}

#[test]
fn refuses_server_with_other_certificate() {
    let (pinned, shown) = (checked(identity()), checked(identity()));
    let mut server = server(ReloadableKey::new(shown));
    let error = shake_hands(&mut client_with_pins([pinned.pin().unwrap()]), &mut server).unwrap_err();
    assert_eq!(error, CertificateError::ApplicationVerificationFailure.into());
}

#[test]
fn one_of_several_pins_suffices() {
    let key = checked(identity());
    let pin = key.pin().unwrap();
    let reach = |pins: &[Pin]| {
        shake_hands(&mut client_with_pins(pins.to_vec()), &mut server(ReloadableKey::new(key.clone())))
    };
    assert_eq!(reach(&[Pin([0; 32]), pin]), Ok(()));
    assert!(reach(&[]).is_err());
}

#[test]
fn a_pin_reads_back_and_has_one_spelling() {
    let pin = checked(identity()).pin().unwrap();
    assert_eq!(pin.to_string().parse(), Ok(pin));
    for wrong in
        [format!("{pin}="), pin.to_string().replace("sha256", "sha1"), pin.to_string()[..49].to_owned()]
    {
        assert_eq!(wrong.parse::<Pin>(), Err(PinError), "{wrong}");
    }
}

#[test]
fn refuses_mismatched_key_before_serving() {
    let (certificate, _) = identity();
    let (_, other_key) = identity();
    let error = CheckedKey::new(vec![certificate], other_key).unwrap_err();
    assert_eq!(error, TlsError::Rustls(rustls::InconsistentKeys::KeyMismatch.into()));
}

#[test]
fn tells_dates_and_authority_and_refuses_neither() {
    let at = |year| -> SystemTime { date_time_ymd(year, 1, 1).into() };
    let (certificate, key) = identity_with(|params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let authority = CheckedKey::new(vec![certificate], key).unwrap();
    assert_eq!(*authority.validity(), at(2020)..=at(2021));
    assert!(authority.is_authority());
    assert!(!checked(identity()).is_authority());
}

#[test]
fn an_empty_chain_is_refused() {
    let (_, key) = identity();
    let error = CheckedKey::new(Vec::new(), key).unwrap_err();
    assert_eq!(error, TlsError::Rustls(Error::NoCertificatesPresented));
    let (_, key) = identity();
    let pem = KeyPair::try_from(key.secret_der()).unwrap().serialize_pem();
    assert!(CheckedKey::from_pem(b"no certificate", pem.as_bytes()).is_err());
}

#[test]
fn replaces_identity_while_serving() {
    let (old, new) = (checked(identity()), checked(identity()));
    let resolver = Arc::new(ReloadableKey::new(old.clone()));
    let config = server_config(Arc::clone(&resolver) as Arc<dyn ResolvesServerCert>).unwrap();
    let reach = |key: &CheckedKey| {
        let mut server = ServerConnection::new(Arc::clone(&config)).unwrap();
        shake_hands(&mut client_with_pins([key.pin().unwrap()]), &mut server)
    };
    assert_eq!(reach(&old), Ok(()));
    resolver.replace(new.clone());
    assert_eq!(reach(&new), Ok(()));
    assert!(reach(&old).is_err());
}

#[test]
fn a_pem_pair_reads_as_the_same_identity() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (chain, key) = (certificate.pem(), key.serialize_pem());
    let read = CheckedKey::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(read.pin(), spki_sha256(certificate.der()));
}
