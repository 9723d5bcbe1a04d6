//! What keeps secrets private on the machine where they are: files that nobody else may read, a question whose answer
//! is not shown, no core dumps. For programs that hold passwords and keys; `chan-server` and `chan-client` are two.

mod access;
mod file;
mod prompt;
mod secrets;

use std::io;

pub use self::file::{
    PrivateFileError, check_directory, create, create_directory, quoted, read, shared_mode,
};
pub use self::prompt::ask;
pub use self::secrets::SecretFileError;

/// Forbids core dumps of this process, which would hold its secrets. Call it first in `main`.
///
/// On Linux the process is marked as one that is not dumped, which also closes its memory to other processes of the same
/// user. The limit on core files is set as well, and elsewhere alone; a sandbox that forbids limits changes nothing on
/// Linux. Does nothing where there are no such limits.
///
/// # Errors
///
/// The system refused. The program is of use all the same.
pub fn forbid_core_dumps() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limited = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // Where dumps are piped to a program the limit says nothing, so on Linux the mark alone decides.
    #[cfg(target_os = "linux")]
    let limited = {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = limited;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
    };
    limited?;
    Ok(())
}
