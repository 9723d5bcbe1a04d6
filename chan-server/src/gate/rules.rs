//! What an owner may set about the gate, beside the numbers of [`Limits`](lib_chan::Limits).

use std::time::Duration;

use ipnet::IpNet;

/// The `[gate]` table of a configuration: penalties, trust and exceptions. This is the only place where their defaults are
/// written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GateRules {
    /// Failed logins a second, of all sources together, that the server takes for ordinary. It is under load while more
    /// fail, while half of `max_logins_before_drop` places are taken, and for a minute after. Penalties of sources are
    /// enforced under load only. Default 20. Cost: a TLS handshake each.
    pub failures_per_second: u32,
    /// Penalty for a login that ended before its proof, at least; it grows with the time that it held its place, up to
    /// `penalty_deadline`. Default 1 s.
    pub penalty_unproved: Duration,
    /// Penalty for a wrong proof, and for what is no login. Default 5 s.
    pub penalty_failed: Duration,
    /// Penalty for a login that was not over at its deadline. Default 10 s.
    pub penalty_deadline: Duration,
    /// Penalty for a connection over which the server's own code panicked. It is always enforced. Default 90 s.
    pub penalty_crash: Duration,
    /// Penalties of a source, and of a name at a source, add up. A sum below this is remembered only. Default 15 s.
    pub penalty_min: Duration,
    /// No sum is greater. Default 10 min.
    pub penalty_max: Duration,
    /// How long a good login is remembered for its source and for its name there: their failures count a
    /// twenty-fifth, and places are kept for such a source. Default 24 h.
    pub trust: Duration,
    /// Sources that have neither penalties nor a bound of their own on logins. Default none.
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
