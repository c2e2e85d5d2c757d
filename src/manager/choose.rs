//! Which peer a client is led to: rendezvous hashing, weighted, with bounded load. Pure.
//!
//! A peer's weight is what it can carry: its rate, as much of it as it wants, less if its quota runs out or the client's network is far from it. Each peer has a
//! score for each file; the highest score wins among those whose downloads are under their share of all downloads, times
//! [`SLACK`]. So a file meets in few caches while it is asked for seldom, and spreads evenly over all peers in a storm; when a peer
//! goes, only its own downloads move.

/// A peer that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    /// Its place in the caller's list.
    pub(crate) index: usize,
    /// A number of its own, from its name.
    pub(crate) seed: u64,
    /// What it can carry, for clients near it: [`Lent::weight`].
    pub(crate) weight: f64,
    /// Downloads it has, those that are on their way to it included.
    pub(crate) load: u64,
    /// Round trip between it and the client's network, in microseconds, where known.
    pub(crate) rtt_us: Option<u64>,
}

/// What a peer was lent with, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lent {
    /// Bytes a second; none: [`FREE_RATE`].
    pub(crate) rate: Option<u64>,
    /// How much it wants against others of its rate; 100 is the norm.
    pub(crate) wish: u16,
    /// Bytes of its quota left; none without one.
    pub(crate) quota_left: Option<u64>,
}

impl Lent {
    /// What it can carry, 1 for a free 1 Gbit/s.
    pub(crate) fn weight(&self) -> f64 {
        let rate = (wide(self.rate.unwrap_or(FREE_RATE)) / wide(FREE_RATE)).clamp(0.001, 10.0);
        let quota = self.quota_left.map_or(1.0, |left| (wide(left) / wide(SCARCE)).clamp(0.01, 1.0));
        rate * quota * f64::from(self.wish.max(1)) / 100.0
    }
}

/// How a candidate stood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ranked {
    pub(crate) index: usize,
    pub(crate) weight: f64,
    pub(crate) score: f64,
    /// Downloads it may have before others are asked first.
    pub(crate) bound: u64,
    /// Whether it is under that.
    pub(crate) room: bool,
}

/// All candidates, the best first: those with room by score, then those without by score.
pub(crate) fn rank(file: u64, candidates: &[Candidate]) -> Vec<Ranked> {
    let shares = Shares::of(candidates);
    let mut ranked: Vec<Ranked> = candidates.iter().map(|candidate| shares.rank(file, candidate)).collect();
    ranked.sort_by(|a, b| better(b, a));
    ranked
}

/// The best three, best first, without ordering the rest.
pub(crate) fn best(file: u64, candidates: &[Candidate]) -> Vec<Ranked> {
    let shares = Shares::of(candidates);
    let mut best: Vec<Ranked> = Vec::with_capacity(BEST + 1);
    // What a candidate must draw at least to be among them: most are left out by that, without their logarithm.
    let mut least = 0.0;
    for candidate in candidates {
        if uniform(file, candidate.seed) < least {
            continue;
        }
        let ranked = shares.rank(file, candidate);
        let at = best.iter().position(|other| better(&ranked, other).is_gt()).unwrap_or(best.len());
        if at < BEST {
            best.insert(at, ranked);
            best.truncate(BEST);
            // A score above the last one's needs u > exp(-w / score); nobody's w is above the heaviest. A hair is left for rounding.
            let last = best.get(BEST - 1).filter(|last| last.room);
            least = last.map_or(0.0, |last| (-shares.heaviest / last.score).exp() * (1.0 - 1e-9));
        }
    }
    best
}

/// A number that stands for a text in the hash.
pub(crate) fn seed(text: &str) -> u64 {
    // FNV-1a, then mixed where it is used: texts are not chosen by anybody who gains from a collision.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// How well a file fits a machine: weighted rendezvous, each wins in proportion to its weight.
pub(crate) fn score(file: u64, machine: u64, weight: f64) -> f64 {
    -weight / uniform(file, machine).ln()
}

/// A uniform number in (0, 1) of this file and this machine.
fn uniform(file: u64, machine: u64) -> f64 {
    (wide(mixed(file ^ machine) >> 11) + 0.5) / wide(1 << 53)
}

/// What of all downloads each may have.
struct Shares {
    downloads: f64,
    weights: f64,
    heaviest: f64,
}

impl Shares {
    fn of(candidates: &[Candidate]) -> Self {
        // The one to be placed counts.
        let mut shares = Self { downloads: 1.0, weights: 0.0, heaviest: 0.0 };
        for candidate in candidates {
            let weight = weight(candidate);
            shares.downloads += wide(candidate.load);
            shares.weights += weight;
            shares.heaviest = shares.heaviest.max(weight);
        }
        shares
    }

    fn rank(&self, file: u64, candidate: &Candidate) -> Ranked {
        let weight = weight(candidate);
        let bound = (SLACK * self.downloads * weight / self.weights).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of downloads, never negative"
        )]
        let bound = bound as u64;
        let score = score(file, candidate.seed, weight);
        Ranked { index: candidate.index, weight, score, bound, room: candidate.load < bound }
    }
}

fn better(a: &Ranked, b: &Ranked) -> std::cmp::Ordering {
    a.room.cmp(&b.room).then(a.score.total_cmp(&b.score))
}

/// What a peer can carry for this client.
fn weight(candidate: &Candidate) -> f64 {
    // The levels of the overlay: near, in the same part of the world, anywhere. An unknown distance is no reason to stay away.
    let distance = match candidate.rtt_us {
        None | Some(0..=20_000) => 1.0,
        Some(20_001..=60_000) => 0.5,
        Some(_) => 0.25,
    };
    candidate.weight * distance
}

/// SplitMix64's last step: every bit of the input moves every bit of the output.
const fn mixed(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[expect(clippy::cast_precision_loss, reason = "weights and shares need no more than 52 bits")]
const fn wide(count: u64) -> f64 {
    count as f64
}

/// How far over its share of the downloads a peer may go. 1: no file has a home; 1.25 and more: three peers may carry a storm as
/// 42:42:16. `[measured]`
pub(crate) const SLACK: f64 = 1.1;

/// Bytes a second of a peer lent without a rate: 1 Gbit/s. `[guess]`
const FREE_RATE: u64 = 125_000_000;

/// Bytes of quota under which a peer is spared. `[guess]`
const SCARCE: u64 = 1_000_000_000;

/// How many are told: the one, and two that have the same file.
const BEST: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Lent = Lent { rate: None, wish: 100, quota_left: None };

    fn peers(count: usize) -> Vec<Candidate> {
        let peer = |index| Candidate {
            index,
            seed: seed(&format!("peer {index}")),
            weight: FREE.weight(),
            load: 0,
            rtt_us: None,
        };
        (0..count).map(peer).collect()
    }

    /// Places so many downloads of one file that all last; how many each has.
    fn storm(peers: &mut [Candidate], downloads: usize) -> Vec<u64> {
        for _ in 0..downloads {
            let chosen = best(seed("/file"), peers)[0].index;
            peers[chosen].load += 1;
        }
        peers.iter().map(|peer| peer.load).collect()
    }

    #[test]
    fn a_storm_on_one_file_spreads_evenly() {
        for loads in [storm(&mut peers(3), 300), storm(&mut peers(3), 60)] {
            let all: u64 = loads.iter().sum();
            assert!(loads.iter().all(|load| (all * 20 / 100..=all * 45 / 100).contains(load)), "{loads:?}");
        }
    }

    #[test]
    fn a_file_that_is_asked_for_seldom_has_one_home_and_files_spread() {
        let peers = peers(8);
        let homes: Vec<usize> = (0..800).map(|file| best(seed(&format!("/{file}")), &peers)[0].index).collect();
        for peer in 0..8 {
            let share = homes.iter().filter(|home| **home == peer).count();
            assert!((60..=150).contains(&share), "{share} of 800");
        }
        // One goes: only its own files move.
        let fewer: Vec<Candidate> = peers.iter().copied().filter(|peer| peer.index != 3).collect();
        for (file, home) in homes.iter().enumerate().filter(|(_, home)| **home != 3) {
            assert_eq!(best(seed(&format!("/{file}")), &fewer)[0].index, *home);
        }
    }

    #[test]
    fn a_peer_carries_what_it_was_lent_for() {
        let mut three = peers(3);
        three[0].weight = Lent { rate: Some(FREE_RATE / 4), ..FREE }.weight();
        three[1].rtt_us = Some(80_000);
        let loads = storm(&mut three, 600);
        assert!((350..=440).contains(&loads[2]) && loads[0] <= 120 && loads[1] <= 120, "{loads:?}");
        let mut eager = peers(2);
        eager[1].weight = Lent { wish: 300, ..FREE }.weight();
        let loads = storm(&mut eager, 400);
        assert!((270..=330).contains(&loads[1]), "{loads:?}");
        let mut two = peers(2);
        two[0].weight = Lent { quota_left: Some(SCARCE / 100), ..FREE }.weight();
        assert!(storm(&mut two, 100)[0] <= 3);
    }

    #[test]
    fn the_best_three_are_the_first_three_of_all() {
        let mut peers = peers(9);
        for (load, peer) in peers.iter_mut().enumerate() {
            peer.load = load as u64;
        }
        // Of unlike weights, some with room and some without.
        let mut many: Vec<Candidate> =
            (0..200).map(|at| Candidate { index: at, seed: at as u64, ..peers[0] }).collect();
        for (at, peer) in many.iter_mut().enumerate() {
            peer.weight = Lent { wish: 1 + u16::try_from(at % 7).unwrap() * 60, ..FREE }.weight();
            peer.load = (at % 5) as u64;
        }
        for file in 0..50 {
            assert_eq!(best(file, &many), rank(file, &many)[..3]);
            let all = rank(file, &peers);
            assert_eq!(best(file, &peers), all[..3]);
            assert!(all.windows(2).all(|pair| pair[0].room >= pair[1].room));
        }
        assert!(best(1, &[]).is_empty());
    }
}
