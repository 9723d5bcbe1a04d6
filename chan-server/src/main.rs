//! The program `chan-server`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lib_chan::heap::keep_freed_memory();
    match chan_server::command::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
