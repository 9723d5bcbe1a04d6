//! A session that outlives its connections: two real endpoints, and any number of connections between them, which are
//! cut at any byte, go silent, come late, race each other, and speak again after they were given up.
//!
//! Longer than other files: the circumstances, the drivers and users of both ends, and what they check are one model.
//!
//! It judges what it sees at once. Every message is a number, larger than the one before in its direction.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use lib_chan::{
    CallError, CallFailure, Executed, ExitReason, Limits, Rights,
    auth::{Exporter, ResumeKey, SessionId},
    payload::Codec,
    secret::Secret,
    session::{
        Attach, Batch, ConnectionState, Delivery, Endpoint, Event, FIRST_EPOCH, Flush, Host, InboundKind,
        Next, OpenRequest, Reader, Who, WindowChange,
    },
    wire::{self, Frame, Granted},
};

use crate::{
    login,
    net::{Pipe, Wrote},
    seeded::Seeded,
    world::{Counts, Violation},
};

/// Waiters are nobody: all that waits is looked at again and again.
#[derive(Debug)]
struct Nobody;

impl Host for Nobody {
    type Waiter = ();
    type Process = u32;
}

const CLIENT: usize = 0;
const SERVER: usize = 1;
/// The process of either end that the other monitors, and that it was handed out as.
const WATCHED: u32 = 7;
/// How much longer than its time a call may be on its way: what nobody waited for meanwhile.
const SLACK: Duration = Duration::from_secs(3);
const SECRET: [u8; 32] = [5; 32];

/// One connection.
#[derive(Debug)]
struct Conn {
    /// By who writes.
    pipes: [Pipe; 2],
    exporter: [u8; 32],
    epochs: [Option<u64>; 2],
    batches: [Batch; 2],
    unaccepted: [usize; 2],
    /// This side has dropped it.
    dropped: [bool; 2],
    /// What has come of the `Resume`.
    first: Vec<u8>,
}

/// What became of a call.
#[derive(Debug)]
struct Asked {
    call: u64,
    deadline: Instant,
    outcome: Option<Result<u64, CallError>>,
    given_up: bool,
}

/// One end.
#[derive(Debug)]
struct Side {
    endpoint: Endpoint<Nobody>,
    reader: Option<Reader>,
    last_token: u64,
    /// The last token that is certainly sent.
    sent: u64,
    calls: BTreeMap<u64, Asked>,
    /// Casts in the queue.
    tickets: Vec<u64>,
    /// Calls that were taken and not answered.
    owed: Vec<(u64, u64)>,
    /// The last token that came, and calls that were left out before it.
    seen: u64,
    missing: BTreeSet<u64>,
    executed: BTreeSet<u64>,
    flushes: Vec<Flush>,
    /// Monitors that this end has set, and whether they have ended; those of the peer, on our process.
    monitors: BTreeMap<u64, bool>,
    watched: Vec<u64>,
    detached: Option<Instant>,
    resumable: bool,
    opened: bool,
    closed: bool,
    ended_by_us: Option<ExitReason>,
    /// What this end has said in an `Ended` of its own, whatever ended the session afterwards.
    said: Option<ExitReason>,
}

#[derive(Debug)]
struct Sim {
    rng: Seeded,
    now: Instant,
    limits: Limits,
    window: Duration,
    latency: usize,
    capacity: usize,
    payload: usize,
    sides: [Side; 2],
    conns: Vec<Conn>,
    ids: [u64; 2],
    granted: bool,
    /// Dropped connections are not forgotten at once: they go on to carry what was on its way.
    haunted: bool,
    calm: bool,
    counts: Counts,
    violations: Vec<Violation>,
}

/// Runs one schedule of resumes: what it has broken, and what was done.
pub(crate) fn play(seed: u64, base: Instant) -> (Vec<Violation>, Counts) {
    let mut sim = Sim::new(seed, base);
    let steps = 150 + sim.rng.below(300);
    for _ in 0..steps {
        if sim.violations.is_empty() {
            sim.step();
        }
    }
    sim.calm = true;
    sim.settle();
    sim.check_all_came();
    let side = sim.rng.below(2);
    sim.let_go(side);
    sim.settle();
    sim.check_end();
    (sim.violations, sim.counts)
}

impl Sim {
    fn new(seed: u64, now: Instant) -> Self {
        let mut rng = Seeded::of_step(seed, u64::MAX - 7);
        let mut limits = Limits::default();
        limits.max_frame_len = 64 * 1024;
        limits.window_len = 64 * 1024;
        limits.max_window_len = 64 * 1024;
        limits.heartbeat_interval = Duration::from_secs(rng.pick(&[1, 15]));
        limits.max_retained = rng.pick(&[0, 1 << 20]);
        limits.max_calls = rng.pick(&[1, 3, 1024]);
        limits.max_unsent_before_pause = rng.pick(&[500, 256 * 1024]);
        let window = Duration::from_secs(rng.pick(&[1, 20, 60, 600]));
        let both = login::done(&limits);
        let side = |authenticated| Side {
            endpoint: Endpoint::new(authenticated, &limits, now),
            reader: None,
            last_token: 0,
            sent: 0,
            calls: BTreeMap::new(),
            tickets: Vec::new(),
            owed: Vec::new(),
            seen: 0,
            missing: BTreeSet::new(),
            executed: BTreeSet::new(),
            flushes: Vec::new(),
            monitors: BTreeMap::new(),
            watched: Vec::new(),
            detached: None,
            resumable: false,
            opened: false,
            closed: false,
            ended_by_us: None,
            said: None,
        };
        let mut sides = [side(&both.0), side(&both.1)];
        let client = sides[CLIENT].endpoint.session_mut();
        let request = OpenRequest { resume: window, ..OpenRequest::new(Codec::Raw, b"arguments") };
        client.start(&request).expect("short arguments");
        let granted = !rng.once_in(16);
        let latency = rng.pick(&[0, 300, 50_000]);
        // On a slow line a call would be late without any cut.
        let capacity = if latency > 1_000 { 1_000_000 } else { rng.pick(&[300, 5_000, 1_000_000]) };
        let mut sim = Self {
            now,
            window,
            latency,
            capacity,
            payload: rng.pick(&[40, 400, 60_000]),
            sides,
            conns: Vec::new(),
            ids: [0; 2],
            granted,
            haunted: rng.once_in(2),
            calm: false,
            counts: Counts::default(),
            violations: Vec::new(),
            limits,
            rng,
        };
        sim.add_conn([Some(FIRST_EPOCH); 2]);
        sim
    }

    fn broken(&mut self, rule: &'static str, detail: String) {
        self.violations.push(Violation::new(rule, format!("resume: {detail}")));
    }

    fn add_conn(&mut self, epochs: [Option<u64>; 2]) -> usize {
        let mut exporter = [0; 32];
        exporter.fill_with(|| self.rng.next() as u8);
        let pipe = || Pipe::new(self.now, self.capacity);
        self.conns.push(Conn {
            pipes: [pipe(), pipe()],
            exporter,
            epochs,
            batches: [Batch::default(), Batch::default()],
            unaccepted: [0; 2],
            dropped: [false; 2],
            first: Vec::new(),
        });
        self.conns.len() - 1
    }

    fn is_over(&self, side: usize) -> bool {
        self.sides[side].endpoint.over().is_some()
    }

    // What follows from an input.

    fn after(&mut self, side: usize) {
        while let Some(event) = self.sides[side].endpoint.poll(Who::Driver, 0) {
            let now = self.now;
            let there = &mut self.sides[side];
            match event {
                Event::Wake(()) | Event::Disown(_) | Event::Window(WindowChange::Narrowed(_)) => {}
                Event::Window(change @ WindowChange::Wanted { more, .. }) => {
                    there.endpoint.widen(change, more)
                }
                Event::Requested(request) => {
                    let session = there.endpoint.session_mut();
                    if request.resume != self.window {
                        self.violations.push(Violation::new("the client asks for its window", String::new()));
                    }
                    if self.granted {
                        let (window, id) = (self.window.as_millis() as u64, SessionId::new([9; 16]));
                        session.grant(Granted { window, id, secret: Secret::new(SECRET) });
                    }
                    session.accept(None, false);
                }
                Event::Connection(ConnectionState::Detached { since, until }) => {
                    let fine = since <= now && until == since + self.window && there.detached.is_none();
                    there.detached = Some(until);
                    if !fine {
                        self.broken(
                            "a session is detached once, for the window",
                            format!("{side} {until:?}"),
                        );
                    }
                }
                Event::Connection(ConnectionState::Attached { .. }) => {
                    there.detached = None;
                    self.counts.sessions += 1;
                }
                Event::Closed => self.closed(side),
                Event::Deliver(deliveries) => deliveries.into_iter().for_each(|it| self.deliver(side, it)),
            }
        }
        if !self.sides[side].opened && self.sides[side].endpoint.session().is_open() {
            self.open(side);
        }
        self.sides[side].resumable |= self.sides[side].endpoint.session().is_resumable();
        self.look(side);
    }

    fn open(&mut self, side: usize) {
        let there = &mut self.sides[side];
        there.opened = true;
        there.reader = Some(there.endpoint.reader());
        let rights = Rights { monitor: true, ..Rights::default() };
        self.ids[side] = there.endpoint.session_mut().hand_out(WATCHED, rights);
    }

    fn deliver(&mut self, side: usize, delivery: Delivery<u32>) {
        let there = &mut self.sides[side];
        match delivery {
            Delivery::Monitor { monitor, .. } => there.watched.push(monitor),
            Delivery::Demonitor { monitor, .. } => there.watched.retain(|other| *other != monitor),
            Delivery::Down { monitor, .. } => {
                if there.monitors.insert(monitor, true) != Some(false) {
                    self.broken("a monitor ends once", format!("{side} {monitor}"));
                }
            }
            other => self.broken("nothing is delivered that nobody sent", format!("{other:?}")),
        }
    }

    fn closed(&mut self, side: usize) {
        let (now, there) = (self.now, &mut self.sides[side]);
        let Some(reason) = there.endpoint.over().cloned() else { return };
        there.closed = true;
        let far = &self.sides[1 - side];
        let ours = &self.sides[side].ended_by_us;
        let expired = |side: &Side| side.endpoint.has_expired();
        let in_time = self.sides[side].detached.is_none_or(|until| now >= until);
        let fine = match &reason {
            ExitReason::Protocol | ExitReason::Overload => false,
            // A close that was answered, or one that nobody answered in time.
            ExitReason::Normal => ours.is_some() || far.ended_by_us.is_some(),
            ExitReason::NoConnection => {
                let resumable = self.sides[side].resumable;
                ours.is_some()
                    || far.ended_by_us.is_some()
                    || !resumable
                    || far.opened && !far.endpoint.session().is_open()
                    // It had expired at this end, or at the other.
                    || expired(&self.sides[side]) && in_time
                    || far.closed
            }
            other => Some(other) == ours.as_ref() || Some(other) == far.ended_by_us.as_ref(),
        };
        if !fine {
            self.broken("a session ends with the right reason", format!("{side} {reason:?}"));
        }
    }

    /// Everybody who waits looks.
    fn look(&mut self, side: usize) {
        let Self { sides, violations, .. } = self;
        let (near, far) = sides.split_at_mut(1);
        let (there, far) = if side == CLIENT { (&mut near[0], &far[0]) } else { (&mut far[0], &near[0]) };
        let mut broken = |rule, detail| violations.push(Violation::new(rule, format!("resume: {detail}")));
        for (&token, asked) in there.calls.iter_mut().filter(|(_, it)| it.outcome.is_none() && !it.given_up) {
            let Some(outcome) = there.endpoint.session_mut().poll_call(asked.call, |_| ()) else { continue };
            let outcome = outcome.map(|payload| token_of(&payload));
            let fine = match &outcome {
                Ok(back) => *back == token && far.executed.contains(&token),
                Err(error) => !(error.executed == Executed::No && far.executed.contains(&token)),
            };
            if !fine {
                broken("a call has a true outcome", format!("{side} {token} {outcome:?}"));
            }
            asked.outcome = Some(outcome);
        }
        there.tickets.retain(|ticket| there.endpoint.session_mut().poll_cast(*ticket, |_| ()).is_none());
        there.flushes.retain(|flush| there.endpoint.session_mut().poll_flushed(*flush, || ()).is_none());
        let session = there.endpoint.session();
        let most = self.limits.max_retained.max(64 * 1024 + 128 * 1024)
            + 4 * self.limits.max_frame_len
            + self.limits.window_len;
        if there.endpoint.held() > most.max(self.limits.max_unsent) {
            let detail = format!("{side} {} {:?}", there.endpoint.held(), session.over());
            self.broken("what is kept has a bound", detail);
        }
    }

    // One step of somebody.

    fn step(&mut self) {
        self.counts.steps += 1;
        match self.rng.below(40) {
            0..26 => {
                if !self.drive() {
                    self.pass_time();
                }
            }
            26..36 => {
                let side = self.rng.below(2);
                self.use_it(side);
            }
            36 => self.dial(),
            37 | 38 => self.fault(),
            _ => {
                let millis = self.rng.pick(&[1, 1, 20, 2_000, 20_000]);
                // Bytes are not on their way for so long.
                if millis < 100 || !self.is_under_way() && !self.drive() {
                    self.advance(self.now + Duration::from_millis(millis));
                }
            }
        }
    }

    /// Somebody who has something to do does it. Returns whether there was anybody.
    fn drive(&mut self) -> bool {
        let mut can = Vec::new();
        for (place, conn) in self.conns.iter().enumerate() {
            for side in [CLIENT, SERVER] {
                let (out, inn) = (&conn.pipes[side], &conn.pipes[1 - side]);
                let endpoint = &self.sides[side].endpoint;
                let live = conn.epochs[side].is_some() && conn.epochs[side] == endpoint.attached();
                let ghost = self.haunted && !self.calm;
                if conn.dropped[side] && !ghost {
                    continue;
                }
                if conn.unaccepted[side] > 0 {
                    can.push((place, side, 0));
                } else if inn.arrived(self.now) > 0 || (!conn.dropped[side] && inn.is_at_end(self.now)) {
                    can.push((place, side, 1));
                }
                let has = !conn.batches[side].chunk().is_empty();
                let session = endpoint.session();
                if out.is_writable() && (has || live && session.has_output()) {
                    can.push((place, side, 2));
                }
            }
        }
        for side in [CLIENT, SERVER] {
            if self.sides[side].endpoint.poll_timeout().is_some_and(|at| at <= self.now) {
                can.push((0, side, 3));
            }
        }
        if can.is_empty() {
            self.look_at_windows();
            return false;
        }
        match self.rng.pick(&can) {
            (conn, side, 0) => self.accept(conn, side),
            (conn, side, 1) => self.read(conn, side),
            (conn, side, 2) => self.write(conn, side),
            (_, side, _) => self.timer(side),
        }
        true
    }

    /// Nothing is due at this moment, so a session whose window is over has ended.
    fn look_at_windows(&mut self) {
        for side in [CLIENT, SERVER] {
            let outlived =
                self.sides[side].detached.filter(|until| *until <= self.now && !self.is_over(side));
            if let Some(until) = outlived {
                self.broken("a detached session ends with its window", format!("{side} {until:?}"));
            }
        }
    }

    fn accept(&mut self, conn: usize, side: usize) {
        let len = std::mem::take(&mut self.conns[conn].unaccepted[side]);
        if let Some(epoch) = self.conns[conn].epochs[side] {
            self.sides[side].endpoint.handle_accepted(epoch, self.now, len);
            self.after(side);
        }
    }

    fn write(&mut self, conn: usize, side: usize) {
        let Some(epoch) = self.conns[conn].epochs[side] else { return };
        let now = self.now;
        let arrival = now + Duration::from_micros(self.rng.below(self.latency + 1) as u64);
        if self.conns[conn].batches[side].chunk().is_empty() {
            self.accept(conn, side);
            self.sides[side].endpoint.transmit(epoch, now, &mut self.conns[conn].batches[side]);
            self.after(side);
        }
        let link = &mut self.conns[conn];
        let len = link.batches[side].chunk().len();
        if len == 0 {
            return;
        }
        let len = self.rng.piece(len);
        match link.pipes[side].write(&link.batches[side].chunk()[..len], arrival) {
            Wrote::Broken => link.batches[side] = Batch::default(),
            wrote @ (Wrote::Bytes(len) | Wrote::LastBytes(len)) => {
                link.batches[side].advance(len);
                link.unaccepted[side] += len;
                if matches!(wrote, Wrote::LastBytes(_)) {
                    self.cut(conn);
                }
            }
        }
    }

    fn read(&mut self, conn: usize, side: usize) {
        self.report_accepted(side);
        let now = self.now;
        let inn = &mut self.conns[conn].pipes[1 - side];
        let arrived = inn.arrived(now);
        if arrived == 0 {
            return self.drop_conn(conn, side);
        }
        let mut bytes = Vec::new();
        inn.read(self.rng.piece(arrived), &mut bytes);
        match self.conns[conn].epochs[side] {
            Some(epoch) => {
                self.sides[side].endpoint.handle_bytes(epoch, now, &bytes, [0, 0]);
                self.after(side);
                self.drop_if_over(side);
            }
            None => {
                self.conns[conn].first.extend_from_slice(&bytes);
                self.hear_first(conn);
            }
        }
    }

    /// What a server does with the first frame of a connection.
    fn hear_first(&mut self, conn: usize) {
        let first = std::mem::take(&mut self.conns[conn].first);
        let len = first.first_chunk::<4>().map_or(0, |head| u32::from_be_bytes(*head) as usize);
        let Some(body) = first.get(wire::LEN_LEN..wire::LEN_LEN + len).filter(|body| !body.is_empty()) else {
            self.conns[conn].first = first;
            return;
        };
        let Ok(Frame::Resume { claim, proof }) = Frame::parse(body) else {
            return self.broken("a client resumes", format!("{first:?}"));
        };
        if first.len() > wire::LEN_LEN + len {
            self.broken("nothing follows a Resume", format!("{first:?}"));
        }
        let exporter = Exporter::new(Secret::new(self.conns[conn].exporter));
        let (key, dummy) = (ResumeKey::new(&Secret::new(SECRET)), ResumeKey::new(&Secret::new([0; 32])));
        if ResumeKey::judge(Some(((), &key)), &dummy, &exporter, &claim, proof).is_none() {
            self.broken("a proof is right", String::new());
        }
        match self.sides[SERVER].endpoint.attach(self.now, &claim) {
            Attach::Attached(epoch) => self.conns[conn].epochs[SERVER] = Some(epoch),
            Attach::Stale => self.drop_conn(conn, SERVER),
            Attach::Over(tombstone) => {
                let there = &self.sides[SERVER];
                // The answer to the end of a client.
                let answer = self.sides[CLIENT].said.as_ref().map(|_| &ExitReason::NoConnection);
                let reasons = [there.endpoint.over(), there.said.as_ref(), answer];
                if tombstone.as_ref().is_some_and(|tombstone| !reasons.contains(&Some(&tombstone.reason))) {
                    self.broken("a tombstone never lies", format!("{tombstone:?}"));
                }
                // The record may be gone.
                let tombstone = tombstone.filter(|_| !self.rng.once_in(8));
                let mut frame = Vec::new();
                Frame::Lost { tombstone }.put(&mut frame);
                self.conns[conn].pipes[SERVER].write(&frame, self.now);
                self.drop_conn(conn, SERVER);
            }
        }
        self.after(SERVER);
    }

    /// A driver reports what the stream took before anything else happens to it.
    fn report_accepted(&mut self, side: usize) {
        for conn in 0..self.conns.len() {
            if self.conns[conn].unaccepted[side] > 0 {
                self.accept(conn, side);
            }
        }
    }

    fn timer(&mut self, side: usize) {
        self.report_accepted(side);
        let stop = self.sides[side].endpoint.handle_timeout(self.now);
        let late = self.sides[side].endpoint.poll_timeout().is_some_and(|at| at <= self.now);
        if late {
            self.broken("a time-out that is handled and still due", format!("{side}"));
        }
        self.after(side);
        if stop {
            self.drop_if_over(side);
            self.drop_stale(side, None);
        }
    }

    /// Drops the connections of this end that are not attached, but for `spared`.
    fn drop_stale(&mut self, side: usize, spared: Option<usize>) {
        for conn in 0..self.conns.len() {
            let epoch = self.conns[conn].epochs[side];
            let stale = epoch.is_some() && epoch != self.sides[side].endpoint.attached();
            if stale && spared != Some(conn) && !self.conns[conn].dropped[side] {
                self.drop_conn(conn, side);
            }
        }
    }

    fn drop_if_over(&mut self, side: usize) {
        if self.sides[side].endpoint.session().is_lost() {
            for conn in 0..self.conns.len() {
                if !self.conns[conn].dropped[side] && self.conns[conn].epochs[side].is_some() {
                    self.drop_conn(conn, side);
                }
            }
        }
    }

    /// This end closes a connection.
    fn drop_conn(&mut self, conn: usize, side: usize) {
        self.report_accepted(side);
        let link = &mut self.conns[conn];
        link.dropped[side] = true;
        link.pipes[side].finish(self.now);
        if !self.haunted || self.calm {
            link.pipes[1 - side].break_off();
            link.batches[side] = Batch::default();
        }
        if let Some(epoch) = link.epochs[side] {
            self.sides[side].endpoint.handle_loss(epoch, self.now);
            self.after(side);
        }
        // Of a session that is lost, no driver writes what is left.
        if self.sides[side].endpoint.session().is_lost() {
            self.conns[conn].batches[side] = Batch::default();
        }
    }

    /// The client dials. Now and then it does so while it has a connection.
    fn dial(&mut self) {
        if self.is_over(CLIENT) || self.conns.len() >= 64 {
            return;
        }
        if self.sides[CLIENT].endpoint.attached().is_some() && (self.calm || !self.rng.once_in(8)) {
            return;
        }
        let conn = self.add_conn([None; 2]);
        let exporter = Exporter::new(Secret::new(self.conns[conn].exporter));
        let epoch = self.sides[CLIENT].endpoint.resume(self.now, &exporter);
        self.after(CLIENT);
        match epoch {
            Some(epoch) => self.conns[conn].epochs[CLIENT] = Some(epoch),
            None => drop(self.conns.pop()),
        }
        self.drop_stale(CLIENT, None);
    }

    // Faults.

    fn cut(&mut self, conn: usize) {
        for pipe in &mut self.conns[conn].pipes {
            pipe.finish(self.now);
            pipe.break_off();
        }
    }

    fn fault(&mut self) {
        // The youngest are the ones that matter.
        let back = self.rng.below(3).min(self.conns.len() - 1);
        let conn = self.conns.len() - 1 - back;
        let (side, after) = (self.rng.below(2), self.rng.pick(&[0, 0, 3, 20, 60, 200]));
        let after = self.rng.below(after + 1);
        match self.rng.below(8) {
            0 | 1 => {
                self.counts.cuts += 1;
                self.cut(conn);
            }
            2..5 => {
                self.counts.cuts += 1;
                self.conns[conn].pipes[side].cut_after(after);
            }
            5 => {
                self.counts.resets += 1;
                let now = self.now;
                self.conns[conn].pipes.iter_mut().for_each(|pipe| pipe.reset(now));
            }
            _ => {
                self.counts.half_opens += 1;
                self.conns[conn].pipes[side].open_hole(after);
                if self.rng.once_in(2) {
                    self.conns[conn].pipes[1 - side].open_hole(0);
                }
            }
        }
    }

    // Time.

    fn next_time(&self) -> Option<Instant> {
        let arrivals = self.conns.iter().flat_map(|conn| conn.pipes.iter().filter_map(Pipe::next_arrival));
        let timers = self.sides.iter().filter_map(|side| side.endpoint.poll_timeout());
        arrivals.chain(timers).filter(|at| *at > self.now).min()
    }

    fn pass_time(&mut self) {
        if let Some(next) = self.next_time() {
            self.now = next;
        }
    }

    /// Whether bytes are on their way to somebody who reads them.
    fn is_under_way(&self) -> bool {
        let unread = |conn: &Conn, side: usize| !conn.dropped[side] && conn.pipes[1 - side].has_unread();
        self.conns.iter().any(|conn| unread(conn, CLIENT) || unread(conn, SERVER))
    }

    /// Time passes, and what is due meanwhile is done.
    fn advance(&mut self, to: Instant) {
        while let Some(next) = self.next_time().filter(|next| *next <= to) {
            self.now = next;
            for side in [CLIENT, SERVER] {
                if self.sides[side].endpoint.poll_timeout().is_some_and(|at| at <= next) {
                    self.timer(side);
                    // What this has appended is written before more time passes.
                    if self.sides[side].endpoint.session().has_output() {
                        return;
                    }
                }
            }
        }
        self.now = to;
    }

    // What users do.

    fn use_it(&mut self, side: usize) {
        if !self.sides[side].opened {
            return;
        }
        match self.rng.below(24) {
            0..6 => self.cast(side),
            6..11 => self.call(side),
            11..15 => self.take(side),
            15..18 => self.reply(side),
            18 => {
                let there = &mut self.sides[side];
                let flush = there.endpoint.session_mut().flush();
                there.flushes.push(flush);
                self.after(side);
            }
            19 => self.give_up(side),
            20 => self.monitor(side),
            21 => self.down(side),
            22 if self.rng.once_in(12) => self.let_go(side),
            23 if self.rng.once_in(24) => {
                let reason = ExitReason::Revoked;
                if !self.is_over(side) {
                    self.sides[side].ended_by_us = Some(reason.clone());
                    self.sides[side].endpoint.session_mut().break_off(reason);
                    self.after(side);
                }
            }
            _ => {}
        }
    }

    fn payload(&mut self, token: u64) -> Vec<u8> {
        let most = if self.rng.once_in(4) { self.payload } else { 40 };
        let mut payload = vec![token as u8; 8 + self.rng.below(most)];
        payload[..8].copy_from_slice(&token.to_be_bytes());
        payload
    }

    fn cast(&mut self, side: usize) {
        let token = self.sides[side].last_token + 1;
        let mut payload = self.payload(token);
        let there = &mut self.sides[side];
        match there.endpoint.session_mut().cast(self.now, &mut payload) {
            Ok(None) => (there.last_token, there.sent) = (token, token),
            Ok(Some(ticket)) => {
                there.last_token = token;
                there.tickets.push(ticket);
            }
            Err(_) => {}
        }
        self.after(side);
    }

    fn call(&mut self, side: usize) {
        let token = self.sides[side].last_token + 1;
        let mut payload = self.payload(token);
        let millis = self.rng.pick(&[1, 500, 5_000, 5_000, 3_600_000]);
        let (now, deadline) = (self.now, self.now + Duration::from_millis(millis));
        let there = &mut self.sides[side];
        if let Ok(call) = there.endpoint.session_mut().call(now, deadline, &mut payload) {
            self.counts.calls += 1;
            there.last_token = token;
            there.calls.insert(token, Asked { call, deadline, outcome: None, given_up: false });
        }
        self.after(side);
    }

    fn take(&mut self, side: usize) {
        let now = self.now;
        let Some(mut reader) = self.sides[side].reader.take() else { return };
        for _ in 0..1 + self.rng.below(20) {
            let there = &mut self.sides[side];
            if reader.must_fetch() && !there.endpoint.fetch(&mut reader, |_| ()) {
                break;
            }
            let Next::Message(message, give_back) = reader.take() else { break };
            if give_back {
                there.endpoint.give_back();
            }
            let token = token_of(&message.payload);
            let expected = there.seen + 1;
            there.missing.extend(expected..token);
            there.seen = token.max(there.seen);
            let call = match message.kind {
                InboundKind::Cast => None,
                InboundKind::Call { call } => Some(call),
            };
            let wanted = call.is_none_or(|call| there.endpoint.session_mut().wants_answer(call, now));
            if wanted {
                there.executed.insert(token);
                there.owed.extend(call.map(|call| (call, token)));
            }
            let far = &self.sides[1 - side];
            if token < expected {
                self.broken("nothing comes twice, or late", format!("{side} {token} after {}", expected - 1));
            } else if let Some(cast) = (expected..token).find(|token| !far.calls.contains_key(token)) {
                self.broken("nothing is left out", format!("{side} {cast} before {token}"));
            } else if let Some(asked) = far.calls.get(&token).filter(|_| wanted) {
                let said_no = matches!(&asked.outcome, Some(Err(error)) if error.executed == Executed::No);
                if said_no || now > asked.deadline + SLACK {
                    self.broken("a call is executed in time", format!("{side} {token} {asked:?} {now:?}"));
                }
            }
        }
        self.sides[side].reader = Some(reader);
        self.after(side);
    }

    fn reply(&mut self, side: usize) {
        let len = self.sides[side].owed.len();
        if len == 0 {
            return;
        }
        let (call, token) = self.sides[side].owed.swap_remove(self.rng.below(len));
        let mut payload = self.payload(token);
        self.sides[side].endpoint.session_mut().reply(call, &mut payload);
        self.after(side);
    }

    fn give_up(&mut self, side: usize) {
        let there = &mut self.sides[side];
        let pending = |asked: &&mut Asked| asked.outcome.is_none() && !asked.given_up;
        if let Some(asked) = there.calls.values_mut().find(pending) {
            asked.given_up = true;
            there.endpoint.session_mut().cancel_call(self.now, asked.call);
        }
        self.after(side);
    }

    fn monitor(&mut self, side: usize) {
        // The id of the other end's process: both hand out one.
        let far = self.ids[1 - side];
        let there = &mut self.sides[side];
        if far == 0 || there.monitors.len() > 20 || there.endpoint.over().is_some() {
            return;
        }
        let reference = there.monitors.len() as u64 + 1;
        there.monitors.insert(reference, false);
        there.endpoint.session_mut().monitor(1, reference, far);
        self.after(side);
    }

    fn down(&mut self, side: usize) {
        let there = &mut self.sides[side];
        if let Some(monitor) = there.watched.pop() {
            there.endpoint.session_mut().down(monitor, 0, ExitReason::Normal);
            self.after(side);
        }
    }

    fn let_go(&mut self, side: usize) {
        let there = &mut self.sides[side];
        if there.endpoint.over().is_none() && there.ended_by_us.is_none() {
            there.ended_by_us = Some(ExitReason::Normal);
            there.said = Some(ExitReason::Normal);
        }
        there.endpoint.let_go(self.now, ExitReason::Normal);
        self.after(side);
    }

    // How it ends.

    /// Nobody does anything new, and no connection is hurt any more.
    fn settle(&mut self) {
        for step in 0.. {
            if !self.violations.is_empty() {
                return;
            }
            if step > 200_000 {
                let detail = format!("{:?} {:?}", self.sides[0].endpoint.connection(), self.next_time());
                return self.broken("it comes to rest", detail);
            }
            for side in [CLIENT, SERVER] {
                if step % 8 == 0 {
                    self.take(side);
                    self.reply(side);
                }
            }
            if self.drive() {
                continue;
            }
            let before = self.sides.each_ref().map(|side| (side.seen, side.owed.len()));
            for side in [CLIENT, SERVER] {
                self.take(side);
                self.reply(side);
            }
            if before != self.sides.each_ref().map(|side| (side.seen, side.owed.len())) || self.drive() {
                continue;
            }
            let ends = [CLIENT, SERVER].map(|side| self.is_over(side));
            if ends == [true; 2] || self.is_quiet() {
                return;
            }
            if !ends[CLIENT] && self.sides[CLIENT].endpoint.attached().is_none() {
                self.dial();
            }
            // The youngest connection may be one that was hurt before.
            match self.next_time() {
                Some(next) => self.now = next,
                None => return,
            }
        }
    }

    /// Both ends are attached to each other, and nothing is under way.
    fn is_quiet(&self) -> bool {
        let [client, server] = self.sides.each_ref().map(|side| side.endpoint.attached());
        let quiet = |side: &Side| {
            side.detached.is_none()
                && side.endpoint.session().unsent() == 0
                && !side.endpoint.session().has_let_go()
                && side.flushes.is_empty()
                && side.calls.values().all(|asked| asked.outcome.is_some() || asked.given_up)
        };
        let came = |from: usize| self.sides[1 - from].seen >= self.sides[from].sent;
        client.is_some()
            && client == server
            && self.sides.iter().all(quiet)
            && came(CLIENT)
            && came(SERVER)
            && !self.conns.iter().any(|conn| {
                conn.epochs[CLIENT] == client
                    && (conn.pipes.iter().any(|pipe| pipe.has_unread() || pipe.has_hole()))
            })
    }

    /// Nothing is under way: everything that was sent has come.
    fn check_all_came(&mut self) {
        if !self.violations.is_empty() || [CLIENT, SERVER].iter().any(|side| self.is_over(*side)) {
            return;
        }
        for side in [CLIENT, SERVER] {
            let (near, far) = (&self.sides[side], &self.sides[1 - side]);
            let left = (far.seen + 1..=near.last_token).find(|token| !near.calls.contains_key(token));
            if let Some(token) = left {
                self.broken("everything sent has come", format!("{side} {token}"));
            }
            let near = &self.sides[side];
            let far_missing = &self.sides[1 - side].missing;
            let unclear = far_missing.iter().find(|token| {
                near.calls.get(token).is_some_and(|asked| {
                    !asked.given_up
                        && !matches!(&asked.outcome, Some(Err(error)) if error.reason == CallFailure::Deadline)
                })
            });
            if let Some(token) = unclear {
                self.broken("only what was late is left out", format!("{side} {token}"));
            }
        }
    }

    fn check_end(&mut self) {
        if !self.violations.is_empty() {
            return;
        }
        for side in [CLIENT, SERVER] {
            let there = &mut self.sides[side];
            while !there.endpoint.leave() {
                while let Some(event) = there.endpoint.poll(Who::Driver, 0) {
                    drop(event);
                }
            }
            self.after(side);
            let there = &mut self.sides[side];
            // Those that nobody looks at any more.
            there.endpoint.let_go(self.now, ExitReason::Normal);
            let opened = there.opened;
            let unanswered = there.calls.values().any(|asked| asked.outcome.is_none() && !asked.given_up);
            let endless = there.monitors.values().any(|ended| !ended);
            let entries = there.endpoint.entries();
            if !there.endpoint.over().is_some_and(|_| there.closed) {
                self.broken("a session ends", format!("{side} {opened}"));
            } else if unanswered || endless || entries > 0 {
                let detail = format!("{side} {unanswered} {endless} {entries}");
                self.broken("at the end nothing is left of anything", detail);
            }
        }
    }
}

fn token_of(payload: &[u8]) -> u64 {
    payload.first_chunk().map_or(0, |token| u64::from_be_bytes(*token))
}
