//! The programs that a measurement starts.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::sample::Sample;

/// How much longer than it should a measurement may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A value as it is written on the command line.
pub fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// A program that was started, and ends with this one.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts it, with an input and an output that are ours.
    pub fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let output = BufReader::new(child.stdout.take().context("it has an output")?).lines();
        Ok(Self { input: child.stdin.take(), output, child })
    }

    /// The system's number for it.
    pub fn id(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    /// The next line that it prints.
    pub async fn line(&mut self) -> Result<String> {
        self.output.next_line().await?.context("it ended too early")
    }

    /// The next thing that it found.
    pub async fn sample(&mut self) -> Result<Sample> {
        Ok(serde_json::from_str(&self.line().await?)?)
    }

    /// Gives it a line to read.
    pub async fn go_on(&mut self) -> Result<()> {
        self.tell("").await
    }

    /// Gives it this line to read.
    pub async fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("it has an input")?;
        Ok(input.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// Tells it to end; what it found.
    pub async fn only_line(mut self) -> Result<Sample> {
        self.input = None;
        let sample = self.sample().await?;
        let status = self.child.wait().await?;
        ensure!(status.success(), "it ended with {status}");
        Ok(sample)
    }
}
