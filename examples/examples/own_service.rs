//! A service with its server: the second program of the README.

#![expect(clippy::print_stdout, reason = "it prints for people")]

use std::collections::HashMap;

use chan_examples::api::NamesMessage;
use chan_server::config::{Config, Service};
use chan_server::{Server, audit::Audit, identity::StateDir};
use lib_chan::{Event, ExitReason, Process, secret::Password, spawn};

/// One process for all clients. It owns the names, so there is no lock.
async fn names(mut me: Process<NamesMessage>) -> Result<(), ExitReason> {
    let mut names = HashMap::new();
    while let Event::Message(message) = me.recv().await {
        match message {
            NamesMessage::Store { key, value } => drop(names.insert(key, value)),
            NamesMessage::Lookup { key, reply } => reply.send(names.get(&key).cloned()),
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let service = Service::shared("names", spawn(names))?.password(Password::from_file("names.password")?);
    let config = Config::new(["127.0.0.1:0".parse()?]).service(service);
    let server = Server::bind(config, &StateDir::at("state"), Audit::stderr()).await?;
    println!("{}", server.urls()[0].url);
    // Ends the sessions on Ctrl-C, and tells every client why.
    Ok(server.run_until(tokio::signal::ctrl_c()).await?)
}
