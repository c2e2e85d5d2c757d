//! What `--rate` bounds: bytes that are read from nodes which may have to fetch them. A node fetches a file by itself, whoever reads how
//! fast; the next is not begun before this one is read.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// Lets so many bytes pass in a second, over all that is read.
pub(super) struct Throttle {
    rate: Option<u64>,
    next: Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self { rate, next: Mutex::new(Instant::now()) }
    }

    /// So many bytes came; returns when more may.
    pub(super) async fn pass(&self, bytes: usize) {
        if let Some(until) = self.more_at(Instant::now(), bytes) {
            sleep_until(until).await;
        }
    }

    /// When more may come after these; at once if nothing is held back. What was not used is not saved up.
    fn more_at(&self, now: Instant, bytes: usize) -> Option<Instant> {
        let rate = self.rate?;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(now) + Duration::from_secs_f64(bytes as f64 / rate as f64);
        Some(*next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_passes_than_rate_times_time_whoever_reads_and_after_a_pause() {
        let throttle = Throttle::new(Some(10_000));
        let began = Instant::now();
        let (mut now, mut passed) = (began, 0);
        for length in [1, 999, 64_000, 0, 5_000].into_iter().cycle().take(50) {
            // Two that read at the same time wait for each other.
            let one = throttle.more_at(now, length).unwrap();
            let other = throttle.more_at(now, length / 2).unwrap();
            assert!(one >= now && other >= one);
            passed += length + length / 2;
            now = other;
            let allowed = (now - began).as_secs_f64() * 10_000.0;
            assert!(passed as f64 <= allowed + 1.0, "{passed} of {allowed}");
        }
        now += Duration::from_secs(60);
        assert_eq!(throttle.more_at(now, 50_000), Some(now + Duration::from_secs(5)));
        assert_eq!(Throttle::new(None).more_at(now, usize::MAX), None);
    }
}
