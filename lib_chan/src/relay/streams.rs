//! Many streams in one session: the protocols between a client and a relay service, and between a service and a provider.

use bytes::Bytes;

use crate::{Address, protocol};

/// The argument with which a client asks a relay service for many streams in a session.
pub const STREAMS: &str = "streams";

/// Opens streams to the target of a relay service, in one session.
///
/// A stream is a pair of linked processes, one at each end. Each sends its [`Pieces`] to the other, with a credit window of
/// its own, so a slow stream never holds up another. A new stream needs no login and no handshake. A process ends when both
/// directions have reached EOF, or else with the reason for which the stream broke.
#[protocol]
pub trait Streams {
    /// Opens a stream. Returns the process that takes its pieces, which links itself to `client`, the process that takes
    /// those of the target. `client` is a process of the client, granted with the right to link. `first` is the first piece,
    /// of at most 16 KiB, or empty; unlike a later piece, an empty one is no EOF.
    ///
    /// The answer of a service does not wait for the target. If the target cannot be reached, the process ends with a text
    /// that says why. A [provider](Providers) answers once it has reached its target, or refuses: then nothing of `first` has
    /// been used, and another provider may be asked.
    async fn open(first: Bytes, client: Address<PiecesMessage>) -> Address<PiecesMessage>;
}

/// Offers a target of the client to other clients of the server.
#[protocol]
pub trait Providers {
    /// Lets the server open streams with `streams`, a process of the client, until the session ends. `max_streams` is the
    /// most that the client carries at once. A session provides once.
    async fn provide(streams: Address<StreamsMessage>, max_streams: u32);
}

/// One direction of a stream.
#[protocol]
pub trait Pieces {
    /// The next bytes. An empty piece is the EOF of this direction.
    fn piece(bytes: Bytes);
}
