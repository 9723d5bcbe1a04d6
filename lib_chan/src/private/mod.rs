//! Secrets on the machine of their owner: files that other users cannot read, a prompt that does not show the answer,
//! no core dumps. For programs that hold passwords and keys, such as `chan-server` and `chan-client`.

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
/// The system refused. The program is usable all the same.
pub fn forbid_core_dumps() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limited = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // The limit has no effect on dumps that are piped to a program, so on Linux the mark alone decides.
    #[cfg(target_os = "linux")]
    let limited = {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = limited;
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
    };
    limited?;
    Ok(())
}
