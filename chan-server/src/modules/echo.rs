//! Sends back what it gets, in any codec: a cast comes back as a cast, a call is answered by its own request.

use lib_chan::{Channel, ExitReason, Message, Opaque, Process};

/// `mfa = ["echo", "start"]`.
///
/// # Errors
/// When the client is gone.
pub async fn start(_me: Process, mut chan: Channel<Opaque>) -> Result<(), ExitReason> {
    let client = chan.remote();
    while let Some(message) = chan.recv().await {
        match message {
            Message::Cast(payload) => client.cast(payload).await?,
            Message::Call(payload, reply) => reply.to(&payload).send(payload),
        }
    }
    Ok(())
}
