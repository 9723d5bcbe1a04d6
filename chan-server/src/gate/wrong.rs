//! Bounds guesses of passwords without blaming one client for another's wrong password.
//!
//! Each refused password gives its *pair* (a name at a source) a penalty, which time takes off again. A pair that
//! owes much is slowed down first: its refusals wait. A client that repeats an old password waits with them, and
//! never owes more. A pair that owes twice as much does not wait, so it guesses in parallel. Its passwords are
//! refused, right or wrong, until time has taken enough off.
//!
//! A source owes half as much for each name that has not logged in from there lately. So many names are no way around
//! the bound of one name, and a name that is known at the source does not depend on other clients there.
//!
//! The penalty of a refused password does not depend on the reason, and a password that is not checked costs nothing.
//! So neither the penalty nor the delay reveals whether a name exists or a password was right.

use std::time::Duration;

use tokio::time::Instant;

use super::penalty::Debts;
use super::{GateRules, Pair, Source};

/// The longest wait of a refusal. Its client waits as well, and has a deadline of its own.
const MAX_DELAY: Duration = Duration::from_secs(7);

/// The weight of a wrong password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The whole penalty.
    Stranger,
    /// The name logged in from this source lately: a quarter.
    Known,
    /// The source is exempt: a twenty-fifth. Thousands of clients may be behind it.
    Exempt,
}

impl Standing {
    fn of(self, penalty: Duration) -> Duration {
        penalty
            / match self {
                Self::Stranger => 1,
                Self::Known => 4,
                Self::Exempt => 25,
            }
    }
}

/// The penalties for wrong passwords, of pairs and of sources.
#[derive(Debug, Default)]
pub(super) struct WrongPasswords {
    pairs: Debts<Pair>,
    sources: Debts<Source>,
}

impl WrongPasswords {
    /// Returns `true` if passwords are refused unseen.
    pub(super) fn refuses(
        &mut self,
        now: Instant,
        pair: Pair,
        standing: Standing,
        rules: &GateRules,
    ) -> bool {
        // Leave room for one penalty more: at the greatest sum itself, each moment would allow another guess.
        let greatest = rules.penalty_max.saturating_sub(standing.of(rules.penalty_failed));
        let most = rules.penalty_min.saturating_mul(2).min(greatest);
        let owed = self.owed(now, pair, standing);
        owed >= most && !owed.is_zero()
    }

    /// Notes a refused password. Returns how long its refusal waits.
    pub(super) fn refused(
        &mut self,
        now: Instant,
        pair: Pair,
        standing: Standing,
        rules: &GateRules,
    ) -> Duration {
        if !self.refuses(now, pair, standing, rules) {
            let penalty = standing.of(rules.penalty_failed);
            self.pairs.add(now, pair, penalty, rules.penalty_max);
            if standing != Standing::Known {
                self.sources.add(now, pair.source, penalty / 2, rules.penalty_max);
            }
        }
        self.owed(now, pair, standing).saturating_sub(rules.penalty_min).min(MAX_DELAY)
    }

    fn owed(&mut self, now: Instant, pair: Pair, standing: Standing) -> Duration {
        let of_pair = self.pairs.owed(now, pair);
        match standing {
            Standing::Known => of_pair,
            _ => of_pair.max(self.sources.owed(now, pair.source)),
        }
    }
}

#[cfg(test)]
mod tests;
