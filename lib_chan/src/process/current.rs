//! The process that is polled on this thread, and the decisions that wait for the end of that poll.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop;

use super::pid::{Local, Pid, SignalTarget};
use crate::{ExitReason, sync::thread_local};

/// A decision that a `Drop` leaves to the process in whose poll it ran.
type Note = Box<dyn FnOnce(Option<&ExitReason>) + Send>;

/// A process while it is polled, or while its future is dropped.
pub(super) struct CurrentProcess {
    id: u64,
    process: Arc<dyn Local>,
    notes: Vec<Note>,
}

thread_local! {
    static FRAME: RefCell<Option<CurrentProcess>> = const { RefCell::new(None) };
}

impl CurrentProcess {
    pub(super) const fn new(id: u64, process: Arc<dyn Local>) -> Self {
        Self { id, process, notes: Vec::new() }
    }

    /// Runs `f` as this process, and catches its panic. The frame is moved out of the slot and back into it.
    pub(super) fn enter<T>(slot: &mut Option<Self>, f: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
        let swap = |slot: &mut Option<Self>| {
            // A thread that is shutting down has no slot for the frame, and polls nothing.
            let _ = FRAME.try_with(|frame| mem::swap(&mut *frame.borrow_mut(), slot));
        };
        swap(slot);
        let result = catch_unwind(AssertUnwindSafe(f));
        swap(slot);
        result
    }

    /// Settles the decisions that were left during the polls: with the reason if the process has ended, else without.
    #[inline]
    pub(super) fn settle(&mut self, reason: impl FnOnce() -> Option<ExitReason>) {
        if !self.notes.is_empty() {
            self.settle_notes(reason().as_ref());
        }
    }

    #[cold]
    fn settle_notes(&mut self, reason: Option<&ExitReason>) {
        for note in mem::take(&mut self.notes) {
            note(reason);
        }
    }
}

/// Returns the current process: the one that is polled, or whose future is dropped, around this call.
pub(crate) fn current() -> Option<Pid> {
    with_frame(|frame| Pid::new(frame.id, Arc::clone(&frame.process) as Arc<dyn SignalTarget>))
}

/// Returns the number of the current process; 0 for none.
pub(crate) fn current_id() -> u64 {
    with_frame(|frame| frame.id).unwrap_or(0)
}

/// Returns `true` if the process with this id is the current one.
pub(super) fn is_current(id: u64) -> bool {
    with_frame(|frame| frame.id == id) == Some(true)
}

/// Returns the sender of a signal: the current process, or, in any other task, a fresh pid that was never alive.
pub(crate) fn sender() -> Pid {
    current().unwrap_or_else(Pid::nobody)
}

/// Polls first in every future of this crate. Spends the task's budget, so that an await that is always ready returns to
/// the runtime now and then. Stays pending once the end of the current process is decided. The caller calls
/// `made_progress` on the returned value before it returns `Ready`.
pub(crate) fn poll_proceed(cx: &mut Context<'_>) -> Poll<coop::RestoreOnPending> {
    if is_ending() {
        // No wake is needed: the task that polls the process checks the same flag after this poll.
        return Poll::Pending;
    }
    coop::poll_proceed(cx)
}

/// Does what [`poll_proceed`] does, for operations that are mostly ready and take a fraction of a microsecond. Only every
/// eighth poll spends the budget, so that a task sends or receives a thousand messages in a row, and not 128. The
/// runtime wakes another worker for every task that has spent its budget, which costs as much as a hundred messages.
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

/// Postpones a decision that a `Drop` cannot make yet.
///
/// During the poll of a process, or the drop of its future, `note` runs right after that, with the reason of the process
/// if it has ended by then. Anywhere else `note` runs at once, without a reason. It must not panic.
pub(crate) fn settle(note: impl FnOnce(Option<&ExitReason>) + Send + 'static) {
    let mut note = Some(note);
    let left = with_frame(|frame| frame.notes.extend(note.take().map(|note| Box::new(note) as Note)));
    if left.is_none()
        && let Some(note) = note
    {
        note(None);
    }
}

/// Waits for `future`, at most `within`. Returns `None` at the deadline, unless the end of the current process is decided.
pub(crate) async fn in_time<F: Future>(within: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    // The budget that the future has spent must not hide the deadline.
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

/// The number of processes whose end is decided, and that have not told the others yet.
static ENDING: AtomicUsize = AtomicUsize::new(0);

/// Counts a process whose end is decided.
pub(super) fn note_ending() {
    ENDING.fetch_add(1, Ordering::Relaxed);
}

/// Counts a process that has told the others.
pub(super) fn note_ended() {
    ENDING.fetch_sub(1, Ordering::Relaxed);
}

pub(super) fn ending_count() -> usize {
    ENDING.load(Ordering::Relaxed)
}

/// Returns `true` once the end of the current process is decided.
fn is_ending() -> bool {
    // Nearly always no process at all ends, and the look at this one costs a fifth of a local message. A decision on another
    // thread may be missed here, as if it came a moment later: it wakes the task as well.
    ending_count() != 0 && with_frame(|frame| frame.process.is_ending()) == Some(true)
}

fn with_frame<T>(f: impl FnOnce(&mut CurrentProcess) -> T) -> Option<T> {
    FRAME.try_with(|frame| frame.borrow_mut().as_mut().map(f)).ok().flatten()
}
