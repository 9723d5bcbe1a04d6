//! The settings of the gate, beside the numbers of [`Limits`](lib_chan::Limits).

use std::time::Duration;

use ipnet::IpNet;

/// The `[gate]` table of a configuration: penalties, trust and exceptions. This is the only place where their defaults are
/// written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GateRules {
    /// Failed logins a second, of all sources together, that the server takes for ordinary. It is under load while more
    /// fail, while half of `max_logins_before_drop` places are taken, and for a minute after. Penalties of sources are
    /// enforced under load only, and against a single source while more than this fails or is turned away there: a flood
    /// gets 12 logins a minute in. Default 20. Cost: a TLS handshake each.
    pub failures_per_second: u32,
    /// Penalty for a login that ended before its proof, at least; it grows with the time that it held its place, up to
    /// `penalty_deadline`. Default 1 s.
    pub penalty_unproved: Duration,
    /// Penalty for a wrong proof, and for what is no login. A wrong password costs it its name at that source as well: a
    /// quarter of it where the name is known (`trust`), a twenty-fifth at exempt sources; and half of that the source,
    /// unless the name is known there. Default 5 s: 12 guesses a minute at a name, 24 at a source, 48 at a known name.
    pub penalty_failed: Duration,
    /// Penalty for a login that was not over at its deadline. Default 10 s.
    pub penalty_deadline: Duration,
    /// Penalty for a connection over which the server's own code panicked. It is always enforced. Default 90 s.
    pub penalty_crash: Duration,
    /// Penalties of a source, and of a name at a source, add up. A sum below this is remembered only. From this sum on, a
    /// source is turned away under load, and refusals of passwords wait, for 7 s at most; from twice this sum on, passwords
    /// are refused unseen. Default 15 s.
    pub penalty_min: Duration,
    /// No sum is greater. Default 10 min.
    pub penalty_max: Duration,
    /// How long a good login is remembered for its source and for its name there: failures of the source count a
    /// twenty-fifth, wrong passwords under the name a quarter, and places are kept for such a source. Default 24 h.
    pub trust: Duration,
    /// Sources that have neither penalties nor a bound of their own on logins; only guesses of passwords stay bounded
    /// there. Default none.
    pub exempt: Vec<IpNet>,
}

impl Default for GateRules {
    fn default() -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        Self {
            failures_per_second: 20,
            penalty_unproved: SECOND,
            penalty_failed: 5 * SECOND,
            penalty_deadline: 10 * SECOND,
            penalty_crash: 90 * SECOND,
            penalty_min: 15 * SECOND,
            penalty_max: 600 * SECOND,
            trust: 24 * 3600 * SECOND,
            exempt: Vec::new(),
        }
    }
}
