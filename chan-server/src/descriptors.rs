//! The limit of descriptors, and the number of sessions and logins that it allows.

use std::io;

use lib_chan::Limits;

/// Raises the process's soft limit of open descriptors to its hard limit. Call it before [`Server::bind`], which divides
/// the descriptors between logins and sessions.
///
/// [`Server::bind`]: crate::Server::bind
///
/// # Errors
///
/// Returns an error if the system refuses, as a sandbox may. The server then serves fewer sessions.
pub fn raise_descriptor_limit() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(())
}

/// Returns the number of descriptors that the process may have, or `None` if it is unlimited.
pub(crate) fn max_descriptors() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Lowers the numbers of logins and sessions to those that the descriptors allow. Returns a warning for the owner if it
/// lowered one. If the server has relays, each session may need a second descriptor for its target.
///
/// A sixteenth of the descriptors, at most 64, is reserved for everything but clients' connections. At most a quarter
/// serves clients that have not started a service: connections before their login, and as many after it.
pub(crate) fn keep_within(limits: &mut Limits, descriptors: u64, relays: bool) -> Option<String> {
    let each = 1 + u64::from(relays);
    let wanted = limits.max_sessions as u64 * each + 2 * limits.max_logins as u64 + 64;
    if wanted <= descriptors {
        return None;
    }
    let count = |descriptors| usize::try_from(descriptors).unwrap_or(usize::MAX).max(1);
    let left = descriptors - (descriptors / 16).min(64);
    let logins = limits.max_logins.min(count(left / 8));
    let before = (limits.max_sessions, limits.max_logins);
    limits.max_logins = logins;
    limits.max_logins_before_drop = limits.max_logins_before_drop.min(logins);
    limits.max_sessions = before.0.min(count(left.saturating_sub(2 * logins as u64) / each));
    let lowered = [("max_sessions", before.0, limits.max_sessions), ("max_logins", before.1, logins)];
    let lowered = lowered.iter().filter(|(_, before, now)| now < before);
    let lowered: Vec<_> =
        lowered.map(|(name, before, now)| format!("{name} is {now} instead of {before}")).collect();
    Some(format!(
        "only {descriptors} descriptors: {}; raise them with: ulimit -n {wanted}",
        lowered.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_and_logins_fit_the_descriptors() {
        for (descriptors, relays, sessions, logins) in [
            (1 << 20, true, 10_000, 1024),
            (12_112, false, 10_000, 1024),
            (12_111, false, 9_999, 1024),
            (22_112, true, 10_000, 1024),
            (1024, false, 720, 120),
            (1024, true, 360, 120),
            (64, false, 46, 7),
            (3, false, 1, 1),
        ] {
            let mut limits = Limits::default();
            let warning = keep_within(&mut limits, descriptors, relays);
            assert_eq!(
                (limits.max_sessions, limits.max_logins),
                (sessions, logins),
                "{descriptors} {relays}"
            );
            assert!(limits.max_logins_before_drop <= limits.max_logins);
            assert_eq!(warning.is_some(), sessions < 10_000, "{warning:?}");
            let text = warning.as_deref().unwrap_or_default();
            assert_eq!(text.contains("max_logins is"), logins < 1024, "{text}");
            let wanted = if relays { "ulimit -n 22112" } else { "ulimit -n 12112" };
            assert!(warning.is_none_or(|text| text.contains(wanted)));
        }
    }
}
