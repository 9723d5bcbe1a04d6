//! The audit log: one line for each thing that happened at the door, with the true reason, which the peer never gets.
//!
//! Lines are written by a thread of their own, so that a reader that stalls never holds up the server: what finds no
//! room is counted, and the next line says how many were lost. Events that strangers can cause at will are limited to a
//! few a second, and those that a client can cause which has proved itself to more, for each of them apart, so that
//! nobody hides what another does. What is left out is counted likewise.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;

/// Lines that wait for the writer, at most. Cost: about 300 bytes each, when they wait.
const QUEUE_CAPACITY: usize = 4096;
/// For all strangers together: for connections that are dropped unheard, which cost next to nothing to make, and for logins
/// that fail, which would be hidden behind those.
const STRANGERS: Rate = Rate { burst: 100, per_second: 20 };
/// For each client that a configuration names, and for those together that share a password. A session is three events.
const MEMBER: Rate = Rate { burst: 1000, per_second: 100 };
/// How long the end of a program waits for its last lines to be read.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);

/// Where events go.
#[derive(Debug)]
pub struct Audit {
    /// `None` where nobody wants to know.
    writer: Option<Writer>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Writer {
    queue: SyncSender<Entry>,
    /// Says when the last line was written. Nobody waits for it but the end of this value.
    done: Mutex<Receiver<()>>,
    format: Format,
}

/// What the writing thread is given.
enum Entry {
    Line(String),
    /// Asks to be told when all before it has been written.
    Flush(SyncSender<()>),
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// A JSON object.
    Json,
    /// Words, for somebody who looks on.
    Plain,
}

#[derive(Debug)]
struct State {
    unheard: Bucket,
    failed: Bucket,
    /// By service and client. As many as have credentials, since only who has proved to be one of them gets here.
    members: HashMap<(Box<str>, Box<str>), Bucket>,
    /// Limited events that were not written.
    suppressed: u64,
    /// Lines that found no room.
    lost: u64,
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event<'e> {
    /// The server takes connections at this address.
    Listening { address: SocketAddr },
    /// The system gives no more connections for a while.
    AcceptFailed { error: String },
    /// Verifiers are made of so many passwords, about ten a second; clients wait until that is done.
    Starting { passwords: usize },
    /// Something in the configuration that is allowed, and worth knowing.
    Warning { text: String },
    /// Something that keeps some clients away, and has to be mended.
    Error { text: String },
    /// A connection was dropped before TLS.
    Turned { peer: SocketAddr, why: &'e str },
    /// A login that was refused, or not completed.
    LoginFailed {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        why: String,
        ms: u64,
    },
    /// A client proved itself.
    LoginOk {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        ms: u64,
    },
    /// A client that had proved itself got no session.
    SessionRefused {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        why: String,
    },
    /// A service was started for a client.
    SessionStarted {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
    },
    /// The target of a `tcp` or `unix` service could not be reached: what was tried, and what the system said.
    TargetFailed {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        why: String,
    },
    /// The connection of a client that had proved itself is over: one for each login that was ok.
    SessionEnded {
        connection: u64,
        peer: SocketAddr,
        #[serde(flatten)]
        who: Who<'e>,
        reason: String,
        bytes_in: u64,
        bytes_out: u64,
        ms: u64,
    },
    /// The server's own code panicked over a connection.
    Crashed,
    /// The server takes nothing new any more, and waits for these to end.
    Draining { sessions: usize, ms: u64 },
    /// The server stops.
    Stopped,
}

/// Whom an event is about; both empty where that is not known.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Who<'e> {
    pub(crate) service: &'e str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) client: &'e str,
}

impl Event<'_> {
    fn cause(&self) -> Cause<'_> {
        match self {
            Self::Turned { .. } | Self::AcceptFailed { .. } => Cause::Unheard,
            Self::LoginFailed { .. } => Cause::Failed,
            Self::LoginOk { who, .. }
            | Self::SessionRefused { who, .. }
            | Self::SessionStarted { who, .. }
            | Self::TargetFailed { who, .. }
            | Self::SessionEnded { who, .. } => Cause::Member(*who),
            Self::Listening { .. }
            | Self::Starting { .. }
            | Self::Warning { .. }
            | Self::Error { .. }
            | Self::Crashed
            | Self::Draining { .. }
            | Self::Stopped => Cause::Server,
        }
    }
}

/// Who can cause an event at will.
enum Cause<'e> {
    Unheard,
    Failed,
    Member(Who<'e>),
    Server,
}

impl State {
    /// Whether there is room for one more of this cause.
    fn take(&mut self, cause: Cause<'_>, now: Instant) -> bool {
        match cause {
            Cause::Unheard => self.unheard.take(now),
            Cause::Failed => self.failed.take(now),
            Cause::Member(Who { service, client }) => {
                let bucket = self.members.entry((service.into(), client.into()));
                bucket.or_insert_with(|| Bucket::new(MEMBER)).take(now)
            }
            Cause::Server => true,
        }
    }
}

#[derive(Serialize)]
struct Line<'e> {
    time: String,
    #[serde(flatten)]
    event: &'e Event<'e>,
    #[serde(skip_serializing_if = "is_zero")]
    suppressed: u64,
    #[serde(skip_serializing_if = "is_zero")]
    lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Audit {
    /// To the standard error: JSON, or plain words where that is a terminal.
    pub fn stderr() -> Self {
        let format = if io::stderr().is_terminal() { Format::Plain } else { Format::Json };
        Self::to(io::stderr(), format)
    }

    /// To a writer, from a thread that ends with this value.
    pub fn to(writer: impl Write + Send + 'static, format: Format) -> Self {
        let (entries, queue) = sync_channel(QUEUE_CAPACITY);
        let (finished, done) = sync_channel(1);
        let spawned = thread::Builder::new().name("audit".into()).spawn(move || {
            write_lines(writer, &queue);
            let _ = finished.send(());
        });
        // Without a thread there is no log, and a server without a log is better than none.
        Self::with(spawned.is_ok().then_some(Writer { queue: entries, done: Mutex::new(done), format }))
    }

    /// To nobody.
    pub fn none() -> Self {
        Self::with(None)
    }

    fn with(writer: Option<Writer>) -> Self {
        let (unheard, failed) = (Bucket::new(STRANGERS), Bucket::new(STRANGERS));
        Self {
            writer,
            state: Mutex::new(State { unheard, failed, members: HashMap::new(), suppressed: 0, lost: 0 }),
        }
    }

    /// Writes an event down. Never waits.
    pub(crate) fn write(&self, event: &Event<'_>) {
        let Some(writer) = &self.writer else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.take(event.cause(), Instant::now()) {
            state.suppressed += 1;
            return;
        }
        let line = Line { time: time_of_day(), event, suppressed: state.suppressed, lost: state.lost };
        let Some(text) = writer.format.line(&line) else { return };
        match writer.queue.try_send(Entry::Line(text)) {
            Ok(()) => (state.suppressed, state.lost) = (0, 0),
            Err(_) => state.lost += 1,
        }
    }
}

impl Audit {
    /// Waits until all lines so far have been written, but no longer than a second. Blocks the thread.
    pub fn flush(&self) {
        let Some(writer) = &self.writer else { return };
        let (written, is_written) = sync_channel(1);
        if writer.queue.try_send(Entry::Flush(written)).is_ok() {
            let _ = is_written.recv_timeout(LAST_LINES_TIMEOUT);
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        if let Some(Writer { queue, done, .. }) = self.writer.take() {
            drop(queue);
            let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
            let _ = done.recv_timeout(LAST_LINES_TIMEOUT);
        }
    }
}

impl Format {
    fn line(self, line: &Line<'_>) -> Option<String> {
        let mut text = match self {
            Self::Json => serde_json::to_string(line).ok()?,
            Self::Plain => plain(&serde_json::to_value(line).ok()?)?,
        };
        text.push('\n');
        Some(text)
    }
}

#[expect(clippy::disallowed_methods, reason = "a log says when, by the clock on the wall")]
fn time_of_day() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// `12:30:05 session started service=name_server peer=10.0.0.1:4711 connection=7`.
fn plain(line: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    let fields = line.as_object()?;
    let time = fields.get("time")?.as_str()?;
    let mut text = format!("{} {}", time.get(11..19)?, fields.get("event")?.as_str()?.replace('_', " "));
    // Whom it is about, and why, before the numbers.
    let first = ["service", "client", "peer", "reason", "why"];
    let words = first.iter().filter_map(|name| fields.get_key_value(*name));
    let rest = fields.iter().filter(|(name, _)| !first.contains(&name.as_str()));
    for (name, value) in words.chain(rest) {
        match value {
            _ if name == "time" || name == "event" => {}
            Value::String(word) if word.is_empty() => {}
            Value::String(word) if word.contains(' ') => text.push_str(&format!(" {name}={value}")),
            Value::String(word) => text.push_str(&format!(" {name}={word}")),
            other => text.push_str(&format!(" {name}={other}")),
        }
    }
    Some(text)
}

fn write_lines(mut writer: impl Write, queue: &Receiver<Entry>) {
    while let Ok(entry) = queue.recv() {
        match entry {
            // Nobody is left to tell that the log is gone.
            Entry::Line(line) => drop(writer.write_all(line.as_bytes()).and_then(|()| writer.flush())),
            Entry::Flush(written) => drop(written.send(())),
        }
    }
}

/// A text from a peer as the log may hold it: what does not print is escaped, so it cannot look like another line or
/// move the cursor of whoever reads it.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // They mean nothing to whoever reads, and the format that needs them escaped does so itself.
            '\'' | '"' => escaped.push(c),
            c => escaped.extend(c.escape_debug()),
        }
    }
    escaped
}

/// How many events may come at once, and how many a second after that.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: u32,
    per_second: u32,
}

/// A bucket of tokens that fills with time.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, tokens: f64::from(rate.burst), filled: None }
    }

    fn take(&mut self, now: Instant) -> bool {
        let since = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.filled = Some(now);
        let filled = self.tokens + since.as_secs_f64() * f64::from(self.rate.per_second);
        self.tokens = filled.min(f64::from(self.rate.burst));
        let any = self.tokens >= 1.0;
        if any {
            self.tokens -= 1.0;
        }
        any
    }
}

#[cfg(test)]
mod tests {
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
        Event::Turned { peer: ([10, 0, 0, 1], 4711).into(), why: "no place" }
    }

    #[test]
    fn a_line_is_a_json_object_with_time_and_event() {
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
        let started = Event::SessionStarted { connection, peer, who: Who { service: "echo", client: "joe" } };
        let lines = written(Format::Plain, |audit| audit.write(&started));
        assert_eq!(
            &lines[0][8..],
            " session started service=echo client=joe peer=10.0.0.1:4711 connection=7"
        );
    }

    #[test]
    fn what_others_cause_is_limited_for_each_and_counted_and_what_the_server_does_is_not() {
        let started = |client| Event::SessionStarted {
            connection: 1,
            peer: ([10, 0, 0, 1], 4711).into(),
            who: Who { service: "echo", client },
        };
        for (rate, event) in [(STRANGERS, turned()), (MEMBER, started("joe"))] {
            let lines = written(Format::Json, |audit| {
                (0..rate.burst * 2).for_each(|_| audit.write(&event));
                audit.write(&started("mike"));
                audit.write(&Event::Stopped);
            });
            let lines: Vec<serde_json::Value> =
                lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            let [limited @ .., mike, stopped] = &lines[..] else { panic!("{lines:?}") };
            assert_eq!((&mike["client"], &stopped["event"]), (&"mike".into(), &"stopped".into()));
            let (written, suppressed) = (limited.len() as u64, mike["suppressed"].as_u64().unwrap());
            assert!(suppressed > 0 && written >= u64::from(rate.burst), "{written} and {suppressed}");
            assert_eq!(written + suppressed, u64::from(rate.burst * 2));
        }
    }

    #[test]
    fn logins_that_fail_are_not_hidden_behind_connections_that_nobody_heard() {
        let lines = written(Format::Json, |audit| {
            (0..STRANGERS.burst * 2).for_each(|_| audit.write(&turned()));
            audit.write(&Event::LoginFailed {
                connection: 1,
                peer: ([10, 0, 0, 2], 4711).into(),
                who: Who::default(),
                why: "wrong proof".into(),
                ms: 1,
            });
        });
        assert!(lines.last().unwrap().contains("wrong proof"), "{lines:?}");
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_so_many_a_second() {
        let mut bucket = Bucket::new(STRANGERS);
        let start = Instant::now();
        let mut taken = |seconds| {
            let now = start + Duration::from_secs(seconds);
            (0..1000).filter(|_| bucket.take(now)).count() as u32
        };
        assert_eq!(taken(0), STRANGERS.burst);
        assert_eq!(taken(1), STRANGERS.per_second);
        assert_eq!(taken(3600), STRANGERS.burst);
    }

    #[test]
    fn a_reader_that_stalls_costs_lines_and_no_time() {
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
    fn a_text_from_a_peer_cannot_leave_its_line() {
        assert_eq!(escaped("a\nb\u{1b}[2J\u{202e}\u{85}\u{7f}é"), "a\\nb\\u{1b}[2J\\u{202e}\\u{85}\\u{7f}é");
        assert_eq!(escaped(r#"it's "\""#), r#"it's "\\""#);
    }
}
