//! Our processes against a real Erlang: `chan_tests::differential`, a few hundred programs of it. The whole campaign
//! is a command (CONTRIBUTING.md).

use chan_tests::available;
use chan_tests::differential::Campaign;
use chan_tests::differential::erlang::Erlang;
use chan_tests::differential::ours::World;
use chan_tests::differential::program::{Ends, Life, OUTSIDE, Op, Program, Reason, SpawnHow, Step};

/// So that a run of the tests takes no more than seconds.
const PROGRAMS: u64 = 300;

#[test]
fn random_programs_match_erlang() {
    if !available("escript") {
        return;
    }
    let figures = Campaign::start(25, 1, Ends::One)
        .run(0..PROGRAMS)
        .unwrap_or_else(|difference| panic!("{difference}"));
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
    let mut campaign = Campaign::start(25, 2, Ends::One);
    let figures = campaign.run(PROGRAMS..PROGRAMS + 100).unwrap_or_else(|difference| panic!("{difference}"));
    assert_eq!(figures.programs, 100);
}

/// Each takes several times as long: a rest goes through the network.
const PROGRAMS_OF_TWO_ENDS: u64 = 60;

#[test]
fn random_programs_over_session_match_erlang() {
    if !available("escript") {
        return;
    }
    let mut campaign = Campaign::start(25, 1, Ends::Two);
    let figures = campaign.run(0..PROGRAMS_OF_TWO_ENDS).unwrap_or_else(|difference| panic!("{difference}"));
    assert_eq!(figures.programs, PROGRAMS_OF_TWO_ENDS);
    assert!(figures.cut > PROGRAMS_OF_TWO_ENDS / 8, "{figures:?}");
    let seen = [figures.messages, figures.exits, figures.downs, figures.ends, figures.meanwhile];
    assert!(seen.iter().all(|seen| *seen > PROGRAMS_OF_TWO_ENDS / 2), "{figures:?}");
}

/// Two processes linked, of which the second may trap exits; then the first exits.
fn linked(trap: bool, reason: Reason) -> Program {
    let step = |actor, ops: &[Op]| Step::new(actor, ops.to_vec());
    let spawn = |slot| Op::Spawn(slot, SpawnHow::Plain, Life::Serve);
    Program(vec![
        step(OUTSIDE, &[spawn(0), spawn(1)]),
        step(0, &[Op::Link(1)]),
        step(1, &[Op::TrapExit(trap)]),
        step(0, &[Op::Exit(reason)]),
    ])
}

/// The first two are at different ends, where there are two.
async fn assert_told_apart(ends: Ends, programs: &[Program]) {
    let mut erlang = Erlang::start(ends);
    for (here, program) in programs.iter().enumerate() {
        let ours = World::run(program, ends).await.comparable(program);
        for (there, program) in programs.iter().enumerate() {
            assert_eq!(ours == erlang.run(program).comparable(program), here == there, "{here} and {there}");
        }
    }
}

#[tokio::test]
async fn tells_apart_programs_that_erlang_runs_differently() {
    if !available("escript") {
        return;
    }
    let programs = [
        linked(true, Reason::Boom),
        linked(false, Reason::Boom),
        linked(true, Reason::Bang),
        linked(true, Reason::Normal),
        linked(false, Reason::Normal),
        linked(true, Reason::Kill),
    ];
    assert_told_apart(Ends::One, &programs).await;
    let mut cut = linked(true, Reason::Boom);
    cut.0.insert(3, Step::new(OUTSIDE, vec![Op::Cut(0)]));
    let programs: Vec<_> = programs.into_iter().chain([cut]).collect();
    assert_told_apart(Ends::Two, &programs).await;
}
