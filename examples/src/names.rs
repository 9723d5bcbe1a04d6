//! The book's name server: one process that knows all names, and a process for each client that asks it.

use std::collections::HashMap;

use chan_server::modules::Modules;
use lib_chan::{Address, Call, Channel, Event, ExitReason, Message, Process, spawn};
use serde::{Deserialize, Serialize};

/// What a client may say. A type with serde's two traits is all that a message has to be.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// A cast: nobody waits for an answer.
    Store(Store),
    /// A call.
    Lookup(Lookup),
}

/// Gives a key a value.
#[derive(Debug, Serialize, Deserialize)]
pub struct Store {
    /// The name.
    pub key: String,
    /// What it stands for.
    pub value: String,
}

/// Asks for the value of a key.
#[derive(Debug, Serialize, Deserialize)]
pub struct Lookup {
    /// The name.
    pub key: String,
}

/// A request owns the type of its reply, so neither side can get it wrong.
impl Call for Lookup {
    type Reply = Option<String>;
}

// With these a client writes `remote.call(Lookup { key })`.

impl From<Store> for Request {
    fn from(store: Store) -> Self {
        Self::Store(store)
    }
}

impl From<Lookup> for Request {
    fn from(lookup: Lookup) -> Self {
        Self::Lookup(lookup)
    }
}

/// The module `name_server` with its function `start`. Must be called inside a tokio runtime, where it spawns [`kvs`].
pub fn modules() -> Modules {
    let kvs = spawn(kvs);
    // What the closure captures is what all clients share. The two `()` are the arguments that the client gave, and
    // those that the configuration gave: none here.
    Modules::new()
        .function("name_server", "start", move |_me: Process, chan, (): (), (): ()| start(chan, kvs.clone()))
}

/// The process that knows the names. There is no lock: it is alone with its map, and looks at one message at a time.
///
/// # Errors
/// Never. It goes on until the program ends.
pub async fn kvs(mut me: Process<Message<Request>>) -> Result<(), ExitReason> {
    let mut names = HashMap::new();
    loop {
        match me.recv().await {
            Event::Message(Message::Cast(Request::Store(Store { key, value }))) => {
                names.insert(key, value);
            }
            Event::Message(Message::Call(Request::Lookup(lookup), reply)) => {
                // The request tells the reply what type it has to be.
                let value = names.get(&lookup.key).cloned();
                reply.to(&lookup).send(value);
            }
            Event::Message(Message::Call(_, reply)) => reply.refuse("store is a cast"),
            // A lookup that nobody waits for; a signal, of which there are none without links and monitors.
            _ => {}
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
pub async fn start(mut chan: Channel<Request, ()>, kvs: Address<Message<Request>>) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        kvs.send(message).await?;
    }
    Ok(())
}
