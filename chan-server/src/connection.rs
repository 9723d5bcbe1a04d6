//! One connection, from the first byte of TLS to the last words of its session, in a task of its own.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use lib_chan::ExitReason;
use lib_chan::handshake::Authenticated;
use lib_chan::login::{ServerLoginError, login_server};
use lib_chan::middleman::{Control, Opening, serve};
use lib_chan::tls::{TlsError, exporter};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::server::TlsStream;

use crate::audit::{Event, Who, escaped};
use crate::gate::{Crowded, Holder, LoginEnd, LoginPermit, SessionPermit, Source};
use crate::server::{Core, Phase};
use crate::traffic::{Counted, Traffic};

/// A connection, as the log knows it.
pub(crate) struct Connection {
    pub(crate) core: Arc<Core>,
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) accepted: Instant,
}

/// On the heap, since it is large and moves from hand to hand.
type Stream = Box<TlsStream<Counted<TcpStream>>>;

impl Connection {
    /// Serves the connection to its end. When the server drains, a login is cut off, and a session told; when it stops,
    /// a session ends `shutdown`.
    pub(crate) async fn run(self, tcp: TcpStream, permit: LoginPermit, mut phase: watch::Receiver<Phase>) {
        let tcp = Counted::new(tcp);
        let traffic = tcp.traffic();
        let login = tokio::select! {
            biased;
            // On the heap, so that an idle session does not keep the room of a login.
            login = Box::pin(self.login(tcp)) => login,
            _ = after(Phase::Serving, &mut phase) => return permit.settle(LoginEnd::Good),
        };
        match login {
            Ok((stream, client)) => self.session(stream, &client, &traffic, permit, phase).await,
            Err(failed) => {
                permit.settle(failed.end());
                self.log_failure(&failed);
            }
        }
    }

    /// TLS and the login, each under its own deadline, counted from the moment of the accept.
    async fn login(&self, tcp: Counted<TcpStream>) -> Result<(Stream, Authenticated), LoginFailed> {
        let limits = &self.core.limits;
        let deadline = self.accepted + limits.login_timeout;
        let handshake = self.core.acceptor.accept(tcp);
        let mut stream = timeout_at(self.accepted + limits.tls_timeout, handshake)
            .await
            .map_err(|_| LoginFailed::Deadline("TLS"))?
            .map_err(LoginFailed::Handshake)?;
        let exporter = exporter(stream.get_ref().1)?;
        let login = login_server(&mut stream, exporter, &self.core.directory, self.core.parameters, |_| true);
        match timeout_at(deadline, login).await {
            Ok(Ok(client)) => Ok((Box::new(stream), client)),
            Ok(Err(error)) => {
                // The refusal has been flushed; an orderly end keeps it from being lost on its way.
                let _ = timeout_at(deadline, stream.shutdown()).await;
                Err(LoginFailed::Login(error))
            }
            Err(_) => Err(LoginFailed::Deadline("login")),
        }
    }

    fn log_failure(&self, failed: &LoginFailed) {
        let who = match failed {
            LoginFailed::Login(ServerLoginError::Refused(refusal)) => {
                Who { service: refusal.service.as_str(), client: refusal.client.as_str() }
            }
            _ => Who::default(),
        };
        self.write(|connection, peer| Event::LoginFailed {
            connection,
            peer,
            who,
            why: failed.why(),
            ms: self.age(),
        });
    }

    /// Serves the session until it is over and its last words are said.
    async fn session(
        &self,
        stream: Stream,
        client: &Authenticated,
        traffic: &Traffic,
        login: LoginPermit,
        mut phase: watch::Receiver<Phase>,
    ) {
        let who = Who::of(client);
        self.write(|connection, peer| Event::LoginOk { connection, peer, who, ms: self.age() });
        // Whoever finds no place for a session keeps the one of its login: else there would be no bound to them.
        let place = match self.permit(client) {
            Ok(place) => {
                login.settle(LoginEnd::Good);
                Ok(place)
            }
            Err(crowded) => Err((crowded, login)),
        };
        let crowded = place.as_ref().err().map(|(crowded, _)| *crowded);
        let started = OnceLock::new();
        let watched = phase.clone();
        let start = |opening: Opening| {
            let serving = *watched.borrow() == Phase::Serving;
            if serving {
                self.start(opening, client, crowded, &started);
            } else {
                opening.refuse(GOING_AWAY);
                self.refused(client, GOING_AWAY);
            }
        };
        let mut serving = pin!(serve(stream, client, &self.core.limits, start));
        // Whoever has proved itself and then asks for nothing holds a place all the same.
        let mut patience = pin!(sleep(self.core.limits.login_timeout));
        let (mut patient, mut seen) = (true, Phase::Serving);
        let reason = loop {
            tokio::select! {
                reason = &mut serving => break reason,
                () = &mut patience, if patient => {
                    patient = false;
                    if started.get().is_none() {
                        break ExitReason::NoConnection;
                    }
                }
                next = after(seen, &mut phase) => {
                    seen = next;
                    match (seen, started.get()) {
                        (Phase::Stopping, Some(control)) => control.end(ExitReason::Shutdown),
                        (Phase::Stopping, None) => break ExitReason::Shutdown,
                        (Phase::Draining, Some(control)) => control.go_away(),
                        // One that is not open yet is refused when it asks for its service.
                        (Phase::Draining, None) | (Phase::Serving, _) => {}
                    }
                }
            }
        };
        let (bytes_in, bytes_out, reason) =
            (traffic.received(), traffic.sent(), escaped(&reason.to_string()));
        self.write(|connection, peer| Event::SessionEnded {
            connection,
            peer,
            who,
            reason,
            bytes_in,
            bytes_out,
            ms: self.age(),
        });
        if let Err((_, login)) = place {
            login.settle(LoginEnd::Good);
        }
    }

    /// Starts the service, or refuses by name: the client has proved itself.
    fn start(
        &self,
        opening: Opening,
        client: &Authenticated,
        crowded: Option<Crowded>,
        started: &OnceLock<Control>,
    ) {
        let control = opening.control();
        let outcome = match (crowded, self.core.starter(client)) {
            (Some(crowded), _) => {
                opening.refuse_overload(crowded.as_str());
                Err(crowded.as_str().into())
            }
            (None, Some(starter)) => starter.start(opening),
            (None, None) => {
                opening.refuse("revoked");
                Err("revoked".into())
            }
        };
        let who = Who::of(client);
        match outcome {
            Ok(()) => {
                let _ = started.set(control);
                self.write(|connection, peer| Event::SessionStarted { connection, peer, who });
            }
            Err(why) => self.refused(client, &why),
        }
    }

    fn refused(&self, client: &Authenticated, why: &str) {
        // A codec may quote what the client said.
        let (who, why) = (Who::of(client), escaped(why));
        self.write(|connection, peer| Event::SessionRefused { connection, peer, who, why });
    }

    fn write<'e>(&self, event: impl FnOnce(u64, SocketAddr) -> Event<'e>) {
        self.core.audit.write(&event(self.id, self.peer));
    }

    fn permit(&self, client: &Authenticated) -> Result<SessionPermit, Crowded> {
        let service: Arc<str> = client.service().as_str().into();
        let holder = match client.client().as_str() {
            "" => Holder::Source(Source::of(self.peer.ip())),
            name => Holder::Client(Arc::clone(&service), name.into()),
        };
        SessionPermit::take(&self.core.sessions, &service, holder)
    }

    fn age(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a client is told that comes too late.
const GOING_AWAY: &str = "the server is going away";

/// Waits until the server has come further than `seen`. One that is dropped without a word cuts its connections itself.
pub(crate) async fn after(seen: Phase, phase: &mut watch::Receiver<Phase>) -> Phase {
    let further = phase.wait_for(|&phase| phase > seen).await.map(|phase| *phase);
    match further {
        Ok(phase) => phase,
        Err(_) => std::future::pending().await,
    }
}

impl<'c> Who<'c> {
    fn of(client: &'c Authenticated) -> Self {
        Self { service: client.service().as_str(), client: client.client().as_str() }
    }
}

/// Why nobody got in.
enum LoginFailed {
    /// What took too long.
    Deadline(&'static str),
    /// The TLS handshake failed.
    Handshake(io::Error),
    /// The handshake was done, and is not one that both sides insist on.
    Tls(TlsError),
    Login(ServerLoginError),
}

impl From<TlsError> for LoginFailed {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl LoginFailed {
    /// What the source deserves for it.
    fn end(&self) -> LoginEnd {
        match self {
            Self::Deadline(_) => LoginEnd::DeadlinePassed,
            Self::Login(ServerLoginError::NoRandomness) => LoginEnd::Good,
            Self::Login(ServerLoginError::Refused(_) | ServerLoginError::ClientMisbehaved(_)) => {
                LoginEnd::FailedProof
            }
            Self::Handshake(_) | Self::Tls(_) | Self::Login(_) => LoginEnd::NothingSent,
        }
    }

    /// The true reason, for the log alone.
    fn why(&self) -> String {
        match self {
            Self::Deadline(what) => format!("{what}: deadline passed"),
            Self::Handshake(error) => format!("TLS: {}", escaped(&error.to_string())),
            Self::Tls(error) => format!("TLS: {error}"),
            Self::Login(error) => match error.refusal_cause() {
                Some(cause) => cause.to_string(),
                None => escaped(&error.to_string()),
            },
        }
    }
}
