//! The methods of a protocol, called at the far end.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use super::Remote;
use crate::{
    CallError, CastError, Reply,
    process::{Within, in_time},
    protocol::{Caller, Protocol},
};

/// A cast waits for credit. A call waits at most [`Limits::call_timeout`](crate::Limits::call_timeout).
impl<M: Protocol> Caller<M> for Remote<M> {
    async fn cast_with<A: Send>(
        &self,
        arguments: A,
        wire: fn(A) -> M::Wire,
        _message: fn(A) -> M,
    ) -> Result<(), CastError> {
        let ticket = self.begin_cast(&wire(arguments))?;
        self.finish_cast(ticket).await
    }

    async fn call_with<A: Send, R: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        arguments: A,
        wire: fn(A) -> M::Wire,
        _message: fn(A, Reply<R>) -> M,
    ) -> Result<R, CallError> {
        self.call_value(self.shared().terms().limits().call_timeout, wire(arguments)).await
    }
}

/// A cast that would have to wait longer fails with `WouldWait`; within no time, it never waits.
impl<M: Protocol> Caller<M> for Within<'_, Remote<M>> {
    async fn cast_with<A: Send>(
        &self,
        arguments: A,
        wire: fn(A) -> M::Wire,
        _message: fn(A) -> M,
    ) -> Result<(), CastError> {
        if self.time == Duration::ZERO {
            return self.of.try_cast_value(&wire(arguments));
        }
        let ticket = self.of.begin_cast(&wire(arguments))?;
        in_time(self.time, self.of.finish_cast(ticket)).await.unwrap_or(Err(CastError::WouldWait))
    }

    async fn call_with<A: Send, R: Serialize + DeserializeOwned + Send + 'static>(
        &self,
        arguments: A,
        wire: fn(A) -> M::Wire,
        _message: fn(A, Reply<R>) -> M,
    ) -> Result<R, CallError> {
        self.of.call_value(self.time, wire(arguments)).await
    }
}
