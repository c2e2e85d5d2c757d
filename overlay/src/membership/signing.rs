//! Ed25519 as this module uses it: a secret that is never printed, and signatures over (what for, network, bytes).

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rand::{TryRng as _, rngs::SysRng};

use super::{NetworkId, PublicKey};

/// A secret key; erased from memory when dropped.
#[derive(Clone)]
pub(super) struct Secret(SigningKey);

impl Secret {
    /// Bytes of a secret.
    pub(super) const BYTES: usize = 32;

    /// A new one from the system's randomness.
    pub(super) fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = [0; Self::BYTES];
        SysRng.try_fill_bytes(&mut bytes).map_err(|error| NoRandomness(error.to_string()))?;
        Ok(Self::from_bytes(&bytes))
    }

    pub(super) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        Self(SigningKey::from_bytes(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8; Self::BYTES] {
        self.0.as_bytes()
    }

    pub(super) fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    pub(super) fn sign(&self, purpose: Purpose, network: &NetworkId, bytes: &[u8]) -> SignatureBytes {
        self.0.sign(&covered(purpose, network, bytes)).to_bytes()
    }
}

/// Whether this key signed these bytes for this purpose in this network. Weak keys and malleable signatures are refused.
pub(super) fn verify(
    key: &PublicKey,
    purpose: Purpose,
    network: &NetworkId,
    bytes: &[u8],
    signature: &SignatureBytes,
) -> bool {
    verify_covered(key, &covered(purpose, network, bytes), signature)
}

/// The same for bytes that say by themselves what for and where they were signed.
pub(super) fn verify_covered(key: &PublicKey, covered: &[u8], signature: &SignatureBytes) -> bool {
    VerifyingKey::from_bytes(&key.0)
        .is_ok_and(|key| key.verify_strict(covered, &Signature::from_bytes(signature)).is_ok())
}

/// A signature.
pub(super) type SignatureBytes = [u8; 64];

/// What a signature is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Grant,
    Certificate,
    Revocation,
    Statement,
}

impl Purpose {
    pub(super) const fn word(self) -> &'static [u8] {
        match self {
            Self::Grant => b"atoll admission key 1\0",
            Self::Certificate => b"atoll node certificate 1\0",
            Self::Revocation => b"atoll revocation 1\0",
            Self::Statement => b"atoll statement 1\0",
        }
    }
}

fn covered(purpose: Purpose, network: &NetworkId, bytes: &[u8]) -> Vec<u8> {
    [purpose.word(), &network.key().0, bytes].concat()
}

/// The system gave no randomness for a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the system has no randomness for a key: {0}")]
pub struct NoRandomness(String);
