//! Who may log in to what, and the one place where that is decided.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use aws_lc_rs::hmac;

use super::argon2id::{Argon2Params, Salt};
use super::name::{ClientId, ServiceName};
use super::proof::{Mechanism, ServerKey, Transcript};
use super::verifier::PasswordVerifier;
use crate::secret::{KeyError, PrivateKey, PublicKey, Secret};

/// The secret that salts are made with, of services that exist and of those that do not, so that the two look alike.
///
/// It has to last over restarts (a state file of mode 0600), or a name whose salt stays can be told from one whose salt
/// changes. Servers that share their accounts may share it.
#[derive(Clone, Debug)]
pub struct NameKey(Secret<32>);

impl NameKey {
    /// Takes 32 bytes from a secure random source, or those of the state file.
    pub fn new(bytes: Secret<32>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the state file.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// The salt of a name: that of a verifier which is made on this server, and that of an unknown name.
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

/// One that may log in: a client of a service, and how it is known.
#[derive(Clone, Debug)]
pub struct Account {
    /// The service.
    pub service: ServiceName,
    /// The client; empty for the one whose password is the service's own.
    pub client: ClientId,
    /// What its proof is checked with.
    pub verifier: AccountVerifier,
    /// `false` refuses it, as a revoked client is.
    pub enabled: bool,
    /// The holder's own: given back, never looked at.
    pub index: usize,
}

/// What the proof of an account is checked with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccountVerifier {
    /// It knows a password.
    Password(PasswordVerifier),
    /// It has the private key to this one.
    Key(PublicKey),
}

impl AccountVerifier {
    /// What a client has to prove itself with.
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
/// Never changed: a reload makes a new one. Someone who asks for a name that is not in it gets the same bytes, over the
/// same code path, as someone who asks for one that is.
pub struct Directory {
    services: HashMap<ServiceName, HashMap<ClientId, Account>>,
    name_key: NameKey,
    /// Checks the proofs of unknown names. Nobody has its private half.
    nobody: PublicKey,
}

impl Directory {
    /// Collects the accounts. `nobody_seed` is 32 bytes from a secure random source, new at each start: a key pair is
    /// made of it that nobody owns.
    ///
    /// The warnings are for whoever wrote the configuration; the directory is good all the same.
    ///
    /// # Errors
    /// If a name comes twice, or two names share a password's verifier.
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

    /// The account of this name, if there is one.
    pub fn account(&self, service: &ServiceName, client: &ClientId) -> Option<&Account> {
        self.services.get(service)?.get(client)
    }

    /// All accounts, in no order.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.services.values().flat_map(HashMap::values)
    }

    /// What to ask of someone who claims this name, whether or not there is such an account.
    pub(crate) fn candidate(
        &self,
        service: &ServiceName,
        client: &ClientId,
        mechanism: Mechanism,
    ) -> Candidate<'_> {
        let standing = self.standing(service, client, mechanism);
        // Made for real accounts too, so that both take the same time.
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

/// Someone who claims to be a client of a service: what to ask of them, and what their proof is checked with.
#[derive(Debug)]
pub(crate) struct Candidate<'d> {
    standing: Result<&'d Account, RefusalCause>,
    pub(crate) salt: Salt,
    pub(crate) params: Argon2Params,
    public_key: PublicKey,
}

impl<'d> Candidate<'d> {
    /// The one place where a login is accepted: the proof is right, *and* the account is real, *and* it is enabled,
    /// *and* it may come from where it comes from.
    ///
    /// The signature is checked first and for everyone, real or not.
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
    /// What the answer to this account's proof is keyed with.
    pub(crate) fn server_key(&self, exporter: &super::Exporter) -> ServerKey {
        match &self.verifier {
            AccountVerifier::Password(verifier) => ServerKey::of_password(verifier.server_key()),
            AccountVerifier::Key(_) => ServerKey::of_connection(exporter),
        }
    }
}

/// The true reason of a refusal. For the log of the server; the peer is told nothing but that it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum RefusalCause {
    /// No such service.
    #[error("unknown service")]
    UnknownService,
    /// The service has no such client.
    #[error("unknown client")]
    UnknownClient,
    /// The client has another kind of credential than it came with.
    #[error("no credential of this kind")]
    OtherMechanism,
    /// The password or key is wrong.
    #[error("wrong proof")]
    WrongProof,
    /// The proof was right, and the client is revoked.
    #[error("disabled")]
    Disabled,
    /// The proof was right, and the client may not come from there.
    #[error("source not allowed")]
    SourceNotAllowed,
}

/// The name of an account, as messages about a configuration show it.
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

/// Why accounts do not make a directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Two accounts of one name.
    #[error("{0} is there twice")]
    SameName(AccountName),
    /// Two names with one verifier: strangers would be shown the same salt for both, and so that both are real.
    #[error("{first} and {second} have the same verifier: make one for each")]
    SharedVerifier {
        /// The one that came first.
        first: AccountName,
        /// The one that came second.
        second: AccountName,
    },
    /// The cryptographic library could not make a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What is allowed, and worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryWarning {
    /// Strangers are shown the parameters, and unknown names have the default ones.
    #[error(
        "{account} has Argon2 parameters {params}, not {}, so strangers can tell that it exists",
        Argon2Params::DEFAULT
    )]
    NotDefaultParams {
        /// Whose verifier.
        account: AccountName,
        /// What it says.
        params: Argon2Params,
    },
}

/// Finds what two verifiers have in common.
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
