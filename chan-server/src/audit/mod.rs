//! The audit log: one line for each login, session and refusal, with the true reason, which the peer never gets.
//!
//! A separate thread writes the lines, so that a reader that stalls never delays the server. Lines for which there is no room
//! are counted, and a later line states their number. Events that strangers can cause at will are limited to a few a
//! second; the others are counted. Events of authenticated clients are never left out: if one client causes too many
//! for a line each, a line every ten seconds has their totals for each of its sources.

mod bucket;
mod count;
mod event;
mod output;

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use lib_chan::stdio;
use serde::Serialize;
use tokio::time::Instant;

use bucket::{Bucket, Rate};
use count::count;
use event::Sum;
pub(crate) use event::{Event, Who};
use output::{LogFile, Output};

use crate::metrics::Metrics;

/// Lines that wait for the writer, at most. Cost: about 300 bytes each, when they wait.
const QUEUE_CAPACITY: usize = 4096;
/// For all strangers together: for connections that are dropped unheard, which cost next to nothing to make, and for logins
/// that fail, which would be hidden behind those.
const STRANGERS: Rate = Rate { burst: 100, per_second: 20 };
/// For each client that a configuration names. A session is three events. Cost: about 250 bytes of log a line.
const MEMBER: Rate = Rate { burst: 10_000, per_second: 1000 };
/// For all together that share a password, who may be many and are not known by name.
const SHARED: Rate = Rate { burst: 1000, per_second: 100 };
/// The interval at which the totals of events without a line are written.
const SUM_INTERVAL: Duration = Duration::from_secs(10);
/// The most totals by source. Events of further sources are summed without their source.
const MAX_SUMS: usize = 1024;
/// The time for which the end of a program waits until its last lines are read.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);

/// The destination of the events.
#[derive(Debug)]
pub struct Audit {
    /// `None` if the log is off.
    writer: Option<Writer>,
    state: Arc<Mutex<State>>,
    /// Set when the file is to be opened anew.
    reopen: Option<Arc<AtomicBool>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Writer {
    queue: SyncSender<QueueEntry>,
    /// Says when the last line was written. Nobody waits for it but the end of this value.
    done: Mutex<Receiver<()>>,
    format: Format,
}

/// An entry for the writing thread.
enum QueueEntry {
    Line(String),
    /// Asks to be told when all before it has been written.
    Flush(SyncSender<()>),
}

/// The format of a line.
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
    members: HashMap<Member, Bucket>,
    /// Totals of what has no line of its own.
    sums: HashMap<(Member, Option<IpAddr>), Sum>,
    /// Limited events that were not written.
    suppressed: u64,
    /// Lines that found no room.
    lost: u64,
}

/// Service and client.
type Member = (Box<str>, Box<str>);

/// The parties that can cause an event at will.
enum Cause<'e> {
    Unheard,
    Failed,
    Member(Who<'e>),
    Server,
}

impl State {
    /// Returns `true` if there is room for one more of this cause.
    fn take(&mut self, cause: Cause<'_>, now: Instant) -> bool {
        match cause {
            Cause::Unheard => self.unheard.take(now),
            Cause::Failed => self.failed.take(now),
            Cause::Member(Who { service, client }) => {
                let bucket = self.members.entry((service.into(), client.into()));
                let rate = if client.is_empty() { SHARED } else { MEMBER };
                bucket.or_insert_with(|| Bucket::new(rate)).take(now)
            }
            Cause::Server => true,
        }
    }

    /// Adds an event that has no line to the totals of its client, or counts it.
    fn sum(&mut self, event: &Event<'_>) {
        let mut one = Sum::default();
        let (Cause::Member(who), Some(source)) = (event.cause(), one.add(event)) else {
            self.suppressed += 1;
            return;
        };
        let member = || (who.service.into(), who.client.into());
        let key = (member(), Some(source));
        let key =
            if self.sums.len() < MAX_SUMS || self.sums.contains_key(&key) { key } else { (member(), None) };
        self.sums.entry(key).or_default().add(event);
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
        Self::to(stdio::stderr(), format)
    }

    /// To the standard error, in this format.
    #[cfg(feature = "cli")]
    pub(crate) fn stderr_as(format: Option<Format>) -> Self {
        format.map_or_else(Self::stderr, |format| Self::to(stdio::stderr(), format))
    }

    /// To the end of a file, which is made with mode 0600 if it is not there. [`reopen`](Self::reopen) goes over to a new
    /// file under the same name.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn file(path: &Path, format: Format) -> io::Result<Self> {
        let file = LogFile::open(path)?;
        let reopen = file.reopen();
        let mut this = Self::to(file, format);
        this.reopen = Some(reopen);
        Ok(this)
    }

    /// Opens the file anew before the next line, for a program that moves full files away. Does nothing where the log
    /// goes elsewhere. If the file cannot be opened, the log goes on in the old one.
    pub fn reopen(&self) {
        if let Some(reopen) = &self.reopen {
            reopen.store(true, Ordering::Relaxed);
        }
    }

    /// To a writer, from a thread that ends with this value. The writer waits while it has no room: for a standard
    /// stream use [`lib_chan::stdio`], since another program may have made the stream non-blocking.
    pub fn to(writer: impl Write + Send + 'static, format: Format) -> Self {
        let (entries, queue) = sync_channel(QUEUE_CAPACITY);
        let (finished, done) = sync_channel(1);
        let mut this = Self::none();
        let state = Arc::clone(&this.state);
        let spawned = thread::Builder::new().name("audit".into()).spawn(move || {
            write_lines(Output::new(writer), &queue, format, &state);
            let _ = finished.send(());
        });
        // Without a thread there is no log, and a server without a log is better than none.
        this.writer = spawned.is_ok().then_some(Writer { queue: entries, done: Mutex::new(done), format });
        this
    }

    /// To nobody.
    pub fn none() -> Self {
        let state = State {
            unheard: Bucket::new(STRANGERS),
            failed: Bucket::new(STRANGERS),
            members: HashMap::new(),
            sums: HashMap::new(),
            suppressed: 0,
            lost: 0,
        };
        Self { writer: None, state: Arc::new(Mutex::new(state)), reopen: None, metrics: Metrics::default() }
    }

    /// Writes an event down. Never waits.
    pub(crate) fn write(&self, event: &Event<'_>) {
        count(&self.metrics, event);
        let Some(writer) = &self.writer else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.take(event.cause(), Instant::now()) {
            return state.sum(event);
        }
        let line = Line { time: time_of_day(), event, suppressed: state.suppressed, lost: state.lost };
        let Some(text) = writer.format.line(&line) else { return };
        match writer.queue.try_send(QueueEntry::Line(text)) {
            Ok(()) => (state.suppressed, state.lost) = (0, 0),
            Err(_) if matches!(event.cause(), Cause::Member(_)) => state.sum(event),
            Err(_) => state.lost += 1,
        }
    }
}

impl Audit {
    /// Returns the counts of what was written, and of what had no line.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Waits until all lines so far have been written, but no longer than a second. Blocks the thread.
    pub fn flush(&self) {
        let Some(writer) = &self.writer else { return };
        let (written, is_written) = sync_channel(1);
        if writer.queue.try_send(QueueEntry::Flush(written)).is_ok() {
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
    fn event(self, event: &Event<'_>) -> Option<String> {
        self.line(&Line { time: time_of_day(), event, suppressed: 0, lost: 0 })
    }

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

/// Writes lines until there will be no more, and totals in between.
fn write_lines<W: Write>(
    mut output: Output<W>,
    queue: &Receiver<QueueEntry>,
    format: Format,
    state: &Mutex<State>,
) {
    let note = |lost| format.event(&Event::LinesLost { lost });
    let mut summed = Instant::now();
    let mut over = false;
    while !over {
        match queue.recv_timeout(SUM_INTERVAL.saturating_sub(summed.elapsed())) {
            Ok(QueueEntry::Line(line)) => output.write_line(&line, note),
            Ok(QueueEntry::Flush(written)) => drop(written.send(())),
            Err(RecvTimeoutError::Timeout) => output.catch_up(note),
            Err(RecvTimeoutError::Disconnected) => over = true,
        }
        if over || summed.elapsed() >= SUM_INTERVAL {
            summed = Instant::now();
            let sums = std::mem::take(&mut state.lock().unwrap_or_else(PoisonError::into_inner).sums);
            for (((service, client), source), sum) in sums {
                let who = Who { service: &service, client: &client };
                if let Some(line) = format.event(&Event::SessionsSummed { who, source, sum }) {
                    output.write_line(&line, note);
                }
            }
        }
    }
    output.catch_up(note);
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

#[cfg(test)]
mod tests;
