//! A server with one small service, for the tests of the client.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lib_chan::auth::{
    Account, AccountVerifier, Argon2Params, ClientId, Directory, NameKey, PasswordVerifier, ResumeKey,
    ServiceName, SessionId,
};
use lib_chan::channel::{Attacher, First, Opening, attachments, hear_first, say_lost, serve_resumable};
use lib_chan::handshake::SessionParameters;
use lib_chan::login::login_server;
use lib_chan::payload::Codec;
use lib_chan::secret::{Password, PrivateKey, Secret};
use lib_chan::tls::{CheckedKey, Pin, ReloadableKey, exporter, server_config};
use lib_chan::wire::Granted;
use lib_chan::{Call, Channel, ExitReason, Limits, Message, Opaque, Process, spawn};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The password of the service. The client `joe` logs in with [`key`] instead.
pub(crate) const PASSWORD: &str = "correct horse";

pub(crate) fn key() -> PrivateKey {
    PrivateKey::from_seed(Secret::new([7; 32])).unwrap()
}

/// The requests of the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Answers with twice the number.
    Double(u32),
    /// Is told to the test.
    Note(u32),
    /// Is refused.
    Refuse,
    /// Gets no answer.
    Drop,
    /// Gets no answer, and the service keeps it.
    Hang,
    /// Ends the service.
    Crash,
    /// Cuts the connection.
    Cut,
    /// Answers with so many bytes.
    Long(usize),
}

impl Call for Request {
    type Reply = String;
}

/// A server on loopback. It ends with the runtime of the test.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) pin: Pin,
    /// What it was asked to note.
    pub(crate) noted: mpsc::UnboundedReceiver<u32>,
}

#[derive(Clone)]
pub(crate) struct Identity {
    pin: Pin,
    pub(crate) config: ServerConfig,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = CheckedKey::new(vec![certificate.into()], key).unwrap();
        let pin = key.pin().unwrap();
        let config = server_config(Arc::new(ReloadableKey::new(key))).unwrap();
        Self { pin, config: Arc::unwrap_or_clone(config) }
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Identity::new(), |_| 1).await
    }

    /// With `salt` for the password of the connection of this number.
    pub(crate) async fn with(identity: Identity, salt: impl Fn(usize) -> u8 + Send + 'static) -> Self {
        let Identity { pin, config } = identity;
        let (listener, port) = bind().await;
        let (note, noted) = mpsc::unbounded_channel();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            let resumable = Resumable::default();
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let resumable = Arc::clone(&resumable);
                tokio::spawn(connection(stream, acceptor.clone(), salt(number), note.clone(), resumable));
            }
        });
        Self { port, pin, noted }
    }

    /// Speaks TLS, notes each connection, and never answers.
    pub(crate) async fn mute(identity: Identity) -> Self {
        let Identity { pin, config } = identity;
        let (listener, port) = bind().await;
        let (note, noted) = mpsc::unbounded_channel();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let _ = note.send(0);
                let mut stream = acceptor.accept(stream).await.unwrap();
                drop(stream.read_to_end(&mut Vec::new()).await);
            }
        });
        Self { port, pin, noted }
    }

    /// Does with a connection what `serve` says, TLS not among it.
    pub(crate) async fn plain<F: Future<Output = ()> + Send>(
        serve: impl Fn(TcpStream) -> F + Send + Sync + 'static,
    ) -> Self {
        let (listener, port) = bind().await;
        tokio::spawn(async move {
            loop {
                serve(listener.accept().await.unwrap().0).await;
            }
        });
        Self { port, pin: Pin([0; 32]), noted: mpsc::unbounded_channel().1 }
    }

    pub(crate) fn url(&self) -> String {
        format!("chan://localhost:{}/s?pin={}", self.port, self.pin)
    }

    pub(crate) fn authority(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

async fn bind() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// The sessions that can be resumed: the number of each is in its id.
type Resumable = Arc<Mutex<Vec<(ResumeKey, Attacher<Box<TlsStream<TcpStream>>>)>>>;

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    salt: u8,
    note: mpsc::UnboundedSender<u32>,
    resumable: Resumable,
) -> Option<ExitReason> {
    let mut stream = acceptor.accept(stream).await.ok()?;
    let exporter = exporter(stream.get_ref().1).ok()?;
    let limits = Limits::default();
    let parameters = SessionParameters::from_limits(&limits).unwrap();
    let directory = directory(salt);
    let authenticated =
        login_server(&mut stream, exporter.clone(), &directory, parameters, |_| true, |_| Duration::ZERO)
            .await
            .ok()?;
    let first = match hear_first(&mut stream).await {
        First::Other(first) => first,
        First::Resume { claim, proof } => {
            let attacher = {
                let resumable = resumable.lock().unwrap();
                let (key, attacher) = (0_u8..).zip(resumable.iter()).find_map(|(number, found)| {
                    (claim.id == SessionId::new([number; 16])).then_some(found)
                })?;
                ResumeKey::judge(Some((attacher.clone(), key)), key, &exporter, &claim, &proof)?
            };
            if let Err(stream) = attacher.attach(claim, Box::new(stream)) {
                say_lost(*stream, None, &limits).await;
            }
            return None;
        }
    };
    let cut = Arc::new(Notify::new());
    let (attacher, attachments) = attachments();
    let start = |mut opening: Opening| {
        let window = opening.wants_resume();
        if !window.is_zero() {
            let mut resumable = resumable.lock().unwrap();
            let (number, secret) = (resumable.len() as u8, Secret::new([6; 32]));
            resumable.push((ResumeKey::new(&secret), attacher));
            opening.grant(Granted {
                window: window.as_millis() as u64,
                id: SessionId::new([number; 16]),
                secret,
            });
        }
        start(opening, note, cut.clone());
    };
    tokio::select! {
        served = serve_resumable(stream, &first, &authenticated, &limits, attachments, |_| {}, start) => {
            Some(served.reason)
        }
        () = cut.notified() => None,
    }
}

fn directory(salt: u8) -> Directory {
    let service = ServiceName::new("s").unwrap();
    // The least that a client agrees to.
    let params = Argon2Params::new(19 * 1024, 2, 1).unwrap();
    let salt = NameKey::new(Secret::new([salt; 32])).salt(&service, &ClientId::default());
    let verifier = PasswordVerifier::derive(&Password::new(PASSWORD).unwrap(), &salt, params).unwrap();
    let account = |client, verifier| {
        let client = ClientId::new(client).unwrap();
        Account { service: service.clone(), client, verifier, enabled: true, index: 0 }
    };
    let accounts = [
        account("", AccountVerifier::Password(verifier)),
        account("joe", AccountVerifier::Key(key().public_key())),
    ];
    Directory::new(NameKey::new(Secret::new([1; 32])), Secret::new([2; 32]), accounts).unwrap().0
}

/// Starts the service in the way that its arguments ask for.
fn start(opening: Opening, note: mpsc::UnboundedSender<u32>, cut: Arc<Notify>) {
    if opening.codec() == Codec::Raw {
        match opening.args::<String>().unwrap().as_str() {
            "brief" => spawn(|_: Process| brief(opening.accept(), Ok(()))),
            "broken" => spawn(|_: Process| brief(opening.accept(), Err(ExitReason::failed("out of order")))),
            _ => spawn(|_: Process| echo(opening.accept())),
        };
        return;
    }
    match opening.args::<String>().unwrap_or_default().as_str() {
        "refuse" => opening.refuse("not today"),
        "end" => opening.control().end(ExitReason::Shutdown),
        "hang" => drop(tokio::spawn(async {
            pending::<()>().await;
            drop(opening);
        })),
        "push" => drop(spawn(|_: Process| push(opening.accept()))),
        _ => drop(spawn(|_: Process| answer(opening.accept(), note, cut))),
    }
}

async fn answer(
    mut chan: Channel<Request, ()>,
    note: mpsc::UnboundedSender<u32>,
    cut: Arc<Notify>,
) -> Result<(), ExitReason> {
    let mut kept = Vec::new();
    while let Some(message) = chan.recv().await {
        let (request, reply) = match message {
            Message::Cast(Request::Note(number)) => {
                note.send(number).unwrap();
                continue;
            }
            Message::Cast(_) => continue,
            Message::Call(request, reply) => {
                let reply = reply.to(&request);
                (request, reply)
            }
        };
        match request {
            Request::Double(number) => reply.send((2 * number).to_string()),
            Request::Refuse => reply.refuse("no such number"),
            Request::Hang => kept.push(reply),
            Request::Crash => return Err(ExitReason::failed("out of order")),
            Request::Cut => {
                kept.push(reply);
                cut.notify_one();
            }
            Request::Long(len) => reply.send("x".repeat(len)),
            Request::Drop | Request::Note(_) => drop(reply),
        }
    }
    Ok(())
}

async fn push(chan: Channel<(), String>) -> Result<(), ExitReason> {
    for text in ["one", "two\u{9b}", "three"] {
        chan.remote().cast(text).await?;
    }
    Ok(())
}

async fn echo(mut chan: Channel<Opaque>) -> Result<(), ExitReason> {
    while let Some(message) = chan.recv().await {
        let Message::Cast(piece) = message else { continue };
        let last = piece.0.is_empty();
        chan.remote().cast(piece).await?;
        if last {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends its text whatever the client sends, closes its direction if `end` is `Ok`, and ends.
async fn brief(chan: Channel<Opaque>, end: Result<(), ExitReason>) -> Result<(), ExitReason> {
    let remote = chan.remote();
    remote.cast(Opaque(BRIEF.into())).await?;
    if end.is_ok() {
        remote.cast(Opaque::default()).await?;
    }
    end
}

pub(crate) const BRIEF: &str = "that is all";
