//! What can be seen of a simulation from outside: its nodes, what they sent, how far they are apart. Nothing here changes it.

use std::time::Duration;

use super::{
    Counters, Sim,
    world::{Simulated, usize_of},
};
use crate::{
    Key, Level,
    core::{Contact, Node, time::Instant},
};

impl Sim {
    /// The virtual time.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// How many nodes were added, the dead included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no node was added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node's core, for its views.
    #[must_use]
    pub fn node(&self, node: usize) -> Option<&Node> {
        self.nodes.get(node).map(|node| &node.core)
    }

    /// Whether a node runs.
    #[must_use]
    pub fn is_alive(&self, node: usize) -> bool {
        self.places.get(node).is_some_and(|place| place.alive)
    }

    /// A node as others name it.
    #[must_use]
    pub fn contact(&self, node: usize) -> Option<Contact> {
        self.places.get(node).map(|place| place.contact)
    }

    /// What a node sent and received so far.
    #[must_use]
    pub fn counters(&self, node: usize) -> Counters {
        self.nodes.get(node).map(|node| node.counters).unwrap_or_default()
    }

    /// The true round trip between two nodes, without queueing.
    #[must_use]
    pub fn distance(&self, one: usize, other: usize) -> Duration {
        self.rtt(u32::try_from(one).unwrap_or(u32::MAX), u32::try_from(other).unwrap_or(u32::MAX))
    }

    /// The site a node is at.
    #[must_use]
    pub fn site_of(&self, node: usize) -> usize {
        self.places.get(node).map_or(0, |place| usize_of(place.site))
    }

    /// Events that happened so far.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// A hash over everything that happened so far, in order.
    #[must_use]
    pub const fn trace_hash(&self) -> u64 {
        self.trace
    }

    /// Whether a living node stores something under a key at a level.
    #[must_use]
    pub fn is_stored(&self, level: Level, key: Key) -> bool {
        let living = self.nodes.iter().enumerate().filter(|(number, _)| self.is_alive(*number));
        living
            .into_iter()
            .any(|(number, node)| node.core.stores(self.local(u32::try_from(number).unwrap_or(u32::MAX)), level, key))
    }

    /// Whether a node knows enough others to be of use.
    #[must_use]
    pub fn has_joined(&self, node: usize) -> bool {
        let settled = |one: &Simulated| self.now.since(one.born) >= JOINED || one.born == Instant::START;
        self.nodes.get(node).is_some_and(settled)
    }
}

/// A newcomer is usable after this long. [design: 2 s]
const JOINED: Duration = Duration::from_secs(2);
