//! A hundred drivers on loopback held against the simulator: does it tell the truth about gets over warm links?
//!
//! ```text
//!   identities, rows --> Sim (distances) --> Relay + Swarms: grow, put, get ----> answers --+
//!                          |                     | tables                                   |--> rows
//!                          +---------------------+--> Sim: the same puts and gets --> answers +
//! ```
//!
//! The scenario is that of `atoll sim lookup`: a value kept by the nodes closest to its key in one level only, asked for by a node
//! that shares that cluster with its holder. Both sides start from the tables that the drivers grew, and run the same core. What differs:
//! the drivers' messages are encrypted, go through a relay and wait for a processor that all nodes share; drivers know what their tables
//! do not show, and measured how far others are, jitter included, where the simulator's nodes are told, are linked to all in their
//! tables, and have long been where they are; and the drivers' nodes draw other numbers. Times are of gets that both sides answered at
//! the level: how many, and how many each side found there or lost to the deadline, stands beside them; what was lost is not in them.

mod real;
mod relay;
mod simulated;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use atoll_overlay::{
    Config, Key, Level, LevelInfo, NodeId,
    driver::Identity,
    sim::{Matrix, Network, Sim},
};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use self::{
    real::Swarms,
    relay::{Delays, Relay},
};
use crate::{
    report::{Report, Row},
    rounds::percentile,
};

/// One key: who put it and who asks for it, and where it is kept.
#[derive(Debug, Clone)]
struct Question {
    key: Key,
    level: Level,
    holder: usize,
    asker: usize,
}

/// What came of a question.
#[derive(Debug, Clone)]
struct Answer {
    /// The level that answered, if any did.
    level: Option<Level>,
    holders: BTreeSet<NodeId>,
    took: Duration,
    /// It came to no answer by its deadline.
    lost: bool,
}

/// Measures so many nodes.
pub(crate) async fn measure(report: &mut Report, nodes: usize) -> Result<(), String> {
    let limit = atoll_sys::limits::raise_open_files().map_err(|error| error.to_string())?;
    let matrix = Matrix::planetlab();
    let mut random = StdRng::seed_from_u64(SEED);
    let mut rows: Vec<usize> = (0..matrix.sites()).collect();
    rows.shuffle(&mut random);
    rows.truncate(nodes);
    let (nodes, config) = (rows.len(), Config::default());
    let both = Both::new(config, Network::Matrix(matrix), rows);
    let swarms = both.start().await?;
    let grown = swarms.settle(CALM).await;
    let views = swarms.views();
    let connections = swarms.connections();
    report.note(format!(
        "swarms: {nodes} drivers over TCP, grown from one seed for {:.0} s, {}, {connections} connections, {} files open of {}; \
         against the simulator from the same tables, without loss and jitter",
        grown.took.as_secs_f64(),
        if grown.settled { "settled" } else { "not settled" },
        atoll_sys::limits::open_files().unwrap_or(0),
        limit.unwrap_or(0),
    ));
    let questions = questions(&views, &mut random, GETS);
    swarms.put(&questions, PAUSE).await?;
    let real = swarms.ask(&questions, PAUSE).await?;
    swarms.stop().await;
    let simulated = simulated::replay(both.sim, &views, &questions, PAUSE)?;
    rows_of(report, &questions, &real, &simulated)
}

/// What both sides have in common.
struct Both {
    config: Config,
    identities: Vec<Identity>,
    sim: Sim,
}

impl Both {
    fn new(config: Config, network: Network, rows: Vec<usize>) -> Self {
        let identities: Vec<Identity> = rows.iter().map(|_| Identity::generate()).collect();
        let ids: Vec<NodeId> = identities.iter().map(|identity| identity.node_id(NETWORK, 0)).collect();
        let sim = simulated::network(&config, network, &ids, &rows, SEED);
        Self { config, identities, sim }
    }

    /// The drivers, as far apart as the simulator's nodes.
    async fn start(&self) -> Result<Swarms, String> {
        let nodes = 0..self.sim.len();
        let from = |one: usize| nodes.clone().map(|other| self.sim.distance(one, other) / 2).collect();
        let delays: Delays = Arc::new(nodes.clone().map(from).collect());
        let relay = Relay::new(delays).map_err(|error| error.to_string())?;
        Swarms::start(&self.identities, &self.config, relay).await
    }
}

/// So many questions for each level in which an asker has company, by the clusters that the nodes say they are in.
fn questions(views: &[Vec<LevelInfo>], random: &mut StdRng, gets: usize) -> Vec<Question> {
    let levels = views.iter().map(Vec::len).max().unwrap_or(0);
    let mut questions = Vec::new();
    for level in (0..levels).rev() {
        let cluster = |node: usize| views[node].get(level).map(|info| info.cluster);
        for _ in 0..gets {
            let asker = random.random_range(0..views.len());
            let mates: Vec<usize> =
                (0..views.len()).filter(|other| *other != asker && cluster(*other) == cluster(asker)).collect();
            if mates.is_empty() {
                continue;
            }
            let holder = mates[random.random_range(0..mates.len())];
            let key = Key::of(&random.next_u64().to_be_bytes());
            questions.push(Question { key, level: Level(u8::try_from(level).unwrap_or(u8::MAX)), holder, asker });
        }
    }
    questions
}

/// For each level what both sides found there and what they lost, and the times of the gets that both answered there; then how many were
/// answered at all, and how many by the same pointers. An error if there is a level that has no such get.
fn rows_of(report: &mut Report, questions: &[Question], real: &[Answer], simulated: &[Answer]) -> Result<(), String> {
    let mut levels: Vec<Level> = questions.iter().map(|question| question.level).collect();
    levels.sort_unstable();
    levels.dedup();
    if levels.is_empty() {
        return Err(
            "swarms: no node has company at any level, so nothing was asked; give them longer to grow".to_owned()
        );
    }
    for level in levels {
        let of = questions.iter().zip(real.iter().zip(simulated)).filter(|(question, _)| question.level == level);
        let (real, simulated): (Vec<&Answer>, Vec<&Answer>) = of.map(|(_, answers)| answers).unzip();
        let row = |what: &str, value: f64, unit: &str| Row::new(&format!("swarms_l{}_{what}", level.0), value, unit);
        let found = |side: &[&Answer]| side.iter().filter(|one| one.level == Some(level)).count();
        let lost = |side: &[&Answer]| side.iter().filter(|one| one.lost).count();
        let share = |count: usize| 100.0 * count as f64 / real.len() as f64;
        report.add(row("found", share(found(&real)), "%").against("simulator", share(found(&simulated))));
        // Apart, as of none there is no multiple.
        report.add(row("lost", lost(&real) as f64, "gets"));
        report.add(row("lost_simulated", lost(&simulated) as f64, "gets"));
        let both = real.iter().zip(&simulated).filter(|(real, other)| [real.level, other.level] == [Some(level); 2]);
        let (mut ours, mut theirs): (Vec<f64>, Vec<f64>) =
            both.map(|(real, simulated)| (millis(real.took), millis(simulated.took))).unzip();
        if ours.is_empty() {
            let asked = real.len();
            return Err(format!("swarms: of {asked} gets at level {} none was answered there by both sides", level.0));
        }
        report.add(row("compared", ours.len() as f64, "gets"));
        for (name, share) in [("p50", 0.5), ("p95", 0.95)] {
            let timed = row(name, percentile(&mut ours, share), "ms");
            report.add(timed.against("simulator", percentile(&mut theirs, share)));
        }
    }
    let percent = |count: usize| 100.0 * count as f64 / questions.len() as f64;
    let found = |answers: &[Answer]| percent(answers.iter().filter(|answer| answer.level.is_some()).count());
    report.add(Row::new("swarms_found", found(real), "%").against("simulator", found(simulated)));
    let alike = real.iter().zip(simulated).filter(|(real, simulated)| real.holders == simulated.holders).count();
    report.add(Row::new("swarms_alike", percent(alike), "%"));
    Ok(())
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// The network's name: part of every node's id.
const NETWORK: &str = "bench";

/// Rows, keys and pairs follow from it; the nodes' ids are new each time.
const SEED: u64 = 1;

/// For how long clusters stay the same before they count as settled.
const CALM: Duration = Duration::from_secs(30);

/// Gets of each level.
const GETS: usize = 400;

/// Pause between puts, and between gets.
const PAUSE: Duration = Duration::from_millis(20);

/// What is put, and for how long it stays.
const VALUE: &[u8] = b"here";
const TTL: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve nodes, 40 to 95 ms apart, in one level. Patient, so that a busy machine changes no answer.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn drivers_on_loopback_find_what_their_likes_find_in_the_simulator() {
        const NODES: usize = 12;
        let apart =
            |one: usize, other: usize| Duration::from_millis(40 + 5 * u64::try_from(one.abs_diff(other)).unwrap());
        let config = Config {
            thresholds: Vec::new(),
            seek_patience: Duration::from_secs(10),
            get_deadline: Duration::from_secs(60),
            put_deadline: Duration::from_secs(60),
            ..Config::default()
        };
        let both = Both::new(config, Network::Function(Box::new(apart)), (0..NODES).collect());
        let swarms = both.start().await.unwrap();
        let full = async {
            while swarms.views().iter().any(|view| view[0].neighbours.len() < NODES - 1) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), full).await.expect("all know all");
        let views = swarms.views();
        for (one, view) in views.iter().enumerate() {
            for neighbour in &view[0].neighbours {
                let other = both.identities.iter().position(|who| who.node_id(NETWORK, 0) == neighbour.id).unwrap();
                // Before it is measured there is none.
                assert!(neighbour.rtt.is_none_or(|rtt| rtt >= apart(one, other)), "{one} to {other}: {neighbour:?}");
            }
        }
        let questions = questions(&views, &mut StdRng::seed_from_u64(SEED), 40);
        swarms.put(&questions, Duration::ZERO).await.unwrap();
        let real = swarms.ask(&questions, Duration::ZERO).await.unwrap();
        swarms.stop().await;
        let simulated = simulated::replay(both.sim, &views, &questions, Duration::from_millis(5)).unwrap();
        assert_eq!(questions.len(), 40);
        for ((question, real), simulated) in questions.iter().zip(&real).zip(&simulated) {
            let id = both.identities[question.holder].node_id(NETWORK, 0);
            assert_eq!(real.holders, BTreeSet::from([id]), "{question:?}");
            assert_eq!((real.level, &real.holders), (simulated.level, &simulated.holders), "{question:?}");
        }
    }

    #[test]
    fn only_gets_that_both_sides_answered_at_the_level_are_compared() {
        let answer = |level: Option<u8>, millis| Answer {
            level: level.map(Level),
            holders: BTreeSet::new(),
            took: Duration::from_millis(millis),
            lost: millis >= 4_000,
        };
        let question = Question { key: Key::ZERO, level: Level(0), holder: 0, asker: 1 };
        let mut report = Report::new("t");
        let real = [answer(Some(0), 110), answer(None, 4_000), answer(Some(0), 500)];
        let simulated = [answer(Some(0), 100), answer(Some(0), 90), answer(Some(1), 20)];
        rows_of(&mut report, &vec![question.clone(); 3], &real, &simulated).unwrap();
        let table = report.table();
        assert!(table.contains("swarms_l0_p50") && table.contains("simulator 100.0 (1.10 x)"), "{table}");
        assert!(table.contains("66.7") && table.contains("simulator 100.0 (0.67 x)"), "{table}");
        let values = |name: &str| {
            let row = table.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} in {table}"));
            row.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<f64>>()
        };
        assert_eq!((values("swarms_l0_lost "), values("swarms_l0_lost_simulated")), (vec![1.0], vec![0.0]));
        assert_eq!(values("swarms_l0_compared"), [1.0]);
        // Nothing to compare is no figure.
        let missed = rows_of(&mut report, &vec![question; 3], &vec![real[1].clone(); 3], &simulated);
        assert!(missed.is_err_and(|error| error.contains("of 3 gets at level 0 none")));
        assert!(rows_of(&mut report, &[], &[], &[]).is_err());
    }
}
