//! A part of the RAM tier's map, so laid out that a hit touches two lines of the processor's cache: one bucket, and the
//! first bytes of the object, where its key is.
//!
//! A hit's time is the misses of the processor's caches, one after another. A bucket is one line: seven pointers, and a byte
//! of each one's hash, so that mostly no other object is looked at. Keys stand with the objects, where a hit goes anyway, and
//! are compared whole; so does what a hit notes. [measured: docs/store.md] What finds its bucket full goes to the next, and
//! each bucket counts what passed it, so that a search ends and nothing need be moved when something is taken out.

use std::sync::Arc;

use crate::key::Key;
use crate::object::Whole;

/// Some of the map's entries.
#[derive(Debug, Default)]
pub(crate) struct Table {
    buckets: Box<[Bucket]>,
    used: usize,
}

/// Some entries that are found by one look.
#[derive(Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// A byte of each entry's hash; the last one counts entries that found this bucket full, up to [`MANY`].
    tags: [u8; SLOTS + 1],
    held: [Option<Arc<Whole>>; SLOTS],
}

/// Entries in a bucket.
const SLOTS: usize = 7;
/// The tag of a slot that holds nothing.
const EMPTY: u8 = 0;
/// So many passed a bucket, or more: from here on they are not counted any more.
const MANY: u8 = u8::MAX;
/// The lowest bit of each tag, and the highest.
const LOWEST: u64 = 0x0001_0101_0101_0101;
const HIGHEST: u64 = LOWEST << 7;

impl Table {
    /// What is held under `key`, of this hash.
    pub(crate) fn get(&self, hash: u32, key: &Key) -> Option<&Arc<Whole>> {
        let (at, slot) = self.find(hash, key)?;
        self.buckets[at].held[slot].as_ref()
    }

    /// Puts `whole` under its key, where nothing is. `hash` is every key's.
    pub(crate) fn insert(&mut self, whole: Arc<Whole>, hash: impl Fn(&Key) -> u32) {
        if (self.used + 1) * 4 > self.buckets.len() * SLOTS * 3 {
            self.resize(self.buckets.len() + self.buckets.len() / 3 + 1, &hash);
        }
        self.place(hash(&whole.key), whole);
    }

    /// Takes what is held under `key` out. `hash` is every key's.
    pub(crate) fn remove(&mut self, key: &Key, hash: impl Fn(&Key) -> u32) -> Option<Arc<Whole>> {
        let (found, slot) = self.find(hash(key), key)?;
        let whole = self.buckets[found].held[slot].take()?;
        self.buckets[found].tags[slot] = EMPTY;
        self.used -= 1;
        let mut at = self.home(hash(key));
        while at != found {
            let passed = &mut self.buckets[at].tags[SLOTS];
            *passed -= u8::from(*passed < MANY);
            at = self.after(at);
        }
        if self.used * 4 < self.buckets.len() * SLOTS && self.buckets.len() > 1 {
            self.resize(self.buckets.len() / 2, &hash);
        }
        Some(whole)
    }

    /// All that is held.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Whole>> {
        self.buckets.iter().flat_map(|bucket| bucket.held.iter().flatten())
    }

    fn find(&self, hash: u32, key: &Key) -> Option<(usize, usize)> {
        let mut at = self.home(hash);
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[at];
            let mut alike = bucket.alike(tag(hash));
            while let Some(slot) = first(alike) {
                if bucket.held[slot].as_ref().is_some_and(|whole| whole.key == *key) {
                    return Some((at, slot));
                }
                alike &= alike - 1;
            }
            if bucket.tags[SLOTS] == 0 {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    fn place(&mut self, hash: u32, whole: Arc<Whole>) {
        let mut at = self.home(hash);
        loop {
            let bucket = &mut self.buckets[at];
            if let Some(slot) = bucket.held.iter().position(Option::is_none) {
                bucket.tags[slot] = tag(hash);
                bucket.held[slot] = Some(whole);
                break;
            }
            bucket.tags[SLOTS] = bucket.tags[SLOTS].saturating_add(1);
            at = self.after(at);
        }
        self.used += 1;
    }

    fn resize(&mut self, buckets: usize, hash: &impl Fn(&Key) -> u32) {
        let empty = std::iter::repeat_with(Bucket::default).take(buckets).collect();
        for bucket in std::mem::replace(self, Self { buckets: empty, used: 0 }).buckets {
            for whole in bucket.held.into_iter().flatten() {
                self.place(hash(&whole.key), whole);
            }
        }
    }

    fn home(&self, hash: u32) -> usize {
        // As much of the table as the hash is of its range: any number of buckets will do.
        usize::try_from((u64::from(hash) * self.buckets.len() as u64) >> u32::BITS).unwrap_or_default()
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 < self.buckets.len() { at + 1 } else { 0 }
    }
}

impl Bucket {
    /// The highest bit of each byte that is `tag`, and now and then of one above it that is not.
    fn alike(&self, tag: u8) -> u64 {
        let differs = u64::from_le_bytes(self.tags) ^ (u64::from(tag) * LOWEST);
        differs.wrapping_sub(LOWEST) & !differs & HIGHEST
    }
}

/// The byte of a hash that a bucket holds. The home takes other bits.
fn tag(hash: u32) -> u8 {
    hash.to_le_bytes()[0].max(EMPTY + 1)
}

/// The first slot of those that are alike.
fn first(alike: u64) -> Option<usize> {
    if alike == 0 { None } else { usize::try_from(alike.trailing_zeros() / u8::BITS).ok() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::object::Pieces;

    fn key(n: u8) -> Key {
        Key::from_bytes([n; 20])
    }

    fn whole(n: u8) -> Arc<Whole> {
        Arc::new(Whole::slice(key(n), Arc::new(Pieces::new(vec![Bytes::from(vec![n])]))))
    }

    #[test]
    fn a_bucket_is_one_line_of_the_cache() {
        assert_eq!(size_of::<Bucket>(), 64);
    }

    proptest! {
        #[test]
        fn a_table_agrees_with_a_set(ops in prop::collection::vec((0..120u8, 0..3u8), 1..600), hashes in 1..9u8) {
            // Few hashes, so that runs are long, wrap around and hold keys that share a hash.
            let hash = |key: &Key| u32::from(key.as_bytes()[0] % hashes) * 0x1999_9999;
            let (mut table, mut set) = (Table::default(), BTreeSet::new());
            for (n, put) in ops {
                let taken = table.remove(&key(n), hash);
                prop_assert_eq!(taken.map(|it| it.key), set.take(&n).map(key));
                if put > 0 {
                    table.insert(whole(n), hash);
                    set.insert(n);
                }
                for n in 0..120 {
                    let found = table.get(hash(&key(n)), &key(n)).map(|it| it.key);
                    prop_assert_eq!(found, set.get(&n).copied().map(key));
                }
                prop_assert_eq!(table.all().count(), set.len());
                prop_assert!(table.used * 4 <= table.buckets.len() * SLOTS * 3 && table.buckets.len() <= 1 + set.len());
            }
        }
    }
}
