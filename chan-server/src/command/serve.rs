//! The commands that serve, or say how to be served.

use std::fmt::Write;
use std::io::ErrorKind::AddrInUse;
use std::path::{Path, PathBuf};
use std::time::Duration;

use humantime::format_duration;
use lib_chan::Limits;
use lib_chan::private::quoted;
use lib_chan::signals::{self, Signal, Subscription};

use super::arguments::Choice;
use super::{Failure, block_on, found, print_line, searched};
use crate::audit::{Audit, Event};
use crate::config::Config;
use crate::descriptors;
use crate::identity::{Identity, StateDir, create_or_keep};
use crate::modules::Modules;
use crate::server::{Server, ServiceUrl, StartError, urls};

/// `chan-server serve`.
pub(super) fn serve(choice: &Choice, state: &StateDir) -> Result<(), Failure> {
    block_on(async {
        // Before anything is printed: whoever reads it may say at once that it is enough.
        let signals = signals::subscribe();
        let config = choice.load()?;
        let drain_timeout = config.limits().drain_timeout;
        let server = Server::bind(config, state, log()).await?;
        let mut text = listening(&server);
        for ServiceUrl { service, client, url, .. } in server.urls() {
            let who = if client.is_empty() { service.clone() } else { format!("{service} for {client}") };
            let _ = write!(text, "\n{who}: {url}");
        }
        print_line(&text)?;
        run(server, signals, drain_timeout).await
    })
}

/// `chan-server` alone: serves the configuration that there is, or something to begin with.
pub(super) fn serve_or_begin(state: &StateDir) -> Result<(), Failure> {
    let choice = Choice { config: None, host: None };
    match found(None) {
        Ok(_) => serve(&choice, state),
        Err(_) => block_on(begin(state)),
    }
}

/// `chan-server identity`.
pub(super) fn identity(choice: &Choice, state: &StateDir) -> Result<(), Failure> {
    let config = match found(choice.config.as_deref()) {
        Ok(_) => Some(block_on(async { choice.load() })?),
        Err(_) => None,
    };
    let identity = match config.as_ref().and_then(Config::identity) {
        Some(identity) => identity.clone(),
        None => Identity::in_state(state)?,
    };
    print_line(&identity.pin().to_string())?;
    let Some(config) = config else { return Ok(()) };
    urls(&config, &config.listen.addresses(), &identity).iter().try_for_each(|url| print_line(&url.url))
}

impl Choice {
    /// Inside a runtime, since the modules have processes.
    fn load(&self) -> Result<Config, Failure> {
        let mut config = Config::load(&found(self.config.as_deref())?, &Modules::standard())?;
        if let Some(host) = &self.host {
            config.set_public(host).map_err(|text| Failure::usage(format_args!("--host: {text}")))?;
        }
        Ok(config)
    }
}

/// A first start: a server to try things with, for this machine alone.
async fn begin(state: &StateDir) -> Result<(), Failure> {
    let signals = signals::subscribe();
    state.create()?;
    let password_file = state.file("password");
    create_or_keep(&password_file, super::passwd::generate()?.as_bytes())?;
    let server = match bind_beginning(state, 1234).await {
        // Somebody else has the usual port; any other does as well, since it is printed.
        Err(StartError::Bind(error)) if error.error.kind() == AddrInUse => bind_beginning(state, 0).await?,
        bound => bound?,
    };
    print_line(&beginning(&server, &password_file))?;
    run(server, signals, Limits::default().drain_timeout).await
}

async fn bind_beginning(state: &StateDir, port: u16) -> Result<Server, StartError> {
    let text = format!(
        "listen = [\"127.0.0.1:{port}\"]\n\
         [[service]]\nname = \"name_server\"\npassword_file = \"password\"\nmfa = [\"name_server\", \"start_me_up\"]\n\
         [[service]]\nname = \"echo\"\npassword_file = \"password\"\nmfa = [\"echo\", \"start\"]\n"
    );
    let config = Config::parse(&text, &state.file("first start"), &Modules::standard())?;
    Server::bind(config, state, log()).await
}

/// Opens the log, and raises the number of descriptors. Whether that is allowed is only a line of the log.
fn log() -> Audit {
    let audit = Audit::stderr();
    if let Some(text) = descriptors::raise() {
        audit.write(&Event::Warning { text });
    }
    audit
}

/// What is printed at a first start: commands that work as they are pasted.
fn beginning(server: &Server, password_file: &Path) -> String {
    let places: Vec<_> = searched().iter().map(|place| place.display().to_string()).collect();
    let mut text = format!(
        "No configuration in {}: serving a name server and an echo to this machine alone.\n{}\n\
         In another terminal:\n",
        places.join(" or "),
        listening(server)
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

fn listening(server: &Server) -> String {
    let addresses: Vec<_> = server.local_addrs().iter().map(ToString::to_string).collect();
    let reach = match server.local_addrs() {
        all if all.iter().all(|address| address.ip().is_loopback()) => "this machine alone",
        all if all.iter().any(|address| address.ip().is_unspecified()) => "every network",
        _ => "the networks of these addresses",
    };
    format!("Listening on {}, reachable from {reach}.", addresses.join(" and "))
}

/// Serves until it is told to stop, and then until its sessions have ended or their time is over. A second signal ends
/// them, a third cuts them off.
async fn run(mut server: Server, mut signals: Subscription, drain_timeout: Duration) -> Result<(), Failure> {
    tokio::select! {
        () = server.run() => {}
        () = told_to_stop(&mut signals) => {}
    }
    let sessions = server.sessions();
    if sessions > 0 && !drain_timeout.is_zero() {
        let (plural, most) = (if sessions == 1 { "" } else { "s" }, format_duration(drain_timeout));
        // Whether anybody reads it changes nothing.
        let _ = print_line(&format!(
            "Waiting at most {most} for {sessions} session{plural} to end; Ctrl-C again ends them now."
        ));
    }
    tokio::select! {
        () = server.drain() => {}
        () = told_to_stop(&mut signals) => {}
    }
    tokio::select! {
        () = server.shutdown() => {}
        () = told_to_stop(&mut signals) => {}
    }
    Ok(())
}

/// Waits for SIGINT or SIGTERM. SIGHUP ends nothing.
async fn told_to_stop(signals: &mut Subscription) {
    while signals.recv().await == Signal::Hangup {}
}
