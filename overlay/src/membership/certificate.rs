//! What makes a node a member: a certificate from an admission key, with that key's grant from the network key.

use std::time::Duration;

use super::{
    Grant, Malformed, NetworkId, PublicKey, Revocations, Term, TextError, UnixTime,
    bytes::Reader,
    signing::{Purpose, Secret, SignatureBytes, verify},
    text::{self, Kind},
};
use crate::{NodeId, Roles};

/// A node's certificate, with the grant of the key that signed it: verifiable knowing nothing but the network's id.
/// Layout, 235 bytes: version 1 (1 byte), grant 113, node's public key 32, serial 8, roles 1, issued 8, not after 8 (Unix seconds),
/// signature 64 by the admission key over the 57 bytes from the node's key on. A later layout has another version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// Who signed it, and by what right.
    pub grant: Grant,
    /// Whom it is for.
    pub node: PublicKey,
    /// What the signer picked after seeing the node's key. Never 0.
    pub serial: u64,
    /// When it is valid.
    pub term: Term,
    /// As they travel: bits unknown here are signed as well.
    roles: u8,
    signature: SignatureBytes,
}

impl Certificate {
    /// Bytes of a certificate.
    pub const BYTES: usize = 235;

    pub(super) fn sign(
        by: &Secret,
        network: &NetworkId,
        grant: Grant,
        (node, serial): (PublicKey, u64),
        roles: Roles,
        term: Term,
    ) -> Self {
        let mut certificate = Self { grant, node, serial, term, roles: roles.bits(), signature: [0; 64] };
        certificate.signature = by.sign(Purpose::Certificate, network, &certificate.signed_bytes());
        certificate
    }

    /// Reads the layout above; believes nothing yet.
    ///
    /// # Errors
    /// The bytes are no certificate of a version known here.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        reader.expect(VERSION)?;
        let grant = Grant::read(&mut reader)?;
        let (node, serial, roles) = (PublicKey(reader.take()?), reader.number()?, reader.byte()?);
        let term = Term { issued: UnixTime(reader.number()?), not_after: UnixTime(reader.number()?) };
        let certificate = Self { grant, node, serial, term, roles, signature: reader.take()? };
        reader.end()?;
        Ok(certificate)
    }

    /// The layout above.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        self.grant.write(&mut bytes);
        bytes.extend_from_slice(&self.signed_bytes());
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Whether its node is a member of this network now. That the other end of a connection holds the node's key is for the caller
    /// to know.
    ///
    /// # Errors
    /// Why it is none.
    pub fn verify(&self, network: &NetworkId, now: UnixTime, revocations: &Revocations) -> Result<(), NotMember> {
        // Cheapest first: signatures cost a tenth of a millisecond.
        self.stands(now, revocations)?;
        self.grant.verify(network, now)?;
        let signed = verify(&self.grant.key, Purpose::Certificate, network, &self.signed_bytes(), &self.signature);
        if signed { Ok(()) } else { Err(NotMember::Foreign) }
    }

    /// Whether a certificate that was verified once still holds: time goes on, and revocations come.
    ///
    /// # Errors
    /// Why it does not.
    pub fn stands(&self, now: UnixTime, revocations: &Revocations) -> Result<(), NotMember> {
        if self.serial == 0 || !self.grant.covers(self.roles) || self.term.not_after > self.grant.term.not_after {
            return Err(NotMember::BeyondGrant);
        }
        if self.term.is_to_come(now) {
            return Err(NotMember::NotYet { from: self.term.issued });
        }
        if self.term.is_over(now) {
            return Err(NotMember::Expired { at: self.term.not_after, ago: now.since(self.term.not_after) });
        }
        if revocations.revoke(self) { Err(NotMember::Revoked) } else { Ok(()) }
    }

    /// What the node may run.
    #[must_use]
    pub const fn roles(&self) -> Roles {
        Roles::from_bits(self.roles)
    }

    /// The node's place in a network.
    #[must_use]
    pub fn place(&self, network: &NetworkId) -> NodeId {
        network.place(self.serial, &self.node)
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let Term { issued, not_after } = self.term;
        let (issued, not_after) = (issued.0.to_be_bytes(), not_after.0.to_be_bytes());
        [&self.node.0[..], &self.serial.to_be_bytes(), &[self.roles], &issued, &not_after].concat()
    }
}

/// What a node of a closed network is given: the network it belongs to, and its certificate there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// The network.
    pub network: NetworkId,
    /// The node's certificate.
    pub certificate: Certificate,
}

impl Membership {
    /// The membership kept as this text.
    ///
    /// # Errors
    /// The text is something else, or damaged.
    pub fn from_text(text: &str) -> Result<Self, TextError> {
        text::read(text, Kind::Membership, |bytes| {
            let (network, certificate) = bytes.split_first_chunk().ok_or(Malformed)?;
            let network = NetworkId::of(PublicKey(*network));
            Ok(Self { network, certificate: Certificate::from_bytes(certificate)? })
        })
    }

    /// The membership as text for the node's state directory. No secret.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Self { network, certificate } = self;
        let bytes = [&network.key().0[..], &certificate.to_bytes()].concat();
        let notes = [
            ("network", network.to_string()),
            ("node key", certificate.node.to_string()),
            ("node id", self.node_id().to_string()),
            ("valid until", certificate.term.not_after.to_string()),
        ];
        text::write(Kind::Membership, &bytes, &notes)
    }

    /// The node's place in the id space.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.certificate.place(&self.network)
    }
}

/// Why a certificate makes nobody a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMember {
    /// It was not signed by this network's key, or by a key that this one granted.
    #[error("no key of this network signed it")]
    Foreign,
    /// It, or the admission key that signed it, was revoked.
    #[error("it was revoked")]
    Revoked,
    /// It is over.
    #[error("it expired at {at}, {} s ago; if that was lately, compare the clocks of both nodes", ago.as_secs())]
    Expired {
        /// Its end.
        at: UnixTime,
        /// How long ago, by this node's clock.
        ago: Duration,
    },
    /// It has not begun, by more than clocks may differ.
    #[error("it is valid from {from} on, more than a day ahead of this node's clock")]
    NotYet {
        /// Its issue.
        from: UnixTime,
    },
    /// The admission key that signed it is over.
    #[error("the admission key that signed it expired at {at}")]
    AdmissionExpired {
        /// Its end.
        at: UnixTime,
    },
    /// Its admission key was granted for longer than any may be.
    #[error("its admission key's term is longer than any may be")]
    TooLong,
    /// It says more than its admission key may.
    #[error("it says more than its admission key may")]
    BeyondGrant,
}

/// The layout's version.
const VERSION: u8 = 1;
