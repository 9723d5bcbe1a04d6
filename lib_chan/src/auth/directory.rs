//! The accounts of a server, and the decision to accept a login.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use aws_lc_rs::hmac;

use super::argon2id::{Argon2Params, Salt};
use super::name::{ClientId, ServiceName};
use super::proof::{Mechanism, ServerKey, Transcript};
use super::verifier::PasswordVerifier;
use crate::secret::{KeyError, PrivateKey, PublicKey, Secret};

/// The secret from which salts are derived, for names that exist and for names that do not, so that both look alike.
///
/// It must outlive restarts, in a state file of mode 0600. Otherwise the salts of unknown names change at a restart, and
/// those of accounts do not. Servers that share their accounts may share it.
#[derive(Clone, Debug)]
pub struct NameKey(Secret<32>);

impl NameKey {
    /// Creates the key from 32 bytes of a secure random source, or from those of the state file.
    pub fn new(bytes: Secret<32>) -> Self {
        Self(bytes)
    }

    /// Returns the bytes for the state file.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// Returns the salt of a name, for a verifier that is made on this server and for an unknown name.
    pub fn salt(&self, service: &ServiceName, client: &ClientId) -> Salt {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.expose());
        let mut mac = hmac::Context::with_key(&key);
        for part in [b"salt\0", service.as_str().as_bytes(), b"\0", client.as_str().as_bytes()] {
            mac.update(part);
        }
        let mut salt = [0; 16];
        for (to, from) in salt.iter_mut().zip(mac.sign().as_ref()) {
            *to = *from;
        }
        Salt(salt)
    }
}

/// A client of a service that may log in, and its credential.
#[derive(Clone, Debug)]
pub struct Account {
    /// The service.
    pub service: ServiceName,
    /// The name of the client; empty under a shared password.
    pub client: ClientId,
    /// Checks the client's proof.
    pub verifier: AccountVerifier,
    /// `false` for a revoked client, which is refused.
    pub enabled: bool,
    /// Opaque value, returned unchanged.
    pub index: usize,
}

/// The record that checks the proofs of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccountVerifier {
    /// The client has a password.
    Password(PasswordVerifier),
    /// The client has the private key of this public key.
    Key(PublicKey),
}

impl AccountVerifier {
    /// Returns the mechanism that the client must use.
    pub fn mechanism(&self) -> Mechanism {
        match self {
            Self::Password(_) => Mechanism::Password,
            Self::Key(_) => Mechanism::Key,
        }
    }

    fn public_key(&self) -> &PublicKey {
        match self {
            Self::Password(verifier) => verifier.public_key(),
            Self::Key(key) => key,
        }
    }
}

/// All accounts of a server.
///
/// Immutable: a reload creates a new one. The code path and the form of the answer are the same for a name that is in the
/// directory and for one that is not.
pub struct Directory {
    services: HashMap<ServiceName, HashMap<ClientId, Account>>,
    name_key: NameKey,
    /// Checks the proofs of unknown names. Nobody has the private key.
    nobody: PublicKey,
}

impl Directory {
    /// Collects the accounts. `nobody_seed` is 32 bytes from a secure random source, new at each start. It gives the key
    /// pair of unknown names, which nobody has.
    ///
    /// The warnings are for the author of the configuration. The directory is usable despite them.
    ///
    /// # Errors
    /// A name comes twice, or two names share the verifier of a password.
    pub fn new(
        name_key: NameKey,
        nobody_seed: Secret<32>,
        accounts: impl IntoIterator<Item = Account>,
    ) -> Result<(Self, Vec<DirectoryWarning>), DirectoryError> {
        let nobody = PrivateKey::from_seed(nobody_seed)?.public_key();
        let mut services: HashMap<ServiceName, HashMap<ClientId, Account>> = HashMap::new();
        let mut unshared = Unshared::default();
        let mut warnings = Vec::new();
        for account in accounts {
            let name = AccountName::of(&account);
            if let AccountVerifier::Password(verifier) = &account.verifier {
                unshared.add(verifier, &name)?;
                if verifier.params() != Argon2Params::DEFAULT {
                    let params = verifier.params();
                    warnings.push(DirectoryWarning::NotDefaultParams { account: name.clone(), params });
                }
            }
            match services.entry(account.service.clone()).or_default().entry(account.client.clone()) {
                Entry::Occupied(_) => return Err(DirectoryError::SameName(name)),
                Entry::Vacant(place) => place.insert(account),
            };
        }
        Ok((Self { services, name_key, nobody }, warnings))
    }

    /// Returns the account with this name, if there is one.
    pub fn account(&self, service: &ServiceName, client: &ClientId) -> Option<&Account> {
        self.services.get(service)?.get(client)
    }

    /// Returns all accounts, in no particular order.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.services.values().flat_map(HashMap::values)
    }

    /// Returns the challenge for a claimed name, whether or not there is such an account.
    pub(crate) fn candidate(
        &self,
        service: &ServiceName,
        client: &ClientId,
        mechanism: Mechanism,
    ) -> Candidate<'_> {
        let standing = self.standing(service, client, mechanism);
        // Computed for real accounts too, so that both take the same time.
        let salt = self.name_key.salt(service, client);
        let (salt, params) = match standing.map(|account| &account.verifier) {
            Ok(AccountVerifier::Password(verifier)) => (*verifier.salt(), verifier.params()),
            _ => (salt, Argon2Params::DEFAULT),
        };
        let public_key = *standing.map_or(&self.nobody, |account| account.verifier.public_key());
        Candidate { standing, salt, params, public_key }
    }

    fn standing(
        &self,
        service: &ServiceName,
        client: &ClientId,
        mechanism: Mechanism,
    ) -> Result<&Account, RefusalCause> {
        let clients = self.services.get(service).ok_or(RefusalCause::UnknownService)?;
        let account = clients.get(client).ok_or(RefusalCause::UnknownClient)?;
        if account.verifier.mechanism() != mechanism {
            return Err(RefusalCause::OtherMechanism);
        }
        Ok(account)
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("services", &self.services).finish_non_exhaustive()
    }
}

/// A claim to be a client of a service: the challenge, and the key that checks the proof.
#[derive(Debug)]
pub(crate) struct Candidate<'d> {
    standing: Result<&'d Account, RefusalCause>,
    pub(crate) salt: Salt,
    pub(crate) params: Argon2Params,
    public_key: PublicKey,
}

impl<'d> Candidate<'d> {
    /// Decides the login. No other function accepts one. The proof must be right, *and* the account must exist, *and* it
    /// must be enabled, *and* its source must be allowed.
    ///
    /// The signature is checked first, and also for accounts that do not exist.
    pub(crate) fn judge(
        &self,
        transcript: &Transcript,
        proof: &[u8; 64],
        allows_source: impl FnOnce(&Account) -> bool,
    ) -> Result<&'d Account, RefusalCause> {
        let verified = self.public_key.verifies(&transcript.to_be_signed(), proof);
        let account = self.standing?;
        if !verified {
            return Err(RefusalCause::WrongProof);
        }
        if !account.enabled {
            return Err(RefusalCause::Disabled);
        }
        if !allows_source(account) {
            return Err(RefusalCause::SourceNotAllowed);
        }
        Ok(account)
    }
}

impl Account {
    /// Returns the key of the answer to this account's proof.
    pub(crate) fn server_key(&self, exporter: &super::Exporter) -> ServerKey {
        match &self.verifier {
            AccountVerifier::Password(verifier) => ServerKey::of_password(verifier.server_key()),
            AccountVerifier::Key(_) => ServerKey::of_connection(exporter),
        }
    }
}

/// The true reason of a refusal, for the log of the server. The peer learns only that it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalCause {
    /// The service does not exist.
    #[error("unknown service")]
    UnknownService,
    /// The service has no such client.
    #[error("unknown client")]
    UnknownClient,
    /// The client used another mechanism than that of its credential.
    #[error("no credential of this kind")]
    OtherMechanism,
    /// The password or key is wrong.
    #[error("wrong proof")]
    WrongProof,
    /// The proof was right, but the client is revoked.
    #[error("disabled")]
    Disabled,
    /// The proof was right, but the client may not use this source.
    #[error("source not allowed")]
    SourceNotAllowed,
}

/// The name of an account, as it appears in messages about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountName {
    /// The service.
    pub service: ServiceName,
    /// The client; may be empty.
    pub client: ClientId,
}

impl AccountName {
    fn of(account: &Account) -> Self {
        Self { service: account.service.clone(), client: account.client.clone() }
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service `{}`", self.service)?;
        match self.client.as_str() {
            "" => Ok(()),
            client => write!(f, ", client `{client}`"),
        }
    }
}

/// The reason that accounts do not form a directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Two accounts have one name.
    #[error("{0} appears twice")]
    SameName(AccountName),
    /// Two names have one verifier. The server would show the same salt for both, and so reveal that both exist.
    #[error("{first} and {second} have the same verifier: make one for each")]
    SharedVerifier {
        /// The first name.
        first: AccountName,
        /// The second name.
        second: AccountName,
    },
    /// The cryptographic library could not create a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A warning about an account that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryWarning {
    /// A verifier has other parameters than the default. The server shows them to strangers, and so reveals that the name
    /// exists.
    #[error(
        "{account} has Argon2 parameters {params}, not {}, so strangers can tell that it exists",
        Argon2Params::DEFAULT
    )]
    NotDefaultParams {
        /// The name of the account.
        account: AccountName,
        /// The parameters of its verifier.
        params: Argon2Params,
    },
}

/// Finds verifiers that are used twice.
#[derive(Default)]
struct Unshared {
    salts: HashMap<Salt, AccountName>,
    keys: HashMap<PublicKey, AccountName>,
}

impl Unshared {
    fn add(&mut self, verifier: &PasswordVerifier, name: &AccountName) -> Result<(), DirectoryError> {
        let by_salt = self.salts.insert(*verifier.salt(), name.clone());
        let by_key = self.keys.insert(*verifier.public_key(), name.clone());
        match by_salt.or(by_key) {
            None => Ok(()),
            Some(first) if first == *name => Err(DirectoryError::SameName(first)),
            Some(first) => Err(DirectoryError::SharedVerifier { first, second: name.clone() }),
        }
    }
}
