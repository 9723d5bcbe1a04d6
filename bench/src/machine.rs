//! What a measurement says about where it was made.

use std::{fmt, fs};

use serde::Serialize;

/// Where and of what a measurement was made.
#[derive(Serialize)]
pub struct Machine {
    processor: String,
    processors: usize,
    system: String,
    compiler: String,
    commit: String,
    date: String,
    /// Of those that were compared.
    versions: Vec<(String, String)>,
}

impl Machine {
    /// This machine, now.
    pub fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: model.map_or("unknown processor", |(_, name)| name).to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            system: format!("Linux {}", release.trim()),
            compiler: output_of("rustc", &["-V"]),
            commit: output_of("git", &["describe", "--always", "--dirty"]),
            date: output_of("date", &["-u", "+%Y-%m-%d"]),
            versions: versions(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, processors, system, compiler, commit, date, versions } = self;
        let versions: Vec<_> = versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let versions = versions.join(", ");
        write!(f, "{date}, commit {commit}; {processors} × {processor}; {system}; {compiler}; {versions}")
    }
}

/// What a program prints, on one line; nothing if there is none.
fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}

/// The versions of the peers, as they were built.
fn versions() -> Vec<(String, String)> {
    let lock = include_str!("../Cargo.lock");
    let packages = lock.split("[[package]]").filter_map(|package| {
        let field = |name: &str| {
            let line = package.lines().find(|line| line.starts_with(name))?;
            Some(line.split('"').nth(1)?.to_owned())
        };
        Some((field("name = ")?, field("version = ")?))
    });
    let wanted = ["kameo", "ractor", "rustls", "tarpc", "tokio", "tokio-rustls", "tonic"];
    packages.filter(|(name, _)| wanted.contains(&name.as_str())).collect()
}
