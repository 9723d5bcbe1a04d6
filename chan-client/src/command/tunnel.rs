//! Commands that carry bytes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use lib_chan::payload::Codec;
use lib_chan::{Channel, ExitReason, Opaque, signals, stdio};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::access::Way;
use super::arguments::Access;
use super::failure::{Code, Failure};
use super::notice::Notice;
use super::{block_on, print_line};
use crate::forward::{RelayError, relay};

/// Local connections that are carried at once; more wait to be accepted. As many as a server allows a client.
const MAX_CONNECTIONS: usize = 256;

/// Logins that are under way at once. A server turns a source away that has too many (16, unless its operator thinks
/// otherwise), and programs like to open their connections all at once.
const MAX_LOGINS: usize = 8;

/// How long a listener that cannot accept waits before it tries again: other connections may end.
const ACCEPT_RETRY_AFTER: Duration = Duration::from_millis(100);

pub(super) fn pipe(access: &Access, notice: &Notice) -> Result<(), Failure> {
    let way = access.way()?;
    block_on(async {
        let chan = notice.during(open(&way, notice)).await?;
        let mut signals = signals::subscribe();
        tokio::select! {
            carried = relay(chan, stdio::input(), stdio::output()) => carried.map_err(failure),
            signal = signals.recv() => Err(Failure::signal(signal, "what was on its way may be lost")),
        }
    })
}

pub(super) fn forward(listen: &str, access: &Access, notice: Notice) -> Result<(), Failure> {
    let way = access.way()?;
    block_on(async {
        // A wrong password is told now, and its key is derived before anybody waits for it.
        notice.during(async { Ok(way.connect(&notice).ping().await?) }).await?;
        let listener = bind(listen).await?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            notice.complain(format_args!(
                "warning: everybody who reaches {address} uses the service in your name; a port alone listens on loopback"
            ));
        }
        // Before anything is printed: whoever reads it may say at once that it is enough.
        let mut signals = signals::subscribe();
        print_line(&format!("listening on {address}"))?;
        tokio::select! {
            failed = accept(&listener, Arc::new((way, notice, Semaphore::new(MAX_LOGINS)))) => failed,
            // It has no other end.
            _ = signals.recv() => Ok(()),
        }
    })
}

async fn accept(listener: &TcpListener, carrier: Arc<(Way, Notice, Semaphore)>) -> Result<(), Failure> {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // It is never closed.
        let permit = room.clone().acquire_owned().await.map_err(Failure::local)?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                carrier.1.complain(format_args!("cannot accept: {error}"));
                sleep(ACCEPT_RETRY_AFTER).await;
                continue;
            }
        };
        let carrier = carrier.clone();
        tokio::spawn(async move {
            let (way, notice, logins) = &*carrier;
            if let Err(failure) = carry(stream, way, notice, logins).await {
                notice.complain(failure);
            }
            drop(permit);
        });
    }
}

/// Carries one local connection, in a session of its own. If that fails, the connection is reset and not closed, so
/// that what it carried is not taken to be whole.
async fn carry(mut stream: TcpStream, way: &Way, notice: &Notice, logins: &Semaphore) -> Result<(), Failure> {
    let carried = async {
        // Pieces are as long as the other end made them; holding them back gains nothing.
        stream.set_nodelay(true)?;
        let login = logins.acquire().await.map_err(Failure::local)?;
        let chan = open(way, notice).await?;
        drop(login);
        let (reader, writer) = stream.split();
        relay(chan, reader, writer).await.map_err(failure)
    }
    .await;
    if carried.is_err() {
        // If even that fails there is no connection left to reset.
        let _ = stream.set_zero_linger();
    }
    carried
}

async fn open(way: &Way, notice: &Notice) -> Result<Channel<Opaque>, Failure> {
    let chan = way.connect(notice).codec(Codec::Raw).open::<Opaque, Opaque>().await?;
    notice.detail(|| "the session is open".into());
    Ok(chan)
}

/// A port alone is one of loopback: who may connect there may use the service.
async fn bind(listen: &str) -> Result<TcpListener, Failure> {
    let bound = match listen.parse::<u16>() {
        Ok(port) => TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await,
        Err(_) => TcpListener::bind(listen).await,
    };
    bound.map_err(|error| {
        Failure::usage(format_args!("cannot listen on {listen}: {error}; name a free port, or ADDRESS:PORT"))
    })
}

fn failure(error: RelayError) -> Failure {
    match error {
        RelayError::Session(ExitReason::Normal) => {
            Failure::new(Code::Ended, "the service ended before it had closed the stream; ask its operator")
        }
        RelayError::Session(reason) => Failure::ended(&reason),
        RelayError::Stream(error) => Failure::local(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_alone_is_one_of_loopback() {
        let listener = bind("0").await.unwrap();
        assert!(listener.local_addr().unwrap().ip().is_loopback());
        let taken = bind(&listener.local_addr().unwrap().port().to_string()).await.unwrap_err();
        assert_eq!(taken.exit_code(), 2);
        assert!(bind("[::]:0").await.is_ok() || bind("0.0.0.0:0").await.is_ok());
        assert_eq!(bind("nonsense").await.unwrap_err().exit_code(), 2);
    }
}
