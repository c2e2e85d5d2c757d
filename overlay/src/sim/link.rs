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

/// What goes wrong. Links carry streams, so a lost packet stalls a message; only what is dropped on purpose never comes.
#[derive(Debug, Default)]
pub struct Faults {
    /// Messages per million that stall for a recovery time of 200 ms or two round trips, whichever is longer.
    pub stalled: u32,
    /// Messages per million that never come.
    pub dropped: u32,
    /// Messages per million that come twice.
    pub duplicated: u32,
    /// By how many percent at most a message takes longer than half the round trip.
    pub jitter_percent: u32,
    blocked: BTreeSet<(u32, u32)>,
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

    pub(super) fn is_blocked(&self, from: u32, to: u32) -> bool {
        self.blocked.contains(&(from, to))
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
        let jitter = u32::try_from(rng.below(usize::try_from(self.jitter_percent).unwrap_or(0) + 1)).unwrap_or(0);
        let travel = rtt / 2 + rtt / 2 * jitter / 100;
        if chance(rng, self.stalled) { travel + (rtt * 2).max(RECOVERY) } else { travel }
    }
}

fn chance(rng: &mut Rng, per_million: u32) -> bool {
    per_million > 0 && rng.below(1_000_000) < usize::try_from(per_million).unwrap_or(0)
}

fn numbers(from: usize, to: usize) -> (u32, u32) {
    (u32::try_from(from).unwrap_or(u32::MAX), u32::try_from(to).unwrap_or(u32::MAX))
}

/// How long a stream stalls for a lost packet at least.
const RECOVERY: Duration = Duration::from_millis(200);
