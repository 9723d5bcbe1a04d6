//! The source of a driver's next stream, when one is lost.

use std::{
    marker::PhantomData,
    task::{Context, Poll},
};

use crate::{
    ExitReason, Limits,
    auth::{Exporter, ResumeClaim},
    session::ConnectionState,
    wire::Tombstone,
};

/// The later connections of one session.
pub(crate) trait Source: Unpin {
    /// The type of the streams.
    type Stream;

    /// `true` if later connections are possible.
    const RESUMES: bool;

    /// Polls for the next connection. `detached` is `true` if the session has none.
    fn poll_next(&mut self, cx: &mut Context<'_>, detached: bool) -> Poll<NextStream<Self::Stream>>;

    /// Refuses a stream whose session is over, and sends the client the record that this end still has of the
    /// session.
    fn refuse(&mut self, stream: Self::Stream, tombstone: Option<Tombstone>, limits: &Limits);

    /// Takes note of a change of the connection.
    fn changed(&mut self, state: ConnectionState);
}

/// The answer of a [`Source`]: the next connection, or the reason why none comes.
pub(crate) enum NextStream<S> {
    /// This end has dialled, and asks the other end to resume.
    Dialled { stream: S, exporter: Exporter },
    /// The other end has dialled, and has proved its right to the session.
    Claimed { stream: S, claim: ResumeClaim },
    /// No other connection comes.
    Refused(ExitReason),
}

/// No later connections: the session ends with its first.
pub(crate) struct Once<S>(PhantomData<fn() -> S>);

impl<S> Once<S> {
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<S> Source for Once<S> {
    type Stream = S;

    const RESUMES: bool = false;

    fn poll_next(&mut self, _: &mut Context<'_>, _: bool) -> Poll<NextStream<S>> {
        Poll::Pending
    }

    fn refuse(&mut self, _: S, _: Option<Tombstone>, _: &Limits) {}

    fn changed(&mut self, _: ConnectionState) {}
}
