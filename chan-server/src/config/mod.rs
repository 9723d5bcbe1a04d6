//! The configuration: the services, their passwords and keys, and their limits.
//!
//! A file is read and checked as a whole. All its mistakes are reported together, each with its line, its key and the
//! correction. So every [`Config`] can be served.

mod credential;
mod document;
mod gate;
pub(crate) mod limits;
mod service;

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use lib_chan::Limits;
use lib_chan::private::{self, quoted};
use toml::Spanned;
use zeroize::Zeroizing;

pub use credential::Credential;
#[cfg(feature = "cli")]
pub(crate) use credential::MIN_CHARS;
pub use document::{ConfigError, Problem, Warning};
pub use service::{Client, Service};

use document::{Problems, Table};

use crate::gate::GateRules;
use crate::identity::Identity;
use crate::listener::{Listen, has_address};
use crate::modules::Modules;
use crate::words::shown;

/// The most bytes of a configuration.
const MAX_LEN: usize = 4 * 1024 * 1024;

/// A configuration that was checked.
#[derive(Debug)]
pub struct Config {
    /// The addresses to listen on.
    pub(crate) listen: Listen,
    /// The host name or address under which clients reach this server, for the URLs it prints.
    pub(crate) public: Option<String>,
    /// The address for requests for metrics.
    pub(crate) metrics: Option<SocketAddr>,
    /// The limits.
    pub(crate) limits: Limits,
    /// Penalties and exceptions of the gate.
    pub(crate) gate: GateRules,
    /// The time for which sessions continue after a reload has withdrawn their right.
    pub(crate) revoke_grace: Duration,
    /// The proxies that state the source of each connection.
    pub(crate) proxies: Vec<IpNet>,
    /// The identity of `[tls]`; without one the server has its own.
    pub(crate) identity: Option<Identity>,
    /// In the order of the file; no name twice.
    pub(crate) services: Vec<Service>,
    /// In the order of the file.
    pub(crate) warnings: Vec<Warning>,
}

impl Config {
    /// Makes a configuration in a program: these addresses, the default limits, no service yet. Port 0 is any free port.
    ///
    /// ```
    /// # use chan_server::config::{Config, Service};
    /// # use lib_chan::{Channel, Message, secret::Password};
    /// # fn f(password: Password) -> Result<Config, Box<dyn std::error::Error>> {
    /// let echo = Service::new("echo", |mut chan: Channel<String>| async move {
    ///     while let Some(Message::Cast(text)) = chan.recv().await {
    ///         chan.remote().cast(text).await?;
    ///     }
    ///     Ok(())
    /// })?;
    /// let config = Config::new(["127.0.0.1:0".parse()?]).service(echo.password(password));
    /// # Ok(config)
    /// # }
    /// ```
    pub fn new(listen: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            listen: Listen::At(listen.into_iter().collect()),
            public: None,
            metrics: None,
            limits: Limits::default(),
            gate: GateRules::default(),
            revoke_grace: Duration::ZERO,
            proxies: Vec::new(),
            identity: None,
            services: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Adds a service, or replaces the one of the same name.
    #[must_use]
    pub fn service(mut self, service: Service) -> Self {
        self.services.retain(|other| other.name != service.name);
        self.services.push(service);
        self
    }

    /// Sets the bounds on everything that clients can make grow.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Reads and checks a file. Files that it names are looked for beside it.
    ///
    /// # Errors
    /// With everything that is wrong, in the order of the lines.
    pub fn load(file: &Path, modules: &Modules) -> Result<Self, ConfigError> {
        let (text, shared_mode) = read(file).map_err(|what| ConfigError {
            file: file.into(),
            problems: vec![Problem { line: 0, text: what }],
        })?;
        check(file, &text, shared_mode, modules)
    }

    /// Checks a text that comes from elsewhere, for a server embedded in another program. Messages call it `file`,
    /// and files that it names are looked for beside that.
    ///
    /// # Errors
    /// With everything that is wrong, in the order of the lines.
    pub fn parse(text: &str, file: &Path, modules: &Modules) -> Result<Self, ConfigError> {
        check(file, text, None, modules)
    }

    /// Takes another name for the URLs that are printed than the file's `public`.
    ///
    /// # Errors
    /// The text is not a host name or an address. The error is written for its author.
    pub fn set_public(&mut self, host: &str) -> Result<(), String> {
        self.public = Some(checked_host(host)?);
        Ok(())
    }

    /// Returns the services, in the order of the file.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// Returns the limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns warnings about settings that are allowed but need attention, in the order of the lines.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Returns service and client of every credential that is not revoked.
    #[cfg(feature = "cli")]
    pub(crate) fn reachable(&self) -> impl Iterator<Item = (&str, &str)> {
        self.services.iter().flat_map(|service| {
            let enabled = service.clients.iter().filter(|client| !client.disabled);
            enabled.map(|client| (service.name.as_str(), client.id.as_str()))
        })
    }

    /// Returns the identity that `[tls]` names, if it names one.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
}

/// The context in which the parts of a configuration are checked.
struct Context<'c> {
    file: &'c Path,
    /// The permission bits of the file, where others may read it.
    shared_mode: Option<u32>,
    modules: &'c Modules,
}

impl Context<'_> {
    /// A file named in the configuration.
    fn beside(&self, name: &str) -> PathBuf {
        self.file.with_file_name(name)
    }
}

fn read(file: &Path) -> Result<(Zeroizing<String>, Option<u32>), String> {
    let cannot = |error: io::Error| match fs::read_link(file) {
        Ok(target) => format!("is a link to {}, which cannot be read: {error}", target.display()),
        Err(_) => format!("cannot be read: {error}"),
    };
    let opened = File::open(file).map_err(cannot)?;
    let shared_mode = private::shared_mode(file, &opened).map_err(cannot)?;
    let mut text = Zeroizing::new(String::new());
    let len = opened.take(MAX_LEN as u64 + 1).read_to_string(&mut text).map_err(cannot)?;
    if len > MAX_LEN {
        return Err(format!("is longer than {MAX_LEN} bytes, so it is not a configuration"));
    }
    Ok((text, shared_mode))
}

fn check(
    file: &Path,
    text: &str,
    shared_mode: Option<u32>,
    modules: &Modules,
) -> Result<Config, ConfigError> {
    let context = Context { file, shared_mode, modules };
    let mut problems = Problems::new(text);
    let mut root = problems.parse();
    if !problems.is_empty() {
        // What a broken text seems to say is not worth more messages.
        return problems.settle(file, None);
    }
    let listen = check_listen(&mut root, &mut problems);
    let public = check_public(&mut root, &mut problems);
    let limits = match root.table("limits", "[limits]", &mut problems) {
        Some(table) => limits::read(table, &mut problems),
        None => Limits::default(),
    };
    let gate = match root.table("gate", "[gate]", &mut problems) {
        Some(table) => gate::read(table, &mut problems),
        None => GateRules::default(),
    };
    let proxies = gate::networks(&mut root, "proxy_protocol_from", &mut problems);
    let revoke_grace = limits::time(&mut root, "revoke_grace", Duration::ZERO, &mut problems);
    let identity =
        root.table("tls", "[tls]", &mut problems).and_then(|table| check_tls(table, &context, &mut problems));
    let metrics = root
        .table("metrics", "[metrics]", &mut problems)
        .and_then(|table| check_metrics(table, &mut problems));
    let services = service::read(&mut root, &context, &mut problems);
    root.finish(&mut problems);
    let warnings = problems.take_warnings();
    let revoke_grace = revoke_grace.unwrap_or_default();
    let config = listen.map(|listen| Config {
        listen,
        public,
        metrics,
        limits,
        gate,
        revoke_grace,
        proxies,
        identity,
        services,
        warnings,
    });
    problems.settle(file, config)
}

fn check_listen(root: &mut Table<'_>, problems: &mut Problems<'_>) -> Option<Listen> {
    let (port, listen) = (root.take("port"), root.take("listen"));
    if port.is_some()
        && let Some(listen) = &listen
    {
        let both = "\"listen\" excludes \"port\"; keep port to listen on every address, or listen for single addresses";
        problems.add(&listen.key_span, both.into());
        return None;
    }
    if let Some(port) = port {
        let port = port.value::<u16>("1234 (a number from 0 to 65535)", problems)?;
        return Some(Listen::Everywhere(port.into_inner()));
    }
    let Some(listen) = listen else {
        let neither =
            "no address to listen on; add: listen = [\"127.0.0.1:1234\"], or for every address: port = 1234";
        problems.add(&root.span, neither.into());
        return None;
    };
    let span = listen.key_span.clone();
    let texts = listen.value::<Vec<Spanned<String>>>("[\"127.0.0.1:1234\"]", problems)?.into_inner();
    if texts.is_empty() {
        problems.add(&span, "\"listen\" is empty; write listen = [\"127.0.0.1:1234\"]".into());
    }
    let mut addresses = Vec::new();
    for text in texts {
        let text_span = text.span();
        match text.get_ref().parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 && addresses.contains(&address) => {
                problems.add(&text_span, format!("\"listen\" names {address} twice; remove one"));
            }
            Ok(address) => {
                let ip = address.ip();
                // A machine without IPv6 serves without `[::1]`.
                if !ip.is_loopback() && !has_address(ip) {
                    let text = format!(
                        "\"listen\": no network of this machine has {ip}; serve fails until one does"
                    );
                    problems.warn(&text_span, text, false);
                }
                addresses.push(address);
            }
            Err(_) => {
                let wrong = shown(text.get_ref());
                let instead = "write an address and a port, such as \"127.0.0.1:1234\" or \"[::1]:1234\"";
                problems.add(&text_span, format!("\"listen\" cannot be \"{wrong}\"; {instead}"));
            }
        }
    }
    let covered = |address: &SocketAddr| {
        let wildcard: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let wildcard = SocketAddr::new(wildcard, address.port());
        (address.port() != 0 && *address != wildcard && addresses.contains(&wildcard)).then_some(wildcard)
    };
    for address in &addresses {
        if let Some(wildcard) = covered(address) {
            problems
                .add(&span, format!("\"listen\" names {address}, which is part of {wildcard}; remove one"));
        }
    }
    Some(Listen::At(addresses))
}

fn check_metrics(mut table: Table<'_>, problems: &mut Problems<'_>) -> Option<SocketAddr> {
    const EXAMPLE: &str = "\"127.0.0.1:9464\"";
    let listen = table.required::<String>("listen", EXAMPLE, problems);
    table.finish(problems);
    let listen = listen?;
    let address = listen.get_ref().parse().ok();
    if address.is_none() {
        let wrong = shown(listen.get_ref());
        problems.add(&listen.span(), format!("\"listen\" cannot be \"{wrong}\"; write listen = {EXAMPLE}"));
    }
    address
}

fn check_public(root: &mut Table<'_>, problems: &mut Problems<'_>) -> Option<String> {
    let public = root.value::<String>("public", "\"example.net\"", problems)?;
    match checked_host(public.get_ref()) {
        Ok(host) => Some(host),
        Err(text) => {
            problems.add(&public.span(), format!("\"public\": {text}"));
            None
        }
    }
}

fn checked_host(host: &str) -> Result<String, String> {
    let is_name = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if !is_name && host.parse::<Ipv6Addr>().is_err() {
        return Err(format!(
            "\"{}\" is not a host; write a name or an address without a port, such as example.net",
            shown(host)
        ));
    }
    Ok(host.into())
}

fn check_tls(mut table: Table<'_>, context: &Context<'_>, problems: &mut Problems<'_>) -> Option<Identity> {
    let certificate = table.required::<String>("certificate", "\"server.pem\"", problems);
    let key = table.required::<String>("key", "\"server.key\"", problems);
    table.finish(problems);
    let (certificate, key) = (certificate?, key?);
    let (chain, private) = (context.beside(certificate.get_ref()), context.beside(key.get_ref()));
    match Identity::from_files(&chain, &private) {
        Ok(identity) => {
            #[expect(
                clippy::disallowed_methods,
                reason = "the dates in a certificate are those of the calendar"
            )]
            let now = SystemTime::now();
            for warning in identity.warnings(now) {
                let text = format!("\"certificate\": {} {}", quoted(&chain), warning.text);
                problems.warn(&certificate.span(), text, warning.is_fatal);
            }
            Some(identity)
        }
        Err(error) => {
            let (name, at) = if error.is_about(&chain) {
                ("certificate", certificate.span())
            } else {
                ("key", key.span())
            };
            problems.add(&at, format!("\"{name}\": {error}"));
            None
        }
    }
}
