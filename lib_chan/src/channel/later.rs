//! The later connections of a session, as its driver sees them: a client dials, and a server is dialled.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite};

use super::resume::{Attachments, Change, Connecting, Connector, say_lost};
use crate::{
    Limits,
    middleman::{NextStream, Source},
    session::ConnectionState,
    sync,
    wire::Tombstone,
};

/// The later connections of a client.
pub(super) struct Dialled<S> {
    connector: Connector<S>,
    connecting: Option<Connecting<S>>,
    /// The number of calls of the connector since the session was last attached.
    attempts: u32,
}

impl<S> Dialled<S> {
    pub(super) fn new(connector: Connector<S>) -> Self {
        Self { connector, connecting: None, attempts: 0 }
    }
}

impl<S: Unpin> Source for Dialled<S> {
    type Stream = S;

    const RESUMES: bool = true;

    fn poll_next(&mut self, cx: &mut Context<'_>, detached: bool) -> Poll<NextStream<S>> {
        if !detached {
            return Poll::Pending;
        }
        let connecting = self.connecting.get_or_insert_with(|| {
            let attempt = self.attempts;
            self.attempts = attempt.saturating_add(1);
            (self.connector)(attempt)
        });
        connecting.as_mut().poll(cx).map(|connected| {
            self.connecting = None;
            match connected {
                Ok(connected) => {
                    NextStream::Dialled { stream: connected.stream, exporter: connected.exporter }
                }
                Err(reason) => NextStream::Refused(reason),
            }
        })
    }

    fn refuse(&mut self, stream: S, _: Option<Tombstone>, _: &Limits) {
        drop(stream);
    }

    fn changed(&mut self, state: ConnectionState) {
        if matches!(state, ConnectionState::Attached { .. }) {
            self.attempts = 0;
        }
    }
}

/// The later connections of a server.
pub(super) struct Claimed<S, C> {
    attachments: Attachments<S>,
    changed: C,
    /// The time at which the session lost its connection.
    lost: Option<Instant>,
}

impl<S, C: FnMut(Change)> Claimed<S, C> {
    pub(super) const fn new(attachments: Attachments<S>, changed: C) -> Self {
        Self { attachments, changed, lost: None }
    }
}

impl<S, C> Source for Claimed<S, C>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    C: FnMut(Change) + Unpin,
{
    type Stream = S;

    const RESUMES: bool = true;

    fn poll_next(&mut self, cx: &mut Context<'_>, _: bool) -> Poll<NextStream<S>> {
        self.attachments.poll_next(cx).map(|(claim, stream)| NextStream::Claimed { stream, claim })
    }

    fn refuse(&mut self, stream: S, tombstone: Option<Tombstone>, limits: &Limits) {
        let limits = limits.clone();
        sync::spawn(async move { say_lost(stream, tombstone, &limits).await });
    }

    fn changed(&mut self, state: ConnectionState) {
        (self.changed)(match state {
            ConnectionState::Detached { since, .. } => {
                self.lost = Some(since);
                Change::Detached
            }
            ConnectionState::Attached { epoch, since } => {
                let lost = self.lost.take().unwrap_or(since);
                Change::Resumed { epoch, gap: since.saturating_duration_since(lost) }
            }
        });
    }
}
