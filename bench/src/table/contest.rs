//! Holds bouts: starts the programs, and collects what they found.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use super::bouts::{Bout, Contestant, Unit};
use crate::program::{PATIENCE, Program, name};
use crate::sample::{Sample, memory};
use crate::{local, net};

/// A bout that has been held.
pub(super) struct Held {
    pub(super) bout: Bout,
    /// Of each contestant that took part, one number for each round.
    pub(super) scores: Vec<(Contestant, Vec<Score>)>,
}

/// What one contestant did in one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Score {
    /// In the unit of the bout.
    pub(super) value: f64,
    /// Processor time of both programs for one thing done, in seconds; 0 where that says nothing.
    pub(super) cpu_each: f64,
    /// Where single calls were timed, the time that 99 of 100 stay under.
    pub(super) p99_ns: Option<u64>,
}

/// Where and how long to measure.
pub(super) struct Contest {
    program: PathBuf,
    length: Duration,
    /// The compiled Erlang module, where Erlang is installed.
    erlang: Option<PathBuf>,
}

impl Contest {
    pub(super) fn new(length: Duration) -> Result<Self> {
        let program = std::env::current_exe()?;
        let folder = program.parent().context("a program is in a folder")?.to_owned();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("erlang/processes.erl");
        let compiled = std::process::Command::new("erlc").arg("-o").arg(&folder).arg(source).status();
        let erlang = compiled.is_ok_and(|status| status.success()).then_some(folder);
        if erlang.is_none() {
            eprintln!("Erlang is not installed: its rows are left out");
        }
        Ok(Self { program, length, erlang })
    }

    /// Measures every contestant once a round, each time another one first.
    pub(super) async fn hold(&self, bout: Bout, rounds: usize) -> Result<Held> {
        let contestants = bout.contestants.iter().copied();
        let present =
            contestants.filter(|one| self.erlang.is_some() || !matches!(one, Contestant::Erlang(_)));
        let mut scores: Vec<(Contestant, Vec<Score>)> = present.map(|one| (one, Vec::new())).collect();
        for round in 0..rounds {
            let count = scores.len();
            for turn in 0..count {
                let (contestant, scores) = &mut scores[(round + turn) % count];
                let measured = timeout(self.length + PATIENCE, self.measure(*contestant)).await;
                let measured = measured.context("it takes too long").flatten();
                let sample = measured.with_context(|| format!("{}, {}", bout.name, contestant.name()))?;
                scores.push(score(bout.unit, &sample)?);
            }
        }
        Ok(Held { bout, scores })
    }

    async fn measure(&self, contestant: Contestant) -> Result<Sample> {
        let millis = self.length.as_millis().to_string();
        match contestant {
            Contestant::Local(system, work) => {
                let arguments = ["local", &name(system), &name(work), "--millis", &millis];
                Program::start(Command::new(&self.program).args(arguments))?.only_line().await
            }
            Contestant::Erlang(work) => {
                let folder = self.erlang.as_ref().context("Erlang is not installed")?;
                let call = format!("processes:main('{}', {millis})", erlang_name(work));
                let mut command = Command::new("erl");
                command.arg("-noshell").arg("-pa").arg(folder).args(["-eval", &call]);
                // As many processes as the idle ones, and some.
                command.args(["+P", "1000000"]);
                Program::start(&mut command)?.only_line().await
            }
            Contestant::Net(peer, work, len) => self.measure_net(peer, work, len, &millis).await,
        }
    }

    async fn measure_net(
        &self,
        peer: net::Peer,
        work: net::Work,
        len: usize,
        millis: &str,
    ) -> Result<Sample> {
        let (peer, len) = (name(peer), len.to_string());
        let mut server = Program::start(Command::new(&self.program).args(["serve", &peer, &name(work)]))?;
        let listening = server.line().await?;
        let arguments = ["client", &peer, &name(work), &listening, "--len", len.as_str(), "--millis", millis];
        let mut client = Program::start(Command::new(&self.program).args(arguments))?;
        let mut each = None;
        if work == net::Work::Idle {
            client.line().await?;
            let before = memory(server.id()?)?;
            client.go_on().await?;
            client.line().await?;
            each = Some((memory(server.id()?)? - before) / net::IDLE.1 as f64);
            client.go_on().await?;
        }
        let mut sample = client.only_line().await?;
        let served = server.only_line().await?;
        if work == net::Work::Connect {
            ensure!(served.count >= sample.count, "{} connected, {} served", sample.count, served.count);
        }
        sample.cpu_seconds += served.cpu_seconds;
        sample.bytes_each = each;
        Ok(sample)
    }
}

fn score(unit: Unit, sample: &Sample) -> Result<Score> {
    let per_second = sample.count as f64 / sample.seconds;
    let value = match unit {
        Unit::PerSecond(_) => per_second,
        Unit::BytesPerSecond { len } => per_second * len as f64,
        Unit::MedianTime => sample.median_ns.context("no times")? as f64 / 1e9,
        Unit::BytesEach => sample.bytes_each.context("no memory")?,
    };
    let cpu_each = if unit == Unit::BytesEach { 0.0 } else { sample.cpu_seconds / sample.count as f64 };
    Ok(Score { value, cpu_each, p99_ns: sample.p99_ns })
}

fn erlang_name(work: local::Work) -> String {
    name(work).replace('-', "_")
}
