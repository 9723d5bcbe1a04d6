//! One end of a connection: the real session, and a model of what drives it and of the channel upon it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use lib_chan::{
    ExitReason, Limits,
    session::{Batch, Delivery, Host, Inbound, InboundKind, NotOpened, Session, credit_part},
    wire::{self, Frame, RefuseCode},
};

use crate::{
    log::{Answer, At, Pid, Proc, Signal, Tapped, Token, What, token},
    login::Login,
    net::Wrote,
    process::{Doing, Letter, Owed, Receipt},
    world::{Violation, World},
};

/// What the sessions of a simulation serve.
#[derive(Debug)]
pub(crate) struct Simulated;

impl Host for Simulated {
    type Waiter = u32;
    type Process = Pid;
}

/// How long `close` waits.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
const LAST_WORDS: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    Open,
    /// Shut down, or broken.
    Done,
}

#[derive(Debug)]
pub(crate) struct End {
    pub(crate) at: At,
    pub(crate) limits: Limits,
    pub(crate) login: Option<Login>,
    pub(crate) session: Option<Session<Simulated>>,
    // The driver.
    batch: Batch,
    unaccepted: usize,
    pub(crate) writing: Writing,
    pub(crate) last_call: Option<Instant>,
    /// Nothing more comes.
    at_end: bool,
    /// The driver has made its last delivery, or there never was one.
    pub(crate) gone: bool,
    /// A server's driver writes nothing before the client has said what it wants.
    asked: bool,
    pub(crate) late: VecDeque<Delivery<Pid>>,
    /// The second half of a delivery.
    pub(crate) acknowledging: VecDeque<(Proc, Pid, u64)>,
    // What a channel shares with it.
    taken: u64,
    closed: bool,
    paused: bool,
    receiver_waits: bool,
    over_told: bool,
    open_told: bool,
    pub(crate) owner: Option<Proc>,
    given_to: Option<Proc>,
    pub(crate) fetched: VecDeque<Inbound>,
    cost: u64,
    held: VecDeque<Inbound>,
    watchers: Vec<u32>,
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
    /// Whose links the next `Link` frames are.
    linkers: VecDeque<Proc>,
    /// Our processes by the ids that the peer knows.
    pub(crate) names: Vec<(u64, Proc)>,
    /// Those of them that only a link has given.
    pub(crate) linked_names: Vec<u64>,
    /// Whose monitors these are.
    pub(crate) last_heard: Instant,
}

impl End {
    pub(crate) fn new(at: At, limits: &Limits, login: Option<Login>, now: Instant) -> Self {
        Self {
            at,
            limits: limits.clone(),
            login,
            session: None,
            batch: Batch::default(),
            unaccepted: 0,
            writing: Writing::Open,
            last_call: None,
            at_end: false,
            gone: false,
            asked: false,
            late: VecDeque::new(),
            acknowledging: VecDeque::new(),
            taken: 0,
            closed: false,
            paused: false,
            receiver_waits: false,
            over_told: false,
            open_told: false,
            owner: None,
            given_to: None,
            fetched: VecDeque::new(),
            cost: 0,
            held: VecDeque::new(),
            watchers: Vec::new(),
            lives_by_remotes: false,
            watches: Vec::new(),
            untaken: [0; 2],
            waiting: None,
            accepted: 0,
            tap: Vec::new(),
            tapped: 0,
            read: 0,
            linkers: VecDeque::new(),
            names: Vec::new(),
            linked_names: Vec::new(),
            last_heard: now,
        }
    }

    /// Whether it has a session that its processes can do something with.
    pub(crate) fn is_open(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_open)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.over().is_some())
    }

    pub(crate) const fn given(&self) -> Option<Proc> {
        self.given_to
    }

    /// Whether nothing is held for anybody.
    pub(crate) fn is_idle(&self) -> bool {
        self.late.is_empty() && self.acknowledging.is_empty()
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

    /// Does something with a session, then all that follows from it.
    pub(crate) fn session<T>(
        &mut self,
        at: At,
        f: impl FnOnce(&mut Session<Simulated>, Instant) -> T,
    ) -> Option<T> {
        let now = self.now;
        let result = f(self.end(at).session.as_mut()?, now);
        self.after(at);
        Some(result)
    }

    pub(crate) fn after(&mut self, at: At) {
        let end = &mut self.conns[usize::from(at.conn)].ends[at.side as usize];
        let Some(session) = &mut end.session else { return };
        let mut woken = session.take_woken();
        let over = session.over().cloned();
        let unsent = session.unsent();
        let paused = over.is_none() && unsent > end.limits.max_unsent_before_pause;
        let resumed = std::mem::replace(&mut end.paused, paused) && !paused;
        let is_over = over.is_some() && !std::mem::replace(&mut end.over_told, true);
        if is_over || session.is_open() && !std::mem::replace(&mut end.open_told, true) {
            woken.append(&mut end.watchers);
        }
        if resumed || is_over || (session.has_inbox() && !paused) {
            end.receiver_waits = false;
        }
        // Messages wait for room from 256 KiB on; an answer is a frame more.
        let most = end.limits.max_unsent.max(256 * 1024) + 2 * end.limits.max_frame_len + 4096;
        if unsent > most {
            self.violations.push(Violation::new("unsent bytes have a bound", format!("{at:?} {unsent}")));
        }
        // When it has had its word, the peer is not waited for.
        end.waiting = match end.waiting {
            _ if unsent == 0 || over.is_some() => None,
            Some((since, accepted)) if end.accepted - accepted < end.limits.min_accepted as u64 => {
                Some((since, accepted))
            }
            _ => Some((self.now, end.accepted)),
        };
        let disowned = if is_over { end.owner.take() } else { None };
        if end.gone {
            let deliveries = session.take_deliveries();
            end.late.extend(deliveries);
        }
        for op in woken {
            self.wake(op);
        }
        if let (true, Some(reason)) = (is_over, over) {
            self.note(What::Over { at, reason });
            let last_call = self.now + LAST_WORDS;
            self.end(at).last_call.get_or_insert(last_call);
        }
        if let Some(owner) = disowned {
            self.process(owner).owned.retain(|owned| *owned != at);
        }
        if self.end(at).gone {
            while self.deliver(at) {}
        }
    }

    // Opening.

    /// The session begins: the login is done.
    pub(crate) fn begin(&mut self, at: At, session: Session<Simulated>) {
        let now = self.now;
        let end = self.end(at);
        end.login = None;
        end.session = Some(session);
        end.last_heard = now;
        self.note(What::LoggedIn { at });
    }

    /// The server's driver: has the client said what it wants?
    fn look_for_request(&mut self, at: At) {
        let Some(Some(_)) = self.session(at, |session, _| session.take_request()) else { return };
        self.end(at).asked = true;
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
        self.process(proc).reads.push(at);
        self.process(proc).doing.push_back(Doing::Own { at, linked });
        self.hand_out(at);
    }

    // Processes.

    /// Whether the end of a link with that process has been read and not been told.
    fn has_end_under_way(&mut self, at: At, proc: Proc, far: u64) -> bool {
        let end = self.end(at);
        end.late.extend(end.session.as_mut().map(Session::take_deliveries).into_iter().flatten());
        let me = Pid::Local(proc);
        let is_one = |delivery: &Delivery<Pid>| matches!(delivery, Delivery::Exit { from, to, link: true, .. } if *from == far && *to == me);
        end.late.iter().any(is_one)
    }

    pub(crate) fn signal_far(&mut self, at: At, proc: Proc, far: u64, signal: Signal) {
        let (me, now) = (Pid::Local(proc), self.now);
        let before = self.end(at).session.as_ref().map_or(0, Session::unsent);
        let is_link = signal == Signal::Link;
        self.note(What::Said { at, proc, far, signal: signal.clone() });
        if is_link && self.has_end_under_way(at, proc, far) {
            self.note(What::EndUnderWay { at, proc, far });
        }
        let Some(session) = self.end(at).session.as_mut() else { return };
        match signal {
            Signal::Link => session.link(me, far),
            Signal::Unlink { id } => session.unlink(me, far, id),
            Signal::UnlinkAck { id } => session.unlink_ack(&me, far, id),
            Signal::Exit { reason, link } => session.exit(&me, far, link.then_some(0), reason),
            Signal::Monitor { monitor } => session.monitor(me, monitor, far),
            Signal::Demonitor { monitor } => session.demonitor(now, monitor),
            Signal::Down { .. } => {}
        }
        if is_link && session.unsent() > before {
            self.end(at).linkers.push_back(proc);
        }
        self.after(at);
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
        self.session(at, |session, _| session.set_owner(owner.map(Pid::Local), linked));
        let over = self.end(at).is_over();
        let next = owner.filter(|_| !over);
        let before = std::mem::replace(&mut self.end(at).owner, next);
        self.note(What::Owner { at, proc: owner });
        if let Some(before) = before.filter(|before| Some(*before) != owner) {
            self.process(before).owned.retain(|owned| *owned != at);
        }
        let Some(owner) = owner else { return };
        if !self.process(owner).is_alive() {
            return self.let_go(at, ExitReason::NoProc);
        }
        if !over && !self.process(owner).owned.contains(&at) {
            self.process(owner).owned.push(at);
        }
    }

    /// The session is `to`'s from now on, and what comes is a letter in its mailbox.
    pub(crate) fn hand_over(&mut self, at: At, to: Proc) {
        let first = std::mem::take(&mut self.end(at).fetched);
        self.note(What::Reads { at, proc: to });
        self.end(at).given_to = Some(to);
        self.session(at, |session, _| session.hand_over(first.into_iter()));
    }

    /// Takes one delivery to whom it is for.
    pub(crate) fn deliver(&mut self, at: At) -> bool {
        let end = self.end(at);
        if let Some((proc, to, id)) = end.acknowledging.pop_front() {
            self.signal(Pid::Local(proc), to, Signal::UnlinkAck { id });
            self.process(proc).links.ack_delivered(&to, id);
            return true;
        }
        if end.late.is_empty()
            && let Some(session) = &mut end.session
        {
            end.late.extend(session.take_deliveries());
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
            Delivery::Message { to, message } => {
                if let Pid::Local(proc) = to {
                    if self.process(proc).is_alive() {
                        self.process(proc).mailbox.push_back(Letter::Direct { at, message });
                    } else {
                        self.discard_direct(proc, at, &message);
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

    // Receiving.

    /// Whether a look at the channel would find something.
    pub(crate) fn may_receive(&self, at: At) -> bool {
        let end = &self.conns[usize::from(at.conn)].ends[at.side as usize];
        end.session.is_some() && !(end.closed && end.owner.is_some()) && !end.receiver_waits
    }

    /// The reader of a channel looks for a message, and takes it.
    pub(crate) fn receive(&mut self, proc: Proc, at: At) {
        let end = &mut self.conns[usize::from(at.conn)].ends[at.side as usize];
        let Some(session) = &mut end.session else { return };
        if end.fetched.is_empty() || end.paused {
            session.give_back(std::mem::take(&mut end.cost));
            let paused = end.paused && session.over().is_none();
            if !paused {
                session.take_inbox(&mut end.fetched);
            }
            let ended = session.over().is_some() || session.has_let_go();
            if paused || (end.fetched.is_empty() && !ended) {
                end.receiver_waits = true;
                self.after(at);
                // It may have been paused by the very credit.
                return;
            }
        }
        self.after(at);
        let end = self.end(at);
        let Some(message) = end.fetched.pop_front() else {
            let reason = end.session.as_ref().and_then(|session| session.over().cloned());
            self.process(proc).reads.retain(|read| *read != at);
            if let Some(reason) = reason {
                self.note(What::EndSeen { at, reason });
            }
            // What is left of the channel is dropped.
            return self.let_go(at, ExitReason::Normal);
        };
        if end.closed {
            end.receiver_waits = true;
            end.fetched.push_front(message);
            return;
        }
        self.take(proc, at, message);
    }

    /// A letter of a channel that was given to a process.
    pub(crate) fn receive_letter(&mut self, proc: Proc, at: At, message: Inbound) {
        let end = self.end(at);
        if end.paused || !end.held.is_empty() {
            end.held.push_back(message);
            return self.receive_held(proc, at);
        }
        if !end.closed {
            self.take(proc, at, message);
        }
    }

    pub(crate) fn has_held(&self, at: At) -> bool {
        let end = &self.conns[usize::from(at.conn)].ends[at.side as usize];
        !end.held.is_empty() && !end.paused
    }

    pub(crate) fn receive_held(&mut self, proc: Proc, at: At) {
        let end = self.end(at);
        if end.paused {
            return;
        }
        if let Some(message) = end.held.pop_front()
            && !end.closed
        {
            self.take(proc, at, message);
        }
    }

    /// A cast to a process that was handed out.
    pub(crate) fn receive_direct(&mut self, proc: Proc, at: At, message: &Inbound) {
        let (number, token) = (message.number, token(&message.payload));
        self.note(What::TookDirect { at, proc, number, token });
        self.discard_direct(proc, at, message);
    }

    pub(crate) fn discard_direct(&mut self, proc: Proc, at: At, message: &Inbound) {
        let cost = message.cost();
        self.session(at, |session, _| session.give_back_to(&Pid::Local(proc), cost));
    }

    fn take(&mut self, proc: Proc, at: At, message: Inbound) {
        let end = self.end(at);
        end.taken = message.number;
        end.cost += message.cost();
        if end.cost >= credit_part(end.limits.window_len as u64) {
            let cost = std::mem::take(&mut end.cost);
            self.session(at, |session, _| session.give_back(cost));
        }
        let token = token(&message.payload);
        let number = message.number;
        match message.kind {
            InboundKind::Cast => self.note(What::Took { at, number, token, call: false }),
            InboundKind::Call { call } => {
                if self.session(at, |session, now| session.wants_answer(call, now)) == Some(true) {
                    self.note(What::Took { at, number, token, call: true });
                    self.process(proc).owed.push(Owed { at, call, token });
                } else {
                    self.note(What::Skipped { at, number });
                }
            }
        }
    }

    pub(crate) fn reply(&mut self, owed: Owed, answer: Answer) {
        let Owed { at, call, token } = owed;
        // Whoever waits for a cancel waits on the reply that is used up here.
        self.drop_cancelled(token);
        let token_back = self.fresh_token();
        self.note(What::Answered { at, token, answer, token_back });
        let before = self.end(at).session.as_ref().map_or(0, Session::unsent);
        match answer {
            Answer::Reply => {
                let mut payload = self.payload(token_back);
                self.session(at, |session, _| {
                    let max = session.max_payload_len();
                    payload.truncate(max);
                    session.reply(call, &mut payload);
                });
            }
            Answer::TooLong => {
                self.session(at, |session, _| {
                    let mut payload = vec![0; session.max_payload_len() + 1];
                    session.reply(call, &mut payload);
                });
            }
            Answer::Refused => {
                self.session(at, |session, _| {
                    session.refuse(call, RefuseCode::Refused, "as the process says")
                });
            }
            Answer::Dropped => {
                self.session(at, |session, _| {
                    session.refuse(call, RefuseCode::NoAnswer, "the call was dropped")
                });
            }
        }
        self.check_answered(at, before);
    }

    /// Whoever asks for much and takes nothing has its session ended, by the answer that is too much. An answer that
    /// nobody waits for any more is none.
    fn check_answered(&mut self, at: At, before: usize) {
        let max_frame_len = self.plan.limits[at.side.other() as usize].max_frame_len;
        let end = self.end(at);
        let Some(session) = &end.session else { return };
        let answered = session.over().is_none() && session.unsent() > before;
        if answered && session.unsent() > end.limits.max_unsent + max_frame_len {
            let detail = format!("{at:?} {}", session.unsent());
            self.violations.push(Violation::new("unsent answers have a bound", detail));
        }
    }

    pub(crate) fn drop_reply(&mut self, owed: Owed) {
        self.reply(owed, Answer::Dropped);
    }

    // How it ends.

    /// The owner ended or let go.
    pub(crate) fn let_go(&mut self, at: At, reason: ExitReason) {
        let deadline = self.now + CLOSE_TIMEOUT;
        let end = self.end(at);
        end.closed = true;
        let taken = end.taken;
        let Some(session) = &end.session else { return };
        if !session.has_let_go() {
            let close_by = deadline.duration_since(self.base);
            self.note(What::LetGo { at, reason: reason.clone(), close_by });
        }
        self.session(at, |session, _| {
            session.end(reason, taken, Some(deadline));
            session.give_up_receiving();
        });
        self.note(What::GaveUpReceiving { at });
    }

    /// The channel is gone, its remotes live on.
    pub(crate) fn give_up_channel(&mut self, proc: Proc, at: At) {
        self.process(proc).reads.retain(|read| *read != at);
        let end = self.end(at);
        let cost = std::mem::take(&mut end.cost);
        let fetched = std::mem::take(&mut end.fetched);
        end.lives_by_remotes = true;
        self.session(at, |session, _| session.give_back(cost));
        self.own(at, None, false);
        self.session(at, |session, _| {
            session.give_up_receiving();
            fetched.iter().for_each(|message| session.discard(message));
        });
        self.note(What::GaveUpReceiving { at });
    }

    /// Gives the channel to another process: its new owner, and the reader of what comes.
    pub(crate) fn give_to(&mut self, proc: Proc, at: At, to: Proc) {
        if !self.process(to).is_alive() || self.process(to).task {
            return;
        }
        self.process(proc).reads.retain(|read| *read != at);
        let cost = std::mem::take(&mut self.end(at).cost);
        self.session(at, |session, _| session.give_back(cost));
        self.own(at, Some(to), false);
        self.process(proc).doing.push_back(Doing::HandOver { at, to });
    }

    pub(crate) fn break_off(&mut self, at: At, reason: ExitReason) {
        if self.end(at).is_over() {
            return;
        }
        self.note(What::BrokeOff { at, reason: reason.clone() });
        self.session(at, |session, _| session.break_off(reason));
    }

    pub(crate) fn watch_end(&mut self, at: At, op: u32) {
        self.end(at).watchers.push(op);
    }

    pub(crate) fn wake_watchers(&mut self, at: At) {
        for op in std::mem::take(&mut self.end(at).watchers) {
            self.wake(op);
        }
    }

    // The driver.

    /// What the driver of this end could do now.
    pub(crate) fn could(&self, at: At, into: &mut Vec<(At, Drive)>) {
        let conn = &self.conns[usize::from(at.conn)];
        let end = &conn.ends[at.side as usize];
        if end.gone {
            return;
        }
        let (out, inn) = (&conn.pipes[at.side as usize], &conn.pipes[at.side.other() as usize]);
        if end.login.is_some() {
            if self.could_login(end, out, inn) {
                into.push((at, Drive::Login));
            }
            return;
        }
        let Some(session) = &end.session else { return };
        if end.unaccepted > 0 {
            into.push((at, Drive::Accept));
        } else if !end.at_end && (inn.arrived(self.now) > 0 || inn.is_at_end(self.now)) {
            into.push((at, Drive::Read));
        }
        let may_write =
            end.writing == Writing::Open && (end.asked || end.at.side == crate::log::Side::Client);
        if may_write {
            let has = !end.batch.chunk().is_empty();
            if (has && out.is_writable()) || (!has && (session.has_output() || session.has_let_go())) {
                into.push((at, Drive::Write));
            }
        }
        if !end.is_idle() || session.has_deliveries() {
            into.push((at, Drive::Deliver));
        }
        if session.poll_timeout().is_some_and(|due| due <= self.now)
            || end.last_call.is_some_and(|due| due <= self.now)
        {
            into.push((at, Drive::Timer));
        }
    }

    /// When the driver of this end has something to do by the clock.
    pub(crate) fn next_time(&self, at: At) -> Option<Instant> {
        let conn = &self.conns[usize::from(at.conn)];
        let end = &conn.ends[at.side as usize];
        if end.gone {
            return None;
        }
        let arrival = conn.pipes[at.side.other() as usize].next_arrival().filter(|at| *at > self.now);
        let timeout = end.session.as_ref().and_then(Session::poll_timeout);
        let login = end.login.as_ref().map(|login| login.deadline);
        [arrival, timeout, login, end.last_call].into_iter().flatten().min()
    }

    pub(crate) fn drive(&mut self, at: At, drive: Drive) {
        match drive {
            Drive::Write => self.write(at),
            Drive::Accept => self.accept_written(at),
            Drive::Read => self.read(at),
            Drive::Deliver => drop(self.deliver(at)),
            Drive::Timer => self.timer(at),
            Drive::Login => self.drive_login(at),
        }
    }

    fn write(&mut self, at: At) {
        self.accept_written(at);
        let now = self.now;
        let end = &mut self.conns[usize::from(at.conn)].ends[at.side as usize];
        let Some(session) = &mut end.session else { return };
        if end.batch.chunk().is_empty() {
            session.transmit(now, &mut end.batch);
            if end.batch.chunk().is_empty() {
                if session.has_let_go() {
                    let arrival = now + self.latency();
                    self.conns[usize::from(at.conn)].pipes[at.side as usize].finish(arrival);
                    self.stop_writing(at);
                }
                return;
            }
        }
        let conn = &mut self.conns[usize::from(at.conn)];
        let end = &mut conn.ends[at.side as usize];
        let len = self.rng.piece(end.batch.chunk().len());
        let latency = Duration::from_micros(self.rng.below(self.plan.latency + 1) as u64);
        let piece = &end.batch.chunk()[..len];
        let wrote = conn.pipes[at.side as usize].write(piece, now + latency);
        match wrote {
            Wrote::Broken => {
                end.batch = Batch::default();
                end.last_call.get_or_insert(now + LAST_WORDS);
                self.stop_writing(at);
            }
            Wrote::Bytes(len) | Wrote::LastBytes(len) => {
                end.tap.extend_from_slice(&piece[..len]);
                end.batch.advance(len);
                end.unaccepted += len;
                self.listen(at);
                if self.rng.once_in(2) {
                    self.accept_written(at);
                }
                if let Wrote::LastBytes(_) = wrote {
                    self.cut(at.conn);
                }
            }
        }
    }

    fn stop_writing(&mut self, at: At) {
        self.end(at).writing = Writing::Done;
        if self.end(at).at_end {
            self.finish_driver(at);
        }
    }

    fn accept_written(&mut self, at: At) {
        let len = std::mem::take(&mut self.end(at).unaccepted);
        if len > 0 {
            self.end(at).accepted += len as u64;
            self.session(at, |session, now| session.handle_accepted(now, len));
        }
    }

    /// Notes the frames that have been written.
    fn listen(&mut self, at: At) {
        let mut start = 0;
        let tap = std::mem::take(&mut self.end(at).tap);
        while let Some(head) = tap.get(start..).and_then(|rest| rest.first_chunk::<4>()) {
            let len = u32::from_be_bytes(*head) as usize;
            let Some(body) = tap.get(start + wire::LEN_LEN..start + wire::LEN_LEN + len) else { break };
            start += wire::LEN_LEN + len;
            let frame = Frame::parse(body).map_or(Tapped::Garbage, Tapped::new);
            let end = self.end(at);
            end.tapped += (wire::LEN_LEN + len) as u64;
            let end_offset = end.tapped;
            if let Tapped::Link { from, to } = frame
                && let Some(proc) = end.linkers.pop_front()
            {
                let named = end.names.contains(&(from, proc));
                if !named {
                    end.names.push((from, proc));
                }
                if !named || to == 0 {
                    end.linked_names.push(from);
                }
            }
            self.note(What::Frame { at, end: end_offset, frame });
        }
        let mut tap = tap;
        tap.drain(..start);
        self.end(at).tap = tap;
    }

    fn read(&mut self, at: At) {
        let now = self.now;
        let mut piece = std::mem::take(&mut self.scratch);
        let conn = &mut self.conns[usize::from(at.conn)];
        let inn = &mut conn.pipes[at.side.other() as usize];
        let arrived = inn.arrived(now);
        if arrived == 0 {
            self.scratch = piece;
            self.note(What::EndOfStream { at });
            let was_over = self.end(at).is_over();
            self.session(at, |session, _| session.handle_loss());
            self.end(at).at_end = true;
            // One that has heard all still says its last words; else there is nobody to say anything to.
            if !was_over || self.end(at).writing == Writing::Done {
                self.finish_driver(at);
            }
            return;
        }
        let len = self.rng.piece(arrived);
        inn.read(len, &mut piece);
        let end = &mut conn.ends[at.side as usize];
        end.read += len as u64;
        end.last_heard = now;
        let upto = end.read;
        let [explicit, of_links] = end.untaken;
        self.note(What::Read { at, upto });
        self.session(at, |session, now| {
            session.set_untaken_exits(explicit, of_links);
            if !session.has_heard_all() {
                session.handle_bytes(now, &piece);
            }
        });
        self.scratch = piece;
        if !self.end(at).asked && at.side == crate::log::Side::Server {
            self.look_for_request(at);
            if self.end(at).is_over() {
                // A driver that only says the last words.
                self.end(at).asked = true;
            }
        }
    }

    fn timer(&mut self, at: At) {
        let now = self.now;
        if self.end(at).last_call.is_some_and(|due| due <= now) {
            return self.finish_driver(at);
        }
        let lost = self.session(at, |session, now| {
            session.handle_timeout(now);
            session.is_lost()
        });
        if lost == Some(true) {
            self.end(at).batch = Batch::default();
            self.stop_writing(at);
        }
        let due = self.end(at).session.as_ref().and_then(Session::poll_timeout);
        if due.is_some_and(|due| due <= now) {
            self.violations
                .push(Violation::new("a time-out that is handled and still due", format!("{at:?}")));
        }
        if self.end(at).is_over() {
            self.end(at).asked = true;
        }
    }

    /// The driver ends: the session has its end, and all that is due is delivered.
    pub(crate) fn finish_driver(&mut self, at: At) {
        self.session(at, |session, _| session.handle_loss());
        while self.deliver(at) {}
        self.end(at).gone = true;
        self.after(at);
        self.note(What::DriverGone { at });
        self.close_socket(at);
    }

    /// The last words of a dead program are what its system says for it.
    pub(crate) fn close_socket(&mut self, at: At) {
        let now = self.now;
        let latency = self.latency();
        let pipes = &mut self.conns[usize::from(at.conn)].pipes;
        let unread = pipes[at.side.other() as usize].has_unread();
        if pipes[at.side as usize].has_hole() {
            return;
        }
        pipes[at.side.other() as usize].break_off();
        if unread {
            pipes[at.side as usize].reset(now);
        } else {
            pipes[at.side as usize].finish(now + latency);
        }
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
