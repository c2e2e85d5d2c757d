//! The nodes this one has heard of: distance, liveness, clusters, and what they say of themselves. In a table or not; bounded.

use std::{collections::BTreeMap, time::Duration};

use super::{Contact, Peer, message::ClusterTag, rtt::Rtt, time::Instant};
use crate::{Key, Level, NodeInfo};

/// One other node.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) contact: Contact,
    pub(super) rtt: Rtt,
    /// When a message from it last came; the start if never.
    pub(super) heard: Instant,
    /// When it was last asked anything; the start if never.
    pub(super) asked: Instant,
    /// A link to it stands.
    pub(super) linked: bool,
    /// It has answered a question of ours: it may be in tables.
    pub(super) reached: bool,
    /// Questions in a row that it did not answer.
    pub(super) misses: u8,
    /// Its clusters, level 1 first, by its last message.
    pub(super) tags: Vec<ClusterTag>,
    /// What it says of itself, once it has.
    pub(super) info: Option<Box<NodeInfo>>,
    /// When it was last told about this node.
    pub(super) greeted: Option<Instant>,
    /// Its link is kept.
    pub(super) pinned: bool,
}

impl Known {
    const fn new(contact: Contact) -> Self {
        Self {
            contact,
            rtt: Rtt::NONE,
            heard: Instant::START,
            asked: Instant::START,
            linked: false,
            reached: false,
            misses: 0,
            tags: Vec::new(),
            info: None,
            greeted: None,
            pinned: false,
        }
    }

    /// Its cluster at a non-global level, if it is in one.
    pub(super) fn tag(&self, level: Level) -> Option<&ClusterTag> {
        usize::from(level.0).checked_sub(1).and_then(|at| self.tags.get(at))
    }

    /// Whether it is thought alive and has been reached.
    pub(super) const fn live(&self) -> bool {
        self.reached && self.misses < DEAD_AFTER
    }

    /// Its measured distance; none before the first sample.
    pub(super) fn distance(&self) -> Option<Duration> {
        self.rtt.minimum()
    }

    /// The ids of its clusters.
    pub(super) fn clusters(&self) -> Vec<Key> {
        self.tags.iter().map(|tag| tag.id).collect()
    }
}

/// All of them.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    map: BTreeMap<Peer, Known>,
    limit: usize,
}

impl Peers {
    pub(super) const fn new(limit: usize) -> Self {
        Self { map: BTreeMap::new(), limit }
    }

    /// The node's entry, made if it is new. Past the limit the longest unheard that `keep` does not name goes; if all are kept,
    /// the newcomer gets none.
    pub(super) fn entry(&mut self, contact: Contact, keep: impl Fn(&Known) -> bool) -> Option<&mut Known> {
        if !self.map.contains_key(&contact.peer) && self.map.len() >= self.limit {
            let oldest = self.map.values().filter(|known| !keep(known)).min_by_key(|known| known.heard)?.contact.peer;
            self.map.remove(&oldest);
        }
        let known = self.map.entry(contact.peer).or_insert_with(|| Known::new(contact));
        // A driver that reuses a handle for another node has broken its promise; the old id would poison every distance.
        debug_assert_eq!(known.contact, contact, "a handle stands for one node for ever");
        Some(known)
    }

    pub(super) fn get(&self, peer: Peer) -> Option<&Known> {
        self.map.get(&peer)
    }

    pub(super) fn get_mut(&mut self, peer: Peer) -> Option<&mut Known> {
        self.map.get_mut(&peer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.map.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Known> {
        self.map.values_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// What a node costs to be asked, for choosing between neighbours: its distance in microseconds, the most if unknown.
    pub(super) fn cost(&self, peer: Peer) -> u64 {
        let distance = self.get(peer).and_then(Known::distance);
        distance.map_or(u64::MAX, |distance| u64::try_from(distance.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Unanswered questions in a row after which a node counts as dead.
pub(super) const DEAD_AFTER: u8 = 2;
