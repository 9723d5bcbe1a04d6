//! The `[[service]]` tables.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use lib_chan::auth::{ClientId, InvalidName, ServiceName};
use lib_chan::protocol::{Protocol, Receive};
use lib_chan::secret::Password;
use lib_chan::{Address, Channel, ExitReason};
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeValue, ValueDeserializer};

use super::credential::{self, Credential, Salts};
use super::document::{Problems, Span, Table};
use super::gate::networks;
use super::{Context, limits};
use crate::modules::unix;
use crate::modules::{Provided, ProvidedRole, Starter};
use crate::quota::QuotaTerms;
use crate::words::{nearest, shown};

/// A service: its name, its clients, and the function that is started for each.
#[derive(Debug)]
pub struct Service {
    pub(crate) name: ServiceName,
    pub(crate) clients: Vec<Client>,
    pub(crate) starter: Arc<Starter>,
    /// The most sessions of this service, where it has a number of its own.
    pub(crate) max_sessions: Option<usize>,
    /// What all its sessions may use together.
    pub(crate) quota: QuotaTerms,
    /// The longest that its sessions may survive without a connection; zero for not at all.
    pub(crate) resume: Duration,
    /// Its clients may know its protocol.
    pub(crate) describes: bool,
    /// The networks from which its clients may come; all if empty.
    pub(crate) from: Vec<IpNet>,
    /// The `mfa` with its arguments, in one spelling.
    pub(crate) mfa: String,
}

/// A client of a service.
#[derive(Debug)]
pub struct Client {
    /// Empty for the password that all share.
    pub(crate) id: ClientId,
    pub(crate) credential: Credential,
    pub(crate) disabled: bool,
    /// The most sessions of this client, where it has a number of its own.
    pub(crate) max_sessions: Option<usize>,
    /// What all its sessions may use together.
    pub(crate) quota: QuotaTerms,
    /// The networks from which it may come; all that its service allows if empty.
    pub(crate) from: Vec<IpNet>,
}

impl Service {
    /// The longest that a session survives without a connection, where nothing else is configured.
    const RESUME: Duration = Duration::from_secs(60);

    /// Makes a service of a function, which is spawned as a process for each client with the channel to that client. Clients
    /// share the state that the closure captures.
    ///
    /// Clients speak bincode or JSON. Nobody may start the service before it has a [`password`](Self::password) or a
    /// [`client`](Self::client).
    ///
    /// # Errors
    /// When the name is empty, longer than 64 bytes, or has other bytes than letters, digits, `.`, `_` and `-`.
    pub fn new<In, Out, F, Fut>(name: &str, start: F) -> Result<Self, InvalidName>
    where
        In: Receive + Send,
        Out: Send + 'static,
        F: Fn(Channel<In, Out>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        Ok(Self {
            name: ServiceName::new(name)?,
            clients: Vec::new(),
            starter: Arc::new(Starter::new(name, start)),
            max_sessions: None,
            quota: QuotaTerms::default(),
            resume: Self::RESUME,
            describes: true,
            from: Vec::new(),
            mfa: name.into(),
        })
    }

    /// Makes a service whose clients all talk to one process. Each client gets a process of its own, which passes the
    /// client's messages on to `process` in order, and waits while that mailbox is full. Calls are answered by `process`.
    ///
    /// Once `process` has ended, the next message of a client ends its session with `NoProc`.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    ///
    /// ```
    /// use chan_server::config::Service;
    /// use lib_chan::{Event, ExitReason, Process, protocol, spawn};
    ///
    /// /// Counts hits.
    /// #[protocol]
    /// pub trait Hits {
    ///     /// Counts one.
    ///     fn hit();
    ///     /// Returns the hits of all clients.
    ///     async fn count() -> u64;
    /// }
    ///
    /// async fn hits(mut me: Process<HitsMessage>) -> Result<(), ExitReason> {
    ///     let mut hits = 0;
    ///     while let Event::Message(message) = me.recv().await {
    ///         match message {
    ///             HitsMessage::Hit {} => hits += 1,
    ///             HitsMessage::Count { reply } => reply.send(hits),
    ///         }
    ///     }
    ///     Ok(())
    /// }
    ///
    /// # #[tokio::main]
    /// # async fn main() {
    /// let service = Service::shared("hits", spawn(hits)).unwrap();
    /// # assert_eq!(service.name().as_str(), "hits");
    /// # }
    /// ```
    pub fn shared<M: Protocol + 'static>(name: &str, process: Address<M>) -> Result<Self, InvalidName> {
        Self::new(name, move |mut chan: Channel<M, ()>| {
            let process = process.clone();
            async move {
                while let Some(message) = chan.recv().await {
                    process.send(message).await?;
                }
                Ok(())
            }
        })
    }

    /// Sets the longest that a session survives without a connection, if its client asks for that: 1 min where it is not
    /// set; zero for not at all.
    #[must_use]
    pub fn resume(mut self, window: Duration) -> Self {
        self.resume = window;
        self
    }

    /// Keeps the protocol of the service from clients that ask for it, or that have another one: the latter are refused
    /// without the difference. By default, every client that has logged in may know the protocol.
    #[must_use]
    pub fn hide_protocol(mut self) -> Self {
        self.describes = false;
        self
    }

    /// Lets in all clients that know this password. Replaces a password that was set before.
    #[must_use]
    pub fn password(self, password: Password) -> Self {
        self.admit(ClientId::default(), password.into())
    }

    /// Lets in a named client, by a password or the public half of its key. Replaces a client of the same name.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), for the name of the client.
    pub fn client(self, name: &str, credential: impl Into<Credential>) -> Result<Self, InvalidName> {
        // An empty name stands for the password that all share.
        ServiceName::new(name)?;
        Ok(self.admit(ClientId::new(name)?, credential.into()))
    }

    fn admit(mut self, id: ClientId, credential: Credential) -> Self {
        self.clients.retain(|client| client.id != id);
        self.clients.push(Client::new(id, credential));
        self
    }

    /// Returns the name of the service.
    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    /// Returns the clients that may start it, and the disabled ones. The client without a name stands for the shared password.
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// Returns module and function.
    pub fn mfa(&self) -> &str {
        self.starter.name()
    }
}

impl Client {
    fn new(id: ClientId, credential: Credential) -> Self {
        Self {
            id,
            credential,
            disabled: false,
            max_sessions: None,
            quota: QuotaTerms::default(),
            from: Vec::new(),
        }
    }

    /// Returns the name of the client; empty for the shared password.
    pub fn id(&self) -> &ClientId {
        &self.id
    }

    /// Returns `true` if the client is disabled.
    pub fn disabled(&self) -> bool {
        self.disabled
    }
}

/// Reads all services.
pub(super) fn read(root: &mut Table<'_>, context: &Context<'_>, problems: &mut Problems<'_>) -> Vec<Service> {
    let before = root.has("service");
    let tables = root.tables("service", "[[service]]", problems);
    if !before {
        let none = "no service; add: [[service]] with name, password_file and mfa = [\"echo\", \"start\"]";
        problems.add(&root.span, none.into());
    }
    let mut names = UniqueNames::new("service");
    let mut salts = Salts::default();
    let (mut services, mut roles) = (Vec::new(), Vec::new());
    for mut table in tables {
        let name = table.required::<String>("name", "\"name_server\"", problems);
        let name = name.and_then(|name| names.check(&name, ServiceName::new(name.get_ref()), problems));
        let starter = mfa(&mut table, context, problems);
        let who = name.as_ref().map_or("SERVICE", ServiceName::as_str);
        let clients = clients(&mut table, who, context, &mut salts, problems);
        let max_sessions = limits::count(&mut table, "max_sessions", problems);
        let quota = quota(&mut table, problems);
        let resume = limits::time(&mut table, "resume", Service::RESUME, problems);
        let resume = resume.unwrap_or(Service::RESUME);
        let describes = table.value::<bool>("describe", "false", problems).is_none_or(Spanned::into_inner);
        let from = from(&mut table, problems);
        table.finish(problems);
        if let (Some(name), Some((starter, mfa, span))) = (name, starter) {
            roles.extend(starter.provided().map(|provided| (provided.clone(), span)));
            services.push(Service {
                name,
                clients,
                starter,
                max_sessions,
                quota,
                resume,
                describes,
                from,
                mfa,
            });
        }
    }
    // A service that was not read may be the other half.
    if problems.is_empty() {
        check_provided(&roles, problems);
    }
    services
}

/// Checks that every name that is provided is used, and the reverse.
fn check_provided(roles: &[(Provided, Span)], problems: &mut Problems<'_>) {
    for (provided, span) in roles {
        let others = || roles.iter().map(|(other, _)| other).filter(|other| other.role != provided.role);
        let name = provided.name();
        if others().any(|other| other.name() == name) {
            continue;
        }
        let (missing, other) = match provided.role {
            ProvidedRole::By => ("no service takes the providers of", "for"),
            ProvidedRole::For => ("no service is served by the providers of", "by"),
        };
        let instead = match nearest(name, others().map(Provided::name)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("add a [[service]] with mfa = [\"provided\", \"{other}\", \"{name}\"]"),
        };
        problems.add(span, format!("\"mfa\": {missing} \"{name}\"; {instead}"));
    }
}

fn clients(
    table: &mut Table<'_>,
    service: &str,
    context: &Context<'_>,
    salts: &mut Salts,
    problems: &mut Problems<'_>,
) -> Vec<Client> {
    let has_clients = table.has("client");
    let shared = credential::read(table, credential::SHARED, service, context, salts, problems);
    let mut clients = Vec::new();
    match shared {
        Ok(Some(credential)) => {
            clients.push(Client::new(ClientId::default(), credential));
        }
        Ok(None) if !has_clients => {
            let add = format!("password_file = \"{service}.password\", or [[service.client]] tables");
            problems.add(&table.span, format!("[[service]] has no password; add: {add}"));
        }
        Ok(None) | Err(()) => {}
    }
    let mut names = UniqueNames::new("client");
    for mut table in table.tables("client", "[[service.client]]", problems) {
        let name = table.required::<String>("name", "\"joe\"", problems);
        let id = name.and_then(|name| {
            let id = ServiceName::new(name.get_ref()).and_then(|_| ClientId::new(name.get_ref()));
            names.check(&name, id, problems)
        });
        let disabled = table.value::<bool>("disabled", "true", problems).is_some_and(Spanned::into_inner);
        let max_sessions = limits::count(&mut table, "max_sessions", problems);
        let quota = quota(&mut table, problems);
        let from = from(&mut table, problems);
        let who = format!("{service} {}", id.as_ref().map_or("CLIENT", ClientId::as_str));
        let credential = credential::read(&mut table, credential::OWN, &who, context, salts, problems);
        if let Ok(None) = credential {
            let none = "[[service.client]] has no password and no key; add: key = \"ed25519:…\", or password_file = \"joe.password\"";
            problems.add(&table.span, none.into());
        }
        table.finish(problems);
        if let (Some(id), Ok(Some(credential))) = (id, credential) {
            clients.push(Client { id, credential, disabled, max_sessions, quota, from });
        }
    }
    clients
}

/// Reads what sessions may use together.
fn quota(table: &mut Table<'_>, problems: &mut Problems<'_>) -> QuotaTerms {
    let max_bytes_per_second = limits::rate(table, "max_bytes_per_second", problems);
    let per_second = limits::count(table, "max_calls_per_second", problems);
    QuotaTerms {
        max_bytes_per_second,
        max_calls_per_second: per_second
            .and_then(|count| u32::try_from(count).ok())
            .and_then(NonZeroU32::new),
        max_calls: limits::count(table, "max_calls", problems),
    }
}

/// Reads where clients may come from. An empty list would allow nobody, which `disabled` says better.
fn from(table: &mut Table<'_>, problems: &mut Problems<'_>) -> Vec<IpNet> {
    let (before, span) = (table.has("from"), table.span.clone());
    let networks = networks(table, "from", problems);
    if before && networks.is_empty() && problems.is_empty() {
        problems.add(&span, "\"from\" is empty; remove it, or write from = [\"10.0.0.0/8\"]".into());
    }
    networks
}

/// The names of one kind, each of which may stand once.
struct UniqueNames {
    kind: &'static str,
    lines: HashMap<String, usize>,
}

impl UniqueNames {
    fn new(kind: &'static str) -> Self {
        Self { kind, lines: HashMap::new() }
    }

    fn check<T, E>(
        &mut self,
        name: &Spanned<String>,
        checked: Result<T, E>,
        problems: &mut Problems<'_>,
    ) -> Option<T> {
        let Ok(checked) = checked else {
            let wrong = shown(name.get_ref());
            let instead = "write 1 to 64 letters, digits, dots, underscores and hyphens";
            problems.add(&name.span(), format!("\"name\" cannot be \"{wrong}\"; {instead}"));
            return None;
        };
        match self.lines.entry(name.get_ref().clone()) {
            Vacant(place) => {
                place.insert(problems.line(&name.span()));
                Some(checked)
            }
            Occupied(first) => {
                let (kind, line) = (self.kind, first.get());
                let twice = format!(
                    "two {kind}s are named \"{}\", the first in line {line}; rename one",
                    first.key()
                );
                problems.add(&name.span(), twice);
                None
            }
        }
    }
}

const MFA: &str = "[\"name_server\", \"start_me_up\"] (module, function, arguments)";

fn mfa(
    table: &mut Table<'_>,
    context: &Context<'_>,
    problems: &mut Problems<'_>,
) -> Option<(Arc<Starter>, String, Span)> {
    let Some(entry) = table.take("mfa") else {
        problems.add(&table.span, format!("{} has no \"mfa\"; add: mfa = {MFA}", table.name));
        return None;
    };
    let key_span = entry.key_span.clone();
    let mut items = entry.array(MFA, problems)?.into_inner().into_iter();
    let mut name = || String::deserialize(ValueDeserializer::from(items.next()?)).ok();
    let (Some(module), Some(function)) = (name(), name()) else {
        problems.add(&key_span, format!("\"mfa\" must begin with two names; write mfa = {MFA}"));
        return None;
    };
    let mut args = DeArray::new();
    items.for_each(|item| args.push(item));
    if let ("unix", "connect", Some(path)) = (&*module, &*function, args.first())
        && let Some(text) = path.get_ref().as_str().and_then(unix::warning)
    {
        problems.warn(&path.span(), format!("\"mfa\": {text}"), false);
    }
    let last_span = args.last().map_or_else(|| key_span.clone(), Spanned::span);
    let values = args.iter().map(|item| value(item.get_ref()));
    let mfa = toml::Value::Array(
        [module.clone().into(), function.clone().into()].into_iter().chain(values).collect(),
    );
    match context.modules.starter(&module, &function, args) {
        Ok(starter) => Some((Arc::new(starter), mfa.to_string(), last_span)),
        Err(error) => {
            let span: Span = error.span().unwrap_or(key_span);
            problems.add(&span, format!("\"mfa\": {error}"));
            None
        }
    }
}

/// The value of an argument, without where it stands and how it is written.
fn value(argument: &DeValue<'_>) -> toml::Value {
    let read = toml::Value::deserialize(ValueDeserializer::from(Spanned::new(0..0, argument.clone())));
    // A value that no other type can hold is like itself alone.
    read.unwrap_or_else(|_| format!("{argument:?}").into())
}
