//! How the client trusts a server, and what it says to its user when it does not: exit code 4 and what to do.

use std::{fs, path::Path, time::Duration};

use chan_tests::{Folder, Proxy, Server, port_of, run};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

const SERVICE: &str = r#"
[[service]]
name = "s"
password_file = "password"
mfa = ["echo", "start"]
"#;

/// `chan-client ping` at a URL with another way to trust.
fn ping(server: &Server, url: &str, more: &[&str]) -> (Option<i32>, String) {
    let (code, _, complaint) =
        run(server.client_at("ping", url, &server.folder.path().join("password")).args(more));
    (code, complaint)
}

#[track_caller]
fn says(complaint: &str, words: &[&str]) {
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    for word in words {
        assert!(complaint.contains(word), "no {word} in {complaint}");
    }
}

fn pin_of(url: &str) -> &str {
    url.rsplit_once("pin=").expect("a pin").1
}

#[test]
fn tofu_saves_key_and_refuses_another() {
    let (server, impostor) = (Server::start(SERVICE), Server::start(SERVICE));
    let proxy = Proxy::before(server.url("s"));
    let url = format!("chan://127.0.0.1:{}/s?tofu", port_of(&proxy.url(server.url("s"))));

    let (code, complaint) = ping(&server, &url, &[]);
    assert_eq!(code, Some(4), "{complaint}");
    says(&complaint, &["not known yet", pin_of(server.url("s")), "--accept-new", "not executed"]);

    assert_eq!(ping(&server, &url, &["--accept-new"]), (Some(0), String::new()));
    assert_eq!(ping(&server, &url, &[]), (Some(0), String::new()));

    proxy.redirect(impostor.url("s"));
    for consent in [&[][..], &["--accept-new"]] {
        let (code, complaint) = ping(&server, &url, consent);
        assert_eq!(code, Some(4), "{complaint}");
        let both = [pin_of(server.url("s")), pin_of(impostor.url("s"))];
        says(&complaint, &[both[0], both[1], "somebody may be intercepting", "ask the operator"]);
    }
    // The impostor was never told anything that it could have failed.
    assert!(
        !impostor.log.all().iter().any(|line| line.contains("\"service\":\"s\"")),
        "{:?}",
        impostor.log.all()
    );
    proxy.redirect(server.url("s"));
    assert_eq!(ping(&server, &url, &[]), (Some(0), String::new()));
}

#[test]
fn unsaved_accepted_key_is_warning() {
    let server = Server::start(SERVICE);
    let url = format!("chan://127.0.0.1:{}/s?tofu", port_of(server.url("s")));
    let mut client = server.client_at("ping", &url, &server.folder.path().join("password"));
    // Where nobody can make a file.
    let (code, _, complaint) = run(client.arg("--accept-new").env("XDG_CONFIG_HOME", "/proc"));
    assert_eq!(code, Some(0), "{complaint}");
    says(&complaint, &["warning", "not saved", "/proc/chan-client/known_hosts"]);
}

#[test]
fn wrong_pin_is_reported_with_shown_key() {
    let (server, other) = (Server::start(SERVICE), Server::start(SERVICE));
    let wrong = server.url("s").replace(pin_of(server.url("s")), pin_of(other.url("s")));
    let (code, complaint) = ping(&server, &wrong, &[]);
    assert_eq!(code, Some(4));
    says(&complaint, &[pin_of(server.url("s")), "which the URL does not pin", "ask the operator"]);
    // While a key is exchanged for another, both are pinned.
    let both = format!("{wrong},{}", pin_of(server.url("s")));
    assert_eq!(ping(&server, &both, &[]), (Some(0), String::new()));
}

/// A private authority of this name.
fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server with a certificate of that authority; the file with the authority's own lies beside it.
fn certified(
    authority: &CertifiedIssuer<'static, KeyPair>,
    host: &str,
    valid_for: Option<Duration>,
) -> Server {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([host.to_owned()]).unwrap();
    if let Some(valid_for) = valid_for {
        params.not_after = (std::time::SystemTime::now() + valid_for).into();
    }
    let certificate = params.signed_by(&key, authority).unwrap();
    let folder = Folder::new();
    folder.write("server.pem", &certificate.pem());
    folder.write("server.key", &key.serialize_pem());
    folder.write("ca.pem", &authority.pem());
    Server::start_in(folder, &format!("{SERVICE}\n[tls]\ncertificate = 'server.pem'\nkey = 'server.key'"))
}

fn by_authority(server: &Server, ca: &Path) -> String {
    format!("chan://localhost:{}/s?ca={}", port_of(server.url("s")), ca.display())
}

#[test]
fn private_authority_vouches_for_its_hosts_only() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let server = certified(&ours, "localhost", None);
    let ca = server.folder.path().join("ca.pem");
    assert_eq!(ping(&server, &by_authority(&server, &ca), &[]), (Some(0), String::new()));

    let other = server.folder.write("other.pem", &theirs.pem());
    let (code, complaint) = ping(&server, &by_authority(&server, &other), &[]);
    assert_eq!(code, Some(4), "{complaint}");
    says(&complaint, &["no authority that you trust", "?ca=FILE"]);

    let elsewhere = certified(&ours, "example.net", None);
    let (code, complaint) = ping(&elsewhere, &by_authority(&elsewhere, &ca), &[]);
    assert_eq!(code, Some(4), "{complaint}");
    says(&complaint, &["not valid for localhost but for example.net", "use that name, or pin the key"]);

    fs::write(&ca, "no certificate").unwrap();
    let (code, complaint) = ping(&server, &by_authority(&server, &ca), &[]);
    assert_eq!(code, Some(2), "{complaint}");
    says(&complaint, &["ca.pem", "no PEM certificate"]);
}

#[test]
fn system_authorities_vouch_for_their_certificates_only() {
    let authority = authority("the system's");
    let (certified, own) = (certified(&authority, "localhost", None), Server::start(SERVICE));
    // In place of those that this machine has, or has not.
    let ping = |server: &Server, authorities: &Path| {
        let url = format!("chan://localhost:{}/s?system", port_of(server.url("s")));
        let mut client = server.client_at("ping", &url, &server.folder.path().join("password"));
        let (code, _, complaint) = run(client.env("SSL_CERT_FILE", authorities).env_remove("SSL_CERT_DIR"));
        (code, complaint)
    };
    let authorities = certified.folder.path().join("ca.pem");
    assert_eq!(ping(&certified, &authorities), (Some(0), String::new()));
    let (code, complaint) = ping(&own, &authorities);
    assert_eq!(code, Some(4), "{complaint}");
    says(&complaint, &["no authority that you trust", "pin", "not executed"]);

    let none = own.folder.write("none.pem", "");
    let (code, complaint) = ping(&own, &none);
    assert_eq!(code, Some(2), "{complaint}");
    says(&complaint, &["the system's certificate authorities", "pin the server's key instead"]);
}

#[test]
fn expired_certificate_is_reported_but_pin_works() {
    let authority = authority("ours");
    let server = certified(&authority, "localhost", Some(Duration::from_secs(4)));
    let url = by_authority(&server, &server.folder.path().join("ca.pem"));
    // It is valid when the server starts, which would refuse another, and not much longer.
    let (code, complaint) =
        (0..1000).map(|_| ping(&server, &url, &[])).find(|(code, _)| *code != Some(0)).unwrap();
    assert_eq!(code, Some(4), "{complaint}");
    says(&complaint, &["expired on 20", "its operator has to renew it", "not executed"]);
    assert_eq!(ping(&server, server.url("s"), &[]), (Some(0), String::new()));
}
