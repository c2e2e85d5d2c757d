//! One hot key (NSDI'04 6.4): every node puts and gets it as fast as it can, and the nodes around it must not drown.
//!
//! In mode `best` each puts its one pointer and gets 400 times a second, all from the same moment on. In mode `paper` it is the
//! paper's workload: values that are new every time, a put and a get back to back, each begun when the one before has ended, clients
//! that begin one after another. Were all to begin at once, none of the first would find the key stored anywhere, and all would go on
//! to its root, which the paper's figures rule out.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Progress, Scenario, Setup,
    report::{Bound, Figure, Report, Series, count, wide},
    setup::{key, put},
};
use crate::{
    Config, Key, Levels, Mode, Put,
    core::{Command, Op},
    sim::Sim,
};

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
    let mut rng = setup.rng();
    let mut clients: Vec<Client> = (0..nodes).map(|_| Client::new(rng.below(BEGUN))).collect();
    for minute in 0..minutes {
        let before: Vec<_> = (0..nodes).map(|node| sim.counters(node)).collect();
        for round in 0..ROUNDS {
            for (node, client) in clients.iter_mut().enumerate() {
                match mode {
                    Mode::Paper => client.go_on(&mut sim, node, hot),
                    Mode::Best => {
                        sim.command(node, put(hot, b"mine", Levels::All));
                        sim.command(node, Command::Get(hot, Levels::All));
                    }
                }
            }
            sim.run_for(Duration::from_secs(60) / ROUNDS);
            if mode == Mode::Best {
                sim.forget_outcomes();
            }
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
    // What CoralCDN measured: the node closest to the key.
    let at_root = rates.iter().map(|rates| rates[order[0]]).max().unwrap_or(0);
    report.print("root_store_rpcs_per_min", wide(at_root));
    report.print("root_digits", count(digits));
    report.print("beta_log2_n", beta * log2);
    report.figures.push(load(&sim, &order, &rates));
    report.close(&sim);
    report
}

/// A client of the paper's: one pair of a put and a get after the other.
struct Client {
    /// Rounds until it begins.
    idle: usize,
    puts: u64,
    under_way: Option<Op>,
    /// What is under way, or was last, is a put.
    put: bool,
}

impl Client {
    const fn new(idle: usize) -> Self {
        Self { idle, puts: 0, under_way: None, put: false }
    }

    /// Goes on where it waits for nothing, by a pair at most.
    fn go_on(&mut self, sim: &mut Sim, node: usize, hot: Key) {
        if self.idle > 0 {
            self.idle -= 1;
            return;
        }
        for _ in 0..2 {
            if self.under_way.is_some_and(|op| sim.outcome(op).is_none()) {
                return;
            }
            self.put = !self.put;
            let command = if self.put {
                self.puts += 1;
                let value = Bytes::copy_from_slice(&self.puts.to_be_bytes());
                Command::Put(Put { key: hot, value, ttl: Duration::from_secs(3_600), levels: Levels::All })
            } else {
                Command::Get(hot, Levels::All)
            };
            self.under_way = Some(sim.command(node, command));
        }
    }
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

/// By this round, half a minute after the first, all clients of mode `paper` have begun.
const BEGUN: usize = 12_000;
