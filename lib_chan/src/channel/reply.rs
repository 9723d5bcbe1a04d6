//! Answers to the calls of the far end.

use std::task::{Context, Poll};

use crate::{
    ExitReason,
    middleman::{NotSent, Shared, keep, now, with_scratch},
    payload::PayloadError,
    process::{EncodeAnswer, FarCallers},
    wire::RefuseCode,
};

impl FarCallers for Shared {
    /// Encodes with the session's codec, outside of the lock.
    fn answer(&self, call: u64, encode: &mut EncodeAnswer<'_>) {
        // The session is over: do not encode an answer that nobody receives.
        if self.claims().is_over() {
            return;
        }
        with_scratch(|scratch| match encode(self.terms().codec(), self.terms().max_payload_len(), scratch) {
            Ok(carried) if carried.is_empty() => self.session(|session| session.reply(call, scratch)),
            Ok(carried) => {
                let sent = self.passing(carried).and_then(|handles| {
                    let sent = self.session(|session| session.reply_with(call, scratch, handles));
                    sent.map_err(NotSent::Session)
                });
                if let Err(error) = sent {
                    let text = ExitReason::from(error).to_string();
                    self.session(|session| session.refuse(call, RefuseCode::AnswerCodec, &text));
                }
            }
            Err(error) => {
                let code = match error {
                    PayloadError::TooLong { .. } => RefuseCode::AnswerTooLong,
                    _ => RefuseCode::AnswerCodec,
                };
                self.session(|session| session.refuse(call, code, &error.to_string()));
            }
        });
    }

    fn refuse(&self, call: u64, public: &str) {
        self.session(|session| session.refuse(call, RefuseCode::Refused, public));
    }

    fn give_no_answer(&self, call: u64) {
        self.session(|session| session.refuse(call, RefuseCode::NoAnswer, "the call was dropped"));
    }

    fn is_cancelled(&self, call: u64) -> bool {
        !self.ask(|session| session.is_wanted(call, now()))
    }

    fn poll_cancelled(&self, call: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.ask(|session| session.poll_cancelled(call, keep(cx))) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}
