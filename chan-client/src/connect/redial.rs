//! The later connections of a session that can be resumed.

use std::sync::Arc;
use std::time::Duration;

use lib_chan::ExitReason;
use lib_chan::channel::{Connected, Connector as Dial};
use lib_chan::tls::exporter;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::client::TlsStream;

use super::connector::{Connector, random_fraction};
use super::error::ConnectError;
use super::retry::Backoff;

/// The bounds of the wait before a connection is dialled again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Observes the errors that keep a session from its next connection.
pub(super) type OnRedial = dyn Fn(&ConnectError, Option<Duration>) + Send + Sync;

/// Dials as the first connection was dialled, until there is a connection or no hope for one. The driver of the session
/// bounds the time.
pub(super) fn connector(connector: Connector, on_redial: Arc<OnRedial>) -> Dial<TlsStream<TcpStream>> {
    // Every failure is reported, and followed by the waits of here.
    let (busy, wait) = (Duration::ZERO, Duration::ZERO);
    let connector = Arc::new(Connector { timeout: None, busy, wait, ..connector });
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    Box::new(move |attempt| {
        if attempt == 0 {
            backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        }
        // A connection that carried no session counts as a failed attempt.
        let wait = if attempt == 0 { Duration::ZERO } else { backoff.next(random_fraction()) };
        let (connector, backoff, on_redial) =
            (Arc::clone(&connector), backoff.clone(), Arc::clone(&on_redial));
        Box::pin(dial(connector, wait, backoff, on_redial))
    })
}

async fn dial(
    connector: Arc<Connector>,
    mut wait: Duration,
    mut backoff: Backoff,
    on_redial: Arc<OnRedial>,
) -> Result<Connected<TlsStream<TcpStream>>, ExitReason> {
    loop {
        sleep(wait).await;
        let error = match connected(&connector).await {
            Ok(connected) => return Ok(connected),
            Err(error) => error,
        };
        if let Some(reason) = end(&error) {
            on_redial(&error, None);
            return Err(reason);
        }
        wait = backoff.next(random_fraction());
        on_redial(&error, Some(wait));
    }
}

async fn connected(connector: &Connector) -> Result<Connected<TlsStream<TcpStream>>, ConnectError> {
    let stream = connector.login(None, &|_| {}).await?.stream;
    let exporter = exporter(stream.get_ref().1).map_err(ConnectError::local)?;
    Ok(Connected { stream, exporter })
}

/// Returns the reason with which the session ends at once, or `None` if a later attempt may succeed. A network that a
/// laptop has just joined may answer in the server's place, and without its TLS.
fn end(error: &ConnectError) -> Option<ExitReason> {
    match error {
        ConnectError::Refused => Some(ExitReason::Revoked),
        ConnectError::Identity(_) | ConnectError::Misbehaved { .. } | ConnectError::Usage(_) => {
            Some(ExitReason::failed(error.to_string()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::IdentityError;

    #[test]
    fn only_refusal_and_wrong_server_end_session() {
        let unreachable = ConnectError::Unreachable { authority: "a:1".into(), what: "x".into() };
        let portal = ConnectError::Incompatible { authority: "a:1".into(), what: "no TLS".into() };
        assert_eq!(
            [end(&unreachable), end(&portal), end(&ConnectError::Local("x".into()))],
            [None, None, None]
        );
        assert_eq!(end(&ConnectError::Refused), Some(ExitReason::Revoked));
        assert!(matches!(end(&IdentityError::Signature.into()), Some(ExitReason::Failed(_))));
    }
}
