//! The future behind a process: polls the user's future, and ends the process.

use std::any::Any;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;

use super::cell::Cell;
use super::current::CurrentProcess;
use super::pid::Local;
use super::{Address, Process};
use crate::{ExitReason, Limits, sync};

/// Options for a new process.
#[derive(Clone, Debug)]
pub struct SpawnOptions {
    /// Makes the process trap exits from its start. Default `false`.
    pub trap_exit: bool,
    /// The number of messages that the mailbox holds; at least one. Default [`Limits::mailbox_capacity`]. Unused room costs
    /// no memory.
    pub mailbox_capacity: usize,
}

impl Default for SpawnOptions {
    fn default() -> Self {
        Self { trap_exit: false, mailbox_capacity: Limits::default().mailbox_capacity }
    }
}

/// Spawns a process that runs the future `f(process)`.
///
/// It ends with `Normal` if that returns `Ok(())`, with the error if it returns one, and with `Panic` if it panics.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn spawn<M, F>(f: impl FnOnce(Process<M>) -> F) -> Address<M>
where
    M: Send + 'static,
    F: Future<Output = Result<(), ExitReason>> + Send + 'static,
{
    spawn_with(SpawnOptions::default(), f)
}

/// Does what [`spawn`] does, with options.
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn spawn_with<M, F>(options: SpawnOptions, f: impl FnOnce(Process<M>) -> F) -> Address<M>
where
    M: Send + 'static,
    F: Future<Output = Result<(), ExitReason>> + Send + 'static,
{
    spawn_after(options, f, |_| ()).0
}

/// Spawns a process; `before` gets its address before it runs.
pub(super) fn spawn_after<M, F, T>(
    options: SpawnOptions,
    f: impl FnOnce(Process<M>) -> F,
    before: impl FnOnce(&Address<M>) -> T,
) -> (Address<M>, T)
where
    M: Send + 'static,
    F: Future<Output = Result<(), ExitReason>> + Send + 'static,
{
    let cell = Cell::new(&options);
    let address = Address::new(Arc::clone(&cell));
    let done = before(&address);
    sync::spawn(Run::new(cell, f));
    (address, done)
}

/// Makes the task that calls it a process until `f` returns.
///
/// If the future is dropped before that, the process ends with `Killed`. A panic in `f` ends the process with `Panic`
/// and resumes in the caller.
///
/// # Errors
///
/// The error that `f` returns, or the reason of an exit signal that ended the process.
///
/// # Calls from `main`
///
/// `#[tokio::main]` polls `main` on a thread that is not one of the runtime's workers, so every answer has to wake
/// another thread: a call from there takes about 20 times as long as a call from a process. A program that calls in a
/// loop should enter in a spawned task, which runs on a worker:
///
/// ```
/// use std::time::Duration;
/// use lib_chan::{Event, ExitReason, Process, Reply, enter, spawn};
///
/// async fn doubles(mut me: Process<(u32, Reply<u32>)>) -> Result<(), ExitReason> {
///     loop {
///         if let Event::Message((number, reply)) = me.recv().await {
///             reply.send(2 * number);
///         }
///     }
/// }
///
/// #[tokio::main]
/// async fn main() {
///     let doubles = spawn(doubles);
///     let on_a_worker = tokio::spawn(enter(async move |_me: Process| {
///         let mut sum = 0;
///         for number in 0..100 {
///             let call = doubles.call(Duration::from_secs(5), |reply| (number, reply));
///             sum += call.await.map_err(|error| ExitReason::failed(error.to_string()))?;
///         }
///         Ok(sum)
///     }));
///     assert_eq!(on_a_worker.await.unwrap(), Ok(9900));
/// }
/// ```
pub async fn enter<M, T>(f: impl AsyncFnOnce(Process<M>) -> Result<T, ExitReason>) -> Result<T, ExitReason>
where
    M: Send + 'static,
{
    match Run::new(Cell::new(&SpawnOptions::default()), |process| f(process)).await {
        Ok(result) => result,
        Err(panic) => resume_unwind(panic),
    }
}

type Panic = Box<dyn Any + Send>;

pin_project! {
    struct Run<F, M>
    where
        M: Send,
        M: 'static,
    {
        #[pin]
        future: Option<F>,
        cell: Arc<Cell<M>>,
        // This process, while it is not being polled. Nothing once it has ended.
        frame: Option<CurrentProcess>,
        // The waker that was last given to the cell.
        task: Option<Waker>,
    }

    impl<F, M> PinnedDrop for Run<F, M>
    where
        M: Send,
        M: 'static,
    {
        fn drop(this: Pin<&mut Self>) {
            this.end(&ExitReason::Killed);
        }
    }
}

impl<F, M: Send + 'static> Run<F, M> {
    fn new(cell: Arc<Cell<M>>, f: impl FnOnce(Process<M>) -> F) -> Self {
        let mut frame = Some(CurrentProcess::new(cell.id(), Arc::clone(&cell) as Arc<dyn Local>));
        let process = Process::new(Arc::clone(&cell));
        let future = CurrentProcess::enter(&mut frame, || f(process));
        if future.is_err() {
            // The runtime polls it once in any case.
            drop(cell.decide(ExitReason::Panic));
        }
        Self { future: future.ok(), cell, frame, task: None }
    }

    /// Ends the process, for this reason unless another was first: drops its future and its mailbox as itself, settles
    /// what these left behind, and only then tells the others. Returns the reason that counts. Does nothing if that was
    /// done already.
    fn end(self: Pin<&mut Self>, reason: &ExitReason) -> ExitReason {
        let mut this = self.project();
        if this.frame.is_none() {
            return reason.clone();
        }
        drop(this.cell.decide(reason.clone()));
        let _ = CurrentProcess::enter(this.frame, || this.future.set(None));
        for item in this.cell.clear_mailbox() {
            let _ = CurrentProcess::enter(this.frame, || drop(item));
        }
        if let Some(mut frame) = this.frame.take() {
            frame.settle(|| this.cell.reason());
        }
        this.cell.part().unwrap_or_else(|| reason.clone())
    }
}

impl<F, M, T> Future for Run<F, M>
where
    F: Future<Output = Result<T, ExitReason>>,
    M: Send + 'static,
{
    type Output = Result<Result<T, ExitReason>, Panic>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        if !this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            this.cell.set_task(cx.waker());
            *this.task = Some(cx.waker().clone());
        }
        let mut future = this.future;
        let mut poll = || future.as_mut().as_pin_mut().map_or(Poll::Pending, |future| future.poll(cx));
        // From here on a signal that decides the end also wakes this task.
        let polled = if this.cell.is_ending() {
            Ok(Poll::Pending)
        } else {
            CurrentProcess::enter(this.frame, &mut poll)
        };
        match polled {
            Ok(Poll::Pending) if !this.cell.is_ending() => {
                if let Some(frame) = this.frame {
                    frame.settle(|| None);
                }
                this.cell.admit();
                Poll::Pending
            }
            Ok(Poll::Pending) => {
                let reason = self.end(&ExitReason::Killed);
                Poll::Ready(Ok(Err(reason)))
            }
            Ok(Poll::Ready(result)) => {
                let reason = result.as_ref().err().cloned().unwrap_or(ExitReason::Normal);
                let decided = self.end(&reason);
                // If another reason was decided first, that is the reason that everybody got.
                Poll::Ready(Ok(if decided == reason { result } else { Err(decided) }))
            }
            Err(panic) => {
                self.end(&ExitReason::Panic);
                Poll::Ready(Err(panic))
            }
        }
    }
}
