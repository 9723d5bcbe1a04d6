//! The things that end with a process, and how they learn of its end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::ExitReason;
use crate::sync::thread_local;

/// A thing that ends with the process that owns it: a session or a registered name.
pub(crate) trait Owned: Send + Sync + 'static {
    /// Tells that the end of the owner is decided; its future is not dropped yet. Called once, with no process lock held.
    fn owner_ended(&self, reason: &ExitReason);

    /// Returns the name that its owner has through it, if it is a name. Called under the lock of the owner.
    fn name(&self) -> Option<&str> {
        None
    }
}

type Telling = VecDeque<(Vec<Arc<dyn Owned>>, ExitReason)>;

/// Tells the things that a process owns that it has ended. A session that is told may end another process, which owns
/// another session. These wait in a queue of the thread, so that a chain of any length needs no stack.
pub(super) fn tell_owned(owned: Vec<Arc<dyn Owned>>, reason: ExitReason) {
    thread_local! {
        static TELLING: RefCell<Option<Telling>> = const { RefCell::new(None) };
    }
    if owned.is_empty() {
        return;
    }
    let mut next = Some((owned, reason));
    let is_first = TELLING.try_with(|telling| match &mut *telling.borrow_mut() {
        Some(queue) => {
            queue.extend(next.take());
            false
        }
        telling => {
            *telling = Some(VecDeque::new());
            true
        }
    });
    while let Some((owned, reason)) = next {
        for one in owned {
            // A panic in one must not keep the others from ending.
            let _ = catch_unwind(AssertUnwindSafe(|| one.owner_ended(&reason)));
        }
        next = TELLING.try_with(|telling| telling.borrow_mut().as_mut()?.pop_front()).ok().flatten();
    }
    if is_first == Ok(true) {
        let _ = TELLING.try_with(RefCell::take);
    }
}
