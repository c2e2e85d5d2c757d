//! A node's key pair. Its public half is the libp2p peer id, from which, with the serial that the operator picks, the node's
//! place in the id space follows. What makes it a member is in [`crate::membership`].

use std::fmt;

use libp2p::identity::{Keypair, PeerId};

use crate::{NodeId, membership::PublicKey};

/// An Ed25519 key pair. The node keeps its bytes in the state directory, readable by nobody else.
#[derive(Clone)]
pub struct Identity(Keypair);

impl Identity {
    /// A new key pair from the system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(Keypair::generate_ed25519())
    }

    /// The key pair kept as these bytes.
    ///
    /// # Errors
    /// The bytes are no Ed25519 key pair in libp2p's encoding.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let pair = Keypair::from_protobuf_encoding(bytes).map_err(|error| IdentityError(error.to_string()))?;
        pair.clone().try_into_ed25519().map_err(|error| IdentityError(error.to_string()))?;
        Ok(Self(pair))
    }

    /// The key pair as bytes: libp2p's protobuf encoding, 68 bytes. Secret.
    ///
    /// # Errors
    /// The key cannot be encoded; for Ed25519 it always can.
    pub fn to_bytes(&self) -> Result<Vec<u8>, IdentityError> {
        self.0.to_protobuf_encoding().map_err(|error| IdentityError(error.to_string()))
    }

    /// The node's place in a network under a serial; 0 in an open network.
    #[must_use]
    pub fn node_id(&self, network: &str, serial: u64) -> NodeId {
        NodeId::of(network, serial, &self.peer_id().to_bytes())
    }

    /// The public name under which libp2p knows the node, as text.
    #[must_use]
    pub fn name(&self) -> String {
        self.peer_id().to_base58()
    }

    /// The public half, by which an operator admits the node to a closed network.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        let key = self.0.public().try_into_ed25519();
        PublicKey(key.map_or_else(|_| unreachable!("only Ed25519 pairs become identities"), |key| key.to_bytes()))
    }

    /// A signature by the private half.
    pub(super) fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        let signed = self.0.sign(bytes).ok().and_then(|signature| signature.try_into().ok());
        signed.unwrap_or_else(|| unreachable!("an Ed25519 key signs anything, by 64 bytes"))
    }

    pub(super) fn peer_id(&self) -> PeerId {
        self.0.public().to_peer_id()
    }

    pub(super) const fn keypair(&self) -> &Keypair {
        &self.0
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.name())
    }
}

/// The bytes are no key pair.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no Ed25519 key pair: {0}")]
pub struct IdentityError(String);

#[cfg(test)]
mod tests {
    use super::Identity;

    #[test]
    fn an_identity_survives_as_bytes_and_foreign_bytes_are_refused() {
        let identity = Identity::generate();
        let again = Identity::from_bytes(&identity.to_bytes().unwrap()).unwrap();
        assert_eq!(identity.node_id("net", 0), again.node_id("net", 0));
        assert_ne!(identity.node_id("net", 0), identity.node_id("net", 1));
        assert_ne!(identity.node_id("net", 0), identity.node_id("other", 0));
        assert_eq!(identity.public_key().peer_id(), identity.peer_id().to_bytes());
        assert!(Identity::from_bytes(b"").is_err());
        assert!(Identity::from_bytes(&[0xff; 68]).is_err());
    }
}
