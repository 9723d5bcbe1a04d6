//! The book's name server: one process that knows all names, and a process for each client that asks it.

use std::collections::HashMap;

use chan_server::modules::Modules;
use lib_chan::{Address, Channel, Event, ExitReason, Process, spawn};

pub use crate::api::{Names, NamesMessage};

/// The module `name_server` with its function `start`. Must be called inside a tokio runtime, where it spawns [`kvs`].
pub fn modules() -> Modules {
    let kvs = spawn(kvs);
    // What the closure captures is what all clients share.
    Modules::new().service("name_server", "start", move |chan| start(chan, kvs.clone()))
}

/// The process that knows the names. There is no lock: it is alone with its map, and looks at one message at a time.
///
/// # Errors
/// Never. It goes on until the program ends.
pub async fn kvs(mut me: Process<NamesMessage>) -> Result<(), ExitReason> {
    let mut names = HashMap::new();
    loop {
        match me.recv().await {
            Event::Message(NamesMessage::Store { key, value }) => drop(names.insert(key, value)),
            Event::Message(NamesMessage::Lookup { key, reply }) => reply.send(names.get(&key).cloned()),
            // A signal, of which there are none without links and monitors.
            Event::Exit(..) | Event::Down(..) => {}
        }
    }
}

/// Runs in a process of its own for each client, and hands on what the client says. A call goes with its reply, so
/// that [`kvs`] answers the client itself.
///
/// When the client goes, `recv` gives nothing more and this ends. When this ends, the client is told.
///
/// # Errors
/// When `kvs` is gone.
pub async fn start(
    mut chan: Channel<NamesMessage, ()>,
    kvs: Address<NamesMessage>,
) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        kvs.send(message).await?;
    }
    Ok(())
}
