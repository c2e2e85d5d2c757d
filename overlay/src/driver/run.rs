//! The one loop: a socket event, a command or a deadline in, one input to the core, its outputs out, one timer armed. It decides
//! nothing about the index; what it knows is who is linked and how others are dialled.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Stream, Swarm,
    swarm::{
        ConnectionId, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use rand_pcg::Pcg64Mcg;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, trace};

use super::{
    behaviour::{Admitted, Behaviour, Event},
    book::{AddressBook, Route},
    budget::Budget,
    certificate::Purpose,
    clock::Clock,
    config::Config,
    counters::Counters,
    handler::Open,
    join::Join,
    lanes::Ended,
    overlay::{Request, Shared},
    roads::{Change, Handed, Member, Roads},
    stream::PeerStream,
};
use crate::{
    ByteStream, NodeId, NodeInfo, Teller,
    core::{
        Contact, Grant, Input, Op, Outcome, Output, Peer,
        message::{Body, Message},
        time::Instant,
    },
    membership::Revocation,
};

/// Everything the loop owns.
pub(super) struct Driver {
    pub(super) config: Config,
    pub(super) me: PeerId,
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    pub(super) counters: Counters,
    pub(super) random: Pcg64Mcg,
    /// Where others shall dial; if empty, where this node listens.
    pub(super) advertised: Vec<Multiaddr>,
    pub(super) join: Join,
    /// Peers of an earlier life.
    pub(super) saved: Vec<Contact>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) described: watch::Receiver<NodeInfo>,
    pub(super) accepted: mpsc::Sender<(NodeId, ByteStream)>,
    pub(super) roads: Roads,
    pub(super) members: BTreeMap<Peer, Member>,
    pub(super) dials: BTreeMap<ConnectionId, Dial>,
    pub(super) waiting: BTreeMap<Op, oneshot::Sender<Outcome>>,
    /// Who is told of the questions of a command.
    pub(super) tellers: BTreeMap<Op, Teller>,
    pub(super) inputs: VecDeque<Input>,
    pub(super) rejoin_at: Instant,
    /// Commands of the driver's own so far.
    pub(super) own_ops: u64,
}

/// A dial under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dial {
    pub(super) target: Target,
    /// What to do if it fails: the same for these addresses, by the other carrier.
    pub(super) other: Other,
}

/// Whom a dial is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A known peer.
    Peer(Peer),
    /// The seed at this place in the list, whoever answers there.
    Seed(usize),
    /// A peer that is linked, to see whether it is where it says.
    Check(Peer),
}

/// What is left to be dialled if a dial fails.
type Other = Option<(Purpose, PeerId, Vec<Multiaddr>)>;

impl Driver {
    /// Runs until told to stop or nobody holds the overlay any more. Its addresses are free once the tasks of its connections are gone.
    pub(super) async fn run(mut self) -> Ended {
        let stopped = loop {
            let now = self.clock.now();
            if now >= self.rejoin_at {
                self.rejoin(now);
            }
            let core = self.shared.node().poll_timeout();
            let next = core.map_or(self.rejoin_at, |core| core.min(self.rejoin_at));
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                request = self.requests.recv() => match request {
                    Some(Request::Stop(done)) => break Some(done),
                    Some(request) => self.on_request(request),
                    None => break None,
                },
                Ok(()) = self.described.changed() => {
                    let info = self.described.borrow_and_update().clone();
                    self.feed(Input::Describe(info));
                }
                () = tokio::time::sleep(self.clock.until(next)) => {
                    if core.is_some_and(|core| self.clock.now() >= core) {
                        self.tick();
                    }
                }
            }
            self.settle();
        };
        let farewell = tokio::time::Instant::now() + self.config.stop_timeout;
        self.stop(farewell).await;
        Ended { tell: stopped, farewell }
    }

    /// Tells the core something, and does what it wants done, until neither has more to say.
    pub(super) fn feed(&mut self, input: Input) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            let now = self.clock.now();
            let outputs = self.shared.step(|node| node.handle_input(now, input));
            outputs.into_iter().for_each(|output| self.perform(output));
        }
    }

    /// Tells the core what became of dials since it was last told anything.
    fn settle(&mut self) {
        if let Some(input) = self.inputs.pop_front() {
            self.feed(input);
        }
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        let outputs = self.shared.step(|node| node.handle_timeout(now));
        outputs.into_iter().for_each(|output| self.perform(output));
    }

    pub(super) fn perform(&mut self, output: Output) {
        match output {
            Output::Send { to, message } => self.send(to, &message),
            Output::Pin { peer, keep } => {
                self.roads.keep(peer, keep);
                self.keep_links(peer);
            }
            Output::Asked(op, question) => {
                if let Some(teller) = self.tellers.get(&op) {
                    teller.tell(question);
                }
            }
            Output::Done { op, outcome } => {
                self.tellers.remove(&op);
                if let Some(caller) = self.waiting.remove(&op) {
                    // The caller may have gone meanwhile.
                    let _ = caller.send(outcome);
                }
            }
            Output::Granted(grant) => say_granted(&grant),
            // Who is a member is the driver's business; the rest of the node hears all other records.
            Output::Heard(spread) if Revocation::is_one(&spread.record) => self.on_revocation(&spread.record),
            Output::Heard(spread) => self.shared.heard(spread),
        }
    }

    fn send(&mut self, to: Peer, message: &Message) {
        let (frame, peer_id) = {
            let book = self.shared.book();
            (message.encode(&*book), book.peer_id(to))
        };
        let Some(peer_id) = peer_id.filter(|_| to != AddressBook::ME) else { return self.undeliverable(to, 1) };
        let asks = matches!(message.body, Body::Request { .. });
        if asks {
            self.note_question(self.clock.now(), to);
            if self.is_lost(to) {
                return self.counters.dropped.add();
            }
        }
        if asks
            && self.roads.is_linked(to)
            && let Some(member) = self.members.get(&to).filter(|member| !member.told)
        {
            // An answer would put it into tables: it is asked nothing before it was found where it says it is.
            let waits = member.checks > 0 && self.roads.wait(to, frame, self.config.dial_queue) == Handed::Waits;
            if !waits {
                self.undeliverable(to, 1);
            }
            return;
        }
        match self.roads.send(to, frame, self.me, peer_id, self.config.dial_queue) {
            Handed::Over => self.counters.sent.add(),
            Handed::Waits => {}
            Handed::Dropped => self.undeliverable(to, 1),
            Handed::Dial => self.dial(to, Purpose::Link),
        }
    }

    pub(super) fn undeliverable(&mut self, to: Peer, count: usize) {
        self.counters.dropped.add_many(count);
        self.inputs.push_back(Input::Unreachable(to));
    }

    /// Dials a peer where the book says it is.
    fn dial(&mut self, peer: Peer, purpose: Purpose) {
        let route = self.shared.book().route(peer, self.config.carrier);
        let Some(Route { peer_id, first, second }) = route else { return self.dial_failed(peer, None, "no address") };
        let other = (!second.is_empty()).then_some((purpose, peer_id, second));
        self.dial_at(peer, purpose, peer_id, first, other);
    }

    fn dial_at(&mut self, peer: Peer, purpose: Purpose, peer_id: PeerId, at: Vec<Multiaddr>, other: Other) {
        let opts = DialOpts::peer_id(peer_id).condition(PeerCondition::Always).addresses(at);
        // By QUIC, bulk has a socket of its own: on one with the link's, messages would wait behind what it sends to this node.
        let opts = if purpose == Purpose::Bulk { opts.allocate_new_port() } else { opts }.build();
        self.roads.dialling(peer, opts.connection_id(), purpose);
        self.begin(Dial { target: Target::Peer(peer), other }, purpose, opts);
    }

    pub(super) fn begin(&mut self, dial: Dial, purpose: Purpose, opts: DialOpts) {
        let connection = opts.connection_id();
        self.counters.dials.add();
        self.dials.insert(connection, dial);
        self.swarm.behaviour_mut().links.dialling(connection, purpose);
        if let Err(error) = self.swarm.dial(opts) {
            self.on_dial_failed(connection, &error.to_string());
        }
    }

    /// A dial led to nothing, at whatever stage.
    fn on_dial_failed(&mut self, connection: ConnectionId, why: &str) {
        let Some(Dial { target, other }) = self.dials.remove(&connection) else { return };
        self.counters.dials_failed.add();
        match target {
            Target::Peer(peer) => {
                if let Some((purpose, peer_id, at)) = other {
                    // A link that the peer made meanwhile is as good as one more.
                    let told = self.members.get(&peer).is_some_and(|member| member.told);
                    if purpose != Purpose::Link || !told || !self.roads.takes_messages(peer) {
                        // What waits goes on waiting: the second dial stands in the road before the first is taken out.
                        self.dial_at(peer, purpose, peer_id, at, None);
                    }
                    return self.dial_failed(peer, Some(connection), why);
                }
                self.shared.book().in_vain(peer);
                self.dial_failed(peer, Some(connection), why);
            }
            Target::Seed(place) => {
                if let Some(known) = self.join.seeds.get_mut(place) {
                    debug!(seed = %known.seed.address, why, "a seed cannot be reached");
                    known.dialled = false;
                }
            }
            Target::Check(peer) => self.on_checked(peer, false),
        }
    }

    fn dial_failed(&mut self, peer: Peer, connection: Option<ConnectionId>, why: &str) {
        trace!(?peer, why, "a peer cannot be reached");
        let dropped = self.roads.dial_failed(peer, connection, why);
        if dropped > 0 {
            self.undeliverable(peer, dropped);
        }
    }

    pub(super) fn on_swarm_event(&mut self, event: SwarmEvent<Event>) {
        match event {
            SwarmEvent::Behaviour(Event::Admitted(admitted)) => self.on_admitted(*admitted),
            SwarmEvent::Behaviour(Event::Frame(connection, bytes)) => self.on_frame(connection, &bytes),
            SwarmEvent::Behaviour(Event::Incoming(connection, stream)) => self.on_stream(connection, stream),
            SwarmEvent::Behaviour(Event::Expelled(connection)) => self.on_expelled(connection),
            SwarmEvent::Behaviour(Event::Ping(ping)) => {
                if let Err(error) = ping.result {
                    debug!(peer = %ping.peer, %error, "a link no longer answers");
                    self.swarm.close_connection(ping.connection);
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, cause, .. } => {
                let why = cause.map_or_else(|| "closed".to_owned(), |cause| cause.to_string());
                self.on_closed(connection_id, &why);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.note_own_address(connection_id, &error);
                self.on_dial_failed(connection_id, &error.to_string());
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.shared.listens(&address);
                self.advertise();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.shared.listens_no_more(&address);
                self.advertise();
            }
            // Connections matter once admitted; those refused are counted at the door.
            _ => {}
        }
    }

    /// Says where this node can be dialled: as configured, else where it listens.
    pub(super) fn advertise(&mut self) {
        let addresses = if self.advertised.is_empty() { self.shared.dialable() } else { self.advertised.clone() };
        self.shared.book().advertise(addresses.clone());
        self.swarm.behaviour_mut().links.advertise(addresses);
    }

    fn on_admitted(&mut self, admitted: Admitted) {
        let Admitted { connection, name, roles, operator, at, addresses, way } = admitted;
        let contact = self.shared.book().meet(name, addresses);
        let peer = contact.peer;
        if peer == AddressBook::ME {
            self.swarm.close_connection(connection);
            return;
        }
        let purpose = way.purpose;
        let target = self.dials.remove(&connection).map(|dial| dial.target);
        if let Some(at) = &at {
            self.shared.book().reached(peer, at);
        }
        if purpose == Purpose::Check {
            // Whoever dialled it closes it; here nothing is sent over it.
            if let Some(Target::Check(meant)) = target {
                self.swarm.close_connection(connection);
                self.on_checked(meant, true);
            }
            return;
        }
        // Whoever makes a new link had no answer over the old one either, if that is silent.
        self.close_silent(self.clock.now(), peer);
        let budget = Budget::full(self.clock.now(), self.config.messages_per_peer);
        self.members.entry(peer).and_modify(|member| member.roles = roles).or_insert(Member {
            contact,
            peer_id: name.peer_id,
            roles,
            operator,
            told: false,
            checks: 0,
            budget,
            unanswered: None,
        });
        self.shared.book().hold(peer);
        if let Some(Target::Peer(meant)) = target.filter(|target| *target != Target::Peer(peer)) {
            // The book forgot the handle while it was dialled, and met the peer under a new one.
            self.dial_failed(meant, Some(connection), "it was forgotten");
        }
        let change = self.roads.admit(peer, way);
        self.counters.admitted.add();
        self.keep_links(peer);
        debug!(%contact.id, ?purpose, "connected");
        if change == Change::Linked && target.is_some() || self.shared.book().is_verified(peer) {
            self.tell_linked(peer);
        }
        self.check(peer);
        if let Some(Target::Seed(place)) = target
            && let Some(known) = self.join.seeds.get_mut(place)
        {
            known.dialled = false;
            known.peer = Some(peer);
            info!(seed = %known.seed.address, node = %contact.id, "a seed answered");
            self.feed(Input::Seeds(vec![contact]));
        }
    }

    pub(super) fn on_closed(&mut self, connection: ConnectionId, why: &str) {
        let Some((peer, change)) = self.roads.close(connection) else {
            // It was never admitted: for the dialler, a dial that failed.
            return self.on_dial_failed(connection, why);
        };
        self.counters.closed.add();
        if change == Change::Unlinked {
            debug!(?peer, why, "a link is gone");
            let told = self.members.get_mut(&peer).is_none_or(|member| std::mem::take(&mut member.told));
            if told {
                // Soon: this may be while the core's own outputs are carried out.
                self.inputs.push_back(Input::Disconnected(peer));
            }
            if self.roads.is_alone() {
                self.rejoin_at = self.clock.now() + self.join.pause(true, &mut self.random);
            }
        } else {
            self.keep_links(peer);
        }
        if !self.roads.is_reached(peer) {
            self.members.remove(&peer);
            self.shared.book().release(peer);
            // What waited for a dial-back: nobody answers for it any more.
            let dropped = self.roads.drop_waiting(peer);
            if dropped > 0 {
                self.undeliverable(peer, dropped);
            }
        }
    }

    fn keep_links(&mut self, peer: Peer) {
        let Some(member) = self.members.get(&peer).copied() else { return };
        for (connection, keep) in self.roads.keeps(peer, self.me, member.peer_id) {
            self.swarm.behaviour_mut().links.keep(member.peer_id, connection, keep);
        }
    }

    fn on_frame(&mut self, connection: ConnectionId, bytes: &[u8]) {
        let (now, rate) = (self.clock.now(), self.config.messages_per_peer);
        let member = self.roads.owner(connection).and_then(|peer| self.members.get_mut(&peer));
        let Some(member) = member else { return };
        member.unanswered = None;
        if !member.budget.take(now, rate) {
            return self.counters.flooded.add();
        }
        let member = *member;
        let decoded = Message::decode(bytes, &mut *self.shared.book());
        match decoded {
            Ok(mut message) => {
                self.counters.received.add();
                if let Body::Hello(hello) = &mut message.body {
                    let info = Arc::make_mut(&mut hello.info);
                    info.roles = info.roles.within(member.roles);
                }
                self.feed(Input::Received { from: member.contact, message: Box::new(message) });
            }
            // A later version may say what this one does not understand: that alone is no reason to cut it.
            Err(error) => {
                debug!(node = %member.contact.id, %error, "a frame is no message");
                self.counters.malformed.add();
            }
        }
    }

    fn on_stream(&mut self, connection: ConnectionId, stream: Stream) {
        let Some(member) = self.roads.owner(connection).and_then(|peer| self.members.get(&peer)) else { return };
        match self.accepted.try_send((member.contact.id, Box::new(PeerStream::new(stream, None)))) {
            Ok(()) => self.counters.streams_accepted.add(),
            Err(_) => self.counters.streams_refused.add(),
        }
    }

    fn on_request(&mut self, request: Request) {
        match request {
            Request::Command { op, command, caller, teller } => {
                self.waiting.insert(op, caller);
                if let Some(teller) = teller {
                    self.tellers.insert(op, teller);
                    self.feed(Input::Watch(op));
                }
                self.feed(Input::Command { op, command });
            }
            Request::Cancel(op) => {
                self.tellers.remove(&op);
                if self.waiting.remove(&op).is_some() {
                    self.feed(Input::Cancel(op));
                }
            }
            Request::Observe { prefix, rtt } => self.feed(Input::Observe { prefix, rtt }),
            Request::Open { to, open, by } => self.open(to, open, by),
            Request::Renew(membership, done) => {
                // The caller may have gone meanwhile, as below.
                let _ = done.send(self.swarm.behaviour_mut().links.renew(membership));
                self.share_gate();
            }
            Request::Revoke(revocation, done) => {
                let _ = done.send(self.revoke(revocation));
            }
            Request::Stop(_) => unreachable!("the loop ends by it"),
        }
    }

    /// Opens a byte stream to a peer; makes sure that a bulk connection comes, for the streams that follow.
    fn open(&mut self, to: NodeId, open: Open, by: Purpose) {
        let peer = self.shared.book().peer(to);
        let Some(peer) = peer.filter(|peer| *peer != AddressBook::ME) else {
            let _ = open.send(Err("it is not known any more".to_owned()));
            return;
        };
        match self.roads.open(peer, open, by, self.config.streams_each_way()) {
            Handed::Over | Handed::Waits => self.counters.streams_opened.add(),
            Handed::Dial => {}
            // The caller sees the wish dropped.
            Handed::Dropped => self.counters.dropped.add(),
        }
        if self.roads.wants_bulk(peer) {
            self.dial(peer, Purpose::Bulk);
        }
    }

    /// Says farewell, lets what is queued go out, closes.
    async fn stop(&mut self, by: tokio::time::Instant) {
        self.feed(Input::Leave);
        self.waiting.clear();
        for connection in self.roads.connections() {
            self.swarm.close_connection(connection);
        }
        let deadline = tokio::time::sleep_until(by);
        tokio::pin!(deadline);
        while self.swarm.connected_peers().next().is_some() {
            tokio::select! {
                () = &mut deadline => break,
                event = self.swarm.select_next_some() => drop(event),
            }
        }
    }
}

/// Says who was granted a fetch: of an object that was fetched twice, the logs of all nodes tell why.
fn say_granted(grant: &Grant) {
    let Grant { key, holder, lease, why, standing_in, copies } = grant;
    debug!(%key, %holder, lease = %format_args!("{}.{}", lease.epoch, lease.counter), %why, standing_in, copies, "a fetch is granted");
}
