//! How each peer is reached: the connections that stand, the dials under way, and what waits for them. Bounded per peer and in the
//! number of dials, so in all.
//!
//! A peer has links, which carry messages and on which round trips are measured, and bulk connections, which carry byte streams. Both
//! sides prefer the same one of two links: that dialled by the node with the smaller peer id.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use libp2p::{PeerId, swarm::ConnectionId};
use tokio::sync::mpsc::error::TrySendError;

use super::{behaviour::Way, certificate::Purpose, handler::Open};
use crate::core::{Contact, Peer};

/// All peers that are linked, dialled or kept.
#[derive(Debug, Default)]
pub(super) struct Roads {
    peers: BTreeMap<Peer, Road>,
    /// Admitted connections.
    connections: BTreeMap<ConnectionId, Peer>,
    links: usize,
}

/// The way to one peer.
#[derive(Debug, Default)]
struct Road {
    ways: Vec<Way>,
    kept: bool,
    /// Dials under way.
    dials: Vec<(ConnectionId, Purpose)>,
    messages: VecDeque<Bytes>,
    opens: VecDeque<Open>,
}

/// An admitted peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) contact: Contact,
    pub(super) peer_id: PeerId,
}

/// What became of a message or wish handed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Handed {
    /// To a connection.
    Over,
    /// It waits for a dial under way.
    Waits,
    /// It waits, and a dial must be made.
    Dial,
    /// It was dropped: a queue is full.
    Dropped,
}

/// What a road's change means to the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The first link stands.
    Linked,
    /// The last link is gone.
    Unlinked,
    /// Neither.
    Nothing,
}

impl Roads {
    /// Whether no peer is linked.
    pub(super) const fn is_alone(&self) -> bool {
        self.links == 0
    }

    /// Whether this peer is linked.
    pub(super) fn is_linked(&self, peer: Peer) -> bool {
        self.peers.get(&peer).is_some_and(Road::is_linked)
    }

    /// Whose connection this is, if it is admitted.
    pub(super) fn owner(&self, connection: ConnectionId) -> Option<Peer> {
        self.connections.get(&connection).copied()
    }

    /// Whether this peer is being dialled for this.
    pub(super) fn is_dialled(&self, peer: Peer, purpose: Purpose) -> bool {
        self.peers.get(&peer).is_some_and(|road| road.dials.iter().any(|(_, wanted)| *wanted == purpose))
    }

    /// Whether this peer has a connection for this.
    pub(super) fn has(&self, peer: Peer, purpose: Purpose) -> bool {
        self.peers.get(&peer).is_some_and(|road| road.ways.iter().any(|way| way.purpose == purpose))
    }

    /// A dial was begun.
    pub(super) fn dialling(&mut self, peer: Peer, connection: ConnectionId, purpose: Purpose) {
        self.peers.entry(peer).or_default().dials.push((connection, purpose));
    }

    /// Hands a message over, or lets it wait for a link. At most `limit` wait.
    pub(super) fn send(&mut self, peer: Peer, mut frame: Bytes, me: PeerId, peer_id: PeerId, limit: usize) -> Handed {
        let road = self.peers.entry(peer).or_default();
        for way in road.links(me, peer_id) {
            match way.frames.try_send(frame) {
                Ok(()) => return Handed::Over,
                Err(TrySendError::Full(_)) => return Handed::Dropped,
                Err(TrySendError::Closed(back)) => frame = back,
            }
        }
        if road.messages.len() >= limit {
            return Handed::Dropped;
        }
        road.messages.push_back(frame);
        road.waits(Purpose::Link)
    }

    /// Hands over a wish for a byte stream, or lets it wait for a connection. A bulk connection is preferred; where only a link
    /// stands it is used rather than have the stream wait for a dial. At most `limit` wait.
    pub(super) fn open(&mut self, peer: Peer, mut open: Open, limit: usize) -> Handed {
        let road = self.peers.entry(peer).or_default();
        road.ways.sort_by_key(|way| std::cmp::Reverse(way.purpose));
        for way in &road.ways {
            match way.opens.try_send(open) {
                Ok(()) => return Handed::Over,
                Err(TrySendError::Full(_)) => return Handed::Dropped,
                Err(TrySendError::Closed(back)) => open = back,
            }
        }
        road.opens.retain(|open| !open.is_closed());
        if road.opens.len() >= limit {
            return Handed::Dropped;
        }
        road.opens.push_back(open);
        road.waits(Purpose::Bulk)
    }

    /// A connection was admitted. What waited goes over it.
    pub(super) fn admit(&mut self, peer: Peer, way: Way) -> Change {
        let road = self.peers.entry(peer).or_default();
        road.dials.retain(|(connection, _)| *connection != way.connection);
        self.connections.insert(way.connection, peer);
        while let Some(open) = road.opens.pop_front() {
            // The queue holds as many as may wait.
            let _ = way.opens.try_send(open);
        }
        let first = way.purpose == Purpose::Link && !road.is_linked();
        if way.purpose == Purpose::Link {
            while let Some(message) = road.messages.pop_front() {
                let _ = way.frames.try_send(message);
            }
        }
        road.ways.push(way);
        self.links += usize::from(first);
        if first { Change::Linked } else { Change::Nothing }
    }

    /// An admitted connection is gone.
    pub(super) fn close(&mut self, connection: ConnectionId) -> Option<(Peer, Change)> {
        let peer = self.connections.remove(&connection)?;
        let road = self.peers.get_mut(&peer)?;
        let before = road.is_linked();
        road.ways.retain(|way| way.connection != connection);
        let last = before && !road.is_linked();
        self.links -= usize::from(last);
        self.forget_if_idle(peer);
        Some((peer, if last { Change::Unlinked } else { Change::Nothing }))
    }

    /// A dial came to nothing: what waited for it is refused, unless another dial goes on. Returns how many messages were dropped.
    pub(super) fn dial_failed(&mut self, peer: Peer, connection: ConnectionId, why: &str) -> usize {
        let Some(road) = self.peers.get_mut(&peer) else { return 0 };
        road.dials.retain(|(dial, _)| *dial != connection);
        let mut dropped = 0;
        if !road.dials.iter().any(|(_, purpose)| *purpose == Purpose::Link) {
            dropped = road.messages.len();
            road.messages.clear();
        }
        if road.dials.is_empty() {
            for open in road.opens.drain(..) {
                let _ = open.send(Err(why.to_owned()));
            }
        }
        self.forget_if_idle(peer);
        dropped
    }

    /// Keeps or releases the link to a peer, now and when another one takes its place.
    pub(super) fn keep(&mut self, peer: Peer, keep: bool) {
        self.peers.entry(peer).or_default().kept = keep;
        self.forget_if_idle(peer);
    }

    /// Every link of a peer, and whether it is to stay open while idle: the preferred one if the peer is kept.
    pub(super) fn keeps(&mut self, peer: Peer, me: PeerId, peer_id: PeerId) -> Vec<(ConnectionId, bool)> {
        let Some(road) = self.peers.get_mut(&peer) else { return Vec::new() };
        let kept = road.kept;
        road.links(me, peer_id).enumerate().map(|(place, way)| (way.connection, kept && place == 0)).collect()
    }

    /// All admitted connections.
    pub(super) fn connections(&self) -> Vec<ConnectionId> {
        self.connections.keys().copied().collect()
    }

    fn forget_if_idle(&mut self, peer: Peer) {
        if self.peers.get(&peer).is_some_and(Road::is_idle) {
            self.peers.remove(&peer);
        }
    }
}

impl Road {
    fn is_linked(&self) -> bool {
        self.ways.iter().any(|way| way.purpose == Purpose::Link)
    }

    fn is_idle(&self) -> bool {
        self.ways.is_empty() && self.dials.is_empty() && !self.kept && self.messages.is_empty() && self.opens.is_empty()
    }

    /// The links, preferred first: both sides sort alike; of those alike the newest goes first.
    fn links(&mut self, me: PeerId, peer_id: PeerId) -> impl Iterator<Item = &Way> {
        let mine_first = me < peer_id;
        self.ways.sort_by_key(|way| (way.dialled != mine_first, std::cmp::Reverse(way.connection)));
        self.ways.iter().filter(|way| way.purpose == Purpose::Link)
    }

    fn waits(&self, purpose: Purpose) -> Handed {
        let dialled = self.dials.iter().any(|(_, wanted)| *wanted == purpose);
        if dialled { Handed::Waits } else { Handed::Dial }
    }
}
