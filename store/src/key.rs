//! What names and describes an object: its key, its directory, its tags, and how it stands to purges.
//!
//! The store gives none of these a meaning beyond equality and bits: for HTTP the directory is the hash of the site
//! and the tags a Bloom filter of the response's cache tags, and both are the owner's business.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::SystemTime;

use bytes::Bytes;

/// The name of an object: 20 bytes, usually a hash of what it stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key([u8; 20]);

impl Key {
    /// Bytes in a key.
    pub const LENGTH: usize = size_of::<Self>();

    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl Hash for Key {
    /// Without the length that arrays put first: it is always the same.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Four tags of 16 bits, which are also 64 bits to be matched by (mask, value).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tags(pub [u16; 4]);

impl Tags {
    /// The 64 tag bits: tag 0 in the lowest 16, tag 3 in the highest.
    pub fn bits(self) -> u64 {
        self.0.iter().rev().fold(0, |bits, tag| (bits << 16) | u64::from(*tag))
    }

    /// The tags that these 64 bits stand for; the inverse of [`Tags::bits`].
    pub fn from_bits(bits: u64) -> Self {
        let part = |shift: u32| u16::try_from((bits >> shift) & 0xffff).unwrap_or_default();
        Self([part(0), part(16), part(32), part(48)])
    }
}

/// The number of a purge. An object born before a purge that matches it is gone; one born at it or later is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PurgeNumber(pub u64);

/// What is known of an object before its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The object's name.
    pub key: Key,
    /// What it is purged with; for HTTP the hash of the site.
    pub directory: u64,
    /// What else it may be purged by.
    pub tags: Tags,
    /// When the store may drop it; `None` is never. Freshness is the owner's business.
    pub expires: Option<SystemTime>,
    /// Opaque to the store; at most `metadata_limit` bytes.
    pub metadata: Bytes,
    /// Bytes of the body, if known in advance. A commit at another length is refused.
    pub length: Option<u64>,
    /// The purge number known when the request for this object began.
    pub born: PurgeNumber,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_sixty_four_bits_and_back() {
        let tags = Tags([1, 2, 0xffff, 0x8000]);
        assert_eq!(tags.bits(), 0x8000_ffff_0002_0001);
        assert_eq!(Tags::from_bits(tags.bits()), tags);
    }

    #[test]
    fn a_key_shows_as_hexadecimal() {
        assert_eq!(format!("{:?}", Key::from_bytes([0xab; 20])), "ab".repeat(20));
    }
}
