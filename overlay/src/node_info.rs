//! What a node says of itself, and what others add: the record that the index hands to dnssrv, proxy and dashboard.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{Key, NodeId};

/// One node: the part it declares (addresses, ports, roles, load) and the part measured here (RTT).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its place in the id space.
    pub id: NodeId,
    /// IPv4 addresses clients reach it at, dialled back before they are believed. At most 4.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6 addresses likewise. At most 4.
    pub v6: Vec<Ipv6Addr>,
    /// Ports of its proxy, cleartext HTTP first. At most 4.
    pub http_ports: Vec<u16>,
    /// What it runs.
    pub roles: Roles,
    /// How busy it is: 0 idle, 100 full.
    pub load: u8,
    /// How much of the traffic it wants against others. 100 is the norm.
    pub weight: u16,
    /// Bytes it may still send in its current quota period; none if it has no quota.
    pub quota_left: Option<u64>,
    /// It is about to leave: send it nobody new.
    pub draining: bool,
    /// Minimum RTT from this node to it, where measured here.
    pub rtt: Option<Duration>,
    /// Its cluster ids from level 1 inwards (level 0 is the same for all).
    pub clusters: Vec<Key>,
    /// The operator's word for where it stands, "" if none. At most 32 bytes.
    pub site: String,
    /// Certificates it can show for names, if any. At most 4.
    pub certificates: Vec<Certificate>,
    /// Its program version.
    pub version: String,
}

impl NodeInfo {
    /// An idle node of these roles, of which nothing else is known: no address, no cluster, the weight of most.
    #[must_use]
    pub const fn new(id: NodeId, roles: Roles) -> Self {
        Self {
            id,
            v4: Vec::new(),
            v6: Vec::new(),
            http_ports: Vec::new(),
            roles,
            load: 0,
            weight: 100,
            quota_left: None,
            draining: false,
            rtt: None,
            clusters: Vec::new(),
            site: String::new(),
            certificates: Vec::new(),
            version: String::new(),
        }
    }
}

/// A TLS certificate a node holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The name it covers, `*.` allowed as first label.
    pub name: String,
    /// Seconds since the Unix epoch after which it is no longer valid.
    pub expires: u64,
}

/// A set of services a node may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Roles(u8);

impl Roles {
    /// None: matches every node.
    pub const NONE: Self = Self(0);
    /// Serves HTTP from its cache.
    pub const PROXY: Self = Self(1);
    /// Answers DNS for the zone.
    pub const DNSSRV: Self = Self(2);
    /// Redirects downloads to peers.
    pub const MANAGER: Self = Self(4);
    /// No service but a right that certificates give: every node believes what it purges.
    pub const PURGE: Self = Self(8);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are in this set.
    #[must_use]
    pub const fn contain(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is in both sets.
    #[must_use]
    pub const fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The set as bits, for the wire.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set from bits; those unknown here are dropped.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 15)
    }
}

/// A network prefix, the unit in which distance to clients is kept: /24 in IPv4, /48 in IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpAddr);

impl Prefix {
    /// The prefix an address lies in. An IPv4-mapped IPv6 address counts as IPv4.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Self(IpAddr::V4(Ipv4Addr::new(a, b, c, 0)))
            }
            IpAddr::V6(v6) => {
                let [a, b, c, ..] = v6.segments();
                Self(IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)))
            }
        }
    }

    /// Its first address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.0
    }

    /// The key under which the index keeps what is known of this prefix.
    #[must_use]
    pub fn key(self) -> Key {
        Key::of(format!("prefix {self}").as_bytes())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => write!(f, "{v4}/24"),
            IpAddr::V6(v6) => write!(f, "{v6}/48"),
        }
    }
}
