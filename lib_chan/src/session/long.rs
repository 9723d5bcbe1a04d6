//! Long messages, sent in parts, so that answers and messages to other processes need not wait for all of it.
//!
//! A message counts as sent when its last part goes. Until then it is the first message in the queue of its process, as a
//! message that waits for credit is: messages to the same process wait behind it, nothing else does, and its sender can
//! withdraw it. So parts change nothing about order. A sender that ends before the last part has sent nothing, and its exit
//! signals need not wait.

use std::{collections::BTreeMap, time::Instant};

use bytes::Bytes;

use super::{
    Host, Inbound, Session,
    answers::{IncompletePayloads, MAX_UNFINISHED, MIN_PART_LEN, part_len},
    border::OWNER,
    credit::cost,
    queue::{Sort, Waiting},
    receive::Fault,
};
use crate::wire::{self, Frame};

/// When the cost of a message is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paid {
    /// When it has come, which it did in one frame.
    Now,
    WithFirstPart,
    /// It is for a process that the peer could not reach when the first part came.
    Never,
}

/// The incomplete messages of the peer, at most one for each process.
#[derive(Debug, Default)]
pub(super) struct IncompleteMessages {
    payloads: IncompletePayloads,
    /// The costs that were counted.
    costs: BTreeMap<u64, u64>,
    /// The bytes of memory, less the costs.
    excess: isize,
}

impl IncompleteMessages {
    /// Returns the number of bytes of memory, less the costs that were counted. The costs are no memory: the peer may state
    /// any length, and send nothing.
    #[inline]
    pub(super) const fn excess(&self) -> isize {
        self.excess
    }

    /// Counts anew after a change.
    fn count(&mut self) {
        self.excess = self.payloads.held() as isize - self.costs.values().sum::<u64>() as isize;
    }
}

impl<H: Host> Session<H> {
    // Messages of this end.

    /// Returns `true` if a message of this length goes in parts. Messages with handles go whole.
    #[inline]
    pub(super) fn is_long(&self, len: usize, handles: usize) -> bool {
        // Almost all messages are shorter, and are compared with a constant.
        len > MIN_PART_LEN && len > part_len(self.max_payload_len()) && handles == 0 && self.takes_messages()
    }

    /// Begins to send the first message in the queue of `far` in parts, if not too many others are unfinished. The first part
    /// goes at once, because its place decides whether there is credit for it.
    pub(super) fn begin_parts(&mut self, far: u64, cost: u64) {
        let part_len = part_len(self.max_payload_len());
        if self.queues.unfinished() < MAX_UNFINISHED
            && let Some(message) = self.queues.begin(far, part_len)
            && let Some(payload) = message.payload.get(..part_len)
        {
            let total = message.payload.len() as u64;
            self.outgoing.put(&Frame::PartTo { to: far, total, payload });
            self.spend(far, cost);
        }
    }

    /// Returns `true` if there is a part to send.
    #[inline]
    pub(super) fn has_part(&self) -> bool {
        self.queues.unfinished() > 0 && !self.outgoing.is_at_bound() && self.can_put()
    }

    /// Appends the next part of the message whose turn it is.
    pub(super) fn put_part(&mut self, now: Instant) {
        if !self.has_part() {
            return;
        }
        let part_len = part_len(self.max_payload_len());
        let Some((to, next)) = self.queues.next_unfinished() else { return };
        let Some(sent) = next.progress else { return };
        let len = next.payload.len();
        if let Some(payload) = next.payload.get(sent..sent + part_len)
            && sent + part_len < len
        {
            self.outgoing.put(&Frame::PartTo { to, total: 0, payload });
            next.progress = Some(sent + part_len);
            return self.queues.turn();
        }
        if let Some(last) = self.queues.pop(to) {
            self.put_last(now, to, sent, last);
            self.pump(now);
        }
    }

    /// Appends the last part of a message.
    fn put_last(&mut self, now: Instant, to: u64, sent: usize, mut message: Waiting<H::Waiter>) {
        let mut rest = message.payload.split_off(sent);
        match message.sort {
            Sort::Cast => drop(self.outgoing.put_owned(|payload| Frame::Cast { to, payload }, &mut rest)),
            Sort::Call | Sort::Mark => {
                if !self.put_last_of_call(now, to, message.ticket, message.sort, &mut rest) {
                    self.take_back(to, &message);
                }
            }
        }
        self.woken.extend(message.waiter);
    }

    /// Takes back a message of which parts were sent.
    pub(super) fn take_back(&mut self, to: u64, message: &Waiting<H::Waiter>) {
        if message.progress.is_some() && self.can_put() {
            self.outgoing.put(&Frame::PartTo { to, total: 0, payload: b"" });
        }
    }

    // Messages of the peer.

    /// Handles the next part of a message.
    pub(super) fn handle_part_to(&mut self, to: u64, total: u64, payload: &[u8]) -> Result<(), Fault> {
        if total == 0 && payload.is_empty() {
            return self.handle_taken_back(to);
        }
        let max = self.limits.max_frame_len - wire::MAX_OVERHEAD;
        if (1..=max as u64).contains(&total)
            && !self.is_incomplete(to)
            && self.charge(to, cost(total as usize))?
        {
            self.incomplete_messages.costs.insert(to, cost(total as usize));
        }
        // A message that cannot reach its process returns no credit, so its bytes need not be kept.
        let wanted = self.incomplete_messages.costs.contains_key(&to);
        let added = self.incomplete_messages.payloads.add(to, total, payload, wanted, max);
        self.incomplete_messages.count();
        added
    }

    /// Counts the cost of a message that has begun to come. Returns `false` if nothing was counted, because the peer cannot
    /// reach the process.
    fn charge(&mut self, to: u64, cost: u64) -> Result<bool, Fault> {
        if to != OWNER {
            return Ok(self.border.ids.receive(to, cost)?.is_some());
        }
        if self.inbox.grant.receive(cost) { Ok(true) } else { Err(Fault::Overload) }
    }

    /// Handles a message that the peer takes back.
    fn handle_taken_back(&mut self, to: u64) -> Result<(), Fault> {
        if !self.incomplete_messages.payloads.remove(to) {
            return Err(Fault::Protocol);
        }
        match self.incomplete_messages.costs.remove(&to) {
            Some(cost) if to == OWNER => self.give_back(cost),
            Some(cost) => self.give_back_to(to, cost),
            None => {}
        }
        self.incomplete_messages.count();
        Ok(())
    }

    /// Returns `true` if a message of the peer is incomplete, so that the next one may be its last part.
    #[inline]
    pub(super) const fn has_incomplete(&self) -> bool {
        !self.incomplete_messages.payloads.is_empty()
    }

    /// Returns the whole message for `to`, of which these are the last bytes, or all.
    #[cold]
    pub(super) fn complete(&mut self, to: u64, last: Bytes) -> Result<(Bytes, Paid), Fault> {
        let IncompleteMessages { payloads, costs, .. } = &mut self.incomplete_messages;
        let in_parts = payloads.contains(to);
        let payload = payloads.complete(to, last)?;
        let paid = match (in_parts, costs.remove(&to)) {
            (false, _) => Paid::Now,
            (true, Some(_)) => Paid::WithFirstPart,
            (true, None) => Paid::Never,
        };
        self.incomplete_messages.count();
        Ok((payload, paid))
    }

    /// Returns `true` if a message for this process is incomplete. A message with handles is never the last part of one.
    pub(super) fn is_incomplete(&self, to: u64) -> bool {
        self.incomplete_messages.payloads.contains(to)
    }

    /// Refuses a message for a process that the peer may not send to.
    pub(super) fn refuse_arrived(&mut self, id: u64, message: &Inbound, paid: Paid) {
        if paid == Paid::WithFirstPart {
            self.discard_handed(id, message);
        } else {
            self.refuse_unreachable(id, message);
        }
    }
}
