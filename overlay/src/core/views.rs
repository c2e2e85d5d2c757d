//! What a node shows without being asked twice: itself, its levels, the live nodes it knows, its counts. Nothing here changes it.

use std::time::Duration;

use super::{Node, peers::Known};
use crate::{Key, Level, LevelInfo, NodeId, NodeInfo, NodesQuery, Prefix};

impl Node {
    /// This node as it describes itself, with its clusters.
    #[must_use]
    pub fn me(&self) -> NodeInfo {
        NodeInfo { clusters: self.clusters(), ..NodeInfo::clone(&self.me) }
    }

    /// The levels, widest first; see [`crate::Index::levels`].
    #[must_use]
    pub fn levels(&self) -> Vec<LevelInfo> {
        let level_info = |level: Level| {
            let seen = self.peers.estimate(level);
            let (cluster, size) = match self.membership(level) {
                Some(membership) => (membership.id, membership.size(self.now, seen)),
                None => (Key::ZERO, seen),
            };
            let mut neighbours: Vec<NodeInfo> = self.peers.members(level).map(info_or_bare).collect();
            neighbours.sort_by_key(|info| (info.rtt.unwrap_or(Duration::MAX), info.id));
            LevelInfo { level, threshold: self.config.threshold(level), cluster, size, neighbours }
        };
        self.config.levels().rev().map(level_info).collect()
    }

    /// Whether no other node is known, dead or alive.
    #[must_use]
    pub const fn knows_nobody(&self) -> bool {
        self.peers.len() == 0
    }

    /// Live nodes; see [`crate::Index::nodes`].
    #[must_use]
    pub fn nodes(&self, query: &NodesQuery) -> Vec<NodeInfo> {
        let prefix = query.target.map(Prefix::of);
        let hint =
            |id: NodeId| prefix.and_then(|prefix| self.hints.distance(prefix, id, self.me.id)).unwrap_or(Duration::MAX);
        let others = self.peers.iter().filter(|known| known.live() && self.shares(known, query.level));
        let others = others.filter_map(|known| known.info().map(|info| described(known, info)));
        let mut nodes: Vec<NodeInfo> = others.chain([NodeInfo { rtt: Some(Duration::ZERO), ..self.me() }]).collect();
        nodes.retain(|info| info.roles.contain(query.services));
        nodes.sort_by_key(|info| (hint(info.id), info.rtt.unwrap_or(Duration::MAX), info.id));
        nodes.truncate(query.count);
        for info in nodes.iter_mut().filter(|info| info.id == self.me.id) {
            info.rtt = None;
        }
        nodes
    }

    /// The round trip to a node; see [`crate::Streams::distance`].
    #[must_use]
    pub fn distance(&self, to: NodeId) -> Option<Duration> {
        self.peers.distance(to)
    }

    /// How many pointers, keys, leases and peers it keeps, for metrics.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            values: self.values.len(),
            keys: self.values.keys(),
            leases: self.leases.len(),
            peers: self.peers.len(),
            operations: self.tasks.len(),
            exchanges: self.exchanges.len(),
            moves: self.memberships.iter().map(|membership| membership.moves).sum(),
        }
    }
}

/// What a node keeps, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Pointers stored for others.
    pub values: usize,
    /// Keys they are stored under.
    pub keys: usize,
    /// Leases and markers, copies included.
    pub leases: usize,
    /// Nodes known.
    pub peers: usize,
    /// Operations under way.
    pub operations: usize,
    /// Questions under way.
    pub exchanges: usize,
    /// Times it left company for another cluster, all levels together.
    pub moves: u32,
}

/// What a node says of itself, with what is measured here.
fn described(known: &Known, info: &NodeInfo) -> NodeInfo {
    NodeInfo { id: known.contact().id, rtt: known.distance(), clusters: known.clusters(), ..info.clone() }
}

/// The same, or the little that is known of a node that has not said anything yet.
fn info_or_bare(known: &Known) -> NodeInfo {
    let bare = NodeInfo { weight: 0, ..NodeInfo::new(known.contact().id, crate::Roles::NONE) };
    described(known, known.info().unwrap_or(&bare))
}
