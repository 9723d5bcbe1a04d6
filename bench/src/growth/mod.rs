//! What things cost when there are more of them: callers, bytes, sessions, callers without a slot, and messages that
//! nobody takes.
//!
//! A *series* is one thing that grows, and what was measured at each of its *points*. A *check* says whether the cost
//! of one more stays what it is, or whether a bound holds.

mod calls;
mod flood;
pub mod plot;
mod report;
pub mod series;
mod sessions;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use self::report::Report;
use crate::net::{Load, Peer, Work};
use crate::program::{Program, name};

/// How to run it.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often each point is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long one measurement takes, in milliseconds.
    #[arg(long, default_value_t = 700)]
    millis: u64,
    /// How long idle sessions are watched, in milliseconds. Each sends a heartbeat every 15 s.
    #[arg(long, default_value_t = 15_000)]
    idle_millis: u64,
    /// The most sessions.
    #[arg(long, default_value_t = 10_000)]
    sessions: usize,
    /// Only this part: callers, payload, waiting, sessions or flood.
    #[arg(long)]
    only: Option<String>,
    /// Where the results go.
    #[arg(long, default_value = "results")]
    out: PathBuf,
    /// The program of the server that has many sessions; the one beside this program if nothing is said.
    #[arg(long)]
    server: Option<PathBuf>,
    /// Fail if a check fails.
    #[arg(long)]
    strict: bool,
}

impl Options {
    /// The same for the flooded service alone.
    pub fn only_flood(self) -> Self {
        Self { only: Some("flood".into()), ..self }
    }

    const fn length(&self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

/// Measures each part, prints it, and writes the results.
pub async fn run(options: Options) -> Result<()> {
    let start = std::time::Instant::now();
    let wanted = |part: &str| options.only.as_ref().is_none_or(|only| only == part);
    let mut series = Vec::new();
    for part in ["callers", "payload", "waiting", "sessions", "flood"] {
        if !wanted(part) {
            continue;
        }
        let measured = match part {
            "callers" => calls::callers(&options).await,
            "payload" => calls::payload(&options).await,
            "waiting" => calls::waiting(&options).await,
            "sessions" => sessions::measure(&options).await,
            _ => flood::measure(&options).await,
        };
        let measured = measured.context(part)?;
        print!("\n{}", measured.text());
        series.push(measured);
    }
    ensure!(!series.is_empty(), "there is no such part");
    let report = Report::new(series, &options, start.elapsed());
    report.write(&options.out)?;
    println!("\nwritten to {}", options.out.display());
    let missed = report.missed();
    ensure!(!options.strict || missed == 0, "{missed} checks failed");
    Ok(())
}

/// A server of the benchmark's own, and where it listens.
async fn start_server(peer: Peer, work: Work) -> Result<(Program, String)> {
    let mut server =
        Program::start(Command::new(std::env::current_exe()?).args(["serve", &name(peer), &name(work)]))?;
    let listening = server.line().await?;
    Ok((server, listening))
}

/// A client of such a server.
fn start_client(peer: Peer, work: Work, listening: &str, load: Load, length: Duration) -> Result<Program> {
    let [len, callers, millis] =
        [load.len.to_string(), load.callers.to_string(), length.as_millis().to_string()];
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["client", &name(peer), &name(work), listening]);
    command.args(["--len", &len, "--callers", &callers, "--pace", &name(load.pace), "--millis", &millis]);
    Program::start(&mut command)
}
