//! The program `chan-server`.

use std::process::ExitCode;

/// Gives the memory of a burst back to the system within ten seconds, and keeps that of the last messages for the next.
/// The allocators of glibc and mimalloc keep it: see `docs/measurements/memory.md`.
#[cfg(all(unix, feature = "jemalloc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match chan_server::command::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            lib_chan::stdio::complain(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}
