//! Serves one connection, from its first byte to the last words of its session, in a task of its own.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use lib_chan::ExitReason;
use lib_chan::auth::{Account, AccountVerifier, Mechanism, ResumeClaim, ResumeKey, SessionId};
use lib_chan::channel::{
    Attacher, Change, First, Opening, attachments, hear_first, say_lost, serve_resumable,
};
use lib_chan::handshake::Authenticated;
use lib_chan::handshake::server::Refusal;
use lib_chan::login::{ServerLoginError, login_server};
use lib_chan::secret::Secret;
use lib_chan::tls::{TlsError, exporter};
use lib_chan::wire::{Granted, Tombstone};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use crate::audit::{Event, Who, escaped};
use crate::gate::{
    Crowded, Holder, LoginEnd, LoginPermit, OpeningPermit, SessionPermit, Source, Turned, deadline, locked,
    woke_after,
};
use crate::live::Seat;
use crate::modules::Log;
use crate::policy::Policy;
use crate::proxy_protocol;
use crate::resume::{Found, NoRoom, Resumable};
use crate::shared::{Core, Phase, Way, after};
use crate::traffic::{Counted, Stream, Traffic};

/// A connection, as the log knows it.
pub(crate) struct Connection {
    pub(crate) core: Arc<Core>,
    /// What was granted when it was accepted.
    pub(crate) policy: Arc<Policy>,
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) accepted: Instant,
}

impl Connection {
    /// Serves the connection to its end. When the server drains, a login is cut off, and a session told; when it stops,
    /// a session ends `shutdown`.
    pub(crate) async fn run(
        mut self,
        mut tcp: TcpStream,
        permit: LoginPermit,
        mut phase: watch::Receiver<Phase>,
    ) {
        let permit = if self.policy.is_proxy(self.peer.ip()) {
            let core = Arc::clone(&self.core);
            let heard = tokio::select! {
                biased;
                heard = self.behind_proxy(&mut tcp, permit) => heard,
                () = core.closed(&mut phase) => return,
            };
            let Some(permit) = heard else { return };
            permit
        } else {
            permit
        };
        let tcp = Counted::new(tcp);
        let traffic = tcp.traffic();
        let login = tokio::select! {
            biased;
            // On the heap, so that an idle session does not keep the room of a login.
            login = Box::pin(self.login(tcp, &permit)) => login,
            () = self.core.closed(&mut phase) => return permit.settle(LoginEnd::Good),
        };
        match login {
            Ok((stream, client)) => {
                permit.settle_proved(client.service(), client.client());
                self.seated(stream, &client, &traffic, phase).await;
            }
            Err(failed) => {
                permit.settle(failed.end(traffic.received()));
                self.log_failure(&failed);
            }
        }
    }

    /// Learns from a proxy whose connection this is, and takes a place for that source instead of the proxy's.
    async fn behind_proxy(&mut self, tcp: &mut TcpStream, permit: LoginPermit) -> Option<LoginPermit> {
        let header = self.within(self.policy.limits.tls_timeout, proxy_protocol::read(tcp)).await;
        let why = match header {
            Some(Ok(None)) => return Some(permit),
            Some(Ok(Some(peer))) => {
                self.peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                match permit.pass_to(Source::of(self.peer.ip())) {
                    Ok(permit) => return Some(permit),
                    Err(turned) => {
                        self.turned(turned);
                        return None;
                    }
                }
            }
            Some(Err(error)) => LoginFailed::Proxy(error),
            None => LoginFailed::Deadline("PROXY protocol"),
        };
        permit.settle(LoginEnd::Good);
        self.log_failure(&why);
        None
    }

    fn turned(&self, turned: Turned) {
        self.core.audit.write(&Event::Turned {
            peer: self.peer,
            why: turned.as_str(),
            cause: turned.cause(),
        });
    }

    /// TLS and the login, each under its own deadline, counted from the moment of the accept.
    async fn login(
        &self,
        tcp: Counted<TcpStream>,
        permit: &LoginPermit,
    ) -> Result<(Stream, Authenticated), LoginFailed> {
        let limits = &self.policy.limits;
        let mut stream = self
            .within(limits.tls_timeout, self.core.acceptor.accept(tcp))
            .await
            .ok_or(LoginFailed::Deadline("TLS"))?
            .map_err(LoginFailed::Handshake)?;
        let exporter = exporter(stream.get_ref().1)?;
        let (mut throttled, mut outside) = (false, false);
        let allows = |account: &Account| {
            outside = !self.policy.allows(account, self.peer.ip());
            // A key cannot be guessed, so it always counts.
            throttled = matches!(account.verifier, AccountVerifier::Password(_))
                && !permit.may_guess(&account.service, &account.client);
            !throttled && !outside
        };
        // Whatever the cause is: else cost or delay would tell it.
        let refused = |refusal: &Refusal| {
            if refusal.mechanism != Mechanism::Password {
                return Duration::ZERO;
            }
            let delay = permit.guessed_wrong(&refusal.service, &refusal.client);
            // The refusal is to arrive before the deadline.
            delay.min(
                deadline(self.accepted, limits.login_timeout).saturating_duration_since(Instant::now()) / 2,
            )
        };
        let directory = &self.policy.directory;
        let login = login_server(&mut stream, exporter, directory, self.policy.parameters, allows, refused);
        match self.within(limits.login_timeout, login).await {
            Some(Ok(mut client)) => {
                client.set_peer(Source::of(self.peer.ip()).first_address());
                Ok((Box::new(stream), client))
            }
            Some(Err(error)) => {
                // The refusal has been flushed; an orderly end keeps it from being lost on its way.
                let _ = self.within(limits.login_timeout, stream.shutdown()).await;
                Err(match error {
                    ServerLoginError::Refused(refusal) if throttled && !outside => {
                        LoginFailed::Throttled(refusal)
                    }
                    error => LoginFailed::Login(error),
                })
            }
            None => Err(LoginFailed::Deadline("login")),
        }
    }

    /// Waits for this work until so long after the accept; `None` if that is over. Where the whole program was stopped in
    /// between, the time begins anew when it goes on: the client could not have been heard.
    async fn within<T>(&self, time: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut end = deadline(self.accepted, time);
        loop {
            match timeout_at(end, &mut work).await {
                Ok(done) => return Some(done),
                Err(_) => {
                    let later = woke_after(&self.core.gate, self.accepted, time);
                    if later <= end {
                        return None;
                    }
                    end = later;
                }
            }
        }
    }

    fn log_failure(&self, failed: &LoginFailed) {
        let who = match failed {
            LoginFailed::Login(ServerLoginError::Refused(refusal)) | LoginFailed::Throttled(refusal) => {
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
            outcome: failed.outcome(),
        });
    }

    /// Takes the client in, as long as its session lasts. What it proved itself against may have been withdrawn since it
    /// was accepted.
    async fn seated(
        &self,
        stream: Stream,
        client: &Authenticated,
        traffic: &Arc<Traffic>,
        phase: watch::Receiver<Phase>,
    ) {
        let who = Who::of(client);
        self.write(|connection, peer| Event::LoginOk { connection, peer, who, ms: self.age() });
        let name = (client.service(), client.client());
        let seat = Seat::new(self.id, self.peer, name, self.accepted, traffic);
        let account = self.policy.directory.account(name.0, name.1);
        let taken = account.map(|account| locked(&self.core.live).seat(&seat, &account.verifier));
        let Some(Ok(())) = taken else {
            self.refused(client, REVOKED);
            return self.ended(client, traffic, &ExitReason::Revoked);
        };
        traffic.limit(self.core.policy().rates(name.0, name.1));
        let _leaves = Leaves(&self.core, &seat);
        self.session(stream, client, &seat, phase).await;
    }

    /// Serves the session until it is over and its last words are said.
    async fn session(
        &self,
        mut stream: Stream,
        client: &Authenticated,
        seat: &Arc<Seat>,
        mut phase: watch::Receiver<Phase>,
    ) {
        let traffic = &seat.traffic;
        let opening = OpeningPermit::take(&self.core.sessions, self.holder(client));
        let opening = match opening {
            Ok(opening) => opening,
            Err(crowded) => {
                self.refused(client, crowded.as_str());
                return self.ended(client, traffic, &ExitReason::Overload);
            }
        };
        let first = match self.hear(&mut stream, seat, &mut phase).await {
            Ok(First::Other(first)) => first,
            Ok(First::Resume { claim, proof }) => {
                return self.resume(stream, client, traffic, claim, &proof).await;
            }
            Err(reason) => return self.ended(client, traffic, &reason),
        };
        let (attacher, attachments) = attachments();
        let (place, resumable) = (OnceLock::new(), OnceLock::new());
        let watched = phase.clone();
        let (place, resumable) = (&place, &resumable);
        let start = move |mut asked: Opening| {
            drop(opening);
            let serving = *watched.borrow() == Phase::Serving;
            if serving && let Some(reason) = seat.over() {
                let why = if reason == ExitReason::Revoked { REVOKED } else { ENDED };
                asked.refuse(why);
                self.refused(client, why);
            } else if serving {
                let permit = self.permit(client).map(Arc::new);
                if let Ok(permit) = &permit {
                    let _ = place.set(Arc::clone(permit));
                }
                let granted = match permit {
                    Ok(_) => self.grant(&mut asked, client, seat, attacher),
                    Err(_) => Ok(None),
                };
                let (session, no_resume) = match granted {
                    Ok(session) => (session, None),
                    Err(full) => (None, Some(full.as_str())),
                };
                let resume_ms = session.as_ref().map(|session| session.window_ms);
                if let Some(session) = session {
                    let _ = resumable.set(session);
                }
                self.start(asked, client, permit, seat, (resume_ms, no_resume));
            } else {
                asked.refuse(GOING_AWAY);
                self.refused(client, GOING_AWAY);
            }
        };
        let changed = |change| self.changed(client, seat, change);
        let limits = &self.policy.limits;
        let mut serving = pin!(serve_resumable(*stream, &first, client, limits, attachments, changed, start));
        let mut seen = Phase::Serving;
        let mut due = pin!(seat.due());
        let mut told = false;
        let reason = loop {
            tokio::select! {
                served = &mut serving => {
                    if served.expired {
                        let (who, peer) = (Who::of(client), seat.peer());
                        self.write(|connection, _| Event::SessionExpired { connection, peer, who });
                    }
                    if let Some(session) = resumable.get() {
                        session.end(served.tombstone);
                    }
                    break served.reason;
                }
                reason = &mut due, if !told => {
                    told = true;
                    match seat.control.get() {
                        Some(control) => control.end(reason),
                        None => break reason,
                    }
                }
                next = after(seen, &mut phase) => {
                    seen = next;
                    match (seen, seat.control.get()) {
                        (Phase::Stopping, Some(control)) => control.end(ExitReason::Shutdown),
                        (Phase::Stopping, None) | (Phase::Cut, _) => break ExitReason::Shutdown,
                        (Phase::Draining, Some(control)) => control.go_away(),
                        // One that is not open yet is refused when it asks for its service.
                        (Phase::Draining, None) | (Phase::Serving, _) => {}
                    }
                }
            }
        };
        self.ended(client, traffic, &reason);
    }

    /// Hears how the client begins, before the deadline for that.
    async fn hear(
        &self,
        stream: &mut Stream,
        seat: &Seat,
        phase: &mut watch::Receiver<Phase>,
    ) -> Result<First, ExitReason> {
        tokio::select! {
            biased;
            reason = seat.due() => Err(reason),
            _ = after(Phase::Draining, phase) => Err(ExitReason::Shutdown),
            heard = timeout(self.policy.limits.login_timeout, hear_first(stream)) => {
                heard.map_err(|_| ExitReason::NoConnection)
            }
        }
    }

    /// Hands the connection to the session that the client resumes, or tells the client what is known of that.
    async fn resume(
        &self,
        mut stream: Stream,
        client: &Authenticated,
        traffic: &Traffic,
        claim: ResumeClaim,
        proof: &[u8; 32],
    ) {
        let name = (client.service(), client.client());
        let tombstone = loop {
            let Ok(exporter) = exporter(stream.get_ref().1) else { break None };
            let found = {
                let table = locked(&self.core.resumables);
                match table.judge(Instant::now(), name, &exporter, &claim, proof) {
                    Some(Found::Live(way)) => Ok(way.clone()),
                    Some(Found::Over(tombstone)) => Err(Some(tombstone.clone())),
                    None => Err(None),
                }
            };
            match found {
                Ok(Way { attacher, seat }) => {
                    seat.hand(claim.epoch, self.id, self.peer);
                    stream.get_mut().0.count_in(&seat.traffic);
                    match attacher.attach(claim, stream) {
                        Ok(()) => return,
                        // The session ends at this moment; its task is about to leave the record.
                        Err(back) => stream = back,
                    }
                    tokio::task::yield_now().await;
                }
                Err(tombstone) => break tombstone,
            }
        };
        let reason = match &tombstone {
            Some(tombstone) => {
                self.refused(client, SESSION_OVER);
                tombstone.reason.clone()
            }
            None => {
                locked(&self.core.gate).failed_late(Instant::now(), Source::of(self.peer.ip()));
                self.refused(client, NO_SESSION);
                ExitReason::NoConnection
            }
        };
        say_lost(stream, tombstone, &self.policy.limits).await;
        self.ended(client, traffic, &reason);
    }

    /// Promises the client that it can come back, if it asked for that and there is room.
    fn grant(
        &self,
        asked: &mut Opening,
        client: &Authenticated,
        seat: &Arc<Seat>,
        attacher: Attacher<Stream>,
    ) -> Result<Option<ResumableSession>, NoRoom> {
        let window = asked.wants_resume().min(self.core.policy().resume(client.service()));
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let (mut id, mut secret) = ([0; 16], Zeroizing::new([0; 32]));
        let drawn = aws_lc_rs::rand::fill(&mut id).and_then(|()| aws_lc_rs::rand::fill(&mut *secret));
        if window_ms == 0 || drawn.is_err() {
            return Ok(None);
        }
        let (id, secret) = (SessionId::new(id), Secret::new(*secret));
        self.core.register(Resumable {
            id,
            key: ResumeKey::new(&secret),
            service: client.service().clone(),
            client: client.client().clone(),
            holder: self.holder(client),
            window,
            handle: Way { attacher, seat: Arc::clone(seat) },
        })?;
        asked.grant(Granted { window: window_ms, id, secret });
        Ok(Some(ResumableSession { core: Arc::clone(&self.core), id, window_ms }))
    }

    /// Notes that the session has lost its connection, or goes on over another.
    fn changed(&self, client: &Authenticated, seat: &Seat, change: Change) {
        let who = Who::of(client);
        match change {
            Change::Detached => {
                seat.detach();
                let peer = seat.peer();
                self.write(|connection, _| Event::SessionDetached { connection, peer, who });
            }
            Change::Resumed { epoch, gap } => {
                let over = seat.attach(epoch);
                let (peer, gap_ms) = (seat.peer(), u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
                self.write(|connection, _| Event::SessionResumed { connection, peer, who, over, gap_ms });
            }
        }
    }

    fn ended(&self, client: &Authenticated, traffic: &Traffic, reason: &ExitReason) {
        let who = Who::of(client);
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
    }

    /// Starts the service, or refuses by name: the client has proved itself.
    fn start(
        &self,
        opening: Opening,
        client: &Authenticated,
        permit: Result<Arc<SessionPermit>, Crowded>,
        seat: &Seat,
        (resume_ms, no_resume): (Option<u64>, Option<&str>),
    ) {
        let control = opening.control();
        let outcome = match (permit, self.core.policy().starter(client.service())) {
            (Err(crowded), _) => {
                opening.refuse_overload(crowded.as_str());
                Err(crowded.as_str().into())
            }
            (Ok(permit), Some(starter)) => starter.start(opening, self.log(client, permit)),
            (Ok(_), None) => {
                opening.refuse(REVOKED);
                Err(REVOKED.into())
            }
        };
        let who = Who::of(client);
        match outcome {
            Ok(()) => {
                let _ = seat.control.set(control);
                self.write(|connection, peer| Event::SessionStarted {
                    connection,
                    peer,
                    who,
                    resume_ms,
                    no_resume,
                });
            }
            Err(why) => self.refused(client, &why),
        }
    }

    /// What the service may write to the log about this connection.
    ///
    /// A relay may outlive its session, with a target that takes no bytes or that does not answer yet. It keeps this value
    /// and with it the place: else a client that starts and ends sessions could have any number of such targets.
    fn log(&self, client: &Authenticated, place: Arc<SessionPermit>) -> Log {
        let (core, connection, peer) = (Arc::clone(&self.core), self.id, self.peer);
        let (service, client) = (client.service().clone(), client.client().clone());
        Arc::new(move |why| {
            let _held = &place;
            let who = Who { service: service.as_str(), client: client.as_str() };
            core.audit.write(&Event::TargetFailed { connection, peer, who, why: escaped(why) });
        })
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
        let service = client.service().as_str().into();
        SessionPermit::take(&self.core.sessions, &service, self.holder(client))
    }

    fn holder(&self, client: &Authenticated) -> Holder {
        let service = client.service().as_str().into();
        match client.client().as_str() {
            "" => Holder::Password(service, Source::of(self.peer.ip())),
            name => Holder::Client(service, name.into()),
        }
    }

    fn age(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a client is told that comes too late.
const GOING_AWAY: &str = "the server is going away";
const REVOKED: &str = "revoked";
const ENDED: &str = "the operator ended this session";

/// What the log says of a client that finds nothing to resume; all of them are told the same.
const NO_SESSION: &str = "no session of this client has this name and proof";
const SESSION_OVER: &str = "the session is over";

/// A session that its client may resume.
struct ResumableSession {
    core: Arc<Core>,
    id: SessionId,
    window_ms: u64,
}

impl ResumableSession {
    /// Leaves what is known of the session for a client that comes too late.
    fn end(&self, tombstone: Option<Tombstone>) {
        self.core.end_resumable(self.id, tombstone);
    }
}

impl Drop for ResumableSession {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// Takes the seat away when the connection is over.
struct Leaves<'c>(&'c Core, &'c Seat);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        locked(&self.0.live).leave(self.1.id);
        self.1.count_bytes(self.0.audit.metrics());
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
    /// A proxy did not say whose connection it is.
    Proxy(proxy_protocol::HeaderError),
    Login(ServerLoginError),
    /// The proof was right, and refused unseen: too many were wrong before.
    Throttled(Refusal),
}

impl From<TlsError> for LoginFailed {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl LoginFailed {
    /// What the source deserves for it, having sent so many bytes.
    fn end(&self, received: u64) -> LoginEnd {
        match self {
            Self::Deadline(_) => LoginEnd::DeadlinePassed,
            Self::Login(ServerLoginError::NoRandomness) | Self::Proxy(_) | Self::Throttled(_) => {
                LoginEnd::Good
            }
            Self::Login(ServerLoginError::Refused(_) | ServerLoginError::ClientMisbehaved(_)) => {
                LoginEnd::Failed
            }
            Self::Handshake(_) if received == 0 => LoginEnd::Silent,
            Self::Handshake(_) | Self::Tls(_) | Self::Login(_) => LoginEnd::Unproved,
        }
    }

    /// One word for it, for the metrics.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Handshake(_) | Self::Tls(_) => "tls",
            Self::Proxy(_) => "proxy_protocol",
            Self::Throttled(_) => "throttled",
            Self::Login(ServerLoginError::Refused(_)) => "refused",
            Self::Login(_) => "broken_off",
        }
    }

    /// The true reason, for the log alone.
    fn why(&self) -> String {
        match self {
            Self::Deadline(what) => format!("{what}: deadline passed"),
            Self::Handshake(error) => format!("TLS: {}", escaped(&error.to_string())),
            Self::Tls(error) => format!("TLS: {error}"),
            Self::Proxy(error) => format!("PROXY protocol: {error}"),
            Self::Throttled(_) => "too many wrong passwords under this name from this source".into(),
            Self::Login(error) => match error.refusal_cause() {
                Some(cause) => cause.to_string(),
                None => escaped(&error.to_string()),
            },
        }
    }
}
