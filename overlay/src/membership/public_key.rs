//! A public key: what a node, an admission key or a network is known by.

use std::{fmt, str::FromStr};

use super::text;

/// An Ed25519 public key, as text 64 hexadecimal digits. Any 32 bytes can stand here; bytes that are no key verify nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; Self::BYTES]);

impl PublicKey {
    /// Bytes of a key.
    pub const BYTES: usize = 32;

    /// The libp2p peer id of the node with this key: the key itself, as an identity multihash of its protobuf form.
    #[must_use]
    pub fn peer_id(&self) -> Vec<u8> {
        [&PEER_ID_HEAD[..], &self.0].concat()
    }

    /// The key behind a libp2p peer id. None if it is not made of an Ed25519 key.
    #[must_use]
    pub fn of_peer_id(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.strip_prefix(&PEER_ID_HEAD)?.try_into().ok()?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = NoPublicKey;

    fn from_str(text: &str) -> Result<Self, NoPublicKey> {
        let bytes = text::unhex(text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(NoPublicKey)
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a public key is 64 hexadecimal digits")]
pub struct NoPublicKey;

/// An identity multihash of 36 bytes: the protobuf { 1: Ed25519, 2: 32 bytes }.
const PEER_ID_HEAD: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
