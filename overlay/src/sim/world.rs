//! [`Sim`]: the nodes, their links and the queue; inputs in, outputs out. It knows no scenario.
//!
//! A link stands if either end's core thinks so: the simulator keeps none of its own but those being dialled, since a hundred
//! thousand nodes have ten million. Links that neither end keeps close after a minute without use, as the real driver's do.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    book::{Handles, describe},
    counters::Counters,
    invariants::Invariants,
    liar::Liar,
    link::{Faults, Network},
    queue::{Event, Queue},
};
use crate::{
    Config, NodeId, Spread,
    core::{
        Command, Contact, Input, Node, Op, Outcome, Output, Peer,
        message::{Body, Header, Message},
        rng::Rng,
        time::Instant,
    },
};

/// A network of simulated nodes.
pub struct Sim {
    pub(super) config: Arc<Config>,
    pub(super) network: Network,
    faults: Faults,
    /// Messages travel as bytes, through the codec; slower, and checks it.
    wire: bool,
    /// Bytes are counted though messages do not travel as bytes.
    weighed: bool,
    seed: u64,
    pub(super) rng: Rng,
    pub(super) now: Instant,
    pub(super) queue: Queue,
    /// How many of the next events were looked at ahead.
    pub(super) ahead: usize,
    pub(super) nodes: Vec<Simulated>,
    /// Where each node is: looked up for every message.
    pub(super) places: Vec<Place>,
    /// Links being dialled, and when each stands.
    dialling: BTreeMap<(u32, u32), Instant>,
    next_op: u64,
    outcomes: BTreeMap<Op, (Instant, Outcome)>,
    pub(super) trace: u64,
    pub(super) events: u64,
    pub(super) invariants: Invariants,
}

/// One node and what happened to it.
pub(super) struct Simulated {
    pub(super) core: Node,
    /// When it started: its own time counts from here.
    pub(super) born: Instant,
    /// Its clock runs faster by this many parts per million.
    drift: i32,
    /// When its links were last looked at for idle ones.
    tidied: Instant,
    heard: Vec<Spread>,
    pub(super) counters: Counters,
    liar: Option<Box<Liar>>,
}

/// Where a node is, and what else is looked up of it by others' events: close together, since the nodes themselves are far apart
/// in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) contact: Contact,
    pub(super) site: u32,
    /// Delay between it and its site, there and back, in microseconds.
    access: u32,
    pub(super) alive: bool,
    /// Its process stands still until then.
    frozen: Instant,
    /// When it wants to be woken; the end of time if never.
    pub(super) due: Instant,
    /// The earliest wake-up that is in the queue; the end of time if none.
    wake: Instant,
}

/// How a node dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The process ends: its machine closes the links and refuses new ones.
    Process,
    /// The machine is gone: silence.
    Machine,
}

impl Sim {
    /// An empty network.
    #[must_use]
    pub fn new(config: Config, network: Network, seed: u64) -> Self {
        Self {
            invariants: Invariants::new(&config),
            config: Arc::new(config),
            network,
            faults: Faults::default(),
            wire: false,
            weighed: false,
            seed,
            rng: Rng::new(seed),
            now: Instant::START,
            queue: Queue::default(),
            ahead: 0,
            nodes: Vec::new(),
            places: Vec::new(),
            dialling: BTreeMap::new(),
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

    /// Counts the bytes of messages from now on, whether they travel as bytes or not.
    pub const fn weigh(&mut self) {
        self.weighed = true;
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
        let contact = core.contact();
        self.nodes.push(Simulated {
            core,
            born: self.now,
            drift: 0,
            tidied: self.now,
            heard: Vec::new(),
            counters: Counters::default(),
            liar: None,
        });
        let access = u32::try_from(access.as_micros()).unwrap_or(u32::MAX);
        let site = u32::try_from(site).unwrap_or(u32::MAX);
        self.places.push(Place { contact, site, access, alive: true, frozen: Instant::START, due: NEVER, wake: NEVER });
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
        let (Some(dead), Some(place)) = (self.nodes.get(node), self.places.get_mut(node)) else { return };
        place.alive = false;
        let linked: Vec<u32> = dead.core.links().map(|contact| contact.peer.0).collect();
        if death == Death::Process {
            for other in linked {
                let at = self.now + self.rtt(number, other) / 2;
                self.queue.push(at, Event::Disconnected { node: other, peer: number });
            }
        }
        self.dialling.retain(|(one, other), _| *one != number && *other != number);
        self.faults.deaths.insert(number, death);
    }

    /// Lets everything happen up to a time.
    pub fn run_until(&mut self, until: Instant) {
        while let Some(event) = self.next_event(until) {
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
            let Some(event) = self.next_event(until) else { break };
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
        if let Some(place) = self.places.get_mut(node) {
            place.site = u32::try_from(site).unwrap_or(u32::MAX);
        }
    }

    /// Stops a node's process for a while: what comes meanwhile waits.
    pub fn freeze(&mut self, node: usize, span: Duration) {
        let until = self.now + span;
        if let Some(place) = self.places.get_mut(node) {
            place.frozen = until;
        }
    }

    /// Lets a node's clock run faster by this many parts per million, or slower. To be said before it has done anything.
    pub fn drift(&mut self, node: usize, per_million: i32) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.drift = per_million;
        }
    }

    /// Turns a node into one that does not do what it should.
    pub(super) fn corrupt(&mut self, node: usize, liar: Liar) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.liar = Some(Box::new(liar));
        }
    }

    /// The header of a node's messages.
    pub(super) fn header(&mut self, node: usize) -> Arc<Header> {
        let now = self.local(u32::try_from(node).unwrap_or(u32::MAX));
        self.nodes.get_mut(node).map_or_else(Arc::default, |node| node.core.header_now(now))
    }

    /// Drops outcomes that nobody will ask for.
    pub fn forget_outcomes(&mut self) {
        self.outcomes.clear();
    }

    /// What was broken that must hold, with when and where; the first few.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        self.invariants.violations()
    }

    /// The outcome of a command, once it is there.
    pub fn outcome(&mut self, op: Op) -> Option<(Instant, Outcome)> {
        self.outcomes.remove(&op)
    }

    /// The records a node heard, oldest first; taken.
    pub fn heard(&mut self, node: usize) -> Vec<Spread> {
        self.nodes.get_mut(node).map_or_else(Vec::new, |node| std::mem::take(&mut node.heard))
    }

    /// The next event, if it is not after this time; it becomes the present.
    fn next_event(&mut self, until: Instant) -> Option<Event> {
        let (at, event) = self.queue.pop_until(until)?;
        self.now = at;
        self.look_ahead();
        Some(event)
    }

    fn happen(&mut self, event: Event) {
        let node = event.node();
        let now = self.now;
        if let Some(place) = self.places.get_mut(usize_of(node)).filter(|place| place.frozen > now) {
            let until = place.frozen;
            if matches!(event, Event::Wake { .. }) {
                // One that another has replaced stays of no use.
                if place.wake != now {
                    return;
                }
                place.wake = until;
            }
            return self.queue.push(until, event);
        }
        match event {
            Event::Wake { node } => self.wake(node),
            Event::Deliver { to, from, message } => self.deliver(to, from, message),
            Event::DeliverBytes { to, from, bytes } => {
                self.note_bytes(&bytes);
                let mut book = Handles(&self.nodes);
                // What this node sent it can also read; anything else is a fault of the codec and must not be hidden.
                let message = Message::decode(&bytes, &mut book).expect("the codec reads what it wrote");
                self.deliver(to, from, Box::new(message));
            }
            Event::Connected { node, peer } => {
                self.events += 1;
                self.note(&[2, u64::from(node), u64::from(peer)]);
                self.dialling.remove(&pair(node, peer));
                if let Some(contact) = self.contact(usize_of(peer)) {
                    self.give(node, Input::Connected(contact));
                }
            }
            Event::Disconnected { node, peer } => {
                self.events += 1;
                self.note(&[3, u64::from(node), u64::from(peer)]);
                self.give(node, Input::Disconnected(Peer(peer)));
            }
            Event::Unreachable { node, peer } => {
                self.events += 1;
                self.note(&[4, u64::from(node), u64::from(peer)]);
                self.give(node, Input::Unreachable(Peer(peer)));
            }
        }
    }

    fn wake(&mut self, node: u32) {
        let at = self.now;
        let Some(place) = self.places.get_mut(usize_of(node)).filter(|place| place.alive && place.wake == at) else {
            return;
        };
        place.wake = NEVER;
        // What it asked to be woken for may have been done meanwhile.
        if place.due > at {
            return self.enqueue_wake(node);
        }
        self.events += 1;
        self.note(&[1, u64::from(node)]);
        let now = self.local(node);
        if let Some(one) = self.nodes.get_mut(usize_of(node)) {
            one.core.handle_timeout(now);
        }
        self.drain(node);
        self.tidy(node);
    }

    /// Closes a node's links that neither end keeps and nobody uses.
    fn tidy(&mut self, node: u32) {
        let (at, now) = (self.now, self.local(node));
        let Some(one) = self.nodes.get_mut(usize_of(node)).filter(|one| at.since(one.tidied) >= LINK_IDLE) else {
            return;
        };
        one.tidied = at;
        for other in one.core.idle_links(now, LINK_IDLE) {
            self.queue.push(at, Event::Disconnected { node, peer: other.peer.0 });
            self.queue.push(at, Event::Disconnected { node: other.peer.0, peer: node });
        }
    }

    fn deliver(&mut self, to: u32, from: u32, message: Box<Message>) {
        self.events += 1;
        self.note(&[5, u64::from(to), u64::from(from), number_of(&message.body)]);
        if !self.is_alive(usize_of(to)) {
            return;
        }
        let Some(from) = self.contact(usize_of(from)) else { return };
        let Some(node) = self.nodes.get_mut(usize_of(to)) else { return };
        node.counters.count(&message.body);
        if let Some(liar) = &mut node.liar
            && let Some(answer) = liar.answer(&message)
        {
            if let Some(answer) = answer {
                self.send(to, from.peer.0, Box::new(answer));
            }
            return;
        }
        if !node.core.is_linked(from) {
            // The link stood by the sender's account alone: a warm network links one way first.
            self.give(to, Input::Connected(from));
        }
        self.give(to, Input::Received { from, message });
    }

    /// Hands a node an input and does what it wants.
    fn give(&mut self, node: u32, input: Input) {
        if !self.is_alive(usize_of(node)) {
            return;
        }
        let now = self.local(node);
        let Some(one) = self.nodes.get_mut(usize_of(node)) else { return };
        let linked = if let Input::Connected(other) = &input { Some(*other) } else { None };
        one.core.handle_input(now, input);
        if let Some(other) = linked {
            let me = one.core.contact();
            let kept = self.nodes.get(usize_of(other.peer.0)).is_some_and(|other| other.core.is_pinned(me));
            self.note_kept(node, other, kept);
        }
        self.drain(node);
    }

    fn drain(&mut self, node: u32) {
        let mut pins = Vec::new();
        while let Some(output) = self.nodes.get_mut(usize_of(node)).and_then(|one| one.core.poll_output()) {
            match output {
                Output::Send { to, message } => self.send(node, to.0, message),
                Output::Pin { peer, keep } => pins.push((peer.0, keep)),
                Output::Asked(..) => {}
                Output::Granted(grant) => self.invariants.granted(self.now, node, grant),
                Output::Done { op, outcome } => {
                    self.note(&[6, op.0]);
                    self.invariants.ended(self.now, op, &outcome);
                    self.outcomes.insert(op, (self.now, outcome));
                }
                Output::Heard(spread) => {
                    if let Some(one) = self.nodes.get_mut(usize_of(node)) {
                        one.heard.push(spread);
                    }
                }
            }
        }
        self.note_pins(node, &pins);
        self.rearm(node);
    }

    /// Tells a node whether the other end of a link keeps it: it would have to be looked up for each link that is idle.
    pub(super) fn note_kept(&mut self, node: u32, by: Contact, keep: bool) {
        if let Some(one) = self.nodes.get_mut(usize_of(node)) {
            one.core.note_kept(by, keep);
        }
    }

    /// Notes when the node wants to be woken, and has it woken by then.
    pub(super) fn rearm(&mut self, node: u32) {
        let now = self.now;
        let Some(one) = self.nodes.get(usize_of(node)) else { return };
        let Some(place) = self.places.get_mut(usize_of(node)).filter(|place| place.alive) else { return };
        place.due = match one.core.poll_timeout() {
            Some(due) => (one.born + undrifted(due.since_start(), one.drift)).max(now),
            None => NEVER,
        };
        self.invariants.drained(now, node, &one.core);
        self.enqueue_wake(node);
    }

    /// Puts the node's next wake-up in the queue, if none as early is there. One that comes too early is put off when it comes,
    /// which costs less than to take it out.
    fn enqueue_wake(&mut self, node: u32) {
        let Some(place) = self.places.get_mut(usize_of(node)) else { return };
        if place.due < place.wake {
            place.wake = place.due;
            self.queue.push(place.due, Event::Wake { node });
        }
    }

    fn send(&mut self, from: u32, to: u32, message: Box<Message>) {
        let rtt = self.rtt(from, to);
        let bytes = (self.wire || self.weighed).then(|| message.encode(&Handles(&self.nodes)));
        if let Some(one) = self.nodes.get_mut(usize_of(from)) {
            one.counters.sent += 1;
            one.counters.sent_bytes += bytes.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(0));
        }
        let Some(ready) = self.link(from, to, rtt) else { return };
        let times = self.faults.copies(&mut self.rng, from, to);
        let bytes = bytes.filter(|_| self.wire);
        let mut message = Some(message);
        for copy in 0..times {
            let arrival = ready.max(self.now) + self.faults.one_way(&mut self.rng, rtt);
            let event = match &bytes {
                Some(bytes) => Event::DeliverBytes { to, from, bytes: bytes.clone().into() },
                None => {
                    let this = if copy + 1 == times { message.take() } else { message.clone() };
                    let Some(this) = this else { return };
                    Event::Deliver { to, from, message: this }
                }
            };
            self.queue.push(arrival, event);
        }
    }

    /// When the link between two nodes stands: at once if it does, after dialling if not; none if it never will.
    fn link(&mut self, from: u32, to: u32, rtt: Duration) -> Option<Instant> {
        let (Some(one), Some(other)) = (self.places.get(usize_of(from)), self.places.get(usize_of(to))) else {
            return None;
        };
        let death = if other.alive { None } else { self.faults.deaths.get(&to).copied() };
        let linked =
            |node: u32, to: Contact| self.nodes.get(usize_of(node)).is_some_and(|node| node.core.is_linked(to));
        let stands = linked(from, other.contact) || linked(to, one.contact);
        // What is sent to a machine that is gone is sent in vain, over a link that stood.
        if stands && death != Some(Death::Process) {
            return Some(self.now);
        }
        if let Some(stands) = self.dialling.get(&pair(from, to)) {
            return Some(*stands);
        }
        if death.is_some() || self.faults.is_blocked(from, to) || self.faults.is_blocked(to, from) {
            let after = if death == Some(Death::Process) { rtt } else { DIAL_TIMEOUT };
            self.queue.push(self.now + after, Event::Unreachable { node: from, peer: to });
            return None;
        }
        // TCP and noise take two round trips before either side may speak.
        let stands = self.now + rtt * 2;
        self.dialling.insert(pair(from, to), stands);
        self.queue.push(stands, Event::Connected { node: from, peer: to });
        self.queue.push(stands, Event::Connected { node: to, peer: from });
        Some(stands)
    }

    pub(super) fn rtt(&self, one: u32, other: u32) -> Duration {
        let (Some(one), Some(other)) = (self.places.get(usize_of(one)), self.places.get(usize_of(other))) else {
            return Duration::ZERO;
        };
        let access = Duration::from_micros(u64::from(one.access) + u64::from(other.access));
        self.network.rtt(usize_of(one.site), usize_of(other.site)) + access
    }

    /// A node's own time.
    pub(super) fn local(&self, node: u32) -> Instant {
        let Some(one) = self.nodes.get(usize_of(node)) else { return self.now };
        Instant::at(drifted(self.now.since(one.born), one.drift))
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

/// A span as a clock shows it that runs faster by so many parts per million.
fn drifted(span: Duration, per_million: i32) -> Duration {
    if per_million == 0 {
        return span;
    }
    let off = span / 1_000_000 * per_million.unsigned_abs();
    if per_million > 0 { span + off } else { span.saturating_sub(off) }
}

/// The span that such a clock shows as this one; a little more, so that a timer has gone off by then.
fn undrifted(span: Duration, per_million: i32) -> Duration {
    if per_million == 0 {
        return span;
    }
    let off = span / 1_000_000 * per_million.unsigned_abs();
    if per_million > 0 { span.saturating_sub(off) + span / 10_000_000 } else { span + off + span / 10_000_000 }
}

pub(super) fn usize_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The end of time.
const NEVER: Instant = Instant::at(Duration::MAX);

/// How long a link may be idle before it is closed, if neither end keeps it.
const LINK_IDLE: Duration = Duration::from_secs(60);

/// How long a dial to a silent machine takes to fail.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// FNV-1a, 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Spreads node numbers over seeds.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
