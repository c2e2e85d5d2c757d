//! Where a host lives: host number n owns one /24 of 198.18.0.0/15 (RFC 2544) and one /48 of 2001:db8::/32 (RFC 3849).
//!
//! Owns the mapping in both directions, and the reading of the two addresses of an IP packet. What happens to a packet
//! is the router's business. Both ranges are reserved and routed nowhere, so a leak harms nobody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A host of the lab, counted from 0 in the order of the scenario file. At most [`HostId::MOST`] exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostId(u16);

impl HostId {
    /// How many hosts fit: the /15 has 512 networks of 24 bits, the first and the last stay unused.
    pub const MOST: usize = 510;

    /// The host at `index`, or `None` beyond [`HostId::MOST`].
    pub fn new(index: usize) -> Option<Self> {
        if index < Self::MOST { u16::try_from(index).ok().map(Self) } else { None }
    }

    /// The position in the scenario, from 0.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The host's own IPv4 address: `.1` of its /24.
    pub fn v4(self) -> Ipv4Addr {
        let [high, low] = (self.0 + 1).to_be_bytes();
        Ipv4Addr::new(198, 18 + high, low, 1)
    }

    /// The host's own IPv6 address: `::1` of its /48.
    pub fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.0 + 1, 0, 0, 0, 0, 1)
    }

    /// The host whose /24 or /48 holds `address`, whether or not the scenario has that many.
    pub fn owner(address: IpAddr) -> Option<Self> {
        let number = match address {
            IpAddr::V4(v4) => match v4.octets() {
                [198, high @ 18..=19, low, _] => u16::from_be_bytes([high - 18, low]),
                _ => return None,
            },
            IpAddr::V6(v6) => match v6.segments() {
                [0x2001, 0xdb8, number, ..] => number,
                _ => return None,
            },
        };
        Self::new(usize::from(number).checked_sub(1)?)
    }
}

/// Source and destination of an IP packet, or `None` if it is not a whole IPv4 or IPv6 header.
pub(crate) fn ends_of(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let destination: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some((source.into(), destination.into()))
        }
        6 => {
            let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let destination: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some((source.into(), destination.into()))
        }
        _ => None,
    }
}

/// The ports of a datagram and what is in it; `None` if an IP packet is none.
pub(crate) fn datagram_of(packet: &[u8]) -> Option<(u16, u16, &[u8])> {
    let (protocol, at) = match packet.first()? >> 4 {
        4 => (packet.get(9)?, usize::from(packet.first()? & 15) * 4),
        6 => (packet.get(6)?, 40),
        _ => return None,
    };
    let (head, data) = packet.get(at..)?.split_first_chunk::<8>()?;
    let [from0, from1, to0, to1, ..] = *head;
    (*protocol == UDP).then_some((u16::from_be_bytes([from0, from1]), u16::from_be_bytes([to0, to1]), data))
}

const UDP: u8 = 17;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_its_own_networks_and_is_found_again_by_any_address_in_them() {
        let mut seen = std::collections::BTreeSet::new();
        for host in (0..HostId::MOST).filter_map(HostId::new) {
            let [a, b, c, _] = host.v4().octets();
            assert!(seen.insert((a, b, c)));
            assert_eq!(HostId::owner(IpAddr::from([a, b, c, 77])), Some(host));
            assert_eq!(HostId::owner(host.v6().into()), Some(host));
        }
        assert_eq!(HostId::new(HostId::MOST), None);
        assert_eq!(HostId::owner(IpAddr::from([198, 20, 0, 1])), None);
        assert_eq!(HostId::owner(IpAddr::from([198, 18, 0, 1])), None);
    }

    #[test]
    fn no_bytes_from_a_device_can_upset_the_reading_of_a_header() {
        bolero::check!().for_each(|packet: &[u8]| {
            let _ = datagram_of(packet);
            if let Some((source, destination)) = ends_of(packet) {
                assert_eq!(source.is_ipv4(), destination.is_ipv4());
                assert!(packet.len() >= 20);
            }
        });
    }
}
