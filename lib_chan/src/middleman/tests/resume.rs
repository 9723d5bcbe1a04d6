//! A session that survives its connections, over real streams and the real middleman, with tokio's clock paused. What a cut
//! after each byte does is in `cuts/resume.rs`.
//!
//! Longer than other files: it has the network, and a test for each way in which a session can end while detached.

mod peer;
mod streams;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    io::{BufReader, DuplexStream, copy_bidirectional},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{Add, Hang, Request, frames, line::How, service, until};
use crate::{
    CallError, CallFailure, Channel, ConnectionState, Event, Executed, ExitReason, Limits, Message, Process,
    SpawnOptions,
    auth::{Exporter, ResumeKey, SessionId},
    channel::{
        Attacher, Change, Connected, Control, First, OpenRequest, Opening, Served, attachments, hear_first,
        open_resumable, say_lost, serve_resumable,
    },
    handshake::{SessionParameters, pair_in_memory},
    middleman::suspension::suspend,
    payload::Codec,
    protocol::Transmit,
    secret::Secret,
    spawn, spawn_with,
    wire::{Granted, Tombstone},
};

pub(super) const WINDOW: Duration = Duration::from_secs(120);

type Stream = BufReader<DuplexStream>;

/// A server with one session, and the way to it.
#[derive(Clone)]
struct Network(Arc<Mutex<State>>);

struct State {
    /// What cuts the connections, the last one last.
    cables: Vec<oneshot::Sender<How>>,
    /// Nobody listens.
    closed: bool,
    /// The server refuses every login.
    refuses: Option<ExitReason>,
    dialled: u32,
    attacher: Option<Attacher<Box<Stream>>>,
    tombstone: Option<Tombstone>,
    changes: Vec<Change>,
    control: Option<Control>,
}

fn exporter(number: u32) -> Exporter {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Exporter::new(Secret::new(bytes))
}

pub(super) fn granted() -> Granted {
    Granted { window: WINDOW.as_millis() as u64, id: SessionId::new([5; 16]), secret: Secret::new([6; 32]) }
}

impl Network {
    fn new(attacher: Attacher<Box<Stream>>) -> Self {
        Self(Arc::new(Mutex::new(State {
            cables: Vec::new(),
            closed: false,
            refuses: None,
            dialled: 0,
            attacher: Some(attacher),
            tombstone: None,
            changes: Vec::new(),
            control: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Two ends of a connection: the client's, and the server's.
    fn lay(&self) -> (Stream, Stream) {
        let (near, mut near_plug) = tokio::io::duplex(4096);
        let (far, mut far_plug) = tokio::io::duplex(4096);
        let (cut, is_cut) = oneshot::channel();
        self.state().cables.push(cut);
        tokio::spawn(async move {
            let how = tokio::select! {
                _ = copy_bidirectional(&mut near_plug, &mut far_plug) => return,
                how = is_cut => how,
            };
            let silent = async |mut plug: DuplexStream| {
                // The network swallows all that the end writes, until that end drops the stream.
                let _ = tokio::io::copy(&mut plug, &mut tokio::io::sink()).await;
            };
            match how {
                Ok(How::Silence) => drop(tokio::join!(silent(near_plug), silent(far_plug))),
                Ok(How::HalfOpen) => {
                    drop(near_plug);
                    silent(far_plug).await;
                }
                _ => {}
            }
        });
        (BufReader::new(near), BufReader::new(far))
    }

    /// Cuts the last connection.
    fn cut(&self, how: How) {
        let cable = self.state().cables.pop().unwrap();
        let _ = cable.send(how);
    }

    fn close(&self) {
        self.state().closed = true;
    }

    fn reopen(&self) {
        self.state().closed = false;
    }

    /// Dials until somebody listens, and logs in.
    async fn dial(self, attempt: u32) -> Result<Connected<Stream>, ExitReason> {
        if attempt > 0 {
            sleep(Duration::from_millis(100)).await;
        }
        while self.state().closed {
            sleep(Duration::from_secs(1)).await;
        }
        if let Some(reason) = self.state().refuses.clone() {
            return Err(reason);
        }
        let (near, far) = self.lay();
        self.state().dialled += 1;
        let number = self.state().dialled;
        tokio::spawn(async move { self.accept(far, &exporter(number)).await });
        Ok(Connected { stream: near, exporter: exporter(number) })
    }

    async fn accept(self, mut far: Stream, exporter: &Exporter) {
        let First::Resume { claim, proof } = hear_first(&mut far).await else { return };
        let key = ResumeKey::new(&granted().secret);
        assert!(ResumeKey::judge(Some(((), &key)), &key, exporter, &claim, &proof).is_some());
        let attacher = self.state().attacher.clone();
        let attached = match attacher {
            Some(attacher) => attacher.attach(claim, Box::new(far)),
            None => Err(Box::new(far)),
        };
        if let Err(far) = attached {
            let tombstone = self.state().tombstone.clone();
            say_lost(far, tombstone, &Limits::default()).await;
        }
    }

    /// Lets the others run until there is no connection at the server.
    async fn detached(&self) {
        until(|| matches!(self.state().changes.last(), Some(Change::Detached))).await;
    }
}

struct Session<In = String, Out = Request> {
    channel: Channel<In, Out>,
    served: JoinHandle<Served>,
    network: Network,
}

/// Opens a session with the service that adds and notes.
async fn session() -> Session {
    session_with(service).await
}

async fn session_with<In, Out: Transmit>(start: impl FnOnce(Opening) + Send + 'static) -> Session<In, Out> {
    let limits = Limits::default();
    let parameters = SessionParameters::from_limits(&limits).unwrap();
    let (client, server) = pair_in_memory(parameters, [7; 32]).unwrap();
    let (attacher, attachments) = attachments();
    let network = Network::new(attacher);
    let (near, far) = network.lay();
    let (server_limits, there) = (limits.clone(), network.clone());
    let served = tokio::spawn(async move {
        let start = |mut opening: Opening| {
            assert_eq!(opening.wants_resume(), WINDOW);
            opening.grant(granted());
            there.state().control = Some(opening.control());
            start(opening);
        };
        let changed = |change| there.state().changes.push(change);
        let served = serve_resumable(far, &[], &server, &server_limits, attachments, changed, start).await;
        let mut state = there.state();
        (state.attacher, state.tombstone, state.control) = (None, served.tombstone.clone(), None);
        drop(state);
        served
    });
    let dialler = network.clone();
    let connector = Box::new(move |attempt| Box::pin(dialler.clone().dial(attempt)) as _);
    let request = OpenRequest { resume: WINDOW, ..OpenRequest::new(Codec::Bincode, b"") };
    let channel = open_resumable(near, &client, &limits, &request, false, connector).await.unwrap();
    Session { channel, served, network }
}

/// Cuts the connection of a session that cannot come back, and waits until both ends know.
async fn detach(session: &Session) {
    // The server has to know that the client can resume.
    assert_eq!(session.channel.remote().call(Add(1, 1)).await, Ok(2));
    session.network.close();
    session.network.cut(How::EndOfFile);
    session.network.detached().await;
}

/// Nothing runs any more, and nobody holds anything.
async fn nothing_is_left() {
    let metrics = tokio::runtime::Handle::current().metrics();
    sleep(Duration::from_secs(1000)).await;
    assert_eq!(metrics.num_alive_tasks(), 0);
}

fn unsent(reason: ExitReason) -> Result<u32, CallError> {
    Err(CallError::new(Executed::No, CallFailure::Exit(reason)))
}

#[tokio::test(start_paused = true)]
async fn idle_session_is_resumed() {
    for how in [How::EndOfFile, How::Silence, How::HalfOpen] {
        let Session { channel, served, network } = session().await;
        sleep(Duration::from_secs(1)).await;
        network.cut(how);
        until_resumed(&network, 2).await;
        assert_eq!(channel.close().await, Ok(()));
        let served = served.await.unwrap();
        assert_eq!((served.reason, served.expired), (ExitReason::Normal, false));
        assert_eq!(network.state().dialled, 1);
        nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn suspended_machine_resumes_at_its_next_step() {
    let Session { channel, served, network } = session().await;
    assert_eq!(channel.remote().call(Add(1, 1)).await, Ok(2));
    suspend(WINDOW / 2);
    let began = Instant::now();
    assert_eq!(channel.remote().call(Add(1, 2)).await, Ok(3));
    until_resumed(&network, 2).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(channel.close().await, Ok(()));
    assert_eq!(served.await.unwrap().reason, ExitReason::Normal);
}

#[tokio::test(start_paused = true)]
async fn suspension_longer_than_window_ends_session() {
    let session = session().await;
    assert_eq!(session.channel.remote().call(Add(1, 1)).await, Ok(2));
    let began = Instant::now();
    suspend(2 * WINDOW);
    session.channel.remote().cast(Request::Note("late".into())).await.unwrap();
    assert_eq!(session.channel.remote().ended().await, ExitReason::NoConnection);
    assert!(session.served.await.unwrap().expired);
    // The server's driver wakes for its heartbeat, if nothing comes.
    assert!(began.elapsed() <= 2 * Limits::default().heartbeat_interval, "{:?}", began.elapsed());
}

async fn until_resumed(network: &Network, epoch: u64) {
    let resumed = |change: &Change| matches!(change, Change::Resumed { epoch: at, .. } if *at >= epoch);
    for _ in 0..1000 {
        if network.state().changes.iter().any(resumed) {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("not resumed: {:?}", network.state().changes);
}

#[tokio::test(start_paused = true)]
async fn tenth_resume_is_like_the_first() {
    let Session { mut channel, served, network } = session().await;
    let remote = channel.remote();
    for n in 0..10 {
        remote.cast(Request::Note(n.to_string())).await.unwrap();
        network.cut(if n % 2 == 0 { How::EndOfFile } else { How::HalfOpen });
        assert_eq!(remote.call(Add(n, 1)).await, Ok(n + 1));
        until_resumed(&network, u64::from(n) + 2).await;
    }
    for n in 0..10 {
        let Some(Message::Cast(text)) = channel.recv().await else { panic!("a cast") };
        assert_eq!(text, n.to_string());
    }
    assert_eq!(channel.close().await, Ok(()));
    assert_eq!(served.await.unwrap().reason, ExitReason::Normal);
    nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn server_hears_of_loss_and_return() {
    let session = session().await;
    detach(&session).await;
    sleep(Duration::from_secs(20)).await;
    session.network.reopen();
    assert_eq!(session.channel.remote().call(Add(1, 1)).await, Ok(2));
    let changes = session.network.state().changes.clone();
    let [Change::Detached, Change::Resumed { epoch: 2, gap }] = changes[..] else { panic!("{changes:?}") };
    assert!((20..22).contains(&gap.as_secs()), "{gap:?}");
}

#[tokio::test(start_paused = true)]
async fn process_hears_of_loss_return_and_end() {
    use ConnectionState::{Attached, Detached};

    let session = session().await;
    let remote = session.channel.remote();
    let (options, gone) = (
        SpawnOptions { mailbox_capacity: 1, ..SpawnOptions::default() },
        spawn(async |_me: Process<()>| Ok(())),
    );
    let (tell, mut told) = mpsc::unbounded_channel();
    let watcher = spawn_with(options, async move |mut me: Process<Option<ConnectionState>>| {
        while let Event::Message(state) = me.recv().await {
            tell.send(state).unwrap();
        }
        Ok(())
    });
    remote.monitor_connection(&watcher, |state| state);
    // This one ends with its process, though nothing happens to the session.
    gone.pid().ended().await;
    remote.monitor_connection(&gone, |_| ());
    detach(&session).await;
    assert!(matches!(told.recv().await, Some(Some(Detached { .. }))));
    session.network.reopen();
    assert!(matches!(told.recv().await, Some(Some(Attached { epoch: 2, .. }))));
    // The monitor holds no remote.
    drop((session.channel, remote));
    assert_eq!(told.recv().await, Some(None));
    assert_eq!(session.served.await.unwrap().reason, ExitReason::Normal);
    watcher.pid().exit(ExitReason::Shutdown);
    nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn session_without_connection_ends_with_its_window() {
    let session = session().await;
    detach(&session).await;
    let (remote, lost) = (session.channel.remote(), Instant::now());
    let call = tokio::spawn({
        let remote = remote.clone();
        async move { remote.call_within(2 * WINDOW, Add(1, 2)).await }
    });
    assert_eq!(remote.ended().await, ExitReason::NoConnection);
    assert_eq!(lost.elapsed().as_secs(), WINDOW.as_secs());
    assert_eq!(call.await.unwrap(), unsent(ExitReason::NoConnection));
    let served = session.served.await.unwrap();
    assert_eq!((served.reason, served.expired), (ExitReason::NoConnection, true));
    assert_eq!(lost.elapsed().as_secs(), WINDOW.as_secs());
    let tombstone = served.tombstone.unwrap();
    assert_eq!((tombstone.reason, tombstone.taken), (ExitReason::NoConnection, tombstone.received));
    drop((session.channel, remote));
    nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn refused_login_ends_session_at_once() {
    let session = session().await;
    detach(&session).await;
    session.network.state().refuses = Some(ExitReason::Revoked);
    let (remote, began) = (session.channel.remote(), Instant::now());
    let call = remote.call(Add(1, 2));
    session.network.reopen();
    assert_eq!(call.await, unsent(ExitReason::Revoked));
    assert_eq!(remote.ended().await, ExitReason::Revoked);
    assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn deadline_of_call_runs_while_detached() {
    let session = session().await;
    detach(&session).await;
    let (remote, began) = (session.channel.remote(), Instant::now());
    let late = remote.call_within(Duration::from_secs(3), Add(1, 2)).await;
    assert_eq!(late, Err(CallError::new(Executed::Unknown, CallFailure::Deadline)));
    assert_eq!(began.elapsed().as_secs(), 3);
    session.network.reopen();
    assert_eq!(remote.call(Add(2, 2)).await, Ok(4));
}

#[tokio::test(start_paused = true)]
async fn close_while_detached_waits_for_connection() {
    let session = session().await;
    detach(&session).await;
    for n in 0..20 {
        session.channel.remote().cast(Request::Note(n.to_string())).await.unwrap();
    }
    let network = session.network.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(5)).await;
        network.reopen();
    });
    assert_eq!(session.channel.close().await, Ok(()));
    let served = session.served.await.unwrap();
    assert_eq!((served.reason, served.expired), (ExitReason::Normal, false));
    nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn close_without_connection_gives_up() {
    let session = session().await;
    detach(&session).await;
    let began = Instant::now();
    assert_eq!(session.channel.close().await, Err(ExitReason::NoConnection));
    assert_eq!(began.elapsed(), Limits::default().close_timeout);
    assert!(session.served.await.unwrap().expired);
    assert_eq!(began.elapsed().as_secs(), WINDOW.as_secs());
    nothing_is_left().await;
}

/// Notes how many casts came, and why the client ended.
fn counting(tell: oneshot::Sender<(u32, ExitReason)>) -> impl FnOnce(Opening) + Send + 'static {
    |opening| {
        spawn(async move |mut me: Process| {
            me.trap_exit(true);
            let mut channel: Channel<Request, String> = opening.accept();
            let mut notes = 0;
            while let Some(message) = channel.recv().await {
                match message {
                    Message::Call(Request::Add(add), reply) => reply.to(&add).send(add.0 + add.1),
                    _ => notes += 1,
                }
            }
            let Event::Exit(_, reason) = me.recv().await else { panic!("an exit") };
            let _ = tell.send((notes, reason));
            Ok(())
        });
    }
}

#[tokio::test(start_paused = true)]
async fn channel_dropped_while_detached_delivers_first() {
    let (tell, told) = oneshot::channel();
    let session = session_with(counting(tell)).await;
    detach(&session).await;
    for n in 0..20 {
        session.channel.remote().cast(Request::Note(n.to_string())).await.unwrap();
    }
    drop(session.channel);
    sleep(Duration::from_secs(5)).await;
    session.network.reopen();
    assert_eq!(told.await.unwrap(), (20, ExitReason::Normal));
    assert_eq!(session.served.await.unwrap().reason, ExitReason::Normal);
    nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn process_that_ends_while_detached_tells_its_reason() {
    let (tell, told) = oneshot::channel();
    let client = spawn(async move |_me: Process| {
        let session = session_with(counting(tell)).await;
        detach(&session).await;
        session.channel.remote().cast(Request::Note("last".into())).await?;
        let network = session.network.clone();
        tokio::spawn(async move {
            sleep(Duration::from_secs(5)).await;
            network.reopen();
        });
        Err(ExitReason::failed("boom"))
    });
    assert_eq!(client.pid().ended().await, ExitReason::failed("boom"));
    assert_eq!(told.await.unwrap(), (1, ExitReason::failed("boom")));
    nothing_is_left().await;
}

/// A service that adds two numbers, and fails when the test says so.
fn failing(told: oneshot::Receiver<()>) -> impl FnOnce(Opening) + Send + 'static {
    |opening| {
        spawn(async move |_me: Process| {
            let mut channel: Channel<Request, String> = opening.accept();
            let Some(Message::Call(Request::Add(add), reply)) = channel.recv().await else {
                panic!("a call")
            };
            reply.to(&add).send(add.0 + add.1);
            let _ = told.await;
            channel.remote().cast("last words").await?;
            Err(ExitReason::failed("boom"))
        });
    }
}

#[tokio::test(start_paused = true)]
async fn service_that_ends_while_detached_tells_its_reason() {
    // Before and after it would have given up with a connection that says nothing.
    for away in [Duration::from_secs(5), WINDOW / 2] {
        let (tell, told) = oneshot::channel();
        let mut session = session_with(failing(told)).await;
        detach(&session).await;
        tell.send(()).unwrap();
        let remote = session.channel.remote();
        let call = tokio::spawn(async move { remote.call_within(WINDOW, Add(1, 2)).await });
        sleep(away).await;
        session.network.reopen();
        let Some(Message::Cast(text)) = session.channel.recv().await else { panic!("last words") };
        assert_eq!(text, "last words");
        assert!(session.channel.recv().await.is_none());
        assert_eq!(session.channel.remote().ended().await, ExitReason::failed("boom"));
        assert_eq!(call.await.unwrap(), unsent(ExitReason::failed("boom")));
        assert_eq!(session.served.await.unwrap().reason, ExitReason::failed("boom"));
        drop(session.channel);
        nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn tombstone_tells_words_of_expired_end() {
    let (tell, told) = oneshot::channel();
    let session = session_with(failing(told)).await;
    detach(&session).await;
    tell.send(()).unwrap();
    let served = session.served.await.unwrap();
    assert_eq!((served.reason, served.expired), (ExitReason::failed("boom"), true));
    assert_eq!(served.tombstone.unwrap().reason, ExitReason::failed("boom"));
}

#[tokio::test(start_paused = true)]
async fn session_ended_while_detached_is_told_on_return() {
    for reason in [ExitReason::Revoked, ExitReason::Shutdown] {
        let session = session().await;
        let remote = session.channel.remote();
        let held = tokio::spawn({
            let remote = remote.clone();
            async move { remote.call_within(WINDOW, Hang(Add(1, 2))).await }
        });
        sleep(Duration::from_secs(1)).await;
        session.network.close();
        session.network.cut(How::EndOfFile);
        session.network.detached().await;
        let unwritten = tokio::spawn({
            let remote = remote.clone();
            async move { remote.call_within(WINDOW, Add(1, 2)).await }
        });
        let (control, began) = (session.network.state().control.take().unwrap(), Instant::now());
        control.end(reason.clone());
        let served = session.served.await.unwrap();
        assert_eq!((served.reason, served.expired), (reason.clone(), false));
        assert_eq!(began.elapsed(), Duration::ZERO);
        session.network.reopen();
        assert_eq!(remote.ended().await, reason);
        let exit = CallFailure::Exit(reason.clone());
        assert_eq!(held.await.unwrap(), Err(CallError::new(Executed::Unknown, exit)));
        assert_eq!(unwritten.await.unwrap(), unsent(reason));
        drop((control, session.channel, remote));
        nothing_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn server_that_forgot_session_ends_it() {
    let session = session().await;
    detach(&session).await;
    session.served.abort();
    let _ = session.served.await;
    session.network.state().attacher = None;
    session.network.reopen();
    assert_eq!(session.channel.remote().ended().await, ExitReason::NoConnection);
}

#[tokio::test(start_paused = true)]
async fn stream_lost_before_acknowledgement_ends_session() {
    let (mut peer, _attacher, served) = peer::served(service);
    peer.start().await;
    drop(peer);
    let expected = Served { reason: ExitReason::NoConnection, expired: false, tombstone: None };
    assert_eq!(served.await.unwrap(), expected);
}
