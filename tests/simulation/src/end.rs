//! One end of a connection: the real endpoint, and a model of its driver and of the mailboxes behind it.

mod driver;
mod reader;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use lib_chan::{
    ExitReason, Limits,
    session::{Batch, Delivery, Endpoint, Event, Host, NotOpened, Reader, Session, Who, WindowChange},
    wire::{self, RefuseCode},
};

use crate::{
    log::{At, Pid, Proc, Side, Signal, Token, What},
    login::Login,
    process::{Doing, Letter, Receipt},
    world::{Violation, World},
};

/// What the sessions of a simulation serve.
#[derive(Debug)]
pub(crate) struct Simulated;

impl Host for Simulated {
    type Waiter = u32;
    type Process = Pid;
}

/// Waiters from here on are the driver or the reader of an end, and below what a process awaits.
const DRIVERS: u32 = 1 << 24;
const READERS: u32 = 1 << 25;

const LAST_WORDS: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    Open,
    /// Shut down, or broken.
    Done,
}

#[derive(Debug)]
pub(crate) struct End {
    pub(crate) limits: Limits,
    pub(crate) login: Option<Login>,
    pub(crate) endpoint: Option<Endpoint<Simulated>>,
    // The driver.
    batch: Batch,
    unaccepted: usize,
    pub(crate) writing: Writing,
    pub(crate) last_call: Option<Instant>,
    /// It sleeps until it is woken, or until its timer runs out.
    asleep: bool,
    armed: Option<Instant>,
    /// Nothing more comes.
    at_end: bool,
    /// The driver has made its last delivery, or there never was one.
    pub(crate) gone: bool,
    pub(crate) late: VecDeque<Delivery<Pid>>,
    /// The second half of a delivery.
    pub(crate) acknowledging: VecDeque<(Proc, Pid, u64)>,
    // The channel.
    /// Waits for the login.
    pub(crate) opener: Option<u32>,
    pub(crate) reader: Option<Reader>,
    /// The reader, on its way to another process.
    pub(crate) handed: Option<Reader>,
    reader_waits: bool,
    pub(crate) owner: Option<Proc>,
    pub(crate) given_to: Option<Proc>,
    pub(crate) lives_by_remotes: bool,
    watches: Vec<(u64, u64)>,
    /// Exits of the peer that no process has taken: sent explicitly, and over links.
    untaken: [usize; 2],
    /// Since when bytes have waited, and how many had been accepted then.
    pub(crate) waiting: Option<(Instant, u64)>,
    accepted: u64,
    // What is listened to.
    tap: Vec<u8>,
    tapped: u64,
    read: u64,
    /// Our processes by the ids that the peer knows.
    pub(crate) names: Vec<(u64, Proc)>,
    /// Those of them that only a link has given.
    pub(crate) linked_names: Vec<u64>,
    /// Whose monitors these are.
    pub(crate) last_heard: Instant,
}

impl End {
    pub(crate) fn new(limits: &Limits, login: Option<Login>, now: Instant) -> Self {
        Self {
            limits: limits.clone(),
            login,
            endpoint: None,
            batch: Batch::default(),
            unaccepted: 0,
            writing: Writing::Open,
            last_call: None,
            asleep: false,
            armed: None,
            at_end: false,
            gone: false,
            late: VecDeque::new(),
            acknowledging: VecDeque::new(),
            opener: None,
            reader: None,
            handed: None,
            reader_waits: false,
            owner: None,
            given_to: None,
            lives_by_remotes: false,
            watches: Vec::new(),
            untaken: [0; 2],
            waiting: None,
            accepted: 0,
            tap: Vec::new(),
            tapped: 0,
            read: 0,
            names: Vec::new(),
            linked_names: Vec::new(),
            last_heard: now,
        }
    }

    pub(crate) fn session(&self) -> Option<&Session<Simulated>> {
        self.endpoint.as_ref().map(Endpoint::session)
    }

    /// Whether it has a session that its processes can do something with.
    pub(crate) fn is_open(&self) -> bool {
        self.session().is_some_and(Session::is_open)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.session().is_none_or(|session| session.over().is_some())
    }

    /// The process that the peer means by this number.
    /// Whether a process of the other end of `conn` knows `proc`, which is of this end, as `pid`.
    pub(crate) fn is_named(&self, conn: u8, pid: Pid, proc: Proc) -> bool {
        matches!(pid, Pid::Far { conn: by, id } if by == conn && self.named(id) == Some(proc))
    }

    pub(crate) fn named(&self, id: u64) -> Option<Proc> {
        match id {
            0 => self.owner,
            id => self.names.iter().rev().find(|(name, _)| *name == id).map(|(_, proc)| *proc),
        }
    }

    /// Whether nothing is held for anybody.
    pub(crate) fn is_idle(&self) -> bool {
        self.late.is_empty() && self.acknowledging.is_empty()
    }

    /// Whether its driver would write what there is to write.
    fn is_hungry(&self) -> bool {
        self.writing == Writing::Open && self.batch.chunk().is_empty()
    }
}

/// What a driver could do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drive {
    Write,
    Accept,
    Read,
    Deliver,
    Timer,
    Login,
}

impl World {
    pub(crate) fn end(&mut self, at: At) -> &mut End {
        &mut self.conns[usize::from(at.conn)].ends[at.side as usize]
    }

    /// Does something with a session as a process or a task does, then all that follows from it.
    pub(crate) fn session<T>(
        &mut self,
        at: At,
        f: impl FnOnce(&mut Session<Simulated>, Instant) -> T,
    ) -> Option<T> {
        self.endpoint(at, Who::User, |endpoint, now| f(endpoint.session_mut(), now))
    }

    /// Does something with an endpoint, then all that follows from it.
    fn endpoint<T>(
        &mut self,
        at: At,
        who: Who,
        f: impl FnOnce(&mut Endpoint<Simulated>, Instant) -> T,
    ) -> Option<T> {
        let now = self.now;
        let result = f(self.end(at).endpoint.as_mut()?, now);
        self.after(at, who);
        Some(result)
    }

    /// The same for the driver.
    fn driver<T>(&mut self, at: At, f: impl FnOnce(&mut Endpoint<Simulated>, Instant) -> T) -> Option<T> {
        self.endpoint(at, Who::Driver, f)
    }

    /// Bytes held by all sessions of this program.
    fn held_in_all(&self, side: Side) -> usize {
        let ends = self.conns.iter().filter_map(|conn| conn.ends[side as usize].endpoint.as_ref());
        ends.map(Endpoint::held).sum()
    }

    fn after(&mut self, at: At, who: Who) {
        loop {
            let in_all = self.held_in_all(at.side);
            let Some(endpoint) = &mut self.end(at).endpoint else { return };
            let Some(event) = endpoint.poll(who, in_all) else { break };
            match event {
                Event::Wake(waiter) => self.wake_waiter(waiter),
                Event::Deliver(deliveries) => self.end(at).late.extend(deliveries),
                Event::Requested(_) => self.requested(at),
                Event::Window(change @ WindowChange::Wanted { more, .. }) => endpoint.widen(change, more),
                Event::Window(WindowChange::Narrowed(_)) => {}
                Event::Disown(Pid::Local(owner)) => {
                    let owned = &mut self.process(owner).owned;
                    if let Some(place) = owned.iter().position(|owned| *owned == at) {
                        owned.remove(place);
                    }
                }
                Event::Disown(_) | Event::Connection(_) => {}
                Event::Closed => self.closed(at),
            }
        }
        self.look_at_unsent(at);
        if self.end(at).gone {
            while self.deliver(at) {}
        }
    }

    fn wake_waiter(&mut self, waiter: u32) {
        let end_of =
            |waiter: u32| At { conn: (waiter & 0xff) as u8 / 2, side: Side::BOTH[(waiter & 1) as usize] };
        if waiter >= READERS {
            self.end(end_of(waiter)).reader_waits = false;
        } else if waiter >= DRIVERS {
            self.end(end_of(waiter)).asleep = false;
        } else {
            self.wake(waiter);
        }
    }

    fn closed(&mut self, at: At) {
        let Some(reason) = self.end(at).session().and_then(|session| session.over().cloned()) else { return };
        self.note(What::Over { at, reason });
        let last_call = self.now + LAST_WORDS;
        self.end(at).last_call.get_or_insert(last_call);
        self.end(at).owner = None;
    }

    fn look_at_unsent(&mut self, at: At) {
        let now = self.now;
        let end = self.end(at);
        let Some(session) = end.session() else { return };
        let (unsent, over) = (session.unsent(), session.over().is_some());
        // Messages wait for room from 256 KiB on; an answer is a frame more.
        let most = end.limits.max_unsent.max(256 * 1024) + 2 * end.limits.max_frame_len + 4096;
        // When it has had its word, the peer is not waited for.
        end.waiting = match end.waiting {
            _ if unsent == 0 || over => None,
            Some((since, accepted)) if end.accepted - accepted < end.limits.min_accepted as u64 => {
                Some((since, accepted))
            }
            _ => Some((now, end.accepted)),
        };
        if unsent > most {
            self.violations.push(Violation::new("unsent bytes have a bound", format!("{at:?} {unsent}")));
        }
    }

    // Opening.

    /// The session begins: the login is done.
    pub(crate) fn begin(&mut self, at: At, endpoint: Endpoint<Simulated>) {
        let now = self.now;
        let end = self.end(at);
        end.login = None;
        end.endpoint = Some(endpoint);
        end.last_heard = now;
        self.note(What::LoggedIn { at });
        self.wake_opener(at);
    }

    pub(crate) fn wake_opener(&mut self, at: At) {
        if let Some(op) = self.end(at).opener.take() {
            self.wake(op);
        }
    }

    /// The client has said what it wants.
    fn requested(&mut self, at: At) {
        let task = self.plan_once(12);
        let service = self.spawn(at.side, task);
        self.process(service).opening = Some(at);
        self.think(service);
    }

    /// The service starts, or says why not.
    pub(crate) fn accept(&mut self, proc: Proc, at: At) {
        self.process(proc).opening = None;
        if self.rng.once_in(12) {
            self.session(at, |session, _| session.refuse_start(RefuseCode::Overload, "no room"));
            self.note(What::NotOpened { at, refused: true });
            return;
        }
        self.session(at, |session, _| session.accept(None, false));
        self.note(What::Opened { at });
        self.open_channel(proc, at, true);
    }

    pub(crate) fn refuse_start(&mut self, at: At) {
        self.session(at, |session, _| session.refuse_start(RefuseCode::Refused, "it did not start"));
        self.note(What::NotOpened { at, refused: true });
    }

    /// The client has its answer.
    pub(crate) fn opened(&mut self, proc: Proc, at: At, result: &Result<(), NotOpened>) {
        match result {
            Ok(()) => {
                self.counts.sessions += 1;
                self.note(What::Opened { at });
                let linked = self.rng.once_in(2);
                self.open_channel(proc, at, linked);
            }
            Err(error) => {
                self.note(What::NotOpened { at, refused: matches!(error, NotOpened::Refused(_)) });
                self.let_go(at, ExitReason::Normal);
            }
        }
    }

    fn open_channel(&mut self, proc: Proc, at: At, linked: bool) {
        self.note(What::Reads { at, proc });
        let end = self.end(at);
        end.reader = end.endpoint.as_ref().map(Endpoint::reader);
        self.process(proc).reads.push(at);
        self.process(proc).doing.push_back(Doing::Own { at, linked });
        self.hand_out(at);
    }

    // Processes.

    /// Whether the end of a link with that process has been read and not been told.
    fn has_end_under_way(&mut self, at: At, proc: Proc, far: u64) -> bool {
        self.after(at, Who::Driver);
        let end = self.end(at);
        let me = Pid::Local(proc);
        let is_one = |delivery: &Delivery<Pid>| matches!(delivery, Delivery::Exit { from, to, link: true, .. } if *from == far && *to == me);
        end.late.iter().any(is_one)
    }

    pub(crate) fn signal_far(&mut self, at: At, proc: Proc, far: u64, signal: Signal) {
        let me = Pid::Local(proc);
        let is_link = signal == Signal::Link;
        self.note(What::Said { at, proc, far, signal: signal.clone() });
        if is_link && self.has_end_under_way(at, proc, far) {
            self.note(What::EndUnderWay { at, proc, far });
        }
        let Some(endpoint) = self.end(at).endpoint.as_mut() else { return };
        let session = endpoint.session_mut();
        match signal {
            Signal::Link => session.link(me, far),
            Signal::Unlink { id } => session.unlink(&me, far, id),
            Signal::UnlinkAck { id } => session.unlink_ack(&me, far, id),
            Signal::Exit { reason, link } => session.exit(&me, far, link.then_some(0), reason),
            Signal::Monitor { monitor } => session.monitor(me, monitor, far),
            Signal::Demonitor { monitor } => session.demonitor(monitor),
            Signal::Down { .. } => {}
        }
        self.after(at, Who::User);
    }

    pub(crate) fn down_far(&mut self, at: At, monitor: u64, reason: ExitReason) {
        self.end(at).watches.retain(|(far, _)| *far != monitor);
        self.session(at, |session, _| session.down(monitor, 0, reason));
    }

    pub(crate) fn exit_taken(&mut self, receipt: Receipt) {
        if let Some((at, link)) = receipt {
            self.note(What::ExitTaken { at, link });
            self.end(at).untaken[usize::from(link)] -= 1;
        }
    }

    /// Makes `owner` the process with which the session ends.
    pub(crate) fn own(&mut self, at: At, owner: Option<Proc>, linked: bool) {
        let owner = owner.filter(|owner| !self.process(*owner).task);
        let refused = owner.is_some_and(|owner| !self.process(owner).is_alive());
        if let Some(owner) = owner.filter(|_| !refused) {
            self.process(owner).owned.push(at);
        }
        self.now_owns(at, owner, linked);
        if refused {
            self.let_go(at, ExitReason::NoProc);
        }
    }

    /// The same for a process that has the session among what it owns.
    fn now_owns(&mut self, at: At, owner: Option<Proc>, linked: bool) {
        self.endpoint(at, Who::User, |endpoint, _| endpoint.own(owner.map(Pid::Local), linked));
        let over = self.end(at).is_over();
        self.end(at).owner = owner.filter(|_| !over);
        self.note(What::Owner { at, proc: owner });
    }

    /// The session is `to`'s from now on, and what comes is a letter in its mailbox.
    pub(crate) fn hand_over(&mut self, at: At, to: Proc) {
        let Some(reader) = self.end(at).handed.take() else { return };
        self.note(What::Reads { at, proc: to });
        self.end(at).given_to = Some(to);
        self.endpoint(at, Who::User, |endpoint, _| endpoint.hand_over(reader));
    }

    /// Takes one delivery to whom it is for.
    pub(crate) fn deliver(&mut self, at: At) -> bool {
        let end = self.end(at);
        if let Some((proc, to, id)) = end.acknowledging.pop_front() {
            self.signal(Pid::Local(proc), to, Signal::UnlinkAck { id });
            self.process(proc).links.ack_delivered(&to, id);
            return true;
        }
        let Some(delivery) = end.late.pop_front() else { return false };
        let far = |id| Pid::Far { conn: at.conn, id };
        let mut tell = |to, from, signal, exit: Option<bool>| {
            if let Pid::Local(proc) = to {
                if let Some(link) = exit {
                    self.end(at).untaken[usize::from(link)] += 1;
                }
                self.handle_signal(proc, from, signal, exit.map(|link| (at, link)));
            }
        };
        match delivery {
            Delivery::Link { from, to } => tell(to, far(from), Signal::Link, None),
            Delivery::Unlink { from, to, unlink } => tell(to, far(from), Signal::Unlink { id: unlink }, None),
            Delivery::UnlinkAck { from, to, unlink } => {
                tell(to, far(from), Signal::UnlinkAck { id: unlink }, None);
            }
            Delivery::Exit { from, to, reason, link, provoked } => {
                tell(to, far(from), Signal::Exit { reason, link }, provoked.then_some(link));
            }
            Delivery::Down { monitor, from, to, reason } => {
                tell(to, far(from), Signal::Down { monitor, reason }, None);
            }
            Delivery::Monitor { monitor, to } => {
                self.last_monitor += 1;
                let reference = self.last_monitor;
                self.end(at).watches.push((monitor, reference));
                if let Pid::Local(proc) = to {
                    let watch = Pid::Watch { conn: at.conn, monitor };
                    let signal = Signal::Monitor { monitor: reference };
                    // One that is gone answers the watch.
                    self.watch(at, proc, watch, monitor, signal);
                }
            }
            Delivery::Demonitor { monitor, to } => {
                let watches = &mut self.end(at).watches;
                let place = watches.iter().position(|(far, _)| *far == monitor);
                let reference = place.map(|place| watches.swap_remove(place).1);
                if let (Pid::Local(proc), Some(reference)) = (to, reference) {
                    let watch = Pid::Watch { conn: at.conn, monitor };
                    self.handle_signal(proc, watch, Signal::Demonitor { monitor: reference }, None);
                }
            }
            Delivery::Inbound(message) => {
                if let Some(proc) = self.end(at).given_to
                    && self.process(proc).is_alive()
                {
                    self.process(proc).mailbox.push_back(Letter::Fed { at, message });
                }
            }
            Delivery::Over(reason) => {
                if let Some(proc) = self.end(at).given_to
                    && self.process(proc).is_alive()
                {
                    self.process(proc).mailbox.push_back(Letter::Ended { at, reason });
                }
            }
            Delivery::Watch { .. } | Delivery::Unwatch { .. } => {}
            Delivery::Message { to, id, message, .. } => {
                if let Pid::Local(proc) = to {
                    if self.process(proc).is_alive() {
                        self.process(proc).mailbox.push_back(Letter::Direct { at, id, message });
                    } else {
                        self.discard_direct(at, id, &message);
                    }
                }
            }
        }
        true
    }

    fn watch(&mut self, at: At, proc: Proc, watch: Pid, monitor: u64, signal: Signal) {
        if !self.process(proc).is_alive() {
            self.note(What::Signal { proc, from: watch, signal, seen: false });
            return self.down_far(at, monitor, ExitReason::NoProc);
        }
        self.handle_signal(proc, watch, signal, None);
    }

    pub(crate) fn latency(&mut self) -> Duration {
        Duration::from_micros(self.rng.below(self.plan.latency + 1) as u64)
    }

    /// A payload that says `token`.
    pub(crate) fn payload(&mut self, token: Token) -> Vec<u8> {
        let most = if self.rng.once_in(4) { self.plan.payload } else { 40 };
        let mut len = 4 + self.rng.below(most);
        if self.plan.full_frames && token.is_multiple_of(8) {
            len = self.plan.limits[0].max_frame_len - wire::MAX_OVERHEAD;
        }
        let mut payload = vec![token as u8; len];
        payload[..4].copy_from_slice(&token.to_be_bytes());
        payload
    }
}
