use std::sync::Arc;

use super::*;

/// A writer that a test can look into.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn written(format: Format, write: impl FnOnce(&Audit)) -> Vec<String> {
    let shared = Shared::default();
    let audit = Audit::to(shared.clone(), format);
    write(&audit);
    drop(audit);
    let bytes = shared.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

fn turned() -> Event<'static> {
    Event::Turned { peer: ([10, 0, 0, 1], 4711).into(), why: "no place", cause: "full" }
}

#[test]
fn lines_are_json_objects_with_time() {
    let lines = written(Format::Json, |audit| audit.write(&turned()));
    let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(line["event"], "turned");
    assert_eq!(line["peer"], "10.0.0.1:4711");
    let time = line["time"].as_str().unwrap();
    assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
    assert!(line.get("suppressed").is_none());
}

#[test]
fn a_plain_line_is_for_reading() {
    let lines = written(Format::Plain, |audit| audit.write(&turned()));
    assert_eq!(&lines[0][8..], " turned peer=10.0.0.1:4711 why=\"no place\"");
    let (connection, peer) = (7, ([10, 0, 0, 1], 4711).into());
    let started = Event::SessionStarted {
        connection,
        peer,
        who: Who { service: "echo", client: "joe" },
        resume_ms: None,
        no_resume: None,
    };
    let lines = written(Format::Plain, |audit| audit.write(&started));
    assert_eq!(&lines[0][8..], " session started service=echo client=joe peer=10.0.0.1:4711 connection=7");
}

fn ended(client: &str, host: u8) -> Event<'_> {
    Event::SessionEnded {
        connection: 1,
        peer: ([10, 0, 0, host], 4711).into(),
        who: Who { service: "echo", client },
        reason: "normal".into(),
        bytes_in: 100,
        bytes_out: 7,
        ms: 1,
    }
}

#[test]
fn limits_and_counts_lines_of_strangers() {
    let lines = written(Format::Json, |audit| {
        (0..STRANGERS.burst * 2).for_each(|_| audit.write(&turned()));
        audit.write(&ended("mike", 1));
        audit.write(&Event::Stopped);
    });
    let lines: Vec<serde_json::Value> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [limited @ .., mike, stopped] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&mike["client"], &stopped["event"]), (&"mike".into(), &"stopped".into()));
    let (written, suppressed) = (limited.len() as u64, mike["suppressed"].as_u64().unwrap());
    assert!(suppressed > 0 && written >= u64::from(STRANGERS.burst), "{written} and {suppressed}");
    assert_eq!(written + suppressed, u64::from(STRANGERS.burst * 2));
}

#[test]
fn no_total_of_a_client_is_lost() {
    let count = u64::from(MEMBER.burst) * 2;
    let lines = written(Format::Json, |audit| {
        for n in 0..count {
            audit.write(&ended("joe", (n % 2) as u8));
        }
        audit.write(&ended("mike", 1));
    });
    let lines = lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let (mut ends, mut bytes, mut sums) = (0, 0, 0);
    for line in lines.filter(|line| line["client"] == "joe") {
        let number = |name: &str| line[name].as_u64().unwrap();
        if line["event"] == "sessions_summed" {
            sums += 1;
            assert!(line["source"].as_str().unwrap().starts_with("10.0.0."), "{line}");
            ends += number("ended");
        } else {
            ends += 1;
        }
        bytes += number("bytes_in") + number("bytes_out");
    }
    assert_eq!((ends, bytes), (count, 107 * count));
    assert!(sums >= 2, "one for each source: {sums}");
}

#[test]
fn shared_password_gets_few_lines_and_whole_totals() {
    let count = u64::from(SHARED.burst) * 2;
    let lines = written(Format::Json, |audit| (0..count).for_each(|_| audit.write(&ended("", 1))));
    let lines: Vec<serde_json::Value> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (sums, single): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["event"] == "sessions_summed");
    let summed: u64 = sums.iter().map(|line| line["ended"].as_u64().unwrap()).sum();
    // The bucket fills while the test runs, by far less than half of its burst.
    assert!((count / 2..count * 3 / 4).contains(&(single.len() as u64)), "{}", single.len());
    assert_eq!(single.len() as u64 + summed, count);
}

#[test]
fn totals_of_many_sources_have_a_bound() {
    let audit = Audit::none();
    let mut state = audit.state.lock().unwrap();
    for n in 0..5000_u16 {
        let [high, low] = n.to_be_bytes();
        let peer = ([10, 0, high, low], 1).into();
        state.sum(&Event::LoginOk { connection: 1, peer, who: Who::default(), ms: 1 });
    }
    assert_eq!(state.sums.len(), MAX_SUMS + 1);
    assert_eq!(state.sums.values().map(|sum| sum.logins).sum::<u64>(), 5000);
}

#[test]
fn failed_logins_show_among_silent_connections() {
    let lines = written(Format::Json, |audit| {
        (0..STRANGERS.burst * 2).for_each(|_| audit.write(&turned()));
        audit.write(&Event::LoginFailed {
            connection: 1,
            peer: ([10, 0, 0, 2], 4711).into(),
            who: Who::default(),
            why: "wrong proof".into(),
            ms: 1,
            outcome: "refused",
        });
    });
    assert!(lines.last().unwrap().contains("wrong proof"), "{lines:?}");
}

#[test]
fn stalled_reader_costs_lines_not_time() {
    struct Stalled(Receiver<()>);
    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (go_on, stalled) = sync_channel(0);
    let audit = Audit::to(Stalled(stalled), Format::Json);
    (0..QUEUE_CAPACITY + 10).for_each(|_| audit.write(&Event::Stopped));
    let lost = audit.state.lock().unwrap().lost;
    assert!((9..=10).contains(&lost), "{lost}");
    drop(go_on);
}

#[test]
fn text_of_peer_stays_on_its_line() {
    assert_eq!(escaped("a\nb\u{1b}[2J\u{202e}\u{85}\u{7f}é"), "a\\nb\\u{1b}[2J\\u{202e}\\u{85}\\u{7f}é");
    assert_eq!(escaped(r#"it's "\""#), r#"it's "\\""#);
}
