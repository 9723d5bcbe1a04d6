//! What keeps secrets private on the machine where they are: files that nobody else may read, a question whose answer
//! is not shown, no core dumps. For programs that hold passwords and keys; `chan-server` and `chan-client` are two.

mod access;
mod file;
mod prompt;

use std::io;

pub use self::file::{
    PrivateFileError, check_directory, create, create_directory, quoted, read, shared_mode,
};
pub use self::prompt::ask;

/// Forbids core dumps of this process, which would hold its secrets. To be called first of all.
///
/// The limit alone does not stop a system that pipes dumps to a program, so on Linux the process is also marked as one
/// that is not dumped; then no other process of the same user may look into its memory either. Does nothing where there
/// are no such limits.
///
/// # Errors
/// The system refused.
pub fn forbid_core_dumps() -> io::Result<()> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}
