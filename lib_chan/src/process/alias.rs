//! Second names of processes, which can be revoked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, Weak};

use super::next_id;
use crate::sync::Mutex;

/// A session that may have handed out aliases.
pub(crate) trait Revoker: Send + Sync {
    /// Makes the alias with this number useless for the far end.
    fn revoke(&self, alias: u64);
}

/// A second name of a process.
pub(crate) struct Alias {
    number: u64,
    revoked: Arc<AtomicBool>,
    /// The sessions in which it was handed out.
    sessions: Mutex<Vec<Weak<dyn Revoker>>>,
}

impl Alias {
    pub(super) fn new() -> Self {
        Self { number: next_id(), revoked: Arc::default(), sessions: Mutex::new(Vec::new()) }
    }

    /// Returns the number that only this alias has.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Returns the flag that is set when the alias is revoked.
    pub(crate) const fn revoked(&self) -> &Arc<AtomicBool> {
        &self.revoked
    }

    /// Notes a session in which the alias is about to be handed out.
    pub(crate) fn note(&self, session: Weak<dyn Revoker>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|other| other.strong_count() > 0);
        if !sessions.iter().any(|other| Weak::ptr_eq(other, &session)) {
            sessions.push(session);
        }
    }

    /// Ends the alias in all sessions. The flag comes first: a session that hands it out meanwhile sees it.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
        let sessions = std::mem::take(&mut *self.sessions.lock().unwrap_or_else(PoisonError::into_inner));
        for session in sessions.iter().filter_map(Weak::upgrade) {
            session.revoke(self.number);
        }
    }
}
