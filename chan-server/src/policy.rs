//! The rights that a configuration grants, ready to serve. A reload replaces them as a whole.
//!
//! Two policies are compared by what they grant: services, clients, credentials and sources. Order, comments, the files
//! that hold a secret and their times grant nothing. A password and a verifier of it are one credential, whatever the
//! salt.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use lib_chan::Limits;
use lib_chan::auth::{
    Account, AccountVerifier, Argon2Params, ClientId, Directory, NameKey, PasswordVerifier, ServiceName,
    StretchError,
};
use lib_chan::handshake::SessionParameters;
use lib_chan::runtime::blocking;
use lib_chan::secret::{Password, Secret};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::limits::changed;
use crate::config::{Client, Config, Credential, Service};
use crate::descriptors::{keep_within, max_descriptors};
use crate::gate::{GateRules, Holder};
use crate::identity::{Identity, StateDir};
use crate::listener::Listen;
use crate::modules::{ProvidedRole, Starter};
use crate::quota::QuotaTerms;
use crate::start::StartError;

/// The rights that a server grants, and its limits.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) listen: Listen,
    pub(crate) public: Option<String>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) limits: Limits,
    pub(crate) rules: GateRules,
    pub(crate) revoke_grace: Duration,
    /// The proxies that speak the PROXY protocol.
    pub(crate) proxies: Vec<IpNet>,
    pub(crate) identity: Identity,
    pub(crate) parameters: SessionParameters,
    pub(crate) directory: Directory,
    services: BTreeMap<String, Terms>,
    /// By the index of an account.
    accounts: Vec<AccountTerms>,
    /// As the configuration has them, to know them again.
    passwords: HashMap<Name, Password>,
    /// Verifiers of the policy before this one that are of the same passwords as those of this one.
    former: HashMap<Name, PasswordVerifier>,
}

type Name = (ServiceName, ClientId);

/// The function and the limits of a service.
#[derive(Debug)]
struct Terms {
    starter: Arc<Starter>,
    mfa: String,
    max_sessions: Option<usize>,
    quota: QuotaTerms,
    resume: Duration,
    describes: bool,
    from: Vec<IpNet>,
}

#[derive(Debug)]
struct AccountTerms {
    name: Name,
    max_sessions: Option<usize>,
    quota: QuotaTerms,
    from: Vec<IpNet>,
}

/// The reason that a session may not continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Revoked {
    /// The service is no longer configured.
    ServiceRemoved,
    /// The service no longer has this client.
    ClientRemoved,
    /// The client is disabled.
    ClientDisabled,
    /// The client has another password or key.
    CredentialChanged,
    /// The client may no longer come from where it is (`from`).
    SourceNotAllowed,
    /// The service provides, or is provided by, other clients than before.
    ProvidedChanged,
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServiceRemoved => "the service is removed",
            Self::ClientRemoved => "the client is removed",
            Self::ClientDisabled => "the client is disabled",
            Self::CredentialChanged => "the credential is changed",
            Self::SourceNotAllowed => "the source is not allowed",
            Self::ProvidedChanged => "the provided name is changed",
        })
    }
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Change {
    /// The kind of the change.
    pub kind: ChangeKind,
    /// The subject, such as `service echo`, `client joe of echo`, `listen 127.0.0.1:1234`, `[limits] max_calls`.
    pub subject: String,
    /// The keys of it that differ, where there are several.
    pub keys: Vec<String>,
}

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is no longer there.
    Removed,
    /// It is another one than before.
    Changed,
}

impl Change {
    pub(crate) fn added(subject: String) -> Self {
        Self { kind: ChangeKind::Added, subject, keys: Vec::new() }
    }

    pub(crate) fn removed(subject: String) -> Self {
        Self { kind: ChangeKind::Removed, subject, keys: Vec::new() }
    }

    pub(crate) fn setting(subject: String) -> Self {
        Self { kind: ChangeKind::Changed, subject, keys: Vec::new() }
    }

    /// Returns a change of those of these keys that differ, if any does.
    pub(crate) fn changed<'k>(
        subject: String,
        keys: impl IntoIterator<Item = (&'k str, bool)>,
    ) -> Option<Self> {
        let differing = keys.into_iter().filter(|(_, differs)| *differs);
        let keys: Vec<_> = differing.map(|(key, _)| key.to_owned()).collect();
        (!keys.is_empty()).then_some(Self { kind: ChangeKind::Changed, subject, keys })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ChangeKind::Added => "added",
            ChangeKind::Removed => "removed",
            ChangeKind::Changed => "changed",
        };
        write!(f, "{kind}: {}", self.subject)?;
        if !self.keys.is_empty() {
            write!(f, " ({})", self.keys.join(", "))?;
        }
        Ok(())
    }
}

impl Policy {
    /// Makes a policy of a configuration, and the warnings that its owner should see. The time goes into passwords that
    /// the policy `before` does not have: a tenth of a second and 64 MiB each, one after the other.
    pub(crate) async fn prepare(
        config: Config,
        state: &StateDir,
        name_key: &NameKey,
        before: Option<Arc<Self>>,
    ) -> Result<(Self, Vec<String>), StartError> {
        let mut warnings = Vec::new();
        let identity = match &config.identity {
            Some(identity) => identity.clone(),
            None => Identity::in_state(state)?,
        };
        let relays = config.services.iter().any(|service| service.starter.is_relay());
        let mut limits = config.limits;
        warnings.extend(max_descriptors().and_then(|most| keep_within(&mut limits, most, relays)));
        // A proxy speaks for many.
        let mut rules = config.gate;
        rules.exempt.extend(&config.proxies);
        let (services, key) = (config.services, name_key.clone());
        let derived = blocking(move || Derived::of(services, &key, before.as_deref())).await;
        let Derived { services, accounts, terms, passwords, former } =
            derived.map_err(StartError::Thread)??;
        let (directory, told) = Directory::new(name_key.clone(), nobody_seed()?, accounts)?;
        warnings.extend(told.iter().map(ToString::to_string));
        let policy = Self {
            listen: config.listen,
            public: config.public,
            metrics: config.metrics,
            parameters: SessionParameters::from_limits(&limits)?,
            limits,
            rules,
            revoke_grace: config.revoke_grace,
            proxies: config.proxies,
            identity,
            directory,
            services,
            accounts: terms,
            passwords,
            former,
        };
        Ok((policy, warnings))
    }

    /// Returns what to start for a client of this service.
    pub(crate) fn starter(&self, service: &ServiceName) -> Option<Arc<Starter>> {
        self.services.get(service.as_str()).map(|terms| Arc::clone(&terms.starter))
    }

    /// Returns each name that is provided, with the number of its providers.
    pub(crate) fn provided(&self) -> impl Iterator<Item = (&str, usize)> {
        let provided = self.services.values().filter_map(|terms| terms.starter.provided());
        let by = provided.filter(|provided| provided.role == ProvidedRole::By);
        by.map(|provided| (provided.name(), provided.providers()))
    }

    /// Returns `true` if sessions of this service that began under the policy `before` belong to another provided name, or to
    /// none any more.
    pub(crate) fn provides_otherwise(&self, before: &Self, service: &ServiceName) -> bool {
        let provided = |policy: &Self| {
            let provided = policy.services.get(service.as_str())?.starter.provided()?;
            Some((provided.role, provided.name().to_owned()))
        };
        let old = provided(before);
        old.is_some() && provided(self) != old
    }

    /// Returns the longest that a session of this service may survive without a connection.
    pub(crate) fn resume(&self, service: &ServiceName) -> Duration {
        self.services.get(service.as_str()).map_or(Duration::ZERO, |terms| terms.resume)
    }

    /// Returns `true` if clients may know the protocol of this service.
    pub(crate) fn describes(&self, service: &ServiceName) -> bool {
        self.services.get(service.as_str()).is_some_and(|terms| terms.describes)
    }

    /// Returns service and client of every credential that is not revoked, in the order of the configuration.
    pub(crate) fn reachable(&self) -> impl Iterator<Item = (&str, &str)> {
        let enabled = |terms: &&AccountTerms| {
            self.directory.account(&terms.name.0, &terms.name.1).is_some_and(|account| account.enabled)
        };
        let accounts = self.accounts.iter().filter(enabled);
        accounts.map(|AccountTerms { name: (service, client), .. }| (service.as_str(), client.as_str()))
    }

    /// Returns each service with the number of sessions that its owner set.
    pub(crate) fn max_sessions(&self) -> impl Iterator<Item = (Arc<str>, Option<usize>)> {
        self.services.iter().map(|(name, terms)| (name.as_str().into(), terms.max_sessions))
    }

    /// Returns each client that has a number of sessions of its own.
    pub(crate) fn max_sessions_of_clients(&self) -> impl Iterator<Item = (Holder, usize)> {
        self.accounts.iter().filter_map(|terms| {
            let (service, client) = &terms.name;
            Some((Holder::Client(service.as_str().into(), client.as_str().into()), terms.max_sessions?))
        })
    }

    /// Returns what the sessions of each service, and of each client, may use together.
    pub(crate) fn quotas(&self) -> impl Iterator<Item = (ServiceName, Option<ClientId>, &QuotaTerms)> {
        let of_clients =
            self.accounts.iter().map(|AccountTerms { name: (service, client), quota, .. }| {
                (service.clone(), Some(client.clone()), quota)
            });
        // A service without credentials has no sessions.
        let mut seen = HashSet::new();
        let of_services =
            self.accounts.iter().filter_map(move |AccountTerms { name: (service, _), .. }| {
                let terms = seen.insert(service.clone()).then(|| self.services.get(service.as_str()))??;
                Some((service.clone(), None, &terms.quota))
            });
        of_clients.chain(of_services)
    }

    /// Returns the names of all services.
    pub(crate) fn service_names(&self) -> impl Iterator<Item = &str> {
        self.services.keys().map(String::as_str)
    }

    /// Returns whether a peer is a proxy, which says whose each of its connections is.
    pub(crate) fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxies.iter().any(|net| net.contains(&peer))
    }

    /// Returns whether a client of this account may come from there.
    pub(crate) fn allows(&self, account: &Account, source: IpAddr) -> bool {
        let allowed = |from: &[IpNet]| from.is_empty() || from.iter().any(|net| net.contains(&source));
        let service = self.services.get(account.service.as_str());
        service.is_some_and(|terms| allowed(&terms.from))
            && self.accounts.get(account.index).is_some_and(|terms| allowed(&terms.from))
    }

    /// Returns the credential of a client, and why a session that logged in with `verifier` may not go on, if it may not.
    pub(crate) fn judge(
        &self,
        (service, client): (&ServiceName, &ClientId),
        source: IpAddr,
        verifier: &AccountVerifier,
    ) -> Result<&AccountVerifier, Revoked> {
        if !self.services.contains_key(service.as_str()) {
            return Err(Revoked::ServiceRemoved);
        }
        let account = self.directory.account(service, client).ok_or(Revoked::ClientRemoved)?;
        if !account.enabled {
            return Err(Revoked::ClientDisabled);
        }
        if account.verifier != *verifier && !self.is_former(&account.service, &account.client, verifier) {
            return Err(Revoked::CredentialChanged);
        }
        if !self.allows(account, source) {
            return Err(Revoked::SourceNotAllowed);
        }
        Ok(&account.verifier)
    }

    fn is_former(&self, service: &ServiceName, client: &ClientId, verifier: &AccountVerifier) -> bool {
        let AccountVerifier::Password(verifier) = verifier else { return false };
        self.former.get(&(service.clone(), client.clone())).is_some_and(|former| former == verifier)
    }

    /// Returns what differs between this policy and the one `after` it, apart from where it listens.
    pub(crate) fn diff(&self, after: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, new) in &after.services {
            let subject = format!("service {name}");
            match self.services.get(name) {
                None => changes.push(Change::added(subject)),
                Some(old) => {
                    let keys = [
                        ("mfa", old.mfa != new.mfa),
                        ("max_sessions", old.max_sessions != new.max_sessions),
                        ("resume", old.resume != new.resume),
                        ("describe", old.describes != new.describes),
                        ("from", old.from != new.from),
                    ];
                    let quota = old.quota.differs(&new.quota);
                    changes.extend(Change::changed(subject, keys.into_iter().chain(quota)));
                }
            }
        }
        let removed = self.services.keys().filter(|name| !after.services.contains_key(*name));
        changes.extend(removed.map(|name| Change::removed(format!("service {name}"))));
        for terms in &after.accounts {
            changes.extend(self.diff_account(after, terms));
        }
        for AccountTerms { name: (service, client), .. } in &self.accounts {
            if after.services.contains_key(service.as_str())
                && after.directory.account(service, client).is_none()
            {
                changes.push(Change::removed(subject(service, client)));
            }
        }
        changes.extend(self.diff_settings(after));
        changes
    }

    fn diff_account(&self, after: &Self, terms: &AccountTerms) -> Option<Change> {
        let (service, client) = &terms.name;
        let new = after.directory.account(service, client)?;
        // The clients of a new service are new with it.
        self.services.get(service.as_str())?;
        let Some(old) = self.directory.account(service, client) else {
            return Some(Change::added(subject(service, client)));
        };
        let same = old.verifier == new.verifier || after.is_former(service, client, &old.verifier);
        let old_terms = self.accounts.get(old.index)?;
        let keys = [
            ("credential", !same),
            ("disabled", old.enabled != new.enabled),
            ("max_sessions", old_terms.max_sessions != terms.max_sessions),
            ("from", old_terms.from != terms.from),
        ];
        let quota = old_terms.quota.differs(&terms.quota);
        Change::changed(subject(service, client), keys.into_iter().chain(quota))
    }

    fn diff_settings(&self, after: &Self) -> impl Iterator<Item = Change> {
        let settings = [
            ("[gate]", self.rules != after.rules),
            ("[metrics]", self.metrics != after.metrics),
            ("public", self.public != after.public),
            ("proxy_protocol_from", self.proxies != after.proxies),
            ("revoke_grace", self.revoke_grace != after.revoke_grace),
            ("the key of the server", self.identity.pin() != after.identity.pin()),
            ("the certificate", !self.identity.is_same_certificate(&after.identity)),
            ("the announced key", self.identity.next_pin() != after.identity.next_pin()),
        ];
        let settings = settings.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned());
        let limits = changed(&self.limits, &after.limits).into_iter().map(|name| format!("[limits] {name}"));
        settings.chain(limits).collect::<Vec<_>>().into_iter().map(Change::setting)
    }
}

fn subject(service: &ServiceName, client: &ClientId) -> String {
    match client.as_str() {
        "" => format!("the shared password of {}", service.as_str()),
        client => format!("client {client} of {}", service.as_str()),
    }
}

/// The result of the slow half of a preparation.
#[derive(Default)]
struct Derived {
    services: BTreeMap<String, Terms>,
    accounts: Vec<Account>,
    terms: Vec<AccountTerms>,
    passwords: HashMap<Name, Password>,
    former: HashMap<Name, PasswordVerifier>,
}

impl Derived {
    fn of(services: Vec<Service>, name_key: &NameKey, before: Option<&Policy>) -> Result<Self, StretchError> {
        let mut this = Self::default();
        for Service { name, clients, starter, max_sessions, quota, resume, describes, from, mfa } in services
        {
            for client in clients {
                this.add(&name, client, name_key, before)?;
            }
            this.services.insert(
                name.as_str().into(),
                Terms { starter, mfa, max_sessions, quota, resume, describes, from },
            );
        }
        Ok(this)
    }

    fn add(
        &mut self,
        service: &ServiceName,
        client: Client,
        name_key: &NameKey,
        before: Option<&Policy>,
    ) -> Result<(), StretchError> {
        let Client { id, credential, disabled, max_sessions, quota, from } = client;
        let name = (service.clone(), id.clone());
        let known = before.and_then(|before| before.passwords.get(&name));
        let old = before.and_then(|before| before.directory.account(service, &id));
        let old = old.and_then(|account| match &account.verifier {
            AccountVerifier::Password(verifier) => Some(verifier),
            _ => None,
        });
        let verifier = match credential {
            Credential::Key(key) => AccountVerifier::Key(key),
            Credential::Password(password) => {
                let verifier = match old {
                    Some(old) if known == Some(&password) => old.clone(),
                    _ => {
                        let salt = name_key.salt(service, &id);
                        PasswordVerifier::derive(&password, &salt, Argon2Params::DEFAULT)?
                    }
                };
                // A verifier that came from elsewhere has a salt of its own.
                if let Some(old) = old.filter(|old| known.is_none() && **old != verifier)
                    && is_of(old, &password)?
                {
                    self.former.insert(name.clone(), old.clone());
                }
                self.passwords.insert(name.clone(), password);
                AccountVerifier::Password(verifier)
            }
            Credential::Verifier(verifier) => {
                if let (Some(old), Some(known)) = (old, known)
                    && *old != *verifier
                    && is_of(&verifier, known)?
                {
                    self.former.insert(name.clone(), old.clone());
                }
                AccountVerifier::Password(*verifier)
            }
        };
        let index = self.terms.len();
        self.accounts.push(Account {
            service: service.clone(),
            client: id,
            verifier,
            enabled: !disabled,
            index,
        });
        self.terms.push(AccountTerms { name, max_sessions, quota, from });
        Ok(())
    }
}

/// Returns whether the verifier was made of this password.
fn is_of(verifier: &PasswordVerifier, password: &Password) -> Result<bool, StretchError> {
    Ok(PasswordVerifier::derive(password, verifier.salt(), verifier.params())? == *verifier)
}

fn nobody_seed() -> Result<Secret<32>, StartError> {
    let mut seed = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *seed).map_err(|_| StartError::NoRandomness)?;
    Ok(Secret::new(*seed))
}
