//! Supervisors: processes that start others, and start them again when they end.
//!
//! A [`Supervisor`] behaves as Erlang's `supervisor` does: the three strategies, intensity and period, restart types
//! and shutdown times. It is a process on top of links, so a supervisor can be the child of another.
//!
//! ```
//! use std::time::Duration;
//! use lib_chan::supervisor::{Child, Strategy, Supervisor};
//! use lib_chan::{Event, ExitReason, Names, Process, Reply, enter};
//!
//! /// Fails when it is told to; else says how many it has greeted.
//! async fn greeter(mut me: Process<Option<Reply<u32>>>) -> Result<(), ExitReason> {
//!     let mut greeted = 0;
//!     while let Event::Message(Some(reply)) = me.recv().await {
//!         greeted += 1;
//!         reply.send(greeted);
//!     }
//!     Err(ExitReason::failed("out of words"))
//! }
//!
//! # #[tokio::main]
//! # async fn main() {
//! let greeted = enter(async |me: Process| {
//!     let names = Names::new();
//!     let supervisor = Supervisor::new(Strategy::OneForOne)
//!         .intensity(3, Duration::from_secs(5))
//!         .child(Child::registered("greeter", &names, greeter));
//!     let supervisor = supervisor.start_link(&me).await?;
//!
//!     let first = names.whereis("greeter").unwrap();
//!     first.send(None).await?;
//!     assert_eq!(first.pid().ended().await, ExitReason::failed("out of words"));
//!     // The answer comes after the exit signal of the child, so the child has been started again.
//!     assert_eq!(supervisor.children().await?.len(), 1);
//!     let second = names.whereis("greeter").unwrap();
//!     let greeted = second.call(Duration::from_secs(5), Some).await?;
//!     supervisor.stop().await;
//!     Ok(greeted)
//! });
//! assert_eq!(greeted.await, Ok(1));
//! # }
//! ```
//!
//! # Differences from Erlang
//!
//! * A child counts as started once it is spawned. The supervisor does not wait for it to initialise. A child that fails
//!   at once is restarted and counts against the intensity.
//! * [`stop_child`](Address::stop_child) also removes the child, as `terminate_child` and `delete_child` together do.
//! * There are no `simple_one_for_one`, significant children or automatic shutdown.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::current::in_time;
use super::run::spawn_after;
use super::{Address, Event, Names, Pid, Process, Reply, SpawnOptions};
use crate::{CallError, CallFailure, ExitReason};

/// The children that are restarted when one has ended and is to be restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Restarts only the child that ended.
    OneForOne,
    /// Restarts all children.
    OneForAll,
    /// Restarts the child that ended, and those that were started after it.
    RestForOne,
}

/// When a child that has ended is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// If it ended with a reason other than `Normal` and `Shutdown`.
    Transient,
    /// Never. It is removed from the supervisor when it ends, even if a strategy ends it.
    Temporary,
}

/// The way in which a supervisor ends a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// With `Kill`.
    Kill,
    /// With `Shutdown`, and with `Kill` if it has not ended after this time.
    After(Duration),
    /// With `Shutdown`, however long it takes. For children that are supervisors.
    Forever,
}

/// Starts a child that is linked to its supervisor.
type Start = Box<dyn FnMut(&Process<SupervisorMessage>, &SpawnOptions) -> Result<Pid, ExitReason> + Send>;

/// One child of a supervisor: how it is started, and when it is restarted.
#[must_use]
pub struct Child {
    id: Box<str>,
    start: Start,
    options: SpawnOptions,
    restart: Restart,
    shutdown: Shutdown,
    pid: Option<Pid>,
}

impl Child {
    /// Returns a child that runs what `f` makes of its process, each time that it is started. It is permanent, and has
    /// 5 s to shut down.
    pub fn new<M, F>(id: impl Into<Box<str>>, f: impl FnMut(Process<M>) -> F + Send + 'static) -> Self
    where
        M: Send + 'static,
        F: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        Self::starting(id.into(), f, |_| Ok(()))
    }

    /// Does what [`new`](Self::new) does, and gives each process the child's id as its name in this table before it
    /// runs. If the name is taken, the start fails.
    pub fn registered<M, F>(
        id: impl Into<Box<str>>,
        names: &Names<M>,
        f: impl FnMut(Process<M>) -> F + Send + 'static,
    ) -> Self
    where
        M: Send + 'static,
        F: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        let (id, names) = (id.into(), names.clone());
        let name = id.clone();
        Self::starting(id, f, move |address| {
            let named = names.register(&name, address);
            named.map_err(|error| ExitReason::failed(format!("child `{name}`: {error}")))
        })
    }

    fn starting<M, F>(
        id: Box<str>,
        mut f: impl FnMut(Process<M>) -> F + Send + 'static,
        register: impl Fn(&Address<M>) -> Result<(), ExitReason> + Send + 'static,
    ) -> Self
    where
        M: Send + 'static,
        F: Future<Output = Result<(), ExitReason>> + Send + 'static,
    {
        let start = move |supervisor: &Process<SupervisorMessage>, options: &SpawnOptions| {
            let (address, named) = spawn_after(options.clone(), &mut f, |address| {
                let named = register(address);
                match named {
                    // The new process is alive, because its pid is not known to any other task yet.
                    Ok(()) => drop(supervisor.link(address.pid())),
                    Err(_) => address.pid().exit(ExitReason::Kill),
                }
                named
            });
            named.map(|()| address.pid())
        };
        Self {
            id,
            start: Box::new(start),
            options: SpawnOptions::default(),
            restart: Restart::Permanent,
            shutdown: Shutdown::After(Duration::from_secs(5)),
            pid: None,
        }
    }

    /// Sets how its processes are spawned.
    pub fn options(self, options: SpawnOptions) -> Self {
        Self { options, ..self }
    }

    /// Sets when it is restarted. Default [`Restart::Permanent`].
    pub fn restart(self, restart: Restart) -> Self {
        Self { restart, ..self }
    }

    /// Sets how the supervisor ends it. Default [`Shutdown::After`] 5 s.
    pub fn shutdown(self, shutdown: Shutdown) -> Self {
        Self { shutdown, ..self }
    }

    fn info(&self) -> ChildInfo {
        ChildInfo { id: self.id.clone(), pid: self.pid.clone(), restart: self.restart }
    }

    /// Ends its process, if there is one, and waits for that end. The exit signal of its link is ignored later, because
    /// its pid is no longer that of a child.
    async fn end(&mut self) {
        let Some(pid) = self.pid.take() else { return };
        let gentle = if self.shutdown == Shutdown::Kill { ExitReason::Kill } else { ExitReason::Shutdown };
        pid.exit(gentle);
        if let Shutdown::After(time) = self.shutdown
            && in_time(time, pid.ended()).await.is_none()
        {
            pid.exit(ExitReason::Kill);
        }
        pid.ended().await;
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("id", &self.id).field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// A child as [`Address::children`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChildInfo {
    /// Its id.
    pub id: Box<str>,
    /// Its process; `None` if it has ended and is not restarted.
    pub pid: Option<Pid>,
    /// When it is restarted.
    pub restart: Restart,
}

type OnEnd = Box<dyn FnMut(&str, &ExitReason) + Send>;

/// A supervisor that was not started yet.
#[must_use]
pub struct Supervisor {
    strategy: Strategy,
    intensity: usize,
    period: Duration,
    children: Vec<Child>,
    restarts: Vec<Instant>,
    on_end: OnEnd,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervisor").field("children", &self.children).finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Returns a supervisor without children, which restarts at most once in 5 s.
    pub fn new(strategy: Strategy) -> Self {
        let (intensity, period) = (1, Duration::from_secs(5));
        let on_end = Box::new(|_: &str, _: &ExitReason| ());
        Self { strategy, intensity, period, children: Vec::new(), restarts: Vec::new(), on_end }
    }

    /// Sets how many restarts are allowed within `period`. At one more, the supervisor ends all children, and itself with
    /// `Shutdown`. Default 1 in 5 s.
    pub fn intensity(self, restarts: usize, period: Duration) -> Self {
        Self { intensity: restarts, period, ..self }
    }

    /// Adds a child. Children are started in the order in which they were added, and ended in the reverse order.
    pub fn child(mut self, child: Child) -> Self {
        self.children.push(child);
        self
    }

    /// Sets what is told of each child that ends by itself: its id and the reason. For a log.
    pub fn on_end(self, f: impl FnMut(&str, &ExitReason) + Send + 'static) -> Self {
        Self { on_end: Box::new(f), ..self }
    }

    /// Spawns the supervisor, linked to this process, which is its parent, and waits until its children are started.
    ///
    /// # Errors
    ///
    /// The reason that a child did not start. The other children have ended then.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start_link<M: Send + 'static>(
        self,
        parent: &Process<M>,
    ) -> impl Future<Output = Result<Address<SupervisorMessage>, ExitReason>> + Send + use<M> {
        let address = parent.spawn_link(|me| self.run(me));
        async move {
            match address.children().await {
                Err(CallError { reason: CallFailure::Exit(_), .. }) => Err(address.pid().ended().await),
                _ => Ok(address),
            }
        }
    }

    /// Runs the supervisor in this process, as the function of a process or of a [`Child`].
    ///
    /// The processes that are linked to it at its start are its parents. It ends with the reason of the first that ends,
    /// after its children. Exit signals of other processes are ignored, except `Kill`.
    ///
    /// # Errors
    ///
    /// The reason that a child did not start at first, `Shutdown` at too many restarts, and the reason of a parent.
    pub async fn run(mut self, mut me: Process<SupervisorMessage>) -> Result<(), ExitReason> {
        let parents = me.pid().info().map(|info| info.links).unwrap_or_default();
        me.trap_exit(true);
        let ended = match self.start(&me, 0..self.children.len()) {
            Ok(()) => self.supervise(&mut me, &parents).await,
            Err((_, reason)) => reason,
        };
        self.end(0..self.children.len()).await;
        if ended == ExitReason::Normal { Ok(()) } else { Err(ended) }
    }

    async fn supervise(&mut self, me: &mut Process<SupervisorMessage>, parents: &[Pid]) -> ExitReason {
        loop {
            match me.recv().await {
                Event::Exit(pid, reason) if parents.contains(&pid) => return reason,
                Event::Exit(pid, reason) => {
                    if let Err(reason) = self.child_ended(me, &pid, &reason).await {
                        return reason;
                    }
                }
                Event::Message(SupervisorMessage(Ask::Stop)) => return ExitReason::Normal,
                Event::Message(SupervisorMessage(ask)) => self.handle(me, ask).await,
                Event::Down(..) => {}
            }
        }
    }

    async fn child_ended(
        &mut self,
        me: &mut Process<SupervisorMessage>,
        pid: &Pid,
        reason: &ExitReason,
    ) -> Result<(), ExitReason> {
        let Some(at) = self.children.iter().position(|child| child.pid.as_ref() == Some(pid)) else {
            return Ok(());
        };
        let Some(child) = self.children.get_mut(at) else { return Ok(()) };
        child.pid = None;
        (self.on_end)(&child.id, reason);
        match child.restart {
            Restart::Transient if matches!(reason, ExitReason::Normal | ExitReason::Shutdown) => Ok(()),
            Restart::Permanent | Restart::Transient => self.restart(me, at).await,
            Restart::Temporary => {
                drop(self.children.remove(at));
                Ok(())
            }
        }
    }

    /// Restarts this child and those that go with it. A child that does not start is one more restart.
    async fn restart(
        &mut self,
        me: &mut Process<SupervisorMessage>,
        mut at: usize,
    ) -> Result<(), ExitReason> {
        loop {
            self.count_restart()?;
            if self.strategy == Strategy::OneForAll {
                at = 0;
            }
            if self.strategy != Strategy::OneForOne {
                self.end(at..self.children.len()).await;
                let mut place = 0..;
                self.children.retain(|child| place.next() < Some(at) || child.restart != Restart::Temporary);
            }
            let last = if self.strategy == Strategy::OneForOne { at + 1 } else { self.children.len() };
            match self.start(me, at..last) {
                Ok(()) => return Ok(()),
                Err((failed, reason)) => {
                    at = failed;
                    if let Some(child) = self.children.get(at) {
                        (self.on_end)(&child.id, &reason);
                    }
                }
            }
        }
    }

    fn count_restart(&mut self) -> Result<(), ExitReason> {
        let (now, period) = (Instant::now(), self.period);
        self.restarts.retain(|&at| now.saturating_duration_since(at) <= period);
        self.restarts.push(now);
        if self.restarts.len() > self.intensity { Err(ExitReason::Shutdown) } else { Ok(()) }
    }

    /// Starts these children in order. Stops at the first that does not start, and returns its place.
    fn start(
        &mut self,
        me: &Process<SupervisorMessage>,
        range: Range<usize>,
    ) -> Result<(), (usize, ExitReason)> {
        for (at, child) in self.children.iter_mut().enumerate().take(range.end).skip(range.start) {
            let started = (child.start)(me, &child.options);
            child.pid = Some(started.map_err(|reason| (at, reason))?);
        }
        Ok(())
    }

    /// Ends these children, the last first.
    async fn end(&mut self, range: Range<usize>) {
        for child in self.children.iter_mut().take(range.end).skip(range.start).rev() {
            child.end().await;
        }
    }

    async fn handle(&mut self, me: &mut Process<SupervisorMessage>, ask: Ask) {
        match ask {
            Ask::Start(child, reply) if self.children.iter().any(|other| other.id == child.id) => {
                reply.refuse("there is a child with this id");
            }
            Ask::Start(mut child, reply) => match (child.start)(me, &child.options) {
                Ok(pid) => {
                    child.pid = Some(pid.clone());
                    self.children.push(*child);
                    reply.send(pid);
                }
                Err(reason) => reply.refuse(&reason.to_string()),
            },
            Ask::End(id, reply) => {
                let place = self.children.iter().position(|child| child.id == id);
                let Some(at) = place else { return reply.refuse("there is no child with this id") };
                self.end(at..at + 1).await;
                drop(self.children.remove(at));
                reply.send(());
            }
            Ask::List(reply) => reply.send(self.children.iter().map(Child::info).collect()),
            Ask::Stop => {}
        }
    }
}

/// A message to a supervisor. The methods of its [`Address`] send it.
pub struct SupervisorMessage(Ask);

enum Ask {
    Start(Box<Child>, Reply<Pid>),
    End(Box<str>, Reply<()>),
    List(Reply<Vec<ChildInfo>>),
    Stop,
}

impl fmt::Debug for SupervisorMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorMessage").finish_non_exhaustive()
    }
}

/// A supervisor as its users hold it. Calls wait as long as the supervisor waits for children that shut down.
impl Address<SupervisorMessage> {
    /// Starts another child, behind all others.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call); `Refused` if the supervisor has a child with this id, or if it does not start.
    pub async fn start_child(&self, child: Child) -> Result<Pid, CallError> {
        self.call(Duration::MAX, |reply| SupervisorMessage(Ask::Start(Box::new(child), reply))).await
    }

    /// Ends a child and removes it from the supervisor. Returns after the end of its process.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call); `Refused` if there is no child with this id.
    pub async fn stop_child(&self, id: &str) -> Result<(), CallError> {
        self.call(Duration::MAX, |reply| SupervisorMessage(Ask::End(id.into(), reply))).await
    }

    /// Lists the children in the order in which they are started.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call).
    pub async fn children(&self) -> Result<Vec<ChildInfo>, CallError> {
        self.call(Duration::MAX, |reply| SupervisorMessage(Ask::List(reply))).await
    }

    /// Ends the supervisor with `Normal` after all its children, and returns then. Returns at once if it has ended.
    ///
    /// Dropping the future does not stop the end once it has begun.
    pub async fn stop(&self) {
        // A supervisor that takes no message has ended, or is about to.
        let _ = self.send(SupervisorMessage(Ask::Stop)).await;
        self.pid().ended().await;
    }
}
