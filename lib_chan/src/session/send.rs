//! Output of a session: casts and calls, at once or from a queue, and answers.

use std::time::Instant;

use super::{
    Handles, Host, MAX_CALL_TIME, Outcome, SentHandles, Session, Unsendable,
    answers::part_len,
    border::OWNER,
    call::millis_left,
    credit::{Balance, cost},
    handles::Admitted,
    public,
    queue::{Sort, Waiting},
};
use crate::{
    CallError, CallFailure, Executed, ExitReason,
    wire::{self, Frame, MessageHead, RefuseCode, max_table_len},
};

/// Messages wait for room while this many bytes are unsent. A waiting message that is given up has not been sent.
const MAX_UNSENT_BEFORE_WAIT: usize = 256 * 1024;
/// The same bound for messages to handed-out processes. The rest is for the owner: however much these processes are sent,
/// calls to and from the owner go on, and the owner's receiver is not paused
/// ([`max_unsent_before_pause`](crate::Limits::max_unsent_before_pause)).
const MAX_UNSENT_BEFORE_OTHERS_WAIT: usize = MAX_UNSENT_BEFORE_WAIT / 4 * 3;
/// The most calls in flight, whatever the peer allows. The peer may leave them unanswered, and each occupies memory
/// until the end.
const MAX_CALLS_IN_FLIGHT: u64 = 65_536;

impl<H: Host> Session<H> {
    /// Returns the most bytes that a payload to the peer may have.
    pub const fn max_payload_len(&self) -> usize {
        self.peer.max_frame_len - wire::MAX_OVERHEAD
    }

    // Messages for the far owner.

    /// Sends a cast to the far owner, or queues it and returns a ticket for [`poll_cast`](Self::poll_cast).
    ///
    /// # Errors
    /// The session is over, or the payload is too long.
    pub fn cast(&mut self, now: Instant, payload: &mut Vec<u8>) -> Result<Option<u64>, Unsendable> {
        self.cast_to(|| now, OWNER, payload, SentHandles::NONE)
    }

    /// Sends a cast to the far owner if it need not wait.
    ///
    /// # Errors
    /// The session is over, the payload is too long, or the cast would have to wait.
    pub fn try_cast(&mut self, payload: &mut Vec<u8>) -> Result<(), Unsendable> {
        self.try_cast_to(OWNER, payload)
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
            if !self.may_send(OWNER, payload, 0)? || self.is_long(payload.len(), 0) {
                break;
            }
            self.spend(OWNER, cost(payload.len()));
            self.outgoing.put(&Frame::Cast { to: OWNER, payload });
            sent += 1;
        }
        Ok(sent)
    }

    /// Returns the outcome of a queued cast to the far owner. While it waits, stores a waiter.
    ///
    /// # Errors
    /// [`Unsendable::Ended`] if the cast will never be sent.
    pub fn poll_cast(
        &mut self,
        ticket: u64,
        waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter,
    ) -> Option<Result<(), Unsendable>> {
        self.poll_cast_to(OWNER, ticket, waiter)
    }

    /// Withdraws a cast to the far owner that is still in the queue, so that it is not sent.
    pub fn withdraw_cast(&mut self, now: Instant, ticket: u64) {
        self.withdraw_cast_to(now, OWNER, ticket);
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
        self.call_to(now, deadline, OWNER, payload, SentHandles::NONE)
    }

    /// Asks for the time at which the far owner has taken everything sent before. Sends a call that nobody may
    /// execute, because its time is over when it arrives. It is refused as soon as its turn has come.
    /// [`poll_call`](Self::poll_call) returns the outcome; a refusal is the answer.
    ///
    /// # Errors
    /// The session is over.
    pub fn mark(&mut self, now: Instant) -> Result<u64, Unsendable> {
        self.ask(now, now + MAX_CALL_TIME, OWNER, Sort::Mark, &mut Vec::new(), SentHandles::NONE)
    }

    /// Gives up a call to the far owner, as [`cancel_call_to`](Self::cancel_call_to) does.
    pub fn cancel_call(&mut self, now: Instant, call: u64) {
        self.cancel_call_to(now, OWNER, call);
    }

    // Messages for any process: the far owner, or one that the peer has handed out.

    /// Sends a cast if it need not wait.
    ///
    /// # Errors
    /// Those of [`try_cast`](Self::try_cast).
    pub fn try_cast_to(&mut self, far: u64, payload: &mut Vec<u8>) -> Result<(), Unsendable> {
        self.try_cast_with(far, payload, SentHandles::NONE)
    }

    /// Sends a cast with handles if it need not wait.
    ///
    /// # Errors
    /// Those of [`try_cast`](Self::try_cast), and too many handles.
    pub fn try_cast_with(
        &mut self,
        far: u64,
        payload: &mut Vec<u8>,
        handles: SentHandles<H::Process>,
    ) -> Result<(), Unsendable> {
        if !self.may_send(far, payload, handles.len())? {
            return Err(Unsendable::WouldWait);
        }
        let handles = self.admit(handles)?;
        self.put_cast(far, payload, handles);
        Ok(())
    }

    /// Sends a cast with handles, or queues it and returns a ticket for [`poll_cast_to`](Self::poll_cast_to). The time is
    /// needed only if the cast has to wait.
    ///
    /// # Errors
    /// Those of [`cast`](Self::cast), and too many handles.
    #[inline]
    pub fn cast_to(
        &mut self,
        now: impl FnOnce() -> Instant,
        far: u64,
        payload: &mut Vec<u8>,
        handles: SentHandles<H::Process>,
    ) -> Result<Option<u64>, Unsendable> {
        if handles.len() == 0 && self.may_send(far, payload, 0)? && !self.is_long(payload.len(), 0) {
            self.put_cast(far, payload, None);
            return Ok(None);
        }
        self.cast_with(now(), far, payload, handles)
    }

    /// Does what [`cast_to`](Self::cast_to) does where there is more to do than to append a frame.
    fn cast_with(
        &mut self,
        now: Instant,
        far: u64,
        payload: &mut Vec<u8>,
        handles: SentHandles<H::Process>,
    ) -> Result<Option<u64>, Unsendable> {
        let at_once =
            self.may_send(far, payload, handles.len())? && !self.is_long(payload.len(), handles.len());
        let handles = self.admit(handles)?;
        if at_once {
            self.put_cast(far, payload, handles);
            return Ok(None);
        }
        let ticket = self.queues.next_ticket();
        self.enqueue(now, far, Waiting::new(ticket, Sort::Cast, payload, handles));
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
        if self.queues.take_sent(far, ticket) {
            return Some(Ok(()));
        }
        if self.queues.wait(far, ticket, waiter) {
            return None;
        }
        Some(Err(Unsendable::Ended(self.over_reason())))
    }

    /// Withdraws a cast that still waits for `far`, so that it is not sent.
    pub fn withdraw_cast_to(&mut self, now: Instant, far: u64, ticket: u64) {
        self.withdraw(now, far, ticket);
        self.queues.take_sent(far, ticket);
    }

    /// Makes a call with handles. Returns the id for [`poll_answer`](Self::poll_answer).
    ///
    /// # Errors
    /// Those of [`call`](Self::call), and too many handles.
    pub fn call_to(
        &mut self,
        now: Instant,
        deadline: Instant,
        far: u64,
        payload: &mut Vec<u8>,
        handles: SentHandles<H::Process>,
    ) -> Result<u64, Unsendable> {
        self.ask(now, deadline.min(now + MAX_CALL_TIME), far, Sort::Call, payload, handles)
    }

    fn ask(
        &mut self,
        now: Instant,
        deadline: Instant,
        far: u64,
        sort: Sort,
        payload: &mut Vec<u8>,
        handles: SentHandles<H::Process>,
    ) -> Result<u64, Unsendable> {
        let at_once = self.may_send(far, payload, handles.len())?
            && self.has_slot()
            && !self.is_long(payload.len(), handles.len());
        let handles = self.admit(handles)?;
        let call = self.queues.next_ticket();
        self.asking.begin(call, deadline);
        if at_once {
            self.put_call(now, far, call, sort, payload, handles);
        } else {
            self.enqueue(now, far, Waiting::new(call, sort, payload, handles));
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

    /// Gives a call to `far` up, and tells the far end if the call was sent. If very many are given up at once, the far
    /// end learns of them only by their deadlines.
    pub fn cancel_call_to(&mut self, now: Instant, far: u64, call: u64) {
        self.withdraw(now, far, call);
        let detached = self.resumption.is_detached();
        let on_wire = self.asking.name(call);
        if self.asking.abandon(call)
            && self.can_put()
            && if detached { self.resumption.spend_minor() } else { self.own_cancels.spend(now) }
        {
            self.outgoing.put(&Frame::Cancel { call: on_wire });
        }
    }

    // Answers.

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
        if let Some(cancelled) = self.owing.answer(call)
            && self.can_put()
        {
            self.quota.count_answer(cancelled);
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
        handles: SentHandles<H::Process>,
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
        if self.can_put()
            && let Some(cancelled) = self.owing.answer(call)
        {
            self.quota.count_answer(cancelled);
            self.put_with(MessageHead::Reply { call }, &handles, payload);
            self.outgoing.end_answer();
            self.check_unsent();
        } else {
            self.withdraw_handles(Some(handles));
        }
        Ok(())
    }

    /// Refuses a call of the peer.
    pub fn refuse(&mut self, call: u64, code: RefuseCode, text: &str) {
        if let Some(cancelled) = self.owing.answer(call)
            && self.can_put()
        {
            self.quota.count_refusal(code, cancelled);
            self.outgoing.refuse(&Frame::Refuse { call, code, text: public(text) });
            self.check_unsent();
        }
    }

    /// Returns `true` if the caller no longer waits for the answer. Otherwise stores a waiter.
    pub fn poll_cancelled(&mut self, call: u64, waiter: impl FnOnce(Option<H::Waiter>) -> H::Waiter) -> bool {
        self.owing.poll_cancelled(call, waiter)
    }

    // What goes at once, and what waits.

    /// Returns `true` if a message with so many handles may be sent to `far` at once. An error means that it never may.
    #[inline(always)]
    fn may_send(&mut self, far: u64, payload: &[u8], handles: usize) -> Result<bool, Unsendable> {
        if !self.can_put() {
            return Err(Unsendable::Ended(self.over_reason()));
        }
        let max = self.max_payload_len();
        if payload.len() + max_table_len(handles) > max {
            return Err(Unsendable::TooLong { max });
        }
        let cost = cost(payload.len()) + Admitted::cost_of(handles);
        Ok(self.queues.first(far).is_none() && self.has_room(far, cost))
    }

    /// Returns `true` if there is room for a message of this cost. Before the opening, only casts of a client that has
    /// asked may go to the owner; its calls have no slot yet.
    #[inline]
    fn has_room(&mut self, far: u64, cost: u64) -> bool {
        (self.takes_messages() || far == OWNER && self.has_asked())
            && self.has_space(far)
            && self.has_credit(far, cost)
    }

    /// Returns `true` if the output has space for a message to `far`.
    #[inline]
    fn has_space(&self, far: u64) -> bool {
        let max = if far == OWNER { MAX_UNSENT_BEFORE_WAIT } else { MAX_UNSENT_BEFORE_OTHERS_WAIT };
        !self.outgoing.is_at_bound() && (self.outgoing.unwritten() < max || self.resumption.is_detached())
    }

    /// Returns `true` if `far` has granted the credit for a message of this cost.
    #[inline]
    fn has_credit(&mut self, far: u64, cost: u64) -> bool {
        if far == OWNER { self.peer.balance.is_positive() } else { self.has_credit_of(far, cost) }
    }

    fn has_credit_of(&mut self, far: u64, cost: u64) -> bool {
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

    fn has_slot(&self) -> bool {
        let in_flight = self.asking.in_flight() + self.queues.unfinished_calls();
        in_flight < self.peer.terms.max_calls.min(MAX_CALLS_IN_FLIGHT)
    }

    /// Spends the credit of a message.
    #[inline]
    pub(super) fn spend(&mut self, far: u64, cost: u64) {
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

    #[inline]
    fn put_cast(&mut self, far: u64, payload: &mut Vec<u8>, handles: Option<Box<Admitted>>) {
        let Some(handles) = handles else {
            self.spend(far, cost(payload.len()));
            self.outgoing.put_owned(|payload| Frame::Cast { to: far, payload }, payload);
            return;
        };
        self.spend(far, cost(payload.len()) + handles.cost());
        self.put_with(MessageHead::Cast { to: far }, &handles, payload);
    }

    fn put_call(
        &mut self,
        now: Instant,
        far: u64,
        call: u64,
        sort: Sort,
        payload: &mut Vec<u8>,
        handles: Option<Box<Admitted>>,
    ) {
        let Some(left) = self.time_left(now, call, sort) else { return self.withdraw_handles(handles) };
        let call = self.wire_id(call);
        let number = if let Some(handles) = handles {
            self.spend(far, cost(payload.len()) + handles.cost());
            self.put_with(MessageHead::Call { to: far, call, left }, &handles, payload)
        } else {
            self.spend(far, cost(payload.len()));
            self.outgoing.put_owned(|payload| Frame::Call { to: far, call, left, payload }, payload)
        };
        self.asking.sent(call, number, self.outgoing.end());
    }

    /// Appends the last part of a call. Returns `false` if nobody waits for it any more.
    pub(super) fn put_last_of_call(
        &mut self,
        now: Instant,
        far: u64,
        call: u64,
        sort: Sort,
        payload: &mut Vec<u8>,
    ) -> bool {
        let Some(left) = self.time_left(now, call, sort) else { return false };
        let call = self.wire_id(call);
        let number = self.outgoing.put_owned(|payload| Frame::Call { to: far, call, left, payload }, payload);
        self.asking.sent(call, number, self.outgoing.end());
        true
    }

    /// Returns the milliseconds left for a call that is sent now; `None` if nobody waits for it any more.
    #[inline]
    fn time_left(&mut self, now: Instant, call: u64, sort: Sort) -> Option<u64> {
        let deadline = self.asking.deadline(call)?;
        if deadline <= now {
            let late = CallError::new(Executed::No, CallFailure::Deadline);
            self.asking.fail(call, late, &mut self.woken);
            return None;
        }
        Some(if sort == Sort::Mark { 0 } else { millis_left(deadline, now) })
    }

    /// Returns the id on the wire for a call that is sent now. A call that had to wait while later calls went to other
    /// processes gets another id, because the ids on the wire only grow.
    fn wire_id(&mut self, call: u64) -> u64 {
        if self.asking.may_have(call) {
            return call;
        }
        let fresh = self.queues.next_ticket();
        self.asking.rename(call, fresh);
        fresh
    }

    fn enqueue(&mut self, now: Instant, far: u64, message: Waiting<H::Waiter>) {
        self.queues.push(far, message);
        self.pump(now);
    }

    fn withdraw(&mut self, now: Instant, far: u64, ticket: u64) {
        if let Some(waiting) = self.queues.withdraw(far, ticket) {
            self.take_back(far, &waiting);
            self.withdraw_handles(waiting.handles);
            self.pump(now);
        }
    }

    /// Removes the calls with these tickets, whose time is over, from the queues.
    #[cold]
    pub(super) fn withdraw_late(&mut self, mut tickets: Vec<u64>) {
        tickets.sort_unstable();
        for (far, waiting) in self.queues.withdraw_all(&tickets) {
            self.take_back(far, &waiting);
            self.withdraw_handles(waiting.handles);
        }
    }

    /// Sends queued messages as far as credit, slots and room allow. Each process has its own order, and one that takes
    /// nothing holds up no other.
    pub(super) fn pump(&mut self, now: Instant) {
        self.pump_to(now, OWNER);
        for far in self.queues.others() {
            self.pump_to(now, far);
        }
        if self.outgoing.is_at_bound() {
            self.ping_for_flush();
        }
    }

    fn pump_to(&mut self, now: Instant, far: u64) {
        while let Some(first) = self.queues.first(far)
            && first.progress.is_none()
        {
            let (sort, cost, len) = (first.sort, first.cost(), first.payload.len());
            let handles = usize::from(first.handles.is_some());
            if !self.has_room(far, cost) || sort != Sort::Cast && !self.has_slot() {
                return;
            }
            if self.is_long(len, handles) {
                return self.begin_parts(far, cost);
            }
            let Some(mut first) = self.queues.pop(far) else { return };
            let handles = first.handles.take();
            match sort {
                Sort::Cast => self.put_cast(far, &mut first.payload, handles),
                Sort::Call | Sort::Mark => {
                    self.put_call(now, far, first.ticket, sort, &mut first.payload, handles);
                }
            }
            self.woken.extend(first.waiter);
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
