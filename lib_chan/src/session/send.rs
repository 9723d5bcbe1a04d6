//! What this end sends: casts, calls, answers; and what waits for credit, a slot or room.

use std::time::Instant;

use super::{
    Flush, Host, MAX_CALL_TIME, Outcome, Phase, Session, Sort, Unsendable, Waiting,
    border::OWNER,
    credit::{Balance, cost},
    public,
};
use crate::{
    CallError, CallFailure, Executed, ExitReason,
    wire::{self, Frame, RefuseCode, Terms},
};

/// Messages wait for room while this much is unsent: so one that is given up has not been sent.
const MAX_UNSENT_BEFORE_WAIT: usize = 256 * 1024;
/// However many calls the peer allows: it may leave them unanswered, and each keeps its place here until the end.
const MAX_CALLS_IN_FLIGHT: u64 = 65_536;

impl<H: Host> Session<H> {
    /// The most bytes that a payload to the peer may have.
    pub const fn max_payload_len(&self) -> usize {
        self.max_far_frame_len - wire::MAX_OVERHEAD
    }

    /// Sends a cast to the far owner, or puts it in the queue: then a ticket to [`poll_cast`](Self::poll_cast) with.
    ///
    /// # Errors
    /// When the session is over or the payload too long.
    pub fn cast(&mut self, now: Instant, payload: &mut Vec<u8>) -> Result<Option<u64>, Unsendable> {
        if self.may_send(payload)? {
            self.put_cast(payload);
            return Ok(None);
        }
        self.last_ticket += 1;
        self.enqueue(now, Sort::Cast, self.last_ticket, payload);
        Ok(Some(self.last_ticket))
    }

    /// Sends a cast to the far owner if it need not wait.
    ///
    /// # Errors
    /// When the session is over, the payload too long, or it would have to wait.
    pub fn try_cast(&mut self, payload: &mut Vec<u8>) -> Result<(), Unsendable> {
        if !self.may_send(payload)? {
            return Err(Unsendable::WouldWait);
        }
        self.put_cast(payload);
        Ok(())
    }

    /// Sends a cast to a process that the peer has handed out, if it need not wait.
    ///
    /// # Errors
    /// As [`try_cast`](Self::try_cast).
    pub fn try_cast_to(&mut self, far: u64, payload: &mut Vec<u8>) -> Result<(), Unsendable> {
        let may_send = self.may_send(payload)?;
        let window = self.far_window;
        let balance = self.far_balances.entry(far).or_insert_with(|| Balance::new(window));
        if !may_send || !balance.is_positive() {
            return Err(Unsendable::WouldWait);
        }
        balance.spend(cost(payload.len()));
        self.outgoing.put_owned(|payload| Frame::Cast { to: far, payload }, payload);
        Ok(())
    }

    /// Whether a cast in the queue has been sent; else keeps a waiter.
    ///
    /// # Errors
    /// [`Unsendable::Ended`] when it never will be.
    pub fn poll_cast(
        &mut self,
        ticket: u64,
        waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter,
    ) -> Option<Result<(), Unsendable>> {
        if self.sent_tickets.remove(&ticket) {
            return Some(Ok(()));
        }
        if let Some(waiting) = self.place(ticket).and_then(|place| self.waiting.get_mut(place)) {
            waiting.waiter = Some(waiter(waiting.waiter.take()));
            return None;
        }
        Some(Err(Unsendable::Ended(self.over_reason())))
    }

    /// Takes a cast back that is still in the queue: it will not be sent.
    pub fn withdraw_cast(&mut self, now: Instant, ticket: u64) {
        self.withdraw(now, ticket);
        self.sent_tickets.remove(&ticket);
    }

    /// Calls the far owner: the id to [`poll_call`](Self::poll_call) with.
    ///
    /// # Errors
    /// When the session is over or the payload too long: the call was not made.
    pub fn call(
        &mut self,
        now: Instant,
        deadline: Instant,
        payload: &mut Vec<u8>,
    ) -> Result<u64, Unsendable> {
        self.ask(now, deadline.min(now + MAX_CALL_TIME), Sort::Call, payload)
    }

    /// Asks when all that was sent before has been taken by the far owner: a call that nobody may execute, since its
    /// time is over when it comes, and that is therefore refused as soon as its turn has come. Its outcome is had
    /// with [`poll_call`](Self::poll_call); a refusal is the answer.
    ///
    /// # Errors
    /// When the session is over.
    pub fn mark(&mut self, now: Instant) -> Result<u64, Unsendable> {
        self.ask(now, now + MAX_CALL_TIME, Sort::Mark, &mut Vec::new())
    }

    fn ask(
        &mut self,
        now: Instant,
        deadline: Instant,
        sort: Sort,
        payload: &mut Vec<u8>,
    ) -> Result<u64, Unsendable> {
        let at_once = self.may_send(payload)? && self.has_slot();
        // The ticket is the call's id: tickets leave the queue in order, so the ids on the wire only grow.
        self.last_ticket += 1;
        let call = self.last_ticket;
        self.asking.begin(call, deadline);
        if at_once {
            self.put_call(now, call, sort, payload);
        } else {
            self.enqueue(now, sort, call, payload);
        }
        Ok(call)
    }

    /// The outcome of a call, once; else keeps a waiter.
    pub fn poll_call(
        &mut self,
        call: u64,
        waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter,
    ) -> Option<Outcome> {
        self.asking.poll(call, waiter)
    }

    /// The caller gave up: the far side is told if the call went out. Of very many given up at once it learns by their
    /// deadlines only.
    pub fn cancel_call(&mut self, now: Instant, call: u64) {
        self.withdraw(now, call);
        if self.asking.abandon(call) && self.can_put() && self.own_cancels.spend(now) {
            self.outgoing.put(&Frame::Cancel { call });
        }
    }

    /// Answers a call of the peer's. One that nobody knows (any more) is ignored.
    pub fn reply(&mut self, call: u64, payload: &mut Vec<u8>) {
        let max = self.max_payload_len();
        if payload.len() > max {
            return self.refuse(
                call,
                RefuseCode::AnswerTooLong,
                &format!("the answer is longer than {max} bytes"),
            );
        }
        if self.owing.answer(call) && self.can_put() {
            self.outgoing.put_owned(|payload| Frame::Reply { call, payload }, payload);
            self.owing.answered(self.outgoing.appended);
            self.check_unsent();
        }
    }

    /// Refuses a call of the peer's.
    pub fn refuse(&mut self, call: u64, code: RefuseCode, text: &str) {
        if self.owing.answer(call) && self.can_put() {
            self.outgoing.put(&Frame::Refuse { call, code, text: public(text) });
            self.owing.answered(self.outgoing.appended);
            self.check_unsent();
        }
    }

    /// True when nobody waits for the answer of this call any more; else keeps a waiter.
    pub fn poll_cancelled(&mut self, call: u64, waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter) -> bool {
        self.owing.poll_cancelled(call, waiter)
    }

    /// Asks the peer to acknowledge all that was sent: what to [`poll_flushed`](Self::poll_flushed) with. Messages in
    /// the queue are not sent yet, and are not waited for.
    pub fn flush(&mut self) -> Flush {
        self.last_flush = Flush { number: self.outgoing.number, ticket: self.last_flush.ticket + 1 };
        self.ping_for_flush();
        self.last_flush
    }

    /// One ping at a time, however many flush: their answers are reflections, of which the peer has a bound.
    pub(super) fn ping_for_flush(&mut self) {
        let wanted = self.acked < self.last_flush.number && self.flush_pinged <= self.acked;
        if wanted && self.can_put() {
            self.flush_pinged = self.outgoing.number;
            self.outgoing.put(&Frame::Ping { token: self.outgoing.number });
        }
    }

    /// Nobody waits for this any more.
    pub fn forget_flush(&mut self, flush: Flush) {
        self.flushing.remove(&flush);
    }

    /// Whether the peer has acknowledged all that was sent before; else keeps a waiter.
    ///
    /// # Errors
    /// The session's end, when it came first.
    pub fn poll_flushed(
        &mut self,
        flush: Flush,
        waiter: impl FnOnce() -> H::Waiter,
    ) -> Option<Result<(), ExitReason>> {
        if self.acked >= flush.number {
            return Some(Ok(()));
        }
        if self.heard_all {
            return Some(Err(self.over_reason()));
        }
        self.flushing.insert(flush, waiter());
        None
    }

    pub(super) fn own_terms(&self) -> Terms {
        Terms { max_calls: self.limits.max_calls as u64, max_links: self.limits.max_links as u64 }
    }

    /// Nothing follows an `Ended`.
    pub(super) const fn can_put(&self) -> bool {
        !self.let_go
    }

    /// Whether a message may go at once; an error when it never may.
    fn may_send(&self, payload: &[u8]) -> Result<bool, Unsendable> {
        if self.let_go || self.over.is_some() {
            return Err(Unsendable::Ended(self.over_reason()));
        }
        let max = self.max_payload_len();
        if payload.len() > max {
            return Err(Unsendable::TooLong { max });
        }
        Ok(self.waiting.is_empty() && self.has_room())
    }

    /// Messages wait for the opening, too.
    fn has_room(&self) -> bool {
        self.phase == Phase::Open
            && self.balance.is_positive()
            && self.outgoing.unsent() < MAX_UNSENT_BEFORE_WAIT
    }

    fn has_slot(&self) -> bool {
        self.asking.in_flight() < self.far_terms.max_calls.min(MAX_CALLS_IN_FLIGHT)
    }

    fn put_cast(&mut self, payload: &mut Vec<u8>) {
        self.balance.spend(cost(payload.len()));
        self.outgoing.put_owned(|payload| Frame::Cast { to: OWNER, payload }, payload);
    }

    fn put_call(&mut self, now: Instant, call: u64, sort: Sort, payload: &mut Vec<u8>) {
        let Some(deadline) = self.asking.deadline(call) else { return };
        // Rounded up: the callee must not give up before the caller does.
        let left = deadline.saturating_duration_since(now).as_nanos().div_ceil(1_000_000) as u64;
        if deadline <= now {
            let late = CallError::new(Executed::No, CallFailure::Deadline);
            return self.asking.fail(call, late, &mut self.woken);
        }
        let left = if sort == Sort::Mark { 0 } else { left };
        self.balance.spend(cost(payload.len()));
        let number =
            self.outgoing.put_owned(|payload| Frame::Call { to: OWNER, call, left, payload }, payload);
        self.asking.sent(call, number, self.outgoing.appended);
    }

    fn enqueue(&mut self, now: Instant, sort: Sort, ticket: u64, payload: &mut Vec<u8>) {
        let payload = std::mem::take(payload);
        self.waiting.push_back(Waiting { ticket, sort, payload, waiter: None });
        self.pump(now);
    }

    /// Where in the queue a message waits.
    fn place(&self, ticket: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()
    }

    fn withdraw(&mut self, now: Instant, ticket: u64) {
        if let Some(place) = self.place(ticket) {
            self.waiting.remove(place);
            self.pump(now);
        }
    }

    /// Sends what waits, first come first served, as far as credit, slots and room go.
    pub(super) fn pump(&mut self, now: Instant) {
        while !self.let_go
            && self.has_room()
            && let Some(first) = self.waiting.front()
        {
            if first.sort != Sort::Cast && !self.has_slot() {
                break;
            }
            let Some(mut first) = self.waiting.pop_front() else { break };
            match first.sort {
                Sort::Call | Sort::Mark => self.put_call(now, first.ticket, first.sort, &mut first.payload),
                Sort::Cast => {
                    self.put_cast(&mut first.payload);
                    self.sent_tickets.insert(first.ticket);
                }
            }
            self.woken.extend(first.waiter);
        }
    }

    /// A peer that takes nothing and asks for much is not waited for.
    pub(super) fn check_unsent(&mut self) {
        if self.outgoing.unsent() > self.limits.max_unsent + self.max_far_frame_len
            || self.outgoing.reflections() > self.limits.max_reflections
        {
            self.break_off(ExitReason::Overload);
        }
    }
}
