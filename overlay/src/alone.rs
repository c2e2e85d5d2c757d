//! [`Alone`]: the index of a node without peers. It keeps the contract of [`Index`] for one node, so that a lone node runs and
//! so that proxy and dnssrv are built and tested without a network.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::{
    Acquire, Acquired, Beat, ByteStream, Found, Index, IndexError, Key, Lease, Level, LevelInfo, Levels, Marker,
    NodeId, NodeInfo, NodesQuery, Prefix, Put, Roles, Spread, Stored, StreamError, Streams,
    membership::{NotBelieved, Said, Statement, UnixTime, Unsaid},
};

/// An index of one. Its own pointers are of no use to itself, so `get` finds nothing and `acquire` grants, except where a
/// marker says otherwise.
pub struct Alone {
    me: Mutex<NodeInfo>,
    markers: Mutex<BTreeMap<Key, (Marker, Instant)>>,
    counter: std::sync::atomic::AtomicU64,
    spreads: broadcast::Sender<Spread>,
}

impl Alone {
    /// The index of this node.
    #[must_use]
    pub fn new(me: NodeInfo) -> Self {
        Self {
            me: Mutex::new(me),
            markers: Mutex::default(),
            counter: std::sync::atomic::AtomicU64::new(0),
            spreads: broadcast::Sender::new(SPREADS_KEPT),
        }
    }
}

#[async_trait]
impl Index for Alone {
    async fn put(&self, put: Put) -> Result<Stored, IndexError> {
        if put.value.len() > VALUE_LIMIT {
            return Err(IndexError::ValueTooLong { length: put.value.len(), limit: VALUE_LIMIT });
        }
        Ok(Stored { widest: Level::GLOBAL, copies: 1 })
    }

    async fn get(&self, _: Key, _: Levels) -> Result<Found, IndexError> {
        Ok(Found::Nothing)
    }

    async fn withdraw(&self, _: Key) -> Result<(), IndexError> {
        Ok(())
    }

    async fn acquire(&self, acquire: Acquire) -> Result<Acquired, IndexError> {
        let mut markers = self.markers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        markers.retain(|_, (_, until)| *until > now);
        if let Some((marker, _)) = markers.get(&acquire.key) {
            return Ok(Acquired::Marked(marker.clone()));
        }
        let counter = self.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Acquired::Granted(Lease { epoch: 0, counter, key: acquire.key }))
    }

    async fn beat(&self, _: &Lease, _: Bytes) -> Result<Beat, IndexError> {
        Ok(Beat::Kept)
    }

    async fn release(&self, _: Lease) -> Result<(), IndexError> {
        Ok(())
    }

    async fn pass(&self, lease: Lease, marker: Marker) -> Result<(), IndexError> {
        let ttl = match &marker {
            Marker::Pass(ttl) => *ttl,
            Marker::Vary(_) => VARY_MARKER,
        };
        let mut markers = self.markers.lock().unwrap_or_else(PoisonError::into_inner);
        if markers.len() >= MARKERS_KEPT {
            markers.pop_first();
        }
        markers.insert(lease.key, (marker, now() + ttl));
        Ok(())
    }

    fn nodes(&self, query: &NodesQuery) -> Vec<NodeInfo> {
        let me = self.me();
        if query.count > 0 && me.roles.contain(query.services) { vec![me] } else { Vec::new() }
    }

    fn me(&self) -> NodeInfo {
        self.me.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn describe(&self, info: NodeInfo) {
        let mut me = self.me.lock().unwrap_or_else(PoisonError::into_inner);
        *me = NodeInfo { id: me.id, clusters: std::mem::take(&mut me.clusters), rtt: me.rtt, ..info };
    }

    fn levels(&self) -> Vec<LevelInfo> {
        vec![LevelInfo { level: Level::GLOBAL, threshold: None, cluster: Key::ZERO, size: 1, neighbours: Vec::new() }]
    }

    fn is_alone(&self) -> bool {
        true
    }

    fn observe(&self, _: Prefix, _: Duration) {}

    async fn spread(&self, record: Bytes) -> Result<(), IndexError> {
        // Nobody listening is fine: the record is then nobody's business.
        let _ = self.spreads.send(Spread { signer: self.me().id, record });
        Ok(())
    }

    fn spreads(&self) -> broadcast::Receiver<Spread> {
        self.spreads.subscribe()
    }

    /// A lone node has nobody to convince: its own id stands for a signature.
    fn sign(&self, words: &[u8], _: Roles) -> Result<Bytes, Unsaid> {
        if words.len() > Statement::WORDS {
            return Err(Unsaid::TooLong { length: words.len() });
        }
        Ok([self.me().id.key().as_bytes(), words].concat().into())
    }

    fn believe(&self, signed: &[u8], _: Roles) -> Result<Said, NotBelieved> {
        let signer = self.me().id;
        let words = signed.strip_prefix(signer.key().as_bytes()).ok_or(NotBelieved::Foreign)?;
        Ok(Said { signer, issued: UnixTime::default(), words: words.to_vec() })
    }
}

#[async_trait]
impl Streams for Alone {
    async fn open(&self, _: NodeId) -> Result<ByteStream, StreamError> {
        Err(StreamError::NoPeers)
    }

    async fn accept(&self) -> Result<(NodeId, ByteStream), StreamError> {
        std::future::pending().await
    }
}

#[expect(clippy::disallowed_methods, reason = "no core runs behind a lone node's index: it tells the time itself")]
fn now() -> Instant {
    Instant::now()
}

/// Bytes an index value may have; the same limit as in a network, so that a lone node refuses what a network would.
const VALUE_LIMIT: usize = 256;

/// Markers a lone node keeps; past it the first by key goes, and its key is fetched as if it had never been marked.
const MARKERS_KEPT: usize = 65_536;

/// How long a Vary marker stays without being renewed.
const VARY_MARKER: Duration = Duration::from_secs(120);

/// Spread records a slow receiver may lag behind.
const SPREADS_KEPT: usize = 1_024;
