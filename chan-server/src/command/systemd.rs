//! The exchange with a service manager: sockets, readiness, reloads and signs of life. Does nothing without one.

use std::net::TcpListener;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::time::interval;

/// Takes the sockets that the program was started with (`LISTEN_FDS`). Changes the environment, so it must be called
/// before there is another thread.
pub(super) fn inherited() -> Vec<TcpListener> {
    let mut given = ListenFd::from_env();
    (0..given.len()).filter_map(|index| given.take_tcp_listener(index).ok().flatten()).collect()
}

/// Says that the server takes connections, under the configuration that it was given last.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that a reload has begun; [`ready`] says that it is over.
pub(super) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// Says that the server is about to end.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Gives signs of life for ever, if they are asked for.
pub(super) async fn watchdog() {
    let Some(most) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut beats = interval((most / 2).max(Duration::from_millis(1)));
    loop {
        beats.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// A manager that cannot be told needs nothing.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}
