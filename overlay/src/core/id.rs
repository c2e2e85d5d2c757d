//! Keys and node ids: 160 bits, XOR distance, and Coral's `splice` (NSDI'04 4.1), which corrects a few bits per hop.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

/// A point of the id space that names something: an object, a prefix, a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
