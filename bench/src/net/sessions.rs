//! Sessions, many of them, that another program tells what to do.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::time::{MissedTickBehavior, interval_at};

use super::chan::ChanBytes;
use super::secure::Client;
use super::{Body, CONNECTORS, Caller, checked_call, say};
use crate::sample::{Clock, Sample, with_times};

/// What a program of sessions is told, a line each. It answers each with a line.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Open so many more, each of which makes one call.
    Open(usize),
    /// Let each make so many calls, one every so many microseconds.
    Call { calls: u32, every_micros: u32 },
}

/// Does as it is told until standard input ends; how many sessions there were at last.
pub(super) async fn drive(client: &Client) -> Result<Sample> {
    let mut input = BufReader::new(stdin()).lines();
    let mut held = Vec::new();
    let clock = Clock::start(Duration::ZERO);
    while let Some(line) = input.next_line().await? {
        match serde_json::from_str(&line)? {
            Order::Open(count) => say(&open(client, &mut held, count).await?)?,
            Order::Call { calls, every_micros } => {
                say(&call(&held, calls, Duration::from_micros(every_micros.into())).await?)?;
            }
        }
    }
    Ok(clock.sample(held.len() as u64))
}

async fn open(client: &Client, held: &mut Vec<ChanBytes>, count: usize) -> Result<Sample> {
    let clock = Clock::start(Duration::ZERO);
    let opening = stream::iter(0..count).map(|_| async {
        let session = ChanBytes::connect(client).await?;
        checked_call(&session, &Body::new(64), 0).await?;
        anyhow::Ok(session)
    });
    let mut opened: Vec<_> = opening.buffer_unordered(CONNECTORS).try_collect().await?;
    held.append(&mut opened);
    Ok(clock.sample(count as u64))
}

/// Every session calls once a period, each a little later than the one before it.
async fn call(held: &[ChanBytes], calls: u32, period: Duration) -> Result<Sample> {
    let clock = Clock::start(period * calls);
    let start = tokio::time::Instant::now();
    let calling: Vec<_> = (0_u32..)
        .zip(held)
        .map(|(number, session)| {
            let session = session.clone();
            let mut due = interval_at(start + period.mul_f64(f64::from(number) / held.len() as f64), period);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tokio::spawn(async move {
                let mut times = Vec::new();
                for number in 0..calls {
                    due.tick().await;
                    let start = Instant::now();
                    checked_call(&session, &Body::new(64), number.into()).await?;
                    times.push(start.elapsed().as_nanos() as u64);
                }
                anyhow::Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for calling in calling {
        times.append(&mut calling.await??);
    }
    let sample = clock.sample(times.len() as u64);
    ensure!(sample.count == held.len() as u64 * u64::from(calls), "a call is missing");
    Ok(with_times(sample, times))
}
