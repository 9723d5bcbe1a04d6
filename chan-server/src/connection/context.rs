//! The connection as a relay sees it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lib_chan::ExitReason;

use super::whole_ms;
use crate::audit::{Event, Who, escaped};
use crate::gate::{Crowded, Holder, SessionPermit};
use crate::modules::RelayContext;
use crate::shared::Core;

/// The service of a connection, for the log and the quotas of its relay.
///
/// A relay may outlive its session, with a target that takes no bytes or that does not answer yet. It keeps this value
/// and with it the place: else a client that starts and ends sessions could have any number of such targets.
pub(super) struct ServiceContext {
    pub(super) core: Arc<Core>,
    pub(super) connection: u64,
    pub(super) peer: SocketAddr,
    pub(super) service: Arc<str>,
    pub(super) client: Box<str>,
    pub(super) holder: Holder,
    pub(super) _place: Arc<SessionPermit>,
}

impl ServiceContext {
    fn write<'e>(&'e self, event: impl FnOnce(u64, SocketAddr, Who<'e>) -> Event<'e>) {
        let who = Who { service: &self.service, client: &self.client };
        self.core.audit.write(&event(self.connection, self.peer, who));
    }
}

impl RelayContext for ServiceContext {
    fn target_failed(&self, why: &str) {
        self.write(|connection, peer, who| Event::TargetFailed { connection, peer, who, why: escaped(why) });
    }

    fn stream_refused(&self, why: &str) {
        self.write(|connection, peer, who| Event::SessionRefused {
            connection,
            peer,
            who,
            why: escaped(why),
        });
    }

    fn stream_ended(&self, reason: &ExitReason, after: Duration) {
        let (reason, ms) = (escaped(&reason.to_string()), whole_ms(after));
        self.write(|connection, peer, who| Event::StreamEnded { connection, peer, who, reason, ms });
    }

    fn provider_found(&self, provider: u64) {
        self.write(|connection, peer, who| Event::ProviderFound { connection, peer, who, provider });
    }

    fn provider_arrived(&self, name: &str) {
        let provides = escaped(name);
        self.write(|connection, peer, who| Event::ProviderArrived {
            connection,
            peer,
            who,
            provides: &provides,
        });
    }

    fn provider_left(&self, name: &str, streams: u64, after: Duration) {
        let (provides, ms) = (escaped(name), whole_ms(after));
        self.write(|connection, peer, who| Event::ProviderLeft {
            connection,
            peer,
            who,
            provides: &provides,
            streams,
            ms,
        });
    }

    fn session(&self) -> u64 {
        self.connection
    }

    fn take_place(&self) -> Result<SessionPermit, Crowded> {
        SessionPermit::take(&self.core.sessions, &self.service, self.holder.clone())
    }
}
