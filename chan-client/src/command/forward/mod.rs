//! The command `forward`: a session for all connections, or one for each.

mod first;
mod listen;
mod shared;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use lib_chan::payload::Codec;
use lib_chan::relay::{PiecesMessage, Relay, RelayError, Streams, tcp_halves};
use lib_chan::{CallError, CallFailure, ExitReason, Opaque, Process, Rights, enter, signals};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::first::FirstBytes;
use self::listen::bind;
use self::shared::{Opened, SharedSession, SharedSessions};
use super::access::{LAST_WORDS_TIMEOUT, Way};
use super::arguments::{Access, Outage};
use super::descriptors::raise_descriptors;
use super::failure::{Code, Failure};
use super::notice::Notice;
use super::pipe::{LOCAL, relay_failure};
use super::{block_on, print_line};
use crate::connect::ConnectError;

/// The most bytes of a local program that go together with the request for a session of its own. With a key they go before
/// the server has said how much it takes, which is 1 KiB at least.
const MAX_EARLY_LEN: usize = 900;

/// The most logins in flight: half of what a server accepts from one source by default. Some programs open all their
/// connections at once.
const MAX_LOGINS: usize = 8;

/// The wait after a failed `accept`. Another connection may end and free a descriptor.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// The options of the command.
pub(super) struct Options<'o> {
    pub(super) listen: &'o str,
    pub(super) max_connections: u16,
    /// Each connection gets a session of its own.
    pub(super) isolate: bool,
}

pub(super) fn forward(
    options: &Options<'_>,
    access: &Access,
    outage: &Outage,
    notice: Notice,
) -> Result<(), Failure> {
    let way = access.way()?.resuming(outage.of_stream());
    raise_descriptors();
    block_on(async {
        let mut signals = signals::subscribe();
        // Reports a wrong password now, and derives the key before a connection waits for it.
        let opened = notice.during(&mut signals, first_session(&way, &notice, options.isolate)).await?;
        let listeners = bind(options.listen).await?;
        for listener in &listeners {
            let address = listener.local_addr()?;
            if !address.ip().is_loopback() {
                notice.complain(format_args!(
                    "warning: anybody who can reach {address} can use the service in your name; a port alone listens on loopback"
                ));
            }
            print_line(&format!("listening on {address}"))?;
        }
        let forward = Arc::new(Forward {
            // The server was there, so a connection that fails now is worth another one.
            way: way.patient(),
            notice,
            logins: Semaphore::new(MAX_LOGINS),
            room: Arc::new(Semaphore::new(options.max_connections.into())),
            max_connections: options.max_connections,
            full: AtomicBool::new(false),
            over: watch::Sender::new(false),
            shared: opened.is_some().then(SharedSessions::default),
        });
        if let (Some(shared), Some(opened)) = (&forward.shared, opened) {
            shared.put(opened, &forward).await;
        }
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(listener, Arc::clone(&forward)));
        }
        let ended = tokio::select! {
            // No acceptor ends.
            Some(ended) = accepting.join_next() => ended.map_err(Failure::local),
            _ = signals.recv() => Ok(()),
        };
        drop(accepting);
        forward.end().await;
        ended
    })
}

/// Opens the session that connections share; `None` if each is to have one of its own, because the user wants that or the
/// service knows nothing else.
async fn first_session(way: &Way, notice: &Notice, isolate: bool) -> Result<Option<Opened>, Failure> {
    if !isolate {
        match Opened::open(way, notice).await {
            Ok(opened) => return Ok(Some(opened)),
            Err(ConnectError::Codec(text)) => {
                notice.detail(|| format!("each connection gets a session of its own: {text}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    way.connect(notice).ping().await?;
    Ok(None)
}

/// The state that all connections of a `forward` share.
struct Forward {
    way: Way,
    notice: Notice,
    logins: Semaphore,
    room: Arc<Semaphore>,
    max_connections: u16,
    /// Whether the last connection was reset for want of room. Only the first reset in a row is reported.
    full: AtomicBool,
    /// Whether the command is over.
    over: watch::Sender<bool>,
    /// `None` if each connection gets a session of its own.
    shared: Option<SharedSessions>,
}

async fn accept(listener: TcpListener, forward: Arc<Forward>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                forward.notice.complain(format_args!("cannot accept: {error}"));
                sleep(ACCEPT_RETRY_AFTER).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&forward.room).try_acquire_owned() else {
            // A reset lets the program report the failure or try again. A connection that waits would tell it nothing.
            let _ = stream.set_zero_linger();
            if !forward.full.swap(true, Ordering::Relaxed) {
                let max = forward.max_connections;
                forward.notice.complain(format_args!(
                    "a connection was reset: {max} are open, the most that --max-connections allows"
                ));
            }
            continue;
        };
        forward.full.store(false, Ordering::Relaxed);
        let forward = Arc::clone(&forward);
        tokio::spawn(async move {
            let carried = match &forward.shared {
                Some(shared) => forward.carry_stream(shared, stream).await,
                // In a box, because it is much larger than a stream, and each stream would occupy as much.
                None => Box::pin(forward.carry_session(stream)).await,
            };
            if let Err(failure) = carried {
                forward.notice.complain(failure);
            }
            drop(place);
        });
    }
}

impl Forward {
    /// Carries one local connection as a stream of a shared session. Resets the connection if that fails.
    async fn carry_stream(
        self: &Arc<Self>,
        shared: &SharedSessions,
        mut stream: TcpStream,
    ) -> Result<(), Failure> {
        // Set up first, so that every way out resets the connection.
        tcp_halves(&mut stream)?;
        let (session, place) = shared.place(self).await?;
        let mut over = self.over.subscribe();
        let mut failed = None;
        let carried = enter(async |mut me: Process<PiecesMessage>| {
            // The far process is linked to this one.
            me.trap_exit(true);
            let carried = tokio::select! {
                carried = carry(&session, &mut me, &mut stream) => carried,
                // The sender is `self`.
                _ = over.wait_for(|over| *over) => Ok(()),
            };
            match carried {
                Ok(()) => Ok(()),
                Err(error) => {
                    let reason = error.reason();
                    failed = error.failure(session.has_ended().await);
                    Err(reason)
                }
            }
        });
        // The failure says more than the reason.
        drop(carried.await);
        drop(place);
        failed.map_or(Ok(()), Err)
    }

    /// Carries one local connection in a session of its own. Resets the connection if that fails.
    async fn carry_session(&self, mut stream: TcpStream) -> Result<(), Failure> {
        let (reader, writer) = tcp_halves(&mut stream)?;
        let login = self.logins.acquire().await.map_err(Failure::local)?;
        let first = OnceLock::new();
        let first_bytes = || {
            let FirstBytes { bytes, .. } = first.get_or_init(|| FirstBytes::read(&reader, MAX_EARLY_LEN));
            (!bytes.is_empty()).then(|| bytes.clone())
        };
        let connect = self.way.connect(&self.notice).codec(Codec::Raw).first(first_bytes);
        let opened = self.way.open::<Opaque, Opaque>(connect, &self.notice).await;
        if let Err(ConnectError::Refused) = opened {
            // For the next connection.
            self.way.read_again(&self.notice);
        }
        let (chan, session) = opened?;
        drop(login);
        self.notice.follow(chan.remote());
        if let Some(FirstBytes { error: Some(error), .. }) = first.into_inner() {
            let error = RelayError::from(error);
            chan.remote().end(error.reason(LOCAL));
            return Err(relay_failure(error));
        }
        let mut over = self.over.subscribe();
        let carried = tokio::select! {
            carried = Relay::new(LOCAL).run(chan, reader, writer) => carried.map_err(relay_failure),
            // The sender is `self`.
            _ = over.wait_for(|over| *over) => Ok(()),
        };
        session.end(carried).await
    }

    /// Ends all sessions, and lets their ends go out.
    async fn end(&self) {
        self.over.send_replace(true);
        let all = self.room.acquire_many(self.max_connections.into());
        // Each of them takes that time at most.
        drop(timeout(2 * LAST_WORDS_TIMEOUT, all).await);
        if let Some(shared) = &self.shared {
            drop(timeout(2 * LAST_WORDS_TIMEOUT, shared.ended()).await);
        }
    }
}

/// Opens a stream in a session, and carries a connection through it.
async fn carry(
    session: &SharedSession,
    me: &mut Process<PiecesMessage>,
    stream: &mut TcpStream,
) -> Result<(), StreamError> {
    let (reader, writer) = tcp_halves(stream).map_err(RelayError::from)?;
    let FirstBytes { bytes, error } = FirstBytes::read(&reader, session.max_first_len);
    error.map_or(Ok(()), |error| Err(RelayError::from(error)))?;
    let client = me.address().grant(Rights { link: true, ..Rights::default() });
    let far = session.streams.open(bytes.into(), client).await?;
    if !far.is_far() {
        return Err(RelayError::Session(ExitReason::Protocol).into());
    }
    // The server links the two, or should.
    me.monitor(far.pid());
    Ok(Relay::new(LOCAL).run_stream(me, far, Bytes::new(), reader, writer).await?)
}

/// The reason that a stream was not carried to its end.
enum StreamError {
    /// The server did not open it.
    NotOpened(CallError),
    Relay(RelayError),
}

impl From<CallError> for StreamError {
    fn from(error: CallError) -> Self {
        Self::NotOpened(error)
    }
}

impl From<RelayError> for StreamError {
    fn from(error: RelayError) -> Self {
        Self::Relay(error)
    }
}

impl StreamError {
    /// Returns the reason with which this end of the stream ends.
    fn reason(&self) -> ExitReason {
        match self {
            // There is no far process to tell.
            Self::NotOpened(_) => ExitReason::Normal,
            Self::Relay(error) => error.reason(LOCAL),
        }
    }

    /// Returns the failure to report; `None` if the whole session has failed, which reports that itself.
    fn failure(self, session_has_ended: bool) -> Option<Failure> {
        match self {
            Self::NotOpened(CallError { reason: CallFailure::Exit(_), .. }) => None,
            Self::Relay(RelayError::Session(ExitReason::NoConnection)) => (!session_has_ended).then(|| {
                Failure::new(Code::Lost, "the provider of the service was lost, and a connection was reset")
            }),
            Self::NotOpened(CallError { reason: CallFailure::Refused(text), .. }) => Some(Failure::new(
                Code::RefusedByName,
                format_args!("refused: {text}; ask the server's operator"),
            )),
            Self::NotOpened(error) => Some(error.into()),
            Self::Relay(error) => Some(relay_failure(error)),
        }
    }
}
