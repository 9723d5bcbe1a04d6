//! Resumable sessions: grants resume to a client, and attaches the client's later connections to the session.

use std::sync::Arc;

use lib_chan::ExitReason;
use lib_chan::auth::{ResumeClaim, ResumeKey, SessionId};
use lib_chan::channel::{Attacher, Change, Opening, say_lost};
use lib_chan::handshake::Authenticated;
use lib_chan::secret::Secret;
use lib_chan::tls::exporter;
use lib_chan::wire::{Granted, Tombstone};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::Connection;
use crate::audit::{Event, Who};
use crate::gate::locked;
use crate::live::Seat;
use crate::resume::{Found, NoRoom, Resumable};
use crate::shared::{Core, Way};
use crate::traffic::Stream;

/// The reason in the log if a client finds no session to resume. Every such client gets the same answer.
const NO_SESSION: &str = "no session of this client has this name and proof";
const SESSION_OVER: &str = "the session is over";

/// A session that its client may resume.
pub(super) struct ResumableSession {
    core: Arc<Core>,
    id: SessionId,
    window_ms: u64,
}

impl ResumableSession {
    /// For how long it may be without a connection.
    pub(super) fn window_ms(&self) -> u64 {
        self.window_ms
    }

    /// Keeps the record of the ended session for a client that comes too late.
    pub(super) fn end(&self, tombstone: Option<Tombstone>) {
        self.core.end_resumable(self.id, tombstone);
    }
}

impl Drop for ResumableSession {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl Connection {
    /// Hands the connection to the session that the client resumes. Where it is over, tells the client what is known of it,
    /// and returns why the connection ends.
    pub(super) async fn resume(
        &self,
        mut stream: Stream,
        client: &Authenticated,
        claim: ResumeClaim,
        proof: &[u8; 32],
    ) -> Option<ExitReason> {
        let mut endings = self.core.resumable.subscribe();
        let tombstone = loop {
            endings.mark_unchanged();
            match self.find(&stream, client, &claim, proof) {
                Ok(Way { attacher, seat }) => {
                    seat.hand(claim.epoch, self.id, self.peer);
                    stream.get_mut().0.count_in(&seat.traffic);
                    match attacher.attach(claim, stream) {
                        Ok(()) => return None,
                        Err(back) => stream = back,
                    }
                    // The session ends at this moment, and its task is about to leave the record. Never closed: the core
                    // has the other end.
                    let _ = endings.changed().await;
                }
                Err(tombstone) => break tombstone,
            }
        };
        // An unknown session brings no penalty: it cost its client a login, and after a restart all honest clients ask for
        // one. A known one must look the same.
        let (why, reason) = match &tombstone {
            Some(tombstone) => (SESSION_OVER, tombstone.reason.clone()),
            None => (NO_SESSION, ExitReason::NoConnection),
        };
        self.refused(client, why);
        say_lost(stream, tombstone, &self.policy.limits).await;
        Some(reason)
    }

    /// Returns the way to the session that the client has proved to be its own, or what is known of one that is over.
    fn find(
        &self,
        stream: &Stream,
        client: &Authenticated,
        claim: &ResumeClaim,
        proof: &[u8; 32],
    ) -> Result<Way, Option<Tombstone>> {
        let exporter = exporter(stream.get_ref().1).map_err(|_| None)?;
        let name = (client.service(), client.client());
        match locked(&self.core.resumables).judge(Instant::now(), name, &exporter, claim, proof) {
            Some(Found::Live(way)) => Ok(way.clone()),
            Some(Found::Over(tombstone)) => Err(Some(tombstone.clone())),
            None => Err(None),
        }
    }

    /// Promises the client that it can come back, if it asked for that and there is room.
    pub(super) fn grant(
        &self,
        asked: &mut Opening,
        client: &Authenticated,
        seat: &Arc<Seat>,
        attacher: Attacher<Stream>,
    ) -> Result<Option<ResumableSession>, NoRoom> {
        let window = asked.wants_resume().min(self.core.policy().resume(client.service()));
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let (mut id, mut secret) = ([0; 16], Zeroizing::new([0; 32]));
        let drawn = aws_lc_rs::rand::fill(&mut id).and_then(|()| aws_lc_rs::rand::fill(&mut *secret));
        if window_ms == 0 || drawn.is_err() {
            return Ok(None);
        }
        let (id, secret) = (SessionId::new(id), Secret::new(*secret));
        self.core.register(Resumable {
            id,
            key: ResumeKey::new(&secret),
            service: client.service().clone(),
            client: client.client().clone(),
            holder: self.holder(client),
            window,
            handle: Way { attacher, seat: Arc::clone(seat) },
        })?;
        asked.grant(Granted { window: window_ms, id, secret });
        Ok(Some(ResumableSession { core: Arc::clone(&self.core), id, window_ms }))
    }

    /// Notes that the session has lost its connection, or goes on over another.
    pub(super) fn changed(&self, client: &Authenticated, seat: &Seat, change: Change) {
        let who = Who::of(client);
        match change {
            Change::Detached => {
                seat.detach();
                let peer = seat.peer();
                self.write(|connection, _| Event::SessionDetached { connection, peer, who });
            }
            Change::Resumed { epoch, gap } => {
                let over = seat.attach(epoch);
                let (peer, gap_ms) = (seat.peer(), u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
                self.write(|connection, _| Event::SessionResumed { connection, peer, who, over, gap_ms });
            }
        }
    }
}
