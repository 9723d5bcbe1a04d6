//! A process, seen from inside.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::cell::Cell;
use super::current::{in_time, poll_proceed_shortly};
use super::mailbox::{self, Batch, Item, Letter, Told};
use super::pid::{Local, Signal, next_monitor};
use super::run::{self, SpawnOptions};
use super::{Address, Pid};
use crate::ExitReason;
use crate::links::MonitorRef;

/// What a process receives.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<M> {
    /// A message.
    Message(M),
    /// An exit signal from this process, to one that traps exits.
    Exit(Pid, ExitReason),
    /// The process behind this monitor has ended.
    Down(MonitorRef, Pid, ExitReason),
}

/// A process's own end: its mailbox, its links and its monitors. Given to the function that runs in it.
///
/// It belongs into the future it was given to. Moved out of it and used after the process has ended, it receives
/// nothing any more, and links and monitors made with it have no effect.
pub struct Process<M = ()> {
    cell: Arc<Cell<M>>,
    /// Taken out of the mailbox, and not yet received.
    batch: VecDeque<Item<M>>,
}

impl<M: Send + 'static> Process<M> {
    pub(super) const fn new(cell: Arc<Cell<M>>) -> Self {
        Self { cell, batch: VecDeque::new() }
    }

    /// Waits for the next message or signal. A dropped future loses nothing.
    pub async fn recv(&mut self) -> Event<M> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// As [`recv`](Self::recv), but waits at most this long; then `None`. A dropped future loses nothing.
    pub async fn recv_within(&mut self, within: Duration) -> Option<Event<M>> {
        in_time(within, self.recv()).await
    }

    /// Returns the next message or signal if one is in the mailbox. Never waits.
    ///
    /// Returns `None` once the end of the process is decided. A loop over `try_recv` alone never yields to other
    /// tasks: where it may be long, use [`recv_within`](Self::recv_within) with a time of zero.
    pub fn try_recv(&mut self) -> Option<Event<M>> {
        if self.cell.is_ending() {
            return None;
        }
        loop {
            if let Some(event) = self.next() {
                return Some(event);
            }
            if !self.cell.try_receive(&mut self.batch) {
                return None;
            }
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Event<M>> {
        ready!(poll_proceed_shortly(cx));
        loop {
            if let Some(event) = self.next() {
                return Poll::Ready(event);
            }
            if !self.cell.receive(&mut self.batch, cx) {
                return Poll::Pending;
            }
        }
    }

    /// The next event of what was taken out of the mailbox.
    fn next(&mut self) -> Option<Event<M>> {
        while let Some(item) = self.batch.pop_front() {
            let event = self.open(item);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    /// What the process gets of an item; nothing if nobody waits for the answer any more, or it holds no message.
    fn open(&mut self, item: Item<M>) -> Option<Event<M>> {
        match item {
            Item::Letter(letter) => {
                self.cell.count_taken();
                match letter {
                    Letter::Cast(message) => Some(Event::Message(message)),
                    Letter::Call(asked) => asked.ticket.take().then_some(Event::Message(asked.message)),
                }
            }
            Item::Batch(batch) => self.open_batch(batch).map(Event::Message),
            Item::Told(told) => Some(match *told {
                Told::Exit(from, reason, _) => Event::Exit(from, reason),
                Told::Down(monitor, from, reason) => Event::Down(monitor, from, reason),
            }),
        }
    }

    /// The next message of what a session handed over; the rest goes back to where it was.
    fn open_batch(&mut self, mut batch: Box<Batch<M>>) -> Option<M> {
        let mut message = None;
        while message.is_none() {
            message = match batch.items.pop_front()? {
                mailbox::Fed::Inbound(inbound) => batch.feed.take(inbound),
                mailbox::Fed::Ended(reason) => Some(batch.feed.ended(reason)),
            };
        }
        if !batch.items.is_empty() {
            self.batch.push_front(Item::Batch(batch));
        }
        message
    }

    /// Where messages to this process are sent.
    pub fn address(&self) -> Address<M> {
        Address::new(Arc::clone(&self.cell))
    }

    /// The pid of this process.
    pub fn pid(&self) -> Pid {
        self.cell.pid()
    }

    /// Whether exit signals become messages from now on, all but `Kill` sent with [`Pid::exit`]. Gives what held
    /// before.
    ///
    /// A new process does not trap exits, whatever its parent does. One that must not miss any is spawned so, with
    /// [`SpawnOptions::trap_exit`].
    pub fn trap_exit(&self, trap_exit: bool) -> bool {
        self.cell.set_trap_exit(trap_exit)
    }

    /// Links this process and another: when one ends, the other gets an exit signal with its reason. There is at most
    /// one link between two processes, and it does not matter who made it. To oneself it does nothing.
    ///
    /// # Errors
    ///
    /// `NoProc` if the other is a local process, not alive, and this one does not trap exits. One that does gets the
    /// exit signal instead; so does everybody if the other is far.
    pub fn link(&self, pid: Pid) -> Result<(), ExitReason> {
        if pid.id() == self.cell.id() {
            return Ok(());
        }
        let Some(request) = self.cell.with_links(|links| links.link(pid.clone())) else { return Ok(()) };
        let me = self.pid();
        if let Some(id) = request.ack {
            pid.signal(Signal::UnlinkAck { from: me.clone(), id });
        }
        if !request.link {
            return Ok(());
        }
        match pid.local() {
            Some(local) if !local.link(&me) => return self.cell.link_failed(&pid),
            Some(_) => {}
            None => pid.signal(Signal::Link { from: me }),
        }
        if let Some(id) = self.cell.with_links(|links| links.link_sent(&pid)).flatten() {
            self.cell.acknowledge(&pid, id);
        }
        Ok(())
    }

    /// Removes the link to another process, whoever made it. From now on it has no effect on this one; an
    /// [`Event::Exit`] that is in the mailbox already stays there.
    pub fn unlink(&self, pid: Pid) {
        if let Some(id) = self.cell.with_links(|links| links.unlink(&pid)).flatten() {
            pid.signal(Signal::Unlink { from: self.pid(), id });
        }
    }

    /// Asks for an [`Event::Down`] when another process ends: once, with its reason; at once with `NoProc` if it is
    /// not alive, and with `NoConnection` if it is a far one whose session is over. Every call makes a monitor of its
    /// own. One of oneself never says anything.
    pub fn monitor(&self, pid: Pid) -> MonitorRef {
        let monitor = next_monitor();
        let me = self.pid();
        if pid != me && self.cell.with_links(|links| links.monitor(monitor, pid.clone())).is_some() {
            pid.signal(Signal::Monitor { from: me, monitor });
        }
        monitor
    }

    /// Gives a monitor up: no [`Event::Down`] of it comes any more; one that is in the mailbox already stays there.
    /// `false` if it had fired, or never was one of this process.
    pub fn demonitor(&self, monitor: MonitorRef) -> bool {
        let Some(pid) = self.cell.with_links(|links| links.demonitor(monitor)).flatten() else {
            return false;
        };
        pid.signal(Signal::Demonitor { monitor });
        true
    }

    /// As [`demonitor`](Self::demonitor), and takes the [`Event::Down`] out of the mailbox if it is there. The cost
    /// is a look at everything in the mailbox, if the monitor had fired.
    pub fn demonitor_flush(&mut self, monitor: MonitorRef) -> bool {
        let was_active = self.demonitor(monitor);
        if !was_active {
            mailbox::flush(&mut self.batch, monitor);
            self.cell.flush(monitor);
        }
        was_active
    }

    /// Spawns a process linked to this one; as one step: it cannot end before the link is there.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn_link<N, F>(&self, f: impl FnOnce(Process<N>) -> F) -> Address<N>
    where
        N: Send + 'static,
        F: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        run::spawn_after(SpawnOptions::default(), f, |address| {
            // It is alive: nobody else knows its pid yet.
            let _ = self.link(address.pid());
        })
        .0
    }

    /// Spawns a process monitored by this one; as one step: the reason is always the one it ends with.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn_monitor<N, F>(&self, f: impl FnOnce(Process<N>) -> F) -> (Address<N>, MonitorRef)
    where
        N: Send + 'static,
        F: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        run::spawn_after(SpawnOptions::default(), f, |address| self.monitor(address.pid()))
    }
}

impl<M> Drop for Process<M> {
    fn drop(&mut self) {
        // Nobody will take these any more, and they leave their places to others.
        for item in self.batch.drain(..) {
            if matches!(item, Item::Letter(_)) {
                self.cell.count_taken();
            }
        }
        self.cell.admit();
    }
}

impl<M: Send + 'static> fmt::Debug for Process<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Process").field(&self.pid()).finish()
    }
}
