//! The book's chat. What it does is in `src/chat.rs`.

use chan_examples::{Place, chat};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let place = Place::standard()?;
    let server = place.bind(&chat::modules(chat::start()), "chat").await?;
    place.serve(server, "chat_client").await
}
