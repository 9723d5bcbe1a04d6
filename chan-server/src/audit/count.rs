//! Counts what the log tells. Nothing that a client sends becomes a label.

use super::Event;
use crate::metrics::{Metrics, add};

/// Counts what happened.
pub(super) fn count(metrics: &Metrics, event: &Event<'_>) {
    let of = |service: &str| vec![("service", service.to_owned())];
    match event {
        Event::Turned { cause, .. } => add(&metrics.turned, vec![("cause", (*cause).to_owned())]),
        Event::LoginFailed { outcome, .. } => add(&metrics.logins, vec![("outcome", (*outcome).to_owned())]),
        Event::LoginOk { .. } => add(&metrics.logins, vec![("outcome", "ok".to_owned())]),
        Event::SessionStarted { who, .. } => add(&metrics.started, of(who.service)),
        Event::SessionRefused { who, .. } => add(&metrics.refused, of(who.service)),
        Event::TargetFailed { who, .. } => add(&metrics.targets_failed, of(who.service)),
        Event::SessionResumed { who, .. } => add(&metrics.resumed, of(who.service)),
        Event::SessionExpired { who, .. } => add(&metrics.expired, of(who.service)),
        Event::SessionEnded { who, reason, .. } => {
            // Behind the colon is the service's own text.
            let reason = reason.split(':').next().unwrap_or_default().replace(' ', "_");
            add(&metrics.ended, vec![("service", who.service.to_owned()), ("reason", reason)]);
        }
        Event::Reloaded { .. } => add(&metrics.reloads, vec![("outcome", "ok".to_owned())]),
        Event::ReloadFailed { .. } => add(&metrics.reloads, vec![("outcome", "failed".to_owned())]),
        Event::Revoking { .. } => drop(metrics.revoked.inc()),
        Event::Crashed => drop(metrics.crashes.inc()),
        Event::AcceptFailed { .. } => drop(metrics.accepts_failed.inc()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use lib_chan::ExitReason;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::super::Who;
    use super::*;

    #[test]
    fn text_of_a_service_is_no_label() {
        let metrics = Metrics::default();
        let who = Who { service: "echo", client: "joe" };
        for reason in [ExitReason::failed("secret: 1"), ExitReason::failed("other"), ExitReason::GoingAway] {
            count(
                &metrics,
                &Event::SessionEnded {
                    connection: 1,
                    peer: ([127, 0, 0, 1], 1).into(),
                    who,
                    reason: reason.to_string(),
                    bytes_in: 1,
                    bytes_out: 2,
                    ms: 1,
                },
            );
        }
        let mut registry = Registry::with_prefix("chan");
        metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("chan_sessions_ended_total{service=\"echo\",reason=\"failed\"} 2\n"), "{text}");
        assert!(
            text.contains("chan_sessions_ended_total{service=\"echo\",reason=\"going_away\"} 1\n"),
            "{text}"
        );
        assert!(!text.contains("secret") && !text.contains("joe"), "{text}");
    }
}
