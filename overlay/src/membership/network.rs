//! The network's key: whoever holds it decides who decides.

use std::{fmt, str::FromStr};

use super::{
    AdmissionKey, Grant, NoPublicKey, PublicKey, Refused, Revocation, Revoked, Term, TextError, UnixTime,
    bytes::Reader,
    signing::{NoRandomness, Secret},
    text::{self, Kind},
};
use crate::{NodeId, Roles};

/// A closed network's name: its operator's public key, as text 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(PublicKey);

impl NetworkId {
    /// The network of this public key.
    #[must_use]
    pub const fn of(key: PublicKey) -> Self {
        Self(key)
    }

    /// The public key that names the network.
    #[must_use]
    pub const fn key(&self) -> &PublicKey {
        &self.0
    }

    /// The place of a node in this network: SHA-1 of network id, serial and peer id. The serial is picked after the key is seen, so
    /// nobody chooses a place.
    #[must_use]
    pub fn place(&self, serial: u64, node: &PublicKey) -> NodeId {
        NodeId::of(&self.to_string(), serial, &node.peer_id())
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NetworkId {
    type Err = NoPublicKey;

    fn from_str(text: &str) -> Result<Self, NoPublicKey> {
        text.parse().map(Self)
    }
}

/// The secret key of a network. Kept offline: it signs admission keys, every 90 days at least, and revocations.
#[derive(Clone)]
pub struct NetworkKey(Secret);

impl NetworkKey {
    /// A key for a new network.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<Self, NoRandomness> {
        Secret::generate().map(Self)
    }

    /// The key kept as this text.
    ///
    /// # Errors
    /// The text is something else, or damaged.
    pub fn from_text(text: &str) -> Result<Self, TextError> {
        text::read(text, Kind::NetworkKey, |bytes| {
            let mut reader = Reader::new(bytes);
            let secret = Secret::from_bytes(&reader.take()?);
            reader.end()?;
            Ok(Self(secret))
        })
    }

    /// A new admission key: may admit nodes to these roles for this term.
    ///
    /// # Errors
    /// The term is longer than [`Term::LONGEST`], or the system has no randomness.
    pub fn admission(&self, roles: Roles, term: Term) -> Result<AdmissionKey, Refused> {
        let secret = Secret::generate()?;
        let grant = self.grant(secret.public(), roles, term)?;
        Ok(AdmissionKey::new(secret, self.network(), grant))
    }

    /// Grants an admission key made elsewhere, or one that runs out, a term.
    ///
    /// # Errors
    /// The term is longer than [`Term::LONGEST`].
    pub fn grant(&self, key: PublicKey, roles: Roles, term: Term) -> Result<Grant, Refused> {
        Grant::sign(&self.0, &self.network(), key, roles, term)
    }

    /// Takes back a node's or an admission key's place, for ever.
    #[must_use]
    pub fn revoke(&self, what: Revoked, now: UnixTime) -> Revocation {
        Revocation::by_network(&self.0, &self.network(), what, now)
    }

    /// The network it names.
    #[must_use]
    pub fn network(&self) -> NetworkId {
        NetworkId(self.0.public())
    }

    /// The key as text for a file that nobody else can read. Secret.
    #[must_use]
    pub fn to_text(&self) -> String {
        text::write(Kind::NetworkKey, self.0.as_bytes(), &[("network", self.network().to_string())])
    }
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkKey({})", self.network())
    }
}
