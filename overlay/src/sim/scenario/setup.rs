//! What a scenario is run with, and the networks it starts from.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Acquire, Config, Found, Key, Level, Levels, Mode, Put,
    core::{Command, Op, Outcome, rng::Rng, time::Instant},
    sim::{Carrier, Death, Matrix, Network, Scenario, Sim},
};
use bytes::Bytes;

/// Nodes, seed, faults; what is not said is the scenario's own. A scenario file holds these fields, and `scenario`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Setup {
    /// How many nodes.
    pub nodes: Option<usize>,
    /// All randomness.
    pub seed: u64,
    /// Virtual minutes of the main part.
    pub minutes: Option<u64>,
    /// Coral as published, or ours.
    pub mode: Mode,
    /// Nodes come and go meanwhile, with a median session of 60 minutes.
    pub churn: bool,
    /// Messages per million that lose a packet and stall for a recovery time.
    pub lost_per_million: u32,
    /// Messages per million that come twice.
    pub duplicated_per_million: u32,
    /// Messages per million that are overtaken.
    pub reordered_per_million: u32,
    /// Messages vary in speed as measured.
    pub jitter: bool,
    /// Recover from losses as TCP does, which takes 200 ms at least; as QUIC otherwise.
    pub tcp: bool,
    /// Clocks run up to so many parts per million fast or slow.
    pub drift_per_million: u32,
    /// The overlay's settings; the mode above goes ahead of the mode in here.
    pub overlay: Config,
    /// How far the sites are apart.
    #[serde(skip)]
    pub matrix: Option<Matrix>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            nodes: None,
            seed: 1,
            minutes: None,
            mode: Mode::Best,
            churn: false,
            lost_per_million: 5_000,
            duplicated_per_million: 0,
            reordered_per_million: 0,
            jitter: true,
            tcp: false,
            drift_per_million: 0,
            overlay: Config::default(),
            matrix: None,
        }
    }
}

impl Setup {
    pub(super) fn nodes(&self, scenario: Scenario) -> usize {
        self.nodes.unwrap_or_else(|| scenario.nodes()).max(2)
    }

    pub(super) fn minutes(&self, scenario: Scenario) -> u64 {
        self.minutes.unwrap_or_else(|| scenario.minutes()).max(1)
    }

    pub(super) fn config(&self) -> Config {
        Config { mode: self.mode, ..self.overlay.clone() }
    }

    /// A generator of the scenario's own: the simulation's randomness does not depend on what is asked of it.
    pub(super) fn rng(&self) -> Rng {
        Rng::new(self.seed ^ 0x5ce0_a210)
    }

    /// A network of so many nodes, not started: one per row of the matrix while there are enough rows, else at rows drawn at
    /// random, each with a delay of its own between it and its site.
    pub(super) fn sim(&self, config: Config, nodes: usize) -> Sim {
        let matrix = self.matrix.clone().unwrap_or_else(Matrix::planetlab);
        let sites = matrix.sites().max(1);
        let mut rng = Rng::new(self.seed ^ 0x0517_e500);
        let mut sim = Sim::new(config, Network::Matrix(matrix), self.seed);
        let mut rows: Vec<usize> = (0..sites).collect();
        rng.shuffle(&mut rows);
        for node in 0..nodes {
            let own = rows.get(node).filter(|_| nodes <= sites);
            let (site, access) = match own {
                Some(row) => (*row, Duration::ZERO),
                None => (rng.below(sites), access(&mut rng)),
            };
            sim.add(site, access);
            if self.drift_per_million > 0 {
                let most = usize::try_from(self.drift_per_million).unwrap_or(0);
                let drift = i32::try_from(rng.below(2 * most + 1)).unwrap_or(0) - i32::try_from(most).unwrap_or(0);
                sim.drift(node, drift);
            }
        }
        let faults = sim.faults_mut();
        faults.carrier = if self.tcp { Carrier::Tcp } else { Carrier::Quic };
        faults.stalled = self.lost_per_million;
        faults.duplicated = self.duplicated_per_million;
        faults.reordered = self.reordered_per_million;
        faults.measured_jitter = self.jitter;
        sim
    }

    /// The same, as it is after hours.
    pub(super) fn warm(&self, config: Config, nodes: usize) -> Sim {
        let mut sim = self.sim(config, nodes);
        sim.warm();
        sim
    }
}

/// Nodes that come and go: each lives for a time drawn from an exponential distribution, and another takes its place.
pub(super) struct Churn {
    median: Duration,
    /// When each living node dies.
    ends: std::collections::BTreeMap<(Instant, usize), ()>,
    rng: Rng,
    /// Nodes that died so far.
    pub(super) deaths: usize,
}

impl Churn {
    pub(super) fn new(sim: &Sim, median: Duration, seed: u64) -> Self {
        let mut churn =
            Self { median, ends: std::collections::BTreeMap::new(), rng: Rng::new(seed ^ 0xc4_12), deaths: 0 };
        (0..sim.len()).for_each(|node| churn.live(sim.now(), node));
        churn
    }

    fn live(&mut self, now: Instant, node: usize) {
        // The median of an exponential is its mean times ln 2.
        let span = exponential(&mut self.rng, self.median * 1_443 / 1_000);
        self.ends.insert((now + span, node), ());
    }

    /// Lets time pass up to a moment, with its deaths and births. Newcomers are given some of the living to ask.
    pub(super) fn run_until(&mut self, sim: &mut Sim, until: Instant) {
        while let Some(((at, node), ())) =
            self.ends.first_key_value().map(|(key, ())| (*key, ())).filter(|((at, _), ())| *at <= until)
        {
            self.ends.remove(&(at, node));
            sim.run_until(at);
            self.deaths += 1;
            sim.kill(node, if self.rng.below(2) == 0 { Death::Machine } else { Death::Process });
            let site = sim.site_of(node);
            let newcomer = sim.add(site, Duration::from_micros(500));
            let living: Vec<usize> = (0..newcomer).filter(|one| sim.is_alive(*one)).collect();
            let seeds: Vec<usize> = (0..3).filter_map(|_| living.get(self.rng.below(living.len())).copied()).collect();
            sim.seeds(newcomer, &seeds);
            self.live(at, newcomer);
        }
        sim.run_until(until);
    }
}

/// A delay between a node and its site, there and back: exponential, half a millisecond in the mean.
fn access(rng: &mut Rng) -> Duration {
    exponential(rng, Duration::from_micros(500))
}

/// A span with this mean, exponentially distributed: by quantiles and straight lines between them, since the logarithm of one
/// platform is not that of another.
pub(super) fn exponential(rng: &mut Rng, mean: Duration) -> Duration {
    let (at, rest) = (rng.below(QUANTILES.len() - 1), u32::try_from(rng.below(1_000)).unwrap_or(0));
    let (low, high) = (QUANTILES[at], QUANTILES[at + 1]);
    let thousandths = low + (high - low) * rest / 1_000;
    mean / 1_000 * thousandths
}

/// A place drawn by Zipf's law with exponent one, among so many: the first is the most popular.
pub(super) fn zipf(rng: &mut Rng, places: usize) -> usize {
    let weight = |place: usize| 1_000_000 / (place + 1);
    let mut at = rng.below((0..places).map(weight).sum::<usize>().max(1));
    for place in 0..places {
        if at < weight(place) {
            return place;
        }
        at -= weight(place);
    }
    0
}

/// Of the exponential distribution with mean 1, in thousandths, at every sixteenth.
const QUANTILES: [u32; 17] =
    [0, 65, 134, 208, 288, 375, 470, 575, 693, 827, 981, 1_163, 1_386, 1_674, 2_079, 2_773, 3_773];

pub(super) fn put(key: Key, value: &'static [u8], levels: Levels) -> Command {
    Command::Put(Put { key, value: Bytes::from_static(value), ttl: Duration::from_secs(3_600), levels })
}

pub(super) fn acquire(key: Key, failed: Vec<crate::NodeId>) -> Command {
    let reference = Bytes::from_static(b"under way");
    Command::Acquire(Acquire { key, reference, ttl: Duration::from_secs(20), failed })
}

/// A get under way.
pub(super) struct Asked {
    pub(super) op: Op,
    pub(super) at: Instant,
    /// Which key, by the scenario's own count.
    pub(super) key: usize,
}

/// What a get found: the level, the holders, and how long it took.
pub(super) struct Got {
    pub(super) level: Option<Level>,
    pub(super) values: Vec<crate::Value>,
    pub(super) took: Duration,
}

/// Takes the outcome of a get, if it is there.
pub(super) fn got(sim: &mut Sim, asked: &Asked) -> Option<Got> {
    let (at, outcome) = sim.outcome(asked.op)?;
    let took = at.since(asked.at);
    Some(match outcome {
        Outcome::Get(Ok(Found::Values { level, values })) => Got { level: Some(level), values, took },
        _ => Got { level: None, values: Vec::new(), took },
    })
}

pub(super) fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// A key of the scenario's own.
pub(super) fn key(seed: u64, kind: u8, number: usize) -> Key {
    Key::of(&[&seed.to_be_bytes()[..], &[kind], &number.to_be_bytes()].concat())
}
