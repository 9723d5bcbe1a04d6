//! What was measured of one thing that grows.

use std::fmt::Write;

use serde::Serialize;

use crate::sample::Spread;

/// One thing that grows.
#[derive(Debug, Serialize)]
pub struct Series {
    /// Short; files are named after it.
    pub name: &'static str,
    pub title: &'static str,
    /// What was done, in Markdown.
    #[serde(skip)]
    pub about: String,
    /// What grows: the head of the first column.
    pub axis: &'static str,
    /// Whether one point is more of what the one before it is.
    pub grows: bool,
    pub figures: Vec<Figure>,
    /// Ours first.
    pub lines: Vec<Line>,
    pub checks: Vec<Check>,
}

/// What is measured at each point.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub name: String,
    pub unit: Unit,
}

/// What a number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Things done in a second.
    PerSecond,
    BytesPerSecond,
    Seconds,
    Bytes,
    /// Of one processor, or of what there could be.
    Part,
    /// One number divided by another.
    Ratio,
}

/// What one system did.
#[derive(Debug, Serialize)]
pub struct Line {
    pub who: &'static str,
    pub points: Vec<Point>,
}

#[derive(Debug, Serialize)]
pub struct Point {
    pub at: String,
    /// One for each figure.
    pub values: Vec<Spread>,
}

/// Something that must hold.
#[derive(Debug, Serialize)]
pub struct Check {
    pub what: String,
    pub value: f64,
    pub unit: Unit,
    pub bound: Bound,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

pub fn figure(name: impl Into<String>, unit: Unit) -> Figure {
    Figure { name: name.into(), unit }
}

pub fn check(what: impl Into<String>, unit: Unit, value: f64, bound: Bound) -> Check {
    Check { what: what.into(), value, unit, bound }
}

impl Check {
    pub fn holds(&self) -> bool {
        match self.bound {
            Bound::AtLeast(least) => self.value >= least,
            Bound::AtMost(most) => self.value <= most,
        }
    }

    fn verdict(&self) -> &'static str {
        if self.holds() { "ok" } else { "miss" }
    }

    fn bound_text(&self) -> String {
        match self.bound {
            Bound::AtLeast(least) => format!("≥ {}", self.unit.show(least)),
            Bound::AtMost(most) => format!("≤ {}", self.unit.show(most)),
        }
    }
}

impl Point {
    /// Medians and spreads of the rounds, each of which has one number for each figure.
    pub fn of(at: impl Into<String>, rounds: &[Vec<f64>]) -> Self {
        let figures = rounds.first().map_or(0, Vec::len);
        let of = |figure: usize| {
            Spread::of(&rounds.iter().filter_map(|round| round.get(figure).copied()).collect::<Vec<_>>())
        };
        Self { at: at.into(), values: (0..figures).map(of).collect() }
    }
}

impl Line {
    /// The median of a figure at a point.
    pub fn at(&self, point: usize, figure: usize) -> f64 {
        let value = self.points.get(point).and_then(|point| point.values.get(figure));
        value.map_or(f64::NAN, |value| value.median)
    }

    /// How many times the one before it a figure is at the last point.
    pub fn last_step(&self, figure: usize) -> f64 {
        let last = self.points.len().saturating_sub(1);
        self.at(last, figure) / self.at(last.saturating_sub(1), figure)
    }
}

impl Series {
    /// As it is printed.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.title);
        for line in &self.lines {
            for point in &line.points {
                let _ = writeln!(text, "  {}, {}: {}", line.who, self.axis, point.at);
                for (figure, value) in self.figures.iter().zip(&point.values) {
                    let Figure { name, unit } = figure;
                    let [median, least, greatest] =
                        [value.median, value.least, value.greatest].map(|value| unit.show(value));
                    let _ = writeln!(text, "    {name:<36} {median:>12}  ({least} … {greatest})");
                }
            }
        }
        for check in &self.checks {
            let Check { what, value, unit, .. } = check;
            let (value, bound, verdict) = (unit.show(*value), check.bound_text(), check.verdict());
            let _ = writeln!(text, "  {what}: {value} ({bound}): {verdict}");
        }
        text
    }

    /// As it is kept.
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n| {} |", self.title, self.about, self.axis);
        for Figure { name, .. } in &self.figures {
            let _ = write!(text, " {name} |");
        }
        let _ = writeln!(text, "\n|{}", "---|".repeat(self.figures.len() + 1));
        for line in &self.lines {
            for point in &line.points {
                let who = if self.lines.len() == 1 { "" } else { line.who };
                let _ = write!(text, "| {} |", [who, &point.at].join(" ").trim_start());
                for (Figure { unit, .. }, value) in self.figures.iter().zip(&point.values) {
                    let [least, greatest] = [value.least, value.greatest].map(|value| unit.show(value));
                    let _ = write!(text, " **{}**", unit.show(value.median));
                    if least != greatest && !value.median.is_nan() {
                        let _ = write!(text, " ({least} – {greatest})");
                    }
                    text.push_str(" |");
                }
                text.push('\n');
            }
        }
        if !self.checks.is_empty() {
            text.push_str("\n| check | measured | bound | |\n|---|---|---|---|\n");
        }
        for check in &self.checks {
            let Check { what, value, unit, .. } = check;
            let (value, bound, verdict) = (unit.show(*value), check.bound_text(), check.verdict());
            let _ = writeln!(text, "| {what} | {value} | {bound} | {verdict} |");
        }
        let _ = writeln!(text, "\n![{}]({}.svg)", self.title, self.file_stem());
        text
    }

    pub fn file_stem(&self) -> String {
        format!("growth-{}", self.name)
    }
}

impl Unit {
    /// A number as a person reads it.
    pub fn show(self, value: f64) -> String {
        const KIB: f64 = 1024.0;
        match self {
            _ if value.is_nan() => "–".into(),
            Self::PerSecond if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
            Self::PerSecond if value >= 1e4 => format!("{:.0} k/s", value / 1e3),
            Self::PerSecond => format!("{value:.0} /s"),
            Self::BytesPerSecond => format!("{} MB/s", digits(value / 1e6)),
            Self::Seconds if value >= 0.001 => format!("{} ms", digits(value * 1e3)),
            Self::Seconds => format!("{} µs", digits(value * 1e6)),
            Self::Bytes if value >= KIB * KIB => format!("{} MiB", digits(value / KIB / KIB)),
            Self::Bytes if value.abs() >= KIB => format!("{} KiB", digits(value / KIB)),
            Self::Bytes => format!("{value:.0} B"),
            Self::Part => format!("{} %", digits(value * 100.0)),
            Self::Ratio => format!("{value:.2}"),
        }
    }
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        0.0 => "0".into(),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn point_has_median_and_range_of_rounds() {
        let point = Point::of("1", &[vec![3.0, 10.0], vec![1.0, 30.0], vec![2.0, 20.0]]);
        assert_eq!(point.values[0], Spread { median: 2.0, least: 1.0, greatest: 3.0 });
        assert_eq!(point.values[1].median, 20.0);
    }

    #[test]
    fn finds_step_in_last_two_points() {
        let points = [4.0, 2.0, 3.0].map(|value| Point::of("", &[vec![value]]));
        let line = Line { who: "", points: points.into() };
        assert_eq!(line.last_step(0), 1.5);
    }

    #[test]
    fn missing_measurement_fails_check() {
        for bound in [Bound::AtLeast(0.0), Bound::AtMost(1.0)] {
            assert!(!check("nothing", Unit::Ratio, f64::NAN, bound).holds());
        }
    }
}
