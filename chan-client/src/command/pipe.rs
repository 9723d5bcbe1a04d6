//! The command `pipe`.

use std::io;
use std::time::Duration;

use lib_chan::payload::Codec;
use lib_chan::relay::{Relay, RelayError};
use lib_chan::{ExitReason, Opaque, signals, stdio};

use super::arguments::{Access, Outage};
use super::block_on;
use super::failure::{Code, Failure};
use super::notice::Notice;

/// The name of the local stream in errors that reach the service.
pub(super) const LOCAL: &str = "the client's stream";

/// The time for which standard input may be silent after the service's EOF before `pipe` ends.
const INPUT_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) fn pipe(access: &Access, outage: &Outage, notice: &Notice) -> Result<(), Failure> {
    let way = access.way()?.resuming(outage.of_stream());
    block_on(async {
        let connect = way.connect(notice).codec(Codec::Raw);
        let opening = async { Ok(way.open::<Opaque, Opaque>(connect, notice).await?) };
        let mut signals = signals::subscribe();
        let (chan, session) = notice.during(&mut signals, opening).await?;
        notice.follow_all(chan.remote());
        let relay = Relay::new(LOCAL).input_timeout(INPUT_TIMEOUT);
        let carried = tokio::select! {
            carried = relay.run(chan, stdio::input(), stdio::output()) => match carried {
                // The reader of standard output has closed it, as `head` does. Other programs end silently too.
                Err(RelayError::Stream(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                carried => carried.map_err(relay_failure),
            },
            signal = signals.recv() => Err(Failure::signal(signal, "data in transit may be lost")),
        };
        session.end(carried).await
    })
}

/// Describes the failure of a relay.
pub(super) fn relay_failure(error: RelayError) -> Failure {
    match error {
        RelayError::Session(ExitReason::Normal) => {
            Failure::new(Code::Ended, "the service ended without closing the stream; ask its operator")
        }
        RelayError::Session(reason) => Failure::ended(&reason),
        RelayError::Stream(error) => Failure::local(format_args!("the local stream failed: {error}")),
        error => Failure::local(error),
    }
}
