//! A process, as the code inside it sees it.
//!
//! Longer than other files, because each method states its guarantees here; the bodies are short.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use super::cell::Cell;
use super::current::poll_proceed_shortly;
use super::mailbox::{self, Item, Letter, Parcel, Told};
use super::pid::{Local, ProcessSignal, next_monitor};
use super::run::{self, SpawnOptions};
use super::timers::Timers;
use super::{Address, Pid, TimerRef};
use crate::links::MonitorRef;
use crate::{ExitReason, after, sync};

/// An event that a process receives.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<M> {
    /// A message.
    Message(M),
    /// An exit signal from this process. Only a process that traps exits gets one.
    Exit(Pid, ExitReason),
    /// The process behind this monitor has ended.
    Down(MonitorRef, Pid, ExitReason),
}

/// A process, as the function that runs in it sees it: its mailbox, links and monitors.
///
/// It belongs to the future that it was given to. After the process has ended, a `Process` that was moved out of that
/// future receives nothing, and links and monitors made with it have no effect.
///
/// ```
/// use lib_chan::{Event, ExitReason, Process, enter};
///
/// # #[tokio::main]
/// # async fn main() {
/// let heard = enter(async |mut me: Process<String>| {
///     let parent = me.address();
///     let (_, monitor) = me.spawn_monitor(async move |_me: Process| Ok(parent.send("ready".into()).await?));
///     // The message was sent before the end, so it arrives first.
///     let Event::Message(text) = me.recv().await else { return Err(ExitReason::failed("no message")) };
///     match me.recv().await {
///         Event::Down(of, _, ExitReason::Normal) if of == monitor => Ok(text),
///         _ => Err(ExitReason::failed("no end")),
///     }
/// });
/// assert_eq!(heard.await.as_deref(), Ok("ready"));
/// # }
/// ```
///
/// # Helper functions
///
/// An async function that a process awaits takes `&mut Process<M>`, even if it receives nothing. A `&Process<M>` is not
/// `Send`, because the mailbox holds messages that need not be `Sync`; held across an await, it keeps the future from being
/// spawned.
///
/// ```
/// use lib_chan::{Address, ExitReason, Process, spawn};
///
/// async fn introduce(me: &mut Process<String>, to: &Address<String>) -> Result<(), ExitReason> {
///     me.link(to.pid())?;
///     Ok(to.send(format!("{:?} is here", me.pid())).await?)
/// }
///
/// # #[tokio::main]
/// # async fn main() {
/// let other = spawn(async |mut me: Process<String>| Ok(drop(me.recv().await)));
/// let introduced = spawn(async move |mut me| introduce(&mut me, &other).await);
/// assert_eq!(introduced.pid().ended().await, ExitReason::Normal);
/// # }
/// ```
pub struct Process<M = ()> {
    cell: Arc<Cell<M>>,
    /// Items taken out of the mailbox and not received yet.
    batch: VecDeque<Item<M>>,
    extras: Option<Box<Extras<M>>>,
}

/// The state that most processes never need.
struct Extras<M> {
    timers: Timers<M>,
    alarm: Alarm,
    /// The number of messages taken out of parcels.
    unpacked: u64,
}

impl<M: Send + 'static> Process<M> {
    pub(super) const fn new(cell: Arc<Cell<M>>) -> Self {
        Self { cell, batch: VecDeque::new(), extras: None }
    }

    fn extras(&mut self) -> &mut Extras<M> {
        self.extras.get_or_insert_with(|| {
            Box::new(Extras { timers: Timers::new(), alarm: Alarm(None), unpacked: 0 })
        })
    }

    fn unpacked(&self) -> u64 {
        self.extras.as_ref().map_or(0, |extras| extras.unpacked)
    }

    /// Waits for the next message or signal.
    ///
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Event<M> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Does what [`recv`](Self::recv) does, but waits at most `within`, and returns `None` if nothing came by then.
    /// With zero it returns at once. Dropping the future loses nothing.
    ///
    /// A message that is there already costs no timer.
    pub async fn recv_within(&mut self, within: Duration) -> Option<Event<M>> {
        if within.is_zero() {
            poll_fn(poll_proceed_shortly).await;
            return self.try_recv();
        }
        let mut deadline = None;
        poll_fn(|cx| {
            if let Poll::Ready(event) = self.poll_recv(cx) {
                return Poll::Ready(Some(event));
            }
            if self.cell.is_ending() {
                return Poll::Pending;
            }
            let deadline = *deadline.get_or_insert_with(|| after(Instant::now().into_std(), within).into());
            ready!(self.extras().alarm.poll(deadline, cx));
            Poll::Ready(self.try_recv())
        })
        .await
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
            self.queue_due_timers();
            if let Some(event) = self.next() {
                return Some(event);
            }
            let unpacked = self.unpacked();
            if !self.cell.try_receive(&mut self.batch, unpacked) {
                return None;
            }
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Event<M>> {
        ready!(poll_proceed_shortly(cx));
        loop {
            self.queue_due_timers();
            if let Some(event) = self.next() {
                return Poll::Ready(event);
            }
            let unpacked = self.unpacked();
            if self.cell.receive(&mut self.batch, unpacked, cx) {
                continue;
            }
            let Some(extras) = &mut self.extras else { return Poll::Pending };
            let Some(due) = extras.timers.next() else { return Poll::Pending };
            ready!(extras.alarm.poll(due, cx));
        }
    }

    /// Queues the timers that are due behind everything in the mailbox.
    fn queue_due_timers(&mut self) {
        let Some(extras) = &mut self.extras else { return };
        while let Some(timer) = extras.timers.pop_due() {
            self.cell.put_timer(timer);
        }
    }

    /// Returns the next event of the batch.
    fn next(&mut self) -> Option<Event<M>> {
        while let Some(item) = self.batch.pop_front() {
            let event = self.open(item);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    /// Turns an item into an event. Returns `None` for a call whose caller has given up, and for an empty parcel.
    fn open(&mut self, item: Item<M>) -> Option<Event<M>> {
        match item {
            Item::Letter(letter) => {
                self.cell.count_taken();
                match letter {
                    Letter::Cast(message) => Some(Event::Message(message)),
                    Letter::Call(asked) => asked.ticket.take().then_some(Event::Message(asked.message)),
                }
            }
            Item::Parcel(parcel) => self.open_parcel(parcel).map(Event::Message),
            Item::Timer(timer) => self.extras().timers.take(timer).map(Event::Message),
            Item::Told(told) => Some(match *told {
                Told::Exit(from, reason, _) => Event::Exit(from, reason),
                Told::Down(monitor, from, reason) => Event::Down(monitor, from, reason),
            }),
        }
    }

    /// Takes the next message of a parcel, and puts the rest back.
    fn open_parcel(&mut self, mut parcel: Box<dyn Parcel<M>>) -> Option<M> {
        let before = parcel.len();
        let message = parcel.next();
        let left = parcel.len();
        self.extras().unpacked += before.saturating_sub(left) as u64;
        if left > 0 {
            self.batch.push_front(Item::Parcel(parcel));
        }
        message
    }

    /// Returns the address that messages to this process are sent to.
    pub fn address(&self) -> Address<M> {
        Address::new(Arc::clone(&self.cell))
    }

    /// Returns the pid of this process.
    pub fn pid(&self) -> Pid {
        self.cell.pid()
    }

    /// Sets whether exit signals become messages; a `Kill` sent with [`Pid::exit`] never does. Returns the previous
    /// value.
    ///
    /// A new process does not trap exits, whatever its parent does. A process that must not miss an exit is spawned
    /// with [`SpawnOptions::trap_exit`].
    pub fn trap_exit(&self, trap_exit: bool) -> bool {
        self.cell.set_trap_exit(trap_exit)
    }

    /// Links this process and another: when one ends, the other gets an exit signal with its reason.
    ///
    /// There is at most one link between two processes, and it does not matter which of them made it. Linking to
    /// yourself does nothing.
    ///
    /// A process that owns a session and was linked to the far owner with it gets the exit signal of the far owner.
    /// The far owner gets the exit signal of this process only after one of the two has called `link`.
    ///
    /// # Errors
    ///
    /// `NoProc` if the other is a local process that is not alive, and this process does not trap exits. A process that
    /// traps exits gets the exit signal instead. If the other process is far, the exit signal comes in both cases.
    pub fn link(&self, pid: Pid) -> Result<(), ExitReason> {
        if pid.id() == self.cell.id() {
            return Ok(());
        }
        let Some(request) = self.cell.with_links(|links| links.link(pid.clone())) else { return Ok(()) };
        let me = self.pid();
        if let Some(id) = request.ack {
            pid.signal(ProcessSignal::UnlinkAck { from: me.clone(), id });
        }
        if !request.link {
            pid.link_again(me);
            return Ok(());
        }
        match pid.local() {
            Some(local) if !local.link(&me) => return self.cell.link_failed(&pid),
            Some(_) => {}
            None => pid.signal(ProcessSignal::Link { from: me }),
        }
        self.sent(&pid);
        Ok(())
    }

    /// Notes that a `Link` or `Unlink` was sent, and sends an acknowledgement that had to wait for it.
    fn sent(&self, pid: &Pid) {
        if let Some(id) = self.cell.with_links(|links| links.sent(pid)).flatten() {
            self.cell.acknowledge(pid, id);
        }
    }

    /// Removes the link to another process, whichever of the two made it. From now on the link has no effect on this
    /// process. An [`Event::Exit`] that is in the mailbox already stays there.
    pub fn unlink(&self, pid: Pid) {
        if let Some(id) = self.cell.with_links(|links| links.unlink(&pid)).flatten() {
            pid.signal(ProcessSignal::Unlink { from: self.pid(), id });
            self.sent(&pid);
        }
    }

    /// Monitors another process: when it ends, this process gets one [`Event::Down`] with the reason.
    ///
    /// The event comes at once if the process has ended already (`NoProc`), or if it is a far process whose session
    /// is over (`NoConnection`). A process whose end is decided but whose future still runs reports its own reason.
    /// Every call makes another monitor. A monitor on the calling process never fires.
    pub fn monitor(&self, pid: Pid) -> MonitorRef {
        let monitor = next_monitor();
        let me = self.pid();
        if pid != me && self.cell.with_links(|links| links.monitor(monitor, pid.clone())).is_some() {
            pid.signal(ProcessSignal::Monitor { from: me, monitor });
        }
        monitor
    }

    /// Removes a monitor: no [`Event::Down`] of it arrives from now on. One that is in the mailbox already stays
    /// there. Returns `false` if the monitor has fired, so that its event is in the mailbox or was received, or if it
    /// does not belong to this process.
    pub fn demonitor(&self, monitor: MonitorRef) -> bool {
        let Some(pid) = self.cell.with_links(|links| links.demonitor(monitor)).flatten() else {
            return false;
        };
        pid.signal(ProcessSignal::Demonitor { monitor });
        true
    }

    /// Does what [`demonitor`](Self::demonitor) does, and removes the [`Event::Down`] from the mailbox, so that none
    /// is received afterwards. If the monitor has fired, this looks at every item of the mailbox.
    pub fn demonitor_flush(&mut self, monitor: MonitorRef) -> bool {
        let was_active = self.demonitor(monitor);
        if !was_active {
            mailbox::flush(&mut self.batch, monitor);
            self.cell.flush(monitor);
        }
        was_active
    }

    /// Runs a future in a task of its own, and sends this process the message that `wrap` makes of its output. Use it
    /// for calls that the process must not wait for, like `gen_server:send_request/2`.
    ///
    /// The message waits for room in the mailbox. If the process ends first, the future is dropped. If the future panics,
    /// no message comes.
    ///
    /// ```
    /// use lib_chan::{CallError, Event, Process, Remote, protocol};
    ///
    /// /// A store of names.
    /// #[protocol]
    /// pub trait Names {
    ///     /// Returns the value of `key`.
    ///     async fn lookup(key: String) -> Option<String>;
    /// }
    ///
    /// enum Heard {
    ///     Value(Result<Option<String>, CallError>),
    /// }
    ///
    /// fn ask(me: &Process<Heard>, names: &Remote<NamesMessage>) {
    ///     let names = names.clone();
    ///     me.send_when(async move { names.lookup("joe").await }, Heard::Value);
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn send_when<T>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
        wrap: impl FnOnce(T) -> M + Send + 'static,
    ) where
        T: Send + 'static,
    {
        let (to, ended) = (self.address(), self.pid().ended());
        sync::spawn(async move {
            let sent = async {
                // A process that has ended wants no message.
                let _ = to.send(wrap(future.await)).await;
            };
            let (mut sent, mut ended) = (pin!(sent), pin!(ended));
            poll_fn(|cx| {
                let over = ended.as_mut().poll(cx).is_ready() || sent.as_mut().poll(cx).is_ready();
                if over { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        });
    }

    /// Sends this process a message after a delay, as `erlang:send_after/3` does. The message does not count against the
    /// bound of the mailbox.
    ///
    /// Everything that was in the mailbox when the time came is received before the message. The timer ends with the
    /// process. It costs no task: the runtime knows of it only while the process waits in [`recv`](Self::recv) or
    /// [`recv_within`](Self::recv_within), which need a runtime with time enabled then.
    ///
    /// ```
    /// use std::time::Duration;
    /// use lib_chan::{Event, Process, enter};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let heard = enter(async |mut me: Process<&str>| {
    ///     me.send_after(Duration::from_secs(2), "second");
    ///     me.send_after(Duration::from_secs(1), "first");
    ///     let third = me.send_after(Duration::from_secs(3), "third");
    ///     let heard = [me.recv().await, me.recv().await];
    ///     assert!(me.cancel_timer(third));
    ///     assert_eq!(me.recv_within(Duration::from_secs(60)).await, None);
    ///     Ok(heard)
    /// });
    /// assert_eq!(heard.await, Ok(["first", "second"].map(Event::Message)));
    /// # }
    /// ```
    pub fn send_after(&mut self, delay: Duration, message: M) -> TimerRef {
        self.extras().timers.once(delay, message)
    }

    /// Sends this process a message that `make` makes, after each `period`, until the process ends or cancels the timer.
    /// A period is at least a millisecond.
    ///
    /// At most one message of an interval waits. The times that pass while it waits are skipped, and later ones stay
    /// multiples of the period, unlike those of Erlang's `timer:send_interval`, whose messages pile up. Otherwise it
    /// behaves as [`send_after`](Self::send_after).
    pub fn send_interval(&mut self, period: Duration, make: impl FnMut() -> M + Send + 'static) -> TimerRef {
        self.extras().timers.every(period, Box::new(make))
    }

    /// Cancels a timer: none of its messages is received from now on. Returns `false` if its message was received
    /// already, or if the timer does not belong to this process.
    pub fn cancel_timer(&mut self, timer: TimerRef) -> bool {
        self.extras().timers.cancel(timer)
    }

    /// Spawns a process that is linked to this one before it runs, so it cannot end unnoticed.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn_link<N, F>(&self, f: impl FnOnce(Process<N>) -> F) -> Address<N>
    where
        N: Send + 'static,
        F: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        self.spawn_link_with(SpawnOptions::default(), f)
    }

    /// Does what [`spawn_link`](Self::spawn_link) does, with options.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn_link_with<N, F>(&self, options: SpawnOptions, f: impl FnOnce(Process<N>) -> F) -> Address<N>
    where
        N: Send + 'static,
        F: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        run::spawn_after(options, f, |address| {
            // The new process is alive, because its pid is not known to any other task yet.
            let _ = self.link(address.pid());
        })
        .0
    }

    /// Spawns a process that this one monitors before it runs, so the [`Event::Down`] always carries its reason.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn_monitor<N, F>(&self, f: impl FnOnce(Process<N>) -> F) -> (Address<N>, MonitorRef)
    where
        N: Send + 'static,
        F: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        self.spawn_monitor_with(SpawnOptions::default(), f)
    }

    /// Does what [`spawn_monitor`](Self::spawn_monitor) does, with options.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn_monitor_with<N, F>(
        &self,
        options: SpawnOptions,
        f: impl FnOnce(Process<N>) -> F,
    ) -> (Address<N>, MonitorRef)
    where
        N: Send + 'static,
        F: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        run::spawn_after(options, f, |address| self.monitor(address.pid()))
    }
}

/// The timer of [`Process::recv_within`], kept from one receive to the next.
///
/// A timer that is set too early stays: when it fires, the process wakes once in vain and sets it again. So a process
/// that often receives with a timeout sets one timer per timeout, and not one per receive.
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Returns `Ready` once `deadline` has passed.
    fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        loop {
            // The budget that the receive has spent must not hide the deadline.
            ready!(pin!(unconstrained(sleep.as_mut())).poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

impl<M> Drop for Process<M> {
    fn drop(&mut self) {
        // These messages are never taken, so their places go to waiting senders.
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
