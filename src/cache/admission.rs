//! Admission: an object is kept only once it was PUT so many times (Hornet's "cache after N PUTs"), counted in bounded memory.
//!
//! Counts stand in sets of eight, each set ordered by use; what a ninth pushes out begins again at nothing. An object is known by
//! 40 bits of a keyed hash within its set: two that share them (one pair in 10^11) share a count, which admits one of them
//! early. Counts are not kept over a restart.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use atoll_store::Key;

/// How often what was PUT.
#[derive(Debug)]
pub(super) struct Admission {
    sets: Box<[Mutex<Set>]>,
    hasher: RandomState,
    /// PUTs that it takes.
    needed: u8,
}

/// The last eight used, the latest first: a count in the low byte, what is known of the key above it. 0 is nobody.
type Set = [u64; 8];

impl Admission {
    /// Admits at the `needed`th PUT, counting in `memory` bytes. 1 admits at once and counts nothing.
    pub(super) fn new(needed: u8, memory: u64) -> Self {
        let sets = if needed > 1 { (memory / size_of::<Mutex<Set>>() as u64).max(1) } else { 0 };
        let sets = (0..sets).map(|_| Mutex::default()).collect();
        Self { sets, hasher: RandomState::new(), needed }
    }

    /// PUTs that it takes.
    pub(super) fn needed(&self) -> u8 {
        self.needed
    }

    /// How often this was PUT already.
    pub(super) fn count(&self, key: &Key) -> u8 {
        let Some((mut set, known)) = self.find(key) else { return 0 };
        touch(&mut set, known)
    }

    /// Counts one more PUT.
    pub(super) fn note(&self, key: &Key) {
        let Some((mut set, known)) = self.find(key) else { return };
        let count = touch(&mut set, known);
        if count == 0 {
            set.rotate_right(1);
        }
        set[0] = known | u64::from(count.saturating_add(1));
    }

    /// Begins again at nothing: it is kept now.
    pub(super) fn forget(&self, key: &Key) {
        let Some((mut set, known)) = self.find(key) else { return };
        if touch(&mut set, known) > 0 {
            set[0] = 0;
        }
    }

    fn find(&self, key: &Key) -> Option<(MutexGuard<'_, Set>, u64)> {
        let hash = self.hasher.hash_one(key);
        let index = usize::try_from(hash % (self.sets.len().max(1) as u64)).unwrap_or_default();
        let set = self.sets.get(index)?.lock().unwrap_or_else(PoisonError::into_inner);
        // A second hash, so that it says nothing that the place of the set says already.
        Some((set, self.hasher.hash_one((key, index)) & !0xff_ffff | 0x100))
    }
}

/// Brings an entry to the front; its count, 0 if it is not there.
fn touch(set: &mut Set, known: u64) -> u8 {
    let Some(at) = set.iter().position(|entry| *entry & !0xff == known) else { return 0 };
    set[..=at].rotate_right(1);
    set[0].to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Key {
        let mut bytes = [0; Key::LENGTH];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        Key::from_bytes(bytes)
    }

    #[test]
    fn puts_are_counted_apart_and_from_nothing_once_kept() {
        let admission = Admission::new(3, 1 << 20);
        for n in 0..1_000 {
            assert_eq!(admission.count(&key(n)), 0);
            admission.note(&key(n));
            admission.note(&key(n));
        }
        for n in 0..1_000 {
            assert_eq!(admission.count(&key(n)), 2, "{n}");
            admission.forget(&key(n));
            assert_eq!(admission.count(&key(n)), 0, "{n}");
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_put_often_stays_counted() {
        let admission = Admission::new(250, 1_000);
        assert!(size_of_val(&*admission.sets) <= 1_000);
        for n in 0..100_000 {
            admission.note(&key(n));
            if n % 4 == 0 {
                admission.note(&key(7));
            }
        }
        assert_eq!(admission.count(&key(7)), 255, "counting ends at the most a byte holds");
        assert_eq!(admission.count(&key(8)), 0);
    }

    #[test]
    fn without_admission_nothing_is_counted() {
        let admission = Admission::new(1, 1 << 40);
        admission.note(&key(1));
        assert_eq!((admission.count(&key(1)), admission.sets.len()), (0, 0));
    }
}
