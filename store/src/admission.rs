//! Who may be written to disk: with admission on, only what was asked for so often, lately, that it may be again.
//!
//! Requests are counted by hash in a table of fixed size, two counters a key of which the lower counts; all are halved now
//! and then, so that old requests fade. What is not admitted lives in RAM alone, and goes to disk with the request that
//! completes its number. Bodies longer than a slice always go to disk: nothing else could hold them while they come.
//! Off by default: admission on the second request raises misses on every published CDN trace; it spares the disk.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::key::Key;
use crate::mix::Mix;

/// Counts requests.
#[derive(Debug)]
pub(crate) struct Admission {
    needed: u8,
    counters: Box<[AtomicU8]>,
    noted: AtomicU32,
    mix: Mix,
}

const COUNTERS: usize = 1 << 20;
/// So many requests until all counters are halved.
const AGE: u32 = 8 << 20;

impl Admission {
    /// Admits what was asked for `needed` times; at 1, everything.
    pub(crate) fn new(needed: u8) -> Self {
        let count = if needed > 1 { COUNTERS } else { 0 };
        let counters = (0..count).map(|_| AtomicU8::new(0)).collect();
        Self { needed, counters, noted: AtomicU32::new(0), mix: Mix::new() }
    }

    /// Counts a request; whether it is the one that completes the number.
    pub(crate) fn asked(&self, key: &Key) -> bool {
        if self.needed <= 1 {
            return false;
        }
        if self.noted.fetch_add(1, Ordering::Relaxed) == AGE {
            self.noted.store(0, Ordering::Relaxed);
            let halve = |counter: &AtomicU8| counter.store(counter.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
            self.counters.iter().for_each(halve);
        }
        let before = self.count(key);
        if before >= self.needed {
            return false;
        }
        for counter in self.slots(key) {
            if counter.load(Ordering::Relaxed) == before {
                counter.store(before + 1, Ordering::Relaxed);
            }
        }
        before + 1 == self.needed
    }

    /// Whether it was asked for often enough.
    pub(crate) fn admits(&self, key: &Key) -> bool {
        self.needed <= 1 || self.count(key) >= self.needed
    }

    fn count(&self, key: &Key) -> u8 {
        self.slots(key).map(|counter| counter.load(Ordering::Relaxed)).into_iter().min().unwrap_or_default()
    }

    fn slots(&self, key: &Key) -> [&AtomicU8; 2] {
        let hash = self.mix.hash(key);
        [hash, hash >> 32].map(|bits| {
            let slot = usize::try_from(bits & (COUNTERS as u64 - 1)).unwrap_or_default();
            &self.counters[slot]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        Key::from_bytes(bytes)
    }

    #[test]
    fn the_request_that_completes_the_number_is_told_once() {
        let admission = Admission::new(3);
        let told: Vec<_> = (0..5).map(|_| (admission.asked(&key(1)), admission.admits(&key(1)))).collect();
        assert_eq!(told, [(false, false), (false, false), (true, true), (false, true), (false, true)]);
        assert!(!admission.admits(&key(2)));
    }

    #[test]
    fn at_one_everything_is_admitted_and_nothing_is_counted() {
        let admission = Admission::new(1);
        assert!(!admission.asked(&key(1)) && admission.admits(&key(1)));
        assert!(admission.counters.is_empty());
    }

    #[test]
    fn old_requests_fade() {
        let admission = Admission::new(4);
        (0..3).for_each(|_| assert!(!admission.asked(&key(1))));
        admission.noted.store(AGE, Ordering::Relaxed);
        assert!(!admission.asked(&key(2)), "the one that halves all");
        assert!(!admission.asked(&key(1)) && !admission.admits(&key(1)), "three became one");
    }
}
