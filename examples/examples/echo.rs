//! The smallest service there is, with its server and a client, in one program.
#![expect(clippy::print_stdout, reason = "it shows what it does")]

use chan_client::connect;
use chan_examples::Place;
use chan_server::modules::Modules;
use lib_chan::{Channel, Message, secret::Password};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // A service is a function. It runs in a process of its own for each client, with a channel to that client:
    // strings come in, strings go out.
    let modules = Modules::new().service("echo", "start", |mut chan: Channel<String>| async move {
        while let Some(message) = chan.recv().await {
            match message {
                Message::Cast(text) => chan.remote().cast(text).await?,
                Message::Call(_, reply) => reply.refuse("nothing here is worth a call"),
            }
        }
        Ok(())
    });
    let place = Place::standard()?;
    let server = place.bind(&modules, "echo").await?;

    // The client. The URL says which server it has to be, down to its key; the password says that we may come in.
    let password = Password::from_file(place.password_file())?;
    let url = server.urls().remove(0).url;
    let mut chan: Channel<String> = connect(&url).password(password).open().await?;
    chan.remote().cast("hello").await?;
    if let Some(Message::Cast(text)) = chan.recv().await {
        println!("{text}");
    }
    // The service sees that the client is gone, and ends.
    chan.close().await?;
    server.shutdown().await;
    Ok(())
}
