//! Names of processes, and what one process can do to another.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::atomic::{self, AtomicU64};
use std::sync::{Arc, LazyLock, PoisonError};
use std::task::{Context, Poll, Waker};

use super::cell::Owned;
use super::current;
use crate::ExitReason;
use crate::links::MonitorRef;
use crate::sync::Mutex;

/// Names one process, here or at the far end of a session. Never used again for another.
///
/// A pid keeps nothing alive but a small record of the process, and every signal may be sent to it after the process
/// ended.
#[derive(Clone)]
pub struct Pid {
    id: u64,
    target: Arc<dyn Target>,
}

/// Where signals to a pid go: a process, or what stands for one.
pub(crate) trait Target: Send + Sync + 'static {
    /// Takes a signal. Never blocks, never refuses, and is called with no lock of a process held.
    fn signal(&self, signal: Signal);

    /// The process itself, where it is a local one.
    fn local(&self) -> Option<&dyn Local> {
        None
    }
}

/// What only a local process can do: answer at once.
pub(crate) trait Local: Target {
    /// Takes a `Link`; `false`, and nothing is done, if the process is not alive.
    fn link(&self, from: &Pid) -> bool;

    /// Takes a `Monitor` whose `Down` always carries the reason of the end and comes after it, however late it is set.
    fn watch(&self, from: Pid, monitor: MonitorRef);

    /// Gives the process something to own, or says why it cannot own anything any more.
    fn own(&self, owned: Arc<dyn Owned>) -> Result<(), ExitReason>;

    /// Takes back what was given to `own`. Does nothing where it is not there (any more).
    fn disown(&self, owned: &Arc<dyn Owned>);

    /// Whether the end of the process has been decided.
    fn is_ending(&self) -> bool;
}

/// Everything one process can do to another, besides sending it messages. From one process to another they arrive in
/// the order sent, messages included.
#[derive(Clone, Debug)]
pub(crate) enum Signal {
    /// `from` has linked to the receiver.
    Link { from: Pid },
    /// `from` has removed its link, and awaits an `UnlinkAck` with this id.
    Unlink { from: Pid, id: u64 },
    /// Answers an `Unlink`. May come twice, or for an id that is not known any more: then it has no effect.
    UnlinkAck { from: Pid, id: u64 },
    /// `from` wants a `Down` when the receiver ends.
    Monitor { from: Pid, monitor: MonitorRef },
    /// `from` does not want it any more.
    Demonitor { monitor: MonitorRef },
    /// An exit signal; `link` is set where it was caused by a link.
    Exit { from: Pid, reason: ExitReason, link: bool, receipt: Option<Receipt> },
    /// `from`, which the receiver monitors, has ended.
    Down { from: Pid, monitor: MonitorRef, reason: ExitReason },
}

/// Kept along with an exit signal until it was taken or had its effect: who sent it for a peer counts those that are
/// still somewhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Receipt(Arc<()>);

impl Receipt {
    /// How many of its clones are still kept.
    pub(crate) fn outstanding(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

impl Pid {
    pub(crate) fn new(id: u64, target: Arc<dyn Target>) -> Self {
        Self { id, target }
    }

    /// A fresh pid for something that is no local process: the far end of a session, a watcher.
    pub(crate) fn far(target: Arc<dyn Target>) -> Self {
        Self { id: next_id(), target }
    }

    /// A fresh pid of a process that never was.
    pub(crate) fn nobody() -> Self {
        static NOBODY: LazyLock<Arc<Nobody>> = LazyLock::new(|| Arc::new(Nobody));
        Self::far(Arc::clone(&NOBODY) as Arc<dyn Target>)
    }

    /// Sends the process an exit signal, as `exit(Pid, Reason)` does. Never waits, and never fails.
    ///
    /// `Kill` ends it with `Killed`, whatever it does against it. A process that traps exits gets any other reason as
    /// [`Event::Exit`](crate::Event::Exit); one that does not ends with it, unless it is `Normal`. Nobody sees the process alive
    /// afterwards; what it was doing stops at its next await. On one's own pid it acts at the next await of this
    /// crate; to end at once, return `Err(reason)`.
    pub fn exit(&self, reason: ExitReason) {
        self.signal(Signal::Exit { from: current::sender(), reason, link: false, receipt: None });
    }

    /// Why the process ended, when it has. May be awaited in any task, process or not; does not keep the pid.
    ///
    /// For a local process it is always the reason, also when it ended long ago, and it comes after the process's
    /// future was dropped. For a far one it is `NoConnection` where its session is over by then, for whatever reason:
    /// what that was, [`Remote::ended`](crate::Remote::ended) says. A dropped future loses nothing.
    pub fn ended(&self) -> impl Future<Output = ExitReason> + Send + use<> {
        Watch::new(self.clone())
    }

    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.target.signal(signal);
    }

    pub(crate) fn local(&self) -> Option<&dyn Local> {
        self.target.local()
    }

    /// Gives a local process something to own; see [`Local::own`]. A far process owns nothing here: `NoProc`.
    pub(crate) fn own(&self, owned: Arc<dyn Owned>) -> Result<(), ExitReason> {
        self.local().map_or(Err(ExitReason::NoProc), |local| local.own(owned))
    }

    /// See [`Local::disown`].
    pub(crate) fn disown(&self, owned: &Arc<dyn Owned>) {
        if let Some(local) = self.local() {
            local.disown(owned);
        }
    }
}

impl PartialEq for Pid {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Pid {}

impl PartialOrd for Pid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id)
    }
}

impl Hash for Pid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.id)
    }
}

/// A number for a pid or a monitor that no other has.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, atomic::Ordering::Relaxed)
}

/// A monitor reference that no other monitor has.
pub(crate) fn next_monitor() -> MonitorRef {
    MonitorRef::new(next_id())
}

/// What a process that does not exist answers.
struct Nobody;

impl Target for Nobody {
    fn signal(&self, signal: Signal) {
        answer_for_nobody(&Pid::nobody(), signal);
    }
}

/// Answers a signal to a process that is not alive, in its name.
pub(crate) fn answer_for_nobody(nobody: &Pid, signal: Signal) {
    let me = nobody.clone();
    match signal {
        Signal::Link { from } => {
            from.signal(Signal::Exit { from: me, reason: ExitReason::NoProc, link: true, receipt: None });
        }
        Signal::Unlink { from, id } => from.signal(Signal::UnlinkAck { from: me, id }),
        Signal::Monitor { from, monitor } => {
            from.signal(Signal::Down { from: me, monitor, reason: ExitReason::NoProc });
        }
        Signal::UnlinkAck { .. } | Signal::Demonitor { .. } | Signal::Exit { .. } | Signal::Down { .. } => {}
    }
}

/// A monitor that is a future. Set when made, removed when dropped.
struct Watch {
    watched: Pid,
    monitor: MonitorRef,
    seen: Arc<Watcher>,
}

#[derive(Default)]
struct Watcher(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    reason: Option<ExitReason>,
    waker: Option<Waker>,
}

impl Watch {
    fn new(watched: Pid) -> Self {
        let seen = Arc::new(Watcher::default());
        let watcher = Pid::far(Arc::clone(&seen) as Arc<dyn Target>);
        let monitor = next_monitor();
        match watched.local() {
            Some(local) => local.watch(watcher, monitor),
            None => watched.signal(Signal::Monitor { from: watcher, monitor }),
        }
        Self { watched, monitor, seen }
    }
}

impl Future for Watch {
    type Output = ExitReason;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ExitReason> {
        let coop = std::task::ready!(current::poll_proceed(cx));
        let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &seen.reason {
            coop.made_progress();
            return Poll::Ready(reason.clone());
        }
        let old = seen.waker.replace(cx.waker().clone());
        drop(seen);
        drop(old);
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let over = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner).reason.is_some();
        if !over {
            self.watched.signal(Signal::Demonitor { monitor: self.monitor });
        }
    }
}

impl Target for Watcher {
    fn signal(&self, signal: Signal) {
        if let Signal::Down { reason, .. } = signal {
            let waker = {
                let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                seen.reason.get_or_insert(reason);
                seen.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}
