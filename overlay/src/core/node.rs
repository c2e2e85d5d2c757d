//! [`Node`]: the four verbs of the core and its read-only views. It sorts inputs to their machines and holds no rule itself.

use std::{collections::VecDeque, sync::Arc};

use super::{Contact, Input, Output, Peer, time::Instant};
use crate::{Config, LevelInfo, NodeId, NodeInfo, NodesQuery};

/// One node of the index.
///
/// The contract: after each `handle_*`, drain [`Node::poll_output`] to `None`, then arm one timer from [`Node::poll_timeout`]
/// and call [`Node::handle_timeout`] at or after it.
pub struct Node {
    config: Arc<Config>,
    contact: Contact,
    me: NodeInfo,
    outbox: VecDeque<Output>,
}

impl Node {
    /// A node that knows nobody. `me.id` is its place, `peer` its own handle: the driver's `Book` gives this node's own record
    /// for it, and interns that record as it. The seed is all its randomness.
    #[must_use]
    pub fn new(config: impl Into<Arc<Config>>, peer: Peer, me: NodeInfo, _seed: u64) -> Self {
        Self { config: config.into(), contact: Contact { peer, id: me.id }, me, outbox: VecDeque::new() }
    }

    /// This node as others name it.
    #[must_use]
    pub const fn contact(&self) -> Contact {
        self.contact
    }

    /// Something happened.
    pub fn handle_input(&mut self, _now: Instant, _input: Input) {
        debug_assert!(self.outbox.is_empty(), "outputs are drained after every input");
    }

    /// The time asked for by [`Node::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, _now: Instant) {
        debug_assert!(self.outbox.is_empty(), "outputs are drained after every input");
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When to call [`Node::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// This node's place.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.me.id
    }

    /// This node as it describes itself, with its clusters.
    #[must_use]
    pub fn me(&self) -> NodeInfo {
        self.me.clone()
    }

    /// The levels, widest first; see [`crate::Index::levels`].
    #[must_use]
    pub fn levels(&self) -> Vec<LevelInfo> {
        Vec::new()
    }

    /// Live nodes; see [`crate::Index::nodes`].
    #[must_use]
    pub fn nodes(&self, _query: &NodesQuery) -> Vec<NodeInfo> {
        vec![]
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}
