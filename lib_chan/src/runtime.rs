//! A runtime for a program, and threads for work that blocks, on a machine that may refuse threads.

use std::{
    io,
    num::NonZero,
    panic::resume_unwind,
    sync::{
        Arc, Mutex,
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::spawn_blocking,
};

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
    let given = threads(wanted.saturating_add(1), spawn_thread);
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

/// Runs blocking work that ends, on a thread of the runtime for such work. Work that has begun continues if the future is
/// dropped. Work that may never end, such as a read of a terminal, needs a thread of its own ([`spawn_thread`]): if the
/// system gives no more threads, other work would wait behind it.
///
/// # Errors
/// The system gives no thread. The work has not begun.
///
/// # Panics
/// When the work panics.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    blocking_on(spawn_thread, work).await
}

async fn blocking_on<T: Send + 'static>(
    spawn: impl Fn(Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    // Checked first, because tokio panics if it is refused its first thread for blocking work. The work still runs on
    // tokio's threads: tokio bounds their number, and a paused clock waits for them.
    if threads(1, spawn) == 0 {
        return Err(io::Error::other(MORE_THREADS));
    }
    match spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(cancelled) => Err(cancelled.into()),
        },
    }
}

/// Starts a thread of the program.
///
/// # Errors
/// The system gives no thread; the error says what to allow.
pub fn spawn_thread(work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    // The error keeps its kind, for callers that try again.
    thread::Builder::new().spawn(work).map_err(|error| io::Error::new(error.kind(), MORE_THREADS))
}

/// A thread that runs one piece of blocking work after the other. It ends once the worker is dropped and the work is done.
#[derive(Debug)]
pub(crate) struct Worker(Sender<Job>);

type Job = Box<dyn FnOnce() + Send>;

impl Worker {
    pub(crate) fn start() -> io::Result<Self> {
        let (give, work) = channel::<Job>();
        spawn_thread(move || work.into_iter().for_each(|job| job()))?;
        Ok(Self(give))
    }

    /// Queues `work` behind the work before it. The receiver fails if the work panics.
    pub(crate) fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (tell, told) = oneshot::channel();
        let _ = self.0.send(Box::new(move || drop(tell.send(work()))));
        told
    }
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

    #[tokio::test]
    async fn refused_thread_is_error() {
        let refused = |_: Box<dyn FnOnce() + Send>| Err(io::ErrorKind::WouldBlock.into());
        let error = blocking_on(refused, || panic!("it is not begun")).await.unwrap_err();
        assert_eq!(error.to_string(), MORE_THREADS);
        assert_eq!(blocking(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn panic_of_work_reaches_caller() {
        let failed = tokio::spawn(blocking(|| resume_unwind(Box::new("broken")))).await;
        let panic = failed.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"broken"));
    }

    #[tokio::test]
    async fn worker_keeps_order_of_work() {
        let worker = Worker::start().unwrap();
        let (tell, told) = channel();
        let first = tell.clone();
        let (one, two) = (worker.begin(move || first.send(1)), worker.begin(move || tell.send(2)));
        drop(worker);
        one.await.unwrap().unwrap();
        two.await.unwrap().unwrap();
        assert_eq!(told.iter().collect::<Vec<_>>(), [1, 2]);
    }
}
