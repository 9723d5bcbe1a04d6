//! What lib_chan's speed is measured with. `README.md` says what is measured, how, and how to read it.

mod both_ways;
mod growth;
mod local;
mod machine;
mod net;
mod network;
mod program;
mod sample;
mod stages;
mod table;

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures lib_chan against its peers.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures everything and prints a row each. The other commands are what it starts.
    Table(table::Options),
    /// Measures what a thing costs when there are more of it, and says where that is not what it should be.
    Growth(growth::Options),
    /// The part of `growth` about a service that is flooded.
    Flood(growth::Options),
    /// Measures bytes in both directions of one connection, with one task at each end and with two.
    BothWays(both_ways::Options),
    /// Measures where a connection spends its time.
    Stages(stages::Options),
    /// Measures over paths with a round trip time, a rate and a loss; `bench/network` runs it as root.
    Network(network::Options),
    /// Measures processes inside this program; prints the result as JSON.
    Local {
        system: local::System,
        work: local::Work,
        #[command(flatten)]
        length: Length,
    },
    /// Serves clients until standard input ends. The first line it prints says where.
    Serve {
        peer: net::Peer,
        work: net::Work,
        /// Listens on this address.
        #[arg(long, default_value = "127.0.0.1")]
        at: std::net::IpAddr,
    },
    /// Measures as the client of such a server; prints the result as JSON.
    Client {
        peer: net::Peer,
        work: net::Work,
        /// The first line of the server.
        server: String,
        #[command(flatten)]
        load: net::Load,
        #[command(flatten)]
        length: Length,
    },
}

#[derive(clap::Args)]
struct Length {
    /// How long to measure, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
}

impl Length {
    const fn duration(&self) -> Duration {
        Duration::from_millis(self.millis)
    }
}

fn main() -> Result<()> {
    // As the programs of the project do; it is for all contestants.
    lib_chan::heap::keep_freed_memory();
    tokio::runtime::Runtime::new()?.block_on(run(Arguments::parse().command))
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Table(options) => table::run(options).await,
        Command::Growth(options) => growth::run(options).await,
        Command::BothWays(options) => both_ways::run(options).await,
        Command::Stages(options) => stages::run(options).await,
        Command::Network(options) => network::run(options).await,
        Command::Flood(options) => growth::run(options.only_flood()).await,
        Command::Local { system, work, length } => {
            net::say(&local::measure(system, work, length.duration()).await?)
        }
        Command::Serve { peer, work, at } => net::serve(peer, work, at).await,
        Command::Client { peer, work, server, load, length } => {
            let server = serde_json::from_str(&server)?;
            net::say(&net::measure(peer, work, &server, length.duration(), load).await?)
        }
    }
}
