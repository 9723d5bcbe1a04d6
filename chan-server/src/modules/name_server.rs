//! The name server: one process that knows all names, and a process for each client that asks it.
//!
//! JSON: `{"Store":{"key":"joe","value":"…"}}` is a cast, `{"Lookup":{"key":"joe"}}` a call, answered by the value or
//! `null`.
//!
//! The names that it keeps have a bound, [`MaxLen`]: `mfa = ["name_server", "start_me_up", "1 GiB"]`.

use std::collections::HashMap;
use std::fmt;

use lib_chan::{Address, Call, Channel, Event, ExitReason, Message, Process, Reply};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::units::Number;

/// Gives a key a value, in place of the one it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// The name.
    pub key: String,
    /// Its value.
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

/// A request to the name server.
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

/// The most bytes that the names may take which are kept, as far as the clients of one service can bring it: what the
/// configuration says behind `start_me_up`, or else [`MaxLen::DEFAULT`]. A name counts with its key, its value, and
/// [`MaxLen::OF_A_NAME`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxLen(usize);

impl MaxLen {
    /// 64 MiB.
    pub const DEFAULT: Self = Self(64 * 1024 * 1024);
    /// The cost of a name beside its characters: 128 bytes.
    pub const OF_A_NAME: usize = 128;
}

impl<'de> Deserialize<'de> for MaxLen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(MaxLenVisitor)
    }
}

struct MaxLenVisitor;

impl<'de> Visitor<'de> for MaxLenVisitor {
    type Value = MaxLen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing, or the most bytes to keep, such as \"64 MiB\"")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut arguments: A) -> Result<MaxLen, A::Error> {
        let wrong = || A::Error::custom(WRITE_BYTES);
        match arguments.next_element::<Number>().map_err(|_| wrong())? {
            None => Ok(MaxLen::DEFAULT),
            Some(number) => number.bytes().map(MaxLen).ok_or_else(wrong),
        }
    }
}

const WRITE_BYTES: &str =
    "expected the most bytes to keep, such as \"64 MiB\" (units KiB, MiB, GiB; a plain number is bytes)";

/// A request to the process that keeps the names.
pub(super) enum Ask {
    Store(Store, MaxLen, Reply<Result<(), ExitReason>>),
    Lookup(Lookup, Reply<Option<String>>),
}

/// The process that knows the names, until it is ended. It keeps what it was told as long as it lives.
pub(super) async fn kvs(mut me: Process<Ask>) -> Result<(), ExitReason> {
    let mut names = Names::default();
    loop {
        match me.recv().await {
            Event::Message(Ask::Store(store, max_len, reply)) => reply.send(names.store(store, max_len)),
            Event::Message(Ask::Lookup(Lookup { key }, reply)) => reply.send(names.values.get(&key).cloned()),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Names {
    values: HashMap<String, String>,
    /// The bytes that all of them take.
    len: usize,
}

impl Names {
    fn store(&mut self, Store { key, value }: Store, MaxLen(max_len): MaxLen) -> Result<(), ExitReason> {
        let old = self.values.get(&key).map_or(0, |value| cost(&key, value));
        let len = self.len - old + cost(&key, &value);
        // One that takes no more than before finds its room, also where less is allowed than there is.
        if len > max_len && len > self.len {
            return Err(ExitReason::failed(format!(
                "no room for this name: all together may have {max_len} bytes"
            )));
        }
        self.len = len;
        self.values.insert(key, value);
        Ok(())
    }
}

const fn cost(key: &str, value: &str) -> usize {
    key.len() + value.len() + MaxLen::OF_A_NAME
}

/// `mfa = ["name_server", "start_me_up"]`: hands what its client says to the process that knows the names. A client
/// whose name finds no room is told so by the end of its session.
pub(super) async fn start_me_up(
    _me: Process,
    mut chan: Channel<Request, ()>,
    kvs: Address<Ask>,
    max_len: MaxLen,
) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        match message {
            Message::Cast(Request::Store(store)) => {
                kvs.call(chan.limits().call_timeout, |reply| Ask::Store(store, max_len, reply)).await??;
            }
            Message::Call(Request::Lookup(lookup), reply) => {
                let reply = reply.to(&lookup);
                kvs.send(Ask::Lookup(lookup, reply)).await?;
            }
            Message::Call(Request::Store(_), reply) => reply.refuse("store is a cast"),
            Message::Cast(Request::Lookup(_)) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(names: &mut Names, key: &str, len: usize, max_len: usize) -> bool {
        names.store(Store { key: key.into(), value: "x".repeat(len) }, MaxLen(max_len)).is_ok()
    }

    #[test]
    fn name_server_bounds_its_names() {
        let mut names = Names::default();
        let max_len = 2 * MaxLen::OF_A_NAME + 100;
        assert!(store(&mut names, "a", 49, max_len));
        assert!(!store(&mut names, "b", 50, max_len));
        assert!(store(&mut names, "b", 49, max_len));
        assert!(!store(&mut names, "c", 0, max_len), "a name without a value takes room as well");
        assert!(!store(&mut names, "a", 50, max_len));
        assert!(store(&mut names, "a", 10, max_len));
        assert!(store(&mut names, "b", 88, max_len));
        assert_eq!((names.values["a"].len(), names.values["b"].len(), names.len), (10, 88, max_len));
        assert!(store(&mut names, "b", 80, 0), "what makes room is taken under any bound");
    }
}
