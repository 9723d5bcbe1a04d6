//! The events of the log.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::{Cause, is_zero};

/// An event.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event<'e> {
    /// The server takes connections at this address.
    Listening { address: SocketAddr },
    /// The system gives no more connections for a while.
    AcceptFailed { error: String },
    /// Verifiers are made of so many passwords, about ten a second; clients wait until that is done.
    Starting { passwords: usize },
    /// Something in the configuration that is allowed, and worth knowing.
    Warning { text: String },
    /// Something that keeps some clients away, and has to be mended.
    Error { text: String },
    /// A connection was dropped before TLS.
    Turned {
        peer: SocketAddr,
        why: &'e str,
        #[serde(skip)]
        cause: &'static str,
    },
    /// A login that was refused, or not completed.
    LoginFailed {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        why: String,
        ms: u64,
        /// One of a few words, for the metrics.
        #[serde(skip)]
        outcome: &'static str,
    },
    /// A client proved itself.
    LoginOk {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        ms: u64,
    },
    /// A client that had proved itself got no session.
    SessionRefused {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        why: String,
    },
    /// A service was started for a client.
    SessionStarted {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        /// For how long it may be without a connection, if at all.
        #[serde(skip_serializing_if = "Option::is_none")]
        resume_ms: Option<u64>,
        /// The reason that it may not, although the client asked for it.
        #[serde(skip_serializing_if = "Option::is_none")]
        no_resume: Option<&'e str>,
    },
    /// A session has lost its connection, and waits for another.
    SessionDetached {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
    },
    /// A session goes on over another connection, after so many milliseconds without one.
    SessionResumed {
        connection: u64,
        /// The current address of the client.
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        /// The number of the other connection.
        #[serde(skip_serializing_if = "Option::is_none")]
        over: Option<u64>,
        gap_ms: u64,
    },
    /// A session that had lost its connection ends, since its client did not come back in time.
    SessionExpired {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
    },
    /// The target of a relay could not be reached: what was tried, and what the system said.
    TargetFailed {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        why: String,
    },
    /// One of the streams of a session is over.
    StreamEnded {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        reason: String,
        ms: u64,
    },
    /// A client provides something from now on, for the consumers of this name.
    ProviderArrived {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        provides: &'e str,
    },
    /// A client provides it no longer, after so many streams.
    ProviderLeft {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        provides: &'e str,
        streams: u64,
        ms: u64,
    },
    /// A provider, named by the number of its session, serves this client or one of its streams.
    ProviderFound {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        provider: u64,
    },
    /// The connection of a client that had proved itself is over: one for each login that was ok, apart
    /// from those that resumed a session.
    SessionEnded {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        reason: String,
        bytes_in: u64,
        bytes_out: u64,
        ms: u64,
    },
    /// Events of one authenticated client that came too fast for a line each. Nothing is missing from the totals; the
    /// source is missing where there were too many.
    SessionsSummed {
        #[serde(flatten)]
        who: Who<'e>,
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<IpAddr>,
        #[serde(flatten)]
        sum: Sum,
    },
    /// So many lines before this one could not be written, since the log was full or gone.
    LinesLost { lost: u64 },
    /// The server's own code panicked over a connection.
    Crashed,
    /// The server went over to another configuration, and so many sessions end by that.
    Reloaded { changes: &'e [String], ends: usize },
    /// The server keeps the configuration that it has.
    ReloadFailed { why: String },
    /// A session has lost its right, and ends after so many milliseconds.
    Revoking {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        why: String,
        ms: u64,
    },
    /// The operator ended a session.
    Kicked {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
    },
    /// The server takes nothing new any more, and waits for these to end.
    Draining { sessions: usize, ms: u64 },
    /// The server stops.
    Stopped,
}

/// Whom an event is about; both empty where that is not known.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Who<'e> {
    pub(crate) service: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) client: &'e str,
}

/// Totals of events that have no line of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sum {
    pub(crate) logins: u64,
    pub(crate) refused: u64,
    pub(crate) started: u64,
    pub(crate) targets_failed: u64,
    pub(crate) streams: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) providers_arrived: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) providers_left: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) providers_found: u64,
    pub(crate) detached: u64,
    pub(crate) resumed: u64,
    pub(crate) expired: u64,
    pub(crate) ended: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Sum {
    /// Adds an event; `None` for one that is not of an authenticated client.
    pub(super) fn add(&mut self, event: &Event<'_>) -> Option<IpAddr> {
        let (count, peer) = match event {
            Event::LoginOk { peer, .. } => (&mut self.logins, peer),
            Event::SessionRefused { peer, .. } => (&mut self.refused, peer),
            Event::SessionStarted { peer, .. } => (&mut self.started, peer),
            Event::TargetFailed { peer, .. } => (&mut self.targets_failed, peer),
            Event::StreamEnded { peer, .. } => (&mut self.streams, peer),
            Event::ProviderArrived { peer, .. } => (&mut self.providers_arrived, peer),
            Event::ProviderLeft { peer, .. } => (&mut self.providers_left, peer),
            Event::ProviderFound { peer, .. } => (&mut self.providers_found, peer),
            Event::SessionDetached { peer, .. } => (&mut self.detached, peer),
            Event::SessionResumed { peer, .. } => (&mut self.resumed, peer),
            Event::SessionExpired { peer, .. } => (&mut self.expired, peer),
            Event::SessionEnded { peer, bytes_in, bytes_out, .. } => {
                self.bytes_in += bytes_in;
                self.bytes_out += bytes_out;
                (&mut self.ended, peer)
            }
            _ => return None,
        };
        *count += 1;
        Some(peer.ip())
    }
}

impl Event<'_> {
    pub(super) fn cause(&self) -> Cause<'_> {
        match self {
            Self::Turned { .. } | Self::AcceptFailed { .. } => Cause::Unheard,
            Self::LoginFailed { .. } => Cause::Failed,
            Self::LoginOk { who, .. }
            | Self::SessionRefused { who, .. }
            | Self::SessionStarted { who, .. }
            | Self::TargetFailed { who, .. }
            | Self::StreamEnded { who, .. }
            | Self::ProviderArrived { who, .. }
            | Self::ProviderLeft { who, .. }
            | Self::ProviderFound { who, .. }
            | Self::SessionDetached { who, .. }
            | Self::SessionResumed { who, .. }
            | Self::SessionExpired { who, .. }
            | Self::SessionEnded { who, .. } => Cause::Member(*who),
            Self::Listening { .. }
            | Self::Starting { .. }
            | Self::Warning { .. }
            | Self::Error { .. }
            | Self::SessionsSummed { .. }
            | Self::LinesLost { .. }
            | Self::Crashed
            | Self::Reloaded { .. }
            | Self::ReloadFailed { .. }
            | Self::Revoking { .. }
            | Self::Kicked { .. }
            | Self::Draining { .. }
            | Self::Stopped => Cause::Server,
        }
    }
}
