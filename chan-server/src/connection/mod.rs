//! Serves one connection, from its first byte to the last words of its session, in a task of its own.

mod context;
mod failed;
mod resume;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use lib_chan::ExitReason;
use lib_chan::auth::{Account, AccountVerifier, Mechanism};
use lib_chan::channel::{Attacher, First, Opening, Served, attachments, hear_first, serve_resumable};
use lib_chan::handshake::Authenticated;
use lib_chan::handshake::server::Refusal;
use lib_chan::login::{ServerLoginError, login_server};
use lib_chan::tls::exporter;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use self::context::ServiceContext;
use self::failed::LoginFailed;
use self::resume::ResumableSession;
use crate::audit::{Event, Who, escaped};
use crate::gate::{
    Crowded, Holder, LoginEnd, LoginPermit, OpeningPermit, SessionPermit, Source, Turned, deadline, locked,
    woke_after,
};
use crate::live::Seat;
use crate::modules::RelayContext;
use crate::policy::Policy;
use crate::proxy_protocol;
use crate::shared::{Core, Phase, after};
use crate::traffic::{Counted, Stream, Traffic};

/// A connection, as the log knows it.
pub(crate) struct Connection {
    pub(crate) core: Arc<Core>,
    /// The policy when the connection was accepted.
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
        let share = locked(&self.core.quotas).share(name, self.holder(client), self.id);
        traffic.limit(Arc::new(share));
        let _leaves = Leaves(&self.core, &seat);
        self.session(stream, client, &seat, phase).await;
    }

    /// Serves a session, or brings the connection to the session that the client resumes.
    async fn session(
        &self,
        mut stream: Stream,
        client: &Authenticated,
        seat: &Arc<Seat>,
        mut phase: watch::Receiver<Phase>,
    ) {
        let traffic = &seat.traffic;
        let opening = match OpeningPermit::take(&self.core.sessions, self.holder(client)) {
            Ok(opening) => opening,
            Err(crowded) => {
                self.refused(client, crowded.as_str());
                return self.ended(client, traffic, &ExitReason::Overload);
            }
        };
        let reason = match self.hear(&mut stream, seat, &mut phase).await {
            Ok(First::Other(first)) => self.serve(stream, &first, client, seat, opening, phase).await,
            Ok(First::Resume { claim, proof }) => {
                let reason = self.resume(stream, client, claim, &proof).await;
                // The bytes of a connection that the session took over are counted there.
                let Some(reason) = reason else { return };
                reason
            }
            Err(reason) => reason,
        };
        self.ended(client, traffic, &reason);
    }

    /// Serves a session until it is over and its last words are said. Returns why it ended.
    async fn serve(
        &self,
        stream: Stream,
        first: &[u8],
        client: &Authenticated,
        seat: &Arc<Seat>,
        opening: OpeningPermit,
        phase: watch::Receiver<Phase>,
    ) -> ExitReason {
        let (attacher, attachments) = attachments();
        let started = OnceLock::new();
        let start = |asked: Opening| {
            drop(opening);
            let is_serving = *self.core.phase.borrow() == Phase::Serving;
            if let Some(now) = self.start(asked, client, seat, is_serving, attacher) {
                let _ = started.set(now);
            }
        };
        let changed = |change| self.changed(client, seat, change);
        let limits = &self.policy.limits;
        let serving = serve_resumable(*stream, first, client, limits, attachments, changed, start);
        let served = match self.supervise(serving, seat, phase).await {
            Ok(served) => served,
            Err(reason) => return reason,
        };
        if served.expired {
            let (who, peer) = (Who::of(client), seat.peer());
            self.write(|connection, _| Event::SessionExpired { connection, peer, who });
        }
        if let Some(StartedSession { resumable: Some(resumable), .. }) = started.get() {
            resumable.end(served.tombstone);
        }
        served.reason
    }

    /// Lets a session run to its end, and ends it when its right is withdrawn or the server stops. Returns why where it
    /// had to be cut off.
    async fn supervise(
        &self,
        serving: impl Future<Output = Served>,
        seat: &Seat,
        mut phase: watch::Receiver<Phase>,
    ) -> Result<Served, ExitReason> {
        let (mut serving, mut due) = (pin!(serving), pin!(seat.due()));
        let (mut seen, mut told) = (Phase::Serving, false);
        loop {
            tokio::select! {
                served = &mut serving => return Ok(served),
                reason = &mut due, if !told => {
                    told = true;
                    match seat.control.get() {
                        Some(control) => control.end(reason),
                        None => return Err(reason),
                    }
                }
                next = after(seen, &mut phase) => {
                    seen = next;
                    match (seen, seat.control.get()) {
                        (Phase::Stopping, Some(control)) => control.end(ExitReason::Shutdown),
                        (Phase::Stopping, None) | (Phase::Cut, _) => return Err(ExitReason::Shutdown),
                        (Phase::Draining, Some(control)) => control.go_away(),
                        // One that is not open yet is refused when it asks for its service.
                        (Phase::Draining, None) | (Phase::Serving, _) => {}
                    }
                }
            }
        }
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
        mut asked: Opening,
        client: &Authenticated,
        seat: &Arc<Seat>,
        is_serving: bool,
        attacher: Attacher<Stream>,
    ) -> Option<StartedSession> {
        let policy = self.core.policy();
        let late = match (is_serving, seat.over()) {
            (false, _) => Some(GOING_AWAY),
            (true, Some(ExitReason::Revoked)) => Some(REVOKED),
            (true, Some(_)) => Some(ENDED),
            (true, None) => None,
        };
        let starter = match (late, policy.starter(client.service())) {
            (None, Some(starter)) => starter,
            (late, _) => {
                let why = late.unwrap_or(REVOKED);
                asked.refuse(why);
                self.refused(client, why);
                return None;
            }
        };
        if !policy.describes(client.service()) {
            asked.hide_protocol();
        }
        let place = match self.permit(client) {
            Ok(place) => Arc::new(place),
            Err(crowded) => {
                asked.refuse_overload(crowded.as_str());
                self.refused(client, crowded.as_str());
                return None;
            }
        };
        let (resumable, no_resume) = match self.grant(&mut asked, client, seat, attacher) {
            Ok(resumable) => (resumable, None),
            Err(full) => (None, Some(full.as_str())),
        };
        let control = asked.control();
        if let Some(share) = seat.traffic.share() {
            asked.limit_calls(Arc::clone(share) as _);
        }
        if let Err(why) = starter.start(asked, self.context(client, Arc::clone(&place))) {
            self.refused(client, &why);
            return None;
        }
        let _ = seat.control.set(control);
        let resume_ms = resumable.as_ref().map(ResumableSession::window_ms);
        let who = Who::of(client);
        self.write(|connection, peer| Event::SessionStarted { connection, peer, who, resume_ms, no_resume });
        Some(StartedSession { _place: place, resumable })
    }

    /// Returns what the service may ask of this connection.
    fn context(&self, client: &Authenticated, place: Arc<SessionPermit>) -> Arc<dyn RelayContext> {
        Arc::new(ServiceContext {
            core: Arc::clone(&self.core),
            connection: self.id,
            peer: self.peer,
            service: client.service().as_str().into(),
            client: client.client().as_str().into(),
            holder: self.holder(client),
            _place: place,
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
        whole_ms(self.accepted.elapsed())
    }
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a client is told that comes too late.
const GOING_AWAY: &str = "the server is going away";
const REVOKED: &str = "revoked";
const ENDED: &str = "the operator ended this session";

/// What a session holds from the start of its service to its end.
struct StartedSession {
    _place: Arc<SessionPermit>,
    resumable: Option<ResumableSession>,
}

/// Takes the seat away when the connection is over.
struct Leaves<'c>(&'c Core, &'c Seat);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        locked(&self.0.live).leave(self.1.id);
        self.1.count_use(self.0.audit.metrics(), &self.1.stats());
    }
}

impl<'c> Who<'c> {
    fn of(client: &'c Authenticated) -> Self {
        Self { service: client.service().as_str(), client: client.client().as_str() }
    }
}
