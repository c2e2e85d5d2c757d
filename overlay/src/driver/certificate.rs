//! What a node shows on connect over `/atoll/NETWORK/auth/1`. The handshake (Noise, or TLS in QUIC) has proved who holds the peer
//! id's key, so there is no challenge: the papers must name that peer id; the rest is for the `gate`.
//! Layout (protobuf), both ways one frame: greeting = { 1: self-made certificate, 2: purpose, 3: addresses, at most 3 multiaddrs,
//! 4: signed certificate, in the layout of [`Certificate`] }, with one of 1 and 4; self-made certificate = { 1: network, 2: peer id,
//! 3: serial, 4: roles, 5: not after (Unix seconds) }. A frame with 1 or 4 alone, later on the same connection, is a renewal.
//!
//! An open network accepts what a node says of itself, with serial 0.

use libp2p::{Multiaddr, PeerId};
use prost::Message as _;

use super::address;
use crate::{
    Roles,
    membership::{Certificate, NotMember},
};

/// What makes a peer a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Papers {
    /// Its own word: enough in an open network, nothing in a closed one.
    SelfMade(NodeCert),
    /// A certificate that a closed network's key stands behind.
    Signed(Certificate),
}

/// What a node of an open network says of itself: who takes part as what, until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCert {
    /// The network it is for.
    pub network: String,
    /// The libp2p peer id it is for, in bytes.
    pub peer_id: Vec<u8>,
    /// What the operator picked after seeing the key; 0 in an open network.
    pub serial: u64,
    /// What the node may run.
    pub roles: Roles,
    /// Seconds since the Unix epoch after which it is void.
    pub not_after: u64,
}

impl NodeCert {
    /// What a node of an open network says of itself: serial 0, valid for [`SELF_MADE_SECONDS`].
    pub(super) fn self_made(network: &str, peer: &PeerId, now_unix: u64) -> Self {
        Self {
            network: network.to_owned(),
            peer_id: peer.to_bytes(),
            serial: 0,
            roles: Roles::PROXY.with(Roles::DNSSRV).with(Roles::MANAGER),
            not_after: now_unix.saturating_add(SELF_MADE_SECONDS),
        }
    }

    /// Whether this makes the peer at the other end of a connection a member.
    pub(super) fn check(&self, rules: &Rules<'_>, peer: &PeerId) -> Result<(), CertError> {
        if self.network != rules.network {
            return Err(CertError::Network);
        }
        if self.peer_id != peer.to_bytes() {
            return Err(CertError::Peer);
        }
        if self.not_after < rules.now_unix {
            return Err(CertError::Expired { seconds: rules.now_unix - self.not_after });
        }
        if self.serial == 0 { Ok(()) } else { Err(CertError::Serial(self.serial)) }
    }
}

/// What a certificate is held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) network: &'a str,
    pub(super) now_unix: u64,
}

/// What a connection is for, as its dialler says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// Messages of the core; round trips are measured here.
    Link,
    /// Byte streams between proxies.
    Bulk,
    /// Nothing: the dialler looks whether the other side is where it says it is.
    Check,
}

/// The one frame that each side shows before anything else is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) papers: Papers,
    pub(super) purpose: Purpose,
    /// Where the sender can be dialled.
    pub(super) addresses: Vec<Multiaddr>,
}

impl Greeting {
    /// The frame's bytes, at most [`GREETING_LIMIT`].
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { papers, purpose, addresses } = self;
        let (cert, signed) = match papers {
            Papers::SelfMade(cert) => (Some(CertWire::of(cert)), Vec::new()),
            Papers::Signed(certificate) => (None, certificate.to_bytes()),
        };
        GreetingWire {
            cert,
            signed,
            purpose: match purpose {
                Purpose::Link => 0,
                Purpose::Bulk => 1,
                Purpose::Check => 2,
            },
            addresses: addresses.iter().take(address::LIMIT).map(Multiaddr::to_vec).collect(),
        }
        .encode_to_vec()
    }

    /// The greeting in a frame. A purpose from a later version counts as bulk: no core message is then sent over it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CertError> {
        if bytes.len() > GREETING_LIMIT {
            return Err(CertError::Malformed);
        }
        let wire = GreetingWire::decode(bytes).map_err(|_| CertError::Malformed)?;
        let papers = match wire.cert {
            Some(cert) if wire.signed.is_empty() => Papers::SelfMade(cert.read()),
            None => Papers::Signed(Certificate::from_bytes(&wire.signed).map_err(|_| CertError::Malformed)?),
            Some(_) => return Err(CertError::Malformed),
        };
        Ok(Self {
            papers,
            purpose: match wire.purpose {
                0 => Purpose::Link,
                2 => Purpose::Check,
                _ => Purpose::Bulk,
            },
            addresses: wire.addresses.iter().take(address::LIMIT).filter_map(|bytes| address::parse(bytes)).collect(),
        })
    }
}

/// Why a peer is no member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CertError {
    #[error("the greeting is malformed")]
    Malformed,
    #[error("the certificate is for another network")]
    Network,
    #[error("the certificate is for another peer")]
    Peer,
    #[error("the certificate expired {seconds} s ago")]
    Expired { seconds: u64 },
    #[error("serial {0} in an open network")]
    Serial(u64),
    #[error("the certificate is self-made, and this network is closed")]
    SelfMade,
    #[error("the certificate is one of a closed network, and this one is open")]
    ForClosed,
    #[error("of its certificate: {0}")]
    NotMember(#[from] NotMember),
}

/// Bytes of a greeting at most.
pub(super) const GREETING_LIMIT: usize = 1_024;

/// How long a self-made certificate says it is valid; made anew for every connection. 90 days, as admission keys. `[design 2]`
const SELF_MADE_SECONDS: u64 = 90 * 86_400;

#[derive(Clone, PartialEq, prost::Message)]
struct GreetingWire {
    #[prost(message, optional, tag = "1")]
    cert: Option<CertWire>,
    #[prost(uint32, tag = "2")]
    purpose: u32,
    #[prost(bytes = "vec", repeated, tag = "3")]
    addresses: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "4")]
    signed: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CertWire {
    #[prost(string, tag = "1")]
    network: String,
    #[prost(bytes = "vec", tag = "2")]
    peer_id: Vec<u8>,
    #[prost(uint64, tag = "3")]
    serial: u64,
    #[prost(uint32, tag = "4")]
    roles: u32,
    #[prost(uint64, tag = "5")]
    not_after: u64,
}

impl CertWire {
    fn of(cert: &NodeCert) -> Self {
        Self {
            network: cert.network.clone(),
            peer_id: cert.peer_id.clone(),
            serial: cert.serial,
            roles: u32::from(cert.roles.bits()),
            not_after: cert.not_after,
        }
    }

    fn read(self) -> NodeCert {
        NodeCert {
            network: self.network,
            peer_id: self.peer_id,
            serial: self.serial,
            // Bits of later versions are dropped before they could be cut off.
            roles: Roles::from_bits(u8::try_from(self.roles & 0xff).unwrap_or(0)),
            not_after: self.not_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CertError, Greeting, NodeCert, Papers, PeerId, Purpose, Rules};

    const NOW: u64 = 1_000_000_000;
    const RULES: Rules<'_> = Rules { network: "net", now_unix: NOW };

    #[test]
    fn only_a_living_certificate_for_this_peer_in_this_network_is_believed() {
        let peer = PeerId::random();
        let good = NodeCert::self_made("net", &peer, NOW);
        assert_eq!(good.check(&RULES, &peer), Ok(()));
        assert_eq!(good.check(&RULES, &PeerId::random()), Err(CertError::Peer));
        let refused = |change: fn(&mut NodeCert)| {
            let mut cert = good.clone();
            change(&mut cert);
            cert.check(&RULES, &peer).unwrap_err()
        };
        assert_eq!(refused(|cert| cert.network = "other".to_owned()), CertError::Network);
        assert_eq!(refused(|cert| cert.not_after = NOW - 1), CertError::Expired { seconds: 1 });
        assert_eq!(refused(|cert| cert.serial = 7), CertError::Serial(7));
    }

    #[test]
    fn a_greeting_survives_the_wire() {
        let peer = PeerId::random();
        let greeting = Greeting {
            papers: Papers::SelfMade(NodeCert::self_made("net", &peer, NOW)),
            purpose: Purpose::Bulk,
            addresses: vec!["/ip4/127.1.0.1/tcp/7400".parse().unwrap(), "/dns/a.test/tcp/1".parse().unwrap()],
        };
        assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
    }

    #[test]
    fn a_greeting_of_a_later_version_is_read_as_far_as_it_is_known() {
        let papers = Papers::SelfMade(NodeCert::self_made("net", &PeerId::random(), NOW));
        let greeting = Greeting { papers, purpose: Purpose::Link, addresses: Vec::new() };
        let mut later = greeting.encode();
        // Field 15, two bytes; then a purpose of which this version knows nothing: no message of the core goes over it.
        later.extend_from_slice(&[0x7a, 2, 1, 2]);
        assert_eq!(Greeting::decode(&later), Ok(greeting.clone()));
        later.extend_from_slice(&[0x10, 9]);
        assert_eq!(Greeting::decode(&later), Ok(Greeting { purpose: Purpose::Bulk, ..greeting }));
    }

    #[test]
    fn foreign_bytes_are_refused_or_read_but_never_panic() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Ok(greeting) = Greeting::decode(bytes) {
                assert!(greeting.addresses.len() <= super::address::LIMIT);
                assert!(Greeting::decode(&greeting.encode()).is_ok());
            }
        });
    }
}
