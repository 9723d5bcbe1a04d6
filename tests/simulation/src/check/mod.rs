//! Reads the log of a run and says what was broken.
//!
//! Nothing here looks at a session: what should have been seen follows from what was done, what was written to the
//! stream and how much of it was read.

mod message;
mod session;
mod signal;
mod wire;

use crate::{
    log::{Entry, What},
    plan::Plan,
    world::Violation,
};

/// Where rules put what was broken.
#[derive(Debug, Default)]
struct Broken {
    violations: Vec<Violation>,
    /// The line being looked at.
    line: usize,
}

impl Broken {
    /// A promise, and what there is to say where it does not hold.
    fn unless(&mut self, holds: bool, rule: &'static str, detail: impl FnOnce() -> String) {
        if !holds {
            let detail = format!("line {}: {}", self.line + 1, detail());
            self.violations.push(Violation::new(rule, detail));
        }
    }
}

/// Checks a whole run.
pub(crate) fn check(log: &[Entry], plan: &Plan) -> Vec<Violation> {
    let mut broken = Broken::default();
    let mut wire = wire::Wire::new(plan);
    let mut sessions = session::Sessions::new(plan);
    let mut messages = message::Messages::default();
    let mut signals = signal::Signals::new(plan);
    for (line, entry) in log.iter().enumerate() {
        broken.line = line;
        wire.see(entry, &mut broken);
        sessions.see(entry, &wire, &mut broken);
        messages.see(entry, &wire, &sessions, &mut broken);
        signals.see(entry, &sessions, &mut broken);
        if let What::Rest = entry.what {
            signals.rest(&sessions, &mut broken);
            messages.rest(entry.at, &wire, &sessions, &signals, &mut broken);
        }
    }
    messages.end(&wire, &sessions, &signals, &mut broken);
    broken.violations
}
