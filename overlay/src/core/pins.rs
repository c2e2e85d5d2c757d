//! Which links are kept: to the nodes nearest in the id space, who keep the same keys; then to the nearest by RTT of each table,
//! cluster mates first. The driver lets the others go when they are idle.

use std::time::Duration;

use super::{
    Contact, Node, Output,
    node::Timer,
    peers::{Known, Peers},
    routing::bit_of,
    tend::LEAVES,
    time::Instant,
};
use crate::Level;

impl Node {
    /// Chooses anew.
    pub(super) fn choose_pins(&mut self, now: Instant) {
        let leaves = self.peers.closest(Level::GLOBAL, &self.contact.id.key(), LEAVES.min(self.config.pins / 2));
        let keep = self.peers.worth_a_link(&leaves, self.config.levels(), self.config.pins);
        let mut released = false;
        for (known, keep) in self.peers.iter_mut().zip(keep) {
            if known.keep_here(keep) {
                released |= !keep;
                self.outbox.push_back(Output::Pin { peer: known.contact().peer, keep });
            }
        }
        if released {
            self.peers.loosen();
        }
        let pause = if now < self.unrest_until { PIN_PAUSE } else { PIN_PAUSE * 6 };
        self.arm(now + pause, Timer::Pin);
    }
}

impl Peers {
    /// Whether the link to each known node, in their order, is one of so many to keep: those to the leaves, then, level by level,
    /// those to the nearest that are not chosen yet.
    fn worth_a_link(&self, leaves: &[Contact], levels: impl Iterator<Item = Level>, most: usize) -> Vec<bool> {
        let mut keep = vec![false; self.all.len()];
        for leaf in leaves {
            if let Some(one) = self.place(leaf.id).ok().and_then(|at| keep.get_mut(at)) {
                *one = true;
            }
        }
        let mut room = most.saturating_sub(leaves.len());
        // Looked at once, since it is much memory.
        let members = self.all.iter().enumerate().filter(|(_, known)| known.tables != 0);
        let cost = |known: &Known| known.rtt.minimum_micros().unwrap_or(u32::MAX);
        let members: Vec<_> = members.map(|(at, known)| (known.tables, (cost(known), at))).collect();
        let peer = |at: usize| self.all.get(at).map(|known| known.contact().peer);
        let mut near: Vec<(u32, usize)> = Vec::with_capacity(members.len());
        for bit in levels.map(bit_of) {
            if room == 0 {
                break;
            }
            let free = |at: usize| keep.get(at).is_some_and(|kept| !kept);
            let candidates = members.iter().filter(|(tables, (_, at))| tables & bit != 0 && free(*at));
            near.extend(candidates.map(|(_, one)| *one));
            if near.len() > room {
                near.select_nth_unstable_by(room - 1, |(cost, at), (other, there)| {
                    cost.cmp(other).then_with(|| peer(*at).cmp(&peer(*there)))
                });
                near.truncate(room);
            }
            room -= near.len();
            for (_, at) in near.drain(..) {
                if let Some(one) = keep.get_mut(at) {
                    *one = true;
                }
            }
        }
        keep
    }
}

/// Pause between choices of links, while things change.
const PIN_PAUSE: Duration = Duration::from_secs(5);
