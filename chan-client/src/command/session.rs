//! A session of a command, beside its channel: what keeps it from its next connection, and its end.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use lib_chan::protocol::Transmit;
use lib_chan::{Channel, ExitReason};
use tokio::time::timeout;

use super::access::{LAST_WORDS_TIMEOUT, Way};
use super::failure::Failure;
use super::notice::Notice;
use crate::connect::{Connect, ConnectError};

/// An open session whose channel is in other hands.
pub(super) struct Session {
    ended: Pin<Box<dyn Future<Output = ExitReason> + Send>>,
    /// Why reconnecting was hopeless.
    hopeless: Arc<OnceLock<Failure>>,
}

impl Way {
    /// Opens a session.
    pub(super) async fn open<In, Out: Transmit + 'static>(
        &self,
        connect: Connect<'_>,
        notice: &Notice,
    ) -> Result<(Channel<In, Out>, Session), ConnectError> {
        let hopeless = Arc::new(OnceLock::new());
        let (reason, detail) = (Arc::clone(&hopeless), notice.details());
        let connect = connect.resume(self.resume).on_redial(move |error, again_in| match again_in {
            Some(again_in) => detail(format_args!("{error}; connecting again in {again_in:.1?}")),
            None => drop(reason.set(Failure::reconnect(error))),
        });
        let chan = connect.open::<In, Out>().await?;
        notice.detail(|| "the session is open".into());
        let ended = Box::pin(chan.remote().ended());
        Ok((chan, Session { ended, hopeless }))
    }
}

impl Session {
    /// Lets the end of a session go out whose channel is closed or dropped: without it, the other end would wait for the
    /// client to resume. Returns the result of the command; if it failed because reconnecting did, that is the failure.
    pub(super) async fn end(self, result: Result<(), Failure>) -> Result<(), Failure> {
        drop(timeout(LAST_WORDS_TIMEOUT, self.ended).await);
        result.map_err(|failure| self.hopeless.get().cloned().unwrap_or(failure))
    }
}
