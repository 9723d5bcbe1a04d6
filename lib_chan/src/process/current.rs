//! Which process is being polled on this thread, and what waits for the end of that poll.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop;

use super::pid::{Local, Pid, Target};
use crate::{ExitReason, sync::thread_local};

/// What a `Drop` leaves with the process in whose poll it ran.
type Note = Box<dyn FnOnce(Option<&ExitReason>) + Send>;

/// A process while it is polled, or while its future is dropped.
pub(super) struct Frame {
    id: u64,
    process: Arc<dyn Local>,
    notes: Vec<Note>,
}

thread_local! {
    static FRAME: RefCell<Option<Frame>> = const { RefCell::new(None) };
}

impl Frame {
    pub(super) const fn new(id: u64, process: Arc<dyn Local>) -> Self {
        Self { id, process, notes: Vec::new() }
    }

    /// Runs `f` as this process, and catches its panic. The frame is moved out of the slot and back into it.
    pub(super) fn enter<T>(slot: &mut Option<Self>, f: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
        let swap = |slot: &mut Option<Self>| {
            // A thread that is going away has no place for the frame any more; nothing is polled there.
            let _ = FRAME.try_with(|frame| mem::swap(&mut *frame.borrow_mut(), slot));
        };
        swap(slot);
        let result = catch_unwind(AssertUnwindSafe(f));
        swap(slot);
        result
    }

    /// Settles what was left during the polls: with the reason if the process ended, else without.
    pub(super) fn settle(&mut self, reason: Option<&ExitReason>) {
        for note in mem::take(&mut self.notes) {
            note(reason);
        }
    }
}

/// The process in whose poll, or in the drop of whose future, the call is made.
pub(crate) fn current() -> Option<Pid> {
    with_frame(|frame| Pid::new(frame.id, Arc::clone(&frame.process) as Arc<dyn Target>))
}

/// The number of the current process, 0 for none.
pub(crate) fn current_id() -> u64 {
    with_frame(|frame| frame.id).unwrap_or(0)
}

/// Whether the call is made in the poll of the process with this id.
pub(super) fn is_current(id: u64) -> bool {
    with_frame(|frame| frame.id == id) == Some(true)
}

/// Who sends a signal: the current process, or, from any other task, a fresh pid that was never alive.
pub(crate) fn sender() -> Pid {
    current().unwrap_or_else(Pid::nobody)
}

/// The first step of every future of this crate: spends the task's budget, so that an await that is always ready
/// returns to the runtime now and then, and stays pending once the current process is to end. Call `made_progress` on
/// what it gives before returning `Ready`.
pub(crate) fn poll_proceed(cx: &mut Context<'_>) -> Poll<coop::RestoreOnPending> {
    if is_ending() {
        // Nobody needs to wake it: whoever polls the process sees the same flag after this poll.
        return Poll::Pending;
    }
    coop::poll_proceed(cx)
}

/// As [`poll_proceed`], for what is mostly ready and takes a fraction of a microsecond: every eighth time spends the
/// budget, so that a task which sends or receives goes on for a thousand messages, and not for 128. The runtime wakes
/// another worker for every task that has spent its budget, which costs as much as a hundred messages.
pub(crate) fn poll_proceed_shortly(cx: &mut Context<'_>) -> Poll<()> {
    const TIMES: u8 = 8;
    thread_local! {
        static TIME: Cell<u8> = const { Cell::new(0) };
    }
    if is_ending() {
        return Poll::Pending;
    }
    let time = TIME.try_with(|time| time.replace(time.get().wrapping_add(1))).unwrap_or(0);
    if time.is_multiple_of(TIMES) {
        ready!(coop::poll_proceed(cx)).made_progress();
    }
    Poll::Ready(())
}

/// Decides later what a `Drop` cannot decide now.
///
/// Inside the poll of a process, or the drop of its future, `note` runs right after that, with the process's reason if
/// it has ended by then. Anywhere else it runs at once, with none. It must not panic.
pub(crate) fn settle(note: impl FnOnce(Option<&ExitReason>) + Send + 'static) {
    let mut note = Some(note);
    let left = with_frame(|frame| frame.notes.extend(note.take().map(|note| Box::new(note) as Note)));
    if left.is_none()
        && let Some(note) = note
    {
        note(None);
    }
}

/// Waits for `future`, or until the time is over: then `None`, unless the current process is to end.
pub(super) async fn in_time<F: Future>(within: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    // What the future spent of the budget must not keep the deadline from being seen.
    let mut deadline = pin!(coop::unconstrained(tokio::time::sleep(within)));
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if is_ending() {
            return Poll::Pending;
        }
        deadline.as_mut().poll(cx).map(|()| None)
    })
    .await
}

fn is_ending() -> bool {
    with_frame(|frame| frame.process.is_ending()) == Some(true)
}

fn with_frame<T>(f: impl FnOnce(&mut Frame) -> T) -> Option<T> {
    FRAME.try_with(|frame| frame.borrow_mut().as_mut().map(f)).ok().flatten()
}
