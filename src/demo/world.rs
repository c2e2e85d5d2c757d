//! The demo's small world: three regions of three nodes on loopback addresses, and how far apart they are.
//!
//! Every host has two addresses in a /24 of its own: the public one (`.1`), where the relay listens and which everybody else
//! dials, and the private one (`.2`), where the host itself listens and from which it dials. So the relay knows by the source
//! address who is talking to whom, and nobody is told an RTT.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{PoisonError, RwLock},
    time::Duration,
};

/// How many regions there are.
pub(super) const REGIONS: usize = 3;

/// How many nodes each region has.
pub(super) const NODES_PER_REGION: usize = 3;

/// What the regions are called in the report.
pub(super) const REGION_NAMES: [&str; REGIONS] = ["west", "centre", "far east"];

/// RTTs between regions in milliseconds; the diagonal is within a region. West and centre are one level-1 cluster apart, the
/// far east is beyond level 1 from both.
const START_RTT_MS: [[u64; REGIONS]; REGIONS] = [[6, 40, 150], [40, 6, 160], [150, 160, 6]];

/// A node's place: its region and its number within.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// 0 to [`REGIONS`] - 1.
    pub region: usize,
    /// 0 to [`NODES_PER_REGION`] - 1.
    pub number: usize,
}

impl Place {
    /// All nodes of the world.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..REGIONS).flat_map(|region| (0..NODES_PER_REGION).map(move |number| Self { region, number }))
    }

    /// The address others dial: the relay's.
    #[must_use]
    pub(super) fn public(self) -> Ipv4Addr {
        Ipv4Addr::new(127, octet(FIRST_REGION, self.region), octet(1, self.number), 1)
    }

    /// The address it listens at and dials from.
    #[must_use]
    pub(super) fn private(self) -> Ipv4Addr {
        Ipv4Addr::new(127, octet(FIRST_REGION, self.region), octet(1, self.number), 2)
    }
}

/// Where the clients of a region and their resolver sit.
#[must_use]
pub(super) fn client_address(region: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, octet(FIRST_REGION, region), 200, 1)
}

/// The region an address lies in, if it is one of this world.
#[must_use]
pub(super) fn region_of(address: IpAddr) -> Option<usize> {
    let IpAddr::V4(v4) = address.to_canonical() else { return None };
    let [127, region, ..] = v4.octets() else { return None };
    usize::from(region).checked_sub(FIRST_REGION).filter(|region| *region < REGIONS)
}

/// The distances, which may change while the world runs.
#[derive(Debug)]
pub(super) struct Distances {
    rtt: RwLock<[[Duration; REGIONS]; REGIONS]>,
}

impl Default for Distances {
    fn default() -> Self {
        Self { rtt: RwLock::new(START_RTT_MS.map(|row| row.map(Duration::from_millis))) }
    }
}

impl Distances {
    /// How long a packet is on its way. Hosts outside this world (the operator's own curl) are next to everybody.
    #[must_use]
    pub(super) fn one_way(&self, from: IpAddr, to: IpAddr) -> Duration {
        match (region_of(from), region_of(to)) {
            (Some(from), Some(to)) => self.rtt(from, to) / 2,
            _ => Duration::ZERO,
        }
    }

    /// The RTT between two regions, or within one.
    #[must_use]
    pub(super) fn rtt(&self, a: usize, b: usize) -> Duration {
        let rtt = self.rtt.read().unwrap_or_else(PoisonError::into_inner);
        rtt.get(a).and_then(|row| row.get(b)).copied().unwrap_or_default()
    }

    /// Moves two regions nearer or farther, for packets sent from now on.
    pub(super) fn set_rtt(&self, a: usize, b: usize, to: Duration) {
        let mut rtt = self.rtt.write().unwrap_or_else(PoisonError::into_inner);
        for (row, column) in [(a, b), (b, a)] {
            if let Some(entry) = rtt.get_mut(row).and_then(|row| row.get_mut(column)) {
                *entry = to;
            }
        }
    }
}

/// The second octet of region 0.
const FIRST_REGION: usize = 101;

fn octet(first: usize, index: usize) -> u8 {
    u8::try_from(first + index).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_knows_its_region() {
        for place in Place::all() {
            assert_eq!(region_of(place.public().into()), Some(place.region));
            assert_eq!(region_of(place.private().into()), Some(place.region));
            assert_eq!(region_of(client_address(place.region).into()), Some(place.region));
        }
        assert_eq!(region_of(Ipv4Addr::LOCALHOST.into()), None);
        assert_eq!(region_of(Ipv4Addr::new(198, 18, 0, 1).into()), None);
    }

    #[test]
    fn a_changed_distance_counts_both_ways() {
        let distances = Distances::default();
        distances.set_rtt(0, 2, Duration::from_millis(10));
        let (west, far) = (client_address(0).into(), client_address(2).into());
        assert_eq!(distances.one_way(west, far), Duration::from_millis(5));
        assert_eq!(distances.one_way(far, west), Duration::from_millis(5));
    }
}
