//! The golden vectors that an independent program made (`tests/vectors/auth.py`).

use serde_json::Value;

use super::*;
use crate::auth::{PasswordVerifier, Transcript};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../../tests/vectors/auth.json")).unwrap()
}

fn bytes<const N: usize>(vector: &Value, field: &str) -> [u8; N] {
    hex(text(vector, field)).try_into().unwrap()
}

fn hex(digits: &str) -> Vec<u8> {
    assert!(digits.len().is_multiple_of(2));
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn text<'v>(vector: &'v Value, field: &str) -> &'v str {
    vector[field].as_str().unwrap()
}

/// The vectors of one kind; there are some.
fn vectors_of(kind: &str) -> Vec<Value> {
    let of_kind = vectors()[kind].as_array().unwrap().clone();
    assert!(!of_kind.is_empty());
    of_kind
}

fn parameters_of(vector: &Value) -> SessionParameters {
    let [frame, window, heartbeat] =
        [0, 1, 2].map(|at| u32::try_from(vector["parameters"][at].as_u64().unwrap()).unwrap());
    SessionParameters::new(frame, window, heartbeat).unwrap()
}

#[test]
fn passwords_give_the_bytes_of_the_independent_program() {
    for vector in vectors_of("password") {
        let (name, client) =
            (service(text(&vector, "service")), ClientId::new(text(&vector, "client")).unwrap());
        let name_key = NameKey::new(Secret::new(bytes(&vector, "name_key")));
        let salt = name_key.salt(&name, &client);
        assert_eq!(salt, Salt(bytes(&vector, "salt")));

        let expected: PasswordVerifier = text(&vector, "verifier").parse().unwrap();
        let password = Password::new(text(&vector, "password")).unwrap();
        let keys = DerivedKeys::derive(&password, &salt, expected.params()).unwrap();
        assert_eq!(*keys.verifier(&salt, expected.params()).to_line(), text(&vector, "verifier"));

        let verifier = AccountVerifier::Password(expected);
        let accounts = [account(text(&vector, "service"), text(&vector, "client"), verifier)];
        let (directory, _) = Directory::new(name_key, Secret::new([1; 32]), accounts).unwrap();
        let exporter = Exporter::new(Secret::new(bytes(&vector, "ekm")));
        let start = start_with_password(exporter.clone(), name, client, bytes(&vector, "client_nonce"));
        let server =
            ExpectHello::new(&directory, exporter, parameters_of(&vector), bytes(&vector, "server_nonce"));
        let challenge = server.handle(&start.send[2..]).unwrap();
        let proof = start.next.handle(&challenge.send[2..]).unwrap().prove(&keys).unwrap();
        check(&vector, &start.send, challenge, proof);
    }
}

#[test]
fn keys_give_the_bytes_of_the_independent_program() {
    for vector in vectors_of("key") {
        let (name, client) =
            (service(text(&vector, "service")), ClientId::new(text(&vector, "client")).unwrap());
        let key = PrivateKey::from_file_contents(text(&vector, "key_file").as_bytes()).unwrap();
        assert_eq!(key.public_key().to_string(), text(&vector, "key_line"));
        assert_eq!(key.to_file_contents().trim_end(), text(&vector, "key_file"));

        let verifier = AccountVerifier::Key(text(&vector, "key_line").parse().unwrap());
        let accounts = [account(text(&vector, "service"), text(&vector, "client"), verifier)];
        let name_key = NameKey::new(Secret::new([7; 32]));
        let (directory, _) = Directory::new(name_key, Secret::new([1; 32]), accounts).unwrap();
        let exporter = Exporter::new(Secret::new(bytes(&vector, "ekm")));
        let Step { next, send } =
            start_with_key(&exporter, name, client, &key, bytes(&vector, "client_nonce")).unwrap();
        let (hello, proof) = messages(send);
        let server = ExpectHello::new(&directory, exporter, parameters_of(&vector), [0; 32]);
        let challenge = server.handle(&hello[2..]).unwrap();
        check(&vector, &hello, challenge, Step { next, send: proof });
    }
}

/// All messages, and that they end in a session.
fn check(vector: &Value, hello: &[u8], challenge: Step<ExpectProof<'_>>, proof: Step<ExpectAccept>) {
    let exporter = Exporter::new(Secret::new(bytes(vector, "ekm")));
    assert_eq!(hello, hex(text(vector, "m1")));
    assert_eq!(challenge.send, hex(text(vector, "m2")));
    let transcript: [u8; 32] = bytes(vector, "transcript");
    let signed = Transcript::new(&exporter, hello, &challenge.send).to_be_signed();
    assert_eq!(signed[26..], transcript);
    assert_eq!(proof.send, hex(text(vector, "m3")));
    let verdict = challenge.next.handle(&proof.send[2..], |_| true).unwrap();
    assert_eq!(verdict.send, hex(text(vector, "m4")));
    let Verdict::Accepted(server_end) = verdict.next else { panic!("refused") };
    let client_end = proof.next.handle(&verdict.send[2..]).unwrap();
    for end in [client_end, server_end] {
        assert_eq!(end.service().as_str(), text(vector, "service"));
        assert_eq!(end.client().as_str(), text(vector, "client"));
        assert_eq!(end.parameters(), parameters_of(vector));
    }
}

#[test]
fn refuses_all_small_order_encodings() {
    let encodings = vectors_of("small_order");
    // Eight points, two of them with two signs of x = 0, and the two y below 19 - 17 spelled unreduced.
    assert_eq!(encodings.len(), 14);
    for encoding in encodings {
        let key: [u8; 32] = hex(encoding.as_str().unwrap()).try_into().unwrap();
        assert!(PublicKey::from_bytes(key).is_err(), "{encoding}");
    }
}
