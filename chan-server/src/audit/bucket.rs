//! Limits how often something may happen.

use std::time::Duration;

use tokio::time::Instant;

/// The number of events allowed at once, and a second after that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) burst: u32,
    pub(super) per_second: u32,
}

/// A bucket of tokens that fills with time.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, tokens: f64::from(rate.burst), filled: None }
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.filled = Some(now);
        let filled = self.tokens + since.as_secs_f64() * f64::from(self.rate.per_second);
        self.tokens = filled.min(f64::from(self.rate.burst));
        let any = self.tokens >= 1.0;
        if any {
            self.tokens -= 1.0;
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::super::STRANGERS;
    use super::*;

    #[test]
    fn bucket_allows_burst_then_rate() {
        let mut bucket = Bucket::new(STRANGERS);
        let start = Instant::now();
        let mut taken = |seconds| {
            let now = start + Duration::from_secs(seconds);
            (0..1000).filter(|_| bucket.take(now)).count() as u32
        };
        assert_eq!(taken(0), STRANGERS.burst);
        assert_eq!(taken(1), STRANGERS.per_second);
        assert_eq!(taken(3600), STRANGERS.burst);
    }
}
