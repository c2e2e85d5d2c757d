//! Finding the network, and finding it again: seeds are dialled in rounds, at once and then after pauses that double while the node is
//! alone, each spread by half so that many nodes do not return in step.

use std::time::Duration;

use libp2p::swarm::{
    ConnectionId, DialError,
    dial_opts::{DialOpts, PeerCondition},
};
use rand::{RngExt as _, seq::IteratorRandom as _};
use rand_pcg::Pcg64Mcg;

use super::{
    address::Seed,
    certificate::Purpose,
    config::Config,
    run::{Dial, Driver, Target},
};
use crate::core::{Input, Peer, time::Instant};

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

impl Driver {
    /// One round of joining: while alone every seed and a few peers of an earlier life, else one seed that is not linked.
    pub(super) fn rejoin(&mut self, now: Instant) {
        let alone = self.roads.is_alone();
        let absent = self.join.seeds.iter().enumerate().filter(|(_, known)| {
            !(known.own || known.dialled || self.is_linked_seed(known) || self.shared.is_mine(&known.seed.address))
        });
        let absent: Vec<usize> = absent.map(|(place, _)| place).collect();
        let places = absent.into_iter().sample(&mut self.random, if alone { 64 } else { 1 });
        for place in places {
            self.dial_seed(place);
        }
        if alone {
            let saved = self.saved.iter().copied().sample(&mut self.random, SAVED_AT_ONCE);
            if !saved.is_empty() {
                self.feed(Input::Seeds(saved));
            }
        }
        self.rejoin_at = now + self.join.pause(alone, &mut self.random);
    }

    /// Whether a seed is linked, whoever dialled whom: it answered there, was found there, or is named. What peers merely say of
    /// where they are counts for nothing: it would keep a seed away.
    fn is_linked_seed(&self, known: &Known) -> bool {
        let Known { seed, peer, .. } = known;
        let book = self.shared.book();
        let is_it = |of: Peer, id| *peer == Some(of) || seed.peer == Some(id) || book.is_found_at(of, &seed.address);
        self.members.iter().any(|(of, member)| self.roads.is_linked(*of) && is_it(*of, member.peer_id))
    }

    fn dial_seed(&mut self, place: usize) {
        let Some(known) = self.join.seeds.get_mut(place) else { return };
        known.dialled = true;
        let address = known.seed.address.clone();
        let opts = match known.seed.peer {
            Some(peer) => DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![address]).build(),
            None => DialOpts::unknown_peer_id().address(address).build(),
        };
        self.begin(Dial { target: Target::Seed(place), other: None }, Purpose::Link, opts);
    }

    /// A seed that turns out to be this node, under a name or another address, is not dialled again. Where this side's listener is
    /// quicker to refuse itself than its dialler, that shows only at the next dial.
    pub(super) fn note_own_address(&mut self, connection: ConnectionId, error: &DialError) {
        if matches!(error, DialError::LocalPeerId { .. })
            && let Some(Dial { target: Target::Seed(place), .. }) = self.dials.get(&connection)
            && let Some(known) = self.join.seeds.get_mut(*place)
        {
            known.own = true;
        }
    }
}

/// Peers of an earlier life that are tried in one round. `[guess]`
const SAVED_AT_ONCE: usize = 8;

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
