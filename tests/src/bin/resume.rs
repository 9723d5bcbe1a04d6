//! Sessions that outlive their connections: whether they lose nothing, and what that costs. See `chan_tests::resume`.
//!
//! - `resume cuts [--minutes 30] [--sessions 200] [--messages 1000000] [--cuts 10] [--seed 1]`
//! - `resume speed [--rounds 20] [--ms 500]`
//! - `resume back [--sessions 10000] [--rounds 3]`
//! - `resume relays [--mib 1024] [--requests 200000]`; needs `chan-server` and `chan-client` of the same build, and Redis
#![expect(clippy::print_stderr, reason = "it is a program")]

use std::{collections::BTreeMap, io, process::ExitCode, time::Duration};

use chan_tests::resume::{Cuts, come_back, cuts, relays, serve, speed};

/// That of `chan-server`: memory that threads leave in the arenas of glibc would look like a leak.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (part, mut options) = (words.next().unwrap_or_default(), BTreeMap::new());
    while let Some(name) = words.next() {
        match words.next().and_then(|value| value.parse::<u64>().ok()) {
            Some(value) => options.insert(name, value),
            None => return complain(&format!("{name} needs a number")),
        };
    }
    let mut take = |name: &str, default: u64| options.remove(name).unwrap_or(default);
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let defaults = Cuts::default();
    let seconds = take("--minutes", 30) * 60;
    let campaign = Cuts {
        duration: Duration::from_secs(take("--seconds", seconds)),
        messages: take("--messages", defaults.messages),
        cuts: u32::try_from(take("--cuts", defaults.cuts.into())).unwrap_or(u32::MAX),
        seed: take("--seed", defaults.seed),
        ..defaults
    };
    let (mib, requests) = (take("--mib", 1024), take("--requests", 200_000));
    let (sessions, rounds, time) = (
        options.remove("--sessions").map(count),
        options.remove("--rounds").map(count),
        Duration::from_millis(options.remove("--ms").unwrap_or(500)),
    );
    if let Some(name) = options.keys().next() {
        return complain(&format!("{name} is no option: see the first lines of bin/resume.rs"));
    }
    let run = async {
        match &*part {
            "server" => serve().await,
            "cuts" => {
                let sessions = sessions.unwrap_or(campaign.sessions);
                return cuts(Cuts { sessions, ..campaign }).await;
            }
            "speed" => speed(rounds.unwrap_or(20), time).await?,
            "back" => come_back(sessions.unwrap_or(10_000), rounds.unwrap_or(3)).await?,
            "relays" => return relays(mib, requests),
            _ => return Err(io::Error::other("parts are: cuts, speed, back, relays")),
        }
        Ok(true)
    };
    match tokio::runtime::Runtime::new().and_then(|runtime| runtime.block_on(run)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => complain(&error.to_string()),
    }
}

fn complain(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::from(2)
}
