//! Counts of events since the start, for a monitoring system.
//!
//! What the log tells is counted here as well, and never left out. Labels are names of the configuration and words of a
//! closed set; nothing that a client sends becomes a label.

use lib_chan::channel::CallCounts;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Names and values.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// The counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) turned: Family<Labels, Counter>,
    pub(crate) logins: Family<Labels, Counter>,
    pub(crate) started: Family<Labels, Counter>,
    pub(crate) refused: Family<Labels, Counter>,
    pub(crate) resumed: Family<Labels, Counter>,
    pub(crate) expired: Family<Labels, Counter>,
    pub(crate) ended: Family<Labels, Counter>,
    pub(crate) targets_failed: Family<Labels, Counter>,
    received: Family<Labels, Counter>,
    sent: Family<Labels, Counter>,
    calls: Family<Labels, Counter>,
    pub(crate) reloads: Family<Labels, Counter>,
    pub(crate) revoked: Counter,
    pub(crate) crashes: Counter,
    pub(crate) accepts_failed: Counter,
}

impl Metrics {
    /// Counts bytes of the sessions of a service.
    pub(crate) fn add_bytes(&self, service: &str, received: u64, sent: u64) {
        let labels = vec![("service", service.to_owned())];
        self.received.get_or_create(&labels).inc_by(received);
        self.sent.get_or_create(&labels).inc_by(sent);
    }

    /// Counts calls of the sessions of a service: those up to now less those up to before.
    pub(crate) fn add_calls(&self, service: &str, now: &CallCounts, before: &CallCounts) {
        for (ending, now, before) in [
            ("answered", now.answered, before.answered),
            ("refused", now.refused, before.refused),
            ("overload", now.overload, before.overload),
            ("cancelled", now.cancelled, before.cancelled),
            ("failed", now.failed, before.failed),
            ("session_ended", now.ended, before.ended),
        ] {
            if now > before {
                let labels = vec![("service", service.to_owned()), ("ending", ending.to_owned())];
                self.calls.get_or_create(&labels).inc_by(now - before);
            }
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        let mut add =
            |name, help, family: &Family<Labels, Counter>| registry.register(name, help, family.clone());
        add("connections_dropped", "Connections dropped before TLS", &self.turned);
        add("logins", "Logins, by outcome", &self.logins);
        add("sessions_started", "Services started", &self.started);
        add("sessions_refused", "Clients that were logged in and got no session", &self.refused);
        add("sessions_resumed", "Sessions that went on over another connection", &self.resumed);
        add("sessions_expired", "Sessions whose clients did not come back in time", &self.expired);
        add("sessions_ended", "Sessions ended, by reason", &self.ended);
        add("targets_failed", "Targets of relays that could not be reached", &self.targets_failed);
        add("received_bytes", "Bytes received in sessions, TLS included", &self.received);
        add("sent_bytes", "Bytes sent in sessions, TLS included", &self.sent);
        add("calls", "Calls of clients, by ending", &self.calls);
        add("reloads", "Reloads of the configuration, by outcome", &self.reloads);
        registry.register("sessions_revoked", "Sessions that a reload ended", self.revoked.clone());
        registry.register(
            "crashes",
            "Connections over which the server's own code panicked",
            self.crashes.clone(),
        );
        registry.register(
            "accept_errors",
            "Times that the system gave no connection, for want of descriptors or memory",
            self.accepts_failed.clone(),
        );
    }
}

/// Counts one more under these labels.
pub(crate) fn add(family: &Family<Labels, Counter>, labels: Labels) {
    family.get_or_create(&labels).inc();
}
