//! [`Overlay`], the handle through which the node, proxy and dnssrv use the running driver. Reads are answered at once from what the
//! core knows; operations go through a bounded queue to the loop.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use libp2p::Multiaddr;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{
    address::{self, Carrier},
    book::AddressBook,
    certificate::Purpose,
    counters::{Counters, Counts},
    gate::MembershipError,
    handler::Open,
    proof::Notary,
    saved,
    voice::Voice,
};
use crate::{
    Acquire, Acquired, Beat, ByteStream, Found, Index, IndexError, Key, Lease, LevelInfo, Levels, Marker, NodeId,
    NodeInfo, NodesQuery, Prefix, Put, Roles, Spread, Stored, StreamError, Streams, Teller,
    core::{Command, Node, Op, Outcome, Output},
    membership::{Membership, NotBelieved, NotMember, Revocation, Revocations, Said, Unsaid},
};

/// A node's part in the overlay. Cheap to clone; when the last clone is dropped, the driver says farewell and ends.
#[derive(Clone)]
pub struct Overlay(Arc<Inner>);

struct Inner {
    id: NodeId,
    shared: Arc<Shared>,
    notary: Notary,
    requests: mpsc::Sender<Request>,
    described: watch::Sender<NodeInfo>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<(NodeId, ByteStream)>>,
    counters: Counters,
    voice: Voice,
    next_op: AtomicU64,
    open_timeout: Duration,
    unmeasured: Duration,
    saved_peers: usize,
}

/// What the handle asks of the loop.
#[derive(Debug)]
pub(super) enum Request {
    /// An operation on the index.
    Command { op: Op, command: Command, caller: oneshot::Sender<Outcome>, teller: Option<Teller> },
    /// Its caller has gone.
    Cancel(Op),
    /// A prefix was measured.
    Observe { prefix: Prefix, rtt: Duration },
    /// A byte stream is wanted.
    Open { to: NodeId, open: Open, by: Purpose },
    /// The node's certificate was renewed.
    Renew(Membership, oneshot::Sender<Result<(), MembershipError>>),
    /// Somebody's place is taken back.
    Revoke(Revocation, oneshot::Sender<Result<(), RevokeError>>),
    /// Say farewell and end.
    Stop(oneshot::Sender<()>),
}

/// The loop's ends of the queues.
pub(super) struct Ends {
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) described: watch::Receiver<NodeInfo>,
    pub(super) accepted: mpsc::Sender<(NodeId, ByteStream)>,
}

/// How large the queues are, and the like.
pub(super) struct Sizes {
    pub(super) commands: usize,
    pub(super) accept_queue: usize,
    pub(super) saved_peers: usize,
    pub(super) open_timeout: Duration,
    /// What a round trip is taken for to a node to which none was measured.
    pub(super) unmeasured: Duration,
}

impl Overlay {
    pub(super) fn new(
        info: NodeInfo,
        (notary, voice): (Notary, Voice),
        shared: Arc<Shared>,
        counters: Counters,
        sizes: &Sizes,
    ) -> (Self, Ends) {
        let (requests, requests_end) = mpsc::channel(sizes.commands);
        let (accepted, accepted_end) = mpsc::channel(sizes.accept_queue);
        let id = info.id;
        let (described, described_end) = watch::channel(info);
        let inner = Inner {
            id,
            shared,
            notary,
            requests,
            described,
            accepted: tokio::sync::Mutex::new(accepted_end),
            counters,
            voice,
            next_op: AtomicU64::new(0),
            open_timeout: sizes.open_timeout,
            unmeasured: sizes.unmeasured,
            saved_peers: sizes.saved_peers,
        };
        (Self(Arc::new(inner)), Ends { requests: requests_end, described: described_end, accepted })
    }

    /// This node's place in the id space.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// Where the node listens by TCP now: with ports chosen, and one per interface for an unspecified address. Each, as text, is a
    /// HOST:PORT that another node on the same host can join by.
    #[must_use]
    pub fn listen_addrs(&self) -> Vec<SocketAddr> {
        let listening = lock(&self.0.shared.listening);
        listening.iter().filter(|(carrier, _)| *carrier == Carrier::Tcp).map(|(_, socket)| *socket).collect()
    }

    /// The same whatever the carrier, as multiaddrs.
    #[must_use]
    pub fn listen_multiaddrs(&self) -> Vec<String> {
        let listening = lock(&self.0.shared.listening);
        listening.iter().map(|(carrier, socket)| address::of_socket(*carrier, *socket).to_string()).collect()
    }

    /// The peers met last, as bytes for the state directory; hand them to the next start. Also after [`Overlay::stop`].
    #[must_use]
    pub fn save_peers(&self) -> Bytes {
        saved::write(self.0.shared.book().met(self.0.saved_peers))
    }

    /// The revocations known, as bytes for the state directory; hand them to the next start. Also after [`Overlay::stop`]. None in
    /// an open network.
    #[must_use]
    pub fn save_revocations(&self) -> Option<Bytes> {
        let known = self.0.shared.membership()?.revocations;
        Some(saved::write(known.iter().map(|one| one.to_bytes().into()).collect()))
    }

    /// The node's place in a closed network, as shown to others now; none in an open network.
    #[must_use]
    pub fn membership(&self) -> Option<Membership> {
        self.0.shared.membership().map(|view| view.own)
    }

    /// Shows a later certificate for the same place from now on, on the connections that stand too.
    ///
    /// # Errors
    /// The certificate is of no use to this node, or the driver has ended.
    pub async fn renew(&self, membership: Membership) -> Result<(), MembershipError> {
        let (done, outcome) = oneshot::channel();
        let sent = self.0.requests.send(Request::Renew(membership, done)).await;
        sent.map_err(|_| MembershipError::Stopped)?;
        outcome.await.map_err(|_| MembershipError::Stopped)?
    }

    /// Takes back somebody's place: here at once, and at every other node as the record spreads.
    ///
    /// # Errors
    /// Nobody who may revoke this signed it, the network is open, there is no room, or the driver has ended.
    pub async fn revoke(&self, revocation: Revocation) -> Result<(), RevokeError> {
        let (done, outcome) = oneshot::channel();
        let sent = self.0.requests.send(Request::Revoke(revocation, done)).await;
        sent.map_err(|_| RevokeError::Stopped)?;
        outcome.await.map_err(|_| RevokeError::Stopped)?
    }

    /// What the driver has counted since its start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.counters.read()
    }

    /// Says farewell to the neighbours, closes every connection within `stop_timeout`, and ends the driver. From then on every operation
    /// fails with [`IndexError::Stopped`]. Harmless if it has stopped.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.0.requests.send(Request::Stop(done)).await.is_ok() {
            // If the driver ended meanwhile, that is what was wanted.
            let _ = stopped.await;
        }
    }

    async fn command(&self, command: Command) -> Result<Outcome, IndexError> {
        self.command_told(command, None).await
    }

    async fn command_told(&self, command: Command, teller: Option<Teller>) -> Result<Outcome, IndexError> {
        let op = Op(self.0.next_op.fetch_add(1, Ordering::Relaxed));
        let (caller, outcome) = oneshot::channel();
        let request = Request::Command { op, command, caller, teller };
        self.0.requests.send(request).await.map_err(|_| IndexError::Stopped)?;
        let mut gone = CancelIfDropped { op, requests: &self.0.requests, armed: true };
        let outcome = outcome.await;
        gone.armed = false;
        outcome.map_err(|_| IndexError::Stopped)
    }
}

/// Tells the loop that the caller of an operation went away before its end.
struct CancelIfDropped<'a> {
    op: Op,
    requests: &'a mpsc::Sender<Request>,
    armed: bool,
}

impl Drop for CancelIfDropped<'_> {
    fn drop(&mut self) {
        if self.armed {
            // With a full queue the operation runs to its own deadline instead.
            let _ = self.requests.try_send(Request::Cancel(self.op));
        }
    }
}

#[async_trait]
impl Index for Overlay {
    async fn put(&self, put: Put) -> Result<Stored, IndexError> {
        match self.command(Command::Put(put)).await? {
            Outcome::Put(stored) => stored,
            other => unreachable!("a put came out as {other:?}"),
        }
    }

    async fn get(&self, key: Key, levels: Levels) -> Result<Found, IndexError> {
        match self.command(Command::Get(key, levels)).await? {
            Outcome::Get(found) => found,
            other => unreachable!("a get came out as {other:?}"),
        }
    }

    async fn get_told(&self, key: Key, levels: Levels, teller: Teller) -> Result<Found, IndexError> {
        match self.command_told(Command::Get(key, levels), Some(teller)).await? {
            Outcome::Get(found) => found,
            other => unreachable!("a get came out as {other:?}"),
        }
    }

    async fn withdraw(&self, key: Key) -> Result<(), IndexError> {
        match self.command(Command::Withdraw(key)).await? {
            Outcome::Withdraw(done) => done,
            other => unreachable!("a withdrawal came out as {other:?}"),
        }
    }

    async fn acquire(&self, acquire: Acquire) -> Result<Acquired, IndexError> {
        match self.command(Command::Acquire(acquire)).await? {
            Outcome::Acquire(acquired) => acquired,
            other => unreachable!("an acquire came out as {other:?}"),
        }
    }

    async fn acquire_told(&self, acquire: Acquire, teller: Teller) -> Result<Acquired, IndexError> {
        match self.command_told(Command::Acquire(acquire), Some(teller)).await? {
            Outcome::Acquire(acquired) => acquired,
            other => unreachable!("an acquire came out as {other:?}"),
        }
    }

    async fn beat(&self, lease: &Lease, reference: Bytes) -> Result<Beat, IndexError> {
        match self.command(Command::Beat(*lease, reference)).await? {
            Outcome::Beat(beat) => beat,
            other => unreachable!("a beat came out as {other:?}"),
        }
    }

    async fn release(&self, lease: Lease) -> Result<(), IndexError> {
        match self.command(Command::Release(lease)).await? {
            Outcome::Beat(beat) => beat.map(drop),
            other => unreachable!("a release came out as {other:?}"),
        }
    }

    async fn pass(&self, lease: Lease, marker: Marker) -> Result<(), IndexError> {
        match self.command(Command::Pass(lease, marker)).await? {
            Outcome::Pass(done) => done,
            other => unreachable!("a pass came out as {other:?}"),
        }
    }

    fn nodes(&self, query: &NodesQuery) -> Vec<NodeInfo> {
        self.0.shared.node().nodes(query)
    }

    fn me(&self) -> NodeInfo {
        self.0.shared.node().me()
    }

    fn describe(&self, info: NodeInfo) {
        self.0.described.send_replace(info);
    }

    fn levels(&self) -> Vec<LevelInfo> {
        self.0.shared.node().levels()
    }

    fn is_alone(&self) -> bool {
        self.0.shared.is_alone()
    }

    fn observe(&self, prefix: Prefix, rtt: Duration) {
        // A hint that does not fit is measured again soon enough.
        let _ = self.0.requests.try_send(Request::Observe { prefix, rtt });
    }

    async fn spread(&self, record: Bytes) -> Result<(), IndexError> {
        match self.command(Command::Spread(record)).await? {
            Outcome::Spread(done) => done,
            other => unreachable!("a spread came out as {other:?}"),
        }
    }

    fn spreads(&self) -> broadcast::Receiver<Spread> {
        self.0.shared.spreads.subscribe()
    }

    fn sign(&self, words: &[u8], right: Roles) -> Result<Bytes, Unsaid> {
        self.0.voice.sign(self.0.shared.membership().as_ref(), words, right)
    }

    fn believe(&self, signed: &[u8], right: Roles) -> Result<Said, NotBelieved> {
        self.0.voice.believe(self.0.shared.membership().as_ref(), signed, right)
    }
}

#[async_trait]
impl Streams for Overlay {
    async fn open(&self, to: NodeId) -> Result<ByteStream, StreamError> {
        self.bounded(to, self.0.open_timeout, self.open_by(to, Purpose::Link)).await
    }

    async fn open_bulk(&self, to: NodeId) -> Result<ByteStream, StreamError> {
        let trip = self.distance(to).unwrap_or(self.0.unmeasured);
        let grace = BULK_GRACE.saturating_add(trip.saturating_mul(BULK_TRIPS));
        let attempt = async {
            match self.bounded(to, grace, self.open_by(to, Purpose::Bulk)).await {
                // Who cannot be dialled is not to cost more than that.
                Err(StreamError::Unreachable(..)) => self.open_by(to, Purpose::Link).await,
                opened => opened,
            }
        };
        self.bounded(to, self.0.open_timeout, attempt).await
    }

    async fn accept(&self) -> Result<(NodeId, ByteStream), StreamError> {
        self.0.accepted.lock().await.recv().await.ok_or(StreamError::NoPeers)
    }

    fn distance(&self, to: NodeId) -> Option<Duration> {
        self.0.shared.node().distance(to)
    }

    fn sign(&self, statement: &[u8]) -> Option<Bytes> {
        self.0.notary.sign(statement)
    }

    fn signer(&self, statement: &[u8], proof: &[u8]) -> Option<NodeId> {
        self.0.notary.signer(statement, proof)
    }
}

impl Overlay {
    async fn open_by(&self, to: NodeId, by: Purpose) -> Result<ByteStream, StreamError> {
        if self.0.shared.book().peer(to).is_none() {
            return Err(StreamError::Unknown(to));
        }
        let (open, opened) = oneshot::channel();
        self.0.requests.send(Request::Open { to, open, by }).await.map_err(|_| StreamError::NoPeers)?;
        let dropped = || Err("its queue is full, or its connection just ended".to_owned());
        let stream = opened.await.unwrap_or_else(|_| dropped()).map_err(|why| StreamError::Unreachable(to, why))?;
        Ok(Box::new(stream) as ByteStream)
    }

    /// Gives an attempt up after so long: what it asked for is then taken back.
    async fn bounded(
        &self,
        to: NodeId,
        wait: Duration,
        attempt: impl Future<Output = Result<ByteStream, StreamError>> + Send,
    ) -> Result<ByteStream, StreamError> {
        let late = |_| Err(StreamError::Unreachable(to, format!("no stream within {wait:?}")));
        tokio::time::timeout(wait, attempt).await.unwrap_or_else(late)
    }
}

/// What a bulk connection takes to come: round trips of TCP, Noise, yamux and certificates, and time to reckon. \[guess\]
const BULK_TRIPS: u32 = 6;
const BULK_GRACE: Duration = Duration::from_millis(50);

/// Why a revocation had no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// Nobody who may revoke this signed it.
    #[error("the revocation is not believed: {0}")]
    NotBelieved(#[from] NotMember),
    /// There are members only in closed networks.
    #[error("the network is open (admission = \"open\"): nobody can be shut out of it")]
    Open,
    /// As many are known as are kept.
    #[error("there is no room for more revocations")]
    NoRoom,
    /// The driver has ended.
    #[error("the node has stopped")]
    Stopped,
}

/// What the handle reads and the loop writes.
pub(super) struct Shared {
    node: Mutex<Node>,
    book: Mutex<AddressBook>,
    listening: Mutex<Vec<(Carrier, SocketAddr)>>,
    /// Whether this node lives inside loopback only.
    loopback: bool,
    spreads: broadcast::Sender<Spread>,
    membership: Mutex<Option<View>>,
    /// Whether nobody was known when that was looked at last.
    alone: AtomicBool,
}

/// The node's place in a closed network, for those who read it.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) own: Membership,
    pub(super) revocations: Arc<Revocations>,
}

impl Shared {
    pub(super) fn new(node: Node, book: AddressBook, loopback: bool) -> Self {
        Self {
            node: Mutex::new(node),
            book: Mutex::new(book),
            listening: Mutex::default(),
            loopback,
            spreads: broadcast::Sender::new(SPREADS_KEPT),
            membership: Mutex::default(),
            alone: AtomicBool::new(false),
        }
    }

    /// Whether nobody is known, as of a moment ago if the core is at work: hits ask this, and wait for nothing.
    fn is_alone(&self) -> bool {
        if let Ok(node) = self.node.try_lock() {
            self.alone.store(node.knows_nobody(), Ordering::Relaxed);
        }
        self.alone.load(Ordering::Relaxed)
    }

    /// The core, to read or to step; held for no longer than that.
    pub(super) fn node(&self) -> MutexGuard<'_, Node> {
        lock(&self.node)
    }

    /// The address book. Never locked by whoever holds the node.
    pub(super) fn book(&self) -> MutexGuard<'_, AddressBook> {
        lock(&self.book)
    }

    /// One input to the core and all that it wants done.
    pub(super) fn step(&self, input: impl FnOnce(&mut Node)) -> Vec<Output> {
        let mut node = self.node();
        input(&mut node);
        std::iter::from_fn(|| node.poll_output()).collect()
    }

    /// A record spread by some node arrived for the first time.
    pub(super) fn heard(&self, spread: Spread) {
        // Nobody listening is fine: the record is then nobody's business.
        let _ = self.spreads.send(spread);
    }

    /// The node's place as it is now; none in an open network.
    pub(super) fn membership(&self) -> Option<View> {
        lock(&self.membership).clone()
    }

    /// Sets it.
    pub(super) fn set_membership(&self, view: Option<View>) {
        *lock(&self.membership) = view;
    }

    /// The node listens there.
    pub(super) fn listens(&self, at: &Multiaddr) {
        if let Some(socket) = address::socket(at) {
            let (mut listening, place) = (lock(&self.listening), (address::carrier(at), socket));
            listening.retain(|known| *known != place);
            listening.push(place);
        }
    }

    /// The node no longer listens there.
    pub(super) fn listens_no_more(&self, at: &Multiaddr) {
        if let Some(socket) = address::socket(at) {
            lock(&self.listening).retain(|known| *known != (address::carrier(at), socket));
        }
    }

    /// How many addresses the node listens on.
    pub(super) fn listeners(&self) -> usize {
        lock(&self.listening).len()
    }

    /// Whether this node listens there.
    pub(super) fn is_mine(&self, at: &Multiaddr) -> bool {
        address::socket(at).is_some_and(|socket| lock(&self.listening).contains(&(address::carrier(at), socket)))
    }

    /// The addresses listened on that others can dial: inside loopback only if the node lives there.
    pub(super) fn dialable(&self) -> Vec<Multiaddr> {
        let listening = lock(&self.listening);
        let dialable =
            listening.iter().filter(|(_, socket)| self.loopback || !socket.ip().to_canonical().is_loopback());
        let dialable = dialable.map(|(carrier, socket)| address::of_socket(*carrier, *socket));
        dialable.filter(address::is_dialable).take(address::LIMIT).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Spread records a slow receiver may lag behind; see [`Index::spreads`].
const SPREADS_KEPT: usize = 1_024;
