//! The rows: to be read here, and to be kept.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::bouts::{Contestant, Row, Target, Unit};
use super::contest::{Held, Score};
use super::{Options, plot};
use crate::machine::Machine;
use crate::sample::Spread;

/// All of a run, as it is kept.
#[derive(Serialize)]
pub(super) struct Report {
    machine: Machine,
    rounds: usize,
    milliseconds: u64,
    bouts: Vec<BoutReport>,
}

#[derive(Serialize)]
struct BoutReport {
    name: &'static str,
    unit: String,
    contestants: Vec<ContestantReport>,
    rows: Vec<RowReport>,
}

#[derive(Serialize)]
struct ContestantReport {
    name: &'static str,
    median: f64,
    /// One for each round.
    values: Vec<f64>,
    cpu_seconds_each: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ns: Option<f64>,
}

/// One comparison.
#[derive(Clone, Serialize)]
pub(super) struct RowReport {
    pub(super) work: &'static str,
    pub(super) ours: String,
    pub(super) peer: &'static str,
    pub(super) peers: String,
    /// Ours divided by the peer's: the median of the rounds, and the least and the greatest of them.
    pub(super) ratio: f64,
    pub(super) least: f64,
    pub(super) greatest: f64,
    /// The same of the processor time for one thing done, of both programs together; its median.
    pub(super) cpu_ratio: f64,
    pub(super) target: String,
    pub(super) verdict: &'static str,
    /// The target as a ratio, where it is one.
    #[serde(skip)]
    pub(super) mark: Option<f64>,
    #[serde(skip)]
    pub(super) more_is_better: bool,
}

impl Report {
    pub(super) fn new(held: Vec<Held>, options: &Options) -> Self {
        Self {
            machine: Machine::this(),
            rounds: options.rounds,
            milliseconds: options.millis,
            bouts: held.iter().map(BoutReport::new).collect(),
        }
    }

    fn rows(&self) -> impl Iterator<Item = &RowReport> {
        self.bouts.iter().flat_map(|bout| &bout.rows)
    }

    pub(super) fn missed(&self) -> usize {
        self.rows().filter(|row| row.verdict == "miss").count()
    }

    /// Writes the numbers, the table and the plot.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::write(folder.join("results.json"), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(folder.join("results.csv"), self.csv())?;
        fs::write(folder.join("table.md"), self.markdown())?;
        let rows: Vec<_> = self.rows().cloned().collect();
        plot::ratios(&folder.join("ratios.svg"), &rows)
    }

    fn csv(&self) -> String {
        let mut csv = "work,unit,contestant,round,value\n".to_owned();
        for bout in &self.bouts {
            for contestant in &bout.contestants {
                for (round, value) in contestant.values.iter().enumerate() {
                    let (work, unit, name) = (bout.name, &bout.unit, contestant.name);
                    let _ = writeln!(csv, "\"{work}\",{unit},\"{name}\",{},{value}", round + 1);
                }
            }
        }
        csv
    }

    fn markdown(&self) -> String {
        let mut text = "| work | lib_chan | peer | ratio (spread) | target | |\n".to_owned();
        text.push_str("|---|---|---|---|---|---|\n");
        for row in self.rows() {
            let RowReport { work, ours, peer, peers, ratio, least, greatest, target, verdict, .. } = row;
            let _ = writeln!(
                text,
                "| {work} | {ours} | {peer} {peers} | {ratio:.2} ({least:.2}–{greatest:.2}) | {target} | {verdict} |"
            );
        }
        let _ = writeln!(text, "\n{}; {} rounds of {} ms.", self.machine, self.rounds, self.milliseconds);
        text
    }
}

/// Prints one bout.
pub(super) fn print(held: &Held) {
    let report = BoutReport::new(held);
    println!("\n{}", report.name);
    for contestant in &report.contestants {
        let spread = Spread::of(&contestant.values);
        let show = |value| human(held.bout.unit, value);
        print!(
            "  {:<18} {:>14}  ({} … {})",
            contestant.name,
            show(spread.median),
            show(spread.least),
            show(spread.greatest)
        );
        match contestant.cpu_seconds_each {
            0.0 => println!(),
            each => println!("  {:.2} µs of processor time each", each * 1e6),
        }
    }
    for row in &report.rows {
        let RowReport { peer, ratio, least, greatest, cpu_ratio, target, verdict, .. } = row;
        print!("  against {peer}: {ratio:.2} ({least:.2} … {greatest:.2})");
        if *cpu_ratio > 0.0 {
            print!(", by processor time {cpu_ratio:.2}");
        }
        println!("; target {target}: {verdict}");
    }
}

impl BoutReport {
    fn new(held: &Held) -> Self {
        let contestants = held.scores.iter().map(|(contestant, scores)| {
            let values = values(scores);
            let p99: Vec<f64> = scores.iter().filter_map(|score| score.p99_ns).map(|ns| ns as f64).collect();
            ContestantReport {
                name: contestant.name(),
                median: Spread::of(&values).median,
                values,
                cpu_seconds_each: Spread::of(&cpu(scores)).median,
                p99_ns: (!p99.is_empty()).then(|| Spread::of(&p99).median),
            }
        });
        Self {
            name: held.bout.name,
            unit: held.bout.unit.name(),
            contestants: contestants.collect(),
            rows: held.bout.rows.iter().filter_map(|row| RowReport::new(held, row)).collect(),
        }
    }
}

impl RowReport {
    /// Nothing if no peer took part.
    fn new(held: &Held, row: &Row) -> Option<Self> {
        let unit = held.bout.unit;
        let of = |wanted: &Contestant| held.scores.iter().find(|(contestant, _)| contestant == wanted);
        let (_, ours) = held.scores.first()?;
        let score = |scores: &[Score]| {
            let median = Spread::of(&values(scores)).median;
            if unit.is_more_better() { median } else { -median }
        };
        let (peer, theirs) =
            row.against.iter().filter_map(of).max_by(|(_, a), (_, b)| score(a).total_cmp(&score(b)))?;
        let spread = Spread::of_ratios(&values(ours), &values(theirs));
        let our_median = Spread::of(&values(ours)).median;
        let met = match row.target {
            None => "",
            Some(target) if target.is_met(spread.median, our_median) => "ok",
            Some(_) => "miss",
        };
        Some(Self {
            work: held.bout.name,
            ours: human(unit, our_median),
            peer: peer.name(),
            peers: human(unit, Spread::of(&values(theirs)).median),
            ratio: spread.median,
            least: spread.least,
            greatest: spread.greatest,
            cpu_ratio: Spread::of_ratios(&cpu(ours), &cpu(theirs)).median,
            target: row.target.map_or_else(|| "–".to_owned(), Target::text),
            verdict: met,
            mark: row.target.and_then(Target::ratio),
            more_is_better: unit.is_more_better(),
        })
    }
}

impl Target {
    fn is_met(self, ratio: f64, ours: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
            Self::Under(most) => ours < most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::AtMost(most) => format!("≤ {most}"),
            Self::Under(most) => format!("< {}", human(Unit::BytesEach, most)),
        }
    }

    const fn ratio(self) -> Option<f64> {
        match self {
            Self::AtLeast(ratio) | Self::AtMost(ratio) => Some(ratio),
            Self::Under(_) => None,
        }
    }
}

fn values(scores: &[Score]) -> Vec<f64> {
    scores.iter().map(|score| score.value).collect()
}

fn cpu(scores: &[Score]) -> Vec<f64> {
    scores.iter().map(|score| score.cpu_each).collect()
}

impl Unit {
    fn name(self) -> String {
        match self {
            Self::PerSecond(what) => format!("{what}/s"),
            Self::BytesPerSecond { .. } => "B/s".into(),
            Self::MedianTime => "s".into(),
            Self::BytesEach => "B".into(),
        }
    }
}

/// A number as a person reads it.
fn human(unit: Unit, value: f64) -> String {
    match unit {
        Unit::PerSecond(_) if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
        Unit::PerSecond(_) if value >= 1e4 => format!("{:.0} k/s", value / 1e3),
        Unit::PerSecond(_) => format!("{value:.0} /s"),
        Unit::BytesPerSecond { .. } => format!("{:.0} MB/s", value / 1e6),
        Unit::MedianTime => format!("{:.1} µs", value * 1e6),
        Unit::BytesEach if value >= 10_240.0 => format!("{:.1} KiB", value / 1024.0),
        Unit::BytesEach => format!("{value:.0} B"),
    }
}
