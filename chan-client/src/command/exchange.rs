//! Commands that exchange messages with a service.

use std::convert::Infallible;
use std::future::pending;
use std::io::ErrorKind;

use bytes::Bytes;
use lib_chan::payload::Codec;
use lib_chan::{CallError, Channel, ExitReason, Limits, Message, Opaque, signals, stdio};
use tokio::time::timeout;

use super::access::{Way, close, message as typed};
use super::arguments::{Access, Outage, Start};
use super::failure::{Code, DONE, Failure, MAYBE};
use super::notice::Notice;
use super::session::Session;
use super::{block_on, print_line, show_line};
use crate::json::compact;

pub(super) fn call(access: &Access, message: &str, start: &Start, notice: &Notice) -> Result<(), Failure> {
    let (message, args) = (opaque(&typed(message)?), start.args()?);
    let way = access.way()?;
    block_on(async {
        let (bound, mut signals) = (way.begin(), signals::subscribe());
        let asked = notice.during(&mut signals, async {
            let (mut chan, _) = open(&way, &args, notice).await?;
            notice.sent("waiting for the answer");
            let remote = chan.remote();
            let asking = async {
                match bound.left() {
                    Some(time) => remote.call_within(time, message).await,
                    None => remote.call(message).await,
                }
            };
            let answer = tokio::select! {
                answer = asking => shown(answer),
                never = discard(&mut chan) => match never {},
            };
            Ok((chan, answer))
        });
        let (chan, answer) = asked.await?;
        let printed = notice.during(&mut signals, async {
            notice.wait_for("writing the answer");
            let printed = show_line(answer?).await;
            printed.map_err(|error| Failure::local(format_args!("{} ({DONE})", Failure::output(&error))))
        });
        let printed = printed.await;
        close(chan, bound, &mut signals, notice).await;
        printed
    })
}

pub(super) fn cast(access: &Access, message: &str, start: &Start, notice: &Notice) -> Result<(), Failure> {
    let (message, args) = (opaque(&typed(message)?), start.args()?);
    let way = access.way()?;
    block_on(async {
        let (bound, mut signals) = (way.begin(), signals::subscribe());
        let sent = notice.during(&mut signals, async {
            let (mut chan, _) = open(&way, &args, notice).await?;
            notice.sent("waiting until the service takes the message");
            let remote = chan.remote();
            let sending = async {
                let sent = remote.cast(message).await;
                sent.map_err(|error| Failure::not_sent(&error.into()))?;
                // The service reports a message that it cannot decode only when it takes it. Closing the session before
                // that would hide the error.
                remote.taken().await.map_err(|reason| Failure::cast(&reason))
            };
            let time = bound.left().unwrap_or_else(|| Limits::default().call_timeout);
            let taken = tokio::select! {
                sent = timeout(time, sending) => sent.unwrap_or_else(|_| {
                    let late = "the service did not take the message in time; allow more with --timeout";
                    Err(Failure::new(Code::Deadline, format_args!("{late} ({MAYBE})")))
                }),
                never = discard(&mut chan) => match never {},
            };
            Ok((chan, taken))
        });
        let (chan, taken) = sent.await?;
        close(chan, bound, &mut signals, notice).await;
        taken
    })
}

pub(super) fn ping(access: &Access, notice: &Notice) -> Result<(), Failure> {
    let way = access.way()?;
    let ping = block_on(async {
        notice.during(&mut signals::subscribe(), async { Ok(way.connect(notice).ping().await?) }).await
    })?;
    let milliseconds = ping.took.as_secs_f64() * 1e3;
    print_line(&format!("{}: let in after {milliseconds:.1} ms, by the key {}", ping.authority, ping.pin))
}

pub(super) fn receive(
    access: &Access,
    start: &Start,
    outage: &Outage,
    notice: &Notice,
) -> Result<(), Failure> {
    let args = start.args()?;
    let way = access.way()?.resuming(outage.of_messages());
    block_on(async {
        let mut signals = signals::subscribe();
        let (mut chan, session) = notice.during(&mut signals, open(&way, &args, notice)).await?;
        notice.follow_all(chan.remote());
        let told = tokio::select! {
            told = print_messages(&mut chan) => told,
            // A signal and a closed standard output are the normal ends of this command.
            _ = signals.recv() => Ok(()),
            () = stdio::reader_gone() => Ok(()),
        };
        close(chan, way.begin(), &mut signals, notice).await;
        session.end(told).await
    })
}

/// Prints each message as a line, until the service ends or standard output is closed.
async fn print_messages(chan: &mut Channel<Opaque>) -> Result<(), Failure> {
    let remote = chan.remote();
    loop {
        match chan.recv().await {
            Some(Message::Cast(message)) => match show_line(readable(&message).map_err(unreadable)?).await {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                shown => shown.map_err(|error| Failure::output(&error))?,
            },
            Some(Message::Call(_, reply)) => reply.refuse(NO_CALLS),
            None => return ended(&remote.ended().await),
        }
    }
}

/// Opens a session with a service of JSON messages.
pub(super) async fn open(
    way: &Way,
    args: &str,
    notice: &Notice,
) -> Result<(Channel<Opaque>, Session), Failure> {
    let connect = way.connect(notice).codec(Codec::Json).encoded_args(args.as_bytes().to_vec());
    Ok(way.open(connect, notice).await?)
}

pub(super) fn opaque(json: &str) -> Opaque {
    Opaque(Bytes::copy_from_slice(json.as_bytes()))
}

/// Returns an answer as a line to print.
pub(super) fn shown(answer: Result<Opaque, CallError>) -> Result<String, Failure> {
    readable(&answer?).map_err(|what| {
        Failure::new(Code::Answer, format_args!("the answer {what}; ask the operator ({DONE})"))
    })
}

/// Returns a message as a line to print, or why it cannot be printed.
pub(super) fn readable(Opaque(message): &Opaque) -> Result<String, String> {
    let text = std::str::from_utf8(message).map_err(|error| format!("is not UTF-8 ({error})"))?;
    compact(text).map_err(|error| format!("is not JSON ({error})"))
}

/// Returns the result of a command that did not wait for an answer when the service ended. A normal end is a success.
fn ended(reason: &ExitReason) -> Result<(), Failure> {
    match reason {
        ExitReason::Normal => Ok(()),
        reason => Err(Failure::ended(reason)),
    }
}

/// The refusal of calls that the service makes.
pub(super) const NO_CALLS: &str = "this client answers no calls";

fn unreadable(what: String) -> Failure {
    Failure::new(Code::Answer, format_args!("a message of the service {what}; ask its operator"))
}

/// Discards the messages of the service, so that it never waits for credit while the command waits for its answer.
async fn discard(chan: &mut Channel<Opaque>) -> Infallible {
    while let Some(message) = chan.recv().await {
        if let Message::Call(_, reply) = message {
            reply.refuse(NO_CALLS);
        }
    }
    // The pending call reports the end of the session.
    pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_answer_was_executed() {
        for bytes in [&b"\xff"[..], b"{", b""] {
            let failure = shown(Ok(Opaque(Bytes::from_static(bytes)))).unwrap_err();
            assert_eq!(failure.exit_code(), 10);
            assert!(failure.to_string().contains("(executed"), "{failure}");
        }
        assert_eq!(shown(Ok(opaque("{ \"a\" : 1 }"))).unwrap(), "{\"a\":1}");
    }
}
