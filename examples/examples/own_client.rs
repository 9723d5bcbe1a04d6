//! A client of `own_service`: the second program of the README.

#![expect(clippy::print_stdout, reason = "it prints for people")]

use std::env;

use chan_client::connect;
use lib_chan::{Call, secret::Password};
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

impl Call for Lookup {
    type Reply = Option<String>;
}

#[derive(Serialize, Deserialize)]
enum Request {
    Store(Store),
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

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::args().nth(1).unwrap_or_default();
    let password = Password::from_file("names.password")?;
    let chan = connect(url).password(password).open::<(), Request>().await?;
    let names = chan.remote();

    names.cast(Store { key: "joe".into(), value: "writing a book".into() }).await?;
    match names.call(Lookup { key: "joe".into() }).await {
        Ok(value) => println!("{value:?}"),
        // The error says whether the call was executed: no, yes, or unknown.
        Err(error) => println!("{error}"),
    }
    chan.close().await?;
    Ok(())
}
