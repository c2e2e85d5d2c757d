//! The simulator: many nodes of the same core in virtual time, one event queue, one seed. The same seed, network and commands
//! give the same trace hash; time-outs, losses and deaths cost no real time.
//!
//! ```text
//!   commands, kills, delays --> Sim --run_until--> outcomes, counters, trace hash
//!                               | ^
//!                        inputs v | outputs
//!                              Node, Node, Node, ...
//! ```
//!
//! Read [`Sim`], then [`Network`].

mod counters;
mod link;
mod matrix;
mod queue;

pub use self::{
    counters::Counters,
    link::{Faults, Network},
    matrix::{Matrix, MatrixError},
};

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use self::queue::{Event, Queue};
use crate::{
    Config, NodeId, NodeInfo, Roles, Spread,
    core::{
        Book, Command, Contact, Input, Node, Op, Outcome, Output, Peer,
        message::{Body, Message},
        rng::Rng,
        time::Instant,
    },
};

/// A network of simulated nodes.
pub struct Sim {
    config: Arc<Config>,
    network: Network,
    faults: Faults,
    /// Messages travel as bytes, through the codec; slower, and checks it.
    wire: bool,
    seed: u64,
    rng: Rng,
    now: Instant,
    queue: Queue,
    nodes: Vec<Simulated>,
    links: BTreeMap<(u32, u32), Link>,
    next_op: u64,
    outcomes: BTreeMap<Op, (Instant, Outcome)>,
    trace: u64,
    events: u64,
}

/// One node and what happened to it.
struct Simulated {
    core: Node,
    site: usize,
    /// Delay between it and its site, there and back.
    access: Duration,
    /// When it started: its own time counts from here.
    born: Instant,
    alive: bool,
    /// The wake-up that is in the queue.
    wake: Option<Instant>,
    heard: Vec<Spread>,
    counters: Counters,
}

/// How a node dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The process ends: its machine closes the links and refuses new ones.
    Process,
    /// The machine is gone: silence.
    Machine,
}

/// A link between two nodes, or one being dialled.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// When it stands.
    stands: Instant,
}

impl Sim {
    /// An empty network.
    #[must_use]
    pub fn new(config: Config, network: Network, seed: u64) -> Self {
        Self {
            config: Arc::new(config),
            network,
            faults: Faults::default(),
            wire: false,
            seed,
            rng: Rng::new(seed),
            now: Instant::START,
            queue: Queue::default(),
            nodes: Vec::new(),
            links: BTreeMap::new(),
            next_op: 0,
            outcomes: BTreeMap::new(),
            trace: FNV_OFFSET,
            events: 0,
        }
    }

    /// Lets messages travel as bytes through the codec.
    #[must_use]
    pub const fn through_the_wire(mut self) -> Self {
        self.wire = true;
        self
    }

    /// Adds a node at a site of the network and returns its number. It starts now and knows nobody.
    pub fn add(&mut self, site: usize, access: Duration) -> usize {
        let number = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let peer_id = [self.seed.to_be_bytes().as_slice(), &number.to_be_bytes()].concat();
        let id = NodeId::of("sim", 0, &peer_id);
        self.add_with_id(site, access, id)
    }

    /// The same with a chosen place in the id space, for hand-made cases.
    pub fn add_with_id(&mut self, site: usize, access: Duration, id: NodeId) -> usize {
        let number = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let seed = self.seed ^ (u64::from(number) + 1).wrapping_mul(GOLDEN);
        let core = Node::new(Arc::clone(&self.config), Peer(number), describe(id), seed);
        self.nodes.push(Simulated {
            core,
            site,
            access,
            born: self.now,
            alive: true,
            wake: None,
            heard: Vec::new(),
            counters: Counters::default(),
        });
        self.rearm(number);
        self.nodes.len() - 1
    }

    /// Tells a node of others that it may ask to join.
    pub fn seeds(&mut self, node: usize, seeds: &[usize]) {
        let contacts = seeds.iter().filter_map(|seed| self.contact(*seed)).collect();
        self.input(node, Input::Seeds(contacts));
    }

    /// Gives a node a command; its outcome is found under the number returned.
    pub fn command(&mut self, node: usize, command: Command) -> Op {
        let op = Op(self.next_op);
        self.next_op += 1;
        self.input(node, Input::Command { op, command });
        op
    }

    /// Gives a node any other input.
    pub fn input(&mut self, node: usize, input: Input) {
        let number = u32::try_from(node).unwrap_or(u32::MAX);
        self.give(number, input);
    }

    /// Ends a node.
    pub fn kill(&mut self, node: usize, death: Death) {
        let number = u32::try_from(node).unwrap_or(u32::MAX);
        let Some(dead) = self.nodes.get_mut(node) else { return };
        dead.alive = false;
        let linked: Vec<u32> = self.linked(number).collect();
        for other in linked {
            self.links.remove(&pair(number, other));
            if death == Death::Process {
                let at = self.now + self.rtt(number, other) / 2;
                self.queue.push(at, Event::Disconnected { node: other, peer: number });
            }
        }
        self.faults.deaths.insert(number, death);
    }

    /// Lets everything happen up to a time.
    pub fn run_until(&mut self, until: Instant) {
        while let Some((at, event)) = self.queue.pop_until(until) {
            self.now = at;
            self.events += 1;
            self.happen(event);
        }
        self.now = self.now.max(until);
    }

    /// Lets this much more time pass.
    pub fn run_for(&mut self, span: Duration) {
        self.run_until(self.now + span);
    }

    /// Lets time pass until a command has its outcome, at most this long, and takes it.
    pub fn wait(&mut self, op: Op, at_most: Duration) -> Option<(Instant, Outcome)> {
        let until = self.now + at_most;
        while !self.outcomes.contains_key(&op) {
            let Some((at, event)) = self.queue.pop_until(until) else { break };
            self.now = at;
            self.events += 1;
            self.happen(event);
        }
        self.outcomes.remove(&op)
    }

    /// What goes wrong on the way.
    pub const fn faults_mut(&mut self) -> &mut Faults {
        &mut self.faults
    }

    /// How far the sites are apart. Changing it moves nodes that run.
    pub const fn network_mut(&mut self) -> &mut Network {
        &mut self.network
    }

    /// Moves a node to another site. Its links stay.
    pub fn relocate(&mut self, node: usize, site: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.site = site;
        }
    }

    /// The outcome of a command, once it is there.
    pub fn outcome(&mut self, op: Op) -> Option<(Instant, Outcome)> {
        self.outcomes.remove(&op)
    }

    /// The records a node heard, oldest first; taken.
    pub fn heard(&mut self, node: usize) -> Vec<Spread> {
        self.nodes.get_mut(node).map_or_else(Vec::new, |node| std::mem::take(&mut node.heard))
    }

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
        self.nodes.get(node).is_some_and(|node| node.alive)
    }

    /// A node as others name it.
    #[must_use]
    pub fn contact(&self, node: usize) -> Option<Contact> {
        self.node(node).map(Node::contact)
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

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { node } => {
                let due = self.nodes.get_mut(usize_of(node)).filter(|one| one.alive && one.wake == Some(self.now));
                let Some(due) = due else { return };
                due.wake = None;
                self.note(&[1, u64::from(node)]);
                let now = self.local(node);
                if let Some(one) = self.nodes.get_mut(usize_of(node)) {
                    one.core.handle_timeout(now);
                }
                self.drain(node);
            }
            Event::Deliver { to, from, message } => self.deliver(to, from, *message),
            Event::DeliverBytes { to, from, bytes } => {
                self.note_bytes(&bytes);
                let mut book = Handles { nodes: &self.nodes };
                // What this node sent it can also read; anything else is a fault of the codec and must not be hidden.
                let message = Message::decode(&bytes, &mut book).expect("the codec reads what it wrote");
                self.deliver(to, from, message);
            }
            Event::Connected { node, peer } => {
                self.note(&[2, u64::from(node), u64::from(peer)]);
                if let Some(contact) = self.contact(usize_of(peer)) {
                    self.give(node, Input::Connected(contact));
                }
            }
            Event::Disconnected { node, peer } => {
                self.note(&[3, u64::from(node), u64::from(peer)]);
                self.give(node, Input::Disconnected(Peer(peer)));
            }
            Event::Unreachable { node, peer } => {
                self.note(&[4, u64::from(node), u64::from(peer)]);
                self.links.remove(&pair(node, peer));
                self.give(node, Input::Unreachable(Peer(peer)));
            }
        }
    }

    fn deliver(&mut self, to: u32, from: u32, message: Message) {
        self.note(&[5, u64::from(to), u64::from(from), number_of(&message.body)]);
        if let Some(node) = self.nodes.get_mut(usize_of(to)).filter(|node| node.alive) {
            node.counters.count(&message.body);
        }
        if let Some(from) = self.contact(usize_of(from)) {
            self.give(to, Input::Received { from, message });
        }
    }

    /// Hands a node an input and does what it wants.
    fn give(&mut self, node: u32, input: Input) {
        let now = self.local(node);
        let Some(one) = self.nodes.get_mut(usize_of(node)).filter(|one| one.alive) else { return };
        one.core.handle_input(now, input);
        self.drain(node);
    }

    fn drain(&mut self, node: u32) {
        while let Some(output) = self.nodes.get_mut(usize_of(node)).and_then(|one| one.core.poll_output()) {
            match output {
                Output::Send { to, message } => self.send(node, to.0, message),
                Output::Pin { .. } => {}
                Output::Done { op, outcome } => {
                    self.note(&[6, op.0]);
                    self.outcomes.insert(op, (self.now, outcome));
                }
                Output::Heard(spread) => {
                    if let Some(one) = self.nodes.get_mut(usize_of(node)) {
                        one.heard.push(spread);
                    }
                }
            }
        }
        self.rearm(node);
    }

    /// Puts the node's next wake-up in the queue, if it is not there.
    fn rearm(&mut self, node: u32) {
        let now = self.now;
        let Some(one) = self.nodes.get_mut(usize_of(node)).filter(|one| one.alive) else { return };
        let wake = one.core.poll_timeout().map(|at| (one.born + at.since_start()).max(now));
        if wake != one.wake {
            one.wake = wake;
            if let Some(at) = wake {
                self.queue.push(at, Event::Wake { node });
            }
        }
    }

    fn send(&mut self, from: u32, to: u32, message: Message) {
        let rtt = self.rtt(from, to);
        let bytes = self.wire.then(|| message.encode(&Handles { nodes: &self.nodes }));
        if let Some(one) = self.nodes.get_mut(usize_of(from)) {
            one.counters.sent += 1;
            one.counters.sent_bytes += bytes.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(0));
        }
        let Some(ready) = self.link(from, to, rtt) else { return };
        let times = self.faults.copies(&mut self.rng, from, to);
        for _ in 0..times {
            let arrival = ready.max(self.now) + self.faults.one_way(&mut self.rng, rtt);
            let event = match &bytes {
                Some(bytes) => Event::DeliverBytes { to, from, bytes: bytes.clone() },
                None => Event::Deliver { to, from, message: Box::new(message.clone()) },
            };
            self.queue.push(arrival, event);
        }
    }

    /// When the link between two nodes stands: at once if it does, after dialling if not; none if it never will.
    fn link(&mut self, from: u32, to: u32, rtt: Duration) -> Option<Instant> {
        if let Some(link) = self.links.get(&pair(from, to)) {
            return Some(link.stands);
        }
        let death = self.faults.deaths.get(&to).copied();
        if death.is_some() || self.faults.is_blocked(from, to) || self.faults.is_blocked(to, from) {
            let after = if death == Some(Death::Process) { rtt } else { DIAL_TIMEOUT };
            self.queue.push(self.now + after, Event::Unreachable { node: from, peer: to });
            return None;
        }
        // TCP and noise take two round trips before either side may speak.
        let stands = self.now + rtt * 2;
        self.links.insert(pair(from, to), Link { stands });
        self.queue.push(stands, Event::Connected { node: from, peer: to });
        self.queue.push(stands, Event::Connected { node: to, peer: from });
        Some(stands)
    }

    fn linked(&self, node: u32) -> impl Iterator<Item = u32> {
        let ends = self.links.keys().filter(move |(one, other)| *one == node || *other == node);
        let others: BTreeSet<u32> = ends.map(|(one, other)| if *one == node { *other } else { *one }).collect();
        others.into_iter()
    }

    fn rtt(&self, one: u32, other: u32) -> Duration {
        let (Some(one), Some(other)) = (self.nodes.get(usize_of(one)), self.nodes.get(usize_of(other))) else {
            return Duration::ZERO;
        };
        self.network.rtt(one.site, other.site) + one.access + other.access
    }

    /// A node's own time.
    fn local(&self, node: u32) -> Instant {
        let born = self.nodes.get(usize_of(node)).map_or(Instant::START, |one| one.born);
        Instant::at(self.now.since(born))
    }

    fn note(&mut self, words: &[u64]) {
        let time = u64::try_from(self.now.since_start().as_micros()).unwrap_or(u64::MAX);
        for word in [time].iter().chain(words) {
            self.trace = (self.trace ^ word).wrapping_mul(FNV_PRIME);
        }
    }

    fn note_bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
    }
}

/// How simulated nodes are written: by their number.
struct Handles<'a> {
    nodes: &'a [Simulated],
}

impl Book for Handles<'_> {
    fn record(&self, peer: Peer) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(&peer.0.to_be_bytes()))
    }

    fn intern(&mut self, record: &[u8]) -> Option<Contact> {
        let number = u32::from_be_bytes(record.try_into().ok()?);
        self.nodes.get(usize_of(number)).map(|node| node.core.contact())
    }
}

/// What a simulated node says of itself.
fn describe(id: NodeId) -> NodeInfo {
    NodeInfo {
        id,
        v4: Vec::new(),
        v6: Vec::new(),
        http_ports: Vec::new(),
        roles: Roles::PROXY.with(Roles::DNSSRV),
        load: 0,
        weight: 100,
        quota_left: None,
        draining: false,
        rtt: None,
        clusters: Vec::new(),
        site: String::new(),
        certificates: Vec::new(),
        version: String::new(),
    }
}

/// The number of an exchange, for the trace.
const fn number_of(body: &Body) -> u64 {
    match body {
        Body::Request { id, .. } | Body::Reply { id, .. } => *id,
        Body::Hello(_) | Body::Goodbye | Body::Spread(_) => 0,
    }
}

fn pair(one: u32, other: u32) -> (u32, u32) {
    (one.min(other), one.max(other))
}

fn usize_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// How long a dial to a silent machine takes to fail.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// FNV-1a, 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Spreads node numbers over seeds.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
