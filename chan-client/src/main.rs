//! The program `chan-client`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lib_chan::heap::keep_freed_memory();
    match chan_client::command::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("chan-client: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
