//! Deaths and partitions: what is still found, and how soon all is well again.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Progress, Scenario, Setup,
    form::groups,
    report::{Bound, Report, count},
    setup::{Asked, Churn, got, key, put},
};
use crate::{
    Key, Level, Levels,
    core::{Command, rng::Rng, time::Instant},
    sim::{Death, Sim},
};

/// Keys that some nodes put, each held by one.
struct Keys {
    seed: u64,
    holders: Vec<usize>,
}

/// How many of the gets that should find something did.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    asked: usize,
    found: usize,
}

impl Tally {
    fn share(self) -> f64 {
        count(self.found) / count(self.asked)
    }
}

impl Keys {
    /// Puts them at level 0 only, a few at a time.
    fn put(sim: &mut Sim, setup: &Setup, rng: &mut Rng, holders: Vec<usize>) -> Self {
        for (number, holder) in holders.iter().enumerate() {
            sim.command(*holder, put(key(setup.seed, 5, number), b"here", Levels::Only(Level::GLOBAL)));
            sim.run_for(Duration::from_millis(5 + u64::try_from(rng.below(10)).unwrap_or(0)));
        }
        sim.run_for(Duration::from_secs(5));
        Self { seed: setup.seed, holders }
    }

    fn key(&self, number: usize) -> Key {
        key(self.seed, 5, number)
    }

    /// Whether the holder of a key lives, and a living node stores the reference.
    fn can_be_found(&self, sim: &Sim, number: usize) -> bool {
        sim.is_alive(self.holders[number]) && sim.is_stored(Level::GLOBAL, self.key(number))
    }

    /// Asks for keys from random living nodes over some time; the gets that could find something, and all.
    fn ask(&self, sim: &mut Sim, rng: &mut Rng, gets: usize, pause: Duration) -> (Tally, Tally) {
        let living: Vec<usize> = (0..sim.len()).filter(|node| sim.is_alive(*node)).collect();
        let mut pending = Vec::new();
        for _ in 0..gets {
            let number = rng.below(self.holders.len());
            let asker = living[rng.below(living.len())];
            if asker == self.holders[number] {
                continue;
            }
            let can = self.can_be_found(sim, number);
            let op = sim.command(asker, Command::Get(self.key(number), Levels::All));
            pending.push((can, Asked { op, at: sim.now(), key: number }));
            sim.run_for(pause);
        }
        sim.run_for(GET_TIME);
        let (mut could, mut all) = (Tally::default(), Tally::default());
        for (can, asked) in pending {
            let result = got(sim, &asked);
            let live = |value: &crate::Value| {
                sim.contact(self.holders[asked.key]).is_some_and(|one| one.id == value.holder)
                    && sim.is_alive(self.holders[asked.key])
            };
            let found = result.is_some_and(|result| result.values.iter().any(live));
            // What died after the question was asked could not be found.
            let could_be = can && (found || self.can_be_found(sim, asked.key));
            for tally in [Some(&mut all), could_be.then_some(&mut could)].into_iter().flatten() {
                tally.asked += 1;
                tally.found += usize::from(found);
            }
        }
        (could, all)
    }
}

pub(super) fn kill(setup: &Setup, progress: Progress<'_>) -> Report {
    let nodes = setup.nodes(Scenario::Kill);
    let mut sim = setup.warm(setup.config(), nodes);
    let mut rng = setup.rng();
    sim.run_for(Duration::from_secs(5));
    let holders = (0..KEYS.min(nodes)).map(|_| rng.below(nodes)).collect();
    let keys = Keys::put(&mut sim, setup, &mut rng, holders);
    progress(0.3, sim.events());
    let mut order: Vec<usize> = (0..nodes).collect();
    rng.shuffle(&mut order);
    for node in order.into_iter().take(nodes / 2) {
        sim.kill(node, Death::Machine);
    }
    let killed = sim.now();
    // One time-out, the longest there is.
    sim.run_for(setup.overlay.rto_max);
    let (first, all) = keys.ask(&mut sim, &mut rng, KEYS, Duration::from_millis(2));
    progress(0.5, sim.events());
    sim.run_until(killed + Duration::from_secs(60));
    progress(0.8, sim.events());
    let (later, _) = keys.ask(&mut sim, &mut rng, KEYS, Duration::from_millis(5));
    let mut report = Report::default();
    report.hold("success_first", first.share(), Bound::AtLeast(0.99));
    report.hold("success_60s", later.share(), Bound::AtLeast(1.0));
    report.print("all_keys_first", all.share());
    report.close(&sim);
    report
}

pub(super) fn churn(setup: &Setup, progress: Progress<'_>) -> Report {
    let mut report = Report::default();
    let sessions = [("success", 60, 0.9999), ("success_10min", 10, 0.999)];
    for (at, (name, minutes, least)) in sessions.into_iter().enumerate() {
        let share = under_churn(setup, Duration::from_secs(60 * minutes), &mut report, &mut |done, events| {
            progress((count(at) + done) / 2.0, events);
        });
        report.hold(name, share.share(), Bound::AtLeast(least));
        report.print(format!("{name}_gets"), count(share.asked));
    }
    report
}

fn under_churn(setup: &Setup, median: Duration, report: &mut Report, progress: Progress<'_>) -> Tally {
    let nodes = setup.nodes(Scenario::Churn);
    let mut sim = setup.warm(setup.config(), nodes);
    let mut rng = setup.rng();
    sim.run_for(Duration::from_secs(5));
    let holders = (0..KEYS.min(nodes)).map(|_| rng.below(nodes)).collect();
    let keys = Keys::put(&mut sim, setup, &mut rng, holders);
    let mut churn = Churn::new(&sim, median, setup.seed);
    let seconds = 60 * setup.minutes(Scenario::Churn);
    let start = sim.now();
    let mut tally = Tally::default();
    let mut pending: Vec<(usize, bool, Asked)> = Vec::new();
    for second in 1..=seconds {
        let living: Vec<usize> = (0..sim.len()).filter(|node| sim.is_alive(*node)).collect();
        for part in 0..CHURN_GETS {
            let (number, asker) = (rng.below(keys.holders.len()), living[rng.below(living.len())]);
            if sim.is_alive(asker) && sim.has_joined(asker) && asker != keys.holders[number] {
                let can = keys.can_be_found(&sim, number);
                let op = sim.command(asker, Command::Get(keys.key(number), Levels::All));
                pending.push((asker, can, Asked { op, at: sim.now(), key: number }));
            }
            let until = start + Duration::from_millis(1_000 * (second - 1) + 1_000 / CHURN_GETS * (part + 1));
            churn.run_until(&mut sim, until);
        }
        let due: Vec<_> = pending.extract_if(.., |(_, _, asked)| sim.now().since(asked.at) >= GET_TIME).collect();
        for (asker, can, asked) in due {
            let result = got(&mut sim, &asked);
            // Whoever died meanwhile waits for nothing.
            let can = can && (result.is_some() || sim.is_alive(asker));
            let holder = sim.contact(keys.holders[asked.key]).map(|one| one.id);
            let found = result.is_some_and(|one| one.values.iter().any(|value| Some(value.holder) == holder));
            if can && (found || keys.can_be_found(&sim, asked.key)) {
                tally.asked += 1;
                tally.found += usize::from(found);
            }
        }
        progress(
            count(usize::try_from(second).unwrap_or(0)) / count(usize::try_from(seconds).unwrap_or(1)),
            sim.events(),
        );
    }
    report.close(&sim);
    tally
}

pub(super) fn partition(setup: &Setup, progress: Progress<'_>) -> Report {
    let nodes = setup.nodes(Scenario::Partition);
    let mut sim = setup.warm(setup.config(), nodes);
    let mut rng = setup.rng();
    sim.run_for(Duration::from_secs(10));
    let before = [1, 2].map(|level| groups(&sim, level));
    let sides: Vec<u8> = (0..nodes).map(|_| u8::from(rng.below(2) == 0)).collect();
    let (left, right): (Vec<usize>, Vec<usize>) = (0..nodes).partition(|node| sides[*node] == 0);
    sim.faults_mut().part(sides.clone());
    let minutes = setup.minutes(Scenario::Partition);
    for minute in 0..minutes.saturating_sub(1) {
        sim.run_for(Duration::from_secs(60));
        progress(
            0.8 * count(usize::try_from(minute).unwrap_or(0)) / count(usize::try_from(minutes).unwrap_or(1)),
            sim.events(),
        );
    }
    // What one side puts while it is alone, the other is to find after.
    let holders: Vec<usize> = (0..KEYS.min(nodes) / 2).map(|_| left[rng.below(left.len())]).collect();
    let keys = Keys::put(&mut sim, setup, &mut rng, holders);
    sim.run_for(Duration::from_secs(40));
    sim.faults_mut().part(Vec::new());
    let healed = sim.now();
    let whole = unparted(setup, nodes, &sides, healed + MERGE_TIME);
    let (mut rounds, mut merged) = (Vec::new(), None);
    while sim.now().since(healed) < HEAL_TIME {
        let start = sim.now();
        let mut pending = Vec::new();
        for _ in 0..100 {
            let number = rng.below(keys.holders.len());
            let asker = right[rng.below(right.len())];
            let op = sim.command(asker, Command::Get(keys.key(number), Levels::All));
            pending.push(Asked { op, at: sim.now(), key: number });
            sim.run_for(Duration::from_millis(10));
        }
        rounds.push((start, pending));
        if merged.is_none() && are_together(&sim, &before, &sides, &whole) {
            merged = Some(sim.now());
        }
        progress(0.8 + 0.2 * sim.now().since(healed).as_secs_f64() / HEAL_TIME.as_secs_f64(), sim.events());
    }
    sim.run_for(GET_TIME);
    let mut last_bad = healed;
    for (start, pending) in rounds {
        let holder = |sim: &Sim, key: usize| sim.contact(keys.holders[key]).map(|one| one.id);
        let total = pending.len();
        let found = pending.iter().filter(|asked| {
            got(&mut sim, asked)
                .is_some_and(|one| one.values.iter().any(|value| Some(value.holder) == holder(&sim, asked.key)))
        });
        if found.count() * 100 < total * 99 {
            last_bad = start + Duration::from_secs(1);
        }
    }
    let since = |at: Instant| at.since(healed).as_secs_f64();
    let mut report = Report::default();
    report.hold("heal_s", since(last_bad), Bound::AtMost(30.0));
    report.hold("merged_s", merged.map_or(f64::INFINITY, since), Bound::AtMost(MERGE_TIME.as_secs_f64()));
    for (name, levels) in [("", together(&sim, &before, &sides)), ("unparted_", whole)] {
        for (level, one) in (1..).zip(levels) {
            report.print(format!("l{level}_{name}together_share"), one.with_others);
            report.print(format!("l{level}_{name}kept_share"), one.kept);
        }
    }
    report.close(&sim);
    report
}

/// Of each cluster as it was before, the nodes that are still with most of those of their own side. Over ten minutes, and after, some
/// nodes find better clusters in any network; these are not what a partition parted.
fn kept(
    now: &BTreeMap<Key, Vec<usize>>,
    before: &BTreeMap<Key, Vec<usize>>,
    sides: &[u8],
) -> BTreeMap<Key, Vec<usize>> {
    let cluster = clusters_of(now);
    let stayed = |nodes: &Vec<usize>| {
        let mut kept = Vec::new();
        for side in [0, 1] {
            let nodes: Vec<usize> = nodes.iter().copied().filter(|node| sides[*node] == side).collect();
            let most = most(&cluster, &nodes).map(|(id, _)| id);
            kept.extend(nodes.into_iter().filter(|node| cluster.get(node).copied() == most));
        }
        kept
    };
    before.iter().map(|(id, nodes)| (*id, stayed(nodes))).collect()
}

/// What part of the nodes are together, by the same measure, in the same network at the same time if it is never parted: warm
/// clusters move on once their dwell time is over.
fn unparted(setup: &Setup, nodes: usize, sides: &[u8], until: Instant) -> [Together; 2] {
    let mut sim = setup.warm(setup.config(), nodes);
    sim.run_for(Duration::from_secs(10));
    let before = [1, 2].map(|level| groups(&sim, level));
    sim.run_until(until);
    together(&sim, &before, sides)
}

/// How much there still is of the clusters that there were.
#[derive(Debug, Clone, Copy)]
struct Together {
    /// The part of the nodes that are with most of their own side of their former cluster.
    kept: f64,
    /// The part of these that are with most of both sides.
    with_others: f64,
}

/// Whether 99 % of the nodes, or as many as in a network that was never parted, are with most of those they shared their
/// clusters with before, and nearly as many as there have not left their own side.
fn are_together(sim: &Sim, before: &[BTreeMap<Key, Vec<usize>>; 2], sides: &[u8], unparted: &[Together; 2]) -> bool {
    together(sim, before, sides)
        .iter()
        .zip(unparted)
        .all(|(one, unparted)| one.with_others >= unparted.with_others.min(0.99) && one.kept >= unparted.kept * KEPT)
}

/// What there is of the clusters at levels 1 and 2.
fn together(sim: &Sim, before: &[BTreeMap<Key, Vec<usize>>; 2], sides: &[u8]) -> [Together; 2] {
    [1, 2].map(|level| {
        let groups = groups(sim, level);
        let (cluster, before) = (clusters_of(&groups), &before[level - 1]);
        let stayed = kept(&groups, before, sides);
        let with = stayed.values().filter_map(|nodes| most(&cluster, nodes)).map(|(_, count)| count).sum();
        let [all, stayed] = [before, &stayed].map(|groups| count(groups.values().map(Vec::len).sum()));
        Together { kept: stayed / all, with_others: count(with) / stayed }
    })
}

/// The cluster of each node.
fn clusters_of(groups: &BTreeMap<Key, Vec<usize>>) -> BTreeMap<usize, Key> {
    groups.iter().flat_map(|(id, nodes)| nodes.iter().map(move |node| (*node, *id))).collect()
}

/// The cluster that most of these nodes are in, and how many are.
fn most(cluster: &BTreeMap<usize, Key>, nodes: &[usize]) -> Option<(Key, usize)> {
    let mut counts: BTreeMap<Key, usize> = BTreeMap::new();
    nodes.iter().filter_map(|node| cluster.get(node)).for_each(|id| *counts.entry(*id).or_default() += 1);
    counts.into_iter().max_by_key(|(id, count)| (*count, *id))
}

/// Keys put, and gets of each measurement.
const KEYS: usize = 2_000;

/// Gets a second under churn.
const CHURN_GETS: u64 = 20;

/// By then every get has its outcome.
const GET_TIME: Duration = Duration::from_secs(6);

/// By then clusters that a partition parted are to be one again.
const MERGE_TIME: Duration = Duration::from_secs(60);

/// So many of those who have not left their own side in a network that was never parted, have not in one that was.
const KEPT: f64 = 0.9;

/// How long after a partition it is watched.
const HEAL_TIME: Duration = Duration::from_secs(90);
