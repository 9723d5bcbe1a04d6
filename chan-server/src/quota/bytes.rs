//! Bytes a second that sessions share in turns, and what one of them owes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use governor::clock::{Clock, ReasonablyRealtime};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota as GovernorQuota, RateLimiter};
use tokio::time::{Instant, Sleep, sleep};

use super::{Flow, Quota, Share};
use crate::gate::locked;

/// So many bytes may come at once, however low the rate is.
const MIN_BURST: u32 = 64 * 1024;
/// The number of flows from which those are forgotten that have nothing to pay.
const FEW_FLOWS: usize = 64;

/// The clock of the runtime, which tests pause.
#[derive(Clone, Debug, Default)]
struct RuntimeClock;

impl Clock for RuntimeClock {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        Instant::now().into_std()
    }
}

impl ReasonablyRealtime for RuntimeClock {}

type Limiter = RateLimiter<NotKeyed, InMemoryState, RuntimeClock, NoOpMiddleware<std::time::Instant>>;

/// A number of bytes a second, for all that share this value. They take turns: see [`Turns`].
#[derive(Default)]
pub(super) struct ByteRate {
    is_limited: AtomicBool,
    turns: Mutex<Turns>,
}

/// The order in which payments are made.
///
/// Each flow has as many bytes as any other that has something to pay (start-time fair queueing): a payment is tagged with
/// the time at which the flow's payments before it end, in bytes that every flow may pay, and the lowest tag is next. A
/// flow that pays little is therefore never behind more than one payment of each other flow.
#[derive(Default)]
struct Turns {
    rate: Option<PacedRate>,
    /// The tag of the last payment.
    at: u64,
    /// Where the payments of each flow end.
    ends: HashMap<Flow, u64>,
    forget_from: usize,
    /// Payments that wait, by tag and number.
    waiting: BTreeMap<Tag, Waker>,
    payments: u64,
}

/// The tag of a payment, and its number.
type Tag = (u64, u64);

struct PacedRate {
    per_second: NonZeroU32,
    burst: u32,
    limiter: Limiter,
}

impl PacedRate {
    fn new(per_second: NonZeroU32) -> Self {
        let burst = per_second.max(NonZeroU32::MIN.saturating_add(MIN_BURST - 1));
        let quota = GovernorQuota::per_second(per_second).allow_burst(burst);
        let limiter = RateLimiter::direct_with_clock(quota, RuntimeClock);
        Self { per_second, burst: burst.get(), limiter }
    }

    /// Takes so many bytes, no more than the burst, or says how long to wait.
    fn take(&self, bytes: u32) -> Result<(), Duration> {
        let Some(bytes) = NonZeroU32::new(bytes) else { return Ok(()) };
        match self.limiter.check_n(bytes) {
            Ok(Err(until)) => Err(until.wait_time_from(RuntimeClock.now())),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

impl ByteRate {
    /// Takes another rate, and looks at all waiting payments anew.
    pub(super) fn set(&self, per_second: Option<NonZeroU32>) {
        let mut turns = locked(&self.turns);
        if turns.rate.as_ref().map(|rate| rate.per_second) == per_second {
            return;
        }
        self.is_limited.store(per_second.is_some(), Ordering::Relaxed);
        turns.rate = per_second.map(PacedRate::new);
        let waiting: Vec<_> = turns.waiting.values().cloned().collect();
        drop(turns);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn is_limited(&self) -> bool {
        self.is_limited.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &locked(&self.turns).rate {
            Some(rate) => write!(f, "ByteRate({}/s)", rate.per_second),
            None => f.write_str("ByteRate(no bound)"),
        }
    }
}

/// What came of an attempt to pay.
enum Payment {
    /// So many bytes are paid.
    Paid(u32),
    /// It is the next, and is due in this time.
    Due(Duration),
    /// Others are before it. It is woken.
    Waits,
}

impl Turns {
    /// Tries to pay for so many bytes or, if they are more than the burst, for some of them.
    fn pay(&mut self, flow: &Flow, bytes: u32, place: &mut Option<Tag>, waker: &Waker) -> Payment {
        let Some(rate) = &self.rate else {
            self.leave(place);
            return Payment::Paid(bytes);
        };
        let part = bytes.min(rate.burst);
        let mine = match *place {
            Some(mine) => mine,
            None => {
                let start = self.ends.get(flow).copied().unwrap_or_default().max(self.at);
                self.payments += 1;
                *self.ends.entry(flow.clone()).or_default() = start + u64::from(part);
                (start, self.payments)
            }
        };
        if self.waiting.first_key_value().is_none_or(|(first, _)| mine <= *first) {
            match rate.take(part) {
                Ok(()) => {
                    self.at = mine.0;
                    *place = Some(mine);
                    self.leave(place);
                    return Payment::Paid(part);
                }
                Err(wait) => {
                    self.wait(mine, place, waker);
                    return Payment::Due(wait);
                }
            }
        }
        self.wait(mine, place, waker);
        Payment::Waits
    }

    fn wait(&mut self, mine: Tag, place: &mut Option<Tag>, waker: &Waker) {
        *place = Some(mine);
        self.waiting.insert(mine, waker.clone());
    }

    /// Takes a payment out, and lets the next one look.
    fn leave(&mut self, place: &mut Option<Tag>) {
        let Some(mine) = place.take() else { return };
        let was_first = self.waiting.first_key_value().is_none_or(|(first, _)| mine <= *first);
        self.waiting.remove(&mine);
        if was_first && let Some((_, next)) = self.waiting.first_key_value() {
            next.wake_by_ref();
        }
        if self.ends.len() > self.forget_from {
            let at = self.at;
            self.ends.retain(|_, end| *end > at);
            self.forget_from = (self.ends.len() * 2).max(FEW_FLOWS);
        }
    }
}

/// The bytes that one direction of a connection has carried and not paid for.
#[derive(Debug, Default)]
pub(crate) struct Debt {
    bytes: u32,
    /// How many of the quotas have been paid all of it, and how much the next one has.
    paid: usize,
    part: u32,
    sleep: Option<Pin<Box<Sleep>>>,
    turn: Option<Turn>,
}

/// A place among the payments of a quota, left on drop.
#[derive(Debug)]
struct Turn {
    quota: Arc<Quota>,
    place: Option<Tag>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        locked(&self.quota.bytes.turns).leave(&mut self.place);
    }
}

impl Debt {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Waits until each quota has been paid.
    pub(crate) fn poll_pay(&mut self, share: &Share, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(part) = share.parts.get(self.paid).filter(|_| self.bytes > 0) else {
                (self.bytes, self.paid, self.part) = (0, 0, 0);
                return Poll::Ready(());
            };
            let payment = if part.quota.bytes.is_limited() || self.turn.is_some() {
                let turn =
                    self.turn.get_or_insert_with(|| Turn { quota: Arc::clone(&part.quota), place: None });
                let bytes = self.bytes - self.part;
                locked(&part.quota.bytes.turns).pay(&part.flow, bytes, &mut turn.place, cx.waker())
            } else {
                Payment::Paid(self.bytes - self.part)
            };
            match payment {
                Payment::Paid(bytes) => {
                    (self.turn, self.sleep) = (None, None);
                    self.part += bytes;
                    if self.part == self.bytes {
                        (self.paid, self.part) = (self.paid + 1, 0);
                    }
                }
                // A new rate, or a payment before this one, makes another time of it.
                Payment::Due(wait) => {
                    let mut due = Box::pin(sleep(wait));
                    if due.as_mut().poll(cx).is_pending() {
                        self.sleep = Some(due);
                        return Poll::Pending;
                    }
                }
                Payment::Waits => {
                    self.sleep = None;
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use lib_chan::auth::{ClientId, ServiceName};

    use super::super::{QuotaTerms, Quotas};
    use super::*;
    use crate::gate::Holder;

    fn terms(max_bytes_per_second: u32) -> QuotaTerms {
        QuotaTerms { max_bytes_per_second: NonZeroU32::new(max_bytes_per_second), ..QuotaTerms::default() }
    }

    fn quotas(of_service: u32, of_client: u32) -> Quotas {
        let mut quotas = Quotas::default();
        set(&mut quotas, of_service, of_client);
        quotas
    }

    fn set(quotas: &mut Quotas, of_service: u32, of_client: u32) {
        let service: ServiceName = "echo".parse().unwrap();
        let (of_service, of_client) = (terms(of_service), terms(of_client));
        let clients =
            ["joe", "mike"].map(|name| (service.clone(), Some(ClientId::new(name).unwrap()), &of_client));
        quotas.set(std::iter::once((service.clone(), None, &of_service)).chain(clients));
    }

    fn share(quotas: &Quotas, client: &str, session: u64) -> Share {
        let holder = Holder::Client("echo".into(), client.into());
        quotas.share((&"echo".parse().unwrap(), &ClientId::new(client).unwrap()), holder, session)
    }

    /// Carries so many bytes, in pieces of this length, and returns how long it took.
    async fn carry(share: Share, bytes: usize, piece: usize) -> Duration {
        let (began, mut debt) = (Instant::now(), Debt::default());
        for _ in 0..bytes / piece {
            debt.add(piece);
            poll_fn(|cx| debt.poll_pay(&share, cx)).await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_beyond_burst_wait_for_slowest_rate() {
        let quotas = quotas(100_000_000, 1_000_000);
        let took = carry(share(&quotas, "joe", 1), 1_200_000, 100_000).await;
        // The burst of a second, and a fifth of one more.
        assert!((190..220).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn flood_of_one_client_leaves_others_their_part() {
        let quotas = quotas(1_000_000, 0);
        // What one client can do: many sessions, in both directions, with long pieces.
        let flood: Vec<_> = (0..300)
            .map(|session| tokio::spawn(carry(share(&quotas, "joe", session), usize::MAX, 16_000)))
            .collect();
        sleep(Duration::from_secs(5)).await;
        // Half of the rate is there for the other client.
        let took = carry(share(&quotas, "mike", 1000), 5_000_000, 10_000).await;
        assert!((9..12).contains(&took.as_secs()), "{took:?}");
        // And a small piece waits for one long one at most.
        for _ in 0..10 {
            sleep(Duration::from_secs(1)).await;
            let took = carry(share(&quotas, "mike", 1000), 100, 100).await;
            assert!(took <= Duration::from_millis(33), "{took:?}");
        }
        flood.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn client_alone_has_whole_rate() {
        let quotas = quotas(1_000_000, 0);
        let all: Vec<_> = (0..10)
            .map(|session| tokio::spawn(carry(share(&quotas, "joe", session), 1_000_000, 10_000)))
            .collect();
        let began = Instant::now();
        for one in all {
            one.await.unwrap();
        }
        let took = began.elapsed();
        assert!((8900..9200).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn new_rate_counts_for_waiting_bytes() {
        let mut quotas = quotas(16_384, 0);
        let slow: Vec<_> = (0..4)
            .map(|session| tokio::spawn(carry(share(&quotas, "joe", session), 1_600_000, 16_000)))
            .collect();
        sleep(Duration::from_secs(1)).await;
        set(&mut quotas, 100_000_000, 0);
        for one in slow {
            let took = one.await.unwrap();
            assert!(took < Duration::from_secs(2), "{took:?}");
        }
        let slow = tokio::spawn(carry(share(&quotas, "joe", 1), 1_600_000_000, 16_000));
        sleep(Duration::from_secs(1)).await;
        set(&mut quotas, 0, 0);
        let took = slow.await.unwrap();
        assert!(took < Duration::from_secs(2), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_payment_lets_next_one_pay() {
        let quotas = quotas(65_536, 0);
        carry(share(&quotas, "joe", 1), 65_536, 65_536).await;
        let first = tokio::spawn(carry(share(&quotas, "joe", 1), 65_536, 65_536));
        tokio::task::yield_now().await;
        let second = tokio::spawn(carry(share(&quotas, "joe", 2), 6_553, 6_553));
        tokio::task::yield_now().await;
        first.abort();
        let took = second.await.unwrap();
        assert!(took < Duration::from_millis(150), "{took:?}");
    }
}
