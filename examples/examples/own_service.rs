//! A server with a service of its own: the first program of the README.

#![expect(clippy::print_stdout, reason = "it prints for people")]

use std::collections::HashMap;
use std::path::Path;

use chan_server::{Server, audit::Audit, config::Config, identity::StateDir, modules::Modules};
use lib_chan::{Address, Channel, Event, ExitReason, Process, protocol, spawn};

/// A store of names. `fn` is a message without an answer, `async fn` is a call.
#[protocol]
pub trait Names {
    /// Remembers `value` under `key`.
    fn store(key: String, value: String);
    /// Returns the value of `key`.
    async fn lookup(key: String) -> Option<String>;
}

/// One process for all clients. It owns the names.
async fn kvs(mut me: Process<NamesMessage>) -> Result<(), ExitReason> {
    let mut names = HashMap::new();
    loop {
        match me.recv().await {
            Event::Message(NamesMessage::Store { key, value }) => drop(names.insert(key, value)),
            Event::Message(NamesMessage::Lookup { key, reply }) => reply.send(names.get(&key).cloned()),
            _ => {}
        }
    }
}

/// Spawned for each client: passes its messages on. When this process ends, the client is told why, and vice versa.
async fn start_me_up(
    _me: Process,
    mut chan: Channel<NamesMessage, ()>,
    kvs: Address<NamesMessage>,
) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        kvs.send(message).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let kvs = spawn(kvs);
    let modules =
        Modules::new().service("names", "start_me_up", move |me, chan| start_me_up(me, chan, kvs.clone()));
    let config = Config::load(Path::new("names.toml"), &modules)?;
    let mut server = Server::bind(config, &StateDir::at("state"), Audit::stderr()).await?;
    for service in server.urls() {
        println!("{}", service.url);
    }
    tokio::select! {
        () = server.run() => {}
        pressed = tokio::signal::ctrl_c() => pressed?,
    }
    // Ends the sessions. Every client is told so.
    server.shutdown().await;
    Ok(())
}
