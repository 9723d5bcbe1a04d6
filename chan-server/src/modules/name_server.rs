//! The name server: one process that knows all names, and a process for each client that asks it.
//!
//! JSON: `{"Store":{"key":"joe","value":"…"}}` is a cast, `{"Lookup":{"key":"joe"}}` a call, answered by the value or
//! `null`.
//!
//! The names that it keeps have a bound, [`MaxLen`]: `mfa = ["name_server", "start_me_up", "1 GiB"]`.

use std::collections::HashMap;
use std::fmt;

use lib_chan::{Address, Channel, Event, ExitReason, Process, Reply};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::units::Number;

/// The protocol of the name server.
#[lib_chan::protocol]
pub trait Names {
    /// Remembers `value` under `key`, in place of the value that the key had. The session ends if there is no room for it.
    fn store(key: String, value: String);
    /// Returns the value of `key`, or `null` if it has none.
    async fn lookup(key: String) -> Option<String>;
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
    Store { key: String, value: String, max_len: MaxLen, reply: Reply<Result<(), ExitReason>> },
    Lookup { key: String, reply: Reply<Option<String>> },
}

/// The process that knows the names, until it is ended. It keeps what it was told as long as it lives.
pub(super) async fn kvs(mut me: Process<Ask>) -> Result<(), ExitReason> {
    let mut kept = Kept::default();
    loop {
        match me.recv().await {
            Event::Message(Ask::Store { key, value, max_len, reply }) => {
                reply.send(kept.store(key, value, max_len));
            }
            Event::Message(Ask::Lookup { key, reply }) => reply.send(kept.values.get(&key).cloned()),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Kept {
    values: HashMap<String, String>,
    /// The bytes that all of them take.
    len: usize,
}

impl Kept {
    fn store(&mut self, key: String, value: String, MaxLen(max_len): MaxLen) -> Result<(), ExitReason> {
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
    mut chan: Channel<NamesMessage>,
    kvs: Address<Ask>,
    max_len: MaxLen,
) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        match message {
            NamesMessage::Store { key, value } => {
                kvs.call(chan.limits().call_timeout, |reply| Ask::Store { key, value, max_len, reply })
                    .await??;
            }
            NamesMessage::Lookup { key, reply } => kvs.send(Ask::Lookup { key, reply }).await?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(names: &mut Kept, key: &str, len: usize, max_len: usize) -> bool {
        names.store(key.into(), "x".repeat(len), MaxLen(max_len)).is_ok()
    }

    #[test]
    fn name_server_bounds_its_names() {
        let mut names = Kept::default();
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
