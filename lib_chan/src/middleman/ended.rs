//! The wait for the end of a session.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use super::{shared::Shared, wake::keep};
use crate::{ExitReason, session::ConnectionState};

/// Waits for the end of a session. Dropping it removes its waker, because a session may outlive very many waits.
pub(crate) struct Ended {
    shared: Arc<Shared>,
    place: u64,
}

impl Ended {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, place: 0 }
    }

    /// Polls for the reason with which the session has ended.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<ExitReason> {
        let place = &mut self.place;
        self.shared.with(|endpoint| match endpoint.over() {
            Some(reason) => Poll::Ready(reason.clone()),
            None => {
                endpoint.watch(place, keep(cx));
                Poll::Pending
            }
        })
    }
}

impl Ended {
    /// Polls for the time at which the other end drains. Returns `false` once the session has ended.
    pub(crate) fn poll_draining(&mut self, cx: &Context<'_>) -> Poll<bool> {
        let place = &mut self.place;
        self.shared.with(|endpoint| {
            if endpoint.over().is_some() {
                return Poll::Ready(false);
            }
            if endpoint.session().peer_drains() {
                return Poll::Ready(true);
            }
            endpoint.watch(place, keep(cx));
            Poll::Pending
        })
    }

    /// Polls for a state of the connection other than `seen`. Returns `None` once the session has ended.
    pub(crate) fn poll_connection(
        &mut self,
        cx: &Context<'_>,
        seen: ConnectionState,
    ) -> Poll<Option<ConnectionState>> {
        let place = &mut self.place;
        self.shared.with(|endpoint| {
            if endpoint.over().is_some() {
                return Poll::Ready(None);
            }
            let state = endpoint.connection();
            if state != seen {
                return Poll::Ready(Some(state));
            }
            endpoint.watch(place, keep(cx));
            Poll::Pending
        })
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let waker = self.shared.quietly(|endpoint| endpoint.unwatch(self.place));
        drop(waker);
    }
}
