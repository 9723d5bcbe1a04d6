//! Replaces the configuration of a running server.
//!
//! Everything that can fail is done first: the new configuration is checked, its verifiers are made, and its sockets
//! are bound. Then everything is replaced at once. A reload that fails has changed nothing.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::audit::{Event, Who};
use crate::config::Config;
use crate::gate::locked;
use crate::listener::{self, BindError, Bound, ListenAt, Move};
use crate::live::Ending;
use crate::policy::Policy;
pub use crate::policy::{Change, ChangeKind};
use crate::scrape;
use crate::shared::{Core, Phase};
use crate::start::StartError;

/// The reason that a running server keeps its configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The new configuration cannot be served.
    #[error(transparent)]
    Unusable(#[from] StartError),
    /// The server takes nothing new any more.
    #[error("the server is going away")]
    GoingAway,
}

/// The effects of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Changes {
    /// The differences between the two configurations.
    pub changes: Vec<Change>,
    /// The sessions that end with `revoked`, after `revoke_grace`.
    pub ends: Vec<Ending>,
    /// Milliseconds of `revoke_grace`.
    pub grace_ms: u64,
    /// Settings that only a restart can change; they stay as they are.
    pub needs_restart: Vec<String>,
    /// Warnings about the new configuration.
    pub warnings: Vec<String>,
}

impl fmt::Display for Changes {
    /// One line for each, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<String> = self.warnings.iter().map(|text| format!("warning: {text}")).collect();
        lines.extend(self.changes.iter().map(ToString::to_string));
        lines.extend(self.needs_restart.iter().map(|what| format!("needs a restart: {what}")));
        for Ending { connection, peer, service, client, why } in &self.ends {
            let client = if client.is_empty() { String::new() } else { format!(" of {client}") };
            lines.push(format!("ends: session {connection}{client} at {service} from {peer}: {why}"));
        }
        if self.changes.is_empty() && self.needs_restart.is_empty() {
            lines.push("nothing changes".into());
        }
        f.write_str(&lines.join("\n"))
    }
}

/// A policy that is ready to serve, and what goes with it.
struct Prepared {
    policy: Policy,
    changes: Changes,
    moved: Move,
}

impl Core {
    /// Returns what a reload of this configuration would do.
    pub(crate) async fn compare(&self, config: Config) -> Result<Changes, ReloadError> {
        let Prepared { changes, moved, .. } = self.prepare(config).await?;
        listener::probe(&moved.open).map_err(StartError::from)?;
        Ok(changes)
    }

    /// Goes over to another configuration, and returns what that did. Dropping the future before it is ready changes
    /// nothing.
    pub(crate) async fn reload(self: &Arc<Self>, config: Config) -> Result<Changes, ReloadError> {
        let _one_at_a_time = self.reloading.lock().await;
        let reloaded = match self.prepare(config).await {
            Ok(prepared) => self.go_over(prepared).await,
            Err(error) => Err(error),
        };
        match &reloaded {
            Ok(changes) => self.log(changes),
            Err(error) => self.audit.write(&Event::ReloadFailed { why: error.to_string() }),
        }
        reloaded
    }

    async fn prepare(&self, config: Config) -> Result<Prepared, ReloadError> {
        let mut warnings: Vec<_> =
            config.warnings.iter().map(|warning| warning.problem.text.clone()).collect();
        let before = self.policy();
        let (policy, more) =
            Policy::prepare(config, &self.state, &self.name_key, Some(Arc::clone(&before))).await?;
        warnings.extend(more);
        let moved = Move::between(&locked(&self.listeners).places(), &policy.listen.places());
        let mut all = before.diff(&policy);
        let at = |place: &ListenAt| format!("listen {}", place.address);
        all.extend(moved.open.iter().map(|place| Change::added(at(place))));
        all.extend(moved.close.iter().map(|place| Change::removed(at(place))));
        let changes = Changes {
            changes: all,
            ends: locked(&self.live).endings(&policy),
            grace_ms: u64::try_from(policy.revoke_grace.as_millis()).unwrap_or(u64::MAX),
            needs_restart: moved.stuck.iter().map(at).collect(),
            warnings,
        };
        Ok(Prepared { policy, changes, moved })
    }

    /// The half that cannot fail once the sockets are bound.
    async fn go_over(self: &Arc<Self>, prepared: Prepared) -> Result<Changes, ReloadError> {
        let Prepared { policy, mut changes, moved } = prepared;
        let remains = locked(&self.listeners).places().len() > moved.close.len();
        let Bound { listeners, skipped } =
            listener::bind(&moved.open, remains, &mut Vec::new()).map_err(StartError::from)?;
        changes
            .warnings
            .extend(skipped.iter().map(|error| format!("{error}; the server goes on without it")));
        let metrics = match policy.metrics.filter(|_| policy.metrics != self.policy().metrics) {
            Some(address) => {
                let bound = scrape::bind(address).await;
                Some(bound.map_err(|error| StartError::from(BindError { address, error }))?)
            }
            None => None,
        };
        if *self.phase.borrow() != Phase::Serving {
            return Err(ReloadError::GoingAway);
        }
        self.key.replace(policy.identity.key());
        locked(&self.gate).set(&policy.limits, policy.rules.clone());
        locked(&self.resumables).set(&policy.limits);
        locked(&self.sessions).set(&policy.limits, policy.max_sessions(), policy.max_sessions_of_clients());
        locked(&self.quotas).set(policy.quotas());
        if metrics.is_some() || policy.metrics.is_none() {
            self.listen_for_metrics(metrics);
        }
        changes.ends = locked(&self.live).replace(policy, Instant::now());
        for (place, listener) in listeners {
            self.listen(place, listener);
        }
        locked(&self.listeners).close(&moved.close);
        Ok(changes)
    }

    fn log(&self, changes: &Changes) {
        for text in &changes.warnings {
            self.audit.write(&Event::Warning { text: text.clone() });
        }
        for what in &changes.needs_restart {
            self.audit.write(&Event::Warning { text: format!("{what} needs a restart, and stays as it is") });
        }
        for ending in &changes.ends {
            self.audit.write(&Event::Revoking {
                connection: ending.connection,
                peer: ending.peer,
                who: Who { service: &ending.service, client: &ending.client },
                why: ending.why.to_string(),
                ms: changes.grace_ms,
            });
        }
        let texts: Vec<_> = changes.changes.iter().map(ToString::to_string).collect();
        self.audit.write(&Event::Reloaded { changes: &texts, ends: changes.ends.len() });
    }
}
