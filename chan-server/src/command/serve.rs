//! The commands that serve, or say how to be served.

use std::fmt::Write;
use std::io::ErrorKind::AddrInUse;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;
use lib_chan::Limits;
use lib_chan::private::quoted;
use lib_chan::runtime::blocking;
use lib_chan::signals::{self, Subscription};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::admin::{self, Admin, Desk};
use super::arguments::{Choice, ConfigFile, LogFormat, LogPlace};
use super::{Failure, block_on, found, print_line, searched, systemd};
use crate::audit::{Audit, Event, Format};
use crate::config::Config;
use crate::identity::{Identity, StateDir, create_or_keep};
use crate::modules::Modules;
use crate::raise_descriptor_limit;
use crate::reload::Changes;
use crate::server::{Handle, Server, ServiceUrl, urls};
use crate::start::StartError;

/// The time for which the server waits until standard output has accepted the lines of its start.
const PRINT_TIMEOUT: Duration = Duration::from_secs(2);

/// `chan-server serve`.
pub(super) fn serve(
    choice: &Choice,
    place: &LogPlace,
    state: &StateDir,
    inherited: Vec<TcpListener>,
) -> Result<(), Failure> {
    let log = log(place)?;
    block_on(run(&log, state, async {
        let reloader = Reloader::of(choice)?;
        let config = reloader.load(None).await?;
        let drain_timeout = config.limits().drain_timeout;
        let server = Server::bind_with(config, state, Arc::clone(&log), inherited).await?;
        let mut text = listening(&server, "");
        for ServiceUrl { service, client, url, .. } in server.urls() {
            let who = if client.is_empty() { service } else { format!("{service} for {client}") };
            let _ = write!(text, "\n{who}: {url}");
        }
        Ok(Started { server, text, drain_timeout, reloader })
    }))
}

/// `chan-server` alone: serves the configuration that there is, or something to begin with.
pub(super) fn serve_or_begin(state: &StateDir, inherited: Vec<TcpListener>) -> Result<(), Failure> {
    let choice = Choice { file: ConfigFile { config: None }, host: None };
    let place = LogPlace { log_format: None, log_file: None };
    match found(None) {
        Ok(_) => serve(&choice, &place, state, inherited),
        Err(_) => {
            let log = log(&place)?;
            block_on(run(&log, state, begin(state, &log)))
        }
    }
}

/// A server that takes connections, and what its user is told about it.
struct Started {
    server: Server,
    text: String,
    drain_timeout: Duration,
    reloader: Reloader,
}

/// `chan-server identity`.
pub(super) fn identity(choice: &Choice, next: bool, rotate: bool, state: &StateDir) -> Result<(), Failure> {
    let config = match (found(choice.file.config.as_deref()), &choice.host) {
        (Ok(_), _) => {
            let load = async { Reloader::of(choice)?.load(None).await };
            Some(block_on(load)?)
        }
        (Err(_), None) => None,
        // A host is of no use but in the URLs of services.
        (Err(missing), Some(_)) => return Err(missing),
    };
    let of_tls = config.as_ref().and_then(Config::identity);
    if of_tls.is_some() && (next || rotate) {
        return Err(Failure::usage(
            "the key is that of [tls] in the configuration; replace the files that it names, and reload",
        ));
    }
    if next {
        state.announce_key()?;
    }
    let identity = match of_tls {
        Some(identity) => identity.clone(),
        None if rotate => state.rotate_key()?,
        None => Identity::in_state(state)?,
    };
    print_line(&identity.pin().to_string())?;
    if let Some(next) = identity.next_pin() {
        print_line(&format!("next {next}"))?;
    }
    let Some(config) = config else { return Ok(()) };
    let addresses = config.listen.addresses();
    urls(config.public.as_deref(), config.reachable(), &addresses, &identity)
        .iter()
        .try_for_each(|url| print_line(&url.url))
}

/// Reads the configuration, at the start and at each reload.
#[derive(Clone)]
pub(super) struct Reloader {
    /// `None` where there is nothing to read but what the program brings along.
    file: Option<PathBuf>,
    host: Option<String>,
    modules: Modules,
}

impl Reloader {
    /// Must be called inside a runtime.
    fn of(choice: &Choice) -> Result<Self, Failure> {
        let file = found(choice.file.config.as_deref())?;
        Ok(Self { file: Some(file), host: choice.host.clone(), modules: Modules::standard() })
    }

    /// Loads the configuration, or another file, on a thread of its own: a file may be as slow as a network or a pipe.
    async fn load(&self, other: Option<&Path>) -> Result<Config, Failure> {
        let Some(file) = other.or(self.file.as_deref()).map(Path::to_owned) else {
            let text = "the server was started without a configuration, so there is none to reload; start it with: \
                        chan-server serve --config FILE";
            return Err(Failure::usage(text));
        };
        let modules = self.modules.clone();
        let loaded = blocking(move || Config::load(&file, &modules)).await;
        let mut config = loaded
            .map_err(|error| Failure::local(format_args!("the configuration was not loaded: {error}")))??;
        if let Some(host) = &self.host {
            config.set_public(host).map_err(|text| Failure::usage(format_args!("--host: {text}")))?;
        }
        Ok(config)
    }

    /// Makes the server go over to what the file says now.
    pub(super) async fn reload(&self, server: &Handle) -> Result<Changes, Failure> {
        systemd::reloading();
        let reloaded = match self.load(None).await {
            Ok(config) => server.reload(config).await.map_err(Failure::from),
            Err(failure) => {
                server.note_failed_reload(&failure);
                Err(failure)
            }
        };
        systemd::ready();
        reloaded
    }

    /// Returns what a reload of this file would do.
    pub(super) async fn compare(&self, server: &Handle, file: &Path) -> Result<Changes, Failure> {
        Ok(server.compare(self.load(Some(file)).await?).await?)
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
    let reloader = Reloader { file: None, host: None, modules: Modules::new() };
    Ok(Started { server, text, drain_timeout: Limits::default().drain_timeout, reloader })
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
fn log(place: &LogPlace) -> Result<Arc<Audit>, Failure> {
    let format = place.log_format.map(|format| match format {
        LogFormat::Text => Format::Plain,
        LogFormat::Json => Format::Json,
    });
    let audit = match &place.log_file {
        None => Audit::stderr_as(format),
        Some(file) => Audit::file(file, format.unwrap_or(Format::Json))
            .map_err(|error| Failure::usage(format_args!("cannot open the log {}: {error}", quoted(file))))?,
    };
    if let Err(error) = raise_descriptor_limit() {
        let text = format!("cannot raise the number of descriptors to the hard limit (setrlimit): {error}");
        audit.write(&Event::Warning { text });
    }
    Ok(Arc::new(audit))
}

/// The text that is printed at a first start: commands to paste.
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
        let Some(url) = server.urls().into_iter().find(|url| url.service == service) else { continue };
        let _ =
            write!(text, "\n  {client} {command} --password-file {password_file} '{}' '{message}'", url.url);
    }
    text
}

fn beside_this_program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name(name));
    beside.filter(|path| path.exists()).unwrap_or_else(|| name.into())
}

/// Returns the addresses that the server listens on, with a note.
fn listening(server: &Server, note: &str) -> String {
    let addresses: Vec<_> = server.local_addrs().iter().map(ToString::to_string).collect();
    let reach = match &server.local_addrs() {
        all if all.iter().all(|address| address.ip().is_loopback()) => "this machine alone",
        all if all.iter().any(|address| address.ip().is_unspecified()) => "every network",
        _ => "the networks of these addresses",
    };
    format!("Listening on {}{note}, reachable from {reach}.", addresses.join(" and "))
}

/// Starts a server and serves until a signal or an operator says to stop, then until its sessions have ended or
/// `drain_timeout` is over. A second signal ends the sessions, a third cuts them off. A signal while the server starts ends
/// it at once.
async fn run(
    log: &Arc<Audit>,
    state: &StateDir,
    start: impl Future<Output = Result<Started, Failure>>,
) -> Result<(), Failure> {
    // Before anything is printed: whoever reads it may say at once that it is enough.
    let mut stop = Stop { signals: signals::subscribe(), asked: Arc::default() };
    let mut hangups = signals::hangups();
    // Without a handler, the signal ends the program: as good as the system allows.
    let reopenings = signal(SignalKind::user_defined1());
    let Started { mut server, text, drain_timeout, reloader } = tokio::select! {
        biased;
        () = stop.told() => {
            log.write(&Event::Stopped);
            return Ok(());
        }
        started = start => started?,
    };
    let handle = server.handle();
    let desk = Desk { handle: handle.clone(), reloader: reloader.clone(), stop: Arc::clone(&stop.asked) };
    // All of these end with this function.
    let mut beside = JoinSet::new();
    match Admin::open(state) {
        Ok(admin) => drop(beside.spawn(admin.serve(desk))),
        Err(error) => {
            let at = quoted(&admin::path(state));
            let text = format!("no socket at {at} for chan-server reload, sessions and the like: {error}");
            log.write(&Event::Warning { text });
        }
    }
    beside.spawn(async move {
        loop {
            hangups.recv().await;
            // Its outcome is in the log.
            let _ = reloader.reload(&handle).await;
        }
    });
    if let Ok(told) = reopenings {
        beside.spawn(reopen(Arc::clone(log), told));
    }
    beside.spawn(systemd::watchdog());
    show(text, log).await;
    systemd::ready();
    tokio::select! {
        () = server.run() => {}
        () = stop.told() => {}
    }
    systemd::stopping();
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
    // They hold the log, whose last lines are written when nobody holds it any more.
    beside.shutdown().await;
    Ok(())
}

/// Opens the file of the log anew at each SIGUSR1, for ever.
async fn reopen(log: Arc<Audit>, mut told: tokio::signal::unix::Signal) {
    while told.recv().await.is_some() {
        log.reopen();
    }
}

/// The signals and requests that stop a server: SIGINT, SIGTERM and an operator.
struct Stop {
    signals: Subscription,
    asked: Arc<Notify>,
}

impl Stop {
    async fn told(&mut self) {
        tokio::select! {
            _ = self.signals.recv() => {}
            () = self.asked.notified() => {}
        }
    }
}

/// Prints a text behind all that the log says so far. A standard output that is gone, or takes nothing for
/// [`PRINT_TIMEOUT`], does not hold the server up.
async fn show(text: String, log: &Arc<Audit>) {
    let before = Arc::clone(log);
    let printing = blocking(move || {
        before.flush();
        print_line(&text)
    });
    let why = match timeout(PRINT_TIMEOUT, printing).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(failure))) => failure.to_string(),
        Ok(Err(refused)) => refused.to_string(),
        Err(_) => "standard output takes nothing".into(),
    };
    log.write(&Event::Warning { text: format!("the server goes on, and its URLs were not printed: {why}") });
}
