//! A session that survives its connections, over real streams and the real middleman, with tokio's clock paused.
//!
//! A connection breaks after each byte of a resume, in each direction, at each end and in each way in which connections
//! break. Whatever was sent arrives once, and in order. `cargo test` leaves out most of these bytes; with `CHAN_CUTS=all`
//! in the environment nothing is left out.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{io::BufReader, time::Instant};

use super::{
    Add, Request,
    line::{Cut, How, Line, Way},
    service,
};
use crate::{
    Channel, ExitReason, Limits, Message,
    auth::{Exporter, ResumeKey, SessionId},
    channel::{
        Attacher, Change, Connected, First, Opening, Resume, Served, attachments, hear_first, open_resumable,
        serve_resumable,
    },
    handshake::{SessionParameters, Side, pair_in_memory},
    payload::Codec,
    secret::Secret,
    wire::Granted,
};

const WINDOW: Duration = Duration::from_secs(600);

type Stream = BufReader<Line>;

/// What lies between a client and a server: a connection after the other, each with its cut.
#[derive(Clone)]
struct Network(Arc<Mutex<Lines>>);

struct Lines {
    /// How the connections to come break, the next one last; those behind them never break.
    cuts: Vec<(Side, Cut)>,
    /// Nobody listens.
    closed: bool,
    /// The server refuses every login.
    refuses: Option<ExitReason>,
    dialled: u32,
    attacher: Attacher<Box<Stream>>,
}

/// Long enough that a connection breaks soon.
fn note(number: u32) -> String {
    format!("{number:032}")
}

fn exporter(number: u32) -> Exporter {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Exporter::new(Secret::new(bytes))
}

fn granted() -> Granted {
    Granted { window: WINDOW.as_millis() as u64, id: SessionId::new([5; 16]), secret: Secret::new([6; 32]) }
}

impl Network {
    /// Two ends of a stream in memory: the client's, and the server's.
    fn lay(&self) -> (Stream, Stream) {
        let cut = self.0.lock().unwrap().cuts.pop();
        let of = |side| cut.filter(|(at, _)| *at == side).map(|(_, cut)| cut);
        let (near, far) = tokio::io::duplex(16 * 1024);
        let line = |stream, side| BufReader::new(Line::new(stream, of(side), usize::MAX).0);
        (line(near, Side::Client), line(far, Side::Server))
    }

    /// Dials until somebody listens, and logs in.
    async fn dial(self, attempt: u32) -> Result<Connected<Stream>, ExitReason> {
        if attempt > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        while self.0.lock().unwrap().closed {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if let Some(reason) = self.0.lock().unwrap().refuses.clone() {
            return Err(reason);
        }
        let (near, mut far) = self.lay();
        let (number, attacher) = {
            let mut lines = self.0.lock().unwrap();
            lines.dialled += 1;
            (lines.dialled, lines.attacher.clone())
        };
        tokio::spawn(async move {
            let First::Resume { claim, proof } = hear_first(&mut far).await else { return };
            let key = ResumeKey::new(&granted().secret);
            let found = (claim.id == granted().id).then_some(((), &key));
            assert!(ResumeKey::judge(found, &key, &exporter(number), &claim, &proof).is_some());
            let _ = attacher.attach(claim, Box::new(far));
        });
        Ok(Connected { stream: near, exporter: exporter(number) })
    }
}

struct Session {
    channel: Channel<String, Request>,
    served: tokio::task::JoinHandle<Served>,
    network: Network,
    changes: Arc<Mutex<Vec<Change>>>,
}

/// Opens a session whose connections break as `cuts` say, the first one first.
async fn session(cuts: &[(Side, Cut)]) -> Session {
    let limits = Limits::default();
    let parameters = SessionParameters::from_limits(&limits).unwrap();
    let (client, server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (attacher, attachments) = attachments();
    let cuts = cuts.iter().rev().copied().collect();
    let lines = Lines { cuts, closed: false, refuses: None, dialled: 0, attacher };
    let network = Network(Arc::new(Mutex::new(lines)));
    let (near, far) = network.lay();
    let changes = Arc::new(Mutex::new(Vec::new()));
    let (server_limits, seen) = (limits.clone(), Arc::clone(&changes));
    let served = tokio::spawn(async move {
        let start = |mut opening: Opening| {
            assert_eq!(opening.wants_resume(), WINDOW);
            opening.grant(granted());
            service(opening);
        };
        let changed = move |change| seen.lock().unwrap().push(change);
        serve_resumable(far, &[], &server, &server_limits, attachments, changed, start).await
    });
    let dialler = network.clone();
    let connector = Box::new(move |attempt| Box::pin(dialler.clone().dial(attempt)) as _);
    let resume = Resume { window: WINDOW, connector };
    let channel = open_resumable(near, &client, &limits, Codec::Bincode, b"", false, resume).await.unwrap();
    Session { channel, served, network, changes }
}

/// Sends casts that come back, and calls, and closes: all of it arrives once and in order.
async fn converse(session: Session) -> Served {
    const ROUNDS: u32 = 12;
    let Session { mut channel, served, .. } = session;
    let remote = channel.remote();
    for n in 0..ROUNDS {
        remote.cast(Request::Note(note(n))).await.unwrap();
        assert_eq!(remote.call_within(Duration::from_secs(3600), Add(n, 1)).await, Ok(n + 1));
    }
    for n in 0..ROUNDS {
        let Some(Message::Cast(text)) = channel.recv().await else { panic!("a cast") };
        assert_eq!(text, note(n));
    }
    assert_eq!(channel.close().await, Ok(()));
    served.await.unwrap()
}

fn run<T>(story: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(story)
}

const HOWS: [How; 4] = [How::EndOfFile, How::Reset, How::Silence, How::OneWay];

fn stride(without_all: usize) -> usize {
    if std::env::var_os("CHAN_CUTS").is_some_and(|cuts| cuts == "all") { 1 } else { without_all }
}

#[test]
fn first_connection_cut_anywhere_loses_nothing() {
    for how in HOWS {
        for way in [Way::Read, Way::Written] {
            // Behind the opening.
            for after in (100..600).step_by(stride(29)) {
                let cut = Cut { way, after, how };
                let served = run(async { converse(session(&[(Side::Client, cut)]).await).await });
                assert_eq!(served.reason, ExitReason::Normal, "{cut:?}");
            }
        }
    }
}

#[test]
fn resume_cut_after_any_byte_is_tried_again() {
    let first = (Side::Client, Cut { way: Way::Read, after: 300, how: How::EndOfFile });
    for side in [Side::Client, Side::Server] {
        for way in [Way::Read, Way::Written] {
            for how in HOWS {
                for after in (0..200).step_by(stride(13)) {
                    let cut = Cut { way, after, how };
                    let served = run(async { converse(session(&[first, (side, cut)]).await).await });
                    assert_eq!(served.reason, ExitReason::Normal, "{side:?} {cut:?}");
                    assert!(!served.expired);
                }
            }
        }
    }
}

#[test]
fn ten_cuts_in_a_row_lose_nothing() {
    for after in [250, 260, 300] {
        let cut = |way| (Side::Client, Cut { way, after, how: How::Reset });
        let cuts: Vec<_> = (0..10).map(|n| cut(if n % 2 == 0 { Way::Read } else { Way::Written })).collect();
        let served = run(async { converse(session(&cuts).await).await });
        assert_eq!(served.reason, ExitReason::Normal);
    }
}

fn soon() -> (Side, Cut) {
    (Side::Client, Cut { way: Way::Written, after: 200, how: How::EndOfFile })
}

#[tokio::test(start_paused = true)]
async fn server_hears_of_loss_and_return() {
    let Session { channel, network, changes, .. } = session(&[soon()]).await;
    network.0.lock().unwrap().closed = true;
    let remote = channel.remote();
    for n in 0..10 {
        remote.cast(Request::Note(note(n))).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    network.0.lock().unwrap().closed = false;
    assert_eq!(remote.call(Add(1, 1)).await, Ok(2));
    let changes = changes.lock().unwrap().clone();
    assert!(
        matches!(changes[..], [Change::Detached, Change::Resumed { gap, .. }] if gap > Duration::from_secs(10)),
        "{changes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn session_without_connection_ends_with_its_window() {
    let Session { channel, served, network, .. } = session(&[soon()]).await;
    network.0.lock().unwrap().closed = true;
    let remote = channel.remote();
    let began = Instant::now();
    for n in 0..10 {
        remote.cast(Request::Note(note(n))).await.unwrap();
    }
    assert_eq!(remote.ended().await, ExitReason::NoConnection);
    assert!(began.elapsed() >= WINDOW, "{:?}", began.elapsed());
    let served = served.await.unwrap();
    assert_eq!((served.reason, served.expired), (ExitReason::NoConnection, true));
}

#[tokio::test(start_paused = true)]
async fn refused_login_ends_session_at_once() {
    let Session { channel, network, .. } = session(&[soon()]).await;
    network.0.lock().unwrap().refuses = Some(ExitReason::Revoked);
    let remote = channel.remote();
    let began = Instant::now();
    for n in 0..10 {
        let _ = remote.cast(Request::Note(note(n))).await;
    }
    assert_eq!(remote.ended().await, ExitReason::Revoked);
    assert_eq!(began.elapsed(), Duration::ZERO);
}
