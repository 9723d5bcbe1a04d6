//! The limit of descriptors, for commands with many connections.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of descriptors. Each connection takes two, and the usual soft limit of 1 024 exists for programs that
/// use `select`. If the system refuses, the limit stays.
pub(super) fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
