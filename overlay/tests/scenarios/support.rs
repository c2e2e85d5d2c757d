//! Networks to start from, and commands in one line.

use std::time::Duration;

use atoll_overlay::{
    Acquire, Acquired, Beat, Config, Found, IndexError, Key, Lease, Level, Levels, Marker, NodeId, Put, Stored,
    core::{Command, Outcome, time::Instant},
    sim::{Matrix, Network, Sim},
};
use bytes::Bytes;

/// Nodes in three regions, 8 ms apart within one and 92 ms across, started together and seeded by the first.
pub(super) fn three_regions(seed: u64, nodes: usize) -> Sim {
    started(Sim::new(Config::default(), regions(), seed), nodes)
}

/// Three regions: site s is in region s modulo 3.
pub(super) fn regions() -> Network {
    Network::regions(3, ms(6), ms(90))
}

/// Hosts of the measured matrix.
pub(super) fn planetlab() -> Network {
    Network::Matrix(
        Matrix::parse(include_bytes!("../../../data/latency/planetlab490.tri16")).expect("the file of the tree"),
    )
}

/// Adds nodes, one per site from the first on, seeded by the first.
pub(super) fn started(mut sim: Sim, nodes: usize) -> Sim {
    for site in 0..nodes {
        sim.add(site, ms(1));
    }
    for node in 1..nodes {
        sim.seeds(node, &[0]);
    }
    sim
}

/// Lets this much time pass, in which every 50 ms so many nodes in a hundred begin to stand still for a while, `longest` at most: as
/// processes do where others want the same cores.
pub(super) fn stall(sim: &mut Sim, span: Duration, percent: u64, longest: Duration) {
    let mut state = u64::try_from(span.as_millis()).unwrap_or(0);
    let mut below = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let longest = u64::try_from(longest.as_millis()).unwrap_or(0);
    for _ in 0..span.as_millis() / 50 {
        for node in 0..sim.len() {
            if below(100) < percent {
                sim.freeze(node, ms(below(longest)));
            }
        }
        sim.run_for(ms(50));
    }
}

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn at(seconds: u64) -> Instant {
    Instant::at(secs(seconds))
}

pub(super) fn id(sim: &Sim, node: usize) -> NodeId {
    sim.node(node).expect("a node of the scenario").id()
}

/// A node's cluster at a level.
pub(super) fn cluster(sim: &Sim, node: usize, level: u8) -> Key {
    let levels = sim.node(node).expect("a node of the scenario").levels();
    levels.iter().find(|info| info.level == Level(level)).expect("a level of the config").cluster
}

pub(super) fn put_command(key: Key, value: &'static [u8], ttl: Duration, levels: Levels) -> Command {
    Command::Put(Put { key, value: Bytes::from_static(value), ttl, levels })
}

pub(super) fn put(sim: &mut Sim, node: usize, key: Key, ttl: Duration, levels: Levels) -> Result<Stored, IndexError> {
    let op = sim.command(node, put_command(key, b"here", ttl, levels));
    match sim.wait(op, secs(10)) {
        Some((_, Outcome::Put(result))) => result,
        other => panic!("a put ends in a put's outcome, not {other:?}"),
    }
}

/// What a get found, and how long it took.
pub(super) fn get(sim: &mut Sim, node: usize, key: Key, levels: Levels) -> (Result<Found, IndexError>, Duration) {
    let start = sim.now();
    let op = sim.command(node, Command::Get(key, levels));
    match sim.wait(op, secs(10)) {
        Some((at, Outcome::Get(result))) => (result, at.since(start)),
        other => panic!("a get ends in a get's outcome, not {other:?}"),
    }
}

pub(super) fn acquire_command(key: Key, failed: &[NodeId]) -> Command {
    let reference = Bytes::from_static(b"under way");
    Command::Acquire(Acquire { key, reference, ttl: secs(20), failed: failed.to_vec() })
}

pub(super) fn acquire(sim: &mut Sim, node: usize, key: Key, failed: &[NodeId]) -> Result<Acquired, IndexError> {
    let op = sim.command(node, acquire_command(key, failed));
    match sim.wait(op, secs(10)) {
        Some((_, Outcome::Acquire(result))) => result,
        other => panic!("an acquire ends in an acquire's outcome, not {other:?}"),
    }
}

pub(super) fn beat(sim: &mut Sim, node: usize, lease: Lease) -> Result<Beat, IndexError> {
    let op = sim.command(node, Command::Beat(lease, Bytes::from_static(b"further")));
    match sim.wait(op, secs(10)) {
        Some((_, Outcome::Beat(result))) => result,
        other => panic!("a beat ends in a beat's outcome, not {other:?}"),
    }
}

pub(super) fn release(sim: &mut Sim, node: usize, lease: Lease) -> Result<Beat, IndexError> {
    let op = sim.command(node, Command::Release(lease));
    match sim.wait(op, secs(10)) {
        Some((_, Outcome::Beat(result))) => result,
        other => panic!("a release ends in a beat's outcome, not {other:?}"),
    }
}

pub(super) fn pass(sim: &mut Sim, node: usize, lease: Lease, marker: Marker) -> Result<(), IndexError> {
    let op = sim.command(node, Command::Pass(lease, marker));
    match sim.wait(op, secs(10)) {
        Some((_, Outcome::Pass(result))) => result,
        other => panic!("a pass ends in a pass's outcome, not {other:?}"),
    }
}

/// Lets time pass while a fetcher beats every 300 ms.
pub(super) fn beat_for(sim: &mut Sim, node: usize, lease: Lease, span: Duration) {
    let until = sim.now() + span;
    while sim.now() < until {
        sim.command(node, Command::Beat(lease, Bytes::from_static(b"further")));
        sim.run_for(ms(300));
    }
}
