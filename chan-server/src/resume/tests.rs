use lib_chan::ExitReason;
use lib_chan::secret::Secret;

use super::*;

const WINDOW: Duration = Duration::from_secs(60);

fn table() -> Resumables<u8> {
    let mut limits = Limits::default();
    (limits.max_resumable, limits.max_resumable_per_client) = (4, 3);
    (limits.max_tombstones, limits.max_tombstones_per_client) = (3, 2);
    Resumables::new(&limits, key(0))
}

fn key(byte: u8) -> ResumeKey {
    ResumeKey::new(&Secret::new([byte; 32]))
}

fn id(byte: u8) -> SessionId {
    SessionId::new([byte; 16])
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn client(name: &str) -> ClientId {
    ClientId::new(name).unwrap()
}

/// A session of the service `echo`, whose id, key and handle are made from this number.
fn session(n: u8, of: &str) -> Resumable<u8> {
    Resumable {
        id: id(n),
        key: key(n),
        service: service("echo"),
        client: client(of),
        holder: Holder::Client("echo".into(), of.into()),
        window: WINDOW,
        handle: n,
    }
}

fn tombstone(taken: u64) -> Option<Tombstone> {
    Some(Tombstone { received: 9, taken, reason: ExitReason::Revoked })
}

#[derive(Debug, PartialEq)]
enum Seen {
    Refused,
    Live(u8),
    Over(u64),
}

/// What a client of this service finds that proves session `n` with key `with`.
fn resumes(
    table: &Resumables<u8>,
    now: Instant,
    n: u8,
    (of_service, of_client): (&str, &str),
    with: u8,
) -> Seen {
    let exporter = Exporter::new(Secret::new([77; 32]));
    let claim = ResumeClaim { id: id(n), epoch: 2, received: 1, sent: 1 };
    let proof = key(with).prove(&exporter, &claim);
    let who = (&service(of_service), &client(of_client));
    match table.judge(now, who, &exporter, &claim, &proof) {
        None => Seen::Refused,
        Some(Found::Live(&handle)) => Seen::Live(handle),
        Some(Found::Over(tombstone)) => Seen::Over(tombstone.taken),
    }
}

#[test]
fn only_own_client_with_secret_finds_session() {
    let (mut table, now) = (table(), Instant::now());
    table.register(session(1, "joe")).unwrap();
    assert_eq!(resumes(&table, now, 1, ("echo", "joe"), 1), Seen::Live(1));
    for (n, who, with, why) in [
        (1, ("echo", "mike"), 1, "another client"),
        (1, ("other", "joe"), 1, "another service"),
        (1, ("echo", "joe"), 2, "another secret"),
        (2, ("echo", "joe"), 1, "no such session"),
        (2, ("echo", "joe"), 0, "no such session, and the dummy key"),
        (1, ("echo", "mike"), 0, "another client, and the dummy key"),
    ] {
        assert_eq!(resumes(&table, now, n, who, with), Seen::Refused, "{why}");
    }
}

#[test]
fn record_is_found_until_its_window_is_over() {
    let (mut table, now) = (table(), Instant::now());
    table.register(session(1, "joe")).unwrap();
    table.end(now, id(1), tombstone(5));
    let later = now + WINDOW - Duration::from_millis(1);
    assert_eq!(resumes(&table, later, 1, ("echo", "joe"), 1), Seen::Over(5));
    assert_eq!(resumes(&table, later, 1, ("echo", "joe"), 2), Seen::Refused);
    assert_eq!(resumes(&table, later, 1, ("echo", "mike"), 1), Seen::Refused);
    assert_eq!(resumes(&table, now + WINDOW, 1, ("echo", "joe"), 1), Seen::Refused);
}

#[test]
fn session_without_a_record_is_unknown_at_once() {
    let (mut table, now) = (table(), Instant::now());
    table.register(session(1, "joe")).unwrap();
    table.end(now, id(1), None);
    assert_eq!(resumes(&table, now, 1, ("echo", "joe"), 1), Seen::Refused);
    assert_eq!((table.live(), table.records(), table.entries.len()), (0, 0, 0));
}

#[test]
fn resumable_sessions_are_bounded() {
    let (mut table, now) = (table(), Instant::now());
    for n in 1..=3 {
        table.register(session(n, "joe")).unwrap();
    }
    assert_eq!(table.register(session(4, "joe")), Err(NoRoom::Holder));
    table.register(session(4, "mike")).unwrap();
    assert_eq!(table.register(session(5, "eve")), Err(NoRoom::Server));
    table.end(now, id(1), tombstone(0));
    table.register(session(5, "joe")).unwrap();
    assert_eq!(table.live(), 4);
}

#[test]
fn id_in_use_is_refused() {
    let mut table = table();
    table.register(session(1, "joe")).unwrap();
    table.register(session(1, "mike")).unwrap_err();
    assert_eq!(resumes(&table, Instant::now(), 1, ("echo", "joe"), 1), Seen::Live(1));
}

#[test]
fn client_with_too_many_records_loses_its_oldest() {
    let (mut table, now) = (table(), Instant::now());
    for n in 1..=3 {
        table.register(session(n, "joe")).unwrap();
    }
    for n in 1..=3 {
        table.end(now, id(n), tombstone(n.into()));
    }
    assert_eq!(resumes(&table, now, 1, ("echo", "joe"), 1), Seen::Refused);
    assert_eq!(resumes(&table, now, 2, ("echo", "joe"), 2), Seen::Over(2));
    assert_eq!(resumes(&table, now, 3, ("echo", "joe"), 3), Seen::Over(3));
    assert_eq!((table.records(), table.entries.len()), (2, 2));
}

#[test]
fn full_records_cost_no_other_client_one() {
    let (mut table, now) = (table(), Instant::now());
    for (n, of) in [(1, "joe"), (2, "joe"), (3, "mike"), (4, "eve")] {
        table.register(session(n, of)).unwrap();
        table.end(now, id(n), tombstone(n.into()));
    }
    assert_eq!(resumes(&table, now, 4, ("echo", "eve"), 4), Seen::Refused);
    for (n, of) in [(1, "joe"), (2, "joe"), (3, "mike")] {
        assert_eq!(resumes(&table, now, n, ("echo", of), n), Seen::Over(n.into()));
    }
    // Its own oldest makes room.
    table.register(session(5, "mike")).unwrap();
    table.end(now, id(5), tombstone(5));
    assert_eq!(resumes(&table, now, 3, ("echo", "mike"), 3), Seen::Refused);
    assert_eq!(resumes(&table, now, 5, ("echo", "mike"), 5), Seen::Over(5));
}

#[test]
fn expired_records_leave_nothing_behind() {
    let (mut table, now) = (table(), Instant::now());
    let mut short = session(2, "joe");
    short.window = Duration::from_secs(1);
    table.register(session(1, "joe")).unwrap();
    table.register(short).unwrap();
    table.end(now, id(1), tombstone(1));
    table.end(now, id(2), tombstone(2));
    let later = now + Duration::from_secs(1);
    table.end(later, id(9), None);
    assert_eq!((table.records(), table.entries.len(), table.records.len()), (1, 1, 1));
    table.end(now + WINDOW, id(9), None);
    assert_eq!((table.records(), table.entries.len(), table.records.len()), (0, 0, 0));
}

#[test]
fn session_ends_once() {
    let (mut table, now) = (table(), Instant::now());
    table.register(session(1, "joe")).unwrap();
    table.end(now, id(1), tombstone(1));
    table.end(now, id(1), tombstone(2));
    table.end(now, id(7), tombstone(7));
    assert_eq!(resumes(&table, now, 1, ("echo", "joe"), 1), Seen::Over(1));
    assert_eq!((table.live(), table.records()), (0, 1));
}
