//! Bytes a second that several sessions share, and what one of them owes.

use std::fmt;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::{Sleep, sleep};

/// So many bytes may come at once, however low the rate is.
const MIN_BURST: u32 = 64 * 1024;

type Limiter = RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<std::time::Instant>>;

/// A number of bytes a second, for all that share this value.
pub(crate) struct ByteRate {
    per_second: NonZeroU32,
    burst: u32,
    limiter: Limiter,
}

impl ByteRate {
    pub(crate) fn new(per_second: NonZeroU32) -> Arc<Self> {
        let burst = per_second.max(NonZeroU32::MIN.saturating_add(MIN_BURST - 1));
        let quota = Quota::per_second(per_second).allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, MonotonicClock);
        Arc::new(Self { per_second, burst: burst.get(), limiter })
    }

    pub(crate) fn per_second(&self) -> NonZeroU32 {
        self.per_second
    }

    /// Takes some of so many bytes, or says how long to wait.
    fn take(&self, bytes: u32) -> Result<u32, Duration> {
        let part = bytes.min(self.burst);
        let Some(some) = NonZeroU32::new(part) else { return Ok(0) };
        match self.limiter.check_n(some) {
            Ok(Err(until)) => Err(until.wait_time_from(MonotonicClock.now())),
            // A part is never more than fits.
            Ok(Ok(())) | Err(_) => Ok(part),
        }
    }
}

impl fmt::Debug for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByteRate({}/s)", self.per_second)
    }
}

/// The bytes that one direction of a connection has carried and not paid for.
#[derive(Debug, Default)]
pub(crate) struct Debt {
    bytes: u32,
    /// How many of the rates have been paid all of it, and how much the next one has.
    paid: usize,
    part: u32,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Debt {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Waits until each rate has been paid.
    pub(crate) fn poll_pay(&mut self, rates: &[Arc<ByteRate>], cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            let Some(rate) = rates.get(self.paid).filter(|_| self.bytes > 0) else {
                (self.bytes, self.paid, self.part) = (0, 0, 0);
                return Poll::Ready(());
            };
            match rate.take(self.bytes - self.part) {
                Ok(taken) => self.part += taken,
                Err(wait) => self.sleep = Some(Box::pin(sleep(wait))),
            }
            if self.part == self.bytes {
                (self.paid, self.part) = (self.paid + 1, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    fn rate(per_second: u32) -> Arc<ByteRate> {
        ByteRate::new(NonZeroU32::new(per_second).unwrap())
    }

    #[tokio::test]
    async fn bytes_beyond_burst_wait_for_slowest_rate() {
        let rates = [rate(100_000_000), rate(1_000_000)];
        let mut debt = Debt::default();
        let began = Instant::now();
        // The burst of a second, and a fifth of one more.
        for _ in 0..12 {
            debt.add(100_000);
            poll_fn(|cx| debt.poll_pay(&rates, cx)).await;
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(190), "{took:?}");
    }

    #[test]
    fn a_rate_is_shared() {
        let rate = rate(1000);
        assert_eq!(rate.take(u32::MAX), Ok(MIN_BURST));
        assert!(rate.take(1000).is_err());
    }
}
