//! Where a driver gets its next stream from, when it has lost one.

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
    /// What a connection runs over.
    type Stream;

    /// Whether there may be later connections at all.
    const RESUMES: bool;

    /// Polls for the next connection. `detached`: the session has none, and needs one.
    fn poll_next(&mut self, cx: &mut Context<'_>, detached: bool) -> Poll<NextStream<Self::Stream>>;

    /// Refuses a stream whose session is over, and sends the client what this end still knows of that session.
    fn refuse(&mut self, stream: Self::Stream, tombstone: Option<Tombstone>, limits: &Limits);

    /// Hears of each change of the connection.
    fn changed(&mut self, state: ConnectionState);
}

/// The answer of a [`Source`]: the next connection, or why there is none.
pub(crate) enum NextStream<S> {
    /// This end dialled, and asks the other end to resume.
    Dialled { stream: S, exporter: Exporter },
    /// The other end dialled, and has proved that the session is its own.
    Claimed { stream: S, claim: ResumeClaim },
    /// No other connection comes, for this reason.
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
