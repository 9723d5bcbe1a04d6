//! Sessions that outlive their connections, with a real server in a program of its own: whether no message is lost,
//! doubled or reordered under many cuts, and what resume costs.

mod back;
mod cuts;
mod relays;
mod server;
mod speed;

use std::time::Duration;

pub use self::{back::come_back, cuts::cuts, relays::relays, server::serve, speed::speed};

/// How a campaign of cuts runs.
#[derive(Clone, Copy, Debug)]
pub struct Cuts {
    /// How long messages are sent. Default 30 minutes.
    pub duration: Duration,
    /// Sessions at a time. Default 200.
    pub sessions: usize,
    /// Messages that all sessions send together; each comes back. Default 1 000 000.
    pub messages: u64,
    /// Cuts a second, each of one connection. Default 10.
    pub cuts: u32,
    /// Which connections, and how. Default 1.
    pub seed: u64,
}

impl Default for Cuts {
    fn default() -> Self {
        Self { duration: Duration::from_secs(30 * 60), sessions: 200, messages: 1_000_000, cuts: 10, seed: 1 }
    }
}

/// The middle one of these, and the least and the greatest.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |part: usize| sorted.get(part).copied().unwrap_or(f64::NAN);
    let middle = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) && middle > 0 {
        (at(middle - 1) + at(middle)) / 2.0
    } else {
        at(middle)
    };
    (median, at(0), at(sorted.len().saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_extremes_are_found() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), (2.5, 1.0, 4.0));
    }
}
