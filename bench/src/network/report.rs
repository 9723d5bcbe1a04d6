//! The results over networks: a table with a verdict for each target, and pictures.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Result;

use super::tunnel::Carrier;
use super::{Contestant, Kind, Row, Shape};
use crate::growth::plot;
use crate::growth::series::{Line, Point, Series, Unit, figure};
use crate::machine::Machine;
use crate::net::Peer;
use crate::program::name;
use crate::sample::Spread;

pub(super) const HEAD: &str = "| round trip | rate | loss | work | contestant | median (least–greatest) | ours is | target | |\n\
     |---|---|---|---|---|---|---|---|---|";

/// The table of a page stands between these lines.
const BEGIN: &str = "<!-- written by bench/network -->\n";
const END: &str = "<!-- end -->\n";

/// The most of one message that goes without a break.
const PART_LEN: f64 = 64.0 * 1024.0;
/// A comparison that is this much short is a tie: the runs of one contestant differ by more.
const TIE: f64 = 0.03;

/// Something that must hold: of the ratio of ours to theirs, or of our own number.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    RatioAtLeast(f64),
    RatioAtMost(f64),
    AtMost(f64),
}

/// The target of a row, if there is one.
fn target(kind: Kind, path: Shape, contestant: Contestant) -> Option<Target> {
    use Contestant::{Carried, Peer as P};
    if path.loss_percent > 0.0 {
        return None;
    }
    let is_fast_and_far = path.mbits >= 1000.0 && path.rtt_ms >= 10.0;
    match (kind, contestant) {
        (Kind::Bulk, P(Peer::Raw)) => is_fast_and_far.then_some(Target::RatioAtLeast(0.9)),
        (Kind::Bulk, Carried(Carrier::Ssh | Carrier::Stunnel)) => Some(Target::RatioAtLeast(1.0)),
        (Kind::FirstByte, Carried(Carrier::Ssh | Carrier::Stunnel)) => Some(Target::RatioAtMost(1.0)),
        // The bulk fills the queue at the bottleneck, which anything else has to pass, too.
        (Kind::BesideAnswers | Kind::BesideUploads, P(Peer::Chan)) => {
            let parts = 2.0 * PART_LEN / path.bytes_per_second();
            let waits = path.one_way() * 2 + path.longest_queue();
            Some(Target::AtMost((waits.as_secs_f64() + parts) * 1e3))
        }
        _ => None,
    }
}

/// The contestant of ours that a contestant is compared with: ssh and stunnel with our relay.
fn ours(row: &Row, rows: &[Row]) -> Vec<f64> {
    let relay = matches!(row.contestant, Contestant::Carried(Carrier::Ssh | Carrier::Stunnel));
    let same = |other: &&Row| other.path == row.path && other.kind == row.kind;
    let ours = |other: &&Row| !relay || other.contestant == Contestant::Carried(Carrier::Chan);
    rows.iter().filter(same).find(ours).map(|other| other.values.clone()).unwrap_or_default()
}

/// A row of the table.
pub(super) fn line(row: &Row, rows: &[Row]) -> String {
    let Row { path, kind, contestant, values } = row;
    let ours = ours(row, rows);
    let (spread, ratio) = (Spread::of(values), Spread::of_ratios(&ours, values));
    let shown = if ours == *values {
        "–".to_owned()
    } else {
        format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.least, ratio.greatest)
    };
    let (target, verdict) = target(*kind, *path, *contestant).map_or_else(Default::default, |target| {
        let (text, holds) = match target {
            Target::RatioAtLeast(least) => (format!("≥ {least:.2}"), ratio.median >= least - TIE),
            Target::RatioAtMost(most) => (format!("≤ {most:.2}"), ratio.median <= most + TIE),
            Target::AtMost(most) => (format!("≤ {most:.1} {}", kind.unit()), spread.median <= most),
        };
        (text, if holds { "ok" } else { "miss" })
    });
    format!(
        "| {} ms | {} Mbit/s | {} % | {} | {} | {:.2} ({:.2}–{:.2}) {} | {shown} | {target} | {verdict} |",
        path.rtt_ms,
        path.mbits,
        path.loss_percent,
        name(*kind),
        contestant.name(),
        spread.median,
        spread.least,
        spread.greatest,
        kind.unit(),
    )
}

/// Writes the page, its pictures, and every number.
pub(super) fn write(folder: &Path, rows: &[Row]) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("network.json"), serde_json::to_string_pretty(rows)? + "\n")?;
    let mut table = format!(
        "Written by `chan-bench {}`. Ratios are taken within a round; `ssh -L` and stunnel are compared with `chan-client \
         forward`, the others with the first line. A comparison that is short by {TIE} or less counts as a tie.\n\n{}\n\n\
         {HEAD}\n",
        std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        Machine::this(),
    );
    rows.iter().for_each(|row| table += &(line(row, rows) + "\n"));
    for kind in [Kind::Bulk, Kind::BesideAnswers, Kind::FirstByte] {
        for loss in losses(rows, kind) {
            let (stem, series) = series(rows, kind, loss);
            plot::draw(&folder.join(format!("{stem}.svg")), &series)?;
            let _ = write!(table, "\n![{}]({stem}.svg)\n", series.title);
        }
    }
    let page = folder.join("network.md");
    let before = fs::read_to_string(&page).unwrap_or_else(|_| format!("# Over networks\n\n{BEGIN}{END}"));
    fs::write(page, replaced(&before, BEGIN, END, &table))?;
    Ok(())
}

/// The page with another table between two of its lines.
pub fn replaced(page: &str, begin: &str, end: &str, table: &str) -> String {
    match page.split_once(begin).map(|(head, rest)| (head, rest.split_once(end))) {
        Some((head, Some((_, tail)))) => format!("{head}{begin}{table}{end}{tail}"),
        _ => format!("{page}\n{begin}{table}{end}"),
    }
}

fn losses(rows: &[Row], kind: Kind) -> Vec<f64> {
    let mut losses: Vec<_> =
        rows.iter().filter(|row| row.kind == kind).map(|row| row.path.loss_percent).collect();
    losses.sort_by(f64::total_cmp);
    losses.dedup();
    losses
}

/// A picture of one work: a panel for each rate, a line for each contestant, by the round trip time.
fn series(rows: &[Row], kind: Kind, loss: f64) -> (String, Series) {
    let rows: Vec<_> =
        rows.iter().filter(|row| row.kind == kind && row.path.loss_percent == loss).cloned().collect();
    let distinct = |of: fn(&Row) -> f64| {
        let mut values: Vec<_> = rows.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        values
    };
    let (rtts, rates) = (distinct(|row| row.path.rtt_ms), distinct(|row| row.path.mbits));
    let mut who: Vec<Contestant> = Vec::new();
    for row in &rows {
        if !who.contains(&row.contestant) {
            who.push(row.contestant);
        }
    }
    let value = |contestant: Contestant, rtt: f64, rate: f64| {
        let row = rows
            .iter()
            .find(|row| row.contestant == contestant && row.path.rtt_ms == rtt && row.path.mbits == rate);
        let missing = Spread { median: f64::NAN, least: f64::NAN, greatest: f64::NAN };
        row.map_or(missing, |row| {
            let scale = if kind == Kind::Bulk { 1e6 } else { 1e-3 };
            Spread::of(&row.values.iter().map(|value| value * scale).collect::<Vec<_>>())
        })
    };
    let lines = who.into_iter().map(|contestant| Line {
        who: contestant.name(),
        points: rtts
            .iter()
            .map(|&rtt| Point {
                at: format!("{rtt} ms"),
                values: rates.iter().map(|&rate| value(contestant, rtt, rate)).collect(),
            })
            .collect(),
    });
    let (stem, title, unit) = match kind {
        Kind::Bulk => ("bulk", "Bytes one way", Unit::BytesPerSecond),
        Kind::FirstByte => ("first-byte", "From nothing to a first answer", Unit::Seconds),
        _ => ("beside", "99 of 100 short calls beside long answers", Unit::Seconds),
    };
    let lossy = if loss > 0.0 { format!(", {loss} % lost") } else { String::new() };
    let figures = rates.iter().map(|rate| figure(format!("{rate} Mbit/s{lossy}"), unit)).collect();
    let stem = if loss > 0.0 { format!("network-{stem}-loss") } else { format!("network-{stem}") };
    let series = Series {
        name: "network",
        title,
        about: String::new(),
        axis: "round trip",
        grows: true,
        figures,
        lines: lines.collect(),
        checks: Vec::new(),
    };
    (stem, series)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Shape = Shape { rtt_ms: 50.0, mbits: 1000.0, loss_percent: 0.0 };

    fn row(contestant: Contestant, value: f64) -> Row {
        Row { path: FAR, kind: Kind::Bulk, contestant, values: vec![value] }
    }

    #[test]
    fn relays_are_compared_with_our_relay() {
        let rows = [
            row(Contestant::Peer(Peer::ChanBytes), 100.0),
            row(Contestant::Peer(Peer::Raw), 125.0),
            row(Contestant::Carried(Carrier::Chan), 90.0),
            row(Contestant::Carried(Carrier::Stunnel), 90.0),
        ];
        assert!(line(&rows[1], &rows).ends_with("| 0.80 (0.80–0.80) | ≥ 0.90 | miss |"));
        assert!(line(&rows[2], &rows).ends_with("|  |  |"));
        assert!(line(&rows[3], &rows).contains("≥ 1.00 | ok |"));
    }

    #[test]
    fn no_target_where_packets_are_lost() {
        let lossy = Shape { loss_percent: 1.0, ..FAR };
        assert_eq!(target(Kind::Bulk, lossy, Contestant::Peer(Peer::Raw)), None);
        assert!(target(Kind::Bulk, FAR, Contestant::Peer(Peer::Raw)).is_some());
    }

    #[test]
    fn table_alone_is_replaced() {
        let page = format!("# Page\n\nwords\n\n{BEGIN}old\n{END}\nmore\n");
        let new = replaced(&page, BEGIN, END, "new\n");
        assert_eq!(new, page.replace("old", "new"));
        assert_eq!(replaced(&new, BEGIN, END, "new\n"), new);
    }
}
