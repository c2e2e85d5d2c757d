//! The node's own randomness: seeded, so that the same seed and inputs give the same outputs.

use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;

use crate::Key;

/// A small seeded generator. Integer arithmetic only: debug and release, and every platform, agree.
#[derive(Debug, Clone)]
pub(crate) struct Rng(Pcg64Mcg);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Pcg64Mcg::seed_from_u64(seed))
    }

    /// A number below this one; zero for zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.0.next_u64()) * u128::try_from(bound).unwrap_or(0);
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// A point anywhere in the id space.
    pub(crate) fn key(&mut self) -> Key {
        let mut bytes = [0; Key::BYTES];
        self.0.fill_bytes(&mut bytes);
        Key::from_bytes(bytes)
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            let other = self.below(at + 1);
            items.swap(at, other);
        }
    }
}
