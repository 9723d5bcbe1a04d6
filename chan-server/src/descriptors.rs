//! How many connections go with the descriptors that the system gives.

use lib_chan::Limits;

/// Lets the process open as many descriptors as the system allows it. Returns what to tell the owner if that fails; the
/// server then adapts to what there is.
pub(crate) fn raise() -> Option<String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return None;
    }
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let text =
        |error| format!("cannot raise the number of descriptors to the hard limit (setrlimit): {error}");
    raised.err().map(text)
}

/// Returns how many descriptors the process may have, if there is a bound.
pub(crate) fn max_descriptors() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// Lowers the numbers of logins and sessions to what goes with so many descriptors. Returns what to tell the owner, if
/// there is something. Where there are relays, any session may need a second one for its target.
///
/// A sixteenth, at most 64, is for what is no connection of a client, and at most a quarter for clients that have not
/// started anything: connections before their login, and as many after it.
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
    Some(format!(
        "only {descriptors} descriptors: max_sessions is {} instead of {}, max_logins {logins} instead of {}; raise them with: ulimit -n {wanted}",
        limits.max_sessions, before.0, before.1,
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
            let wanted = if relays { "ulimit -n 22112" } else { "ulimit -n 12112" };
            assert!(warning.is_none_or(|text| text.contains(wanted)));
        }
    }
}
