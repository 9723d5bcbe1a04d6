//! A connection that breaks after each byte that it carries, one after the other, in each direction, at each end and in
//! each way in which connections break: whatever began has one ending, in time, and nothing is left.
//!
//! All over real streams, the real TLS and the real middleman, with tokio's clock paused. `cargo test` leaves out the
//! inside of the long message and most bytes of TLS; with `CHAN_CUTS=all` in the environment nothing is left out. `resume.rs`
//! says what sessions that survive a cut leave out.

mod resume;
mod story;

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncWrite, BufReader},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use self::story::{Finale, Ledger, client, limits, start};
use super::line::{Cut, How, Line, Record, Recorded, Way};
use crate::{
    ExitReason,
    auth::{
        Account, AccountVerifier, Argon2Params, ClientId, Directory, Exporter, NameKey, PasswordVerifier,
        ServiceName,
    },
    channel::{open, serve},
    handshake::{Authenticated, SessionParameters, Side},
    login::{ClientLogin, Credential, LoginError, ServerLoginError, login_server},
    payload::Codec,
    secret::{Password, PrivateKey, Secret, Target},
    tls::{self, CheckedKey, PinVerifier, ReloadableKey},
};

/// What lies between the stream and the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layers {
    /// The login, with a key.
    Key,
    /// The login, with a password.
    Password,
    /// TLS, and the login with a password.
    Tls,
    /// TLS, and the login with a key.
    KeyInTls,
}

/// What all runs share.
struct World {
    key: PrivateKey,
    password: Password,
    by_key: Directory,
    by_password: Directory,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

trait Io: AsyncBufRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncBufRead + AsyncWrite + Unpin + Send> Io for S {}

fn target() -> Target {
    Target { host: "host".into(), service: ServiceName::new("alpha").unwrap(), client: ClientId::default() }
}

fn directory(verifier: AccountVerifier) -> Directory {
    let Target { service, client, .. } = target();
    let account = Account { service, client, verifier, enabled: true, index: 0 };
    Directory::new(NameKey::new(Secret::new([0x60; 32])), Secret::new([99; 32]), [account]).unwrap().0
}

impl World {
    fn new() -> Self {
        let key = PrivateKey::from_seed(Secret::new([3; 32])).unwrap();
        let password = Password::new("correct horse").unwrap();
        let Target { service, client, .. } = target();
        let salt = NameKey::new(Secret::new([0x60; 32])).salt(&service, &client);
        let params = Argon2Params::new(19_456, 2, 1).unwrap();
        let verifier = PasswordVerifier::derive(&password, &salt, params).unwrap();
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let private = rustls::pki_types::PrivateKeyDer::Pkcs8(pair.signing_key.serialize_der().into());
        let identity = CheckedKey::new(vec![pair.cert.der().clone()], private).unwrap();
        let pins = PinVerifier::new([identity.pin().unwrap()]);
        Self {
            by_key: directory(AccountVerifier::Key(key.public_key())),
            by_password: directory(AccountVerifier::Password(verifier)),
            key,
            password,
            acceptor: TlsAcceptor::from(tls::server_config(Arc::new(ReloadableKey::new(identity))).unwrap()),
            connector: TlsConnector::from(tls::client_config(Arc::new(pins)).unwrap()),
        }
    }
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(World::new)
}

/// Which end's stream breaks, and where.
type Place = (Side, Cut);

/// One run of the story.
struct Run {
    ledger: Ledger,
    /// What went over the line at each end.
    client: Record,
    server: Record,
    faults: Vec<String>,
    /// How long after the cut the last of those at the ends was told.
    told_in: Duration,
    /// The same, the server's last words included.
    done_in: Duration,
}

/// Runs the story once on a runtime of its own, with at most so many bytes a read and a write.
fn run(layers: Layers, finale: Finale, place: Option<Place>, piece: usize) -> Run {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let ledger = Ledger::default();
    let (client, server, left) = runtime.block_on(story(layers, finale, place, piece, &ledger));
    let mut faults = Vec::new();
    if left > 0 {
        faults.push(format!("{left} tasks still run"));
    }
    let broke = client.broke.or(server.broke);
    let after = |last: Option<Instant>| {
        broke.zip(last).map_or(Duration::ZERO, |(broke, last)| last.saturating_duration_since(broke))
    };
    let mut entries = ledger.entries();
    faults.append(&mut entries.check());
    let told_in = after(entries.last_ending(|name| name != "serving"));
    let done_in = after(entries.last_ending(|_| true));
    drop(entries);
    Run { ledger, client, server, faults, told_in, done_in }
}

async fn story(
    layers: Layers,
    finale: Finale,
    place: Option<Place>,
    piece: usize,
    ledger: &Ledger,
) -> (Record, Record, usize) {
    let cut_of = |side| place.filter(|(at, _)| *at == side).map(|(_, cut)| cut);
    let (near, far) = tokio::io::duplex(16 * 1024);
    let (near, near_record) = Line::new(near, cut_of(Side::Client), piece);
    let (far, far_record) = Line::new(far, cut_of(Side::Server), piece);
    let there = ledger.clone();
    tokio::spawn(async move {
        let login = there.begin("server's login");
        let logged_in = server_login(layers, far).await;
        login.end(&logged_in.as_ref().map(drop));
        if let Ok(LoggedIn { stream, authenticated, .. }) = logged_in {
            let serving = there.begin("serving");
            let start = |opening| start(opening, &there);
            serving.end(&serve(stream, &authenticated, &limits(), start).await);
        }
    });
    let here = ledger.clone();
    tokio::spawn(async move {
        let login = here.begin("client's login");
        let logged_in = client_login(layers, near).await;
        login.end(&logged_in.as_ref().map(drop));
        if let Ok(LoggedIn { stream, authenticated, .. }) = logged_in {
            let open =
                async move { open(stream, &authenticated, &limits(), Codec::Bincode, b"", true).await };
            client(open, &here, finale);
        }
    });
    let left = tasks_left().await;
    (taken(near_record), taken(far_record), left)
}

/// Waits until all tasks have ended, longer than anything may take, those included that listen for a second ending.
/// Returns how many still run.
async fn tasks_left() -> usize {
    let metrics = tokio::runtime::Handle::current().metrics();
    for _ in 0..10 {
        if metrics.num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_secs(100)).await;
        }
    }
    metrics.num_alive_tasks()
}

fn taken(record: Recorded) -> Record {
    std::mem::take(&mut *record.lock().unwrap())
}

/// Why nobody got in, as far as a cut may be the cause.
#[derive(Debug)]
enum Cause {
    /// The connection was lost, or never had a byte in it.
    Connection,
    /// Too much time passed.
    Deadline,
    /// What no cut may cause: somebody is blamed.
    Blame(#[expect(dead_code, reason = "for whoever reads the failure")] String),
}

/// A connection after its login.
struct LoggedIn {
    stream: Box<dyn Io>,
    authenticated: Authenticated,
    /// That of its TLS.
    exporter: Exporter,
}

fn parameters() -> SessionParameters {
    SessionParameters::from_limits(&limits()).unwrap()
}

/// As a server does it, with its deadlines.
async fn server_login(layers: Layers, line: Line) -> Result<LoggedIn, Cause> {
    let (world, limits, began) = (world(), limits(), Instant::now());
    let (mut stream, exporter): (Box<dyn Io>, _) = match layers {
        Layers::Key | Layers::Password => (Box::new(BufReader::new(line)), exporter()),
        Layers::Tls | Layers::KeyInTls => {
            let accepted = timeout(limits.tls_timeout, world.acceptor.accept(line)).await;
            let stream = accepted.map_err(|_| Cause::Deadline)?.map_err(|error| io(&error))?;
            let exporter = tls::exporter(stream.get_ref().1).unwrap();
            (Box::new(stream), exporter)
        }
    };
    let directory = match layers {
        Layers::Key | Layers::KeyInTls => &world.by_key,
        Layers::Password | Layers::Tls => &world.by_password,
    };
    let login =
        login_server(&mut stream, exporter.clone(), directory, parameters(), |_| true, |_| Duration::ZERO);
    match tokio::time::timeout_at(began + limits.login_timeout, login).await {
        Ok(Ok(authenticated)) => Ok(LoggedIn { stream, authenticated, exporter }),
        Ok(Err(ServerLoginError::SentNothing | ServerLoginError::Io(_))) => Err(Cause::Connection),
        Ok(Err(error)) => Err(Cause::Blame(error.to_string())),
        Err(_) => Err(Cause::Deadline),
    }
}

/// As a client does it, with its deadlines.
async fn client_login(layers: Layers, line: Line) -> Result<LoggedIn, Cause> {
    let (world, limits, began) = (world(), limits(), Instant::now());
    let credential = match layers {
        Layers::Key | Layers::KeyInTls => Credential::Key(&world.key),
        Layers::Password | Layers::Tls => Credential::Password(&world.password),
    };
    let login = ClientLogin::prepare(target(), credential).await;
    let (mut stream, exporter): (Box<dyn Io>, _) = match layers {
        Layers::Key | Layers::Password => (Box::new(BufReader::new(line)), exporter()),
        Layers::Tls | Layers::KeyInTls => {
            let name = "localhost".try_into().unwrap();
            let connected = timeout(limits.tls_timeout, world.connector.connect(name, line)).await;
            let stream = connected.map_err(|_| Cause::Deadline)?.map_err(|error| io(&error))?;
            let exporter = tls::exporter(stream.get_ref().1).unwrap();
            (Box::new(stream), exporter)
        }
    };
    match tokio::time::timeout_at(began + limits.login_timeout, login.run(&mut stream, exporter.clone()))
        .await
    {
        Ok(Ok(authenticated)) => Ok(LoggedIn { stream, authenticated, exporter }),
        Ok(Err(LoginError::Io(_))) => Err(Cause::Connection),
        Ok(Err(error)) => Err(Cause::Blame(error.to_string())),
        Err(_) => Err(Cause::Deadline),
    }
}

/// An error of TLS that the connection caused, or not.
fn io(error: &std::io::Error) -> Cause {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.kind() {
        BrokenPipe | ConnectionReset | UnexpectedEof => Cause::Connection,
        _ => Cause::Blame(error.to_string()),
    }
}

fn exporter() -> Exporter {
    Exporter::new(Secret::new([1; 32]))
}

/// Whether nothing is to be left out.
fn everywhere() -> bool {
    std::env::var_os("CHAN_CUTS").is_some_and(|cuts| cuts == "all")
}

/// Where one connection can be cut: at which end, in which direction, and how many bytes it carried there.
fn streams(client: &Record, server: &Record) -> [(Side, Way, usize); 4] {
    let streams = [
        (Side::Client, Way::Read, client.read.len()),
        (Side::Client, Way::Written, client.written.len()),
        (Side::Server, Way::Read, server.read.len()),
        (Side::Server, Way::Written, server.written.len()),
    ];
    for (_, _, len) in streams {
        assert!(len > 100, "{len} bytes are too few to be true");
    }
    streams
}

/// Says how much was tried.
#[expect(clippy::print_stderr, reason = "campaigns are started by hand")]
fn report(count: usize, campaign: &str) {
    eprintln!("{campaign}: {count} cuts");
}

/// A way to run the story, and where it is cut.
struct Campaign {
    layers: Layers,
    finale: Finale,
    /// Only every so many bytes, without `CHAN_CUTS=all`.
    stride: usize,
    /// No further than this.
    until: usize,
}

/// In the message that fills the window, only every so many bytes without `CHAN_CUTS=all`.
const INSIDE_STRIDE: usize = 1009;

impl Campaign {
    /// Runs it all.
    fn run(&self) {
        let whole = self.run_whole();
        let mut count = 0;
        for (side, way, len) in streams(&whole.client, &whole.server) {
            for how in [How::EndOfFile, How::Reset, How::Silence, How::OneWay] {
                let runs = self.places(len).map(|after| {
                    let cut = Cut { way, after, how };
                    let run = run(self.layers, self.finale, Some((side, cut)), usize::MAX);
                    check(&run, how, || format!("{:?} {:?} {side:?} {cut:?}", self.layers, self.finale));
                    ranks(&run, &whole)
                });
                // Each end is told of a connection that was lost, up to the byte with which it knows how it ended.
                let ranks: Vec<_> = runs.collect();
                count += ranks.len();
                let place = format!("{:?} {:?} {side:?} {way:?} {how:?}", self.layers, self.finale);
                let mut pairs = ranks.iter().zip(ranks.iter().skip(self.slack()));
                assert!(pairs.all(|(a, b)| a[0] <= b[0] && a[1] <= b[1]), "{place}: {ranks:?}");
                // Whoever got everything knows everything.
                if self.until >= len && self.layers != Layers::Tls {
                    let reader = usize::from((side == Side::Client) == (way == Way::Written));
                    assert_eq!(ranks.last().map(|ranks| ranks[reader]), Some(2), "{place}");
                }
            }
        }
        report(count, &format!("{:?} {:?}", self.layers, self.finale));
    }

    /// Once without a cut.
    fn run_whole(&self) -> Run {
        let whole = run(self.layers, self.finale, None, usize::MAX);
        assert!(whole.faults.is_empty(), "uncut: {:#?}", whole.faults);
        assert_eq!(whole.client.read, whole.server.written);
        assert_eq!(whole.client.written, whole.server.read);
        let inside = &whole.client.written[self.inside(whole.client.written.len())];
        assert!(self.layers == Layers::Tls || inside.iter().all(|&byte| byte == 0));
        whole
    }

    /// How much later what one run saw must be seen by the others: in a handshake of TLS some lengths vary by a byte or
    /// two.
    fn slack(&self) -> usize {
        if self.layers == Layers::Tls { 4 } else { 1 }
    }

    /// Where nothing but the inside of the message that fills the window is.
    fn inside(&self, len: usize) -> Range<usize> {
        let (before, behind) = if self.layers == Layers::Tls { (4096, 2048) } else { (512, 256) };
        before..len.saturating_sub(behind)
    }

    fn places(&self, len: usize) -> impl Iterator<Item = usize> {
        let (stride, inside_stride) = if everywhere() { (1, 1) } else { (self.stride, INSIDE_STRIDE) };
        let inside = self.inside(len);
        let is_meant = move |after: &usize| {
            after.is_multiple_of(if inside.contains(after) { inside_stride } else { stride })
        };
        (0..len.min(self.until)).filter(is_meant).chain((self.until >= len).then_some(len))
    }
}

/// What each end was told: 0 nothing, as it had no session yet; 1 that the connection was lost; 2 what it is told when
/// it is not.
fn ranks(run: &Run, whole: &Run) -> [u8; 2] {
    let (told, whole) = (run.ledger.entries(), whole.ledger.entries());
    ["client", "service"].map(|end| match told.reasons.get(end) {
        None => 0,
        Some(ExitReason::NoConnection) => 1,
        reason if reason == whole.reasons.get(end) => 2,
        // Worse than anything: it is not in order.
        Some(_) => u8::MAX,
    })
}

fn check(run: &Run, how: How, place: impl Fn() -> String) {
    let whole = || format!("{}:\n{}", place(), run.ledger.entries().summary());
    assert!(run.faults.is_empty(), "{:#?} at {}", run.faults, whole());
    let entries = run.ledger.entries();
    for login in ["client's login", "server's login"] {
        assert!(!entries.how(login).contains("Blame"), "{}", whole());
    }
    let limits = limits();
    let silent = 3 * limits.heartbeat_interval;
    let (told, done) = match how {
        How::EndOfFile | How::Reset => (Duration::ZERO, Duration::ZERO),
        How::HalfOpen => unreachable!("only where sessions are resumed"),
        How::Silence => (silent, silent + limits.last_words_timeout),
        // The end that hears nothing goes first, says so in vain, and then closes.
        How::OneWay => (silent + limits.last_words_timeout, silent + limits.last_words_timeout),
    };
    drop(entries);
    assert!(run.told_in <= told && run.done_in <= done, "{:?} {:?} {}", run.told_in, run.done_in, whole());
}

#[test]
fn key_login_and_session_cut_anywhere() {
    Campaign { layers: Layers::Key, finale: Finale::Fail, stride: 1, until: usize::MAX }.run();
}

#[test]
fn closed_session_cut_anywhere() {
    Campaign { layers: Layers::Key, finale: Finale::Close, stride: 1, until: usize::MAX }.run();
}

#[test]
fn password_login_cut_anywhere() {
    Campaign { layers: Layers::Password, finale: Finale::Fail, stride: 1, until: 200 }.run();
}

#[test]
fn tls_connection_survives_cut_anywhere() {
    Campaign { layers: Layers::Tls, finale: Finale::Fail, stride: 41, until: usize::MAX }.run();
}

#[test]
fn single_bytes_act_like_large_pieces() {
    for layers in [Layers::Key, Layers::Password, Layers::Tls] {
        for finale in [Finale::Fail, Finale::Close] {
            let whole = Campaign { layers, finale, stride: 1, until: 0 }.run_whole();
            let trickled = run(layers, finale, None, 1);
            assert!(trickled.faults.is_empty(), "{:#?}", trickled.faults);
            assert_eq!(trickled.ledger.entries().summary(), whole.ledger.entries().summary());
        }
    }
}
