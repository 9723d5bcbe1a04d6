//! What the user holds: the two halves of a channel.

use std::task::{Context, Poll};

use crate::payload::{Codec, PayloadError};

/// The far side's wait for an answer: the far variant of a [`Reply`](crate::Reply).
#[derive(Debug)]
pub(crate) struct FarReply {}

impl FarReply {
    /// Encodes the answer with the session's codec and sends it. Never waits.
    pub(crate) fn answer(self, _encode: impl FnOnce(Codec, &mut Vec<u8>) -> Result<(), PayloadError>) {}
    /// Refuses the call with a public text.
    pub(crate) fn refuse(self, _public: &str) {}
    /// Ready when the caller no longer waits: it gave up, its deadline passed, or its session ended.
    pub(crate) fn poll_cancelled(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}
