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
mod resume;
mod seeded;
mod world;

use std::{
    fmt::Write,
    panic::AssertUnwindSafe,
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

/// Runs the schedule of `seed`.
pub fn run(seed: u64) -> Run {
    run_some(seed, |_| true)
}

/// Runs those steps of the schedule of `seed` that are `chosen`. What is left out changes none of the choices that the
/// others make, only the circumstances in which they make them. The last of the [`steps`] is the rest in the middle.
pub fn run_some(seed: u64, chosen: impl Fn(u64) -> bool) -> Run {
    // Nothing of a world that panicked is looked at again.
    std::panic::catch_unwind(AssertUnwindSafe(|| play(seed, chosen))).unwrap_or_else(|_| Run {
        violations: vec![Violation::new("nothing panics", "what it says is on the standard error".into())],
        counts: Counts::default(),
        log: Vec::new(),
    })
}

fn play(seed: u64, chosen: impl Fn(u64) -> bool) -> Run {
    let mut world = World::new(seed, beginning());
    let steps = world.plan.steps;
    for step in (0..steps).filter(|step| chosen(*step)) {
        world.step(Seeded::of_step(seed, step));
    }
    if chosen(steps) {
        world.settle(seed, 1, PATIENCE);
        world.check_rest();
    }
    world.rng = Seeded::of_step(seed, u64::MAX - 2);
    world.finish();
    world.settle(seed, 2, PATIENCE);
    world.check_rest();
    world.end_all();
    world.settle(seed, 3, PATIENCE);
    world.check_leavings();
    let mut violations = world.violations;
    violations.extend(check::check(&world.log, &world.plan));
    // The same number decides a schedule about resumed sessions, which knows no steps that could be left out.
    let (broken, counts) = resume::play(seed, beginning());
    violations.extend(broken);
    world.counts.add(&counts);
    Run { violations, counts: world.counts, log: world.log }
}

/// How many steps the schedule of `seed` has.
pub fn steps(seed: u64) -> u64 {
    plan::Plan::new(seed).steps + 1
}

/// The few steps of a schedule that break the same promise as all of them do; nothing if they break none.
pub fn shrink(seed: u64) -> Option<Vec<u64>> {
    let rule = run(seed).violations.first()?.rule;
    let mut kept: Vec<u64> = (0..steps(seed)).collect();
    let mut len = kept.len() / 2;
    while len > 0 {
        let mut start = 0;
        while start < kept.len() {
            let end = (start + len).min(kept.len());
            let fewer: Vec<u64> = [&kept[..start], &kept[end..]].concat();
            let broken = run_some(seed, |step| fewer.binary_search(&step).is_ok()).violations;
            if broken.first().is_some_and(|first| first.rule == rule) {
                kept = fewer;
            } else {
                start = end;
            }
        }
        len /= 2;
    }
    Some(kept)
}

/// How long a rest may take, in virtual time: longer than anything that is bounded, and than all long messages take on the
/// slowest path.
const PATIENCE: Duration = Duration::from_secs(3600);

/// When the time of every run begins. It is asked for once, and no run depends on it.
#[expect(clippy::disallowed_methods, reason = "the only way to have an instant at all")]
fn beginning() -> Instant {
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    *BEGINNING.get_or_init(Instant::now)
}
