//! A series as a picture: a panel for each figure, a line for each system.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::series::{Figure, Series, Unit};
use crate::sample::Spread;

const COLUMNS: usize = 2;
const PANEL: (i32, i32) = (500, 210);
const LEFT: i32 = 74;
const RIGHT: i32 = 22;
const TOP: i32 = 30;
const BOTTOM: i32 = 34;
/// The least becomes so many times as much: from there on a scale is logarithmic.
const WIDE: f64 = 12.0;

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub fn draw(path: &Path, series: &Series) -> Result<()> {
    draw_all(path, series).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn draw_all(path: &Path, series: &Series) -> Drawn {
    const HEAD: i32 = 30;
    let rows = series.figures.len().div_ceil(COLUMNS);
    let size = ((PANEL.0 * COLUMNS as i32) as u32, (PANEL.1 * rows as i32 + HEAD) as u32);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    area.draw_text(series.title, &text(15), (12, 10))?;
    // The names of the lines, to the right of the title.
    let mut left = (PANEL.0 + LEFT).min(40 + 8 * series.title.len() as i32);
    for line in series.lines.iter().filter(|_| series.lines.len() > 1) {
        let colour = colour(line.who);
        area.draw_text(line.who, &text(14).color(&colour), (left, 10))?;
        left += 24 + 8 * line.who.len() as i32;
    }
    let (_, panels) = area.split_vertically(HEAD);
    for (number, panel) in panels.split_evenly((rows, COLUMNS)).iter().take(series.figures.len()).enumerate()
    {
        draw_panel(panel, series, number)?;
    }
    area.present()?;
    Ok(())
}

fn draw_panel(panel: &Panel<'_>, series: &Series, figure: usize) -> Drawn {
    let Figure { name, unit } = &series.figures[figure];
    let unit = *unit;
    let known = |value: &Spread| !value.median.is_nan();
    let lines: Vec<Vec<Spread>> = series
        .lines
        .iter()
        .map(|line| line.points.iter().filter_map(|point| point.values.get(figure).copied()).collect())
        .collect();
    let scale = Scale::of(unit, lines.iter().flatten().filter(|value| known(value)));
    let (right, bottom) = (PANEL.0 - RIGHT, PANEL.1 - BOTTOM);
    let points = series.lines.first().map_or(0, |line| line.points.len());
    let width = f64::from(right - LEFT);
    let x = |at: usize| LEFT + ((at as f64 + 0.5) / points as f64 * width) as i32;
    let y = |value: f64| bottom - (scale.place(value) * f64::from(bottom - TOP)) as i32;
    let title = if scale.factor.is_some() { format!("{name} (logarithmic)") } else { name.clone() };
    panel.draw_text(&title, &text(14), (LEFT, 8))?;
    for mark in scale.marks() {
        let line = PathElement::new(vec![(LEFT, y(mark)), (right, y(mark))], BLACK.mix(0.15));
        panel.draw(&line)?;
        let label = text(11).pos(Pos::new(HPos::Right, VPos::Center));
        panel.draw_text(&unit.show(mark), &label, (LEFT - 6, y(mark)))?;
    }
    for (at, point) in series.lines.first().map(|line| &line.points).into_iter().flatten().enumerate() {
        let label = text(11).pos(Pos::new(HPos::Center, VPos::Top));
        panel.draw_text(&point.at, &label, (x(at), bottom + 6))?;
    }
    for (line, values) in series.lines.iter().zip(&lines) {
        let colour = colour(line.who);
        let known = || values.iter().enumerate().filter(|(_, value)| known(value));
        let path: Vec<_> = known().map(|(at, value)| (x(at), y(value.median))).collect();
        for (&(at, middle), (_, value)) in path.iter().zip(known()) {
            let spread = vec![(at, y(value.least)), (at, y(value.greatest))];
            panel.draw(&PathElement::new(spread, colour.mix(0.5).stroke_width(3)))?;
            panel.draw(&Circle::new((at, middle), 3, colour.filled()))?;
        }
        if series.grows {
            panel.draw(&PathElement::new(path, colour.stroke_width(1)))?;
        }
    }
    Ok(())
}

/// From the bottom of a panel to its top.
struct Scale {
    /// The factor from one mark to the next, if it is one.
    factor: Option<f64>,
    bottom: f64,
    top: f64,
    /// What is round for this unit.
    binary: bool,
}

impl Scale {
    fn of<'a>(unit: Unit, values: impl Iterator<Item = &'a Spread> + Clone) -> Self {
        let least = values.clone().map(|value| value.least).fold(f64::INFINITY, f64::min);
        let most = values.map(|value| value.greatest).fold(0.0, f64::max);
        let binary = unit == Unit::Bytes;
        if unit != Unit::Ratio && least > 0.0 && most / least > WIDE {
            let factor: f64 = if binary { 4.0 } else { 10.0 };
            let (bottom, top) = (least.log(factor).floor(), (most * 1.05).log(factor).ceil());
            return Self { factor: Some(factor), bottom, top, binary };
        }
        // Less than a hundredth of a processor is nothing.
        let least_top = if unit == Unit::Part { 0.01 } else { f64::MIN_POSITIVE };
        Self { factor: None, bottom: 0.0, top: (most * 1.15).max(least_top), binary }
    }

    /// Where a value is, from 0 at the bottom to 1 at the top.
    fn place(&self, value: f64) -> f64 {
        let value = self.factor.map_or(value, |factor| value.max(f64::MIN_POSITIVE).log(factor));
        ((value - self.bottom) / (self.top - self.bottom)).clamp(0.0, 1.0)
    }

    fn marks(&self) -> Vec<f64> {
        if let Some(factor) = self.factor {
            return (self.bottom as i32..=self.top as i32).map(|power| factor.powi(power)).collect();
        }
        let step = if self.binary { (self.top / 5.0).log2().ceil().exp2() } else { round(self.top / 5.0) };
        (0..).map(|number| step * f64::from(number)).take_while(|mark| *mark <= self.top).collect()
    }
}

/// One, two or five times a power of ten, and no less.
fn round(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step).unwrap_or(10.0);
    factor * power
}

const fn colour(who: &str) -> RGBColor {
    match who.as_bytes() {
        b"lib_chan" => RGBColor(21, 101, 192),
        b"lib_chan, bytes" => RGBColor(21, 101, 192),
        b"tarpc" => RGBColor(230, 120, 0),
        b"tonic" => RGBColor(110, 110, 110),
        b"tokio-rustls" => RGBColor(0, 0, 0),
        b"ssh -L" => RGBColor(230, 120, 0),
        b"stunnel" => RGBColor(46, 125, 50),
        _ => RGBColor(90, 180, 230),
    }
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&BLACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_decades_logarithmically() {
        let values = [1.0, 1000.0].map(|value| Spread { median: value, least: value, greatest: value });
        let scale = Scale::of(Unit::Seconds, values.iter());
        assert_eq!(scale.factor, Some(10.0));
        assert!(scale.place(1.0) < scale.place(1000.0));
        assert_eq!(scale.marks().first(), Some(&1.0));
    }

    #[test]
    fn marks_are_round() {
        assert_eq!([0.7, 1.0, 3.0, 60.0].map(round), [1.0, 1.0, 5.0, 100.0]);
    }
}
