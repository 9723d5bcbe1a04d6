//! A service that takes next to nothing, flooded; and another session of the same server.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lib_chan::Limits;

use super::series::Bound::{AtLeast, AtMost};
use super::series::Unit::{Bytes, Part, PerSecond, Ratio};
use super::series::{Line, Point, Series, check, figure};
use super::{Options, start_client, start_server};
use crate::net::{Load, Pace, Peer, Work};
use crate::program::Program;
use crate::sample::{Sample, cpu_seconds_of, memory};

/// Callers of the session that is not flooded.
const CALLERS: usize = 16;
/// What a message costs of a window, beside its bytes.
const MESSAGE_COST: usize = 64;
/// Flooding sessions, where their memory is measured: of one alone it would be lost in that of the program.
const FLOODING: usize = 100;

pub(super) async fn measure(options: &Options) -> Result<Series> {
    let kinds = [
        ("one in 10 ms, 64 B", Pace::Slow, 64),
        ("none, 64 B", Pace::Stopped, 64),
        ("none, 16 KiB", Pace::Stopped, 16 * 1024),
    ];
    let mut points = Vec::new();
    for (at, pace, len) in kinds {
        let mut rounds = Vec::new();
        // As often with the flood first as with it last.
        for round in 0..options.rounds * 2 {
            let mut values = beside(options, pace, len, round % 2 == 0).await?;
            values.extend(memory_of_flood(pace, len).await?);
            rounds.push(values);
        }
        points.push(Point::of(at, &rounds));
    }
    Ok(series(Line { who: "lib_chan", points }))
}

fn series(ours: Line) -> Series {
    let figures = vec![
        figure("the other session, alone: calls a second", PerSecond),
        figure("calls, beside the flood, to alone", Ratio),
        figure("median, to alone", Ratio),
        figure("99th percentile, to alone", Ratio),
        figure("flooder, of a processor", Part),
        figure("sent ahead, in windows", Ratio),
        figure("server, memory a flood", Bytes),
        figure("flooder, memory a flood", Bytes),
    ];
    let window = Limits::default().window_len as f64;
    let worst = |figure: usize, of: fn(f64, f64) -> f64| {
        (0..ours.points.len()).map(|point| ours.at(point, figure)).reduce(of).unwrap_or(f64::NAN)
    };
    let checks = vec![
        check("calls of the other session, beside a flood to alone", Ratio, worst(1, f64::min), AtLeast(0.9)),
        check("their median, beside a flood to alone", Ratio, worst(2, f64::max), AtMost(1.15)),
        check("sent ahead, in windows", Ratio, worst(5, f64::max), AtMost(1.1)),
        check("server, memory a flood, in windows", Ratio, worst(6, f64::max) / window, AtMost(2.0)),
        check("flooder, memory a flood, in windows", Ratio, worst(7, f64::max) / window, AtMost(1.0)),
    ];
    Series {
        name: "flood",
        title: "A flooded service",
        about: format!(
            "One session casts as fast as it may to a service that takes one message in 10 ms, or none. The window is \
             {} KiB of payload and 64 bytes for each message. Another session of the same server has {CALLERS} callers \
             with 64 bytes. The table divides its rate and times during the flood by those without a flood, measured a \
             moment before or after, in twice as many rounds. The memory of a flood is the memory that {FLOODING} \
             flooded sessions add, divided by {FLOODING}.",
            Limits::default().window_len / 1024
        ),
        axis: "the service takes",
        grows: false,
        figures,
        lines: vec![ours],
        checks,
    }
}

/// The other session's calls beside one flood and without it.
async fn beside(options: &Options, pace: Pace, len: usize, flood_first: bool) -> Result<Vec<f64>> {
    let (server, listening) = start_server(Peer::ChanBytes, Work::Flood).await?;
    // What a server does for the first time is not what is measured.
    calls(&listening, options.length() / 4).await?;
    let mut alone = None;
    if !flood_first {
        alone = Some(calls(&listening, options.length()).await?);
    }
    let flooder = Flooder::start(&listening, pace, len, 1).await?;
    let (start, cpu) = (Instant::now(), cpu_seconds_of(flooder.program.id()?));
    let flooded = calls(&listening, options.length()).await?;
    let cpu = (cpu_seconds_of(flooder.program.id()?) - cpu) / start.elapsed().as_secs_f64();
    let ahead = flooder.sent as f64 * (len + MESSAGE_COST) as f64;
    flooder.program.only_line().await?;
    let alone = match alone {
        Some(alone) => alone,
        None => calls(&listening, options.length()).await?,
    };
    server.only_line().await?;
    let rate = |sample: &Sample| sample.count as f64 / sample.seconds;
    let ratio = |of: fn(&Sample) -> Option<u64>| {
        let (ours, theirs) = of(&flooded).zip(of(&alone)).context("no times")?;
        anyhow::Ok(ours as f64 / theirs as f64)
    };
    Ok(vec![
        rate(&alone),
        rate(&flooded) / rate(&alone),
        ratio(|sample| sample.median_ns)?,
        ratio(|sample| sample.p99_ns)?,
        cpu,
        ahead / Limits::default().window_len as f64,
    ])
}

/// What a flooded session takes, at the server and at the client.
async fn memory_of_flood(pace: Pace, len: usize) -> Result<[f64; 2]> {
    let (server, listening) = start_server(Peer::ChanBytes, Work::Flood).await?;
    let pid = server.id()?;
    let warming = Flooder::start(&listening, pace, len, 1).await?;
    let flooder = Flooder::start_at(&listening, pace, len, FLOODING, || memory(pid)).await?;
    let grown = [memory(pid)? - flooder.before, memory(flooder.program.id()?)? - flooder.own_before];
    flooder.program.only_line().await?;
    warming.program.only_line().await?;
    server.only_line().await?;
    Ok(grown.map(|bytes| bytes / FLOODING as f64))
}

async fn calls(listening: &str, length: Duration) -> Result<Sample> {
    let load = Load { len: 64, callers: CALLERS, pace: Pace::Stopped };
    start_client(Peer::ChanBytes, Work::Calls, listening, load, length)?.only_line().await
}

/// A program that floods, once all is full.
struct Flooder {
    program: Program,
    /// Messages that went until it was.
    sent: u64,
    /// What was asked for before it began, and its own memory then.
    before: f64,
    own_before: f64,
}

impl Flooder {
    async fn start(listening: &str, pace: Pace, len: usize, sessions: usize) -> Result<Self> {
        Self::start_at(listening, pace, len, sessions, || Ok(0.0)).await
    }

    async fn start_at(
        listening: &str,
        pace: Pace,
        len: usize,
        sessions: usize,
        look: impl FnOnce() -> Result<f64>,
    ) -> Result<Self> {
        let load = Load { len, callers: sessions, pace };
        let mut program = start_client(Peer::ChanBytes, Work::Flood, listening, load, Duration::ZERO)?;
        program.sample().await?;
        let (before, own_before) = (look()?, memory(program.id()?)?);
        program.go_on().await?;
        let sent = program.sample().await?.count;
        Ok(Self { program, sent, before, own_before })
    }
}
