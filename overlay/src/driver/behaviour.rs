//! libp2p's side of the driver: every connection gets a [`LinkHandler`], its peer's certificate is checked here, and from then on its
//! messages and byte streams are handed up. What goes down to a connection goes through two bounded queues of its own, so that a slow
//! peer delays nobody else.

use std::{
    collections::{BTreeMap, VecDeque},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use libp2p::{
    Multiaddr, PeerId, Stream, connection_limits,
    core::{Endpoint, transport::PortUse},
    ping,
    swarm::{
        CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandlerInEvent,
        ToSwarm,
    },
};
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior},
};
use tracing::{debug, error, info, warn};

use super::{
    address,
    book::Name,
    certificate::{CertError, Greeting, Purpose},
    clock::Clock,
    config::Config,
    counters::Counters,
    door::{Door, Places},
    gate::{Believed, Gate, MembershipError},
    handler::{LinkHandler, Open, Order, Queues, Report, Terms},
    protocol::Names,
};
use crate::{
    Key, Roles,
    core::time::Instant,
    membership::{Membership, NotMember, Revocation, Taken},
};

/// Everything that runs on a connection.
#[derive(NetworkBehaviour)]
#[behaviour(to_swarm = "Event")]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    ping: ping::Behaviour,
    pub(super) links: Links,
}

/// What reaches the driver's loop.
#[derive(Debug)]
pub(super) enum Event {
    /// A peer is a member, and this is the way to it.
    Admitted(Box<Admitted>),
    /// An admitted peer says something.
    Frame(ConnectionId, Bytes),
    /// An admitted peer opened a byte stream.
    Incoming(ConnectionId, Stream),
    /// The peer of an admitted connection is a member no longer; the connection is being closed.
    Expelled(ConnectionId),
    /// A keep-alive ping ended.
    Ping(ping::Event),
}

/// A connection whose peer is believed.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) connection: ConnectionId,
    pub(super) name: Name,
    /// What the peer may run.
    pub(super) roles: Roles,
    /// Who admitted it, in a closed network.
    pub(super) operator: Option<Key>,
    /// Where it was dialled; none if it was accepted.
    pub(super) at: Option<Multiaddr>,
    pub(super) addresses: Vec<Multiaddr>,
    pub(super) way: Way,
}

/// A connection as the driver uses it.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) connection: ConnectionId,
    pub(super) purpose: Purpose,
    /// Whether this node dialled it.
    pub(super) dialled: bool,
    /// When it was admitted.
    pub(super) since: Instant,
    /// Takes messages, bounded.
    pub(super) frames: mpsc::Sender<Bytes>,
    /// Takes wishes for byte streams, bounded.
    pub(super) opens: mpsc::Sender<Open>,
}

/// The connections and what is known of each.
pub(super) struct Links {
    names: Names,
    gate: Gate,
    /// When to look again at who is believed, and how often that was done.
    sweep: Interval,
    sweeps: u32,
    clock: Clock,
    advertised: Vec<Multiaddr>,
    terms: Terms,
    link_queue: usize,
    door: Door,
    counters: Counters,
    /// What dials under way are for.
    dials: BTreeMap<ConnectionId, Purpose>,
    /// Connections that are established and not yet admitted.
    waiting: BTreeMap<ConnectionId, Waiting>,
    events: VecDeque<ToSwarm<Event, Order>>,
}

#[derive(Debug)]
struct Waiting {
    frames: mpsc::Sender<Bytes>,
    opens: mpsc::Sender<Open>,
    /// What this node dialled it for, and where; none if it was accepted.
    dialled: Option<(Purpose, Multiaddr)>,
    /// How often this node's certificate had been renewed when the greeting was made.
    renewals: u32,
}

impl Behaviour {
    /// The behaviour of a node that lets in whom this gate lets in.
    pub(super) fn new(gate: Gate, names: Names, config: &Config, clock: Clock, counters: Counters) -> Self {
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_outgoing(Some(config.dials))
            .with_max_established(Some(config.connections))
            .with_max_established_per_peer(Some(config.connections_per_peer));
        let ping = ping::Config::new().with_interval(config.ping_interval).with_timeout(config.ping_interval);
        Self {
            limits: connection_limits::Behaviour::new(limits),
            ping: ping::Behaviour::new(ping),
            links: Links {
                names,
                gate,
                sweep,
                sweeps: 0,
                clock,
                advertised: Vec::new(),
                terms: Terms {
                    certificate: config.certificate_timeout,
                    idle: config.idle_timeout,
                    streams: config.streams_each_way(),
                },
                link_queue: config.link_queue,
                door: Door::new(Places {
                    knocks: config.knocks,
                    knocks_per_prefix: config.knocks_per_prefix,
                    guests_per_prefix: config.connections_per_prefix,
                }),
                counters,
                dials: BTreeMap::new(),
                waiting: BTreeMap::new(),
                events: VecDeque::new(),
            },
        }
    }
}

impl Links {
    /// Sets what greetings say of where this node can be dialled.
    pub(super) fn advertise(&mut self, addresses: Vec<Multiaddr>) {
        self.advertised = addresses;
    }

    /// Says what a dial about to be made is for.
    pub(super) fn dialling(&mut self, connection: ConnectionId, purpose: Purpose) {
        self.dials.insert(connection, purpose);
    }

    /// Keeps a connection open while idle, or no longer.
    pub(super) fn keep(&mut self, peer: PeerId, connection: ConnectionId, keep: bool) {
        self.tell(peer, connection, Order::Keep(keep));
    }

    /// Shows a later certificate from now on, on the connections that stand too.
    pub(super) fn renew(&mut self, membership: Membership) -> Result<(), MembershipError> {
        self.gate.renew(membership, self.clock.unix())?;
        let greeting = self.greeting(Purpose::Link);
        for (connection, peer) in self.gate.admitted() {
            self.tell(peer, connection, Order::Renew(greeting.clone()));
        }
        Ok(())
    }

    /// Takes a revocation in, and cuts whom it concerns. None in an open network.
    pub(super) fn revoke(&mut self, revocation: Revocation) -> Option<Result<Taken, NotMember>> {
        let taken = self.gate.revoke(revocation, self.clock.unix());
        if taken == Some(Ok(Taken::New)) {
            self.expel();
        }
        taken
    }

    /// Who is let in.
    pub(super) const fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Cuts whoever is a member no longer.
    fn expel(&mut self) {
        let void = self.gate.void(self.clock.unix());
        void.iter().for_each(|(connection, ..)| self.gate.leave(*connection));
        for (connection, peer, why) in void {
            info!(%peer, %why, "a peer is a member no longer, and is cut");
            self.counters.expelled.add();
            // Of two connections one may have been shown a renewal.
            if !self.gate.believes(&peer) {
                self.events.push_back(ToSwarm::GenerateEvent(Event::Expelled(connection)));
            }
            self.cut(peer, connection);
        }
    }

    /// Tells the operator, before others do, that this node's certificate ends.
    fn warn_of_own(&self) {
        let now = self.clock.unix();
        let Some(own) = self.gate.membership() else { return };
        let until = own.certificate.term.not_after;
        if let Some(why) = self.gate.own_fault(now) {
            error!(%why, "THIS NODE IS NO MEMBER: others refuse its certificate, and it serves alone until it is renewed");
        } else if own.certificate.term.wants_renewal(now) {
            warn!(%until, "this node's certificate ends soon: have it renewed");
        }
    }

    fn tell(&mut self, peer_id: PeerId, connection: ConnectionId, event: Order) {
        self.events.push_back(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event });
    }

    fn cut(&mut self, peer_id: PeerId, connection: ConnectionId) {
        self.events.push_back(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(connection) });
    }

    fn greeting(&self, purpose: Purpose) -> Vec<u8> {
        let papers = self.gate.papers(self.clock.unix());
        Greeting { papers, purpose, addresses: self.advertised.clone() }.encode()
    }

    fn handler(&mut self, connection: ConnectionId, dialled: Option<(Purpose, Multiaddr)>) -> LinkHandler {
        let (frames, frames_end) = mpsc::channel(self.link_queue);
        let (opens, opens_end) = mpsc::channel(self.terms.streams);
        let greeting = dialled.as_ref().map(|(purpose, _)| self.greeting(*purpose));
        let renewals = self.gate.renewals();
        self.waiting.insert(connection, Waiting { frames, opens, dialled, renewals });
        let queues = Queues { frames: frames_end, opens: opens_end };
        LinkHandler::new(self.names.clone(), greeting, queues, self.terms, self.counters.clone())
    }

    fn check(&self, peer: &PeerId, bytes: &[u8]) -> Result<(Greeting, Believed), CertError> {
        let greeting = Greeting::decode(bytes)?;
        let believed = self.gate.check(peer, &greeting.papers, self.clock.unix())?;
        Ok((greeting, believed))
    }

    fn on_greeting(&mut self, peer: PeerId, connection: ConnectionId, bytes: &[u8]) {
        let (greeting, believed) = match self.check(&peer, bytes) {
            Ok(checked) => checked,
            Err(error) => {
                debug!(%peer, %error, "a peer is no member");
                self.counters.strangers.add();
                return self.cut(peer, connection);
            }
        };
        let Some(Waiting { frames, opens, dialled, renewals }) = self.waiting.remove(&connection) else { return };
        self.door.enter(connection);
        self.gate.admit(connection, peer, &greeting.papers);
        let purpose = dialled.as_ref().map_or(greeting.purpose, |(purpose, _)| *purpose);
        let reply = dialled.is_none().then(|| self.greeting(purpose));
        self.tell(peer, connection, Order::Welcome { reply, purpose });
        if dialled.is_some() && renewals != self.gate.renewals() {
            self.tell(peer, connection, Order::Renew(self.greeting(purpose)));
        }
        let way = Way { connection, purpose, dialled: dialled.is_some(), since: self.clock.now(), frames, opens };
        let name = Name { peer_id: peer, serial: believed.serial };
        let admitted = Admitted {
            connection,
            name,
            roles: believed.roles,
            operator: believed.operator,
            at: dialled.map(|(_, at)| at),
            addresses: greeting.addresses,
            way,
        };
        self.events.push_back(ToSwarm::GenerateEvent(Event::Admitted(Box::new(admitted))));
    }

    /// An admitted peer shows papers again: a later certificate. Worse ones than it had change nothing, they end as they would.
    fn on_renewal(&mut self, peer: PeerId, connection: ConnectionId, bytes: &[u8]) {
        match self.check(&peer, bytes) {
            Ok((greeting, _)) => self.gate.admit(connection, peer, &greeting.papers),
            Err(error) => debug!(%peer, %error, "a renewal is not believed"),
        }
    }
}

impl NetworkBehaviour for Links {
    type ConnectionHandler = LinkHandler;
    type ToSwarm = Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        from: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        // TCP always says where from; what does not is refused.
        let from = address::ip(from).ok_or_else(|| ConnectionDenied::new("a connection from nowhere"))?;
        self.door.knock(connection, from).map_err(|crowded| {
            self.counters.crowded.add();
            ConnectionDenied::new(crowded)
        })
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<LinkHandler, ConnectionDenied> {
        Ok(self.handler(connection, None))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        at: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<LinkHandler, ConnectionDenied> {
        let purpose = self.dials.remove(&connection).unwrap_or(Purpose::Link);
        Ok(self.handler(connection, Some((purpose, address::without_peer(at.clone())))))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let gone = match event {
            FromSwarm::ConnectionClosed(closed) => closed.connection_id,
            FromSwarm::DialFailure(failure) => failure.connection_id,
            FromSwarm::ListenFailure(failure) => failure.connection_id,
            // The rest is about addresses and listeners, which the driver's loop sees itself.
            _ => return,
        };
        self.dials.remove(&gone);
        self.waiting.remove(&gone);
        self.gate.leave(gone);
        self.door.leave(gone);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, report: Report) {
        match report {
            Report::Greeting(bytes) => self.on_greeting(peer, connection, &bytes),
            Report::Renewal(bytes) => self.on_renewal(peer, connection, &bytes),
            Report::Frame(bytes) => self.events.push_back(ToSwarm::GenerateEvent(Event::Frame(connection, bytes))),
            Report::Incoming(stream) => {
                self.events.push_back(ToSwarm::GenerateEvent(Event::Incoming(connection, stream)));
            }
            Report::Broken(why) => {
                debug!(%peer, %why, "a connection is given up");
                self.counters.broken.add();
                self.cut(peer, connection);
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        while self.sweep.poll_tick(cx).is_ready() {
            self.expel();
            if self.sweeps.is_multiple_of(WARN_EVERY) {
                self.warn_of_own();
            }
            self.sweeps = self.sweeps.wrapping_add(1);
        }
        // What else fills this queue happens inside the swarm's own poll, or just before the loop polls it again.
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

impl From<ping::Event> for Event {
    fn from(event: ping::Event) -> Self {
        Self::Ping(event)
    }
}

impl From<std::convert::Infallible> for Event {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// How often certificates are looked at again: one that ends is good for so much longer. Costs five map look-ups a connection.
const SWEEP: Duration = Duration::from_secs(1);

/// Sweeps between two warnings of the same: ten minutes.
const WARN_EVERY: u32 = 600;
