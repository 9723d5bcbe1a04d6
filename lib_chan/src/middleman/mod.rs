//! The task that drives a session: socket frames become messages of processes, and the other way round.

mod driver;
mod far;
mod shared;
mod wake;
mod windows;

pub(crate) use self::{
    driver::Driver,
    shared::{Fed, NotSent, Outlet, Shared},
    wake::{keep, now, with_scratch},
};

#[cfg(test)]
mod tests;
