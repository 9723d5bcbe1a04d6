//! Does one thing many times, on one thread and without TLS: for profilers, and for counts of instructions and allocations
//! that are the same on every machine. `chan-hot --help` names the paths.

mod paths;

use clap::Parser;

use paths::{Hot, Path};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    path: Path,
    #[arg(long, default_value_t = 100_000)]
    count: u64,
    /// With a session that would outlive its connection.
    #[arg(long)]
    resume: bool,
}

fn main() -> anyhow::Result<()> {
    // As the programs of the project do.
    lib_chan::heap::keep_freed_memory();
    let Arguments { path, count, resume } = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async { Hot::new(resume).await?.run(path, count).await })
}
