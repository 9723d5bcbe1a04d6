//! The program `chan-server`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lib_chan::heap::keep_freed_memory();
    match chan_server::command::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            lib_chan::stdio::complain(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}
