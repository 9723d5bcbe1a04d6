//! Relays: connections to a target for each client, one or many in a session.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lib_chan::payload::Codec;
use lib_chan::relay::{MAX_PIECE_LEN, PiecesMessage, Relay, RelayError, STREAMS, StreamsMessage};
use lib_chan::{Address, Channel, ExitReason, Opaque, Process};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::gate::{Crowded, SessionPermit};

/// The prefix of the text that a client gets about a failed target.
const TARGET: &str = "target";

/// The time for which a target may accept no byte after its far end is gone. The stream keeps its place meanwhile.
pub(super) const LAST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);

/// The codecs of a relay: one stream in a session, or many.
pub(super) const CODECS: &[Codec] = &[Codec::Raw, Codec::Bincode];

const RELAY: Relay = Relay::new(TARGET).last_bytes_timeout(LAST_BYTES_TIMEOUT);

/// What a relay needs of the connection that it serves.
pub(crate) trait RelayContext: Send + Sync {
    /// Writes down why the target cannot be reached. The client learns less.
    fn target_failed(&self, why: &str);

    /// Writes down why a stream was refused.
    fn stream_refused(&self, why: &str);

    /// Writes down the end of a stream that has no session of its own.
    fn stream_ended(&self, reason: &ExitReason, after: Duration);

    /// Writes down which provider, by its session, serves this client or one of its streams.
    fn provider_found(&self, provider: u64);

    /// Writes down that this client provides a name from now on.
    fn provider_arrived(&self, name: &str);

    /// Writes down that this client provides a name no longer, after so many streams.
    fn provider_left(&self, name: &str, streams: u64, after: Duration);

    /// Returns the number of the session, as the log has it.
    fn session(&self) -> u64;

    /// Takes the place of one more session of this client, for a stream that has none of its own.
    fn take_place(&self) -> Result<SessionPermit, Crowded>;
}

/// The target of a relay, as a configuration names it.
pub(super) trait Target: Clone + Send + Sync + 'static {
    /// Returns the text for the client if no stream can be opened at the moment.
    fn unavailable(&self) -> Option<String> {
        None
    }

    /// Connects, and carries a session that is one stream.
    fn carry_session(
        self,
        chan: Channel<Opaque>,
        context: Arc<dyn RelayContext>,
    ) -> impl Future<Output = Result<(), ExitReason>> + Send;

    /// Connects, and carries one of the streams of a session. `me` is this end of it, and `first` its first piece.
    fn carry_stream(
        &self,
        me: &mut Process<PiecesMessage>,
        client: Address<PiecesMessage>,
        first: Bytes,
        within: Duration,
        context: &dyn RelayContext,
    ) -> impl Future<Output = Result<(), ExitReason>> + Send;
}

/// A target that the server connects to by itself.
pub(super) trait Dialled: DeserializeOwned + Clone + Send + Sync + 'static {
    type Stream: Send;

    /// Connects.
    fn connect(&self, within: Duration) -> impl Future<Output = Result<Self::Stream, Unconnected>> + Send;

    /// Splits a connection. If the writing half is dropped before its shutdown, the target must not take that for an EOF.
    fn halves(
        stream: &mut Self::Stream,
    ) -> Result<(impl AsyncRead + Unpin + Send, impl AsyncWrite + Unpin + Send), RelayError>;
}

impl<D: Dialled> Target for D {
    async fn carry_session(
        self,
        chan: Channel<Opaque>,
        context: Arc<dyn RelayContext>,
    ) -> Result<(), ExitReason> {
        let connected = self.connect(chan.limits().dial_timeout).await;
        let mut connection = connected.map_err(|error| error.tell(&*context))?;
        let (reader, writer) = Self::halves(&mut connection).map_err(reason)?;
        RELAY.run(chan, reader, writer).await.map_err(reason)
    }

    async fn carry_stream(
        &self,
        me: &mut Process<PiecesMessage>,
        client: Address<PiecesMessage>,
        first: Bytes,
        within: Duration,
        context: &dyn RelayContext,
    ) -> Result<(), ExitReason> {
        // In a box, which is gone before the relay begins: an open stream occupies less.
        let connected = Box::pin(self.connect(within)).await;
        let mut connection = connected.map_err(|error| error.tell(context))?;
        let (reader, writer) = Self::halves(&mut connection).map_err(reason)?;
        RELAY.run_stream(me, client, first, reader, writer).await.map_err(|error| match error {
            RelayError::Session(ExitReason::Normal) => ExitReason::failed("the client ended before its EOF"),
            error => reason(error),
        })
    }
}

/// The reason that a target could not be connected to.
pub(super) struct Unconnected {
    /// The text for the log.
    pub(super) detail: String,
    /// The text for the client.
    pub(super) public: String,
}

impl Unconnected {
    pub(super) fn tell(self, context: &dyn RelayContext) -> ExitReason {
        context.target_failed(&self.detail);
        ExitReason::failed(format!("{TARGET}: {}", self.public))
    }
}

/// Opens a stream to the target for each that the client asks for: see [`lib_chan::relay::Streams`].
///
/// # Errors
/// Never. A stream that fails is its own affair.
pub(super) async fn serve_many<T: Target>(
    _me: Process,
    mut chan: Channel<StreamsMessage, ()>,
    _: StreamsArg,
    target: T,
    context: Arc<dyn RelayContext>,
) -> Result<(), ExitReason> {
    let dial_timeout = chan.limits().dial_timeout;
    while let Some(StreamsMessage::Open { first, client, reply }) = chan.recv().await {
        // Another process of this program would take pieces without credit.
        if !client.is_far() || first.len() > MAX_PIECE_LEN {
            reply.refuse("a stream needs a process of the client, and a first piece of at most 16 KiB");
            continue;
        }
        if let Some(why) = target.unavailable() {
            context.stream_refused(&why);
            reply.refuse(&why);
            continue;
        }
        let place = match context.take_place() {
            Ok(place) => place,
            Err(crowded) => {
                context.stream_refused(crowded.as_str());
                reply.refuse(crowded.as_str());
                continue;
            }
        };
        let (target, context) = (target.clone(), Arc::clone(&context));
        let stream = lib_chan::spawn(move |mut me: Process<PiecesMessage>| async move {
            let (_place, began) = (place, Instant::now());
            me.trap_exit(true);
            me.link(client.pid())?;
            let carried = target.carry_stream(&mut me, client, first, dial_timeout, &*context).await;
            context.stream_ended(carried.as_ref().err().unwrap_or(&ExitReason::Normal), began.elapsed());
            carried
        });
        reply.send(stream);
    }
    Ok(())
}

fn reason(error: RelayError) -> ExitReason {
    error.reason(TARGET)
}

/// The value [`STREAMS`]. A service that does not know it refuses it, instead of taking the client's messages for its own.
pub(super) struct StreamsArg;

impl<'de> Deserialize<'de> for StreamsArg {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        if text == STREAMS { Ok(Self) } else { Err(D::Error::custom("expected \"streams\"")) }
    }
}
