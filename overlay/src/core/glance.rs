//! Looks at what a node will need for its next input, for the simulator: so that memory has it ready. Pass by pass, since what one
//! reads says where the next one reads. What is returned means nothing; it is there so that the looking is not left out.

use super::{Contact, Node, node::Timer, peers::Known, tend::LOOKED_AT};
use crate::Key;

impl Node {
    /// At the node itself: at each of its lines in the cache.
    pub(crate) fn glance(&self) -> usize {
        let lists = [
            self.outbox.len(),
            self.timers.len(),
            self.memberships.len(),
            self.exchanges.len(),
            self.tasks.len(),
            self.joints.len(),
            self.newcomers.len(),
            self.moved.len(),
            self.seeds.len(),
            self.asked.len(),
            self.deferred.len(),
        ];
        lists.iter().sum::<usize>() ^ self.peers.glance() ^ usize::from(self.now < self.unrest_until)
    }

    /// At what its lists begin with, and at where whoever it will hear from may stand.
    pub(crate) fn glance_at_lists(&self, from: Option<Contact>) -> usize {
        let due = usize::from(self.poll_timeout() > Some(self.now));
        let clusters = self.memberships.iter().map(|one| usize::from(one.level.0) ^ usize::from(one.moves == 0));
        let heads = from.map_or(0, |from| self.peers.glance_heads(from.id));
        let buckets = self.peers.tables.iter().map(Vec::len).sum::<usize>();
        due ^ clusters.sum::<usize>() ^ heads ^ buckets ^ self.header.1.clusters.len() ^ self.exchanges.glance()
    }

    /// At where a search for a node it knows begins,
    pub(crate) fn glance_at_fences(&self) -> usize {
        self.peers.glance()
    }

    /// and goes on.
    pub(crate) fn glance_at_heads_near(&self, known: Contact) -> usize {
        self.peers.glance_heads(known.id)
    }

    /// At what it will search for those nearest a point.
    pub(crate) fn glance_at_heads(&self) -> usize {
        self.peers.glance_all_heads()
    }

    /// Where those stand that are near a point.
    pub(crate) fn spot_of(&self, point: Key) -> usize {
        self.peers.spot(point.into())
    }

    /// At those around there.
    pub(crate) fn glance_around(&self, spot: usize) -> usize {
        let near = self.peers.all.iter().skip(spot.saturating_sub(NEAR)).take(2 * NEAR);
        near.map(|known| usize::from(known.tables)).sum()
    }

    /// Where whoever it will hear from stands; without anybody, where those begin from whom it will choose whom to ask.
    pub(crate) fn spot(&self, from: Option<Contact>) -> usize {
        match from {
            Some(from) => self.peers.spot(from.id),
            None if self.will_probe() => self.looked_at(self.probes.wrapping_add(1)).0 % self.peers.len().max(1),
            None => 0,
        }
    }

    /// At who stands there, and its own clusters; where it will choose, at some of those after as well.
    pub(crate) fn glance_at_spot(&self, spot: usize, from: Option<Contact>) -> usize {
        let misses = |known: &Known| usize::from(known.misses());
        let own = self.header.1.clusters.first().map_or(0, |tag| usize::from(tag.size > 1));
        let there = self.peers.all.get(spot..).unwrap_or_default();
        let seen = if from.is_none() && self.will_probe() {
            there.iter().take(LOOKED_AT).step_by(2).map(misses).sum()
        } else {
            let parts = |known: &Known| [known.odd() > 0, known.contact().peer.0 > 0];
            there.first().map_or(0, |known| misses(known) ^ parts(known).into_iter().map(usize::from).sum::<usize>())
        };
        let buckets = self.peers.tables.iter().filter_map(|buckets| buckets.first());
        own ^ seen ^ buckets.map(|bucket| usize::from(bucket.count)).sum::<usize>()
    }

    /// At the clusters of who stands there.
    pub(crate) fn glance_at_header(&self, spot: usize) -> usize {
        self.peers.all.get(spot).map_or(0, |known| known.tags().first().map_or(0, |tag| usize::from(tag.size > 1)))
    }

    /// Whether a neighbour is measured next.
    fn will_probe(&self) -> bool {
        self.timers.last().is_some_and(|(_, timer)| *timer == Timer::Probe)
    }
}

/// So many on either side of a point are most of those that a search for the nearest looks at.
const NEAR: usize = 8;
