//! Pieces both ways between two far ends, for a server between a consumer and a provider.

use std::{
    fmt,
    future::pending,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::sleep;

use super::far_end::{FarEnd, PieceSender, StreamEnd};
use crate::{Channel, ExitReason, Opaque};

/// Joins two far ends: every piece of one goes to the other, and so does EOF.
///
/// A piece is passed on as it is, without a copy of its bytes. The next piece of an end is taken only once the other end has
/// credit for the one before, so an end that reads nothing holds up this stream and no other.
#[derive(Clone, Copy, Debug)]
pub struct Junction {
    last_bytes_timeout: Duration,
}

/// The end of a junction whose end decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JunctionEnd {
    /// The end that asked for the stream.
    Consumer,
    /// The end that was asked.
    Provider,
}

impl fmt::Display for JunctionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Consumer => "client",
            Self::Provider => "provider",
        })
    }
}

/// The reason why a junction ended before both directions reached EOF.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JunctionError {
    /// This end has ended with another reason than `Normal`, or before its EOF.
    #[error("the {0} ended: {1}")]
    Ended(JunctionEnd, ExitReason),
    /// The consumer is gone, and the provider has taken no piece of it for a while.
    #[error("the provider took no bytes")]
    Stuck,
}

impl JunctionError {
    /// Returns the reason for the end that is left. A reason that would blame the server, or the session of that end, becomes
    /// a text: each end may end with any reason.
    pub fn reason(&self) -> ExitReason {
        let (end, reason) = match self {
            Self::Ended(end, reason) => (end, reason),
            Self::Stuck => return ExitReason::failed(self.to_string()),
        };
        match reason {
            ExitReason::NoConnection | ExitReason::Failed(_) => reason.clone(),
            ExitReason::Normal => ExitReason::failed(format!("the {end} ended before its EOF")),
            reason => ExitReason::failed(format!("the {end} ended: {reason}")),
        }
    }
}

impl Junction {
    /// Creates a junction. A provider that takes no piece for `last_bytes_timeout` after the consumer has gone is given up.
    pub const fn new(last_bytes_timeout: Duration) -> Self {
        Self { last_bytes_timeout }
    }

    /// Joins a session that is one stream with a stream of a provider, until both directions have reached EOF. Then closes
    /// the session.
    ///
    /// Dropping the future ends the session.
    ///
    /// # Errors
    /// One end ended before that; the session has ended with the [reason](JunctionError::reason).
    pub async fn join_session(
        self,
        mut chan: Channel<Opaque>,
        mut provider: StreamEnd<'_>,
    ) -> Result<(), JunctionError> {
        match self.join(&mut chan, &mut provider).await {
            Ok(()) => {
                let closed = chan.close().await;
                closed.map_err(|reason| JunctionError::Ended(JunctionEnd::Consumer, reason))
            }
            Err(error) => {
                chan.end(error.reason());
                Err(error)
            }
        }
    }

    /// Joins a stream of a consumer with one of a provider, until both directions have reached EOF.
    ///
    /// # Errors
    /// One end ended before that. The processes of this end should end with the [reason](JunctionError::reason).
    pub async fn join_streams(
        self,
        mut consumer: StreamEnd<'_>,
        mut provider: StreamEnd<'_>,
    ) -> Result<(), JunctionError> {
        self.join(&mut consumer, &mut provider).await
    }

    async fn join(self, consumer: &mut impl FarEnd, provider: &mut impl FarEnd) -> Result<(), JunctionError> {
        let (to_consumer, to_provider) = (consumer.sender(), provider.sender());
        let (taken, ignored) = (AtomicU64::new(0), AtomicU64::new(0));
        let outward = pin!(pass_on(consumer, &to_provider, &taken));
        let inward = pin!(pass_on(provider, &to_consumer, &ignored));
        let (end, passed) = tokio::select! {
            passed = outward => (JunctionEnd::Consumer, passed),
            passed = inward => (JunctionEnd::Provider, passed),
            () = self.stuck(&to_consumer, &taken) => return Err(JunctionError::Stuck),
        };
        match passed {
            // It wants no more bytes, and the other end got all of its own.
            Passed { eof: true, reason: ExitReason::Normal } => Ok(()),
            Passed { reason, .. } => Err(JunctionError::Ended(end, reason)),
        }
    }

    /// Waits until the consumer is gone and the provider has taken no piece for a while.
    async fn stuck(self, consumer: &impl PieceSender, taken: &AtomicU64) {
        consumer.ended().await;
        let mut before = None;
        loop {
            let now = Some(taken.load(Ordering::Relaxed));
            if before == now {
                return;
            }
            before = now;
            sleep(self.last_bytes_timeout).await;
        }
    }
}

/// The end of a far end whose pieces were all passed on.
struct Passed {
    /// Its EOF came before.
    eof: bool,
    reason: ExitReason,
}

/// Passes pieces on until the far end has ended. If the other end is gone, waits: the pieces of that end, and its reason,
/// are passed on by the other direction.
async fn pass_on(from: &mut impl FarEnd, to: &impl PieceSender, taken: &AtomicU64) -> Passed {
    let max_piece_len = to.max_piece_len().max(1);
    let mut eof = false;
    loop {
        let mut piece = match from.recv().await {
            Ok(piece) => piece,
            Err(reason) => return Passed { eof, reason },
        };
        if eof {
            // Bytes after an EOF break the protocol, and are ignored.
            continue;
        }
        eof = piece.is_empty();
        loop {
            let next = take(&mut piece, max_piece_len);
            if to.send(next).await.is_err() {
                pending::<()>().await;
            }
            taken.fetch_add(1, Ordering::Relaxed);
            if piece.is_empty() {
                break;
            }
        }
    }
}

fn take(piece: &mut Bytes, max: usize) -> Bytes {
    piece.split_to(piece.len().min(max))
}
