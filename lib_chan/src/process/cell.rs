//! The shared state of a process under one lock: its phase, its mailbox, and everything that others ask of it.
//! `signals.rs` has the effects of signals.

mod signals;

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use super::current::{ending_count, is_current, note_ending};
use super::info::Moment;
use super::mailbox::{Item, Letter, Mailbox, Parcel, Taken};
use super::owned::{Owned, tell_owned};
use super::pid::{Local, Pid, ProcessSignal, next_id};
use super::{ProcessInfo, SpawnOptions, TimerRef};
use crate::links::{Links, MonitorRef};
use crate::sync::{AtomicBool, Mutex, MutexGuard};
use crate::{ExitReason, SendError};

pub(super) struct Cell<M> {
    me: Weak<Self>,
    id: u64,
    /// Set together with the phase, and read without the lock.
    ending: AtomicBool,
    taken: Taken,
    started: Moment,
    state: Mutex<ProcessState<M>>,
}

struct ProcessState<M> {
    phase: ProcessPhase,
    trap_exit: bool,
    /// Wakes the task that polls the process.
    task: Option<Waker>,
    mailbox: Mailbox<M>,
    /// The state that most processes never need.
    rare: Option<Box<Rare>>,
}

enum ProcessPhase {
    Alive,
    /// The end is decided. The future is not dropped yet.
    Ending(ExitReason),
    /// The future is dropped, and the links and monitors have been told.
    Ended(ExitReason),
}

#[derive(Default)]
struct Rare {
    links: Links<Pid>,
    owned: Vec<Arc<dyn Owned>>,
    /// Messages that came in parcels.
    delivered: u64,
    /// Those of them that the process had taken when it last looked for more.
    unpacked: u64,
}

/// The progress of a message on its way into the mailbox.
pub(super) enum Posting<M> {
    New(Letter<M>),
    /// The mailbox was full. It holds the message under this ticket.
    Waiting(u64),
    Done,
}

impl<M: Send + 'static> Cell<M> {
    pub(super) fn new(options: &SpawnOptions) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            id: next_id(),
            ending: AtomicBool::new(false),
            taken: Taken::default(),
            started: Moment::now(),
            state: Mutex::new(ProcessState {
                phase: ProcessPhase::Alive,
                trap_exit: options.trap_exit,
                task: None,
                mailbox: Mailbox::with_capacity(options.mailbox_capacity),
                rare: None,
            }),
        })
    }

    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn pid(&self) -> Pid {
        // The caller holds the process in an `Arc`, so the upgrade succeeds.
        self.me.upgrade().map_or_else(Pid::nobody, |me| Pid::new(self.id, me))
    }

    pub(super) fn set_trap_exit(&self, trap_exit: bool) -> bool {
        mem::replace(&mut self.lock().trap_exit, trap_exit)
    }

    /// Puts the message into the mailbox if it has room.
    pub(super) fn try_post(&self, letter: Letter<M>) -> Result<(), SendError<M>> {
        let mut state = self.lock();
        let reason = if !state.is_alive() {
            ExitReason::NoProc
        } else if !state.mailbox.has_room(&self.taken) {
            ExitReason::Overload
        } else {
            let waker = state.mailbox.push_letter(letter);
            drop(state);
            wake(waker);
            return Ok(());
        };
        drop(state);
        Err(SendError { message: letter.into_message(), reason })
    }

    /// Puts the message into the mailbox, or waits for room. Waiting senders are served in the order in which they came.
    pub(super) fn poll_post(
        &self,
        posting: &mut Posting<M>,
        cx: &Context<'_>,
    ) -> Poll<Result<(), SendError<M>>> {
        match mem::replace(posting, Posting::Done) {
            Posting::New(letter) => self.post(letter, posting, cx),
            Posting::Waiting(ticket) => self.poll_waiting(ticket, posting, cx),
            Posting::Done => Poll::Ready(Ok(())),
        }
    }

    fn post(
        &self,
        letter: Letter<M>,
        posting: &mut Posting<M>,
        cx: &Context<'_>,
    ) -> Poll<Result<(), SendError<M>>> {
        let mut state = self.lock();
        if !state.is_alive() {
            drop(state);
            let message = letter.into_message();
            return Poll::Ready(Err(SendError { message, reason: ExitReason::NoProc }));
        }
        if state.mailbox.has_room(&self.taken) || is_current(self.id) {
            let waker = state.mailbox.push_letter(letter);
            drop(state);
            wake(waker);
            return Poll::Ready(Ok(()));
        }
        let ticket = state.mailbox.wait(letter, cx.waker().clone(), &self.taken);
        // The receiver may have taken something between the check and the wait.
        let wakers = state.mailbox.admit(&self.taken);
        let waits = state.mailbox.waits(ticket);
        drop(state);
        wake(wakers);
        if waits {
            *posting = Posting::Waiting(ticket);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_waiting(
        &self,
        ticket: u64,
        posting: &mut Posting<M>,
        cx: &Context<'_>,
    ) -> Poll<Result<(), SendError<M>>> {
        let mut sender = cx.waker().clone();
        let mut state = self.lock();
        if let ProcessPhase::Ending(reason) | ProcessPhase::Ended(reason) = &state.phase {
            let reason = reason.clone();
            let waiting = state.mailbox.withdraw(ticket);
            drop(state);
            return Poll::Ready(match waiting {
                Some(waiting) => Err(SendError { message: waiting.letter.into_message(), reason }),
                None => Ok(()),
            });
        }
        if state.mailbox.still_waits(ticket, &mut sender) {
            drop(state);
            *posting = Posting::Waiting(ticket);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Removes a waiting sender that gave up.
    pub(super) fn withdraw(&self, ticket: u64) {
        let waiting = self.lock().mailbox.withdraw(ticket);
        drop(waiting);
    }

    /// Puts a parcel into the mailbox. Fails with the reason of the end if the process has ended.
    pub(super) fn put(&self, parcel: Box<dyn Parcel<M>>) -> Result<(), ExitReason> {
        let mut state = self.lock();
        if let ProcessPhase::Ending(reason) | ProcessPhase::Ended(reason) = &state.phase {
            let reason = reason.clone();
            drop(state);
            return Err(reason);
        }
        if let Some(rare) = state.rare() {
            rare.delivered += parcel.len() as u64;
        }
        let waker = state.mailbox.push_parcel(parcel);
        drop(state);
        wake(waker);
        Ok(())
    }

    /// Moves everything that is queued into the empty `batch`. Returns `false` if the queue is empty. `unpacked` counts the
    /// messages that the process has taken out of parcels.
    pub(super) fn try_receive(&self, batch: &mut VecDeque<Item<M>>, unpacked: u64) -> bool {
        let mut state = self.lock();
        state.note_unpacked(unpacked);
        let admitted = state.mailbox.admit(&self.taken);
        let received = state.is_alive() && state.mailbox.take(batch);
        drop(state);
        wake(admitted);
        received
    }

    /// Does what [`try_receive`](Self::try_receive) does. If the queue is empty, wakes the receiver when something comes.
    pub(super) fn receive(&self, batch: &mut VecDeque<Item<M>>, unpacked: u64, cx: &Context<'_>) -> bool {
        let mut old = None;
        let mut state = self.lock();
        state.note_unpacked(unpacked);
        let admitted = state.mailbox.admit(&self.taken);
        let received = state.is_alive() && state.mailbox.receive(batch, cx, &mut old);
        drop(state);
        wake(admitted);
        received
    }

    /// Queues the marker of a timer that is due.
    pub(super) fn put_timer(&self, timer: TimerRef) {
        let mut state = self.lock();
        if state.is_alive() {
            state.mailbox.push_timer(timer);
        }
    }

    pub(super) fn flush(&self, monitor: MonitorRef) {
        self.lock().mailbox.flush(monitor);
    }

    /// Sets the waker of the task that polls the process.
    pub(super) fn set_task(&self, waker: &Waker) {
        let old = self.lock().task.replace(waker.clone());
        drop(old);
    }

    /// Decides the end, unless it is decided already. From now on the process is not alive, and the things that it owns
    /// are told. The caller wakes the returned waker, so that the process is polled and ends. The task that polls it need
    /// not.
    pub(super) fn decide(&self, reason: ExitReason) -> Option<Waker> {
        self.decide_in(self.lock(), reason)
    }

    /// Does what [`decide`](Self::decide) does, under a lock that is held already.
    fn decide_in(&self, mut state: MutexGuard<'_, ProcessState<M>>, reason: ExitReason) -> Option<Waker> {
        if !state.is_alive() {
            return None;
        }
        state.phase = ProcessPhase::Ending(reason.clone());
        self.ending.store(true, Ordering::Release);
        note_ending();
        let task = state.task.take();
        let senders = state.mailbox.senders();
        let owned = state.rare.as_mut().map(|rare| mem::take(&mut rare.owned)).unwrap_or_default();
        drop(state);
        wake(senders);
        tell_owned(owned, reason);
        task
    }

    /// Removes everything that was never taken from the mailbox.
    pub(super) fn clear_mailbox(&self) -> VecDeque<Item<M>> {
        self.lock().mailbox.clear()
    }

    /// Returns the number of things that the process owns.
    #[cfg(test)]
    pub(super) fn belongings(&self) -> usize {
        self.lock().rare.as_ref().map_or(0, |rare| rare.owned.len())
    }

    /// Returns the number of senders that wait for room.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().mailbox.senders().len()
    }
}

impl<M> Cell<M> {
    /// Counts one message as taken.
    pub(super) fn count_taken(&self) {
        self.taken.take_one();
    }

    /// Admits waiting senders to the places of messages that were taken.
    pub(super) fn admit(&self) {
        if self.taken.is_wanted() {
            let admitted = self.lock().mailbox.admit(&self.taken);
            wake(admitted);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ProcessState<M>> {
        // No foreign code runs under the lock, so a poisoned lock still guards a consistent state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> ProcessState<M> {
    const fn is_alive(&self) -> bool {
        matches!(self.phase, ProcessPhase::Alive)
    }

    fn note_unpacked(&mut self, unpacked: u64) {
        if unpacked > 0
            && let Some(rare) = &mut self.rare
        {
            rare.unpacked = unpacked;
        }
    }

    /// Returns the rare part, and creates it on first use. Returns `None` once the process has ended, so that nothing
    /// stays in it.
    fn rare(&mut self) -> Option<&mut Rare> {
        if matches!(self.phase, ProcessPhase::Ended(_)) {
            return None;
        }
        Some(self.rare.get_or_insert_default())
    }
}

impl<M: Send + 'static> Local for Cell<M> {
    fn link(&self, from: &Pid) -> bool {
        let mut state = self.lock();
        let alive = state.is_alive();
        let Some(rare) = state.rare() else { return false };
        if alive {
            rare.links.handle_link(from.clone());
        }
        // A process that is ending still tells its links, so for them it exists.
        alive || rare.links.is_linked(from)
    }

    fn watch(&self, from: Pid, monitor: MonitorRef) {
        let mut state = self.lock();
        if let ProcessPhase::Ended(reason) = &state.phase {
            let reason = reason.clone();
            drop(state);
            from.signal(ProcessSignal::Down { from: self.pid(), monitor, reason });
        } else if let Some(rare) = state.rare() {
            rare.links.handle_monitor(monitor, from);
        }
    }

    fn own(&self, owned: Arc<dyn Owned>) -> Result<(), ExitReason> {
        let mut state = self.lock();
        if let ProcessPhase::Ending(reason) | ProcessPhase::Ended(reason) = &state.phase {
            return Err(reason.clone());
        }
        if let Some(rare) = state.rare() {
            rare.owned.push(owned);
        }
        Ok(())
    }

    fn disown(&self, owned: &Arc<dyn Owned>) {
        let mut state = self.lock();
        let Some(rare) = &mut state.rare else { return };
        let place = rare.owned.iter().position(|other| Arc::ptr_eq(other, owned));
        let taken_back = place.map(|place| rare.owned.swap_remove(place));
        // Dropped after unlocking: it may be the last reference, and its drop runs foreign code.
        drop(state);
        drop(taken_back);
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    fn reason(&self) -> Option<ExitReason> {
        match &self.lock().phase {
            ProcessPhase::Alive => None,
            ProcessPhase::Ending(reason) | ProcessPhase::Ended(reason) => Some(reason.clone()),
        }
    }

    fn info(&self) -> Option<ProcessInfo> {
        let state = self.lock();
        if !state.is_alive() {
            return None;
        }
        let parcels = state.rare.as_ref().map_or((0, 0), |rare| (rare.delivered, rare.unpacked));
        let messages_taken = self.taken.count() + parcels.1;
        let mut info = ProcessInfo {
            names: Vec::new(),
            age: self.started.elapsed(),
            mailbox_len: (state.mailbox.accepted() + parcels.0).saturating_sub(messages_taken),
            messages_taken,
            trap_exit: state.trap_exit,
            links: Vec::new(),
            monitors: Vec::new(),
            monitored_by: Vec::new(),
        };
        if let Some(rare) = &state.rare {
            info.names = rare.owned.iter().filter_map(|owned| owned.name().map(Into::into)).collect();
            info.links = rare.links.links().cloned().collect();
            info.monitors = rare.links.watched().cloned().collect();
            info.monitored_by = rare.links.watchers().cloned().collect();
        }
        Some(info)
    }
}

/// Returns the number of processes in the program whose end is decided and whose futures still run, because they have
/// not reached an await. A number that does not fall to zero shows stuck processes.
///
/// Reads one counter. Meant for metrics.
pub fn ending_processes() -> usize {
    ending_count()
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        waker.wake();
    }
}
