//! What a network costs: the same works over paths with a round trip time, a rate and a loss.
//!
//! In each round every contestant does each work once, in programs started for it. Ratios are taken within a round.

mod path;
mod report;
mod tunnel;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use tokio::process::Command;

use self::path::{FAR, Path, Shape};
pub use self::report::replaced;
use self::tunnel::{Carrier, Tunnel};
use crate::net::{Listening, Peer, Work};
use crate::program::{Program, name};
use crate::sample::Sample;

/// How to run it.
#[derive(clap::Args)]
pub struct Options {
    /// Round trip times, in milliseconds.
    #[arg(long, value_delimiter = ',', default_value = "0.1,10,50,150")]
    rtt: Vec<f64>,
    /// Rates, in Mbit/s.
    #[arg(long, value_delimiter = ',', default_value = "10,100,1000")]
    rate: Vec<f64>,
    /// Losses, in percent of the packets.
    #[arg(long, value_delimiter = ',', default_value = "0,1")]
    loss: Vec<f64>,
    /// Only these works.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "bulk,short-calls,long-calls,beside,beside-answers,first-byte"
    )]
    only: Vec<Kind>,
    /// Rounds of each work on each path.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long one measurement takes at least, in milliseconds.
    #[arg(long, default_value_t = 4000)]
    millis: u64,
    /// Where `network.md`, its pictures and `network.json` go. In a page that exists, the table alone is replaced.
    #[arg(long, default_value = "results")]
    out: PathBuf,
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// Bytes one way, in messages of 16 KiB.
    Bulk,
    /// One caller, 64 B.
    ShortCalls,
    /// One caller, 1 MiB there and back.
    LongCalls,
    /// One caller, 64 B, while two others call with 1 MiB on the same connection: its 99th percentile.
    Beside,
    /// The same while two others fetch answers of 1 MiB with short calls.
    BesideAnswers,
    /// From nothing to the answer of a first short call.
    FirstByte,
    /// Answers of 64 B beside casts of 16 MiB in the same direction: the 99th percentile.
    BesideUploads,
    /// The same with casts that go whole.
    BesideWholeUploads,
}

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contestant {
    Peer(Peer),
    Carried(Carrier),
}

impl Contestant {
    fn name(self) -> &'static str {
        match self {
            Self::Peer(peer) => peer.name(),
            Self::Carried(carrier) => carrier.name(),
        }
    }
}

impl Kind {
    /// Those who do it, ours first; and the others that are ours, too, are not compared with.
    fn contestants(self) -> Vec<Contestant> {
        use Contestant::{Carried, Peer as P};
        let carried = [Carrier::Chan, Carrier::Ssh, Carrier::Stunnel].map(Carried);
        let peers = match self {
            Self::Bulk => vec![P(Peer::ChanBytes), P(Peer::Raw), P(Peer::Tonic)],
            Self::ShortCalls | Self::LongCalls => vec![P(Peer::Chan), P(Peer::Raw), P(Peer::Tonic)],
            Self::Beside | Self::BesideAnswers => return vec![P(Peer::Chan), P(Peer::Tonic)],
            Self::FirstByte => vec![P(Peer::Chan), P(Peer::Raw)],
            Self::BesideUploads | Self::BesideWholeUploads => return vec![P(Peer::Chan)],
        };
        let with_carried = matches!(self, Self::Bulk | Self::FirstByte);
        let here = carried.into_iter().filter(|carried| match carried {
            Carried(carrier) => with_carried && carrier.is_here(),
            P(_) => false,
        });
        peers.into_iter().chain(here).collect()
    }

    const fn work(self, peer: Peer) -> Work {
        match (self, peer) {
            (Self::Bulk, _) => Work::Bulk,
            (Self::LongCalls, Peer::Chan) => Work::LongCalls,
            (Self::ShortCalls | Self::LongCalls, _) => Work::Latency,
            (Self::Beside, _) => Work::Beside,
            (Self::BesideAnswers, _) => Work::BesideAnswers,
            (Self::FirstByte, _) => Work::First,
            (Self::BesideUploads, _) => Work::BesideUploads,
            (Self::BesideWholeUploads, _) => Work::BesideWholeUploads,
        }
    }

    /// Bytes of a message.
    const fn len(self) -> usize {
        match self {
            Self::Bulk => 16 * 1024,
            Self::LongCalls => 1024 * 1024,
            Self::ShortCalls | Self::Beside | Self::BesideAnswers | Self::FirstByte => 64,
            Self::BesideUploads | Self::BesideWholeUploads => 64,
        }
    }

    /// The number that counts: megabytes a second, or milliseconds.
    fn score(self, sample: &Sample) -> Result<f64> {
        let nanoseconds = match self {
            Self::Bulk => return Ok(sample.count as f64 * self.len() as f64 / sample.seconds / 1e6),
            Self::Beside | Self::BesideAnswers | Self::BesideUploads | Self::BesideWholeUploads => {
                sample.p99_ns
            }
            Self::ShortCalls | Self::LongCalls | Self::FirstByte => sample.median_ns,
        };
        Ok(nanoseconds.context("no times")? as f64 / 1e6)
    }

    const fn unit(self) -> &'static str {
        if matches!(self, Self::Bulk) { "MB/s" } else { "ms" }
    }
}

/// One contestant's numbers for one work on one path.
#[derive(Clone, Serialize)]
struct Row {
    path: Shape,
    kind: Kind,
    #[serde(serialize_with = "by_name")]
    contestant: Contestant,
    values: Vec<f64>,
}

fn by_name<S: serde::Serializer>(contestant: &Contestant, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(contestant.name())
}

/// Measures everything, prints each row as it comes, and writes the results.
pub async fn run(options: Options) -> Result<()> {
    let mut rows = Vec::new();
    println!("{}", report::HEAD);
    for shape in shapes(&options) {
        let path = Path::new(shape)?;
        for &kind in &options.only {
            let results = hold(&path, kind, &options).await?;
            let new: Vec<_> = results
                .into_iter()
                .map(|(contestant, values)| Row { path: shape, kind, contestant, values })
                .collect();
            new.iter().for_each(|row| println!("{}", report::line(row, &new)));
            rows.extend(new);
        }
    }
    report::write(&options.out, &rows)?;
    println!("\nwritten to {}", options.out.display());
    Ok(())
}

fn shapes(options: &Options) -> impl Iterator<Item = Shape> {
    options.loss.iter().flat_map(move |&loss_percent| {
        options.rate.iter().flat_map(move |&mbits| {
            options.rtt.iter().map(move |&rtt_ms| Shape { rtt_ms, mbits, loss_percent })
        })
    })
}

/// All rounds of one work on one path; each contestant's numbers.
async fn hold(path: &Path, kind: Kind, options: &Options) -> Result<Vec<(Contestant, Vec<f64>)>> {
    let mut results: Vec<_> =
        kind.contestants().into_iter().map(|contestant| (contestant, Vec::new())).collect();
    for round in 0..options.rounds {
        let count = results.len();
        for turn in 0..count {
            let (contestant, values) = &mut results[(round + turn) % count];
            let sample = measure(path, kind, *contestant, options.millis).await;
            let sample = sample.with_context(|| format!("{} of {}", name(kind), contestant.name()))?;
            values.push(kind.score(&sample)?);
        }
    }
    Ok(results)
}

async fn measure(path: &Path, kind: Kind, contestant: Contestant, millis: u64) -> Result<Sample> {
    let this = std::env::current_exe()?;
    let (peer, at) = match contestant {
        Contestant::Peer(peer) => (peer, FAR),
        Contestant::Carried(_) => (Peer::Tcp, "127.0.0.1"),
    };
    let work = name(kind.work(peer));
    let mut server = Program::start(path.far(&this).args(["serve", &name(peer), &work, "--at", at]))?;
    let mut listening = server.line().await?;
    let mut _tunnel = None;
    if let Contestant::Carried(carrier) = contestant {
        let target: Listening = serde_json::from_str(&listening)?;
        _tunnel = Some(Tunnel::start(carrier, path, target.address).await?);
        listening = serde_json::to_string(&Listening { address: Tunnel::address(), ..target })?;
    }
    let mut client: Command = path.near(&this);
    client.args(["client", &name(peer), &work, &listening]);
    client.args(["--callers", "1", "--len", &kind.len().to_string(), "--millis", &millis.to_string()]);
    let longest = Duration::from_millis(millis) * 4 + crate::program::PATIENCE;
    let measuring = Program::start(&mut client)?.only_line();
    tokio::time::timeout(longest, measuring).await.context("it takes too long")?
}
