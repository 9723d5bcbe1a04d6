//! Sessions that lose their connection, and clients that come back to a real server.

use std::net::Shutdown;

use chan_server::live::{SessionInfo, Whom};
use lib_chan::channel::{Connected, OpenRequest, open_resumable};
use lib_chan::handshake::Authenticated;
use lib_chan::{CallError, CallFailure, ConnectionState, Executed};

use super::*;

const WINDOW: Duration = Duration::from_secs(60);

/// The way from a client to a server.
#[derive(Clone)]
struct Network {
    to: Arc<Mutex<(SocketAddr, Pin)>>,
    /// The last connection.
    last: Arc<Mutex<Option<std::net::TcpStream>>>,
    /// What the client needs before it dials again.
    gate: Arc<tokio::sync::Semaphore>,
}

impl Network {
    fn to(running: &Running) -> Self {
        let to = Arc::new(Mutex::new((running.address, running.pin)));
        Self { to, last: Arc::default(), gate: Arc::new(tokio::sync::Semaphore::new(0)) }
    }

    /// Lets the client dial again.
    fn let_dial(&self) {
        self.gate.add_permits(1);
    }

    /// Cuts the connection in both directions.
    fn cut(&self) {
        self.last.lock().unwrap().take().unwrap().shutdown(Shutdown::Both).unwrap();
    }

    async fn dial(&self) -> Result<(TlsStream<TcpStream>, Authenticated), LoginError> {
        let (address, pin) = *self.to.lock().unwrap();
        let tcp = TcpStream::connect(address).await?.into_std()?;
        *self.last.lock().unwrap() = Some(tcp.try_clone()?);
        let config = client_config(Arc::new(PinVerifier::new([pin]))).unwrap();
        let connector = TlsConnector::from(config);
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, TcpStream::from_std(tcp)?).await?;
        let target = Target {
            host: address.to_string().into(),
            service: "echo".parse().unwrap(),
            client: "joe".parse().unwrap(),
        };
        let key = key(1);
        let login = ClientLogin::prepare(target, Credential::Key(&key)).await;
        let exporter = exporter(stream.get_ref().1).unwrap();
        let authenticated = login.run(&mut stream, exporter).await?;
        Ok((stream, authenticated))
    }

    async fn open(&self) -> Channel<Opaque> {
        let (stream, client) = self.dial().await.unwrap();
        let there = self.clone();
        let connector = Box::new(move |_| {
            let there = there.clone();
            Box::pin(async move {
                there.gate.acquire().await.unwrap().forget();
                let (stream, _) = there.dial().await.map_err(|_| ExitReason::Revoked)?;
                let exporter = exporter(stream.get_ref().1).unwrap();
                Ok(Connected { stream, exporter })
            }) as _
        });
        let request = OpenRequest { resume: WINDOW, ..OpenRequest::new(Codec::Raw, b"") };
        open_resumable(stream, &client, &Limits::default(), &request, false, connector).await.unwrap()
    }
}

/// Sends the text, and waits until it has come back.
async fn echoes(chan: &mut Channel<Opaque>, text: &'static [u8]) {
    chan.remote().cast(Opaque(Bytes::from_static(text))).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, chan.recv()).await.unwrap();
    assert!(matches!(answer, Some(Message::Cast(Opaque(bytes))) if bytes == text));
}

/// A session that is detached, and whose client waits.
async fn detached(running: &Running) -> (Channel<Opaque>, Network) {
    let network = Network::to(running);
    let mut chan = network.open().await;
    echoes(&mut chan, b"before").await;
    network.cut();
    running.log.first("session_detached").await;
    (chan, network)
}

#[tokio::test]
async fn session_resumes_after_a_cut() {
    let running = serve(&echo(), "").await;
    let (mut chan, network) = detached(&running).await;
    let handle = running.server.as_ref().unwrap().handle();
    let state = |sessions: &[SessionInfo]| serde_json::to_value(sessions).unwrap()[0]["state"].clone();
    assert_eq!(state(&handle.sessions()), "detached");
    assert_eq!(running.server.as_ref().unwrap().sessions(), 1, "it keeps its place");
    network.let_dial();
    echoes(&mut chan, b"after").await;
    let resumed = running.log.first("session_resumed").await;
    assert_eq!((&resumed["connection"], &resumed["over"]), (&0.into(), &1.into()));
    assert_eq!(running.log.first("session_started").await["resume_ms"], 60_000);
    assert_eq!(state(&handle.sessions()), "open");
    network.cut();
    network.let_dial();
    echoes(&mut chan, b"again").await;
    assert_eq!(chan.close().await, Ok(()));
    assert_eq!(running.log.first("session_ended").await["reason"], "normal");
}

#[tokio::test]
async fn service_without_resume_ends_with_its_connection() {
    let off = echo().replace("[[service.client]]", "resume = '0'\n[[service.client]]");
    let running = serve(&off, "").await;
    let network = Network::to(&running);
    let mut chan = network.open().await;
    echoes(&mut chan, b"before").await;
    network.cut();
    assert_eq!(chan.remote().ended().await, ExitReason::NoConnection);
    assert_eq!(running.log.first("session_ended").await["reason"], "noconnection");
}

#[tokio::test]
async fn one_resumable_session_too_many_opens_without() {
    let running = serve(&echo(), "max_resumable = 0").await;
    let mut chan = Network::to(&running).open().await;
    echoes(&mut chan, b"open").await;
    let why = "the server has too many resumable sessions (max_resumable)";
    assert_eq!(running.log.first("session_started").await["no_resume"], why);
}

/// A service that takes every call and answers none.
fn hanging() -> Modules {
    let hang = |_me: Process, mut chan: Channel<Opaque>, (): (), (): ()| async move {
        let mut taken = Vec::new();
        while let Some(message) = chan.recv().await {
            if let Message::Call(call, reply) = message {
                chan.remote().cast(call).await?;
                taken.push(reply);
            }
        }
        Ok(())
    };
    Modules::new().function_for(&[Codec::Raw], "test", "hang", hang)
}

#[tokio::test]
async fn restarted_server_is_told_truth_about_calls() {
    let running = serve_with(&hanging(), &service("echo", "['test', 'hang']", 1), "").await;
    let network = Network::to(&running);
    let mut chan = network.open().await;
    let call = |chan: &Channel<Opaque>| {
        let remote = chan.remote();
        tokio::spawn(async move { remote.call(Opaque(Bytes::from_static(b"call"))).await })
    };
    let taken = call(&chan);
    assert!(matches!(chan.recv().await, Some(Message::Cast(_))), "the service has taken it");
    let attached = chan.remote().connection();
    network.cut();
    let detached = chan.remote().connection_changed(attached).await;
    assert!(matches!(detached, Some(ConnectionState::Detached { .. })), "{detached:?}");
    let unwritten = call(&chan);
    tokio::task::yield_now().await;
    let other = serve_with(&hanging(), &service("echo", "['test', 'hang']", 1), "").await;
    *network.to.lock().unwrap() = (other.address, other.pin);
    network.let_dial();
    assert_eq!(chan.remote().ended().await, ExitReason::NoConnection);
    let exit = CallFailure::Exit(ExitReason::NoConnection);
    assert_eq!(taken.await.unwrap().unwrap_err(), CallError::new(Executed::Unknown, exit.clone()));
    assert_eq!(unwritten.await.unwrap().unwrap_err(), CallError::new(Executed::No, exit));
    assert!(chan.recv().await.is_none());
    assert_eq!(other.log.first("session_refused").await["client"], "joe");
    assert_eq!(other.server.as_ref().unwrap().sessions(), 0);
}

#[tokio::test]
async fn session_expires_at_server_without_its_client() {
    let short = echo().replace("[[service.client]]", "resume = '100 ms'\n[[service.client]]");
    let running = serve(&short, "").await;
    let (chan, _network) = detached(&running).await;
    running.log.first("session_expired").await;
    assert_eq!(running.log.first("session_ended").await["reason"], "noconnection");
    assert_eq!(chan.remote().ended().await, ExitReason::NoConnection);
}

#[tokio::test]
async fn client_with_all_its_resumable_sessions_opens_without() {
    let running = serve(&echo(), "max_resumable_per_client = 1").await;
    let mut first = Network::to(&running).open().await;
    echoes(&mut first, b"first").await;
    let network = Network::to(&running);
    let mut second = network.open().await;
    echoes(&mut second, b"second").await;
    let why = "this client has too many resumable sessions (max_resumable_per_client)";
    assert_eq!(running.log.nth("session_started", 0).await["no_resume"], serde_json::Value::Null);
    assert_eq!(running.log.nth("session_started", 1).await["no_resume"], why);
    network.cut();
    assert_eq!(second.remote().ended().await, ExitReason::NoConnection);
    // Its end makes room for another one.
    assert_eq!(first.close().await, Ok(()));
    running.log.nth("session_ended", 1).await;
    let mut third = Network::to(&running).open().await;
    echoes(&mut third, b"third").await;
    assert_eq!(running.log.nth("session_started", 2).await["resume_ms"], 60_000);
}

#[tokio::test]
async fn draining_server_resumes_and_starts_nothing() {
    let mut running = serve(&echo(), "drain_timeout = '1 h'").await;
    let (mut chan, network) = detached(&running).await;
    let mut server = running.server.take().unwrap();
    let draining = tokio::spawn(async move {
        server.drain().await;
        server.shutdown().await;
    });
    running.log.first("draining").await;
    let (stream, client) = network.dial().await.unwrap();
    let refused =
        open::<Opaque, Opaque, _>(stream, &client, &Limits::default(), Codec::Raw, b"", false).await;
    assert_eq!(refused.unwrap_err(), OpenError::Refused("the server is going away".into()));
    network.let_dial();
    echoes(&mut chan, b"after").await;
    assert_eq!(chan.close().await, Ok(()));
    tokio::time::timeout(PATIENCE, draining).await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn shutdown_ends_detached_sessions() {
    let mut running = serve(&echo(), "").await;
    let (_chan, _network) = detached(&running).await;
    running.shutdown().await;
    assert_eq!(running.log.first("session_ended").await["reason"], "shutdown");
}

#[tokio::test]
async fn withdrawn_right_ends_detached_session_at_once() {
    let running = serve(&echo(), "").await;
    let (_chan, _network) = detached(&running).await;
    let other = service("other", "['echo', 'start']", 1);
    let text = format!("listen = ['127.0.0.1:0']\nrevoke_grace = '1 h'\n{other}");
    let config = Config::parse(&text, Path::new("test"), &Modules::standard()).unwrap();
    running.server.as_ref().unwrap().handle().reload(config).await.unwrap();
    assert_eq!(running.log.first("session_ended").await["reason"], "revoked");
}

#[tokio::test]
async fn kicked_while_away_learns_the_true_end() {
    let running = serve(&echo(), "").await;
    let (chan, network) = detached(&running).await;
    let handle = running.server.as_ref().unwrap().handle();
    assert_eq!(handle.kick(&Whom::Session(0)), [0]);
    running.log.first("session_ended").await;
    network.let_dial();
    assert_eq!(chan.remote().ended().await, ExitReason::Shutdown);
}
