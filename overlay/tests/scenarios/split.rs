//! A cluster whose network grew parts in two, at once and for good.

use std::collections::BTreeMap;

use atoll_overlay::{
    Config, Key,
    sim::{Network, Sim},
};

use super::support::{at, cluster, ms, started};

/// The clusters that each node was in at a level since the network grew, in order.
type Ways = Vec<Vec<Key>>;

/// Nodes that were all near each other, and then are not: even and odd ones are so far apart. Their ways over this many seconds.
fn parted(seed: u64, nodes: usize, seconds: u64) -> (Sim, [Ways; 2]) {
    let mut sim = started(Sim::new(Config::default(), Network::regions(1, ms(6), ms(6)), seed), nodes);
    sim.run_until(at(120));
    let one = |level| (0..nodes).all(|node| cluster(&sim, node, level) == cluster(&sim, 0, level));
    assert!(one(1) && one(2), "one cluster before, seed {seed}");
    *sim.network_mut() = Network::regions(2, ms(6), ms(120));
    let mut ways = [vec![Vec::new(); nodes], vec![Vec::new(); nodes]];
    for second in 1..=seconds {
        sim.run_until(at(120 + second));
        for (level, ways) in (1..).zip(&mut ways) {
            for (node, way) in ways.iter_mut().enumerate() {
                let now = cluster(&sim, node, level);
                if way.last() != Some(&now) {
                    way.push(now);
                }
            }
        }
    }
    (sim, ways)
}

/// Whether the even nodes are in one cluster and the odd ones in another.
fn are_two(sim: &Sim, level: u8) -> bool {
    let id = |node| cluster(sim, node, level);
    (0..sim.len()).all(|node| id(node) == id(node % 2)) && id(0) != id(1)
}

#[test]
fn two_halves_whose_way_grew_part_within_a_minute_and_stay_parted_for_an_hour() {
    for seed in 0..4 {
        let (mut sim, ways) = parted(seed, 40, 60);
        assert!(are_two(&sim, 1) && are_two(&sim, 2), "seed {seed}");
        let before: BTreeMap<usize, [Key; 2]> =
            (0..sim.len()).map(|node| (node, [cluster(&sim, node, 1), cluster(&sim, node, 2)])).collect();
        for minute in 1..=60 {
            sim.run_until(at(180 + 60 * minute));
            for (node, ids) in &before {
                let now = [cluster(&sim, *node, 1), cluster(&sim, *node, 2)];
                assert_eq!(now, *ids, "node {node} at minute {minute}, seed {seed}");
            }
        }
        for way in ways.iter().flatten() {
            assert!((1..way.len()).all(|at| !way[..at].contains(&way[at])), "nobody comes back, seed {seed}: {way:?}");
        }
    }
}

#[test]
fn whoever_parts_goes_with_its_half_and_is_not_alone_first() {
    for seed in 0..4 {
        let (_, ways) = parted(seed, 40, 60);
        // Who leaves a cluster to be alone passes through one of its own, that nobody else is ever in.
        let mut visitors: BTreeMap<Key, usize> = BTreeMap::new();
        let stops: Vec<Key> = ways.iter().flatten().flat_map(|way| way.iter().skip(1)).copied().collect();
        stops.iter().for_each(|id| *visitors.entry(*id).or_default() += 1);
        let alone = stops.iter().filter(|id| visitors[*id] == 1).count();
        assert!(alone * 10 <= stops.len(), "{alone} of {} moves led to nobody, seed {seed}", stops.len());
    }
}
