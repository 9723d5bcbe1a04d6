//! Output of a session: casts, calls and answers; and messages that wait for credit, a slot or room.

use std::time::Instant;

use super::{
    Flush, Host, MAX_CALL_TIME, Outcome, Session, Unsendable,
    answers::part_len,
    border::OWNER,
    call::millis_left,
    credit::{Balance, cost},
    public,
    queue::Sort,
};
use crate::{
    CallError, CallFailure, Executed, ExitReason,
    wire::{self, Frame, RefuseCode},
};

/// Messages wait for room while this many bytes are unsent. A waiting message that is given up has not been sent.
const MAX_UNSENT_BEFORE_WAIT: usize = 256 * 1024;
/// The most calls in flight, whatever the peer allows. The peer may leave them unanswered, and each occupies memory
/// until the end.
const MAX_CALLS_IN_FLIGHT: u64 = 65_536;

impl<H: Host> Session<H> {
    /// Returns the most bytes that a payload to the peer may have.
    pub const fn max_payload_len(&self) -> usize {
        self.peer.max_frame_len - wire::MAX_OVERHEAD
    }

    /// Sends a cast to the far owner, or queues it and returns a ticket for [`poll_cast`](Self::poll_cast).
    ///
    /// # Errors
    /// The session is over, or the payload is too long.
    pub fn cast(&mut self, now: Instant, payload: &mut Vec<u8>) -> Result<Option<u64>, Unsendable> {
        if self.may_send(payload)? {
            self.put_cast(payload);
            return Ok(None);
        }
        let ticket = self.queue.next_ticket();
        self.enqueue(now, Sort::Cast, ticket, payload);
        Ok(Some(ticket))
    }

    /// Sends a cast to the far owner if it need not wait.
    ///
    /// # Errors
    /// The session is over, the payload is too long, or the cast would have to wait.
    pub fn try_cast(&mut self, payload: &mut Vec<u8>) -> Result<(), Unsendable> {
        if !self.may_send(payload)? {
            return Err(Unsendable::WouldWait);
        }
        self.put_cast(payload);
        Ok(())
    }

    /// Sends these casts to the far owner, in order, until one would have to wait. Returns how many were sent.
    ///
    /// # Errors
    /// The session is over, or the next payload is too long.
    pub fn try_cast_each<'p>(
        &mut self,
        payloads: impl Iterator<Item = &'p [u8]>,
    ) -> Result<usize, Unsendable> {
        let mut sent = 0;
        for payload in payloads {
            if !self.may_send(payload)? {
                break;
            }
            self.peer.balance.spend(cost(payload.len()));
            self.outgoing.put(&Frame::Cast { to: OWNER, payload });
            sent += 1;
        }
        Ok(sent)
    }

    /// Sends a cast to a process that the peer has handed out, if it need not wait.
    ///
    /// # Errors
    /// Those of [`try_cast`](Self::try_cast).
    pub fn try_cast_to(&mut self, far: u64, payload: &mut Vec<u8>) -> Result<(), Unsendable> {
        let may_send = self.may_send(payload)?;
        let window = self.peer.window;
        let balance = self.peer.balances.entry(far).or_insert_with(|| Balance::new(window));
        if !may_send || !balance.is_positive() {
            return Err(Unsendable::WouldWait);
        }
        balance.spend(cost(payload.len()));
        self.outgoing.put_owned(|payload| Frame::Cast { to: far, payload }, payload);
        Ok(())
    }

    /// Returns the outcome of a queued cast. While it waits, stores a waiter.
    ///
    /// # Errors
    /// [`Unsendable::Ended`] if the cast will never be sent.
    pub fn poll_cast(
        &mut self,
        ticket: u64,
        waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter,
    ) -> Option<Result<(), Unsendable>> {
        if self.queue.take_sent(ticket) {
            return Some(Ok(()));
        }
        if self.queue.wait(ticket, waiter) {
            return None;
        }
        Some(Err(Unsendable::Ended(self.over_reason())))
    }

    /// Withdraws a cast that is still in the queue, so that it is not sent.
    pub fn withdraw_cast(&mut self, now: Instant, ticket: u64) {
        self.withdraw(now, ticket);
        self.queue.take_sent(ticket);
    }

    /// Calls the far owner. Returns the id for [`poll_call`](Self::poll_call).
    ///
    /// # Errors
    /// The session is over, or the payload is too long. The call was not made.
    pub fn call(
        &mut self,
        now: Instant,
        deadline: Instant,
        payload: &mut Vec<u8>,
    ) -> Result<u64, Unsendable> {
        self.ask(now, deadline.min(now + MAX_CALL_TIME), Sort::Call, payload)
    }

    /// Asks for the time at which the far owner has taken everything sent before. Sends a call that nobody may
    /// execute, because its time is over when it arrives. It is refused as soon as its turn has come.
    /// [`poll_call`](Self::poll_call) returns the outcome; a refusal is the answer.
    ///
    /// # Errors
    /// The session is over.
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
        let call = self.queue.next_ticket();
        self.asking.begin(call, deadline);
        if at_once {
            self.put_call(now, call, sort, payload);
        } else {
            self.enqueue(now, sort, call, payload);
        }
        Ok(call)
    }

    /// Returns the outcome of a call, once. Until then, stores a waiter.
    pub fn poll_call(
        &mut self,
        call: u64,
        waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter,
    ) -> Option<Outcome> {
        self.asking.poll(call, waiter)
    }

    /// Gives a call up, and tells the far end if the call was sent. If very many are given up at once, the far end
    /// learns of them only by their deadlines.
    pub fn cancel_call(&mut self, now: Instant, call: u64) {
        self.withdraw(now, call);
        let detached = self.resumption.is_detached();
        if self.asking.abandon(call)
            && self.can_put()
            && if detached { self.resumption.spend_minor() } else { self.own_cancels.spend(now) }
        {
            self.outgoing.put(&Frame::Cancel { call });
        }
    }

    /// Answers a call of the peer. An unknown call, or one that is no longer known, is ignored.
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
            self.outgoing.answer(call, payload, part_len(max));
            self.check_unsent();
        }
    }

    /// Refuses a call of the peer.
    pub fn refuse(&mut self, call: u64, code: RefuseCode, text: &str) {
        if self.owing.answer(call) && self.can_put() {
            self.outgoing.refuse(&Frame::Refuse { call, code, text: public(text) });
            self.check_unsent();
        }
    }

    /// Returns `true` if the caller no longer waits for the answer. Otherwise stores a waiter.
    pub fn poll_cancelled(&mut self, call: u64, waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter) -> bool {
        self.owing.poll_cancelled(call, waiter)
    }

    /// Asks the peer to acknowledge everything sent so far. Returns the value for
    /// [`poll_flushed`](Self::poll_flushed). Queued messages are not sent yet, and do not count.
    pub fn flush(&mut self) -> Flush {
        self.outgoing.put_answers();
        let flush = self.flushes.begin(self.outgoing.number);
        self.ping_for_flush();
        flush
    }

    /// Sends one ping at a time, however many tasks flush or wait for room: the pongs count against a bound of the
    /// peer.
    pub(super) fn ping_for_flush(&mut self) {
        let acked = self.outgoing.acked;
        let waits = acked < self.flushes.wanted() || !self.queue.is_empty() && self.outgoing.is_at_bound();
        if waits && self.attachment.flush_pinged <= acked && self.can_say() {
            self.attachment.flush_pinged = self.outgoing.number;
            self.outgoing.put(&Frame::Ping { token: self.outgoing.number });
        }
    }

    /// Removes the waiter of this flush.
    pub fn forget_flush(&mut self, flush: Flush) {
        self.flushes.forget(flush);
    }

    /// Returns the outcome of a flush. Until then, stores a waiter.
    ///
    /// # Errors
    /// The reason of the session's end, if it came first.
    pub fn poll_flushed(
        &mut self,
        flush: Flush,
        waiter: impl FnOnce() -> H::Waiter,
    ) -> Option<Result<(), ExitReason>> {
        if self.outgoing.acked >= flush.number {
            return Some(Ok(()));
        }
        if self.is_over() {
            return Some(Err(self.over_reason()));
        }
        self.flushes.wait(flush, waiter());
        None
    }

    /// Returns `true` if a message may be sent at once. An error means that it never may.
    #[inline]
    fn may_send(&self, payload: &[u8]) -> Result<bool, Unsendable> {
        if !self.can_put() {
            return Err(Unsendable::Ended(self.over_reason()));
        }
        let max = self.max_payload_len();
        if payload.len() > max {
            return Err(Unsendable::TooLong { max });
        }
        Ok(self.queue.is_empty() && self.has_room())
    }

    /// Returns `true` if there is room for a message. Before the opening, only casts of a client that has asked may
    /// go; its calls have no slot yet.
    fn has_room(&self) -> bool {
        (self.takes_messages() || self.has_asked())
            && self.peer.balance.is_positive()
            && !self.outgoing.is_at_bound()
            && (self.outgoing.unwritten() < MAX_UNSENT_BEFORE_WAIT || self.resumption.is_detached())
    }

    fn has_slot(&self) -> bool {
        self.asking.in_flight() < self.peer.terms.max_calls.min(MAX_CALLS_IN_FLIGHT)
    }

    fn put_cast(&mut self, payload: &mut Vec<u8>) {
        self.peer.balance.spend(cost(payload.len()));
        self.outgoing.put_owned(|payload| Frame::Cast { to: OWNER, payload }, payload);
    }

    fn put_call(&mut self, now: Instant, call: u64, sort: Sort, payload: &mut Vec<u8>) {
        let Some(deadline) = self.asking.deadline(call) else { return };
        let left = millis_left(deadline, now);
        if deadline <= now {
            let late = CallError::new(Executed::No, CallFailure::Deadline);
            return self.asking.fail(call, late, &mut self.woken);
        }
        let left = if sort == Sort::Mark { 0 } else { left };
        self.peer.balance.spend(cost(payload.len()));
        let number =
            self.outgoing.put_owned(|payload| Frame::Call { to: OWNER, call, left, payload }, payload);
        self.asking.sent(call, number, self.outgoing.end());
    }

    fn enqueue(&mut self, now: Instant, sort: Sort, ticket: u64, payload: &mut Vec<u8>) {
        self.queue.push(sort, ticket, std::mem::take(payload));
        self.pump(now);
    }

    fn withdraw(&mut self, now: Instant, ticket: u64) {
        if self.queue.withdraw(ticket) {
            self.pump(now);
        }
    }

    /// Sends queued messages in order, as far as credit, slots and room allow.
    pub(super) fn pump(&mut self, now: Instant) {
        while let Some(sort) = self.queue.first()
            && self.has_room()
            && (sort == Sort::Cast || self.has_slot())
            && let Some(mut first) = self.queue.pop()
        {
            match sort {
                Sort::Call | Sort::Mark => self.put_call(now, first.ticket, sort, &mut first.payload),
                Sort::Cast => {
                    self.put_cast(&mut first.payload);
                    self.queue.note_sent(first.ticket);
                }
            }
            self.woken.extend(first.waiter);
        }
        if self.outgoing.is_at_bound() {
            self.ping_for_flush();
        }
    }

    /// Ends the session if its unsent data exceeds the limit, or too many reflections are unsent.
    pub(super) fn check_unsent(&mut self) {
        if self.outgoing.held() > self.limits.max_unsent + self.peer.max_frame_len
            || self.outgoing.reflections() > self.limits.max_reflections
        {
            self.break_off(ExitReason::Overload);
        }
    }
}
