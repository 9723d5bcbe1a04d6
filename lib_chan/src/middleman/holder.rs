//! The sessions of one client, counted together, so that no client takes what all share.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::handshake::{Authenticated, Side};

/// A client of a service. Under a shared password the name is empty, and the address tells clients apart. At the client's
/// end, the server's address tells servers apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    service: Box<str>,
    client: Box<str>,
    peer: Option<IpAddr>,
}

/// The holders that have sessions. No lock is taken under this one.
static HOLDERS: Mutex<BTreeMap<Name, Weak<Holder>>> = Mutex::new(BTreeMap::new());

/// Bytes by which the windows of all sessions of the program have grown. No lock is taken under this one.
static WIDENED_IN_ALL: Mutex<usize> = Mutex::new(0);

/// The totals of the sessions of one client.
#[derive(Debug)]
pub(super) struct Holder {
    name: Name,
    /// Bytes held for the client.
    held: AtomicUsize,
    /// Bytes by which windows have grown. Changed under `WIDENED_IN_ALL` only.
    widened: AtomicUsize,
}

impl Holder {
    /// Returns the holder of this client, which all its sessions share.
    pub(super) fn of(authenticated: &Authenticated) -> Arc<Self> {
        let (service, client) = (authenticated.service().as_str(), authenticated.client().as_str());
        let told_apart = authenticated.side() == Side::Client || client.is_empty();
        let peer = if told_apart { authenticated.peer() } else { None };
        let name = Name { service: service.into(), client: client.into(), peer };
        let mut holders = lock(&HOLDERS);
        if let Some(holder) = holders.get(&name).and_then(Weak::upgrade) {
            return holder;
        }
        let holder =
            Arc::new(Self { name: name.clone(), held: AtomicUsize::new(0), widened: AtomicUsize::new(0) });
        holders.insert(name, Arc::downgrade(&holder));
        holder
    }

    /// Returns the share of one client in `max`, which is the bound of all clients.
    const fn share(max: usize) -> usize {
        max / 2
    }

    /// Counts the client's bytes.
    pub(super) fn hold(&self, before: usize, after: usize) {
        add(&self.held, before, after);
    }

    /// Returns the bytes that the client holds, on the scale of all clients: at its share, it holds as much as all may.
    pub(super) fn held_in_proportion(&self) -> usize {
        self.held.load(Ordering::Relaxed).saturating_mul(2)
    }

    /// Whether the client may be over its share of half of `max` while all clients hold `in_all`: a cheap test for that.
    #[inline(always)]
    pub(super) const fn may_be_short(in_all: usize, max: usize) -> bool {
        in_all > Self::share(max) / 2
    }

    /// Takes `more` bytes for windows, or as many as are left of `max` and of the client's share of that. Returns how many
    /// it got.
    pub(super) fn widen(&self, more: usize, max: usize) -> usize {
        let mut in_all = lock(&WIDENED_IN_ALL);
        let own = self.widened.load(Ordering::Relaxed);
        let granted = more.min(max.saturating_sub(*in_all)).min(Self::share(max).saturating_sub(own));
        *in_all += granted;
        self.widened.store(own + granted, Ordering::Relaxed);
        granted
    }

    /// Gives bytes of windows back.
    pub(super) fn narrow(&self, less: usize) {
        let mut in_all = lock(&WIDENED_IN_ALL);
        *in_all = in_all.saturating_sub(less);
        self.widened.store(self.widened.load(Ordering::Relaxed).saturating_sub(less), Ordering::Relaxed);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let mut holders = lock(&HOLDERS);
        // A new session of the client may have made another holder since the last one let go of this.
        if holders.get(&self.name).is_some_and(|holder| std::ptr::eq(holder.as_ptr(), self)) {
            holders.remove(&self.name);
        }
    }
}

/// Makes `before` of a sum `after`.
pub(super) fn add(sum: &AtomicUsize, before: usize, after: usize) {
    match after.checked_sub(before) {
        Some(more) => sum.fetch_add(more, Ordering::Relaxed),
        None => sum.fetch_sub(before - after, Ordering::Relaxed),
    };
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Limits,
        handshake::{SessionParameters, pair_in_memory_of},
    };

    fn holder(client: &str, peer: u8) -> Arc<Holder> {
        let (service, client) = ("holders".parse().unwrap(), client.parse().unwrap_or_default());
        let (_, mut server) = pair_in_memory_of(
            SessionParameters::from_limits(&Limits::default()).unwrap(),
            [1; 32],
            service,
            client,
        )
        .unwrap();
        server.set_peer([127, 0, 0, peer].into());
        Holder::of(&server)
    }

    #[test]
    fn shared_password_has_account_per_address() {
        let (named, elsewhere) = (holder("joe", 1), holder("joe", 2));
        assert!(Arc::ptr_eq(&named, &elsewhere), "a name is one client wherever it comes from");
        let (shared, same, other) = (holder("", 1), holder("", 1), holder("", 2));
        assert!(Arc::ptr_eq(&shared, &same));
        assert!(!Arc::ptr_eq(&shared, &other));
    }

    #[test]
    fn forgets_holders_without_sessions() {
        let name = holder("mike", 1).name.clone();
        assert!(!lock(&HOLDERS).contains_key(&name));
        let _again = holder("mike", 1);
        assert!(lock(&HOLDERS).contains_key(&name));
    }
}
