//! The rate a machine was lent with: one bucket for all that it sends to clients. Whoever sends takes out what was sent, into debt
//! if need be, and waits the debt out; so downloads share the rate as they come.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A bucket of bytes that fills at its rate.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Bytes a second.
    rate: u64,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    /// Bytes that may be sent now; below zero: what is still to be waited for.
    bytes: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket of [`BURST`] at this rate, at least 1 byte a second.
    pub(crate) fn new(rate: u64, now: Instant) -> Self {
        let rate = rate.max(1);
        Self { rate, level: Mutex::new(Level { bytes: Self::most(rate), at: now }) }
    }

    /// Takes out what is about to be sent; how long to wait before it is.
    pub(crate) fn take(&self, now: Instant, bytes: usize) -> Duration {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = wide(self.rate);
        let gained = now.saturating_duration_since(level.at).as_secs_f64() * rate;
        level.bytes =
            (level.bytes + gained).min(Self::most(self.rate)) - wide(u64::try_from(bytes).unwrap_or(u64::MAX));
        level.at = level.at.max(now);
        if level.bytes < 0.0 { Duration::from_secs_f64((-level.bytes / rate).min(LONGEST)) } else { Duration::ZERO }
    }

    /// Bytes a second.
    pub(crate) const fn rate(&self) -> u64 {
        self.rate
    }

    fn most(rate: u64) -> f64 {
        wide(rate) * BURST
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate need not be exact beyond 2^52 bytes")]
const fn wide(bytes: u64) -> f64 {
    bytes as f64
}

/// Seconds of the rate that may be sent at once. Longer bursts are felt by the machine's owner, shorter ones cost timers. `[guess]`
const BURST: f64 = 0.1;

/// The longest single wait in seconds; past it, whoever waits takes nothing more anyway.
const LONGEST: f64 = 60.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_stays_at_the_rate_however_many_send() {
        let start = Instant::now();
        let bucket = Bucket::new(1_000_000, start);
        let mut now = start;
        let mut sent = 0;
        // Two senders in turn, each waiting as told.
        for _ in 0..200 {
            let wait = bucket.take(now, 16_384).max(bucket.take(now, 16_384));
            now += wait;
            sent += 2 * 16_384;
        }
        let seconds = (now - start).as_secs_f64();
        let rate = f64::from(sent) / seconds;
        assert!((900_000.0..1_100_000.0).contains(&rate), "{rate}");
    }

    #[test]
    fn an_idle_bucket_holds_no_more_than_a_burst() {
        let start = Instant::now();
        let bucket = Bucket::new(1_000_000, start);
        let later = start + Duration::from_secs(3_600);
        assert_eq!(bucket.take(later, 100_000), Duration::ZERO);
        assert!(bucket.take(later, 100_000) >= Duration::from_millis(99));
    }
}
