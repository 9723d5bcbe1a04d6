//! Output of a session: casts, calls and answers; and messages that wait for credit, a slot or room.

use std::time::Instant;

use super::{
    Flush, Handles, Host, MAX_CALL_TIME, Outcome, Passing, Session, Unsendable,
    answers::part_len,
    border::OWNER,
    call::millis_left,
    credit::{Balance, cost},
    handles::Admitted,
    public,
    queue::{SendQueue, Sort},
};
use crate::{
    CallError, CallFailure, Executed, ExitReason,
    wire::{self, Frame, MessageHead, RefuseCode, max_table_len},
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
        self.enqueue(now, Sort::Cast, ticket, payload, None);
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
        self.try_cast_with(far, payload, Vec::new())
    }

    /// Sends a cast with handles, to the far owner or to a process that the peer has handed out, if it need not wait.
    ///
    /// # Errors
    /// Those of [`try_cast`](Self::try_cast), and too many handles.
    pub fn try_cast_with(
        &mut self,
        far: u64,
        payload: &mut Vec<u8>,
        handles: Vec<Passing<H::Process>>,
    ) -> Result<(), Unsendable> {
        if !self.may_send_to(far, payload, handles.len())? {
            return Err(Unsendable::WouldWait);
        }
        let handles = self.admit(handles)?;
        self.put_cast_to(far, payload, handles);
        Ok(())
    }

    /// Sends a cast with handles, to the far owner or to a process that the peer has handed out, or queues it and
    /// returns a ticket for [`poll_cast_to`](Self::poll_cast_to).
    ///
    /// # Errors
    /// Those of [`cast`](Self::cast), and too many handles.
    pub fn cast_to(
        &mut self,
        now: Instant,
        far: u64,
        payload: &mut Vec<u8>,
        handles: Vec<Passing<H::Process>>,
    ) -> Result<Option<u64>, Unsendable> {
        let at_once = self.may_send_to(far, payload, handles.len())?;
        let handles = self.admit(handles)?;
        if at_once {
            self.put_cast_to(far, payload, handles);
            return Ok(None);
        }
        let ticket = self.queue.next_ticket();
        self.enqueue_to(now, far, Sort::Cast, ticket, payload, handles);
        Ok(Some(ticket))
    }

    /// Returns the outcome of a cast that was queued for `far`. While it waits, stores a waiter.
    ///
    /// # Errors
    /// [`Unsendable::Ended`] if the cast will never be sent.
    pub fn poll_cast_to(
        &mut self,
        far: u64,
        ticket: u64,
        waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter,
    ) -> Option<Result<(), Unsendable>> {
        if far == OWNER {
            return self.poll_cast(ticket, waiter);
        }
        if let Some(queue) = self.far_queues.get_mut(&far) {
            let is_sent = queue.take_sent(ticket);
            let waits = !is_sent && queue.wait(ticket, waiter);
            self.drop_queue(far);
            if is_sent || waits {
                return is_sent.then_some(Ok(()));
            }
        }
        Some(Err(Unsendable::Ended(self.over_reason())))
    }

    /// Withdraws a cast that still waits for `far`, so that it is not sent.
    pub fn withdraw_cast_to(&mut self, now: Instant, far: u64, ticket: u64) {
        if far == OWNER {
            return self.withdraw_cast(now, ticket);
        }
        self.withdraw_from(now, far, ticket);
        if let Some(queue) = self.far_queues.get_mut(&far) {
            queue.take_sent(ticket);
        }
        self.drop_queue(far);
    }

    /// Calls the far owner with handles, or a process that the peer has handed out. Returns the id for
    /// [`poll_answer`](Self::poll_answer).
    ///
    /// # Errors
    /// Those of [`call`](Self::call), and too many handles.
    pub fn call_to(
        &mut self,
        now: Instant,
        deadline: Instant,
        far: u64,
        payload: &mut Vec<u8>,
        handles: Vec<Passing<H::Process>>,
    ) -> Result<u64, Unsendable> {
        let at_once = self.may_send_to(far, payload, handles.len())? && self.has_slot();
        let handles = self.admit(handles)?;
        let call = self.queue.next_ticket();
        self.asking.begin(call, deadline.min(now + MAX_CALL_TIME));
        if at_once {
            self.put_call_to(now, call, far, payload, handles);
        } else {
            self.enqueue_to(now, far, Sort::Call, call, payload, handles);
        }
        Ok(call)
    }

    /// Gives up a call to `far`, as [`cancel_call`](Self::cancel_call) does.
    pub fn cancel_call_to(&mut self, now: Instant, far: u64, call: u64) {
        if far != OWNER {
            self.withdraw_from(now, far, call);
            self.drop_queue(far);
        }
        self.cancel_call(now, call);
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
            self.enqueue(now, sort, call, payload, None);
        }
        Ok(call)
    }

    /// Returns the outcome of a call, once. Until then, stores a waiter.
    pub fn poll_call(
        &mut self,
        call: u64,
        waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter,
    ) -> Option<Outcome> {
        self.asking.poll(call, waiter).map(|(outcome, _)| outcome)
    }

    /// Does what [`poll_call`](Self::poll_call) does, and returns the handles in the answer too.
    pub fn poll_answer(
        &mut self,
        call: u64,
        waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter,
    ) -> Option<(Outcome, Handles)> {
        self.asking.poll(call, waiter)
    }

    /// Gives a call up, and tells the far end if the call was sent. If very many are given up at once, the far end
    /// learns of them only by their deadlines.
    pub fn cancel_call(&mut self, now: Instant, call: u64) {
        self.withdraw(now, call);
        let detached = self.resumption.is_detached();
        let on_wire = self.asking.name(call);
        if self.asking.abandon(call)
            && self.can_put()
            && if detached { self.resumption.spend_minor() } else { self.own_cancels.spend(now) }
        {
            self.outgoing.put(&Frame::Cancel { call: on_wire });
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

    /// Answers a call of the peer with handles.
    ///
    /// # Errors
    /// Too many handles; the call is not answered then.
    pub fn reply_with(
        &mut self,
        call: u64,
        payload: &mut Vec<u8>,
        handles: Vec<Passing<H::Process>>,
    ) -> Result<(), Unsendable> {
        let max = self.max_payload_len();
        if payload.len() + max_table_len(handles.len()) > max {
            let text = format!("the answer is longer than {max} bytes");
            self.refuse(call, RefuseCode::AnswerTooLong, &text);
            return Ok(());
        }
        let Some(handles) = self.admit(handles)? else {
            self.reply(call, payload);
            return Ok(());
        };
        if self.can_put() && self.owing.answer(call) {
            self.commit(&handles, |session, handles| {
                let message = MessageHead::Reply { call };
                session.outgoing.answer_with(&Frame::With { message, handles, payload });
            });
            self.check_unsent();
        } else {
            self.withdraw_handles(Some(handles));
        }
        Ok(())
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

    /// Returns `true` if a message with so many handles may be sent to `far` at once. An error means that it never may.
    fn may_send_to(&mut self, far: u64, payload: &[u8], handles: usize) -> Result<bool, Unsendable> {
        let max = self.max_payload_len();
        if payload.len() + max_table_len(handles) > max && self.can_put() {
            return Err(Unsendable::TooLong { max });
        }
        let may_send = self.may_send(payload)?;
        if far == OWNER {
            return Ok(may_send);
        }
        if !self.can_put() {
            return Err(Unsendable::Ended(self.over_reason()));
        }
        let cost = cost(payload.len()) + Admitted::cost_of(handles);
        let is_free = self.far_queues.get(&far).is_none_or(|queue| queue.first().is_none());
        Ok(is_free && self.has_room_for(far, cost))
    }

    /// Returns `true` if there is room for a message of this cost for `far`, which is not the owner.
    fn has_room_for(&mut self, far: u64, cost: u64) -> bool {
        self.takes_messages() && self.has_space() && self.has_credit(far, cost)
    }

    /// Returns `true` if `far` has granted the credit for a message of this cost.
    fn has_credit(&mut self, far: u64, cost: u64) -> bool {
        let Some(window) = self.imports.window(far) else {
            // Not handed out in a message: the credit is as the owner's.
            let window = self.peer.window;
            return self.peer.balances.entry(far).or_insert_with(|| Balance::new(window)).is_positive();
        };
        let Some(&balance) = self.peer.balances.get(&far) else { return false };
        if cost <= window {
            return balance.fits(cost);
        }
        let is_unused = |far: u64| {
            let balance = self.peer.balances.get(&far);
            self.imports.window(far).zip(balance).is_none_or(|(window, balance)| balance.is_unused(window))
        };
        is_unused(far) && self.peer.oversized.is_none_or(is_unused)
    }

    /// Returns `true` if there is room for a message. Before the opening, only casts of a client that has asked may
    /// go; its calls have no slot yet.
    fn has_room(&self) -> bool {
        (self.takes_messages() || self.has_asked()) && self.peer.balance.is_positive() && self.has_space()
    }

    /// Returns `true` if the output has space for a message.
    fn has_space(&self) -> bool {
        !self.outgoing.is_at_bound()
            && (self.outgoing.unwritten() < MAX_UNSENT_BEFORE_WAIT || self.resumption.is_detached())
    }

    fn has_slot(&self) -> bool {
        self.asking.in_flight() < self.peer.terms.max_calls.min(MAX_CALLS_IN_FLIGHT)
    }

    fn put_cast(&mut self, payload: &mut Vec<u8>) {
        self.peer.balance.spend(cost(payload.len()));
        self.outgoing.put_owned(|payload| Frame::Cast { to: OWNER, payload }, payload);
    }

    /// Spends the credit of a message for `far`.
    fn spend(&mut self, far: u64, cost: u64) {
        if far == OWNER {
            return self.peer.balance.spend(cost);
        }
        if self.imports.window(far).is_some_and(|window| cost > window) {
            self.peer.oversized = Some(far);
        }
        if let Some(balance) = self.peer.balances.get_mut(&far) {
            balance.spend(cost);
        }
    }

    fn put_cast_to(&mut self, far: u64, payload: &mut Vec<u8>, handles: Option<Box<Admitted>>) {
        let Some(handles) = handles else {
            self.spend(far, cost(payload.len()));
            self.outgoing.put_owned(|payload| Frame::Cast { to: far, payload }, payload);
            return;
        };
        self.spend(far, cost(payload.len()) + handles.cost());
        self.commit(&handles, |session, handles| {
            session.outgoing.put(&Frame::With { message: MessageHead::Cast { to: far }, handles, payload });
        });
    }

    fn put_call_to(
        &mut self,
        now: Instant,
        call: u64,
        far: u64,
        payload: &mut Vec<u8>,
        handles: Option<Box<Admitted>>,
    ) {
        let Some(deadline) = self.asking.deadline(call) else { return self.withdraw_handles(handles) };
        let left = millis_left(deadline, now);
        if deadline <= now {
            let late = CallError::new(Executed::No, CallFailure::Deadline);
            self.asking.fail(call, late, &mut self.woken);
            return self.withdraw_handles(handles);
        }
        let call = self.wire_id(call);
        let Some(handles) = handles else {
            self.spend(far, cost(payload.len()));
            let number =
                self.outgoing.put_owned(|payload| Frame::Call { to: far, call, left, payload }, payload);
            return self.asking.sent(call, number, self.outgoing.end());
        };
        self.spend(far, cost(payload.len()) + handles.cost());
        self.commit(&handles, |session, handles| {
            let message = MessageHead::Call { to: far, call, left };
            let number = session.outgoing.put(&Frame::With { message, handles, payload });
            session.asking.sent(call, number, session.outgoing.end());
        });
    }

    /// Returns the id on the wire for a call that is sent now. A call that had to wait while later calls went to other
    /// processes gets another id, because the ids on the wire only grow.
    fn wire_id(&mut self, call: u64) -> u64 {
        if self.asking.may_have(call) {
            return call;
        }
        let fresh = self.queue.next_ticket();
        self.asking.rename(call, fresh);
        fresh
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
        let call = self.wire_id(call);
        let number =
            self.outgoing.put_owned(|payload| Frame::Call { to: OWNER, call, left, payload }, payload);
        self.asking.sent(call, number, self.outgoing.end());
    }

    fn enqueue(
        &mut self,
        now: Instant,
        sort: Sort,
        ticket: u64,
        payload: &mut Vec<u8>,
        handles: Option<Box<Admitted>>,
    ) {
        self.queue.push(sort, ticket, std::mem::take(payload), handles);
        self.pump(now);
    }

    fn enqueue_to(
        &mut self,
        now: Instant,
        far: u64,
        sort: Sort,
        ticket: u64,
        payload: &mut Vec<u8>,
        handles: Option<Box<Admitted>>,
    ) {
        if far == OWNER {
            return self.enqueue(now, sort, ticket, payload, handles);
        }
        let queue = self.far_queues.entry(far).or_default();
        queue.push(sort, ticket, std::mem::take(payload), handles);
        self.pump(now);
    }

    fn withdraw(&mut self, now: Instant, ticket: u64) {
        if let Some(waiting) = self.queue.withdraw(ticket) {
            self.withdraw_handles(waiting.handles);
            self.pump(now);
        }
    }

    fn withdraw_from(&mut self, now: Instant, far: u64, ticket: u64) {
        let queue = self.far_queues.get_mut(&far);
        if let Some(waiting) = queue.and_then(|queue| queue.withdraw(ticket)) {
            self.withdraw_handles(waiting.handles);
            self.pump(now);
        }
    }

    /// Removes the calls with these tickets, whose time is over, from the queues.
    #[cold]
    pub(super) fn withdraw_late(&mut self, mut tickets: Vec<u64>) {
        tickets.sort_unstable();
        let mut late = self.queue.withdraw_all(&tickets);
        self.far_queues.values_mut().for_each(|queue| late.extend(queue.withdraw_all(&tickets)));
        self.far_queues.retain(|_, queue| !queue.is_idle());
        late.into_iter().for_each(|waiting| self.withdraw_handles(waiting.handles));
    }

    /// Removes the queue of `far` if it is empty.
    fn drop_queue(&mut self, far: u64) {
        if self.far_queues.get(&far).is_some_and(SendQueue::is_idle) {
            self.far_queues.remove(&far);
        }
    }

    /// Sends queued messages in order, as far as credit, slots and room allow.
    pub(super) fn pump(&mut self, now: Instant) {
        while let Some(sort) = self.queue.first()
            && self.has_room()
            && (sort == Sort::Cast || self.has_slot())
            && let Some(mut first) = self.queue.pop()
        {
            match (sort, first.handles.take()) {
                (Sort::Cast, handles) => {
                    self.put_cast_to(OWNER, &mut first.payload, handles);
                    self.queue.note_sent(first.ticket);
                }
                (Sort::Call, handles @ Some(_)) => {
                    self.put_call_to(now, first.ticket, OWNER, &mut first.payload, handles);
                }
                (Sort::Call | Sort::Mark, _) => self.put_call(now, first.ticket, sort, &mut first.payload),
            }
            self.woken.extend(first.waiter);
        }
        if !self.far_queues.is_empty() {
            self.pump_far(now);
        }
        if self.outgoing.is_at_bound() {
            self.ping_for_flush();
        }
    }

    /// Sends the messages that wait for far processes other than the owner. Each process has its own order, and one that
    /// takes nothing holds up no other.
    #[cold]
    fn pump_far(&mut self, now: Instant) {
        for far in self.far_queues.keys().copied().collect::<Vec<_>>() {
            while let Some(queue) = self.far_queues.get(&far)
                && let Some(sort) = queue.first()
                && let cost = queue.first_cost()
                && self.has_room_for(far, cost)
                && (sort == Sort::Cast || self.has_slot())
                && let Some(mut first) = self.far_queues.get_mut(&far).and_then(SendQueue::pop)
            {
                let handles = first.handles.take();
                if sort == Sort::Cast {
                    self.put_cast_to(far, &mut first.payload, handles);
                    if let Some(queue) = self.far_queues.get_mut(&far) {
                        queue.note_sent(first.ticket);
                    }
                } else {
                    self.put_call_to(now, first.ticket, far, &mut first.payload, handles);
                }
                self.woken.extend(first.waiter);
            }
            self.drop_queue(far);
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
