//! The results: to be read, and to be kept.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::series::Series;
use super::{Options, plot};
use crate::machine::Machine;

/// All of a run, as it is kept.
#[derive(Serialize)]
pub(super) struct Report {
    machine: Machine,
    command: String,
    rounds: usize,
    milliseconds: u64,
    seconds: u64,
    series: Vec<Series>,
}

impl Report {
    pub(super) fn new(series: Vec<Series>, options: &Options, took: Duration) -> Self {
        Self {
            machine: Machine::this(),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            rounds: options.rounds,
            milliseconds: options.millis,
            seconds: took.as_secs(),
            series,
        }
    }

    pub(super) fn missed(&self) -> usize {
        self.series.iter().flat_map(|series| &series.checks).filter(|check| !check.holds()).count()
    }

    /// Writes the numbers, the text and the pictures.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::write(folder.join("growth.json"), serde_json::to_string_pretty(self)? + "\n")?;
        fs::write(folder.join("growth.md"), self.markdown())?;
        for series in &self.series {
            plot::draw(&folder.join(series.file_stem() + ".svg"), series)?;
        }
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "# How cost grows\n\nWritten by `bench/growth`, which ran `chan-bench {}` in {} s. Server and client are \
             separate programs on one machine and use TLS over loopback. The client compares every answer with its \
             request. Each number is the median of {} rounds of {} ms, with the least and the greatest in brackets. A \
             *processor* is one of the processors that the programs share.\n\n{}.\n",
            self.command, self.seconds, self.rounds, self.milliseconds, self.machine
        );
        for series in &self.series {
            let _ = write!(text, "\n{}", series.markdown());
        }
        text
    }
}
