//! Calls on one session: more callers, longer messages, more callers than slots.

use anyhow::{Context, Result};
use tokio::time::timeout;

use super::series::Bound::{AtLeast, AtMost};
use super::series::Unit::{Bytes, BytesPerSecond, Part, PerSecond, Ratio, Seconds};
use super::series::{Line, Point, Series, check, figure};
use super::{Options, start_client, start_server};
use crate::net::{HELD, Load, Pace, Peer, Work};
use crate::program::PATIENCE;
use crate::sample::{Sample, ServerSample};

/// Who makes the calls, side by side.
const PEERS: [Peer; 3] = [Peer::Chan, Peer::Tarpc, Peer::Tonic];

/// Callers of the series about longer messages.
const CALLERS: usize = 16;
/// Calls that a server lets a client have in flight, by default.
fn slots() -> usize {
    lib_chan::Limits::default().max_calls as usize
}

/// More callers on one session.
pub(super) async fn callers(options: &Options) -> Result<Series> {
    let figures = vec![
        figure("calls a second", PerSecond),
        figure("median", Seconds),
        figure("99th percentile", Seconds),
        figure("server, processor a call", Seconds),
        figure("client, processor a call", Seconds),
        figure("server, memory", Bytes),
    ];
    let points = [1, 16, 256, 4096].map(|callers| (thousands(callers), load(64, callers)));
    let lines = measure(options, &PEERS, Work::Calls, &points, |_, sample| {
        let (count, server) = (sample.count as f64, server(sample)?);
        Ok(vec![
            count / sample.seconds,
            nanoseconds(sample.median_ns)?,
            nanoseconds(sample.p99_ns)?,
            server.cpu_seconds / count,
            sample.cpu_seconds / count,
            server.peak_bytes,
        ])
    })
    .await?;
    let ours = &lines[0];
    let both = |point| ours.at(point, 3) + ours.at(point, 4);
    let checks = vec![
        check("processor time a call: 4 096 callers to 256", Ratio, both(3) / both(2), AtMost(1.5)),
        check("calls a second: 4 096 callers to 256", Ratio, ours.last_step(0), AtLeast(0.67)),
        check(
            "4 096 callers: 99th percentile to 4 096 calls' time",
            Ratio,
            ours.at(3, 2) / (4096.0 / ours.at(3, 0)),
            AtMost(3.0),
        ),
    ];
    Ok(Series {
        name: "callers",
        title: "More callers on one session",
        about: "Each caller makes one call at a time, with 64 bytes there and back. With more than 1 024 callers, calls \
                wait for a slot of the other end. Memory is the peak of the resident memory."
            .into(),
        axis: "callers",
        grows: true,
        figures,
        lines,
        checks,
    })
}

/// Longer messages.
pub(super) async fn payload(options: &Options) -> Result<Series> {
    let figures = vec![
        figure("calls a second", PerSecond),
        figure("bytes a second, each way", BytesPerSecond),
        figure("server, processor a MB", Seconds),
        figure("client, processor a MB", Seconds),
        figure("server, memory", Bytes),
    ];
    let lens =
        [(64, "64 B"), (1, "1 KiB"), (16, "16 KiB"), (64, "64 KiB"), (256, "256 KiB"), (1024, "1 MiB")];
    let points = lens.map(|(len, name)| {
        let len = if name == "64 B" { len } else { len * 1024 };
        (name.to_owned(), load(len, CALLERS))
    });
    let lines = measure(options, &PEERS, Work::LongCalls, &points, |load, sample| {
        let (count, server) = (sample.count as f64, server(sample)?);
        let megabytes = count * load.len as f64 / 1e6;
        Ok(vec![
            count / sample.seconds,
            megabytes * 1e6 / sample.seconds,
            server.cpu_seconds / megabytes,
            sample.cpu_seconds / megabytes,
            server.peak_bytes,
        ])
    })
    .await?;
    let ours = &lines[0];
    let both = |point| ours.at(point, 2) + ours.at(point, 3);
    let checks = vec![
        check("processor time a MB: 256 KiB to 64 KiB", Ratio, both(4) / both(3), AtMost(1.5)),
        check("processor time a MB: 1 MiB to 256 KiB", Ratio, both(5) / both(4), AtMost(1.5)),
        check("bytes a second: 1 MiB to 256 KiB", Ratio, ours.last_step(1), AtLeast(0.67)),
    ];
    Ok(Series {
        name: "payload",
        title: "Longer messages",
        about: format!(
            "{CALLERS} callers on one session send the same bytes there and back. A MB is a million bytes that went \
             both ways. `max_frame_len` is 2 MiB at both ends, because a message of 1 MiB and its header exceed the \
             default of 1 MiB. A message of 256 KiB or more fills the credit window, so requests go one at a time. Each \
             message is allocated twice: as a frame, and as the value that is decoded from it."
        ),
        axis: "message",
        grows: true,
        figures,
        lines,
        checks,
    })
}

/// More callers than the far side has slots.
pub(super) async fn waiting(options: &Options) -> Result<Series> {
    let figures = vec![
        figure("calls a second", PerSecond),
        figure("of the ideal", Part),
        figure("median", Seconds),
        figure("99th percentile", Seconds),
        figure("longest", Seconds),
        figure("longest to median", Ratio),
        figure("fewest calls of one to most", Ratio),
        figure("server, memory", Bytes),
    ];
    let points = [512, 1024, 2048, 4096].map(|callers| (thousands(callers), load(64, callers)));
    let lines = measure(options, &[Peer::Chan], Work::HeldCalls, &points, |load, sample| {
        let rate = sample.count as f64 / sample.seconds;
        let ideal = load.callers.min(slots()) as f64 / HELD.as_secs_f64();
        let (median, longest) = (nanoseconds(sample.median_ns)?, nanoseconds(sample.longest_ns)?);
        let (fewest, most) = sample.calls_of_one.context("no callers")?;
        Ok(vec![
            rate,
            rate / ideal,
            median,
            nanoseconds(sample.p99_ns)?,
            longest,
            longest / median,
            fewest as f64 / most as f64,
            server(sample)?.peak_bytes,
        ])
    })
    .await?;
    let ours = &lines[0];
    let checks = vec![
        check("4 096 callers: calls a second, of the ideal", Part, ours.at(3, 1), AtLeast(0.7)),
        check("4 096 callers: longest to median", Ratio, ours.at(3, 5), AtMost(2.0)),
        check("4 096 callers: fewest calls of one caller to most", Ratio, ours.at(3, 6), AtLeast(0.75)),
        check("memory of the server: 4 096 callers to 2 048", Ratio, ours.last_step(7), AtMost(1.2)),
    ];
    Ok(Series {
        name: "waiting",
        title: "More callers than slots",
        about: format!(
            "The service answers each call {} ms after its arrival, by a timer. The server allows a client {} calls in \
             flight; the others wait at the client, first come first served. The ideal is the number of calls that the \
             slots can hold in that time.",
            HELD.as_millis(),
            thousands(slots())
        ),
        axis: "callers",
        grows: true,
        figures,
        lines,
        checks,
    })
}

const fn load(len: usize, callers: usize) -> Load {
    Load { len, callers, pace: Pace::Stopped }
}

/// Measures everybody at every point, in each round another one first; each time with programs started for it.
async fn measure(
    options: &Options,
    peers: &[Peer],
    work: Work,
    points: &[(String, Load)],
    figures: impl Fn(Load, &Sample) -> Result<Vec<f64>>,
) -> Result<Vec<Line>> {
    let mut lines: Vec<_> = peers.iter().map(|peer| Line { who: peer.name(), points: Vec::new() }).collect();
    for (at, load) in points {
        let mut rounds = vec![Vec::new(); peers.len()];
        for round in 0..options.rounds {
            for turn in 0..peers.len() {
                let number = (round + turn) % peers.len();
                let peer = peers[number];
                let measured = timeout(options.length() + PATIENCE, once(options, peer, work, *load)).await;
                let measured = measured.context("it takes too long").flatten();
                let sample = measured.with_context(|| format!("{}, {at}", peer.name()))?;
                rounds[number].push(figures(*load, &sample)?);
            }
        }
        for (line, rounds) in lines.iter_mut().zip(&rounds) {
            line.points.push(Point::of(at, rounds));
        }
    }
    Ok(lines)
}

async fn once(options: &Options, peer: Peer, work: Work, load: Load) -> Result<Sample> {
    let (server, listening) = start_server(peer, work).await?;
    let client = start_client(peer, work, &listening, load, options.length())?;
    let sample = client.only_line().await?;
    server.only_line().await?;
    Ok(sample)
}

fn server(sample: &Sample) -> Result<ServerSample> {
    sample.server.context("nothing is known of the server")
}

fn nanoseconds(time: Option<u64>) -> Result<f64> {
    Ok(time.context("no times")? as f64 / 1e9)
}

/// A number with a space between its thousands.
pub(super) fn thousands(number: usize) -> String {
    match (number / 1000, number % 1000) {
        (0, rest) => rest.to_string(),
        (whole, rest) => format!("{} {rest:03}", thousands(whole)),
    }
}
