//! The program `chan-client`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lib_chan::heap::keep_freed_memory();
    match chan_client::command::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            lib_chan::stdio::complain(format_args!("chan-client: {failure}"));
            ExitCode::from(failure.exit_code())
        }
    }
}
