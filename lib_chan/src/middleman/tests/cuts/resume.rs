//! The same story with a session that survives its connections. The first one breaks after each of its bytes, or the one
//! after it does, in the midst of the resume. Every connection begins with a login, and the story ends as if none had broken.
//!
//! With `CHAN_CUTS=all` a connection is cut at each of its first and last [`INSIDE`] bytes, and at every 997th between.

use std::sync::{Arc, Mutex};

use super::{
    Authenticated, Cause, Cut, Duration, Exporter, Finale, How, Io, Layers, Ledger, Line, LoggedIn, Place,
    Record, Recorded, Side, Way, client, client_login, everywhere, ranks, report, server_login, start,
    streams, taken, tasks_left,
};
use crate::{
    ExitReason, Limits,
    auth::{ResumeClaim, ResumeKey},
    channel::{
        Attacher, Connected, First, OpenRequest, attachments, hear_first, open_resumable, say_lost,
        serve_resumable,
    },
    middleman::tests::resume::{WINDOW, granted},
    payload::Codec,
    wire::Tombstone,
};

const HOWS: [How; 5] = [How::EndOfFile, How::Reset, How::HalfOpen, How::Silence, How::OneWay];
/// The answer to the end of the session is in so many last bytes. If it is lost, the end that has let go does not hear of it.
const FAREWELL: usize = 200;
/// In so many first bytes is the login, and the session opens.
const OPENING: usize = 800;

/// Calls and the close take their time: a silence is noticed after three heartbeats.
fn limits() -> Limits {
    let patience = Duration::from_secs(600);
    Limits { call_timeout: patience, close_timeout: patience, ..super::limits() }
}

/// A server and the connections to it, of one session.
struct Network {
    layers: Layers,
    /// How the connections break, the first one first. Those behind them do not.
    cuts: Vec<Option<Place>>,
    known: Mutex<Known>,
    ledger: Ledger,
    records: Mutex<Vec<(Recorded, Recorded)>>,
}

/// What the server knows of the session.
#[derive(Default)]
enum Known {
    #[default]
    Nothing,
    Live(Attacher<Box<Box<dyn Io>>>),
    Over(Option<Tombstone>),
}

impl Network {
    /// Lays one more connection, which the server accepts.
    fn connect(self: &Arc<Self>) -> Line {
        let mut records = self.records.lock().unwrap();
        let place = self.cuts.get(records.len()).copied().flatten();
        let cut_of = |side| place.filter(|(at, _)| *at == side).map(|(_, cut)| cut);
        let (near, far) = tokio::io::duplex(16 * 1024);
        let (near, near_record) = Line::new(near, cut_of(Side::Client), usize::MAX);
        let (far, far_record) = Line::new(far, cut_of(Side::Server), usize::MAX);
        records.push((near_record, far_record));
        tokio::spawn(Arc::clone(self).accept(far));
        near
    }

    // The server.

    async fn accept(self: Arc<Self>, line: Line) {
        let LoggedIn { mut stream, authenticated, exporter } = match server_login(self.layers, line).await {
            Ok(logged_in) => logged_in,
            Err(cause) => return self.blame(&cause),
        };
        match tokio::time::timeout(limits().login_timeout, hear_first(&mut stream)).await {
            Ok(First::Resume { claim, proof }) => self.resume(stream, &exporter, claim, &proof).await,
            Ok(First::Other(first)) => self.serve(stream, &first, &authenticated).await,
            Err(_) => {}
        }
    }

    async fn serve(&self, stream: Box<dyn Io>, first: &[u8], authenticated: &Authenticated) {
        let (attacher, attachments) = attachments();
        let (mut serving, limits) = (None, limits());
        let served = serve_resumable(
            stream,
            first,
            authenticated,
            &limits,
            attachments,
            |_| {},
            |mut opening| {
                serving = Some(self.ledger.begin("serving"));
                *self.known.lock().unwrap() = Known::Live(attacher);
                assert_eq!(opening.wants_resume(), WINDOW);
                opening.grant(granted());
                start(opening, &self.ledger);
            },
        );
        let served = served.await;
        if let Some(serving) = serving {
            serving.end(&served.reason);
            *self.known.lock().unwrap() = Known::Over(served.tombstone);
        }
    }

    async fn resume(&self, stream: Box<dyn Io>, exporter: &Exporter, claim: ResumeClaim, proof: &[u8; 32]) {
        let key = ResumeKey::new(&granted().secret);
        if ResumeKey::judge(Some(((), &key)), &key, exporter, &claim, proof).is_none() {
            self.ledger.fault("a wrong proof".into());
        }
        let attacher = match &*self.known.lock().unwrap() {
            Known::Live(attacher) => Some(attacher.clone()),
            Known::Nothing | Known::Over(_) => None,
        };
        let stream = match attacher {
            Some(attacher) => match attacher.attach(claim, Box::new(stream)) {
                Ok(()) => return,
                Err(stream) => *stream,
            },
            None => stream,
        };
        let tombstone = match &*self.known.lock().unwrap() {
            Known::Over(tombstone) => tombstone.clone(),
            Known::Nothing | Known::Live(_) => None,
        };
        say_lost(stream, tombstone, &limits()).await;
    }

    // The client.

    async fn dial(self: Arc<Self>, attempt: u32) -> Result<Connected<Box<dyn Io>>, ExitReason> {
        let mut waits = attempt > 0;
        loop {
            if std::mem::replace(&mut waits, true) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            match client_login(self.layers, self.connect()).await {
                Ok(LoggedIn { stream, exporter, .. }) => return Ok(Connected { stream, exporter }),
                Err(cause) => self.blame(&cause),
            }
        }
    }

    async fn open(self: Arc<Self>, finale: Finale) {
        let login = self.ledger.begin("client's login");
        let logged_in = client_login(self.layers, self.connect()).await;
        login.end(&logged_in.as_ref().map(drop));
        let Ok(LoggedIn { stream, authenticated, .. }) = logged_in else { return };
        let network = Arc::clone(&self);
        let connector = Box::new(move |attempt| Box::pin(Arc::clone(&network).dial(attempt)) as _);
        let open = async move {
            let request = OpenRequest { resume: WINDOW, ..OpenRequest::new(Codec::Bincode, b"") };
            open_resumable(stream, &authenticated, &limits(), &request, true, connector).await
        };
        client(open, &self.ledger, finale);
    }

    fn blame(&self, cause: &Cause) {
        if matches!(cause, Cause::Blame(_)) {
            self.ledger.fault(format!("{cause:?}"));
        }
    }
}

/// One run of the story over several connections.
struct Run {
    story: super::Run,
    /// What went over each of them, at the client and at the server.
    connections: Vec<(Record, Record)>,
}

fn run(layers: Layers, finale: Finale, cuts: &[Option<Place>]) -> Run {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let ledger = Ledger::default();
    let network = Arc::new(Network {
        layers,
        cuts: cuts.to_vec(),
        known: Mutex::default(),
        ledger: ledger.clone(),
        records: Mutex::default(),
    });
    let left = runtime.block_on(async {
        tokio::spawn(Arc::clone(&network).open(finale));
        tasks_left().await
    });
    let mut faults = Vec::new();
    if left > 0 {
        faults.push(format!("{left} tasks still run"));
    }
    faults.append(&mut ledger.entries().check());
    let connections = std::mem::take(&mut *network.records.lock().unwrap());
    let connections: Vec<_> =
        connections.into_iter().map(|(client, server)| (taken(client), taken(server))).collect();
    let (client, server) = (Record::default(), Record::default());
    let story =
        super::Run { ledger, client, server, faults, told_in: Duration::ZERO, done_in: Duration::ZERO };
    Run { story, connections }
}

/// How everything ended, in one text, but for what depends on whether a call that was given up had gone out.
fn outcome(run: &super::Run) -> String {
    let entries = run.ledger.entries();
    let summary = entries.summary();
    summary.lines().filter(|line| !line.contains("forsaken")).collect::<Vec<_>>().join("\n")
}

struct Campaign {
    layers: Layers,
    finale: Finale,
    /// Only every so many bytes, without `CHAN_CUTS=all`.
    stride: usize,
}

/// A long stream is filled by one message: in its midst, only every so many bytes.
const INSIDE_STRIDE: usize = 20_011;
const INSIDE: usize = 1500;

impl Campaign {
    /// Cuts the connection behind `before`, which are cut as they say.
    fn run(&self, before: &[Option<Place>]) {
        let whole = run(self.layers, self.finale, &[]);
        assert!(whole.story.faults.is_empty(), "uncut: {:#?}", whole.story.faults);
        let uncut = run(self.layers, self.finale, before);
        assert!(uncut.story.faults.is_empty(), "{:#?}", uncut.story.faults);
        assert_eq!(outcome(&uncut.story), outcome(&whole.story), "{before:?}");
        assert!(uncut.connections.len() > before.len(), "{before:?}");
        let (at_client, at_server) = &uncut.connections[before.len()];
        let mut count = 0;
        for (side, way, len) in streams(at_client, at_server) {
            for how in HOWS {
                for after in self.places(len) {
                    count += 1;
                    let cut = Cut { way, after, how };
                    let cuts: Vec<_> = before.iter().copied().chain([Some((side, cut))]).collect();
                    let run = run(self.layers, self.finale, &cuts);
                    let place =
                        || format!("{:?} {:?} {cuts:?}\n{}", self.layers, self.finale, outcome(&run.story));
                    assert!(run.story.faults.is_empty(), "{:#?} at {}", run.story.faults, place());
                    let ranks = ranks(&run.story, &whole.story);
                    let opening = before.is_empty() && after < OPENING;
                    if ranks == [2, 2] {
                        assert_eq!(outcome(&run.story), outcome(&whole.story), "{}", place());
                        continue;
                    }
                    // An end may know less only if the cut hit the opening, or the answer to the end of the session.
                    assert!(opening || after + FAREWELL > len, "{ranks:?} {}", place());
                    assert!(opening || ranks.contains(&2), "{ranks:?} {}", place());
                    assert!(ranks.iter().all(|&rank| rank <= 2), "{ranks:?} {}", place());
                }
            }
        }
        report(count, &format!("{:?} {:?} {before:?}", self.layers, self.finale));
    }

    fn places(&self, len: usize) -> impl Iterator<Item = usize> {
        let (stride, inside_stride) = if everywhere() { (1, 997) } else { (self.stride, INSIDE_STRIDE) };
        let is_meant = move |after: &usize| {
            let inside = len > 2 * INSIDE && (INSIDE..len - INSIDE).contains(after);
            after.is_multiple_of(if inside { inside_stride } else { stride })
        };
        (0..len).filter(is_meant).chain([len])
    }
}

/// A first connection that breaks early in the session, or in the midst of its longest message.
fn broken(after: usize, how: How) -> Option<Place> {
    Some((Side::Client, Cut { way: Way::Written, after, how }))
}

#[test]
fn connection_cut_anywhere_is_resumed() {
    for finale in [Finale::Fail, Finale::Close] {
        Campaign { layers: Layers::Key, finale, stride: 151 }.run(&[]);
    }
}

#[test]
fn resume_cut_anywhere_is_tried_again() {
    for (after, how) in [(OPENING, How::EndOfFile), (30_000, How::HalfOpen)] {
        Campaign { layers: Layers::Key, finale: Finale::Close, stride: 173 }.run(&[broken(after, how)]);
    }
}

#[test]
fn resume_over_tls_cut_anywhere_is_tried_again() {
    Campaign { layers: Layers::KeyInTls, finale: Finale::Fail, stride: 599 }
        .run(&[broken(6000, How::HalfOpen)]);
}

#[test]
fn third_connection_cut_anywhere_is_resumed() {
    let before = [broken(OPENING, How::Reset), broken(600, How::HalfOpen)];
    Campaign { layers: Layers::Key, finale: Finale::Fail, stride: 307 }.run(&before);
}
