//! What resume costs while nothing breaks: the same work over a session with it and one without, in turn.

use std::{io, time::Duration};

use chan_client::connect;
use lib_chan::{Channel, ExitReason, Opaque, Remote, payload::Codec};
use tokio::{task::JoinSet, time::Instant};

use super::{
    server::{Program, WINDOW, message},
    spread,
};
use crate::client_key;

/// Bytes of a message.
const LEN: usize = 64;
/// Callers at a time, in one of the rows.
const CALLERS: usize = 64;

/// Prints the rates with resume as a part of those without, for each kind of work.
///
/// # Errors
/// When there is no server, or a session ends.
pub async fn speed(rounds: usize, time: Duration) -> io::Result<()> {
    let server = Program::start()?;
    let off = open(&server.url, Duration::ZERO).await?;
    let on = open(&server.url, WINDOW).await?;
    let (off, on) = (off.remote(), on.remote());
    print(&format!("{rounds} rounds of {time:?}, {LEN} bytes; rates a second; ratio of each round"));
    print(&format!("{:<24} {:>10} {:>10}   median ratio, least, greatest", "work", "off", "on"));
    for work in [Work::OneWay, Work::Calls(1), Work::Calls(CALLERS)] {
        // Once for nothing: caches and windows find their size.
        work.rate(&off, time / 2).await?;
        work.rate(&on, time / 2).await?;
        let (mut rates, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
        for round in 0..rounds {
            let (a, b) = if round.is_multiple_of(2) {
                let a = work.rate(&off, time).await?;
                (a, work.rate(&on, time).await?)
            } else {
                let b = work.rate(&on, time).await?;
                (work.rate(&off, time).await?, b)
            };
            rates[0].push(a);
            rates[1].push(b);
            ratios.push(b / a);
        }
        let ([off, on], (ratio, least, most)) = (rates.map(|rates| spread(&rates).0), spread(&ratios));
        let name = match work {
            Work::OneWay => "one way".to_owned(),
            Work::Calls(callers) => format!("calls, {callers} at a time"),
        };
        print(&format!("{name:<24} {off:>10.0} {on:>10.0}   {ratio:.3}, {least:.3}, {most:.3}"));
    }
    Ok(())
}

async fn open(url: &str, resume: Duration) -> io::Result<Channel<Opaque>> {
    let open = connect(url).key(client_key()).codec(Codec::Raw).encoded_args(Vec::new()).resume(resume);
    open.open().await.map_err(io::Error::other)
}

#[derive(Clone, Copy)]
enum Work {
    OneWay,
    Calls(usize),
}

impl Work {
    /// Messages or calls a second, done for so long.
    async fn rate(self, remote: &Remote<Opaque>, time: Duration) -> io::Result<f64> {
        let began = Instant::now();
        let done = match self {
            Self::OneWay => {
                casts(remote, began + time).await.map_err(|reason| io::Error::other(reason.to_string()))?
            }
            Self::Calls(callers) => {
                let mut calling = JoinSet::new();
                for _ in 0..callers {
                    calling.spawn(calls(remote.clone(), began + time));
                }
                let mut done = 0;
                while let Some(calls) = calling.join_next().await {
                    done += calls.map_err(io::Error::other)?.map_err(io::Error::other)?;
                }
                done
            }
        };
        Ok(done as f64 / began.elapsed().as_secs_f64())
    }
}

/// Sends until then, and waits until the service has all of it.
async fn casts(remote: &Remote<Opaque>, until: Instant) -> Result<u64, ExitReason> {
    let mut done = 0;
    while Instant::now() < until {
        for _ in 0..100 {
            remote.cast(message(0, done, LEN)).await.map_err(ExitReason::from)?;
            done += 1;
        }
    }
    remote.flush().await?;
    Ok(done)
}

async fn calls(remote: Remote<Opaque>, until: Instant) -> Result<u64, lib_chan::CallError> {
    let mut done = 0;
    while Instant::now() < until {
        remote.call(message(0, done, LEN)).await?;
        done += 1;
    }
    Ok(done)
}

#[expect(clippy::print_stdout, reason = "it is what the program is run for")]
fn print(text: &str) {
    println!("{text}");
}
