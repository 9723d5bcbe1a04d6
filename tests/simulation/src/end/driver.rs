//! The model of a driver: it writes, reads, sleeps and is woken as the middleman is.

use std::time::{Duration, Instant};

use lib_chan::{
    session::{Batch, Endpoint, FIRST_EPOCH, Rest, Who},
    wire::{self, Frame},
};

use super::{DRIVERS, Drive, LAST_WORDS, Writing};
use crate::{
    log::{At, Pid, Tapped, What},
    net::Wrote,
    world::{Violation, World},
};

impl World {
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
        let Some(endpoint) = &end.endpoint else { return };
        let session = endpoint.session();
        if end.unaccepted > 0 {
            into.push((at, Drive::Accept));
        } else if !end.at_end && (inn.arrived(self.now) > 0 || inn.is_at_end(self.now)) {
            into.push((at, Drive::Read));
        }
        if end.writing == Writing::Open {
            let has = !end.batch.chunk().is_empty();
            let is_fed = !has && !end.asleep && (session.has_output() || session.has_let_go());
            if is_fed || (has && out.is_writable()) {
                into.push((at, Drive::Write));
            }
        }
        if !end.is_idle() || (!end.asleep && endpoint.has_deliveries()) {
            into.push((at, Drive::Deliver));
        }
        let timer = if end.asleep { end.armed } else { endpoint.poll_timeout() };
        if timer.is_some_and(|due| due <= self.now) || end.last_call.is_some_and(|due| due <= self.now) {
            into.push((at, Drive::Timer));
        }
    }

    /// Lets a driver sleep that has nothing to do.
    fn rest_driver(&mut self, at: At) {
        let end = self.end(at);
        let hungry = end.is_hungry();
        let Some(endpoint) = end.endpoint.as_mut().filter(|_| !end.gone && !end.asleep) else { return };
        match endpoint.sleep(DRIVERS + at.number(), hungry, None) {
            Rest::Until(until) => (end.asleep, end.armed) = (true, until),
            Rest::Work => self.after(at, Who::Driver),
        }
    }

    /// A driver sleeps although it has something to do: nobody woke it.
    pub(crate) fn look_for_sleeping_driver(&mut self, at: At) {
        let end = self.end(at);
        let Some(endpoint) = end.endpoint.as_ref().filter(|_| end.asleep && !end.gone) else { return };
        let session = endpoint.session();
        let output = end.is_hungry() && (session.has_output() || session.has_let_go());
        let earlier = endpoint.poll_timeout().is_some_and(|at| end.armed.is_none_or(|armed| at < armed));
        if output || earlier || endpoint.has_deliveries() {
            let detail = format!("{at:?}: output {output}, time {earlier}");
            self.violations.push(Violation::new("the driver was not woken", detail));
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
        let timeout =
            if end.asleep { end.armed } else { end.endpoint.as_ref().and_then(Endpoint::poll_timeout) };
        let login = end.login.as_ref().map(|login| login.deadline);
        [arrival, timeout, login, end.last_call].into_iter().flatten().min()
    }

    pub(crate) fn drive(&mut self, at: At, drive: Drive) {
        let end = self.end(at);
        if std::mem::take(&mut end.asleep)
            && let Some(endpoint) = &mut end.endpoint
        {
            endpoint.rise();
        }
        match drive {
            Drive::Write => self.write(at),
            Drive::Accept => self.accept_written(at),
            Drive::Read => self.read(at),
            Drive::Deliver => {
                self.after(at, Who::Driver);
                self.deliver(at);
            }
            Drive::Timer => self.timer(at),
            Drive::Login => self.drive_login(at),
        }
        self.rest_driver(at);
    }

    fn write(&mut self, at: At) {
        self.accept_written(at);
        let now = self.now;
        let end = &mut self.conns[usize::from(at.conn)].ends[at.side as usize];
        if end.batch.chunk().is_empty() {
            let mut batch = std::mem::take(&mut end.batch);
            let last = self.driver(at, |endpoint, now| endpoint.transmit(FIRST_EPOCH, now, &mut batch));
            let end = self.end(at);
            end.batch = batch;
            if end.batch.chunk().is_empty() {
                if last == Some(true) {
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
            self.driver(at, |endpoint, now| endpoint.handle_accepted(FIRST_EPOCH, now, len));
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
                && from != 0
                && let Some(Pid::Local(proc)) = end.session().and_then(|session| session.named(from))
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
            self.driver(at, |endpoint, now| endpoint.handle_loss(FIRST_EPOCH, now));
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
        let untaken = end.untaken;
        self.note(What::Read { at, upto });
        self.driver(at, |endpoint, now| {
            if !endpoint.session().is_over() {
                endpoint.handle_bytes(FIRST_EPOCH, now, &piece, untaken);
            }
        });
        self.scratch = piece;
    }

    fn timer(&mut self, at: At) {
        let now = self.now;
        if self.end(at).last_call.is_some_and(|due| due <= now) {
            return self.finish_driver(at);
        }
        if self.driver(at, |endpoint, now| endpoint.handle_timeout(now)) == Some(true) {
            self.end(at).batch = Batch::default();
            self.stop_writing(at);
        }
        let due = self.end(at).endpoint.as_ref().and_then(Endpoint::poll_timeout);
        if due.is_some_and(|due| due <= now) {
            self.violations
                .push(Violation::new("a time-out that is handled and still due", format!("{at:?}")));
        }
    }

    /// The driver ends: the session has its end, and all that is due is delivered.
    pub(crate) fn finish_driver(&mut self, at: At) {
        while self.driver(at, |endpoint, _| endpoint.leave()) == Some(false) {
            while self.deliver(at) {}
        }
        while self.deliver(at) {}
        self.end(at).gone = true;
        self.after(at, Who::User);
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
}
