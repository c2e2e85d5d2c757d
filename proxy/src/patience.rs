//! How long somebody slow is waited for. Pure: told the time.
//!
//! Waiting costs, bytes pay: each buys the time it takes at the least rate that is asked for. Who lets one wait is given up when the
//! debt reaches a span, or when no byte came for another. So one who sends or takes a byte now and then holds nothing for ever, and
//! one who is merely slow loses nothing.

use std::time::Duration;

use tokio::time::Instant;

/// What is asked of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// No byte at all for at most so long.
    pub(crate) silence: Duration,
    /// Waited for at most so long beyond what the bytes paid for.
    pub(crate) debt: Duration,
    /// Bytes a second; 0: any byte pays for everything.
    pub(crate) rate: u64,
}

/// How the other side stands.
#[derive(Debug)]
pub(crate) struct Patience {
    pace: Pace,
    spent: Duration,
    since: Option<Instant>,
}

impl Patience {
    pub(crate) const fn new(pace: Pace) -> Self {
        Self { pace, spent: Duration::ZERO, since: None }
    }

    /// It is being waited for: when that is to end. `sharers`: so many have a part of the same line, and each may take so many times
    /// as long.
    pub(crate) fn wait(&mut self, now: Instant, sharers: u32) -> Instant {
        let since = *self.since.get_or_insert(now);
        since + self.pace.silence.min(self.pace.debt.saturating_sub(self.spent)) * sharers.max(1)
    }

    /// Whether anything is owed: if not, nothing need be told of bytes.
    pub(crate) const fn is_owed(&self) -> bool {
        self.since.is_some() || !self.spent.is_zero()
    }

    /// It is no longer waited for: so many bytes came of it.
    pub(crate) fn came(&mut self, now: Instant, bytes: usize, sharers: u32) {
        if let Some(since) = self.since.take() {
            self.spent += now.saturating_duration_since(since) / sharers.max(1);
        }
        self.spent = match self.pace.rate {
            0 if bytes > 0 => Duration::ZERO,
            0 => self.spent,
            rate => self.spent.saturating_sub(worth(bytes, rate)),
        };
    }
}

/// The time that so many bytes take at this rate.
fn worth(bytes: usize, rate: u64) -> Duration {
    let nanos = (bytes as u128).saturating_mul(1_000_000_000) / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When one is given up who lets us wait `every` so long for so many bytes; none if not within a day.
    fn given_up(pace: Pace, every: Duration, bytes: usize) -> Option<Duration> {
        let (start, mut patience) = (Instant::now(), Patience::new(pace));
        let mut now = start;
        while now - start < Duration::from_secs(86_400) {
            let due = patience.wait(now, 1);
            if due <= now + every {
                return Some(due - start);
            }
            now += every;
            patience.came(now, bytes, 1);
        }
        None
    }

    // O07, H14
    #[test]
    fn one_who_drips_is_given_up_and_one_who_is_merely_slow_is_not() {
        let second = Duration::from_secs(1);
        let pace = Pace { silence: 60 * second, debt: 60 * second, rate: 256 };
        assert_eq!(given_up(pace, 70 * second, 0), Some(60 * second), "silent");
        assert!(given_up(pace, 50 * second, 1).is_some_and(|after| after <= 61 * second), "a byte a minute");
        assert!(given_up(pace, second, 128).is_some_and(|after| after <= 125 * second), "half of what is asked");
        assert_eq!(given_up(pace, second, 256), None, "just what is asked");
        assert_eq!(given_up(pace, 50 * second, 64 << 10), None, "in large steps");
        let lax = Pace { rate: 0, ..pace };
        assert_eq!(given_up(lax, 50 * second, 1), None, "no rate is asked");
        let long = Pace { debt: 600 * second, ..pace };
        assert!(given_up(long, 15 * second, 8).is_some_and(|after| after > 590 * second && after < 620 * second));
        assert_eq!(given_up(long, 70 * second, 8), Some(60 * second));
    }
}
