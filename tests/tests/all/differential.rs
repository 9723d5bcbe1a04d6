//! Our processes against a real Erlang: `chan_tests::differential`, a few hundred programs of it. The whole campaign
//! is a command (CONTRIBUTING.md).

use chan_tests::available;
use chan_tests::differential::Campaign;
use chan_tests::differential::erlang::Erlang;
use chan_tests::differential::ours::World;
use chan_tests::differential::program::{Life, OUTSIDE, Op, Program, Reason, SpawnHow, Step};

/// So that a run of the tests takes no more than seconds.
const PROGRAMS: u64 = 300;

#[test]
fn random_programs_are_seen_alike_in_erlang_and_here() {
    if !available("escript") {
        return;
    }
    let figures = Campaign::start(25, 1).run(0..PROGRAMS).unwrap_or_else(|difference| panic!("{difference}"));
    assert_eq!(figures.programs, PROGRAMS);
    assert!(figures.steps >= 20 * PROGRAMS, "{figures:?}");
    // Without these it would compare silence with silence.
    let seen = [figures.messages, figures.exits, figures.downs, figures.ends];
    assert!(seen.iter().all(|seen| *seen > PROGRAMS), "{figures:?}");
}

#[test]
fn random_programs_are_seen_alike_on_two_threads() {
    if !available("escript") {
        return;
    }
    let mut campaign = Campaign::start(25, 2);
    let figures = campaign.run(PROGRAMS..PROGRAMS + 100).unwrap_or_else(|difference| panic!("{difference}"));
    assert_eq!(figures.programs, 100);
}

/// Two processes linked, of which the second may trap exits; then the first exits.
fn linked(trap: bool, reason: Reason) -> Program {
    let step = |actor, ops: &[Op]| Step { actor, ops: ops.to_vec() };
    let spawn = |slot| Op::Spawn(slot, SpawnHow::Plain, Life::Serve);
    Program(vec![
        step(OUTSIDE, &[spawn(0), spawn(1)]),
        step(0, &[Op::Link(1)]),
        step(1, &[Op::TrapExit(trap)]),
        step(0, &[Op::Exit(reason)]),
    ])
}

#[tokio::test]
async fn programs_that_erlang_would_run_otherwise_are_told_apart() {
    if !available("escript") {
        return;
    }
    let mut erlang = Erlang::start();
    let programs = [
        linked(true, Reason::Boom),
        linked(false, Reason::Boom),
        linked(true, Reason::Bang),
        linked(true, Reason::Normal),
        linked(false, Reason::Normal),
        linked(true, Reason::Kill),
    ];
    for (here, program) in programs.iter().enumerate() {
        let ours = World::run(program).await.comparable();
        for (there, program) in programs.iter().enumerate() {
            assert_eq!(ours == erlang.run(program).comparable(), here == there, "{here} and {there}");
        }
    }
}
