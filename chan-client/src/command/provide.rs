//! The command `provide`: a service of this machine, for the clients of a server.

use std::fmt;
use std::path::absolute;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lib_chan::dial::{HostPort, SocketPath};
use lib_chan::relay::{
    MAX_PIECE_LEN, PiecesMessage, Providers, ProvidersMessage, Relay, RelayError, StreamsMessage, tcp_halves,
};
use lib_chan::{
    Address, CallError, CallFailure, Channel, Event, ExitReason, Process, Reply, SpawnOptions, signals,
    spawn, spawn_with,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use super::access::Way;
use super::arguments::{Access, Outage};
use super::descriptors::raise_descriptors;
use super::failure::{Code, Failure};
use super::notice::Notice;
use super::session::Session;
use super::{block_on, print_line};
use crate::connect::{Backoff, ConnectError, random_fraction};

/// The bounds of the wait before a new session. A session that has lasted for the longer one resets the wait.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The wait after a refused login. The server counts each as an attempt to guess the password.
const WAIT_WHEN_REFUSED: Duration = Duration::from_secs(60);

/// The time to connect to the target. The server, which allows 10 s by default, should hear of a failure.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The prefix of the text that a consumer gets about a failed target: that of a service with a target.
const TARGET: &str = "target";

const RELAY: Relay = Relay::new(TARGET).last_bytes_timeout(Duration::from_secs(10));

/// The service that is provided.
#[derive(Clone, Debug)]
pub(super) enum LocalTarget {
    Tcp(HostPort),
    Unix(SocketPath),
}

impl LocalTarget {
    /// Parses the path of a socket. A relative one begins at the current directory.
    pub(super) fn parse_unix(text: &str) -> Result<SocketPath, String> {
        let path = absolute(text).map_err(|error| error.to_string())?;
        path.to_str().unwrap_or_default().parse().map_err(|error| format!("{error}"))
    }
}

impl fmt::Display for LocalTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(target) => target.fmt(f),
            Self::Unix(target) => target.fmt(f),
        }
    }
}

pub(super) fn provide(
    target: LocalTarget,
    max_connections: u16,
    access: &Access,
    outage: &Outage,
    notice: Notice,
) -> Result<(), Failure> {
    let way = access.way()?.resuming(outage.of_stream());
    raise_descriptors();
    block_on(async {
        let provider = Arc::new(Provider {
            target,
            notice,
            room: Arc::new(Semaphore::new(max_connections.into())),
            max_connections,
            full: AtomicBool::new(false),
        });
        let notice = &provider.notice;
        let mut signals = signals::subscribe();
        let opening = async { Ok(Offer::open(&way, &provider).await?) };
        let mut offer = notice.during(&mut signals, opening).await?;
        print_line(&format!("providing {}", provider.target))?;
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                ended = offer.ended(&provider) => ended,
                _ = signals.recv() => return offer.end(Ok(())).await,
            };
            if let Err(failure) = offer.end(ended).await {
                notice.complain(failure.map_line(|line| format!("{line}; logging in again")));
            }
            if began.elapsed() >= LONGEST_WAIT {
                backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
            }
            offer = tokio::select! {
                offer = Offer::open_again(&way, &provider, &mut backoff) => offer,
                _ = signals.recv() => return Ok(()),
            };
            notice.complain(format_args!("providing {} again", provider.target));
        }
    })
}

/// The state that all sessions of the command share.
struct Provider {
    target: LocalTarget,
    notice: Notice,
    room: Arc<Semaphore>,
    max_connections: u16,
    /// Whether the last stream was refused for want of room. Only the first refusal in a row is reported.
    full: AtomicBool,
}

/// A session in which this end is a provider.
struct Offer {
    chan: Channel<(), ProvidersMessage>,
    session: Session,
    /// The process that opens the streams.
    streams: Address<StreamsMessage>,
}

impl Offer {
    async fn open(way: &Way, provider: &Arc<Provider>) -> Result<Self, OfferError> {
        let notice = &provider.notice;
        let (chan, session) = way.open(way.connect(notice), notice).await.map_err(|error| match error {
            error @ (ConnectError::Codec(_) | ConnectError::OtherProtocol(_)) => {
                OfferError::NotTaken(no_providers(&error))
            }
            error => error.into(),
        })?;
        notice.wait_for("waiting until the server takes the service");
        let remote = chan.remote();
        notice.follow(remote.clone());
        let streams = spawn({
            let provider = Arc::clone(provider);
            move |me| open_streams(me, provider)
        });
        let offered = remote.provide(streams.clone(), provider.max_connections.into()).await;
        let offer = Self { chan, session, streams };
        match offered {
            Ok(()) => Ok(offer),
            Err(error) => {
                let failure = offer.end(Err(not_taken(error))).await.err();
                Err(OfferError::NotTaken(failure.unwrap_or_else(lost)))
            }
        }
    }

    /// Opens a session, and tries again until that works: nobody may be at this machine to start the command once more.
    /// Reports each reason once.
    async fn open_again(way: &Way, provider: &Arc<Provider>, backoff: &mut Backoff) -> Self {
        let (mut said, mut refused) = (None, false);
        loop {
            let wait = backoff.next(random_fraction());
            sleep(if refused { wait.max(WAIT_WHEN_REFUSED) } else { wait }).await;
            way.read_again(&provider.notice);
            match Self::open(way, provider).await {
                Ok(offer) => return offer,
                Err(error) => {
                    refused = matches!(error, OfferError::Connect(ConnectError::Refused));
                    let line = format!("{error}; trying again until it works");
                    if said.as_ref() != Some(&line) {
                        provider.notice.complain(&line);
                        said = Some(line);
                    }
                }
            }
        }
    }

    /// Waits for the end of the session. When the server is about to stop, the session gets no more streams, and ends with
    /// the last one.
    async fn ended(&self, provider: &Provider) -> Result<(), Failure> {
        let remote = self.chan.remote();
        let drained = async {
            if remote.wait_draining().await {
                // From here on, no stream gets a place, and each that ends returns its own.
                drop(provider.room.acquire_many(provider.max_connections.into()).await);
            } else {
                std::future::pending::<()>().await;
            }
        };
        let reason = tokio::select! {
            reason = remote.ended() => reason,
            () = drained => ExitReason::GoingAway,
        };
        Err(match reason {
            ExitReason::NoConnection => lost(),
            ExitReason::GoingAway => Failure::new(Code::Ended, "the server is stopping"),
            reason => Failure::ended(&reason),
        })
    }

    /// Ends the session, and with it its streams: their consumers get `noconnection`. Returns the result, or why reconnecting
    /// was hopeless.
    async fn end(self, result: Result<(), Failure>) -> Result<(), Failure> {
        self.streams.pid().exit(ExitReason::Shutdown);
        drop(self.chan);
        self.session.end(result).await
    }
}

/// The reason that this end is no provider.
#[derive(Debug, thiserror::Error)]
enum OfferError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server has not taken the service.
    #[error(transparent)]
    NotTaken(Failure),
}

impl From<OfferError> for Failure {
    fn from(error: OfferError) -> Self {
        match error {
            OfferError::Connect(error) => error.into(),
            OfferError::NotTaken(failure) => failure,
        }
    }
}

fn lost() -> Failure {
    Failure::new(Code::Lost, "the connection was lost, and open connections were reset")
}

/// Describes a service with another purpose, such as the one of the consumers.
fn no_providers(why: &dyn fmt::Display) -> Failure {
    let advice = "use the URL of the service whose mfa is [\"provided\", \"for\", NAME], or ask the server's operator for it";
    Failure::new(Code::RefusedByName, format_args!("the service takes no providers ({why}): {advice}"))
}

/// Describes why the server did not take the service.
fn not_taken(error: CallError) -> Failure {
    match error.reason {
        CallFailure::Codec(_) | CallFailure::Refused(_) | CallFailure::Exit(ExitReason::Failed(_)) => {
            no_providers(&error.reason)
        }
        CallFailure::Exit(ExitReason::NoConnection) => lost(),
        _ => error.into(),
    }
}

/// Opens a stream to the target for each that the server asks for.
async fn open_streams(mut me: Process<StreamsMessage>, provider: Arc<Provider>) -> Result<(), ExitReason> {
    loop {
        // It traps no exits, and monitors nobody.
        let Event::Message(StreamsMessage::Open { first, client, reply }) = me.recv().await else { continue };
        // Another process of this program would take pieces without credit.
        if !client.is_far() || first.len() > MAX_PIECE_LEN {
            reply.refuse("a stream needs a process of the server, and a first piece of at most 16 KiB");
            continue;
        }
        let Ok(place) = Arc::clone(&provider.room).try_acquire_owned() else {
            let max = provider.max_connections;
            reply.refuse(&format!("the provider has {max} connections, the most that it takes"));
            if !provider.full.swap(true, Ordering::Relaxed) {
                provider.notice.complain(format_args!(
                    "a connection was refused: {max} are open, the most that --max-connections allows"
                ));
            }
            continue;
        };
        provider.full.store(false, Ordering::Relaxed);
        let stream = Stream { provider: Arc::clone(&provider), first, client, _place: place };
        let options = SpawnOptions { trap_exit: true, ..SpawnOptions::default() };
        spawn_with(options, move |me| stream.carry(me, reply));
    }
}

/// A stream that the server has asked for.
struct Stream {
    provider: Arc<Provider>,
    /// The first piece of the consumer.
    first: Bytes,
    /// The process of the server.
    client: Address<PiecesMessage>,
    _place: OwnedSemaphorePermit,
}

impl Stream {
    /// Connects to the target, and carries bytes both ways. Answers once the target is reached, so that the server may ask
    /// another provider if it is not.
    async fn carry(
        self,
        mut me: Process<PiecesMessage>,
        reply: Reply<Address<PiecesMessage>>,
    ) -> Result<(), ExitReason> {
        me.link(self.client.pid())?;
        let Self { provider, first, client, _place } = self;
        let carried = match &provider.target {
            LocalTarget::Tcp(target) => {
                // In a box, which is gone before the relay begins: an open stream occupies less.
                let mut stream = match Box::pin(target.dial(DIAL_TIMEOUT)).await {
                    Ok(stream) => stream,
                    Err(error) => return provider.refuse(reply, &error, &error.public()),
                };
                let (reader, writer) = match tcp_halves(&mut stream) {
                    Ok(halves) => halves,
                    Err(error) => return provider.refuse(reply, &error, &error.kind()),
                };
                reply.send(me.address());
                RELAY.run_stream(&mut me, client, first, reader, writer).await
            }
            LocalTarget::Unix(target) => {
                let mut stream = match Box::pin(target.dial(DIAL_TIMEOUT)).await {
                    Ok(stream) => stream,
                    Err(error) => return provider.refuse(reply, &error, &error.kind()),
                };
                // Not `into_split`: its sending half sends an EOF when it is dropped.
                let (reader, writer) = stream.split();
                reply.send(me.address());
                RELAY.run_stream(&mut me, client, first, reader, writer).await
            }
        };
        carried.map_err(|error| provider.reason(error))
    }
}

impl Provider {
    /// Reports that the target cannot be reached. The server learns less.
    fn refuse(
        &self,
        reply: Reply<Address<PiecesMessage>>,
        error: &dyn fmt::Display,
        public: &dyn fmt::Display,
    ) -> Result<(), ExitReason> {
        self.notice.complain(format_args!("cannot connect to {}: {error}", self.target));
        reply.refuse(&format!("{TARGET}: {public}"));
        Ok(())
    }

    /// Returns the reason with which a stream ends.
    fn reason(&self, error: RelayError) -> ExitReason {
        let reason = match error {
            RelayError::Session(ExitReason::Normal) => ExitReason::failed("the client ended before its EOF"),
            error => error.reason(TARGET),
        };
        self.notice.detail(|| format!("a connection to {} ended: {reason}", self.target));
        reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_socket_begins_at_current_directory() {
        let here = std::env::current_dir().unwrap();
        let target = LocalTarget::Unix(LocalTarget::parse_unix("a.sock").unwrap());
        assert_eq!(target.to_string(), here.join("a.sock").display().to_string());
        assert!(LocalTarget::parse_unix("").is_err());
    }
}
