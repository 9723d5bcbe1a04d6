//! The bytes by which the windows of all sessions of the program have grown.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{Limits, handshake::Authenticated, session::WindowChange};

/// A service and a client of it.
type ServiceClient = (Box<str>, Box<str>);

/// The bytes of each account. Not locked under the lock of a session, and no session is locked under it.
static WIDENED: Mutex<BTreeMap<ServiceClient, usize>> = Mutex::new(BTreeMap::new());

/// The windows of one session. Its lock is taken under no other lock, and only `WIDENED` is taken under it.
#[derive(Debug)]
pub(super) struct Windows(Mutex<Widened>);

impl Windows {
    pub(super) fn new(authenticated: &Authenticated) -> Self {
        let account = (authenticated.service().as_str().into(), authenticated.client().as_str().into());
        Self(Mutex::new(Widened { account, len: 0 }))
    }

    /// Carries out `change`: returns room, or takes as much as there is and passes it to `widen`, which returns
    /// whether the session is still alive.
    pub(super) fn change(&self, change: WindowChange, limits: &Limits, widen: impl FnOnce(u64) -> bool) {
        match change {
            WindowChange::Wanted(more) => {
                let granted = self.lock().grow(more as usize, limits);
                if !widen(granted as u64) {
                    self.close();
                }
            }
            WindowChange::Narrowed(extra) => self.lock().shrink_to(extra as usize),
        }
    }

    /// Returns all room, because the session is over.
    pub(super) fn close(&self) {
        self.lock().shrink_to(0);
    }

    fn lock(&self) -> MutexGuard<'_, Widened> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of one session, returned on drop.
#[derive(Debug)]
struct Widened {
    account: ServiceClient,
    len: usize,
}

impl Widened {
    /// Takes `more` bytes, or as many as are left. The bound is [`Limits::max_windows_in_all`] for the program, and
    /// half of that for one account, so that no client takes everything. Returns the number of bytes taken.
    fn grow(&mut self, more: usize, limits: &Limits) -> usize {
        let mut widened = WIDENED.lock().unwrap_or_else(PoisonError::into_inner);
        let in_all: usize = widened.values().sum();
        let of_account = widened.entry(self.account.clone()).or_default();
        let left = limits.max_windows_in_all.saturating_sub(in_all);
        let share = (limits.max_windows_in_all / 2).saturating_sub(*of_account);
        let granted = more.min(left).min(share);
        *of_account += granted;
        if *of_account == 0 {
            widened.remove(&self.account);
        }
        self.len += granted;
        granted
    }

    /// Returns all but `len` bytes.
    fn shrink_to(&mut self, len: usize) {
        let less = self.len.saturating_sub(len);
        if less == 0 {
            return;
        }
        self.len -= less;
        let mut widened = WIDENED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_account) = widened.get_mut(&self.account) {
            *of_account = of_account.saturating_sub(less);
            if *of_account == 0 {
                widened.remove(&self.account);
            }
        }
    }
}

impl Drop for Widened {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}
