//! What the two ends say to each other.

use bytes::Bytes;
use lib_chan::Call;
use serde::{Deserialize, Serialize};

/// Comes back as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Echo(pub(super) Bytes);
impl Call for Echo {
    type Reply = Self;
}

/// Is not answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hold;
impl Call for Hold {
    type Reply = ();
}

/// Hands over a process, and asks for one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Meet(pub(super) u64);
impl Call for Meet {
    type Reply = u64;
}

/// From a client to its service.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToService {
    Echo(Echo),
    Hold(Hold),
    Meet(Meet),
    /// The next of a sequence.
    Note(u64, Bytes),
    /// The service is to end with a reason of its own.
    Fail,
}

/// From a service to its client.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToClient {
    Echo(Echo),
    /// The next of a sequence.
    Push(u64, Bytes),
}

impl From<Echo> for ToService {
    fn from(echo: Echo) -> Self {
        Self::Echo(echo)
    }
}

impl From<Hold> for ToService {
    fn from(hold: Hold) -> Self {
        Self::Hold(hold)
    }
}

impl From<Meet> for ToService {
    fn from(meet: Meet) -> Self {
        Self::Meet(meet)
    }
}

impl From<Echo> for ToClient {
    fn from(echo: Echo) -> Self {
        Self::Echo(echo)
    }
}
