//! The name server: one process that knows all names, and a process for each client that asks it.
//!
//! JSON: `{"Store":{"key":"joe","value":"…"}}` is a cast, `{"Lookup":{"key":"joe"}}` a call, answered by the value or
//! `null`.

use std::collections::HashMap;

use lib_chan::{Address, Call, Channel, Event, ExitReason, Message, Process};
use serde::{Deserialize, Serialize};

/// Gives a key a value, in place of the one it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// The name.
    pub key: String,
    /// What it stands for.
    pub value: String,
}

/// Asks for the value of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// The name.
    pub key: String,
}

impl Call for Lookup {
    type Reply = Option<String>;
}

/// What the name server understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Request {
    /// A cast.
    Store(Store),
    /// A call.
    Lookup(Lookup),
}

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

/// The process that knows the names, until it is ended. It keeps what it was told as long as it lives.
///
/// # Errors
/// Never; it ends by an exit signal only.
pub async fn kvs(mut me: Process<Message<Request>>) -> Result<(), ExitReason> {
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

/// `mfa = ["name_server", "start_me_up"]`: hands what its client says to the process that knows the names.
///
/// # Errors
/// When that process is gone.
pub async fn start_me_up(
    _me: Process,
    mut chan: Channel<Request, ()>,
    kvs: Address<Message<Request>>,
) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        kvs.send(message).await?;
    }
    Ok(())
}
