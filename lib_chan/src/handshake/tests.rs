//! The two machines against each other, and against those who come between them.
//!
//! Longer than other files, because all attacks start from the same two machines, messages and directories.

use std::sync::Arc;

use super::client::{
    ClientHandshakeError, ExpectAccept, ExpectPasswordChallenge, start_with_key, start_with_password,
};
use super::server::{ExpectHello, ExpectProof, Verdict};
use super::*;
use crate::auth::{
    Account, AccountVerifier, Argon2Params, DerivedKeys, Directory, DirectoryError, DirectoryWarning,
    Exporter, NameKey, RefusalCause, Salt, runs_with,
};
use crate::secret::{Password, PrivateKey, PublicKey, Secret};

mod vectors;

/// A server with one client of each kind, and what the clients prove themselves with.
struct World {
    directory: Directory,
    keys: DerivedKeys,
    key: PrivateKey,
}

const PASSWORD_SERVICE: &str = "name_server";
const KEY_SERVICE: &str = "redis";

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl Fn(&mut Account)) -> Self {
        Self::with_nobody([99; 32], change)
    }

    fn with_nobody(nobody: [u8; 32], change: impl Fn(&mut Account)) -> Self {
        let (keys, key) = (derived_keys(1), private_key(3));
        let name_key = NameKey::new(Secret::new([7; 32]));
        let salt = name_key.salt(&service(PASSWORD_SERVICE), &ClientId::default());
        let verifier = AccountVerifier::Password(keys.verifier(&salt, Argon2Params::DEFAULT));
        let mut accounts = [
            account(PASSWORD_SERVICE, "", verifier),
            account(KEY_SERVICE, "joe", AccountVerifier::Key(key.public_key())),
        ];
        accounts.iter_mut().for_each(change);
        let (directory, warnings) = Directory::new(name_key, Secret::new(nobody), accounts).unwrap();
        assert_eq!(warnings, []);
        Self { directory, keys, key }
    }

    fn server(&self, exporter: u8, nonce: u8) -> ExpectHello<'_> {
        ExpectHello::new(&self.directory, ekm(exporter), parameters(), [nonce; 32])
    }
}

fn account(service_name: &str, client: &str, verifier: AccountVerifier) -> Account {
    let client = ClientId::new(client).unwrap();
    Account { service: service(service_name), client, verifier, enabled: true, index: 0 }
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn private_key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(Secret::new([seed; 32])).unwrap()
}

/// As if they had been derived from a password.
fn derived_keys(seed: u8) -> DerivedKeys {
    DerivedKeys { client: private_key(seed), server: Secret::new([seed + 1; 32]) }
}

fn ekm(byte: u8) -> Exporter {
    Exporter::new(Secret::new([byte; 32]))
}

fn parameters() -> SessionParameters {
    SessionParameters::new(1 << 20, 256 << 10, 15_000).unwrap()
}

/// A client of either kind, after its hello. The proof of a key has left right behind it.
enum Client<'w> {
    Password(ExpectPasswordChallenge, &'w DerivedKeys),
    Key(Box<Step<ExpectAccept>>),
}

impl<'w> Client<'w> {
    fn start(world: &'w World, mechanism: Mechanism, exporter: Exporter) -> (Self, Vec<u8>) {
        match mechanism {
            Mechanism::Password => {
                let Step { next, send } =
                    start_with_password(exporter, service(PASSWORD_SERVICE), ClientId::default(), [11; 32]);
                (Self::Password(next, &world.keys), send)
            }
            Mechanism::Key => {
                let client = ClientId::new("joe").unwrap();
                let Step { next, send } =
                    start_with_key(&exporter, service(KEY_SERVICE), client, &world.key, [11; 32]).unwrap();
                let (hello, proof) = messages(send);
                (Self::Key(Box::new(Step { next, send: proof })), hello)
            }
        }
    }

    fn handle(self, challenge: &[u8]) -> Result<Step<ExpectAccept>, Failure> {
        match self {
            Self::Password(state, keys) => {
                let body = received(challenge, ExpectPasswordChallenge::MAX_LEN)?;
                Ok(state.handle(body)?.prove(keys)?)
            }
            Self::Key(step) if challenge.is_empty() => Ok(*step),
            // It expects the answer to its proof.
            Self::Key(step) => {
                let accepted = step.next.handle(received(challenge, ExpectAccept::MAX_LEN)?);
                Err(accepted.expect_err("accepted by a challenge").into())
            }
        }
    }
}

/// How a login failed, at whichever end.
#[derive(Debug, PartialEq)]
enum Failure {
    /// The message is shorter than it says, so that its reader waits for ever.
    Waits,
    Server(Misbehaviour),
    Client(ClientHandshakeError),
}

impl From<Misbehaviour> for Failure {
    fn from(misbehaviour: Misbehaviour) -> Self {
        Self::Server(misbehaviour)
    }
}

impl From<ClientHandshakeError> for Failure {
    fn from(error: ClientHandshakeError) -> Self {
        Self::Client(error)
    }
}

/// The first message, and the one that was sent together with it.
fn messages(mut wire: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let len = usize::from(u16::from_be_bytes([wire[0], wire[1]]));
    let second = wire.split_off(2 + len);
    (wire, second)
}

/// What a driver does: the length, then as much as it says.
fn received(wire: &[u8], max_len: usize) -> Result<&[u8], Failure> {
    let (prefix, rest) = wire.split_first_chunk().ok_or(Failure::Waits)?;
    let len = checked_len(*prefix, max_len)?;
    rest.get(..len).ok_or(Failure::Waits)
}

/// A whole login, in which `change` may change every message on its way, numbered from 1. Gives the client's end, and
/// whether the server accepted.
fn login(
    world: &World,
    mechanism: Mechanism,
    exporters: (Exporter, Exporter),
    mut change: impl FnMut(usize, &mut Vec<u8>),
) -> (Result<Authenticated, Failure>, bool) {
    let mut accepted = false;
    let mut run = || {
        let server = ExpectHello::new(&world.directory, exporters.1.clone(), parameters(), [22; 32]);
        let (client, mut hello) = Client::start(world, mechanism, exporters.0.clone());
        change(1, &mut hello);
        let mut challenge = server.handle(received(&hello, ExpectHello::MAX_LEN)?)?;
        change(2, &mut challenge.send);
        let mut proof = client.handle(&challenge.send)?;
        change(3, &mut proof.send);
        let mut verdict = challenge.next.handle(received(&proof.send, ExpectProof::MAX_LEN)?, |_| true)?;
        accepted = matches!(verdict.next, Verdict::Accepted(_));
        change(4, &mut verdict.send);
        Ok(proof.next.handle(received(&verdict.send, ExpectAccept::MAX_LEN)?)?)
    };
    let client_end = run();
    (client_end, accepted)
}

const MECHANISMS: [Mechanism; 2] = [Mechanism::Password, Mechanism::Key];

#[test]
fn both_ends_agree_on_who_may_do_what() {
    let world = World::new();
    for mechanism in MECHANISMS {
        let (client_end, accepted) = login(&world, mechanism, (ekm(1), ekm(1)), |_, _| {});
        let client_end = client_end.unwrap();
        assert!(accepted);
        assert_eq!(client_end.side(), Side::Client);
        assert_eq!(client_end.mechanism(), mechanism);
        assert_eq!(client_end.parameters(), parameters());
    }
}

#[test]
fn a_pair_in_memory_has_both_ends() {
    let (client, server) = pair_in_memory(parameters(), [5; 32]).unwrap();
    assert_eq!((client.side(), server.side()), (Side::Client, Side::Server));
    assert_eq!((client.service(), client.client()), (server.service(), server.client()));
    assert_eq!((client.parameters(), server.parameters()), (parameters(), parameters()));
}

#[test]
fn no_bit_of_any_message_can_be_changed() {
    let world = World::new();
    for mechanism in MECHANISMS {
        let mut lengths = Vec::new();
        login(&world, mechanism, (ekm(1), ekm(1)), |_, wire| lengths.push(wire.len())).0.unwrap();
        assert_eq!(lengths.len(), 4);
        for (number, len) in (1..).zip(lengths) {
            for bit in 0..len * 8 {
                let (client_end, accepted) = login(&world, mechanism, (ekm(1), ekm(1)), |n, wire| {
                    if n == number {
                        wire[bit / 8] ^= 1 << (bit % 8);
                    }
                });
                assert!(client_end.is_err(), "{mechanism}: the client believed M{number}, bit {bit}");
                // What is changed in the last message comes after the server's decision, which was right.
                assert_eq!(accepted, number == 4, "{mechanism}: M{number}, bit {bit}");
            }
        }
    }
}

#[test]
fn no_bit_of_the_exporter_can_differ() {
    let world = World::new();
    for mechanism in MECHANISMS {
        for bit in 0..256 {
            let mut other = [1; 32];
            other[bit / 8] ^= 1 << (bit % 8);
            let other = Exporter::new(Secret::new(other));
            let (client_end, accepted) = login(&world, mechanism, (ekm(1), other), |_, _| {});
            assert!(!accepted);
            assert_eq!(client_end.unwrap_err(), Failure::Client(ClientHandshakeError::Refused));
        }
    }
}

#[test]
fn an_accept_under_another_exporter_is_not_believed() {
    // Even if the server took the proof: the mac is another.
    let world = World::new();
    let mut accept = Vec::new();
    login(&world, Mechanism::Key, (ekm(1), ekm(1)), |n, wire| {
        if n == 4 {
            accept.clone_from(wire);
        }
    })
    .0
    .unwrap();
    let (client_end, _) = login(&world, Mechanism::Key, (ekm(2), ekm(2)), |n, wire| {
        if n == 4 {
            wire.clone_from(&accept);
        }
    });
    assert_eq!(client_end.unwrap_err(), Failure::Client(ClientHandshakeError::WrongServerProof));
}

#[test]
fn refuses_a_relayed_login() {
    // The client is connected to the attacker, who is connected to the server and passes every message on.
    let world = World::new();
    for mechanism in MECHANISMS {
        let (client_end, accepted) = login(&world, mechanism, (ekm(1), ekm(2)), |_, _| {});
        assert!(!accepted);
        assert_eq!(client_end.unwrap_err(), Failure::Client(ClientHandshakeError::Refused));
    }
}

#[test]
fn refuses_a_replayed_login() {
    let world = World::new();
    for mechanism in MECHANISMS {
        let mut said = vec![Vec::new(); 5];
        login(&world, mechanism, (ekm(1), ekm(1)), |n, wire| said[n].clone_from(wire)).0.unwrap();
        let server = match mechanism {
            // Not even on the same connection, were that possible: the server's nonce is another.
            Mechanism::Password => world.server(1, 23),
            // A connection has one login, and another connection has another exporter.
            Mechanism::Key => world.server(2, 22),
        };
        let Step { next, .. } = server.handle(&said[1][2..]).unwrap();
        let Step { next, send } = next.handle(&said[3][2..], |_| true).unwrap();
        assert!(matches!(next, Verdict::Refused(refusal) if refusal.cause == RefusalCause::WrongProof));
        assert_eq!(send, REFUSAL);
        // With every input the same as in the recorded login it is accepted, so the test can fail.
        let Step { next, .. } = world.server(1, 22).handle(&said[1][2..]).unwrap();
        let Step { next, .. } = next.handle(&said[3][2..], |_| true).unwrap();
        assert!(matches!(next, Verdict::Accepted(_)));
    }
}

#[test]
fn refuses_its_own_messages_reflected() {
    let world = World::new();
    for mechanism in MECHANISMS {
        let (client, hello) = Client::start(&world, mechanism, ekm(1));
        assert!(matches!(
            client.handle(&hello).unwrap_err(),
            Failure::Server(_) | Failure::Client(ClientHandshakeError::ServerMisbehaved(_))
        ));

        let (client, hello) = Client::start(&world, mechanism, ekm(1));
        let Step { next: server, send: challenge } = world.server(1, 22).handle(&hello[2..]).unwrap();
        let proof = client.handle(&challenge).unwrap();
        assert!(proof.next.handle(&proof.send[2..]).is_err());

        // And at the server: its challenge as a hello and as a proof.
        let challenge = challenge.get(2..).unwrap_or_default();
        assert!(world.server(1, 22).handle(challenge).is_err());
        assert!(matches!(server.handle(challenge, |_| true), Err(Misbehaviour::Malformed(_))));
    }
}

#[test]
fn a_stolen_verifier_logs_nobody_in() {
    let world = World::new();
    let public_key = *world.keys.client.public_key().as_bytes();
    let server_key = *world.keys.server.expose();
    let mut halves = [0; 64];
    halves[..32].copy_from_slice(&public_key);
    halves[32..].copy_from_slice(&server_key);

    let hello = start_with_password(ekm(1), service(PASSWORD_SERVICE), ClientId::default(), [11; 32]);
    for seed in [public_key, server_key] {
        let thief = DerivedKeys {
            client: PrivateKey::from_seed(Secret::new(seed)).unwrap(),
            server: Secret::new(server_key),
        };
        let challenge = world.server(1, 22).handle(&hello.send[2..]).unwrap();
        let start = start_with_password(ekm(1), service(PASSWORD_SERVICE), ClientId::default(), [11; 32]);
        let proof = start.next.handle(&challenge.send[2..]).unwrap().prove(&thief).unwrap();
        let verdict = challenge.next.handle(&proof.send[2..], |_| true).unwrap();
        assert_refused(&verdict, RefusalCause::WrongProof);
    }
    let challenge = world.server(1, 22).handle(&hello.send[2..]).unwrap();
    assert_refused(&challenge.next.handle(&halves, |_| true).unwrap(), RefusalCause::WrongProof);
}

#[test]
fn stolen_configuration_opens_no_second_server() {
    // Two servers with one configuration. Whoever runs the first one by now has all of it, and saw a whole login there.
    let (first, second) = (World::new(), World::with_nobody([98; 32], |_| {}));
    let mut said = vec![Vec::new(); 5];
    login(&first, Mechanism::Password, (ekm(1), ekm(1)), |n, wire| said[n].clone_from(wire)).0.unwrap();

    // The second server even happens to use the same nonce: only the connection is another.
    let Step { next, send } = second.server(2, 22).handle(&said[1][2..]).unwrap();
    assert_eq!(send, said[2]);
    assert_refused(&next.handle(&said[3][2..], |_| true).unwrap(), RefusalCause::WrongProof);

    // Whatever can be computed of the proof and the verifier by exclusive or, as RFC 5802 section 9 has it.
    for stolen in [first.keys.server.expose(), first.keys.client.public_key().as_bytes()] {
        for half in said[3][2..].chunks_exact(32) {
            let mut seed = [0; 32];
            for (to, (a, b)) in seed.iter_mut().zip(half.iter().zip(stolen)) {
                *to = a ^ b;
            }
            let thief = DerivedKeys {
                client: PrivateKey::from_seed(Secret::new(seed)).unwrap(),
                server: Secret::new([0; 32]),
            };
            let start = start_with_password(ekm(2), service(PASSWORD_SERVICE), ClientId::default(), [11; 32]);
            let challenge = second.server(2, 22).handle(&start.send[2..]).unwrap();
            let proof = start.next.handle(&challenge.send[2..]).unwrap().prove(&thief).unwrap();
            let verdict = challenge.next.handle(&proof.send[2..], |_| true).unwrap();
            assert_refused(&verdict, RefusalCause::WrongProof);
        }
    }
}

#[test]
fn a_server_without_the_verifier_is_not_believed() {
    let world = World::new();
    let impostor = World::with(|account| {
        if let AccountVerifier::Password(verifier) = &account.verifier {
            // It has the public key and takes the proof for good, but not the secret field of the verifier.
            let line = verifier.to_line();
            let (most, _) = line.rsplit_once('$').unwrap();
            let forged = format!("{most}$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
            account.verifier = AccountVerifier::Password(forged.parse().unwrap());
        }
    });
    let (client, hello) = Client::start(&world, Mechanism::Password, ekm(1));
    let challenge = impostor.server(1, 22).handle(&hello[2..]).unwrap();
    let proof = client.handle(&challenge.send).unwrap();
    let verdict = challenge.next.handle(&proof.send[2..], |_| true).unwrap();
    assert!(matches!(verdict.next, Verdict::Accepted(_)));
    assert_eq!(proof.next.handle(&verdict.send[2..]).unwrap_err(), ClientHandshakeError::WrongServerProof);
}

#[test]
fn refuses_impossible_session_with_right_mac() {
    // The bounds are the client's own, so a server that has the verifier is held to them too.
    let world = World::new();
    let (client, hello) = Client::start(&world, Mechanism::Password, ekm(1));
    let unreasonable = SessionParameters::unchecked(1 << 30, 256 << 10, 15_000);
    let server = ExpectHello::new(&world.directory, ekm(1), unreasonable, [22; 32]);
    let challenge = server.handle(&hello[2..]).unwrap();
    let proof = client.handle(&challenge.send).unwrap();
    let verdict = challenge.next.handle(&proof.send[2..], |_| true).unwrap();
    let misbehaviour = Misbehaviour::Parameters(ParametersError::FrameLen(1 << 30));
    assert_eq!(
        proof.next.handle(&verdict.send[2..]).unwrap_err(),
        ClientHandshakeError::ServerMisbehaved(misbehaviour)
    );
}

/// The one refusal: its length, and one byte.
const REFUSAL: &[u8] = &[0, 1, 1];

fn assert_refused(step: &Step<Verdict>, cause: RefusalCause) {
    assert_eq!(step.send, REFUSAL);
    assert!(matches!(&step.next, Verdict::Refused(refusal) if refusal.cause == cause), "{:?}", step.next);
}

/// What a stranger without any credential gets to see: the challenge and the answer to a wrong proof.
fn as_seen_by_a_stranger(
    world: &World,
    service_name: &str,
    client: &str,
    mechanism: Mechanism,
) -> (Vec<u8>, Vec<u8>, RefusalCause) {
    let client = ClientId::new(client).unwrap();
    let stranger = private_key(50);
    let hello = match mechanism {
        Mechanism::Password => start_with_password(ekm(1), service(service_name), client, [11; 32]).send,
        Mechanism::Key => hello_with_key(service(service_name), client, &stranger),
    };
    let Step { next, send: challenge } = world.server(1, 22).handle(&hello[2..]).unwrap();
    let proof = stranger.sign(&[0; 58]).unwrap();
    let Step { next, send: answer } = next.handle(&proof, |_| true).unwrap();
    let Verdict::Refused(refusal) = next else { panic!("a stranger was accepted") };
    (challenge, answer, refusal.cause)
}

/// The hello of a login with a key.
fn hello_with_key(service: ServiceName, client: ClientId, key: &PrivateKey) -> Vec<u8> {
    messages(start_with_key(&ekm(1), service, client, key, [11; 32]).unwrap().send).0
}

#[test]
fn known_and_unknown_names_look_alike() {
    let known = World::new();
    // The same server before either service was configured, and after a restart: another key pair of nobody.
    let unknown = Directory::new(NameKey::new(Secret::new([7; 32])), Secret::new([97; 32]), []).unwrap().0;
    let unknown = World { directory: unknown, ..World::new() };
    let restarted = World::with_nobody([96; 32], |_| {});
    let disabled = World::with(|account| account.enabled = false);

    for (name, client) in [(PASSWORD_SERVICE, ""), (KEY_SERVICE, "joe"), (KEY_SERVICE, ""), ("none", "")] {
        for mechanism in MECHANISMS {
            let (challenge, answer, _) = as_seen_by_a_stranger(&known, name, client, mechanism);
            for other in [&unknown, &restarted, &disabled] {
                let (same_challenge, same_answer, _) = as_seen_by_a_stranger(other, name, client, mechanism);
                assert_eq!(challenge, same_challenge, "{name} {client} {mechanism}");
                assert_eq!(answer, same_answer, "{name} {client} {mechanism}");
            }
            assert_eq!(answer, REFUSAL);
        }
    }
    // Names do have salts of their own, and another name key gives others.
    let salt = |world, name| as_seen_by_a_stranger(world, name, "", Mechanism::Password).0;
    assert_ne!(salt(&known, "none"), salt(&known, "neither"));
    let elsewhere = Directory::new(NameKey::new(Secret::new([8; 32])), Secret::new([97; 32]), []).unwrap().0;
    assert_ne!(salt(&known, "none"), salt(&World { directory: elsewhere, ..World::new() }, "none"));
}

#[test]
fn log_has_cause_peer_has_one_byte() {
    let world = World::new();
    let cause = |name, client, mechanism| {
        let (_, answer, cause) = as_seen_by_a_stranger(&world, name, client, mechanism);
        assert_eq!(answer, REFUSAL);
        cause
    };
    assert_eq!(cause("none", "", Mechanism::Password), RefusalCause::UnknownService);
    assert_eq!(cause(PASSWORD_SERVICE, "eve", Mechanism::Password), RefusalCause::UnknownClient);
    assert_eq!(cause(PASSWORD_SERVICE, "", Mechanism::Key), RefusalCause::OtherMechanism);
    assert_eq!(cause(KEY_SERVICE, "joe", Mechanism::Password), RefusalCause::OtherMechanism);
    assert_eq!(cause(PASSWORD_SERVICE, "", Mechanism::Password), RefusalCause::WrongProof);
    assert_eq!(cause(KEY_SERVICE, "joe", Mechanism::Key), RefusalCause::WrongProof);
}

#[test]
fn refuses_right_proof_of_disabled_client() {
    let disabled = World::with(|account| account.enabled = false);
    let enabled = World::new();
    for mechanism in MECHANISMS {
        for (world, allowed, cause) in [
            (&disabled, true, RefusalCause::Disabled),
            (&disabled, false, RefusalCause::Disabled),
            (&enabled, false, RefusalCause::SourceNotAllowed),
        ] {
            let (client, hello) = Client::start(world, mechanism, ekm(1));
            let challenge = world.server(1, 22).handle(&hello[2..]).unwrap();
            let proof = client.handle(&challenge.send).unwrap();
            let verdict = challenge.next.handle(&proof.send[2..], |_| allowed).unwrap();
            assert_refused(&verdict, cause);
            assert_eq!(proof.next.handle(&verdict.send[2..]).unwrap_err(), ClientHandshakeError::Refused);
        }
    }
}

#[test]
fn directory_refuses_small_order_forgeries() {
    // With S = 0 and R = the neutral point, the equation holds whenever the hash is a multiple of the key's order.
    let mut forged = [0; 64];
    forged[0] = 1;
    let zeros = PublicKey::unchecked([0; 32]);
    let world = World::new();
    let mut accepted_by_library = 0;
    for nonce in 0..64 {
        let hello = start_with_password(ekm(1), service("none"), ClientId::default(), [nonce; 32]);
        let challenge = world.server(1, 22).handle(&hello.send[2..]).unwrap();
        let transcript = crate::auth::Transcript::new(&ekm(1), &hello.send, &challenge.send);
        accepted_by_library += usize::from(zeros.verifies(&transcript.to_be_signed(), &forged));
        let verdict = challenge.next.handle(&forged, |_| true).unwrap();
        assert_refused(&verdict, RefusalCause::UnknownService);
    }
    // This is why nobody's key is a real one, and why such keys are refused when a configuration is read.
    assert!(accepted_by_library > 0);
    assert!(PublicKey::from_bytes([0; 32]).is_err());
}

#[test]
fn dummy_account_lets_nobody_in() {
    // Whoever had nobody's private key would still be refused: the proof is right, and the account is not real.
    let world = World::with_nobody([42; 32], |_| {});
    let nobody = private_key(42);
    let client = ClientId::default();
    let (hello, proof) =
        messages(start_with_key(&ekm(1), service("none"), client, &nobody, [11; 32]).unwrap().send);
    let challenge = world.server(1, 22).handle(&hello[2..]).unwrap();
    let verdict = challenge.next.handle(&proof[2..], |_| true).unwrap();
    assert_refused(&verdict, RefusalCause::UnknownService);
}

#[test]
fn refuses_challenge_for_four_tebibytes() {
    let world = World::new();
    let start = start_with_password(ekm(1), service(PASSWORD_SERVICE), ClientId::default(), [11; 32]);
    let challenge = world.server(1, 22).handle(&start.send[2..]).unwrap();
    let mut body = challenge.send[2..].to_vec();
    assert_eq!(body[35..39], 65_536_u32.to_be_bytes());
    body[35..39].copy_from_slice(&u32::MAX.to_be_bytes());
    let error = start.next.handle(&body).unwrap_err();
    let misbehaviour = Misbehaviour::Challenge(ParamsError::Memory(u32::MAX));
    assert_eq!(error, ClientHandshakeError::ServerMisbehaved(misbehaviour));
}

#[test]
fn verifying_runs_no_argon2() {
    // A name key that no other test has gives salts that no other test has.
    let name_key = NameKey::new(Secret::new([0x5a; 32]));
    let (name, client) = (service("counted"), ClientId::default());
    let salt = name_key.salt(&name, &client);
    let unknown_salt = name_key.salt(&service("none"), &client);
    let params = Argon2Params::new(19_456, 2, 1).unwrap();
    let password = Password::new("secret").unwrap();
    let keys = Arc::new(DerivedKeys::derive(&password, &salt, params).unwrap());
    assert_eq!(runs_with(&salt), 1);

    let verifier = AccountVerifier::Password(keys.verifier(&salt, params));
    let accounts = [account("counted", "", verifier)];
    let (directory, _) = Directory::new(name_key, Secret::new([1; 32]), accounts).unwrap();
    for (asked, accepted) in [("counted", true), ("none", false)] {
        let start = start_with_password(ekm(1), service(asked), client.clone(), [11; 32]);
        let server = ExpectHello::new(&directory, ekm(1), parameters(), [22; 32]);
        let challenge = server.handle(&start.send[2..]).unwrap();
        let proof = start.next.handle(&challenge.send[2..]).unwrap().prove(&keys).unwrap();
        let verdict = challenge.next.handle(&proof.send[2..], |_| true).unwrap();
        assert_eq!(matches!(verdict.next, Verdict::Accepted(_)), accepted);
    }
    assert_eq!((runs_with(&salt), runs_with(&unknown_salt)), (1, 0));
}

/// Every kind of frame that a session has.
fn session_frame_kinds() -> impl Iterator<Item = u8> {
    (0x01..=0x16).chain(0x40..=0x46)
}

/// Frames of this kind as a session would send them, short and long, and the same with a handshake's length before them.
fn session_frames(kind: u8) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for payload_len in [0_usize, 1, 31, 32, 43, 44, 58, 59, 63, 64, 166, 167, 168, 70_000, 64 << 16, 45 << 16]
    {
        let payload = vec![kind; payload_len];
        let len = u32::try_from(payload_len + 1).unwrap();
        frames.push([len.to_be_bytes().as_slice(), &[kind], &payload].concat());
        if let Ok(len) = u16::try_from(payload_len + 1) {
            frames.push([len.to_be_bytes().as_slice(), &[kind], &payload].concat());
        }
    }
    frames
}

#[test]
fn frames_before_login_do_nothing() {
    let world = World::new();
    for frame in session_frame_kinds().flat_map(session_frames) {
        for mechanism in MECHANISMS {
            let refused = received(&frame, ExpectHello::MAX_LEN)
                .and_then(|body| Ok(world.server(1, 22).handle(body).map(drop)?));
            assert!(refused.is_err(), "where a hello is due: {:?}", &frame[..5]);

            let (client, hello) = Client::start(&world, mechanism, ekm(1));
            let Step { next: server, send: challenge } = world.server(1, 22).handle(&hello[2..]).unwrap();
            let verdict = received(&frame, ExpectProof::MAX_LEN)
                .and_then(|body| Ok(server.handle(body, |_| panic!("no proof was right"))?));
            // 64 bytes of anything are a proof, and a wrong one.
            if let Ok(verdict) = verdict {
                assert_refused(&verdict, RefusalCause::WrongProof);
            }

            assert!(client.handle(&frame).is_err(), "where a challenge is due: {:?}", &frame[..5]);
            let (client, _) = Client::start(&world, mechanism, ekm(1));
            let accept = client.handle(&challenge).unwrap().next;
            let refused =
                received(&frame, ExpectAccept::MAX_LEN).and_then(|body| Ok(accept.handle(body).map(drop)?));
            assert!(refused.is_err(), "where an accept is due: {:?}", &frame[..5]);
        }
    }
}

#[test]
fn refuses_excessive_length_unread() {
    let dues =
        [ExpectHello::MAX_LEN, ExpectProof::MAX_LEN, ExpectPasswordChallenge::MAX_LEN, ExpectAccept::MAX_LEN];
    assert_eq!(dues, [168, 64, 60, 45]);
    for max in dues {
        let prefix = |len: usize| u16::try_from(len).unwrap().to_be_bytes();
        assert_eq!(checked_len(prefix(max), max), Ok(max));
        for len in [max + 1, 0x0100, 0x1000, 0xffff] {
            assert_eq!(checked_len(prefix(len), max), Err(Misbehaviour::TooLong { len, max }));
        }
    }
}

#[test]
fn longest_messages_match_protocol() {
    let longest = "x".repeat(64);
    let client = ClientId::new(&longest).unwrap();
    let hello = start_with_password(ekm(1), service(&longest), client, [0; 32]).send;
    assert_eq!(hello.len(), 2 + ExpectHello::MAX_LEN);
    let challenge = World::new().server(1, 22).handle(&hello[2..]).unwrap().send;
    assert_eq!(challenge.len(), 2 + ExpectPasswordChallenge::MAX_LEN);
}

#[test]
fn refuses_message_one_byte_off() {
    let world = World::new();
    for mechanism in MECHANISMS {
        let (client, hello) = Client::start(&world, mechanism, ekm(1));
        let Step { next: server, send: challenge } = world.server(1, 22).handle(&hello[2..]).unwrap();
        let Step { next: client, send: proof } = client.handle(&challenge).unwrap();
        let accept = server.handle(&proof[2..], |_| true).unwrap().send;
        drop(client);
        for len in (0..hello.len() - 2).chain([hello.len() - 1]) {
            let body = resized(&hello, len);
            assert!(world.server(1, 22).handle(&body).is_err(), "hello of {len} bytes");
        }
        let lengths = (0..challenge.len()).filter(|&len| len + 2 != challenge.len());
        for len in lengths {
            let (client, _) = Client::start(&world, mechanism, ekm(1));
            let body = resized(&challenge, len);
            let wire = [&u16::try_from(len).unwrap().to_be_bytes(), body.as_slice()].concat();
            assert!(client.handle(&wire).is_err(), "challenge of {len} bytes");
        }
        for len in (0..64).chain([65]) {
            let server = world.server(1, 22).handle(&hello[2..]).unwrap().next;
            let error = server.handle(&resized(&proof, len), |_| true).unwrap_err();
            assert_eq!(error, Misbehaviour::Malformed("proof"));
        }
        for len in (0..45).chain([46]) {
            let (client, _) = Client::start(&world, mechanism, ekm(1));
            let client = client.handle(&challenge).unwrap().next;
            assert!(client.handle(&resized(&accept, len)).is_err(), "accept of {len} bytes");
        }
    }
}

/// The body of a message, cut or filled up to this length.
fn resized(wire: &[u8], len: usize) -> Vec<u8> {
    let mut body = wire[2..].to_vec();
    body.resize(len, 0);
    body
}

#[test]
fn second_hello_gets_no_answer() {
    let world = World::new();
    let stranger = private_key(50);
    let of_proof_len = (ServiceName::new("abcdefghijkl").unwrap(), ClientId::new("mnopqrstuvwx").unwrap());
    for (service, client) in [of_proof_len, (service(KEY_SERVICE), ClientId::new("joe").unwrap())] {
        let hello = hello_with_key(service, client, &stranger);
        let server = world.server(1, 22).handle(&hello[2..]).unwrap().next;
        assert_eq!(server.handle(&hello[2..], |_| true).unwrap_err(), Misbehaviour::SecondHello);
    }
}

#[test]
fn unknown_version_or_mechanism_gets_no_answer() {
    let world = World::new();
    let (_, hello) = Client::start(&world, Mechanism::Key, ekm(1));
    let with = |at: usize, byte: u8| {
        let mut body = hello[2..].to_vec();
        body[at] = byte;
        world.server(1, 22).handle(&body).unwrap_err()
    };
    assert_eq!(with(0, b'C'), Misbehaviour::Malformed("hello"));
    for version in (0..=u8::MAX).filter(|&version| version != 1) {
        assert_eq!(with(4, version), Misbehaviour::UnknownVersion(version));
    }
    for mechanism in (0..=u8::MAX).filter(|mechanism| ![1, 2].contains(mechanism)) {
        assert_eq!(with(5, mechanism), Misbehaviour::UnknownMechanism(mechanism));
    }
    for byte in [0, b' ', b'/', b'@', 0x80, 0xff] {
        assert_eq!(with(7, byte), Misbehaviour::Malformed("hello"));
    }
    // No service has an empty name.
    let mut body = b"chan\x01\x02\x00\x00".to_vec();
    body.extend_from_slice(&[0; 32]);
    assert_eq!(world.server(1, 22).handle(&body).unwrap_err(), Misbehaviour::Malformed("hello"));
}

#[test]
fn a_challenge_for_another_mechanism_ends_the_login() {
    let world = World::new();
    let start = |mechanism| Client::start(&world, mechanism, ekm(1));
    let (client, hello) = start(Mechanism::Password);
    let mut challenge = world.server(1, 22).handle(&hello[2..]).unwrap().send;
    let too_long = Misbehaviour::TooLong { len: 60, max: 45 };
    assert_eq!(start(Mechanism::Key).0.handle(&challenge).unwrap_err(), Failure::Server(too_long));
    challenge[3] = Mechanism::Key.code();
    let misbehaved = ClientHandshakeError::ServerMisbehaved(Misbehaviour::OtherMechanism);
    assert_eq!(client.handle(&challenge).unwrap_err(), Failure::Client(misbehaved));
}

#[test]
fn refuses_one_verifier_under_two_names() {
    let (keys, other) = (derived_keys(1), derived_keys(3));
    let directory = |first: AccountVerifier, second: AccountVerifier| {
        let accounts = [account("one", "", first), account("two", "joe", second)];
        Directory::new(NameKey::new(Secret::new([7; 32])), Secret::new([9; 32]), accounts)
    };
    let password = |keys: &DerivedKeys, salt| {
        AccountVerifier::Password(keys.verifier(&Salt([salt; 16]), Argon2Params::DEFAULT))
    };
    // Equal salts are seen by strangers; equal keys come of one password with one salt.
    for (first, second) in [
        (password(&keys, 1), password(&keys, 1)),
        (password(&keys, 1), password(&other, 1)),
        (password(&keys, 1), password(&keys, 2)),
    ] {
        let error = directory(first, second).unwrap_err();
        assert!(matches!(error, DirectoryError::SharedVerifier { .. }));
        let text = error.to_string();
        assert!(text.contains("`one`") && text.contains("`two`, client `joe`"), "{text}");
    }
    assert!(directory(password(&keys, 1), password(&other, 2)).is_ok());
    let key = || AccountVerifier::Key(private_key(3).public_key());
    assert!(directory(key(), key()).is_ok());
}

#[test]
fn one_name_twice_is_refused() {
    let twice = [(); 2].map(|()| account("one", "joe", AccountVerifier::Key(private_key(3).public_key())));
    let error = Directory::new(NameKey::new(Secret::new([7; 32])), Secret::new([9; 32]), twice).unwrap_err();
    assert!(matches!(error, DirectoryError::SameName(_)), "{error}");
}

#[test]
fn warns_of_parameters_that_reveal_service() {
    let params = Argon2Params::new(32_768, 3, 1).unwrap();
    let verifier = AccountVerifier::Password(derived_keys(1).verifier(&Salt([1; 16]), params));
    let accounts = [account("one", "", verifier)];
    let (_, warnings) =
        Directory::new(NameKey::new(Secret::new([7; 32])), Secret::new([9; 32]), accounts).unwrap();
    assert!(matches!(warnings[..], [DirectoryWarning::NotDefaultParams { .. }]));
    assert!(warnings[0].to_string().contains("service `one`"), "{}", warnings[0]);
}

#[test]
fn debug_of_states_shows_no_secret() {
    let world = World::new();
    for mechanism in MECHANISMS {
        let exporter = Exporter::new(Secret::new([0xee; 32]));
        let (client, hello) = Client::start(&world, mechanism, exporter.clone());
        let server = ExpectHello::new(&world.directory, exporter, parameters(), [22; 32]);
        let mut shown = format!("{server:?} {:?} {:?}", world.directory, world.keys);
        shown += &match &client {
            Client::Password(state, _) => format!("{state:?}"),
            Client::Key(step) => format!("{:?}", step.next),
        };
        let challenge = server.handle(&hello[2..]).unwrap();
        shown += &format!("{:?}", challenge.next);
        shown += &format!("{:?}", client.handle(&challenge.send).unwrap().next);
        // The exporter, the server key, and the seeds of both clients.
        for secret in [0xee, 2, 1, 3] {
            assert!(
                !shown.contains(&format!(", {secret}, {secret}, {secret}, {secret},")),
                "{secret}: {shown}"
            );
        }
    }
}
