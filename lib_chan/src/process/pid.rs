//! Pids, and the signals that processes send to one another.

use std::any::Any;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::atomic::{self, AtomicU64};
use std::sync::{Arc, LazyLock, PoisonError};
use std::task::{Context, Poll, Waker};

use super::owned::Owned;
use super::{ProcessInfo, current};
use crate::ExitReason;
use crate::links::MonitorRef;
use crate::sync::Mutex;

/// Names one process, local or at the far end of a session. A pid is never reused for another process.
///
/// A pid keeps only a small record of its process alive. Signals may be sent to it after the process has ended.
#[derive(Clone)]
pub struct Pid {
    id: u64,
    target: Arc<dyn SignalTarget>,
}

/// The receiver of the signals to a pid: a process, or its proxy in a session.
pub(crate) trait SignalTarget: Any + Send + Sync {
    /// Takes a signal. Never blocks and never refuses. Called with no process lock held.
    fn signal(&self, signal: ProcessSignal);

    /// Returns the process itself if it is local.
    fn local(&self) -> Option<&dyn Local> {
        None
    }

    /// Takes a `link` of a process whose link to this one is active already.
    fn link_again(&self, _from: Pid) {}

    /// Returns `true` for a process that is reached through a session.
    fn is_far(&self) -> bool {
        false
    }
}

/// The signals that only a local process can answer at once.
pub(crate) trait Local: SignalTarget {
    /// Takes a `Link`. Returns `false` and does nothing if the process is not alive.
    fn link(&self, from: &Pid) -> bool;

    /// Takes a `Monitor` whose `Down` always carries the reason of the end and comes after it, even if the monitor is set
    /// after the end.
    fn watch(&self, from: Pid, monitor: MonitorRef);

    /// Gives the process something to own. Fails with the reason of its end if it has ended.
    fn own(&self, owned: Arc<dyn Owned>) -> Result<(), ExitReason>;

    /// Undoes `own`. Does nothing if the process does not own the thing.
    fn disown(&self, owned: &Arc<dyn Owned>);

    /// Returns `true` once the end of the process is decided.
    fn is_ending(&self) -> bool;

    /// Returns the reason of the end, once it is decided.
    fn reason(&self) -> Option<ExitReason>;

    /// Describes the process; `None` once its end is decided.
    fn info(&self) -> Option<ProcessInfo>;
}

/// A signal from one process to another. Signals and messages from one process to another arrive in the order sent.
#[derive(Clone, Debug)]
pub(crate) enum ProcessSignal {
    /// `from` has linked to the receiver.
    Link { from: Pid },
    /// `from` has removed its link, and waits for an `UnlinkAck` with this id.
    Unlink { from: Pid, id: u64 },
    /// Answers an `Unlink`. Has no effect if it comes twice or its id is no longer known.
    UnlinkAck { from: Pid, id: u64 },
    /// `from` wants a `Down` when the receiver ends.
    Monitor { from: Pid, monitor: MonitorRef },
    /// `from` no longer wants the `Down`.
    Demonitor { monitor: MonitorRef },
    /// An exit signal; `link` is set if a link caused it.
    Exit { from: Pid, reason: ExitReason, link: bool, receipt: Option<Receipt> },
    /// `from`, which the receiver monitors, has ended.
    Down { from: Pid, monitor: MonitorRef, reason: ExitReason },
}

/// Accompanies an exit signal until the signal was taken or has had its effect. A session that sent the signal for its
/// peer counts those that are left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Receipt(Arc<()>);

impl Receipt {
    /// Returns the number of clones that are left.
    pub(crate) fn outstanding(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

impl Pid {
    pub(crate) fn new(id: u64, target: Arc<dyn SignalTarget>) -> Self {
        Self { id, target }
    }

    /// Returns a fresh pid for something that is no local process, such as the far end of a session.
    pub(crate) fn far(target: Arc<dyn SignalTarget>) -> Self {
        Self { id: next_id(), target }
    }

    /// Returns a fresh pid of a process that never existed.
    pub(crate) fn nobody() -> Self {
        static NOBODY: LazyLock<Arc<Nobody>> = LazyLock::new(|| Arc::new(Nobody));
        Self::far(Arc::clone(&NOBODY) as Arc<dyn SignalTarget>)
    }

    /// Sends the process an exit signal, as `exit(Pid, Reason)` does. Never waits, and never fails.
    ///
    /// `Kill` always ends the process, with `Killed`. A process that traps exits gets any other reason as
    /// [`Event::Exit`](crate::Event::Exit). A process that does not trap exits ends with the reason, unless the reason is
    /// `Normal`. Nobody sees the process alive afterwards; its future stops at its next await.
    ///
    /// A process that sends this to itself ends at its next await of this crate. To end at once, return `Err(reason)`.
    pub fn exit(&self, reason: ExitReason) {
        self.signal(ProcessSignal::Exit { from: current::sender(), reason, link: false, receipt: None });
    }

    /// Waits for the end of the process, and returns its reason. May be awaited in any task, process or not. The future
    /// does not borrow the pid.
    ///
    /// For a local process, this always returns the reason, even if the process ended long ago. It returns after the
    /// future of the process was dropped. For a far process, it returns `NoConnection` if the session has ended by then;
    /// [`Remote::ended`](crate::Remote::ended) returns the reason of the session's end.
    ///
    /// Dropping the future loses nothing.
    pub fn ended(&self) -> impl Future<Output = ExitReason> + Send + use<> {
        Watch::new(self.clone())
    }

    /// Describes the process, as `process_info/1` does. Returns `None` if its end is decided, or if it is a far process.
    ///
    /// Locks the process, for as long as it takes to copy the lists of its links and monitors. Meant for observers and
    /// tests.
    ///
    /// ```
    /// use lib_chan::{Process, spawn};
    ///
    /// # #[tokio::main]
    /// # async fn main() {
    /// let idle = spawn(async |mut me: Process<u32>| {
    ///     std::future::pending::<()>().await;
    ///     me.recv().await;
    ///     Ok(())
    /// });
    /// idle.send(7).await.unwrap();
    /// let info = idle.pid().info().unwrap();
    /// assert_eq!((info.mailbox_len, info.messages_taken), (1, 0));
    /// # }
    /// ```
    pub fn info(&self) -> Option<ProcessInfo> {
        self.local()?.info()
    }

    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn signal(&self, signal: ProcessSignal) {
        self.target.signal(signal);
    }

    /// Returns the receiver of signals itself.
    pub(crate) fn target(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.target) as Arc<dyn Any + Send + Sync>
    }

    pub(crate) fn local(&self) -> Option<&dyn Local> {
        self.target.local()
    }

    pub(super) fn link_again(&self, from: Self) {
        self.target.link_again(from);
    }

    pub(super) fn is_far(&self) -> bool {
        self.target.is_far()
    }

    /// Gives a local process something to own; see [`Local::own`]. Fails with `NoProc` for a far process.
    pub(crate) fn own(&self, owned: Arc<dyn Owned>) -> Result<(), ExitReason> {
        self.local().map_or(Err(ExitReason::NoProc), |local| local.own(owned))
    }

    /// Returns the reason of the end of a local process, once it is decided.
    pub(crate) fn reason(&self) -> Option<ExitReason> {
        self.local()?.reason()
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

/// Returns a number that no other pid or monitor has.
pub(crate) fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, atomic::Ordering::Relaxed)
}

/// Returns a fresh monitor reference.
pub(crate) fn next_monitor() -> MonitorRef {
    MonitorRef::new(next_id())
}

/// Answers signals in the place of a process that does not exist.
struct Nobody;

impl SignalTarget for Nobody {
    fn signal(&self, signal: ProcessSignal) {
        answer_for_nobody(&Pid::nobody(), signal);
    }
}

/// Answers a signal on behalf of a process that is not alive.
pub(crate) fn answer_for_nobody(nobody: &Pid, signal: ProcessSignal) {
    let me = nobody.clone();
    match signal {
        ProcessSignal::Link { from } => {
            from.signal(ProcessSignal::Exit {
                from: me,
                reason: ExitReason::NoProc,
                link: true,
                receipt: None,
            });
        }
        ProcessSignal::Unlink { from, id } => from.signal(ProcessSignal::UnlinkAck { from: me, id }),
        ProcessSignal::Monitor { from, monitor } => {
            from.signal(ProcessSignal::Down { from: me, monitor, reason: ExitReason::NoProc });
        }
        ProcessSignal::UnlinkAck { .. }
        | ProcessSignal::Demonitor { .. }
        | ProcessSignal::Exit { .. }
        | ProcessSignal::Down { .. } => {}
    }
}

/// A future that monitors a process. The monitor is set on creation and removed on drop.
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
        let watcher = Pid::far(Arc::clone(&seen) as Arc<dyn SignalTarget>);
        let monitor = next_monitor();
        match watched.local() {
            Some(local) => local.watch(watcher, monitor),
            None => watched.signal(ProcessSignal::Monitor { from: watcher, monitor }),
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
            self.watched.signal(ProcessSignal::Demonitor { monitor: self.monitor });
        }
    }
}

impl SignalTarget for Watcher {
    fn signal(&self, signal: ProcessSignal) {
        if let ProcessSignal::Down { reason, .. } = signal {
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
