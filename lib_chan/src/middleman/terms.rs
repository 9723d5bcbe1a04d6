//! The terms of a session. They never change, so messages need no lock for them.

use std::sync::{Arc, OnceLock};

use serde::Serialize;

use super::sending::{NotSent, with_scratch};
use crate::{
    Limits,
    handshake::Authenticated,
    payload::{self, Carried, Codec},
};

/// The limits and names of a session, and what its ends have agreed on.
pub(crate) struct SessionTerms {
    /// Set when the client's `Start` is known.
    agreed: OnceLock<Agreed>,
    limits: Arc<Limits>,
    client: Box<str>,
    service: Box<str>,
}

impl SessionTerms {
    pub(super) fn new(limits: &Limits, authenticated: &Authenticated) -> Self {
        Self {
            agreed: OnceLock::new(),
            limits: Arc::new(limits.clone()),
            client: authenticated.client().as_str().into(),
            service: authenticated.service().as_str().into(),
        }
    }

    /// Fixes the encoding. From now on messages may be encoded.
    pub(super) fn agree(&self, codec: Codec, max_payload_len: usize) {
        let _ = self.agreed.set(Agreed { codec, max_payload_len });
    }

    /// Returns the agreed encoding.
    #[inline]
    pub(crate) fn agreed(&self) -> Agreed {
        self.agreed.get().copied().unwrap_or(Agreed::NOTHING)
    }

    /// Returns the codec of every message.
    #[inline]
    pub(crate) fn codec(&self) -> Codec {
        self.agreed().codec
    }

    /// Returns the length of the longest payload that the far end takes.
    pub(crate) fn max_payload_len(&self) -> usize {
        self.agreed().max_payload_len
    }

    /// Returns the limits of this end.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the name of the client.
    pub(crate) fn client(&self) -> &str {
        &self.client
    }

    /// Returns the name of the service.
    pub(crate) fn service(&self) -> &str {
        &self.service
    }
}

/// The encoding that both ends have agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed {
    pub(super) codec: Codec,
    /// The longest payload that the far end takes.
    pub(super) max_payload_len: usize,
}

impl Agreed {
    /// The state before the client's `Start`, in which nothing can be sent.
    pub(super) const NOTHING: Self = Self { codec: Codec::Raw, max_payload_len: 0 };

    /// Encodes `value` into a buffer of the thread, and gives it to `send`, with the processes in it. A value that fails or panics while it is
    /// encoded leaves no trace.
    pub(super) fn encode<T, U: Serialize + 'static>(
        self,
        value: &U,
        send: impl FnOnce(&mut Vec<u8>, Carried) -> Result<T, NotSent>,
    ) -> Result<T, NotSent> {
        with_scratch(|scratch| {
            let carried = payload::encode_in_message(self.codec, value, self.max_payload_len, scratch)
                .map_err(NotSent::Payload)?;
            send(scratch, carried)
        })
    }
}
