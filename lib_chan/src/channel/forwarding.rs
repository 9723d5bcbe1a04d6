//! Far processes that are handed out over another session: a process of this program stands in for each, and forwards.

use std::{collections::VecDeque, sync::Arc};

use super::{
    decode,
    feed::{FeedOutlet, HandedFeed},
};
use crate::{
    Address, Event, ExitReason, Limits, Process, SendError,
    middleman::{Fed, Forward, Outlet, Shared},
    protocol::Protocol,
    spawn,
};

/// Returns the function that makes the forwarder of a far process.
pub(super) fn forwarder<M: Protocol>(far: &Address<M>) -> Forward {
    let far = far.clone();
    Box::new(move |runtime| {
        let _entered = runtime.enter();
        let to = spawn(move |me| forward(me, far));
        let outlet = HandedFeed::outlet(to.clone(), decode::<M>);
        (to.pid(), Arc::new(Forwarder { outlet, runtime: runtime.clone() }))
    })
}

/// Forwards messages until the far process ends, or the session that this process was made for has no more use for it.
async fn forward<M: Protocol>(me: Process<M>, far: Address<M>) -> Result<(), ExitReason> {
    let mut me = me;
    me.trap_exit(true);
    let monitor = me.monitor(far.pid());
    loop {
        match me.recv().await {
            // A call that is not passed on drops its reply, which answers it. The monitor reports the reason of a process
            // that has ended.
            Event::Message(message) => match far.send(message).await {
                Ok(()) | Err(SendError { reason: ExitReason::NoProc | ExitReason::NoConnection, .. }) => {}
                Err(SendError { reason, .. }) => return Err(reason),
            },
            Event::Down(ended, _, reason) if ended == monitor => return Err(reason),
            Event::Down(..) => {}
            Event::Exit(..) => return Ok(()),
        }
    }
}

/// The way to a forwarder. A session drops it when the far end has released the process, or when the session has ended.
struct Forwarder<M: Protocol> {
    outlet: FeedOutlet<M>,
    runtime: tokio::runtime::Handle,
}

impl<M: Protocol> Outlet for Forwarder<M> {
    fn put(&self, session: Arc<Shared>, items: VecDeque<Fed>) {
        self.outlet.put(session, items);
    }
}

impl<M: Protocol> Drop for Forwarder<M> {
    fn drop(&mut self) {
        let to = self.outlet.to.pid();
        // Behind the messages that came before.
        to.exit(ExitReason::Shutdown);
        self.runtime.spawn(async move {
            // A far process that takes nothing must not keep the messages of a session that is gone.
            let ended = tokio::time::timeout(Limits::default().close_timeout, to.ended()).await;
            if ended.is_err() {
                to.exit(ExitReason::Kill);
            }
        });
    }
}
