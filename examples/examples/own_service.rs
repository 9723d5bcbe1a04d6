//! A service with its server: the first program of the README.

#![expect(clippy::print_stdout, reason = "it prints for people")]

use std::collections::HashMap;

use chan_server::config::{Config, Service};
use chan_server::{Server, audit::Audit, identity::StateDir};
use lib_chan::{Address, Channel, Event, ExitReason, Process, protocol, secret::Password, spawn};

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
    while let Event::Message(message) = me.recv().await {
        match message {
            NamesMessage::Store { key, value } => drop(names.insert(key, value)),
            NamesMessage::Lookup { key, reply } => reply.send(names.get(&key).cloned()),
        }
    }
    Ok(())
}

/// Spawned for each client: passes its messages on. When this process ends, the client is told why, and vice versa.
async fn serve(mut chan: Channel<NamesMessage, ()>, kvs: Address<NamesMessage>) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        kvs.send(message).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let kvs = spawn(kvs);
    let service = Service::new("names", move |chan| serve(chan, kvs.clone()))?;
    let service = service.password(Password::from_file("names.password")?);
    let config = Config::new(["127.0.0.1:0".parse()?]).service(service);
    let server = Server::bind(config, &StateDir::at("state"), Audit::stderr()).await?;
    println!("{}", server.urls()[0].url);
    // Then the sessions end, and every client is told so.
    server.run_until(tokio::signal::ctrl_c()).await?;
    Ok(())
}
