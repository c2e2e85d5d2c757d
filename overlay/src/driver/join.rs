//! Finding the network, and finding it again: seeds are dialled in rounds, at once and then after pauses that double while the node is
//! alone, each spread by half so that many nodes do not return in step.

use std::time::Duration;

use rand::RngExt as _;
use rand_pcg::Pcg64Mcg;

use super::{address::Seed, config::Config};
use crate::core::Peer;

/// The seeds and when to try them next.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) seeds: Vec<Known>,
    first: Duration,
    longest: Duration,
    linked: Duration,
    /// Rounds since the node was last linked.
    rounds: u32,
}

/// A seed and what was learnt of it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) seed: Seed,
    /// Who answered there.
    pub(super) peer: Option<Peer>,
    /// A dial is under way.
    pub(super) dialled: bool,
    /// The node itself answered there.
    pub(super) own: bool,
}

impl Join {
    /// Seeds to be tried at the pace of the configuration.
    pub(super) fn new(seeds: Vec<Seed>, config: &Config) -> Self {
        let seeds = seeds.into_iter().map(|seed| Known { seed, peer: None, dialled: false, own: false }).collect();
        Self {
            seeds,
            first: config.rejoin_first,
            longest: config.rejoin_longest,
            linked: config.rejoin_linked,
            rounds: 0,
        }
    }

    /// How long to pause after a round.
    pub(super) fn pause(&mut self, alone: bool, random: &mut Pcg64Mcg) -> Duration {
        let pause = if alone {
            let doubled = self.first.saturating_mul(1 << self.rounds.min(20));
            self.rounds = self.rounds.saturating_add(1);
            doubled.min(self.longest)
        } else {
            self.rounds = 0;
            self.linked
        };
        pause.mul_f64(random.random_range(0.5..1.5))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::{Config, Join, Pcg64Mcg};

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over_once_linked() {
        let config = Config::default();
        let mut join = Join::new(Vec::new(), &config);
        let mut random = Pcg64Mcg::seed_from_u64(1);
        let within = |pause: std::time::Duration, middle: std::time::Duration| {
            assert!(pause >= middle / 2 && pause <= middle * 3 / 2, "{pause:?} about {middle:?}");
        };
        for round in 0..40 {
            let middle = config.rejoin_first.saturating_mul(1 << round.min(20)).min(config.rejoin_longest);
            within(join.pause(true, &mut random), middle);
        }
        within(join.pause(false, &mut random), config.rejoin_linked);
        within(join.pause(true, &mut random), config.rejoin_first);
    }
}
