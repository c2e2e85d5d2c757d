//! The hash of the RAM tier's maps: two multiplications a key, under secrets drawn when the store opens.
//!
//! A key is 20 bytes and mostly a digest already, so the standard hasher's rounds cost a hit more than the lookup itself.
//! The secrets keep a client who can choose names from filling one bucket on purpose. [measured: docs/store.md]

use std::hash::{BuildHasher as _, RandomState};

use crate::key::Key;

/// The secrets.
#[derive(Clone, Debug)]
pub(crate) struct Mix([u64; 2]);

impl Mix {
    pub(crate) fn new() -> Self {
        let secret = |n: u64| RandomState::new().hash_one(n);
        Self([secret(0), secret(1)])
    }

    /// The hash of a key.
    #[inline]
    pub(crate) fn hash(&self, key: &Key) -> u64 {
        let Self([first, second]) = self;
        let (words, rest) = key.as_bytes().as_chunks::<8>();
        let (rest, _) = rest.as_chunks::<4>();
        let [left, right] = [words[0], words[1]].map(u64::from_le_bytes);
        let once = fold(left ^ first, right ^ second);
        fold(once ^ u64::from(u32::from_le_bytes(rest[0])), *second)
    }

    /// The two halves of a key's hash, the high one first.
    #[inline]
    pub(crate) fn halves(&self, key: &Key) -> [u32; 2] {
        let hash = self.hash(key);
        [hash >> 32, hash & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or_default())
    }
}

/// Both halves of the product, so that every bit of either factor reaches every bit of the answer.
fn fold(left: u64, right: u64) -> u64 {
    let (low, high) = left.carrying_mul(right, 0);
    low ^ high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_in_one_bit_spread_over_all_shards_and_buckets() {
        let mix = Mix::new();
        let (mut high, mut low) = ([0; 64], [0; 64]);
        for n in 0..64_000u64 {
            let mut bytes = [0; 20];
            let at = usize::try_from(n % 13).unwrap();
            bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
            let hash = mix.hash(&Key::from_bytes(bytes));
            high[usize::try_from((hash >> 32) % 64).unwrap()] += 1;
            low[usize::try_from(hash % 64).unwrap()] += 1;
        }
        for count in high.into_iter().chain(low) {
            assert!((800..1200).contains(&count), "{count} of 64,000 in one of 64");
        }
    }

    #[test]
    fn two_stores_hash_one_key_apart() {
        let key = Key::from_bytes([7; 20]);
        assert_ne!(Mix::new().hash(&key), Mix::new().hash(&key));
    }
}
