//! The errors of trust.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls::Error;

use crate::known_hosts::KnownHostsError;

/// The reason that the chosen way to trust a server cannot be used. Nothing was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The file of a private authority cannot be used.
    #[error("cannot use the CA file {}: {what}; name a file with the authority's certificate", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// The mistake in it.
        what: Box<str>,
    },
    /// The file of known hosts cannot be used.
    #[error(transparent)]
    KnownHosts(#[from] KnownHostsError),
    /// The authorities of the system cannot be used.
    #[error("cannot use the system's certificate authorities ({0}); pin the server's key instead")]
    System(Error),
}

impl TrustError {
    pub(super) fn ca(path: &Path, what: impl fmt::Display) -> Self {
        Self::Ca { path: path.into(), what: what.to_string().into() }
    }
}
