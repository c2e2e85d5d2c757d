//! One hot key (NSDI'04 6.4): every node puts and gets it as fast as it can, and the nodes around it must not drown.

use std::time::Duration;

use super::{
    Progress, Scenario, Setup,
    report::{Bound, Figure, Report, Series, count, wide},
    setup::{key, put},
};
use crate::{Config, Levels, Mode, core::Command, sim::Sim};

pub(super) fn hot_key(setup: &Setup, progress: Progress<'_>) -> Report {
    let nodes = setup.nodes(Scenario::HotKey);
    // One cluster of all, as in the paper.
    let config = Config { thresholds: Vec::new(), ..setup.config() };
    let (beta, mode) = (count(config.leak_per_minute), config.mode);
    let mut sim = setup.warm(config, nodes);
    sim.run_for(Duration::from_secs(2));
    let hot = key(setup.seed, 3, 0);
    let mut order: Vec<usize> = (0..nodes).collect();
    order.sort_by_key(|node| sim.contact(*node).map(|one| one.id.key().distance(&hot)));
    let digits = sim.node(order[0]).map_or(0, |root| root.digits());
    let minutes = setup.minutes(Scenario::HotKey).max(2);
    let mut rates = Vec::new();
    let mut gets = 0;
    for minute in 0..minutes {
        let before: Vec<_> = (0..nodes).map(|node| sim.counters(node)).collect();
        for round in 0..ROUNDS {
            for node in 0..nodes {
                sim.command(node, put(hot, b"mine", Levels::All));
                sim.command(node, Command::Get(hot, Levels::All));
            }
            sim.run_for(Duration::from_secs(60) / ROUNDS);
            sim.forget_outcomes();
            if round % 100 == 0 {
                let done = count(usize::try_from(minute).unwrap_or(0)) + f64::from(round) / f64::from(ROUNDS);
                progress(done / wide(minutes), sim.events());
            }
        }
        let store = |node: usize| {
            let (now, then) = (sim.counters(node), before[node]);
            now.store_intents + now.stores - then.store_intents - then.stores
        };
        rates.push((0..nodes).map(store).collect::<Vec<u64>>());
        gets = (0..nodes).map(|node| sim.counters(node).gets - before[node].gets).max().unwrap_or(0).max(gets);
    }
    let busiest = |minute: usize| wide(rates.get(minute).and_then(|rates| rates.iter().max()).copied().unwrap_or(0));
    let steady = (1..rates.len()).map(busiest).fold(0.0, f64::max);
    let bound = |best: f64| if mode == Mode::Best { best } else { beta * count(digits) };
    let log2 = count(nodes).log2();
    let mut report = Report::default();
    report.hold("store_rpcs_per_min_steady", steady, Bound::AtMost(bound(83.0)));
    report.hold("store_rpcs_per_min_first", busiest(0), Bound::AtMost(bound(106.0)));
    report.hold("get_rpcs_per_min", wide(gets), Bound::AtMost(4.0 * beta * log2));
    report.print("root_digits", count(digits));
    report.print("beta_log2_n", beta * log2);
    report.figures.push(load(&sim, &order, &rates));
    report.close(&sim);
    report
}

/// Store RPCs per minute at each node, the nearest to the key first.
fn load(sim: &Sim, order: &[usize], rates: &[Vec<u64>]) -> Figure {
    let line = |(minute, rates): (usize, &Vec<u64>)| Series {
        name: format!("minute {}", minute + 1),
        points: order.iter().enumerate().map(|(rank, node)| (count(rank), wide(rates[*node]))).collect(),
    };
    Figure {
        name: "hot-key".to_owned(),
        title: format!("store RPCs per minute at each of {} nodes", sim.len()),
        axes: ["nodes by distance to the key".to_owned(), "store RPCs per minute".to_owned()],
        series: rates.iter().enumerate().map(line).collect(),
        points: false,
    }
}

/// Rounds of a put and a get at every node in a minute: 400 a second.
const ROUNDS: u32 = 24_000;
