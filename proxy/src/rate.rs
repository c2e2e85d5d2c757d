//! A rate of bytes or requests as a bucket. Whoever sends takes out what was sent, into debt if need be, and waits the debt out; so
//! downloads share the rate as they come. Who cannot wait is told that there is nothing.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A bucket that fills at its rate.
#[derive(Debug)]
pub struct Bucket {
    /// Amount a second.
    rate: u64,
    /// What it holds at most.
    most: f64,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    /// What may be sent now; below zero: what is still to be waited for.
    amount: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket of a tenth of a second at this rate, at least 1 a second.
    #[must_use]
    pub fn new(rate: u64, now: Instant) -> Self {
        Self::with_burst(rate, BURST, now)
    }

    /// The same that holds so many seconds of the rate, at least 1 in all.
    #[must_use]
    pub fn with_burst(rate: u64, seconds: f64, now: Instant) -> Self {
        let rate = rate.max(1);
        let most = (wide(rate) * seconds).max(1.0);
        Self { rate, most, level: Mutex::new(Level { amount: most, at: now }) }
    }

    /// Takes out what is about to be sent; how long to wait before it is.
    pub fn take(&self, now: Instant, amount: usize) -> Duration {
        let mut level = self.fill(now);
        level.amount -= wide(u64::try_from(amount).unwrap_or(u64::MAX));
        let rate = wide(self.rate);
        if level.amount < 0.0 { Duration::from_secs_f64((-level.amount / rate).min(LONGEST)) } else { Duration::ZERO }
    }

    /// Takes one out if there is one.
    pub fn try_take(&self, now: Instant) -> bool {
        let mut level = self.fill(now);
        let one = level.amount >= 1.0;
        if one {
            level.amount -= 1.0;
        }
        one
    }

    /// Amount a second.
    #[must_use]
    pub const fn rate(&self) -> u64 {
        self.rate
    }

    fn fill(&self, now: Instant) -> MutexGuard<'_, Level> {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_duration_since(level.at).as_secs_f64() * wide(self.rate);
        level.amount = (level.amount + gained).min(self.most);
        level.at = level.at.max(now);
        level
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate need not be exact beyond 2^52")]
const fn wide(amount: u64) -> f64 {
    amount as f64
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
    #[test]
    fn who_cannot_wait_gets_one_or_none() {
        let start = Instant::now();
        let bucket = Bucket::with_burst(2, 1.0, start);
        assert_eq!([bucket.try_take(start), bucket.try_take(start), bucket.try_take(start)], [true, true, false]);
        assert!(bucket.try_take(start + Duration::from_millis(500)));
    }
}
