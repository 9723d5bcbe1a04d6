//! A server with a service of its own: the first program of the README.

#![expect(clippy::print_stdout, reason = "it prints for people")]

use std::collections::HashMap;
use std::path::Path;

use chan_server::{Server, audit::Audit, config::Config, identity::StateDir, modules::Modules};
use lib_chan::{Address, Call, Channel, Event, ExitReason, Message, Process, spawn};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Store {
    key: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct Lookup {
    key: String,
}

/// The request type determines the reply type.
impl Call for Lookup {
    type Reply = Option<String>;
}

#[derive(Serialize, Deserialize)]
enum Request {
    Store(Store),
    Lookup(Lookup),
}

/// One process for all clients. It owns the names.
async fn kvs(mut me: Process<Message<Request>>) -> Result<(), ExitReason> {
    let mut names = HashMap::new();
    loop {
        match me.recv().await {
            Event::Message(Message::Cast(Request::Store(Store { key, value }))) => {
                names.insert(key, value);
            }
            Event::Message(Message::Call(Request::Lookup(lookup), reply)) => {
                let value = names.get(&lookup.key).cloned();
                reply.to(&lookup).send(value);
            }
            Event::Message(Message::Call(Request::Store(_), reply)) => reply.refuse("store is a cast"),
            _ => {}
        }
    }
}

/// Spawned for each client: passes its messages on. When this process ends, the client is told why, and vice versa.
async fn start_me_up(
    _me: Process,
    mut chan: Channel<Request, ()>,
    kvs: Address<Message<Request>>,
) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        kvs.send(message).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let kvs = spawn(kvs);
    let modules = Modules::new()
        .function("names", "start_me_up", move |me, chan, (): (), (): ()| start_me_up(me, chan, kvs.clone()));
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
