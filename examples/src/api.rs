//! The protocol of the README's service, shared with its client.

/// A store of names. `fn` declares a message without an answer, `async fn` a call.
#[lib_chan::protocol]
pub trait Names {
    /// Remembers `value` under `key`.
    fn store(key: String, value: String);
    /// Returns the value of `key`.
    async fn lookup(key: String) -> Option<String>;
}
