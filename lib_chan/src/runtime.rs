//! A runtime for a program, on a machine that may refuse it threads.

use std::{
    io,
    num::NonZero,
    sync::{Arc, Mutex, mpsc::channel},
    thread::{self, JoinHandle},
};

use tokio::runtime::{Builder, Runtime};

/// The advice for the user of a program that is refused a thread.
pub(crate) const MORE_THREADS: &str =
    "the system gives this program no more threads; allow it at least 4 (ulimit -u, TasksMax=)";

/// Starts a runtime with as many threads as the system gives: one for work that blocks, and up to one for each processor.
///
/// # Errors
/// The system gives no thread, or the runtime cannot start.
pub fn start() -> io::Result<Runtime> {
    let wanted = thread::available_parallelism().map_or(1, NonZero::get);
    // Checked first, because tokio panics if it is refused a thread.
    let given = threads(wanted.saturating_add(1), |work| thread::Builder::new().spawn(work));
    let mut builder = match given {
        0 => return Err(io::Error::other(MORE_THREADS)),
        1 => Builder::new_current_thread(),
        more => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(more - 1);
            builder
        }
    };
    builder.enable_all().build()
}

/// Returns how many threads the system gives at once, up to `wanted`.
fn threads(wanted: usize, spawn: impl Fn(Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>) -> usize {
    let (go_on, waiting) = channel::<()>();
    let waiting = Arc::new(Mutex::new(waiting));
    let wait = || {
        let waiting = Arc::clone(&waiting);
        // The thread ends as soon as the sender is dropped.
        move || drop(waiting.lock().map(|waiting| waiting.recv()))
    };
    let started: Vec<_> = (0..wanted).map_while(|_| spawn(Box::new(wait())).ok()).collect();
    drop(go_on);
    started.into_iter().map(JoinHandle::join).filter(Result::is_ok).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_threads_that_can_be_had() {
        for given in [0, 1, 3] {
            let left = std::cell::Cell::new(given);
            let spawn = |work: Box<dyn FnOnce() + Send>| match left.get() {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                more => {
                    left.set(more - 1);
                    thread::Builder::new().spawn(work)
                }
            };
            assert_eq!(threads(5, spawn), given);
        }
        assert_eq!(threads(2, |work| thread::Builder::new().spawn(work)), 2);
    }
}
