//! Input of a session: bytes, frames and messages.
//!
//! Longer than other files, because one place decides for every kind of frame whether it may come now.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    Delivery, Handles, Host, Inbound, InboundKind, MAX_CALL_TIME, Peer, Request, Session, StartRefused,
    border::{Breach, OWNER},
    call::Outcome,
    inbox::Receiver,
    life::{Ending, Expects, Life},
    long::Paid,
    quota::retry_after,
};
use crate::{
    CallError, CallFailure, Executed, ExitReason, Limits,
    handshake::Side,
    payload::Codec,
    wire::{self, Frame, HandleTable, InterfaceHash, MessageHead, RefuseCode, Terms, WireError},
};

/// An ack goes after so many ordered frames, or so many bytes, whichever comes first; and with each pong. A flush asks for
/// its own. But to a peer that sends much over a slow network these are signs of life, so the bytes are few: one that
/// hears nothing for three heartbeats takes the connection for dead.
const ACK_FRAMES: u64 = 8192;
const ACK_LEN: u64 = 256 * 1024;
/// To a peer that keeps what is not acknowledged they go more often, and at the latest after this time.
const KEPT_ACK_FRAMES: u64 = 1024;
const KEPT_ACK_LEN: u64 = 64 * 1024;
const KEPT_ACK_TIME: Duration = Duration::from_secs(1);
/// After this part of either it goes along with what is written anyway. A write of its own, with a record of TLS and a
/// wake-up at either end, costs as much as a hundred small messages.
const ACK_PART: u64 = 8;

/// The reason in the answer to an `Ended`: the owner lives, but cannot be reached.
pub(super) const ANSWER: ExitReason = ExitReason::NoConnection;

/// The state of the incoming ordered stream.
#[derive(Debug)]
pub(super) struct Received {
    /// The number of ordered frames received, which is the number of the last one.
    pub(super) number: u64,
    /// The number of the last message for a process other than the owner. The process may take it at any time.
    pub(super) handed: u64,
    len: u64,
    /// The number and the length at the time of the last ack.
    acked: (u64, u64),
    /// The number of frames, and of bytes, after which an ack goes.
    ack_after: (u64, u64),
}

impl Default for Received {
    fn default() -> Self {
        Self { number: 0, handed: 0, len: 0, acked: (0, 0), ack_after: (ACK_FRAMES, ACK_LEN) }
    }
}

impl Received {
    /// Acks more often, because the peer keeps every frame until its ack.
    pub(super) const fn ack_often(&mut self) {
        self.ack_after = (KEPT_ACK_FRAMES, KEPT_ACK_LEN);
    }

    /// Notes that the peer knows of every frame received so far.
    pub(super) const fn note_acked(&mut self) {
        self.acked = (self.number, self.len);
    }

    /// Returns `true` if this part of the frames or bytes that cause an ack has come.
    const fn is_unacked_part(&self, part: u64) -> bool {
        self.is_unacked(self.ack_after.0 / part, self.ack_after.1 / part)
    }

    /// Returns `true` if this many ordered frames, or bytes of them, have come since the last ack.
    const fn is_unacked(&self, frames: u64, len: u64) -> bool {
        self.number - self.acked.0 >= frames || self.len - self.acked.1 >= len
    }

    /// Counts an ordered frame. Returns `true` if an ack is due.
    const fn count(&mut self, len: usize) -> bool {
        self.number += 1;
        self.len += len as u64;
        self.is_unacked_part(1)
    }
}

impl<H: Host> Session<H> {
    /// Takes bytes that were read from the stream, in pieces of any size.
    pub(crate) fn handle_bytes(&mut self, now: Instant, mut bytes: &[u8]) {
        self.attachment.hear(now);
        while !bytes.is_empty() && !self.is_over() {
            if let Err(error) = self.handle_piece(now, &mut bytes) {
                self.break_off(match error {
                    Fault::Protocol => ExitReason::Protocol,
                    Fault::Overload => ExitReason::Overload,
                });
            }
        }
        self.attachment.note_partial(now);
        if self.resume_window().is_some() && self.incoming.number > self.incoming.acked.0 {
            self.attachment.ack_by.get_or_insert(now + KEPT_ACK_TIME);
        }
        self.pump(now);
        if self.takes_messages()
            && self.can_say()
            && let Some(token) =
                self.inbox.tuner.probe(now, self.inbox.grant.returned(), self.border.ids.returned_in_all())
        {
            self.outgoing.put(&Frame::Ping { token });
        }
    }

    /// Handles the whole frames at the front of `bytes`. Keeps the start of an incomplete one.
    fn handle_piece(&mut self, now: Instant, bytes: &mut &[u8]) -> Result<(), Fault> {
        if !self.attachment.partial.is_empty() {
            return self.complete_partial(now, bytes);
        }
        let mut whole = 0;
        // Handle the frames before a malformed one, so that the cuts between pieces make no difference.
        let fault = loop {
            let rest = bytes.get(whole..).unwrap_or_default();
            match wire::frame_len(rest, self.limits.max_frame_len) {
                Ok(Some(len)) if rest.len() >= wire::LEN_LEN + len => whole += wire::LEN_LEN + len,
                Ok(_) => break None,
                Err(error) => break Some(error),
            }
        };
        let (frames, rest) = bytes.split_at(whole);
        *bytes = &[];
        if !frames.is_empty() {
            self.handle_frames(now, &Bytes::copy_from_slice(frames))?;
        }
        if let Some(fault) = fault {
            return Err(fault.into());
        }
        if !self.is_over() {
            if let Some(len) = wire::frame_len(rest, self.limits.max_frame_len)? {
                reserve(&mut self.attachment.partial, wire::LEN_LEN + len, rest.len());
            }
            self.attachment.partial.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Adds to the frame whose start is kept, and handles it once it is complete.
    fn complete_partial(&mut self, now: Instant, bytes: &mut &[u8]) -> Result<(), Fault> {
        let wanted = match wire::frame_len(&self.attachment.partial, self.limits.max_frame_len)? {
            Some(len) => wire::LEN_LEN + len,
            None => wire::LEN_LEN,
        };
        let missing = wanted - self.attachment.partial.len();
        let (now_here, rest) = bytes.split_at(missing.min(bytes.len()));
        let have = self.attachment.partial.len() + now_here.len();
        reserve(&mut self.attachment.partial, wanted, have);
        self.attachment.partial.extend_from_slice(now_here);
        *bytes = rest;
        if self.attachment.partial.len() < wanted || wanted == wire::LEN_LEN {
            wire::frame_len(&self.attachment.partial, self.limits.max_frame_len)?;
            return Ok(());
        }
        let frame = Bytes::from(self.attachment.take_partial());
        self.handle_frames(now, &frame)
    }

    /// Handles a run of whole frames. Messages share the memory of the run if they are most of it.
    fn handle_frames(&mut self, now: Instant, run: &Bytes) -> Result<(), Fault> {
        let (before, delivered) = (self.inbox.messages.len(), self.deliveries.len());
        let mut start = 0;
        let mut kept = 0;
        while let Some(rest) = run.get(start..)
            && let Some(len) = wire::frame_len(rest, self.limits.max_frame_len)?
            && let Some(body) = rest.get(wire::LEN_LEN..wire::LEN_LEN + len)
        {
            if self.is_over() {
                return Ok(());
            }
            let frame = Frame::parse(body)?;
            if frame.is_ordered() && self.incoming.count(len) {
                self.attachment.ack_due = true;
            }
            self.check_place(&frame)?;
            start += wire::LEN_LEN + len;
            kept += self.handle_frame(now, run, start, frame)?;
        }
        if kept * 2 < run.len() {
            let memory = run.as_ptr_range();
            let copy = |message: &mut Inbound| {
                // A message that came in parts has memory of its own.
                if memory.contains(&message.payload.as_ptr()) {
                    message.payload = Bytes::copy_from_slice(&message.payload);
                }
            };
            self.inbox.messages.iter_mut().skip(before).for_each(copy);
            for delivery in self.deliveries.iter_mut().skip(delivered) {
                if let Delivery::Inbound(message) | Delivery::Message { message, .. } = delivery {
                    copy(message);
                }
            }
        }
        Ok(())
    }

    /// Handles one frame, which ends at `end` of its run. Returns the number of its bytes that were put into the inbox.
    fn handle_frame(
        &mut self,
        now: Instant,
        run: &Bytes,
        end: usize,
        frame: Frame<'_>,
    ) -> Result<usize, Fault> {
        // A payload is always the end of its frame.
        let share = |payload: &[u8]| run.slice(end - payload.len()..end);
        match frame {
            Frame::Start { codec, terms, max_frame_len, window_len, resume, interface, args } => {
                self.note_asked_resume(resume);
                self.handle_start(codec, terms, (max_frame_len, window_len), interface, share(args))?;
            }
            Frame::Started { terms, resume } => {
                self.peer.terms = terms;
                self.life = Life::Open;
                match resume {
                    Some(granted) => self.handle_granted(&granted)?,
                    None => self.outgoing.forget(),
                }
            }
            Frame::Cast { to, payload } => {
                if self.has_incomplete() {
                    let (payload, paid) = self.complete(to, share(payload))?;
                    return self.handle_message(to, InboundKind::Cast, payload, Handles::default(), paid);
                }
                let handles = Handles::default();
                return self.handle_message(to, InboundKind::Cast, share(payload), handles, Paid::Now);
            }
            Frame::Call { to, call, left, payload } => {
                let head = (to, call, left);
                if self.has_incomplete() {
                    let (payload, paid) = self.complete(to, share(payload))?;
                    return self.handle_call(now, head, payload, Handles::default(), paid);
                }
                return self.handle_call(now, head, share(payload), Handles::default(), Paid::Now);
            }
            Frame::With { message, handles, payload } => {
                return self.handle_with(now, message, handles, share(payload));
            }
            Frame::Release { id, count } => self.handle_release(id, count)?,
            Frame::Cancel { call } => {
                if !self.resumption.is_free_cancel(self.incoming.number) && !self.cancels.spend(now) {
                    return Err(Fault::Overload);
                }
                if !self.owing.cancel(call, &mut self.woken) {
                    return Err(Fault::Protocol);
                }
            }
            Frame::Part { call, total, payload } => self.handle_part(call, total, payload)?,
            Frame::PartTo { to, total, payload } => self.handle_part_to(to, total, payload)?,
            Frame::Reply { call, payload } => {
                let answer = self.incomplete.complete(call, share(payload))?;
                self.handle_reply(call, Ok(answer), Handles::default())?;
            }
            Frame::Refuse { call: 0, code, text } => {
                self.handle_start_refused(StartRefused { code, text: text.into() });
            }
            Frame::Refuse { call, code, text } => self.handle_refusal(now, call, code, text)?,
            Frame::Exit { from, to, taken: None, reason } => {
                self.border.handle_exit(from, to, reason);
                self.reflect_border();
            }
            Frame::Exit { from, to, taken: Some(_), reason } => {
                let result = self.border.handle_exit_link(from, to, reason, self.limits.max_links.into());
                self.reflect_border();
                result?;
            }
            Frame::Ended { taken, reason } => self.handle_ended(taken, reason)?,
            Frame::Link { from, to } => {
                let result = self.border.handle_link(from, to, self.limits.max_links.into());
                self.reflect_border();
                result?;
            }
            Frame::Unlink { from, to, unlink } => {
                self.border.handle_unlink(from, to, unlink);
                self.reflect_border();
            }
            Frame::UnlinkAck { from, to, unlink } => {
                self.border.handle_unlink_ack(from, to, unlink, self.limits.max_links.into())?;
            }
            Frame::Monitor { monitor, to } => {
                self.border.handle_monitor(monitor, to, self.limits.max_links.into())?;
                self.reflect_border();
            }
            Frame::Demonitor { monitor } => {
                self.border.handle_demonitor(monitor)?;
                self.reflect_border();
            }
            Frame::Down { monitor, taken: _, reason } => {
                self.border.handle_down(monitor, reason);
                self.reflect_border();
            }
            Frame::GoAway => self.peer.drains = true,
            Frame::Credit { id: OWNER, total } => {
                self.peer.balance.grant(total);
                self.widen_kept(self.peer.balance.ahead());
            }
            // One that this end never sent to needs none.
            Frame::Credit { id, total } => {
                if let Some(balance) = self.peer.balances.get_mut(&id) {
                    balance.grant(total);
                    let ahead = balance.ahead();
                    // The process of an endless grant is gone.
                    if total < u64::MAX {
                        self.widen_kept(ahead);
                    }
                }
            }
            Frame::Ack { number } => {
                // One that says nothing new is the sign of life of a peer to which a long frame is on its way.
                if self.outgoing.acked < self.outgoing.number {
                    // It comes three times in a heartbeat.
                    let wait = self.limits.close_timeout.max(self.heartbeat_interval());
                    self.put_off_deadline(now, wait);
                }
                self.handle_ack(number)?;
                self.ping_for_flush();
            }
            Frame::Ping { token } => self.handle_ping(token),
            Frame::Pong { token } => {
                let (window, taken) = (self.inbox.grant.window(), self.inbox.grant.returned());
                if let Some(window) = self.inbox.tuner.pong(now, token, window, taken) {
                    self.resize_window(window);
                }
            }
            Frame::Resume { .. } => return Err(Fault::Protocol),
            Frame::Resumed { received, sent } => self.handle_resumed(now, received, sent)?,
            Frame::Lost { tombstone } => self.handle_session_lost(tombstone),
        }
        Ok(0)
    }

    /// Handles a message with handles.
    #[cold]
    fn handle_with(
        &mut self,
        now: Instant,
        message: MessageHead,
        table: HandleTable<'_>,
        payload: Bytes,
    ) -> Result<usize, Fault> {
        let handles = self.receive_handles(table)?;
        match message {
            MessageHead::Cast { to } | MessageHead::Call { to, .. } if self.is_incomplete(to) => {
                Err(Fault::Protocol)
            }
            MessageHead::Cast { to } => {
                self.handle_message(to, InboundKind::Cast, payload, handles, Paid::Now)
            }
            MessageHead::Call { to, call, left } => {
                self.handle_call(now, (to, call, left), payload, handles, Paid::Now)
            }
            MessageHead::Reply { call } if self.incomplete.contains(call) => Err(Fault::Protocol),
            MessageHead::Reply { call } => self.handle_reply(call, Ok(payload), handles).map(|()| 0),
        }
    }

    fn handle_call(
        &mut self,
        now: Instant,
        (to, call, left): (u64, u64, u64),
        payload: Bytes,
        handles: Handles,
        paid: Paid,
    ) -> Result<usize, Fault> {
        let left = Duration::from_millis(left).min(MAX_CALL_TIME);
        // A call beyond what this session may have in flight ends the session, whatever others have in flight.
        let (place, over) = match self.quota.take(now) {
            Ok(place) => (place, None),
            Err(over) => (None, Some(over)),
        };
        if !self.owing.begin(call, now + left, place) {
            return Err(Fault::Protocol);
        }
        if self.owed_slots() > u64::from(self.limits.max_calls) {
            return Err(Fault::Overload);
        }
        let kind = InboundKind::Call { call };
        let Some(over) = over else { return self.handle_message(to, kind, payload, handles, paid) };
        let message = Inbound { number: self.incoming.number, kind, payload, handles };
        self.refuse_over_quota(to, &message, paid, over).map(|()| 0)
    }

    fn handle_ping(&mut self, token: u64) {
        self.attachment.ack_due = true;
        if self.can_say() {
            let ack = self.ack();
            self.outgoing.reflect(&ack);
            self.outgoing.reflect(&Frame::Pong { token });
            self.check_unsent();
        }
    }

    /// Checks that the frame may come in this state.
    fn check_place(&self, frame: &Frame<'_>) -> Result<(), Fault> {
        let heartbeat = matches!(frame, Frame::Ack { .. } | Frame::Ping { .. } | Frame::Pong { .. });
        let answers_resume = matches!(frame, Frame::Resumed { .. } | Frame::Lost { .. });
        if answers_resume != self.resumption.is_detached() {
            return Err(Fault::Protocol);
        }
        let ok = match (&self.life, self.side) {
            (Life::Opening { expects, .. }, side) => {
                heartbeat
                    || match frame {
                        Frame::Ended { .. } => true,
                        Frame::Start { .. } => *expects == Expects::Start && side == Side::Server,
                        Frame::Started { .. } | Frame::Refuse { call: 0, .. } => {
                            *expects == Expects::Answer && side == Side::Client
                        }
                        Frame::Cast { to: OWNER, .. } => *expects == Expects::Answer && side == Side::Server,
                        _ => false,
                    }
            }
            _ => {
                !matches!(frame, Frame::Start { .. } | Frame::Started { .. } | Frame::Refuse { call: 0, .. })
            }
        };
        if ok { Ok(()) } else { Err(Fault::Protocol) }
    }

    /// Appends an ack that is due, or that costs little because other output is written.
    pub(super) fn put_ack(&mut self) {
        let goes_along = !self.outgoing.is_empty() && self.incoming.is_unacked_part(ACK_PART);
        if (self.attachment.ack_due || goes_along) && self.can_say() {
            let ack = self.ack();
            self.outgoing.put(&ack);
        }
    }

    /// Returns the ack for everything received.
    const fn ack(&mut self) -> Frame<'static> {
        self.attachment.ack_due = false;
        self.attachment.ack_by = None;
        self.incoming.note_acked();
        Frame::Ack { number: self.incoming.number }
    }

    fn handle_start(
        &mut self,
        codec: u8,
        terms: Terms,
        (max_frame_len, window_len): (u64, u64),
        interface: Option<Box<InterfaceHash>>,
        args: Bytes,
    ) -> Result<(), Fault> {
        let max_frame_len = usize::try_from(max_frame_len).map_err(|_| Fault::Protocol)?;
        if !Limits::FRAME_LEN_RANGE.contains(&max_frame_len) || window_len < Limits::MIN_WINDOW_LEN as u64 {
            return Err(Fault::Protocol);
        }
        self.peer = Peer::new(max_frame_len, window_len, terms);
        self.life = Life::Opening { expects: Expects::Answer, deadline: None };
        match Codec::from_code(codec) {
            Some(codec) => {
                let resume = Duration::from_millis(self.asked_resume());
                self.request = Some(Request { codec, args, resume, interface });
            }
            None => self.refuse_start(RefuseCode::Codec, "unknown codec"),
        }
        Ok(())
    }

    /// Handles a message for a process of this end. Returns the number of its bytes that are kept.
    fn handle_message(
        &mut self,
        to: u64,
        kind: InboundKind,
        payload: Bytes,
        handles: Handles,
        paid: Paid,
    ) -> Result<usize, Fault> {
        let message = Inbound { number: self.incoming.number, kind, payload, handles };
        // The memory of a message that came in parts is its own.
        let len = if paid == Paid::Now { message.payload.len() } else { 0 };
        if to != OWNER {
            let id = to;
            let receiver = match paid {
                Paid::Now => self.border.ids.receive(id, message.cost())?,
                Paid::WithFirstPart => self.border.ids.reach(id),
                Paid::Never => None,
            };
            let Some((to, mailbox)) = receiver else {
                self.refuse_arrived(id, &message, paid);
                return Ok(0);
            };
            if !self.can_put() {
                // The `Ended` of this end has said that no process takes it.
                self.discard_handed(id, &message);
                return Ok(0);
            }
            self.incoming.handed = message.number;
            self.deliveries.push(Delivery::Message { to, id, mailbox, message });
            return Ok(len);
        }
        if paid == Paid::Now && !self.inbox.grant.receive(message.cost()) {
            return Err(Fault::Overload);
        }
        if !self.can_put() {
            self.discard(&message);
            return Ok(0);
        }
        match self.inbox.receiver {
            Receiver::Reads => self.inbox.messages.push_back(message),
            Receiver::HandedOver => self.deliveries.push(Delivery::Inbound(message)),
            Receiver::Gone => {
                self.discard(&message);
                return Ok(0);
            }
        }
        Ok(len)
    }

    fn handle_reply(&mut self, call: u64, outcome: Outcome, handles: Handles) -> Result<(), Fault> {
        if self.asking.answered(call, outcome, handles, &mut self.woken) {
            Ok(())
        } else {
            Err(Fault::Protocol)
        }
    }

    /// Handles the next part of an answer.
    fn handle_part(&mut self, call: u64, total: u64, payload: &[u8]) -> Result<(), Fault> {
        let wanted = self.asking.is_wanted(call).ok_or(Fault::Protocol)?;
        let max = self.limits.max_frame_len - wire::MAX_OVERHEAD;
        self.incomplete.add(call, total, payload, wanted, max)
    }

    fn handle_refusal(&mut self, now: Instant, call: u64, code: RefuseCode, text: &str) -> Result<(), Fault> {
        if self.incomplete.contains(call) {
            return Err(Fault::Protocol);
        }
        let mut error = self.refusal(code, text);
        // A service that hears in time that nobody waits drops the call, and its word may come before the clock of this
        // end has been looked at.
        let is_late = self.asking.deadline(call).is_some_and(|deadline| deadline <= now);
        if is_late && code == RefuseCode::NoAnswer {
            error = CallError::new(Executed::Unknown, CallFailure::Deadline);
        }
        self.handle_reply(call, Err(error), Handles::default())
    }

    fn refusal(&self, code: RefuseCode, text: &str) -> CallError {
        let text = text.into();
        let max = self.max_payload_len();
        match code {
            RefuseCode::Refused | RefuseCode::Interface => {
                CallError::new(Executed::No, CallFailure::Refused(text))
            }
            RefuseCode::Codec => CallError::new(Executed::No, CallFailure::Codec(text)),
            RefuseCode::TooLong => CallError::new(Executed::No, CallFailure::TooLong { max }),
            RefuseCode::Overload => {
                let retry_after = retry_after(&text);
                CallError::new(Executed::No, CallFailure::Overload { retry_after })
            }
            RefuseCode::NoAnswer => CallError::new(Executed::Unknown, CallFailure::NoAnswer),
            RefuseCode::AnswerTooLong => {
                let max = self.limits.max_frame_len - wire::MAX_OVERHEAD;
                CallError::new(Executed::Yes, CallFailure::TooLong { max })
            }
            RefuseCode::AnswerCodec => CallError::new(Executed::Yes, CallFailure::Codec(text)),
        }
    }

    /// Handles the far owner's `Ended`: either the far owner has ended, or it lives and answers this end's own
    /// `Ended`.
    fn handle_ended(&mut self, taken: u64, reason: ExitReason) -> Result<(), Fault> {
        // What was taken has come: in the answer to our own end that is all we sent, and a flush before it is done.
        self.handle_ack(taken)?;
        let is_answer = !self.can_put() && reason == ANSWER;
        if self.can_put() {
            // What came before may still be taken: the owner ends later, if at all.
            self.outgoing.put(&Frame::Ended { taken: self.incoming.number, reason: ANSWER });
        }
        let reason = if is_answer { ExitReason::Normal } else { reason };
        let reached = self.outgoing.end();
        self.finish(Ending { reason, far_owner_lives: is_answer, taken: Some(taken), reached });
        Ok(())
    }

    fn handle_ack(&mut self, number: u64) -> Result<(), Fault> {
        if number > self.outgoing.number {
            return Err(Fault::Protocol);
        }
        self.outgoing.ack(number);
        self.woken.extend(self.flushes.acked(self.outgoing.acked));
        Ok(())
    }
}

/// Makes room for `wanted` bytes, of which `have` have come. Memory follows the received bytes, not the claimed length;
/// the last doubling is exact.
pub(super) fn reserve(buffer: &mut Vec<u8>, wanted: usize, have: usize) {
    if have * 2 >= wanted {
        buffer.reserve_exact(wanted.saturating_sub(buffer.len()));
    }
}

/// A rule that the peer broke.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes are no frame, or the frame is out of place.
    Protocol,
    /// The peer sent more than it may.
    Overload,
}

impl From<WireError> for Fault {
    fn from(_: WireError) -> Self {
        Self::Protocol
    }
}

impl From<Breach> for Fault {
    fn from(breach: Breach) -> Self {
        match breach {
            Breach::TooMany => Self::Overload,
            Breach::Name => Self::Protocol,
        }
    }
}
