//! What a server that is near a prefix says of its cluster, as a pointer in the index under a key of the prefix (its own one: the
//! prefix key itself holds each node's RTT, and a node has one pointer under a key): so that
//! servers far away, and the one of a wider cluster in each NS set, answer for the cluster a delegation was made for.
//!
//! ```text
//!   byte 0       0xd5: a pointer of ours; anything else under the key is another's and is passed over
//!   byte 1       version, 1; a later one is passed over
//!   byte 2       level
//!   3..7         RTT to the prefix in microseconds, big-endian
//!   7..27        cluster id
//!   27           number of servers, at most 3; each: addresses, then its 20 bytes of id
//!   then         number of proxies, at most 16; each: addresses
//!   then         of each proxy the port at which it answers in clear, 2 bytes, 0: not told
//!   then         epoch, 8 bytes
//!   addresses    one byte, bit 0: IPv4 follows (4 bytes), bit 1: IPv6 follows (16 bytes); one of them at least
//! ```
//! The last two may be missing; bytes beyond are for later versions and are passed over. At most 256 bytes: as many proxies as fit.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use atoll_overlay::{Key, Level, NodeId, Prefix};
use bytes::{BufMut as _, Bytes, BytesMut};

use crate::roster::{Proxy, Server};

/// A cluster near a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Near {
    /// The level whose threshold the RTT is under. Never 0.
    pub(crate) level: Level,
    /// From the server that says so.
    pub(crate) rtt: Duration,
    /// The cluster.
    pub(crate) cluster: Key,
    /// Servers of the cluster, at least one.
    pub(crate) servers: Vec<Server>,
    /// Live proxies of the cluster.
    pub(crate) proxies: Vec<Proxy>,
    /// Rises with all that the first of the servers says: its earlier word never takes the place of a later one. 0: not told.
    pub(crate) epoch: u64,
}

impl Near {
    /// The key under which the clusters near a prefix are kept.
    pub(crate) fn key(prefix: Prefix) -> Key {
        Key::of(format!("cluster near {prefix}").as_bytes())
    }

    /// Whether a prefix belongs there rather than to a server that is of this level to it, at this RTT. At the same level the nearer
    /// goes first: all servers that know of both then name the same cluster. Of its `own` cluster a server knows more than others
    /// told, so there it must be clearly nearer.
    pub(crate) fn beats(&self, level: Level, rtt: Option<Duration>, own: bool) -> bool {
        let slack = if own { AS_NEAR } else { Duration::ZERO };
        self.level > level || (self.level == level && rtt.is_some_and(|rtt| self.rtt + slack < rtt))
    }

    /// Whether the same server says this.
    pub(crate) fn is_by_who_said(&self, other: &Self) -> bool {
        let who = |near: &Self| near.servers.first().map(|server| server.id);
        who(self).is_some() && who(self) == who(other)
    }

    /// Whether this is an earlier word of the same server.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.is_by_who_said(other) && self.epoch < other.epoch
    }

    /// Whether it says the same of a cluster, whenever and how far.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.level == other.level
            && self.cluster == other.cluster
            && self.servers == other.servers
            && self.proxies == other.proxies
    }

    /// The pointer's bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let mut to = BytesMut::with_capacity(LIMIT);
        to.put_slice(&[MAGIC, VERSION, self.level.0]);
        to.put_u32(u32::try_from(self.rtt.as_micros()).unwrap_or(u32::MAX));
        to.put_slice(self.cluster.as_bytes());
        let servers = self.servers.iter().filter(|server| server.v4.is_some() || server.v6.is_some()).take(SERVERS);
        let servers: Vec<&Server> = servers.collect();
        to.put_u8(u8::try_from(servers.len()).unwrap_or(0));
        for server in servers {
            put_addresses(&mut to, server.v4, server.v6);
            to.put_slice(server.id.key().as_bytes());
        }
        let mut count = 0_u8;
        let (mut proxies, mut ports) = (BytesMut::new(), BytesMut::new());
        for proxy in self.proxies.iter().filter(|proxy| proxy.v4.is_some() || proxy.v6.is_some()).take(PROXIES) {
            let mut one = BytesMut::new();
            put_addresses(&mut one, proxy.v4, proxy.v6);
            if to.len() + 1 + proxies.len() + one.len() + ports.len() + 2 + 8 > LIMIT {
                break;
            }
            proxies.put(one);
            ports.put_u16(proxy.port);
            count += 1;
        }
        to.put_u8(count);
        to.put(proxies);
        to.put(ports);
        to.put_u64(self.epoch);
        to.freeze()
    }

    /// The cluster a pointer speaks of; none if it is not ours, of a later version, or malformed.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        if from.array()? != [MAGIC, VERSION] {
            return None;
        }
        let [level] = from.array()?;
        let rtt = Duration::from_micros(u32::from_be_bytes(from.array()?).into());
        let cluster = Key::from_bytes(from.array()?);
        let [count] = from.array()?;
        if level == 0 || level > INNERMOST || count == 0 || usize::from(count) > SERVERS {
            return None;
        }
        let mut servers = Vec::new();
        for _ in 0..count {
            let (v4, v6) = from.addresses()?;
            let id = NodeId::from(Key::from_bytes(from.array()?));
            servers.push(Server { id, v4, v6, cluster: None });
        }
        let [count] = from.array()?;
        if usize::from(count) > PROXIES {
            return None;
        }
        let mut proxies = Vec::new();
        for _ in 0..count {
            let (v4, v6) = from.addresses()?;
            proxies.push(Proxy { v4, v6, load: 0, weight: NORMAL_WEIGHT, port: 0 });
        }
        for proxy in &mut proxies {
            proxy.port = from.array().map_or(0, u16::from_be_bytes);
        }
        let epoch = from.array().map_or(0, u64::from_be_bytes);
        Some(Self { level: Level(level), rtt, cluster, servers, proxies, epoch })
    }
}

/// Bytes taken from the front, never more than there are.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// The next bytes, as many as said.
    pub(crate) fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    /// Addresses as written by [`put_addresses`].
    pub(crate) fn addresses(&mut self) -> Option<(Option<Ipv4Addr>, Option<Ipv6Addr>)> {
        let [flags] = self.array()?;
        if flags == 0 || flags > 3 {
            return None;
        }
        let v4 = if flags & 1 == 0 { None } else { Some(Ipv4Addr::from(self.array::<4>()?)) };
        let v6 = if flags & 2 == 0 { None } else { Some(Ipv6Addr::from(self.array::<16>()?)) };
        Some((v4, v6))
    }
}

/// Writes addresses, one at least.
pub(crate) fn put_addresses(to: &mut BytesMut, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) {
    to.put_u8(u8::from(v4.is_some()) | u8::from(v6.is_some()) << 1);
    if let Some(v4) = v4 {
        to.put_slice(&v4.octets());
    }
    if let Some(v6) = v6 {
        to.put_slice(&v6.octets());
    }
}

/// A difference of this much in RTT is none. \[guess\]
pub(crate) const AS_NEAR: Duration = Duration::from_millis(10);
const MAGIC: u8 = 0xd5;
const VERSION: u8 = 1;
/// Bytes an index value may have.
const LIMIT: usize = 256;
/// The farthest in of as many levels as there can be.
const INNERMOST: u8 = 7;
const SERVERS: usize = 3;
const PROXIES: usize = 16;
/// The weight of a proxy whose own is not known here.
pub(crate) const NORMAL_WEIGHT: u16 = 100;

/// How long what a server tells the index stays there. \[guess\]
pub(crate) const TOLD_FOR: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses() -> impl Strategy<Value = (Option<Ipv4Addr>, Option<Ipv6Addr>)> {
        (any::<Option<u32>>(), any::<Option<u128>>())
            .prop_map(|(v4, v6)| (v4.map(Ipv4Addr::from), v6.map(Ipv6Addr::from)))
            .prop_filter("one at least", |(v4, v6)| v4.is_some() || v6.is_some())
    }

    proptest! {
        #[test]
        fn a_cluster_survives_the_index_and_fits_into_a_value(
            level in 1_u8..8, micros in any::<u32>(), cluster in any::<[u8; 20]>(),
            servers in prop::collection::vec((addresses(), any::<[u8; 20]>()), 1..4),
            proxies in prop::collection::vec((addresses(), any::<u16>()), 0..20), epoch in any::<u64>(),
        ) {
            let near = Near {
                level: Level(level),
                rtt: Duration::from_micros(micros.into()),
                cluster: Key::from_bytes(cluster),
                servers: servers.into_iter()
                    .map(|((v4, v6), id)| Server { id: Key::from_bytes(id).into(), v4, v6, cluster: None }).collect(),
                proxies: proxies.into_iter()
                    .map(|((v4, v6), port)| Proxy { v4, v6, load: 0, weight: NORMAL_WEIGHT, port }).collect(),
                epoch,
            };
            let bytes = near.encode();
            prop_assert!(bytes.len() <= LIMIT);
            let back = Near::decode(&bytes).expect("what was written is read");
            prop_assert!(near.proxies.starts_with(&back.proxies));
            prop_assert!(back.proxies.len() >= near.proxies.len().min(3));
            prop_assert_eq!(&Near { proxies: back.proxies.clone(), ..near }, &back);
            let told_by_all = bytes.len() - 8 - 2 * back.proxies.len();
            for cut in 0..bytes.len() {
                prop_assert_eq!(Near::decode(&bytes[..cut]).is_some(), cut >= told_by_all);
            }
        }
    }

    #[test]
    fn no_pointer_speaks_of_a_level_there_cannot_be() {
        let server = Server { id: Key::ZERO.into(), v4: Some([192, 0, 2, 1].into()), v6: None, cluster: None };
        let near = |level| Near {
            level: Level(level),
            rtt: Duration::ZERO,
            cluster: Key::ZERO,
            servers: vec![server.clone()],
            proxies: Vec::new(),
            epoch: 0,
        };
        let read = [0, 1, 7, 8, 200].map(|level| Near::decode(&near(level).encode()).is_some());
        assert_eq!(read, [false, true, true, false, false]);
    }

    #[test]
    fn any_bytes_in_the_index_are_read_or_passed_over() {
        bolero::check!().for_each(|bytes| {
            if let Some(near) = Near::decode(bytes) {
                assert!(near.level > Level::GLOBAL && !near.servers.is_empty());
                assert_eq!(Near::decode(&near.encode()).map(|again| again.servers), Some(near.servers));
            }
        });
    }
}
