//! The loop around the attempts of one login.

use std::time::Duration;

use lib_chan::Limits;
use lib_chan::channel::OpenRequest;
use lib_chan::login::Credential;
use lib_chan::secret::{Password, PrivateKey};
use tokio::time::{Instant, sleep};

use super::attempt::Login;
use super::error::ConnectError;
use super::retry::{Next, Retry};
use super::step::Step;
use crate::known_hosts::KnownHosts;
use crate::url::ChanUrl;

/// Observes the steps of a login.
pub(super) type OnStep<'s> = &'s (dyn Fn(Step) + Send + Sync + 's);

/// Returns a first message, encoded.
pub(super) type First<'c> = dyn Fn() -> Option<Vec<u8>> + Send + Sync + 'c;

/// The request for the service, for a login that can send it together with the proof.
#[derive(Clone, Copy)]
pub(super) struct Early<'c> {
    /// The request without its first message.
    pub(super) request: OpenRequest<'c>,
    pub(super) first: &'c First<'c>,
}

/// The secret with which the client proves itself. Both kinds are cheap to clone.
#[derive(Clone, Debug)]
pub(super) enum OwnedCredential {
    Password(Password),
    Key(PrivateKey),
}

impl OwnedCredential {
    pub(super) fn borrow(&self) -> Credential<'_> {
        match self {
            Self::Password(password) => Credential::Password(password),
            Self::Key(key) => Credential::Key(key),
        }
    }
}

/// Everything that a login needs. It can be used again for the next connection.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) url: ChanUrl,
    pub(super) credential: OwnedCredential,
    pub(super) limits: Limits,
    pub(super) timeout: Option<Duration>,
    /// How long to try servers again that turn the client away.
    pub(super) busy: Duration,
    /// How long to wait for a server that cannot be reached.
    pub(super) wait: Duration,
    pub(super) accept_new: bool,
    pub(super) known_hosts: Option<KnownHosts>,
}

impl Connector {
    /// Connects and logs in, with as many attempts as [`Retry`] decides. Resolves host names anew for each attempt.
    ///
    /// Dropping the future closes the connection.
    pub(super) async fn login(
        &self,
        early: Option<Early<'_>>,
        on_step: OnStep<'_>,
    ) -> Result<Login, ConnectError> {
        let servers = self.url.authorities();
        let mut retry = Retry::new(servers.len(), self.busy, self.wait, Instant::now().into_std());
        // The caller's own timeout, if there is one, bounds the whole.
        let patience = self.timeout.is_none().then_some(self.limits.login_timeout);
        loop {
            let patience = patience.filter(|_| retry.is_second());
            let setback = match self.attempt(&servers[retry.server()], patience, early, on_step).await {
                Ok(login) => return Ok(login),
                Err(setback) => setback,
            };
            match retry.after(setback, Instant::now().into_std(), random_fraction()) {
                Next::Again { wait, step } => {
                    on_step(step);
                    sleep(wait).await;
                }
                Next::Fail(error) => return Err(error),
            }
        }
    }
}

/// Returns a random number from 0 to 1. Nothing secret depends on it.
pub(crate) fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
