//! The far end of a relay: a session of its own, or a process of a session that carries many streams.

use bytes::Bytes;

use super::PiecesMessage;
use crate::{Address, Channel, Event, ExitReason, Message, Opaque, Process, Remote};

/// The most bytes that a message of [`Pieces`](super::Pieces) or [`Streams`](super::Streams) has beside its piece: the
/// number of the method, the length of the piece, and the place of a process.
const MAX_PIECE_OVERHEAD: usize = 16;

/// Returns the longest piece that a message of so many bytes can hold.
pub(super) const fn piece_len(max_payload_len: usize) -> usize {
    max_payload_len.saturating_sub(MAX_PIECE_OVERHEAD)
}

/// The far end of a stream, as the relay receives from it.
pub(super) trait FarEnd: Send {
    type Sender: PieceSender;

    /// Returns the way to the far end.
    fn sender(&self) -> Self::Sender;

    /// Waits for the next piece. Once the far end is gone and all its pieces were returned, returns the reason of its end.
    fn recv(&mut self) -> impl Future<Output = Result<Bytes, ExitReason>> + Send;
}

/// The far end of a stream, as the relay sends to it.
pub(super) trait PieceSender: Send + Sync {
    /// Returns the length of the longest piece that can be sent.
    fn max_piece_len(&self) -> usize;

    /// Sends a piece. Waits while the far end takes none.
    fn send(&self, piece: Bytes) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Waits until the far end is gone.
    fn ended(&self) -> impl Future<Output = ExitReason> + Send;
}

/// No far end is left to send to.
#[derive(Debug)]
pub(super) struct Gone;

impl FarEnd for Channel<Opaque> {
    type Sender = Remote<Opaque>;

    fn sender(&self) -> Remote<Opaque> {
        self.remote()
    }

    async fn recv(&mut self) -> Result<Bytes, ExitReason> {
        loop {
            match Self::recv(self).await {
                Some(Message::Cast(Opaque(piece))) => return Ok(piece),
                Some(Message::Call(_, reply)) => reply.refuse("a stream takes casts only"),
                None => return Err(self.remote().ended().await),
            }
        }
    }
}

impl PieceSender for Remote<Opaque> {
    fn max_piece_len(&self) -> usize {
        self.max_payload_len()
    }

    async fn send(&self, piece: Bytes) -> Result<(), Gone> {
        self.cast(Opaque(piece)).await.map_err(|_| Gone)
    }

    fn ended(&self) -> impl Future<Output = ExitReason> + Send {
        Self::ended(self)
    }
}

/// One end of a stream: the process of this end, and the far one. An exit signal or a `Down` tells this end that the far one
/// has ended. This end is linked to nothing else, and monitors nothing else.
#[derive(Debug)]
pub struct StreamEnd<'p> {
    me: &'p mut Process<PiecesMessage>,
    far: Address<PiecesMessage>,
    /// The piece that came when the stream was opened; may be empty.
    first: Bytes,
}

impl<'p> StreamEnd<'p> {
    /// Creates this end. `me` traps exits, and is linked to `far` or monitors it. `first` is the first piece of `far`; may be
    /// empty.
    pub fn new(me: &'p mut Process<PiecesMessage>, far: Address<PiecesMessage>, first: Bytes) -> Self {
        Self { me, far, first }
    }
}

impl FarEnd for StreamEnd<'_> {
    type Sender = Address<PiecesMessage>;

    fn sender(&self) -> Address<PiecesMessage> {
        self.far.clone()
    }

    async fn recv(&mut self) -> Result<Bytes, ExitReason> {
        if !self.first.is_empty() {
            return Ok(std::mem::take(&mut self.first));
        }
        match self.me.recv().await {
            Event::Message(PiecesMessage::Piece { bytes }) => Ok(bytes),
            Event::Exit(_, reason) | Event::Down(_, _, reason) => Err(reason),
        }
    }
}

impl PieceSender for Address<PiecesMessage> {
    fn max_piece_len(&self) -> usize {
        // A process of this program takes pieces of any length.
        self.route().map_or(usize::MAX, |route| piece_len(route.max_payload_len()))
    }

    async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        Self::send(self, PiecesMessage::Piece { bytes }).await.map_err(|_| Gone)
    }

    fn ended(&self) -> impl Future<Output = ExitReason> + Send {
        self.pid().ended()
    }
}
