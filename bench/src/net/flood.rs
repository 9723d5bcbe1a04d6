//! Sessions that cast as fast as they may, to a service that hardly takes any.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use lib_chan::Opaque;
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

use super::chan::{Pace, connect_to_flood};
use super::secure::Client;
use super::{Body, say};
use crate::sample::{Clock, Sample};

/// Opens so many sessions and says a line; floods after the next line that it reads, and says another once the flood
/// has filled what there is to fill; ends when standard input does. How many messages went.
pub(super) async fn drive(client: &Client, len: usize, sessions: usize, pace: Pace) -> Result<Sample> {
    let mut input = BufReader::new(stdin()).lines();
    let clock = Clock::start(Duration::ZERO);
    let mut remotes = Vec::new();
    for _ in 0..sessions {
        remotes.push(connect_to_flood(client, pace).await?);
    }
    say(&clock.sample(sessions as u64))?;
    input.next_line().await?;
    let sent = Arc::new(AtomicU64::new(0));
    let flooding: Vec<_> = remotes
        .into_iter()
        .map(|remote| {
            let (sent, body) = (Arc::clone(&sent), Body::new(len));
            tokio::spawn(async move {
                for number in 0.. {
                    if remote.cast(Opaque(body.numbered(number))).await.is_err() {
                        break;
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    wait_until_slow(&sent, sessions).await;
    say(&clock.sample(sent.load(Ordering::Relaxed)))?;
    while input.next_line().await?.is_some() {}
    ensure!(!flooding.iter().any(tokio::task::JoinHandle::is_finished), "a flooded session ended");
    Ok(clock.sample(sent.load(Ordering::Relaxed)))
}

/// Returns when a tenth of a second has brought no more than what slow services take in it, twice over.
async fn wait_until_slow(sent: &AtomicU64, sessions: usize) {
    let mut before = None;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = sent.load(Ordering::Relaxed);
        if before.is_some_and(|before| before > 0 && now - before <= 20 * sessions as u64) {
            return;
        }
        before = Some(now);
    }
}
