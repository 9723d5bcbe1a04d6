//! Sessions that lose their connection, and clients that come back to a real server.

use std::net::Shutdown;

use chan_server::live::{SessionInfo, Whom};
use lib_chan::auth::{ResumeClaim, ResumeKey, SessionId};
use lib_chan::channel::{Connected, Resume, open_resumable};
use lib_chan::handshake::Authenticated;
use lib_chan::wire::{Frame, LEN_LEN, Tombstone};

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
        let resume = Resume { window: WINDOW, connector };
        let limits = Limits::default();
        open_resumable(stream, &client, &limits, Codec::Raw, b"", None, false, resume).await.unwrap()
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

/// Logs in, claims a session that there is not, and returns what the server knows of it.
async fn claim_unknown(running: &Running) -> Result<Option<Tombstone>, LoginError> {
    let (mut stream, _) = Network::to(running).dial().await?;
    let exporter = exporter(stream.get_ref().1).unwrap();
    let claim = ResumeClaim { id: SessionId::new([1; 16]), epoch: 2, received: 0, sent: 0 };
    let proof = ResumeKey::new(&Secret::new([2; 32])).prove(&exporter, &claim);
    let mut bytes = Vec::new();
    Frame::Resume { claim, proof: &proof }.put(&mut bytes);
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    match Frame::parse(&answer[LEN_LEN..]) {
        Ok(Frame::Lost { tombstone }) => Ok(tombstone),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn unknown_session_is_a_failed_login() {
    let running = serve(&echo(), "max_logins_before_drop = 1\nlogin_drop_percent = 0").await;
    assert_eq!(claim_unknown(&running).await.unwrap(), None);
    assert_eq!(
        running.log.first("session_refused").await["why"],
        "no session of this client has this name and proof"
    );
    // Nothing but these failures turns the source away: each login is right.
    let mut claims = 0;
    while running.log.find("turned").is_none() {
        claims += 1;
        assert!(claims < 1000, "never turned away");
        let _ = claim_unknown(&running).await;
    }
    let why = "too many failures from this source, under load ([gate] penalties)";
    assert_eq!(running.log.first("turned").await["why"], why);
}

#[tokio::test]
async fn restarted_server_has_lost_the_session() {
    let running = serve(&echo(), "").await;
    let (chan, network) = detached(&running).await;
    let other = serve(&echo(), "").await;
    *network.to.lock().unwrap() = (other.address, other.pin);
    network.let_dial();
    assert_eq!(chan.remote().ended().await, ExitReason::NoConnection);
    assert_eq!(other.log.first("session_refused").await["client"], "joe");
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
