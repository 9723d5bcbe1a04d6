//! The amount by which the windows of a session have grown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::holder::Holder;
use crate::{Limits, session::WindowChange};

/// The windows of one session. Its lock is taken under no other lock.
#[derive(Debug)]
pub(super) struct Windows(Mutex<Widened>);

impl Windows {
    pub(super) const fn new(holder: Arc<Holder>) -> Self {
        Self(Mutex::new(Widened { holder, len: 0 }))
    }

    /// Carries out `change`: returns room, or takes as much as there is and passes it to `widen`, which returns
    /// whether the session is still alive.
    pub(super) fn change(&self, change: WindowChange, limits: &Limits, widen: impl FnOnce(u64) -> bool) {
        match change {
            WindowChange::Wanted { more, .. } => {
                let granted = self.lock().grow(more as usize, limits);
                if !widen(granted as u64) {
                    self.close();
                }
            }
            WindowChange::Narrowed(less) => self.lock().shrink(less as usize),
        }
    }

    /// Returns all room, because the session is over.
    pub(super) fn close(&self) {
        self.lock().shrink(usize::MAX);
    }

    fn lock(&self) -> MutexGuard<'_, Widened> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of one session, returned on drop.
#[derive(Debug)]
struct Widened {
    holder: Arc<Holder>,
    len: usize,
}

impl Widened {
    fn grow(&mut self, more: usize, limits: &Limits) -> usize {
        let granted = self.holder.widen(more, limits.max_windows_in_all);
        self.len += granted;
        granted
    }

    /// Returns `less` bytes, at most all.
    fn shrink(&mut self, less: usize) {
        let less = less.min(self.len);
        if less > 0 {
            self.len -= less;
            self.holder.narrow(less);
        }
    }
}

impl Drop for Widened {
    fn drop(&mut self) {
        self.shrink(usize::MAX);
    }
}
