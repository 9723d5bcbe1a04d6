//! The ratios, as a picture.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::RowReport;

const ROW_HEIGHT: u32 = 34;
const MARGIN: u32 = 48;
const WIDTH: u32 = 1000;
/// Where the bars begin.
const LABELS: f64 = 430.0;
/// The scale is logarithmic and goes from this ratio to its inverse.
const LEAST: f64 = 1.0 / 32.0;

/// Draws a bar for each row: how many times better than the peer (to the right) or worse (to the left), with the
/// spread of the rounds and the target.
pub(super) fn ratios(path: &Path, rows: &[RowReport]) -> Result<()> {
    draw(path, rows).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn draw(path: &Path, rows: &[RowReport]) -> Result<(), Box<dyn std::error::Error>> {
    let height = MARGIN * 2 + ROW_HEIGHT * rows.len() as u32;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: u32| ("sans-serif", size).into_font().color(&BLACK);
    let title = "lib_chan against its peers: times better (target: line, spread of the rounds: thin bar)";
    area.draw_text(title, &text(15), (12, 14))?;
    let bottom = (height - MARGIN) as i32;
    for power in -2..=5 {
        let better = f64::powi(2.0, power);
        let at = place(better);
        let style = if power == 0 { BLACK.stroke_width(1) } else { BLACK.mix(0.15).stroke_width(1) };
        area.draw(&PathElement::new(vec![(at, MARGIN as i32 - 6), (at, bottom)], style))?;
        let label = if power < 0 { format!("1/{}", 1 << -power) } else { format!("{}×", 1 << power) };
        let centred = text(12).pos(Pos::new(HPos::Center, VPos::Top));
        area.draw_text(&label, &centred, (at, bottom + 6))?;
    }
    for (number, row) in rows.iter().enumerate() {
        let top = (MARGIN + ROW_HEIGHT * number as u32) as i32;
        let middle = top + ROW_HEIGHT as i32 / 2;
        let better = |ratio: f64| if row.more_is_better { ratio } else { 1.0 / ratio };
        let right = text(13).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw_text(&format!("{} / {}", row.work, row.peer), &right, (LABELS as i32 - 12, middle))?;
        let colour = match row.verdict {
            "ok" => RGBColor(46, 125, 50),
            "miss" => RGBColor(198, 40, 40),
            _ => RGBColor(120, 120, 120),
        };
        let bar = |from: f64, to: f64, half: i32, colour: RGBAColor| {
            Rectangle::new([(place(from), middle - half), (place(to), middle + half)], colour.filled())
        };
        area.draw(&bar(1.0, better(row.ratio), 9, colour.mix(0.75)))?;
        area.draw(&bar(better(row.least), better(row.greatest), 2, BLACK.mix(0.45)))?;
        if let Some(mark) = row.mark {
            let at = place(better(mark));
            area.draw(&PathElement::new(vec![(at, middle - 13), (at, middle + 13)], BLACK.stroke_width(2)))?;
        }
    }
    area.present()?;
    Ok(())
}

/// Where a ratio is, from left to right.
fn place(better: f64) -> i32 {
    let from = f64::log2(0.25);
    let to = -f64::log2(LEAST);
    let part = (better.clamp(0.25, 1.0 / LEAST).log2() - from) / (to - from);
    (LABELS + part * (f64::from(WIDTH) - LABELS - 24.0)) as i32
}
