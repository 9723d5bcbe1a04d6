//! Commands that carry bytes.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lib_chan::payload::Codec;
use lib_chan::relay::{Relay, RelayError, tcp_halves};
use lib_chan::{Channel, ExitReason, Limits, Opaque, signals, stdio};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::access::Way;
use super::arguments::Access;
use super::failure::{Code, Failure};
use super::notice::Notice;
use super::{block_on, print_line};

/// What the service is told of a local stream that failed begins with this.
const LOCAL: &str = "the client's stream";

/// Bytes that a service may send ahead. It gets so much through in each round trip: at 100 ms, 20 MB/s, as with `ssh -L`.
/// Cost: so much memory for each connection whose program does not read.
const WINDOW_LEN: usize = 2 * 1024 * 1024;

/// How long standard input may be silent after the service's EOF before `pipe` takes it to have nothing to say.
const INPUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Logins in flight at once: half of what a server takes from one source by default. Programs like to open their
/// connections all at once.
const MAX_LOGINS: usize = 8;

/// How long a listener that cannot accept waits before it tries again: other connections may end.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

/// How often a free port is looked for that is free under both addresses of loopback.
const PORT_ATTEMPTS: usize = 16;

pub(super) fn pipe(access: &Access, notice: &Notice) -> Result<(), Failure> {
    let way = access.way()?;
    block_on(async {
        let chan = notice.during(open(&way, notice)).await?;
        let mut signals = signals::subscribe();
        let relay = Relay::new(LOCAL).input_timeout(INPUT_TIMEOUT);
        tokio::select! {
            carried = relay.run(chan, stdio::input(), stdio::output()) => match carried {
                // The reader of the output has what it wanted. Other programs end in silence too.
                Err(RelayError::Stream(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                carried => carried.map_err(failure),
            },
            signal = signals.recv() => Err(Failure::signal(signal, "what was on its way may be lost")),
        }
    })
}

pub(super) fn forward(
    listen: &str,
    max_connections: u16,
    access: &Access,
    notice: Notice,
) -> Result<(), Failure> {
    let way = access.way()?;
    raise_descriptors();
    block_on(async {
        // A wrong password is told now, and its key is derived before anybody waits for it.
        notice.during(async { Ok(way.connect(&notice).ping().await?) }).await?;
        let listeners = bind(listen).await?;
        // Before anything is printed: whoever reads it may say at once that it is enough.
        let mut signals = signals::subscribe();
        for listener in &listeners {
            let address = listener.local_addr()?;
            if !address.ip().is_loopback() {
                notice.complain(format_args!(
                    "warning: everybody who reaches {address} uses the service in your name; a port alone listens on loopback"
                ));
            }
            print_line(&format!("listening on {address}"))?;
        }
        let forward = Arc::new(Forward {
            way,
            notice,
            logins: Semaphore::new(MAX_LOGINS),
            room: Arc::new(Semaphore::new(max_connections.into())),
            max_connections,
            full: AtomicBool::new(false),
        });
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(listener, Arc::clone(&forward)));
        }
        tokio::select! {
            // None of them ends.
            Some(ended) = accepting.join_next() => ended.map_err(Failure::local),
            _ = signals.recv() => Ok(()),
        }
    })
}

/// What the connections of a `forward` share.
struct Forward {
    way: Way,
    notice: Notice,
    logins: Semaphore,
    room: Arc<Semaphore>,
    max_connections: u16,
    /// Whether the last connection found no room: then that has been said.
    full: AtomicBool,
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
            // Its program can say so to its user, or try again. It knows nothing of a connection that is held.
            let _ = stream.set_zero_linger();
            if !forward.full.swap(true, Ordering::Relaxed) {
                let max = forward.max_connections;
                forward.notice.complain(format_args!(
                    "a connection was reset: {max} are carried, as many as --max-connections allows"
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
    /// Carries one local connection, in a session of its own. If that fails, the connection is reset.
    async fn carry(&self, mut stream: TcpStream) -> Result<(), Failure> {
        let (reader, writer) = tcp_halves(&mut stream)?;
        let login = self.logins.acquire().await.map_err(Failure::local)?;
        let chan = open(&self.way, &self.notice).await?;
        drop(login);
        Relay::new(LOCAL).run(chan, reader, writer).await.map_err(failure)
    }
}

async fn open(way: &Way, notice: &Notice) -> Result<Channel<Opaque>, Failure> {
    let mut limits = Limits::default();
    limits.window_len = WINDOW_LEN;
    let chan = way.connect(notice).limits(limits).codec(Codec::Raw).open::<Opaque, Opaque>().await?;
    notice.detail(|| "the session is open".into());
    Ok(chan)
}

/// A port alone is one of loopback: who may connect there may use the service. Programs that know it as `localhost` use
/// either address.
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

/// Each connection takes two descriptors, and the usual soft limit of 1 024 is there for programs that use `select`. A
/// system that forbids this leaves it as it is.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

fn failure(error: RelayError) -> Failure {
    match error {
        RelayError::Session(ExitReason::Normal) => {
            Failure::new(Code::Ended, "the service ended before it had closed the stream; ask its operator")
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
    async fn port_alone_is_both_addresses_of_loopback() {
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
