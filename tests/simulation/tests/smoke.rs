//! Enough schedules to notice at once what has gone wrong; campaigns are run by hand (`CONTRIBUTING.md`).

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use chan_simulation::{Counts, run, run_some, shrink, steps};

/// Seeds whose schedules have found something once, with what that was.
const FOUND: &[(u64, &str)] = &[
    (225_964, "an exit that an unlink made void opened the door to a link that the peer then took away"),
    (336_414, "the refusal of a link ended the one that was made again behind it"),
    (723_765, "an exit of the link before ended the one made again"),
    (102_503, "a link that both had made again took a place at one end and none at the other"),
    (867_068, "a place was free for the peer before it was for this end"),
    (155_888, "links of its own that were refused counted as ends that the peer had caused"),
    (355_764, "a refusal came in front of the acknowledgement, and was of the link before"),
    (
        398_339,
        "one that ended while its unlink was under way left a place taken that the peer had given free",
    ),
    (260_707, "an unlink had no acknowledgement where the process that sent it ended behind it"),
    (
        4_432_435,
        "an owner that had unlinked under one name and linked under the other had no ending of the second",
    ),
    (5_471_389, "a link to one that had told of its end took a place that the peer had given free"),
    (5_857_395, "a link to the role that the owner before had made void stayed in the table"),
    (866_126, "an acknowledgement of the unlink before the last gave no place free"),
    (225_737, "a message that was held for a process that then ended stayed for ever"),
    (44_726, "calls that a channel had fetched were never answered when it was given up for its remotes"),
    (22_759_771, "an acknowledgement overtook an unlink, which then took away the link made behind it"),
    (27_843_787, "the same, and the other side had ended"),
    (24_958_205, "the simulation forbade an owner to keep messages that were held for it"),
    (23_984_217, "the simulation wrote on when the session was lost"),
    (26_528_569, "the simulation reported too late what a connection had taken"),
    (29_134_066, "the same at the server"),
    (29_246_995, "the same of a session that was being opened"),
    (100_912_866, "the simulation kept the wish for a link by a name that was replaced"),
    (104_949_163, "the simulation forgot a link whose process had been told the end of the one before"),
    (105_665_022, "the simulation gave a slow peer one period too few for the close"),
    (300_326_442, "the simulation waited less long than long messages take on a slow path"),
];

#[test]
fn ten_thousand_schedules_break_no_promise() {
    const SCHEDULES: u64 = 10_000;
    let next = AtomicU64::new(0);
    let total = Mutex::new(Counts::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SCHEDULES {
                        return;
                    }
                    let run = run(seed);
                    assert!(run.violations.is_empty(), "seed {seed}: {:?}", run.violations);
                    total.lock().unwrap().add(&run.counts);
                }
            });
        }
    });
    // A simulation in which nothing happens breaks no promise either.
    let counts = total.into_inner().unwrap();
    assert!(counts.steps > SCHEDULES * 100, "{counts:?}");
    assert!(counts.sessions > SCHEDULES / 2 && counts.calls > SCHEDULES * 2, "{counts:?}");
    for faults in [counts.cuts, counts.resets, counts.half_opens, counts.kills, counts.stalls] {
        assert!(faults > SCHEDULES / 20, "{counts:?}");
    }
}

#[test]
fn fixed_seeds_stay_clean() {
    for (seed, what) in FOUND {
        assert_eq!(run(*seed).violations.first().map(|first| first.rule), None, "seed {seed}: {what}");
    }
}

#[test]
fn same_seed_gives_same_run() {
    let logs = || (0..200).map(|seed| run(seed).log()).collect::<Vec<_>>();
    let here = logs();
    let there = std::thread::spawn(logs).join().unwrap();
    assert!(here.iter().all(|log| log.len() > 1000));
    assert!(here == there);
    assert!(here[0] != here[1]);
}

#[test]
fn only_failing_schedules_shrink() {
    let all = run(3);
    assert!(run_some(3, |_| true).log() == all.log());
    assert!(run_some(3, |step| step % 2 == 0 || step + 1 == steps(3)).log() != all.log());
    assert_eq!(shrink(3), None);
}
