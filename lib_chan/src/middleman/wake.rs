//! Wakers and the clock.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Wake, Waker},
    time::Instant,
};

use tokio::{runtime::Handle, task::yield_now};

/// Wakes all of these, in order.
pub(super) fn wake_each(woken: Vec<Waker>) {
    woken.into_iter().for_each(Waker::wake);
}

/// Wakes all of these, in order, once the current worker has nothing else to do.
///
/// The runtime does the waking, as for tasks that have yielded: it rouses one other worker for all of them. Direct
/// wakes would rouse that worker again for every few tasks; it finds little to do and sleeps, which cost two fifths
/// of the client's time with 64 callers. No other task can wake them meanwhile, so this function suits a poll that
/// ends soon and waits for none of them. With a single worker, or without a runtime, the tasks are woken at once.
pub(super) fn wake_together(woken: Vec<Waker>) {
    let others = || Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_workers() > 1);
    if woken.len() < 2 || !others() {
        return wake_each(woken);
    }
    let together = Waker::from(Arc::new(Together(woken)));
    let _pending = pin!(yield_now()).poll(&mut Context::from_waker(&together));
}

/// Wakers that are woken when this value is dropped: by the runtime that runs or drops it, or else where it was made.
struct Together(Vec<Waker>);

impl Wake for Together {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Together {
    fn drop(&mut self) {
        wake_each(std::mem::take(&mut self.0));
    }
}

/// Stores a waker, without a clone if it is the same as before.
pub(crate) fn keep(cx: &Context<'_>) -> impl FnOnce(Option<Waker>) -> Waker {
    |before| match before {
        Some(waker) if waker.will_wake(cx.waker()) => waker,
        _ => cx.waker().clone(),
    }
}

/// Returns the time of tokio's clock, so that a paused clock holds for the whole session.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
