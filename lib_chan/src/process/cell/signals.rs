//! The effects of signals on a process, and the signals that it sends at its end.

use super::super::current::note_ended;
use super::super::mailbox::Told;
use super::super::pid::{Local, Pid, ProcessSignal, Receipt, SignalTarget, answer_for_nobody};
use super::{Cell, ProcessPhase, ProcessState, wake};
use crate::ExitReason;
use crate::links::{ExitEffect, ExitSignal, Links, MonitorRef, Parting};
use crate::sync::MutexGuard;

impl<M: Send + 'static> Cell<M> {
    /// Changes the link table; `None` once the process has ended.
    pub(in crate::process) fn with_links<T>(&self, f: impl FnOnce(&mut Links<Pid>) -> T) -> Option<T> {
        self.lock().rare().map(|rare| f(&mut rare.links))
    }

    /// Reports a link to a process that does not exist: as an event if this process traps exits, else as an error.
    pub(in crate::process) fn link_failed(&self, to: &Pid) -> Result<(), ExitReason> {
        let mut state = self.lock();
        if !state.rare().is_some_and(|rare| rare.links.link_failed(to)) {
            return Ok(());
        }
        if !state.trap_exit {
            return Err(ExitReason::NoProc);
        }
        Self::tell(state, Told::Exit(to.clone(), ExitReason::NoProc, None));
        Ok(())
    }

    /// Completes the end after the future has been dropped: tells the links, then the monitors. Links and monitors that
    /// arrive meanwhile are told after them. Returns the reason, or `None` if the end was not decided or is complete.
    pub(in crate::process) fn part(&self) -> Option<ExitReason> {
        loop {
            let mut state = self.lock();
            let ProcessPhase::Ending(reason) = &state.phase else { return None };
            let reason = reason.clone();
            let Some(mut rare) = state.rare.take() else {
                state.phase = ProcessPhase::Ended(reason.clone());
                drop(state);
                note_ended();
                return Some(reason);
            };
            drop(state);
            self.tell_others(rare.links.part(), &reason);
        }
    }

    /// Tells the links, then the monitors: first those beyond a session. A local process that hears of the end may end with
    /// it, and with that process the session that it owns, which then sends nothing more.
    fn tell_others(&self, parting: Parting<Pid>, reason: &ExitReason) {
        let me = self.pid();
        let (far_links, near_links) = parting.links.into_iter().partition::<Vec<_>, _>(Pid::is_far);
        let (far_watchers, near_watchers) =
            parting.watchers.into_iter().partition::<Vec<_>, _>(|(_, watcher)| watcher.is_far());
        for (links, watchers) in [(far_links, far_watchers), (near_links, near_watchers)] {
            for peer in links {
                peer.signal(ProcessSignal::Exit {
                    from: me.clone(),
                    reason: reason.clone(),
                    link: true,
                    receipt: None,
                });
            }
            for (monitor, watcher) in watchers {
                watcher.signal(ProcessSignal::Down { from: me.clone(), monitor, reason: reason.clone() });
            }
        }
        for (monitor, watched) in parting.watched {
            watched.signal(ProcessSignal::Demonitor { monitor });
        }
    }

    fn handle_exit(&self, from: Pid, reason: ExitReason, link: bool, receipt: Option<Receipt>) {
        let mut state = self.lock();
        let trap_exit = state.trap_exit;
        let own = from.id() == self.id;
        let Some(rare) = state.rare() else { return };
        let signal = ExitSignal { from: &from, reason: &reason, link, own };
        match rare.links.handle_exit(signal, trap_exit) {
            ExitEffect::Drop => {}
            ExitEffect::Deliver => Self::tell(state, Told::Exit(from, reason, receipt)),
            ExitEffect::End(reason) => wake(self.decide_in(state, reason)),
        }
    }

    fn handle_unlink(&self, from: &Pid, id: u64) {
        // A process that has ended has no link, and answers so.
        if self.with_links(|links| links.handle_unlink(from.clone(), id)) != Some(false) {
            self.acknowledge(from, id);
        }
    }

    /// Acknowledges an `Unlink`.
    pub(in crate::process) fn acknowledge(&self, to: &Pid, id: u64) {
        to.signal(ProcessSignal::UnlinkAck { from: self.pid(), id });
        self.with_links(|links| links.ack_delivered(to, id));
    }

    fn handle_monitor(&self, from: Pid, monitor: MonitorRef) {
        let mut state = self.lock();
        // A process that is ending still tells its monitors, with its own reason.
        if let Some(rare) = state.rare() {
            rare.links.handle_monitor(monitor, from);
            return;
        }
        drop(state);
        answer_for_nobody(&self.pid(), ProcessSignal::Monitor { from, monitor });
    }

    fn handle_down(&self, from: Pid, monitor: MonitorRef, reason: ExitReason) {
        let mut state = self.lock();
        // The pid from the table is dropped after unlocking, because its drop may run foreign code.
        let watched = state.rare().and_then(|rare| rare.links.handle_down(monitor));
        if watched.is_some() {
            Self::tell(state, Told::Down(monitor, from, reason));
        } else {
            drop(state);
        }
    }

    /// Puts an event into the mailbox under the lock that removed its record. Unlocked in between, `unlink` or
    /// `demonitor_flush` on another thread would find neither the record nor the event, and the event would arrive
    /// after they had returned.
    fn tell(mut state: MutexGuard<'_, ProcessState<M>>, told: Told) {
        if !state.is_alive() {
            drop(state);
            return;
        }
        let waker = state.mailbox.push_told(told);
        drop(state);
        wake(waker);
    }
}

impl<M: Send + 'static> SignalTarget for Cell<M> {
    fn signal(&self, signal: ProcessSignal) {
        match signal {
            ProcessSignal::Link { from } => {
                if !self.link(&from) {
                    answer_for_nobody(&self.pid(), ProcessSignal::Link { from });
                }
            }
            ProcessSignal::Unlink { from, id } => self.handle_unlink(&from, id),
            ProcessSignal::UnlinkAck { from, id } => {
                self.with_links(|links| links.handle_unlink_ack(&from, id));
            }
            ProcessSignal::Monitor { from, monitor } => self.handle_monitor(from, monitor),
            ProcessSignal::Demonitor { monitor } => {
                self.with_links(|links| links.handle_demonitor(monitor));
            }
            ProcessSignal::Exit { from, reason, link, receipt } => {
                self.handle_exit(from, reason, link, receipt)
            }
            ProcessSignal::Down { from, monitor, reason } => self.handle_down(from, monitor, reason),
        }
    }

    fn local(&self) -> Option<&dyn Local> {
        Some(self)
    }
}
