//! Where a connection spends its time: TCP, TLS, login, the start of a service and a first call.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Serialize;
use tokio::process::Command;

use crate::machine::Machine;
use crate::net::{Staged, Way, stages};
use crate::program::{Program, name};
use crate::sample::Spread;

/// How to run it.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds. Each makes connections of every kind.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long connections of one kind are made in a round, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Where `connect.md`, `connect.svg` and `connect.json` go. In a page that exists, the table alone is replaced.
    #[arg(long, default_value = "results")]
    out: PathBuf,
}

/// One way, with the numbers of each round.
#[derive(Serialize)]
struct Measured {
    way: Way,
    rounds: Vec<Staged>,
}

impl Measured {
    fn of(&self, number: impl Fn(&Staged) -> f64) -> Spread {
        Spread::of(&self.rounds.iter().map(number).collect::<Vec<_>>())
    }

    fn stage(&self, at: usize) -> Spread {
        self.of(|round| round.stages.get(at).copied().unwrap_or_default())
    }

    fn cpu(&self) -> Spread {
        self.of(|round| round.cpu.iter().sum())
    }
}

/// Measures, prints the table, and writes the results.
pub async fn run(options: Options) -> Result<()> {
    let mut all: Vec<_> = Way::ALL.map(|way| Measured { way, rounds: Vec::new() }).into();
    for round in 0..options.rounds {
        for turn in 0..all.len() {
            let at = (round + turn) % all.len();
            let measured = measure(all[at].way, Duration::from_millis(options.millis)).await?;
            all[at].rounds.push(measured);
        }
    }
    let table = table(&all);
    print!("{table}");
    write(&options.out, &all, &table)?;
    println!("\nwritten to {}", options.out.display());
    Ok(())
}

async fn measure(way: Way, length: Duration) -> Result<Staged> {
    let (peer, work) = way.server();
    let mut server = Command::new(std::env::current_exe()?);
    let mut server = Program::start(server.args(["serve", &name(peer), &name(work)]))?;
    let listening = serde_json::from_str(&server.line().await?)?;
    stages(way, &listening, length).await
}

fn micros(spread: Spread) -> String {
    let [median, least, greatest] =
        [spread.median, spread.least, spread.greatest].map(|seconds| (seconds * 1e6).round());
    format!("{median} ({least}–{greatest})")
}

fn table(all: &[Measured]) -> String {
    const COLUMNS: [&str; 6] = ["TCP", "TLS", "login", "start", "first call", "close"];
    let mut text = String::from("| µs |");
    COLUMNS.iter().for_each(|column| text += &format!(" {column} |"));
    text += " processor time, client and server | TLS alone is |\n|---|";
    text += &"---|".repeat(COLUMNS.len() + 2);
    text.push('\n');
    let bare: Vec<f64> = all
        .first()
        .map(|bare| bare.rounds.iter().map(|round| round.cpu.iter().sum()).collect())
        .unwrap_or_default();
    for measured in all {
        let _ = write!(text, "| {} |", measured.way.title());
        for column in COLUMNS {
            let at = measured.way.stages().iter().position(|stage| *stage == column);
            let cell = at.map_or_else(|| "–".to_owned(), |at| micros(measured.stage(at)));
            let _ = write!(text, " {cell} |");
        }
        let cpu: Vec<f64> = measured.rounds.iter().map(|round| round.cpu.iter().sum()).collect();
        let part = Spread::of_ratios(&bare, &cpu);
        let parts = measured.of(|round| round.cpu[0]).median * 1e6;
        let server = measured.of(|round| round.cpu[1]).median * 1e6;
        let _ = writeln!(
            text,
            " {}: {parts:.0} and {server:.0} | {:.2} ({:.2}–{:.2}) |",
            micros(measured.cpu()),
            part.median,
            part.least,
            part.greatest
        );
    }
    text
}

/// The table of a page stands between these lines.
const BEGIN: &str = "<!-- written by bench/connect -->\n";
const END: &str = "<!-- end -->\n";

fn write(folder: &Path, all: &[Measured], table: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("connect.json"), serde_json::to_string_pretty(all)? + "\n")?;
    draw(&folder.join("connect.svg"), all).map_err(|error| anyhow!("{}: {error}", folder.display()))?;
    let arguments = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let table = format!(
        "Written by `chan-bench {arguments}`. {}.\n\n{table}\n![Where a connection spends its time](connect.svg)\n",
        Machine::this()
    );
    let page = folder.join("connect.md");
    let before = fs::read_to_string(&page)
        .unwrap_or_else(|_| format!("# Where a connection spends its time\n\n{BEGIN}{END}"));
    fs::write(page, crate::network::replaced(&before, BEGIN, END, &table))?;
    Ok(())
}

const WIDTH: i32 = 1000;
const LEFT: i32 = 220;
const RIGHT: i32 = 90;
const ROW: i32 = 44;
const HEAD: i32 = 64;

/// Draws a bar for each way: its stages from left to right, and below it the processor time of client and server.
fn draw(path: &Path, all: &[Measured]) -> Result<(), Box<dyn std::error::Error>> {
    let height = HEAD + 2 * ROW * all.len() as i32 + 20;
    let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: u32| ("sans-serif", size).into_font().color(&BLACK);
    area.draw_text("Where a connection spends its time (medians)", &text(15), (12, 12))?;
    let sum = |measured: &Measured| {
        (0..measured.way.stages().len()).map(|at| measured.stage(at).median).sum::<f64>()
    };
    let longest = all.iter().flat_map(|measured| [sum(measured), measured.cpu().median]).fold(1e-9, f64::max);
    let width = |seconds: f64| (seconds / longest * f64::from(WIDTH - LEFT - RIGHT)) as i32;
    let mut left = LEFT;
    for (name, colour) in COLOURS {
        area.draw(&Rectangle::new([(left, 36), (left + 12, 48)], colour.filled()))?;
        area.draw_text(name, &text(12), (left + 17, 36))?;
        left += 40 + 7 * name.len() as i32;
    }
    for (number, measured) in all.iter().enumerate() {
        let top = HEAD + 2 * ROW * number as i32;
        let label = text(13).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw_text(measured.way.title(), &label, (LEFT - 10, top + 16))?;
        area.draw_text("processor time", &text(11).pos(label.pos), (LEFT - 10, top + ROW + 8))?;
        let times =
            measured.way.stages().iter().enumerate().map(|(at, &stage)| (stage, measured.stage(at).median));
        let cpus = ["client", "server"].into_iter().enumerate();
        let cpus = cpus.map(|(at, who)| (who, measured.of(|round| round.cpu[at]).median));
        let bars: [(i32, Vec<(&str, f64)>); 2] = [(top, times.collect()), (top + ROW - 4, cpus.collect())];
        for (top, parts) in bars {
            let mut at = LEFT;
            for (name, seconds) in &parts {
                let end = at + width(*seconds);
                area.draw(&Rectangle::new([(at, top), (end, top + 26)], colour(name).filled()))?;
                at = end;
            }
            let all: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
            let label = text(12).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw_text(&format!("{:.0} µs", all * 1e6), &label, (at + 8, top + 13))?;
        }
    }
    area.present()?;
    Ok(())
}

const COLOURS: [(&str, RGBColor); 8] = [
    ("TCP", RGBColor(150, 150, 150)),
    ("TLS", RGBColor(90, 110, 130)),
    ("login", RGBColor(21, 101, 192)),
    ("start", RGBColor(90, 180, 230)),
    ("first call", RGBColor(46, 125, 50)),
    ("close", RGBColor(205, 205, 205)),
    ("client", RGBColor(230, 150, 60)),
    ("server", RGBColor(170, 90, 20)),
];

fn colour(name: &str) -> RGBColor {
    COLOURS.iter().find(|(known, _)| *known == name).map_or(BLACK, |(_, colour)| *colour)
}
