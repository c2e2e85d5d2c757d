//! What lies between two nodes: distance, and what goes wrong on the way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Death, Matrix};
use crate::core::rng::Rng;

/// How far sites are apart.
pub enum Network {
    /// As measured; a site is a row.
    Matrix(Matrix),
    /// As computed from two site numbers: the round trip.
    Function(Box<dyn Fn(usize, usize) -> Duration + Send>),
}

impl Network {
    /// Regions of sites: sites of one region are `near` apart, others `far`. Site s is in region s modulo `regions`.
    #[must_use]
    pub fn regions(regions: usize, near: Duration, far: Duration) -> Self {
        let regions = regions.max(1);
        Self::Function(Box::new(move |one, other| if one % regions == other % regions { near } else { far }))
    }

    pub(super) fn rtt(&self, one: usize, other: usize) -> Duration {
        match self {
            Self::Matrix(matrix) => matrix.rtt(one, other),
            Self::Function(rtt) => rtt(one, other),
        }
    }
}

/// What carries messages, which decides how long a lost packet stalls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Carrier {
    /// A probe after one and a half round trips finds the loss (RFC 9002 6.2).
    #[default]
    Quic,
    /// 200 ms or two round trips, whichever is longer: the time-out of Linux.
    Tcp,
}

/// What goes wrong. Links carry streams, so a lost packet stalls a message; only what is dropped on purpose never comes.
#[derive(Debug, Default)]
pub struct Faults {
    /// How losses are recovered from.
    pub carrier: Carrier,
    /// Messages per million that stall for a recovery time.
    pub stalled: u32,
    /// Messages per million that never come.
    pub dropped: u32,
    /// Messages per million that come twice.
    pub duplicated: u32,
    /// Messages per million that are held up by 0 to 50 ms, so that later ones overtake them.
    pub reordered: u32,
    /// By how many percent at most a message takes longer than half the round trip.
    pub jitter_percent: u32,
    /// Messages vary as one snapshot of the matrix does against the median of all: -14 % to +43 %.
    pub measured_jitter: bool,
    blocked: BTreeSet<(u32, u32)>,
    /// The side of each node while the network is in parts; empty while it is whole.
    sides: Vec<u8>,
    pub(super) deaths: BTreeMap<u32, Death>,
}

impl Faults {
    /// Stops messages from one node to another; the other way stays open.
    pub fn block(&mut self, from: usize, to: usize) {
        self.blocked.insert(numbers(from, to));
    }

    /// Lets them through again.
    pub fn unblock(&mut self, from: usize, to: usize) {
        self.blocked.remove(&numbers(from, to));
    }

    /// Parts the network: only nodes on the same side hear each other. An empty list makes it whole again.
    pub fn part(&mut self, sides: Vec<u8>) {
        self.sides = sides;
    }

    pub(super) fn is_blocked(&self, from: u32, to: u32) -> bool {
        let side = |node: u32| usize::try_from(node).ok().and_then(|node| self.sides.get(node));
        side(from) != side(to) || !self.blocked.is_empty() && self.blocked.contains(&(from, to))
    }

    /// How often a message arrives.
    pub(super) fn copies(&self, rng: &mut Rng, from: u32, to: u32) -> u32 {
        if self.is_blocked(from, to) || chance(rng, self.dropped) {
            return 0;
        }
        1 + u32::from(chance(rng, self.duplicated))
    }

    /// How long a message travels.
    pub(super) fn one_way(&self, rng: &mut Rng, rtt: Duration) -> Duration {
        let mut travel = rtt / 2;
        if self.jitter_percent > 0 {
            let percent = rng.below(usize::try_from(self.jitter_percent).unwrap_or(0) + 1);
            travel += rtt / 2 * u32::try_from(percent).unwrap_or(0) / 100;
        }
        if self.measured_jitter {
            travel = travel * jitter(rng) / 10_000;
        }
        if chance(rng, self.reordered) {
            travel += Duration::from_micros(u64::try_from(rng.below(50_000)).unwrap_or(0));
        }
        if chance(rng, self.stalled) {
            travel += match self.carrier {
                Carrier::Quic => (rtt * 3 / 2).max(QUIC_LEAST),
                Carrier::Tcp => (rtt * 2).max(TCP_LEAST),
            };
        }
        travel
    }
}

fn chance(rng: &mut Rng, per_million: u32) -> bool {
    per_million > 0 && rng.below(1_000_000) < usize::try_from(per_million).unwrap_or(0)
}

/// A factor in ten-thousandths, drawn from the measured spread by straight lines between its percentiles.
fn jitter(rng: &mut Rng) -> u32 {
    let at = u32::try_from(rng.below(10_000)).unwrap_or(0);
    for pair in JITTER.windows(2) {
        if let [(from, low), (to, high)] = pair
            && at < *to
        {
            return low + (high - low) * (at - from) / (to - from);
        }
    }
    JITTER_MOST
}

fn numbers(from: usize, to: usize) -> (u32, u32) {
    (u32::try_from(from).unwrap_or(u32::MAX), u32::try_from(to).unwrap_or(u32::MAX))
}

/// Share of messages in ten-thousandths, and the factor they travel by in ten-thousandths: a snapshot of the matrix against the
/// median of eighteen (p1, p5, p25, p75, p95, p99).
const JITTER: [(u32, u32); 8] = [
    (0, 8_600),
    (100, 8_600),
    (500, 9_710),
    (2_500, 9_990),
    (7_500, 10_020),
    (9_500, 10_910),
    (9_900, 14_300),
    (10_000, JITTER_MOST),
];
const JITTER_MOST: u32 = 14_300;

/// How long a stream stalls for a lost packet at least.
const TCP_LEAST: Duration = Duration::from_millis(200);
const QUIC_LEAST: Duration = Duration::from_millis(3);
