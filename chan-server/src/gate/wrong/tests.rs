#![allow(clippy::print_stdout, reason = "the bounds are figures that the documents state")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

use lib_chan::Limits;
use lib_chan::auth::{ClientId, ServiceName};

use super::*;
use crate::gate::Gate;

const TEN_MINUTES: Duration = Duration::from_secs(600);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn source() -> Source {
    Source::of(IpAddr::V4(1.into()))
}

fn service() -> ServiceName {
    "s".parse().unwrap()
}

fn client(name: usize) -> ClientId {
    format!("c{name}").parse().unwrap()
}

fn gate(exempt: bool) -> Gate {
    let exempt = exempt.then(|| "0.0.0.0/24".parse().unwrap()).into_iter().collect();
    Gate::new(&Limits::default(), GateRules { exempt, ..GateRules::default() })
}

/// Somebody with a wrong password for a name, who tries again so soon after each refusal.
#[derive(Clone, Copy)]
struct Failing {
    name: usize,
    pause: Duration,
}

/// What ten minutes brought.
#[derive(Debug, Default)]
struct Count {
    /// Wrong passwords that were compared with the right one.
    guesses: usize,
    /// Good logins, one a second tried.
    good: usize,
}

/// Lets all of them fail for ten minutes, and a good client with this name log in each second.
fn play(gate: &mut Gate, failing: &[Failing], good: Option<usize>) -> Count {
    let start = Instant::now();
    let mut count = Count::default();
    let mut due: BinaryHeap<_> = (0..failing.len()).map(|who| Reverse((start, who))).collect();
    let honest = usize::MAX;
    if good.is_some() {
        due.push(Reverse((start + ms(500), honest)));
    }
    while let Some(Reverse((now, who))) = due.pop()
        && now < start + TEN_MINUTES
    {
        if who == honest {
            let client = client(good.unwrap());
            if gate.may_guess(now, source(), &service(), &client) {
                gate.proved(now, source(), &service(), &client);
                count.good += 1;
            }
            due.push(Reverse((now + ms(1000), who)));
            continue;
        }
        let Failing { name, pause } = failing[who];
        let client = client(name);
        count.guesses += usize::from(gate.may_guess(now, source(), &service(), &client));
        let delay = gate.guessed_wrong(now, source(), &service(), &client);
        due.push(Reverse((now + delay + pause, who)));
    }
    count
}

fn one(name: usize) -> Failing {
    Failing { name, pause: ms(100) }
}

fn guesses(gate: &mut Gate, failing: &[Failing]) -> usize {
    play(gate, failing, None).guesses
}

#[test]
fn bounds_guesses_at_one_name() {
    let serial = guesses(&mut gate(false), &[one(0)]);
    let parallel = guesses(&mut gate(false), &[one(0); 16]);
    println!("one name in ten minutes: {serial} one at a time, {parallel} sixteen at a time");
    assert!(serial <= 126 && parallel <= 126, "{serial} {parallel}");
}

#[test]
fn many_names_of_one_source_share_bound() {
    let names: Vec<_> = (0..1000).map(one).collect();
    let many = guesses(&mut gate(false), &names);
    println!("a thousand names in ten minutes: {many}");
    assert!(many <= 252, "{many}");
}

#[test]
fn bounds_guesses_at_known_name() {
    let mut gate = gate(false);
    gate.proved(Instant::now(), source(), &service(), &client(0));
    let known = guesses(&mut gate, &[one(0); 16]);
    println!("a name that is known there in ten minutes: {known}");
    assert!(known <= 504, "{known}");
}

#[test]
fn good_logins_do_not_buy_guesses() {
    let mut gate = gate(false);
    let count = play(&mut gate, &[one(0); 16], Some(0));
    println!("a known name with good logins between: {count:?}");
    assert!(count.guesses <= 504, "{count:?}");
}

#[test]
fn bounds_guesses_at_exempt_source() {
    let serial = guesses(&mut gate(true), &[one(0); 16]);
    let names: Vec<_> = (0..1000).map(one).collect();
    let many = guesses(&mut gate(true), &names);
    println!("an exempt source in ten minutes: {serial} at one name, {many} at a thousand");
    assert!(serial <= 3150 && many <= 6300, "{serial} {many}");
}

/// Clients that repeat old passwords each second, and a good client behind the same address.
#[test]
fn old_passwords_do_not_block_neighbours() {
    let each = |name| Failing { name, pause: ms(1000) };
    let own: Vec<_> = (1..5).map(each).collect();
    let mut counts = vec![
        ("its own name, new there, beside four others", play(&mut gate(false), &own, Some(0))),
        ("a shared name, new there, beside one", play(&mut gate(false), &[each(0)], Some(0))),
        ("a shared name, new there, beside three", play(&mut gate(false), &[each(0); 3], Some(0))),
    ];
    let mut known = gate(false);
    known.proved(Instant::now(), source(), &service(), &client(0));
    counts.push(("a shared name, known there, beside six", play(&mut known, &[each(0); 6], Some(0))));
    let others: Vec<_> = (1..101).map(each).collect();
    let mut known = gate(false);
    known.proved(Instant::now(), source(), &service(), &client(0));
    counts.push(("its own name, known there, beside a hundred", play(&mut known, &others, Some(0))));
    for (what, count) in &counts {
        println!("{what}: {} of 600 good logins, {} guesses", count.good, count.guesses);
        assert!(count.good >= 595, "{what}: {count:?}");
    }
}

/// What SECURITY.md says of more clients than that: they share a name with the good one, so nothing tells them apart.
#[test]
fn beside_ten_of_its_name_a_third_gets_in() {
    let mut known = gate(false);
    known.proved(Instant::now(), source(), &service(), &client(0));
    let ten = [Failing { name: 0, pause: ms(1000) }; 10];
    let count = play(&mut known, &ten, Some(0));
    println!("a shared name, known there, beside ten: {} of 600 good logins", count.good);
    assert!((190..600).contains(&count.good), "{count:?}");
}

#[test]
fn refusals_wait_from_fifteen_seconds_owed_on() {
    let mut gate = gate(false);
    let (now, service, client) = (Instant::now(), service(), client(0));
    let waits: Vec<_> = std::iter::from_fn(|| {
        gate.may_guess(now, source(), &service, &client)
            .then(|| gate.guessed_wrong(now, source(), &service, &client).as_secs())
    })
    .collect();
    assert_eq!(waits, [0, 0, 0, 5, 7, 7], "and from thirty seconds on, passwords are refused unseen");
}

#[test]
fn unseen_passwords_cost_nothing() {
    let mut gate = gate(false);
    let start = Instant::now();
    let (service, client) = (service(), client(0));
    while gate.may_guess(start, source(), &service, &client) {
        gate.guessed_wrong(start, source(), &service, &client);
    }
    for _ in 0..1000 {
        gate.guessed_wrong(start, source(), &service, &client);
    }
    let later = start + ms(5000);
    assert!(gate.may_guess(later, source(), &service, &client), "time takes it off whatever is tried");
}

#[test]
fn small_greatest_sum_bounds_guesses() {
    let rules = GateRules { penalty_max: ms(20_000), ..GateRules::default() };
    let mut gate = Gate::new(&Limits::default(), rules);
    let few = guesses(&mut gate, &[one(0); 16]);
    assert!(few <= 126, "{few}");
}

#[test]
fn free_failures_are_never_refused() {
    let rules =
        GateRules { penalty_failed: Duration::ZERO, penalty_min: Duration::ZERO, ..GateRules::default() };
    let mut gate = Gate::new(&Limits::default(), rules);
    let now = Instant::now();
    for _ in 0..100 {
        assert_eq!(gate.guessed_wrong(now, source(), &service(), &client(0)), Duration::ZERO);
        assert!(gate.may_guess(now, source(), &service(), &client(0)));
    }
}

#[test]
fn crowded_server_delays_no_refusal() {
    let mut gate = gate(false);
    let now = Instant::now();
    let (service, client) = (service(), client(0));
    for _ in 0..4 {
        gate.guessed_wrong(now, source(), &service, &client);
    }
    assert_eq!(gate.guessed_wrong(now, source(), &service, &client), MAX_DELAY);
    (0..7).for_each(|_| gate.enter(now, source(), 0).unwrap());
    assert_eq!(gate.guessed_wrong(now, source(), &service, &client), MAX_DELAY);
    gate.enter(now, source(), 0).unwrap();
    assert_eq!(gate.guessed_wrong(now, source(), &service, &client), Duration::ZERO, "half of its places");
    (0..8).for_each(|_| gate.leave(now, source(), now, crate::gate::LoginEnd::Good));
    assert_eq!(gate.guessed_wrong(now, source(), &service, &client), MAX_DELAY);
    (0..31).for_each(|n| gate.enter(now, Source::of(IpAddr::V4((100 + n).into())), 0).unwrap());
    assert_eq!(gate.guessed_wrong(now, source(), &service, &client), MAX_DELAY);
    gate.enter(now, Source::of(IpAddr::V4(200.into())), 0).unwrap();
    assert_eq!(gate.guessed_wrong(now, source(), &service, &client), Duration::ZERO, "a quarter of all");
}
