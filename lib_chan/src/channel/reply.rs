//! The far end's wait for an answer.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use crate::{
    middleman::{Shared, keep, with_scratch},
    payload::{Codec, PayloadError},
    process::settle,
    wire::RefuseCode,
};

/// A call of the far end that is answered once.
#[derive(Debug)]
pub(crate) struct FarReply {
    /// Nothing once it is answered.
    shared: Option<Arc<Shared>>,
    call: u64,
}

impl FarReply {
    pub(super) const fn new(shared: Arc<Shared>, call: u64) -> Self {
        Self { shared: Some(shared), call }
    }

    /// Encodes the answer with the session's codec, to the longest that the far end takes, outside of the lock, and sends
    /// it. Never waits.
    pub(crate) fn answer(
        mut self,
        encode: impl FnOnce(Codec, usize, &mut Vec<u8>) -> Result<(), PayloadError>,
    ) {
        let Some(shared) = self.shared.take() else { return };
        let call = self.call;
        // Whoever asks for much and is shown out for it is no more work.
        if shared.gate().is_over() {
            return;
        }
        with_scratch(|scratch| match encode(shared.codec(), shared.max_payload_len(), scratch) {
            Ok(()) => shared.session(|session| session.reply(call, scratch)),
            Err(error) => {
                let code = match error {
                    PayloadError::TooLong { .. } => RefuseCode::AnswerTooLong,
                    _ => RefuseCode::AnswerCodec,
                };
                shared.session(|session| session.refuse(call, code, &error.to_string()));
            }
        });
    }

    /// Refuses the call with a public text.
    pub(crate) fn refuse(mut self, public: &str) {
        if let Some(shared) = self.shared.take() {
            shared.session(|session| session.refuse(self.call, RefuseCode::Refused, public));
        }
    }

    /// Ready when the caller no longer waits: it gave up, its deadline passed, or its session ended.
    pub(crate) fn poll_cancelled(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(shared) = &self.shared else { return Poll::Ready(()) };
        if shared.session(|session| session.poll_cancelled(self.call, keep(cx))) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for FarReply {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            let call = self.call;
            // A process that ended and owns the session has told its end already; then this is not sent.
            settle(move |_| {
                shared.session(|session| session.refuse(call, RefuseCode::NoAnswer, "the call was dropped"));
            });
        }
    }
}
