//! [`Index`], the seam behind which the DSHT lives: Coral's `put`, `get`, `nodes` and `levels`, and ours: `acquire` with
//! `beat`, `release` and `pass`, `withdraw`, `observe` and `spread`.
//!
//! Everything is soft state: nothing is deleted but by expiry, by eviction under the rules, or by a withdrawal.

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    IndexError, Key, Level, NodeId, NodeInfo, Prefix, Roles, Teller,
    membership::{NotBelieved, Said, Unsaid},
};

/// The distributed index as one node sees it. Cheap to call from many tasks.
#[async_trait]
pub trait Index: Send + Sync {
    /// Stores a pointer to this node under a key: at the nearest level first, then wider unless the key was full and loaded
    /// there. Fails only if no level accepted it.
    async fn put(&self, put: Put) -> Result<Stored, IndexError>;

    /// Some of the values under a key: the nearest level that has any answers, and wider ones are not asked.
    async fn get(&self, key: Key, levels: Levels) -> Result<Found, IndexError>;

    /// As [`Self::get`], telling of each question on the way.
    async fn get_told(&self, key: Key, levels: Levels, teller: Teller) -> Result<Found, IndexError> {
        let _ = teller;
        self.get(key, levels).await
    }

    /// Takes back what this node put under a key, before it expires.
    async fn withdraw(&self, key: Key) -> Result<(), IndexError>;

    /// One atomic step at the root of the key: live references, or the right to fetch. See [`Acquired`].
    /// An [`IndexError::Timeout`] (600 ms at most) means: fetch ungranted, count it, and `put` once the index answers again.
    async fn acquire(&self, acquire: Acquire) -> Result<Acquired, IndexError>;

    /// As [`Self::acquire`], telling of each question on the way.
    async fn acquire_told(&self, acquire: Acquire, teller: Teller) -> Result<Acquired, IndexError> {
        let _ = teller;
        self.acquire(acquire).await
    }

    /// Says that the fetch under this lease goes on (every 300 ms), with a newer reference: more bytes, a digest.
    async fn beat(&self, lease: &Lease, reference: Bytes) -> Result<Beat, IndexError>;

    /// Gives a lease back: the fetch has ended and left nothing for others, so whoever asks next is granted it.
    async fn release(&self, lease: Lease) -> Result<(), IndexError>;

    /// Replaces a lease by a marker: what was fetched cannot be shared, or varies.
    async fn pass(&self, lease: Lease, marker: Marker) -> Result<(), IndexError>;

    /// Live nodes of this node's cluster at a level that run the services asked for, nearest to the target first where that
    /// is known. Includes this node itself if it matches. Never blocks on the network.
    fn nodes(&self, query: &NodesQuery) -> Vec<NodeInfo>;

    /// This node as it describes itself to others.
    fn me(&self) -> NodeInfo;

    /// Changes how this node describes itself (load, draining, quota left); peers learn it with the next messages.
    /// The id, clusters and RTT in `info` are ignored: they are the index's to say.
    fn describe(&self, info: NodeInfo);

    /// The levels with their thresholds and this node's cluster at each, widest (0) first.
    fn levels(&self) -> Vec<LevelInfo>;

    /// Whether this node knows nobody at all: then nobody else can be asked or told anything, and it is the root of every key. Cheap,
    /// and true of this very moment only.
    fn is_alone(&self) -> bool {
        false
    }

    /// Reports a measured RTT between this node and a client or resolver prefix; kept as a hint for other nodes under the
    /// hashed prefix key. Never blocks.
    fn observe(&self, prefix: Prefix, rtt: Duration);

    /// Sends a small signed record to every node (a purge, a revocation). Nodes that were away pull it on return.
    async fn spread(&self, record: Bytes) -> Result<(), IndexError>;

    /// The records spread by any node, this one included, from now on and each once. A receiver that lags by more than 1,024
    /// records loses the oldest and is told so.
    fn spreads(&self) -> tokio::sync::broadcast::Receiver<Spread>;

    /// Words of this node's under its signature, for `spread`: at most 700 bytes, and only what its certificate gives it the right
    /// to. An index without keys has nobody sign.
    fn sign(&self, words: &[u8], right: Roles) -> Result<Bytes, Unsaid> {
        let _ = (words, right);
        Err(Unsaid::NoKey)
    }

    /// Whose words these are, as `sign` made them at any node, if they are to be believed: the signature is theirs, and their
    /// certificate gives them the right. In an open network everybody has every right.
    fn believe(&self, signed: &[u8], right: Roles) -> Result<Said, NotBelieved> {
        let _ = (signed, right);
        Err(NotBelieved::Foreign)
    }
}

/// A pointer to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// What the pointer is about.
    pub key: Key,
    /// At most 256 bytes, opaque to the index. The index itself adds who put it.
    pub value: Bytes,
    /// How long it stays. At most 24 h.
    pub ttl: Duration,
    /// Where it is to be stored.
    pub levels: Levels,
}

/// Which levels an operation may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Levels {
    /// From the nearest to the global one.
    #[default]
    All,
    /// Only this one.
    Only(Level),
    /// From the nearest down to and including this one, never wider.
    UpTo(Level),
}

/// What came of a `put`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The widest level at which a node accepted the value.
    pub widest: Level,
    /// Nodes that accepted it, all levels together.
    pub copies: u32,
}

/// One pointer as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The node that put it, reachable through [`crate::Streams::open`].
    pub holder: NodeId,
    /// The nearest level at which this node and the holder share a cluster.
    pub level: Level,
    /// What it put.
    pub value: Bytes,
    /// How long the pointer stays valid.
    pub ttl: Duration,
}

/// What came of a `get`. Not finding is an expected outcome, not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Some of the values, from the nearest level that had any.
    Values {
        /// The level that answered.
        level: Level,
        /// At least one, unexpired, in random order.
        values: Vec<Value>,
    },
    /// No level asked has a value.
    Nothing,
}

/// A request to find a copy or become its fetcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquire {
    /// What is wanted.
    pub key: Key,
    /// This asker's own 20 s reference, recorded in the same turn if the fetch is granted.
    pub reference: Bytes,
    /// How long the reference stays without a beat. Coral: 20 s.
    pub ttl: Duration,
    /// Holders that failed this asker, which the root probes once before it grants again. At most 8.
    pub failed: Vec<NodeId>,
}

/// What the root of the key answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// Live references: stream from one of these, complete or under way.
    References(Vec<Value>),
    /// This node fetches; it beats until it is done.
    Granted(Lease),
    /// The last holder marked the key; no lease is kept for it.
    Marked(Marker),
}

/// The right to fetch one key, while its holder beats. Of two, the lower goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lease {
    /// The root's count of its own terms for this key.
    pub epoch: u64,
    /// The root's count of grants within the term.
    pub counter: u64,
    /// What may be fetched.
    pub key: Key,
}

/// What the root answered to a beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beat {
    /// The lease lives on.
    Kept,
    /// A lower lease lives: stream from its holder and drop the own fetch if nobody depends on it.
    Superseded(Value),
}

/// What is left in place of a lease when its fetch cannot serve others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marker {
    /// Not shareable (private, no-store): everybody fetches on their own until the marker ends, 30 to 120 s.
    Pass(Duration),
    /// The answer varies by these request header names, lower case; the variant's own key is to be acquired anew.
    Vary(Vec<String>),
}

/// Which nodes are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodesQuery {
    /// The level whose cluster is meant: this node's own cluster there.
    pub level: Level,
    /// At most this many.
    pub count: usize,
    /// An address to be near, if any.
    pub target: Option<IpAddr>,
    /// Only nodes that run all of these.
    pub services: Roles,
}

/// One level as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelInfo {
    /// The level.
    pub level: Level,
    /// The RTT a cluster of this level stays under; none for the global level.
    pub threshold: Option<Duration>,
    /// The id of this node's cluster; all zero at level 0.
    pub cluster: Key,
    /// How many nodes the cluster is thought to have, this one included.
    pub size: u32,
    /// Neighbours this node knows in it, with their RTT where measured.
    pub neighbours: Vec<NodeInfo>,
}

/// A record that was sent to every node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// The node that signed it.
    pub signer: NodeId,
    /// What it says, at most 1,024 bytes, opaque to the index.
    pub record: Bytes,
}
