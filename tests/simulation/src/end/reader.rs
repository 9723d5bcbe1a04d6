//! The receiving half of an end: messages, their answers, and how the half is given away or ends.

use std::sync::Arc;

use lib_chan::{
    ExitReason,
    session::{Claim, Inbound, InboundKind, Next, Session, Who},
    wire::RefuseCode,
};

use crate::{
    log::{Answer, At, Pid, Proc, What, token},
    process::{Doing, Life, Owed},
    world::{Violation, World},
};

use super::READERS;

impl World {
    /// Whether a look at the channel would find something.
    pub(crate) fn may_receive(&self, at: At) -> bool {
        let end = &self.conns[usize::from(at.conn)].ends[at.side as usize];
        end.endpoint.is_some() && end.reader.is_some() && !end.reader_waits
    }

    /// The reader of a channel looks for a message, and takes it.
    pub(crate) fn receive(&mut self, proc: Proc, at: At) {
        let Some(mut reader) = self.end(at).reader.take() else { return };
        if reader.must_fetch() {
            self.end(at).reader_waits = true;
            let waiter = READERS + at.number();
            let ready = self.endpoint(at, Who::User, |endpoint, _| endpoint.fetch(&mut reader, |_| waiter));
            if ready != Some(true) {
                self.end(at).reader = Some(reader);
                return;
            }
            self.end(at).reader_waits = false;
        }
        let next = reader.take();
        self.end(at).reader = Some(reader);
        match next {
            Next::Message(message, give_back) => self.take(proc, at, &message, give_back),
            Next::Closed => self.end(at).reader_waits = true,
            Next::Empty => {
                self.end(at).reader = None;
                self.process(proc).reads.retain(|read| *read != at);
                let reason = self.end(at).session().and_then(|session| session.over().cloned());
                if let Some(reason) = reason {
                    self.note(What::EndSeen { at, reason });
                }
                // What is left of the channel is dropped.
                self.let_go(at, ExitReason::Normal);
            }
        }
    }

    /// A letter of a channel that was given to a process.
    pub(crate) fn receive_letter(&mut self, proc: Proc, at: At, message: Inbound) {
        let Some(claims) = self.end(at).endpoint.as_ref().map(|endpoint| Arc::clone(endpoint.claims()))
        else {
            return;
        };
        let turn = if claims.is_straight() {
            Some(message)
        } else {
            self.endpoint(at, Who::User, |endpoint, _| endpoint.take_turn(message)).flatten()
        };
        let Some(message) = turn else { return };
        match claims.claim(&message) {
            Claim::Closed => {}
            claim => self.take(proc, at, &message, claim == Claim::TakenGiveBack),
        }
    }

    /// A cast to a process that was handed out.
    pub(crate) fn receive_direct(&mut self, proc: Proc, at: At, id: u64, message: &Inbound) {
        let (number, token) = (message.number, token(&message.payload));
        self.note(What::TookDirect { at, proc, number, token });
        self.discard_direct(at, id, message);
    }

    pub(crate) fn discard_direct(&mut self, at: At, id: u64, message: &Inbound) {
        let cost = message.cost();
        self.session(at, |session, _| session.give_back_to(id, cost));
    }

    fn take(&mut self, proc: Proc, at: At, message: &Inbound, give_back: bool) {
        if give_back {
            self.endpoint(at, Who::User, |endpoint, _| endpoint.give_back());
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
        let before = self.end(at).session().map_or(0, Session::unsent);
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
        let Some(session) = end.session() else { return };
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
        if self.end(at).endpoint.is_none() {
            return;
        }
        self.note_let_go(at, &reason);
        self.tell_ended(at);
        self.endpoint(at, Who::User, |endpoint, now| endpoint.let_go(now, reason));
        self.note(What::GaveUpReceiving { at });
    }

    /// Tells the far end of processes that are about to end, because the session is.
    fn tell_ended(&mut self, at: At) {
        let exposed = self.end(at).session().map(Session::exposed).unwrap_or_default();
        for pid in exposed {
            let Pid::Local(proc) = pid else { continue };
            if let Life::Ending { reason, .. } = self.process(proc).life.clone() {
                self.endpoint(at, Who::User, |endpoint, _| {
                    endpoint.session_mut().process_ended(&pid, &reason);
                });
            }
        }
    }

    fn note_let_go(&mut self, at: At, reason: &ExitReason) {
        let end = self.end(at);
        if let Some(session) = end.session().filter(|session| !session.has_let_go()) {
            // A peer that does not stall may take so long for what was sent to it, and for the period that has begun.
            let periods = 1 + (session.unacked() + 64).div_ceil(end.limits.min_accepted as u64) as u32;
            let most = end.limits.close_timeout + end.limits.stall_timeout * periods;
            let close_by = (self.now + most).duration_since(self.base);
            self.note(What::LetGo { at, reason: reason.clone(), close_by });
        }
    }

    /// The channel is gone, its remotes live on.
    pub(crate) fn give_up_channel(&mut self, proc: Proc, at: At) {
        self.process(proc).reads.retain(|read| *read != at);
        let end = self.end(at);
        let Some(reader) = end.reader.take() else { return };
        end.lives_by_remotes = true;
        self.endpoint(at, Who::User, |endpoint, _| endpoint.live_by_remotes(reader));
        self.end(at).owner = None;
        self.note(What::Owner { at, proc: None });
        self.note(What::GaveUpReceiving { at });
    }

    /// The last remote of a channel is gone.
    pub(crate) fn last_remote_gone(&mut self, at: At) {
        if self.end(at).lives_by_remotes {
            self.note_let_go(at, &ExitReason::Normal);
            self.tell_ended(at);
            self.endpoint(at, Who::User, |endpoint, now| endpoint.last_remote_gone(now, ExitReason::Normal));
            self.note(What::GaveUpReceiving { at });
        }
    }

    /// Gives the channel to another process: its new owner, and the reader of what comes.
    pub(crate) fn give_to(&mut self, proc: Proc, at: At, to: Proc) {
        if !self.process(to).is_alive() || self.process(to).task {
            return;
        }
        let Some(reader) = self.end(at).reader.take() else { return };
        self.end(at).handed = Some(reader);
        self.process(proc).reads.retain(|read| *read != at);
        self.process(to).owned.push(at);
        self.now_owns(at, Some(to), false);
        self.process(proc).doing.push_back(Doing::HandOver { at, to });
    }

    pub(crate) fn break_off(&mut self, at: At, reason: ExitReason) {
        if self.end(at).is_over() {
            return;
        }
        self.note(What::BrokeOff { at, reason: reason.clone() });
        self.session(at, |session, _| session.break_off(reason));
    }
}
