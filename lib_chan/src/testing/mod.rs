//! Tests a service or a client without a network: the two ends of a session in memory.
//!
//! A [`pair`] has a real session between its ends, with the real login and codec, and without TLS, ports or files. A
//! [`Line`] delays its bytes, stops them or cuts them. With tokio's paused clock (`start_paused = true`), times pass at
//! once.
//!
//! ```
//! use std::time::Duration;
//! use lib_chan::{Channel, ExitReason, Message, Process, testing};
//!
//! /// The service to be tested.
//! async fn echo(_me: Process, mut chan: Channel<String>) -> Result<(), ExitReason> {
//!     let client = chan.remote();
//!     while let Some(message) = chan.recv().await {
//!         if let Message::Cast(text) = message {
//!             client.cast(text).await?;
//!         }
//!     }
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let (mut chan, line) = testing::pair().delay(Duration::from_millis(50)).serve(echo).await.unwrap();
//! chan.remote().cast("hello").await.unwrap();
//! assert!(matches!(chan.recv().await, Some(Message::Cast(text)) if text == "hello"));
//!
//! line.cut();
//! assert!(chan.recv().await.is_none());
//! assert_eq!(chan.remote().ended().await, ExitReason::NoConnection);
//! # }
//! ```
//!
//! The module logs in to no server: both ends of a pair belong to the caller, and its keys exist for that pair alone.

mod line;

use std::time::Duration;

use tokio::sync::oneshot;

pub use self::line::Line;
use crate::auth::{ClientId, ServiceName};
use crate::channel::{OpenError, OpenRequest, Opening, interface_of, open_with, serve};
use crate::handshake::{SessionParameters, pair_in_memory_of};
use crate::payload::Codec;
use crate::protocol::{Receive, Transmit};
use crate::{Channel, ExitReason, Limits, Process, spawn, sync};

/// Returns a pair that is not open yet.
pub fn pair() -> Pair {
    Pair {
        limits: Limits::default(),
        codec: Codec::Bincode,
        client: "tester".into(),
        service: "memory".into(),
        delay: Duration::ZERO,
        linked: false,
    }
}

/// The configuration of a session in memory.
#[derive(Clone, Debug)]
#[must_use = "it is not open yet"]
pub struct Pair {
    limits: Limits,
    codec: Codec,
    client: Box<str>,
    service: Box<str>,
    delay: Duration,
    linked: bool,
}

impl Pair {
    /// Sets the limits of both ends. Default [`Limits::default`].
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Sets the codec. Default [`Codec::Bincode`].
    pub fn codec(self, codec: Codec) -> Self {
        Self { codec, ..self }
    }

    /// Sets the name that [`Channel::client`] returns at the server's end. Default `tester`.
    pub fn client(self, name: &str) -> Self {
        Self { client: name.into(), ..self }
    }

    /// Sets the name that [`Channel::service`] returns. Default `memory`.
    pub fn service(self, name: &str) -> Self {
        Self { service: name.into(), ..self }
    }

    /// Sets the time that bytes take from one end to the other. Default 0. [`Line::set_delay`] changes it later.
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Links the process that opens the pair to the service, as a client can.
    pub fn linked(self) -> Self {
        Self { linked: true, ..self }
    }

    /// Spawns a service at the server's end, as a server does for a client that has logged in, and returns the channel of
    /// the client's end.
    ///
    /// # Errors
    ///
    /// A name or a limit that is not valid, or a line that was lost before the session was open.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn serve<In, Out, F>(
        self,
        service: impl FnOnce(Process, Channel<In, Out>) -> F + Send + 'static,
    ) -> Result<(Channel<Out, In>, Line), PairError>
    where
        In: Receive + Transmit,
        Out: 'static,
        F: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        self.start::<_, _, In>(|opening| {
            spawn(|me: Process| {
                let channel = opening.accept();
                service(me, channel)
            });
        })
        .await
    }

    /// Returns the channels of both ends, the client's first. The first process that receives from the server's channel
    /// becomes its owner.
    ///
    /// # Errors
    ///
    /// Those of [`serve`](Self::serve).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn open<Out, In>(self) -> Result<(Channel<In, Out>, Channel<Out, In>, Line), PairError>
    where
        In: 'static,
        Out: Receive + Transmit,
    {
        self.open_as().await
    }

    /// Does what [`open`](Self::open) does, with other types at each end, such as two versions of a protocol. The service
    /// refuses a client whose protocol it does not understand.
    ///
    /// # Errors
    ///
    /// Those of [`serve`](Self::serve).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn open_as<ClientIn, ClientOut, ServerIn, ServerOut>(
        self,
    ) -> Result<(Channel<ClientIn, ClientOut>, Channel<ServerIn, ServerOut>, Line), PairError>
    where
        ClientOut: Transmit,
        ServerIn: Receive,
        ServerOut: 'static,
    {
        let (tell, told) = oneshot::channel();
        let (client, line) =
            self.start::<_, _, ServerIn>(|opening| drop(tell.send(opening.accept()))).await?;
        let server = told.await.map_err(|_| PairError::Open(OpenError::Ended(ExitReason::NoConnection)))?;
        Ok((client, server, line))
    }

    async fn start<In, Out: Transmit, ServerIn: Receive>(
        self,
        start: impl FnOnce(Opening) + Send + 'static,
    ) -> Result<(Channel<In, Out>, Line), PairError> {
        let invalid = |what: &dyn std::fmt::Display| PairError::Invalid(what.to_string().into());
        let parameters = SessionParameters::from_limits(&self.limits).map_err(|error| invalid(&error))?;
        let client = ClientId::new(&self.client).map_err(|error| invalid(&error))?;
        let service = ServiceName::new(&self.service).map_err(|error| invalid(&error))?;
        let (client, server) = pair_in_memory_of(parameters, [7; 32], service, client)
            .map_err(|_| invalid(&"the cryptographic library failed"))?;
        let (line, near, far) = Line::new(self.delay);
        let limits = self.limits.clone();
        sync::spawn(async move {
            let start = |opening: Opening| {
                if let Ok(opening) = opening.agree::<ServerIn>() {
                    start(opening);
                }
            };
            serve(far, &server, &limits, start).await;
        });
        let args = no_arguments(self.codec);
        let mut request = OpenRequest::new(self.codec, &args);
        // A client that is refused, but understood nevertheless, would ask again like this.
        request.interface = match (ServerIn::protocol(), Out::protocol()) {
            (Some(service), Some(own)) if service.accepts(own, self.codec).is_ok() => Some(service.to_hash()),
            _ => interface_of::<Out>(),
        };
        let channel = open_with(near, &client, &self.limits, &request, self.linked).await?;
        Ok((channel, line))
    }
}

/// `()`, as a client without arguments sends it.
fn no_arguments(codec: Codec) -> Vec<u8> {
    let mut bytes = Vec::new();
    // `()` encodes in every codec.
    let _ = crate::payload::encode(codec, &(), &mut bytes);
    bytes
}

/// The reason why a pair was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// A name or a limit is not valid.
    #[error("{0}")]
    Invalid(Box<str>),
    /// The session did not open.
    #[error(transparent)]
    Open(#[from] OpenError),
}

#[cfg(test)]
mod tests;
