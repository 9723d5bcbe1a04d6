//! Both ends' real pure code (login, session, tables of links and calls) and a model of processes, in one thread and in
//! virtual time, over a network that does everything a network can do. A seed decides all of it.
//!
//! After a run a checker that knows nothing but the log of what everybody did and saw tests what was promised.

mod check;
mod end;
mod log;
mod login;
mod net;
mod plan;
mod process;
mod seeded;
mod world;

use std::{
    collections::BTreeSet,
    fmt::Write,
    sync::OnceLock,
    time::{Duration, Instant},
};

pub use world::{Counts, Violation};

use crate::{log::Entry, seeded::Seeded, world::World};

/// A run of one schedule.
#[derive(Debug)]
pub struct Run {
    /// What was broken, the first first.
    pub violations: Vec<Violation>,
    /// How often what was done.
    pub counts: Counts,
    log: Vec<Entry>,
}

impl Run {
    /// What everybody did and saw, a line each.
    pub fn log(&self) -> String {
        let mut text = String::new();
        for Entry { at, what } in &self.log {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{:>12.6} {what:?}", at.as_secs_f64());
        }
        text
    }
}

/// Runs the schedule of `seed` without the steps in `left_out`.
pub fn run(seed: u64, left_out: &BTreeSet<u64>) -> Run {
    let mut world = World::new(seed, beginning());
    for step in 0..world.plan.steps {
        if !left_out.contains(&step) {
            world.step(Seeded::of_step(seed, step));
        }
    }
    let rest = left_out.contains(&world.plan.steps);
    if !rest {
        world.settle(seed, 1, Duration::from_secs(600));
        world.check_rest();
    }
    world.rng = Seeded::of_step(seed, u64::MAX - 2);
    world.finish();
    world.settle(seed, 2, Duration::from_secs(600));
    world.check_rest();
    world.end_all();
    world.settle(seed, 3, Duration::from_secs(600));
    world.check_leavings();
    let mut violations = world.violations;
    violations.extend(check::check(&world.log, &world.plan));
    Run { violations, counts: world.counts, log: world.log }
}

/// The steps of a schedule, before it comes to rest.
pub fn steps(seed: u64) -> u64 {
    plan::Plan::new(seed).steps
}

/// When the time of every run begins. It is asked for once, and no run depends on it.
#[expect(clippy::disallowed_methods, reason = "the only way to have an instant at all")]
fn beginning() -> Instant {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    *BEGINNING.get_or_init(Instant::now)
}
