#![allow(clippy::print_stdout, reason = "the bounds are figures that the documents state")]

use std::net::IpAddr;

use super::*;

const NEVER: u16 = u16::MAX;
const ALWAYS: u16 = 0;

fn source(n: u32) -> Source {
    Source::of(IpAddr::V4(n.into()))
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn gate() -> Gate {
    Gate::new(&Limits::default(), GateRules::default())
}

/// A gate that is under load from `now` on, for a minute.
fn loaded(now: Instant) -> Gate {
    let mut gate = gate();
    gate.load.scarce(now);
    gate
}

/// A login that is over at once.
fn login(gate: &mut Gate, now: Instant, source: Source, end: LoginEnd) -> Result<(), Turned> {
    gate.enter(now, source, NEVER)?;
    gate.leave(now, source, now, end);
    Ok(())
}

fn prove(gate: &mut Gate, now: Instant, source: Source, service: &str) {
    gate.proved(now, source, &service.parse().unwrap(), &ClientId::default());
}

#[test]
fn drops_none_at_first_number_all_at_last() {
    let mut gate = gate();
    let now = Instant::now();
    for n in 0..128 {
        gate.enter(now, source(n), ALWAYS).unwrap();
    }
    assert_eq!(gate.enter(now, source(128), ALWAYS), Err(Turned::Full));
    for n in 128..896 {
        gate.enter(now, source(n), NEVER).unwrap();
    }
    // The last eighth is for those who have proved something.
    assert_eq!(gate.enter(now, source(1024), NEVER), Err(Turned::Full));
    for n in 896..1024 {
        prove(&mut gate, now, source(n), "s");
        gate.enter(now, source(n), ALWAYS).unwrap();
    }
    prove(&mut gate, now, source(1024), "s");
    assert_eq!(gate.enter(now, source(1024), NEVER), Err(Turned::Full));
    gate.leave(now, source(7), now, LoginEnd::Good);
    assert_eq!(gate.enter(now, source(1024), ALWAYS), Ok(()));
}

#[test]
fn dropped_part_grows_linearly() {
    let dropped = |waiting| {
        let mut gate = gate();
        (0..waiting).for_each(|n| gate.waiting.add(source(n)));
        (0..=u16::MAX).filter(|&dice| gate.drops(false, dice)).count() as f64 / 65536.0
    };
    assert_eq!(dropped(127), 0.0);
    assert!((dropped(128) - 0.30).abs() < 0.001);
    assert!((dropped(576) - 0.65).abs() < 0.001);
    assert!((dropped(895) - 0.899).abs() < 0.001);
    assert_eq!(dropped(896), 1.0);
}

#[test]
fn source_borrows_places_while_half_are_free() {
    let mut gate = gate();
    let now = Instant::now();
    for n in 0..64 {
        assert_eq!(gate.enter(now, source(1), NEVER), Ok(()), "{n}");
    }
    assert_eq!(gate.enter(now, source(1), NEVER), Err(Turned::SourceFull));
    for n in 0..16 {
        assert_eq!(gate.enter(now, source(2), NEVER), Ok(()), "{n}");
    }
    assert_eq!(gate.enter(now, source(2), NEVER), Err(Turned::SourceFull));
    gate.leave(now, source(2), now, LoginEnd::Good);
    assert_eq!(gate.enter(now, source(2), NEVER), Ok(()));
}

#[test]
fn four_forwards_behind_one_address_find_places() {
    let mut gate = gate();
    let now = Instant::now();
    for n in 0..4 * 8 {
        assert_eq!(gate.enter(now, source(1), NEVER), Ok(()), "{n}");
    }
}

/// Seventy-four sources take all the places they can get, and never prove anything.
#[test]
fn trusted_sources_get_in_while_places_are_held() {
    let mut gate = gate();
    let now = Instant::now();
    prove(&mut gate, now, source(1000), "s");
    let mut held = 0;
    for round in 0..64 {
        for n in 0..74 {
            let dice = (round * 1009_u32 + n * 811) % 65536;
            held += usize::from(gate.enter(now, source(n), dice as u16).is_ok());
        }
    }
    assert!((512..=896).contains(&held), "{held}");
    for _ in 0..16 {
        assert_eq!(gate.enter(now, source(1000), ALWAYS), Ok(()));
    }
}

#[test]
fn enforces_penalties_from_fifteen_seconds_on() {
    let start = Instant::now();
    let mut gate = loaded(start);
    let mut fail = |now| login(&mut gate, now, source(1), LoginEnd::Failed);
    assert_eq!(fail(start), Ok(()));
    assert_eq!(fail(start), Ok(()));
    assert_eq!(fail(start), Ok(()));
    assert_eq!(fail(start + seconds(1)), Err(Turned::Penalty));
    assert_eq!(fail(start + seconds(3)), Err(Turned::Penalty));
    assert_eq!(gate.enter(start + seconds(3), source(2), NEVER), Ok(()));
    (4..15).for_each(|second| gate.beat(start + seconds(second)));
    assert_eq!(gate.enter(start + seconds(15), source(1), NEVER), Ok(()));
}

#[test]
fn penalties_wait_for_load() {
    let mut gate = gate();
    let start = Instant::now();
    // One client that retries a revoked key each second, and a good one, at one address.
    for n in 0..40 {
        let now = start + seconds(n);
        assert_eq!(login(&mut gate, now, source(1), LoginEnd::Failed), Ok(()), "{n}");
        assert_eq!(login(&mut gate, now, source(1), LoginEnd::Good), Ok(()), "{n}");
    }
    gate.load.scarce(start + seconds(40));
    assert_eq!(gate.enter(start + seconds(40), source(1), NEVER), Err(Turned::Penalty));
}

#[test]
fn health_checks_cost_nothing_while_nothing_is_scarce() {
    let mut gate = gate();
    let start = Instant::now();
    for n in 0..10_000 {
        let now = start + Duration::from_millis(500 * n);
        assert_eq!(login(&mut gate, now, source(1), LoginEnd::Silent), Ok(()), "{n}");
    }
    assert_eq!(gate.failures.len(), 0);
}

#[test]
fn holding_places_costs_as_much_as_a_deadline() {
    let start = Instant::now();
    let mut gate = gate();
    for second in 0..14 {
        gate.beat(start + seconds(second));
    }
    for (held, enforced) in [(seconds(14), false), (seconds(14), true)] {
        gate.load.scarce(start + held);
        gate.enter(start + held, source(1), NEVER).unwrap();
        gate.leave(start + held, source(1), start, LoginEnd::Unproved);
        assert_eq!(gate.failures.enforced(start + held, source(1), false), enforced);
    }
}

#[test]
fn failures_far_apart_are_never_enforced() {
    let mut gate = gate();
    let start = Instant::now();
    for n in 0..100 {
        gate.load.scarce(start + seconds(6 * n));
        let now = start + seconds(6 * n);
        assert_eq!(login(&mut gate, now, source(1), LoginEnd::Failed), Ok(()), "{n}");
    }
}

#[test]
fn good_login_is_free_crash_counts() {
    let mut gate = gate();
    let now = Instant::now();
    for _ in 0..1000 {
        login(&mut gate, now, source(1), LoginEnd::Good).unwrap();
    }
    assert_eq!(gate.failures.len(), 0);
    login(&mut gate, now, source(1), LoginEnd::Crash).unwrap();
    assert_eq!(gate.enter(now + seconds(89), source(1), NEVER), Err(Turned::Penalty));
    assert_eq!(gate.enter(now + seconds(90), source(1), NEVER), Ok(()));
}

/// Wrong logins from one source for ten minutes, one each 3 ms, and how many are let in: in the first minute, in all.
#[test]
fn a_flood_of_wrong_logins_is_bounded() {
    let flood = |trusted: bool| {
        let mut gate = gate();
        let start = Instant::now();
        if trusted {
            prove(&mut gate, start, source(1), "s");
        }
        let (mut first, mut all) = (0, 0);
        for ms in (0..600_000).step_by(3) {
            let let_in =
                login(&mut gate, start + Duration::from_millis(ms), source(1), LoginEnd::Failed).is_ok();
            all += usize::from(let_in);
            first += usize::from(let_in && ms < 60_000);
        }
        (first, all)
    };
    let (stranger, trusted) = (flood(false), flood(true));
    println!("a flood: {stranger:?} of a stranger, {trusted:?} of a trusted source let in");
    assert!(stranger.0 <= 24 && stranger.1 <= 140, "{stranger:?} of a stranger");
    assert!(trusted.0 <= 40 && trusted.1 <= 150, "{trusted:?} of a trusted source");
}

#[test]
fn flood_does_not_outlast_itself_for_neighbours() {
    for trusted in [false, true] {
        let mut gate = gate();
        let start = Instant::now();
        if trusted {
            prove(&mut gate, start, source(1), "s");
        }
        let at = |ms| start + Duration::from_millis(ms);
        for ms in (0..60_000).step_by(3) {
            let _ = login(&mut gate, at(ms), source(1), LoginEnd::Failed);
        }
        assert_eq!(login(&mut gate, at(60_500), source(1), LoginEnd::Good), Err(Turned::Penalty));
        assert_eq!(login(&mut gate, at(61_100), source(1), LoginEnd::Good), Ok(()), "trusted: {trusted}");
    }
}

/// Under load that others cause.
#[test]
fn failures_of_trusted_sources_weigh_less() {
    let start = Instant::now();
    let mut gate = loaded(start);
    prove(&mut gate, start, source(1), "s");
    let mut failed = 0;
    for ms in (0..60_000).step_by(60) {
        gate.load.scarce(start);
        failed += usize::from(
            login(&mut gate, start + Duration::from_millis(ms), source(1), LoginEnd::Failed).is_ok(),
        );
    }
    assert!((370..=380).contains(&failed), "{failed} in a minute");
}

#[test]
fn other_sources_get_in_under_a_flood() {
    let mut gate = gate();
    let start = Instant::now();
    for n in 0..20_000_u32 {
        let now = start + Duration::from_millis(u64::from(n) * 3);
        let _ = login(&mut gate, now, source(n % 74), LoginEnd::Failed);
        if n % 500 == 0 {
            assert_eq!(login(&mut gate, now, source(1000 + n), LoginEnd::Good), Ok(()), "{n}");
        }
    }
}

#[test]
fn wrong_password_costs_name_at_one_source() {
    let mut gate = gate();
    let start = Instant::now();
    let (service, joe, mike) = ("s".parse().unwrap(), "joe".parse().unwrap(), "mike".parse().unwrap());
    let mut counted = 0;
    for second in 0..60 {
        let now = start + seconds(second);
        if gate.may_guess(now, source(1), &service, &joe) {
            gate.guessed_wrong(now, source(1), &service, &joe);
            counted += 1;
        }
        assert!(gate.may_guess(now, source(1), &service, &mike));
        assert!(gate.may_guess(now, source(2), &service, &joe));
    }
    assert!((12..=18).contains(&counted), "{counted} guesses in a minute");
}

#[test]
fn a_good_login_forgives_its_source() {
    let start = Instant::now();
    let mut gate = loaded(start);
    (0..3).for_each(|_| login(&mut gate, start, source(1), LoginEnd::Failed).unwrap());
    assert_eq!(gate.enter(start, source(1), NEVER), Err(Turned::Penalty));
    prove(&mut gate, start, source(1), "s");
    assert_eq!(gate.enter(start, source(1), NEVER), Ok(()));
}

#[test]
fn exempt_sources_have_no_penalties() {
    let now = Instant::now();
    let exempt = vec!["0.0.0.0/24".parse().unwrap()];
    let mut gate = Gate::new(&Limits::default(), GateRules { exempt, ..GateRules::default() });
    for n in 0..1000 {
        gate.load.scarce(now);
        assert_eq!(login(&mut gate, now, source(1), LoginEnd::Failed), Ok(()), "{n}");
    }
    for n in 0..1024 {
        assert_eq!(gate.enter(now, source(1), ALWAYS), Ok(()), "{n}");
    }
    assert_eq!(gate.enter(now, source(1), NEVER), Err(Turned::Full));
}

#[test]
fn failures_of_exempt_sources_are_no_load() {
    let now = Instant::now();
    let exempt = vec!["0.0.0.0/24".parse().unwrap()];
    let mut gate = Gate::new(&Limits::default(), GateRules { exempt, ..GateRules::default() });
    for n in 0..1000 {
        assert_eq!(login(&mut gate, now, source(1), LoginEnd::Failed), Ok(()), "{n}");
    }
    assert!(!gate.is_under_load(now));
    assert_eq!(gate.failures.len(), 0);
}

#[test]
fn scarce_places_are_load_for_a_minute() {
    let mut gate = gate();
    let now = Instant::now();
    (0..63).for_each(|n| gate.enter(now, source(n), NEVER).unwrap());
    assert!(!gate.is_under_load(now));
    gate.enter(now, source(63), NEVER).unwrap();
    assert!(gate.is_under_load(now + seconds(59)));
    assert!(!gate.is_under_load(now + seconds(60)));
}

#[test]
fn failures_of_many_sources_are_load() {
    let mut gate = gate();
    let start = Instant::now();
    for n in 0..1000_u32 {
        let now = start + Duration::from_millis(u64::from(n) * 3);
        login(&mut gate, now, source(n), LoginEnd::Failed).unwrap();
    }
    assert!(gate.is_under_load(start + seconds(3)));
}

/// Logins that had their places already when the flood was noticed.
#[test]
fn trusted_source_recovers_soon_after_flood() {
    let mut gate = gate();
    let start = Instant::now();
    prove(&mut gate, start, source(1), "s");
    (0..64).for_each(|_| gate.enter(start, source(1), NEVER).unwrap());
    (0..64).for_each(|_| gate.leave(start, source(1), start, LoginEnd::Failed));
    gate.load.scarce(start + seconds(3));
    assert_eq!(gate.enter(start + seconds(3), source(1), NEVER), Err(Turned::Penalty));
    assert_eq!(gate.enter(start + seconds(6), source(1), NEVER), Ok(()));
}

#[test]
fn each_end_of_login_costs_its_penalty() {
    let start = Instant::now();
    for (ends, enforced) in [
        (&[LoginEnd::DeadlinePassed, LoginEnd::Failed][..], true),
        (&[LoginEnd::DeadlinePassed, LoginEnd::Unproved, LoginEnd::Silent], false),
        (&[LoginEnd::Failed, LoginEnd::Failed, LoginEnd::Unproved], false),
        (&[LoginEnd::Failed, LoginEnd::Failed, LoginEnd::Failed], true),
    ] {
        let mut gate = loaded(start);
        ends.iter().for_each(|&end| login(&mut gate, start, source(1), end).unwrap());
        assert_eq!(gate.enter(start, source(1), NEVER).is_err(), enforced, "{ends:?}");
    }
}

#[test]
fn logins_that_the_server_slept_through_are_excused() {
    let start = Instant::now();
    let mut gate = loaded(start);
    for _ in 0..16 {
        gate.enter(start, source(1), NEVER).unwrap();
    }
    // Half a minute without a beat.
    let woke = start + seconds(30);
    for _ in 0..16 {
        gate.leave(woke, source(1), start, LoginEnd::DeadlinePassed);
    }
    assert_eq!(gate.woke_after(woke, start), Some(woke));
    // What came meanwhile is accepted now, and its client is gone already.
    for _ in 0..16 {
        login(&mut gate, woke, source(1), LoginEnd::Unproved).unwrap();
    }
    assert_eq!(gate.failures.len(), 0);
    login(&mut gate, woke, source(1), LoginEnd::Failed).unwrap();
    assert_eq!(gate.failures.len(), 1, "a wrong proof is nobody else's fault");
}

/// The documents state them, and the bounds on guesses follow from them.
#[test]
fn defaults_are_those_of_the_documents() {
    let rules = GateRules::default();
    assert_eq!(rules.failures_per_second, 20);
    let penalties =
        [rules.penalty_unproved, rules.penalty_failed, rules.penalty_deadline, rules.penalty_crash];
    assert_eq!(penalties, [1, 5, 10, 90].map(seconds));
    assert_eq!([rules.penalty_min, rules.penalty_max, rules.trust], [15, 600, 24 * 3600].map(seconds));
}

/// What a reload must bring, each number far from its default.
#[test]
fn new_limits_and_rules_apply_at_once() {
    let now = Instant::now();
    let mut gate = gate();
    let mut limits = Limits::default();
    (limits.max_logins_before_drop, limits.max_logins, limits.max_logins_per_source) = (4, 8, 3);
    limits.login_drop_percent = 100;
    let mut rules = GateRules::default();
    (rules.failures_per_second, rules.penalty_failed) = (1, seconds(2));
    (rules.penalty_min, rules.penalty_max, rules.penalty_crash) = (seconds(4), seconds(6), seconds(60));
    gate.set(&limits, rules);
    gate.load.scarce(now);
    (0..2).for_each(|_| login(&mut gate, now, source(1), LoginEnd::Failed).unwrap());
    assert_eq!(gate.enter(now, source(1), NEVER), Err(Turned::Penalty), "4 s owed");
    assert_eq!(gate.enter(now + seconds(4), source(1), NEVER), Ok(()));
    gate.leave(now + seconds(4), source(1), now, LoginEnd::Good);
    let now = now + seconds(100);
    (0..2).for_each(|_| login(&mut gate, now, source(1), LoginEnd::Failed).unwrap());
    assert_eq!(gate.enter(now, source(1), NEVER), Err(Turned::Penalty), "a flood of two in a second");
    (0..20).for_each(|n| gate.load.failed(now + seconds(7) + Duration::from_millis(n)));
    assert!(gate.is_under_load(now + seconds(8)), "more than ten seconds' worth");
    login(&mut gate, now + seconds(8), source(9), LoginEnd::Crash).unwrap();
    assert_eq!(gate.enter(now + seconds(13), source(9), NEVER), Err(Turned::Penalty));
    assert_eq!(gate.enter(now + seconds(14), source(9), NEVER), Ok(()), "the greatest sum");
    gate.leave(now + seconds(14), source(9), now + seconds(14), LoginEnd::Good);
    let now = now + seconds(100);
    for n in 0..3 {
        gate.enter(now, source(20), NEVER).unwrap_or_else(|turned| panic!("{n}: {turned:?}"));
    }
    assert_eq!(gate.enter(now, source(20), NEVER), Err(Turned::SourceFull));
    gate.enter(now, source(21), ALWAYS).unwrap();
    assert_eq!(gate.enter(now, source(22), NEVER), Err(Turned::Full), "all from the first number on");
    (0..4).for_each(|n| {
        prove(&mut gate, now, source(30 + n), "s");
        gate.enter(now, source(30 + n), ALWAYS).unwrap();
    });
    prove(&mut gate, now, source(40), "s");
    assert_eq!(gate.enter(now, source(40), NEVER), Err(Turned::Full), "eight places");
}

#[test]
fn rules_take_times_of_any_length() {
    let mut rules = GateRules::default();
    (rules.trust, rules.penalty_max, rules.penalty_failed) = (Duration::MAX, Duration::MAX, Duration::MAX);
    (rules.penalty_unproved, rules.penalty_crash) = (Duration::MAX, Duration::MAX);
    let mut gate = Gate::new(&Limits::default(), rules);
    let now = Instant::now();
    prove(&mut gate, now, source(1), "s");
    for end in [LoginEnd::Failed, LoginEnd::Unproved, LoginEnd::Crash] {
        for _ in 0..2 {
            gate.enter(now, source(end as u32 + 2), NEVER).unwrap();
            gate.leave(now, source(end as u32 + 2), now, end);
            gate.crashes.forgive(now, source(LoginEnd::Crash as u32 + 2));
        }
    }
    assert!(gate.trusts(now + seconds(3600), source(1)));
}
