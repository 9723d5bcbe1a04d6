//! A client of `own_service`: the second program of the README.

#![expect(clippy::print_stdout, reason = "it prints for people")]

use std::env;

use chan_client::connect;
use lib_chan::{protocol, secret::Password};

/// A store of names.
#[protocol]
pub trait Names {
    /// Remembers `value` under `key`.
    fn store(key: String, value: String);
    /// Returns the value of `key`.
    async fn lookup(key: String) -> Option<String>;
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::args().nth(1).unwrap_or_default();
    let password = Password::from_file("names.password")?;
    let chan = connect(url).password(password).open::<(), NamesMessage>().await?;
    chan.remote().store("joe", "writing a book").await?;
    // An error says whether the call was executed: no, yes, or unknown.
    println!("{:?}", chan.remote().lookup("joe").await?);
    chan.close().await?;
    Ok(())
}
