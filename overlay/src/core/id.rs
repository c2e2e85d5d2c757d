//! Keys and node ids: 160 bits, XOR distance, and Coral's `splice` (NSDI'04 4.1), which corrects a few bits per hop.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

/// A point of the id space that names something: an object, a prefix, a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key(#[serde(with = "hex")] [u8; Self::BYTES]);

/// A node's place in the id space: SHA-1 of (network id, serial, peer id), so that nobody chooses it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(Key);

/// A level of the hierarchy: 0 is global, higher is nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Level(pub u8);

impl Level {
    /// The cluster of everyone.
    pub const GLOBAL: Self = Self(0);
}

impl Key {
    /// Bytes of a key.
    pub const BYTES: usize = 20;
    /// Bits of a key.
    pub const BITS: usize = 8 * Self::BYTES;
    /// The id of the one level-0 cluster.
    pub const ZERO: Self = Self([0; Self::BYTES]);

    /// The key of what these bytes name: their SHA-1.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha1::digest(bytes).into())
    }

    /// A key from its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes, most significant first.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// How far apart two points are: XOR.
    #[must_use]
    pub const fn distance(&self, other: &Self) -> Distance {
        let ((high, low), (other_high, other_low)) = (self.halves(), other.halves());
        Distance { high: high ^ other_high, low: low ^ other_low }
    }

    /// How many leading bits two points share: 0 to 160.
    #[must_use]
    pub fn common_bits(&self, other: &Self) -> u8 {
        let Distance { high, low } = self.distance(other);
        let zeros = if high == 0 { u128::BITS + low.leading_zeros() } else { high.leading_zeros() };
        u8::try_from(zeros).unwrap_or(u8::MAX)
    }

    /// The first 128 bits and the last 32, as numbers.
    const fn halves(&self) -> (u128, u32) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t] = self.0;
        let high = u128::from_be_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]);
        (high, u32::from_be_bytes([q, r, s, t]))
    }

    /// The same point with one bit turned over, the most significant being bit 0.
    pub(super) fn flipped(&self, bit: usize) -> Self {
        let mut bytes = self.0;
        if let Some(byte) = bytes.get_mut(bit / 8) {
            *byte ^= 0x80 >> (bit % 8);
        }
        Self(bytes)
    }

    /// Whether a bit is set, the most significant being bit 0.
    pub(crate) fn bit(&self, bit: usize) -> bool {
        self.0.get(bit / 8).is_some_and(|byte| byte & (0x80 >> (bit % 8)) != 0)
    }

    /// The first four bytes as a number: enough to tell most points apart, and to order them.
    pub(super) const fn head(&self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Coral's splice: the most significant `bits` bits of this key, then the rest of `rest`.
    #[must_use]
    pub fn splice(&self, rest: &Self, bits: usize) -> Self {
        let mut spliced = rest.0;
        for (at, (byte, ours)) in spliced.iter_mut().zip(self.0).enumerate() {
            let here = bits.saturating_sub(8 * at).min(8);
            let mask = u8::try_from((0xff_u16 << (8 - here)) & 0xff).unwrap_or(0xff);
            *byte = (ours & mask) | (*byte & !mask);
        }
        Self(spliced)
    }

    /// The next point on the way from `at` to this key: with the first wrong bit corrected and what else lies in the same group of
    /// `bits` bits. None once `at` is this key.
    #[must_use]
    pub fn nearer(&self, at: &Self, bits: u8) -> Option<Self> {
        let (common, bits) = (usize::from(self.common_bits(at)), usize::from(bits.max(1)));
        (common < Self::BITS).then(|| self.splice(at, (common / bits + 1) * bits))
    }
}

/// How far two points of the id space are apart, as an unsigned number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance {
    high: u128,
    low: u32,
}

impl NodeId {
    /// The id of a certified peer. In an open network the serial is 0.
    #[must_use]
    pub fn of(network: &str, serial: u64, peer_id: &[u8]) -> Self {
        let mut hash = Sha1::new();
        for part in [network.as_bytes(), &serial.to_be_bytes(), peer_id] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        Self(Key(hash.finalize().into()))
    }

    /// The id as a point of the id space.
    #[must_use]
    pub const fn key(self) -> Key {
        self.0
    }
}

/// As the bytes are ordered, the most significant first; in two comparisons.
impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.halves().cmp(&other.halves())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl From<Key> for NodeId {
    fn from(key: Key) -> Self {
        Self(key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Key {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        hex::parse(text).map(Self).ok_or(ParseKeyError)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The text is not 40 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is written as 40 hexadecimal digits")]
pub struct ParseKeyError;

/// Ids as text in JSON and state files.
mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::{Key, ParseKeyError};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; Key::BYTES], to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&Key(*bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; Key::BYTES], D::Error> {
        parse(&String::deserialize(from)?).ok_or_else(|| D::Error::custom(ParseKeyError))
    }

    pub(super) fn parse(text: &str) -> Option<[u8; Key::BYTES]> {
        if text.len() != 2 * Key::BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; Key::BYTES];
        for (place, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *place = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Key> {
        any::<[u8; Key::BYTES]>().prop_map(Key)
    }

    #[test]
    fn from_14_to_4_the_two_wrong_bits_are_corrected_one_by_one() {
        // An example in 4 bits: 14 and 4 are 10 apart, binary 1010.
        let point = |nibble: u8| Key::from_bytes(std::array::from_fn(|at| if at == 0 { nibble << 4 } else { 0 }));
        let (mut at, to) = (point(14), point(4));
        let mut seen = Vec::new();
        while let Some(next) = to.nearer(&at, 1) {
            seen.push(next.distance(&to).high >> 124);
            at = next;
        }
        assert_eq!(seen, [2, 0], "bits that are right already cost no hop");
    }

    proptest! {
        #[test]
        fn distance_is_a_metric(a in key(), b in key(), c in key()) {
            prop_assert_eq!(a.distance(&b), b.distance(&a));
            prop_assert_eq!(a.distance(&b) == Distance { high: 0, low: 0 }, a == b);
            // XOR's triangle: the longest of the three sides is at most the two others joined by OR.
            let (ab, bc) = (a.distance(&b), b.distance(&c));
            let joined = Distance { high: ab.high | bc.high, low: ab.low | bc.low };
            prop_assert!(a.distance(&c) <= joined);
        }

        #[test]
        fn a_splice_shares_its_first_bits_with_the_key_and_the_others_with_the_rest(k in key(), r in key(), i in 0_usize..=160) {
            let spliced = k.splice(&r, i);
            prop_assert!(usize::from(spliced.common_bits(&k)) >= i);
            for bit in i..Key::BITS {
                prop_assert_eq!(spliced.0[bit / 8] >> (7 - bit % 8) & 1, r.0[bit / 8] >> (7 - bit % 8) & 1);
            }
        }

        #[test]
        fn each_step_nearer_is_strictly_nearer_and_the_last_is_the_key(k in key(), r in key(), bits in 1_u8..=8) {
            let (mut at, mut steps) = (r, 0);
            while let Some(next) = k.nearer(&at, bits) {
                prop_assert!(next.distance(&k) < at.distance(&k));
                at = next;
                steps += 1;
            }
            prop_assert_eq!(at, k);
            prop_assert!(steps <= Key::BITS);
        }

        #[test]
        fn fewer_common_bits_are_farther(a in key(), b in key(), c in key()) {
            if a.common_bits(&b) > a.common_bits(&c) {
                prop_assert!(a.distance(&b) < a.distance(&c));
            }
        }
    }
}
