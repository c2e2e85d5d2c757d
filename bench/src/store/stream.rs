//! The requests that the store's bench makes, drawn from a seed, for Atoll and its peers alike: this file is compiled into
//! the peers' programs too, so it uses the standard library alone.

/// Numbers that look like chance and are the same each time.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

/// Objects whose popularity falls with their rank to the power of `alpha`.
#[derive(Debug)]
pub(crate) struct Zipf {
    sums: Vec<f64>,
}

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits (xorshift64*).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 up to, not including, 1.
    pub(crate) fn share(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap_or_default()) / (f64::from(u32::MAX) + 1.0)
    }
}

impl Zipf {
    pub(crate) fn new(objects: u32, alpha: f64) -> Self {
        let mut sum = 0.0;
        let weights = (1..=objects).map(|rank| f64::from(rank).powf(-alpha));
        Self {
            sums: weights
                .map(|weight| {
                    sum += weight;
                    sum
                })
                .collect(),
        }
    }

    /// The number of an object, 0 the most popular.
    pub(crate) fn draw(&self, chance: &mut Chance) -> u64 {
        let at = chance.share() * self.sums.last().copied().unwrap_or_default();
        self.sums.partition_point(|sum| *sum <= at) as u64
    }
}

/// The key of object `n`: spread like a hash, so that no table is met by neighbours.
pub(crate) fn key(n: u64) -> [u8; 20] {
    let mut key = [0; 20];
    let mixed = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let again = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    key[..8].copy_from_slice(&again.to_le_bytes());
    key[8..16].copy_from_slice(&mixed.to_le_bytes());
    key
}

/// Bytes of object `n`: 16 to 4,096, each power of two as likely.
pub(crate) fn size(n: u64) -> usize {
    16 << ((n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 9)
}
