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

/// Wakes all of these, in order, once the worker that this is called on has nothing else to do.
///
/// That is left to the runtime, as with tasks that have yielded: it then rouses one other worker for all of them. Waking
/// them here would rouse it again for every few, which finds little and sleeps: two fifths of the client's time with 64
/// callers. Nobody else can wake them meanwhile, so this is for a poll that ends soon and waits for none of them. Where
/// there is no other worker, or no runtime, they are woken here.
pub(super) fn wake_together(woken: Vec<Waker>) {
    let others = || Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_workers() > 1);
    if woken.len() < 2 || !others() {
        return wake_each(woken);
    }
    let together = Waker::from(Arc::new(Together(woken)));
    let _pending = pin!(yield_now()).poll(&mut Context::from_waker(&together));
}

/// Wakers that are woken when this is let go: by the runtime that uses it, or drops it, and else where it was made.
struct Together(Vec<Waker>);

impl Wake for Together {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Together {
    fn drop(&mut self) {
        wake_each(std::mem::take(&mut self.0));
    }
}

/// Keeps a waker, without a clone where it is the same as before.
pub(crate) fn keep(cx: &Context<'_>) -> impl FnOnce(Option<Waker>) -> Waker {
    |before| match before {
        Some(waker) if waker.will_wake(cx.waker()) => waker,
        _ => cx.waker().clone(),
    }
}

/// The time, as tokio tells it: a paused clock holds for all of the session.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
