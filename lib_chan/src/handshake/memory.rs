//! Both machines in memory, for tests.

use aws_lc_rs::digest;

use super::client::{self, ClientHandshakeError};
use super::server::{ExpectHello, Verdict};
use super::{Authenticated, SessionParameters};
use crate::auth::{Account, AccountVerifier, ClientId, Directory, Exporter, NameKey, ServiceName};
use crate::secret::{PrivateKey, Secret};

/// Runs both machines against each other without a connection. Returns the client's end and the server's end, in this
/// order, of the service `memory` and the client `tester`. Takes some tens of microseconds.
///
/// Meant for tests, simulations and benchmarks of sessions. This is the real handshake, with a key made from `seed`. It
/// grants nothing that a caller of the two public machines could not get: the caller holds both ends.
///
/// # Errors
/// The cryptographic library failed because memory ran out.
pub fn pair_in_memory(
    parameters: SessionParameters,
    seed: [u8; 32],
) -> Result<(Authenticated, Authenticated), ClientHandshakeError> {
    let service = ServiceName::new("memory").map_err(|_| ClientHandshakeError::Library)?;
    let client = ClientId::new("tester").map_err(|_| ClientHandshakeError::Library)?;
    pair_in_memory_of(parameters, seed, service, client)
}

/// As [`pair_in_memory`], with other names. Not public: an end with a chosen name never leaves this crate.
pub(crate) fn pair_in_memory_of(
    parameters: SessionParameters,
    seed: [u8; 32],
    service: ServiceName,
    client: ClientId,
) -> Result<(Authenticated, Authenticated), ClientHandshakeError> {
    let library = |_| ClientHandshakeError::Library;
    let key = PrivateKey::from_seed(derived(&seed, 0)).map_err(library)?;
    let account = Account {
        service: service.clone(),
        client: client.clone(),
        verifier: AccountVerifier::Key(key.public_key()),
        enabled: true,
        index: 0,
    };
    let (directory, _) = Directory::new(NameKey::new(derived(&seed, 1)), derived(&seed, 2), [account])
        .map_err(|_| ClientHandshakeError::Library)?;
    let exporter = Exporter::new(derived(&seed, 3));

    let server = ExpectHello::new(&directory, exporter.clone(), parameters, *derived(&seed, 4).expose());
    let client = client::start_with_key(&exporter, service, client, &key, *derived(&seed, 5).expose())?;
    let (hello, proof) = split(&client.send);
    let verdict = server.handle(hello)?.next.handle(proof, |_| true)?;
    let Verdict::Accepted(server_end) = verdict.next else {
        return Err(ClientHandshakeError::Refused);
    };
    let client_end = client.next.handle(split(&verdict.send).0)?;
    Ok((client_end, server_end))
}

fn derived(seed: &[u8; 32], purpose: u8) -> Secret<32> {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(seed);
    hash.update(&[purpose]);
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(hash.finish().as_ref()) {
        *to = *from;
    }
    Secret::new(bytes)
}

/// The body of the first message, and the body of the one behind it.
fn split(sent: &[u8]) -> (&[u8], &[u8]) {
    let (prefix, rest) = sent.split_first_chunk().unwrap_or((&[0; 2], &[]));
    let (first, second) = rest.split_at_checked(usize::from(u16::from_be_bytes(*prefix))).unwrap_or_default();
    (first, second.get(2..).unwrap_or_default())
}
