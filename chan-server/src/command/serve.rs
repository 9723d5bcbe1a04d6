//! The commands that serve, or say how to be served.

use std::fmt::Write;
use std::io::ErrorKind::AddrInUse;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;
use lib_chan::Limits;
use lib_chan::private::quoted;
use lib_chan::signals::{self, Signal, Subscription};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::arguments::{Choice, ConfigFile};
use super::{Failure, block_on, found, print_line, searched};
use crate::audit::{Audit, Event};
use crate::config::Config;
use crate::identity::{Identity, StateDir, create_or_keep};
use crate::listener::Listen;
use crate::modules::Modules;
use crate::raise_descriptor_limit;
use crate::server::{Server, ServiceUrl, StartError, urls};

/// How long a standard output may take to take what a server prints at its start.
const PRINT_TIMEOUT: Duration = Duration::from_secs(2);

/// `chan-server serve`.
pub(super) fn serve(choice: &Choice, state: &StateDir) -> Result<(), Failure> {
    let log = log();
    block_on(run(&log, async {
        let config = choice.load().await?;
        let drain_timeout = config.limits().drain_timeout;
        let server = Server::bind(config, state, Arc::clone(&log)).await?;
        let mut text = listening(&server, "");
        for ServiceUrl { service, client, url, .. } in server.urls() {
            let who = if client.is_empty() { service.clone() } else { format!("{service} for {client}") };
            let _ = write!(text, "\n{who}: {url}");
        }
        Ok(Started { server, text, drain_timeout })
    }))
}

/// `chan-server` alone: serves the configuration that there is, or something to begin with.
pub(super) fn serve_or_begin(state: &StateDir) -> Result<(), Failure> {
    let choice = Choice { file: ConfigFile { config: None }, host: None };
    match found(None) {
        Ok(_) => serve(&choice, state),
        Err(_) => {
            let log = log();
            block_on(run(&log, begin(state, &log)))
        }
    }
}

/// A server that takes connections, and what its user is told about it.
struct Started {
    server: Server,
    text: String,
    drain_timeout: Duration,
}

/// `chan-server identity`.
pub(super) fn identity(choice: &Choice, state: &StateDir) -> Result<(), Failure> {
    let config = match (found(choice.file.config.as_deref()), &choice.host) {
        (Ok(_), _) => Some(block_on(choice.load())?),
        (Err(_), None) => None,
        // A host is of no use but in the URLs of services.
        (Err(missing), Some(_)) => return Err(missing),
    };
    let identity = match config.as_ref().and_then(Config::identity) {
        Some(identity) => identity.clone(),
        None => Identity::in_state(state)?,
    };
    print_line(&identity.pin().to_string())?;
    let Some(config) = config else { return Ok(()) };
    let addresses = match &config.listen {
        Listen::Everywhere(port) => vec![(Ipv6Addr::UNSPECIFIED, *port).into()],
        Listen::At(addresses) => addresses.clone(),
    };
    urls(&config, &addresses, &identity).iter().try_for_each(|url| print_line(&url.url))
}

impl Choice {
    /// Loads the configuration on a thread of its own: a file may be as slow as a network or a pipe.
    async fn load(&self) -> Result<Config, Failure> {
        let file = found(self.file.config.as_deref())?;
        let loading = spawn_blocking(move || Config::load(&file, &Modules::standard())).await;
        let mut config = match loading {
            Ok(loaded) => loaded?,
            Err(failed) => {
                return Err(Failure::local(format_args!("the configuration was not loaded: {failed}")));
            }
        };
        if let Some(host) = &self.host {
            config.set_public(host).map_err(|text| Failure::usage(format_args!("--host: {text}")))?;
        }
        Ok(config)
    }
}

/// A first start: a server to try things with, for this machine alone.
async fn begin(state: &StateDir, log: &Arc<Audit>) -> Result<Started, Failure> {
    const PORT: u16 = 1234;
    state.create()?;
    let password_file = state.file("password");
    create_or_keep(&password_file, super::passwd::generate()?.as_bytes())?;
    let (server, note) = match bind_beginning(state, log, PORT).await {
        // Another program has the usual port; any other does as well, since it is printed.
        Err(StartError::Bind(error)) if error.error.kind() == AddrInUse => {
            (bind_beginning(state, log, 0).await?, format!(" (port {PORT} is taken)"))
        }
        bound => (bound?, String::new()),
    };
    let text = beginning(&server, &note, &password_file);
    Ok(Started { server, text, drain_timeout: Limits::default().drain_timeout })
}

async fn bind_beginning(state: &StateDir, log: &Arc<Audit>, port: u16) -> Result<Server, StartError> {
    let text = format!(
        "listen = [\"127.0.0.1:{port}\"]\n\
         [[service]]\nname = \"name_server\"\npassword_file = \"password\"\nmfa = [\"name_server\", \"start_me_up\"]\n\
         [[service]]\nname = \"echo\"\npassword_file = \"password\"\nmfa = [\"echo\", \"start\"]\n"
    );
    let config = Config::parse(&text, &state.file("first start"), &Modules::standard())?;
    Server::bind(config, state, Arc::clone(log)).await
}

/// Opens the log, and raises the number of descriptors. Whether that is allowed is only a line of the log.
fn log() -> Arc<Audit> {
    let audit = Audit::stderr();
    if let Err(error) = raise_descriptor_limit() {
        let text = format!("cannot raise the number of descriptors to the hard limit (setrlimit): {error}");
        audit.write(&Event::Warning { text });
    }
    Arc::new(audit)
}

/// What is printed at a first start: commands that work as they are pasted.
fn beginning(server: &Server, note: &str, password_file: &Path) -> String {
    let places: Vec<_> = searched().iter().map(|place| place.display().to_string()).collect();
    let mut text = format!(
        "No configuration in {}: serving a name server and an echo to this machine alone.\n{}\n\
         In another terminal:\n",
        places.join(" or "),
        listening(server, note)
    );
    let client = quoted(&beside_this_program("chan-client"));
    let password_file = quoted(password_file);
    for (service, command, message) in [
        ("name_server", "cast", r#"{"Store":{"key":"joe","value":"writing a book"}}"#),
        ("name_server", "call", r#"{"Lookup":{"key":"joe"}}"#),
        ("echo", "call", r#""hello""#),
    ] {
        let Some(url) = server.urls().iter().find(|url| url.service == service) else { continue };
        let _ =
            write!(text, "\n  {client} {command} --password-file {password_file} '{}' '{message}'", url.url);
    }
    text
}

fn beside_this_program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name(name));
    beside.filter(|path| path.exists()).unwrap_or_else(|| name.into())
}

/// Where the server listens, with a note on that.
fn listening(server: &Server, note: &str) -> String {
    let addresses: Vec<_> = server.local_addrs().iter().map(ToString::to_string).collect();
    let reach = match server.local_addrs() {
        all if all.iter().all(|address| address.ip().is_loopback()) => "this machine alone",
        all if all.iter().any(|address| address.ip().is_unspecified()) => "every network",
        _ => "the networks of these addresses",
    };
    format!("Listening on {}{note}, reachable from {reach}.", addresses.join(" and "))
}

/// Starts a server and serves until a signal says to stop, then until its sessions have ended or `drain_timeout` is over. A
/// second signal ends the sessions, a third cuts them off. A signal while the server starts ends it at once.
async fn run(log: &Arc<Audit>, start: impl Future<Output = Result<Started, Failure>>) -> Result<(), Failure> {
    // Before anything is printed: whoever reads it may say at once that it is enough.
    let mut stop = Stop { signals: signals::subscribe(), log };
    let Started { mut server, text, drain_timeout } = tokio::select! {
        biased;
        () = stop.told() => {
            log.write(&Event::Stopped);
            return Ok(());
        }
        started = start => started?,
    };
    show(text, log).await;
    tokio::select! {
        () = server.run() => {}
        () = stop.told() => {}
    }
    let sessions = server.sessions();
    if sessions > 0 && !drain_timeout.is_zero() {
        let (plural, most) = (if sessions == 1 { "" } else { "s" }, format_duration(drain_timeout));
        let text = format!(
            "Waiting at most {most} for {sessions} session{plural} to end; Ctrl-C again ends them now."
        );
        tokio::select! {
            () = show(text, log) => {}
            () = stop.told() => {}
        }
    }
    tokio::select! {
        () = server.drain() => {}
        () = stop.told() => {}
    }
    let cutter = server.cutter();
    let mut shutdown = pin!(server.shutdown());
    tokio::select! {
        () = &mut shutdown => {}
        () = stop.told() => {
            cutter.cut();
            shutdown.await;
        }
    }
    Ok(())
}

/// The signals that stop a server.
struct Stop<'l> {
    signals: Subscription,
    log: &'l Audit,
}

impl Stop<'_> {
    /// Waits for SIGINT or SIGTERM. SIGHUP, which a terminal sends when it is closed, ends nothing.
    async fn told(&mut self) {
        while self.signals.recv().await == Signal::Hangup {
            let text = "SIGHUP is ignored; to change the configuration, restart the server".into();
            self.log.write(&Event::Warning { text });
        }
    }
}

/// Prints a text behind all that the log says so far. A standard output that is gone, or takes nothing for
/// [`PRINT_TIMEOUT`], does not hold the server up.
async fn show(text: String, log: &Arc<Audit>) {
    let before = Arc::clone(log);
    let printing = spawn_blocking(move || {
        before.flush();
        print_line(&text)
    });
    let why = match timeout(PRINT_TIMEOUT, printing).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(failure))) => failure.to_string(),
        Ok(Err(failed)) => failed.to_string(),
        Err(_) => "standard output takes nothing".into(),
    };
    log.write(&Event::Warning { text: format!("the server goes on, and its URLs were not printed: {why}") });
}
