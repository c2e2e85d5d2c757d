//! Round trips between clients' networks (/24, /48) and peers, as peers saw them in their clients' connections.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use crate::front::record::truncated;

/// See the file's head. Bounded in networks and in peers of each.
#[derive(Debug, Default)]
pub(super) struct Distances {
    /// Microseconds, by peer.
    networks: BTreeMap<IpAddr, BTreeMap<String, u64>>,
    order: VecDeque<IpAddr>,
}

impl Distances {
    /// A peer saw this round trip to a client, in microseconds.
    pub(super) fn note(&mut self, client: IpAddr, peer: &str, rtt: u64) {
        let network = truncated(client);
        if !self.networks.contains_key(&network) {
            if self.order.len() >= NETWORKS
                && let Some(oldest) = self.order.pop_front()
            {
                self.networks.remove(&oldest);
            }
            self.order.push_back(network);
        }
        let peers = self.networks.entry(network).or_default();
        let few = peers.len() < PEERS;
        match peers.get_mut(peer) {
            // A lower one counts at once, a higher one a quarter: distances change, queues come and go.
            Some(known) if rtt < *known => *known = rtt,
            Some(known) => *known += (rtt - *known) / 4,
            None if few => {
                peers.insert(peer.to_owned(), rtt);
            }
            None => {}
        }
    }

    /// What is known of a client's network.
    pub(super) fn of(&self, client: IpAddr) -> Option<&BTreeMap<String, u64>> {
        self.networks.get(&truncated(client))
    }
}

/// Networks of clients remembered. `[guess]`
const NETWORKS: usize = 8_192;

/// Peers remembered for each. `[guess]`
const PEERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_the_peers_of_each_are_bounded() {
        let mut distances = Distances::default();
        for number in 0..u32::try_from(NETWORKS).unwrap() + 1 {
            distances.note(std::net::Ipv4Addr::from(number << 8).into(), "a", 5);
        }
        assert_eq!(distances.networks.len(), NETWORKS);
        for peer in 0..100 {
            distances.note([9, 9, 9, 9].into(), &peer.to_string(), 5);
        }
        assert_eq!(distances.of([9, 9, 9, 1].into()).unwrap().len(), PEERS);
    }

    #[test]
    fn a_lower_round_trip_counts_at_once_and_a_higher_one_a_quarter() {
        let mut distances = Distances::default();
        for (said, known) in [(1_000, 1_000), (200, 200), (600, 300)] {
            distances.note([9, 9, 9, 9].into(), "a", said);
            assert_eq!(distances.of([9, 9, 9, 8].into()).unwrap()["a"], known);
        }
    }
}
