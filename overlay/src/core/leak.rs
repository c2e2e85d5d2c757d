//! Which nodes let store-intents for a loaded key go on, in mode `paper`. The paper's bound (NSDI'04 4.2) counts one node for each digit in
//! which an id may differ from the key: in a full tree only one such node goes on to the closest. Where ids are drawn at random several
//! nodes of one digit go on to the same next node, each with its own beta a minute: among 494 nodes the busiest hears twice the bound,
//! and the closest a third of it to three times. So of these one lets intents go on at the leakage rate: the one whose id lies nearest
//! to the next node's with that digit turned over. Every other node counts as loaded as soon as a second one comes. Then no
//! node hears from more than one of each digit.

use super::Node;
use crate::{Key, Level};

impl Node {
    /// Whether of the nodes of its digit this one lets intents go on that come with this aim. Who knows no nearer node than itself lets
    /// nothing go anywhere, and is one.
    pub(super) fn is_leak(&self, level: Level, key: &Key, aim: &Key) -> bool {
        let me = self.contact.id.key();
        let Some(next) = self.next_towards(level, key, aim) else { return true };
        let turned = next.flipped(usize::from(me.common_bits(key)));
        let mine = me.distance(&turned);
        self.peers.closest(level, &turned, 1).first().is_none_or(|other| other.id.key().distance(&turned) > mine)
    }

    /// Who comes next on the way to a key: of the nodes that are nearer it than this one the one nearest to the aim, or to the first
    /// later aim that this node is not nearest to itself.
    fn next_towards(&self, level: Level, key: &Key, aim: &Key) -> Option<Key> {
        let me = self.contact.id.key();
        let mut aim = *aim;
        loop {
            let next = self.peers.closest(level, &aim, 1).first().map(|next| next.id.key())?;
            if next.distance(&aim) < me.distance(&aim) && next.distance(key) < me.distance(key) {
                return Some(next);
            }
            aim = key.nearer(&aim, self.config.bits)?;
        }
    }
}
