//! The table: runs everything, the peers in turns, and says what came of it.
//!
//! A *bout* is one kind of work done by several contestants, ours first. In each round every contestant is measured
//! once, in programs started for it, so that whatever else happens on the machine happens to all. A *row* compares
//! ours with one peer, or with the better of several: the ratio is taken within each round, and the median of these
//! counts.

mod bouts;
mod contest;
mod plot;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use self::contest::Contest;

/// How to run it.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds of each bout.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// How long one measurement takes, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Only bouts whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Where the results go.
    #[arg(long, default_value = "results")]
    out: PathBuf,
    /// Fail if a row misses its target.
    #[arg(long)]
    strict: bool,
}

/// Runs all bouts, prints the rows as they come, and writes the results.
pub async fn run(options: Options) -> Result<()> {
    let contest = Contest::new(Duration::from_millis(options.millis))?;
    let mut results = Vec::new();
    for bout in bouts::all() {
        if options.only.as_ref().is_some_and(|only| !bout.name.contains(only.as_str())) {
            continue;
        }
        let result = contest.hold(bout, options.rounds).await?;
        report::print(&result);
        results.push(result);
    }
    let report = report::Report::new(results, &options);
    report.write(&options.out)?;
    println!("\nwritten to {}", options.out.display());
    let missed = report.missed();
    anyhow::ensure!(!options.strict || missed == 0, "{missed} rows missed their targets");
    Ok(())
}
