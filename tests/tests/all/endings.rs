//! What each side is told when something ends: the table of ARCHITECTURE.md, a test for each row.
//!
//! Longer than other files, because every row of the table has its test here.
//!
//! The client's side is a linked process that traps exits, monitors the service and has a call under way; the service
//! traps exits and monitors the client. Each therefore sees every way in which it can be told.

use std::{process::Command, time::Duration};

use chan_client::connect;
use chan_server::modules::{
    Modules,
    name_server::{Names, NamesMessage},
};
use chan_tests::{Embedded, PASSWORD, PATIENCE, Proxy, Running, Server, run};
use lib_chan::{
    Call, CallError, CallFailure, CastError, Channel, Event, Executed, ExitReason, Limits, Message, Pid,
    Process, Remote, enter, secret::Password, spawn,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, timeout},
};

/// What the service of these tests does as it is told.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Note(u32),
    Say(u32),
    Return,
    Fail,
    Panic,
    Close,
    /// Say so and let the channel go.
    Drop,
    /// A call that is kept and never answered.
    Hang,
}

impl Call for Request {
    type Reply = ();
}

/// What the service tells the test.
#[derive(Debug)]
enum Seen {
    Started(Pid),
    Call,
    Closed(Result<(), ExitReason>),
    /// The service has let its channel go, and has awaited since.
    LivesOn,
    Told(ServiceTold),
}

/// How the service was told that its client is gone.
#[derive(Debug, PartialEq)]
struct ServiceTold {
    notes: u32,
    /// The exit signal of its link.
    exit: ExitReason,
    /// Its monitor.
    down: ExitReason,
    /// `Remote::ended`.
    ended: ExitReason,
}

impl ServiceTold {
    fn all(reason: &ExitReason, notes: u32) -> Self {
        Self { notes, exit: reason.clone(), down: reason.clone(), ended: reason.clone() }
    }
}

async fn service(
    mut me: Process,
    mut chan: Channel<Request, u32>,
    seen: mpsc::UnboundedSender<Seen>,
) -> Result<(), ExitReason> {
    me.trap_exit(true);
    let client = chan.remote();
    me.monitor(client.pid());
    let tell = |what| drop(seen.send(what));
    tell(Seen::Started(me.pid()));
    let (mut notes, mut kept) = (0, Vec::new());
    while let Some(message) = chan.recv().await {
        match message {
            Message::Cast(Request::Note(_)) => notes += 1,
            Message::Cast(Request::Say(number)) => client.cast(number).await?,
            Message::Cast(Request::Fail) => return Err(ExitReason::failed("boom")),
            Message::Cast(Request::Panic) => panic!("as told"),
            Message::Cast(Request::Close) => {
                tell(Seen::Closed(chan.close().await));
                return Ok(());
            }
            Message::Cast(Request::Drop) => {
                for number in 0..500_u32 {
                    client.cast(number).await?;
                }
                drop((chan, client));
                while !matches!(me.recv().await, Event::Down(..)) {}
                tell(Seen::LivesOn);
                return Ok(());
            }
            Message::Call(_, reply) => {
                kept.push(reply);
                tell(Seen::Call);
            }
            Message::Cast(_) => return Ok(()),
        }
    }
    let (exit, down) = signals(&mut me, client.pid()).await;
    tell(Seen::Told(ServiceTold { notes, exit, down, ended: client.ended().await }));
    Ok(())
}

/// The exit signal and the `Down` that a process gets of one end.
async fn signals(me: &mut Process, from: Pid) -> (ExitReason, ExitReason) {
    let (mut exit, mut down) = (None, None);
    while exit.is_none() || down.is_none() {
        let slot = match me.recv().await {
            Event::Exit(pid, reason) if pid == from => exit.replace(reason),
            Event::Down(_, pid, reason) if pid == from => down.replace(reason),
            other => panic!("{other:?}"),
        };
        assert_eq!(slot, None, "told twice");
    }
    (exit.expect("it came"), down.expect("it came"))
}

struct Probe {
    server: Embedded,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Probe {
    fn with(limits: &str) -> Self {
        let (tell, seen) = mpsc::unbounded_channel();
        let modules = Modules::new()
            .function("test", "service", move |me, chan, (): (), (): ()| service(me, chan, tell.clone()));
        Self { server: Embedded::start(modules, &["service"], limits), seen }
    }

    fn start() -> Self {
        Self::with("")
    }

    /// The next thing that the service tells.
    async fn seen(&mut self) -> Seen {
        timeout(PATIENCE, self.seen.recv()).await.expect("the service is told in time").expect("a service")
    }

    async fn started(&mut self) -> Pid {
        match self.seen().await {
            Seen::Started(pid) => pid,
            other => panic!("{other:?}"),
        }
    }

    async fn told(&mut self) -> ServiceTold {
        loop {
            match self.seen().await {
                Seen::Told(told) => return told,
                Seen::Call | Seen::Started(_) => {}
                other @ (Seen::Closed(_) | Seen::LivesOn) => panic!("{other:?}"),
            }
        }
    }

    fn url(&self) -> String {
        self.server.url("service")
    }

    async fn open(&self) -> Channel<u32, Request> {
        self.server.open("service").await
    }

    /// A client with a call under way.
    async fn client(&mut self) -> Client {
        let url = self.url();
        self.client_at(&url, Limits::default()).await
    }

    async fn client_at(&mut self, url: &str, limits: Limits) -> Client {
        let url = url.to_owned();
        let (give, mut given) = mpsc::channel(1);
        let told = tokio::spawn(enter(async move |mut me: Process| {
            me.trap_exit(true);
            let key = chan_tests::client_key();
            let mut chan: Channel<u32, Request> =
                connect(url.as_str()).key(&key).limits(limits).linked().open().await.expect("a session");
            let remote = chan.remote();
            me.monitor(remote.pid());
            let caller = remote.clone();
            let calling = tokio::spawn(async move { caller.call(Request::Hang).await });
            give.send(remote.clone()).await.expect("the test waits");
            let mut came = 0;
            while let Some(Message::Cast(number)) = chan.recv().await {
                assert_eq!(number, came, "in order, and each once");
                came += 1;
            }
            let call = calling.await.expect("no panic").expect_err("it is never answered");
            let (exit, down) = signals(&mut me, remote.pid()).await;
            Ok(ClientTold { came, call, exit, down, ended: remote.ended().await })
        }));
        let remote = given.recv().await.expect("the client gets there");
        let service = self.started().await;
        match self.seen().await {
            Seen::Call => Client { remote, service, told },
            other => panic!("{other:?}"),
        }
    }
}

struct Client {
    remote: Remote<Request>,
    /// The service's process.
    service: Pid,
    told: JoinHandle<Result<ClientTold, ExitReason>>,
}

impl Client {
    async fn cast(&self, request: Request) {
        self.remote.cast(request).await.expect("the session lives");
    }

    async fn told(self) -> ClientTold {
        let told = timeout(PATIENCE, self.told).await.expect("the client is told in time");
        told.expect("no panic").expect("the client traps exits")
    }
}

/// How a client was told that its service is gone.
#[derive(Debug, PartialEq)]
struct ClientTold {
    came: u32,
    /// What became of the call under way.
    call: CallError,
    exit: ExitReason,
    down: ExitReason,
    ended: ExitReason,
}

impl ClientTold {
    /// Told everywhere for the same reason. The service had taken the call, so nobody can know about it.
    fn all(reason: &ExitReason) -> Self {
        Self {
            came: 0,
            call: CallError::new(Executed::Unknown, CallFailure::Exit(reason.clone())),
            exit: reason.clone(),
            down: reason.clone(),
            ended: reason.clone(),
        }
    }
}

fn boom() -> ExitReason {
    ExitReason::failed("boom")
}

// The service ends.

async fn ends_as_told(request: Request, reason: ExitReason) {
    let mut probe = Probe::start();
    let client = probe.client().await;
    let ended = client.service.ended();
    client.cast(request).await;
    assert_eq!(ended.await, reason);
    assert_eq!(client.told().await, ClientTold::all(&reason));
    let line = probe.server.log.wait("session_ended", |line| line.contains("session_ended"));
    assert!(line.contains(&format!("\"reason\":\"{reason}\"")), "{line}");
}

#[tokio::test]
async fn service_returns() {
    ends_as_told(Request::Return, ExitReason::Normal).await;
}

#[tokio::test]
async fn service_fails_with_a_reason() {
    ends_as_told(Request::Fail, boom()).await;
}

#[tokio::test]
async fn service_panics() {
    ends_as_told(Request::Panic, ExitReason::Panic).await;
}

#[tokio::test]
async fn service_is_killed() {
    let mut probe = Probe::start();
    let client = probe.client().await;
    client.service.exit(ExitReason::Kill);
    assert_eq!(client.service.ended().await, ExitReason::Killed);
    assert_eq!(client.told().await, ClientTold::all(&ExitReason::Killed));
}

#[tokio::test]
async fn service_closes_its_own_channel() {
    let mut probe = Probe::start();
    let client = probe.client().await;
    client.cast(Request::Close).await;
    match probe.seen().await {
        Seen::Closed(closed) => assert_eq!(closed, Ok(())),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.told().await, ClientTold::all(&ExitReason::Normal));
}

#[tokio::test]
async fn service_drops_its_channel_and_lives_on() {
    let mut probe = Probe::start();
    let client = probe.client().await;
    client.cast(Request::Drop).await;
    assert_eq!(client.told().await, ClientTold { came: 500, ..ClientTold::all(&ExitReason::Normal) });
    assert!(matches!(probe.seen().await, Seen::LivesOn));
}

#[tokio::test]
async fn messages_of_service_precede_its_end() {
    let mut probe = Probe::start();
    let client = probe.client().await;
    for number in 0..500 {
        client.cast(Request::Say(number)).await;
    }
    client.cast(Request::Fail).await;
    assert_eq!(client.told().await, ClientTold { came: 500, ..ClientTold::all(&boom()) });
}

#[tokio::test]
async fn calls_after_end_are_not_executed() {
    let probe = Probe::start();
    let chan = probe.open().await;
    let remote = chan.remote();
    remote.cast(Request::Fail).await.unwrap();
    let not_executed = CallError::new(Executed::No, CallFailure::Exit(boom()));
    assert_eq!(remote.call(Request::Hang).await, Err(not_executed.clone()));
    assert_eq!(remote.call(Request::Hang).await, Err(not_executed));
    assert_eq!(remote.cast(Request::Return).await, Err(CastError::Ended(boom())));
}

#[tokio::test]
async fn linked_client_ends_with_failed_service() {
    for (request, ending) in [(Request::Fail, Err(boom())), (Request::Return, Ok(()))] {
        let probe = Probe::start();
        let url = probe.url();
        let ended = enter(async move |_me: Process| {
            let key = chan_tests::client_key();
            let mut chan: Channel<u32, Request> =
                connect(url.as_str()).key(&key).linked().open().await.expect("a session");
            chan.remote().cast(request).await?;
            chan.remote().ended().await;
            // The exit signal has come by now; an await is where it acts.
            while chan.recv().await.is_some() {}
            Ok(())
        });
        assert_eq!(timeout(PATIENCE, ended).await.expect("in time"), ending);
    }
}

// The client ends.

#[tokio::test]
async fn client_closes_after_casts() {
    let mut probe = Probe::start();
    let chan = probe.open().await;
    for number in 0..500 {
        chan.remote().cast(Request::Note(number)).await.unwrap();
    }
    assert_eq!(chan.close().await, Ok(()));
    assert_eq!(probe.told().await, ServiceTold::all(&ExitReason::Normal, 500));
}

#[tokio::test]
async fn client_drops_channel_after_casts() {
    let mut probe = Probe::start();
    let chan = probe.open().await;
    for number in 0..500 {
        chan.remote().cast(Request::Note(number)).await.unwrap();
    }
    drop(chan);
    assert_eq!(probe.told().await, ServiceTold::all(&ExitReason::Normal, 500));
}

#[tokio::test]
async fn client_process_ends_with_its_own_reason() {
    for (reason, panics) in [(boom(), false), (ExitReason::Panic, true)] {
        let mut probe = Probe::start();
        let url = probe.url();
        let client = spawn(async move |_me: Process| {
            let key = chan_tests::client_key();
            let chan: Channel<u32, Request> =
                connect(url.as_str()).key(&key).open().await.expect("a session");
            chan.remote().cast(Request::Note(0)).await?;
            assert!(!panics, "as told");
            Err(boom())
        });
        assert_eq!(client.pid().ended().await, reason);
        assert_eq!(probe.told().await, ServiceTold::all(&reason, 1));
    }
}

#[tokio::test]
async fn client_process_is_killed() {
    let mut probe = Probe::start();
    let url = probe.url();
    let (opened, is_open) = tokio::sync::oneshot::channel();
    let client = spawn(async move |mut me: Process| {
        let key = chan_tests::client_key();
        let _chan: Channel<u32, Request> = connect(url.as_str()).key(&key).open().await.expect("a session");
        let _ = opened.send(());
        me.recv().await;
        Ok(())
    });
    probe.started().await;
    // Before that, the process does not own the session.
    is_open.await.unwrap();
    client.pid().exit(ExitReason::Kill);
    assert_eq!(probe.told().await, ServiceTold::all(&ExitReason::Killed, 0));
}

#[tokio::test]
async fn trapping_service_gets_exit_as_message() {
    for (sent, seen) in [(boom(), boom()), (ExitReason::Kill, ExitReason::Killed)] {
        let (tell, mut told) = mpsc::unbounded_channel();
        let modules =
            Modules::new().function("test", "trapping", move |mut me: Process, chan, (): (), (): ()| {
                let tell = tell.clone();
                async move {
                    let chan: Channel<Request, u32> = chan;
                    me.trap_exit(true);
                    let _ = tell.send(me.recv().await);
                    drop(chan);
                    Ok(())
                }
            });
        let server = Embedded::start(modules, &["trapping"], "");
        let chan: Channel<u32, Request> = server.open("trapping").await;
        chan.remote().pid().exit(sent);
        match timeout(PATIENCE, told.recv()).await.unwrap() {
            Some(Event::Exit(_, reason)) => assert_eq!(reason, seen),
            other => panic!("{other:?}"),
        }
        assert_eq!(chan.remote().ended().await, ExitReason::Normal);
    }
}

#[tokio::test]
async fn exit_ends_service_and_reason_returns() {
    for (sent, ended) in [
        (boom(), boom()),
        (ExitReason::Shutdown, ExitReason::Shutdown),
        (ExitReason::Kill, ExitReason::Killed),
    ] {
        let modules = Modules::new().function(
            "test",
            "waits",
            |_me: Process, mut chan: Channel<Request, u32>, (): (), (): ()| async move {
                while chan.recv().await.is_some() {}
                Ok(())
            },
        );
        let server = Embedded::start(modules, &["waits"], "");
        let chan: Channel<u32, Request> = server.open("waits").await;
        chan.remote().pid().exit(sent);
        assert_eq!(timeout(PATIENCE, chan.remote().ended()).await.unwrap(), ended);
    }
}

#[tokio::test]
async fn client_program_is_killed_with_signal_9() {
    let mut probe = Probe::start();
    let mut client = probe.server.client("receive", "service");
    client.args(["--resume", "0"]);
    let client = Running::start(client);
    probe.started().await;
    client.signal("KILL");
    assert_eq!(probe.told().await, ServiceTold::all(&ExitReason::NoConnection, 0));
}

#[tokio::test]
async fn client_program_is_interrupted() {
    let mut probe = Probe::start();
    let mut command = probe.server.client("receive", "service");
    command.arg("-v");
    let client = Running::start(command);
    probe.started().await;
    // The service may know it before the client does.
    client.err.wait("the opening", |line| line.contains("the session is open"));
    client.signal("INT");
    assert_eq!(probe.told().await, ServiceTold::all(&ExitReason::Normal, 0));
    assert_eq!(client.code(), Some(0));
}

#[tokio::test]
async fn stopped_client_program_is_lost() {
    let mut probe = Probe::with("heartbeat_interval = '1 s'");
    let mut client = probe.server.client("receive", "service");
    client.args(["--resume", "0"]);
    let client = Running::start(client);
    probe.started().await;
    let began = Instant::now();
    client.signal("STOP");
    assert_eq!(probe.told().await, ServiceTold::all(&ExitReason::NoConnection, 0));
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1500) && took < Duration::from_secs(10), "{took:?}");
    client.signal("CONT");
    // It finds out as well.
    assert_eq!(client.code(), Some(9));
}

// A channel that was given to another process lives and dies with that one.

#[tokio::test]
async fn given_channel_ends_with_new_owner() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let modules = Modules::new().function("test", "gives", move |_me: Process, chan, (): (), (): ()| {
        let tell = tell.clone();
        async move {
            let chan: Channel<Request, u32> = chan;
            let group = spawn(async move |mut me: Process<Request>| {
                let request = me.recv().await;
                assert!(matches!(request, Event::Message(Request::Note(7))), "{request:?}");
                me.recv().await;
                Err(boom())
            });
            let given = chan.give_to(&group, |incoming| match incoming {
                lib_chan::Incoming::Message(Message::Cast(request)) => request,
                _ => Request::Return,
            });
            given.map_err(|_| ExitReason::NoProc)?;
            let _ = tell.send(());
            Ok(())
        }
    });
    let server = Embedded::start(modules, &["gives"], "");
    let chan: Channel<u32, Request> = server.open("gives").await;
    timeout(PATIENCE, told.recv()).await.unwrap();
    // Whoever gave it is gone, or will be at once.
    chan.remote().cast(Request::Note(7)).await.unwrap();
    chan.remote().flush().await.unwrap();
    chan.remote().cast(Request::Return).await.unwrap();
    assert_eq!(timeout(PATIENCE, chan.remote().ended()).await.unwrap(), boom());
}

// The connection ends.

#[tokio::test]
async fn connection_is_cut() {
    let mut probe = Probe::start();
    let proxy = Proxy::before(&probe.url());
    let client = probe.client_at(&proxy.url(&probe.url()), Limits::default()).await;
    client.cast(Request::Note(0)).await;
    client.remote.flush().await.unwrap();
    proxy.cut();
    let lost = ExitReason::NoConnection;
    assert_eq!(client.told().await, ClientTold::all(&lost));
    assert_eq!(probe.told().await, ServiceTold::all(&lost, 1));
}

#[tokio::test]
async fn silent_connection_is_lost_at_both_ends() {
    let mut probe = Probe::with("heartbeat_interval = '1 s'");
    let proxy = Proxy::before(&probe.url());
    let client = probe.client_at(&proxy.url(&probe.url()), Limits::default()).await;
    let began = Instant::now();
    proxy.swallow();
    let lost = ExitReason::NoConnection;
    assert_eq!(client.told().await, ClientTold::all(&lost));
    assert_eq!(probe.told().await, ServiceTold::all(&lost, 0));
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1500) && took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn unanswered_close_is_noconnection() {
    let mut probe = Probe::start();
    let proxy = Proxy::before(&probe.url());
    let mut limits = Limits::default();
    limits.close_timeout = Duration::from_millis(200);
    let chan: Channel<u32, Request> = probe.server.open_at(&proxy.url(&probe.url()), limits, false).await;
    probe.started().await;
    proxy.swallow();
    assert_eq!(timeout(PATIENCE, chan.close()).await.unwrap(), Err(ExitReason::NoConnection));
}

// The server ends.

const NAME_SERVER: &str = r#"
[[service]]
name = "name_server"
password_file = "password"
mfa = ["name_server", "start_me_up"]
"#;

async fn open_names(server: &Server) -> Channel<(), NamesMessage> {
    let password = Password::new(PASSWORD).unwrap();
    connect(server.url("name_server")).password(&password).open().await.expect("a session")
}

/// Long beyond the patience of a test.
const LONG_DRAIN: &str = "[limits]\ndrain_timeout = '1 h'";

#[tokio::test]
async fn signal_drains_server_program() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&format!("{NAME_SERVER}\n{LONG_DRAIN}"));
        let chan = open_names(&server).await;
        let remote = chan.remote();
        remote.store("joe", "writing a book").await.unwrap();
        server.signal(signal);
        assert_eq!(server.event("draining")["sessions"], 1);
        server
            .out
            .wait("what is waited for", |line| line.starts_with("Waiting at most 1h for 1 session to end"));
        // Whoever comes now finds nobody listening; the port is closed right after the event.
        let refused = |_: &u32| run(&mut server.client("ping", "name_server")).0 == Some(3);
        assert!((0..100).any(|attempt| refused(&attempt)));
        let joe = remote.lookup("joe").await;
        assert_eq!(joe, Ok(Some("writing a book".into())), "{signal}");
        chan.close().await.unwrap();
        assert_eq!(server.wait().code(), Some(0), "{signal}");
        assert_eq!(server.event("session_ended")["reason"], "normal");
        server.event("stopped");
    }
}

#[test]
fn idle_server_program_stops_at_once() {
    let mut server = Server::start(&format!("{NAME_SERVER}\n{LONG_DRAIN}"));
    server.signal("INT");
    assert_eq!(server.wait().code(), Some(0));
    assert!(!server.out.all().iter().any(|line| line.starts_with("Waiting")));
}

#[tokio::test]
async fn drain_timeout_ends_remaining_sessions() {
    let mut server = Server::start(&format!("{NAME_SERVER}\n[limits]\ndrain_timeout = '300 ms'"));
    let chan = open_names(&server).await;
    server.signal("TERM");
    assert_eq!(timeout(PATIENCE, chan.remote().ended()).await.unwrap(), ExitReason::Shutdown);
    assert_eq!(server.wait().code(), Some(0));
    server.event("draining");
    assert_eq!(server.event("session_ended")["reason"], "shutdown");
}

#[test]
fn client_program_tells_of_drain() {
    let mut server = Server::start(&format!("{NAME_SERVER}\n{LONG_DRAIN}"));
    let receiving = Running::start(server.client("receive", "name_server"));
    server.event("session_started");
    server.signal("TERM");
    receiving.err.wait("the drain", |line| line.starts_with("chan-client: the server is stopping"));
    receiving.signal("INT");
    assert_eq!(receiving.code(), Some(0));
    assert_eq!(server.wait().code(), Some(0));
}

#[tokio::test]
async fn second_signal_ends_sessions_with_shutdown() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(&format!("{NAME_SERVER}\n{LONG_DRAIN}"));
        let chan = open_names(&server).await;
        let remote = chan.remote();
        remote.store("joe", "writing a book").await.unwrap();
        let receiving = Running::start(server.client("receive", "name_server"));
        server.log.wait_for("both sessions", |lines| {
            lines.iter().filter(|line| line.contains("session_started")).count() == 2
        });
        server.signal(signal);
        server.event("draining");
        server.signal(signal);
        assert_eq!(timeout(PATIENCE, remote.ended()).await.unwrap(), ExitReason::Shutdown);
        assert_eq!(server.wait().code(), Some(0), "{signal}");
        let complaint = receiving.err.wait("shutdown", |line| line.contains("shutdown"));
        assert!(complaint.contains("the server is stopping"), "{complaint}");
        assert_eq!(receiving.code(), Some(7));
        server.event("stopped");
        // Nobody gets in any more.
        let (code, _, _) = run(&mut server.client("ping", "name_server"));
        assert_eq!(code, Some(3));
    }
}

#[tokio::test]
async fn never_awaiting_process_delays_no_drain() {
    let (tell, told) = std::sync::mpsc::channel();
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Arc::new(std::sync::Mutex::new(hold));
    let stuck = move |_: Process, mut chan: Channel<u32>, (): (), (): ()| {
        let (tell, hold) = (tell.clone(), hold.clone());
        async move {
            chan.recv().await;
            // Whom it has woken may run first: a thread gives nobody else what it wants to run next itself.
            tokio::task::yield_now().await;
            tell.send(()).unwrap();
            let _ = hold.lock().unwrap().recv();
            drop(chan);
            Ok(())
        }
    };
    let modules = Modules::new().function("test", "stuck", stuck);
    let mut server = Embedded::start(modules, &["stuck"], "drain_timeout = '300 ms'");
    let chan: Channel<u32> = server.open("stuck").await;
    chan.remote().cast(1_u32).await.unwrap();
    chan.remote().flush().await.unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    let drained = server.drain();
    assert_eq!(timeout(PATIENCE, chan.remote().ended()).await.unwrap(), ExitReason::Shutdown);
    timeout(PATIENCE, drained).await.unwrap().unwrap();
    drop(release);
}

#[tokio::test]
async fn server_program_is_killed_with_signal_9() {
    let server = Server::start(NAME_SERVER);
    let chan = open_names(&server).await;
    let remote = chan.remote();
    assert_eq!(remote.lookup("joe").await, Ok(None));
    server.signal("KILL");
    assert_eq!(timeout(PATIENCE, remote.ended()).await.unwrap(), ExitReason::NoConnection);
    let error = remote.lookup("joe").await.unwrap_err();
    assert_eq!(error, CallError::new(Executed::No, CallFailure::Exit(ExitReason::NoConnection)));
}

#[tokio::test]
async fn stopped_server_makes_open_call_unknown() {
    let server = Server::start(&format!("{NAME_SERVER}\n[limits]\nheartbeat_interval = '1 s'"));
    let chan = open_names(&server).await;
    let remote = chan.remote();
    assert_eq!(remote.lookup("joe").await, Ok(None));
    server.signal("STOP");
    let error = timeout(PATIENCE, remote.lookup("joe")).await.unwrap().unwrap_err();
    assert_eq!(error, CallError::new(Executed::Unknown, CallFailure::Exit(ExitReason::NoConnection)));
    assert_eq!(remote.ended().await, ExitReason::NoConnection);
}

#[test]
fn refused_target_is_exit_reason() {
    let server = Server::start(
        "[[service]]\nname = 'gone'\npassword_file = 'password'\nmfa = ['tcp', 'connect', '127.0.0.1:1']",
    );
    let (code, _, complaint) = run(&mut server.client("pipe", "gone"));
    assert_eq!(code, Some(7));
    assert!(complaint.contains("connection refused"), "{complaint}");
    let ended = server.event("session_ended");
    assert_eq!(ended["reason"], "failed: target: connection refused");
}

// What is sent is wrong.

#[tokio::test]
async fn undecodable_cast_says_why_at_both_ends() {
    let mut probe = Probe::start();
    let client: Channel<u32, String> = probe.server.open("service").await;
    client.remote().cast("no request of that service").await.unwrap();
    let reason = timeout(PATIENCE, client.remote().ended()).await.unwrap();
    assert!(reason.text().starts_with("a cast cannot be decoded: "), "{reason}");
    assert_eq!(probe.told().await, ServiceTold::all(&reason, 0));
}

#[tokio::test]
async fn undecodable_call_is_refused_alone() {
    #[derive(Serialize, Deserialize)]
    struct Wrong(String);
    impl Call for Wrong {
        type Reply = ();
    }
    let probe = Probe::start();
    let client: Channel<u32, Wrong> = probe.server.open("service").await;
    let error = client.remote().call(Wrong("no request of that service".into())).await.unwrap_err();
    assert_eq!(error.executed, Executed::No);
    assert!(matches!(error.reason, CallFailure::Codec(_)), "{error}");
    assert_eq!(client.close().await, Ok(()));
}

#[test]
fn abandoned_logins_hold_no_place() {
    // One login at a time: a place that is not given back turns the next one away.
    let server = Server::start(&format!("{NAME_SERVER}\n[limits]\nmax_logins_per_source = 1"));
    let url = server.url("name_server");
    for count in 1..=10 {
        let leaving = std::net::TcpStream::connect(("127.0.0.1", chan_tests::port_of(url))).unwrap();
        drop(leaving);
        server.log.wait_for("a failed login", |lines| {
            lines.iter().filter(|line| line.contains("login_failed")).count() == count
        });
    }
    assert_eq!(run(&mut server.client("ping", "name_server")).0, Some(0));
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let server = Server::start(NAME_SERVER);
    let url = server.url("name_server").replacen(
        &format!(":{}/", chan_tests::port_of(server.url("name_server"))),
        &format!(":{port}/"),
        1,
    );
    let mut client: Command = server.client_at("ping", &url, &server.folder.path().join("password"));
    let (code, _, complaint) = run(client.args(["--timeout", "300ms"]));
    assert_eq!(code, Some(8), "{complaint}");
}
