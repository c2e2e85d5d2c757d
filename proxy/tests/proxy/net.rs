//! An index and streams in memory, for networks of a few nodes: what is stored, granted and given can be looked at, and nodes can be
//! cut off and die.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atoll_overlay::{
    Acquire, Acquired, Alone, Beat, ByteStream, Found, Index, IndexError, Key, Lease, Level, LevelInfo, Levels, Marker,
    NodeId, NodeInfo, NodesQuery, Prefix, Put, Roles, Spread, Stored, StreamError, Streams, Value,
    membership::{NotBelieved, Said, UnixTime, Unsaid},
};
use atoll_proxy::{Config, Proxy};
use bytes::Bytes;
use tokio::sync::{Semaphore, broadcast, mpsc};

use crate::support::{info, store};

/// A network in memory: one index for all, streams that can be watched and cut.
pub(crate) struct Net {
    state: Mutex<State>,
    doors: Mutex<HashMap<NodeId, mpsc::Sender<(NodeId, ByteStream)>>>,
    /// The level at which all nodes see each other.
    pub(crate) level: Level,
    /// The root of every key is unreachable.
    pub(crate) rootless: AtomicBool,
    /// Beats are heard, and not answered.
    pub(crate) mute: AtomicBool,
    /// Who holds a lower lease than any that beats.
    pub(crate) lower: Mutex<Option<Value>>,
    /// Nodes that are gone.
    dead: Mutex<Vec<NodeId>>,
    /// Nodes that nobody reaches, and that reach nobody, for now; streams that stand go on.
    pub(crate) cut: Mutex<Vec<NodeId>>,
    /// Those on one side of a split network; nobody reaches anybody on the other.
    pub(crate) side: Mutex<Vec<NodeId>>,
    /// Everybody is told of everybody.
    pub(crate) acquainted: AtomicBool,
    /// Nobody knows of anybody.
    pub(crate) strangers: AtomicBool,
    /// Whoever acquires this key waits for its word.
    pub(crate) late: Mutex<Option<(Key, Arc<Semaphore>)>>,
    /// How far apart all nodes are, if they know.
    pub(crate) distance: Mutex<Option<Duration>>,
    /// How far from everybody some are.
    pub(crate) distances: Mutex<HashMap<NodeId, Duration>>,
    /// Who was given how many bytes by whom.
    given: Mutex<HashMap<(NodeId, NodeId), Arc<AtomicUsize>>>,
}

#[derive(Default)]
struct State {
    values: HashMap<Key, Vec<(NodeId, Bytes)>>,
    leases: HashMap<Key, (NodeId, Lease, Bytes)>,
    markers: HashMap<Key, Marker>,
    granted: u64,
    puts: Vec<(NodeId, Put)>,
    beats: u64,
    observed: Vec<(Prefix, Duration)>,
}

impl Net {
    pub(crate) fn new(level: Level) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            doors: Mutex::default(),
            level,
            rootless: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            lower: Mutex::default(),
            dead: Mutex::default(),
            cut: Mutex::default(),
            side: Mutex::default(),
            acquainted: AtomicBool::new(false),
            strangers: AtomicBool::new(false),
            late: Mutex::default(),
            distance: Mutex::default(),
            distances: Mutex::default(),
            given: Mutex::default(),
        })
    }

    /// Node `number` of the network, without a proxy.
    pub(crate) fn node(self: &Arc<Self>, number: u8) -> Arc<Node> {
        let me = info(number);
        let (door, visitors) = mpsc::channel(64);
        self.doors.lock().unwrap().insert(me.id, door);
        Arc::new(Node { net: Arc::clone(self), alone: Alone::new(me.clone()), me, visitors: visitors.into() })
    }

    /// Node `number` with a proxy, and its own part of the network.
    pub(crate) async fn both(self: &Arc<Self>, number: u8, config: Config) -> (Proxy, Arc<Node>) {
        let node = self.node(number);
        let (index, streams) = (Arc::clone(&node) as Arc<dyn Index>, Arc::clone(&node) as Arc<dyn Streams>);
        (Proxy::start(config, index, streams, store().await).unwrap(), node)
    }

    /// Node `number` with a proxy.
    pub(crate) async fn proxy(self: &Arc<Self>, number: u8, config: Config) -> Proxy {
        let node = self.node(number);
        Proxy::start(config, Arc::clone(&node) as Arc<dyn Index>, node, store().await).unwrap()
    }

    /// Cuts a node off.
    pub(crate) fn kill(&self, number: u8) {
        let id = info(number).id;
        self.dead.lock().unwrap().push(id);
        self.doors.lock().unwrap().remove(&id);
    }

    /// Nobody reaches this node any more, nor it anybody; streams that stand go on.
    pub(crate) fn cut_off(&self, number: u8) {
        self.cut.lock().unwrap().push(info(number).id);
    }

    /// It is back.
    pub(crate) fn heal(&self, number: u8) {
        self.cut.lock().unwrap().retain(|id| *id != info(number).id);
    }

    /// Splits the network, or heals it with nobody on this side.
    pub(crate) fn split(&self, side: &[u8]) {
        *self.side.lock().unwrap() = side.iter().map(|number| info(*number).id).collect();
    }

    fn is_apart(&self, one: NodeId, other: NodeId) -> bool {
        let side = self.side.lock().unwrap();
        side.contains(&one) != side.contains(&other)
    }

    fn is_cut(&self, id: NodeId) -> bool {
        self.cut.lock().unwrap().contains(&id)
    }

    pub(crate) fn granted(&self) -> u64 {
        self.state.lock().unwrap().granted
    }

    pub(crate) fn beats(&self) -> u64 {
        self.state.lock().unwrap().beats
    }

    pub(crate) fn observed(&self) -> Vec<(Prefix, Duration)> {
        self.state.lock().unwrap().observed.clone()
    }

    pub(crate) fn puts(&self) -> Vec<(NodeId, Put)> {
        self.state.lock().unwrap().puts.clone()
    }

    /// The most nodes that one node gave more than a head to.
    pub(crate) fn most_fed(&self) -> usize {
        let mut fed: HashMap<NodeId, usize> = HashMap::new();
        for ((from, _), bytes) in self.given.lock().unwrap().iter() {
            *fed.entry(*from).or_default() += usize::from(bytes.load(Ordering::SeqCst) > 10_000);
        }
        fed.into_values().max().unwrap_or(0)
    }

    /// Whether the index names a node for a key.
    pub(crate) fn names(&self, key: Key, number: u8) -> bool {
        let state = self.state.lock().unwrap();
        state.values.get(&key).is_some_and(|values| values.iter().any(|(holder, _)| *holder == info(number).id))
    }

    /// Makes a node a holder in the index, whatever it has.
    pub(crate) fn plant(&self, key: Key, number: u8, value: Bytes) {
        self.state.lock().unwrap().values.entry(key).or_default().push((info(number).id, value));
    }

    /// The same, named before all others.
    pub(crate) fn plant_first(&self, key: Key, number: u8, value: Bytes) {
        self.state.lock().unwrap().values.entry(key).or_default().insert(0, (info(number).id, value));
    }

    /// What a node said last of a copy that it has whole.
    pub(crate) fn whole_copy(&self, key: Key, number: u8) -> Option<Bytes> {
        let state = self.state.lock().unwrap();
        let (_, value) = state.values.get(&key)?.iter().find(|(holder, _)| *holder == info(number).id)?;
        // With the digest of all of it.
        value.windows(2).any(|two| two == [0x1a, 32]).then(|| value.clone())
    }

    /// Bytes that one node gave another.
    pub(crate) fn given(&self, by: u8, to: u8) -> usize {
        let given = self.given.lock().unwrap();
        given.get(&(info(by).id, info(to).id)).map_or(0, |bytes| bytes.load(Ordering::SeqCst))
    }

    /// Makes a node the one that fetches a key.
    pub(crate) fn lease(&self, key: Key, number: u8) {
        let lease = Lease { epoch: 0, counter: 0, key };
        let reference = Bytes::from_static(&[8, 1]);
        self.state.lock().unwrap().leases.insert(key, (info(number).id, lease, reference));
    }

    /// What the one who fetches a key, or fetched it, said last of its copy.
    pub(crate) fn leased_copy(&self, key: Key) -> Option<Bytes> {
        self.state.lock().unwrap().leases.get(&key).map(|(_, _, reference)| reference.clone())
    }

    /// Whether somebody holds the right to fetch a key.
    pub(crate) fn is_leased(&self, key: Key) -> bool {
        self.state.lock().unwrap().leases.contains_key(&key)
    }

    /// How many leases and markers stand.
    pub(crate) fn standing(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.leases.len(), state.markers.len())
    }

    fn is_dead(&self, id: NodeId) -> bool {
        self.dead.lock().unwrap().contains(&id)
    }
}

/// What stands for a signature in the network in memory: anybody could make it, so that tests can.
pub(crate) fn proof_of(id: NodeId, statement: &[u8]) -> Bytes {
    let mut hasher = blake3::Hasher::new();
    hasher.update(id.key().as_bytes()).update(statement);
    [&id.key().as_bytes()[..], hasher.finalize().as_bytes()].concat().into()
}

/// One node's view of it.
pub(crate) struct Node {
    net: Arc<Net>,
    alone: Alone,
    me: NodeInfo,
    visitors: tokio::sync::Mutex<mpsc::Receiver<(NodeId, ByteStream)>>,
}

impl Node {
    fn values(&self, found: &[(NodeId, Bytes)]) -> Vec<Value> {
        let others = found.iter().filter(|(holder, _)| *holder != self.me.id);
        others
            .map(|(holder, value)| Value {
                holder: *holder,
                level: self.net.level,
                value: value.clone(),
                ttl: Duration::from_secs(20),
            })
            .collect()
    }
}

#[async_trait]
impl Index for Node {
    async fn put(&self, put: Put) -> Result<Stored, IndexError> {
        if self.net.is_cut(self.me.id) {
            return Err(IndexError::Timeout(Duration::ZERO));
        }
        let mut state = self.net.state.lock().unwrap();
        let values = state.values.entry(put.key).or_default();
        values.retain(|(holder, _)| *holder != self.me.id);
        values.push((self.me.id, put.value.clone()));
        state.puts.push((self.me.id, put));
        Ok(Stored { widest: Level::GLOBAL, copies: 1 })
    }

    async fn get(&self, key: Key, _: Levels) -> Result<Found, IndexError> {
        if self.net.is_cut(self.me.id) {
            return Err(IndexError::Timeout(Duration::ZERO));
        }
        let state = self.net.state.lock().unwrap();
        let values = self.values(state.values.get(&key).map(Vec::as_slice).unwrap_or_default());
        Ok(if values.is_empty() { Found::Nothing } else { Found::Values { level: self.net.level, values } })
    }

    async fn withdraw(&self, key: Key) -> Result<(), IndexError> {
        let mut state = self.net.state.lock().unwrap();
        state.values.entry(key).or_default().retain(|(holder, _)| *holder != self.me.id);
        Ok(())
    }

    async fn acquire(&self, acquire: Acquire) -> Result<Acquired, IndexError> {
        if self.net.rootless.load(Ordering::SeqCst) || self.net.is_cut(self.me.id) {
            return Err(IndexError::Timeout(Duration::ZERO));
        }
        let late = self.net.late.lock().unwrap().clone().filter(|(key, _)| *key == acquire.key);
        if let Some((_, word)) = late {
            word.acquire().await.unwrap().forget();
        }
        let mut state = self.net.state.lock().unwrap();
        if let Some(marker) = state.markers.get(&acquire.key) {
            return Ok(Acquired::Marked(marker.clone()));
        }
        let gone = |id: &NodeId| self.net.is_dead(*id) || acquire.failed.contains(id);
        if let Some(values) = state.values.get_mut(&acquire.key) {
            values.retain(|(holder, _)| !gone(holder));
        }
        let lease = state.leases.get(&acquire.key).filter(|(id, ..)| !self.net.is_dead(*id) && !self.net.is_cut(*id));
        let mut found: Vec<_> = state.values.get(&acquire.key).cloned().unwrap_or_default();
        if let Some((holder, _, reference)) = lease
            && !found.iter().any(|(it, _)| it == holder)
        {
            found.push((*holder, reference.clone()));
        }
        let values = self.values(&found);
        if !values.is_empty() {
            return Ok(Acquired::References(values));
        }
        state.granted += 1;
        let lease = Lease { epoch: 0, counter: state.granted, key: acquire.key };
        state.leases.insert(acquire.key, (self.me.id, lease, acquire.reference));
        Ok(Acquired::Granted(lease))
    }

    async fn beat(&self, lease: &Lease, reference: Bytes) -> Result<Beat, IndexError> {
        {
            let mut state = self.net.state.lock().unwrap();
            state.beats += 1;
            if let Some((_, _, known)) = state.leases.get_mut(&lease.key) {
                *known = reference;
            }
        }
        if self.net.mute.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok(self.net.lower.lock().unwrap().clone().map_or(Beat::Kept, Beat::Superseded))
    }

    async fn release(&self, lease: Lease) -> Result<(), IndexError> {
        self.net.state.lock().unwrap().leases.remove(&lease.key);
        Ok(())
    }

    async fn pass(&self, lease: Lease, marker: Marker) -> Result<(), IndexError> {
        let mut state = self.net.state.lock().unwrap();
        state.leases.remove(&lease.key);
        state.markers.insert(lease.key, marker);
        Ok(())
    }

    fn nodes(&self, query: &NodesQuery) -> Vec<NodeInfo> {
        let mut nodes = self.alone.nodes(query);
        if self.net.acquainted.load(Ordering::SeqCst) {
            let doors = self.net.doors.lock().unwrap();
            nodes
                .extend(doors.keys().filter(|id| **id != self.me.id).map(|id| NodeInfo { id: *id, ..self.me.clone() }));
        }
        nodes
    }

    fn me(&self) -> NodeInfo {
        self.me.clone()
    }

    fn describe(&self, info: NodeInfo) {
        self.alone.describe(info);
    }

    fn levels(&self) -> Vec<LevelInfo> {
        let mut levels = self.alone.levels();
        if self.net.level > Level::GLOBAL {
            levels.push(LevelInfo { level: self.net.level, threshold: None, size: 2, ..levels[0].clone() });
        }
        levels
    }

    fn is_alone(&self) -> bool {
        self.net.strangers.load(Ordering::SeqCst)
    }

    fn observe(&self, prefix: Prefix, rtt: Duration) {
        self.net.state.lock().unwrap().observed.push((prefix, rtt));
    }

    async fn spread(&self, record: Bytes) -> Result<(), IndexError> {
        self.alone.spread(record).await
    }

    fn spreads(&self) -> broadcast::Receiver<Spread> {
        self.alone.spreads()
    }

    /// Signed is what begins with the id of a node that is there.
    fn sign(&self, words: &[u8], right: Roles) -> Result<Bytes, Unsaid> {
        Index::sign(&self.alone, words, right)
    }

    fn believe(&self, signed: &[u8], _: Roles) -> Result<Said, NotBelieved> {
        let (id, words) = signed.split_at_checked(20).ok_or(NotBelieved::Malformed)?;
        let signer = NodeId::from(Key::from_bytes(id.try_into().unwrap()));
        if !self.net.doors.lock().unwrap().contains_key(&signer) {
            return Err(NotBelieved::Foreign);
        }
        Ok(Said { signer, issued: UnixTime(0), words: words.to_vec() })
    }
}

#[async_trait]
impl Streams for Node {
    async fn open(&self, to: NodeId) -> Result<ByteStream, StreamError> {
        if self.net.is_cut(self.me.id) || self.net.is_cut(to) || self.net.is_apart(self.me.id, to) {
            return Err(StreamError::Unreachable(to, "cut".to_owned()));
        }
        let door = self.net.doors.lock().unwrap().get(&to).cloned().ok_or(StreamError::Unknown(to))?;
        let (here, there) = tokio::io::duplex(64 << 10);
        let given = Arc::clone(self.net.given.lock().unwrap().entry((to, self.me.id)).or_default());
        let there = crate::counted::Counted { stream: there, given };
        let sent = door.send((self.me.id, Box::new(there) as ByteStream)).await;
        sent.map_err(|_| StreamError::Unreachable(to, "gone".to_owned()))?;
        Ok(Box::new(here))
    }

    async fn accept(&self) -> Result<(NodeId, ByteStream), StreamError> {
        self.visitors.lock().await.recv().await.ok_or(StreamError::NoPeers)
    }

    fn distance(&self, to: NodeId) -> Option<Duration> {
        self.net.distances.lock().unwrap().get(&to).copied().or_else(|| *self.net.distance.lock().unwrap())
    }

    fn sign(&self, statement: &[u8]) -> Option<Bytes> {
        Some(proof_of(self.me.id, statement))
    }

    fn signer(&self, statement: &[u8], proof: &[u8]) -> Option<NodeId> {
        let id = NodeId::from(Key::from_bytes(*proof.first_chunk::<20>()?));
        (proof_of(id, statement) == proof).then_some(id)
    }
}
