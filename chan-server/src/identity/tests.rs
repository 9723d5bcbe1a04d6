use super::*;

fn state() -> (tempfile::TempDir, StateDir) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::at(directory.path().join("state"));
    (directory, state)
}

#[test]
fn an_identity_is_made_once_and_stays() {
    let (_directory, state) = state();
    let first = Identity::in_state(&state).unwrap();
    let second = Identity::in_state(&state).unwrap();
    assert_eq!(first.pin(), second.pin());
    let (_other, other) = self::state();
    assert_ne!(Identity::in_state(&other).unwrap().pin(), first.pin());
}

#[test]
fn lost_certificate_is_made_again_for_key() {
    let (_directory, state) = state();
    let first = Identity::in_state(&state).unwrap();
    fs::remove_file(state.file("certificate.pem")).unwrap();
    assert_eq!(Identity::in_state(&state).unwrap().pin(), first.pin());
}

#[test]
fn the_name_key_is_made_once_and_stays() {
    let (_directory, state) = state();
    assert!(state.known_name_key().unwrap().is_none());
    let first = state.name_key().unwrap();
    assert_eq!(state.name_key().unwrap().expose(), first.expose());
    assert_eq!(state.known_name_key().unwrap().unwrap().expose(), first.expose());
}

#[test]
fn pin_matches_key_file() {
    let (_directory, state) = state();
    let identity = Identity::in_state(&state).unwrap();
    let pem = fs::read_to_string(state.file("key.pem")).unwrap();
    let pair = rcgen::KeyPair::from_pem(&pem).unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&pair);
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki);
    assert_eq!(identity.pin().0.as_slice(), hash.as_ref());
}

#[test]
fn refuses_key_of_other_certificate() {
    let ((_one, one), (_two, two)) = (state(), state());
    Identity::in_state(&one).unwrap();
    Identity::in_state(&two).unwrap();
    let error = Identity::from_files(&one.file("certificate.pem"), &two.file("key.pem")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("key.pem is not the key that belongs to"), "{text}");
}

#[test]
fn refuses_exposed_secrets_with_fix() {
    use std::os::unix::fs::PermissionsExt;
    let (_directory, state) = state();
    Identity::in_state(&state).unwrap();
    state.name_key().unwrap();
    for name in ["key.pem", "name.key"] {
        let path = state.file(name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    }
    let text = Identity::in_state(&state).unwrap_err().to_string();
    assert!(text.contains("run: chmod 600 /") && text.ends_with("key.pem"), "{text}");
    let text = state.name_key().unwrap_err().to_string();
    assert!(text.contains("run: chmod 600 /") && text.ends_with("name.key"), "{text}");
}

#[test]
fn warns_of_dates_and_authorities() {
    let day = 24 * 60 * 60;
    let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * day);
    let identity = |is_ca| {
        let directory = tempfile::tempdir().unwrap();
        let pair = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (at(10_000).into(), at(20_000).into());
        if is_ca {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        let (certificate, key) = (directory.path().join("c"), directory.path().join("k"));
        fs::write(&certificate, params.self_signed(&pair).unwrap().pem()).unwrap();
        private::create(&key, pair.serialize_pem().as_bytes()).unwrap();
        Identity::from_files(&certificate, &key).unwrap()
    };
    let said = |days| {
        let warnings = identity(false).warnings(at(days)).into_iter();
        warnings.map(|warning| (warning.text, warning.is_fatal)).collect::<Vec<_>>()
    };
    assert_eq!(said(10_001), []);
    assert_eq!(said(19_970), []);
    assert_eq!(said(19_971), [("expires on 2024-10-04, 29 days from now; renew it".into(), false)]);
    let still = "clients that pin its key still accept it";
    assert_eq!(said(20_001), [(format!("expired on 2024-10-04; renew it; {still}"), true)]);
    let early = "is not valid before 1997-05-19, by the clock of this machine";
    assert_eq!(said(4), [(format!("{early}; {still}"), true)]);
    assert!(identity(true).warnings(at(10_001))[0].text.contains("CA:TRUE"));
}

#[test]
fn says_how_to_decrypt_a_key() {
    let (_directory, state) = state();
    Identity::in_state(&state).unwrap();
    let key = state.file("encrypted.pem");
    private::create(&key, b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIH\n").unwrap();
    let error = Identity::from_files(&state.file("certificate.pem"), &key).unwrap_err().to_string();
    assert!(error.contains("is encrypted") && error.contains("openssl pkey -in "), "{error}");
}

#[test]
fn check_creates_nothing_and_finds_faults() {
    let (_directory, state) = state();
    state.check(true).unwrap();
    assert!(!state.path().exists());
    Identity::in_state(&state).unwrap();
    state.check(true).unwrap();
    fs::remove_file(state.file("key.pem")).unwrap();
    private::create(&state.file("key.pem"), b"no key").unwrap();
    assert!(state.check(true).unwrap_err().to_string().contains("holds no private key in PEM"));
    state.check(false).unwrap();
}

#[test]
fn broken_files_are_refused_and_not_replaced() {
    let (_directory, state) = state();
    state.create().unwrap();
    private::create(&state.file("key.pem"), b"no key").unwrap();
    private::create(&state.file("name.key"), b"short").unwrap();
    assert!(Identity::in_state(&state).unwrap_err().to_string().contains("holds no private key in PEM"));
    assert!(state.name_key().unwrap_err().to_string().contains("is not a name key of 32 bytes"));
    assert_eq!(fs::read(state.file("key.pem")).unwrap(), b"no key");
}

#[test]
fn urls_name_client_and_bracket_ipv6() {
    let (_directory, state) = state();
    let identity = Identity::in_state(&state).unwrap();
    let tail = format!("?pin={}", identity.pin());
    assert_eq!(url("", "localhost", 1234, "echo", &identity), format!("chan://localhost:1234/echo{tail}"));
    assert_eq!(url("joe", "::1", 1, "kv", &identity), format!("chan://joe@[::1]:1/kv{tail}"));
    let next = state.announce_key().unwrap();
    let identity = Identity::in_state(&state).unwrap();
    assert_eq!(url("", "a.b", 1, "kv", &identity), format!("chan://a.b:1/kv{tail},{next}"));
}

#[test]
fn rotated_key_is_the_announced_one() {
    let (_directory, state) = state();
    let old = Identity::in_state(&state).unwrap();
    assert!(state.rotate_key().unwrap_err().to_string().contains("identity --next"));
    let next = state.announce_key().unwrap();
    assert_eq!(state.announce_key().unwrap(), next, "announced once");
    assert_eq!(Identity::in_state(&state).unwrap().pin(), old.pin());
    let rotated = state.rotate_key().unwrap();
    assert_eq!((rotated.pin(), rotated.next_pin()), (next, None));
    assert_eq!(Identity::in_state(&state).unwrap().pin(), next);
}

#[test]
fn rotation_cut_anywhere_leaves_an_identity() {
    let (_directory, state) = state();
    let old = Identity::in_state(&state).unwrap().pin();
    let next = state.announce_key().unwrap();
    fs::remove_file(state.file("certificate.pem")).unwrap();
    assert_eq!(Identity::in_state(&state).unwrap().pin(), old);
    fs::remove_file(state.file("certificate.pem")).unwrap();
    fs::rename(state.file("next-key.pem"), state.file("key.pem")).unwrap();
    assert_eq!(Identity::in_state(&state).unwrap().pin(), next);
}
