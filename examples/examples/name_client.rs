//! A client of the name server: `name_client URL PASSWORD_FILE KEY` looks up, `… KEY VALUE` stores.
#![expect(clippy::print_stdout, reason = "the answer goes there")]

use anyhow::bail;
use chan_client::connect;
use chan_examples::names::{Names, NamesMessage};
use lib_chan::secret::Password;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, password_file, rest @ ..] = arguments.as_slice() else {
        bail!("usage: name_client URL PASSWORD_FILE KEY [VALUE]");
    };
    let password = Password::from_file(password_file)?;
    let names = connect(url.as_str()).password(password).open_remote::<NamesMessage>().await?;
    match rest {
        [key] => match names.lookup(key.as_str()).await? {
            Some(value) => println!("{value}"),
            None => bail!("nobody has stored {key}"),
        },
        [key, value] => names.store(key.as_str(), value.as_str()).await?,
        _ => bail!("a key, or a key and a value"),
    }
    // A cast is on its way when `cast` returns. It has arrived when `close` does.
    names.close().await?;
    Ok(())
}
