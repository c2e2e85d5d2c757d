//! A part of the RAM tier's map, so laid out that a hit touches little: a table of 32-bit words that mostly stays in the
//! processor's cache, a pointer, and the first bytes of the object, where its key is.
//!
//! A hit's time is the misses of the processor's caches, one after another. A word holds 28 bits of the hash and what a hit
//! and eviction have to note; pointers, and the numbers that tell entries apart, stand in tables of their own beside it. Keys
//! stand with the objects, where a hit goes anyway, and are compared whole. [measured: docs/store.md] Open addressing; what
//! was pushed on is shifted back when something is taken out, as in `index.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::key::Key;
use crate::object::Whole;

/// Some of the map's entries.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// None or a power of two, of which a quarter at least is empty; so are the others.
    words: Box<[AtomicU32]>,
    held: Box<[Option<Arc<Whole>>]>,
    ids: Box<[u64]>,
    used: usize,
}

/// An entry that was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) whole: &'a Arc<Whole>,
    /// Tells this entry from an older or newer one under the same key.
    pub(crate) id: u64,
    word: &'a AtomicU32,
}

/// An entry that was taken out.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) whole: Arc<Whole>,
    /// Whether it stood in the main queue.
    pub(crate) in_main: bool,
}

/// The bits of a word: how often it was asked for, whether it stands in the main queue, the hash, and that it is used.
const ASKED: u32 = 0b11;
const MAIN: u32 = 0b100;
const HASH: u32 = !(USED | MAIN | ASKED);
const USED: u32 = 1 << 31;
const EMPTY: u32 = 0;
const HASH_SHIFT: u32 = HASH.trailing_zeros();
/// How often an entry was asked for is counted up to this.
const ASKED_MOST: u32 = 3;
/// The fewest slots of a table that has any.
const FEWEST: usize = 8;

impl Table {
    /// The entry under `key`, of whose hash 28 bits of `hash` are used.
    pub(crate) fn get(&self, hash: u32, key: &Key) -> Option<Entry<'_>> {
        let at = self.find(hash, key)?;
        Some(Entry { whole: self.held[at].as_ref()?, id: self.ids[at], word: &self.words[at] })
    }

    /// Puts `whole` under its key, where nothing is.
    pub(crate) fn insert(&mut self, hash: u32, whole: Arc<Whole>, id: u64, in_main: bool) {
        if (self.used + 1) * 4 > self.words.len() * 3 {
            self.resize((self.words.len() * 2).max(FEWEST));
        }
        self.place(word(hash) | if in_main { MAIN } else { 0 }, whole, id);
    }

    /// Takes the entry under `key` out.
    pub(crate) fn remove(&mut self, hash: u32, key: &Key) -> Option<Taken> {
        let mut hole = self.find(hash, key)?;
        let whole = self.held[hole].take()?;
        let in_main = std::mem::take(self.words[hole].get_mut()) & MAIN != 0;
        self.used -= 1;
        let mut next = self.after(hole);
        while self.word(next) != EMPTY {
            let home = self.home(self.word(next));
            if self.distance(home, next) >= self.distance(hole, next) {
                self.words.swap(hole, next);
                self.held.swap(hole, next);
                self.ids.swap(hole, next);
                hole = next;
            }
            next = self.after(next);
        }
        if self.used * 8 < self.words.len() && self.words.len() > FEWEST {
            self.resize(self.words.len() / 2);
        }
        Some(Taken { whole, in_main })
    }

    /// Notes that the entry under `key` stands in the main queue, asked for this often.
    pub(crate) fn set_main(&mut self, hash: u32, key: &Key, asked: u8) {
        if let Some(at) = self.find(hash, key) {
            let word = self.words[at].get_mut();
            *word = *word & !ASKED | MAIN | u32::from(asked).min(ASKED_MOST);
        }
    }

    /// All entries.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Whole>> {
        self.held.iter().flatten()
    }

    fn find(&self, hash: u32, key: &Key) -> Option<usize> {
        if self.words.is_empty() {
            return None;
        }
        let wanted = word(hash);
        let mut at = self.home(wanted);
        loop {
            let found = self.word(at);
            if found & (USED | HASH) == wanted && self.held[at].as_ref().is_some_and(|whole| whole.key == *key) {
                return Some(at);
            }
            if found == EMPTY {
                return None;
            }
            at = self.after(at);
        }
    }

    fn place(&mut self, word: u32, whole: Arc<Whole>, id: u64) {
        let mut at = self.home(word);
        while self.word(at) != EMPTY {
            at = self.after(at);
        }
        *self.words[at].get_mut() = word;
        self.held[at] = Some(whole);
        self.ids[at] = id;
        self.used += 1;
    }

    fn resize(&mut self, slots: usize) {
        let larger = Self {
            words: std::iter::repeat_with(AtomicU32::default).take(slots).collect(),
            held: std::iter::repeat_with(|| None).take(slots).collect(),
            ids: vec![0; slots].into_boxed_slice(),
            used: 0,
        };
        let old = std::mem::replace(self, larger);
        for ((word, held), id) in old.words.into_iter().zip(old.held).zip(old.ids) {
            if let Some(whole) = held {
                self.place(word.into_inner(), whole, id);
            }
        }
    }

    fn word(&self, at: usize) -> u32 {
        self.words[at].load(Ordering::Relaxed)
    }

    fn home(&self, word: u32) -> usize {
        usize::try_from((word & HASH) >> HASH_SHIFT).unwrap_or_default() & (self.words.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.words.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.words.len() - 1)
    }
}

impl Entry<'_> {
    /// How often it was asked for, up to 3.
    pub(crate) fn asked(&self) -> u8 {
        u8::try_from(self.word.load(Ordering::Relaxed) & ASKED).unwrap_or_default()
    }

    /// Counts that it was asked for; true: the first time since it came in or was last passed over.
    pub(crate) fn ask(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        if word & ASKED < ASKED_MOST {
            // Two at once may count as one: it is a hint, and a plain store costs a hot hit less.
            self.word.store(word + 1, Ordering::Relaxed);
        }
        word & ASKED == 0
    }
}

/// The word of an entry that was not asked for.
fn word(hash: u32) -> u32 {
    hash & HASH | USED
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::object::Pieces;

    fn key(n: u8) -> Key {
        Key::from_bytes([n; 20])
    }

    fn whole(n: u8) -> Arc<Whole> {
        Arc::new(Whole::slice(key(n), Arc::new(Pieces::new(vec![Bytes::from(vec![n; 1 + usize::from(n)])]))))
    }

    /// Few hashes, so that runs are long, wrap around and hold keys that share a hash.
    fn hash(n: u8) -> u32 {
        u32::from(n % 5) * 0x3333_3333
    }

    proptest! {
        #[test]
        fn a_table_agrees_with_a_map(ops in prop::collection::vec((0..60u8, any::<bool>(), 0..6u8), 1..300)) {
            let (mut table, mut map) = (Table::default(), BTreeMap::new());
            for (id, (n, put, asked)) in (0..).zip(ops) {
                let taken = table.remove(hash(n), &key(n));
                prop_assert_eq!(taken.map(|it| (it.whole.len(), it.in_main)), map.remove(&n).map(|(_, _, main)| (1 + u64::from(n), main)));
                if put {
                    table.insert(hash(n), whole(n), id, n % 2 == 0);
                    for time in 0..asked {
                        let first = table.get(hash(n), &key(n)).is_some_and(|entry| entry.ask());
                        prop_assert_eq!(first, time == 0);
                    }
                    map.insert(n, (id, asked.min(3), n % 2 == 0));
                } else if let Some((other, found)) = map.iter_mut().next() {
                    table.set_main(hash(*other), &key(*other), 1);
                    (found.1, found.2) = (1, true);
                }
                for n in 0..60 {
                    let found = table.get(hash(n), &key(n)).map(|entry| (entry.id, entry.asked()));
                    prop_assert_eq!(found, map.get(&n).map(|(id, asked, _)| (*id, *asked)));
                }
                prop_assert_eq!(table.all().count(), map.len());
                prop_assert!(table.used * 4 <= table.words.len() * 3 && (table.used + 1) * FEWEST >= table.words.len());
            }
        }
    }
}
