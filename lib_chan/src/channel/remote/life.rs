//! The life of a session, as its remotes see it: its connection, its drain, and its end.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Poll, ready},
};

use super::Remote;
use crate::{Address, ExitReason, middleman::Ended, process::poll_proceed, session::ConnectionState, sync};

impl<Out> Remote<Out> {
    /// Waits for the end of the session, and returns its reason; `NoConnection` if the connection was lost. Returns at
    /// once if the session has ended already.
    ///
    /// Dropping the future loses nothing.
    pub fn ended(&self) -> impl Future<Output = ExitReason> + Send + use<Out> {
        let mut ended = Ended::new(Arc::clone(self.shared()));
        poll_fn(move |cx| {
            let coop = ready!(poll_proceed(cx));
            let reason = ready!(ended.poll(cx));
            coop.made_progress();
            Poll::Ready(reason)
        })
    }

    /// Returns whether the session has a connection at the moment. A session that cannot be resumed is attached until it
    /// ends. The state is meaningless once the session has ended.
    pub fn connection(&self) -> ConnectionState {
        self.shared().quietly(|endpoint| endpoint.connection())
    }

    /// Waits until the connection has another state than `seen`, and returns that state; `None` once the session has
    /// ended. May skip states in between.
    ///
    /// Dropping the future loses nothing: pass the same `seen` again.
    ///
    /// ```
    /// # use lib_chan::{ConnectionState, Remote};
    /// async fn report(remote: &Remote<String>) {
    ///     let mut seen = remote.connection();
    ///     while let Some(state) = remote.connection_changed(seen).await {
    ///         match state {
    ///             ConnectionState::Attached { epoch, .. } => println!("reconnected, connection {epoch}"),
    ///             ConnectionState::Detached { .. } => println!("reconnecting"),
    ///         }
    ///         seen = state;
    ///     }
    /// }
    /// ```
    pub fn connection_changed(
        &self,
        seen: ConnectionState,
    ) -> impl Future<Output = Option<ConnectionState>> + Send + use<Out> {
        let mut ended = Ended::new(Arc::clone(self.shared()));
        poll_fn(move |cx| {
            let coop = ready!(poll_proceed(cx));
            let state = ready!(ended.poll_connection(cx, seen));
            coop.made_progress();
            Poll::Ready(state)
        })
    }

    /// Reports the session's connection to a process, as `erlang:monitor_node/2` does for a node. The process gets each
    /// change of the state as a message that `wrap` makes, and `wrap(None)` when the session has ended.
    ///
    /// A message waits for room in the mailbox; states that pass meanwhile are skipped. Each call makes another monitor. A
    /// monitor ends with the process, and does not keep the session alive.
    ///
    /// ```
    /// use lib_chan::{ConnectionState, Event, Process, Remote};
    ///
    /// enum Heard {
    ///     Connection(Option<ConnectionState>),
    /// }
    ///
    /// async fn watch(mut me: Process<Heard>, remote: Remote<String>) {
    ///     remote.monitor_connection(&me.address(), Heard::Connection);
    ///     while let Event::Message(Heard::Connection(Some(state))) = me.recv().await {
    ///         match state {
    ///             ConnectionState::Attached { .. } => println!("up"),
    ///             ConnectionState::Detached { .. } => println!("down"),
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn monitor_connection<M: Send + 'static>(
        &self,
        to: &Address<M>,
        wrap: impl Fn(Option<ConnectionState>) -> M + Send + 'static,
    ) {
        let (mut changes, mut seen) = (Ended::new(Arc::clone(self.shared())), self.connection());
        let (to, over) = (to.clone(), to.pid().ended());
        sync::spawn(async move {
            let tell = async move {
                loop {
                    let state = poll_fn(|cx| changes.poll_connection(cx, seen)).await;
                    // If the process has ended, nobody wants the message.
                    let sent = to.send(wrap(state)).await;
                    match state {
                        Some(state) if sent.is_ok() => seen = state,
                        _ => return,
                    }
                }
            };
            tokio::select! {
                () = tell => {}
                _ = over => {}
            }
        });
    }

    /// Returns `true` if the other end has announced that its program is stopping. The session continues, but the other end
    /// refuses new sessions. It ends this one with [`ExitReason::Shutdown`] when its time to drain is over, by default 30 s ([`Limits::drain_timeout`](crate::Limits::drain_timeout)).
    ///
    /// A client should finish what it has begun, close the session, and connect again or to another server.
    pub fn draining(&self) -> bool {
        self.shared().ask(|session| session.peer_drains())
    }

    /// Waits until the other end is [draining](Self::draining), and returns `true`. Returns `false` if the session ends first.
    ///
    /// Dropping the future loses nothing.
    ///
    /// ```
    /// # use lib_chan::{Channel, Remote};
    /// /// Ends an idle session as soon as its server is about to stop.
    /// async fn idle(chan: Channel<String>) {
    ///     if chan.remote().wait_draining().await {
    ///         let _ = chan.close().await;
    ///     }
    /// }
    /// ```
    pub fn wait_draining(&self) -> impl Future<Output = bool> + Send + use<Out> {
        let mut ended = Ended::new(Arc::clone(self.shared()));
        poll_fn(move |cx| {
            let coop = ready!(poll_proceed(cx));
            let draining = ready!(ended.poll_draining(cx));
            coop.made_progress();
            Poll::Ready(draining)
        })
    }

    /// Ends this session at both ends with `reason`. Everything that was sent before still goes out.
    ///
    /// The process that owns the session lives on. It gets [`Incoming::Ended`](crate::Incoming::Ended) if the channel was
    /// [given](crate::Channel::give_to) to it. Does nothing if the session has ended already.
    ///
    /// A server that withdraws a right uses [`ExitReason::Revoked`]. A group that removes a member can do the same:
    ///
    /// ```
    /// # use lib_chan::{ExitReason, Remote};
    /// fn remove(member: &Remote<String>) {
    ///     member.end(ExitReason::Revoked);
    /// }
    /// ```
    pub fn end(&self, reason: ExitReason) {
        self.shared().shut_down(reason);
    }

    /// Ends the session with `Normal`, for all its remotes, and waits until the far end has confirmed everything that was
    /// sent. A [`Channel`](crate::Channel) of the session returns `None` then.
    ///
    /// Dropping the future does not stop the close, which continues in the background.
    ///
    /// # Errors
    /// `NoConnection` if the far end made no progress within [`Limits::close_timeout`](crate::Limits::close_timeout) or
    /// the connection was lost. The far end's reason if that end ended the session first, and not with `Normal`.
    pub async fn close(self) -> Result<(), ExitReason> {
        self.shared().let_go(ExitReason::Normal);
        match self.ended().await {
            ExitReason::Normal => Ok(()),
            reason => Err(reason),
        }
    }
}
