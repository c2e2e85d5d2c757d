//! How clusters form (NSDI'04 6.3): how near their members are, how soon they are settled, and whether they swing.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Progress, Scenario, Setup,
    report::{Bound, Figure, Report, Sample, Series, count},
    setup::{Churn, millis},
};
use crate::{Key, Level, sim::Sim};

/// One node's way through clusters of a level: when it came to each.
type Way = Vec<(u64, Key)>;

pub(super) fn clusters(setup: &Setup, progress: Progress<'_>) -> Report {
    let nodes = setup.nodes(Scenario::Clusters);
    let mut sim = setup.sim(setup.config(), nodes);
    let mut rng = setup.rng();
    for node in 1..nodes {
        sim.seeds(node, &[0]);
    }
    let seconds = 60 * setup.minutes(Scenario::Clusters);
    let mut churn = setup.churn.then(|| Churn::new(&sim, Duration::from_secs(3_600), setup.seed));
    let mut ways: Vec<[Way; 2]> = Vec::new();
    for second in 1..=seconds {
        let until = crate::core::time::Instant::at(Duration::from_secs(second));
        match &mut churn {
            Some(churn) => churn.run_until(&mut sim, until),
            None => sim.run_until(until),
        }
        ways.resize_with(sim.len(), Default::default);
        for (node, way) in ways.iter_mut().enumerate().filter(|(node, _)| sim.is_alive(*node)) {
            let ids = sim.node(node).into_iter().flat_map(|node| node.cluster_ids());
            for (way, id) in way.iter_mut().zip(ids) {
                if way.last().is_none_or(|(_, last)| *last != id) {
                    way.push((second, id));
                }
            }
        }
        progress(
            count(usize::try_from(second).unwrap_or(0)) / count(usize::try_from(seconds).unwrap_or(1)),
            sim.events(),
        );
    }
    let mut report = Report::default();
    for (level, limit) in [(2, 20.0), (1, 60.0)] {
        report.hold(format!("l{level}_p80_ms"), worst_p80(&sim, level), Bound::Below(limit));
    }
    let settled = settled(&ways, nodes);
    let late = |way: &Way| way.iter().filter(|(at, _)| count(usize::try_from(*at).unwrap_or(0)) > settled).count();
    report.hold("settled_s", settled, Bound::Below(300.0));
    report.print("moves_after", count(ways.iter().flatten().map(late).sum()));
    report.hold("oscillations", count(ways.iter().flatten().map(returns).sum()), Bound::Exactly(0.0));
    report.hold("share_in_l2_of_5", share_in_company(&sim, 2, 5), Bound::AtLeast(0.70));
    let groups = groups(&sim, 2);
    report.print("l2_clusters", count(groups.len()));
    report.print("l2_largest", count(groups.values().map(Vec::len).max().unwrap_or(0)));
    report.print("l1_clusters", count(self::groups(&sim, 1).len()));
    report.figures.push(map(&sim, &mut |below| rng.below(below)));
    report.close(&sim);
    report
}

/// Time until 90 % of the nodes are in the clusters in which they end, at every level.
fn settled(ways: &[[Way; 2]], nodes: usize) -> f64 {
    let mut last = Sample::default();
    for way in ways.iter().take(nodes) {
        let moved = way.iter().filter_map(|way| way.last()).map(|(at, _)| *at).max().unwrap_or(0);
        last.add(count(usize::try_from(moved).unwrap_or(0)));
    }
    last.at(900)
}

/// How often a node came back, within an hour, to a cluster that it had left.
fn returns(way: &Way) -> usize {
    let back = |(at, (time, id)): (usize, &(u64, Key))| {
        // It left that cluster when it came to the next one.
        let left = way.windows(2).take(at).filter(|pair| pair[0].1 == *id).map(|pair| pair[1].0).next_back();
        left.is_some_and(|left| time - left < 3_600)
    };
    way.iter().enumerate().filter(|one| back(*one)).count()
}

/// The living nodes of each cluster of a level.
pub(super) fn groups(sim: &Sim, level: usize) -> BTreeMap<Key, Vec<usize>> {
    let mut groups: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
    for node in (0..sim.len()).filter(|node| sim.is_alive(*node)) {
        if let Some(id) = sim.node(node).and_then(|node| node.cluster_ids().nth(level - 1)) {
            groups.entry(id).or_default().push(node);
        }
    }
    groups
}

/// The 80th percentile of the round trips inside each cluster, the worst of all clusters.
fn worst_p80(sim: &Sim, level: usize) -> f64 {
    let p80 = |group: &Vec<usize>| {
        let mut apart = Sample::default();
        for (at, one) in group.iter().enumerate() {
            group[at + 1..].iter().for_each(|other| apart.add(millis(sim.distance(*one, *other))));
        }
        apart.at(800)
    };
    groups(sim, level).values().filter(|group| group.len() > 1).map(p80).fold(0.0, f64::max)
}

fn share_in_company(sim: &Sim, level: usize, of: usize) -> f64 {
    let groups = groups(sim, level);
    let all: usize = groups.values().map(Vec::len).sum();
    count(groups.values().map(Vec::len).filter(|size| *size >= of).sum()) / count(all)
}

/// Nodes in the plane, so that distances are as near to round trips as they can be (by springs), coloured by their level-1
/// cluster.
fn map(sim: &Sim, below: &mut dyn FnMut(usize) -> usize) -> Figure {
    let alive: Vec<usize> = (0..sim.len()).filter(|node| sim.is_alive(*node)).take(MAPPED).collect();
    let mut places: Vec<(f64, f64)> = alive.iter().map(|_| (count(below(400)), count(below(400)))).collect();
    for round in 0..SPRINGS {
        let pull = 0.25 * (1.0 - f64::from(round) / f64::from(SPRINGS)) + 0.01;
        for one in 0..alive.len() {
            for _ in 0..8 {
                let other = below(alive.len());
                if one == other {
                    continue;
                }
                let wanted = millis(sim.distance(alive[one], alive[other]));
                let (across, down) = (places[other].0 - places[one].0, places[other].1 - places[one].1);
                let apart = across.hypot(down).max(0.1);
                let step = pull * (apart - wanted) / apart / 2.0;
                places[one].0 += step * across;
                places[one].1 += step * down;
            }
        }
    }
    let of = |level: usize| groups(sim, level);
    let mut clusters: Vec<Vec<usize>> = of(1).into_values().collect();
    clusters.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let place = |node: &usize| alive.iter().position(|one| one == node).map(|at| places[at]);
    let series = clusters.iter().take(COLOURS).enumerate().map(|(number, group)| Series {
        name: format!("cluster {} ({} nodes)", number + 1, group.len()),
        points: group.iter().filter_map(place).collect(),
    });
    Figure {
        name: "clusters".to_owned(),
        title: format!("level-{} clusters; distances are round trips", Level(1)),
        axes: ["ms".to_owned(), "ms".to_owned()],
        series: series.collect(),
        points: true,
    }
}

/// Nodes on the map at most, rounds of its springs, clusters that have a colour.
const MAPPED: usize = 1_000;
const SPRINGS: u32 = 200;
const COLOURS: usize = 8;
