//! Bounds on the calls of the peer beyond this session, and counts of its calls.

use std::{
    any::Any,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Host, Inbound, InboundKind, Session, border::OWNER, long::Paid, receive::Fault};
use crate::wire::RefuseCode;

/// A bound on the calls of the peer that several sessions may share, such as all sessions of a client.
///
/// A call over the bound is refused with [`CallFailure::Overload`](crate::CallFailure::Overload), and is not executed.
pub trait CallQuota: fmt::Debug + Send + Sync {
    /// Takes a place for a call that came at this time. The place is dropped when the call is answered, or when the session
    /// ends; `None` if nothing needs to be given back.
    ///
    /// Called under the lock of the session, so it must not block or use the session.
    ///
    /// # Errors
    /// The call is over the bound.
    fn take(&self, now: Instant) -> Result<Option<CallPlace>, OverQuota>;
}

/// The place of a call, given back on drop.
pub type CallPlace = Box<dyn Any + Send + Sync>;

/// A call is over its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverQuota {
    /// The time after which the call may succeed, if it is known. The caller is told.
    pub retry_after: Option<Duration>,
}

/// The number of calls of the peer so far, by ending.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallCounts {
    /// Answered.
    pub answered: u64,
    /// Refused, and not executed.
    pub refused: u64,
    /// Over a [`CallQuota`], and not executed.
    pub overload: u64,
    /// Given up by the caller, or late, before the answer.
    pub cancelled: u64,
    /// Executed, with an answer that is too long or does not encode; or dropped without an answer.
    pub failed: u64,
    /// In flight at the end of the session.
    pub ended: u64,
}

impl CallCounts {
    /// Returns the number of calls that have ended.
    pub const fn total(&self) -> u64 {
        self.answered + self.refused + self.overload + self.cancelled + self.failed + self.ended
    }

    /// Returns the larger of each number.
    #[must_use]
    pub fn max(&self, other: &Self) -> Self {
        Self {
            answered: self.answered.max(other.answered),
            refused: self.refused.max(other.refused),
            overload: self.overload.max(other.overload),
            cancelled: self.cancelled.max(other.cancelled),
            failed: self.failed.max(other.failed),
            ended: self.ended.max(other.ended),
        }
    }
}

/// The quota of a session, if it has one.
#[derive(Debug, Default)]
pub(super) struct Quota {
    quota: Option<Arc<dyn CallQuota>>,
    pub(super) counts: CallCounts,
}

impl Quota {
    pub(super) fn take(&self, now: Instant) -> Result<Option<CallPlace>, OverQuota> {
        self.quota.as_ref().map_or(Ok(None), |quota| quota.take(now))
    }

    /// Counts a call that is answered.
    pub(super) const fn count_answer(&mut self, cancelled: bool) {
        let count = if cancelled { &mut self.counts.cancelled } else { &mut self.counts.answered };
        *count += 1;
    }

    /// Counts a call that is answered with a refusal.
    pub(super) const fn count_refusal(&mut self, code: RefuseCode, cancelled: bool) {
        let count = match code {
            _ if cancelled => &mut self.counts.cancelled,
            RefuseCode::Refused | RefuseCode::Codec | RefuseCode::TooLong | RefuseCode::Interface => {
                &mut self.counts.refused
            }
            RefuseCode::Overload => &mut self.counts.overload,
            RefuseCode::NoAnswer | RefuseCode::AnswerTooLong | RefuseCode::AnswerCodec => {
                &mut self.counts.failed
            }
        };
        *count += 1;
    }
}

impl<H: Host> Session<H> {
    /// Puts the calls of the peer under this bound, from now on.
    pub fn limit_calls(&mut self, quota: Arc<dyn CallQuota>) {
        self.quota.quota = Some(quota);
    }

    /// Returns the number of calls of the peer so far.
    pub const fn call_counts(&self) -> CallCounts {
        self.quota.counts
    }

    /// Returns the number of calls of the peer that are not answered.
    pub fn calls_in_flight(&self) -> usize {
        self.owing.len()
    }

    /// Returns the number of messages for the owner that were neither fetched nor discarded, and the bytes that all
    /// processes of this end have not taken.
    pub fn untaken(&self) -> (usize, u64) {
        (self.inbox.messages.len(), self.inbox.grant.outstanding() + self.border.ids.outstanding())
    }

    /// Refuses a call that is over its quota, as if its process had taken it: the credit comes back at once.
    #[cold]
    pub(super) fn refuse_over_quota(
        &mut self,
        to: u64,
        message: &Inbound,
        paid: Paid,
        over: OverQuota,
    ) -> Result<(), Fault> {
        if to == OWNER {
            if paid == Paid::Now && !self.inbox.grant.receive(message.cost()) {
                return Err(Fault::Overload);
            }
            self.give_back(message.cost());
        } else if paid == Paid::WithFirstPart
            || paid == Paid::Now && self.border.ids.receive(to, message.cost())?.is_some()
        {
            self.give_back_to(to, message.cost());
        } else {
            self.refuse_unreachable(to, message);
            return Ok(());
        }
        if let InboundKind::Call { call } = message.kind {
            let wait = over.retry_after.map(|wait| wait.as_nanos().div_ceil(1_000_000).to_string());
            self.refuse(call, RefuseCode::Overload, &wait.unwrap_or_default());
        }
        Ok(())
    }
}

/// Reads the text of a refusal with [`RefuseCode::Overload`].
pub(super) fn retry_after(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis)
}
