//! Commands that carry bytes: `pipe` and `forward`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lib_chan::payload::Codec;
use lib_chan::relay::{Relay, RelayError, tcp_halves};
use lib_chan::{Channel, ExitReason, Opaque, signals, stdio};
use tokio::net::tcp::ReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::access::{LAST_WORDS_TIMEOUT, Way};
use super::arguments::{Access, Outage};
use super::failure::{Code, Failure};
use super::notice::Notice;
use super::session::Session;
use super::{block_on, print_line};

/// The name of the local stream in errors that reach the service.
const LOCAL: &str = "the client's stream";

/// The most bytes of a local program that go together with the request for the service. With a key they go before the
/// server has said how much it takes, which is 1 KiB at least.
const MAX_FIRST_LEN: usize = 900;

/// The time for which standard input may be silent after the service's EOF before `pipe` ends.
const INPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// The most logins in flight: half of what a server accepts from one source by default. Some programs open all their
/// connections at once.
const MAX_LOGINS: usize = 8;

/// The wait after a failed `accept`. Another connection may end and free a descriptor.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// The attempts to find a port that is free on both loopback addresses.
const PORT_ATTEMPTS: usize = 16;

pub(super) fn pipe(access: &Access, outage: &Outage, notice: &Notice) -> Result<(), Failure> {
    let way = access.way()?.resuming(outage.of_stream());
    block_on(async {
        let (chan, session) = notice.during(open(&way, notice, || None)).await?;
        notice.follow(chan.remote());
        let mut signals = signals::subscribe();
        let relay = Relay::new(LOCAL).input_timeout(INPUT_TIMEOUT);
        let carried = tokio::select! {
            carried = relay.run(chan, stdio::input(), stdio::output()) => match carried {
                // The reader of standard output has closed it, as `head` does. Other programs end silently too.
                Err(RelayError::Stream(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                carried => carried.map_err(failure),
            },
            signal = signals.recv() => Err(Failure::signal(signal, "data in transit may be lost")),
        };
        session.end(carried).await
    })
}

pub(super) fn forward(
    listen: &str,
    max_connections: u16,
    access: &Access,
    outage: &Outage,
    notice: Notice,
) -> Result<(), Failure> {
    let way = access.way()?.resuming(outage.of_stream());
    raise_descriptors();
    block_on(async {
        // Reports a wrong password now, and derives the key before a connection waits for it.
        notice.during(async { Ok(way.connect(&notice).ping().await?) }).await?;
        let listeners = bind(listen).await?;
        // Subscribed before the first line is printed, because its reader may send a signal at once.
        let mut signals = signals::subscribe();
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
            room: Arc::new(Semaphore::new(max_connections.into())),
            max_connections,
            full: AtomicBool::new(false),
            over: watch::Sender::new(false),
        });
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
            if let Err(failure) = forward.carry(stream).await {
                forward.notice.complain(failure);
            }
            drop(place);
        });
    }
}

impl Forward {
    /// Carries one local connection in a session of its own. Resets the connection if that fails.
    async fn carry(&self, mut stream: TcpStream) -> Result<(), Failure> {
        let (reader, writer) = tcp_halves(&mut stream)?;
        let login = self.logins.acquire().await.map_err(Failure::local)?;
        let first = OnceLock::new();
        let first_bytes = || {
            let FirstBytes { bytes, .. } = first.get_or_init(|| FirstBytes::read(&reader));
            (!bytes.is_empty()).then(|| bytes.clone())
        };
        let (chan, session) = open(&self.way, &self.notice, first_bytes).await?;
        drop(login);
        self.notice.follow(chan.remote());
        if let Some(FirstBytes { error: Some(error), .. }) = first.into_inner() {
            let error = RelayError::from(error);
            chan.remote().end(error.reason(LOCAL));
            return Err(failure(error));
        }
        let mut over = self.over.subscribe();
        let carried = tokio::select! {
            carried = Relay::new(LOCAL).run(chan, reader, writer) => carried.map_err(failure),
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
    }
}

/// What a local program has said when the service is asked for: it goes along.
struct FirstBytes {
    bytes: Vec<u8>,
    /// The stream has failed. A socket says so once, and to the relay it would look like an EOF.
    error: Option<io::Error>,
}

impl FirstBytes {
    fn read(reader: &ReadHalf<'_>) -> Self {
        let mut bytes = vec![0; MAX_FIRST_LEN];
        let (len, error) = match reader.try_read(&mut bytes) {
            Ok(len) => (len, None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, None),
            Err(error) => (0, Some(error)),
        };
        bytes.truncate(len);
        Self { bytes, error }
    }
}

async fn open(
    way: &Way,
    notice: &Notice,
    first: impl Fn() -> Option<Vec<u8>> + Send + Sync,
) -> Result<(Channel<Opaque>, Session), Failure> {
    let connect = way.connect(notice).codec(Codec::Raw).first(first);
    way.open(connect, notice).await
}

/// Binds the listeners. A port alone is bound on loopback only, because everybody who can connect can use the service. It
/// is bound on both loopback addresses, because programs use either for `localhost`.
async fn bind(listen: &str) -> Result<Vec<TcpListener>, Failure> {
    let cannot = |at: &str, error: io::Error| {
        Failure::usage(format_args!("cannot listen on {at}: {error}; name a free port, or ADDRESS:PORT"))
    };
    let Ok(wanted) = listen.parse::<u16>() else {
        return Ok(vec![TcpListener::bind(listen).await.map_err(|error| cannot(listen, error))?]);
    };
    let mut attempts = PORT_ATTEMPTS;
    loop {
        let four = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted));
        let four = four.await.map_err(|error| cannot(&format!("127.0.0.1:{wanted}"), error))?;
        let port = four.local_addr()?.port();
        attempts -= 1;
        match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
            Ok(six) => return Ok(vec![four, six]),
            Err(error) if without_ipv6(&error) => return Ok(vec![four]),
            Err(_) if wanted == 0 && attempts > 0 => {}
            Err(error) => return Err(cannot(&format!("[::1]:{port}"), error)),
        }
    }
}

fn without_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Raises the limit of descriptors. Each connection takes two, and the usual soft limit of 1 024 exists for programs that
/// use `select`. If the system refuses, the limit stays.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

fn failure(error: RelayError) -> Failure {
    match error {
        RelayError::Session(ExitReason::Normal) => {
            Failure::new(Code::Ended, "the service ended without closing the stream; ask its operator")
        }
        RelayError::Session(reason) => Failure::ended(&reason),
        RelayError::Stream(error) => Failure::local(format_args!("the local stream failed: {error}")),
        error => Failure::local(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn port_alone_binds_both_loopback_addresses() {
        let listeners = bind("0").await.unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        for listener in &listeners {
            assert!(listener.local_addr().unwrap().ip().is_loopback());
            assert_eq!(listener.local_addr().unwrap().port(), port);
        }
        let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok();
        assert_eq!(listeners.len(), 1 + usize::from(has_ipv6));
    }

    #[tokio::test]
    async fn first_bytes_of_reset_stream_are_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for reset in [false, true] {
            let mut far = TcpStream::connect(address).await.unwrap();
            let (mut near, _) = listener.accept().await.unwrap();
            let (reader, _writer) = tcp_halves(&mut near).unwrap();
            assert!(FirstBytes::read(&reader).bytes.is_empty());
            if reset {
                far.set_zero_linger().unwrap();
                drop(far);
            } else {
                tokio::io::AsyncWriteExt::write_all(&mut far, b"hello").await.unwrap();
            }
            reader.readable().await.unwrap();
            let FirstBytes { bytes, error } = FirstBytes::read(&reader);
            assert_eq!(
                (&*bytes, error.is_some()),
                if reset { (&b""[..], true) } else { (&b"hello"[..], false) }
            );
        }
    }

    #[tokio::test]
    async fn names_the_address_that_is_taken() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let failure = bind(&port.to_string()).await.unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        assert!(
            failure.to_string().starts_with(&format!("cannot listen on 127.0.0.1:{port}: ")),
            "{failure}"
        );
        assert!(bind("[::]:0").await.is_ok() || bind("0.0.0.0:0").await.is_ok());
        assert_eq!(bind("nonsense").await.unwrap_err().exit_code(), 2);
    }
}
