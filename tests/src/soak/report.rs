//! What a run has shown: the table of counts, the verdict, a table of seconds and a picture of it.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    count::Totals,
    sample::{Second, Trend},
};

/// So much of a run is warm-up, and not judged.
pub(super) const WARM_UP: f64 = 0.25;
/// The straight line through the rest may gain no more than this part of the mean, for memory and for descriptors.
pub(super) const GROWTH: f64 = 0.05;
/// No call may come back later than this after its deadline, in milliseconds.
pub(super) const LATENESS_MS: u64 = 5000;

/// What is measured of a program, and how it is taken out of a second.
type Measure = (&'static str, fn(&Second) -> f64);

const MEASURES: [Measure; 4] = [
    ("memory of the server, MiB", |second| second.server.rss_kib as f64 / 1024.0),
    ("memory of the clients, MiB", |second| second.clients.rss_kib as f64 / 1024.0),
    ("descriptors of the server", |second| second.server.descriptors as f64),
    ("descriptors of the clients", |second| second.clients.descriptors as f64),
];

/// Everything known at the end of a run.
#[derive(Default)]
pub(super) struct Report {
    pub(super) seconds: Vec<Second>,
    /// What the server counted, and what the clients did that were not killed.
    pub(super) server: Totals,
    pub(super) clients: Totals,
    /// How many faults there were of each kind.
    pub(super) faults: Vec<(String, u64)>,
    /// Programs that did not say at the end what they had counted.
    pub(super) silent: Vec<String>,
}

impl Report {
    /// What is wrong, in words; nothing if all held.
    pub(super) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (end, totals) in [("server", &self.server), ("clients", &self.clients)] {
            for (name, kind) in &totals.kinds {
                if kind.started != kind.all_ended() {
                    wrong.push(format!("{end}: {} {name} started, {} ended", kind.started, kind.all_ended()));
                }
            }
            wrong.extend(totals.faults.iter().map(|fault| format!("{end}: {fault}")));
            if totals.tasks_left + totals.ending_processes > 0 {
                let (tasks, processes) = (totals.tasks_left, totals.ending_processes);
                wrong.push(format!("{end}: {tasks} tasks and {processes} ending processes are left"));
            }
            if totals.latest_call_ms > LATENESS_MS {
                wrong
                    .push(format!("{end}: a call came back {} ms after its deadline", totals.latest_call_ms));
            }
        }
        wrong.extend(self.silent.iter().cloned());
        for (name, measure) in MEASURES {
            match self.trend(measure) {
                Some(trend) if trend.part() <= GROWTH => {}
                Some(trend) => wrong.push(format!("{name}: grew by {:.1} %", trend.part() * 100.0)),
                None => wrong.push(format!("{name}: too few samples")),
            }
        }
        wrong
    }

    fn trend(&self, measure: impl Fn(&Second) -> f64) -> Option<Trend> {
        let warm = self.seconds.last()?.at * WARM_UP;
        let rest = self.seconds.iter().filter(|second| second.at >= warm);
        Trend::of(&rest.map(|second| (second.at, measure(second))).collect::<Vec<_>>())
    }

    /// The figures, for people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let faults: u64 = self.faults.iter().map(|(_, count)| count).sum();
        let seconds = self.seconds.last().map_or(0.0, |second| second.at);
        let _ = writeln!(text, "{faults} faults in {seconds:.0} s:");
        for (name, count) in &self.faults {
            let _ = writeln!(text, "  {count:>7} {name}");
        }
        for (end, totals) in [("server", &self.server), ("clients", &self.clients)] {
            let _ = writeln!(text, "\n{end}: started, ended");
            for (name, kind) in &totals.kinds {
                let _ = writeln!(text, "  {:>9} {:>9}  {name}", kind.started, kind.all_ended());
                for (how, count) in &kind.ended {
                    let _ = writeln!(text, "            {count:>9}    {how}");
                }
            }
            let _ =
                writeln!(text, "  the latest call came back {} ms after its deadline", totals.latest_call_ms);
        }
        let _ = writeln!(text, "\nafter the first {:.0} % of the time:", WARM_UP * 100.0);
        for (name, measure) in MEASURES {
            if let Some(trend) = self.trend(measure) {
                let Trend { mean, growth } = trend;
                let part = trend.part() * 100.0;
                let _ = writeln!(text, "  {name}: mean {mean:.1}, trend {growth:+.2} ({part:+.2} %)");
            }
        }
        text
    }

    /// Writes `soak.csv`, `soak.txt` and `soak.svg` into a folder; gives the path of the picture.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn write(&self, folder: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("soak.csv"), self.csv())?;
        fs::write(folder.join("soak.txt"), self.text())?;
        let picture = folder.join("soak.svg");
        draw(&picture, &self.seconds).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(picture)
    }

    fn csv(&self) -> String {
        let mut csv = String::from(
            "second,server_rss_kib,server_descriptors,server_threads,clients_rss_kib,clients_descriptors,\
             clients_threads,sessions,connections,faults\n",
        );
        for second in &self.seconds {
            let Second { at, server, clients, sessions, connections, faults } = second;
            let _ = writeln!(
                csv,
                "{at:.1},{},{},{},{},{},{},{sessions},{connections},{faults}",
                server.rss_kib,
                server.descriptors,
                server.threads,
                clients.rss_kib,
                clients.descriptors,
                clients.threads,
            );
        }
        csv
    }
}

const WIDTH: u32 = 1000;
const PANEL: u32 = 190;
const LEFT: i32 = 70;
const RIGHT: i32 = 20;
const TOP: i32 = 30;
const BOTTOM: i32 = 30;

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Panel<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws one panel for each measure, one under the other.
fn draw(path: &Path, seconds: &[Second]) -> Drawn {
    let sessions: Measure = ("sessions of the server", |second| second.sessions as f64);
    let measures: Vec<_> = MEASURES.into_iter().chain([sessions]).collect();
    let area = SVGBackend::new(path, (WIDTH, PANEL * measures.len() as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    for (panel, (name, measure)) in area.split_evenly((measures.len(), 1)).iter().zip(measures) {
        let points: Vec<_> = seconds.iter().map(|second| (second.at, measure(second))).collect();
        draw_panel(panel, name, &points)?;
    }
    area.present()?;
    Ok(())
}

/// One measure over the time, from nothing upwards, the warm-up shaded.
fn draw_panel(panel: &Panel<'_>, name: &str, points: &[(f64, f64)]) -> Drawn {
    let end = points.last().map_or(1.0, |point| point.0.max(1.0));
    let most = points.iter().map(|point| point.1).fold(1.0, f64::max) * 1.1;
    let (right, bottom) = (WIDTH as i32 - RIGHT, PANEL as i32 - BOTTOM);
    let x = |at: f64| LEFT + (at / end * f64::from(right - LEFT)) as i32;
    let y = |value: f64| bottom - (value / most * f64::from(bottom - TOP)) as i32;
    let text = |size: u32| ("sans-serif", size).into_font().color(&BLACK);
    panel.draw(&Rectangle::new([(x(0.0), TOP), (x(end * WARM_UP), bottom)], BLACK.mix(0.06).filled()))?;
    panel.draw_text(name, &text(14), (LEFT, 8))?;
    for part in 0..=4 {
        let value = most * f64::from(part) / 4.0;
        let line = PathElement::new(vec![(LEFT, y(value)), (right, y(value))], BLACK.mix(0.15));
        panel.draw(&line)?;
        let label = text(11).pos(Pos::new(HPos::Right, VPos::Center));
        panel.draw_text(&format!("{value:.0}"), &label, (LEFT - 6, y(value)))?;
        let at = end * f64::from(part) / 4.0;
        let label = text(11).pos(Pos::new(HPos::Center, VPos::Top));
        panel.draw_text(&format!("{:.1} min", at / 60.0), &label, (x(at), bottom + 6))?;
    }
    let line = points.iter().map(|&(at, value)| (x(at), y(value))).collect::<Vec<_>>();
    panel.draw(&PathElement::new(line, RGBColor(21, 101, 192).stroke_width(1)))?;
    Ok(())
}
