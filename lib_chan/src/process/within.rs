//! Callers with a time of their own.

use std::time::Duration;

/// A [`Remote`](crate::Remote) or an [`Address`](crate::Address) whose calls and casts take at most a certain time, from
/// [`Address::within`](crate::Address::within) and [`Remote::within`](crate::Remote::within).
#[derive(Debug)]
pub struct Within<'a, T> {
    pub(crate) of: &'a T,
    pub(crate) time: Duration,
}
