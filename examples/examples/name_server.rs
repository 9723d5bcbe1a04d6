//! The book's name server. What it does is in `src/names.rs`.

use chan_examples::{Place, names};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let place = Place::standard()?;
    let server = place.bind(&names::modules(), "name_server").await?;
    place.serve(server, "name_client").await
}
