//! How long gets take: by the level that answers them, and by levels against one level under loss.

use std::time::Duration;

use super::{
    Progress, Scenario, Setup,
    report::{Bound, Figure, Report, Sample, count, wide},
    setup::{Asked, got, key, millis, put, zipf},
};
use crate::{Config, Level, Levels, core::Command, sim::Sim};

/// One key: who put it and who will ask for it, and where it is kept.
struct Pair {
    holder: usize,
    asker: usize,
    level: Level,
}

/// `lookup` and `cost`: a value held by the nodes of one level only, asked for by a random node that shares that cluster with its
/// holder.
pub(super) fn lookup(scenario: Scenario, setup: &Setup, progress: Progress<'_>) -> Report {
    let nodes = setup.nodes(scenario);
    let mut sim = setup.warm(setup.config(), nodes);
    let mut rng = setup.rng();
    let gets = (nodes / 5).clamp(200, GETS);
    progress(0.0, sim.events());
    let mut pairs = Vec::new();
    for level in [2, 1, 0].map(Level) {
        for _ in 0..gets {
            let asker = rng.below(nodes);
            if let Some(holder) = mate(&sim, asker, level, &mut |below| rng.below(below)) {
                pairs.push(Pair { holder, asker, level });
            }
        }
    }
    sim.run_for(Duration::from_secs(5));
    let pause = Duration::from_secs(40) / u32::try_from(pairs.len().max(1)).unwrap_or(1);
    for (number, pair) in pairs.iter().enumerate() {
        sim.command(pair.holder, put(key(setup.seed, 1, number), b"here", Levels::Only(pair.level)));
        sim.run_for(pause);
    }
    sim.run_for(Duration::from_secs(5));
    progress(0.4, sim.events());
    let mut report = Report::default();
    let mut curves = Vec::new();
    let mut messages = f64::NAN;
    let (mut found, mut asked) = (0, 0);
    for level in [2, 1, 0].map(Level) {
        let before = searches(&sim);
        let mut pending = Vec::new();
        for (number, pair) in pairs.iter().enumerate().filter(|(_, pair)| pair.level == level) {
            let op = sim.command(pair.asker, Command::Get(key(setup.seed, 1, number), Levels::All));
            pending.push(Asked { op, at: sim.now(), key: number });
            sim.run_for(pause);
        }
        sim.run_for(Duration::from_secs(3));
        let mut took = Sample::default();
        for one in &pending {
            asked += 1;
            let result = got(&mut sim, one).filter(|result| result.level.is_some());
            found += usize::from(result.is_some());
            if let Some(result) = result.filter(|result| result.level == Some(level)) {
                took.add(millis(result.took));
            }
        }
        if level == Level::GLOBAL {
            messages = wide(searches(&sim) - before) / count(pending.len());
        }
        latency(&mut report, level, &took, nodes);
        curves.push(took.curve(&format!("level {}", level.0)));
        progress(0.6 + 0.1 * f64::from(2 - level.0), sim.events());
    }
    report.hold("messages_per_get", messages, Bound::AtMost(9.0));
    report.hold("success", count(found) / count(asked), Bound::AtLeast(0.999));
    linger(scenario, setup, &mut sim, progress);
    report.figures.push(Figure {
        name: "lookup".to_owned(),
        title: format!("get latency by level, {nodes} nodes"),
        axes: ["ms".to_owned(), "share of gets".to_owned()],
        series: curves,
        points: false,
    });
    report.close(&sim);
    report
}

/// `cost` runs for its full time, so that upkeep is measured as well.
fn linger(scenario: Scenario, setup: &Setup, sim: &mut Sim, progress: Progress<'_>) {
    if scenario != Scenario::Cost {
        return;
    }
    let until = crate::core::time::Instant::at(Duration::from_secs(60 * setup.minutes(scenario)));
    while sim.now() < until {
        sim.run_for(Duration::from_secs(1).min(until.since(sim.now())));
        let done = sim.now().since_start().as_secs_f64() / until.since_start().as_secs_f64();
        progress(done.clamp(0.8, 1.0), sim.events());
    }
}

fn latency(report: &mut Report, level: Level, took: &Sample, nodes: usize) {
    let many = nodes > 30_000;
    let bounds = match (level.0, many) {
        (2, false) => [12.0, 35.0],
        (2, true) => [15.0, 40.0],
        (1, false) => [42.0, 85.0],
        (1, true) => [45.0, 90.0],
        (_, false) => [190.0, 400.0],
        (_, true) => [195.0, 410.0],
    };
    let name = |percent: &str| format!("l{}_{percent}_ms", level.0);
    report.hold(name("p50"), took.at(500), Bound::AtMost(bounds[0]));
    report.hold(name("p95"), took.at(950), Bound::AtMost(bounds[1]));
    if level == Level::GLOBAL {
        report.hold(name("p99"), took.at(990), Bound::AtMost(550.0));
    }
}

/// Another node that shares a node's cluster at a level.
fn mate(sim: &Sim, node: usize, level: Level, below: &mut dyn FnMut(usize) -> usize) -> Option<usize> {
    for _ in 0..200_000_usize.min(sim.len() * 20) {
        let other = below(sim.len());
        let shares = || match usize::from(level.0).checked_sub(1) {
            None => true,
            Some(at) => {
                let cluster = |node: usize| sim.node(node).and_then(|node| node.cluster_ids().nth(at));
                cluster(node) == cluster(other)
            }
        };
        if other != node && shares() {
            return Some(other);
        }
    }
    None
}

fn searches(sim: &Sim) -> u64 {
    (0..sim.len()).map(|node| sim.counters(node).searches).sum()
}

/// `loss`: the same gets in a network with levels and in one without, while one message in twenty loses a packet.
pub(super) fn loss(setup: &Setup, progress: Progress<'_>) -> Report {
    let nodes = setup.nodes(Scenario::Loss);
    let lossy = Setup { lost_per_million: setup.lost_per_million.max(LOSS), ..setup.clone() };
    let mut report = Report::default();
    let config = setup.config();
    let multi = latencies(&lossy, config.clone(), nodes, &mut report, &mut |done, events| progress(done / 2.0, events));
    let single = Config { thresholds: Vec::new(), ..config };
    let single = latencies(&lossy, single, nodes, &mut report, &mut |done, events| progress(0.5 + done / 2.0, events));
    for (name, permille) in PERCENTILES {
        report.hold(format!("multi_{name}_ms"), multi.at(permille), Bound::Below(single.at(permille)));
    }
    for (name, permille) in PERCENTILES {
        report.print(format!("single_{name}_ms"), single.at(permille));
    }
    report.figures.push(Figure {
        name: "loss".to_owned(),
        title: "get latency at 5 % loss, by levels and in one level".to_owned(),
        axes: ["ms".to_owned(), "share of gets".to_owned()],
        series: vec![multi.curve("levels 2, 1 and 0"), single.curve("level 0 only")],
        points: false,
    });
    report
}

fn latencies(setup: &Setup, config: Config, nodes: usize, report: &mut Report, progress: Progress<'_>) -> Sample {
    let mut sim = setup.warm(config, nodes);
    let mut rng = setup.rng();
    for number in 0..KEYS {
        for _ in 0..HOLDERS {
            sim.command(rng.below(nodes), put(key(setup.seed, 2, number), b"here", Levels::All));
        }
        sim.run_for(Duration::from_millis(20));
    }
    sim.run_for(Duration::from_secs(5));
    let mut pending = Vec::new();
    let gets = LOSS_GETS * usize::try_from(setup.minutes(Scenario::Loss)).unwrap_or(1);
    for number in 0..gets {
        let key_number = zipf(&mut rng, KEYS);
        let op = sim.command(rng.below(nodes), Command::Get(key(setup.seed, 2, key_number), Levels::All));
        pending.push(Asked { op, at: sim.now(), key: key_number });
        sim.run_for(Duration::from_millis(6));
        if number % 500 == 0 {
            progress(count(number) / count(gets), sim.events());
        }
    }
    sim.run_for(Duration::from_secs(5));
    let mut took = Sample::default();
    for one in &pending {
        took.add(got(&mut sim, one).map_or(f64::INFINITY, |result| millis(result.took)));
    }
    report.close(&sim);
    took
}

/// Gets of each level at most.
const GETS: usize = 2_000;

/// Messages per million that lose a packet in `loss`.
const LOSS: u32 = 50_000;

/// Keys of `loss`, holders of each, and gets a virtual minute.
const KEYS: usize = 300;
const HOLDERS: usize = 8;
const LOSS_GETS: usize = 10_000;

const PERCENTILES: [(&str, usize); 7] =
    [("p50", 500), ("p80", 800), ("p90", 900), ("p95", 950), ("p98", 980), ("p99", 990), ("p999", 999)];
