//! A client of `own_service`: the third program of the README.

#![expect(clippy::print_stdout, reason = "it prints for people")]

use chan_client::connect;
use chan_examples::api::{Names, NamesMessage};
use lib_chan::secret::Password;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_default();
    let password = Password::from_file("names.password")?;
    let names = connect(url).password(password).open_remote::<NamesMessage>().await?;
    names.store("joe", "writing a book").await?;
    // An error says whether the call was executed: no, yes, or unknown.
    println!("{:?}", names.lookup("joe").await?);
    Ok(names.close().await?)
}
